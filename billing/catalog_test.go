package billing_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
)

func TestCatalogFileSaysWhatIsWrongAndWhere(t *testing.T) {
	const good = `features:
  api: API access
plans:
  - id: free
    limits: {requests: 10/minute}
  - id: pro
    features: [api]
    limits:
      requests: 100/minute
    prices:
      - amount: 9.99 USD
        every: month
`
	_, err := billing.ParseCatalog("plans.yaml", []byte(good))
	require.NoError(t, err)
	for name, test := range map[string]struct{ replace, with, want string }{
		"unknown field":         {"limits:\n", "limitz:\n", `plans.yaml:8: `},
		"unknown field of plan": {"features: [api]", "colour: red", `plans.yaml:7: `},
		"repeated field":        {"        every: month", "        every: month\n        every: year", `plans.yaml:13: `},
		"wrong type":            {"features: [api]", "features: api", `plans.yaml:7: `},
		"syntax":                {"[api]", "[api", `plans.yaml:`},
		"duplicate ID":          {"id: pro", "id: free", `plans.yaml:6: plans[1].id: plan "free" is plans[0] already`},
		"missing ID":            {"id: pro", `id: ""`, `plans.yaml:6: plans[1]: a plan needs an id`},
		"missing price":         {"    prices:\n      - amount: 9.99 USD\n        every: month\n", "", `plan "pro" has no price, and "free" is the one plan without prices`},
		"unknown feature":       {"[api]", "[sso]", `plans.yaml:7: plans[1].features[0]: feature "sso" is not among the catalogue's features (have api)`},
		"repeated feature":      {"[api]", "[api, api]", `plans.yaml:7: plans[1].features[1]: feature "api" is listed twice`},
		"unreadable limit":      {"100/minute", "lots", `plans.yaml:9: plans[1].limits.requests: limit "lots": want "10/minute"`},
		"limit falls":           {"100/minute", "5/minute", `plans.yaml:9: plans[1].limits.requests: requests falls from 10/minute (free) to 5/minute (pro)`},
		"limit changes kind":    {"100/minute", "100/period", `plans.yaml:9: plans[1].limits.requests: requests is 100/period of plan "pro" and 10/minute of plan "free"`},
		"limit isn't stated":    {"requests: 100", "others: 100", `plan "pro" doesn't state limit "requests"`},
		"no currency":           {"9.99 USD", "9.99", `plans.yaml:11: plans[1].prices[0].amount: amount "9.99": no currency (want "9.99 USD")`},
		"unknown currency":      {"9.99 USD", "9.99 XQQ", `no ISO 4217 currency code`},
		"too many decimals":     {"9.99 USD", "9.999 USD", `USD has 2 decimals`},
		"decimals of yen":       {"9.99 USD", "9.99 JPY", `JPY has 0 decimals`},
		"negative amount":       {"9.99 USD", "-9.99 USD", `no number`},
		"unknown interval":      {"every: month", "every: fortnight", `plans.yaml:12: plans[1].prices[0].every: every "fortnight": want "day"`},
		"zero interval":         {"every: month", "every: 0 months", `want "day"`},
		"two prices for one":    {"        every: month", "        every: month\n      - {amount: 8.99 USD, every: month}", `plan "pro" has two prices for 1 month in USD`},
		"trial":                 {"features: [api]", "trial_days: -1", `plans.yaml:7: plans[1].trial_days: want 0 to 730`},
		"seats":                 {"features: [api]", "seats: {minimum: 5, maximum: 2}", `plans.yaml:7: plans[1].seats: want 0 ≤ minimum ≤ maximum`},
		"empty":                 {good, "plans: []\n", `a catalogue needs at least one plan`},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, test.replace, test.with, 1)
			require.NotEqual(t, good, text)
			c, err := billing.ParseCatalog("plans.yaml", []byte(text))
			require.Nil(t, c)
			require.ErrorIs(t, err, billing.ErrInvalid)
			require.ErrorContains(t, err, test.want)
			var problem *billing.CatalogError
			require.ErrorAs(t, err, &problem)
			require.Equal(t, "plans.yaml", problem.File)
			require.Positive(t, problem.Line)
		})
	}
}

