package stripesim

import (
	"maps"
	"slices"
)

const kindSchedule = "subscription_schedule"

// schedule changes a subscription when its period ends.
type schedule struct {
	head
	customer, sub, status string // active, released, canceled
	phases                []*phase
	canceledAt            int64
	releasedAt            int64
}

// phase is what the subscription has in a time.
type phase struct {
	items      []phaseItem
	start, end int64
	proration  string
	metadata   map[string]string
	discounts  []string
}

type phaseItem struct {
	price    string
	quantity int64
	metered  bool
}

func (x *schedule) render(*Simulator) object {
	phases := []any{}
	for _, p := range x.phases {
		phases = append(phases, p.render())
	}
	out := object{
		"id": x.id, "object": kindSchedule, "application": nil, "canceled_at": stamp(x.canceledAt), "completed_at": nil, "created": x.created,
		"current_phase": nil, "customer": ref{kindCustomer, x.customer},
		"default_settings": object{
			"application_fee_percent": nil, "automatic_tax": object{"enabled": false, "liability": nil}, "billing_cycle_anchor": "automatic", "billing_thresholds": nil,
			"collection_method": "charge_automatically", "default_payment_method": nil, "description": nil,
			"invoice_settings": object{"account_tax_ids": nil, "days_until_due": nil, "issuer": object{"type": "self"}}, "on_behalf_of": nil, "transfer_data": nil,
		},
		"end_behavior": "release", "livemode": false, "metadata": copyMeta(x.metadata), "phases": phases, "released_at": stamp(x.releasedAt),
		"released_subscription": nil, "status": x.status, "subscription": ref{kindSubscription, x.sub}, "test_clock": ref{kindTestClock, x.clock},
	}
	if x.status == "active" && len(x.phases) > 0 {
		out["current_phase"] = object{"start_date": x.phases[0].start, "end_date": x.phases[0].end}
	}
	if x.status == "released" {
		out["subscription"], out["released_subscription"] = nil, x.sub
	}
	return out
}

func (p *phase) render() object {
	items, discounts := []any{}, []any{}
	for _, it := range p.items {
		o := object{
			"billing_thresholds": nil, "discounts": []any{}, "metadata": object{}, "plan": it.price, "price": ref{kindPrice, it.price}, "tax_rates": []any{},
		}
		if !it.metered {
			o["quantity"] = it.quantity
		}
		items = append(items, o)
	}
	for _, id := range p.discounts {
		discounts = append(discounts, object{"coupon": nil, "discount": ref{kindDiscount, id}, "promotion_code": nil})
	}
	return object{
		"add_invoice_items": []any{}, "application_fee_percent": nil, "billing_cycle_anchor": nil, "billing_thresholds": nil, "collection_method": nil,
		"coupon": nil, "currency": "", "default_payment_method": nil, "default_tax_rates": []any{}, "description": nil, "discounts": discounts,
		"end_date": p.end, "invoice_settings": nil, "items": items, "metadata": copyMeta(p.metadata), "on_behalf_of": nil,
		"proration_behavior": p.proration, "start_date": p.start, "transfer_data": nil, "trial_end": nil,
	}
}

// scheduleOf is the active schedule of a subscription, or nil.
func (s *Simulator) scheduleOf(sub *subscription) *schedule {
	if sub.schedule == "" {
		return nil
	}
	return must[*schedule](s, kindSchedule, sub.schedule)
}

// running is the phase of what the subscription has now.
func (s *Simulator) runningPhase(sub *subscription) *phase {
	p := &phase{start: sub.periodStart, end: sub.periodEnd, proration: "create_prorations", metadata: map[string]string{}}
	for _, it := range sub.items {
		p.items = append(p.items, phaseItem{it.price, it.quantity, must[*price](s, kindPrice, it.price).metered})
	}
	for _, d := range sub.discounts {
		p.discounts = append(p.discounts, d.id)
	}
	return p
}

