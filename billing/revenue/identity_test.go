package revenue_test

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
)

// drawChanges draws the lives of a few customers, with several subscriptions,
// currencies, intervals, discounts and statuses.
func drawChanges(rt *rapid.T) []revenue.Change {
	statuses := []billing.Status{billing.StatusActive, billing.StatusActive, billing.StatusActive, billing.StatusTrialing, billing.StatusPastDue, billing.StatusUnpaid, billing.StatusCanceled, "new"}
	var changes []revenue.Change
	for i := range rapid.IntRange(0, 40).Draw(rt, "changes") {
		account := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "account")
		c := change(day(1).Add(time.Duration(rapid.IntRange(0, 1500).Draw(rt, "hour"))*time.Hour), account,
			rapid.SampledFrom(statuses).Draw(rt, "status"), rapid.SampledFrom([]string{"p", "q"}).Draw(rt, "plan"), rapid.Int64Range(0, 5000).Draw(rt, "amount"))
		c.Subscription.ID += rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "subscription")
		item := &c.Subscription.Items[0]
		item.Quantity = rapid.Int64Range(0, 3).Draw(rt, "quantity")
		item.Price.Interval = rapid.SampledFrom([]billing.Interval{billing.Day, billing.Week, billing.Month, billing.Year}).Draw(rt, "interval")
		item.Price.IntervalCount = rapid.Int64Range(1, 4).Draw(rt, "count")
		if rapid.IntRange(0, 3).Draw(rt, "second item?") == 0 {
			other := price("q", rapid.Int64Range(0, 900).Draw(rt, "other"), billing.Month)
			other.UnitAmount.Currency = rapid.SampledFrom([]string{"USD", "EUR"}).Draw(rt, "currency")
			c.Subscription.Items = append(c.Subscription.Items, billing.Item{Quantity: 1, Price: other})
		}
		if rapid.IntRange(0, 3).Draw(rt, "discount?") == 0 {
			d := billing.Discount{ID: fmt.Sprint(i), PercentOff: "25", Duration: rapid.SampledFrom([]string{"once", "repeating", "forever"}).Draw(rt, "duration")}
			d.Start = c.At.Add(time.Duration(rapid.IntRange(-500, 500).Draw(rt, "discount start")) * time.Hour)
			if d.Duration == "repeating" {
				d.End = d.Start.Add(time.Duration(rapid.IntRange(1, 1000).Draw(rt, "discount length")) * time.Hour)
			}
			if rapid.Bool().Draw(rt, "amount off?") {
				d.PercentOff, d.AmountOff = "", billing.Money{Amount: 300, Currency: "USD"}
			}
			c.Subscription.Discounts = []billing.Discount{d}
		}
		changes = append(changes, c)
	}
	return changes
}

func sum(figures ...revenue.Figure) *big.Rat {
	total := new(big.Rat)
	for _, f := range figures {
		total.Add(total, f.Exact)
	}
	return total
}

func same(rt *rapid.T, what string, a, b *big.Rat) {
	if a.Cmp(b) != 0 {
		rt.Fatalf("%s: %s is not %s", what, a.FloatString(6), b.FloatString(6))
	}
}

