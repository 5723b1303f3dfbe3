package stripesim

import "strings"

const (
	kindMeter       = "billing.meter"
	kindMeterEvent  = "billing.meter_event"
	kindUsageRecord = "usage_record"
)

// usageRecord is a count that was reported for an item.
type usageRecord struct {
	head
	item      string
	quantity  int64
	timestamp int64
}

func (u *usageRecord) render(*Simulator) object {
	return object{"id": u.id, "object": kindUsageRecord, "livemode": false, "quantity": u.quantity, "subscription_item": u.item, "timestamp": u.timestamp}
}

type meter struct {
	head
	name, event, formula   string // formula: sum or count
	customerKey, valueKey  string
	active                 bool
	updated, deactivatedAt int64
}

func (m *meter) render(*Simulator) object {
	status := "active"
	if !m.active {
		status = "inactive"
	}
	return object{
		"id": m.id, "object": kindMeter, "created": m.created, "customer_mapping": object{"event_payload_key": m.customerKey, "type": "by_id"},
		"default_aggregation": object{"formula": m.formula}, "display_name": m.name, "event_name": m.event, "event_time_window": nil, "livemode": false,
		"status": status, "status_transitions": object{"deactivated_at": stamp(m.deactivatedAt)}, "updated": m.updated,
		"value_settings": object{"event_payload_key": m.valueKey},
	}
}

type meterEvent struct {
	head
	event, identifier, customer string
	payload                     map[string]string
	value, timestamp            int64
}

func (m *meterEvent) render(*Simulator) object {
	return object{
		"object": kindMeterEvent, "created": m.created, "event_name": m.event, "identifier": m.identifier, "livemode": false,
		"payload": copyMeta(m.payload), "timestamp": m.timestamp,
	}
}

// meterFor returns the meter of an event name and makes it when there is
// none.
func (s *Simulator) meterFor(event string) *meter {
	if m := s.meterByEvent(event); m != nil {
		return m
	}
	m := &meter{name: event, event: event, formula: "sum", customerKey: "stripe_customer_id", valueKey: "value", active: true}
	s.add(kindMeter, s.newID("mtr_test_"), "", m)
	m.updated = m.created
	return m
}

func (s *Simulator) meterByEvent(event string) *meter {
	for _, m := range all[*meter](s, kindMeter, nil) {
		if m.event == event {
			return m
		}
	}
	return nil
}

// usage is how much an item has used in [from, to).
func (s *Simulator) usage(sub *subscription, it *item, from, to int64) int64 {
	p := must[*price](s, kindPrice, it.price)
	if p.meter != "" {
		return s.metered(must[*meter](s, kindMeter, p.meter), sub.customer, from, to)
	}
	records := all(s, kindUsageRecord, func(u *usageRecord) bool {
		return u.item == it.id && (p.aggregate == "last_ever" || u.timestamp >= from) && u.timestamp < to
	})
	var n, last int64
	for _, u := range records {
		switch p.aggregate {
		case "max":
			n = max(n, u.quantity)
		case "last_during_period", "last_ever":
			if u.timestamp >= last {
				n, last = u.quantity, u.timestamp
			}
		default:
			n += u.quantity
		}
	}
	return n
}

// addUsage adds the lines of metered items for what was used in [from, to).
func (s *Simulator) addUsage(v *invoice, sub *subscription, from, to int64) {
	for _, it := range sub.items {
		p := must[*price](s, kindPrice, it.price)
		if !p.metered {
			continue
		}
		l := s.periodLine(sub, it, from, to)
		if sub.status != "trialing" {
			l.quantity = s.usage(sub, it, from, to)
			l.amount = p.amount(l.quantity)
		}
		l.description = itoa(int(l.quantity)) + " × " + s.productName(p) + " (at " + priceText(p) + ")"
		v.lines = append(v.lines, l)
	}
}

