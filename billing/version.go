package billing

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// PlanVersion is an older version of a plan: what those have who subscribed
// while it was sold, until they change to the current one. It is sold no more.
type PlanVersion struct {
	Version int64 `json:"version"` // 1 or more, less than the plan's own
	// Features, when not nil, replace the plan's.
	Features []string `json:"features,omitempty"`
	// Limits are those that differ from the plan's.
	Limits map[string]Limit `json:"limits,omitempty"`
	// Prices are what it cost. A price of the gateway that carries no version
	// is known by its amount, or listed in PriceIDs.
	Prices []PlanPrice `json:"prices,omitempty"`
}

// checkVersions resolves each version of a plan to what its subscribers have.
func (c *checker) checkVersions(i int) {
	p := &c.plans[i]
	at := fmt.Sprintf("plans[%d]", i)
	if p.Version < 0 {
		c.bad(at+".version", "want 1 or more, got %d", p.Version)
	}
	p.Version = max(p.Version, 1)
	seen := map[int64]bool{}
	var terms []Plan
	for j := range p.Versions {
		v := &p.Versions[j]
		at := fmt.Sprintf("%s.versions[%d]", at, j)
		switch {
		case len(p.Prices) == 0:
			c.bad(at, "plan %q has no price: nobody subscribed to a version of it", p.ID)
		case v.Version < 1 || v.Version >= p.Version:
			c.bad(at+".version", "version %d: want 1 to %d, less than the plan's own version", v.Version, p.Version-1)
		case seen[v.Version]:
			c.bad(at+".version", "version %d is there twice", v.Version)
		}
		seen[v.Version] = true
		for k := range v.Prices {
			path := fmt.Sprintf("%s.prices[%d]", at, k)
			if v.Prices[k].LookupKey != "" {
				c.bad(path+".lookup_key", "an older version has no lookup key: the current version's price has it")
			}
			c.checkPrice(path, &v.Prices[k], "-", role{kind: rolePlan, plan: i, version: v.Version})
			v.Prices[k].LookupKey = ""
		}
		c.checkFeatures(at, v.Features)
		for _, name := range slices.Sorted(maps.Keys(v.Limits)) {
			now, ok := p.Limits[name]
			if !ok {
				c.bad(at+".limits."+name, "limit %q is not one of plan %q (have %s)", name, p.ID, names(p.Limits))
			} else if l := v.Limits[name]; l.N < 0 || l.Per < 0 || !l.sameKind(now) {
				c.bad(at+".limits."+name, "%s is %s in version %d and %s now: a limit is a rate or a quota in every version", name, l, v.Version, now)
			}
		}
		terms = append(terms, p.as(*v))
	}
	current := clonePlan(*p)
	current.Versions = nil
	terms = append(terms, current)
	slices.SortFunc(terms, func(a, b Plan) int { return int(a.Version - b.Version) })
	c.terms = append(c.terms, terms)
}

// as is the plan as the subscribers of a version have it.
func (p *Plan) as(v PlanVersion) Plan {
	old := clonePlan(*p)
	old.Version, old.Versions, old.Prices = v.Version, nil, clonePrices(v.Prices)
	if v.Features != nil {
		old.Features = slices.Clone(v.Features)
	}
	if old.Limits == nil {
		old.Limits = map[string]Limit{}
	}
	maps.Copy(old.Limits, v.Limits)
	return old
}

// Version returns a plan as the subscribers of one of its versions have it. A
// version that the catalogue doesn't have any more is the next newer one, and
// 0 the current one.
func (c *Catalog) Version(plan string, version int64) (Plan, error) {
	if _, err := c.plan(plan); err != nil {
		return Plan{}, err
	}
	return clonePlan(*c.termsOf(c.byID[plan], version)), nil
}

func (c *Catalog) termsOf(plan int, version int64) *Plan {
	terms := c.terms[plan]
	if version > 0 {
		for i := range terms {
			if terms[i].Version >= version {
				return &terms[i]
			}
		}
	}
	return &terms[len(terms)-1]
}

// VersionOf returns the version of a plan that a price of the gateway is of:
// the one that its metadata says; else the oldest one that cost as much; else
// the first one, if the price was made for this plan before versions were
// counted; else the current one.
func (c *Catalog) VersionOf(plan string, p Price) int64 {
	i, ok := c.byID[plan]
	if !ok {
		return 0
	}
	return c.versionOf(i, &p)
}

func (c *Catalog) versionOf(plan int, p *Price) int64 {
	terms := c.terms[plan]
	current := terms[len(terms)-1].Version
	if text := p.Metadata[MetadataVersion]; text != "" {
		if v, err := strconv.ParseInt(text, 10, 64); err == nil && v > 0 {
			return v
		}
	}
	if len(terms) == 1 && current == 1 {
		return 1
	}
	for i := range terms {
		for _, price := range terms[i].Prices {
			if price.Amount == p.UnitAmount && price.Interval == p.Interval && price.IntervalCount == max(p.IntervalCount, 1) {
				return terms[i].Version
			}
		}
	}
	if p.Metadata[MetadataPlan] != "" {
		return 1
	}
	return current
}
