package billingstripe

import (
	"context"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// CreateCheckout opens a hosted payment page; see billing.Gateway. A discount
// and AllowPromotionCodes exclude each other.
func (g *Gateway) CreateCheckout(ctx context.Context, req billing.CheckoutRequest, key string) (billing.Checkout, error) {
	const op = "create checkout session"
	if req.CustomerID == "" || len(req.Items) == 0 || req.SuccessURL == "" {
		return billing.Checkout{}, invalid(op, "a checkout session needs a customer, at least one item and a success URL")
	}
	if req.AllowPromotionCodes && (req.CouponID != "" || req.PromotionCode != "") {
		return billing.Checkout{}, invalid(op, "a session with a discount can't take promotion codes as well: leave one of them out")
	}
	promotion, err := g.promotionCode(ctx, req.PromotionCode)
	if err != nil {
		return billing.Checkout{}, err
	}
	params := &stripe.CheckoutSessionParams{
		Mode:              stripe.String("subscription"),
		Customer:          &req.CustomerID,
		ClientReferenceID: optional(req.Account),
		SuccessURL:        &req.SuccessURL,
		CancelURL:         optional(req.CancelURL),
		ExpiresAt:         instant(req.ExpiresAt),
		Metadata:          metadata(req.Metadata, req.Account),
		// The subscription carries it as well: it may be seen before the session.
		SubscriptionData: &stripe.CheckoutSessionSubscriptionDataParams{
			Metadata: metadata(req.Metadata, req.Account),
		},
	}
	if req.TrialDays > 0 {
		params.SubscriptionData.TrialPeriodDays = &req.TrialDays
	}
	if req.TrialWithoutCard {
		params.PaymentMethodCollection = stripe.String("if_required")
		params.SubscriptionData.TrialSettings = &stripe.CheckoutSessionSubscriptionDataTrialSettingsParams{
			EndBehavior: &stripe.CheckoutSessionSubscriptionDataTrialSettingsEndBehaviorParams{MissingPaymentMethod: stripe.String("pause")},
		}
	}
	if req.AllowPromotionCodes {
		params.AllowPromotionCodes = &req.AllowPromotionCodes
	}
	if req.CouponID != "" || promotion != "" {
		params.Discounts = []*stripe.CheckoutSessionDiscountParams{{Coupon: optional(req.CouponID), PromotionCode: optional(promotion)}}
	}
	for _, item := range req.Items {
		params.LineItems = append(params.LineItems, &stripe.CheckoutSessionLineItemParams{Price: stripe.String(item.PriceID), Quantity: quantity(item.Quantity)})
	}
	n, err := g.call(ctx, post(op, "/v1/checkout/sessions", params, key))
	if err != nil {
		return billing.Checkout{}, err
	}
	return checkout(op, key, n)
}

// Checkout fetches a checkout session; see billing.Gateway.
func (g *Gateway) Checkout(ctx context.Context, id string) (billing.Checkout, error) {
	const op = "fetch checkout session"
	path, err := objectPath(op, "/v1/checkout/sessions/%s", id)
	if err != nil {
		return billing.Checkout{}, err
	}
	n, err := g.call(ctx, get(op, path, nil))
	if err != nil {
		return billing.Checkout{}, err
	}
	return checkout(op, "", n)
}

// ExpireCheckout closes an open checkout session; see billing.Gateway.
func (g *Gateway) ExpireCheckout(ctx context.Context, id string) error {
	const op = "expire checkout session"
	path, err := objectPath(op, "/v1/checkout/sessions/%s/expire", id)
	if err != nil {
		return err
	}
	_, err = g.call(ctx, post(op, path, nil, newKey()))
	return err
}

// CreatePortal opens the hosted page for a customer; see billing.Gateway.
func (g *Gateway) CreatePortal(ctx context.Context, customerID, returnURL string) (string, error) {
	const op = "create portal session"
	if customerID == "" {
		return "", invalid(op, "the customer is empty")
	}
	key := newKey()
	n, err := g.call(ctx, post(op, "/v1/billing_portal/sessions", &stripe.BillingPortalSessionParams{
		Customer:  &customerID,
		ReturnURL: optional(returnURL),
	}, key))
	if err != nil {
		return "", err
	}
	page := n.at("url").text()
	return page, check(op, key, n, page != "")
}

// checkout decodes a session that an operation was answered with.
func checkout(op, key string, n node) (billing.Checkout, error) {
	c := decodeCheckout(n)
	return c, check(op, key, n, c.ID != "")
}
