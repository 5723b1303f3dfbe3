package billing_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

func TestAPaidSubscriptionByCheckoutAndWebhook(t *testing.T) {
	r := newRig(t)
	require.Equal(t, billing.ReasonNone, r.access("alice").Reason)
	require.Equal(t, "free", r.access("alice").Plan)

	s := r.subscribe("alice", "pro")
	d := r.access("alice")
	require.Equal(t, "pro", d.Plan)
	require.True(t, d.Paid)
	require.Equal(t, billing.ReasonActive, d.Reason)
	require.Equal(t, s.Period, d.Period)
	n, per, err := r.svc.Limit(r.ctx, "alice", "requests")
	require.NoError(t, err)
	require.Equal(t, int64(100), n)
	require.Equal(t, time.Minute, per)
	n, from, to, err := r.svc.Quota(r.ctx, "alice", "kolekts")
	require.NoError(t, err)
	require.Equal(t, int64(100), n)
	require.Equal(t, s.Period.From, from)
	require.Equal(t, time.Date(2026, 2, 28, 12, 0, 0, 0, time.UTC), to)
	require.Equal(t, []billing.Kind{billing.KindSubscriptionStarted, billing.KindSubscriptionChanged, billing.KindInvoicePaid}, r.kinds())
}

func TestReturnPageAndWebhookLeadToTheSamePlace(t *testing.T) {
	r := newRig(t)
	c, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	_, err = r.gateway.CompleteCheckout(c.ID)
	require.NoError(t, err)

	_, d, err := r.svc.SyncCheckout(r.ctx, "alice", c.ID)
	require.NoError(t, err)
	require.Equal(t, "pro", d.Plan)
	_, _, err = r.svc.SyncCheckout(r.ctx, "mallory", c.ID)
	require.ErrorIs(t, err, billing.ErrNotFound)
	before, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)

	r.settle()
	after, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, before.Subscriptions, after.Subscriptions)
	require.Equal(t, before.Invoices, after.Invoices)
	require.Len(t, r.kinds(), 3)
}

func TestSixtyFourCallsMakeOneCustomer(t *testing.T) {
	r := newRig(t)
	second := r.service(r.store, r.gateway) // another process
	ids := parallel(64, func(i int) (string, error) {
		svc := r.svc
		if i%2 == 1 {
			svc = second
		}
		return svc.EnsureCustomer(r.ctx, "alice")
	})
	for _, id := range ids {
		require.NoError(t, id.err)
		require.Equal(t, ids[0].value, id.value)
	}
	require.Len(t, r.gateway.Customers(), 1)
}

func TestFiftyUpgradeClicksMakeOneLiveSubscription(t *testing.T) {
	r := newRig(t)
	second := r.service(r.store, r.gateway)
	sessions := parallel(50, func(i int) (billing.Checkout, error) {
		svc := r.svc
		if i%2 == 1 {
			svc = second
		}
		return svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	})
	for _, s := range sessions {
		require.NoError(t, s.err)
		require.Equal(t, sessions[0].value.ID, s.value.ID)
	}
	// Each click that has a page tries to pay on it.
	paid := parallel(50, func(i int) (billing.Subscription, error) { return r.gateway.CompleteCheckout(sessions[i].value.ID) })
	ok := 0
	for _, p := range paid {
		if p.err == nil {
			ok++
		}
	}
	require.Equal(t, 1, ok)
	r.settle()
	require.Len(t, r.gateway.Customers(), 1)
	require.Len(t, r.gateway.Subscriptions(), 1)

	// And with the plan at work, 50 more are refused or change nothing.
	for _, s := range parallel(50, func(int) (billing.Checkout, error) { return r.svc.Checkout(r.ctx, "alice", checkoutOf("business")) }) {
		require.ErrorIs(t, s.err, billing.ErrSubscribed)
	}
	for _, s := range parallel(50, func(int) (billing.Subscription, error) {
		return r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
	}) {
		require.NoError(t, s.err)
	}
	subs := r.gateway.Subscriptions()
	require.Len(t, subs, 1)
	require.Len(t, r.gateway.AllInvoices(), 2)
}

func TestSubscribeReturnsWhatTheClientNeedsToPay(t *testing.T) {
	r := newRig(t)
	all := parallel(20, func(int) (billing.Subscribed, error) {
		return r.svc.Subscribe(r.ctx, "alice", billing.Order{Plan: "pro"})
	})
	for _, s := range all {
		require.NoError(t, s.err)
		require.NotEmpty(t, s.value.ClientSecret)
		require.Equal(t, all[0].value.ClientSecret, s.value.ClientSecret)
	}
	require.Len(t, r.gateway.Subscriptions(), 1)
	require.Equal(t, billing.ReasonIncomplete, r.access("alice").Reason)
	require.Equal(t, "free", r.access("alice").Plan)

	// Another order ends the unpaid subscription.
	got, err := r.svc.Subscribe(r.ctx, "alice", billing.Order{Plan: "pro", Interval: billing.Year})
	require.NoError(t, err)
	require.NotEqual(t, all[0].value.Subscription.ID, got.Subscription.ID)
	subs := r.gateway.Subscriptions()
	require.Len(t, subs, 2)
	require.Equal(t, billing.StatusCanceled, subs[0].Status)

	require.NoError(t, r.gateway.PayFirst(got.Subscription.ID))
	r.settle()
	require.Equal(t, "pro", r.access("alice").Plan)
	require.NotContains(t, r.kinds(), billing.KindSubscriptionEnded) // what never began doesn't end
	_, err = r.svc.Subscribe(r.ctx, "alice", billing.Order{Plan: "pro"})
	require.ErrorIs(t, err, billing.ErrSubscribed)
}

