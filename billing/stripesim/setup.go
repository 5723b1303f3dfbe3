package stripesim

const kindSetup = "setup_intent"

// setupIntent readies a card for later payments.
type setupIntent struct {
	head
	customer, description, paymentMethod, status, secret, cancelReason, returnURL, usage string
	failure                                                                              *decline
	failedPM                                                                             string
}

func (p *setupIntent) render(s *Simulator) object {
	var next any
	if p.status == "requires_action" {
		next = object{"type": "redirect_to_url", "redirect_to_url": object{"return_url": optional(p.returnURL), "url": s.link("/3ds/" + p.id)}}
	}
	return object{
		"id": p.id, "object": kindSetup, "application": nil, "automatic_payment_methods": nil, "cancellation_reason": optional(p.cancelReason),
		"client_secret": p.secret, "created": p.created, "customer": ref{kindCustomer, p.customer}, "description": optional(p.description),
		"flow_directions": nil, "last_setup_error": s.failureOf(p.failure, p.failedPM, ""), "latest_attempt": nil, "livemode": false, "mandate": nil,
		"metadata": copyMeta(p.metadata), "next_action": next, "on_behalf_of": nil, "payment_method": ref{kindPaymentMethod, p.paymentMethod},
		"payment_method_options": object{"card": object{"mandate_options": nil, "network": nil, "request_three_d_secure": "automatic"}},
		"payment_method_types":   []any{"card"}, "single_use_mandate": nil, "status": p.status, "usage": p.usage,
	}
}

func (s *Simulator) newSetup(cust *customer) *setupIntent {
	p := &setupIntent{status: "requires_payment_method", usage: "off_session"}
	clock := ""
	if cust != nil {
		p.customer, clock = cust.id, cust.clock
	}
	s.add(kindSetup, s.newID("seti_"), clock, p)
	p.secret = p.id + "_secret_" + s.newID("")
	s.emit("setup_intent.created", p)
	return p
}

// confirmSetup readies a card. It returns the decline, or nil when it worked
// or waits for the customer.
func (s *Simulator) confirmSetup(p *setupIntent, pm *paymentMethod, authenticated bool) *decline {
	p.paymentMethod = pm.id
	if no := pm.card.decline; no != nil && !pm.card.attaches {
		p.status, p.failure, p.failedPM, p.paymentMethod = "requires_payment_method", no, pm.id, ""
		s.emit("setup_intent.setup_failed", p)
		return no
	}
	if pm.card.challenge != "" && !authenticated {
		p.status = "requires_action"
		s.emit("setup_intent.requires_action", p)
		return nil
	}
	pm.setUp = true
	p.status, p.failure, p.failedPM = "succeeded", nil, ""
	if cust, ok := get[*customer](s, kindCustomer, p.customer); ok {
		s.attach(pm, cust)
	}
	s.emit("setup_intent.succeeded", p)
	for _, sub := range all(s, kindSubscription, func(x *subscription) bool { return x.pendingSetup == p.id }) {
		s.change("customer.subscription.updated", sub, func() {
			sub.pendingSetup = ""
			if sub.defaultPM == "" {
				sub.defaultPM = pm.id
			}
		})
	}
	return nil
}

func (s *Simulator) createSetup(c *call) (any, error) {
	f := c.form
	var cust *customer
	var pm *paymentMethod
	var err error
	if id := f.str("customer"); id != "" {
		if cust, err = s.liveCustomer(id, "customer"); err != nil {
			return nil, err
		}
	}
	if id := f.str("payment_method"); id != "" {
		if pm, err = s.usablePM(id, f.str("customer"), "payment_method"); err != nil {
			return nil, err
		}
	}
	if f.bool("confirm") && pm == nil {
		return nil, badRequest("parameter_missing", "payment_method", "You cannot confirm this SetupIntent because it's missing a payment method.")
	}
	p := s.newSetup(cust)
	p.description, p.returnURL, p.metadata = f.str("description"), f.str("return_url"), f.merge("metadata", nil)
	if f.has("usage") {
		p.usage = f.str("usage")
	}
	if pm != nil {
		p.paymentMethod, p.status = pm.id, "requires_confirmation"
	}
	if f.bool("confirm") {
		if no := s.confirmSetup(p, pm, false); no != nil {
			return nil, s.setupError(p, *no)
		}
	}
	return p, nil
}

func (s *Simulator) setupError(p *setupIntent, no decline) error {
	e := declined(no)
	e.with["setup_intent"] = entity(p)
	return e
}

func (s *Simulator) confirmSetupIntent(c *call) (any, error) {
	p, err := find[*setupIntent](s, kindSetup, c.id(), "")
	if err != nil {
		return nil, err
	}
	if p.status == "succeeded" || p.status == "canceled" {
		return nil, badRequest("setup_intent_unexpected_state", "", "You cannot confirm this SetupIntent because it has a status of %s.", p.status)
	}
	id := c.form.str("payment_method")
	if id == "" {
		id = p.paymentMethod
	}
	if id == "" {
		return nil, badRequest("parameter_missing", "payment_method", "You cannot confirm this SetupIntent because it's missing a payment method.")
	}
	pm, err := s.usablePM(id, p.customer, "payment_method")
	if err != nil {
		return nil, err
	}
	if c.form.has("return_url") {
		p.returnURL = c.form.str("return_url")
	}
	if no := s.confirmSetup(p, pm, false); no != nil {
		return nil, s.setupError(p, *no)
	}
	return p, nil
}

func (s *Simulator) cancelSetup(c *call) (any, error) {
	p, err := find[*setupIntent](s, kindSetup, c.id(), "")
	if err != nil {
		return nil, err
	}
	if p.status == "succeeded" || p.status == "canceled" {
		return nil, badRequest("setup_intent_unexpected_state", "", "You cannot cancel this SetupIntent because it has a status of %s.", p.status)
	}
	p.status, p.cancelReason = "canceled", c.form.str("cancellation_reason")
	s.emit("setup_intent.canceled", p)
	return p, nil
}

func (s *Simulator) fetchSetup(c *call) (any, error) {
	return find[*setupIntent](s, kindSetup, c.id(), "")
}

func (s *Simulator) listSetups(c *call) (any, error) {
	id := c.form.str("customer")
	items := newest(s, kindSetup, func(p *setupIntent) bool { return id == "" || p.customer == id })
	return &page{url: "/v1/setup_intents", items: within(c.form, entities(items)), window: c.form}, nil
}
