package billing

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// Meter is something that is counted and paid for by use.
type Meter struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Event is the name under which the gateway counts it; empty means ID.
	Event string `json:"event"`
	// Aggregate says what of the reports of a period is paid for; empty means
	// Sum.
	Aggregate Aggregate `json:"aggregate"`
}

// Aggregate is how the reports of a period become a quantity.
type Aggregate string

// The aggregates that every version of Stripe's API has.
const (
	Sum   Aggregate = "sum"   // of the reported quantities
	Count Aggregate = "count" // of the reports
)

// MeteredPrice is what a unit of a meter costs beside a plan, in one currency
// and interval. It is billed when the period ends.
type MeteredPrice struct {
	Meter         string   `json:"meter"`
	Currency      string   `json:"currency"`
	Interval      Interval `json:"interval"`
	IntervalCount int64    `json:"interval_count,omitempty"` // 0 means 1
	// UnitAmount is the price of one unit in minor units of the currency, with
	// up to 12 decimals: "0.2" is a fifth of a cent.
	UnitAmount string `json:"unit_amount,omitempty"`
	// Tiers, instead of UnitAmount, price each unit by how many came before it
	// in the period.
	Tiers     []Tier   `json:"tiers,omitempty"`
	LookupKey string   `json:"lookup_key"` // empty means "<plan>_<meter>_<interval>_<currency>"
	PriceIDs  []string `json:"price_ids,omitempty"`
}

// Tier is the price of the units up to a number, from the end of the tier
// before.
type Tier struct {
	UpTo       int64  `json:"up_to,omitempty"` // 0: the last tier, without end
	UnitAmount string `json:"unit_amount"`     // as MeteredPrice.UnitAmount
}

// Meters returns the meters.
func (c *Catalog) Meters() []Meter { return slices.Clone(c.meters) }

func (c *Catalog) meter(id string) (*Meter, error) {
	have := make([]string, len(c.meters))
	for i := range c.meters {
		if c.meters[i].ID == id {
			return &c.meters[i], nil
		}
		have[i] = c.meters[i].ID
	}
	if len(have) == 0 {
		have = []string{"none"}
	}
	return nil, fmt.Errorf("%w: meter %q is not in the catalogue (have %s)", ErrUnknownMeter, id, strings.Join(have, ", "))
}

func (c *checker) checkMeters() {
	ids, events := map[string]int{}, map[string]int{}
	for i := range c.meters {
		m := &c.meters[i]
		at := fmt.Sprintf("meters[%d]", i)
		if m.Event == "" {
			m.Event = m.ID
		}
		if m.Name == "" {
			m.Name = m.ID
		}
		if m.Aggregate == "" {
			m.Aggregate = Sum
		}
		if other, dup := ids[m.ID]; dup {
			c.bad(at+".id", "meter %q is meters[%d] already", m.ID, other)
		} else if other, dup := events[m.Event]; dup {
			c.bad(at+".event", "event %q is that of meters[%d] already", m.Event, other)
		}
		ids[m.ID], events[m.Event] = i, i
		if m.ID == "" {
			c.bad(at, "a meter needs an id")
		}
		if len(m.Event) > 100 {
			c.bad(at+".event", "want up to 100 characters, got %d", len(m.Event))
		}
		if m.Aggregate != Sum && m.Aggregate != Count {
			c.bad(at+".aggregate", "aggregate %q: want sum or count", m.Aggregate)
		}
	}
}

var decimal = regexp.MustCompile(`^(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?$`)

