package billing

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
)

// want is one item that an order leads to.
type want struct {
	role     role
	price    Price
	quantity int64 // 0: metered
}

// offer is a price of the catalogue that is to be found at the gateway.
type offer struct {
	PlanPrice
	metered *MeteredPrice
	of      string // for errors: plan "pro"
}

// find returns the gateway's price of an offer, which must cost what the
// catalogue says: nobody is charged another amount than the page showed.
func (s *Service) find(ctx context.Context, o offer) (Price, error) {
	p, err := s.prices.get(o.LookupKey, s.now(), func() ([]Price, error) {
		call, cancel := s.call(ctx)
		defer cancel()
		return s.gateway.Prices(call, []string{o.LookupKey})
	})
	if err != nil {
		return p, err
	}
	if p.ID == "" {
		return p, fmt.Errorf("%w: the gateway has no active price with lookup key %q (%s): create it there", ErrUnknownPlan, o.LookupKey, o.of)
	}
	same := p.Interval == o.Interval && max(p.IntervalCount, 1) == max(o.IntervalCount, 1) && p.UnitAmount.Currency == o.Amount.Currency && p.Metered == (o.metered != nil)
	if o.metered == nil {
		same = same && p.UnitAmount == o.Amount
	} else if o.metered.UnitAmount != "" {
		same = same && sameDecimal(p.UnitAmountDecimal, o.metered.UnitAmount)
	}
	if !same {
		return p, fmt.Errorf("%w: the gateway's price %q costs %s every %d %s, the catalogue's %s every %d %s: make them the same",
			ErrUnknownPlan, o.LookupKey, p.text(), max(p.IntervalCount, 1), p.Interval, o.text(), max(o.IntervalCount, 1), o.Interval)
	}
	return p, nil
}

func sameDecimal(a, b string) bool {
	x, ok := new(big.Rat).SetString(a)
	y, ok2 := new(big.Rat).SetString(b)
	return ok && ok2 && x.Cmp(y) == 0
}

func (p *Price) text() string {
	if p.Metered {
		return p.UnitAmountDecimal + " minor units of " + p.UnitAmount.Currency + " for each of a meter"
	}
	return p.UnitAmount.String()
}

func (o *offer) text() string {
	if o.metered != nil {
		return o.metered.UnitAmount + " minor units of " + o.metered.Currency + " for each of meter " + o.metered.Meter
	}
	return o.Amount.String()
}

// sale is what an order is worked out from.
type sale struct {
	terms  *Plan
	plan   int
	term   PlanPrice // its currency and interval are those of every item
	seats  int64
	addons map[string]int64
	// kept are prices that stay, by what they are for: those of a subscriber
	// of an older version or price.
	kept map[role]Price
}

// key is a role without its version.
func (r role) key() role { r.version = 0; return r }

// wants lists the items of a sale.
func (s *Service) wants(ctx context.Context, v *sale) ([]want, error) {
	var all []want
	add := func(r role, quantity int64, o offer) error {
		p, ok := v.kept[r.key()]
		if !ok {
			var err error
			o.of = s.catalog.roleName(r)
			if p, err = s.find(ctx, o); err != nil {
				return err
			}
		}
		all = append(all, want{r, p, quantity})
		return nil
	}
	pick := func(prices []PlanPrice) offer {
		i := slices.IndexFunc(prices, v.term.sameTerm) // the catalogue has one: it was checked
		return offer{PlanPrice: prices[max(i, 0)]}
	}
	base, seats := v.seats, v.terms.Seats
	if seats == nil || len(seats.Prices) > 0 {
		base = 1
	}
	if err := add(role{kind: rolePlan, plan: v.plan}, base, offer{PlanPrice: v.term}); err != nil {
		return nil, err
	}
	if seats != nil && len(seats.Prices) > 0 && v.seats > seats.Included {
		if err := add(role{kind: roleSeat, plan: v.plan}, v.seats-seats.Included, pick(seats.Prices)); err != nil {
			return nil, err
		}
	}
	for _, m := range v.terms.Metered {
		if !m.at(v.term) {
			continue
		}
		o := offer{metered: &m, PlanPrice: PlanPrice{Amount: Money{Currency: m.Currency}, Interval: m.Interval, IntervalCount: m.IntervalCount, LookupKey: m.LookupKey}}
		if err := add(role{kind: roleMeter, plan: v.plan, meter: m.Meter}, 0, o); err != nil {
			return nil, err
		}
	}
	for i := range s.catalog.addons {
		a := &s.catalog.addons[i]
		if n := v.addons[a.ID]; n > 0 {
			if err := add(role{kind: roleAddon, addon: i}, n, pick(a.Prices)); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// checkAddons refuses add-ons that the plan can't have, or that many of them.
func (c *Catalog) checkAddons(terms *Plan, addons map[string]int64) error {
	for _, id := range slices.Sorted(maps.Keys(addons)) {
		a, err := c.addon(id)
		n := addons[id]
		switch {
		case err != nil:
			return err
		case n < 0 || n > 0 && a.Maximum > 0 && n > a.Maximum:
			return fmt.Errorf("%w: 0 to %d of add-on %q can be had, not %d", ErrInvalid, a.Maximum, id, n)
		case n > 0 && !a.beside(terms):
			return fmt.Errorf("%w: add-on %q isn't sold beside plan %q", ErrInvalid, id, terms.ID)
		}
	}
	return nil
}

// lines are the items of a new subscription.
func (s *Service) lines(ctx context.Context, o *Order) ([]LineItem, error) {
	term, err := s.catalog.Price(o.Plan, o.Currency, o.Interval)
	if err != nil {
		return nil, err
	}
	n, err := s.quantity(o)
	if err != nil {
		return nil, err
	}
	i := s.catalog.byID[o.Plan]
	if err := s.catalog.checkAddons(&s.catalog.plans[i], o.Addons); err != nil {
		return nil, err
	}
	wants, err := s.wants(ctx, &sale{terms: &s.catalog.plans[i], plan: i, term: term, seats: n, addons: o.Addons})
	return linesOf(wants), err
}

func linesOf(wants []want) []LineItem {
	var lines []LineItem
	for _, w := range wants {
		lines = append(lines, LineItem{PriceID: w.price.ID, Quantity: w.quantity})
	}
	return lines
}
