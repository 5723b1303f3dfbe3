package billing_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// noon is within the period of every subscription of the table.
var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

var march = billing.Period{From: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)}

func pro(status billing.Status, change ...func(*billing.Subscription)) billing.Subscription {
	s := billing.Subscription{
		ID: "sub_1", CustomerID: "cus_1", Status: status, Period: march, BillingCycleAnchor: march.From, Created: march.From,
		Items: []billing.Item{{ID: "si_1", Quantity: 1, Price: billing.Price{LookupKey: "pro_month_usd", Interval: billing.Month, IntervalCount: 1}, Period: march}},
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func TestAccessDecides(t *testing.T) {
	day := 24 * time.Hour
	seen := map[string]billing.Trail{"sub_1": {{At: march.From, ID: "evt_1", Status: billing.StatusActive}}}
	unpaid := func(days int) []billing.Invoice {
		return []billing.Invoice{
			{ID: "in_2", SubscriptionID: "sub_1", Status: billing.InvoiceOpen, BillingReason: "subscription_cycle", AmountRemaining: 999, Created: noon},
			{ID: "in_1", SubscriptionID: "sub_1", Status: billing.InvoiceOpen, BillingReason: "subscription_cycle", AmountRemaining: 999, Created: noon.Add(-time.Duration(days) * day)},
		}
	}
	for name, test := range map[string]struct {
		account billing.Account
		policy  billing.Policy
		reason  billing.Reason
		plan    string
		until   time.Time
		stale   bool
	}{
		"nobody":             {billing.Account{}, billing.Policy{}, billing.ReasonNone, "free", time.Time{}, false},
		"incomplete":         {of(pro(billing.StatusIncomplete)), billing.Policy{}, billing.ReasonIncomplete, "free", march.From.Add(23 * time.Hour), false},
		"incomplete_expired": {of(pro(billing.StatusIncompleteExpired)), billing.Policy{}, billing.ReasonExpired, "free", time.Time{}, false},
		"trialing": {of(pro(billing.StatusTrialing, func(s *billing.Subscription) { s.TrialEnd = march.To })), billing.Policy{},
			billing.ReasonTrialing, "pro", march.To, false},
		"active":   {of(pro(billing.StatusActive)), billing.Policy{}, billing.ReasonActive, "pro", time.Time{}, false},
		"past_due": {of(pro(billing.StatusPastDue)), billing.Policy{}, billing.ReasonGrace, "pro", march.From.Add(14 * day), false},
		"unpaid":   {of(pro(billing.StatusUnpaid)), billing.Policy{}, billing.ReasonUnpaid, "free", time.Time{}, false},
		"canceled": {of(pro(billing.StatusCanceled)), billing.Policy{}, billing.ReasonCanceled, "free", time.Time{}, false},
		"paused":   {of(pro(billing.StatusPaused)), billing.Policy{}, billing.ReasonPaused, "free", time.Time{}, false},

		"a status of the future grants nothing new":      {of(pro("dormant")), billing.Policy{}, billing.ReasonUnknownStatus, "free", time.Time{}, false},
		"a status of the future takes nothing away":      {billing.Account{Subscriptions: []billing.Subscription{pro("dormant")}, Trails: seen}, billing.Policy{}, billing.ReasonUnknown, "pro", march.To, false},
		"a status of the future ends with the period":    {billing.Account{Subscriptions: []billing.Subscription{pro("dormant", over)}, Trails: seen}, billing.Policy{}, billing.ReasonUnknownStatus, "free", time.Time{}, false},
		"no status at all":                               {of(pro("")), billing.Policy{}, billing.ReasonUnknownStatus, "free", time.Time{}, false},
		"collection paused is not paused":                {of(pro(billing.StatusActive, func(s *billing.Subscription) { s.PauseCollection = "void" })), billing.Policy{}, billing.ReasonActive, "pro", time.Time{}, false},
		"ending with its period keeps the plan":          {of(pro(billing.StatusActive, func(s *billing.Subscription) { s.CancelAtPeriodEnd = true })), billing.Policy{}, billing.ReasonEnding, "pro", march.To, false},
		"ending at a date":                               {of(pro(billing.StatusActive, func(s *billing.Subscription) { s.CancelAt = noon.Add(1) })), billing.Policy{}, billing.ReasonEnding, "pro", noon.Add(1), false},
		"ended at its date, before the provider says so": {of(pro(billing.StatusActive, func(s *billing.Subscription) { s.CancelAt = noon })), billing.Policy{}, billing.ReasonCanceled, "free", time.Time{}, false},
		"a trial that ends with a date":                  {of(pro(billing.StatusTrialing, func(s *billing.Subscription) { s.CancelAt, s.TrialEnd = noon.Add(day), march.To })), billing.Policy{}, billing.ReasonEnding, "pro", noon.Add(day), false},
		"past due and ending sooner than its grace":      {of(pro(billing.StatusPastDue, func(s *billing.Subscription) { s.CancelAt = noon.Add(day) })), billing.Policy{}, billing.ReasonGrace, "pro", noon.Add(day), false},

		"grace counts from the oldest unpaid invoice": {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusPastDue)}, Invoices: unpaid(13)}, billing.Policy{}, billing.ReasonGrace, "pro", noon.Add(day), false},
		"grace is over":                  {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusPastDue)}, Invoices: unpaid(14)}, billing.Policy{}, billing.ReasonPastDue, "free", time.Time{}, false},
		"a grace of one's own":           {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusPastDue)}, Invoices: unpaid(2)}, billing.Policy{Grace: 2 * day}, billing.ReasonPastDue, "free", time.Time{}, false},
		"no grace":                       {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusPastDue)}, Invoices: unpaid(0)}, billing.Policy{Grace: -1}, billing.ReasonPastDue, "free", time.Time{}, false},
		"suspension is announced":        {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusPastDue)}, Invoices: unpaid(20)}, billing.Policy{Suspend: 30 * day}, billing.ReasonPastDue, "free", noon.Add(10 * day), false},
		"suspended":                      {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusPastDue)}, Invoices: unpaid(30)}, billing.Policy{Suspend: 30 * day}, billing.ReasonSuspended, "", time.Time{}, false},
		"unpaid is suspended too":        {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusUnpaid)}, Invoices: unpaid(30)}, billing.Policy{Suspend: 30 * day}, billing.ReasonSuspended, "", time.Time{}, false},
		"a debt doesn't outlive its end": {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusCanceled)}, Invoices: unpaid(90)}, billing.Policy{Suspend: 30 * day}, billing.ReasonCanceled, "free", time.Time{}, false},

		"no news after the period's end goes on, stale": {of(pro(billing.StatusActive, over)), billing.Policy{}, billing.ReasonActive, "pro", time.Time{}, true},
		"no news for longer than the policy allows":     {of(pro(billing.StatusActive, over)), billing.Policy{MaxStale: day}, billing.ReasonStale, "free", time.Time{}, true},
		"no news for less than that":                    {of(pro(billing.StatusActive, over)), billing.Policy{MaxStale: 90 * day}, billing.ReasonActive, "pro", march.From.AddDate(0, -1, 0).Add(90 * day), true},
		"merged snapshots are stale":                    {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusActive)}, Provisional: true}, billing.Policy{}, billing.ReasonActive, "pro", time.Time{}, true},

		"a price that the catalogue doesn't know": {of(pro(billing.StatusActive, func(s *billing.Subscription) { s.Items[0].Price.LookupKey = "x" })), billing.Policy{}, billing.ReasonUnknownPlan, "free", time.Time{}, false},
		"a deleted customer":                      {billing.Account{Subscriptions: []billing.Subscription{pro(billing.StatusActive)}, Deleted: true}, billing.Policy{}, billing.ReasonAccountDeleted, "free", time.Time{}, false},

		"the one that is paid for wins":               {of(pro(billing.StatusIncomplete, newer), pro(billing.StatusActive)), billing.Policy{}, billing.ReasonActive, "pro", time.Time{}, false},
		"the higher plan wins":                        {of(pro(billing.StatusActive, newer), pro(billing.StatusTrialing, business)), billing.Policy{}, billing.ReasonTrialing, "business", time.Time{}, false},
		"the newest of those that ended tells why":    {of(pro(billing.StatusIncompleteExpired), pro(billing.StatusCanceled, newer)), billing.Policy{}, billing.ReasonCanceled, "free", time.Time{}, false},
		"what can be paid tells more than what ended": {of(pro(billing.StatusCanceled, newer), pro(billing.StatusUnpaid)), billing.Policy{}, billing.ReasonUnpaid, "free", time.Time{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := billing.Access(plans(t), test.policy, &test.account, noon)
			require.Equal(t, test.reason, d.Reason)
			require.Equal(t, test.plan, d.Plan)
			require.Equal(t, test.until, d.Until)
			require.Equal(t, test.stale, d.Stale)
			require.Equal(t, test.plan != "", d.Allowed)
			require.Equal(t, test.reason.Grants(), d.Paid)
			require.True(t, d.Period.Contains(noon), "%v", d.Period)
			if !d.Paid && d.Status == billing.StatusPastDue {
				require.Equal(t, "pro", d.Pending)
			}
		})
	}
}

