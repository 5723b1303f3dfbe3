package stripesim

import (
	"regexp"
	"strings"
)

const (
	kindCustomer = "customer"
	kindBalance  = "customer_balance_transaction"
)

type customer struct {
	head
	email, name, phone, description string
	address, shipping               any
	balance                         int64  // negative: credit
	currency                        string // fixed by the first charge in it
	defaultPM                       string
	invoicePrefix                   string
	nextInvoice                     int64
	discount                        *discount
	delinquent                      bool
	deleted                         bool
}

func (c *customer) render(s *Simulator) object {
	if c.deleted {
		return object{"id": c.id, "object": kindCustomer, "deleted": true}
	}
	return object{
		"id": c.id, "object": kindCustomer, "address": c.address, "balance": c.balance, "created": c.created,
		"currency": optional(c.currency), "default_source": nil, "delinquent": c.delinquent,
		"description": optional(c.description), "discount": nested(c.discount), "email": optional(c.email),
		"invoice_prefix": c.invoicePrefix,
		"invoice_settings": object{
			"custom_fields": nil, "default_payment_method": ref{kindPaymentMethod, c.defaultPM}, "footer": nil, "rendering_options": nil,
		},
		"livemode": false, "metadata": copyMeta(c.metadata), "name": optional(c.name), "next_invoice_sequence": c.nextInvoice,
		"phone": optional(c.phone), "preferred_locales": []any{}, "shipping": c.shipping, "tax_exempt": "none",
		"test_clock": ref{kindTestClock, c.clock},
		"subscriptions": lazy(func() any {
			return inline("/v1/customers/"+c.id+"/subscriptions", entities(newest(s, kindSubscription, func(x *subscription) bool {
				return x.customer == c.id && !x.ended()
			})), true)
		}),
	}
}

// liveCustomer returns a customer that isn't deleted.
func (s *Simulator) liveCustomer(id, param string) (*customer, error) {
	c, err := find[*customer](s, kindCustomer, id, param)
	if err == nil && c.deleted {
		return nil, missing("customer", id, param)
	}
	return c, err
}

func (s *Simulator) createCustomer(c *call) (any, error) {
	cust := &customer{nextInvoice: 1}
	clock := c.form.str("test_clock")
	if clock != "" {
		if _, err := find[*testClock](s, kindTestClock, clock, "test_clock"); err != nil {
			return nil, err
		}
	}
	if err := s.checkCustomer(c.form); err != nil {
		return nil, err
	}
	var pm *paymentMethod
	if id := c.form.str("payment_method"); id != "" {
		var err error
		if pm, err = s.usablePM(id, "", "payment_method"); err != nil {
			return nil, err
		}
	}
	s.addCustomer(cust, clock)
	if err := s.setCustomer(cust, c.form); err != nil {
		return nil, err
	}
	if balance := c.form.int("balance"); balance != 0 {
		s.adjustBalance(cust, balance, cust.currencyOr("usd"), "adjustment", "", "")
	}
	s.emit("customer.created", cust)
	if pm != nil {
		s.attach(pm, cust)
	}
	return cust, nil
}

func (s *Simulator) addCustomer(cust *customer, clock string) {
	s.add(kindCustomer, s.newID("cus_"), clock, cust)
	cust.nextInvoice = 1
	cust.invoicePrefix = strings.ToUpper(s.newID("")[:8])
}

