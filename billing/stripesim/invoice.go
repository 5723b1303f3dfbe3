package stripesim

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"time"
)

const (
	kindInvoice     = "invoice"
	kindInvoiceItem = "invoiceitem"
)

// draftTime is how long an invoice of a renewal can be changed before it is
// finalised.
const draftTime = int64(time.Hour / time.Second)

// maxRetries bounds a dunning schedule.
const maxRetries = 16

type invoice struct {
	head
	customer, subscription, currency, status, reason string
	number, token, description, defaultPM            string
	intent, charge                                   string
	lines                                            []*line
	discounts                                        []*discount
	discountAmounts                                  []discountAmount
	subtotal, total, due, paid, remaining            int64
	startBalance, endBalance                         int64
	preCredit, postCredit                            int64
	periodStart, periodEnd                           int64
	attempts                                         int64
	attempted, autoAdvance, outOfBand                bool
	finalizeAt, nextAttempt                          int64
	effectiveAt, finalizedAt, paidAt                 int64
	voidedAt, uncollectibleAt                        int64
	retries                                          int   // that have been used of the schedule
	prorationDate                                    int64 // of a preview
	preview                                          bool
}

type discountAmount struct {
	discount *discount
	amount   int64
}

type line struct {
	head
	typ, description, price, subscription, item, invoiceItem, invoice string
	amount, quantity, start, end                                      int64
	hasQuantity, proration, discountable                              bool
	discounts                                                         []discountAmount
}

func (l *line) render(s *Simulator) object {
	var p any
	var plan any
	unitExTax := any(nil)
	if l.price != "" {
		pr := must[*price](s, kindPrice, l.price)
		p, plan = entity(pr), pr.plan()
		unitExTax = pr.decimal
	}
	amounts := []any{}
	for _, d := range l.discounts {
		amounts = append(amounts, object{"amount": d.amount, "discount": ref{kindDiscount, d.discount.id}})
	}
	out := object{
		"id": l.id, "object": "line_item", "amount": l.amount, "amount_excluding_tax": l.amount, "currency": l.currency(s),
		"description": optional(l.description), "discount_amounts": amounts, "discountable": l.discountable, "discounts": []any{},
		"invoice": optional(l.invoice), "livemode": false, "metadata": copyMeta(l.metadata), "period": object{"start": l.start, "end": l.end}, "plan": plan, "price": p,
		"proration": l.proration, "proration_details": object{"credited_items": nil}, "quantity": nil, "subscription": ref{kindSubscription, l.subscription},
		"tax_amounts": []any{}, "tax_rates": []any{}, "type": l.typ, "unit_amount_excluding_tax": unitExTax,
	}
	if l.hasQuantity {
		out["quantity"] = l.quantity
	}
	if l.item != "" {
		out["subscription_item"] = l.item
	}
	if l.invoiceItem != "" {
		out["invoice_item"] = l.invoiceItem
	}
	return out
}

func (l *line) currency(s *Simulator) string {
	if inv, ok := get[*invoice](s, kindInvoice, l.invoice); ok {
		return inv.currency
	}
	if p, ok := get[*price](s, kindPrice, l.price); ok {
		return p.currency
	}
	return "usd"
}