func TestCatalogErrorsComeTogether(t *testing.T) {
	_, err := billing.ParseCatalog("plans.yaml", []byte(strings.ReplaceAll(strings.ReplaceAll(plansYAML, "[api]", "[none]"), "100/minute", "1/minute")))
	require.ErrorContains(t, err, `feature "none"`)
	require.ErrorContains(t, err, "falls from 10/minute")
}

func TestCatalogIsLoadedFromAFileSystem(t *testing.T) {
	files := fstest.MapFS{"config/plans.yaml": {Data: []byte(plansYAML)}}
	c, err := billing.LoadCatalog(files, "config/plans.yaml")
	require.NoError(t, err)
	require.Len(t, c.Plans(), 3)
	_, err = billing.LoadCatalog(files, "none.yaml")
	require.ErrorContains(t, err, "none.yaml")
}

func TestCatalogAnswers(t *testing.T) {
	c := plans(t)
	def, ok := c.Default()
	require.True(t, ok)
	require.Equal(t, "free", def.ID)
	text, ok := c.Feature("support")
	require.True(t, ok)
	require.Equal(t, "Priority support", text)

	price, err := c.Price("pro", "", "")
	require.NoError(t, err)
	require.Equal(t, billing.PlanPrice{Amount: billing.Money{Amount: 999, Currency: "USD"}, Interval: billing.Month, IntervalCount: 1, LookupKey: "pro_month_usd"}, price)
	price, err = c.Price("pro", "USD", billing.Year)
	require.NoError(t, err)
	require.Equal(t, int64(9990), price.Amount.Amount)
	_, err = c.Price("pro", "EUR", "")
	require.ErrorIs(t, err, billing.ErrUnknownPlan)
	require.ErrorContains(t, err, "pro_month_usd, pro_year_usd")

	up, ok := c.Upgrade("free", "requests", 101)
	require.True(t, ok)
	require.Equal(t, "business", up.ID)
	up, ok = c.Upgrade("free", "requests", 11)
	require.True(t, ok)
	require.Equal(t, "pro", up.ID)
	_, ok = c.Upgrade("business", "requests", 501)
	require.False(t, ok)
	_, ok = c.Upgrade("free", "unknown", 1)
	require.False(t, ok)
	_, ok = c.Upgrade("unknown", "requests", 1)
	require.False(t, ok)

	_, err = c.Limit("pro", "unknown")
	require.ErrorIs(t, err, billing.ErrUnknownLimit)
	require.ErrorContains(t, err, "have kolekts, requests")
	_, err = c.Limit("gold", "requests")
	require.ErrorIs(t, err, billing.ErrUnknownPlan)
}

func TestCatalogNeverChanges(t *testing.T) {
	c := plans(t)
	p, err := c.Plan("pro")
	require.NoError(t, err)
	p.Limits["requests"] = billing.Limit{N: 1}
	p.Prices[0].Amount.Amount = 1
	p.Features[0] = "x"
	again, err := c.Plan("pro")
	require.NoError(t, err)
	require.Equal(t, int64(100), again.Limits["requests"].N)
	require.Equal(t, int64(999), again.Prices[0].Amount.Amount)
	require.Equal(t, []string{"api"}, again.Features)
}

