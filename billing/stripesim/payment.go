package stripesim

import "strconv"

const (
	kindIntent = "payment_intent"
	kindCharge = "charge"
	kindRefund = "refund"
)

// intent is a payment intent.
type intent struct {
	head
	amount, received                         int64
	currency, customer, description, invoice string
	status, paymentMethod, latestCharge      string
	secret, futureUsage, cancelReason        string
	canceledAt                               int64
	failure                                  *decline
	failedPM                                 string // what the failure was of
	offSession                               bool
	returnURL                                string
}

func (p *intent) render(s *Simulator) object {
	var next any
	if p.status == "requires_action" {
		next = object{"type": "use_stripe_sdk", "use_stripe_sdk": object{"type": "three_d_secure_redirect", "stripe_js": s.link("/3ds/" + p.id), "source": "src_" + p.id}}
		if p.returnURL != "" {
			next = object{"type": "redirect_to_url", "redirect_to_url": object{"return_url": p.returnURL, "url": s.link("/3ds/" + p.id)}}
		}
	}
	return object{
		"id": p.id, "object": kindIntent, "amount": p.amount, "amount_capturable": 0, "amount_details": object{"tip": object{}},
		"amount_received": p.received, "application": nil, "application_fee_amount": nil, "automatic_payment_methods": nil,
		"canceled_at": stamp(p.canceledAt), "cancellation_reason": optional(p.cancelReason), "capture_method": "automatic",
		"client_secret": p.secret, "confirmation_method": "automatic", "created": p.created, "currency": p.currency,
		"customer": ref{kindCustomer, p.customer}, "description": optional(p.description), "invoice": ref{kindInvoice, p.invoice},
		"last_payment_error": s.failureOf(p.failure, p.failedPM, p.latestCharge), "latest_charge": ref{kindCharge, p.latestCharge},
		"livemode": false, "metadata": copyMeta(p.metadata), "next_action": next, "on_behalf_of": nil,
		"payment_method": ref{kindPaymentMethod, p.paymentMethod}, "payment_method_options": object{"card": object{
			"installments": nil, "mandate_options": nil, "network": nil, "request_three_d_secure": "automatic",
		}},
		"payment_method_types": []any{"card"}, "processing": nil, "receipt_email": nil, "review": nil, "setup_future_usage": optional(p.futureUsage),
		"shipping": nil, "source": nil, "statement_descriptor": nil, "statement_descriptor_suffix": nil, "status": p.status,
		"transfer_data": nil, "transfer_group": nil,
	}
}

// failureOf renders the last error of an intent.
func (s *Simulator) failureOf(d *decline, pmID, chargeID string) any {
	if d == nil {
		return nil
	}
	out := object{"type": "card_error", "code": d.code, "message": d.message, "doc_url": "https://stripe.com/docs/error-codes/" + dashed(d.code)}
	if d.declineCode != "" {
		out["decline_code"] = d.declineCode
	}
	if chargeID != "" {
		out["charge"] = chargeID
	}
	if pm, ok := get[*paymentMethod](s, kindPaymentMethod, pmID); ok {
		out["payment_method"] = entity(pm)
	}
	return out
}

// charge is one attempt to move money, whether it worked or not.
type charge struct {
	head
	amount, refunded                          int64
	currency, customer, invoice, intent, pmID string
	status, description                       string
	failure                                   *decline
	disputed                                  bool
	owner                                     object // of the card, as it was at the payment
}

