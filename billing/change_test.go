package billing_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

const shopYAML = `
features: {api: API access, sso: Single sign-on}
meters:
  - {id: emails, name: E-mails}
plans:
  - id: free
    limits: {requests: 10/minute, documents: 10/period}
  - id: starter
    name: Starter
    limits: {requests: 50/minute, documents: 100/period}
    prices:
      - {amount: 10.00 USD, every: month}
      - {amount: 100.00 USD, every: year}
  - id: pro
    name: Pro
    features: [api]
    limits: {requests: 100/minute, documents: 1000/period}
    prices:
      - {amount: 100.00 USD, every: month}
      - {amount: 1000.00 USD, every: year}
    metered:
      - {meter: emails, amount: 0.002 USD, every: month}
      - {meter: emails, amount: 0.002 USD, every: year}
  - id: team
    name: Team
    features: [api]
    limits: {requests: 200/minute, documents: 2000/period}
    seats: {included: 3, maximum: 20, prices: [{amount: 5.00 USD, every: month}]}
    prices: [{amount: 200.00 USD, every: month}]
  - id: legacy
    name: Legacy
    features: [api]
    limits: {requests: 200/minute, documents: 2000/period}
    prices: [{amount: 150.00 USD, every: month}]
addons:
  - id: storage
    name: Storage
    plans: [starter, pro]
    features: [sso]
    limits: {documents: 50/period}
    maximum: 5
    prices:
      - {amount: 3.00 USD, every: month}
      - {amount: 30.00 USD, every: year}
coupons:
  - {id: HALF, off: 50%, duration: 2 months, plans: [pro]}
changes:
  - {to: legacy, when: never, reason: it is sold no more}
`

// shop is a service on the production gateway and a simulated Stripe, with the
// catalogue applied.
type shop struct {
	t   *testing.T
	sim *stripesim.Server
	g   *billingstripe.Gateway
	svc *billing.Service
	cat *billing.Catalog
}

func catalogFrom(t testing.TB, text string) *billing.Catalog {
	t.Helper()
	c, err := billing.ParseCatalog("plans.yaml", []byte(text))
	require.NoError(t, err)
	return c
}

var shopStart = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func newShop(t *testing.T, text string, change ...func(*billing.Config)) *shop {
	t.Helper()
	sim, err := stripesim.NewServer(stripesim.Config{Start: shopStart, Seed: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Close()) })
	s := &shop{t: t, sim: sim}
	s.g, err = billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{stripesim.NewSecret()}, URL: sim.URL, Now: sim.Now, Retries: -1,
	})
	require.NoError(t, err)
	s.open(text, change...)
	return s
}

// open applies a catalogue and starts a service on it, with what the one
// before stored.
func (s *shop) open(text string, change ...func(*billing.Config)) {
	s.t.Helper()
	s.cat = catalogFrom(s.t, text)
	diff, err := s.g.PlanCatalog(s.t.Context(), s.cat)
	require.NoError(s.t, err)
	require.NoError(s.t, s.g.ApplyCatalog(s.t.Context(), diff, nil))
	cfg := billing.Config{Now: s.sim.Now}
	for _, c := range change {
		c(&cfg)
	}
	if shopStores[s.sim] == nil {
		shopStores[s.sim] = billingmem.New()
		s.t.Cleanup(func() { delete(shopStores, s.sim) })
	}
	s.svc, err = billing.New(s.cat, shopStores[s.sim], s.g, cfg)
	require.NoError(s.t, err)
}

var shopStores = map[*stripesim.Server]billing.Store{}

func (s *shop) subscribe(account string, o billing.Order) billing.Subscription {
	s.t.Helper()
	sub, err := s.svc.Subscribe(s.t.Context(), account, o)
	require.NoError(s.t, err)
	stripe{s.g, s.sim}.pay(s.t, sub)
	return s.sync(account)
}

func (s *shop) sync(account string) billing.Subscription {
	s.t.Helper()
	_, err := s.svc.Sync(s.t.Context(), account)
	require.NoError(s.t, err)
	sub, err := s.svc.Subscription(s.t.Context(), account)
	require.NoError(s.t, err)
	return sub
}

func (s *shop) change(account string, o billing.Order) billing.Subscription {
	s.t.Helper()
	sub, err := s.svc.ChangePlan(s.t.Context(), account, o, nil)
	require.NoError(s.t, err)
	return sub
}

func (s *shop) access(account string) billing.Decision {
	s.t.Helper()
	d, err := s.svc.Access(s.t.Context(), account)
	require.NoError(s.t, err)
	return d
}

func (s *shop) limit(account, name string) string {
	s.t.Helper()
	d := s.access(account)
	l, err := d.Limit(name)
	require.NoError(s.t, err)
	return l.String()
}

