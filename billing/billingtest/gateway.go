package billingtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/internal/period"
)

// Gateway is a payment provider in memory, in billing's own types: for tests
// of what is built on billing, and of billing itself. It holds the truth;
// scripts change it as customers and time would, and every change makes the
// events that a provider sends.
//
// It can be switched off, and it can lose the answer of a write that has had
// its effect. It is safe for concurrent use.
type Gateway struct {
	mu        sync.Mutex
	now       func() time.Time
	prices    map[string]billing.Price // by lookup key
	customers map[string]*billing.Customer
	subs      map[string]*billing.Subscription
	invoices  map[string]*billing.Invoice
	subsOf    map[string][]*billing.Subscription // by customer, the oldest first
	bills     map[string][]*billing.Invoice
	checkouts map[string]*session
	events    []billing.Event
	answers   map[string]answer            // by idempotency key
	waiting   map[string]map[string]string // metadata of what is scheduled, by subscription
	used      []billing.UsageReport
	sequence  int
	sent      int // events that Deliver has sent
	down      bool
	lose      int
	refuse    []error
	calls     map[string]int
}

type session struct {
	billing.Checkout
	request billing.CheckoutRequest
}

type answer struct {
	op      string
	request any
	result  any
	err     error
}

// signature is the header that Verify wants; the provider is in the process,
// so there is nothing to compute.
const signature = "Billingtest-Signature"

// NewGateway returns a provider that has the prices of a catalogue. Now may be
// nil for the real time.
func NewGateway(catalog *billing.Catalog, now func() time.Time) *Gateway {
	if now == nil {
		now = time.Now
	}
	g := &Gateway{
		now: now, prices: map[string]billing.Price{}, customers: map[string]*billing.Customer{}, subs: map[string]*billing.Subscription{},
		invoices: map[string]*billing.Invoice{}, subsOf: map[string][]*billing.Subscription{}, bills: map[string][]*billing.Invoice{}, checkouts: map[string]*session{}, answers: map[string]answer{}, waiting: map[string]map[string]string{}, calls: map[string]int{},
	}
	g.sell(catalog)
	return g
}

var _ billing.Gateway = (*Gateway)(nil)

// Down switches the provider off and on. While it is off, every call but
// Verify and Decode is ErrUnavailable and has no effect.
func (g *Gateway) Down(down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = down
}

// LoseAnswers makes the next n writes have their effect and return
// ErrUnknownOutcome.
func (g *Gateway) LoseAnswers(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lose = n
}

// Refuse makes the next writes return these errors, one each, without effect.
func (g *Gateway) Refuse(errs ...error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuse = append(g.refuse, errs...)
}

// Calls returns how often an operation was called: "State", "CreateCustomer".
func (g *Gateway) Calls(op string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[op]
}

// Customers returns every customer, the oldest first.
func (g *Gateway) Customers() []billing.Customer { return list(g, g.customers) }

// Subscriptions returns every subscription, the oldest first.
func (g *Gateway) Subscriptions() []billing.Subscription { return list(g, g.subs) }

// AllInvoices returns every invoice, the oldest first.
func (g *Gateway) AllInvoices() []billing.Invoice { return list(g, g.invoices) }

func list[T any](g *Gateway, m map[string]*T) []T {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []T
	for _, id := range slices.Sorted(maps.Keys(m)) {
		all = append(all, clone(*m[id]))
	}
	return all
}

// clone copies plain data deeply.
func clone[T any](v T) T {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var c T
	if err := json.Unmarshal(data, &c); err != nil {
		panic(err)
	}
	return c
}

// Emitted returns every event so far, the oldest first, with its exact bytes.
func (g *Gateway) Emitted() []billing.Event {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.events)
}

// Deliver sends the events that it hasn't sent yet to a webhook handler, in
// order, and returns an error for the first one that isn't accepted.
func (g *Gateway) Deliver(webhook http.Handler) error {
	g.mu.Lock()
	pending := slices.Clone(g.events[g.sent:])
	g.mu.Unlock()
	for _, e := range pending {
		if status := Send(webhook, e); status != http.StatusOK {
			return fmt.Errorf("billingtest: webhook answered %d to %s (%s)", status, e.ID, e.Type)
		}
		g.mu.Lock()
		g.sent++
		g.mu.Unlock()
	}
	return nil
}