func (c *charge) render(s *Simulator) object {
	pm := must[*paymentMethod](s, kindPaymentMethod, c.pmID)
	paid := c.status == "succeeded"
	outcome := object{"network_status": "approved_by_network", "reason": nil, "risk_level": "normal", "risk_score": 1, "seller_message": "Payment complete.", "type": "authorized"}
	var code, message any
	captured := c.amount
	if c.failure != nil {
		outcome = object{"network_status": "declined_by_network", "reason": optional(c.failure.declineCode), "risk_level": "normal", "risk_score": 1, "seller_message": "The bank refused the payment.", "type": "issuer_declined"}
		code, message, captured = c.failure.code, c.failure.message, 0
	}
	card := pm.render(s)["card"].(object)
	details := object{
		"amount_authorized": c.amount, "brand": card["brand"], "checks": card["checks"], "country": card["country"], "exp_month": pm.expMonth,
		"exp_year": pm.expYear, "fingerprint": card["fingerprint"], "funding": card["funding"], "installments": nil, "last4": card["last4"],
		"mandate": nil, "network": pm.card.brand, "three_d_secure": nil, "wallet": nil,
	}
	return object{
		"id": c.id, "object": kindCharge, "amount": c.amount, "amount_captured": captured, "amount_refunded": c.refunded, "application": nil,
		"application_fee": nil, "application_fee_amount": nil, "balance_transaction": nil, "billing_details": c.owner,
		"calculated_statement_descriptor": nil, "captured": paid, "created": c.created, "currency": c.currency,
		"customer": ref{kindCustomer, c.customer}, "description": optional(c.description), "destination": nil, "dispute": nil, "disputed": c.disputed,
		"failure_balance_transaction": nil, "failure_code": code, "failure_message": message, "fraud_details": object{},
		"invoice": ref{kindInvoice, c.invoice}, "livemode": false, "metadata": copyMeta(c.metadata), "on_behalf_of": nil, "order": nil, "outcome": outcome,
		"paid": paid, "payment_intent": ref{kindIntent, c.intent}, "payment_method": c.pmID,
		"payment_method_details": object{"type": "card", "card": details}, "receipt_email": nil, "receipt_number": nil, "receipt_url": nil,
		"refunded": c.refunded > 0 && c.refunded == c.amount, "review": nil, "shipping": nil, "source": nil, "source_transfer": nil,
		"statement_descriptor": nil, "statement_descriptor_suffix": nil, "status": c.status, "transfer_data": nil, "transfer_group": nil,
		"refunds": lazy(func() any {
			return inline("/v1/charges/"+c.id+"/refunds", entities(newest(s, kindRefund, func(r *refund) bool { return r.charge == c.id })), true)
		}),
	}
}

// verdict is what a bank says to a payment: nothing, a decline, or that the
// customer must prove who they are.
func verdict(pm *paymentMethod, offSession, authenticated bool) (no *decline, challenge bool) {
	wants := pm.card.challenge == "always" || pm.card.challenge == "setup" && !pm.setUp
	if wants && !authenticated {
		if offSession {
			return because("authentication_required", "authentication_required", "Your card was declined. This transaction requires authentication."), false
		}
		return nil, true
	}
	return pm.card.decline, false
}

// newIntent makes a payment intent that waits for a payment method.
func (s *Simulator) newIntent(amount int64, currency string, cust *customer, invoiceID string) *intent {
	p := &intent{amount: amount, currency: currency, invoice: invoiceID, status: "requires_payment_method"}
	clock := ""
	if cust != nil {
		p.customer, clock = cust.id, cust.clock
	}
	s.add(kindIntent, s.newID("pi_"), clock, p)
	p.secret = p.id + "_secret_" + s.newID("")
	s.emit("payment_intent.created", p)
	return p
}

// confirm tries to collect an intent. It returns the decline, or nil when the
// intent succeeded or waits for the customer.
func (s *Simulator) confirm(p *intent, pm *paymentMethod, offSession, authenticated bool) *decline {
	p.paymentMethod, p.offSession = pm.id, offSession
	no, challenge := verdict(pm, offSession, authenticated)
	switch {
	case challenge:
		p.status = "requires_action"
		s.emit("payment_intent.requires_action", p)
		if p.invoice != "" {
			s.invoiceNeedsAction(must[*invoice](s, kindInvoice, p.invoice))
		}
		return nil
	case no != nil:
		s.failIntent(p, pm, no)
		return no
	}
	ch := s.newCharge(p, pm, nil)
	p.status, p.received, p.latestCharge, p.failure, p.failedPM = "succeeded", p.amount, ch.id, nil, ""
	if authenticated || p.futureUsage == "off_session" {
		pm.setUp = pm.setUp || authenticated
	}
	if cust, ok := get[*customer](s, kindCustomer, p.customer); ok && cust.currency == "" {
		cust.currency = p.currency
	}
	s.emit("charge.succeeded", ch)
	s.emit("payment_intent.succeeded", p)
	if p.invoice != "" {
		s.invoicePaid(must[*invoice](s, kindInvoice, p.invoice), ch)
	}
	return nil
}