func (v *invoice) render(s *Simulator) object {
	cust := must[*customer](s, kindCustomer, v.customer)
	lines := make([]entity, len(v.lines))
	for i, l := range v.lines {
		lines[i] = l
	}
	url := "/v1/invoices/" + v.id + "/lines"
	if v.preview {
		url = "/v1/invoices/upcoming/lines?customer=" + v.customer
	}
	var subDetails any
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok {
		subDetails = object{"metadata": copyMeta(sub.metadata)}
	}
	amounts, discounts := []any{}, []any{}
	var lastDiscount any
	for _, d := range v.discountAmounts {
		amounts = append(amounts, object{"amount": d.amount, "discount": ref{kindDiscount, d.discount.id}})
		discounts = append(discounts, ref{kindDiscount, d.discount.id})
		lastDiscount = entity(d.discount)
	}
	out := object{
		"id": v.id, "object": kindInvoice, "account_country": "US", "account_name": s.cfg.MerchantName, "account_tax_ids": nil,
		"amount_due": v.due, "amount_paid": v.paid, "amount_remaining": v.remaining, "amount_shipping": 0, "application": nil,
		"application_fee_amount": nil, "attempt_count": v.attempts, "attempted": v.attempted, "auto_advance": v.autoAdvance,
		"automatic_tax": object{"enabled": false, "liability": nil, "status": nil}, "billing_reason": v.reason, "charge": ref{kindCharge, v.charge},
		"collection_method": "charge_automatically", "created": v.created, "currency": v.currency, "custom_fields": nil,
		"customer": ref{kindCustomer, v.customer}, "customer_address": cust.address, "customer_email": optional(cust.email),
		"customer_name": optional(cust.name), "customer_phone": optional(cust.phone), "customer_shipping": cust.shipping,
		"customer_tax_exempt": "none", "customer_tax_ids": []any{}, "default_payment_method": ref{kindPaymentMethod, v.defaultPM}, "default_source": nil,
		"default_tax_rates": []any{}, "description": optional(v.description), "discount": lastDiscount, "discounts": discounts, "due_date": nil,
		"effective_at": stamp(v.effectiveAt), "ending_balance": nil, "footer": nil, "from_invoice": nil, "hosted_invoice_url": nil, "invoice_pdf": nil,
		"issuer": object{"type": "self"}, "last_finalization_error": nil, "latest_revision": nil, "lines": inline(url, lines, false), "livemode": false,
		"metadata": copyMeta(v.metadata), "next_payment_attempt": stamp(v.nextAttempt), "number": optional(v.number), "on_behalf_of": nil,
		"paid": v.status == "paid", "paid_out_of_band": v.outOfBand, "payment_intent": ref{kindIntent, v.intent},
		"payment_settings": object{"default_mandate": nil, "payment_method_options": nil, "payment_method_types": nil},
		"period_end":       v.periodEnd, "period_start": v.periodStart, "post_payment_credit_notes_amount": v.postCredit,
		"pre_payment_credit_notes_amount": v.preCredit, "quote": nil, "receipt_number": nil, "rendering": nil, "rendering_options": nil,
		"shipping_cost": nil, "shipping_details": nil, "starting_balance": v.startBalance, "statement_descriptor": nil, "status": v.status,
		"status_transitions": object{
			"finalized_at": stamp(v.finalizedAt), "marked_uncollectible_at": stamp(v.uncollectibleAt), "paid_at": stamp(v.paidAt), "voided_at": stamp(v.voidedAt),
		},
		"subscription": ref{kindSubscription, v.subscription}, "subscription_details": subDetails, "subtotal": v.subtotal,
		"subtotal_excluding_tax": v.subtotal, "tax": nil, "test_clock": ref{kindTestClock, v.clock}, "total": v.total,
		"total_discount_amounts": amounts, "total_excluding_tax": v.total, "total_tax_amounts": []any{}, "transfer_data": nil,
		"webhooks_delivered_at": stamp(v.finalizedAt),
	}
	out["payments"] = lazy(func() any { return s.payments(v) })
	out["confirmation_secret"] = lazy(func() any {
		if p, ok := get[*intent](s, kindIntent, v.intent); ok {
			return object{"client_secret": p.secret, "type": "payment_intent"}
		}
		return nil
	})
	switch {
	case v.preview:
		delete(out, "id")
		out["next_payment_attempt"], out["ending_balance"] = stamp(v.nextAttempt), v.endBalance
		out["subscription_proration_date"] = v.prorationDate
		if v.prorationDate == 0 {
			delete(out, "subscription_proration_date")
		}
	case v.status == "draft":
		out["next_payment_attempt"] = stamp(v.finalizeAt)
	default:
		out["ending_balance"] = v.endBalance
		out["hosted_invoice_url"] = s.link("/i/" + v.token)
		out["invoice_pdf"] = s.link("/i/" + v.token + "/pdf")
	}
	return out
}