// checkMetered checks the metered prices of a plan.
func (c *checker) checkMetered(i int) {
	p := &c.plans[i]
	seen := map[string]bool{}
	for j := range p.Metered {
		m := &p.Metered[j]
		at := fmt.Sprintf("plans[%d].metered[%d]", i, j)
		if _, err := c.meter(m.Meter); err != nil {
			c.bad(at+".meter", "%s", strings.TrimPrefix(err.Error(), ErrUnknownMeter.Error()+": "))
		}
		as := PlanPrice{Amount: Money{Currency: m.Currency}, Interval: m.Interval, IntervalCount: m.IntervalCount, LookupKey: m.LookupKey, PriceIDs: m.PriceIDs}
		c.checkPrice(at, &as, p.ID+"_"+m.Meter, role{kind: roleMeter, plan: i, version: p.Version, meter: m.Meter})
		m.IntervalCount, m.LookupKey = as.IntervalCount, as.LookupKey
		what := fmt.Sprintf("%s every %s in %s", m.Meter, as.term(), m.Currency)
		if seen[what] {
			c.bad(at, "plan %q has two prices for %s", p.ID, what)
		}
		seen[what] = true
		if !slices.ContainsFunc(p.Prices, as.sameTerm) {
			c.bad(at, "plan %q isn't sold every %s in %s", p.ID, as.term(), m.Currency)
		}
		c.checkTiers(at, m)
	}
	meters := map[string]bool{}
	for _, m := range p.Metered {
		if meters[m.Meter] {
			continue
		}
		meters[m.Meter] = true
		c.covers(fmt.Sprintf("plans[%d].metered", i), fmt.Sprintf("meter %q", m.Meter), p, func(have PlanPrice) bool {
			return slices.ContainsFunc(p.Metered, func(m2 MeteredPrice) bool { return m2.Meter == m.Meter && m2.at(have) })
		})
	}
}

func (c *checker) checkTiers(at string, m *MeteredPrice) {
	if (m.UnitAmount == "") == (len(m.Tiers) == 0) {
		c.bad(at, "a metered price has either an amount or tiers")
		return
	}
	if m.UnitAmount != "" {
		m.UnitAmount = c.checkDecimal(at+".amount", m.UnitAmount)
	}
	for k := range m.Tiers {
		t := &m.Tiers[k]
		at := fmt.Sprintf("%s.tiers[%d]", at, k)
		t.UnitAmount = c.checkDecimal(at+".amount", t.UnitAmount)
		last := k == len(m.Tiers)-1
		switch {
		case last && t.UpTo != 0:
			c.bad(at+".up_to", "the last tier has no end")
		case !last && t.UpTo < 1:
			c.bad(at+".up_to", "want 1 or more, got %d", t.UpTo)
		case !last && k > 0 && t.UpTo <= m.Tiers[k-1].UpTo:
			c.bad(at+".up_to", "want more than %d, the end of the tier before, got %d", m.Tiers[k-1].UpTo, t.UpTo)
		}
	}
}

// checkDecimal returns the amount without trailing zeros.
func (c *checker) checkDecimal(at, text string) string {
	if !decimal.MatchString(text) {
		c.bad(at, "amount %q: want minor units with up to 12 decimals, such as 0.2", text)
		return text
	}
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// at reports whether the price is for the currency and interval of another.
func (m *MeteredPrice) at(p PlanPrice) bool {
	return m.Currency == p.Amount.Currency && m.Interval == p.Interval && m.IntervalCount == p.IntervalCount
}

// Cost is what a quantity costs in a period, in minor units, rounded half away
// from zero once.
func (m *MeteredPrice) Cost(quantity int64) int64 {
	total, from := new(big.Rat), int64(0)
	add := func(n int64, unit string) {
		amount, ok := new(big.Rat).SetString(unit)
		if ok && n > 0 {
			total.Add(total, amount.Mul(amount, new(big.Rat).SetInt64(n)))
		}
	}
	if len(m.Tiers) == 0 {
		add(quantity, m.UnitAmount)
	}
	for _, t := range m.Tiers {
		to := quantity
		if t.UpTo > 0 {
			to = min(quantity, t.UpTo)
		}
		add(to-from, t.UnitAmount)
		from = max(from, to)
	}
	half := new(big.Rat).Add(total, big.NewRat(1, 2)) // quantities and amounts aren't negative
	return new(big.Int).Quo(half.Num(), half.Denom()).Int64()
}
