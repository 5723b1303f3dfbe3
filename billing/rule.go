package billing

import (
	"fmt"
	"slices"
)

// ChangeKind is what a change does to a subscription, seen by what it costs
// and allows.
type ChangeKind string

// The kinds, in the order in which they are looked for: a change to another
// plan is an upgrade or a downgrade, whatever else it changes.
const (
	Upgrade   ChangeKind = "upgrade"   // to a higher plan
	Downgrade ChangeKind = "downgrade" // to a lower one
	Longer    ChangeKind = "longer"    // the same plan for a longer interval
	Shorter   ChangeKind = "shorter"   // … a shorter one
	Renew     ChangeKind = "renew"     // … in its current version and price
	More      ChangeKind = "more"      // seats or add-ons, of any of them
	Fewer     ChangeKind = "fewer"     // seats or add-ons
)

var changeKinds = []ChangeKind{Upgrade, Downgrade, Longer, Shorter, Renew, More, Fewer}

// When is when a change takes effect.
type When string

// The times of a change.
const (
	Now       When = "now"
	PeriodEnd When = "period_end" // it is scheduled at the gateway, and can be withdrawn
	Never     When = "never"      // it is refused
)

// ChangeRule decides about the changes that it fits: those for which each
// field that is set holds. The first rule that fits decides. Behind the
// catalogue's own come these: during a trial everything now; what costs more
// (Upgrade, Longer, More) now; what costs less (Downgrade, Shorter, Fewer) and
// Renew at the end of the period.
type ChangeRule struct {
	From string     // a plan; empty: any
	To   string     // a plan; empty: any
	Kind ChangeKind // empty: any
	// Trial, when set, fits only changes during a trial, or only those after.
	Trial *bool

	When When
	// Proration says how a change of Now is settled: "always_invoice" (the
	// default) at once, "create_prorations" with the next invoice, "none" not
	// at all.
	Proration string
	// Reason is told whom Never refuses.
	Reason string
}

// fits reports whether the rule decides about a change.
func (r *ChangeRule) fits(from, to string, kind ChangeKind, trial bool) bool {
	return (r.From == "" || r.From == from) && (r.To == "" || r.To == to) && (r.Kind == "" || r.Kind == kind) && (r.Trial == nil || *r.Trial == trial)
}

// covers reports whether the rule fits every change that another one fits.
func (r *ChangeRule) covers(other *ChangeRule) bool {
	return (r.From == "" || r.From == other.From) && (r.To == "" || r.To == other.To) && (r.Kind == "" || r.Kind == other.Kind) &&
		(r.Trial == nil || other.Trial != nil && *r.Trial == *other.Trial)
}

var inTrial = true

// defaultRules stand behind those of every catalogue.
var defaultRules = []ChangeRule{
	{Trial: &inTrial, When: Now},
	{Kind: Upgrade, When: Now}, {Kind: Longer, When: Now}, {Kind: More, When: Now},
	{When: PeriodEnd},
}

// Rule returns the rule that decides about a change.
func (c *Catalog) Rule(from, to string, kind ChangeKind, trial bool) ChangeRule {
	for _, rules := range [][]ChangeRule{c.rules, defaultRules} {
		for i := range rules {
			if rules[i].fits(from, to, kind, trial) {
				r := rules[i]
				if r.Proration == "" {
					r.Proration = "always_invoice"
				}
				return r
			}
		}
	}
	return ChangeRule{When: PeriodEnd} // the last default rule fits everything
}

func (c *checker) checkRules() {
	for i := range c.rules {
		r := &c.rules[i]
		at := fmt.Sprintf("changes[%d]", i)
		c.checkEnd(at+".from", r.From)
		c.checkEnd(at+".to", r.To)
		if r.Kind != "" && !slices.Contains(changeKinds, r.Kind) {
			c.bad(at+".kind", "kind %q: want one of %v", r.Kind, changeKinds)
		}
		switch r.When {
		case Now, PeriodEnd, Never:
		default:
			c.bad(at+".when", "when %q: want now, period_end or never", r.When)
		}
		switch r.Proration {
		case "", "always_invoice", "create_prorations", "none":
			if r.Proration != "" && r.When != Now {
				c.bad(at+".proration", "only a change of now is prorated")
			}
		default:
			c.bad(at+".proration", "proration %q: want always_invoice, create_prorations or none", r.Proration)
		}
		c.checkPair(at, r)
		for j := range i {
			if c.rules[j].covers(r) {
				c.bad(at, "changes[%d] decides about everything that this rule fits", j)
				break
			}
		}
	}
}

// checkEnd refuses a plan that no change begins or ends with.
func (c *checker) checkEnd(at, id string) {
	if p, ok := c.byID[id]; id != "" && !ok {
		c.bad(at, "plan %q is not in the catalogue", id)
	} else if id != "" && len(c.plans[p].Prices) == 0 {
		c.bad(at, "plan %q has no price: a subscription to it neither starts nor ends by a change", id)
	}
}

// checkPair refuses a rule whose plans contradict its kind.
func (c *checker) checkPair(at string, r *ChangeRule) {
	from, ok1 := c.byID[r.From]
	to, ok2 := c.byID[r.To]
	if !ok1 || !ok2 || r.Kind == "" {
		return
	}
	want := map[bool]ChangeKind{true: Upgrade, false: Downgrade}[to > from]
	if from != to && r.Kind != want || from == to && (r.Kind == Upgrade || r.Kind == Downgrade) {
		c.bad(at+".kind", "from %q to %q is no %s", r.From, r.To, r.Kind)
	}
}
