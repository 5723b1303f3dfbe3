package billing_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
)

func usd(n int64) billing.Money { return billing.Money{Amount: n, Currency: "USD"} }

func (r *simRig) newest(account string) billing.Invoice {
	r.t.Helper()
	list, _, err := r.svc.Invoices(r.ctx, account)
	require.NoError(r.t, err)
	require.NotEmpty(r.t, list)
	return list[0]
}

func TestARefundHasOneEffectForGood(t *testing.T) {
	r := newSimRig(t)
	r.paidFor("alice", "pro", 0)
	inv := r.newest("alice")
	why := r.why()
	order := billing.RefundOrder{InvoiceID: inv.ID, Amount: usd(300), Reason: billing.RefundUnsatisfactory}
	var first billing.CreditNote
	for i := range 3 {
		got, err := r.svc.Refund(r.ctx, "alice", order, why)
		require.NoError(t, err)
		require.Equal(t, usd(300), got.Amount)
		require.NotEmpty(t, got.RefundID)
		if i == 0 {
			first = got
		}
		require.Equal(t, first, got)
		r.pass(25 * time.Hour)
	}
	require.Equal(t, []int64{1000, -300}, r.moved("alice"))
	order.Amount = usd(301)
	_, err := r.svc.Refund(r.ctx, "alice", order, why)
	require.ErrorIs(t, err, billing.ErrInvalid, "one key for two things")

	// Never above what was paid.
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID, Amount: usd(701)}, r.why())
	require.ErrorIs(t, err, billing.ErrInvalid)
	require.ErrorContains(t, err, "at most $7.00")
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID, Amount: billing.Money{Amount: 1, Currency: "EUR"}}, r.why())
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID, Amount: usd(-1)}, r.why())
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID, Reason: "regret"}, r.why())
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID}, billing.Audit{})
	require.ErrorIs(t, err, billing.ErrInvalid)
	r.paidFor("bob", "pro", 0)
	_, err = r.svc.Refund(r.ctx, "bob", billing.RefundOrder{InvoiceID: inv.ID}, r.why())
	require.ErrorIs(t, err, billing.ErrNotFound, "somebody else's invoice")

	// As credit, and then the rest.
	got, err := r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID, Amount: usd(200), ToBalance: true}, r.why())
	require.NoError(t, err)
	require.Empty(t, got.RefundID)
	got, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID}, r.why())
	require.NoError(t, err)
	require.Equal(t, usd(500), got.Amount)
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID}, r.why())
	require.ErrorIs(t, err, billing.ErrInvalid, "nothing is left")
	require.Equal(t, []int64{1000, -300, -200, -500}, r.moved("alice"))
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, usd(-200), a.Balance)
	require.Len(t, a.Adjustments, 3)
	r.settle()
	require.NotEmpty(t, r.noticesOf(billing.KindPaymentRefunded))
}

func TestAnOpenInvoiceAsksForLess(t *testing.T) {
	r := newSimRig(t)
	r.paidFor("alice", "pro", 0)
	_, err := r.svc.UsePaymentMethod(r.ctx, "alice", r.card("alice", "chargeCustomerFail"))
	require.NoError(t, err)
	r.pass(29 * day)
	inv := r.newest("alice")
	require.Equal(t, billing.InvoiceOpen, inv.Status)
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID, Amount: usd(400)}, r.why())
	require.NoError(t, err)
	require.Equal(t, int64(600), r.newest("alice").AmountRemaining)
	_, err = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID}, r.why())
	require.NoError(t, err)
	r.settle()
	require.Equal(t, billing.InvoicePaid, r.newest("alice").Status)
	require.Equal(t, "pro", r.access("alice").Plan)
	require.Equal(t, []int64{1000}, r.moved("alice"))
}

// TestRefundsAtOnceGiveNoMoreThanWasPaid: whoever loses the race is refused by
// us, before the gateway is asked.
func TestRefundsAtOnceGiveNoMoreThanWasPaid(t *testing.T) {
	r := newSimRig(t)
	r.paidFor("alice", "pro", 0)
	inv := r.newest("alice")
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = r.svc.Refund(r.ctx, "alice", billing.RefundOrder{InvoiceID: inv.ID, Amount: usd(300)}, billing.Audit{Key: fmt.Sprint(i), By: "ada", Reason: "r"})
		})
	}
	wg.Wait()
	given := 0
	for _, err := range errs {
		if err == nil {
			given++
			continue
		}
		require.ErrorIs(t, err, billing.ErrInvalid)
		require.NotContains(t, err.Error(), "credit note:", "Stripe wasn't asked")
	}
	require.Equal(t, 3, given)
	require.Equal(t, []int64{1000, -300, -300, -300}, r.moved("alice"))
}

// TestAnyRefundsLeaveTheBooksEqual: whatever is given back, as money or credit,
// is never more than was paid, and the account's books say what Stripe's do.
func TestAnyRefundsLeaveTheBooksEqual(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newSimRig(t)
		r.paidFor("alice", "business", 0)
		inv := r.newest("alice")
		var money, credit int64
		for i := range rapid.IntRange(1, 5).Draw(rt, "orders") {
			amount := rapid.Int64Range(0, 2500).Draw(rt, "amount")
			o := billing.RefundOrder{InvoiceID: inv.ID, ToBalance: rapid.Bool().Draw(rt, "to balance")}
			if amount > 0 {
				o.Amount = usd(amount)
			}
			got, err := r.svc.Refund(r.ctx, "alice", o, billing.Audit{Key: fmt.Sprint(i), By: "ada", Reason: "r"})
			left := 3000 - money - credit
			if left == 0 || amount > left {
				require.ErrorIs(rt, err, billing.ErrInvalid)
				continue
			}
			require.NoError(rt, err)
			if amount == 0 {
				amount = left
			}
			require.Equal(rt, usd(amount), got.Amount)
			if o.ToBalance {
				credit += amount
			} else {
				money += amount
			}
		}
		a, err := r.svc.Account(r.ctx, "alice")
		require.NoError(rt, err)
		require.Equal(rt, money+credit, a.Invoices[0].AmountRefunded)
		require.Equal(rt, -credit, a.Balance.Amount)
		require.Equal(rt, map[string]int64{"usd": 3000 - money}, r.sim.Collected(a.CustomerID))
	})
}
