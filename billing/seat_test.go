package billing_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

func TestSeatsAreNeverMoreThanArePaidFor(t *testing.T) {
	r := newSimRig(t)
	r.paidFor("acme", "team", 5)
	other := r.serviceOn(r.store, r.stripe)
	var got, refused atomic.Int64
	for _, out := range parallel(64, func(i int) (billing.Seat, error) {
		svc := r.svc
		if i%2 == 0 {
			svc = other
		}
		if i%3 == 0 {
			return svc.InviteSeat(r.ctx, "acme", fmt.Sprintf("m%d@example.com", i))
		}
		return svc.AssignSeat(r.ctx, "acme", fmt.Sprintf("m%d", i))
	}) {
		if out.err == nil {
			got.Add(1)
			continue
		}
		require.ErrorIs(t, out.err, billing.ErrNoSeat)
		refused.Add(1)
	}
	require.EqualValues(t, 5, got.Load())
	require.EqualValues(t, 59, refused.Load())
	seats, err := r.svc.Seats(r.ctx, "acme")
	require.NoError(t, err)
	require.Len(t, seats.Seats, 5)
	require.EqualValues(t, 5, seats.Taken)

	// Released seats are free again, in the same way.
	for range 2 {
		for _, seat := range seats.Seats[:3] {
			_, err := r.svc.ReleaseSeat(r.ctx, "acme", seat.Member)
			require.NoError(t, err)
		}
	}
	got.Store(0)
	for _, out := range parallel(16, func(i int) (billing.Seat, error) { return r.svc.AssignSeat(r.ctx, "acme", fmt.Sprintf("n%d", i)) }) {
		if out.err == nil {
			got.Add(1)
		}
	}
	require.EqualValues(t, 3, got.Load())
	var full *billing.NoSeatError
	_, err = r.svc.AssignSeat(r.ctx, "acme", "late")
	require.ErrorAs(t, err, &full)
	require.Equal(t, billing.NoSeatError{Taken: 5, Paid: 5, Maximum: 8}, *full)
	require.ErrorContains(t, err, "order more")
}

func TestAnInvitationIsClaimed(t *testing.T) {
	r := newSimRig(t)
	r.paidFor("acme", "team", 3)
	seat, err := r.svc.InviteSeat(r.ctx, "acme", "ada@example.com")
	require.NoError(t, err)
	require.Equal(t, billing.SeatInvited, seat.State)
	_, err = r.svc.ClaimSeat(r.ctx, "acme", "bob@example.com", "user_bob")
	require.ErrorIs(t, err, billing.ErrNotFound)
	for range 2 {
		seat, err = r.svc.ClaimSeat(r.ctx, "acme", "ada@example.com", "user_ada")
		require.NoError(t, err)
		require.Equal(t, billing.SeatAssigned, seat.State)
	}
	seats, err := r.svc.Seats(r.ctx, "acme")
	require.NoError(t, err)
	require.Len(t, seats.Seats, 1)
	require.Equal(t, "user_ada", seats.Seats[0].Member)

	// Under the same name, and by somebody who sits already.
	_, err = r.svc.InviteSeat(r.ctx, "acme", "bob")
	require.NoError(t, err)
	seat, err = r.svc.AssignSeat(r.ctx, "acme", "bob")
	require.NoError(t, err)
	require.Equal(t, billing.SeatAssigned, seat.State)
	_, err = r.svc.InviteSeat(r.ctx, "acme", "ada@work.example")
	require.NoError(t, err)
	_, err = r.svc.ClaimSeat(r.ctx, "acme", "ada@work.example", "user_ada")
	require.NoError(t, err)
	seats, err = r.svc.Seats(r.ctx, "acme")
	require.NoError(t, err)
	require.EqualValues(t, 2, seats.Taken)
	_, err = r.svc.AssignSeat(r.ctx, "acme", "")
	require.ErrorIs(t, err, billing.ErrInvalid)

	records := map[string]int{}
	require.NoError(t, r.svc.ExportSubject(r.ctx, "acme", func(record string, _ map[string]any) error { records[record]++; return nil }))
	require.Equal(t, 2, records["seat"])
	_, err = r.svc.EraseSubject(r.ctx, "acme")
	require.NoError(t, err)
	id, err := r.store.AccountOf(r.ctx, r.sim.Ledger("")[0].CustomerID)
	require.NoError(t, err)
	gone, err := r.store.Account(r.ctx, id)
	require.NoError(t, err)
	require.Empty(t, gone.Seats)
}

// updates counts the requests that changed the subscription's items.
func (r *simRig) seatEvents() int {
	n := 0
	for _, e := range r.api("GET", "/v1/events", "type=customer.subscription.updated", "limit=100")["data"].([]any) {
		previous, _ := e.(map[string]any)["data"].(map[string]any)["previous_attributes"].(map[string]any)
		if _, changed := previous["quantity"]; changed {
			n++
		} else if _, changed := previous["items"]; changed {
			n++
		}
	}
	return n
}