func (s *Simulator) createSchedule(c *call) (any, error) {
	sub, err := find[*subscription](s, kindSubscription, c.form.str("from_subscription"), "from_subscription")
	if err != nil {
		return nil, err
	}
	switch {
	case sub.schedule != "":
		return nil, badRequest("", "from_subscription", "You cannot migrate a subscription that is already attached to a schedule: %s", sub.schedule)
	case sub.ended() || sub.status == "incomplete":
		return nil, badRequest("", "from_subscription", "You cannot migrate a subscription that is %s.", sub.status)
	case sub.cancelAt > 0:
		return nil, unsupported("from_subscription of a subscription that is set to cancel")
	}
	x := &schedule{customer: sub.customer, sub: sub.id, status: "active", phases: []*phase{s.runningPhase(sub)}}
	s.add(kindSchedule, s.newID("sub_sched_"), sub.clock, x)
	s.emit("subscription_schedule.created", x)
	s.change("customer.subscription.updated", sub, func() { sub.schedule = x.id })
	return x, nil
}

func (s *Simulator) fetchSchedule(c *call) (any, error) {
	return find[*schedule](s, kindSchedule, c.id(), "")
}

func (s *Simulator) listSchedules(c *call) (any, error) {
	items := newest(s, kindSchedule, func(x *schedule) bool { return !c.form.has("customer") || x.customer == c.form.str("customer") })
	return &page{url: "/v1/subscription_schedules", items: within(c.form, entities(items)), window: c.form}, nil
}

func (s *Simulator) activeSchedule(id string) (*schedule, *subscription, error) {
	x, err := find[*schedule](s, kindSchedule, id, "")
	if err != nil {
		return nil, nil, err
	}
	if x.status != "active" {
		return nil, nil, badRequest("", "", "You cannot update a subscription schedule that is currently in the `%s` status.", x.status)
	}
	return x, must[*subscription](s, kindSubscription, x.sub), nil
}

// updateSchedule sets what the subscription has now, which must stay as it
// is, and what it has from the end of its period.
func (s *Simulator) updateSchedule(c *call) (any, error) {
	x, sub, err := s.activeSchedule(c.id())
	if err != nil {
		return nil, err
	}
	f := c.form
	if !f.has("phases") {
		s.change("subscription_schedule.updated", x, func() { x.metadata = f.merge("metadata", x.metadata) })
		return x, nil
	}
	list := f.list("phases")
	if len(list) > 2 {
		return nil, unsupported("phases beyond the second one")
	}
	var phases []*phase
	for i, n := range list {
		p, err := s.readPhase(n, i, sub)
		if err != nil {
			return nil, err
		}
		phases = append(phases, p)
	}
	now := s.runningPhase(sub)
	if phases[0].start != x.phases[0].start || phases[0].end != sub.periodEnd || !slices.Equal(phases[0].items, now.items) {
		return nil, unsupported("phases[0] that isn't what the subscription has until its period ends")
	}
	if len(phases) == 2 {
		p := phases[1]
		if p.start != 0 && p.start != phases[0].end {
			return nil, badRequest("", "phases[1][start_date]", "A phase starts where the one before ends.")
		}
		trial := &subscription{currency: sub.currency}
		for _, it := range p.items {
			trial.items = append(trial.items, &item{price: it.price, quantity: it.quantity})
		}
		if err := s.checkItems(trial); err != nil {
			return nil, err
		}
		r := s.rhythm(trial)
		p.start = phases[0].end
		p.end = cycle(p.start, r.interval, r.count).Border(1).Unix()
	}
	s.change("subscription_schedule.updated", x, func() {
		x.phases = phases
		x.metadata = f.merge("metadata", x.metadata)
	})
	return x, nil
}

