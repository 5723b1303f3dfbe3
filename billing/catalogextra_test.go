package billing_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
)

const wholeYAML = `name: shop
features:
  api: API access
meters:
  - id: emails
    name: E-mails
plans:
  - id: free
    limits: {documents: 10/period}
  - id: pro
    version: 2
    limits:
      documents: 100/period
    seats:
      included: 3
      maximum: 9
      prices:
        - {amount: 5.00 USD, every: month}
    prices:
      - amount: 10.00 USD
        every: month
    metered:
      - meter: emails
        every: month
        tiers:
          - {up_to: 100, amount: 0 USD}
          - {amount: 0.002 USD}
    versions:
      - version: 1
        features: [api]
        limits: {documents: 200/period}
        prices:
          - {amount: 8.00 USD, every: month, price_ids: [price_old]}
  - id: team
    limits: {documents: 200/period}
    prices:
      - {amount: 20.00 USD, every: month}
addons:
  - id: storage
    plans: [pro]
    features: [api]
    limits: {documents: 50/period}
    prices:
      - {amount: 3.00 USD, every: month}
coupons:
  - id: SPRING
    off: 20%
    duration: 3 months
    plans: [pro]
    redeem_by: 2027-01-31
changes:
  - {from: pro, to: team, kind: upgrade, when: now, proration: none}
  - {kind: downgrade, when: period_end}
`

func TestTheWholeCatalogueIsRead(t *testing.T) {
	c := catalogFrom(t, wholeYAML)
	pro, err := c.Plan("pro")
	require.NoError(t, err)
	assert.Equal(t, "shop", c.Name())
	assert.Equal(t, []billing.Meter{{ID: "emails", Name: "E-mails", Event: "emails", Aggregate: billing.Sum}}, c.Meters())
	assert.Equal(t, "pro_seat_month_usd", pro.Seats.Prices[0].LookupKey)
	assert.Equal(t, []billing.MeteredPrice{{
		Meter: "emails", Currency: "USD", Interval: billing.Month, IntervalCount: 1, LookupKey: "pro_emails_month_usd",
		Tiers: []billing.Tier{{UpTo: 100, UnitAmount: "0"}, {UnitAmount: "0.2"}},
	}}, pro.Metered)
	old, err := c.Version("pro", 1)
	require.NoError(t, err)
	assert.Equal(t, []string{"api"}, old.Features)
	assert.Equal(t, "200/period", old.Limits["documents"].String())
	assert.Equal(t, int64(800), old.Prices[0].Amount.Amount)
	now, err := c.Version("pro", 0)
	require.NoError(t, err)
	assert.Equal(t, "100/period", now.Limits["documents"].String())
	_, err = c.Version("none", 1)
	require.ErrorIs(t, err, billing.ErrUnknownPlan)
	storage, err := c.Addon("storage")
	require.NoError(t, err)
	assert.Equal(t, "addon_storage_month_usd", storage.Prices[0].LookupKey)
	assert.Equal(t, int64(1), storage.Maximum)
	require.Len(t, c.Addons(), 1)
	assert.Equal(t, []billing.Coupon{{
		ID: "SPRING", Name: "SPRING", PercentOff: "20", Duration: billing.Repeating, Months: 3, Plans: []string{"pro"}, RedeemBy: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC),
	}}, c.Coupons())
	assert.Equal(t, billing.ChangeRule{From: "pro", To: "team", Kind: billing.Upgrade, When: billing.Now, Proration: "none"}, c.Rule("pro", "team", billing.Upgrade, false))
	assert.Equal(t, billing.PeriodEnd, c.Rule("pro", "pro", billing.Renew, false).When)
	assert.Equal(t, billing.Now, c.Rule("pro", "pro", billing.Fewer, true).When, "in a trial everything is at once")

	for id, want := range map[string]int64{"price_old": 1} {
		assert.Equal(t, want, c.VersionOf("pro", billing.Price{ID: id, UnitAmount: billing.Money{Amount: 800, Currency: "USD"}, Interval: billing.Month}))
	}
	assert.Equal(t, int64(2), c.VersionOf("pro", billing.Price{UnitAmount: billing.Money{Amount: 1000, Currency: "USD"}, Interval: billing.Month, IntervalCount: 1}))
	assert.Equal(t, int64(2), c.VersionOf("pro", billing.Price{UnitAmount: billing.Money{Amount: 1, Currency: "USD"}}))
	assert.Equal(t, int64(1), c.VersionOf("pro", billing.Price{Metadata: map[string]string{billing.MetadataPlan: "pro"}}))
	assert.Zero(t, c.VersionOf("none", billing.Price{}))
}