func (s *shop) advance(d time.Duration) {
	s.t.Helper()
	require.NoError(s.t, s.sim.Advance(s.t.Context(), d))
}

// paid is what an account has paid, in cents.
func (s *shop) paid(account string) int64 {
	s.t.Helper()
	invoices, _, err := s.svc.Invoices(s.t.Context(), account)
	require.NoError(s.t, err)
	var n int64
	for _, inv := range invoices {
		n += inv.AmountPaid
	}
	return n
}

func items(sub billing.Subscription) []string {
	var all []string
	for _, it := range sub.Items {
		all = append(all, fmt.Sprintf("%d %s", it.Quantity, it.Price.LookupKey))
	}
	return all
}

const days = 24 * time.Hour

func TestADowngradeWaitsForTheEndOfThePeriod(t *testing.T) {
	s := newShop(t, shopYAML)
	s.subscribe("ada", billing.Order{Plan: "pro"})
	s.advance(10 * days)
	p, err := s.svc.Preview(t.Context(), "ada", billing.Order{Plan: "starter"})
	require.NoError(t, err)
	end := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	assert.Equal(t, billing.Downgrade, p.Kind)
	assert.Equal(t, billing.PeriodEnd, p.When)
	assert.Equal(t, end, p.At)
	assert.Zero(t, p.Due.Amount)
	assert.Equal(t, int64(1000), p.Invoice.Total)

	sub, err := s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "starter"}, &p.Confirm)
	require.NoError(t, err)
	require.NotNil(t, sub.Scheduled)
	assert.Equal(t, "starter", sub.Scheduled.Plan)
	assert.Equal(t, end, sub.Scheduled.At)
	assert.Equal(t, "pro", s.access("ada").Plan, "what was paid for stays")
	again := s.change("ada", billing.Order{Plan: "starter"})
	assert.Equal(t, sub.Scheduled.ID, again.Scheduled.ID)

	// No webhook and no process is needed for it to happen.
	s.advance(25 * days)
	sub = s.sync("ada")
	assert.Equal(t, []string{"1 starter_month_usd"}, items(sub))
	assert.Equal(t, "starter", s.access("ada").Plan)
	assert.Equal(t, "100/period", s.limit("ada", "documents"), "a whole period of the new plan")
	assert.Equal(t, int64(10_000+1_000), s.paid("ada"))

	// A change that is over is in nobody's way.
	s.change("ada", billing.Order{Plan: "pro"})
	assert.Equal(t, "pro", s.access("ada").Plan)
}

func TestAScheduledChangeIsWithdrawnAndReplaced(t *testing.T) {
	s := newShop(t, shopYAML)
	s.subscribe("ada", billing.Order{Plan: "pro"})
	yearToMonth := func() billing.Subscription { return s.change("ada", billing.Order{Plan: "starter"}) }

	require.NotNil(t, yearToMonth().Scheduled)
	sub, err := s.svc.KeepPlan(t.Context(), "ada")
	require.NoError(t, err)
	assert.Nil(t, sub.Scheduled)
	_, err = s.svc.KeepPlan(t.Context(), "ada")
	require.NoError(t, err, "without a change it changes nothing")

	yearToMonth()
	assert.Nil(t, s.change("ada", billing.Order{Plan: "pro"}).Scheduled, "a change to what there is withdraws it")

	yearToMonth()
	p, err := s.svc.Preview(t.Context(), "ada", billing.Order{Plan: "team"})
	require.NoError(t, err)
	sub, err = s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "team"}, &p.Confirm)
	require.NoError(t, err, "an upgrade replaces it")
	assert.Nil(t, sub.Scheduled)
	assert.Equal(t, "team", s.access("ada").Plan)

	s.change("ada", billing.Order{Plan: "starter"})
	sub, err = s.svc.Cancel(t.Context(), "ada", billing.CancelOptions{})
	require.NoError(t, err, "a cancellation replaces it")
	assert.Nil(t, sub.Scheduled)
	assert.True(t, sub.CancelAtPeriodEnd)
	_, err = s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "starter"}, nil)
	require.ErrorContains(t, err, "resume it first")
	s.advance(32 * days)
	assert.Equal(t, billing.StatusCanceled, s.sync("ada").Status)
}

func TestAShorterIntervalBeginsWhenTheLongerOneEnds(t *testing.T) {
	s := newShop(t, shopYAML)
	s.subscribe("ada", billing.Order{Plan: "starter", Interval: billing.Year})
	sub := s.change("ada", billing.Order{Plan: "starter", Interval: billing.Month})
	require.NotNil(t, sub.Scheduled)
	assert.Equal(t, time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC), sub.Scheduled.At)
	s.advance(367 * days)
	sub = s.sync("ada")
	assert.Equal(t, []string{"1 starter_month_usd"}, items(sub))
	assert.Equal(t, time.Date(2027, 4, 1, 0, 0, 0, 0, time.UTC), sub.Period.To)
	assert.Equal(t, int64(10_000+1_000), s.paid("ada"))
	// The other way it is at once, and what was paid is credited.
	sub = s.change("ada", billing.Order{Interval: billing.Year})
	assert.Equal(t, []string{"1 starter_year_usd"}, items(sub))
}