// checkCustomer refuses values before anything changes.
func (s *Simulator) checkCustomer(f *form) error {
	if email := f.str("email"); email != "" && !strings.Contains(email, "@") {
		return badRequest("email_invalid", "email", "Invalid email address: %s", clip(email))
	}
	if f.str("coupon") != "" || f.str("promotion_code") != "" {
		if _, _, err := s.redeemable(f.str("coupon"), f.str("promotion_code"), nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *Simulator) setCustomer(cust *customer, f *form) error {
	for name, field := range map[string]*string{
		"email": &cust.email, "name": &cust.name, "phone": &cust.phone, "description": &cust.description,
	} {
		if f.has(name) {
			*field = f.str(name)
		}
	}
	if f.has("address") {
		cust.address = f.hash("address", addressFields...)
	}
	if f.has("shipping") {
		shipping := f.hash("shipping", "name", "phone")
		if m, ok := shipping.(object); ok {
			m["address"] = f.hash("shipping.address", addressFields...)
		}
		cust.shipping = shipping
	}
	if f.has("coupon") || f.has("promotion_code") {
		if f.str("coupon") == "" && f.str("promotion_code") == "" {
			cust.discount = nil
		} else {
			d, err := s.redeem(f.str("coupon"), f.str("promotion_code"), cust, nil)
			if err != nil {
				return err
			}
			cust.discount = d
		}
	}
	cust.metadata = f.merge("metadata", cust.metadata)
	return nil
}

var addressFields = []string{"city", "country", "line1", "line2", "postal_code", "state"}

func (s *Simulator) updateCustomer(c *call) (any, error) {
	cust, err := s.liveCustomer(c.id(), "")
	if err != nil {
		return nil, err
	}
	if err := s.checkCustomer(c.form); err != nil {
		return nil, err
	}
	if id := c.form.str("invoice_settings.default_payment_method"); id != "" {
		pm, err := s.usablePM(id, cust.id, "invoice_settings[default_payment_method]")
		if err != nil {
			return nil, err
		}
		if pm.customer != cust.id {
			return nil, badRequest("", "invoice_settings[default_payment_method]", "The customer does not have a payment method with the ID %s. The payment method must be attached to the customer.", pm.id)
		}
	}
	before := s.snapshot(cust)
	if err := s.setCustomer(cust, c.form); err != nil {
		return nil, err
	}
	if c.form.has("invoice_settings.default_payment_method") {
		cust.defaultPM = c.form.str("invoice_settings.default_payment_method")
	}
	if c.form.has("balance") {
		if delta := c.form.int("balance") - cust.balance; delta != 0 {
			s.adjustBalance(cust, delta, cust.currencyOr("usd"), "adjustment", "", "")
		}
	}
	s.emitChange("customer.updated", cust, before)
	return cust, nil
}

// billed is what an invoice says of its customer. It is fixed when the invoice
// is finalised: what the customer is changed to later, or its deletion, leaves
// it as it was.
type billed struct {
	email, name, phone string
	address, shipping  any
}

func (c *customer) billed() billed { return billed{c.email, c.name, c.phone, c.address, c.shipping} }

func (c *customer) currencyOr(otherwise string) string {
	if c.currency != "" {
		return c.currency
	}
	return otherwise
}

func (s *Simulator) fetchCustomer(c *call) (any, error) {
	return find[*customer](s, kindCustomer, c.id(), "")
}

func (s *Simulator) listCustomers(c *call) (any, error) {
	email, clock := c.form.str("email"), c.form.str("test_clock")
	items := newest(s, kindCustomer, func(x *customer) bool {
		return !x.deleted && (email == "" || x.email == email) && x.clock == clock
	})
	return &page{url: "/v1/customers", items: within(c.form, entities(items)), window: c.form}, nil
}

// deleteCustomer cancels the customer's subscriptions at once, as Stripe
// does.
func (s *Simulator) deleteCustomer(c *call) (any, error) {
	cust, err := s.liveCustomer(c.id(), "")
	if err != nil {
		return nil, err
	}
	for _, sub := range all(s, kindSubscription, func(x *subscription) bool { return x.customer == cust.id && !x.ended() }) {
		s.endSubscription(sub, "canceled", "")
	}
	for _, pm := range all(s, kindPaymentMethod, func(x *paymentMethod) bool { return x.customer == cust.id }) {
		pm.customer, pm.detached = "", true
	}
	snapshot := s.snapshot(cust)
	cust.deleted = true
	cust.email, cust.name, cust.phone, cust.description, cust.metadata, cust.address, cust.shipping = "", "", "", "", nil, nil, nil
	s.record("customer.deleted", snapshot, nil, cust.clock)
	return cust, nil
}

func (s *Simulator) deleteCustomerDiscount(c *call) (any, error) {
	cust, err := s.liveCustomer(c.id(), "")
	if err != nil {
		return nil, err
	}
	if cust.discount == nil {
		return nil, missing("active discount for customer", cust.id, "")
	}
	gone := cust.discount
	cust.discount = nil
	s.emit("customer.discount.deleted", gone)
	return object{
		"id": gone.id, "object": "discount", "deleted": true, "checkout_session": nil, "coupon": gone.render(s)["coupon"],
		"customer": cust.id, "invoice": nil, "invoice_item": nil, "promotion_code": optional(gone.promotionCode),
		"start": gone.start, "subscription": nil, "subscription_item": nil,
	}, nil
}

// searchTerm is one condition of Stripe's search language.
var searchTerm = regexp.MustCompile(`^\s*(-?)(metadata\[(?:'([^']*)'|"([^"]*)")\]|[a-z_]+)\s*([:~])\s*(?:'([^']*)'|"((?:[^"\\]|\\.)*)"|(null))\s*`)

// searchCustomers understands conditions on email, name and metadata, joined
// by AND or by OR. A real search lags behind writes by up to a minute; this
// one doesn't.
func (s *Simulator) searchCustomers(c *call) (any, error) {
	matches, err := parseSearch(c.form.str("query"))
	if err != nil {
		return nil, err
	}
	items := newest(s, kindCustomer, func(x *customer) bool {
		return !x.deleted && matches(func(field string) (string, bool) {
			switch field {
			case "email":
				return x.email, x.email != ""
			case "name":
				return x.name, x.name != ""
			}
			v, ok := x.metadata[strings.TrimPrefix(field, "metadata.")]
			return v, ok
		})
	})
	return &page{url: "/v1/customers/search", items: entities(items), search: true, window: c.form}, nil
}

// parseSearch reads a query into a predicate over a lookup of fields.
func parseSearch(query string) (func(lookup func(field string) (string, bool)) bool, error) {
	type condition struct {
		field, op, value string
		negate, null     bool
	}
	var conditions []condition
	either := false
	rest := query
	for {
		m := searchTerm.FindStringSubmatch(rest)
		if m == nil {
			return nil, badRequest("", "query", "We were unable to parse your search query: %q", clip(rest))
		}
		field := m[2]
		if strings.HasPrefix(field, "metadata[") {
			field = "metadata." + m[3] + m[4]
		} else if field != "email" && field != "name" {
			return nil, unsupported("search field " + field)
		}
		value := m[6] + strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(m[7])
		conditions = append(conditions, condition{field: field, op: m[5], value: value, negate: m[1] == "-", null: m[8] != ""})
		rest = rest[len(m[0]):]
		if rest == "" {
			break
		}
		word, tail, _ := strings.Cut(rest, " ")
		isOr := strings.EqualFold(word, "or")
		if isOr || strings.EqualFold(word, "and") {
			rest = tail
		}
		if len(conditions) > 1 && isOr != either {
			return nil, badRequest("", "query", "A search query can't combine AND and OR")
		}
		either = isOr
		if len(conditions) == 10 {
			return nil, badRequest("", "query", "A search query has at most ten clauses")
		}
	}
	return func(lookup func(string) (string, bool)) bool {
		for _, cond := range conditions {
			value, ok := lookup(cond.field)
			hit := ok && value == cond.value
			switch {
			case cond.null:
				hit = !ok
			case cond.op == "~":
				hit = ok && strings.Contains(strings.ToLower(value), strings.ToLower(cond.value))
			}
			if hit == cond.negate != either {
				return either
			}
		}
		return !either
	}, nil
}

// balanceTransaction is one change of a customer's balance.
type balanceTransaction struct {
	head
	customer, currency, typ, description, invoice, creditNote string
	amount, ending                                            int64
}

func (b *balanceTransaction) render(*Simulator) object {
	return object{
		"id": b.id, "object": kindBalance, "amount": b.amount, "created": b.created, "credit_note": ref{kindCreditNote, b.creditNote},
		"currency": b.currency, "customer": ref{kindCustomer, b.customer}, "description": optional(b.description),
		"ending_balance": b.ending, "invoice": ref{kindInvoice, b.invoice}, "livemode": false, "metadata": copyMeta(b.metadata), "type": b.typ,
	}
}

// adjustBalance changes a customer's balance and writes why.
func (s *Simulator) adjustBalance(cust *customer, amount int64, currency, typ, invoiceID, creditNote string) *balanceTransaction {
	cust.balance += amount
	if cust.currency == "" {
		cust.currency = currency
	}
	b := &balanceTransaction{
		customer: cust.id, currency: currency, typ: typ, amount: amount, ending: cust.balance, invoice: invoiceID, creditNote: creditNote,
	}
	s.add(kindBalance, s.newID("cbtxn_"), cust.clock, b)
	return b
}

func (s *Simulator) createBalance(c *call) (any, error) {
	cust, err := s.liveCustomer(c.id(), "")
	if err != nil {
		return nil, err
	}
	currency := c.form.str("currency")
	if cust.currency != "" && cust.currency != currency {
		return nil, badRequest("", "currency", "You cannot combine currencies on a single customer. This customer has %s.", cust.currency)
	}
	before := s.snapshot(cust)
	b := s.adjustBalance(cust, c.form.int("amount"), currency, "adjustment", "", "")
	b.description, b.metadata = c.form.str("description"), c.form.merge("metadata", nil)
	s.emitChange("customer.updated", cust, before)
	return b, nil
}

func (s *Simulator) listBalance(c *call) (any, error) {
	if _, err := s.liveCustomer(c.id(), ""); err != nil {
		return nil, err
	}
	items := newest(s, kindBalance, func(b *balanceTransaction) bool { return b.customer == c.id() })
	return &page{url: "/v1/customers/" + c.id() + "/balance_transactions", items: entities(items), window: c.form}, nil
}

func (s *Simulator) fetchBalance(c *call) (any, error) {
	b, err := find[*balanceTransaction](s, kindBalance, c.vars["transaction"], "")
	if err == nil && b.customer != c.id() {
		return nil, missing(kindBalance, b.id, "")
	}
	return b, err
}
