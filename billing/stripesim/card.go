package stripesim

import (
	"strings"
	"time"
)

const kindPaymentMethod = "payment_method"

// decline is why a card was refused.
type decline struct{ code, declineCode, message string }

// hard reports whether waiting can't help: such a payment isn't retried.
func (d decline) hard() bool {
	switch d.declineCode {
	case "lost_card", "stolen_card", "fraudulent", "pickup_card", "incorrect_number", "authentication_required":
		return true
	}
	return d.code == "expired_card" || d.code == "incorrect_number"
}

// cardKind is one of Stripe's test cards.
type cardKind struct {
	number, token           string
	brand, funding, country string
	decline                 *decline
	attaches                bool   // declines charges, not attachment
	challenge               string // "setup": authenticates until set up; "always": each payment
}

func because(code, declineCode, message string) *decline { return &decline{code, declineCode, message} }

// testCards are Stripe's test cards, by number and by the token after
// "pm_card_".
func testCards() []cardKind {
	declinedFor := func(declineCode string) *decline {
		return because("card_declined", declineCode, "Your card was declined.")
	}
	return []cardKind{
		{number: "4242424242424242", token: "visa", brand: "visa"},
		{number: "4000056655665556", token: "visa_debit", brand: "visa", funding: "debit"},
		{number: "5555555555554444", token: "mastercard", brand: "mastercard"},
		{number: "378282246310005", token: "amex", brand: "amex"},
		{number: "4000002760000016", token: "de", brand: "visa", country: "DE"},
		{number: "4000000000000002", token: "chargeDeclined", brand: "visa", decline: declinedFor("generic_decline")},
		{number: "4000000000009995", token: "chargeDeclinedInsufficientFunds", brand: "visa", decline: because("card_declined", "insufficient_funds", "Your card has insufficient funds.")},
		{number: "4000000000009987", token: "chargeDeclinedLostCard", brand: "visa", decline: declinedFor("lost_card")},
		{number: "4000000000009979", token: "chargeDeclinedStolenCard", brand: "visa", decline: declinedFor("stolen_card")},
		{number: "4000000000000069", token: "chargeDeclinedExpiredCard", brand: "visa", decline: because("expired_card", "expired_card", "Your card has expired.")},
		{number: "4000000000000127", token: "chargeDeclinedIncorrectCvc", brand: "visa", decline: because("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect.")},
		{number: "4000000000000119", token: "chargeDeclinedProcessingError", brand: "visa", decline: because("processing_error", "processing_error", "An error occurred while processing your card. Try again in a little bit.")},
		{number: "4100000000000019", token: "radarBlock", brand: "visa", decline: declinedFor("fraudulent")},
		{number: "4000000000006975", token: "chargeDeclinedVelocityLimitExceeded", brand: "visa", decline: declinedFor("card_velocity_exceeded")},
		{number: "4000000000000341", token: "chargeCustomerFail", brand: "visa", decline: declinedFor("generic_decline"), attaches: true},
		{number: "4000002500003155", token: "authenticationRequiredOnSetup", brand: "visa", challenge: "setup"},
		{number: "4000002760003184", token: "authenticationRequired", brand: "visa", challenge: "always"},
		{number: "4000008260003178", token: "authenticationRequiredChargeDeclinedInsufficientFunds", brand: "visa", challenge: "always", attaches: true,
			decline: because("card_declined", "insufficient_funds", "Your card has insufficient funds.")},
	}
}

func cardByNumber(number string) (cardKind, bool) {
	number = strings.NewReplacer(" ", "", "-", "").Replace(number)
	for _, k := range testCards() {
		if k.number == number {
			return k, true
		}
	}
	return cardKind{}, false
}

func cardByToken(token string) (cardKind, bool) {
	for _, k := range testCards() {
		if k.token == token {
			return k, true
		}
	}
	return cardKind{}, false
}

type paymentMethod struct {
	head
	card               cardKind
	expMonth, expYear  int64
	customer           string
	email, name, phone string
	address            any
	setUp              bool // authenticated for payments without the customer
	detached           bool // can't be attached again
}