func (s *Simulator) failIntent(p *intent, pm *paymentMethod, no *decline) {
	ch := s.newCharge(p, pm, no)
	p.status, p.latestCharge, p.failure, p.failedPM, p.paymentMethod = "requires_payment_method", ch.id, no, pm.id, ""
	s.emit("charge.failed", ch)
	s.emit("payment_intent.payment_failed", p)
}

func (s *Simulator) newCharge(p *intent, pm *paymentMethod, no *decline) *charge {
	ch := &charge{
		amount: p.amount, currency: p.currency, customer: p.customer, invoice: p.invoice, intent: p.id, pmID: pm.id, status: "succeeded",
		failure: no, description: p.description, owner: pm.billing(),
	}
	if no != nil {
		ch.status = "failed"
	}
	s.add(kindCharge, s.newID("ch_"), p.clock, ch)
	return ch
}

func (s *Simulator) createIntent(c *call) (any, error) {
	f := c.form
	amount := f.int("amount")
	if amount < 1 {
		return nil, badRequest("parameter_invalid_integer", "amount", "This value must be greater than or equal to 1.")
	}
	if !validCurrency(f.str("currency")) {
		return nil, badRequest("", "currency", "Invalid currency: %s", clip(f.str("currency")))
	}
	var cust *customer
	if id := f.str("customer"); id != "" {
		var err error
		if cust, err = s.liveCustomer(id, "customer"); err != nil {
			return nil, err
		}
	}
	var pm *paymentMethod
	if id := f.str("payment_method"); id != "" {
		var err error
		if pm, err = s.usablePM(id, f.str("customer"), "payment_method"); err != nil {
			return nil, err
		}
	}
	if f.bool("confirm") && pm == nil {
		return nil, badRequest("parameter_missing", "payment_method", "You cannot confirm this PaymentIntent because it's missing a payment method.")
	}
	p := s.newIntent(amount, f.str("currency"), cust, "")
	p.description, p.futureUsage, p.returnURL = f.str("description"), f.str("setup_future_usage"), f.str("return_url")
	p.metadata = f.merge("metadata", nil)
	if pm != nil {
		p.paymentMethod, p.status = pm.id, "requires_confirmation"
	}
	if f.bool("confirm") {
		if no := s.confirm(p, pm, f.bool("off_session"), false); no != nil {
			return nil, s.intentError(p, *no)
		}
		s.keepCard(p, pm, cust)
	}
	return p, nil
}

// keepCard attaches the card of a payment that is to be used again.
func (s *Simulator) keepCard(p *intent, pm *paymentMethod, cust *customer) {
	if cust != nil && p.status == "succeeded" && (p.futureUsage != "" || p.invoice != "") && pm.customer == "" {
		s.attach(pm, cust)
	}
}

// intentError is the answer to a confirmation that was declined: it carries
// the intent, so that the client can go on with it.
func (s *Simulator) intentError(p *intent, no decline) error {
	e := declined(no)
	e.with["payment_intent"] = entity(p)
	e.with["charge"] = p.latestCharge
	return e
}

