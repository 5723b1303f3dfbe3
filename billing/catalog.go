package billing

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// MetadataPlan is the metadata name under which prices and subscriptions carry
// their plan: a subscription stays on its plan after a newer price has taken
// its price's lookup key over.
const MetadataPlan = "commerce_plan"

// CatalogSpec is what a catalogue is made of.
type CatalogSpec struct {
	// Features are all features that a plan may have: the ID and the text to
	// show.
	Features map[string]string
	// Plans are in the order of upgrade: each allows at least what the ones
	// before it allow.
	Plans []Plan
}

// Plan is what an account may have: prices, features and limits.
type Plan struct {
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Description string      `json:"description,omitempty"`
	Prices      []PlanPrice `json:"prices,omitempty"` // none: the default plan, free
	Features    []string    `json:"features,omitempty"`
	// Limits by name. Each plan states each limit.
	Limits map[string]Limit `json:"limits,omitempty"`
	// TrialDays is the length of the trial that an account gets once; 0: none.
	TrialDays int64 `json:"trial_days,omitempty"`
	// Seats, when set, makes the price count for each seat.
	Seats *Seats `json:"seats,omitempty"`
}

// Seats are bounds on the quantity of a plan that is paid for each seat.
type Seats struct {
	Minimum int64 `json:"minimum,omitempty"` // at least this many are paid; 0 means 1
	Maximum int64 `json:"maximum,omitempty"` // 0: no bound
}

// PlanPrice is a plan's price in one currency and interval.
type PlanPrice struct {
	Amount        Money    `json:"amount"` // of one seat and interval
	Interval      Interval `json:"interval"`
	IntervalCount int64    `json:"interval_count,omitempty"` // 0 means 1
	// LookupKey names the price at the gateway; empty means
	// "<plan>_<interval>_<currency>", such as "pro_month_usd".
	LookupKey string `json:"lookup_key"`
	// PriceIDs are older prices of the gateway that stay on this plan.
	PriceIDs []string `json:"price_ids,omitempty"`
}

// Catalog is a checked set of plans. It never changes and is safe for
// concurrent use.
type Catalog struct {
	plans     []Plan
	features  map[string]string
	byID      map[string]int
	byKey     map[string]int // lookup key → plan
	byPriceID map[string]int
	def       int // the default plan, or -1
}

// CatalogError is one thing that is wrong with a catalogue.
type CatalogError struct {
	File    string // empty for one from Go
	Line    int    // 0 when unknown
	Path    string // "plans[1].limits.requests"
	Problem string
}