// TestIdentities holds what must be true of any history, by any convention, in
// any window.
func TestIdentities(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		changes := drawChanges(rt)
		config := revenue.Config{Convention: revenue.Convention{
			Discounts: rapid.SampledFrom([]revenue.DiscountRule{revenue.ForeverDiscounts, revenue.RunningDiscounts, revenue.NoDiscounts}).Draw(rt, "discounts"),
			Churn:     rapid.SampledFrom([]revenue.ChurnRule{revenue.ChurnOfAll, revenue.ChurnOfStart}).Draw(rt, "churn"),
			Group:     rapid.SampledFrom([]time.Duration{0, time.Hour, 200 * time.Hour}).Draw(rt, "group"),
		}}
		b, err := revenue.New(changes, nil, config)
		if err != nil {
			rt.Fatal(err)
		}
		selection := revenue.Selection{
			Currency: rapid.SampledFrom([]string{"USD", "EUR"}).Draw(rt, "currency"),
			Plan:     rapid.SampledFrom([]string{"", "p", "q"}).Draw(rt, "plan"),
		}
		from := day(1).Add(time.Duration(rapid.IntRange(-10, 1500).Draw(rt, "from")) * time.Hour)
		to := from.Add(time.Duration(rapid.IntRange(0, 800).Draw(rt, "length")) * time.Hour)
		mid := from.Add(to.Sub(from) / 2)
		r := b.Between(from, to, selection)

		same(rt, "opening and movements make closing",
			new(big.Rat).Sub(sum(r.Opening, r.New, r.Reactivation, r.Expansion), sum(r.Contraction, r.Churn)), r.Closing.Exact)
		same(rt, "closing is the MRR just before", r.Closing.Exact, b.AsOf(to.Add(-1), selection).MRR.Exact)
		same(rt, "the halves of a window join", b.Between(from, mid, selection).Closing.Exact, b.Between(mid, to, selection).Opening.Exact)
		all := new(big.Rat)
		for _, m := range b.Movements(time.Time{}, to, selection) {
			all.Add(all, m.Delta.Exact)
			parts := new(big.Rat)
			for _, p := range m.Delta.Parts {
				parts.Add(parts, p.Exact)
			}
			same(rt, "a movement's parts", parts, m.Delta.Exact)
		}
		same(rt, "all movements make MRR", all, r.Closing.Exact)

		for name, f := range map[string]revenue.Figure{"opening": r.Opening, "new": r.New, "reactivation": r.Reactivation, "expansion": r.Expansion, "contraction": r.Contraction, "churn": r.Churn, "closing": r.Closing} {
			if f.Exact.Sign() < 0 {
				rt.Fatalf("%s is negative", name)
			}
			parts := new(big.Rat)
			for _, p := range f.Parts {
				parts.Add(parts, p.Exact)
			}
			same(rt, name+"'s parts", parts, f.Exact)
		}
		if grr, ok := r.GRR.Value(); ok {
			nrr, _ := r.NRR.Value()
			if grr < 0 || grr > 1 || nrr < grr {
				rt.Fatalf("GRR %f, NRR %f", grr, nrr)
			}
		}
		if churn, ok := r.LogoChurn.Value(); ok && (churn < 0 || churn > 1) {
			rt.Fatalf("logo churn %f", churn)
		}
		if r.Involuntary.Exact.Cmp(r.Churn.Exact) > 0 || r.TrialsConverted.N > r.TrialsEnded.N || r.PastDueSaved.N > r.PastDueEntered.N {
			rt.Fatal("a part is more than its whole")
		}

		// A snapshot's parts.
		s := b.AsOf(to, selection)
		plans := new(big.Rat)
		for _, p := range s.Plans {
			plans.Add(plans, p.MRR.Exact)
		}
		same(rt, "the plans make MRR", plans, s.MRR.Exact)
		same(rt, "ARR", s.ARR.Exact, new(big.Rat).Mul(s.MRR.Exact, big.NewRat(12, 1)))
		if s.Committed.Exact.Cmp(s.MRR.Exact) > 0 || s.AtRisk.Exact.Cmp(s.MRR.Exact) > 0 {
			rt.Fatal("committed or at-risk MRR exceeds MRR")
		}
		cohorts := new(big.Rat)
		for _, c := range b.Cohorts(to, selection) {
			cohorts.Add(cohorts, c.Cells[len(c.Cells)-1].MRR.Exact)
			if c.Size.N == 0 {
				rt.Fatal("an empty cohort")
			}
		}
		same(rt, "the cohorts make MRR", cohorts, s.MRR.Exact)

		// The order in which changes are listed says nothing, unless they are
		// of one subscription at one instant.
		seen, distinct := map[string]bool{}, true
		for _, c := range changes {
			key := c.Subscription.ID + c.At.String()
			distinct = distinct && !seen[key]
			seen[key] = true
		}
		if distinct {
			reversed, err := revenue.New(reverse(changes), nil, config)
			if err != nil {
				rt.Fatal(err)
			}
			same(rt, "the order of the list", reversed.AsOf(to, selection).MRR.Exact, s.MRR.Exact)
		}
	})
}

func reverse(changes []revenue.Change) []revenue.Change {
	var reversed []revenue.Change
	for i := len(changes) - 1; i >= 0; i-- {
		reversed = append(reversed, changes[i])
	}
	return reversed
}