func TestRulesDecideInTheirOrder(t *testing.T) {
	s := newShop(t, shopYAML+`
  - {from: starter, to: pro, trial: false, when: now, proration: none}
  - {kind: downgrade, when: now}
`)
	s.subscribe("ada", billing.Order{Plan: "starter"})
	_, err := s.svc.Preview(t.Context(), "ada", billing.Order{Plan: "legacy"})
	var refused *billing.RefusedError
	require.ErrorAs(t, err, &refused)
	require.ErrorIs(t, err, billing.ErrRefused)
	require.ErrorIs(t, err, billing.ErrInvalid)
	assert.Equal(t, billing.RefusedError{From: "starter", To: "legacy", Kind: billing.Upgrade, Reason: "it is sold no more"}, *refused)
	_, err = s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "legacy"}, nil)
	require.ErrorIs(t, err, billing.ErrRefused)

	s.change("ada", billing.Order{Plan: "pro"})
	assert.Equal(t, int64(1_000), s.paid("ada"), "the rule doesn't prorate")
	s.advance(15 * days)
	s.change("ada", billing.Order{Plan: "starter"})
	assert.Equal(t, "starter", s.access("ada").Plan, "the rule lets it down at once")
}

func TestConfirmRefusesWhatHasChanged(t *testing.T) {
	s := newShop(t, shopYAML)
	s.subscribe("ada", billing.Order{Plan: "starter"})
	s.advance(days)
	p, err := s.svc.Preview(t.Context(), "ada", billing.Order{Plan: "pro"})
	require.NoError(t, err)
	assert.Equal(t, billing.Now, p.When)
	require.Len(t, p.Invoice.Lines, 2, "a credit and a charge")
	cheaper := p.Confirm
	cheaper.Due.Amount--
	_, err = s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "pro"}, &cheaper)
	var changed *billing.AmountChangedError
	require.ErrorAs(t, err, &changed)
	require.ErrorIs(t, err, billing.ErrAmountChanged)
	assert.Equal(t, p.Due, changed.Now)
	later := p.Confirm
	later.When = billing.PeriodEnd
	_, err = s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "pro"}, &later)
	require.ErrorIs(t, err, billing.ErrAmountChanged)
	require.ErrorContains(t, err, "it was to take effect period_end and takes effect now")
	old := p.Confirm
	old.At = old.At.Add(-2 * time.Hour)
	_, err = s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "pro"}, &old)
	require.ErrorIs(t, err, billing.ErrAmountChanged)
	_, err = s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "pro"}, &p.Confirm)
	require.NoError(t, err)
	assert.Equal(t, int64(1_000)+p.Due.Amount, s.paid("ada"))
}

func TestAddonsAndSeatsAreItemsBesideThePlan(t *testing.T) {
	s := newShop(t, shopYAML)
	ctx := t.Context()
	_, err := s.svc.Subscribe(ctx, "ada", billing.Order{Plan: "starter", Addons: map[string]int64{"storage": 6}})
	require.ErrorIs(t, err, billing.ErrInvalid)
	_, err = s.svc.Subscribe(ctx, "ada", billing.Order{Plan: "team", Addons: map[string]int64{"storage": 1}})
	require.ErrorContains(t, err, `add-on "storage" isn't sold beside plan "team"`)
	_, err = s.svc.Subscribe(ctx, "ada", billing.Order{Plan: "starter", Addons: map[string]int64{"nothing": 1}})
	require.ErrorContains(t, err, "have storage")

	sub := s.subscribe("ada", billing.Order{Plan: "starter", Addons: map[string]int64{"storage": 2}})
	assert.Equal(t, []string{"1 starter_month_usd", "2 addon_storage_month_usd"}, items(sub))
	d := s.access("ada")
	assert.Equal(t, map[string]int64{"storage": 2}, d.Addons)
	assert.True(t, d.Has("sso"))
	assert.Equal(t, "200/period", s.limit("ada", "documents"))
	assert.Equal(t, "50/minute", s.limit("ada", "requests"))
	assert.Equal(t, int64(1_600), s.paid("ada"))

	// Half of the period is left: half of the price, half of the quota.
	s.advance(15*days + 12*time.Hour)
	sub = s.change("ada", billing.Order{Addons: map[string]int64{"storage": 4}})
	assert.Equal(t, []string{"1 starter_month_usd", "4 addon_storage_month_usd"}, items(sub))
	assert.Equal(t, int64(1_900), s.paid("ada"))
	assert.Equal(t, "250/period", s.limit("ada", "documents"))
	p, err := s.svc.Preview(ctx, "ada", billing.Order{Addons: map[string]int64{"storage": 0}})
	require.NoError(t, err)
	assert.Equal(t, billing.Fewer, p.Kind)
	assert.Equal(t, billing.PeriodEnd, p.When)

	// A plan that can't have it lets it go; included seats cost nothing.
	sub = s.change("ada", billing.Order{Plan: "team", Seats: 5})
	assert.ElementsMatch(t, []string{"1 team_month_usd", "2 team_seat_month_usd"}, items(sub))
	assert.Equal(t, int64(5), s.access("ada").Quantity)
	sub = s.change("ada", billing.Order{Seats: 7})
	assert.ElementsMatch(t, []string{"1 team_month_usd", "4 team_seat_month_usd"}, items(sub))
	sub = s.change("ada", billing.Order{Seats: 3})
	require.NotNil(t, sub.Scheduled)
	s.advance(20 * days)
	assert.Equal(t, []string{"1 team_month_usd"}, items(s.sync("ada")))
	assert.Equal(t, int64(3), s.access("ada").Quantity)
	_, err = s.svc.ChangePlan(ctx, "ada", billing.Order{Seats: 21}, nil)
	require.ErrorIs(t, err, billing.ErrInvalid)
}

