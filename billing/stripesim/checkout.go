package stripesim

import (
	"net/url"
	"strings"
	"time"
)

const kindSession = "checkout.session"

// sessionLife is how long a checkout session stays open.
const sessionLife = int64(24 * time.Hour / time.Second)

type session struct {
	head
	mode, status, paymentStatus            string
	customer, email, reference             string
	successURL, cancelURL                  string
	subscription, invoice, setup, intent   string
	items                                  []itemSpec
	currency                               string
	discounts                              []redemption
	allowCodes                             bool
	collection                             string // of a payment method: always, if_required
	expiresAt                              int64
	subMetadata                            map[string]string
	subDescription, trialEnd, trialMissing string
	trialDays                              int64
	subtotal, discounted, total            int64
	payerEmail, payerName                  string
	payer                                  *payer // whose payment waits for 3-D Secure
}

func (x *session) render(s *Simulator) object {
	var link any
	if x.status == "open" {
		link = s.link("/c/pay/" + x.id)
	}
	var details any
	email := x.payerEmail
	if email == "" {
		email = x.email
	}
	if x.status == "complete" || email != "" {
		details = object{"address": nil, "email": optional(email), "name": optional(x.payerName), "phone": nil, "tax_exempt": "none", "tax_ids": nil}
		if x.status == "complete" {
			details.(object)["tax_ids"] = []any{}
		}
	}
	var creation any
	if x.customer == "" {
		creation = "always"
	}
	out := object{
		"id": x.id, "object": kindSession, "after_expiration": nil, "allow_promotion_codes": nil, "amount_subtotal": x.subtotal, "amount_total": x.total,
		"automatic_tax": object{"enabled": false, "liability": nil, "status": nil}, "billing_address_collection": nil, "cancel_url": optional(x.cancelURL),
		"client_reference_id": optional(x.reference), "client_secret": nil, "consent": nil, "consent_collection": nil, "created": x.created,
		"currency": optional(x.currency), "currency_conversion": nil, "custom_fields": []any{},
		"custom_text": object{"after_submit": nil, "shipping_address": nil, "submit": nil, "terms_of_service_acceptance": nil},
		"customer":    ref{kindCustomer, x.customer}, "customer_creation": creation, "customer_details": details, "customer_email": optional(x.email),
		"expires_at": x.expiresAt, "invoice": ref{kindInvoice, x.invoice}, "invoice_creation": nil, "livemode": false, "locale": nil, "metadata": copyMeta(x.metadata),
		"mode": x.mode, "payment_intent": ref{kindIntent, x.intent}, "payment_link": nil, "payment_method_collection": x.collection,
		"payment_method_configuration_details": nil, "payment_method_options": object{}, "payment_method_types": []any{"card"},
		"payment_status": x.paymentStatus, "phone_number_collection": object{"enabled": false}, "recovered_from": nil, "setup_intent": ref{kindSetup, x.setup},
		"shipping_address_collection": nil, "shipping_cost": nil, "shipping_details": nil, "shipping_options": []any{}, "status": x.status, "submit_type": nil,
		"subscription": ref{kindSubscription, x.subscription}, "success_url": optional(x.successURL),
		"total_details": object{"amount_discount": x.discounted, "amount_shipping": 0, "amount_tax": 0}, "ui_mode": "hosted", "url": link,
		"line_items": lazy(func() any {
			return inline("/v1/checkout/sessions/"+x.id+"/line_items", s.sessionItems(x), false)
		}),
	}
	if x.allowCodes {
		out["allow_promotion_codes"] = true
	}
	if x.mode == "setup" {
		out["amount_subtotal"], out["amount_total"], out["total_details"] = nil, nil, nil
	}
	return out
}

// sessionItem is one item of a checkout session.
type sessionItem struct {
	head
	price              *price
	quantity           int64
	description        string
	subtotal, discount int64
}

func (x *sessionItem) render(*Simulator) object {
	out := object{
		"id": x.id, "object": "item", "amount_discount": x.discount, "amount_subtotal": x.subtotal, "amount_tax": 0, "amount_total": x.subtotal - x.discount,
		"currency": x.price.currency, "description": x.description, "price": entity(x.price), "quantity": nil,
	}
	if !x.price.metered {
		out["quantity"] = x.quantity
	}
	return out
}

func (s *Simulator) sessionItems(x *session) []entity {
	v := s.sessionInvoice(x, false)
	out := make([]entity, len(x.items))
	for i, spec := range x.items {
		it := &sessionItem{price: spec.price, quantity: spec.quantity, description: s.productName(spec.price), subtotal: v.lines[i].amount}
		it.id, it.seq = "li_"+strings.TrimPrefix(x.id, "cs_test_")[:20]+itoa(i), int64(i)
		for _, d := range v.lines[i].discounts {
			it.discount += d.amount
		}
		out[i] = it
	}
	return out
}

