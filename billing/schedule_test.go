package billing_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/billingtest"
	"github.com/kolekt/commerce/billing/stripesim"
)

// mortalTransport is the network of a process that dies.
type mortalTransport struct{ p *process }

func (m mortalTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return call(m.p, func() (*http.Response, error) { return http.DefaultTransport.RoundTrip(r) })
}

// mortal is a service whose store and network die at a step.
func (s *shop) mortal(p *process) *billing.Service {
	s.t.Helper()
	g, err := billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, URL: s.sim.URL, Now: s.sim.Now, Retries: -1, HTTPClient: &http.Client{Transport: mortalTransport{p}},
	})
	require.NoError(s.t, err)
	svc, err := billing.New(s.cat, mortalStore{shopStores[s.sim], p}, g, billing.Config{Now: s.sim.Now})
	require.NoError(s.t, err)
	return svc
}

func (s *shop) schedules(status string) int {
	s.t.Helper()
	n := 0
	for _, x := range (stripe{s.g, s.sim}).do(s.t, http.MethodGet, "/v1/subscription_schedules?limit=100", nil)["data"].([]any) {
		if x.(map[string]any)["status"] == status {
			n++
		}
	}
	return n
}

// TestADowngradeSurvivesDeathAnywhere lets the process die at each call of the
// store and of Stripe that scheduling and withdrawing a downgrade make, before
// and after the call has its effect.
func TestADowngradeSurvivesDeathAnywhere(t *testing.T) {
	steps := 0
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			p := &process{at: at, after: after}
			t.Run(fmt.Sprintf("step %d after %v", at, after), func(t *testing.T) {
				s := newShop(t, shopYAML)
				s.subscribe("ada", billing.Order{Plan: "pro"})
				svc := s.mortal(p)
				_, err := svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "starter"}, nil)
				if !p.died() {
					require.NoError(t, err)
					_, err = svc.KeepPlan(t.Context(), "ada")
					if !p.died() {
						require.NoError(t, err)
						return
					}
				}
				steps++
				// Another process takes up what was stored, and the customer
				// asks again.
				s.advance(5 * time.Minute)
				_, err = s.svc.ProcessPending(t.Context())
				require.NoError(t, err)
				a, err := s.svc.Account(t.Context(), "ada")
				require.NoError(t, err)
				require.Empty(t, a.Intents)
				require.NotNil(t, s.change("ada", billing.Order{Plan: "starter"}).Scheduled)
				assert.Equal(t, 1, s.schedules("active"))
				assert.LessOrEqual(t, s.schedules("released"), 1)
				s.advance(32 * days)
				assert.Equal(t, []string{"1 starter_month_usd"}, items(s.sync("ada")))
				assert.Equal(t, int64(10_000+1_000), s.paid("ada"))
			})
			if !p.died() {
				break
			}
		}
	}
	assert.Greater(t, steps, 30)
	t.Logf("%d deaths", steps)
}

// TestAScheduledChangeOfAnExpiredKey: an intent that nobody took up for a day
// is given up, and what Stripe has is what counts.
func TestAScheduledChangeOfAnExpiredKey(t *testing.T) {
	s := newShop(t, shopYAML)
	s.subscribe("ada", billing.Order{Plan: "pro"})
	s.sim.Inject(stripesim.Fault{Kind: stripesim.ResetAfter, Match: "POST /v1/subscription_schedules/*", Times: 2})
	_, err := s.svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "starter"}, nil)
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	s.advance(2 * days)
	_, err = s.svc.ProcessPending(t.Context())
	require.NoError(t, err)
	sub, err := s.svc.Subscription(t.Context(), "ada")
	require.NoError(t, err)
	require.NotNil(t, sub.Scheduled)
	assert.Equal(t, "starter", sub.Scheduled.Plan)
}

func TestAGatewayMayBeUnableToSchedule(t *testing.T) {
	c := newClock()
	catalog := catalogFrom(t, shopYAML)
	g := billingtest.NewGateway(catalog, c.Now)
	svc, err := billing.New(catalog, billingmem.New(), struct{ billing.Gateway }{g}, billing.Config{Now: c.Now})
	require.NoError(t, err)
	sub, err := svc.Subscribe(t.Context(), "ada", billing.Order{Plan: "pro"})
	require.NoError(t, err)
	require.NoError(t, g.PayFirst(sub.Subscription.ID))
	_, err = svc.Sync(t.Context(), "ada")
	require.NoError(t, err)
	_, err = svc.ChangePlan(t.Context(), "ada", billing.Order{Plan: "starter"}, nil)
	require.ErrorIs(t, err, billing.ErrUnsupported)
	require.ErrorIs(t, svc.ReportUsage(t.Context(), "ada", "emails", "1", 1, c.Now()), billing.ErrUnsupported)
	require.NoError(t, func() error { _, err := svc.KeepPlan(t.Context(), "ada"); return err }())
}