func (s *Simulator) createUsage(c *call) (any, error) {
	it, err := find[*item](s, kindItem, c.id(), "")
	if err != nil {
		return nil, err
	}
	p := must[*price](s, kindPrice, it.price)
	if !p.metered || p.meter != "" {
		return nil, badRequest("", "subscription_item", "Cannot create the usage record with this plan because it's not a metered plan of usage records.")
	}
	now, f := s.at(it.clock), c.form
	u := &usageRecord{item: it.id, quantity: f.int("quantity"), timestamp: now}
	if f.has("timestamp") && f.str("timestamp") != "now" {
		u.timestamp = f.int("timestamp")
	}
	sub := must[*subscription](s, kindSubscription, it.sub)
	if u.timestamp > now+300 || u.timestamp < sub.periodStart {
		return nil, badRequest("", "timestamp", "Cannot create the usage record with this timestamp because timestamps must be within the subscription's current period and not in the future.")
	}
	if u.quantity < 0 {
		return nil, badRequest("parameter_invalid_integer", "quantity", "Invalid non-negative integer: %d", u.quantity)
	}
	if f.str("action") != "increment" {
		for _, old := range all(s, kindUsageRecord, func(x *usageRecord) bool { return x.item == it.id && x.timestamp == u.timestamp }) {
			s.remove(old)
		}
	}
	s.add(kindUsageRecord, s.newID("mbur_"), it.clock, u)
	return u, nil
}

// usageSummaries returns the total of each period, the current one first.
func (s *Simulator) usageSummaries(c *call) (any, error) {
	it, err := find[*item](s, kindItem, c.id(), "")
	if err != nil {
		return nil, err
	}
	if !must[*price](s, kindPrice, it.price).metered {
		return nil, badRequest("", "subscription_item", "Subscription item %s is not of a metered price.", it.id)
	}
	sub := must[*subscription](s, kindSubscription, it.sub)
	tail := strings.TrimPrefix(it.id, "si_")
	list := []entity{summaryOf(it, "sis_"+tail, "", sub.periodStart, 0, s.usage(sub, it, sub.periodStart, maxTime))}
	for _, v := range newest(s, kindInvoice, func(v *invoice) bool { return v.subscription == sub.id }) {
		for _, l := range v.lines {
			if l.item == it.id && !l.proration && l.start < sub.periodStart && v.reason != "subscription_create" {
				list = append(list, summaryOf(it, "sis_"+tail+itoa(len(list)), v.id, l.start, l.end, l.quantity))
			}
		}
	}
	return &page{url: "/v1/subscription_items/" + it.id + "/usage_record_summaries", items: list, window: c.form}, nil
}

// summary is an object that is worked out when it is asked for.
type summary struct {
	head
	fields object
}

func (x *summary) render(*Simulator) object { return x.fields }

func summaryOf(it *item, id, invoice string, start, end, total int64) *summary {
	return &summary{head: head{kind: "usage_record_summary", id: id}, fields: object{
		"id": id, "object": "usage_record_summary", "invoice": optional(invoice), "livemode": false,
		"period": object{"start": stamp(start), "end": stamp(end)}, "subscription_item": it.id, "total_usage": total,
	}}
}

