package stripesim

import (
	"slices"
	"strconv"
)

// readExtra checks one-off amounts for the next invoice, without storing
// them.
func (s *Simulator) readExtra(f *form, cust *customer) ([]*invoiceItem, error) {
	var out []*invoiceItem
	for i, n := range f.list("add_invoice_items") {
		param := wireName([]string{"add_invoice_items", itoa(i), "price"})
		p, err := find[*price](s, kindPrice, n.str("price"), param)
		if err != nil {
			return nil, err
		}
		if p.interval != "" {
			return nil, badRequest("", param, "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`.")
		}
		quantity := n.intOr("quantity", 1)
		now := s.at(cust.clock)
		out = append(out, &invoiceItem{
			customer: cust.id, currency: p.currency, price: p.id, quantity: quantity, amount: p.amount(quantity), date: now, start: now, end: now,
			discountable: true, description: s.productName(p),
		})
	}
	return out, nil
}

// change is an update of a subscription that has been worked out and not yet
// made.
type change struct {
	sub          *subscription // as it will be
	prorations   []*invoiceItem
	extra        []*invoiceItem
	redemptions  []redemption
	setDiscounts bool
	reset        bool // a new period starts now
	invoiceNow   bool
	date         int64
	touched      bool  // items changed
	from         int64 // start of the period that a reset ends
}

// work works an update out, without any effect.
func (s *Simulator) work(old *subscription, f *form, prefix string) (*change, error) {
	name := func(n string) string { return prefix + n }
	now := s.at(old.clock)
	c := &change{sub: old.clone(), date: now, from: old.periodStart}
	cust := must[*customer](s, kindCustomer, old.customer)
	if f.has(name("proration_date")) {
		c.date = f.int(name("proration_date"))
		if c.date < old.periodStart || c.date > old.periodEnd {
			return nil, badRequest("", name("proration_date"), "Cannot specify a proration_date outside of the subscription's current period")
		}
	}
	specs, err := s.readItems(f, name("items"))
	if err != nil {
		return nil, err
	}
	if len(specs) > 0 && old.schedule != "" {
		if prefix == "" {
			return nil, unsupported("items of a subscription that has a schedule")
		}
		c.sub.schedule = "" // what the change costs once the schedule is released
	}
	if err := s.changeItems(c, specs, name("items")); err != nil {
		return nil, err
	}
	before, after := s.rhythm(old), s.rhythm(c.sub)
	reset := before.interval != after.interval || before.count != after.count || s.free(old) && !s.free(c.sub) && old.status == "active"
	if f.str(name("billing_cycle_anchor")) == "now" {
		reset = true
	}
	if f.has(name("trial_end")) {
		end := now
		if text := f.str(name("trial_end")); text != "now" {
			if end = atoi(text); end <= now {
				return nil, badRequest("", name("trial_end"), "Invalid timestamp: must be an integer Unix timestamp in the future.")
			}
		}
		switch {
		case end > now:
			c.sub.trialEnd, c.sub.anchor, c.sub.periodEnd = end, end, end
			if old.status != "trialing" {
				c.sub.trialStart, c.sub.periodStart = now, now
			}
			c.sub.status = "trialing"
			reset = false
		case old.status == "trialing":
			c.sub.trialEnd, reset = now, true
		}
	}
	if old.status == "trialing" && c.sub.trialEnd > now {
		// Nothing has been paid for the trial: nothing is credited or charged.
		reset = false
	}
	behavior := f.str(name("proration_behavior"))
	if c.redemptions, err = s.readDiscounts(f, cust); err != nil {
		return nil, err
	}
	if f.has("discounts") || f.has("coupon") || f.has("promotion_code") {
		c.setDiscounts = true
		c.sub.discounts = nil
		for _, r := range c.redemptions {
			c.sub.discounts = append(c.sub.discounts, r.trial(s))
		}
	}
	if c.extra, err = s.readExtra(f, cust); err != nil {
		return nil, err
	}
	if reset {
		c.reset, c.invoiceNow = true, true
		c.sub.anchor, c.sub.periodStart = now, now
		c.sub.periodEnd = cycle(now, after.interval, after.count).Border(1).Unix()
		c.sub.status = "active"
		if old.status == "past_due" || old.status == "unpaid" {
			c.sub.status = old.status
		}
	}
	paid := old.status == "active" || old.status == "past_due" || old.status == "unpaid"
	if behavior != "none" && paid && (c.touched || c.reset) {
		c.prorations = s.prorate(old, c)
	}
	if behavior == "always_invoice" && len(c.prorations)+len(c.extra) > 0 {
		c.invoiceNow = true
	}
	return c, nil
}