// Send sends one event to a webhook handler and returns the status.
func Send(webhook http.Handler, e billing.Event) int {
	w := httptest.NewRecorder()
	webhook.ServeHTTP(w, Request(e))
	return w.Code
}

// Request is the signed request that brings an event.
func Request(e billing.Event) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/webhook", bytes.NewReader(e.Raw))
	r.Header.Set(signature, "true")
	return r
}

// Verify implements billing.Gateway.
func (g *Gateway) Verify(header http.Header, body []byte) (billing.Event, error) {
	if header.Get(signature) != "true" {
		return billing.Event{}, fmt.Errorf("billingtest: %w", billing.ErrSignature)
	}
	return g.Decode(body)
}

// Decode implements billing.Gateway.
func (g *Gateway) Decode(body []byte) (billing.Event, error) {
	var e billing.Event
	if err := json.Unmarshal(body, &e); err != nil {
		return e, fmt.Errorf("billingtest: %w: %w", billing.ErrPayload, err)
	}
	e.Raw = body
	return e, nil
}

// id returns an identifier that sorts by the time of its making.
func (g *Gateway) id(prefix string) string {
	g.sequence++
	return fmt.Sprintf("%s_%09d", prefix, g.sequence)
}

func (g *Gateway) stamp() time.Time { return g.now().UTC().Truncate(time.Second) }

// emit makes an event with the object as it is.
func (g *Gateway) emit(kind, key string, fill func(e *billing.Event)) {
	e := billing.Event{ID: g.id("evt"), Type: kind, Created: g.stamp(), APIVersion: "billingtest", IdempotencyKey: key}
	fill(&e)
	g.events = append(g.events, e)
	stored := &g.events[len(g.events)-1]
	raw, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	*stored, _ = g.Decode(raw) // a copy that later changes don't reach
}

func (g *Gateway) emitSubscription(kind, key string, s *billing.Subscription) {
	g.emit(kind, key, func(e *billing.Event) {
		e.CustomerID, e.ObjectID, e.Account, e.Subscription = s.CustomerID, s.ID, s.Account, s
	})
}

func (g *Gateway) emitInvoice(kind string, inv *billing.Invoice) {
	g.emit(kind, "", func(e *billing.Event) {
		e.CustomerID, e.ObjectID, e.Invoice = inv.CustomerID, inv.ID, inv
	})
}

// read guards a read.
func (g *Gateway) read(ctx context.Context, op string) error {
	g.calls[op]++
	if err := ctx.Err(); err != nil {
		return err
	}
	if g.down {
		return &billing.GatewayError{Op: op, Kind: billing.ErrUnavailable, Message: "switched off"}
	}
	return nil
}

// write makes one write with an idempotency key: a repeated key returns the
// first answer, and another request with it is an error.
func write[R any](ctx context.Context, g *Gateway, op, key string, request any, do func() (R, error)) (R, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var zero R
	if err := g.read(ctx, op); err != nil {
		return zero, err
	}
	if key == "" {
		return zero, &billing.GatewayError{Op: op, Kind: billing.ErrInvalid, Message: "no idempotency key"}
	}
	a, again := g.answers[key]
	if again && (a.op != op || !reflect.DeepEqual(a.request, request)) {
		return zero, &billing.GatewayError{Op: op, Kind: billing.ErrInvalid, Code: "idempotency_error", Message: "the key was used for another request"}
	}
	if !again {
		if len(g.refuse) > 0 {
			err := g.refuse[0]
			g.refuse = g.refuse[1:]
			return zero, err
		}
		result, err := do()
		a = answer{op: op, request: request, result: result, err: err}
		g.answers[key] = a
	}
	if g.lose > 0 {
		g.lose--
		return zero, &billing.GatewayError{Op: op, Kind: billing.ErrUnknownOutcome, IdempotencyKey: key, Message: "the answer is lost"}
	}
	result, _ := a.result.(R)
	return clone(result), a.err
}

