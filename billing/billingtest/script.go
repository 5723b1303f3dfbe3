package billingtest

import (
	"fmt"
	"time"

	"github.com/kolekt/commerce/billing"
)

// CompleteCheckout is the customer who pays on the checkout page. It returns
// the subscription.
func (g *Gateway) CompleteCheckout(id string) (billing.Subscription, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.checkouts[id]
	if c == nil || c.Status != "open" {
		return billing.Subscription{}, fmt.Errorf("billingtest: checkout %s is not open", id)
	}
	var trialEnd time.Time
	if days := c.request.TrialDays; days > 0 {
		trialEnd = g.stamp().AddDate(0, 0, int(days))
	}
	s, inv, err := g.subscribe("CompleteCheckout", c.CustomerID, c.Account, c.request.Items, trialEnd, c.request.Metadata)
	if err != nil {
		return billing.Subscription{}, err
	}
	if s.Status == billing.StatusIncomplete {
		s.Status = billing.StatusActive
		g.pay(inv)
	}
	c.Status, c.PaymentStatus, c.SubscriptionID = "complete", "paid", s.ID
	g.emitSubscription("customer.subscription.created", "", s)
	g.emitInvoice("invoice.paid", inv)
	g.emit("checkout.session.completed", "", func(e *billing.Event) {
		e.CustomerID, e.ObjectID, e.Account, e.Checkout = c.CustomerID, c.ID, c.Account, &c.Checkout
	})
	return clone(*s), nil
}

func (g *Gateway) pay(inv *billing.Invoice) {
	inv.Status, inv.PaidAt, inv.AmountPaid, inv.AmountRemaining = billing.InvoicePaid, g.stamp(), inv.AmountDue, 0
	inv.AttemptCount = max(inv.AttemptCount, 1)
}

// PayFirst is the customer who pays for an incomplete subscription.
func (g *Gateway) PayFirst(subscription string) error {
	return g.change(subscription, func(s *billing.Subscription) {
		inv := g.invoices[s.LatestInvoiceID]
		g.pay(inv)
		s.Status = billing.StatusActive
		g.emitInvoice("invoice.paid", inv)
		g.emitSubscription("customer.subscription.updated", "", s)
	})
}

// Renew begins the next period of a subscription; the payment succeeds or
// fails.
func (g *Gateway) Renew(subscription string, paid bool) error {
	return g.change(subscription, func(s *billing.Subscription) {
		g.enter(s)
		setPeriod(s, next(s, s.Period.To))
		total := int64(0)
		for _, it := range s.Items {
			total += it.Price.UnitAmount.Amount * it.Quantity
		}
		inv := g.invoice(s, "subscription_cycle", total, s.Items[0].Price.UnitAmount.Currency)
		s.LatestInvoiceID = inv.ID
		g.attempt(s, inv, paid, true)
	})
}

// Retry is the provider's next attempt to collect the last invoice.
func (g *Gateway) Retry(subscription string, paid bool) error {
	return g.change(subscription, func(s *billing.Subscription) { g.attempt(s, g.invoices[s.LatestInvoiceID], paid, true) })
}

// PayByHand is the customer who pays the last invoice on its page: that
// counts as no attempt.
func (g *Gateway) PayByHand(subscription string) error {
	return g.change(subscription, func(s *billing.Subscription) { g.attempt(s, g.invoices[s.LatestInvoiceID], true, false) })
}

func (g *Gateway) attempt(s *billing.Subscription, inv *billing.Invoice, paid, counts bool) {
	if counts {
		inv.AttemptCount++
	}
	if paid {
		g.pay(inv)
		s.Status = billing.StatusActive
		g.emitInvoice("invoice.paid", inv)
	} else {
		s.Status = billing.StatusPastDue
		g.emitInvoice("invoice.payment_failed", inv)
	}
	g.emitSubscription("customer.subscription.updated", "", s)
}

// Change changes a subscription as the provider's dashboard or portal would,
// and makes an event of it.
func (g *Gateway) Change(subscription string, change func(s *billing.Subscription)) error {
	return g.change(subscription, func(s *billing.Subscription) {
		change(s)
		g.emitSubscription("customer.subscription.updated", "", s)
	})
}

// SetPlan puts the first item of a subscription on another price, as the
// portal would.
func (g *Gateway) SetPlan(subscription, lookupKey string) error {
	g.mu.Lock()
	p, ok := g.prices[lookupKey]
	g.mu.Unlock()
	if !ok {
		return fmt.Errorf("billingtest: no price %s", lookupKey)
	}
	return g.Change(subscription, func(s *billing.Subscription) { s.Items[0].Price = p })
}

// End ends a subscription at once.
func (g *Gateway) End(subscription, reason string) error {
	return g.change(subscription, func(s *billing.Subscription) { g.finish(s, reason, "") })
}

// Refund refunds an amount of an invoice by a credit note.
func (g *Gateway) Refund(invoice string, amount int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	inv := g.invoices[invoice]
	if inv == nil {
		return fmt.Errorf("billingtest: no invoice %s", invoice)
	}
	inv.AmountRefunded += amount
	g.emitInvoice("invoice.updated", inv)
	return nil
}

// DeleteCustomer deletes a customer and ends its subscriptions.
func (g *Gateway) DeleteCustomer(id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.customers[id]
	if c == nil {
		return fmt.Errorf("billingtest: no customer %s", id)
	}
	for _, s := range g.subs {
		if s.CustomerID == id && !s.Status.Terminal() {
			g.finish(s, "", "")
		}
	}
	c.Deleted = true
	g.emit("customer.deleted", "", func(e *billing.Event) { e.CustomerID, e.ObjectID, e.Account, e.Customer = id, id, c.Account, c })
	return nil
}

// AddCustomer makes a customer outside of billing, as the dashboard would.
func (g *Gateway) AddCustomer(account string) billing.Customer {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := &billing.Customer{ID: g.id("cus"), Account: account, Created: g.stamp()}
	g.customers[c.ID] = c
	return clone(*c)
}

// AddSubscription makes a paid subscription outside of billing.
func (g *Gateway) AddSubscription(customerID, lookupKey string) (billing.Subscription, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.prices[lookupKey]
	if !ok {
		return billing.Subscription{}, fmt.Errorf("billingtest: no price %s", lookupKey)
	}
	s, inv, err := g.subscribe("AddSubscription", customerID, "", []billing.LineItem{{PriceID: p.ID, Quantity: 1}}, time.Time{}, nil)
	if err != nil {
		return billing.Subscription{}, err
	}
	s.Status = billing.StatusActive
	g.pay(inv)
	g.emitSubscription("customer.subscription.created", "", s)
	g.emitInvoice("invoice.paid", inv)
	return clone(*s), nil
}

// Emit makes an event of any type that carries no object.
func (g *Gateway) Emit(kind, customerID, objectID string) billing.Event {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.emit(kind, "", func(e *billing.Event) { e.CustomerID, e.ObjectID = customerID, objectID })
	return g.events[len(g.events)-1]
}

func (g *Gateway) change(id string, do func(s *billing.Subscription)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.subs[id]
	if s == nil || s.Status.Terminal() {
		return fmt.Errorf("billingtest: subscription %s is unknown or has ended", id)
	}
	do(s)
	return nil
}
