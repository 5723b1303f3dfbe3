package billingstripe

import (
	"context"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// Invoices lists a customer's invoices; see billing.Gateway. A page has at most
// 100.
func (g *Gateway) Invoices(ctx context.Context, customerID, after string) ([]billing.Invoice, bool, error) {
	return g.invoices(ctx, customerID, after, func(*stripe.InvoiceListParams) {})
}

func (g *Gateway) invoices(ctx context.Context, customerID, after string, set func(*stripe.InvoiceListParams)) ([]billing.Invoice, bool, error) {
	const op = "list invoices"
	if customerID == "" {
		return nil, false, invalid(op, "the customer is empty")
	}
	params := &stripe.InvoiceListParams{Customer: &customerID}
	params.Limit = stripe.Int64(pageSize)
	params.StartingAfter = optional(after)
	set(params)
	n, err := g.call(ctx, get(op, "/v1/invoices", params))
	if err != nil {
		return nil, false, err
	}
	list, more := n.list()
	var invoices []billing.Invoice
	for _, n := range list {
		inv, err := g.invoice(ctx, op, "", n)
		if err != nil {
			return nil, false, err
		}
		invoices = append(invoices, inv)
	}
	return invoices, more, nil
}

// PreviewUpdate returns the invoice that a change would lead to; see
// billing.Gateway.
func (g *Gateway) PreviewUpdate(ctx context.Context, customerID, id string, req billing.UpdateRequest) (billing.Invoice, error) {
	const op = "preview update"
	if customerID == "" || id == "" {
		return billing.Invoice{}, invalid(op, "a preview needs a customer and a subscription")
	}
	params := stripe.InvoiceUpcomingParams{
		Customer:                      &customerID,
		Subscription:                  &id,
		SubscriptionItems:             updateItems(req.Items),
		SubscriptionProrationBehavior: optional(req.Proration),
		SubscriptionProrationDate:     instant(req.ProrationDate),
		SubscriptionCancelAtPeriodEnd: req.CancelAtPeriodEnd,
		SubscriptionTrialEnd:          g.trialEnd(req.TrialEnd),
		Coupon:                        optional(req.CouponID),
	}
	if !req.TrialEnd.IsZero() && params.SubscriptionTrialEnd == nil {
		params.SubscriptionTrialEndNow = stripe.Bool(true)
	}
	n, err := g.call(ctx, get(op, "/v1/invoices/upcoming", &params))
	if err != nil {
		return billing.Invoice{}, err
	}
	inv := decodeInvoice(n)
	if err := check(op, "", n, inv.Currency != ""); err != nil {
		return billing.Invoice{}, err
	}
	if _, more := n.at("lines").list(); !more {
		return inv, nil
	}
	// The lines of an invoice that doesn't exist are asked for with the same
	// parameters.
	page := &stripe.ListParams{}
	list, err := g.all(ctx, n, op, "", "/v1/invoices/upcoming/lines", &upcomingLines{&params, page}, page)
	if err != nil {
		return billing.Invoice{}, err
	}
	inv.Lines = decodeLines(list, inv.Currency)
	return inv, check(op, "", n, true)
}

// upcomingLines are the parameters of a preview with those of a page.
type upcomingLines struct {
	Preview *stripe.InvoiceUpcomingParams `form:"*"`
	Page    *stripe.ListParams            `form:"*"`
}

// invoice decodes an invoice that an operation was answered with, and fetches
// the lines that didn't fit into it.
func (g *Gateway) invoice(ctx context.Context, op, key string, n node) (billing.Invoice, error) {
	n = n.fork()
	inv := decodeInvoice(n)
	if err := check(op, key, n, inv.ID != "" && inv.Currency != ""); err != nil {
		return billing.Invoice{}, err
	}
	if _, more := n.at("lines").list(); !more {
		return inv, nil
	}
	path, err := objectPath(op, "/v1/invoices/%s/lines", inv.ID)
	if err != nil {
		return billing.Invoice{}, err
	}
	page := &stripe.ListParams{}
	list, err := g.all(ctx, n, "list invoice lines", key, path, page, page)
	if err != nil {
		return billing.Invoice{}, err
	}
	inv.Lines = decodeLines(list, inv.Currency)
	return inv, check(op, key, n, true)
}