func (p *paymentMethod) last4() string { return p.card.number[len(p.card.number)-4:] }

func (p *paymentMethod) funding() string {
	if p.card.funding != "" {
		return p.card.funding
	}
	return "credit"
}

func (p *paymentMethod) country() string {
	if p.card.country != "" {
		return p.card.country
	}
	return "US"
}

// fingerprint is the same for the same number.
func (p *paymentMethod) fingerprint() string {
	return "fp" + p.card.number[:4] + p.card.number[len(p.card.number)-8:]
}

func (p *paymentMethod) billing() object {
	address := p.address
	if address == nil {
		empty := object{}
		for _, name := range addressFields {
			empty[name] = nil
		}
		address = empty
	}
	return object{"address": address, "email": optional(p.email), "name": optional(p.name), "phone": optional(p.phone)}
}

func (p *paymentMethod) render(*Simulator) object {
	return object{
		"id": p.id, "object": kindPaymentMethod, "billing_details": p.billing(), "created": p.created, "customer": ref{kindCustomer, p.customer},
		"livemode": false, "metadata": copyMeta(p.metadata), "type": "card",
		"card": object{
			"brand": p.card.brand, "country": p.country(), "exp_month": p.expMonth, "exp_year": p.expYear, "fingerprint": p.fingerprint(),
			"funding": p.funding(), "generated_from": nil, "last4": p.last4(), "wallet": nil,
			"checks":   object{"address_line1_check": nil, "address_postal_code_check": nil, "cvc_check": "pass"},
			"networks": object{"available": []any{p.card.brand}, "preferred": nil}, "three_d_secure_usage": object{"supported": true},
		},
	}
}

// newCard makes a payment method of a test card.
func (s *Simulator) newCard(kind cardKind, clock string) *paymentMethod {
	p := &paymentMethod{card: kind, expMonth: 12, expYear: int64(s.now().Year() + 3)}
	s.add(kindPaymentMethod, s.newID("pm_"), clock, p)
	return p
}

// usablePM returns a payment method by ID, or makes one of a pm_card_ token.
// With a customer it must be that customer's, or nobody's.
func (s *Simulator) usablePM(id, customerID, param string) (*paymentMethod, error) {
	if token, ok := strings.CutPrefix(id, "pm_card_"); ok {
		kind, known := cardByToken(token)
		if !known {
			return nil, unsupported("test card " + id)
		}
		return s.newCard(kind, ""), nil
	}
	pm, err := find[*paymentMethod](s, kindPaymentMethod, id, param)
	if err != nil {
		return nil, err
	}
	if customerID != "" && pm.customer != "" && pm.customer != customerID {
		return nil, badRequest("", param, "The payment method %s belongs to another customer.", pm.id)
	}
	return pm, nil
}

// attachable refuses what Stripe refuses when a card is attached.
func (s *Simulator) attachable(pm *paymentMethod, customerID string) error {
	if pm.detached || pm.customer != "" && pm.customer != customerID {
		return badRequest("", "", "This PaymentMethod was previously used without being attached to a Customer or was detached from a Customer, and may not be used again.")
	}
	if pm.card.decline != nil && !pm.card.attaches {
		return declined(*pm.card.decline)
	}
	return nil
}

func (s *Simulator) attach(pm *paymentMethod, cust *customer) {
	if pm.customer == cust.id {
		return
	}
	pm.customer, pm.clock = cust.id, cust.clock
	s.emit("payment_method.attached", pm)
}