func TestCancelAndResume(t *testing.T) {
	r := newRig(t)
	s := r.subscribe("alice", "pro")
	got, err := r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{Reason: "too_expensive"})
	require.NoError(t, err)
	require.Equal(t, s.Period.To, got.CancelAt)
	d := r.access("alice")
	require.Equal(t, billing.ReasonEnding, d.Reason)
	require.Equal(t, s.Period.To, d.Until)
	require.Equal(t, "pro", d.Plan)
	_, err = r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{})
	require.NoError(t, err)

	_, err = r.svc.Resume(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)

	_, err = r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{Now: true})
	require.NoError(t, err)
	require.Equal(t, billing.ReasonCanceled, r.access("alice").Reason)
	require.Equal(t, "free", r.access("alice").Plan)
	_, err = r.svc.Resume(r.ctx, "alice")
	require.ErrorIs(t, err, billing.ErrNoSubscription)
	r.settle()
	require.ElementsMatch(t, []billing.Kind{
		billing.KindSubscriptionStarted, billing.KindSubscriptionChanged, billing.KindInvoicePaid,
		billing.KindSubscriptionEnding, billing.KindSubscriptionResumed, billing.KindSubscriptionEnded,
	}, r.kinds())
}

func TestAConfirmedChangeCostsWhatThePreviewSaid(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	r.clock.Advance(7 * 24 * time.Hour)
	p, err := r.svc.Preview(r.ctx, "alice", billing.Order{Plan: "business"})
	require.NoError(t, err)
	require.Equal(t, billing.Money{Amount: 1500, Currency: "USD"}, p.Due) // three weeks of four of 20.00

	wrong := p.Confirm
	wrong.Due.Amount = 1
	_, err = r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, &wrong)
	require.ErrorIs(t, err, billing.ErrAmountChanged)
	r.clock.Advance(30 * time.Minute)
	_, err = r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, &p.Confirm)
	require.NoError(t, err)
	require.Equal(t, "business", r.access("alice").Plan)
	invoices := r.gateway.AllInvoices()
	require.Equal(t, int64(1500), invoices[len(invoices)-1].AmountPaid)
	r.clock.Advance(2 * time.Hour)
	_, err = r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "pro"}, &p.Confirm)
	require.ErrorIs(t, err, billing.ErrAmountChanged)
}

func TestALostAnswerHasOneEffect(t *testing.T) {
	r := newRig(t)
	r.gateway.LoseAnswers(1)
	_, err := r.svc.EnsureCustomer(r.ctx, "alice")
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	// Nobody asks again: Run finds out.
	r.clock.Advance(2 * time.Minute)
	_, err = r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	id, err := r.svc.EnsureCustomer(r.ctx, "alice")
	require.NoError(t, err)
	require.Len(t, r.gateway.Customers(), 1)
	require.Equal(t, r.gateway.Customers()[0].ID, id)

	// After the key's life the customer is looked up.
	r.gateway.LoseAnswers(1)
	_, err = r.svc.EnsureCustomer(r.ctx, "bob")
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	r.clock.Advance(30 * time.Hour)
	_, err = r.svc.EnsureCustomer(r.ctx, "bob")
	require.NoError(t, err)
	require.Len(t, r.gateway.Customers(), 2)
}

func TestADeclineIsAnErrorAndNoIntentStays(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	r.gateway.Refuse(&billing.GatewayError{Op: "update", Kind: billing.ErrDeclined, DeclineCode: "insufficient_funds"})
	_, err := r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
	require.ErrorIs(t, err, billing.ErrDeclined)
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Empty(t, a.Intents)
	_, err = r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
	require.NoError(t, err)
	require.Equal(t, "business", r.access("alice").Plan)
}

func TestAnUnavailableGatewayHasNoEffectLater(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	r.gateway.Refuse(&billing.GatewayError{Op: "update", Kind: billing.ErrUnavailable})
	_, err := r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
	require.ErrorIs(t, err, billing.ErrUnavailable)
	r.clock.Advance(time.Hour)
	_, err = r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, "pro", r.access("alice").Plan)
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Empty(t, a.Intents)
}

