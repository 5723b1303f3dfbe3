package referral

import "math"

// Rates are what a campaign is expected to meet, in parts of a thousand, and
// what its benefits are worth.
type Rates struct {
	Referrers   int64 // accounts that share a code
	PerReferrer int64 // thousandths of a redemption that each brings: 1500 is one and a half
	Qualify     int64 // of a thousand redemptions
	Refunded    int64 // of a thousand qualified ones, wholly and before the reward is granted
	Month       int64 // the price of a referrer's month, minor units
	First       int64 // the price of a referee's month, minor units
}

// Forecast is what a campaign comes to, in minor units.
type Forecast struct {
	Redemptions int64 // accepted within the caps and the budget
	Qualified   int64
	Cost        int64 // of both sides' rewards
	// Most is the highest cost that the campaign's caps and budget let through
	// with that many referrers, however many redeem; -1 means that nothing
	// bounds it.
	Most int64
}

// Simulate says what a campaign is expected to cost within a year, before it is
// started. It reckons with its caps, budget and tiers, each referrer bringing
// as many as the others, and with PercentOff of the first months. Custom
// benefits cost nothing here.
func (c Campaign) Simulate(r Rates) Forecast {
	each := int64(math.MaxInt64) // redemptions of one referrer
	for _, most := range []int64{c.MaxUses, c.PerReferrer} {
		if most > 0 {
			each = min(each, most)
		}
	}
	all := int64(math.MaxInt64)
	if each < math.MaxInt64 {
		all = each * r.Referrers
	}
	if c.Budget > 0 {
		all = min(all, c.Budget/c.Cost)
	}
	f := Forecast{Most: -1}
	f.Redemptions = min(r.Referrers*r.PerReferrer/1000, all)
	f.Qualified = f.Redemptions * r.Qualify / 1000
	worth := func(b Benefit) int64 {
		return b.Credit + b.FreeMonths*r.Month + rounded(b.PercentOff*max(b.Months, 1)*r.First, 100)
	}
	// How the qualified are spread: evenly, so that the tiers count.
	referrers := max(r.Referrers, 1)
	for nth, left := int64(1), f.Qualified; left > 0; nth++ {
		n := min(left, referrers)
		if nth > c.lastTier() {
			n = left // from here on each brings the same
		}
		kept := n - n*r.Refunded/1000
		f.Cost += kept*worth(c.benefit(nth)) + n*worth(c.Referee)
		left -= n
	}
	if all == math.MaxInt64 {
		return f
	}
	f.Most = 0
	best := worth(c.Referrer)
	for _, t := range c.Tiers {
		best = max(best, worth(t.Benefit))
	}
	f.Most = all * (best + worth(c.Referee))
	return f
}

// lastTier is the number from which on the benefit stays the same.
func (c Campaign) lastTier() int64 {
	if n := len(c.Tiers); n > 0 {
		return c.Tiers[n-1].From
	}
	return 1
}
