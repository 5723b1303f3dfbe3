package stripesim

import (
	"maps"
	"slices"
	"time"
)

const (
	kindSubscription = "subscription"
	kindItem         = "subscription_item"
)

// incompleteTime is how long a subscription waits for its first payment.
const incompleteTime = int64(23 * time.Hour / time.Second)

type subscription struct {
	head
	customer, currency, status, description string
	items                                   []*item
	anchor, periodStart, periodEnd          int64
	trialStart, trialEnd, startDate         int64
	cancelAtPeriodEnd                       bool
	cancelAt, canceledAt, endedAt           int64
	comment, feedback, cancelReason         string
	defaultPM, latestInvoice, pendingSetup  string
	discounts                               []*discount
	periodDiscounts                         []*discount // those that lowered the period's invoice: credits are lowered by them too
	pauseBehavior                           string
	resumesAt                               int64
	saveDefault, trialMissing               string
	methodTypes                             []string
	noticed                                 int64 // the trial end or renewal that has been announced
	session                                 string
	schedule                                string
}

type item struct {
	head
	sub      string
	price    string
	quantity int64
}

func (it *item) render(s *Simulator) object {
	p := must[*price](s, kindPrice, it.price)
	sub := must[*subscription](s, kindSubscription, it.sub)
	out := object{
		"id": it.id, "object": kindItem, "billing_thresholds": nil, "created": it.created, "discounts": []any{}, "metadata": copyMeta(it.metadata), "plan": p.plan(),
		"price": entity(p), "subscription": it.sub, "tax_rates": []any{}, "current_period_start": sub.periodStart, "current_period_end": sub.periodEnd,
	}
	if !p.metered {
		out["quantity"] = it.quantity
	}
	return out
}

func (sub *subscription) ended() bool {
	return sub.status == "canceled" || sub.status == "incomplete_expired"
}

func (sub *subscription) render(*Simulator) object {
	items := make([]entity, len(sub.items))
	for i, it := range sub.items {
		items[i] = it
	}
	discounts := []any{}
	var last any
	for _, d := range sub.discounts {
		discounts = append(discounts, ref{kindDiscount, d.id})
		last = entity(d)
	}
	var pause, methodTypes any
	if sub.pauseBehavior != "" {
		pause = object{"behavior": sub.pauseBehavior, "resumes_at": stamp(sub.resumesAt)}
	}
	if len(sub.methodTypes) > 0 {
		types := []any{}
		for _, t := range sub.methodTypes {
			types = append(types, t)
		}
		methodTypes = types
	}
	out := object{
		"id": sub.id, "object": kindSubscription, "application": nil, "application_fee_percent": nil,
		"automatic_tax": object{"enabled": false, "liability": nil}, "billing_cycle_anchor": sub.anchor, "billing_cycle_anchor_config": nil,
		"billing_mode": object{"type": "classic"}, "billing_thresholds": nil, "cancel_at": stamp(sub.cancelAt), "cancel_at_period_end": sub.cancelAtPeriodEnd, "canceled_at": stamp(sub.canceledAt),
		"cancellation_details": object{"comment": optional(sub.comment), "feedback": optional(sub.feedback), "reason": optional(sub.cancelReason)},
		"collection_method":    "charge_automatically", "created": sub.created, "currency": sub.currency, "current_period_end": sub.periodEnd,
		"current_period_start": sub.periodStart, "customer": ref{kindCustomer, sub.customer}, "days_until_due": nil,
		"default_payment_method": ref{kindPaymentMethod, sub.defaultPM}, "default_source": nil, "default_tax_rates": []any{},
		"description": optional(sub.description), "discount": last, "discounts": discounts, "ended_at": stamp(sub.endedAt),
		"invoice_settings": object{"account_tax_ids": nil, "issuer": object{"type": "self"}},
		"items":            inline("/v1/subscription_items?subscription="+sub.id, items, false), "latest_invoice": ref{kindInvoice, sub.latestInvoice},
		"livemode": false, "metadata": copyMeta(sub.metadata), "next_pending_invoice_item_invoice": nil, "on_behalf_of": nil, "pause_collection": pause,
		"payment_settings": object{
			"payment_method_options": nil, "payment_method_types": methodTypes, "save_default_payment_method": sub.saveDefault,
		},
		"pending_invoice_item_interval": nil, "pending_setup_intent": ref{kindSetup, sub.pendingSetup}, "pending_update": nil, "plan": nil, "quantity": nil,
		"schedule": ref{kindSchedule, sub.schedule}, "start_date": sub.startDate, "status": sub.status, "test_clock": ref{kindTestClock, sub.clock}, "transfer_data": nil,
		"trial_end": stamp(sub.trialEnd), "trial_settings": object{"end_behavior": object{"missing_payment_method": sub.trialMissing}},
		"trial_start": stamp(sub.trialStart),
	}
	return out
}

