package billing

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// checker builds a catalogue and gathers what is wrong with it.
type checker struct {
	*Catalog
	errs []error
}

func (c *checker) bad(path, format string, args ...any) {
	c.errs = append(c.errs, &CatalogError{Path: path, Problem: fmt.Sprintf(format, args...)})
}

// NewCatalog checks a catalogue. The error joins a *CatalogError for each
// problem: duplicate IDs, a plan without a price that isn't the only one, two
// prices with one lookup key, an unknown feature, meter or plan, a limit that
// not every plan states, that is a rate here and a quota there, or that falls
// from one plan to the next, an add-on or a meter that has no price where a
// plan that it goes with has one, a version that is newer than its plan, a
// rule that can't ever decide.
func NewCatalog(spec CatalogSpec) (*Catalog, error) {
	c := &checker{Catalog: &Catalog{
		name: spec.Name, features: maps.Clone(spec.Features), meters: slices.Clone(spec.Meters), rules: slices.Clone(spec.Changes), def: -1,
		byID: map[string]int{}, addonByID: map[string]int{}, byKey: map[string]role{}, byPriceID: map[string]role{},
	}}
	c.addons = cloneEach(spec.Addons, (*Addon).unshare)
	c.coupons = cloneEach(spec.Coupons, func(c *Coupon) { c.Plans = slices.Clone(c.Plans) })
	if len(spec.Plans) == 0 {
		c.bad("plans", "a catalogue needs at least one plan")
	}
	c.checkMeters()
	for i, p := range spec.Plans {
		c.plans = append(c.plans, clonePlan(p))
		c.checkPlan(i)
	}
	c.checkLimits()
	for i := range c.addons {
		c.checkAddon(i)
	}
	c.checkCoupons()
	c.checkRules()
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return c.Catalog, nil
}

func (c *checker) checkPlan(i int) {
	p := &c.plans[i]
	at := fmt.Sprintf("plans[%d]", i)
	switch other, dup := c.byID[p.ID]; {
	case p.ID == "":
		c.bad(at, "a plan needs an id")
	case dup:
		c.bad(at+".id", "plan %q is plans[%d] already", p.ID, other)
	default:
		c.byID[p.ID] = i
	}
	if p.Name == "" {
		p.Name = p.ID
	}
	if p.TrialDays < 0 || p.TrialDays > 730 {
		c.bad(at+".trial_days", "want 0 to 730, got %d", p.TrialDays)
	}
	if len(p.Prices) == 0 {
		if c.def >= 0 {
			c.bad(at+".prices", "plan %q has no price, and %q is the one plan without prices (the default) already", p.ID, c.plans[c.def].ID)
		} else {
			c.def = i
		}
	}
	c.checkPrices(at, "plan "+p.ID, p.Prices, p.ID, role{kind: rolePlan, plan: i, version: max(p.Version, 1)})
	c.checkSeats(i)
	c.checkMetered(i)
	c.checkFeatures(at, p.Features)
	c.checkVersions(i)
}

func (c *checker) checkSeats(i int) {
	p, at := &c.plans[i], fmt.Sprintf("plans[%d].seats", i)
	s := p.Seats
	if s == nil {
		return
	}
	switch {
	case s.Minimum < 0 || s.Maximum < 0 || s.Maximum > 0 && s.Maximum < s.Minimum:
		c.bad(at, "want 0 ≤ minimum ≤ maximum, got %d and %d", s.Minimum, s.Maximum)
	case s.Included < 0 || s.Maximum > 0 && s.Included > s.Maximum:
		c.bad(at+".included", "want 0 to the maximum, got %d", s.Included)
	case len(s.Prices) > 0 && s.Included == 0:
		c.bad(at, "seats with a price of their own need a number that is included in the plan's price")
	case s.Included > 0 && len(s.Prices) == 0:
		c.bad(at+".included", "included seats need prices: those of a seat above them")
	}
	c.checkPrices(at, "a seat of plan "+p.ID, s.Prices, p.ID+"_seat", role{kind: roleSeat, plan: i, version: max(p.Version, 1)})
	if len(s.Prices) > 0 {
		c.covers(at+".prices", "its seat", p, func(have PlanPrice) bool { return slices.ContainsFunc(s.Prices, have.sameTerm) })
	}
}

func (c *checker) checkFeatures(at string, features []string) {
	for j, id := range features {
		if _, ok := c.features[id]; !ok {
			c.bad(fmt.Sprintf("%s.features[%d]", at, j), "feature %q is not among the catalogue's features (have %s)", id, names(c.features))
		}
		if slices.Index(features, id) != j {
			c.bad(fmt.Sprintf("%s.features[%d]", at, j), "feature %q is listed twice", id)
		}
	}
}

