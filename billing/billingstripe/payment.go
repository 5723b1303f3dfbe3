package billingstripe

import (
	"context"
	"errors"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var (
	_ billing.Payer    = (*Gateway)(nil)
	_ billing.Unpauser = (*Gateway)(nil)
)

// attempts fills in why the payments of open invoices failed: the invoices
// themselves don't say.
func (g *Gateway) attempts(ctx context.Context, invoices []billing.Invoice) error {
	const op = "fetch payment"
	for i := range invoices {
		inv := &invoices[i]
		if inv.Status != billing.InvoiceOpen || inv.PaymentIntentID == "" || inv.AttemptCount == 0 && inv.BillingReason == "subscription_create" {
			continue
		}
		path, err := objectPath(op, "/v1/payment_intents/%s", inv.PaymentIntentID)
		if err != nil {
			return err
		}
		n, err := g.call(ctx, get(op, path, nil))
		if errors.Is(err, billing.ErrNotFound) {
			continue // paid outside of Stripe meanwhile
		}
		if err != nil {
			return err
		}
		decodeAttempt(n, inv)
		if err := check(op, "", n, n.at("id").text() != ""); err != nil {
			return err
		}
	}
	return nil
}

// PaymentMethod fetches a payment method; see billing.Payer.
func (g *Gateway) PaymentMethod(ctx context.Context, id string) (billing.PaymentMethod, error) {
	const op = "fetch payment method"
	path, err := objectPath(op, "/v1/payment_methods/%s", id)
	if err != nil {
		return billing.PaymentMethod{}, err
	}
	n, err := g.call(ctx, get(op, path, nil))
	if err != nil {
		return billing.PaymentMethod{}, err
	}
	kind := n.at("type").text()
	details := n.at(kind) // each type has its own, and cards and debits a fingerprint
	pm := billing.PaymentMethod{
		ID: n.at("id").text(), CustomerID: n.at("customer").id(), Type: kind,
		Brand: details.at("brand").text(), Last4: details.at("last4").text(), Fingerprint: details.at("fingerprint").text(),
		ExpMonth: details.at("exp_month").number(), ExpYear: details.at("exp_year").number(),
	}
	return pm, check(op, "", n, pm.ID != "" && pm.Type != "")
}

// CreateSetup readies a customer for a new payment method; see billing.Payer.
func (g *Gateway) CreateSetup(ctx context.Context, customerID, key string) (billing.Setup, error) {
	const op = "create setup"
	if customerID == "" {
		return billing.Setup{}, invalid(op, "the customer is empty")
	}
	n, err := g.call(ctx, post(op, "/v1/setup_intents", &stripe.SetupIntentParams{
		Customer: &customerID, Usage: stripe.String("off_session"),
	}, key))
	if err != nil {
		return billing.Setup{}, err
	}
	setup := billing.Setup{ID: n.at("id").text(), ClientSecret: n.at("client_secret").text()}
	return setup, check(op, key, n, setup.ID != "" && setup.ClientSecret != "")
}

// SetPaymentMethod makes a payment method the default one; see billing.Payer.
// It takes a request for the customer and one for the subscription, whose own
// default would win.
func (g *Gateway) SetPaymentMethod(ctx context.Context, customerID, subscriptionID, paymentMethod, key string) error {
	const op = "set payment method"
	path, err := objectPath(op, "/v1/customers/%s", customerID)
	if err != nil {
		return err
	}
	_, err = g.call(ctx, post(op, path, &stripe.CustomerParams{
		InvoiceSettings: &stripe.CustomerInvoiceSettingsParams{DefaultPaymentMethod: &paymentMethod},
	}, key))
	if err != nil || subscriptionID == "" {
		return err
	}
	if path, err = objectPath(op, "/v1/subscriptions/%s", subscriptionID); err != nil {
		return err
	}
	_, err = g.call(ctx, post(op, path, &stripe.SubscriptionParams{DefaultPaymentMethod: &paymentMethod}, key+":subscription"))
	return err
}

// The codes with which Stripe refuses to pay an invoice.
const (
	codeActionRequired = "invoice_payment_intent_requires_action"
	codeNotPayable     = "invoice_not_payable"
)

// PayInvoice charges an open invoice now; see billing.Payer.
func (g *Gateway) PayInvoice(ctx context.Context, invoiceID string, req billing.PayRequest, key string) (billing.Invoice, error) {
	const op = "pay invoice"
	path, err := objectPath(op, "/v1/invoices/%s/pay", invoiceID)
	if err != nil {
		return billing.Invoice{}, err
	}
	n, err := g.call(ctx, post(op, path, &stripe.InvoicePayParams{
		PaymentMethod: optional(req.PaymentMethod), OffSession: &req.OffSession,
	}, key))
	if err == nil {
		return g.invoice(ctx, op, key, n)
	}
	var failure *billing.GatewayError
	if !errors.As(err, &failure) {
		return billing.Invoice{}, err
	}
	switch failure.Code {
	case codeActionRequired, codeNotPayable:
		inv, readErr := g.Invoice(ctx, invoiceID)
		switch {
		case readErr != nil:
			// What became of the payment is to be asked again.
			return inv, &billing.GatewayError{Op: op, Kind: billing.ErrUnknownOutcome, IdempotencyKey: key, Err: readErr}
		case inv.Status == billing.InvoicePaid:
			return inv, nil
		case failure.Code == codeActionRequired:
			return inv, &billing.ActionRequiredError{InvoiceID: inv.ID, ClientSecret: inv.ClientSecret, URL: inv.HostedURL}
		}
	}
	return billing.Invoice{}, err
}

// UnpauseSubscription takes up a subscription whose trial ended without a
// payment method; see billing.Unpauser.
func (g *Gateway) UnpauseSubscription(ctx context.Context, id, key string) (billing.Subscription, error) {
	const op = "resume subscription"
	path, err := objectPath(op, "/v1/subscriptions/%s/resume", id)
	if err != nil {
		return billing.Subscription{}, err
	}
	n, err := g.call(ctx, post(op, path, &stripe.SubscriptionResumeParams{BillingCycleAnchor: stripe.String("now")}, key))
	if err != nil {
		return billing.Subscription{}, err
	}
	return g.subscription(ctx, op, key, n)
}