// rhythm is the interval that all items share.
func (s *Simulator) rhythm(sub *subscription) *price {
	return must[*price](s, kindPrice, sub.items[0].price)
}

// itemSpec is one item as a request asks for it.
type itemSpec struct {
	id       string
	price    *price
	quantity int64
	given    bool // quantity was given
	deleted  bool
	clear    bool
	metadata func(map[string]string) map[string]string
}

// readItems checks the items of a request, without any effect.
func (s *Simulator) readItems(f *form, path string) ([]itemSpec, error) {
	var out []itemSpec
	for i, n := range f.list(path) {
		param := func(name string) string { return wireName([]string{path, itoa(i), name}) }
		spec := itemSpec{
			id: n.str("id"), quantity: n.intOr("quantity", 1), given: n.has("quantity"), deleted: n.bool("deleted"), clear: n.bool("clear_usage"),
			metadata: func(old map[string]string) map[string]string { return n.merge("metadata", old) },
		}
		if id := n.str("price"); id != "" {
			p, err := find[*price](s, kindPrice, id, param("price"))
			if err != nil {
				return nil, err
			}
			if err := usablePrice(p, param("price")); err != nil {
				return nil, err
			}
			spec.price = p
		}
		if spec.quantity < 0 {
			return nil, badRequest("parameter_invalid_integer", param("quantity"), "Invalid non-negative integer: %d", spec.quantity)
		}
		out = append(out, spec)
	}
	return out, nil
}

func usablePrice(p *price, param string) error {
	if !p.active {
		return badRequest("", param, "The price specified is inactive. This field only accepts active prices.")
	}
	if p.interval == "" {
		return badRequest("", param, "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.")
	}
	return nil
}

func refuseQuantity(p *price, given bool, param string) error {
	if p.metered && given {
		return badRequest("", param, "Quantity should not be specified where usage_type is `metered`. Remove quantity from %s", param)
	}
	return nil
}

// checkItems refuses combinations that one subscription can't have.
func (s *Simulator) checkItems(sub *subscription) error {
	if len(sub.items) == 0 {
		return badRequest("", "items", "A subscription must have at least one active item.")
	}
	if len(sub.items) > 20 {
		return badRequest("", "items", "You may only have up to 20 items in a subscription.")
	}
	first := s.rhythm(sub)
	seen := map[string]bool{}
	for _, it := range sub.items {
		p := must[*price](s, kindPrice, it.price)
		if p.currency != sub.currency {
			return badRequest("", "items", "The price specified supports currencies of `%s`. This doesn't match the expected currency: `%s`.", p.currency, sub.currency)
		}
		if p.interval != first.interval || p.count != first.count {
			return badRequest("", "items", "The price specified has a different billing interval from the other items of the subscription.")
		}
		if seen[it.price] {
			return badRequest("", "items", "Cannot add multiple subscription items with the same price: %s", it.price)
		}
		seen[it.price] = true
	}
	return nil
}