func of(subs ...billing.Subscription) billing.Account { return billing.Account{Subscriptions: subs} }

func over(s *billing.Subscription) {
	s.Period = billing.Period{From: march.From.AddDate(0, -2, 0), To: march.From.AddDate(0, -1, 0)}
}

func newer(s *billing.Subscription) { s.ID, s.Created = "sub_2", noon }

func business(s *billing.Subscription) { s.Items[0].Price.LookupKey = "business_month_usd" }

func TestDecisionAnswers(t *testing.T) {
	c := plans(t)
	a := of(pro(billing.StatusActive, func(s *billing.Subscription) { s.Items[0].Quantity = 7 }))
	d := billing.Access(c, billing.Policy{}, &a, noon)
	require.Equal(t, int64(7), d.Quantity)
	l, err := d.Limit("requests")
	require.NoError(t, err)
	require.Equal(t, billing.Limit{N: 100, Per: time.Minute}, l)
	_, err = d.Limit("reqeusts")
	require.ErrorIs(t, err, billing.ErrUnknownLimit)
	require.True(t, d.Has("api"))
	require.False(t, d.Has("support"))
	up, ok := d.Upgrade("requests", 101)
	require.True(t, ok)
	require.Equal(t, "business", up.ID)

	// Suspended: nothing, but a way out.
	a = of(pro(billing.StatusUnpaid))
	d = billing.Access(c, billing.Policy{Suspend: time.Hour}, &a, noon)
	require.False(t, d.Allowed)
	l, err = d.Limit("requests")
	require.NoError(t, err)
	require.Equal(t, billing.Limit{N: 0, Per: time.Minute}, l)
	_, err = d.Limit("reqeusts")
	require.ErrorIs(t, err, billing.ErrUnknownLimit)
	require.False(t, d.Has("api"))
	up, ok = d.Upgrade("requests", 1)
	require.True(t, ok)
	require.Equal(t, "pro", up.ID)

	var zero billing.Decision
	_, err = zero.Limit("requests")
	require.ErrorIs(t, err, billing.ErrUnknownLimit)
	_, ok = zero.Upgrade("requests", 1)
	require.False(t, ok)
}

