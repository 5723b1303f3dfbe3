package billingstripe

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// Prices returns the active prices with these lookup keys, in their order; see
// billing.Gateway.
func (g *Gateway) Prices(ctx context.Context, lookupKeys []string) ([]billing.Price, error) {
	const op = "list prices"
	const maxKeys = 10 // of one request
	var prices []billing.Price
	for keys := range slices.Chunk(lookupKeys, maxKeys) {
		params := &stripe.PriceListParams{Active: stripe.Bool(true), LookupKeys: stripe.StringSlice(keys)}
		params.Limit = stripe.Int64(pageSize)
		n, err := g.call(ctx, get(op, "/v1/prices", params))
		if err != nil {
			return nil, err
		}
		list, _ := n.list() // a lookup key is of one price: ten fit a page
		for _, n := range list {
			price := decodePrice(n)
			if err := check(op, "", n, price.ID != ""); err != nil {
				return nil, err
			}
			if price.Active && slices.Contains(keys, price.LookupKey) {
				prices = append(prices, price)
			}
		}
	}
	slices.SortStableFunc(prices, func(a, b billing.Price) int {
		return slices.Index(lookupKeys, a.LookupKey) - slices.Index(lookupKeys, b.LookupKey)
	})
	return prices, nil
}

// Subscribe creates a subscription that waits for its first payment; see
// billing.Gateway.
func (g *Gateway) Subscribe(ctx context.Context, req billing.SubscribeRequest, key string) (billing.Subscribed, error) {
	const op = "create subscription"
	if req.CustomerID == "" || len(req.Items) == 0 {
		return billing.Subscribed{}, invalid(op, "a subscription needs a customer and at least one item")
	}
	promotion, err := g.promotionCode(ctx, req.PromotionCode)
	if err != nil {
		return billing.Subscribed{}, err
	}
	params := &stripe.SubscriptionParams{
		Customer:        &req.CustomerID,
		Metadata:        metadata(req.Metadata, req.Account),
		PaymentBehavior: stripe.String("default_incomplete"),
		PaymentSettings: &stripe.SubscriptionPaymentSettingsParams{
			// The card that pays the first invoice pays the next ones.
			SaveDefaultPaymentMethod: stripe.String("on_subscription"),
		},
		TrialEnd:             g.trialEnd(req.TrialEnd),
		DefaultPaymentMethod: optional(req.PaymentMethod),
		Coupon:               optional(req.CouponID),
		PromotionCode:        optional(promotion),
		Expand:               stripe.StringSlice([]string{"latest_invoice.payment_intent", "pending_setup_intent"}),
	}
	if req.TrialWithoutCard {
		params.TrialSettings = &stripe.SubscriptionTrialSettingsParams{
			EndBehavior: &stripe.SubscriptionTrialSettingsEndBehaviorParams{MissingPaymentMethod: stripe.String("pause")},
		}
	}
	for _, item := range req.Items {
		params.Items = append(params.Items, &stripe.SubscriptionItemsParams{Price: stripe.String(item.PriceID), Quantity: quantity(item.Quantity)})
	}
	n, err := g.call(ctx, post(op, "/v1/subscriptions", params, key))
	if err != nil {
		return billing.Subscribed{}, err
	}
	s, err := g.subscription(ctx, op, key, n)
	if err != nil {
		return billing.Subscribed{}, err
	}
	subscribed := billing.Subscribed{Subscription: s}
	if invoice := n.at("latest_invoice"); invoice.object() {
		if subscribed.Invoice, err = g.invoice(ctx, op, key, invoice); err != nil {
			return billing.Subscribed{}, err
		}
		subscribed.ClientSecret = subscribed.Invoice.ClientSecret
	}
	if secret := n.at("pending_setup_intent", "client_secret").text(); subscribed.ClientSecret == "" && secret != "" {
		subscribed.ClientSecret, subscribed.Setup = secret, true
	}
	return subscribed, nil
}

