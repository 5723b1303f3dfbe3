package billingstripe_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

func catalogOf(t *testing.T, plans ...billing.Plan) *billing.Catalog {
	t.Helper()
	catalog, err := billing.NewCatalog(billing.CatalogSpec{Plans: plans})
	require.NoError(t, err)
	return catalog
}

func monthly(amount int64, currency string) billing.PlanPrice {
	return billing.PlanPrice{Amount: billing.Money{Amount: amount, Currency: currency}, Interval: billing.Month}
}

func yearly(amount int64, currency string) billing.PlanPrice {
	return billing.PlanPrice{Amount: billing.Money{Amount: amount, Currency: currency}, Interval: billing.Year}
}

// before is a catalogue, and after one that differs from it in each way that
// there is.
func before(t *testing.T) *billing.Catalog {
	dearer := monthly(9999, "USD")
	dearer.LookupKey = "enterprise"
	return catalogOf(t,
		billing.Plan{ID: "free", Name: "Free"},
		billing.Plan{ID: "pro", Name: "Pro", Description: "For one", Prices: []billing.PlanPrice{monthly(999, "USD"), yearly(9990, "USD"), monthly(1500, "ISK")}},
		billing.Plan{ID: "business", Name: "Business", Prices: []billing.PlanPrice{monthly(2999, "USD"), monthly(2799, "EUR")}},
		billing.Plan{ID: "enterprise", Name: "Enterprise", Prices: []billing.PlanPrice{dearer}},
		billing.Plan{ID: "gone", Name: "Gone", Prices: []billing.PlanPrice{monthly(100, "USD")}},
	)
}

func after(t *testing.T) *billing.Catalog {
	quarterly := monthly(9999, "USD")
	quarterly.LookupKey, quarterly.IntervalCount = "enterprise", 3
	inEuro := monthly(2799, "GBP")
	inEuro.LookupKey = "business_month_eur"
	return catalogOf(t,
		billing.Plan{ID: "free", Name: "Free"},
		billing.Plan{ID: "pro", Name: "Professional", Description: "For one person", Prices: []billing.PlanPrice{monthly(1299, "USD"), yearly(9990, "USD"), monthly(1599, "EUR")}},
		billing.Plan{ID: "business", Name: "Business", Description: "For teams", Prices: []billing.PlanPrice{monthly(2999, "USD"), inEuro}},
		billing.Plan{ID: "enterprise", Name: "Enterprise", Prices: []billing.PlanPrice{quarterly}},
		billing.Plan{ID: "new", Name: "New", Prices: []billing.PlanPrice{monthly(19999, "USD"), yearly(199990, "USD")}},
	)
}

func empty(t *testing.T) (*billingstripe.Gateway, *stripesim.Server) {
	t.Helper()
	sim, err := stripesim.NewServer(stripesim.Config{Start: clock, Seed: 1})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sim.Close()) })
	return newGateway(t, func(c *billingstripe.Config) {
		c.SecretKey, c.URL, c.Retries = stripesim.DefaultSecretKey, sim.URL, -1
	}), sim
}

func apply(t *testing.T, g *billingstripe.Gateway, catalog *billing.Catalog) *billingstripe.Diff {
	t.Helper()
	diff, err := g.PlanCatalog(t.Context(), catalog)
	require.NoError(t, err)
	require.NoError(t, g.ApplyCatalog(t.Context(), diff, nil))
	return diff
}

func steps(diff *billingstripe.Diff) []string {
	var lines []string
	for _, s := range diff.Steps {
		line, _, _ := strings.Cut(s.String(), ":")
		name, _, _ := strings.Cut(line, " (")
		for _, c := range s.Changes {
			name += " " + strings.ReplaceAll(c.Field, " ", "-")
		}
		lines = append(lines, name)
	}
	return lines
}

