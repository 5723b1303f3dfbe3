package billingstripe

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"strings"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var _ billing.Creditor = (*Gateway)(nil)

// CreateCoupon makes a coupon; see billing.Creditor.
func (g *Gateway) CreateCoupon(ctx context.Context, req billing.CouponRequest) error {
	const op = "create coupon"
	params := &stripe.CouponParams{
		ID:       optional(req.ID),
		Name:     optional(req.Name),
		Duration: stripe.String("once"),
	}
	if req.Reference != "" {
		params.Metadata = map[string]string{billing.MetadataReference: req.Reference}
	}
	if req.MaxRedemptions > 0 {
		params.MaxRedemptions = &req.MaxRedemptions
	}
	switch {
	case req.PercentOff > 0:
		params.PercentOff = stripe.Float64(float64(req.PercentOff))
		if req.Months > 1 {
			params.Duration, params.DurationInMonths = stripe.String("repeating"), &req.Months
		}
	default:
		amount, err := toStripe(req.AmountOff)
		if err != nil {
			return invalid(op, err.Error())
		}
		params.AmountOff, params.Currency = &amount, stripe.String(strings.ToLower(req.AmountOff.Currency))
	}
	_, err := g.call(ctx, post(op, "/v1/coupons", params, billing.KeyPrefix+"coupon:"+req.ID))
	var failure *billing.GatewayError
	if errors.As(err, &failure) && failure.Code == string(stripe.ErrorCodeResourceAlreadyExists) {
		return nil
	}
	return err
}

// Invoice fetches an invoice with its discounts and what is needed to pay it.
func (g *Gateway) Invoice(ctx context.Context, id string) (billing.Invoice, error) {
	const op = "fetch invoice"
	path, err := objectPath(op, "/v1/invoices/%s", id)
	if err != nil {
		return billing.Invoice{}, err
	}
	params := &stripe.InvoiceParams{}
	params.AddExpand("discounts")
	params.AddExpand("payment_intent")
	n, err := g.call(ctx, get(op, path, params))
	if err != nil {
		return billing.Invoice{}, err
	}
	return g.invoice(ctx, op, "", n)
}

// SetDiscounts replaces the discounts of a draft invoice; see
// billing.Creditor.
func (g *Gateway) SetDiscounts(ctx context.Context, invoiceID string, discounts []billing.Discount, key string) (billing.Invoice, error) {
	const op = "discount invoice"
	path, err := objectPath(op, "/v1/invoices/%s", invoiceID)
	if err != nil {
		return billing.Invoice{}, err
	}
	params := &stripe.InvoiceParams{}
	params.AddExpand("discounts")
	for _, d := range discounts {
		if d.ID != "" {
			params.Discounts = append(params.Discounts, &stripe.InvoiceDiscountParams{Discount: stripe.String(d.ID)})
		} else {
			params.Discounts = append(params.Discounts, &stripe.InvoiceDiscountParams{Coupon: stripe.String(d.CouponID)})
		}
	}
	n, err := g.call(ctx, post(op, path, params, key))
	if err != nil {
		return billing.Invoice{}, err
	}
	return g.invoice(ctx, op, key, n)
}

// AddBalance changes a customer's balance; see billing.Creditor.
func (g *Gateway) AddBalance(ctx context.Context, customerID string, amount billing.Money, reference, key string) (billing.BalanceEntry, error) {
	const op = "change balance"
	path, err := objectPath(op, "/v1/customers/%s/balance_transactions", customerID)
	if err != nil {
		return billing.BalanceEntry{}, err
	}
	units, err := toStripe(amount)
	if err != nil {
		return billing.BalanceEntry{}, invalid(op, err.Error())
	}
	n, err := g.call(ctx, post(op, path, &stripe.CustomerBalanceTransactionParams{
		Amount: &units, Currency: stripe.String(strings.ToLower(amount.Currency)), Metadata: map[string]string{billing.MetadataReference: reference},
	}, key))
	if err != nil {
		return billing.BalanceEntry{}, err
	}
	return balanceEntry(op, key, n)
}

// FindBalance looks a change of a customer's balance up by its reference; see
// billing.Creditor. It reads the customer's whole history.
func (g *Gateway) FindBalance(ctx context.Context, customerID, reference string) (billing.BalanceEntry, error) {
	for entry, err := range g.balances(ctx, "find balance", customerID) {
		if err != nil || entry.Reference == reference {
			return entry, err
		}
	}
	return billing.BalanceEntry{}, &billing.GatewayError{Op: "find balance", Kind: billing.ErrNotFound, Message: "no change of the balance carries this reference"}
}

// balances reads the changes of a customer's balance, newest first, page by
// page. It ends with an error.
func (g *Gateway) balances(ctx context.Context, op, customerID string) iter.Seq2[billing.BalanceEntry, error] {
	return func(yield func(billing.BalanceEntry, error) bool) {
		path, err := objectPath(op, "/v1/customers/%s/balance_transactions", customerID)
		params := &stripe.CustomerBalanceTransactionListParams{}
		for more := true; more && err == nil; {
			params.Limit = stripe.Int64(pageSize)
			var n node
			if n, err = g.call(ctx, request{op: op, method: http.MethodGet, path: path, params: params}); err != nil {
				break
			}
			var list []node
			list, more = n.list()
			more = more && len(list) > 0
			for _, n := range list {
				var entry billing.BalanceEntry
				if entry, err = balanceEntry(op, "", n); err != nil {
					break
				}
				if !yield(entry, nil) {
					return
				}
				params.StartingAfter = &entry.ID
			}
		}
		if err != nil {
			yield(billing.BalanceEntry{}, err)
		}
	}
}

func balanceEntry(op, key string, n node) (billing.BalanceEntry, error) {
	n = n.fork()
	currency := n.at("currency").currency()
	entry := billing.BalanceEntry{
		ID:        n.at("id").text(),
		Amount:    billing.Money{Amount: n.at("amount").amount(currency), Currency: currency},
		Reference: n.at("metadata").at(billing.MetadataReference).text(),
	}
	return entry, check(op, key, n, entry.ID != "" && currency != "")
}

// Customer fetches a customer; see billing.Creditor.
func (g *Gateway) Customer(ctx context.Context, customerID string) (billing.Customer, error) {
	const op = "fetch customer"
	path, err := objectPath(op, "/v1/customers/%s", customerID)
	if err != nil {
		return billing.Customer{}, err
	}
	n, err := g.call(ctx, get(op, path, nil))
	if err != nil {
		return billing.Customer{}, err
	}
	return customer(op, "", n)
}
