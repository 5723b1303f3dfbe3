package revenue

import (
	"math/big"
	"slices"
	"time"

	"github.com/kolekt/commerce/billing"
)

// DiscountRule says which discounts reduce MRR.
type DiscountRule int

const (
	// ForeverDiscounts counts coupons of duration "forever", as Stripe does
	// (support.stripe.com/questions/billing-analytics): what ends was never
	// recurring.
	ForeverDiscounts DiscountRule = iota
	// RunningDiscounts also counts those of duration "repeating" while they
	// run, as ChartMogul does (help.chartmogul.com 203299912): a start is a
	// contraction, an end an expansion. One-off discounts never count.
	RunningDiscounts
	// NoDiscounts takes prices as they are listed.
	NoDiscounts
)

// ChurnRule says how logo churn is counted.
type ChurnRule int

const (
	// ChurnOfAll is customers who left, of those there at the start and those
	// who came (support.stripe.com/questions/calculating-subscriber-churn-rate-in-billing).
	ChurnOfAll ChurnRule = iota
	// ChurnOfStart is customers there at the start and gone at the end, of
	// those there at the start.
	ChurnOfStart
	// ChurnByIntent is customers who asked for the end of a subscription, of
	// those there at the start, as Polar counts. It may exceed 100 %.
	ChurnByIntent
)

// Convention is where the sources differ. The zero value is Stripe's way.
type Convention struct {
	Discounts DiscountRule
	Churn     ChurnRule
	// ExcludePastDue takes subscriptions with an unpaid renewal out of MRR.
	ExcludePastDue bool
	// ExcludePaused takes subscriptions out of MRR while their invoices aren't
	// collected (pause_collection).
	ExcludePaused bool
	// Group nets the movements of a customer within this time of the first
	// into one: somebody who cancels and subscribes to another plan ten minutes
	// later has not left. ChartMogul takes an hour. Zero nets only what happens
	// at one instant.
	Group time.Duration
}

// ChartMogul is the convention of ChartMogul where it differs from Stripe's.
var ChartMogul = Convention{Discounts: RunningDiscounts, Churn: ChurnOfStart, Group: time.Hour}

// counted says in which of the figures a subscription of this status is.
type counted int

const (
	none counted = iota
	recurring
	atRisk // recurring as well
	trial
)

func (c Convention) counts(s *billing.Subscription) counted {
	if c.ExcludePaused && s.PauseCollection != "" {
		return none
	}
	switch s.Status {
	case billing.StatusActive:
		return recurring
	case billing.StatusPastDue:
		if c.ExcludePastDue {
			return none
		}
		return atRisk
	case billing.StatusTrialing:
		return trial
	}
	return none
}

// monthly returns what an amount per interval is per month: a twelfth of 365
// days, 52 weeks, 12 months or a year. Nil for an interval that isn't known and
// for one-off prices.
func monthly(amount *big.Rat, interval billing.Interval, count int64) *big.Rat {
	perYear := map[billing.Interval]int64{billing.Day: 365, billing.Week: 52, billing.Month: 12, billing.Year: 1}[interval]
	if perYear == 0 {
		return nil
	}
	return new(big.Rat).Mul(amount, big.NewRat(perYear, 12*max(count, 1)))
}

// itemMRR is what one item adds to the MRR of its subscription.
type itemMRR struct {
	plan     string
	currency string
	amount   *big.Rat
}

// MRR returns the monthly recurring revenue that a subscription stands for at
// an instant, after discounts, whatever its status: in minor units and by
// currency. Metered and one-off prices, and taxes, have no part in it.
func (c Convention) MRR(s billing.Subscription, at time.Time) map[string]*big.Rat {
	total := map[string]*big.Rat{}
	for _, item := range c.items(&s, at, func(billing.Price) string { return "" }) {
		if total[item.currency] == nil {
			total[item.currency] = new(big.Rat)
		}
		total[item.currency].Add(total[item.currency], item.amount)
	}
	return total
}

// items returns the MRR of each item after discounts.
func (c Convention) items(s *billing.Subscription, at time.Time, plan func(billing.Price) string) []itemMRR {
	type charge struct {
		price  billing.Price
		amount *big.Rat // per interval
	}
	var charges []charge
	for _, item := range s.Items {
		if item.Price.Metered || item.Price.Interval == "" || item.Quantity <= 0 {
			continue
		}
		amount := new(big.Rat).SetInt64(item.Price.UnitAmount.Amount)
		if exact, ok := new(big.Rat).SetString(item.Price.UnitAmountDecimal); ok && item.Price.UnitAmountDecimal != "" {
			amount = exact
		}
		charges = append(charges, charge{item.Price, amount.Mul(amount, new(big.Rat).SetInt64(item.Quantity))})
	}
	for _, d := range s.Discounts {
		if !c.reduces(d, at) {
			continue
		}
		if percent, ok := new(big.Rat).SetString(d.PercentOff); ok && d.PercentOff != "" {
			rest := new(big.Rat).Sub(big.NewRat(100, 1), percent)
			rest.Quo(rest, big.NewRat(100, 1))
			if rest.Sign() < 0 {
				rest.SetInt64(0)
			}
			for _, ch := range charges {
				ch.amount.Mul(ch.amount, rest)
			}
			continue
		}
		// An amount comes off the invoice once: each item bears its share.
		total := new(big.Rat)
		for _, ch := range charges {
			if ch.price.UnitAmount.Currency == d.AmountOff.Currency {
				total.Add(total, ch.amount)
			}
		}
		off := new(big.Rat).SetInt64(d.AmountOff.Amount)
		if total.Sign() <= 0 || off.Sign() <= 0 {
			continue
		}
		rest := new(big.Rat).Sub(total, off)
		if rest.Sign() < 0 {
			rest.SetInt64(0)
		}
		rest.Quo(rest, total)
		for _, ch := range charges {
			if ch.price.UnitAmount.Currency == d.AmountOff.Currency {
				ch.amount.Mul(ch.amount, rest)
			}
		}
	}
	var items []itemMRR
	for _, ch := range charges {
		if amount := monthly(ch.amount, ch.price.Interval, ch.price.IntervalCount); amount != nil && amount.Sign() != 0 {
			items = append(items, itemMRR{plan(ch.price), ch.price.UnitAmount.Currency, amount})
		}
	}
	return items
}

func (c Convention) reduces(d billing.Discount, at time.Time) bool {
	if at.Before(d.Start) || !d.End.IsZero() && !at.Before(d.End) {
		return false
	}
	switch c.Discounts {
	case ForeverDiscounts:
		return d.Duration == "forever"
	case RunningDiscounts:
		return d.Duration == "forever" || d.Duration == "repeating"
	case NoDiscounts:
	}
	return false
}

// turns returns the instants at which the MRR of an unchanged subscription
// changes by itself: when a discount starts or ends.
func (c Convention) turns(s *billing.Subscription, from, to time.Time) []time.Time {
	var turns []time.Time
	for _, d := range s.Discounts {
		for _, t := range []time.Time{d.Start, d.End} {
			if t.After(from) && (to.IsZero() || t.Before(to)) {
				turns = append(turns, t)
			}
		}
	}
	slices.SortFunc(turns, time.Time.Compare)
	return slices.CompactFunc(turns, time.Time.Equal)
}