func (s *Simulator) createPM(c *call) (any, error) {
	f := c.form
	var kind cardKind
	var ok bool
	switch {
	case f.has("card.token"):
		token, isToken := strings.CutPrefix(f.str("card.token"), "tok_")
		if kind, ok = cardByToken(token); !ok || !isToken {
			return nil, unsupported("test card " + clip(f.str("card.token")))
		}
	case f.has("card.number"):
		if kind, ok = cardByNumber(f.str("card.number")); !ok {
			return nil, unsupported("a card number that is none of the test cards")
		}
	default:
		return nil, badRequest("parameter_missing", "card", "Missing required param: card.")
	}
	now := time.Unix(s.at(""), 0).UTC()
	month, year := f.intOr("card.exp_month", 12), f.intOr("card.exp_year", int64(now.Year()+3))
	if year < 100 {
		year += 2000
	}
	if month < 1 || month > 12 {
		e := declined(*because("invalid_expiry_month", "", "Your card's expiration month is invalid."))
		e.param = "exp_month"
		return nil, e
	}
	if expired(month, year, now) {
		e := declined(*because("invalid_expiry_year", "", "Your card's expiration year is invalid."))
		e.param = "exp_year"
		return nil, e
	}
	pm := s.newCard(kind, "")
	pm.expMonth, pm.expYear = month, year
	s.setBilling(pm, f)
	pm.metadata = f.merge("metadata", nil)
	return pm, nil
}

func expired(month, year int64, now time.Time) bool {
	return !time.Date(int(year), time.Month(month)+1, 1, 0, 0, 0, 0, time.UTC).After(now)
}

func (s *Simulator) setBilling(pm *paymentMethod, f *form) {
	for name, field := range map[string]*string{"email": &pm.email, "name": &pm.name, "phone": &pm.phone} {
		if f.has("billing_details." + name) {
			*field = f.str("billing_details." + name)
		}
	}
	if f.has("billing_details.address") {
		pm.address = f.hash("billing_details.address", addressFields...)
	}
}

func (s *Simulator) fetchPM(c *call) (any, error) {
	return find[*paymentMethod](s, kindPaymentMethod, c.id(), "")
}

func (s *Simulator) updatePM(c *call) (any, error) {
	pm, err := find[*paymentMethod](s, kindPaymentMethod, c.id(), "")
	if err != nil {
		return nil, err
	}
	if pm.customer == "" {
		return nil, badRequest("", "", "You must save this PaymentMethod to a customer before you can update it.")
	}
	s.change("payment_method.updated", pm, func() {
		s.setBilling(pm, c.form)
		pm.expMonth = c.form.intOr("card.exp_month", pm.expMonth)
		pm.expYear = c.form.intOr("card.exp_year", pm.expYear)
		pm.metadata = c.form.merge("metadata", pm.metadata)
	})
	return pm, nil
}

func (s *Simulator) attachPM(c *call) (any, error) {
	cust, err := s.liveCustomer(c.form.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	pm, err := s.usablePM(c.id(), "", "")
	if err != nil {
		return nil, err
	}
	if err := s.attachable(pm, cust.id); err != nil {
		return nil, err
	}
	s.attach(pm, cust)
	return pm, nil
}

func (s *Simulator) detachPM(c *call) (any, error) {
	pm, err := find[*paymentMethod](s, kindPaymentMethod, c.id(), "")
	if err != nil {
		return nil, err
	}
	if pm.customer == "" {
		return nil, badRequest("", "", "The payment method you provided is not attached to a customer so detachment is impossible.")
	}
	s.detach(pm)
	return pm, nil
}

func (s *Simulator) detach(pm *paymentMethod) {
	cust := must[*customer](s, kindCustomer, pm.customer)
	s.change("payment_method.detached", pm, func() { pm.customer, pm.detached = "", true })
	if cust.defaultPM == pm.id {
		s.change("customer.updated", cust, func() { cust.defaultPM = "" })
	}
	for _, sub := range all(s, kindSubscription, func(x *subscription) bool { return x.defaultPM == pm.id && !x.ended() }) {
		s.change("customer.subscription.updated", sub, func() { sub.defaultPM = "" })
	}
}

func (s *Simulator) listPMs(c *call) (any, error) {
	id, url := c.id(), "/v1/payment_methods"
	if id == "" {
		id = c.form.str("customer")
	} else {
		url = "/v1/customers/" + id + "/payment_methods"
	}
	if id != "" {
		if _, err := s.liveCustomer(id, "customer"); err != nil {
			return nil, err
		}
	}
	items := newest(s, kindPaymentMethod, func(p *paymentMethod) bool { return id != "" && p.customer == id })
	return &page{url: url, items: entities(items), window: c.form}, nil
}
