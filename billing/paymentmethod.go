package billing

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// Payer is what a Gateway offers in addition if payment methods can be changed
// and invoices be paid by calls. Trials for each card need it as well.
type Payer interface {
	// PaymentMethod fetches a payment method.
	PaymentMethod(ctx context.Context, id string) (PaymentMethod, error)
	// CreateSetup readies a customer for a new payment method, which the
	// client enters with the secret.
	CreateSetup(ctx context.Context, customerID, key string) (Setup, error)
	// SetPaymentMethod makes a payment method of the customer's the default
	// one, of the subscription too if that is set.
	SetPaymentMethod(ctx context.Context, customerID, subscriptionID, paymentMethod, key string) error
	// PayInvoice charges an open invoice now. One that is paid already is
	// returned as it is. A payment that the customer has to authenticate is an
	// *ActionRequiredError.
	PayInvoice(ctx context.Context, invoiceID string, req PayRequest, key string) (Invoice, error)
	// Invoice fetches an invoice, with what the client needs to pay it.
	Invoice(ctx context.Context, id string) (Invoice, error)
}

// PaymentMethod is a way to pay, as the gateway shows it.
type PaymentMethod struct {
	ID         string `json:"id"`
	CustomerID string `json:"customer_id,omitempty"`
	Type       string `json:"type"`            // card, sepa_debit, …
	Brand      string `json:"brand,omitempty"` // of a card
	Last4      string `json:"last4,omitempty"`
	ExpMonth   int64  `json:"exp_month,omitempty"`
	ExpYear    int64  `json:"exp_year,omitempty"`
	// Fingerprint is the same for the same number, under every customer. It is
	// never stored.
	Fingerprint string `json:"-"`
}

// Setup is what a client needs to enter a payment method.
type Setup struct {
	ID           string `json:"id"`
	ClientSecret string `json:"client_secret"`
}

// PayRequest says how to pay an invoice.
type PayRequest struct {
	PaymentMethod string // empty: the default one
	// OffSession says that the customer isn't there to authenticate.
	OffSession bool
}

// ActionRequiredError says what the customer is to do for a payment. It is
// ErrActionRequired. When it is done, the gateway tells by webhook; Sync sees
// it at once.
type ActionRequiredError struct {
	InvoiceID    string
	ClientSecret string // for the gateway's client library
	URL          string // or for a person without one: the invoice's page
}

// Error says which invoice it is about, and no secret.
func (e *ActionRequiredError) Error() string {
	return fmt.Sprintf("%s: invoice %s", ErrActionRequired, e.InvoiceID)
}

// Is makes it ErrActionRequired.
func (e *ActionRequiredError) Is(target error) bool { return target == ErrActionRequired }

// onPageFor is how long a person is taken to be on a page for payment after
// the last sign of that.
const onPageFor = 15 * time.Minute

func (s *Service) payer() (Payer, error) {
	p, ok := s.gateway.(Payer)
	if !ok {
		return nil, fmt.Errorf("%w: it implements no Payer", ErrUnsupported)
	}
	return p, nil
}

// payIntent is a payment, or a change of the default payment method, that is
// under way.
type payIntent struct {
	CustomerID     string
	SubscriptionID string
	InvoiceID      string
	PaymentMethod  string
	OffSession     bool
}

// SetupPayment begins the entry of a new payment method on a page of the
// application's own: the client confirms the setup with the secret, and hands
// the payment method's ID to UsePaymentMethod. Portal does all of that on the
// gateway's page.
func (s *Service) SetupPayment(ctx context.Context, account string) (Setup, error) {
	p, err := s.payer()
	if err != nil {
		return Setup{}, err
	}
	customer, err := s.EnsureCustomer(ctx, account)
	if err != nil {
		return Setup{}, err
	}
	if err := s.OnPage(ctx, account); err != nil {
		return Setup{}, err
	}
	call, cancel := s.call(ctx)
	defer cancel()
	// No intent: a setup that nobody confirms is nothing.
	return p.CreateSetup(call, customer, KeyPrefix+"setup:"+rand.Text())
}

// OnPage says that the person is on a page for payment: for a quarter of an
// hour, notices about payments that fail carry Notice.OnPage, for they are seen
// there and need no mail. The calls of this package that lead to such a page
// say so themselves.
func (s *Service) OnPage(ctx context.Context, account string) error {
	_, err := s.edit(ctx, account, func(a *Account) bool {
		until := s.now().Add(onPageFor)
		if until.Sub(a.OnPage) < time.Minute {
			return false // the page is loaded again and again
		}
		a.OnPage = until
		return true
	})
	return err
}

// UsePaymentMethod makes a payment method, which the account's customer has
// set up, the one that is charged, and charges open invoices of renewals to it
// at once, the oldest first. It returns what they are now. A payment that is
// refused is ErrDeclined, one that the customer has to authenticate an
// *ActionRequiredError; the payment method stays.
func (s *Service) UsePaymentMethod(ctx context.Context, account, paymentMethod string) ([]Invoice, error) {
	p, err := s.payer()
	if err != nil {
		return nil, err
	}
	a, err := s.Account(ctx, account)
	if err != nil {
		return nil, err
	}
	call, cancel := s.call(ctx)
	pm, err := p.PaymentMethod(call, paymentMethod)
	cancel()
	if err != nil {
		return nil, err
	}
	if a.CustomerID == "" || pm.CustomerID != a.CustomerID {
		return nil, fmt.Errorf("%w: this account has no such payment method", ErrNotFound)
	}
	if err := s.OnPage(ctx, account); err != nil {
		return nil, err
	}
	_, _, err = s.act(ctx, account, opMethod, func(a *Account) (any, bool, error) {
		r := payIntent{CustomerID: a.CustomerID, PaymentMethod: pm.ID}
		done := a.PaymentMethod == pm.ID
		if sub, err := a.live(); err == nil {
			r.SubscriptionID = sub.ID
			done = done && (sub.DefaultPaymentMethod == "" || sub.DefaultPaymentMethod == pm.ID)
		}
		return r, done, nil
	})
	if err != nil {
		return nil, err
	}
	if a, err = s.Account(ctx, account); err != nil {
		return nil, err
	}
	var paid []Invoice
	for _, id := range a.renewalsUnpaid() {
		inv, payErr := s.pay(ctx, account, id, pm.ID, false)
		if payErr != nil {
			err = payErr
			break
		}
		paid = append(paid, inv)
	}
	if err != nil && !definite(err) {
		return paid, err // Run goes on with it
	}
	return paid, errors.Join(err, s.tried(ctx, account, pm.ID))
}