func TestATrialIsGivenOnce(t *testing.T) {
	r := newRig(t)
	s := r.subscribe("alice", "business")
	require.Equal(t, billing.StatusTrialing, s.Status)
	require.Equal(t, billing.ReasonTrialing, r.access("alice").Reason)
	r.clock.Advance(12 * 24 * time.Hour)
	_, err := r.svc.ProcessPending(r.ctx) // the notice comes by time alone
	require.NoError(t, err)
	require.Contains(t, r.kinds(), billing.KindTrialEnding)
	_, err = r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{Now: true})
	require.NoError(t, err)
	s = r.subscribe("alice", "business")
	require.Equal(t, billing.StatusActive, s.Status)
}

func TestInvoicesAreShownWhileTheGatewayIsDown(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	live, fresh, err := r.svc.Invoices(r.ctx, "alice")
	require.NoError(t, err)
	require.True(t, fresh)
	r.gateway.Down(true)
	stored, fresh, err := r.svc.Invoices(r.ctx, "alice")
	require.NoError(t, err)
	require.False(t, fresh)
	require.Equal(t, live, stored)
}

func TestAPriceThatTheGatewayHasOtherwiseIsNotSold(t *testing.T) {
	r := newRig(t)
	_, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("gold"))
	require.ErrorIs(t, err, billing.ErrUnknownPlan)
	require.ErrorContains(t, err, `plan "gold" is not in the catalogue (have free, pro, business)`)
	_, err = r.svc.Checkout(r.ctx, "alice", checkoutOf("free"))
	require.ErrorIs(t, err, billing.ErrUnknownPlan)
	r.gateway.SetPrice(billing.Price{ID: "price_x", LookupKey: "pro_month_usd", UnitAmount: billing.Money{Amount: 1999, Currency: "USD"}, Interval: billing.Month, Active: true})
	_, err = r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.ErrorIs(t, err, billing.ErrUnknownPlan)
	require.ErrorContains(t, err, "$19.99")
	require.Empty(t, r.gateway.Customers())
}

func TestAnotherOrderClosesTheOpenPage(t *testing.T) {
	r := newRig(t)
	first, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	again, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)
	r.clock.Advance(time.Hour)
	again, err = r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)
	second, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("business"))
	require.NoError(t, err)
	require.NotEqual(t, first.ID, second.ID)
	_, err = r.gateway.CompleteCheckout(first.ID)
	require.Error(t, err)
	_, err = r.gateway.CompleteCheckout(second.ID)
	require.NoError(t, err)
	// Paid, and the webhook isn't here yet: nothing is sold twice.
	_, err = r.svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.ErrorIs(t, err, billing.ErrSubscribed)
}

func TestRunHandlesAndEnds(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(r.ctx)
	delivered := make(chan struct{})
	var once sync.Once
	svc := r.service(r.store, r.gateway, func(c *billing.Config) {
		c.Handle = func(_ context.Context, n billing.Notice) error {
			if n.Kind == billing.KindInvoicePaid {
				once.Do(func() { close(delivered) })
			}
			return nil
		}
	})
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	c, err := svc.Checkout(r.ctx, "alice", checkoutOf("pro"))
	require.NoError(t, err)
	_, err = r.gateway.CompleteCheckout(c.ID)
	require.NoError(t, err)
	require.NoError(t, r.gateway.Deliver(svc.Webhook()))
	<-delivered
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestNewNamesTheFieldThatIsWrong(t *testing.T) {
	r := newRig(t)
	for name, cfg := range map[string]billing.Config{
		"Config.CallTimeout": {CallTimeout: -1},
		"Config.Workers":     {Workers: -1},
		"Config.Attempts":    {Attempts: -1},
		"Config.Retention":   {Retention: time.Hour},
		"Config.Policy":      {Policy: billing.Policy{Suspend: -1}},
	} {
		_, err := billing.New(plans(t), r.store, r.gateway, cfg)
		require.ErrorIs(t, err, billing.ErrInvalid)
		require.ErrorContains(t, err, name)
	}
	_, err := billing.New(nil, r.store, r.gateway, billing.Config{})
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = r.svc.Access(r.ctx, "")
	assert.ErrorIs(t, err, billing.ErrInvalid)
}

func TestAHandlerThatFailsGetsTheNoticeAgain(t *testing.T) {
	r := newRig(t)
	fail := true
	var got []string
	r.svc = r.service(r.store, r.gateway, func(c *billing.Config) {
		c.Handle = func(_ context.Context, n billing.Notice) error {
			if fail {
				if n.Kind == billing.KindInvoicePaid {
					panic("a handler's own trouble")
				}
				return errors.New("mail is down")
			}
			got = append(got, n.ID)
			return nil
		}
	})
	r.subscribe("alice", "pro")
	require.Empty(t, got)
	fail = false
	r.clock.Advance(time.Minute)
	p, err := r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, 3, p.Delivered)
	require.Len(t, got, 3)
	p, err = r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Zero(t, p.Delivered)
}

type result[T any] struct {
	value T
	err   error
}

// parallel calls do from n goroutines that begin together.
func parallel[T any](n int, do func(i int) (T, error)) []result[T] {
	results := make([]result[T], n)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			results[i].value, results[i].err = do(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	return results
}