func TestMeteredUseIsBilledExactly(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		t.Run(fmt.Sprint("usage records ", legacy), func(t *testing.T) {
			s := newShop(t, "plans: [{id: free}]")
			var err error
			s.g, err = billingstripe.New(billingstripe.Config{SecretKey: stripesim.DefaultSecretKey, URL: s.sim.URL, Now: s.sim.Now, Retries: -1, UsageRecords: legacy})
			require.NoError(t, err)
			s.open(shopYAML)
			ctx, now := t.Context(), s.sim.Now
			s.subscribe("ada", billing.Order{Plan: "pro"})
			s.subscribe("bob", billing.Order{Plan: "starter"})

			var refused interface{ Retryable() bool }
			for name, report := range map[string]func() error{
				"no price": func() error { return s.svc.ReportUsage(ctx, "bob", "emails", "1", 1, now()) },
				"no meter": func() error { return s.svc.ReportUsage(ctx, "ada", "letters", "1", 1, now()) },
				"too old":  func() error { return s.svc.ReportUsage(ctx, "ada", "emails", "1", 1, now().Add(-36*days)) },
				"future":   func() error { return s.svc.ReportUsage(ctx, "ada", "emails", "1", 1, now().Add(6*time.Minute)) },
				"negative": func() error { return s.svc.ReportUsage(ctx, "ada", "emails", "1", -1, now()) },
				"no ID":    func() error { return s.svc.ReportUsage(ctx, "ada", "emails", "", 1, now()) },
			} {
				err := report()
				require.ErrorAs(t, err, &refused, name)
				assert.False(t, refused.Retryable(), name)
			}
			s.sim.Inject(stripesim.Fault{Kind: stripesim.Unavailable, Match: "POST /v1/*", Times: 1})
			err = s.svc.ReportUsage(ctx, "ada", "emails", "u0", 1001, now())
			require.ErrorAs(t, err, &refused)
			assert.True(t, refused.Retryable())
			s.sim.Inject(stripesim.Fault{Kind: stripesim.ResetAfter, Match: "POST /v1/*", Times: 2})
			err = s.svc.ReportUsage(ctx, "ada", "emails", "u0", 1001, now())
			require.ErrorIs(t, err, billing.ErrUnknownOutcome)
			for range 3 {
				require.NoError(t, s.svc.ReportUsage(ctx, "ada", "emails", "u0", 1001, shopStart), "the same use counts once")
			}
			s.advance(10 * days)
			require.NoError(t, s.svc.ReportUsage(ctx, "ada", "emails", "u1", 250, now()))
			n, err := s.svc.ReportedUsage(ctx, "ada", "emails", shopStart, now().Add(time.Hour))
			require.NoError(t, err)
			assert.Equal(t, int64(1251), n)

			s.advance(23 * days)
			s.sync("ada")
			// 1251 × 0.2 cents is 250.2 cents; then a period of 100 dollars.
			assert.Equal(t, int64(10_000+10_000+250), s.paid("ada"))
			april := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
			n, err = s.svc.ReportedUsage(ctx, "ada", "emails", april, april.AddDate(0, 1, 0))
			require.NoError(t, err)
			assert.Zero(t, n)
			n, err = s.svc.ReportedUsage(ctx, "ada", "emails", shopStart, april)
			require.NoError(t, err)
			assert.Equal(t, int64(1251), n)
			_, err = s.svc.ReportedUsage(ctx, "bob", "emails", shopStart, april)
			require.ErrorIs(t, err, billing.ErrNoSubscription)
		})
	}
}
