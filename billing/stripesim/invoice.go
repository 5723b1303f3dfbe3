package stripesim

import (
	"math/big"
	"slices"
)

const (
	kindInvoice     = "invoice"
	kindInvoiceItem = "invoiceitem"
)

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
	to                                               *billed // nil before the finalisation
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
		if len(pr.tiers) == 0 {
			unitExTax = pr.decimal
		}
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

// billed is the customer as it was when the invoice was finalised, and as it is
// now before that.
func (v *invoice) billed(s *Simulator) billed {
	if v.to != nil {
		return *v.to
	}
	return must[*customer](s, kindCustomer, v.customer).billed()
}

func (v *invoice) render(s *Simulator) object {
	to := v.billed(s)
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
		"customer": ref{kindCustomer, v.customer}, "customer_address": to.address, "customer_email": optional(to.email),
		"customer_name": optional(to.name), "customer_phone": optional(to.phone), "customer_shipping": to.shipping,
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