// Error says where and what: "billing: plans.yaml:12: plans[1].limits.requests: …".
func (e *CatalogError) Error() string {
	var b strings.Builder
	b.WriteString("billing: ")
	if e.File != "" {
		fmt.Fprintf(&b, "%s:%d: ", e.File, e.Line)
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	return b.String() + e.Problem
}

// Is makes every CatalogError an ErrInvalid.
func (e *CatalogError) Is(target error) bool { return target == ErrInvalid }

// NewCatalog checks a catalogue. The error joins a *CatalogError for each
// problem: duplicate IDs, a plan without a price that isn't the only one, two
// plans with one lookup key, an unknown feature, a limit that not every plan
// states, that is a rate here and a quota there, or that falls from one plan
// to the next.
func NewCatalog(spec CatalogSpec) (*Catalog, error) {
	c := &Catalog{
		features: maps.Clone(spec.Features), byID: map[string]int{}, byKey: map[string]int{}, byPriceID: map[string]int{}, def: -1,
	}
	var errs []error
	bad := func(path, format string, args ...any) {
		errs = append(errs, &CatalogError{Path: path, Problem: fmt.Sprintf(format, args...)})
	}
	if len(spec.Plans) == 0 {
		bad("plans", "a catalogue needs at least one plan")
	}
	for i, p := range spec.Plans {
		c.plans = append(c.plans, clonePlan(p))
		c.checkPlan(i, bad)
	}
	c.checkLimits(bad)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

func (c *Catalog) checkPlan(i int, bad func(path, format string, args ...any)) {
	p := &c.plans[i]
	at := fmt.Sprintf("plans[%d]", i)
	switch other, dup := c.byID[p.ID]; {
	case p.ID == "":
		bad(at, "a plan needs an id")
	case dup:
		bad(at+".id", "plan %q is plans[%d] already", p.ID, other)
	default:
		c.byID[p.ID] = i
	}
	if p.Name == "" {
		p.Name = p.ID
	}
	if p.TrialDays < 0 || p.TrialDays > 730 {
		bad(at+".trial_days", "want 0 to 730, got %d", p.TrialDays)
	}
	if s := p.Seats; s != nil && (s.Minimum < 0 || s.Maximum < 0 || s.Maximum > 0 && s.Maximum < s.Minimum) {
		bad(at+".seats", "want 0 ≤ minimum ≤ maximum, got %d and %d", s.Minimum, s.Maximum)
	}
	if len(p.Prices) == 0 {
		if c.def >= 0 {
			bad(at+".prices", "plan %q has no price, and %q is the one plan without prices (the default) already", p.ID, c.plans[c.def].ID)
		} else {
			c.def = i
		}
	}
	seen := map[string]bool{}
	for j := range p.Prices {
		c.checkPrice(i, j, seen, bad)
	}
	for j, id := range p.Features {
		if _, ok := c.features[id]; !ok {
			bad(fmt.Sprintf("%s.features[%d]", at, j), "feature %q is not among the catalogue's features (have %s)", id, names(c.features))
		}
		if slices.Index(p.Features, id) != j {
			bad(fmt.Sprintf("%s.features[%d]", at, j), "feature %q is listed twice", id)
		}
	}
}

func (c *Catalog) checkPrice(i, j int, seen map[string]bool, bad func(path, format string, args ...any)) {
	plan, price := &c.plans[i], &c.plans[i].Prices[j]
	at := fmt.Sprintf("plans[%d].prices[%d]", i, j)
	if err := price.Amount.Validate(); err != nil {
		bad(at+".amount", "%s", strings.TrimPrefix(err.Error(), "billing: money: "))
	}
	if price.Amount.Amount < 0 {
		bad(at+".amount", "a price isn't negative")
	}
	if price.Interval.rank() == 0 {
		bad(at+".interval", "interval %q: want day, week, month or year", price.Interval)
	}
	if price.IntervalCount == 0 {
		price.IntervalCount = 1
	}
	if price.IntervalCount < 0 {
		bad(at+".interval_count", "want 1 or more, got %d", price.IntervalCount)
	}
	what := fmt.Sprintf("%d %s in %s", price.IntervalCount, price.Interval, price.Amount.Currency)
	if seen[what] {
		bad(at, "plan %q has two prices for %s", plan.ID, what)
	}
	seen[what] = true
	if price.LookupKey == "" {
		price.LookupKey = plan.ID + "_" + string(price.Interval) + "_" + strings.ToLower(price.Amount.Currency)
		if price.IntervalCount > 1 {
			price.LookupKey = fmt.Sprintf("%s_%d%s_%s", plan.ID, price.IntervalCount, price.Interval, strings.ToLower(price.Amount.Currency))
		}
	}
	if other, dup := c.byKey[price.LookupKey]; dup {
		bad(at+".lookup_key", "lookup key %q is a price of plan %q already", price.LookupKey, c.plans[other].ID)
	}
	c.byKey[price.LookupKey] = i
	for _, id := range price.PriceIDs {
		if other, dup := c.byPriceID[id]; dup {
			bad(at+".price_ids", "price %q is of plan %q already", id, c.plans[other].ID)
		}
		c.byPriceID[id] = i
	}
}

// checkLimits compares each plan's limits with those of the plan before it.
func (c *Catalog) checkLimits(bad func(path, format string, args ...any)) {
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
				bad(at, "plan %q doesn't state limit %q, which other plans have", p.ID, name)
				continue
			}
			at += "." + name
			if l.N < 0 || l.Per < 0 {
				bad(at, "a limit isn't negative")
			}
			if before != nil {
				switch prev := before.Limits[name]; {
				case !l.sameKind(prev):
					bad(at, "%s is %s of plan %q and %s of plan %q: a limit is a rate or a quota in every plan", name, l, p.ID, prev, before.ID)
				case l.less(prev):
					bad(at, "%s falls from %s (%s) to %s (%s): plans are in the order of upgrade", name, prev, before.ID, l, p.ID)
				}
			}
			before = p
		}
	}
}

// Plans returns the plans in the order of upgrade.
func (c *Catalog) Plans() []Plan {
	plans := make([]Plan, len(c.plans))
	for i, p := range c.plans {
		plans[i] = clonePlan(p)
	}
	return plans
}

// Plan returns a plan; one that doesn't exist is ErrUnknownPlan.
func (c *Catalog) Plan(id string) (Plan, error) {
	p, err := c.plan(id)
	if err != nil {
		return Plan{}, err
	}
	return clonePlan(*p), nil
}

func (c *Catalog) plan(id string) (*Plan, error) {
	if i, ok := c.byID[id]; ok {
		return &c.plans[i], nil
	}
	have := make([]string, len(c.plans))
	for i, p := range c.plans {
		have[i] = p.ID
	}
	return nil, fmt.Errorf("%w: plan %q is not in the catalogue (have %s)", ErrUnknownPlan, id, strings.Join(have, ", "))
}