// quantity leaves the quantity of metered prices out: they take none, not even
// zero.
func quantity(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// trialEnd returns the end of a trial, nil if it stays as it is. An end that
// isn't in the future would be refused: it means now.
func (g *Gateway) trialEnd(end time.Time) *int64 {
	if end.IsZero() || !end.After(g.now()) {
		return nil
	}
	return instant(end)
}

// UpdateSubscription changes a subscription; see billing.Gateway.
func (g *Gateway) UpdateSubscription(ctx context.Context, id string, req billing.UpdateRequest, key string) (billing.Subscription, error) {
	const op = "update subscription"
	path, err := objectPath(op, "/v1/subscriptions/%s", id)
	if err != nil {
		return billing.Subscription{}, err
	}
	if len(req.Items) > 0 && req.Proration == "" {
		return billing.Subscription{}, invalid(op, "a change of items needs a proration: create_prorations, always_invoice or none")
	}
	params := &stripe.SubscriptionParams{
		ProrationBehavior:    optional(req.Proration),
		ProrationDate:        instant(req.ProrationDate),
		CancelAtPeriodEnd:    req.CancelAtPeriodEnd,
		TrialEnd:             g.trialEnd(req.TrialEnd),
		Coupon:               optional(req.CouponID),
		DefaultPaymentMethod: optional(req.PaymentMethod),
		PaymentBehavior:      optional(req.IfUnpaid),
		Metadata:             req.Metadata,
		Items:                updateItems(req.Items),
	}
	if !req.TrialEnd.IsZero() && params.TrialEnd == nil {
		params.TrialEndNow = stripe.Bool(true)
	}
	if feedback, comment := reason(req.CancelReason); feedback != nil || comment != nil {
		params.CancellationDetails = &stripe.SubscriptionCancellationDetailsParams{Feedback: feedback, Comment: comment}
	}
	if req.PauseCollection != nil {
		if *req.PauseCollection == "" {
			params.AddExtra("pause_collection", "") // an empty value unsets
		} else {
			params.PauseCollection = &stripe.SubscriptionPauseCollectionParams{Behavior: req.PauseCollection, ResumesAt: instant(req.PauseUntil)}
		}
	}
	if req.AnchorNow {
		params.BillingCycleAnchorNow = &req.AnchorNow
	}
	if req.IfUnpaid == "" && (len(req.Items) > 0 || !req.TrialEnd.IsZero() || req.AnchorNow) {
		params.PaymentBehavior = stripe.String("error_if_incomplete")
	}
	n, err := g.call(ctx, post(op, path, params, key))
	if err != nil {
		return billing.Subscription{}, err
	}
	return g.subscription(ctx, op, key, n)
}

func updateItems(items []billing.UpdateItem) []*stripe.SubscriptionItemsParams {
	var params []*stripe.SubscriptionItemsParams
	for _, item := range items {
		p := &stripe.SubscriptionItemsParams{ID: optional(item.ID), Price: optional(item.PriceID), Quantity: item.Quantity}
		if item.Delete {
			p = &stripe.SubscriptionItemsParams{ID: optional(item.ID), Deleted: stripe.Bool(true)}
		}
		params = append(params, p)
	}
	return params
}

// reason returns a reason for an end as Stripe takes it: one of its words, or
// else a comment.
func reason(text string) (feedback, comment *string) {
	switch stripe.SubscriptionCancellationDetailsFeedback(text) {
	case "":
		return nil, nil
	case stripe.SubscriptionCancellationDetailsFeedbackCustomerService,
		stripe.SubscriptionCancellationDetailsFeedbackLowQuality,
		stripe.SubscriptionCancellationDetailsFeedbackMissingFeatures,
		stripe.SubscriptionCancellationDetailsFeedbackOther,
		stripe.SubscriptionCancellationDetailsFeedbackSwitchedService,
		stripe.SubscriptionCancellationDetailsFeedbackTooComplex,
		stripe.SubscriptionCancellationDetailsFeedbackTooExpensive,
		stripe.SubscriptionCancellationDetailsFeedbackUnused:
		return &text, nil
	}
	return nil, &text
}

// CancelSubscription ends a subscription at once; see billing.Gateway. One
// that has ended already is returned as it is: Stripe keeps no idempotency key
// for this request, and says "not found" the second time.
func (g *Gateway) CancelSubscription(ctx context.Context, id string, req billing.CancelRequest, key string) (billing.Subscription, error) {
	const op = "cancel subscription"
	path, err := objectPath(op, "/v1/subscriptions/%s", id)
	if err != nil {
		return billing.Subscription{}, err
	}
	params := &stripe.SubscriptionCancelParams{}
	if req.Prorate {
		params.Prorate = &req.Prorate
	}
	if req.InvoiceNow {
		params.InvoiceNow = &req.InvoiceNow
	}
	if feedback, comment := reason(req.Reason); feedback != nil || comment != nil {
		params.CancellationDetails = &stripe.SubscriptionCancelCancellationDetailsParams{Feedback: feedback, Comment: comment}
	}
	n, err := g.call(ctx, request{op: op, method: http.MethodDelete, path: path, params: params, key: key})
	if errors.Is(err, billing.ErrNotFound) {
		ended, readErr := g.call(ctx, get(op, path, nil))
		switch {
		case errors.Is(readErr, billing.ErrNotFound):
			return billing.Subscription{}, err
		case readErr != nil:
			return billing.Subscription{}, readErr
		case !billing.Status(ended.at("status").text()).Terminal():
			return billing.Subscription{}, err
		}
		n, err = ended, nil
	}
	if err != nil {
		return billing.Subscription{}, err
	}
	return g.subscription(ctx, op, key, n)
}

// subscriptions lists a customer's subscriptions of every status.
func (g *Gateway) subscriptions(ctx context.Context, customerID string) ([]billing.Subscription, error) {
	const op = "list subscriptions"
	params := &stripe.SubscriptionListParams{Customer: &customerID, Status: stripe.String("all"), Expand: stripe.StringSlice([]string{"data.schedule"})}
	params.Limit = stripe.Int64(pageSize)
	n, err := g.call(ctx, get(op, "/v1/subscriptions", params))
	if err != nil {
		return nil, err
	}
	var subscriptions []billing.Subscription
	list, _ := n.list()
	for _, n := range list {
		s, err := g.subscription(ctx, op, "", n)
		if err != nil {
			return nil, err
		}
		subscriptions = append(subscriptions, s)
	}
	return subscriptions, nil
}

// subscription decodes a subscription that an operation was answered with, and
// fetches the items that didn't fit into it.
func (g *Gateway) subscription(ctx context.Context, op, key string, n node) (billing.Subscription, error) {
	n = n.fork()
	s := decodeSubscription(n)
	if err := check(op, key, n, s.ID != "" && s.Status != ""); err != nil {
		return billing.Subscription{}, err
	}
	if _, more := n.at("items").list(); !more {
		return s, nil
	}
	params := &stripe.SubscriptionItemListParams{Subscription: &s.ID}
	items, err := g.all(ctx, n, "list subscription items", key, "/v1/subscription_items", params, &params.ListParams)
	if err != nil {
		return billing.Subscription{}, err
	}
	s.Items = decodeItems(items, n)
	s.Period = spanOf(s.Items, periodOf(n))
	s.Scheduled = decodeScheduled(n.at("schedule"), &s)
	return s, check(op, key, n, true)
}

// all reads every page of a list that belongs to n, whose document remembers
// what of it can't be read. When n is the answer of a write, with a key, a
// failure leaves the outcome of the write unknown.
func (g *Gateway) all(ctx context.Context, n node, op, key, path string, params any, page *stripe.ListParams) ([]node, error) {
	var all []node
	page.Limit = stripe.Int64(pageSize)
	for {
		answer, err := g.call(ctx, get(op, path, params))
		var failure *billing.GatewayError
		if errors.As(err, &failure) && key != "" {
			failure.Kind, failure.IdempotencyKey = billing.ErrUnknownOutcome, key
		}
		if err != nil {
			return nil, err
		}
		answer.doc = n.doc
		list, more := answer.list()
		all = append(all, list...)
		if !more || len(list) == 0 {
			return all, nil
		}
		last := list[len(list)-1].at("id").text()
		if last == "" || page.StartingAfter != nil && *page.StartingAfter == last {
			return nil, check(op, key, n, false)
		}
		page.StartingAfter = &last
	}
}

// promotionCode returns the ID of a promotion code, which may be given as the
// ID or as the code that customers type.
func (g *Gateway) promotionCode(ctx context.Context, code string) (string, error) {
	const op = "find promotion code"
	if code == "" || strings.HasPrefix(code, "promo_") {
		return code, nil
	}
	params := &stripe.PromotionCodeListParams{Code: &code, Active: stripe.Bool(true)}
	params.Limit = stripe.Int64(1)
	n, err := g.call(ctx, get(op, "/v1/promotion_codes", params))
	if err != nil {
		return "", err
	}
	list, _ := n.list()
	if len(list) == 0 {
		return "", &billing.GatewayError{Op: op, Kind: billing.ErrNotFound, Param: "promotion_code", Message: "no active promotion code has this text"}
	}
	id := list[0].at("id").text()
	return id, check(op, "", n, id != "")
}
