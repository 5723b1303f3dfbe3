package billing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// move is a change of a subscription, worked out.
type move struct {
	sub      Subscription
	had      string // what it has, for its history
	plan     string // after it
	version  int64
	currency string
	kind     ChangeKind
	rule     ChangeRule
	items    []UpdateItem // the way from what it has
	then     []want       // what it has afterwards, of the catalogue
	others   []Item       // what it has beside the catalogue
	entitles bool         // to something else
}

// move works out what an order changes about an account's subscription; for an
// order of what it has, errOnPlan.
func (s *Service) move(ctx context.Context, a *Account, o *Order) (*move, error) {
	sub, err := a.changeable()
	if err != nil {
		return nil, err
	}
	h := s.catalog.hold(&sub)
	if h.item < 0 {
		if len(sub.Items) != 1 {
			return nil, fmt.Errorf("%w: no item of subscription %s is a plan of the catalogue", ErrUnknownPlan, sub.ID)
		}
		h.item = 0
	}
	v, stays, err := s.target(&sub, &h, o)
	if err != nil {
		return nil, err
	}
	m := &move{sub: sub, had: s.catalog.entitles(&h), plan: v.terms.ID, version: v.terms.Version, currency: v.term.Amount.Currency}
	if m.then, err = s.wants(ctx, v); err != nil {
		return nil, err
	}
	now := sub.Items[h.item].Price
	grows := s.difference(m, &h)
	if len(m.items) == 0 {
		return nil, fmt.Errorf("%w %q", errOnPlan, m.plan)
	}
	from := ""
	if h.plan >= 0 {
		from = s.catalog.plans[h.plan].ID
	}
	switch {
	case v.plan != h.plan:
		m.kind = map[bool]ChangeKind{true: Upgrade, false: Downgrade}[v.plan > h.plan]
	case !sameLength(now, v.term):
		m.kind = map[bool]ChangeKind{true: Longer, false: Shorter}[length(v.term.Interval, v.term.IntervalCount) > length(now.Interval, now.IntervalCount)]
	case !stays && m.then[0].price.ID != now.ID:
		m.kind = Renew
	case grows:
		m.kind = More
	default:
		m.kind = Fewer
	}
	m.entitles = v.plan != h.plan || h.terms == nil || h.terms.Version != m.version || !maps.Equal(v.addons, s.catalog.countAddons(h.addons))
	m.rule = s.catalog.Rule(from, m.plan, m.kind, sub.Status == StatusTrialing)
	if m.rule.When == Never {
		return nil, &RefusedError{From: from, To: m.plan, Kind: m.kind, Reason: m.rule.Reason}
	}
	return m, nil
}

// target is what an order asks for, completed from what there is. Stays says
// that the plan's price is kept.
func (s *Service) target(sub *Subscription, h *holding, o *Order) (v *sale, stays bool, err error) {
	c := s.catalog
	order, now := *o, sub.Items[h.item].Price
	if order.Plan == "" && h.plan >= 0 {
		order.Plan = c.plans[h.plan].ID
	}
	p, err := c.plan(order.Plan)
	if err != nil {
		return nil, false, err
	}
	if order.Currency == "" {
		order.Currency = now.UnitAmount.Currency
	}
	if order.Interval == "" && slices.ContainsFunc(p.Prices, func(q PlanPrice) bool { return q.Interval == now.Interval && q.Amount.Currency == order.Currency }) {
		order.Interval = now.Interval
	}
	v = &sale{terms: p, plan: c.byID[order.Plan], addons: map[string]int64{}, kept: map[role]Price{}}
	same := v.plan == h.plan
	as := PlanPrice{Amount: now.UnitAmount, Interval: now.Interval, IntervalCount: max(now.IntervalCount, 1)}
	if v.term, err = c.Price(order.Plan, order.Currency, order.Interval); err != nil && (!same || order.Interval != now.Interval) {
		return nil, false, err
	}
	stays = same && !o.Current && (err != nil || sameLength(now, v.term) && v.term.Amount.Currency == now.UnitAmount.Currency)
	if err != nil && !stays {
		return nil, false, err
	}
	if stays {
		v.terms, v.term = h.terms, as
		for i := range sub.Items {
			if r := c.roleOf(&sub.Items[i].Price); r.kind != roleNone && (r.kind == roleAddon || r.plan == h.plan) {
				v.kept[r.key()] = sub.Items[i].Price
			}
		}
		v.kept[role{kind: rolePlan, plan: v.plan}] = now
		v.terms = meteredAs(v.terms, v.kept)
	} else if sameLength(now, v.term) {
		for _, a := range h.addons { // they don't depend on the plan
			v.kept[role{kind: roleAddon, addon: a.addon}] = sub.Items[a.item].Price
		}
	}
	if order.Seats == 0 && h.seatTerms() != nil && v.terms.Seats != nil {
		if order.Seats = max(h.seats(sub), v.terms.Seats.least()); same && h.seats(sub) < v.terms.Seats.least() {
			order.Seats = 0
		}
	}
	if v.seats, err = s.quantity(&order); err != nil {
		return nil, false, err
	}
	if err := c.checkAddons(v.terms, o.Addons); err != nil {
		return nil, false, err
	}
	for _, a := range h.addons {
		if add := &c.addons[a.addon]; add.beside(v.terms) {
			v.addons[add.ID] = a.quantity
		}
	}
	for id, n := range o.Addons {
		if v.addons[id] = n; n == 0 {
			delete(v.addons, id)
		}
	}
	return v, stays, nil
}