// changeItems applies the items of a request to the copy of a subscription.
func (s *Simulator) changeItems(c *change, specs []itemSpec, path string) error {
	for i, spec := range specs {
		param := func(n string) string { return wireName([]string{path, itoa(i), n}) }
		if spec.id == "" {
			if spec.deleted {
				return badRequest("parameter_missing", param("id"), "You must pass the id of the subscription item to delete.")
			}
			if spec.price == nil {
				return badRequest("parameter_missing", param("price"), "Missing required param: %s.", param("price"))
			}
			if err := refuseQuantity(spec.price, spec.given, param("quantity")); err != nil {
				return err
			}
			it := &item{sub: c.sub.id, price: spec.price.id, quantity: spec.quantity}
			it.metadata = spec.metadata(nil)
			c.sub.items = append(c.sub.items, it)
			c.touched = true
			continue
		}
		at := slices.IndexFunc(c.sub.items, func(it *item) bool { return it.id == spec.id })
		if at < 0 {
			return missing("subscription item", spec.id, param("id"))
		}
		it := c.sub.items[at]
		if spec.deleted {
			if must[*price](s, kindPrice, it.price).metered && !spec.clear && s.usage(c.sub, it, c.sub.periodStart, s.at(c.sub.clock)) > 0 {
				return badRequest("", param("deleted"), "Subscription item %s cannot be deleted because it has usage. Pass `clear_usage=true` to clear usage and delete the item.", it.id)
			}
			c.sub.items = slices.Delete(c.sub.items, at, at+1)
			c.touched = true
			continue
		}
		it.metadata = spec.metadata(it.metadata)
		if spec.price != nil && spec.price.id != it.price {
			it.price = spec.price.id
			c.touched = true
		}
		if err := refuseQuantity(must[*price](s, kindPrice, it.price), spec.given, param("quantity")); err != nil {
			return err
		}
		if spec.given && spec.quantity != it.quantity {
			it.quantity = spec.quantity
			c.touched = true
		}
	}
	return s.checkItems(c.sub)
}

// bill builds the invoice that a change makes now.
func (s *Simulator) bill(c *change, stored bool) *invoice {
	sub := c.sub
	v := &invoice{
		customer: sub.customer, subscription: sub.id, currency: sub.currency, reason: "subscription_update", periodStart: s.at(sub.clock),
		periodEnd: s.at(sub.clock), autoAdvance: true, prorationDate: c.date,
	}
	s.addPending(v, sub)
	if !stored {
		for _, x := range slices.Concat(c.prorations, c.extra) {
			v.lines = append(v.lines, x.line())
		}
	}
	if c.reset {
		if c.from > 0 {
			s.addUsage(v, sub, c.from, s.at(sub.clock))
		}
		for _, it := range sub.items {
			if !must[*price](s, kindPrice, it.price).metered {
				v.lines = append(v.lines, s.periodLine(sub, it, sub.periodStart, sub.periodEnd))
			}
		}
	}
	v.discounts = s.runningDiscounts(sub)
	v.sum(s)
	return v
}

func (s *Simulator) updateSubscription(c *call) (any, error) {
	f := c.form
	sub, err := find[*subscription](s, kindSubscription, c.id(), "")
	if err != nil {
		return nil, err
	}
	if sub.ended() {
		if slices.ContainsFunc(f.keys, func(key string) bool { return key != "metadata" && key != "expand" }) {
			return nil, badRequest("resource_missing", "id", "No such subscription: '%s'. A canceled subscription can only update its cancellation_details and metadata.", sub.id)
		}
		s.change("customer.subscription.updated", sub, func() { sub.metadata = f.merge("metadata", sub.metadata) })
		return sub, nil
	}
	if sub.status == "incomplete" && (f.has("items") || f.has("trial_end")) {
		return nil, badRequest("", "items", "You cannot update a subscription in `incomplete` status in any way that would create a new invoice.")
	}
	ch, err := s.work(sub, f, "")
	if err != nil {
		return nil, err
	}
	if err := s.setFields(ch, f); err != nil {
		return nil, err
	}
	behavior := f.str("payment_behavior")
	if ch.invoiceNow && behavior != "" && behavior != "allow_incomplete" && behavior != "default_incomplete" {
		if err := s.preflight(ch, behavior, f.bool("off_session")); err != nil {
			return nil, err
		}
	}
	s.apply(sub, ch, behavior, f.bool("off_session"))
	return sub, nil
}

// preflight refuses a change whose invoice would not be paid, before it has
// any effect.
func (s *Simulator) preflight(c *change, behavior string, offSession bool) error {
	if s.bill(c, false).due == 0 {
		return nil
	}
	pm := s.cardOf(c.sub)
	if pm == nil {
		return badRequest("resource_missing", "", "This customer has no attached payment source or default payment method.")
	}
	no, challenge := verdict(pm, offSession, false)
	if no == nil && !challenge {
		return nil
	}
	if behavior == "pending_if_incomplete" {
		return unsupported("payment_behavior=pending_if_incomplete with a payment that fails (pending updates)")
	}
	if no == nil {
		no = because("subscription_payment_intent_requires_action", "authentication_required", "Payment for this subscription requires additional user action before it can be completed successfully.")
	}
	return declined(*no)
}

