package billing

import (
	"fmt"
	"strconv"
)

// roleKind is what a price is for.
type roleKind int

const (
	roleNone roleKind = iota
	rolePlan
	roleSeat
	roleMeter
	roleAddon
)

// role is what a price is for in the catalogue.
type role struct {
	kind    roleKind
	plan    int // of the first three kinds
	version int64
	addon   int
	meter   string
}

func (c *Catalog) roleName(r role) string {
	switch r.kind {
	case roleAddon:
		return fmt.Sprintf("add-on %q", c.addons[r.addon].ID)
	case roleSeat:
		return fmt.Sprintf("a seat of plan %q", c.plans[r.plan].ID)
	case roleMeter:
		return fmt.Sprintf("meter %q of plan %q", r.meter, c.plans[r.plan].ID)
	}
	return fmt.Sprintf("plan %q", c.plans[r.plan].ID)
}

// roleOf says what a price of the gateway is for: by its ID, where the file
// lists it; else by its metadata, which stays when its lookup key has gone to
// a newer price; else by its lookup key.
func (c *Catalog) roleOf(p *Price) role {
	if r, ok := c.byPriceID[p.ID]; ok {
		return r
	}
	if id := p.Metadata[MetadataAddon]; id != "" {
		if i, ok := c.addonByID[id]; ok {
			return role{kind: roleAddon, addon: i}
		}
	}
	if i, ok := c.byID[p.Metadata[MetadataPlan]]; ok && i != c.def {
		r := role{kind: rolePlan, plan: i, version: c.versionOf(i, p)}
		if m := p.Metadata[MetadataMeter]; m != "" {
			r.kind, r.meter = roleMeter, m
		} else if p.Metadata[MetadataPart] != "" {
			r.kind = roleSeat
		}
		return r
	}
	if r, ok := c.byKey[p.LookupKey]; ok && p.LookupKey != "" {
		if r.kind == rolePlan {
			r.version = c.versionOf(r.plan, p)
		}
		return r
	}
	return role{}
}

// holding is what a subscription has of the catalogue.
type holding struct {
	plan  int   // -1: none
	item  int   // of the plan; -1
	terms *Plan // the plan in the subscriber's version; nil without one
	seat  int   // item of the seats above the included ones; -1
	// addons are those that the plan may have.
	addons []heldAddon
}

type heldAddon struct {
	addon, item int
	quantity    int64
}

// PlanOf returns the plan of a subscription: the highest one among its items,
// each known by its price's ID, the price's metadata, or its lookup key; else
// the one that the subscription's own metadata names.
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
	h := c.hold(s)
	return h.plan, h.item
}

// hold says what a subscription has. A plan alone costs no allocation.
func (c *Catalog) hold(s *Subscription) holding {
	h := holding{plan: -1, item: -1, seat: -1}
	var version int64
	part := role{plan: -1}
	for j := range s.Items {
		switch r := c.roleOf(&s.Items[j].Price); r.kind {
		case rolePlan:
			if r.plan > h.plan || r.plan == h.plan && h.item < 0 {
				h.plan, h.item, version = r.plan, j, r.version
			}
		case roleSeat, roleMeter:
			if r.plan > part.plan {
				part = r
			}
		}
	}
	if h.plan < 0 { // somebody removed its base price
		h.plan, version = part.plan, part.version
	}
	if h.plan < 0 {
		if i, ok := c.byID[s.Metadata[MetadataPlan]]; ok && i != c.def {
			h.plan = i
			version, _ = strconv.ParseInt(s.Metadata[MetadataVersion], 10, 64)
		}
	}
	if h.plan < 0 {
		return h
	}
	h.terms = c.termsOf(h.plan, version)
	for j := range s.Items {
		switch r := c.roleOf(&s.Items[j].Price); {
		case r.kind == roleSeat && r.plan == h.plan:
			h.seat = j
		case r.kind == roleAddon && s.Items[j].Quantity > 0 && c.addons[r.addon].beside(&c.plans[h.plan]):
			h.addons = append(h.addons, heldAddon{addon: r.addon, item: j, quantity: s.Items[j].Quantity})
		}
	}
	return h
}

// seats is the number of seats that are paid for; 1 for a plan without seats.
func (h *holding) seats(s *Subscription) int64 {
	n := int64(1)
	switch seats := h.seatTerms(); {
	case h.item < 0:
	case seats != nil && len(seats.Prices) > 0:
		n = seats.Included
		if h.seat >= 0 {
			n += s.Items[h.seat].Quantity
		}
	default:
		n = s.Items[h.item].Quantity
	}
	return max(n, 1)
}

func (h *holding) seatTerms() *Seats {
	if h.terms == nil {
		return nil
	}
	return h.terms.Seats
}