// Default returns the plan without prices: that of accounts without a
// subscription. A catalogue may have none.
func (c *Catalog) Default() (Plan, bool) {
	if c.def < 0 {
		return Plan{}, false
	}
	return clonePlan(c.plans[c.def]), true
}

// Feature returns the text of a feature.
func (c *Catalog) Feature(id string) (text string, ok bool) {
	text, ok = c.features[id]
	return text, ok
}

// Price returns a plan's price. An empty currency or interval takes the
// plan's first price that fits the rest.
func (c *Catalog) Price(plan, currency string, interval Interval) (PlanPrice, error) {
	p, err := c.plan(plan)
	if err != nil {
		return PlanPrice{}, err
	}
	var have []string
	for _, price := range p.Prices {
		if (currency == "" || price.Amount.Currency == currency) && (interval == "" || price.Interval == interval) {
			price.PriceIDs = slices.Clone(price.PriceIDs)
			return price, nil
		}
		have = append(have, price.LookupKey)
	}
	if len(have) == 0 {
		return PlanPrice{}, fmt.Errorf("%w: plan %q has no price: it is free and needs no subscription", ErrUnknownPlan, plan)
	}
	return PlanPrice{}, fmt.Errorf("%w: plan %q has no price for currency %q and interval %q (have %s)", ErrUnknownPlan, plan, currency, interval, strings.Join(have, ", "))
}

// Limit returns a plan's limit. A name that the catalogue doesn't have is
// ErrUnknownLimit.
func (c *Catalog) Limit(plan, name string) (Limit, error) {
	p, err := c.plan(plan)
	if err != nil {
		return Limit{}, err
	}
	return p.limit(name)
}

func (p *Plan) limit(name string) (Limit, error) {
	if l, ok := p.Limits[name]; ok {
		return l, nil
	}
	return Limit{}, fmt.Errorf("%w: limit %q is not in the catalogue (have %s)", ErrUnknownLimit, name, names(p.Limits))
}

// Upgrade returns the first plan above the given one whose limit is at least
// what is needed and more than the given plan's. It reports false when there
// is none, or no such plan or limit.
func (c *Catalog) Upgrade(plan, limit string, needed int64) (Plan, bool) {
	i, ok := c.byID[plan]
	if !ok {
		return Plan{}, false
	}
	have, ok := c.plans[i].Limits[limit]
	if !ok {
		return Plan{}, false
	}
	for _, p := range c.plans[i+1:] {
		if l := p.Limits[limit]; l.N >= needed && have.less(l) {
			return clonePlan(p), true
		}
	}
	return Plan{}, false
}

// PlanOf returns the plan of a subscription: the highest one among its items,
// each known by its price's lookup key, the price's ID, or the price's
// metadata; else the one that the subscription's own metadata names.
func (c *Catalog) PlanOf(s Subscription) (plan string, ok bool) {
	i, _ := c.planOf(&s)
	if i < 0 {
		return "", false
	}
	return c.plans[i].ID, true
}

// planOf returns the index of the subscription's plan and its item, or -1 for
// either.
func (c *Catalog) planOf(s *Subscription) (plan, item int) {
	plan, item = -1, -1
	for j := range s.Items {
		if i := c.planOfPrice(&s.Items[j].Price); i > plan {
			plan, item = i, j
		}
	}
	if plan < 0 {
		if i, ok := c.byID[s.Metadata[MetadataPlan]]; ok && i != c.def {
			plan = i
		}
	}
	return plan, item
}

func (c *Catalog) planOfPrice(p *Price) int {
	if i, ok := c.byKey[p.LookupKey]; ok && p.LookupKey != "" {
		return i
	}
	if i, ok := c.byPriceID[p.ID]; ok {
		return i
	}
	if i, ok := c.byID[p.Metadata[MetadataPlan]]; ok && i != c.def {
		return i
	}
	return -1
}

// rank orders the intervals by length; 0 is no interval.
func (i Interval) rank() int { return slices.Index([]Interval{Day, Week, Month, Year}, i) + 1 }

func clonePlan(p Plan) Plan {
	p.Prices = slices.Clone(p.Prices)
	for i := range p.Prices {
		p.Prices[i].PriceIDs = slices.Clone(p.Prices[i].PriceIDs)
	}
	p.Features = slices.Clone(p.Features)
	p.Limits = maps.Clone(p.Limits)
	if p.Seats != nil {
		seats := *p.Seats
		p.Seats = &seats
	}
	return p
}

func names[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