// setFields reads what isn't about money into the copy of a subscription.
func (s *Simulator) setFields(c *change, f *form) error {
	sub, now := c.sub, s.at(c.sub.clock)
	if id := f.str("default_payment_method"); id != "" {
		pm, err := s.usablePM(id, sub.customer, "default_payment_method")
		if err != nil {
			return err
		}
		if pm.customer != sub.customer {
			return badRequest("", "default_payment_method", "The customer does not have a payment method with the ID %s. The payment method must be attached to the customer.", pm.id)
		}
		sub.defaultPM = id
	} else if f.has("default_payment_method") {
		sub.defaultPM = ""
	}
	if sub.schedule != "" && (f.has("cancel_at_period_end") || f.has("cancel_at")) {
		return badRequest("", "cancel_at_period_end", "The subscription is managed by the subscription schedule `%s`, and updating any cancelation behavior directly is not allowed. Please update the schedule instead.", sub.schedule)
	}
	if f.has("cancel_at_period_end") && f.str("cancel_at") != "" {
		return badRequest("", "cancel_at", "You can only pass one of `cancel_at` and `cancel_at_period_end`.")
	}
	if f.has("cancel_at_period_end") {
		sub.cancelAtPeriodEnd = f.bool("cancel_at_period_end")
		sub.cancelAt, sub.canceledAt, sub.cancelReason = 0, 0, ""
		if sub.cancelAtPeriodEnd {
			sub.cancelAt, sub.canceledAt, sub.cancelReason = sub.periodEnd, now, "cancellation_requested"
		}
	} else if f.has("cancel_at") {
		sub.cancelAtPeriodEnd, sub.cancelAt, sub.canceledAt, sub.cancelReason = false, 0, 0, ""
		if t := f.int("cancel_at"); t != 0 {
			if t <= now {
				return badRequest("", "cancel_at", "The `cancel_at` must be a timestamp in the future.")
			}
			sub.cancelAt, sub.canceledAt, sub.cancelReason = t, now, "cancellation_requested"
		}
	}
	if sub.cancelAtPeriodEnd {
		sub.cancelAt = sub.periodEnd
	}
	if f.has("cancellation_details.comment") {
		sub.comment = f.str("cancellation_details.comment")
	}
	if f.has("cancellation_details.feedback") {
		sub.feedback = f.str("cancellation_details.feedback")
	}
	if f.cleared("pause_collection") {
		sub.pauseBehavior, sub.resumesAt = "", 0
	} else if f.has("pause_collection") {
		sub.pauseBehavior, sub.resumesAt = f.str("pause_collection.behavior"), f.int("pause_collection.resumes_at")
		if sub.pauseBehavior == "" {
			return badRequest("parameter_missing", "pause_collection[behavior]", "Missing required param: pause_collection[behavior].")
		}
	}
	if f.has("description") {
		sub.description = f.str("description")
	}
	if f.has("payment_settings.save_default_payment_method") {
		sub.saveDefault = f.str("payment_settings.save_default_payment_method")
	}
	if f.has("payment_settings.payment_method_types") {
		sub.methodTypes = f.strings("payment_settings.payment_method_types")
	}
	if f.has("trial_settings.end_behavior.missing_payment_method") {
		sub.trialMissing = f.str("trial_settings.end_behavior.missing_payment_method")
	}
	sub.metadata = f.merge("metadata", sub.metadata)
	return nil
}

