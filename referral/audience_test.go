package referral_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/referral"
)

func TestACampaignIsForItsAudience(t *testing.T) {
	ctx := context.Background()
	c := friends()
	c.Audience, c.Newcomers, c.NewFor = []string{"pro", "business"}, []string{"de"}, 7*day
	w := newWorld(t, c)
	_, err := w.service.Code(ctx, "friends", referral.Person{Account: "ada", Groups: []string{"free"}})
	require.ErrorIs(t, err, referral.ErrNotEligible)
	code, err := w.service.Code(ctx, "friends", referral.Person{Account: "ada", Groups: []string{"free", "pro"}})
	require.NoError(t, err)
	for name, p := range map[string]referral.Person{
		"no group":      {Account: "bob", Since: start},
		"another group": {Account: "bob", Since: start, Groups: []string{"fr"}},
		"an old one":    {Account: "bob", Since: start.Add(-7 * day), Groups: []string{"de"}},
		"of no age":     {Account: "bob", Groups: []string{"de"}},
	} {
		_, err := w.service.Redeem(ctx, code.Text, p)
		require.ErrorIs(t, err, referral.ErrNotEligible, name)
	}
	_, err = w.service.Redeem(ctx, code.Text, referral.Person{Account: "bob", Since: start.Add(time.Second - 7*day), Groups: []string{"de"}})
	require.NoError(t, err)
}

func TestScoresAddUpToAReviewWithTheirReasons(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	scorer := func(score int64, reason string) referral.Guard {
		return func(_ context.Context, _ referral.Code, p referral.Person) (referral.Verdict, error) {
			if p.Network == "" && reason == "busy network" {
				return referral.Verdict{}, nil
			}
			return referral.Verdict{Score: score, Reason: reason}, nil
		}
	}
	w.config.Guards = []referral.Guard{scorer(60, "disposable address"), scorer(40, "busy network")}
	w.rebuild()
	code := w.code("ada")
	r, err := w.service.Redeem(ctx, code, referral.Person{Account: "bob"})
	require.NoError(t, err)
	require.Equal(t, referral.RedemptionPending, r.State)
	require.Empty(t, r.Reasons)
	r, err = w.service.Redeem(ctx, code, referral.Person{Account: "eve", Network: "192.0.2.0"})
	require.NoError(t, err)
	require.Equal(t, referral.RedemptionReview, r.State)
	require.Equal(t, []string{"disposable address", "busy network"}, r.Reasons)
}

func TestSimulateReckonsWithCapsBudgetAndTiers(t *testing.T) {
	c := friends() // a free month and half of the first one, ten uses
	rates := referral.Rates{Referrers: 100, PerReferrer: 2000, Qualify: 500, Month: 1000, First: 800}
	require.Equal(t, referral.Forecast{Redemptions: 200, Qualified: 100, Cost: 100 * (1000 + 400), Most: 1000 * 1400}, c.Simulate(rates))
	rates.Refunded = 100
	require.Equal(t, int64(90*1000+100*400), c.Simulate(rates).Cost)
	rates.Refunded, rates.PerReferrer = 0, 50_000
	require.Equal(t, int64(1000), c.Simulate(rates).Redemptions, "ten uses of each code")
	c.Budget, c.Cost = 30_000, 1000
	require.Equal(t, referral.Forecast{Redemptions: 30, Qualified: 15, Cost: 15 * 1400, Most: 30 * 1400}, c.Simulate(rates))
	c.Budget, c.Cost, c.MaxUses = 0, 0, 0
	require.Equal(t, int64(-1), c.Simulate(rates).Most)
	rates.PerReferrer, rates.Qualify = 3000, 1000
	c.Tiers = []referral.Tier{{From: 3, Benefit: referral.Benefit{Credit: 5000, Currency: "USD"}}}
	require.Equal(t, int64(200*1000+100*5000+300*400), c.Simulate(rates).Cost)
	rates.Referrers = 0
	require.Zero(t, c.Simulate(rates).Cost)
}