// payments is the newer form of an invoice's payment intent.
func (s *Simulator) payments(v *invoice) object {
	data := []any{}
	if p, ok := get[*intent](s, kindIntent, v.intent); ok {
		status, paidAt, paid := "open", any(nil), any(nil)
		switch p.status {
		case "succeeded":
			status, paidAt, paid = "paid", v.paidAt, p.received
		case "canceled":
			status = "canceled"
		}
		data = append(data, object{
			"id": "inpay_" + p.id[len("pi_"):], "object": "invoice_payment", "amount_paid": paid, "amount_requested": p.amount, "created": p.created,
			"currency": p.currency, "invoice": ref{kindInvoice, v.id}, "is_default": true, "livemode": false,
			"payment":            object{"type": "payment_intent", "payment_intent": ref{kindIntent, p.id}},
			"status":             status,
			"status_transitions": object{"canceled_at": stamp(p.canceledAt), "paid_at": paidAt},
		})
	}
	return object{"object": "list", "data": data, "has_more": false, "url": "/v1/invoice_payments?invoice=" + v.id}
}

// sum computes an invoice's totals from its lines and discounts.
func (v *invoice) sum(s *Simulator) {
	v.subtotal, v.discountAmounts = 0, nil
	left := make([]int64, len(v.lines))
	for i, l := range v.lines {
		v.subtotal += l.amount
		left[i], l.discounts = l.amount, nil
	}
	v.total = v.subtotal
	for _, d := range v.discounts {
		shares, off := s.share(d.coupon, v, left)
		for i, share := range shares {
			if share != 0 {
				v.lines[i].discounts = append(v.lines[i].discounts, discountAmount{d, share})
				left[i] -= share
			}
		}
		v.total -= off
		v.discountAmounts = append(v.discountAmounts, discountAmount{d, off})
	}
	v.startBalance = 0
	if cust, ok := get[*customer](s, kindCustomer, v.customer); ok {
		v.startBalance = cust.balance
	}
	v.due, v.endBalance = settleBalance(v.total, v.startBalance)
	v.remaining = v.due
}

// settleBalance applies a customer's balance to a total: credit pays first, a
// debit is collected with it, and a negative total becomes credit.
func settleBalance(total, balance int64) (due, ending int64) {
	sum := total + balance
	if total <= 0 || sum <= 0 {
		// Nothing to collect: a debit waits for an invoice with an amount.
		return 0, sum
	}
	return sum, 0
}

// share spreads a coupon over the lines that it applies to, so that the
// shares sum to what it takes off.
func (s *Simulator) share(c *coupon, v *invoice, left []int64) ([]int64, int64) {
	weights := make([]int64, len(left))
	var base int64
	for i, l := range v.lines {
		if !l.discountable || left[i] <= 0 || !s.applies(c, l.price) {
			continue
		}
		weights[i] = left[i]
		base += left[i]
	}
	if base == 0 || c.percentOff == nil && c.currency != v.currency {
		return make([]int64, len(left)), 0
	}
	off := min(c.amountOff, base)
	if c.percentOff != nil {
		off = round(new(big.Rat).Mul(c.percentOff, big.NewRat(base, 100)))
	}
	return allocate(off, weights), off
}

func (s *Simulator) applies(c *coupon, priceID string) bool {
	if len(c.products) == 0 {
		return true
	}
	p, ok := get[*price](s, kindPrice, priceID)
	return ok && slices.Contains(c.products, p.product)
}