func TestPlanOfASubscriptionWithManyItems(t *testing.T) {
	c := plans(t)
	item := func(p billing.Price) billing.Item { return billing.Item{Price: p} }
	for name, test := range map[string]struct {
		sub  billing.Subscription
		want string
	}{
		"none":          {billing.Subscription{}, ""},
		"by lookup key": {billing.Subscription{Items: []billing.Item{item(billing.Price{LookupKey: "addon"}), item(billing.Price{LookupKey: "pro_year_usd"})}}, "pro"},
		"the highest":   {billing.Subscription{Items: []billing.Item{item(billing.Price{LookupKey: "business_month_usd"}), item(billing.Price{LookupKey: "pro_year_usd"})}}, "business"},
		"by metadata": {billing.Subscription{Items: []billing.Item{
			item(billing.Price{ID: "price_old", Metadata: map[string]string{billing.MetadataPlan: "pro"}}),
		}}, "pro"},
		"the subscription's metadata comes last": {billing.Subscription{
			Metadata: map[string]string{billing.MetadataPlan: "business"}, Items: []billing.Item{item(billing.Price{LookupKey: "pro_month_usd"})},
		}, "pro"},
		"the subscription's metadata alone":   {billing.Subscription{Metadata: map[string]string{billing.MetadataPlan: "business"}}, "business"},
		"nobody subscribes to the free plan":  {billing.Subscription{Metadata: map[string]string{billing.MetadataPlan: "free"}}, ""},
		"a plan that isn't there any more":    {billing.Subscription{Metadata: map[string]string{billing.MetadataPlan: "gold"}}, ""},
		"an empty lookup key is no plan's":    {billing.Subscription{Items: []billing.Item{item(billing.Price{ID: "price_x"})}}, ""},
		"a price of the future with its plan": {billing.Subscription{Items: []billing.Item{item(billing.Price{LookupKey: "pro_v2", Metadata: map[string]string{billing.MetadataPlan: "pro"}})}}, "pro"},
	} {
		got, ok := c.PlanOf(test.sub)
		require.Equal(t, test.want, got, name)
		require.Equal(t, test.want != "", ok, name)
	}
}

func TestOldPricesStayOnTheirPlan(t *testing.T) {
	c, err := billing.NewCatalog(billing.CatalogSpec{Plans: []billing.Plan{{ID: "pro", Prices: []billing.PlanPrice{{
		Amount: billing.Money{Amount: 1, Currency: "KWD"}, Interval: billing.Month, IntervalCount: 3, PriceIDs: []string{"price_2019"},
	}}}}})
	require.NoError(t, err)
	plan, ok := c.PlanOf(billing.Subscription{Items: []billing.Item{{Price: billing.Price{ID: "price_2019"}}}})
	require.True(t, ok)
	require.Equal(t, "pro", plan)
	p, err := c.Price("pro", "", "")
	require.NoError(t, err)
	require.Equal(t, "pro_3month_kwd", p.LookupKey)
	_, ok = c.Default()
	require.False(t, ok)
}

func TestLimitsReadWhatTheyWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := billing.Limit{
			N:   rapid.Int64Range(0, billing.Unlimited-1).Draw(t, "n"),
			Per: rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "per"),
		}
		if rapid.Bool().Draw(t, "unlimited") {
			l = billing.Limit{N: billing.Unlimited}
		}
		got, err := billing.ParseLimit(l.String())
		require.NoError(t, err)
		require.Equal(t, l, got)
	})
	for _, text := range []string{"", "10", "/minute", "10/", "-1/minute", "+1/minute", "1.5/minute", "10/week", "9223372036854775807/minute", "99999999999999999999/minute", " 10/minute", "Unlimited"} {
		_, err := billing.ParseLimit(text)
		require.ErrorIs(t, err, billing.ErrInvalid, text)
	}
}

func FuzzParseCatalog(f *testing.F) {
	f.Add([]byte(plansYAML))
	f.Add([]byte("plans: [{id: a, prices: [{amount: 1 JPY, every: 2 weeks}]}]"))
	f.Add([]byte("plans:\n- &a {id: x}\n- *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := billing.ParseCatalog("plans.yaml", data)
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v and %v", c, err)
		}
	})
}