func TestTheFirstCatalogueIsCreated(t *testing.T) {
	g, _ := empty(t)
	diff := apply(t, g, before(t))
	assert.Equal(t, []string{
		"+ product pro name description", "+ product business name", "+ product enterprise name", "+ product gone name",
		"+ price pro_month_usd amount interval", "+ price pro_year_usd amount interval", "+ price pro_month_isk amount interval",
		"+ price business_month_usd amount interval", "+ price business_month_eur amount interval", "+ price enterprise amount interval", "+ price gone_month_usd amount interval",
	}, steps(diff))
	assert.Contains(t, diff.String(), `+ price pro_month_usd: amount "$9.99", interval "month"`)
	assert.Contains(t, diff.String(), "11 to create, 0 to update, 0 to replace, 0 to archive.")

	prices, err := g.Prices(t.Context(), []string{"pro_month_usd", "pro_month_isk"})
	require.NoError(t, err)
	require.Len(t, prices, 2)
	assert.Equal(t, "commerce_pro", prices[0].ProductID)
	assert.Equal(t, billing.Money{Amount: 1500, Currency: "ISK"}, prices[1].UnitAmount, "in krónur, though Stripe counts hundredths")
	assert.Equal(t, "pro", prices[0].Metadata[billing.MetadataPlan])

	again, err := g.PlanCatalog(t.Context(), before(t))
	require.NoError(t, err)
	assert.Empty(t, again.Steps)
	assert.Equal(t, "Stripe has this catalogue.\n", again.String())
}

// TestEachDifferenceIsOneStep is a catalogue with every kind of difference.
func TestEachDifferenceIsOneStep(t *testing.T) {
	g, _ := empty(t)
	apply(t, g, before(t))
	old, err := g.Prices(t.Context(), []string{"pro_month_usd"})
	require.NoError(t, err)
	diff := apply(t, g, after(t))
	assert.Equal(t, []string{
		"~ product pro name description", "~ product business description", "+ product new name",
		"± price pro_month_usd amount", "+ price pro_month_eur amount interval",
		"± price business_month_eur amount currency", "± price enterprise interval",
		"+ price new_month_usd amount interval", "+ price new_year_usd amount interval",
		"- price pro_month_usd active", "- price business_month_eur active", "- price enterprise active",
		"- price gone_month_usd active", "- price pro_month_isk active", "- product gone active",
	}, order(steps(diff)))
	assert.Contains(t, diff.String(), `amount "$9.99" → "$12.99"`)

	prices, err := g.Prices(t.Context(), []string{"pro_month_usd", "pro_month_isk", "enterprise", "business_month_eur"})
	require.NoError(t, err)
	require.Len(t, prices, 3, "an archived price isn't sold")
	assert.Equal(t, int64(1299), prices[0].UnitAmount.Amount)
	assert.NotEqual(t, old[0].ID, prices[0].ID)
	assert.Equal(t, int64(3), prices[1].IntervalCount)
	assert.Equal(t, "GBP", prices[2].UnitAmount.Currency)

	again, err := g.PlanCatalog(t.Context(), after(t))
	require.NoError(t, err)
	assert.Empty(t, again.Steps, "twice changes nothing")

	// Back: what was archived is sold again, and what was replaced is replaced
	// again.
	back := apply(t, g, before(t))
	assert.Contains(t, steps(back), "~ product gone active")
	assert.Contains(t, steps(back), "~ price pro_month_isk active")
	assert.Contains(t, steps(back), "± price pro_month_usd amount")
	again, err = g.PlanCatalog(t.Context(), before(t))
	require.NoError(t, err)
	assert.Empty(t, again.Steps)
}

// order sorts the archived prices, which come in Stripe's order.
func order(lines []string) []string {
	first := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(s, "- price") })
	last := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(s, "- product") })
	rank := map[string]int{"pro_month_usd": 0, "business_month_eur": 1, "enterprise": 2, "gone_month_usd": 3, "pro_month_isk": 4}
	slices.SortFunc(lines[first:last], func(a, b string) int { return rank[strings.Fields(a)[2]] - rank[strings.Fields(b)[2]] })
	return lines
}