func TestQuotasCountInMonthsAtMost(t *testing.T) {
	c := plans(t)
	jan31 := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	date := func(m time.Month, d int) time.Time { return time.Date(2026, m, d, 9, 0, 0, 0, time.UTC) }
	yearly := pro(billing.StatusActive, func(s *billing.Subscription) {
		s.BillingCycleAnchor, s.Period = jan31, billing.Period{From: jan31, To: jan31.AddDate(1, 0, 0)}
		s.Items[0].Price.Interval = billing.Year
	})
	weekly := pro(billing.StatusActive, func(s *billing.Subscription) {
		s.BillingCycleAnchor, s.Period = jan31, billing.Period{From: jan31, To: jan31.AddDate(0, 0, 7)}
		s.Items[0].Price.Interval = billing.Week
	})
	for name, test := range map[string]struct {
		sub  billing.Subscription
		now  time.Time
		want billing.Period
	}{
		"a year in months":            {yearly, date(3, 1), billing.Period{From: date(2, 28), To: date(3, 31)}},
		"from its own date":           {yearly, date(4, 15), billing.Period{From: date(3, 31), To: date(4, 30)}},
		"a week":                      {weekly, date(2, 1), billing.Period{From: jan31, To: date(2, 7)}},
		"weeks go on without news":    {weekly, date(2, 16), billing.Period{From: date(2, 14), To: date(2, 21)}},
		"months go on without news":   {pro(billing.StatusActive), time.Date(2026, 5, 5, 0, 0, 0, 0, time.UTC), billing.Period{From: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)}},
		"a free account by the month": {pro(billing.StatusCanceled), time.Date(2026, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200)), billing.Period{From: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)}},
	} {
		a := of(test.sub)
		d := billing.Access(c, billing.Policy{}, &a, test.now)
		require.Equal(t, test.want, d.Period, name)
	}
}
