package billing_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

const day = 24 * time.Hour

func TestDunningStepsCount(t *testing.T) {
	policy := billing.Policy{Dunning: []billing.Step{
		{Level: billing.Limited, After: 7 * day},
		{Level: billing.Limited, Invoices: 2},
		{Level: billing.Suspended, After: 14 * day, Owed: billing.Money{Amount: 5000, Currency: "USD"}},
		{Level: billing.Canceled, After: 60 * day},
	}}
	invoice := func(id string, age time.Duration, amount int64) billing.Invoice {
		return billing.Invoice{ID: id, SubscriptionID: "sub_1", Status: billing.InvoiceOpen, BillingReason: "subscription_cycle", Currency: "USD", AmountRemaining: amount, Created: noon.Add(-age)}
	}
	for name, test := range map[string]struct {
		invoices []billing.Invoice
		level    billing.Level
		reason   billing.Reason
		until    time.Time
	}{
		"young and small":           {[]billing.Invoice{invoice("in_1", day, 999)}, billing.Warned, billing.ReasonGrace, noon.Add(6 * day)},
		"old and small":             {[]billing.Invoice{invoice("in_1", 20*day, 999)}, billing.Limited, billing.ReasonPastDue, noon.Add(40 * day)},
		"old and large":             {[]billing.Invoice{invoice("in_1", 20*day, 5000)}, billing.Suspended, billing.ReasonSuspended, noon.Add(40 * day)},
		"two":                       {[]billing.Invoice{invoice("in_1", day, 999), invoice("in_2", 0, 999)}, billing.Limited, billing.ReasonPastDue, noon.Add(59 * day)},
		"the sum of two":            {[]billing.Invoice{invoice("in_1", 15*day, 4999), invoice("in_2", 0, 1)}, billing.Suspended, billing.ReasonSuspended, noon.Add(45 * day)},
		"at the end":                {[]billing.Invoice{invoice("in_1", 60*day, 1)}, billing.Canceled, billing.ReasonSuspended, time.Time{}},
		"an invoice that is paid":   {[]billing.Invoice{{ID: "in_1", SubscriptionID: "sub_1", Status: billing.InvoicePaid, Created: noon.Add(-60 * day)}}, billing.Limited, billing.ReasonPastDue, march.From.Add(60 * day)},
		"of another subscription":   {[]billing.Invoice{{ID: "in_1", SubscriptionID: "sub_2", Status: billing.InvoiceOpen, AmountRemaining: 9999, Created: noon.Add(-60 * day)}}, billing.Limited, billing.ReasonPastDue, march.From.Add(60 * day)},
		"the first one of its kind": {[]billing.Invoice{{ID: "in_1", SubscriptionID: "sub_1", Status: billing.InvoiceOpen, BillingReason: "subscription_create", AmountRemaining: 9999, Created: noon.Add(-60 * day)}}, billing.Limited, billing.ReasonPastDue, march.From.Add(60 * day)},
	} {
		a := of(pro(billing.StatusPastDue))
		a.Invoices = test.invoices
		d := billing.Access(plans(t), policy, &a, noon)
		require.Equal(t, test.level, d.Dunning, name)
		require.Equal(t, test.reason, d.Reason, name)
		require.Equal(t, test.until, d.Until, name)
	}

	for _, bad := range []billing.Step{{}, {Level: 9}, {Level: billing.Warned, After: -1}, {Level: billing.Warned, Owed: billing.Money{Amount: 1, Currency: "usd"}}} {
		r := newRig(t)
		_, err := billing.New(plans(t), r.store, r.gateway, billing.Config{Policy: billing.Policy{Dunning: []billing.Step{bad}}})
		require.ErrorIs(t, err, billing.ErrInvalid)
		require.ErrorContains(t, err, "Dunning[0]")
	}
	text, err := json.Marshal(billing.Suspended)
	require.NoError(t, err)
	var level billing.Level
	require.NoError(t, json.Unmarshal(text, &level))
	require.Equal(t, billing.Suspended, level)
	require.ErrorIs(t, json.Unmarshal([]byte(`"angry"`), &level), billing.ErrInvalid)
}