// TestACatalogueMadeByHandIsAdopted: its prices are known by their lookup keys.
func TestACatalogueMadeByHandIsAdopted(t *testing.T) {
	sim, err := stripesim.NewServer(stripesim.Config{Start: clock, Seed: 1, Products: []stripesim.Product{
		{ID: "prod_hand", Name: "Handmade", Prices: []stripesim.Price{{ID: "price_hand", LookupKey: "pro_month_usd", UnitAmount: 999}, {ID: "price_other", UnitAmount: 5}}},
		{ID: "prod_foreign", Name: "Somebody else's", Prices: []stripesim.Price{{ID: "price_foreign", LookupKey: "foreign", UnitAmount: 1}}},
	}})
	require.NoError(t, err)
	defer func() { assert.NoError(t, sim.Close()) }()
	g := newGateway(t, func(c *billingstripe.Config) {
		c.SecretKey, c.URL, c.Retries = stripesim.DefaultSecretKey, sim.URL, -1
	})
	diff := apply(t, g, catalogOf(t, billing.Plan{ID: "pro", Name: "Pro", Prices: []billing.PlanPrice{monthly(999, "USD")}}))
	assert.Equal(t, []string{"~ product pro name plan", "~ price pro_month_usd plan"}, steps(diff))
	// An old price keeps its plan when its lookup key goes.
	diff = apply(t, g, catalogOf(t, billing.Plan{ID: "pro", Name: "Pro", Prices: []billing.PlanPrice{monthly(1999, "USD")}}))
	assert.Equal(t, []string{"± price pro_month_usd amount", "- price pro_month_usd active"}, steps(diff))
	prices, err := g.Prices(t.Context(), []string{"pro_month_usd", "foreign"})
	require.NoError(t, err)
	require.Len(t, prices, 2)
	assert.Equal(t, int64(1999), prices[0].UnitAmount.Amount)
	assert.Equal(t, "prod_hand", prices[0].ProductID)
}

// TestTheDefaultPriceOfAProductIsMovedFirst: Stripe doesn't archive it.
func TestTheDefaultPriceOfAProductIsMovedFirst(t *testing.T) {
	g, sim := empty(t)
	both := billing.Plan{ID: "pro", Prices: []billing.PlanPrice{monthly(999, "USD"), yearly(9990, "USD")}}
	apply(t, g, catalogOf(t, both))
	makeDefault := func(key string) {
		t.Helper()
		prices, err := g.Prices(t.Context(), []string{key})
		require.NoError(t, err)
		body := strings.NewReader(url.Values{"default_price": {prices[0].ID}}.Encode())
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sim.URL+"/v1/products/commerce_pro", body)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
	settled := func(plan billing.Plan, want ...string) {
		t.Helper()
		assert.Equal(t, want, steps(apply(t, g, catalogOf(t, plan))))
		again, err := g.PlanCatalog(t.Context(), catalogOf(t, plan))
		require.NoError(t, err)
		assert.Empty(t, again.Steps)
	}
	makeDefault("pro_month_usd")
	both.Prices[0].Amount.Amount = 1099
	settled(both, "± price pro_month_usd amount", "~ product pro default-price", "- price pro_month_usd active")
	month := billing.Plan{ID: "pro", Prices: both.Prices[:1]}
	makeDefault("pro_year_usd")
	settled(month, "~ product pro default-price", "- price pro_year_usd active")
	settled(billing.Plan{ID: "other", Prices: []billing.PlanPrice{monthly(5, "USD")}},
		"+ product other name", "+ price other_month_usd amount interval", "~ product pro default-price", "- price pro_month_usd active", "- product pro active")
}

func TestPlansWithOldPriceIDsKeepThem(t *testing.T) {
	g, _ := empty(t)
	apply(t, g, catalogOf(t, billing.Plan{ID: "pro", Prices: []billing.PlanPrice{monthly(999, "USD"), yearly(9990, "USD")}}))
	prices, err := g.Prices(t.Context(), []string{"pro_year_usd"})
	require.NoError(t, err)
	month := monthly(999, "USD")
	month.PriceIDs = []string{prices[0].ID}
	diff, err := g.PlanCatalog(t.Context(), catalogOf(t, billing.Plan{ID: "pro", Prices: []billing.PlanPrice{month}}))
	require.NoError(t, err)
	assert.Empty(t, diff.Steps)
}

// TestAnInterruptedApplyResumes stops an apply after each of its steps, and
// loses the answer of each of its requests.
func TestAnInterruptedApplyResumes(t *testing.T) {
	stop := errors.New("stop")
	for _, lose := range []bool{false, true} {
		g, _ := empty(t)
		apply(t, g, before(t))
		want, err := g.PlanCatalog(t.Context(), after(t))
		require.NoError(t, err)
		for n := range want.Steps {
			g, sim := empty(t)
			apply(t, g, before(t))
			diff, err := g.PlanCatalog(t.Context(), after(t))
			require.NoError(t, err)
			ctx, cancel := context.WithCancelCause(t.Context())
			count := 0
			interrupt := func(billingstripe.Step) {
				if count++; count < n {
					return
				}
				if lose {
					sim.Inject(stripesim.Fault{Kind: stripesim.ResetAfter, Match: "POST /v1/*", Times: 2})
				} else {
					cancel(stop)
				}
			}
			if n == 0 {
				interrupt(billingstripe.Step{})
			}
			err = g.ApplyCatalog(ctx, diff, interrupt)
			if lose {
				require.ErrorIs(t, err, billing.ErrUnknownOutcome)
			} else {
				require.ErrorIs(t, err, stop)
			}
			sim.ClearFaults()
			require.NoError(t, g.ApplyCatalog(t.Context(), diff, nil), "step %d of %d", n, len(diff.Steps))
			again, err := g.PlanCatalog(t.Context(), after(t))
			require.NoError(t, err)
			require.Empty(t, again.Steps, "step %d", n)
			cancel(nil)
		}
	}
}