func TestManyClicksAreOneChangeOfTheNumber(t *testing.T) {
	r := newSimRig(t)
	r.paidFor("acme", "team", 2)
	for n := int64(3); n <= 7; n++ {
		got, err := r.svc.SetSeats(r.ctx, "acme", n)
		require.NoError(t, err)
		require.Equal(t, n, got.Ordered)
		require.EqualValues(t, 2, got.Paid)
		require.NoError(t, r.sim.Advance(r.ctx, 10*time.Second))
		r.settle()
	}
	require.Zero(t, r.seatEvents())
	require.NoError(t, r.sim.Advance(r.ctx, 21*time.Second))
	r.settle()
	require.Equal(t, 1, r.seatEvents())
	got, err := r.svc.Seats(r.ctx, "acme")
	require.NoError(t, err)
	require.EqualValues(t, 7, got.Paid)
	require.Zero(t, got.Ordered)

	// Back and forth is nothing.
	_, err = r.svc.SetSeats(r.ctx, "acme", 4)
	require.NoError(t, err)
	got, err = r.svc.SetSeats(r.ctx, "acme", 7)
	require.NoError(t, err)
	require.Zero(t, got.Ordered)
	r.pass(time.Hour)
	require.Equal(t, 1, r.seatEvents())

	// Who never stops clicking waits ten times the pause at most.
	for i := range 40 {
		_, err := r.svc.SetSeats(r.ctx, "acme", 5+int64(i%2))
		require.NoError(t, err)
		require.NoError(t, r.sim.Advance(r.ctx, 20*time.Second))
		r.settle()
	}
	require.Greater(t, r.seatEvents(), 1)
	require.Less(t, r.seatEvents(), 6)

	for _, n := range []int64{9, 1000} {
		_, err = r.svc.SetSeats(r.ctx, "acme", n)
		require.ErrorIs(t, err, billing.ErrInvalid)
	}
	for i := range 4 {
		_, err := r.svc.AssignSeat(r.ctx, "acme", fmt.Sprint(i))
		require.NoError(t, err)
	}
	_, err = r.svc.SetSeats(r.ctx, "acme", 3)
	require.ErrorContains(t, err, "release 1")
	r.paidFor("solo", "pro", 0)
	_, err = r.svc.SetSeats(r.ctx, "solo", 3)
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = r.svc.SetSeats(r.ctx, "nobody", 3)
	require.ErrorIs(t, err, billing.ErrNoSubscription)
}

func TestSeatsGrowAndShrinkWithThoseWhoSit(t *testing.T) {
	r := newSimRig(t, func(c *billing.Config) {
		c.Seats = billing.SeatPolicy{Grow: true, Shrink: true, Proration: "always_invoice"}
	})
	r.paidFor("acme", "team", 2)
	states := func() (list []billing.SeatState) {
		seats, err := r.svc.Seats(r.ctx, "acme")
		require.NoError(t, err)
		for _, s := range seats.Seats {
			list = append(list, s.State)
		}
		return list
	}
	for i := range 4 {
		_, err := r.svc.AssignSeat(r.ctx, "acme", fmt.Sprint(i))
		require.NoError(t, err)
	}
	require.Equal(t, []billing.SeatState{billing.SeatAssigned, billing.SeatAssigned, billing.SeatOrdered, billing.SeatOrdered}, states(), "no more than are paid for")
	r.pass(time.Minute)
	require.Equal(t, []billing.SeatState{billing.SeatAssigned, billing.SeatAssigned, billing.SeatAssigned, billing.SeatAssigned}, states())
	require.Equal(t, []int64{1000, 1000}, r.moved("acme"), "two more seats for the whole period, in one invoice")
	for i := 4; i < 8; i++ {
		_, err := r.svc.AssignSeat(r.ctx, "acme", fmt.Sprint(i))
		require.NoError(t, err)
	}
	_, err := r.svc.AssignSeat(r.ctx, "acme", "ninth")
	require.ErrorIs(t, err, billing.ErrNoSeat, "the plan has no more")
	r.pass(time.Minute)
	for i := range 7 {
		_, err := r.svc.ReleaseSeat(r.ctx, "acme", fmt.Sprint(i))
		require.NoError(t, err)
	}
	r.pass(time.Minute)
	seats, err := r.svc.Seats(r.ctx, "acme")
	require.NoError(t, err)
	require.EqualValues(t, 2, seats.Paid, "the plan's minimum")
	require.EqualValues(t, 1, seats.Taken)

	// A number that can't be paid for is nobody's seat.
	r.paidFor("beta", "team", 2)
	_, err = r.svc.UsePaymentMethod(r.ctx, "beta", r.card("beta", "chargeCustomerFail"))
	require.NoError(t, err)
	for i := range 4 {
		_, err := r.svc.AssignSeat(r.ctx, "beta", fmt.Sprint(i))
		require.NoError(t, err)
	}
	r.pass(time.Minute)
	require.Len(t, r.noticesOf(billing.KindSeatsRefused), 1)
	seats, err = r.svc.Seats(r.ctx, "beta")
	require.NoError(t, err)
	require.Len(t, seats.Seats, 2)
	require.EqualValues(t, 2, seats.Paid)
	require.Zero(t, seats.Ordered)
	require.Equal(t, []int64{1000}, r.moved("beta"))
}
