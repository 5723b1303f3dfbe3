package billing

import (
	"fmt"
	"maps"
	"slices"
)

// Addon is an extra that is sold beside a plan, once or several times.
type Addon struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Plans are those that it is sold beside; none: every plan with a price.
	Plans    []string `json:"plans,omitempty"`
	Features []string `json:"features,omitempty"`
	// Limits are added to the plan's, once for each.
	Limits map[string]Limit `json:"limits,omitempty"`
	// Maximum is how many an account may have; 0 means 1, negative: any
	// number.
	Maximum int64 `json:"maximum,omitempty"`
	// Prices has one for every currency and interval of the plans.
	Prices []PlanPrice `json:"prices"`
}

// Addons returns the add-ons.
func (c *Catalog) Addons() []Addon { return cloneEach(c.addons, (*Addon).unshare) }

// Addon returns an add-on; one that doesn't exist is ErrUnknownPlan.
func (c *Catalog) Addon(id string) (Addon, error) {
	a, err := c.addon(id)
	if err != nil {
		return Addon{}, err
	}
	copied := *a
	copied.unshare()
	return copied, nil
}

func (c *Catalog) addon(id string) (*Addon, error) {
	if i, ok := c.addonByID[id]; ok {
		return &c.addons[i], nil
	}
	return nil, fmt.Errorf("%w: add-on %q is not in the catalogue (have %s)", ErrUnknownPlan, id, names(c.addonByID))
}

func (a *Addon) unshare() {
	a.Plans, a.Features, a.Limits, a.Prices = slices.Clone(a.Plans), slices.Clone(a.Features), maps.Clone(a.Limits), clonePrices(a.Prices)
}

// beside reports whether the add-on is sold beside a plan.
func (a *Addon) beside(p *Plan) bool {
	return len(p.Prices) > 0 && (len(a.Plans) == 0 || slices.Contains(a.Plans, p.ID))
}

func (c *checker) checkAddon(i int) {
	a := &c.addons[i]
	at := fmt.Sprintf("addons[%d]", i)
	switch other, dup := c.addonByID[a.ID]; {
	case a.ID == "":
		c.bad(at, "an add-on needs an id")
	case dup:
		c.bad(at+".id", "add-on %q is addons[%d] already", a.ID, other)
	default:
		c.addonByID[a.ID] = i
	}
	if a.Name == "" {
		a.Name = a.ID
	}
	if a.Maximum == 0 {
		a.Maximum = 1
	}
	c.checkPrices(at, "add-on "+a.ID, a.Prices, "addon_"+a.ID, role{kind: roleAddon, addon: i})
	if len(a.Prices) == 0 {
		c.bad(at+".prices", "add-on %q has no price", a.ID)
	}
	c.checkFeatures(at, a.Features)
	for j, id := range a.Plans {
		if p, ok := c.byID[id]; !ok {
			c.bad(fmt.Sprintf("%s.plans[%d]", at, j), "plan %q is not in the catalogue", id)
		} else if len(c.plans[p].Prices) == 0 {
			c.bad(fmt.Sprintf("%s.plans[%d]", at, j), "plan %q has no price: nothing is sold beside it", id)
		}
	}
	for k := range c.plans {
		p := &c.plans[k]
		if !a.beside(p) {
			continue
		}
		c.covers(at+".prices", fmt.Sprintf("add-on %q", a.ID), p, func(have PlanPrice) bool { return slices.ContainsFunc(a.Prices, have.sameTerm) })
		for _, name := range slices.Sorted(maps.Keys(a.Limits)) {
			if _, ok := p.Limits[name]; !ok {
				c.bad(at+".limits."+name, "limit %q is not one of plan %q (have %s)", name, p.ID, names(p.Limits))
				continue
			}
			for _, terms := range c.terms[k] {
				have := terms.Limits[name]
				if _, fits := have.plus(a.Limits[name], 1); !fits {
					c.bad(at+".limits."+name, "%s can't be added to %s of plan %q: want the same unit", a.Limits[name], have, p.ID)
				}
			}
		}
	}
}

// with is what a plan allows together with add-ons: features of both, limits
// added.
func (p *Plan) with(c *Catalog, held []heldAddon) *Plan {
	sum := clonePlan(*p)
	if sum.Limits == nil {
		sum.Limits = map[string]Limit{}
	}
	for _, h := range held {
		a := &c.addons[h.addon]
		for _, f := range a.Features {
			if !slices.Contains(sum.Features, f) {
				sum.Features = append(sum.Features, f)
			}
		}
		for name, l := range a.Limits {
			if have, ok := sum.Limits[name]; ok {
				sum.Limits[name], _ = have.plus(l, h.quantity)
			}
		}
	}
	return &sum
}