func (s *Simulator) createSubscription(c *call) (any, error) {
	f := c.form
	cust, err := s.liveCustomer(f.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	specs, err := s.readItems(f, "items")
	if err != nil {
		return nil, err
	}
	if f.str("payment_behavior") == "pending_if_incomplete" {
		return nil, badRequest("", "payment_behavior", "`pending_if_incomplete` is only for updates of a subscription.")
	}
	plan := subscribing{
		cust: cust, items: specs, trialEnd: f.str("trial_end"), trialDays: f.int("trial_period_days"), cancelAtPeriodEnd: f.bool("cancel_at_period_end"),
		cancelAt: f.int("cancel_at"), pm: f.str("default_payment_method"), behavior: f.str("payment_behavior"), offSession: f.bool("off_session"),
		saveDefault: f.str("payment_settings.save_default_payment_method"), methodTypes: f.strings("payment_settings.payment_method_types"),
		trialMissing: f.str("trial_settings.end_behavior.missing_payment_method"), description: f.str("description"), metadata: f.merge("metadata", nil),
	}
	if plan.discounts, err = s.readDiscounts(f, cust); err != nil {
		return nil, err
	}
	if plan.extra, err = s.readExtra(f, cust); err != nil {
		return nil, err
	}
	return s.subscribe(plan)
}

// subscribing is a subscription to be made, by the API or by a checkout.
type subscribing struct {
	cust                      *customer
	items                     []itemSpec
	extra                     []*invoiceItem
	trialEnd                  string // a time, "now" or empty
	trialDays                 int64
	cancelAtPeriodEnd         bool
	cancelAt                  int64
	pm                        string
	behavior                  string
	offSession                bool
	authenticated             bool // the customer has passed 3-D Secure
	saveDefault, trialMissing string
	methodTypes               []string
	description               string
	metadata                  map[string]string
	discounts                 []redemption
	session                   string
}

func (s *Simulator) subscribe(in subscribing) (*subscription, error) {
	if len(in.items) == 0 {
		return nil, badRequest("parameter_missing", "items", "Missing required param: items.")
	}
	now := s.at(in.cust.clock)
	sub := &subscription{
		customer: in.cust.id, description: in.description, startDate: now, anchor: now, periodStart: now, status: "incomplete", defaultPM: in.pm,
		saveDefault: in.saveDefault, trialMissing: in.trialMissing, methodTypes: in.methodTypes, session: in.session,
	}
	if sub.saveDefault == "" {
		sub.saveDefault = "off"
	}
	if sub.trialMissing == "" {
		sub.trialMissing = "create_invoice"
	}
	for i, spec := range in.items {
		if spec.price == nil {
			return nil, badRequest("parameter_missing", wireName([]string{"items", itoa(i), "price"}), "Missing required param: items[%d][price].", i)
		}
		if err := refuseQuantity(spec.price, spec.given, wireName([]string{"items", itoa(i), "quantity"})); err != nil {
			return nil, err
		}
		it := &item{price: spec.price.id, quantity: spec.quantity}
		it.metadata = spec.metadata(nil)
		sub.items = append(sub.items, it)
	}
	sub.currency = in.items[0].price.currency
	if in.cust.currency != "" && in.cust.currency != sub.currency {
		return nil, badRequest("", "items", "You cannot combine currencies on a single customer. This customer has had a subscription, coupon, or invoice item with currency %s", in.cust.currency)
	}
	if err := s.checkItems(sub); err != nil {
		return nil, err
	}
	trial, err := trialEnd(in, now)
	if err != nil {
		return nil, err
	}
	first := in.items[0].price
	if trial > 0 {
		sub.trialStart, sub.trialEnd, sub.anchor, sub.periodEnd, sub.status = now, trial, trial, trial, "trialing"
	} else {
		sub.periodEnd = cycle(now, first.interval, first.count).Border(1).Unix()
	}
	if in.cancelAt != 0 {
		if in.cancelAt <= now {
			return nil, badRequest("", "cancel_at", "The `cancel_at` must be a timestamp in the future.")
		}
		sub.cancelAt, sub.canceledAt, sub.cancelReason = in.cancelAt, now, "cancellation_requested"
	}
	if in.cancelAtPeriodEnd {
		sub.cancelAtPeriodEnd, sub.cancelAt, sub.canceledAt, sub.cancelReason = true, sub.periodEnd, now, "cancellation_requested"
	}
	var own *paymentMethod
	if in.pm != "" {
		if own, err = s.usablePM(in.pm, in.cust.id, "default_payment_method"); err != nil {
			return nil, err
		}
		if own.customer != in.cust.id {
			return nil, badRequest("", "default_payment_method", "The customer does not have a payment method with the ID %s. The payment method must be attached to the customer.", own.id)
		}
	}

	for _, r := range in.discounts {
		if r.existing != nil {
			continue
		}
		// A checkout may have waited for hours since its coupon was checked.
		if _, _, err := s.redeemable(r.coupon, r.promotion, in.cust); err != nil {
			return nil, err
		}
	}

	// The first invoice, as it would be: to refuse before anything is made.
	trialOnly := sub.status == "trialing"
	draft := s.firstInvoice(sub, in, trialOnly)
	pm := own
	if pm == nil {
		pm, _ = get[*paymentMethod](s, kindPaymentMethod, in.cust.defaultPM)
	}
	if draft.due > 0 && in.behavior != "default_incomplete" {
		if pm == nil {
			return nil, badRequest("resource_missing", "", "This customer has no attached payment source or default payment method. Please consider adding a default payment method.")
		}
		if in.behavior == "error_if_incomplete" {
			if no, challenge := verdict(pm, in.offSession, in.authenticated); no != nil {
				return nil, declined(*no)
			} else if challenge {
				return nil, declined(*because("subscription_payment_intent_requires_action", "authentication_required", "Payment for this subscription requires additional user action before it can be completed successfully."))
			}
		}
	}

	sub.metadata = in.metadata
	s.add(kindSubscription, s.newID("sub_"), in.cust.clock, sub)
	for _, it := range sub.items {
		it.sub = sub.id
		s.add(kindItem, s.newID("si_"), in.cust.clock, it)
		it.metadata = emptyMeta(it.metadata)
	}
	sub.discounts = s.redeemAll(in.discounts, in.cust, sub)
	for _, d := range sub.discounts {
		d.session = in.session
	}
	for _, x := range in.extra {
		x.subscription = sub.id
		s.add(kindInvoiceItem, s.newID("ii_"), in.cust.clock, x)
		s.emit("invoiceitem.created", x)
	}
	if in.cust.currency == "" {
		in.cust.currency = sub.currency
	}
	v := s.newInvoice(s.firstInvoice(sub, in, trialOnly))
	sub.latestInvoice = v.id
	sub.periodDiscounts = slices.Clone(v.discounts)
	if trialOnly && pm == nil {
		sub.pendingSetup = s.newSetup(in.cust).id
	}
	s.emit("customer.subscription.created", sub)
	s.finalize(v)
	if v.status == "open" {
		if in.behavior == "default_incomplete" {
			return sub, nil
		}
		p := must[*intent](s, kindIntent, v.intent)
		if no := s.confirm(p, pm, in.offSession, in.authenticated); no != nil {
			s.invoiceFailed(v)
		}
	}
	return sub, nil
}

func emptyMeta(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// trialEnd reads when a trial ends; 0 is no trial.
func trialEnd(in subscribing, now int64) (int64, error) {
	if in.trialEnd != "" && in.trialDays != 0 {
		return 0, badRequest("", "trial_end", "You can only pass one of `trial_end` and `trial_period_days`.")
	}
	if in.trialDays < 0 || in.trialDays > 730 {
		return 0, badRequest("", "trial_period_days", "A trial has between 1 and 730 days.")
	}
	if in.trialDays > 0 {
		return now + in.trialDays*86400, nil
	}
	if in.trialEnd == "" || in.trialEnd == "now" {
		return 0, nil
	}
	t := atoi(in.trialEnd)
	if t <= now {
		return 0, badRequest("", "trial_end", "Invalid timestamp: must be an integer Unix timestamp in the future.")
	}
	return t, nil
}

// firstInvoice builds the invoice of a new subscription.
func (s *Simulator) firstInvoice(sub *subscription, in subscribing, trial bool) *invoice {
	v := &invoice{
		customer: sub.customer, subscription: sub.id, currency: sub.currency, reason: "subscription_create", periodStart: sub.periodStart,
		periodEnd: sub.periodStart, autoAdvance: true,
	}
	for _, it := range sub.items {
		p := must[*price](s, kindPrice, it.price)
		l := s.periodLine(sub, it, sub.periodStart, sub.periodEnd)
		if trial || p.metered {
			l.amount = 0
		}
		if trial {
			l.description = "Trial period for " + s.productName(p)
		}
		v.lines = append(v.lines, l)
	}
	if sub.id == "" {
		for _, x := range in.extra {
			v.lines = append(v.lines, x.line())
		}
	}
	for _, x := range s.pendingItems(sub.customer, sub.id) {
		v.lines = append(v.lines, x.line())
	}
	v.discounts = s.runningDiscounts(sub)
	if sub.id == "" {
		for _, r := range in.discounts {
			v.discounts = append(v.discounts, r.trial(s))
		}
	}
	v.sum(s)
	return v
}

// periodLine is the line of a licensed item for a whole period.
func (s *Simulator) periodLine(sub *subscription, it *item, start, end int64) *line {
	p := must[*price](s, kindPrice, it.price)
	l := &line{
		typ: "subscription", price: p.id, subscription: sub.id, item: it.id, amount: p.amount(it.quantity), quantity: it.quantity, hasQuantity: true,
		start: start, end: end, discountable: true, description: itoa(int(it.quantity)) + " × " + s.productName(p) + " (at " + priceText(p) + ")",
	}
	if p.metered {
		l.amount, l.quantity = 0, 0
		l.description = s.productName(p)
	}
	l.metadata = cloneMeta(sub.metadata)
	return l
}

func (s *Simulator) productName(p *price) string {
	if prod, ok := get[*product](s, kindProduct, p.product); ok {
		return prod.name
	}
	return p.id
}

// runningDiscounts are the discounts that lower a subscription's next
// invoice: its own, or the customer's.
func (s *Simulator) runningDiscounts(sub *subscription) []*discount {
	now := s.at(sub.clock)
	var out []*discount
	for _, d := range sub.discounts {
		if d.running(now) {
			out = append(out, d)
		}
	}
	if cust := must[*customer](s, kindCustomer, sub.customer); len(out) == 0 && cust.discount != nil && cust.discount.running(now) {
		out = append(out, cust.discount)
	}
	return out
}

func (s *Simulator) fetchSubscription(c *call) (any, error) {
	return find[*subscription](s, kindSubscription, c.id(), "")
}

func (s *Simulator) listSubscriptions(c *call) (any, error) {
	f := c.form
	status := f.str("status")
	customerID, url := f.str("customer"), "/v1/subscriptions"
	if c.id() != "" {
		customerID, url = c.id(), "/v1/customers/"+c.id()+"/subscriptions"
	}
	items := newest(s, kindSubscription, func(x *subscription) bool {
		switch {
		case customerID != "" && x.customer != customerID:
			return false
		case f.has("price") && !slices.ContainsFunc(x.items, func(it *item) bool { return it.price == f.str("price") }):
			return false
		case f.has("test_clock") && x.clock != f.str("test_clock"):
			return false
		case status == "all":
			return true
		case status == "ended":
			return x.ended()
		case status == "":
			return x.status != "canceled"
		}
		return x.status == status
	})
	return &page{url: url, items: within(f, entities(items)), window: f}, nil
}

func (s *Simulator) fetchItem(c *call) (any, error) {
	return find[*item](s, kindItem, c.id(), "")
}

func (s *Simulator) listItems(c *call) (any, error) {
	sub, err := find[*subscription](s, kindSubscription, c.form.str("subscription"), "subscription")
	if err != nil {
		return nil, err
	}
	return &page{url: "/v1/subscription_items", items: entities(slices.Clone(sub.items)), window: c.form}, nil
}

// clone copies a subscription so that a change can be tried on it.
func (sub *subscription) clone() *subscription {
	out := *sub
	out.items = nil
	for _, it := range sub.items {
		twin := *it
		twin.metadata = maps.Clone(it.metadata)
		out.items = append(out.items, &twin)
	}
	out.discounts = slices.Clone(sub.discounts)
	out.metadata = maps.Clone(sub.metadata)
	return &out
}
