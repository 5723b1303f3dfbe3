package stripesim

const kindDispute = "dispute"

// dispute is a charge that the card's owner contests at the bank.
type dispute struct {
	head
	amount                           int64
	currency, charge, intent, reason string
	status                           string
	dueBy                            int64
}

func (d *dispute) render(s *Simulator) object {
	evidence := object{}
	for _, name := range []string{
		"access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure", "cancellation_rebuttal",
		"customer_communication", "customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature", "duplicate_charge_documentation",
		"duplicate_charge_explanation", "duplicate_charge_id", "product_description", "receipt", "refund_policy", "refund_policy_disclosure",
		"refund_refusal_explanation", "service_date", "service_documentation", "shipping_address", "shipping_carrier", "shipping_date",
		"shipping_documentation", "shipping_tracking_number", "uncategorized_file", "uncategorized_text",
	} {
		evidence[name] = nil
	}
	return object{
		"id": d.id, "object": kindDispute, "amount": d.amount, "balance_transactions": []any{}, "charge": ref{kindCharge, d.charge}, "created": d.created,
		"currency": d.currency, "evidence": evidence, "is_charge_refundable": false, "livemode": false, "metadata": copyMeta(d.metadata),
		"evidence_details": object{"due_by": d.dueBy, "has_evidence": false, "past_due": s.at(d.clock) > d.dueBy, "submission_count": 0},
		"payment_intent":   ref{kindIntent, d.intent}, "reason": d.reason, "status": d.status,
	}
}

// Dispute makes the card's owner contest a charge, and returns the dispute's
// ID. The money is taken back at once, as banks do. Reason is Stripe's, such
// as "fraudulent"; empty is that.
func (s *Simulator) Dispute(chargeID, reason string) (string, error) {
	defer s.pump() // after the unlock: deferred calls run backwards
	s.mu.Lock()
	defer s.mu.Unlock()
	ch, ok := get[*charge](s, kindCharge, chargeID)
	if !ok {
		return "", errNotFound("charge", chargeID)
	}
	if ch.status != "succeeded" || ch.disputed || ch.refunded == ch.amount {
		return "", invalid("charge %s can't be disputed", chargeID)
	}
	if reason == "" {
		reason = "fraudulent"
	}
	d := &dispute{amount: ch.amount - ch.refunded, currency: ch.currency, charge: ch.id, intent: ch.intent, reason: reason, status: "needs_response"}
	s.add(kindDispute, s.newID("dp_"), ch.clock, d)
	d.dueBy = d.created + 7*86400
	ch.disputed = true
	s.emit("charge.dispute.created", d)
	s.emit("charge.dispute.funds_withdrawn", d)
	return d.id, nil
}

// CloseDispute decides a dispute. Won gives the money back.
func (s *Simulator) CloseDispute(id string, won bool) error {
	defer s.pump() // after the unlock: deferred calls run backwards
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := get[*dispute](s, kindDispute, id)
	if !ok {
		return errNotFound("dispute", id)
	}
	if d.status != "needs_response" {
		return invalid("dispute %s is %s already", id, d.status)
	}
	s.decide(d, won)
	return nil
}

func (s *Simulator) decide(d *dispute, won bool) {
	d.status = "lost"
	if won {
		d.status = "won"
		ch := must[*charge](s, kindCharge, d.charge)
		ch.disputed = false
		s.emit("charge.dispute.funds_reinstated", d)
	}
	s.emit("charge.dispute.closed", d)
}

func (s *Simulator) fetchDispute(c *call) (any, error) {
	return find[*dispute](s, kindDispute, c.id(), "")
}

func (s *Simulator) listDisputes(c *call) (any, error) {
	f := c.form
	items := newest(s, kindDispute, func(d *dispute) bool {
		return (!f.has("charge") || d.charge == f.str("charge")) && (!f.has("payment_intent") || d.intent == f.str("payment_intent"))
	})
	return &page{url: "/v1/disputes", items: within(f, entities(items)), window: f}, nil
}

// closeDispute accepts that a dispute is lost.
func (s *Simulator) closeDispute(c *call) (any, error) {
	d, err := find[*dispute](s, kindDispute, c.id(), "")
	if err != nil {
		return nil, err
	}
	if d.status != "needs_response" {
		return nil, badRequest("", "id", "This dispute is already closed.")
	}
	s.decide(d, false)
	return d, nil
}