func TestAnApplyThatWasNotPlannedIsRefused(t *testing.T) {
	g, _ := empty(t)
	apply(t, g, before(t))
	diff, err := g.PlanCatalog(t.Context(), after(t))
	require.NoError(t, err)
	apply(t, g, catalogOf(t, billing.Plan{ID: "pro", Name: "Somebody was faster", Prices: []billing.PlanPrice{monthly(1, "USD")}}))
	err = g.ApplyCatalog(t.Context(), diff, func(s billingstripe.Step) { t.Errorf("did %s", s) })
	require.ErrorIs(t, err, billing.ErrConflict)
	require.ErrorIs(t, g.ApplyCatalog(t.Context(), &billingstripe.Diff{}, nil), billing.ErrInvalid)
}

// TestOddPricesAndPlans: tiers, parts of a cent and usage are never what a
// catalogue asks for, and a plan's ID may be any text.
func TestOddPricesAndPlans(t *testing.T) {
	sim, err := stripesim.NewServer(stripesim.Config{Start: clock, Seed: 1, Products: []stripesim.Product{
		{ID: "prod_odd", Name: "Odd", Prices: []stripesim.Price{
			{LookupKey: "cents", UnitAmountDecimal: "99.5"}, {LookupKey: "metered", UnitAmount: 100, Metered: true}, {LookupKey: "once", UnitAmount: 100, Interval: "once"},
		}},
		{ID: "prod_other", Name: "Other", Prices: []stripesim.Price{{LookupKey: "moves", UnitAmount: 100}}},
		{ID: "prod_bare", Name: "Bare"},
	}})
	require.NoError(t, err)
	defer func() { assert.NoError(t, sim.Close()) }()
	g := newGateway(t, func(c *billingstripe.Config) {
		c.SecretKey, c.URL, c.Retries = stripesim.DefaultSecretKey, sim.URL, -1
	})
	named := func(key string, currency string, interval billing.Interval) billing.PlanPrice {
		return billing.PlanPrice{Amount: billing.Money{Amount: 100, Currency: currency}, Interval: interval, LookupKey: key}
	}
	catalog := catalogOf(t, billing.Plan{ID: "Größe XL", Name: "XL", Prices: []billing.PlanPrice{
		named("cents", "USD", billing.Day), named("metered", "USD", billing.Week), named("once", "USD", billing.Month), named("moves", "USD", billing.Year),
	}}, billing.Plan{ID: "π", Name: "Pi", Prices: []billing.PlanPrice{named("pi", "USD", billing.Month)}})
	diff := apply(t, g, catalog)
	text := diff.String()
	assert.Contains(t, text, `amount "99.5 minor units" → "$1.00"`)
	assert.Contains(t, text, `metered "true" → "false"`)
	assert.Contains(t, text, `interval "once" → "month"`)
	assert.Contains(t, text, `product "prod_other" → "prod_odd"`)
	assert.Contains(t, text, `+ product π (commerce_`)
	assert.NotContains(t, text, "prod_bare")
	again, err := g.PlanCatalog(t.Context(), catalog)
	require.NoError(t, err)
	assert.Empty(t, again.Steps)
}

func TestAmountsThatStripeCannotCountAreRefused(t *testing.T) {
	g, _ := empty(t)
	_, err := g.PlanCatalog(t.Context(), catalogOf(t, billing.Plan{ID: "pro", Prices: []billing.PlanPrice{monthly(150, "MGA")}}))
	require.ErrorIs(t, err, billing.ErrMoney)
	require.ErrorContains(t, err, "pro_month_mga")
}