func (s *Simulator) readPhase(n *form, i int, sub *subscription) (*phase, error) {
	param := func(name string) string { return wireName([]string{"phases", itoa(i), name}) }
	p := &phase{start: n.int("start_date"), end: n.int("end_date"), proration: n.str("proration_behavior"), metadata: n.merge("metadata", nil)}
	if p.proration == "" {
		p.proration = "create_prorations"
	}
	if n.intOr("iterations", 1) != 1 {
		return nil, unsupported(param("iterations") + " other than 1")
	}
	if (i > 0) == n.has("end_date") {
		return nil, unsupported(param("end_date") + " of another phase than the first one, or none of the first one")
	}
	for j, x := range n.list("items") {
		at := param("items") + "[" + itoa(j) + "][price]"
		pr, err := find[*price](s, kindPrice, x.str("price"), at)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			if err := usablePrice(pr, at); err != nil {
				return nil, err
			}
		}
		if err := refuseQuantity(pr, x.has("quantity"), at); err != nil {
			return nil, err
		}
		p.items = append(p.items, phaseItem{pr.id, x.intOr("quantity", 1), pr.metered})
	}
	if len(p.items) == 0 {
		return nil, badRequest("parameter_missing", param("items"), "Missing required param: %s.", param("items"))
	}
	for _, d := range n.list("discounts") {
		id := d.str("discount")
		if !slices.ContainsFunc(sub.discounts, func(own *discount) bool { return own.id == id }) {
			return nil, missing(kindDiscount, id, param("discounts"))
		}
		p.discounts = append(p.discounts, id)
	}
	return p, nil
}

func (s *Simulator) releaseSchedule(c *call) (any, error) {
	x, sub, err := s.activeSchedule(c.id())
	if err != nil {
		return nil, err
	}
	s.release(x, sub)
	return x, nil
}

// release leaves the subscription as it is and ends its schedule.
func (s *Simulator) release(x *schedule, sub *subscription) {
	before := s.snapshot(sub)
	x.status, x.releasedAt, sub.schedule = "released", s.at(sub.clock), ""
	s.emit("subscription_schedule.released", x)
	s.emitChange("customer.subscription.updated", sub, before)
}

// enterPhase puts a subscription whose period ends on what is scheduled. The
// items that stay keep their IDs; stored says that the subscription isn't a
// copy.
func (s *Simulator) enterPhase(sub *subscription, stored bool) {
	x := s.scheduleOf(sub)
	if x == nil || len(x.phases) < 2 || x.phases[1].start != sub.periodEnd {
		return
	}
	p, old := x.phases[1], s.rhythm(sub)
	var items, spare []*item
	for _, it := range sub.items {
		if !slices.ContainsFunc(p.items, func(w phaseItem) bool { return w.price == it.price }) {
			spare = append(spare, it)
		}
	}
	for _, w := range p.items {
		i := slices.IndexFunc(sub.items, func(it *item) bool { return it.price == w.price })
		var it *item
		switch {
		case i >= 0:
			it = sub.items[i]
		case len(spare) > 0:
			it, spare = spare[0], spare[1:]
		default:
			it = &item{sub: sub.id}
			if stored {
				s.add(kindItem, s.newID("si_"), sub.clock, it)
			}
		}
		it.price, it.quantity = w.price, w.quantity
		items = append(items, it)
	}
	if stored {
		for _, it := range spare {
			s.remove(it)
		}
	}
	sub.items = items
	if now := s.rhythm(sub); now.interval != old.interval || now.count != old.count {
		sub.anchor = sub.periodEnd
	}
	sub.metadata = maps.Clone(sub.metadata)
	for k, v := range p.metadata {
		if sub.metadata[k] = v; v == "" {
			delete(sub.metadata, k)
		}
	}
	sub.discounts = slices.DeleteFunc(slices.Clone(sub.discounts), func(d *discount) bool { return !slices.Contains(p.discounts, d.id) })
}

// advanceSchedule moves a schedule on when the subscription's period has
// ended: to its second phase, or to its end.
func (s *Simulator) advanceSchedule(sub *subscription, end int64) {
	x := s.scheduleOf(sub)
	switch {
	case x == nil:
	case len(x.phases) == 2 && x.phases[1].start == end:
		s.change("subscription_schedule.updated", x, func() { x.phases = x.phases[1:] })
	case x.phases[0].end <= end:
		s.release(x, sub)
	}
}