// allocate splits an amount by weights with the largest remainders first: the
// parts sum to the amount, and no part exceeds its weight's due by a unit.
func allocate(amount int64, weights []int64) []int64 {
	out := make([]int64, len(weights))
	var sum int64
	for _, w := range weights {
		sum += w
	}
	if sum == 0 {
		return out
	}
	type rest struct {
		i int
		r *big.Int
	}
	rests := make([]rest, 0, len(weights))
	left := amount
	for i, w := range weights {
		q, r := new(big.Int).QuoRem(new(big.Int).Mul(big.NewInt(amount), big.NewInt(w)), big.NewInt(sum), new(big.Int))
		out[i] = q.Int64()
		left -= out[i]
		rests = append(rests, rest{i, r})
	}
	slices.SortStableFunc(rests, func(a, b rest) int { return b.r.Cmp(a.r) })
	for k := 0; left > 0; k++ {
		out[rests[k].i]++
		left--
	}
	return out
}

// newInvoice completes an invoice that has been built, stores it as a draft
// and takes the pending items that it contains.
func (s *Simulator) newInvoice(v *invoice) *invoice {
	cust := must[*customer](s, kindCustomer, v.customer)
	v.status = "draft"
	s.add(kindInvoice, s.newID("in_"), cust.clock, v)
	v.token = s.newID("inv_")
	for _, l := range v.lines {
		s.seq++
		l.id, l.seq, l.invoice = s.newID("il_"), s.seq, v.id
		if l.metadata == nil {
			l.metadata = map[string]string{}
		}
		if it, ok := get[*invoiceItem](s, kindInvoiceItem, l.invoiceItem); ok {
			it.invoice = v.id
		}
	}
	v.sum(s)
	s.emit("invoice.created", v)
	return v
}

// finalize fixes an invoice's amounts, applies the customer's balance, and
// opens it for payment.
func (s *Simulator) finalize(v *invoice) {
	cust := must[*customer](s, kindCustomer, v.customer)
	v.sum(s)
	now := s.at(v.clock)
	v.status, v.finalizedAt, v.effectiveAt, v.finalizeAt = "open", now, now, 0
	v.number = fmt.Sprintf("%s-%04d", cust.invoicePrefix, cust.nextInvoice)
	cust.nextInvoice++
	if delta := v.endBalance - v.startBalance; delta != 0 {
		s.change("customer.updated", cust, func() { s.adjustBalance(cust, delta, v.currency, "applied_to_invoice", v.id, "") })
	}
	for _, d := range v.discountAmounts {
		if d.discount.coupon.duration == "once" {
			d.discount.used = true
		}
	}
	if v.due > 0 {
		p := s.newIntent(v.due, v.currency, cust, v.id)
		p.description = "Invoice " + v.number
		p.futureUsage = "off_session"
		v.intent = p.id
		if pm := s.paymentMethodFor(v); pm != nil {
			p.paymentMethod, p.status = pm.id, "requires_confirmation"
		}
	}
	s.emit("invoice.finalized", v)
	if v.due == 0 {
		s.invoicePaid(v, nil)
	}
}

// paymentMethodFor is the card that an invoice is charged to: the invoice's
// own, the subscription's, the customer's.
func (s *Simulator) paymentMethodFor(v *invoice) *paymentMethod {
	ids := []string{v.defaultPM}
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok {
		ids = append(ids, sub.defaultPM)
	}
	ids = append(ids, must[*customer](s, kindCustomer, v.customer).defaultPM)
	for _, id := range ids {
		if pm, ok := get[*paymentMethod](s, kindPaymentMethod, id); ok && !pm.detached {
			return pm
		}
	}
	return nil
}

// noCard is the failure of an automatic payment without a card.
var noCard = decline{code: "payment_method_missing", message: "There is no default payment method set on this customer. Please add one to pay this invoice."}

