package stripesim

import (
	"slices"
)

func (s *Simulator) fetchInvoice(c *call) (any, error) {
	return find[*invoice](s, kindInvoice, c.id(), "")
}

func (s *Simulator) listInvoices(c *call) (any, error) {
	f := c.form
	items := newest(s, kindInvoice, func(v *invoice) bool {
		return (!f.has("customer") || v.customer == f.str("customer")) && (!f.has("subscription") || v.subscription == f.str("subscription")) &&
			(!f.has("status") || v.status == f.str("status"))
	})
	return &page{url: "/v1/invoices", items: within(f, entities(items)), window: f}, nil
}

func (s *Simulator) invoiceLines(c *call) (any, error) {
	v, err := find[*invoice](s, kindInvoice, c.id(), "")
	if err != nil {
		return nil, err
	}
	return &page{url: "/v1/invoices/" + v.id + "/lines", items: entities(slices.Clone(v.lines)), window: c.form}, nil
}

// createInvoice makes a draft of a customer's pending items.
func (s *Simulator) createInvoice(c *call) (any, error) {
	f := c.form
	cust, err := s.liveCustomer(f.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	now := s.at(cust.clock)
	v := &invoice{
		customer: cust.id, currency: f.str("currency"), reason: "manual", periodStart: now, periodEnd: now, autoAdvance: f.bool("auto_advance"),
		description: f.str("description"), defaultPM: f.str("default_payment_method"),
	}
	var pending []*invoiceItem
	if f.str("pending_invoice_items_behavior") == "include" {
		pending = s.pendingItems(cust.id, "")
	}
	if id := f.str("subscription"); id != "" {
		sub, err := find[*subscription](s, kindSubscription, id, "subscription")
		if err != nil {
			return nil, err
		}
		if sub.customer != cust.id {
			return nil, badRequest("", "subscription", "The subscription %s is of another customer.", id)
		}
		v.subscription = sub.id
		pending = s.pendingItems(cust.id, sub.id)
	}
	for _, x := range pending {
		v.lines = append(v.lines, x.line())
		v.currency = x.currency
	}
	if v.currency == "" {
		v.currency = cust.currencyOr("usd")
	}
	v.metadata = f.merge("metadata", nil)
	if v.autoAdvance {
		v.finalizeAt = now + draftTime
	}
	redemptions, err := s.readDiscounts(f, cust)
	if err != nil {
		return nil, err
	}
	if f.has("discounts") {
		s.newInvoice(v)
		s.change("invoice.updated", v, func() { s.setInvoiceDiscounts(v, s.redeemAll(redemptions, cust, v)) })
		return v, nil
	}
	if cust.discount != nil && cust.discount.running(now) {
		v.discounts = []*discount{cust.discount}
	}
	return s.newInvoice(v), nil
}

func (s *Simulator) updateInvoice(c *call) (any, error) {
	v, err := find[*invoice](s, kindInvoice, c.id(), "")
	if err != nil {
		return nil, err
	}
	f := c.form
	for _, name := range []string{"description", "discounts"} {
		if f.has(name) && v.status != "draft" {
			return nil, badRequest("invoice_not_editable", name, "Finalized invoices can't be updated in this way")
		}
	}
	cust := must[*customer](s, kindCustomer, v.customer)
	discounts, err := s.readDiscounts(f, cust)
	if err != nil {
		return nil, err
	}
	s.change("invoice.updated", v, func() {
		if f.has("discounts") {
			s.setInvoiceDiscounts(v, s.redeemAll(discounts, cust, v))
		}
		if f.has("description") {
			v.description = f.str("description")
		}
		if f.has("default_payment_method") {
			v.defaultPM = f.str("default_payment_method")
		}
		if f.has("auto_advance") {
			v.autoAdvance = f.bool("auto_advance")
			if v.status == "draft" && v.autoAdvance {
				v.finalizeAt = s.at(v.clock) + draftTime
			}
		}
		v.metadata = f.merge("metadata", v.metadata)
	})
	return v, nil
}

// setInvoiceDiscounts replaces a draft's discounts. A subscription remembers
// what lowered its period, so that no more is credited than was paid.
func (s *Simulator) setInvoiceDiscounts(v *invoice, discounts []*discount) {
	v.discounts = discounts
	v.sum(s)
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok && sub.latestInvoice == v.id {
		sub.periodDiscounts = slices.Clone(discounts)
	}
}

func (s *Simulator) deleteInvoice(c *call) (any, error) {
	v, err := find[*invoice](s, kindInvoice, c.id(), "")
	if err != nil {
		return nil, err
	}
	if v.status != "draft" || v.subscription != "" {
		return nil, badRequest("invoice_not_editable", "id", "Only drafts that are not of a subscription can be deleted.")
	}
	for _, l := range v.lines {
		if it, ok := get[*invoiceItem](s, kindInvoiceItem, l.invoiceItem); ok {
			it.invoice = ""
		}
	}
	s.emit("invoice.deleted", v)
	s.remove(v)
	return object{"id": v.id, "object": kindInvoice, "deleted": true}, nil
}

func (s *Simulator) finalizeInvoice(c *call) (any, error) {
	v, err := find[*invoice](s, kindInvoice, c.id(), "")
	if err != nil {
		return nil, err
	}
	if v.status != "draft" {
		return nil, badRequest("invoice_no_longer_draft", "id", "This invoice is already finalized, you can't re-finalize a non-draft invoice.")
	}
	if c.form.has("auto_advance") {
		v.autoAdvance = c.form.bool("auto_advance")
	}
	s.finalize(v)
	if v.status == "open" && v.autoAdvance {
		// Stripe charges within the hour; the simulator with the next move.
		v.nextAttempt = s.at(v.clock) + draftTime
	}
	return v, nil
}

func (s *Simulator) payInvoice(c *call) (any, error) {
	v, err := find[*invoice](s, kindInvoice, c.id(), "")
	if err != nil {
		return nil, err
	}
	f := c.form
	switch v.status {
	case "draft":
		s.finalize(v)
	case "open", "uncollectible":
	default:
		return nil, badRequest("invoice_not_payable", "id", "Invoice is already %s", v.status)
	}
	if f.bool("paid_out_of_band") && v.status != "paid" {
		v.outOfBand = true
		s.cancelIntentOf(v, "")
		s.invoicePaid(v, nil)
		return v, nil
	}
	if v.status == "paid" {
		return v, nil
	}
	var pm *paymentMethod
	if id := f.str("payment_method"); id != "" {
		if pm, err = s.usablePM(id, v.customer, "payment_method"); err != nil {
			return nil, err
		}
	}
	if pm == nil && s.paymentMethodFor(v) == nil {
		return nil, badRequest("resource_missing", "", "There is no `default_payment_method` set on this Customer or Invoice. Please attach one.")
	}
	if v.status == "uncollectible" {
		v.status = "open"
	}
	no := s.collect(v, pm, f.has("off_session") && f.bool("off_session"))
	p := must[*intent](s, kindIntent, v.intent)
	if no != nil {
		return nil, s.intentError(p, *no)
	}
	if p.status == "requires_action" {
		e := declined(*because("invoice_payment_intent_requires_action", "", "Payment for this invoice requires additional user action before it can be completed successfully. Payment can be completed using the PaymentIntent associated with the invoice."))
		e.kind, e.status = "invalid_request_error", 400
		return nil, e
	}
	return v, nil
}

func (s *Simulator) voidInvoiceCall(c *call) (any, error) {
	v, err := find[*invoice](s, kindInvoice, c.id(), "")
	if err != nil {
		return nil, err
	}
	if v.status != "open" && v.status != "uncollectible" {
		return nil, badRequest("", "id", "You can only pass in open or uncollectible invoices. This invoice is %s.", v.status)
	}
	s.voidInvoice(v)
	return v, nil
}

func (s *Simulator) markInvoice(c *call) (any, error) {
	v, err := find[*invoice](s, kindInvoice, c.id(), "")
	if err != nil {
		return nil, err
	}
	if v.status != "open" {
		return nil, badRequest("", "id", "You can only mark an open invoice as uncollectible. This invoice is %s.", v.status)
	}
	s.markUncollectible(v)
	return v, nil
}