// checkPrices checks the prices of one thing; prefix begins their lookup keys.
func (c *checker) checkPrices(at, of string, prices []PlanPrice, prefix string, r role) {
	seen := map[string]bool{}
	for j := range prices {
		p := &prices[j]
		path := fmt.Sprintf("%s.prices[%d]", at, j)
		c.checkPrice(path, p, prefix, r)
		if what := p.term() + " in " + p.Amount.Currency; seen[what] {
			kind, name, _ := strings.Cut(of, " ")
			if kind == "plan" {
				of = fmt.Sprintf("plan %q", name)
			}
			c.bad(path, "%s has two prices for %s", of, what)
		} else {
			seen[what] = true
		}
	}
}

// checkPrice checks a price and gives it its lookup key; the prefix "-" gives
// it none.
func (c *checker) checkPrice(at string, price *PlanPrice, prefix string, r role) {
	if err := price.Amount.Validate(); err != nil {
		c.bad(at+".amount", "%s", strings.TrimPrefix(err.Error(), "billing: money: "))
	}
	if price.Amount.Amount < 0 {
		c.bad(at+".amount", "a price isn't negative")
	}
	if price.Interval.rank() == 0 {
		c.bad(at+".interval", "interval %q: want day, week, month or year", price.Interval)
	}
	if price.IntervalCount == 0 {
		price.IntervalCount = 1
	}
	if price.IntervalCount < 0 {
		c.bad(at+".interval_count", "want 1 or more, got %d", price.IntervalCount)
	}
	for _, id := range price.PriceIDs {
		if other, dup := c.byPriceID[id]; dup {
			c.bad(at+".price_ids", "price %q is of %s already", id, c.roleName(other))
		}
		c.byPriceID[id] = r
	}
	if prefix == "-" {
		return
	}
	if price.LookupKey == "" {
		every := string(price.Interval)
		if price.IntervalCount > 1 {
			every = fmt.Sprintf("%d%s", price.IntervalCount, price.Interval)
		}
		price.LookupKey = prefix + "_" + every + "_" + strings.ToLower(price.Amount.Currency)
	}
	if other, dup := c.byKey[price.LookupKey]; dup {
		c.bad(at+".lookup_key", "lookup key %q is a price of %s already", price.LookupKey, c.roleName(other))
	}
	c.byKey[price.LookupKey] = r
}

// covers demands a price for every currency and interval in which a plan is
// sold: all items of a subscription are billed together.
func (c *checker) covers(at, what string, p *Plan, has func(PlanPrice) bool) {
	for _, price := range p.Prices {
		if !has(price) {
			c.bad(at, "plan %q is sold every %s in %s, and %s has no price for that", p.ID, price.term(), price.Amount.Currency, what)
		}
	}
}

// term is "1 month".
func (p *PlanPrice) term() string {
	return fmt.Sprintf("%d %s", max(p.IntervalCount, 1), p.Interval)
}

// sameTerm reports whether both are for one currency and interval.
func (p PlanPrice) sameTerm(q PlanPrice) bool {
	return p.Amount.Currency == q.Amount.Currency && p.Interval == q.Interval && max(p.IntervalCount, 1) == max(q.IntervalCount, 1)
}

// checkLimits compares each plan's limits with those of the plan before it.
func (c *checker) checkLimits() {
	all := map[string]Limit{}
	for _, p := range c.plans {
		maps.Copy(all, p.Limits)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var before *Plan
		for i := range c.plans {
			p := &c.plans[i]
			at := fmt.Sprintf("plans[%d].limits", i)
			l, ok := p.Limits[name]
			if !ok {
				c.bad(at, "plan %q doesn't state limit %q, which other plans have", p.ID, name)
				continue
			}
			at += "." + name
			if l.N < 0 || l.Per < 0 {
				c.bad(at, "a limit isn't negative")
			}
			if before != nil {
				switch prev := before.Limits[name]; {
				case !l.sameKind(prev):
					c.bad(at, "%s is %s of plan %q and %s of plan %q: a limit is a rate or a quota in every plan", name, l, p.ID, prev, before.ID)
				case l.less(prev):
					c.bad(at, "%s falls from %s (%s) to %s (%s): plans are in the order of upgrade", name, prev, before.ID, l, p.ID)
				}
			}
			before = p
		}
	}
}