// collect tries to pay an open invoice with the card that is there. It
// returns why not, or nil.
func (s *Simulator) collect(v *invoice, pm *paymentMethod, offSession bool) *decline {
	if v.status != "open" || v.remaining == 0 {
		return nil
	}
	if pm == nil {
		if pm = s.paymentMethodFor(v); pm == nil {
			s.invoiceFailed(v)
			return &noCard
		}
	}
	p := must[*intent](s, kindIntent, v.intent)
	no := s.confirm(p, pm, offSession, false)
	if no != nil {
		s.invoiceFailed(v)
	}
	return no
}

// invoicePaid marks an invoice as paid, by a charge or because nothing is
// due, and moves its subscription on.
func (s *Simulator) invoicePaid(v *invoice, ch *charge) {
	if v.status != "open" && v.status != "uncollectible" {
		return
	}
	v.status, v.paidAt, v.nextAttempt, v.attempted = "paid", s.at(v.clock), 0, true
	v.paid, v.remaining = v.due, 0
	if ch != nil {
		v.charge = ch.id
		v.attempts++
	}
	s.setDelinquent(v, false)
	s.emit("invoice.paid", v)
	s.emit("invoice.payment_succeeded", v)
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok {
		s.subscriptionPaid(sub, v, ch)
	}
}

// invoiceFailed notes an attempt that failed and plans the next one.
func (s *Simulator) invoiceFailed(v *invoice) {
	v.attempts++
	v.attempted = true
	s.setDelinquent(v, true)
	last := s.planRetry(v)
	s.emit("invoice.payment_failed", v)
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok {
		s.subscriptionUnpaid(sub, v, last)
	}
}

// planRetry takes the next wait of the dunning schedule and reports whether
// there is none left. A first invoice isn't retried: its subscription expires.
func (s *Simulator) planRetry(v *invoice) (last bool) {
	sub, ok := get[*subscription](s, kindSubscription, v.subscription)
	if !v.autoAdvance || ok && sub.status == "incomplete" {
		return false
	}
	waits := s.cfg.Dunning.Retries
	if v.retries == len(waits) {
		v.nextAttempt = 0
		return true
	}
	v.nextAttempt = s.at(v.clock) + int64(waits[v.retries]/time.Second)
	v.retries++
	return false
}

func (s *Simulator) setDelinquent(v *invoice, is bool) {
	cust := must[*customer](s, kindCustomer, v.customer)
	s.change("customer.updated", cust, func() { cust.delinquent = is })
}

// invoiceNeedsAction tells that the customer has to authenticate a payment.
func (s *Simulator) invoiceNeedsAction(v *invoice) {
	v.attempted = true
	s.emit("invoice.payment_action_required", v)
}

// invoiceDue returns when an invoice next does something by itself.
func (s *Simulator) invoiceDue(v *invoice) (int64, func()) {
	switch {
	case v.status == "draft" && v.autoAdvance && v.finalizeAt > 0:
		return v.finalizeAt, func() {
			s.finalize(v)
			s.firstAttempt(v)
		}
	case v.status == "open" && v.nextAttempt > 0:
		return v.nextAttempt, func() { s.retry(v) }
	}
	return 0, nil
}

// firstAttempt collects an invoice of a renewal, or does what a pause of
// collection says.
func (s *Simulator) firstAttempt(v *invoice) {
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok && v.status == "open" {
		switch sub.pauseBehavior {
		case "void":
			s.voidInvoice(v)
			return
		case "mark_uncollectible":
			s.markUncollectible(v)
			return
		}
	}
	s.collect(v, nil, true)
}

// retry is a later attempt of dunning. A card that failed for good isn't
// charged again until there is another one; its schedule runs on.
func (s *Simulator) retry(v *invoice) {
	p := must[*intent](s, kindIntent, v.intent)
	pm := s.paymentMethodFor(v)
	if p.failure == nil || !p.failure.hard() || pm == nil || pm.id != p.failedPM {
		s.collect(v, pm, true)
		return
	}
	last := false
	s.change("invoice.updated", v, func() { last = s.planRetry(v) })
	if sub, ok := get[*subscription](s, kindSubscription, v.subscription); ok && last {
		s.subscriptionUnpaid(sub, v, true)
	}
}