// apply makes a change that has been worked out.
func (s *Simulator) apply(sub *subscription, c *change, behavior string, offSession bool) {
	before := s.snapshot(sub)
	cust := must[*customer](s, kindCustomer, sub.customer)
	gone := slices.DeleteFunc(slices.Clone(sub.items), func(it *item) bool {
		return slices.ContainsFunc(c.sub.items, func(x *item) bool { return x.id == it.id })
	})
	kept := sub.items
	*sub = *c.sub
	for i, it := range sub.items {
		if it.id == "" {
			s.add(kindItem, s.newID("si_"), sub.clock, it)
			it.metadata = emptyMeta(it.metadata)
			continue
		}
		// The stored item stays the same one: others name it by its ID.
		at := slices.IndexFunc(kept, func(x *item) bool { return x.id == it.id })
		kept[at].price, kept[at].quantity, kept[at].metadata = it.price, it.quantity, it.metadata
		sub.items[i] = kept[at]
	}
	for _, it := range gone {
		s.remove(it)
	}
	if c.setDiscounts {
		sub.discounts = s.redeemAll(c.redemptions, cust, sub)
	}
	for _, x := range slices.Concat(c.prorations, c.extra) {
		x.subscription = sub.id
		if x.item == "" && x.proration {
			x.item = itemFor(sub, x.price)
		}
		s.add(kindInvoiceItem, s.newID("ii_"), sub.clock, x)
		s.emit("invoiceitem.created", x)
	}
	var v *invoice
	if c.invoiceNow {
		c.sub = sub
		v = s.newInvoice(s.bill(c, true))
		v.prorationDate = 0
		sub.latestInvoice = v.id
		if c.reset {
			sub.periodDiscounts = slices.Clone(v.discounts)
		}
	} else if c.touched && len(c.prorations) > 0 {
		sub.periodDiscounts = s.runningDiscounts(sub)
	}
	s.emitChange("customer.subscription.updated", sub, before)
	if v == nil {
		return
	}
	s.finalize(v)
	if v.status != "open" {
		return
	}
	if behavior == "default_incomplete" {
		s.subscriptionUnpaid(sub, v, false)
		return
	}
	s.collect(v, nil, offSession)
	if p, ok := get[*intent](s, kindIntent, v.intent); ok && p.status == "requires_action" {
		s.subscriptionUnpaid(sub, v, false)
	}
}

func itemFor(sub *subscription, priceID string) string {
	for _, it := range sub.items {
		if it.price == priceID {
			return it.id
		}
	}
	return ""
}

// cancelSubscription ends a subscription at once.
func (s *Simulator) cancelSubscription(c *call) (any, error) {
	f := c.form
	sub, err := find[*subscription](s, kindSubscription, c.id(), "")
	if err != nil {
		return nil, err
	}
	if sub.ended() {
		return nil, missing(kindSubscription, sub.id, "")
	}
	if f.has("cancellation_details.comment") {
		sub.comment = f.str("cancellation_details.comment")
	}
	if f.has("cancellation_details.feedback") {
		sub.feedback = f.str("cancellation_details.feedback")
	}
	s.cancelNow(sub, f.bool("prorate"), f.bool("invoice_now"))
	return sub, nil
}

func (s *Simulator) cancelNow(sub *subscription, prorate, invoiceNow bool) {
	if prorate && sub.status == "active" {
		ch := &change{sub: sub.clone(), date: s.at(sub.clock)}
		ch.sub.items = nil
		for _, x := range s.prorate(sub, ch) {
			s.add(kindInvoiceItem, s.newID("ii_"), sub.clock, x)
			s.emit("invoiceitem.created", x)
		}
	}
	if invoiceNow {
		if v := s.lastInvoice(sub); v != nil {
			v = s.newInvoice(v)
			sub.latestInvoice = v.id
			s.finalize(v)
			s.collect(v, nil, true)
		}
	}
	if sub.ended() {
		return
	}
	if sub.status == "incomplete" {
		if v := must[*invoice](s, kindInvoice, sub.latestInvoice); v.status == "open" {
			s.voidInvoice(v)
		}
	}
	s.endSubscription(sub, "canceled", "cancellation_requested")
}

// resumeSubscription starts a paused subscription again.
func (s *Simulator) resumeSubscription(c *call) (any, error) {
	sub, err := find[*subscription](s, kindSubscription, c.id(), "")
	if err != nil {
		return nil, err
	}
	if sub.status != "paused" {
		return nil, badRequest("", "", "Only subscriptions with status=paused can be resumed; this one is %s.", sub.status)
	}
	ch := &change{sub: sub.clone(), date: s.at(sub.clock), reset: true, invoiceNow: true}
	p := s.rhythm(sub)
	ch.sub.anchor, ch.sub.periodStart, ch.sub.status = ch.date, ch.date, "active"
	ch.sub.periodEnd = cycle(ch.date, p.interval, p.count).Border(1).Unix()
	s.apply(sub, ch, "", true)
	s.emit("customer.subscription.resumed", sub)
	return sub, nil
}

// deleteDiscount takes the discounts off a subscription.
func (s *Simulator) deleteDiscount(c *call) (any, error) {
	sub, err := find[*subscription](s, kindSubscription, c.id(), "")
	if err != nil {
		return nil, err
	}
	if len(sub.discounts) == 0 {
		return nil, missing("active discount for subscription", sub.id, "")
	}
	gone := sub.discounts[len(sub.discounts)-1]
	s.change("customer.subscription.updated", sub, func() { sub.discounts = nil })
	s.emit("customer.discount.deleted", gone)
	out := gone.render(s)
	out["deleted"] = true
	delete(out, "end")
	return out, nil
}

func itoa(n int) string { return strconv.Itoa(n) }

// atoi reads a number that has been checked.
func atoi(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}