// tried notes that a new payment method was charged, or refused: nobody else
// is to try it.
func (s *Service) tried(ctx context.Context, account, paymentMethod string) error {
	_, err := s.edit(ctx, account, func(a *Account) bool {
		was := a.Retry
		a.Retry = a.Retry && a.PaymentMethod != paymentMethod // another one may have come meanwhile
		return was != a.Retry
	})
	return err
}

// PayInvoice charges an open invoice of the account to its payment method,
// while the person is there: a payment that it has to authenticate is an
// *ActionRequiredError. Where the last decline says that no retry with this
// payment method helps, it is ErrDeclined without another try.
func (s *Service) PayInvoice(ctx context.Context, account, invoiceID string) (Invoice, error) {
	p, err := s.payer()
	if err != nil {
		return Invoice{}, err
	}
	a, err := s.Account(ctx, account)
	if err != nil {
		return Invoice{}, err
	}
	call, cancel := s.call(ctx)
	inv, err := p.Invoice(call, invoiceID)
	cancel()
	switch {
	case err != nil:
		return Invoice{}, err
	case a.CustomerID == "" || inv.CustomerID != a.CustomerID:
		return Invoice{}, fmt.Errorf("%w: this account has no such invoice", ErrNotFound)
	case inv.Status == InvoicePaid:
		_, err := s.Sync(ctx, account)
		return inv, err
	}
	if err := s.OnPage(ctx, account); err != nil {
		return inv, err
	}
	if inv.ActionRequired && inv.ClientSecret != "" {
		return inv, &ActionRequiredError{InvoiceID: inv.ID, ClientSecret: inv.ClientSecret, URL: inv.HostedURL}
	}
	if inv.DeclineCode != "" && RemedyFor(inv.DeclineCode) == RemedyNewMethod && inv.FailedMethod == a.method(inv.SubscriptionID) {
		return inv, &GatewayError{Op: "pay invoice", Kind: ErrDeclined, Code: "card_declined", DeclineCode: inv.DeclineCode, Message: "no retry with this payment method helps: ask for another one"}
	}
	return s.pay(ctx, account, inv.ID, "", false)
}

// method is the payment method that a subscription is charged to.
func (a *Account) method(subscription string) string {
	if sub := a.subscription(subscription); sub != nil && sub.DefaultPaymentMethod != "" {
		return sub.DefaultPaymentMethod
	}
	return a.PaymentMethod
}

// pay charges one invoice by an intent. Whatever became of it, the account is
// fetched: a decline is news too.
func (s *Service) pay(ctx context.Context, account, invoiceID, paymentMethod string, offSession bool) (Invoice, error) {
	var paid *Invoice
	out, done, err := s.act(ctx, account, opPay, func(a *Account) (any, bool, error) {
		if inv := a.invoice(invoiceID); inv != nil && inv.Status != InvoiceOpen && inv.Status != InvoiceUncollectible {
			known := *inv
			paid = &known
			return nil, true, nil
		}
		for _, it := range a.Intents {
			if it.Op == opPay && paysFor(it) == invoiceID {
				return it.Request, false, nil // under way: joined, whoever asked
			}
		}
		return payIntent{CustomerID: a.CustomerID, InvoiceID: invoiceID, PaymentMethod: paymentMethod, OffSession: offSession}, false, nil
	})
	if done {
		return *paid, nil
	}
	if errors.Is(err, ErrDeclined) || errors.Is(err, ErrActionRequired) || errors.Is(err, ErrInvalid) {
		a, syncErr := s.Sync(ctx, account)
		if inv := a.invoice(invoiceID); syncErr == nil && inv != nil && inv.Status == InvoicePaid {
			return *inv, nil // somebody else paid it meanwhile
		}
	}
	return out.invoice, err
}

// renewalsUnpaid are the open invoices of all live subscriptions, oldest
// first.
func (a *Account) renewalsUnpaid() []string {
	var ids []string
	for _, sub := range a.Live() {
		for _, inv := range a.UnpaidInvoices(sub.ID) {
			ids = append(ids, inv.ID)
		}
	}
	return ids
}

// retryPayments charges what is unpaid to the payment method that has come,
// on the gateway's page or elsewhere. It is asked for once: whether it works is
// the gateway's news.
func (s *Service) retryPayments(ctx context.Context, a *Account) error {
	if _, err := s.payer(); err == nil {
		for _, id := range a.renewalsUnpaid() {
			_, err := s.pay(ctx, a.ID, id, a.PaymentMethod, true)
			if err != nil && !definite(err) {
				return err
			}
		}
	}
	return s.tried(ctx, a.ID, a.PaymentMethod)
}