// TestTheFakeGatewaySchedulesToo keeps billingtest.Gateway with the contract.
func TestTheFakeGatewaySchedulesToo(t *testing.T) {
	c := newClock()
	catalog := catalogFrom(t, shopYAML)
	g := billingtest.NewGateway(catalog, c.Now)
	svc, err := billing.New(catalog, billingmem.New(), g, billing.Config{Now: c.Now})
	require.NoError(t, err)
	ctx := t.Context()
	first, err := svc.Subscribe(ctx, "ada", billing.Order{Plan: "pro", Addons: map[string]int64{"storage": 1}})
	require.NoError(t, err)
	require.NoError(t, g.PayFirst(first.Subscription.ID))
	_, err = svc.Sync(ctx, "ada")
	require.NoError(t, err)
	require.NoError(t, svc.ReportUsage(ctx, "ada", "emails", "1", 7, c.Now()))
	require.NoError(t, svc.ReportUsage(ctx, "ada", "emails", "1", 7, c.Now()))
	n, err := svc.ReportedUsage(ctx, "ada", "emails", c.Now().Add(-time.Hour), c.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, int64(7), n)

	g.LoseAnswers(1)
	_, err = svc.ChangePlan(ctx, "ada", billing.Order{Plan: "starter"}, nil)
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	sub, err := svc.ChangePlan(ctx, "ada", billing.Order{Plan: "starter"}, nil)
	require.NoError(t, err)
	require.Equal(t, "starter", sub.Scheduled.Plan)
	sub, err = svc.KeepPlan(ctx, "ada")
	require.NoError(t, err)
	require.Nil(t, sub.Scheduled)
	_, err = svc.ChangePlan(ctx, "ada", billing.Order{Plan: "starter", Addons: map[string]int64{"storage": 0}}, nil)
	require.NoError(t, err)
	c.Advance(29 * days)
	require.NoError(t, g.Renew(sub.ID, true))
	_, err = svc.Sync(ctx, "ada")
	require.NoError(t, err)
	sub, err = svc.Subscription(ctx, "ada")
	require.NoError(t, err)
	require.Nil(t, sub.Scheduled)
	require.Equal(t, []string{"1 starter_month_usd"}, items(sub))
}

// TestNoOrderOfChangesAllowsMoreThanWasPaid: in the shop a document costs ten
// cents in either plan, and six in an add-on. Whatever an account changes, and
// when, the quota of its period is never worth more than what it has paid for
// the period. The control, which gives the whole quota at once, is worth more.
func TestNoOrderOfChangesAllowsMoreThanWasPaid(t *testing.T) {
	worth := func(s *shop) (quota, paid float64) {
		d := s.access("ada")
		l, err := d.Limit("documents")
		require.NoError(s.t, err)
		return float64(l.N) * 6, float64(s.paid("ada"))
	}
	cycle := func(t *testing.T, steps []int, full bool) (over float64) {
		s := newShop(t, shopYAML, func(c *billing.Config) { c.Policy.FullQuotas = full })
		s.subscribe("ada", billing.Order{Plan: "starter"})
		for _, step := range steps {
			s.advance(time.Duration(step>>3) * time.Hour)
			orders := []billing.Order{
				{Plan: "pro"}, {Plan: "starter"}, {Addons: map[string]int64{"storage": 3}}, {Addons: map[string]int64{"storage": 0}},
				{Addons: map[string]int64{"storage": 1}}, {Plan: "pro", Addons: map[string]int64{"storage": 5}},
			}
			s.change("ada", orders[step&7%len(orders)])
			if s.sim.Now().After(shopStart.AddDate(0, 1, 0)) {
				break // another period: what was paid belongs to two
			}
			quota, paid := worth(s)
			over = max(over, quota-paid)
		}
		return over
	}
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 8*24*12), 1, 6).Draw(rt, "steps")
		over := cycle(t, steps, false)
		if over > 6*float64(len(steps)+1) { // each change rounds to a document and to a cent
			rt.Fatalf("the quota is worth %.0f cents more than was paid", over)
		}
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	var over float64
	for range 5 {
		over = max(over, cycle(t, []int{8*24*27 + rnd.IntN(24)*8}, true))
	}
	require.Greater(t, over, 1000.0, "the control must fail")
}