func (s *Simulator) confirmIntent(c *call) (any, error) {
	p, err := find[*intent](s, kindIntent, c.id(), "")
	if err != nil {
		return nil, err
	}
	f := c.form
	switch p.status {
	case "requires_payment_method", "requires_confirmation", "requires_action":
	default:
		return nil, badRequest("payment_intent_unexpected_state", "", "You cannot confirm this PaymentIntent because it has already %s.", p.status)
	}
	id := f.str("payment_method")
	if id == "" {
		id = p.paymentMethod
	}
	if id == "" {
		return nil, badRequest("payment_intent_unexpected_state", "payment_method", "You cannot confirm this PaymentIntent because it's missing a payment method.")
	}
	pm, err := s.usablePM(id, p.customer, "payment_method")
	if err != nil {
		return nil, err
	}
	if f.has("return_url") {
		p.returnURL = f.str("return_url")
	}
	if f.has("setup_future_usage") {
		p.futureUsage = f.str("setup_future_usage")
	}
	if no := s.confirm(p, pm, f.bool("off_session"), false); no != nil {
		if p.invoice != "" {
			s.invoiceFailed(must[*invoice](s, kindInvoice, p.invoice))
		}
		return nil, s.intentError(p, *no)
	}
	if cust, ok := get[*customer](s, kindCustomer, p.customer); ok {
		s.keepCard(p, pm, cust)
	}
	return p, nil
}

func (s *Simulator) updateIntent(c *call) (any, error) {
	p, err := find[*intent](s, kindIntent, c.id(), "")
	if err != nil {
		return nil, err
	}
	if p.status == "succeeded" || p.status == "canceled" {
		if c.form.has("amount") || c.form.has("payment_method") {
			return nil, badRequest("payment_intent_unexpected_state", "", "This PaymentIntent could not be updated because it has a status of %s.", p.status)
		}
	}
	if p.invoice != "" && c.form.has("amount") {
		return nil, badRequest("", "amount", "You cannot change the amount of a PaymentIntent of an invoice.")
	}
	if id := c.form.str("payment_method"); id != "" {
		pm, err := s.usablePM(id, p.customer, "payment_method")
		if err != nil {
			return nil, err
		}
		p.paymentMethod, p.status = pm.id, "requires_confirmation"
	}
	p.amount = c.form.intOr("amount", p.amount)
	if c.form.has("description") {
		p.description = c.form.str("description")
	}
	if c.form.has("setup_future_usage") {
		p.futureUsage = c.form.str("setup_future_usage")
	}
	p.metadata = c.form.merge("metadata", p.metadata)
	return p, nil
}

func (s *Simulator) cancelIntent(c *call) (any, error) {
	p, err := find[*intent](s, kindIntent, c.id(), "")
	if err != nil {
		return nil, err
	}
	if p.status == "succeeded" || p.status == "canceled" {
		return nil, badRequest("payment_intent_unexpected_state", "", "You cannot cancel this PaymentIntent because it has a status of %s.", p.status)
	}
	if p.invoice != "" {
		return nil, badRequest("", "", "You cannot cancel the PaymentIntent of an invoice; void the invoice instead.")
	}
	s.voidIntent(p, c.form.str("cancellation_reason"))
	return p, nil
}

func (s *Simulator) voidIntent(p *intent, reason string) {
	p.status, p.cancelReason, p.canceledAt = "canceled", reason, s.at(p.clock)
	s.emit("payment_intent.canceled", p)
}

func (s *Simulator) fetchIntent(c *call) (any, error) {
	return find[*intent](s, kindIntent, c.id(), "")
}

func (s *Simulator) listIntents(c *call) (any, error) {
	id := c.form.str("customer")
	items := newest(s, kindIntent, func(p *intent) bool { return id == "" || p.customer == id })
	return &page{url: "/v1/payment_intents", items: within(c.form, entities(items)), window: c.form}, nil
}

func (s *Simulator) fetchCharge(c *call) (any, error) {
	return find[*charge](s, kindCharge, c.id(), "")
}

func (s *Simulator) listCharges(c *call) (any, error) {
	id, pi := c.form.str("customer"), c.form.str("payment_intent")
	items := newest(s, kindCharge, func(x *charge) bool { return (id == "" || x.customer == id) && (pi == "" || x.intent == pi) })
	return &page{url: "/v1/charges", items: within(c.form, entities(items)), window: c.form}, nil
}

type refund struct {
	head
	amount                           int64
	currency, charge, intent, reason string
	status                           string
}