func TestArrearsComeWithTimeAndGoWithThePayment(t *testing.T) {
	policy := billing.Policy{Grace: 7 * day, Suspend: 21 * day}
	r := newRig(t, func(c *billing.Config) { c.Policy = policy })
	s := r.subscribe("alice", "pro")
	r.clock.Advance(28 * day)
	require.NoError(t, r.gateway.Renew(s.ID, false))
	r.settle()
	require.Equal(t, billing.ReasonGrace, r.access("alice").Reason)
	pass := func(d time.Duration) {
		r.clock.Advance(d)
		_, err := r.svc.ProcessPending(r.ctx)
		require.NoError(t, err)
	}
	pass(7*day - 1)
	require.NotContains(t, r.kinds(), billing.KindAccessLimited)
	pass(time.Second)
	require.Contains(t, r.kinds(), billing.KindAccessLimited)
	require.Equal(t, "free", r.access("alice").Plan)
	require.Equal(t, "pro", r.access("alice").Pending)
	pass(14 * day)
	require.Contains(t, r.kinds(), billing.KindAccessSuspended)
	require.False(t, r.access("alice").Allowed)

	// In arrears there is no second subscription and no other plan, only the
	// payment.
	_, err := r.svc.Checkout(r.ctx, "alice", checkoutOf("business"))
	require.ErrorIs(t, err, billing.ErrSubscribed)
	require.ErrorContains(t, err, "its invoice is to be paid first")
	_, err = r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
	require.ErrorIs(t, err, billing.ErrInvalid)

	before := len(r.kinds())
	require.NoError(t, r.gateway.PayByHand(s.ID))
	r.settle()
	require.Equal(t, "pro", r.access("alice").Plan)
	require.Equal(t, billing.Settled, r.access("alice").Dunning)
	require.Contains(t, r.kinds(), billing.KindPaymentRecovered)
	pass(365 * day)
	require.Len(t, r.kinds(), before+2, "recovered and paid, and no more dunning")

	moments, err := r.svc.Timeline(r.ctx, "alice", 100)
	require.NoError(t, err)
	var told []string
	for _, m := range moments {
		told = append(told, m.Source+" "+m.What)
	}
	require.Contains(t, told, "event invoice.payment_failed")
	require.Contains(t, told, "notice access.limited")
	require.Equal(t, `access plan "pro" because of active`, told[len(told)-1])
	short, err := r.svc.Timeline(r.ctx, "alice", 1)
	require.NoError(t, err)
	require.Len(t, short, 3)
}

func TestArrearsEndTheSubscription(t *testing.T) {
	r := newRig(t, func(c *billing.Config) { c.Policy = billing.Policy{Cancel: 30 * day} })
	s := r.subscribe("alice", "pro")
	require.NoError(t, r.gateway.Renew(s.ID, false))
	r.settle()
	r.clock.Advance(30 * day)
	_, err := r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, billing.StatusCanceled, r.gateway.Subscriptions()[0].Status)
	require.Equal(t, billing.ReasonCanceled, r.access("alice").Reason)
	require.Equal(t, billing.Settled, r.access("alice").Dunning)
}

func TestASecondLiveSubscriptionIsReportedOrEnded(t *testing.T) {
	for name, end := range map[string]bool{"reported": false, "ended": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *billing.Config) { c.CancelDuplicates = end })
			first := r.subscribe("alice", "pro")
			r.clock.Advance(time.Hour)
			second, err := r.gateway.AddSubscription(first.CustomerID, "business_month_usd") // by hand
			require.NoError(t, err)
			r.settle()
			require.Contains(t, r.kinds(), billing.KindSubscriptionDuplicate)
			_, err = r.svc.ProcessPending(r.ctx)
			require.NoError(t, err)
			subs := r.gateway.Subscriptions()
			require.Equal(t, end, subs[0].Status == billing.StatusCanceled)
			require.Equal(t, billing.StatusActive, subs[1].Status)
			got, err := r.svc.Subscription(r.ctx, "alice")
			require.NoError(t, err)
			require.Equal(t, second.ID, got.ID)
			require.Equal(t, "business", r.access("alice").Plan)
		})
	}
}