func missing(op, what, id string) error {
	return &billing.GatewayError{Op: op, Kind: billing.ErrNotFound, Status: 404, Code: "resource_missing", Message: "no such " + what + ": " + id}
}

func invalid(op, message string) error {
	return &billing.GatewayError{Op: op, Kind: billing.ErrInvalid, Status: 400, Message: message}
}

// Events implements billing.Gateway.
func (g *Gateway) Events(ctx context.Context, since time.Time, after string) ([]billing.Event, bool, error) {
	const page = 100
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "Events"); err != nil {
		return nil, false, err
	}
	var found []billing.Event
	for _, e := range g.events {
		if !e.Created.Before(since) && e.ID > after {
			found = append(found, e)
		}
	}
	return found[:min(len(found), page)], len(found) > page, nil
}

// CreateCustomer implements billing.Gateway.
func (g *Gateway) CreateCustomer(ctx context.Context, req billing.CustomerRequest, key string) (billing.Customer, error) {
	return write(ctx, g, "CreateCustomer", key, req, func() (billing.Customer, error) {
		c := &billing.Customer{ID: g.id("cus"), Account: req.Account, Email: req.Email, Name: req.Name, Metadata: req.Metadata, Created: g.stamp()}
		g.customers[c.ID] = c
		g.emit("customer.created", key, func(e *billing.Event) { e.CustomerID, e.ObjectID, e.Account, e.Customer = c.ID, c.ID, c.Account, c })
		return *c, nil
	})
}

// FindCustomer implements billing.Gateway.
func (g *Gateway) FindCustomer(ctx context.Context, account string) (billing.Customer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "FindCustomer"); err != nil {
		return billing.Customer{}, err
	}
	for _, id := range slices.Sorted(maps.Keys(g.customers)) {
		if c := g.customers[id]; c.Account == account && !c.Deleted {
			return clone(*c), nil
		}
	}
	return billing.Customer{}, missing("FindCustomer", "customer of account", account)
}

// State implements billing.Gateway.
func (g *Gateway) State(ctx context.Context, customerID string) (billing.State, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "State"); err != nil {
		return billing.State{}, err
	}
	c := g.customers[customerID]
	if c == nil {
		return billing.State{}, missing("State", "customer", customerID)
	}
	st := billing.State{Customer: *c, Invoices: g.invoicesOf(customerID)}
	for _, s := range slices.Backward(g.subsOf[customerID]) {
		st.Subscriptions = append(st.Subscriptions, *s)
	}
	copied := billing.Account{Subscriptions: st.Subscriptions, Invoices: st.Invoices}.Clone()
	st.Customer, st.Subscriptions, st.Invoices = clone(*c), copied.Subscriptions, copied.Invoices
	return st, nil
}

func (g *Gateway) invoicesOf(customerID string) []billing.Invoice {
	var all []billing.Invoice
	for _, inv := range slices.Backward(g.bills[customerID]) {
		all = append(all, *inv)
	}
	return all
}

// Prices implements billing.Gateway.
func (g *Gateway) Prices(ctx context.Context, lookupKeys []string) ([]billing.Price, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "Prices"); err != nil {
		return nil, err
	}
	var found []billing.Price
	for _, key := range lookupKeys {
		if p, ok := g.prices[key]; ok {
			found = append(found, p)
		}
	}
	return found, nil
}

// SetPrice adds a price or replaces the one with its lookup key.
func (g *Gateway) SetPrice(p billing.Price) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.prices[p.LookupKey] = p
}

func (g *Gateway) price(id string) (billing.Price, bool) {
	for _, p := range g.prices {
		if p.ID == id {
			return p, true
		}
	}
	return billing.Price{}, false
}