func (s *Simulator) voidInvoice(v *invoice) {
	v.status, v.voidedAt, v.nextAttempt, v.autoAdvance = "void", s.at(v.clock), 0, false
	s.cancelIntentOf(v, "void_invoice")
	s.returnBalance(v)
	s.emit("invoice.voided", v)
}

// returnBalance gives the credit back that a voided invoice had used.
func (s *Simulator) returnBalance(v *invoice) {
	if delta := v.startBalance - v.endBalance; delta != 0 {
		cust := must[*customer](s, kindCustomer, v.customer)
		s.change("customer.updated", cust, func() { s.adjustBalance(cust, delta, v.currency, "unapplied_from_invoice", v.id, "") })
	}
}

func (s *Simulator) cancelIntentOf(v *invoice, reason string) {
	if p, ok := get[*intent](s, kindIntent, v.intent); ok && p.status != "succeeded" && p.status != "canceled" {
		s.voidIntent(p, reason)
	}
}

func (s *Simulator) markUncollectible(v *invoice) {
	v.status, v.uncollectibleAt, v.nextAttempt = "uncollectible", s.at(v.clock), 0
	s.emit("invoice.marked_uncollectible", v)
}

// invoiceItem is an amount that waits for the next invoice, or stands on one.
type invoiceItem struct {
	head
	customer, currency, description, price, subscription, item, invoice string
	amount, quantity, start, end, date                                  int64
	proration, discountable                                             bool
}

func (it *invoiceItem) render(s *Simulator) object {
	out := object{
		"id": it.id, "object": kindInvoiceItem, "amount": it.amount, "currency": it.currency, "customer": ref{kindCustomer, it.customer},
		"date": it.date, "description": optional(it.description), "discountable": it.discountable, "discounts": []any{}, "invoice": ref{kindInvoice, it.invoice},
		"livemode": false, "metadata": copyMeta(it.metadata), "period": object{"start": it.start, "end": it.end}, "plan": nil, "price": nil,
		"proration": it.proration, "quantity": it.quantity, "subscription": ref{kindSubscription, it.subscription}, "tax_rates": []any{},
		"test_clock": ref{kindTestClock, it.clock}, "unit_amount": it.amount / max(1, it.quantity), "unit_amount_decimal": decimalText(big.NewRat(it.amount, max(1, it.quantity))),
	}
	if it.item != "" {
		out["subscription_item"] = it.item
	}
	if p, ok := get[*price](s, kindPrice, it.price); ok {
		out["price"], out["plan"] = entity(p), nil
		if p.interval != "" {
			out["plan"] = p.plan()
		}
	}
	return out
}

// line returns the invoice line of an item.
func (it *invoiceItem) line() *line {
	l := &line{
		typ: "invoiceitem", description: it.description, price: it.price, subscription: it.subscription, item: it.item, invoiceItem: it.id,
		amount: it.amount, quantity: it.quantity, hasQuantity: true, start: it.start, end: it.end, proration: it.proration, discountable: it.discountable,
	}
	l.metadata = cloneMeta(it.metadata)
	return l
}

// pendingItems are the items that the next invoice of a subscription, or of a
// customer without one, takes.
func (s *Simulator) pendingItems(customerID, subID string) []*invoiceItem {
	out := all(s, kindInvoiceItem, func(it *invoiceItem) bool {
		return it.customer == customerID && it.invoice == "" && (it.subscription == subID || it.subscription == "" && subID != "")
	})
	slices.SortStableFunc(out, func(a, b *invoiceItem) int { return cmp.Compare(a.seq, b.seq) })
	return out
}