// meteredAs are the terms with those metered prices alone that the subscriber
// has.
func meteredAs(terms *Plan, kept map[role]Price) *Plan {
	has := func(m MeteredPrice) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(kept)), func(r role) bool { return r.kind == roleMeter && r.meter == m.Meter })
	}
	if !slices.ContainsFunc(terms.Metered, func(m MeteredPrice) bool { return !has(m) }) {
		return terms
	}
	as := clonePlan(*terms)
	as.Metered = slices.DeleteFunc(as.Metered, func(m MeteredPrice) bool { return !has(m) })
	return &as
}

// difference fills in what changes, and reports whether anything grows. A
// metered item that isn't wanted any more stays to be billed: a change at the
// end of the period takes it away.
func (s *Service) difference(m *move, h *holding) (grows bool) {
	at := map[role]int{}
	for i := range m.sub.Items {
		r := s.catalog.roleOf(&m.sub.Items[i].Price)
		if i == h.item {
			r.kind = rolePlan
		}
		k := r.key()
		if k.kind != roleAddon {
			k.plan = 0 // the plan's items become those of the next plan
		}
		if _, dup := at[k]; r.kind == roleNone || dup {
			m.others = append(m.others, m.sub.Items[i])
			continue
		}
		at[k] = i
	}
	for _, w := range m.then {
		k := w.role.key()
		if k.kind != roleAddon {
			k.plan = 0
		}
		quantity := &w.quantity
		if w.role.kind == roleMeter {
			quantity = nil
		}
		i, ok := at[k]
		delete(at, k)
		switch {
		case !ok:
			m.items, grows = append(m.items, UpdateItem{PriceID: w.price.ID, Quantity: quantity}), true
		case m.sub.Items[i].Price.ID != w.price.ID || quantity != nil && m.sub.Items[i].Quantity != w.quantity:
			u := UpdateItem{ID: m.sub.Items[i].ID, PriceID: w.price.ID, Quantity: quantity}
			if m.sub.Items[i].Price.ID == w.price.ID {
				u.PriceID = "" // the gateway takes no archived price, even where it is
			}
			m.items = append(m.items, u)
			grows = grows || quantity != nil && w.quantity > m.sub.Items[i].Quantity
		}
	}
	for _, i := range slices.Sorted(maps.Values(at)) {
		if s.catalog.roleOf(&m.sub.Items[i].Price).kind != roleMeter {
			m.items = append(m.items, UpdateItem{ID: m.sub.Items[i].ID, Delete: true})
		}
	}
	return grows
}

// request is the update that makes the move now. At may be unset: the gateway
// prorates from when it gets the request.
func (m *move) request(s *Service, o *Order, at time.Time) UpdateRequest {
	req := UpdateRequest{
		Items: m.items, Proration: m.rule.Proration, ProrationDate: at, IfUnpaid: "error_if_incomplete",
		CouponID: o.CouponID, Metadata: s.catalog.marks(m.plan, m.version),
	}
	if m.rule.Proration == "none" {
		req.ProrationDate = time.Time{}
	}
	if m.entitles && m.had != "" && m.sub.Status != StatusTrialing {
		if at.IsZero() {
			at = s.now()
		}
		req.Metadata[MetadataHistory] = m.sub.historyWith(m.had, at, quotaPeriod(&m.sub, at))
	}
	return req
}

// essence is the request without what depends on the second in which it was
// asked for: all who ask at once ask for the same.
func (r updateIntent) essence() any {
	if r.Request.ProrationDate.IsZero() && r.Request.Metadata[MetadataHistory] != "" {
		r.Request.Metadata = maps.Clone(r.Request.Metadata)
		delete(r.Request.Metadata, MetadataHistory)
	}
	return r
}

// lines are all items after the move.
func (m *move) lines() []LineItem {
	lines := linesOf(m.then)
	for _, it := range m.others {
		lines = append(lines, LineItem{PriceID: it.Price.ID, Quantity: it.Quantity})
	}
	return lines
}

// renewal is what a period costs after the move.
func (m *move) renewal() Invoice {
	inv := Invoice{CustomerID: m.sub.CustomerID, SubscriptionID: m.sub.ID, Currency: m.currency, Status: InvoiceDraft}
	add := func(p Price, n int64) {
		line := InvoiceLine{PriceID: p.ID, SubscriptionID: m.sub.ID, Quantity: n, Amount: p.UnitAmount.Amount * n, Period: Period{From: m.sub.Period.To}}
		inv.Lines = append(inv.Lines, line)
		inv.Subtotal += line.Amount
	}
	for _, w := range m.then {
		if w.role.kind != roleMeter {
			add(w.price, w.quantity)
		}
	}
	for _, it := range m.others {
		if !it.Price.Metered {
			add(it.Price, it.Quantity)
		}
	}
	inv.Total = inv.Subtotal
	return inv
}

func sameLength(p Price, q PlanPrice) bool {
	return p.Interval == q.Interval && max(p.IntervalCount, 1) == max(q.IntervalCount, 1)
}

// length is an interval in days, about: to compare.
func length(i Interval, count int64) int64 {
	return map[Interval]int64{Day: 1, Week: 7, Month: 30, Year: 365}[i] * max(count, 1)
}