func (r *refund) render(*Simulator) object {
	return object{
		"id": r.id, "object": kindRefund, "amount": r.amount, "balance_transaction": nil, "charge": ref{kindCharge, r.charge}, "created": r.created,
		"currency": r.currency, "destination_details": object{"type": "card", "card": object{
			"reference": r.reference(), "reference_status": "available", "reference_type": "acquirer_reference_number", "type": "refund",
		}},
		"metadata": copyMeta(r.metadata), "payment_intent": ref{kindIntent, r.intent}, "reason": optional(r.reason), "receipt_number": nil,
		"source_transfer_reversal": nil, "status": r.status, "transfer_reversal": nil,
	}
}

func (r *refund) reference() string { return strconv.FormatInt(1_000_000_000+r.seq, 10) }

func (s *Simulator) createRefund(c *call) (any, error) {
	f := c.form
	var ch *charge
	var err error
	switch {
	case f.has("charge"):
		ch, err = find[*charge](s, kindCharge, f.str("charge"), "charge")
	case f.has("payment_intent"):
		var p *intent
		if p, err = find[*intent](s, kindIntent, f.str("payment_intent"), "payment_intent"); err != nil {
			return nil, err
		}
		if p.status != "succeeded" {
			return nil, badRequest("charge_not_refundable", "payment_intent", "This PaymentIntent (%s) does not have a successful charge to refund.", p.id)
		}
		ch, err = find[*charge](s, kindCharge, p.latestCharge, "payment_intent")
	default:
		return nil, badRequest("parameter_missing", "charge", "One of the following params should be provided for this request: payment_intent or charge.")
	}
	if err != nil {
		return nil, err
	}
	amount := f.intOr("amount", ch.amount-ch.refunded)
	if err := refundable(ch, amount); err != nil {
		return nil, err
	}
	r := s.refund(ch, amount, f.str("reason"))
	r.metadata = f.merge("metadata", nil)
	return r, nil
}

func refundable(ch *charge, amount int64) error {
	switch {
	case ch.status != "succeeded":
		return badRequest("charge_not_refundable", "charge", "Charge %s did not succeed and can't be refunded.", ch.id)
	case ch.disputed:
		return badRequest("charge_disputed", "charge", "Charge %s has been charged back; cannot issue a refund.", ch.id)
	case ch.refunded == ch.amount:
		return badRequest("charge_already_refunded", "charge", "Charge %s has already been refunded.", ch.id)
	case amount < 1:
		return badRequest("parameter_invalid_integer", "amount", "This value must be greater than or equal to 1.")
	case amount > ch.amount-ch.refunded:
		return badRequest("", "amount", "Refund amount (%d) is greater than unrefunded amount on charge (%d)", amount, ch.amount-ch.refunded)
	}
	return nil
}

func (s *Simulator) refund(ch *charge, amount int64, reason string) *refund {
	r := &refund{amount: amount, currency: ch.currency, charge: ch.id, intent: ch.intent, reason: reason, status: "succeeded"}
	s.add(kindRefund, s.newID("re_"), ch.clock, r)
	s.emit("refund.created", r)
	before := s.snapshot(ch)
	ch.refunded += amount
	s.emitChange("charge.refunded", ch, before)
	return r
}

func (s *Simulator) fetchRefund(c *call) (any, error) {
	return find[*refund](s, kindRefund, c.id(), "")
}

func (s *Simulator) updateRefund(c *call) (any, error) {
	r, err := find[*refund](s, kindRefund, c.id(), "")
	if err != nil {
		return nil, err
	}
	s.change("charge.refund.updated", r, func() { r.metadata = c.form.merge("metadata", r.metadata) })
	return r, nil
}

func (s *Simulator) listRefunds(c *call) (any, error) {
	ch, pi := c.form.str("charge"), c.form.str("payment_intent")
	items := newest(s, kindRefund, func(r *refund) bool { return (ch == "" || r.charge == ch) && (pi == "" || r.intent == pi) })
	return &page{url: "/v1/refunds", items: within(c.form, entities(items)), window: c.form}, nil
}