// sessionInvoice is what a session's first invoice would be; with a trial
// nothing is due today.
func (s *Simulator) sessionInvoice(x *session, today bool) *invoice {
	v := &invoice{customer: x.customer, currency: x.currency}
	for _, spec := range x.items {
		l := &line{price: spec.price.id, amount: spec.price.amount(spec.quantity), quantity: spec.quantity, discountable: true, description: s.productName(spec.price)}
		if spec.price.metered || today && (x.trialDays > 0 || x.trialEnd != "") {
			l.amount = 0
		}
		v.lines = append(v.lines, l)
	}
	for _, r := range x.discounts {
		v.discounts = append(v.discounts, r.trial(s))
	}
	v.sum(s)
	return v
}

func (s *Simulator) createSession(c *call) (any, error) {
	f := c.form
	x := &session{
		mode: f.str("mode"), status: "open", paymentStatus: "unpaid", email: f.str("customer_email"), reference: f.str("client_reference_id"),
		successURL: f.str("success_url"), cancelURL: f.str("cancel_url"), allowCodes: f.bool("allow_promotion_codes"), collection: "always",
		subMetadata: f.merge("subscription_data.metadata", nil), subDescription: f.str("subscription_data.description"),
		trialEnd: f.str("subscription_data.trial_end"), trialDays: f.int("subscription_data.trial_period_days"),
		trialMissing: f.str("subscription_data.trial_settings.end_behavior.missing_payment_method"),
	}
	if f.has("payment_method_collection") {
		x.collection = f.str("payment_method_collection")
	}
	if x.mode == "" {
		return nil, badRequest("parameter_missing", "mode", "Missing required param: mode.")
	}
	for _, name := range []string{"success_url", "cancel_url"} {
		if text := f.str(name); text != "" && !webURL(text) {
			return nil, badRequest("url_invalid", name, "Not a valid URL")
		}
	}
	if x.successURL == "" {
		return nil, badRequest("parameter_missing", "success_url", "Missing required param: success_url.")
	}
	var cust *customer
	if id := f.str("customer"); id != "" {
		var err error
		if cust, err = s.liveCustomer(id, "customer"); err != nil {
			return nil, err
		}
		if x.email != "" {
			return nil, badRequest("", "customer_email", "You may only specify one of these parameters: customer, customer_email.")
		}
		x.customer, x.payerEmail, x.payerName = cust.id, cust.email, cust.name
	}
	clock := ""
	if cust != nil {
		clock = cust.clock
	}
	now := s.at(clock)
	if x.trialEnd != "" && atoi(x.trialEnd) < now+48*3600 {
		return nil, badRequest("", "subscription_data[trial_end]", "The `trial_end` date has to be at least 2 days in the future.")
	}
	if x.trialDays < 0 || x.trialDays > 730 {
		return nil, badRequest("", "subscription_data[trial_period_days]", "A trial has between 1 and 730 days.")
	}
	x.expiresAt = f.intOr("expires_at", now+sessionLife)
	if f.has("expires_at") && (x.expiresAt < now+30*60 || x.expiresAt > now+sessionLife) {
		return nil, badRequest("", "expires_at", "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.")
	}
	var err error
	if x.discounts, err = s.readDiscounts(f, cust); err != nil {
		return nil, err
	}
	if x.allowCodes && f.has("discounts") {
		return nil, badRequest("", "allow_promotion_codes", "You may only specify one of these parameters: allow_promotion_codes, discounts.")
	}
	if x.mode == "subscription" {
		if x.items, err = s.readItems(f, "line_items"); err != nil {
			return nil, err
		}
		if len(x.items) == 0 {
			return nil, badRequest("parameter_missing", "line_items", "Missing required param: line_items.")
		}
		trial := &subscription{}
		for i, spec := range x.items {
			param := wireName([]string{"line_items", itoa(i), "price"})
			if spec.price == nil {
				return nil, badRequest("parameter_missing", param, "Missing required param: %s.", param)
			}
			if err := refuseQuantity(spec.price, spec.given, wireName([]string{"line_items", itoa(i), "quantity"})); err != nil {
				return nil, err
			}
			if !spec.given && !spec.price.metered {
				return nil, badRequest("parameter_missing", wireName([]string{"line_items", itoa(i), "quantity"}), "Quantity is required. Add `quantity` to `line_items[%d]`", i)
			}
			trial.items = append(trial.items, &item{price: spec.price.id, quantity: spec.quantity})
			trial.currency = x.items[0].price.currency
		}
		if err := s.checkItems(trial); err != nil {
			return nil, err
		}
		x.currency = trial.currency
	} else {
		if f.has("line_items") {
			return nil, badRequest("", "line_items", "`line_items` can't be used in `setup` mode.")
		}
		x.paymentStatus = "no_payment_required"
	}
	s.priceSession(x)
	x.metadata = f.merge("metadata", nil)
	s.add(kindSession, s.newID("cs_test_"), clock, x)
	return x, nil
}

