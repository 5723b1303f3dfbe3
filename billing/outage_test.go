package billing_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/stripesim"
)

// TestStripeIsOffForAnHour: neither the API nor a webhook, across a renewal
// and the end of a trial. What accounts may do goes on, says that it is stale
// where news is overdue, and everything is as Stripe has it afterwards.
func TestStripeIsOffForAnHour(t *testing.T) {
	r := newSimRig(t, func(c *billing.Config) { c.Seats.Debounce = time.Minute })
	alice := r.paidFor("alice", "pro", 0)
	r.paidFor("acme", "team", 3)
	o := checkoutOf("business")
	r.checkOut("tina", o, "4242 4242 4242 4242")
	_, err := r.svc.ExtendTrial(r.ctx, "tina", alice.Period.To, r.why())
	require.NoError(t, err)
	r.settle()
	f, err := r.svc.NewFeed(billing.FeedConfig{})
	require.NoError(t, err)
	require.NoError(t, r.sim.AdvanceTo(r.ctx, alice.Period.To.Add(-30*time.Minute)))
	r.settle()

	type answer struct {
		plan  string
		limit int64
		from  time.Time
	}
	ask := func(account string) (a answer, stale bool) {
		d, err := r.svc.Access(r.ctx, account)
		require.NoError(t, err)
		n, from, _, err := r.svc.Quota(r.ctx, account, "kolekts")
		require.NoError(t, err)
		fed, err := f.Access(r.ctx, account)
		require.NoError(t, err)
		require.Equal(t, d.Plan, fed.Plan)
		require.Equal(t, d.Stale, fed.Stale)
		quota, _, _, err := f.Quota(r.ctx, account, "kolekts")
		require.NoError(t, err)
		require.Equal(t, n, quota)
		return answer{d.Plan, n, from}, d.Stale
	}
	accounts := []string{"alice", "acme", "tina", "nobody"}
	before := map[string]answer{}
	for _, account := range accounts {
		a, stale := ask(account)
		require.False(t, stale, account)
		before[account] = a
	}

	r.sim.Inject(stripesim.Fault{Kind: stripesim.Unavailable, Times: -1}, stripesim.Fault{Kind: stripesim.DropEvent, Times: -1})
	why := r.why()
	for minute := 0; minute < 60; minute += 5 {
		require.NoError(t, r.sim.Advance(r.ctx, 5*time.Minute))
		over := !r.sim.Now().Before(alice.Period.To)
		for _, account := range accounts {
			got, stale := ask(account)
			require.Equal(t, before[account].plan, got.plan, "%s after %d min", account, minute+5)
			require.Equal(t, before[account].limit, got.limit, account)
			require.Equal(t, over && account != "nobody", stale, "%s after %d min", account, minute+5)
			if over && account == "alice" {
				require.Equal(t, alice.Period.To, got.from, "quotas count in the next period, on time")
			}
		}
		_, _ = r.svc.ProcessPending(r.ctx) // it has nothing to say

		// What needs Stripe says so, and is made up for.
		_, err = r.svc.Checkout(r.ctx, "newcomer", checkoutOf("pro"))
		require.ErrorIs(t, err, billing.ErrUnavailable)
		_, err = r.svc.EnsureCustomer(r.ctx, "newcomer")
		require.ErrorIs(t, err, billing.ErrUnknownOutcome)
		_, err = r.svc.GrantCredit(r.ctx, "alice", usd(100), why)
		require.Error(t, err)
		_, err = r.svc.SetSeats(r.ctx, "acme", 5)
		require.NoError(t, err)
	}
	_, fresh, err := r.svc.Invoices(r.ctx, "alice")
	require.NoError(t, err)
	require.False(t, fresh)

	r.sim.ClearFaults()
	require.NoError(t, r.sim.Advance(r.ctx, 2*time.Hour))
	for range 3 {
		_, err = r.svc.Reconcile(r.ctx)
		require.NoError(t, err)
		require.NoError(t, r.sim.Advance(r.ctx, 2*time.Minute))
	}
	_, err = r.svc.GrantCredit(r.ctx, "alice", usd(100), why)
	require.NoError(t, err)
	for _, account := range []string{"alice", "acme", "tina"} {
		_, stale := ask(account)
		require.False(t, stale, account)
		a, err := r.svc.Account(r.ctx, account)
		require.NoError(t, err)
		require.Empty(t, a.Intents)
		require.False(t, a.Provisional)
		truth, err := r.stripe.State(r.ctx, a.CustomerID)
		require.NoError(t, err)
		require.Equal(t, truth.Subscriptions, a.Subscriptions)
		require.Equal(t, truth.Customer.Balance, a.Balance)
	}
	require.Equal(t, []int64{1000, 1000, -100}, r.moved("alice"))
	require.Equal(t, []int64{3000}, r.moved("tina"))
	seats, err := r.svc.Seats(r.ctx, "acme")
	require.NoError(t, err)
	require.EqualValues(t, 5, seats.Paid)
	require.Len(t, r.api("GET", "/v1/customers/search", "query=metadata['"+billing.MetadataAccount+"']:'newcomer'")["data"], 1, "one customer, from twelve calls without an answer")
}