// meterSummaries returns what a customer used in a range.
func (s *Simulator) meterSummaries(c *call) (any, error) {
	m, err := find[*meter](s, kindMeter, c.id(), "")
	if err != nil {
		return nil, err
	}
	f := c.form
	cust, err := s.liveCustomer(f.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	from, to := f.int("start_time"), f.int("end_time")
	if from%60 != 0 || to%60 != 0 || from >= to {
		return nil, badRequest("", "start_time", "The `start_time` and `end_time` must be aligned with minute boundaries, the start before the end.")
	}
	x := &summary{head: head{kind: "billing.meter_event_summary", id: "mtrusg_" + strings.TrimPrefix(m.id, "mtr_")}}
	x.fields = object{
		"id": x.id, "object": x.kind, "aggregated_value": s.metered(m, cust.id, from, to), "start_time": from, "end_time": to, "livemode": false, "meter": m.id,
	}
	return &page{url: "/v1/billing/meters/" + m.id + "/event_summaries", items: []entity{x}, window: f}, nil
}

// metered is what a customer used of a meter in [from, to).
func (s *Simulator) metered(m *meter, customer string, from, to int64) int64 {
	var n int64
	for _, e := range all(s, kindMeterEvent, func(e *meterEvent) bool {
		return e.event == m.event && e.customer == customer && e.timestamp >= from && e.timestamp < to
	}) {
		if m.formula == "count" {
			n++
		} else {
			n += e.value
		}
	}
	return n
}

func (s *Simulator) createMeter(c *call) (any, error) {
	f := c.form
	if s.meterByEvent(f.str("event_name")) != nil {
		return nil, badRequest("resource_already_exists", "event_name", "An active meter with the event name %s exists already.", clip(f.str("event_name")))
	}
	m := &meter{
		name: f.str("display_name"), event: f.str("event_name"), formula: f.str("default_aggregation.formula"), active: true,
		customerKey: "stripe_customer_id", valueKey: "value",
	}
	if m.formula == "" {
		return nil, badRequest("parameter_missing", "default_aggregation[formula]", "Missing required param: default_aggregation[formula].")
	}
	if f.has("customer_mapping.event_payload_key") {
		m.customerKey = f.str("customer_mapping.event_payload_key")
	}
	if f.has("value_settings.event_payload_key") {
		m.valueKey = f.str("value_settings.event_payload_key")
	}
	s.add(kindMeter, s.newID("mtr_test_"), "", m)
	m.updated = m.created
	return m, nil
}

func (s *Simulator) fetchMeter(c *call) (any, error) { return find[*meter](s, kindMeter, c.id(), "") }

func (s *Simulator) listMeters(c *call) (any, error) {
	f := c.form
	items := newest(s, kindMeter, func(m *meter) bool { return !f.has("status") || (f.str("status") == "active") == m.active })
	return &page{url: "/v1/billing/meters", items: entities(items), window: f}, nil
}

func (s *Simulator) updateMeter(c *call) (any, error) {
	m, err := find[*meter](s, kindMeter, c.id(), "")
	if err != nil {
		return nil, err
	}
	if c.form.has("display_name") {
		m.name = c.form.str("display_name")
	}
	m.updated = s.at("")
	return m, nil
}

func (s *Simulator) deactivateMeter(c *call) (any, error) { return s.switchMeter(c, false) }
func (s *Simulator) reactivateMeter(c *call) (any, error) { return s.switchMeter(c, true) }

func (s *Simulator) switchMeter(c *call, active bool) (any, error) {
	m, err := find[*meter](s, kindMeter, c.id(), "")
	if err != nil {
		return nil, err
	}
	m.active, m.updated, m.deactivatedAt = active, s.at(""), 0
	if !active {
		m.deactivatedAt = m.updated
	}
	return m, nil
}

// createMeterEvent records usage at once; Stripe takes some time.
func (s *Simulator) createMeterEvent(c *call) (any, error) {
	f := c.form
	m := s.meterByEvent(f.str("event_name"))
	if m == nil || !m.active {
		return nil, badRequest("resource_missing", "event_name", "No active meter found for event name %s", clip(f.str("event_name")))
	}
	e := &meterEvent{event: m.event, identifier: f.str("identifier"), payload: f.merge("payload", nil)}
	e.customer = e.payload[m.customerKey]
	cust, err := s.liveCustomer(e.customer, "payload["+m.customerKey+"]")
	if err != nil {
		return nil, err
	}
	value, err := parseDecimal(e.payload[m.valueKey])
	if err != nil || !value.IsInt() {
		return nil, badRequest("", "payload["+m.valueKey+"]", "The value of a meter event must be an integer")
	}
	now := s.at(cust.clock)
	e.value, e.timestamp = value.Num().Int64(), f.intOr("timestamp", now)
	if e.timestamp > now+300 || e.timestamp < now-35*86400 {
		return nil, badRequest("timestamp_out_of_range", "timestamp", "The timestamp must be within the past 35 days and at most 5 minutes in the future.")
	}
	if e.identifier == "" {
		e.identifier = s.newID("mevt_")
	}
	for _, old := range all(s, kindMeterEvent, func(x *meterEvent) bool { return x.identifier == e.identifier }) {
		if now-old.created < 86400 {
			return nil, badRequest("duplicate_meter_event", "identifier", "An event already exists with identifier %s.", clip(e.identifier))
		}
	}
	s.add(kindMeterEvent, s.newID("mev_"), cust.clock, e)
	return e, nil
}