func TestEachContradictionHasItsLine(t *testing.T) {
	for name, test := range map[string]struct{ replace, with, want string }{
		"meter without ID":               {"  - id: emails\n", "  - id: \"\"\n", "plans.yaml:5: meters[0]: a meter needs an id"},
		"meter twice":                    {"    name: E-mails\n", "    name: E-mails\n  - id: emails\n", `plans.yaml:7: meters[1].id: meter "emails" is meters[0] already`},
		"event twice":                    {"    name: E-mails\n", "    name: E-mails\n  - {id: mails, event: emails}\n", `plans.yaml:7: meters[1].event: event "emails" is that of meters[0] already`},
		"aggregate":                      {"    name: E-mails\n", "    aggregate: mean\n", `plans.yaml:6: meters[0].aggregate: aggregate "mean": want sum or count`},
		"unknown meter":                  {"      - meter: emails", "      - meter: letters", `plans.yaml:23: plans[1].metered[0].meter: meter "letters" is not in the catalogue (have emails)`},
		"metered at another interval":    {"        every: month\n        tiers", "        every: year\n        tiers", `plans.yaml:23: plans[1].metered[0]: plan "pro" isn't sold every 1 year in USD`},
		"plan at another interval":       {"        every: month\n    metered", "        every: month\n      - {amount: 100.00 USD, every: year}\n    metered", `plan "pro" is sold every 1 year in USD, and meter "emails" has no price for that`},
		"seat at another interval":       {"        every: month\n    metered", "        every: month\n      - {amount: 100.00 USD, every: year}\n    metered", `plans.yaml:18: plans[1].seats.prices: plan "pro" is sold every 1 year in USD, and its seat has no price for that`},
		"add-on at another interval":     {"        every: month\n    metered", "        every: month\n      - {amount: 100.00 USD, every: year}\n    metered", `and add-on "storage" has no price for that`},
		"tiers without end":              {"          - {amount: 0.002 USD}\n", "", `plans.yaml:26: plans[1].metered[0].tiers[0].up_to: the last tier has no end`},
		"tiers that go back":             {"          - {amount: 0.002 USD}", "          - {up_to: 50, amount: 0.001 USD}\n          - {amount: 0.002 USD}", `plans.yaml:27: plans[1].metered[0].tiers[1].up_to: want more than 100`},
		"tiers of two currencies":        {"{amount: 0.002 USD}", "{amount: 0.002 EUR}", `plans.yaml:27: plans[1].metered[0].tiers[1].amount: the tiers of a price have one currency, not USD and EUR`},
		"amount and tiers":               {"        tiers:\n", "        amount: 1 USD\n        tiers:\n", `a metered price has either an amount or tiers`},
		"amount of too many digits":      {"{amount: 0.002 USD}", "{amount: 0.000000000000002 USD}", `too many digits`},
		"amount that is none":            {"{amount: 0.002 USD}", "{amount: 1e3 USD}", `plans.yaml:27: plans[1].metered[0].tiers[1].amount: amount "1e3 USD": no number`},
		"included seats without a price": {"      prices:\n        - {amount: 5.00 USD, every: month}\n", "", `plans.yaml:15: plans[1].seats.included: included seats need prices`},
		"seats' price without included":  {"      included: 3\n", "", `seats with a price of their own need a number that is included`},
		"more included than there are":   {"included: 3", "included: 12", `plans.yaml:15: plans[1].seats.included: want 0 to the maximum, got 12`},
		"version that is newer":          {"      - version: 1\n", "      - version: 2\n", `plans.yaml:29: plans[1].versions[0].version: version 2: want 1 to 1, less than the plan's own version`},
		"version twice":                  {"  - id: team\n", "      - version: 1\n  - id: team\n", `version 1 is there twice`},
		"negative version":               {"    version: 2\n", "    version: -2\n", `plans.yaml:11: plans[1].version: want 1 or more, got -2`},
		"version of a free plan":         {"  - id: free\n", "  - id: free\n    version: 2\n    versions: [{version: 1}]\n", `plan "free" has no price: nobody subscribed to a version of it`},
		"version's unknown limit":        {"limits: {documents: 200/period}\n        prices", "limits: {papers: 200/period}\n        prices", `plans.yaml:31: plans[1].versions[0].limits.papers: limit "papers" is not one of plan "pro" (have documents)`},
		"version's limit of other kind":  {"limits: {documents: 200/period}\n        prices", "limits: {documents: 200/minute}\n        prices", `documents is 200/minute in version 1 and 100/period now`},
		"version's unknown feature":      {"        features: [api]\n        limits", "        features: [sso]\n        limits", `plans.yaml:30: plans[1].versions[0].features[0]: feature "sso"`},
		"version's lookup key":           {"price_ids: [price_old]", "lookup_key: pro_old", `plans.yaml:33: plans[1].versions[0].prices[0].lookup_key: an older version has no lookup key`},
		"price ID twice":                 {"{amount: 20.00 USD, every: month}", "{amount: 20.00 USD, every: month, price_ids: [price_old]}", `price "price_old" is of plan "pro" already`},
		"add-on without ID":              {"  - id: storage\n", "  - id: \"\"\n", "addons[0]: an add-on needs an id"},
		"add-on of an unknown plan":      {"    plans: [pro]\n    features", "    plans: [plus]\n    features", `plans.yaml:40: addons[0].plans[0]: plan "plus" is not in the catalogue`},
		"add-on of the free plan":        {"    plans: [pro]\n    features", "    plans: [free]\n    features", `plan "free" has no price: nothing is sold beside it`},
		"add-on's unknown limit":         {"{documents: 50/period}", "{papers: 50/period}", `plans.yaml:42: addons[0].limits.papers: limit "papers" is not one of plan "pro"`},
		"add-on's limit of another unit": {"{documents: 50/period}", "{documents: 50/minute}", `50/minute can't be added to 100/period of plan "pro"`},
		"add-on without price":           {"    prices:\n      - {amount: 3.00 USD, every: month}\n", "", `add-on "storage" has no price`},
		"add-on's key is taken":          {"{amount: 3.00 USD, every: month}", "{amount: 3.00 USD, every: month, lookup_key: team_month_usd}", `lookup key "team_month_usd" is a price of plan "team" already`},
		"coupon's discount":              {"off: 20%", "off: a lot", `plans.yaml:47: coupons[0].off: off "a lot": want "20%" or "5.00 USD"`},
		"coupon of nothing":              {"off: 20%", "off: 0%", `plans.yaml:47: coupons[0].percent_off: percentage "0"`},
		"coupon of too much":             {"off: 20%", "off: 120%", `percentage "120"`},
		"coupon of years":                {"duration: 3 months", "duration: 3 years", `plans.yaml:48: coupons[0].duration: duration "3 years": want "once"`},
		"coupon of an unknown plan":      {"    plans: [pro]\n    redeem_by", "    plans: [plus]\n    redeem_by", `plans.yaml:49: coupons[0].plans[0]: plan "plus"`},
		"coupon until some day":          {"2027-01-31", "soon", `plans.yaml:50: coupons[0].redeem_by: redeem_by "soon": want a day`},
		"coupon's ID":                    {"id: SPRING", "id: 50 off!", `plans.yaml:46: coupons[0].id: coupon "50 off!"`},
		"coupon twice":                   {"changes:", "  - {id: SPRING, off: 5%}\nchanges:", `coupon "SPRING" is coupons[0] already`},
		"rule from an unknown plan":      {"{from: pro, to: team", "{from: plus, to: team", `plans.yaml:52: changes[0].from: plan "plus" is not in the catalogue`},
		"rule to the free plan":          {"to: team, kind: upgrade", "to: free", `changes[0].to: plan "free" has no price`},
		"rule of an unknown kind":        {"{kind: downgrade", "{kind: sideways", `plans.yaml:53: changes[1].kind: kind "sideways"`},
		"rule of an unknown time":        {"when: period_end", "when: later", `plans.yaml:53: changes[1].when: when "later"`},
		"rule's proration":               {"proration: none", "proration: some", `changes[0].proration: proration "some"`},
		"rule that prorates later":       {"when: now, proration: none", "when: period_end, proration: none", `only a change of now is prorated`},
		"rule against the order":         {"{from: pro, to: team, kind: upgrade", "{from: team, to: pro, kind: upgrade", `from "team" to "pro" is no upgrade`},
		"rule that never decides":        {"  - {kind: downgrade, when: period_end}", "  - {kind: downgrade, when: period_end}\n  - {from: team, kind: downgrade, when: now}", `plans.yaml:54: changes[2]: changes[1] decides about everything that this rule fits`},
		"unknown field":                  {"    redeem_by: 2027-01-31", "    redeemable: yes", `plans.yaml:50: `},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(wholeYAML, test.replace, test.with, 1)
			require.NotEqual(t, wholeYAML, text)
			_, err := billing.ParseCatalog("plans.yaml", []byte(text))
			require.ErrorIs(t, err, billing.ErrInvalid)
			require.ErrorContains(t, err, test.want)
		})
	}
}