// TestAChangeBeforeTheRenewalIsKnown asks for less, and for more, when the
// period has ended and no webhook has told so.
func TestAChangeBeforeTheRenewalIsKnown(t *testing.T) {
	for _, to := range []string{"starter", "pro"} {
		s := newShop(t, shopYAML)
		s.subscribe("ada", billing.Order{Plan: map[string]string{"starter": "pro", "pro": "starter"}[to]})
		s.advance(35 * 24 * time.Hour)
		sub := s.change("ada", billing.Order{Plan: to})
		require.True(t, sub.Period.To.After(s.sim.Now()))
		if to == "starter" {
			require.Equal(t, sub.Period.To, sub.Scheduled.At)
		}
	}
}

const versionsYAML = `
features: {api: API access}
plans:
  - id: free
    limits: {documents: 10/period}
  - id: pro
    name: Pro
    version: 2
    limits: {documents: 500/period}
    seats: {maximum: 10}
    prices: [{amount: 20.00 USD, every: month}]
    versions:
      - version: 1
        features: [api]
        limits: {documents: 1000/period}
        prices: [{amount: 10.00 USD, every: month}]
  - id: business
    name: Business
    features: [api]
    limits: {documents: 2000/period}
    prices: [{amount: 50.00 USD, every: month}]
`

const versionOneYAML = `
features: {api: API access}
plans:
  - id: free
    limits: {documents: 10/period}
  - id: pro
    name: Pro
    features: [api]
    limits: {documents: 1000/period}
    seats: {maximum: 10}
    prices: [{amount: 10.00 USD, every: month}]
  - id: business
    name: Business
    features: [api]
    limits: {documents: 2000/period}
    prices: [{amount: 50.00 USD, every: month}]
`

func TestSubscribersKeepTheirVersionUntilTheyMove(t *testing.T) {
	s := newShop(t, versionOneYAML)
	s.subscribe("ada", billing.Order{Plan: "pro"})
	assert.Equal(t, "1000/period", s.limit("ada", "documents"))

	s.open(versionsYAML)
	// What was stored before the change names the lookup key that the new
	// price has now.
	assert.Equal(t, "1000/period", s.limit("ada", "documents"), "before anybody asks Stripe")
	s.sync("ada")
	s.subscribe("bob", billing.Order{Plan: "pro"})
	for account, want := range map[string]struct {
		version int64
		limit   string
		api     bool
	}{"ada": {1, "1000/period", true}, "bob": {2, "500/period", false}} {
		d := s.access(account)
		assert.Equal(t, "pro", d.Plan)
		assert.Equal(t, want.version, d.Version, account)
		assert.Equal(t, want.limit, s.limit(account, "documents"), account)
		assert.Equal(t, want.api, d.Has("api"), account)
		feed, err := s.svc.NewFeed(billing.FeedConfig{})
		require.NoError(t, err)
		n, _, _, err := feed.Quota(t.Context(), account, "documents")
		require.NoError(t, err)
		assert.Equal(t, want.limit, fmt.Sprint(n, "/period"), account)
		fed, err := feed.Access(t.Context(), account)
		require.NoError(t, err)
		assert.Equal(t, want.version, fed.Version)
		feed.Close()
	}
	assert.Equal(t, int64(2_000), s.paid("bob"))

	// Seats are of the old price.
	sub := s.change("ada", billing.Order{Seats: 2})
	assert.Equal(t, int64(1000), sub.Items[0].Price.UnitAmount.Amount)
	assert.Equal(t, int64(2), sub.Items[0].Quantity)
	_, err := s.svc.Preview(t.Context(), "ada", billing.Order{Plan: "pro"})
	require.ErrorIs(t, err, billing.ErrInvalid, "nothing changes")

	// The renewal costs what it did.
	s.advance(32 * days)
	s.sync("ada")
	assert.Equal(t, int64(1_000+1_000+2_000), s.paid("ada"))
	assert.Equal(t, "1000/period", s.limit("ada", "documents"))

	// Ada moves, when her period ends.
	p, err := s.svc.Preview(t.Context(), "ada", billing.Order{Current: true})
	require.NoError(t, err)
	assert.Equal(t, billing.Renew, p.Kind)
	assert.Equal(t, billing.PeriodEnd, p.When)
	s.change("ada", billing.Order{Current: true})
	s.advance(31 * days)
	s.sync("ada")
	assert.Equal(t, int64(2), s.access("ada").Version)
	assert.Equal(t, int64(2), s.access("ada").Quantity)
	assert.Equal(t, "500/period", s.limit("ada", "documents"))
}