// subscribe makes a subscription with its first invoice, still unpaid.
func (g *Gateway) subscribe(op, customerID, account string, items []billing.LineItem, trialEnd time.Time, metadata map[string]string) (*billing.Subscription, *billing.Invoice, error) {
	if c := g.customers[customerID]; c == nil || c.Deleted {
		return nil, nil, missing(op, "customer", customerID)
	}
	now := g.stamp()
	s := &billing.Subscription{
		ID: g.id("sub"), CustomerID: customerID, Account: account, Status: billing.StatusIncomplete, Metadata: maps.Clone(metadata),
		Created: now, StartDate: now, BillingCycleAnchor: now, CollectionMethod: "charge_automatically",
	}
	total, currency := int64(0), ""
	for _, it := range items {
		p, ok := g.price(it.PriceID)
		if !ok {
			return nil, nil, missing(op, "price", it.PriceID)
		}
		s.Items = append(s.Items, billing.Item{ID: g.id("si"), Price: p, Quantity: it.Quantity})
		total, currency = total+p.UnitAmount.Amount*it.Quantity, p.UnitAmount.Currency
	}
	reason := "subscription_create"
	if trialEnd.After(now) {
		s.Status, s.TrialStart, s.TrialEnd, s.BillingCycleAnchor, total = billing.StatusTrialing, now, trialEnd, trialEnd, 0
		setPeriod(s, billing.Period{From: now, To: trialEnd})
	} else {
		setPeriod(s, next(s, now))
	}
	g.subs[s.ID] = s
	g.subsOf[customerID] = append(g.subsOf[customerID], s)
	inv := g.invoice(s, reason, total, currency)
	s.LatestInvoiceID = inv.ID
	if total == 0 {
		inv.Status, inv.PaidAt = billing.InvoicePaid, now
	}
	return s, inv, nil
}

func (g *Gateway) invoice(s *billing.Subscription, reason string, total int64, currency string) *billing.Invoice {
	now := g.stamp()
	inv := &billing.Invoice{
		ID: g.id("in"), CustomerID: s.CustomerID, SubscriptionID: s.ID, Status: billing.InvoiceOpen, BillingReason: reason, Currency: currency,
		Subtotal: total, Total: total, AmountDue: total, AmountRemaining: total, Created: now, FinalizedAt: now,
		Period: billing.Period{From: now, To: now},
	}
	inv.HostedURL = "https://pay.example/" + inv.ID
	for _, it := range s.Items {
		inv.Lines = append(inv.Lines, billing.InvoiceLine{
			ID: g.id("il"), Amount: it.Price.UnitAmount.Amount * it.Quantity, Quantity: it.Quantity,
			PriceID: it.Price.ID, SubscriptionID: s.ID, ItemID: it.ID, Period: it.Period,
		})
	}
	g.invoices[inv.ID] = inv
	g.bills[s.CustomerID] = append(g.bills[s.CustomerID], inv)
	return inv
}

// next is the period that begins at from.
func next(s *billing.Subscription, from time.Time) billing.Period {
	p := s.Items[0].Price
	unit := map[billing.Interval]period.Unit{billing.Day: period.Day, billing.Week: period.Week, billing.Month: period.Month, billing.Year: period.Year}[p.Interval]
	at := period.Cycle{Anchor: s.BillingCycleAnchor, Unit: unit, Count: int(max(p.IntervalCount, 1))}.At(from)
	return billing.Period{From: at.From, To: at.To}
}

func setPeriod(s *billing.Subscription, p billing.Period) {
	s.Period = p
	for i := range s.Items {
		s.Items[i].Period = p
	}
}

// Subscribe implements billing.Gateway.
func (g *Gateway) Subscribe(ctx context.Context, req billing.SubscribeRequest, key string) (billing.Subscribed, error) {
	return write(ctx, g, "Subscribe", key, req, func() (billing.Subscribed, error) {
		s, inv, err := g.subscribe("Subscribe", req.CustomerID, req.Account, req.Items, req.TrialEnd, req.Metadata)
		if err != nil {
			return billing.Subscribed{}, err
		}
		g.emitSubscription("customer.subscription.created", key, s)
		g.emitInvoice("invoice.finalized", inv)
		out := billing.Subscribed{Subscription: *s, Invoice: *inv, Setup: s.Status == billing.StatusTrialing}
		out.ClientSecret = "secret_" + inv.ID
		return out, nil
	})
}