// priceSession computes what a session shows.
func (s *Simulator) priceSession(x *session) {
	if x.mode != "subscription" {
		return
	}
	v := s.sessionInvoice(x, true)
	x.subtotal, x.total = v.subtotal, v.total
	x.discounted = v.subtotal - v.total
}

func webURL(text string) bool {
	u, err := url.Parse(strings.ReplaceAll(text, "{CHECKOUT_SESSION_ID}", "x"))
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func (s *Simulator) fetchSession(c *call) (any, error) {
	return find[*session](s, kindSession, c.id(), "")
}

func (s *Simulator) listSessions(c *call) (any, error) {
	f := c.form
	items := newest(s, kindSession, func(x *session) bool {
		return (!f.has("customer") || x.customer == f.str("customer")) && (!f.has("subscription") || x.subscription == f.str("subscription")) &&
			(!f.has("status") || x.status == f.str("status"))
	})
	return &page{url: "/v1/checkout/sessions", items: within(f, entities(items)), window: f}, nil
}

func (s *Simulator) sessionLines(c *call) (any, error) {
	x, err := find[*session](s, kindSession, c.id(), "")
	if err != nil {
		return nil, err
	}
	return &page{url: "/v1/checkout/sessions/" + x.id + "/line_items", items: s.sessionItems(x), window: c.form}, nil
}

func (s *Simulator) expireSessionCall(c *call) (any, error) {
	x, err := find[*session](s, kindSession, c.id(), "")
	if err != nil {
		return nil, err
	}
	if x.status != "open" {
		return nil, badRequest("", "", "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of %s.", x.status)
	}
	s.expireSession(x)
	return x, nil
}

func (s *Simulator) expireSession(x *session) {
	x.status = "expired"
	s.emit("checkout.session.expired", x)
}

// payer is what a person enters on the checkout page.
type payer struct {
	email, name string
	card        cardKind
	month, year int64
}

// cardless reports whether a session can be completed without a card.
func (x *session) cardless() bool {
	return x.mode == "subscription" && x.collection == "if_required" && x.total == 0
}

// completeSession pays for a session. It returns the decline, or that the
// customer must authenticate first.
func (s *Simulator) completeSession(x *session, in payer, authenticated bool) (no *decline, challenge bool, err error) {
	free := x.cardless() && in.card.number == ""
	// What the bank will say is known before anything is made: a session that
	// is declined stays open and leaves no half-made subscription.
	if !free {
		probe := &paymentMethod{card: in.card}
		no, challenge = verdict(probe, false, authenticated)
		if x.total == 0 && in.card.attaches {
			no = nil // nothing is charged today
		}
		if no != nil || challenge {
			return no, challenge, nil
		}
	}
	cust, ok := get[*customer](s, kindCustomer, x.customer)
	if ok && cust.deleted {
		return nil, false, missing("customer", cust.id, "customer")
	}
	for _, r := range x.discounts {
		if _, _, err := s.redeemable(r.coupon, r.promotion, cust); err != nil {
			return nil, false, err
		}
	}
	if !ok {
		cust = &customer{email: in.email, name: in.name}
		s.addCustomer(cust, "")
		s.emit("customer.created", cust)
		x.customer = cust.id
	}
	x.payerEmail, x.payerName = in.email, in.name
	var pm *paymentMethod
	if !free {
		pm = s.newCard(in.card, cust.clock)
		pm.expMonth, pm.expYear, pm.email, pm.name = in.month, in.year, in.email, in.name
		pm.setUp = authenticated || in.card.challenge == ""
		s.attach(pm, cust)
	}
	if x.mode == "setup" {
		p := s.newSetup(cust)
		s.confirmSetup(p, pm, true)
		x.setup = p.id
	} else {
		plan := subscribing{
			cust: cust, items: x.items, trialEnd: x.trialEnd, trialDays: x.trialDays, trialMissing: x.trialMissing, behavior: "error_if_incomplete",
			authenticated: authenticated, description: x.subDescription, metadata: x.subMetadata, discounts: x.discounts, session: x.id,
		}
		if pm != nil {
			plan.pm = pm.id
		}
		sub, err := s.subscribe(plan)
		if err != nil {
			return nil, false, err
		}
		v := must[*invoice](s, kindInvoice, sub.latestInvoice)
		x.subscription, x.invoice = sub.id, v.id
		x.paymentStatus = "paid"
		if v.due == 0 {
			x.paymentStatus = "no_payment_required"
		}
	}
	x.status, x.payer = "complete", nil
	s.emit("checkout.session.completed", x)
	return nil, false, nil
}
