package billing_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

func TestAPauseChargesNothingAndKeepsWhatWasPaid(t *testing.T) {
	r := newSimRig(t)
	sub := r.paidFor("alice", "pro", 0)
	r.pass(10 * day)
	for range 2 {
		got, err := r.svc.Pause(r.ctx, "alice", billing.PauseOptions{})
		require.NoError(t, err)
		require.Equal(t, "void", got.PauseCollection)
	}
	d := r.access("alice")
	require.Equal(t, "pro", d.Plan)
	require.Equal(t, sub.Period.To, d.Until, "what was paid is had")
	r.pass(30 * day)
	require.Equal(t, billing.ReasonPaused, r.access("alice").Reason)
	require.Equal(t, "free", r.access("alice").Plan)
	require.Equal(t, "pro", r.access("alice").Pending)
	_, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("business"))
	require.ErrorIs(t, err, billing.ErrSubscribed, "no second one beside it")
	require.Equal(t, []int64{1000}, r.moved("alice"))

	// Whoever comes back in a period that nobody paid for begins one.
	got, err := r.svc.Unpause(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, r.sim.Now(), got.Period.From)
	require.Equal(t, "pro", r.access("alice").Plan)
	require.Equal(t, []int64{1000, 1000}, r.moved("alice"))
	_, err = r.svc.Unpause(r.ctx, "alice")
	require.NoError(t, err)
	r.settle()
	require.Len(t, r.noticesOf(billing.KindSubscriptionPaused), 1)
	require.Len(t, r.noticesOf(billing.KindSubscriptionUnpaused), 1)

	// Within what was paid, nothing is charged, and nothing is moved.
	r.pass(day)
	_, err = r.svc.Pause(r.ctx, "alice", billing.PauseOptions{Until: r.sim.Now().AddDate(0, 0, 5), Behavior: billing.PauseKeepDrafts})
	require.NoError(t, err)
	r.pass(time.Hour)
	again, err := r.svc.Unpause(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, got.Period, again.Period)
	require.Equal(t, []int64{1000, 1000}, r.moved("alice"))

	// With a date it goes on by itself.
	r.pass(time.Hour)
	_, err = r.svc.Pause(r.ctx, "alice", billing.PauseOptions{Until: r.sim.Now().AddDate(0, 0, 5)})
	require.NoError(t, err)
	r.pass(6 * day)
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)
	require.Len(t, r.noticesOf(billing.KindSubscriptionUnpaused), 3)

	for _, bad := range []billing.PauseOptions{{Behavior: "sleep"}, {Until: r.sim.Now().Add(-time.Hour)}} {
		_, err := r.svc.Pause(r.ctx, "alice", bad)
		require.ErrorIs(t, err, billing.ErrInvalid)
	}
	_, err = r.svc.Pause(r.ctx, "bob", billing.PauseOptions{})
	require.ErrorIs(t, err, billing.ErrNoSubscription)
	_, err = r.svc.Unpause(r.ctx, "bob")
	require.ErrorIs(t, err, billing.ErrNoSubscription)
}

func TestAPauseWhoseReturnIsDeclinedGoesOn(t *testing.T) {
	r := newSimRig(t)
	r.paidFor("alice", "pro", 0)
	_, err := r.svc.Pause(r.ctx, "alice", billing.PauseOptions{})
	require.NoError(t, err)
	pm := r.card("alice", "chargeCustomerFail")
	_, err = r.svc.UsePaymentMethod(r.ctx, "alice", pm)
	require.NoError(t, err)
	r.pass(40 * day)
	_, err = r.svc.Unpause(r.ctx, "alice")
	require.ErrorIs(t, err, billing.ErrDeclined)
	require.Equal(t, billing.ReasonPaused, r.access("alice").Reason)
	require.Equal(t, []int64{1000}, r.moved("alice"))
}