// UpdateSubscription implements billing.Gateway. Differences of price are
// invoiced at once, by the share of the period that is left.
func (g *Gateway) UpdateSubscription(ctx context.Context, id string, req billing.UpdateRequest, key string) (billing.Subscription, error) {
	return write(ctx, g, "UpdateSubscription", key, []any{id, req}, func() (billing.Subscription, error) {
		s := g.subs[id]
		if s == nil {
			return billing.Subscription{}, missing("UpdateSubscription", "subscription", id)
		}
		if s.Status.Terminal() {
			return billing.Subscription{}, invalid("UpdateSubscription", "the subscription has ended")
		}
		changed, due, err := g.updated(s, req)
		if err != nil {
			return billing.Subscription{}, err
		}
		*s = changed
		if due > 0 && req.Proration == "always_invoice" {
			inv := g.invoice(s, "subscription_update", due, s.Items[0].Price.UnitAmount.Currency)
			s.LatestInvoiceID = inv.ID
			g.pay(inv)
			g.emitInvoice("invoice.paid", inv)
		}
		g.emitSubscription("customer.subscription.updated", key, s)
		return *s, nil
	})
}

// updated returns a subscription after an update, and what is due now.
func (g *Gateway) updated(s *billing.Subscription, req billing.UpdateRequest) (billing.Subscription, int64, error) {
	c, due := clone(*s), int64(0)
	at := req.ProrationDate
	if at.IsZero() {
		at = g.stamp()
	}
	for _, u := range req.Items {
		i := slices.IndexFunc(c.Items, func(it billing.Item) bool { return it.ID == u.ID })
		if u.ID != "" && i < 0 {
			return c, 0, missing("UpdateSubscription", "item", u.ID)
		}
		before := int64(0)
		switch {
		case i < 0:
			c.Items = append(c.Items, billing.Item{ID: g.id("si"), Quantity: 1, Period: c.Period})
			i = len(c.Items) - 1
		default:
			before = c.Items[i].Price.UnitAmount.Amount * c.Items[i].Quantity
		}
		it := &c.Items[i]
		if u.PriceID != "" {
			p, ok := g.price(u.PriceID)
			if !ok {
				return c, 0, missing("UpdateSubscription", "price", u.PriceID)
			}
			it.Price = p
			if p.Metered {
				it.Quantity = 0
			}
		}
		if u.Quantity != nil {
			it.Quantity = *u.Quantity
		}
		after := it.Price.UnitAmount.Amount * it.Quantity
		if u.Delete {
			c.Items, after = slices.Delete(c.Items, i, i+1), 0
		}
		if req.Proration != "none" && c.Status == billing.StatusActive {
			share, err := billing.Money{Amount: after - before, Currency: "USD"}.Share(int64(c.Period.To.Sub(at)/time.Second), int64(c.Period.To.Sub(c.Period.From)/time.Second))
			if err != nil {
				return c, 0, err
			}
			due += share.Amount
		}
	}
	if req.CancelAtPeriodEnd != nil {
		c.CancelAtPeriodEnd, c.CancelAt, c.CanceledAt, c.CancelReason = *req.CancelAtPeriodEnd, time.Time{}, time.Time{}, ""
		if *req.CancelAtPeriodEnd {
			c.CancelAt, c.CanceledAt, c.CancelReason = c.Period.To, g.stamp(), req.CancelReason
		}
	}
	if req.PauseCollection != nil {
		c.PauseCollection = *req.PauseCollection
	}
	if !req.TrialEnd.IsZero() {
		c.TrialEnd = req.TrialEnd
	}
	for k, v := range req.Metadata {
		if c.Metadata == nil {
			c.Metadata = map[string]string{}
		}
		c.Metadata[k] = v
	}
	return c, due, nil
}

