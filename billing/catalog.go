package billing

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The metadata names under which prices, products and subscriptions carry what
// they are of: a subscription stays on its plan, and on its version of it,
// after a newer price has taken its price's lookup key over.
const (
	MetadataPlan    = "commerce_plan"
	MetadataVersion = "commerce_version" // of the plan; absent: the first one
	MetadataAddon   = "commerce_addon"
	MetadataMeter   = "commerce_meter"   // beside the plan
	MetadataPart    = "commerce_part"    // beside the plan: "seat"
	MetadataCatalog = "commerce_catalog" // CatalogSpec.Name
)

// CatalogSpec is what a catalogue is made of.
type CatalogSpec struct {
	// Name tells the objects of this catalogue at the gateway from those of
	// another one in the same gateway account. Empty: there is no other one.
	Name string
	// Features are all features that a plan may have: the ID and the text to
	// show.
	Features map[string]string
	// Meters are what metered prices count.
	Meters []Meter
	// Plans are in the order of upgrade: each allows at least what the ones
	// before it allow.
	Plans []Plan
	// Addons are sold beside a plan.
	Addons []Addon
	// Coupons take something off.
	Coupons []Coupon
	// Changes are the rules by which a subscription changes; the first one
	// that fits decides. After them come the default ones: see ChangeRule.
	Changes []ChangeRule
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
	// Seats, when set, makes the plan cost by the number of seats.
	Seats *Seats `json:"seats,omitempty"`
	// Metered are prices of what is used, beside the plan's own price.
	Metered []MeteredPrice `json:"metered,omitempty"`
	// Version numbers what is sold under this ID: count it up when features,
	// limits or prices change and subscribers are to keep what they have.
	// 0 means 1.
	Version int64 `json:"version,omitempty"`
	// Versions are the older ones that still have subscribers.
	Versions []PlanVersion `json:"versions,omitempty"`
}

// Seats say how a plan costs by the number of seats. Without Prices the plan's
// own price is that of one seat. With Prices the plan's price is paid once and
// covers the included seats, and each seat above them costs one of Prices.
type Seats struct {
	Minimum  int64       `json:"minimum,omitempty"`  // at least this many are paid; 0 means 1, or Included
	Maximum  int64       `json:"maximum,omitempty"`  // 0: no bound
	Included int64       `json:"included,omitempty"` // in the plan's price; needs Prices
	Prices   []PlanPrice `json:"prices,omitempty"`   // of each seat above Included
}

// least is the smallest number of seats that is sold.
func (s *Seats) least() int64 { return max(s.Minimum, s.Included, 1) }

// PlanPrice is a price in one currency and interval: of a plan, a seat or an
// add-on.
type PlanPrice struct {
	Amount        Money    `json:"amount"` // of one seat and interval
	Interval      Interval `json:"interval"`
	IntervalCount int64    `json:"interval_count,omitempty"` // 0 means 1
	// LookupKey names the price at the gateway; empty means
	// "<plan>_<interval>_<currency>", such as "pro_month_usd", with "seat" or
	// the meter between, such as "pro_seat_month_usd", or
	// "addon_<id>_<interval>_<currency>".
	LookupKey string `json:"lookup_key"`
	// PriceIDs are older prices of the gateway that stay on this plan.
	PriceIDs []string `json:"price_ids,omitempty"`
}

// Catalog is a checked set of plans. It never changes and is safe for
// concurrent use.
type Catalog struct {
	name      string
	plans     []Plan
	terms     [][]Plan // of each plan, every version as a plan of its own, the oldest first
	features  map[string]string
	meters    []Meter
	addons    []Addon
	coupons   []Coupon
	rules     []ChangeRule
	byID      map[string]int
	addonByID map[string]int
	byKey     map[string]role // of lookup keys
	byPriceID map[string]role
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

// Name returns the catalogue's name; empty for the only one of its gateway
// account.
func (c *Catalog) Name() string { return c.name }

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
	return c.above(i, c.plans[i].Limits, limit, needed)
}

// above finds the first plan above another one that allows what is needed, and
// more than what there is.
func (c *Catalog) above(plan int, have map[string]Limit, limit string, needed int64) (Plan, bool) {
	now, ok := have[limit]
	if !ok {
		return Plan{}, false
	}
	for _, p := range c.plans[plan+1:] {
		if l := p.Limits[limit]; l.N >= needed && now.less(l) {
			return clonePlan(p), true
		}
	}
	return Plan{}, false
}

// rank orders the intervals by length; 0 is no interval.
func (i Interval) rank() int { return slices.Index([]Interval{Day, Week, Month, Year}, i) + 1 }

func clonePlan(p Plan) Plan {
	p.Prices = clonePrices(p.Prices)
	p.Features = slices.Clone(p.Features)
	p.Limits = maps.Clone(p.Limits)
	if p.Seats != nil {
		seats := *p.Seats
		seats.Prices = clonePrices(seats.Prices)
		p.Seats = &seats
	}
	p.Metered = cloneEach(p.Metered, func(m *MeteredPrice) { m.Tiers, m.PriceIDs = slices.Clone(m.Tiers), slices.Clone(m.PriceIDs) })
	p.Versions = cloneEach(p.Versions, func(v *PlanVersion) {
		v.Features, v.Limits, v.Prices = slices.Clone(v.Features), maps.Clone(v.Limits), clonePrices(v.Prices)
	})
	return p
}

func clonePrices(prices []PlanPrice) []PlanPrice {
	return cloneEach(prices, func(p *PlanPrice) { p.PriceIDs = slices.Clone(p.PriceIDs) })
}

func names[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