// FuzzCatalog: whatever the file says, it is a catalogue that answers, or an
// error with a place.
func FuzzCatalog(f *testing.F) {
	for _, text := range []string{wholeYAML, shopYAML, versionsYAML, plansYAML, teamsYAML, "plans: [{id: a}]", "{", "plans:\n - id: &a x\n   name: *a\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := billing.ParseCatalog("f.yaml", data)
		if err != nil {
			var problem *billing.CatalogError
			if !errors.As(err, &problem) || problem.File != "f.yaml" || problem.Line < 1 {
				t.Fatalf("no place: %v", err)
			}
			return
		}
		for _, p := range c.Plans() {
			if _, err := c.Version(p.ID, 0); err != nil {
				t.Fatal(err)
			}
			for _, price := range p.Prices {
				s := billing.Subscription{Items: []billing.Item{{Price: billing.Price{LookupKey: price.LookupKey, UnitAmount: price.Amount, Interval: price.Interval}, Quantity: 1}}}
				if plan, ok := c.PlanOf(s); !ok || plan != p.ID {
					t.Fatalf("price %s of plan %q is of %q", price.LookupKey, p.ID, plan)
				}
			}
			for _, m := range p.Metered {
				if m.Cost(0) != 0 || m.Cost(1000) < 0 {
					t.Fatalf("meter %q costs %d", m.Meter, m.Cost(1000))
				}
			}
		}
	})
}

// TestTiersCostWhatTheirUnitsDo compares the price of a quantity with the sum
// over its units.
func TestTiersCostWhatTheirUnitsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := billing.MeteredPrice{}
		end, cents := int64(0), rapid.SliceOfN(rapid.Int64Range(0, 50), 1, 5).Draw(t, "cents")
		for i, c := range cents {
			tier := billing.Tier{UnitAmount: string(rune('0'+c/10)) + "." + string(rune('0'+c%10))}
			if i < len(cents)-1 {
				end += rapid.Int64Range(1, 40).Draw(t, "length")
				tier.UpTo = end
			}
			m.Tiers = append(m.Tiers, tier)
		}
		n, tenths := rapid.Int64Range(0, 300).Draw(t, "quantity"), int64(0)
		for unit := int64(1); unit <= n; unit++ {
			for i, tier := range m.Tiers {
				if tier.UpTo == 0 || unit <= tier.UpTo {
					tenths += cents[i]
					break
				}
			}
		}
		if got, want := m.Cost(n), (tenths+5)/10; got != want {
			t.Fatalf("%d cost %d, their units %d", n, got, want)
		}
	})
}