// PreviewUpdate implements billing.Gateway.
func (g *Gateway) PreviewUpdate(ctx context.Context, customerID, id string, req billing.UpdateRequest) (billing.Invoice, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "PreviewUpdate"); err != nil {
		return billing.Invoice{}, err
	}
	s := g.subs[id]
	if s == nil || s.CustomerID != customerID {
		return billing.Invoice{}, missing("PreviewUpdate", "subscription", id)
	}
	_, due, err := g.updated(s, req)
	if err != nil {
		return billing.Invoice{}, err
	}
	currency := s.Items[0].Price.UnitAmount.Currency
	return billing.Invoice{CustomerID: customerID, SubscriptionID: id, Currency: currency, Subtotal: due, Total: due, AmountDue: max(due, 0)}, nil
}

// CancelSubscription implements billing.Gateway.
func (g *Gateway) CancelSubscription(ctx context.Context, id string, req billing.CancelRequest, key string) (billing.Subscription, error) {
	return write(ctx, g, "CancelSubscription", key, []any{id, req}, func() (billing.Subscription, error) {
		s := g.subs[id]
		if s == nil || s.Status.Terminal() {
			return billing.Subscription{}, missing("CancelSubscription", "subscription", id)
		}
		g.finish(s, req.Reason, key)
		return *s, nil
	})
}

func (g *Gateway) finish(s *billing.Subscription, reason, key string) {
	s.Status, s.EndedAt, s.CancelReason = billing.StatusCanceled, g.stamp(), reason
	if s.CanceledAt.IsZero() {
		s.CanceledAt = s.EndedAt
	}
	g.emitSubscription("customer.subscription.deleted", key, s)
}

// CreateCheckout implements billing.Gateway.
func (g *Gateway) CreateCheckout(ctx context.Context, req billing.CheckoutRequest, key string) (billing.Checkout, error) {
	return write(ctx, g, "CreateCheckout", key, req, func() (billing.Checkout, error) {
		if c := g.customers[req.CustomerID]; c == nil || c.Deleted {
			return billing.Checkout{}, missing("CreateCheckout", "customer", req.CustomerID)
		}
		c := &session{request: req, Checkout: billing.Checkout{
			ID: g.id("cs"), Status: "open", PaymentStatus: "unpaid", CustomerID: req.CustomerID, Account: req.Account,
			Created: g.stamp(), ExpiresAt: g.stamp().Add(24 * time.Hour), Metadata: req.Metadata,
		}}
		c.URL = "https://pay.example/" + c.ID
		g.checkouts[c.ID] = c
		return c.Checkout, nil
	})
}

// Checkout implements billing.Gateway.
func (g *Gateway) Checkout(ctx context.Context, id string) (billing.Checkout, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "Checkout"); err != nil {
		return billing.Checkout{}, err
	}
	c := g.checkouts[id]
	if c == nil {
		return billing.Checkout{}, missing("Checkout", "checkout session", id)
	}
	if c.Status == "open" && !g.now().Before(c.ExpiresAt) {
		c.Status = "expired"
	}
	return clone(c.Checkout), nil
}

// ExpireCheckout implements billing.Gateway.
func (g *Gateway) ExpireCheckout(ctx context.Context, id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "ExpireCheckout"); err != nil {
		return err
	}
	c := g.checkouts[id]
	switch {
	case c == nil:
		return missing("ExpireCheckout", "checkout session", id)
	case c.Status != "open":
		return invalid("ExpireCheckout", "the session is "+c.Status)
	}
	c.Status = "expired"
	return nil
}

// CreatePortal implements billing.Gateway.
func (g *Gateway) CreatePortal(ctx context.Context, customerID, returnURL string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "CreatePortal"); err != nil {
		return "", err
	}
	if g.customers[customerID] == nil {
		return "", missing("CreatePortal", "customer", customerID)
	}
	return "https://portal.example/" + customerID, nil
}

// Invoices implements billing.Gateway.
func (g *Gateway) Invoices(ctx context.Context, customerID, after string) ([]billing.Invoice, bool, error) {
	const page = 100
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.read(ctx, "Invoices"); err != nil {
		return nil, false, err
	}
	all := g.invoicesOf(customerID)
	if after != "" {
		all = slices.DeleteFunc(all, func(inv billing.Invoice) bool { return inv.ID >= after })
	}
	return clone(all[:min(len(all), page)]), len(all) > page, nil
}
