package billingtest

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// GatewayHarness is a gateway with what its tests need.
type GatewayHarness struct {
	Gateway billing.Gateway
	// Monthly and Other are lookup keys of two monthly prices of one currency
	// that the gateway has; Other costs more.
	Monthly, Other string
	// Pay pays the first invoice of an incomplete subscription, as the
	// customer would.
	Pay func(t *testing.T, s billing.Subscribed)
}

// TestGateway checks the contract of billing.Gateway as far as it shows
// without a customer at a screen. NewHarness is called for each subtest; the
// accounts that the tests use are new ones.
func TestGateway(t *testing.T, newHarness func(t *testing.T) GatewayHarness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, GatewayHarness)
	}{
		{"ARepeatedKeyHasOneEffect", gatewayKeys},
		{"ACustomerCarriesItsAccount", gatewayCustomer},
		{"WhatDoesNotExistIsNotFound", gatewayNotFound},
		{"PricesAreFoundByLookupKey", gatewayPrices},
		{"ASubscriptionWaitsForItsFirstPayment", gatewaySubscribe},
		{"AnEndIsScheduledAndWithdrawn", gatewayCancelResume},
		{"AChangeCostsWhatItsPreviewSaid", gatewayChange},
		{"ACheckoutIsClosedOnce", gatewayCheckout},
		{"EventsComeOldestFirst", gatewayEvents},
		{"AForeignRequestIsRefused", gatewayVerify},
		{"AnEndedContextEndsTheCall", gatewayContext},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newHarness(t)) })
	}
}

// key is a new idempotency key.
func key(t *testing.T, name string) string {
	t.Helper()
	return billing.KeyPrefix + t.Name() + ":" + name + ":" + time.Now().Format(time.RFC3339Nano)
}

func account(t *testing.T) string {
	t.Helper()
	return t.Name() + time.Now().Format("-20060102T150405.000000000")
}

func (h GatewayHarness) customer(t *testing.T) billing.Customer {
	t.Helper()
	c, err := h.Gateway.CreateCustomer(t.Context(), billing.CustomerRequest{Account: account(t)}, key(t, "customer"))
	require.NoError(t, err)
	require.NotEmpty(t, c.ID)
	return c
}

func (h GatewayHarness) price(t *testing.T, lookupKey string) billing.Price {
	t.Helper()
	prices, err := h.Gateway.Prices(t.Context(), []string{lookupKey})
	require.NoError(t, err)
	require.Len(t, prices, 1)
	return prices[0]
}

func (h GatewayHarness) request(t *testing.T, c billing.Customer) billing.SubscribeRequest {
	t.Helper()
	return billing.SubscribeRequest{
		CustomerID: c.ID, Account: c.Account, Metadata: map[string]string{billing.MetadataPlan: "a plan"},
		Items: []billing.LineItem{{PriceID: h.price(t, h.Monthly).ID, Quantity: 1}},
	}
}

// active returns a subscription that is paid for.
func (h GatewayHarness) active(t *testing.T) billing.Subscription {
	t.Helper()
	c := h.customer(t)
	s, err := h.Gateway.Subscribe(t.Context(), h.request(t, c), key(t, "subscribe"))
	require.NoError(t, err)
	h.Pay(t, s)
	st, err := h.Gateway.State(t.Context(), c.ID)
	require.NoError(t, err)
	require.Len(t, st.Subscriptions, 1)
	require.Equal(t, billing.StatusActive, st.Subscriptions[0].Status)
	return st.Subscriptions[0]
}

func gatewayKeys(t *testing.T, h GatewayHarness) {
	ctx, k := t.Context(), key(t, "k")
	req := billing.CustomerRequest{Account: account(t), Name: "A"}
	first, err := h.Gateway.CreateCustomer(ctx, req, k)
	require.NoError(t, err)
	again, err := h.Gateway.CreateCustomer(ctx, req, k)
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)
	req.Name = "B"
	_, err = h.Gateway.CreateCustomer(ctx, req, k)
	require.Error(t, err, "the key of another request")
	require.False(t, errors.Is(err, billing.ErrUnavailable) || errors.Is(err, billing.ErrUnknownOutcome), "it stays so")
	other, err := h.Gateway.CreateCustomer(ctx, req, key(t, "other"))
	require.NoError(t, err)
	require.NotEqual(t, first.ID, other.ID)
}

func gatewayCustomer(t *testing.T, h GatewayHarness) {
	c := h.customer(t)
	require.Equal(t, account(t)[:len(t.Name())], c.Account[:len(t.Name())])
	st, err := h.Gateway.State(t.Context(), c.ID)
	require.NoError(t, err)
	require.Equal(t, c.ID, st.Customer.ID)
	require.Equal(t, c.Account, st.Customer.Account)
	require.False(t, st.Customer.Deleted)
	require.Empty(t, st.Subscriptions)
	require.Empty(t, st.Invoices)
}

func gatewayNotFound(t *testing.T, h GatewayHarness) {
	ctx := t.Context()
	_, err := h.Gateway.State(ctx, "cus_none")
	require.ErrorIs(t, err, billing.ErrNotFound)
	_, err = h.Gateway.FindCustomer(ctx, account(t))
	require.ErrorIs(t, err, billing.ErrNotFound)
	_, err = h.Gateway.Checkout(ctx, "cs_none")
	require.ErrorIs(t, err, billing.ErrNotFound)
	_, err = h.Gateway.CancelSubscription(ctx, "sub_none", billing.CancelRequest{}, key(t, "cancel"))
	require.ErrorIs(t, err, billing.ErrNotFound)
	var typed *billing.GatewayError
	require.ErrorAs(t, err, &typed)
	require.False(t, typed.Retryable())
}

func gatewayPrices(t *testing.T, h GatewayHarness) {
	prices, err := h.Gateway.Prices(t.Context(), []string{h.Monthly, "no_such_key"})
	require.NoError(t, err)
	require.Len(t, prices, 1)
	p := prices[0]
	require.Equal(t, h.Monthly, p.LookupKey)
	require.Equal(t, billing.Month, p.Interval)
	require.True(t, p.Active)
	require.NoError(t, p.UnitAmount.Validate())
	require.Less(t, p.UnitAmount.Amount, h.price(t, h.Other).UnitAmount.Amount)
}

func gatewaySubscribe(t *testing.T, h GatewayHarness) {
	ctx, c := t.Context(), h.customer(t)
	req, k := h.request(t, c), key(t, "subscribe")
	s, err := h.Gateway.Subscribe(ctx, req, k)
	require.NoError(t, err)
	require.Equal(t, billing.StatusIncomplete, s.Subscription.Status)
	require.NotEmpty(t, s.ClientSecret)
	require.False(t, s.Setup)
	again, err := h.Gateway.Subscribe(ctx, req, k)
	require.NoError(t, err)
	require.Equal(t, s.Subscription.ID, again.Subscription.ID)
	require.Equal(t, s.ClientSecret, again.ClientSecret)

	st, err := h.Gateway.State(ctx, c.ID)
	require.NoError(t, err)
	require.Len(t, st.Subscriptions, 1)
	require.Equal(t, "a plan", st.Subscriptions[0].Metadata[billing.MetadataPlan])
	require.Equal(t, req.Items[0].PriceID, st.Subscriptions[0].Items[0].Price.ID)
	require.Len(t, st.Invoices, 1)
	inv := st.Invoices[0]
	require.Equal(t, billing.InvoiceOpen, inv.Status)
	require.Equal(t, "subscription_create", inv.BillingReason)
	require.Equal(t, s.Subscription.ID, inv.SubscriptionID)
	price := h.price(t, h.Monthly).UnitAmount
	require.Equal(t, price.Amount, inv.AmountRemaining)
	require.Equal(t, price.Currency, inv.Currency)

	h.Pay(t, s)
	st, err = h.Gateway.State(ctx, c.ID)
	require.NoError(t, err)
	require.Equal(t, billing.StatusActive, st.Subscriptions[0].Status)
	require.False(t, st.Subscriptions[0].Period.IsZero())
	require.Equal(t, billing.InvoicePaid, st.Invoices[0].Status)
	require.Equal(t, inv.AmountRemaining, st.Invoices[0].AmountPaid)
	list, more, err := h.Gateway.Invoices(ctx, c.ID, "")
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, list, 1)
}

func gatewayCancelResume(t *testing.T, h GatewayHarness) {
	ctx, s := t.Context(), h.active(t)
	yes, no := true, false
	got, err := h.Gateway.UpdateSubscription(ctx, s.ID, billing.UpdateRequest{CancelAtPeriodEnd: &yes}, key(t, "cancel"))
	require.NoError(t, err)
	require.True(t, got.CancelAtPeriodEnd)
	require.Equal(t, billing.StatusActive, got.Status)
	got, err = h.Gateway.UpdateSubscription(ctx, s.ID, billing.UpdateRequest{CancelAtPeriodEnd: &no}, key(t, "resume"))
	require.NoError(t, err)
	require.False(t, got.CancelAtPeriodEnd)
	require.True(t, got.CancelAt.IsZero())
	got, err = h.Gateway.CancelSubscription(ctx, s.ID, billing.CancelRequest{}, key(t, "now"))
	require.NoError(t, err)
	require.Equal(t, billing.StatusCanceled, got.Status)
	require.False(t, got.EndedAt.IsZero())
	_, err = h.Gateway.UpdateSubscription(ctx, s.ID, billing.UpdateRequest{CancelAtPeriodEnd: &yes}, key(t, "late"))
	require.Error(t, err)
	st, err := h.Gateway.State(ctx, s.CustomerID)
	require.NoError(t, err)
	require.Len(t, st.Subscriptions, 1, "of every status")
}

func gatewayChange(t *testing.T, h GatewayHarness) {
	ctx, s, one := t.Context(), h.active(t), int64(1)
	other := h.price(t, h.Other)
	req := billing.UpdateRequest{
		Items:     []billing.UpdateItem{{ID: s.Items[0].ID, PriceID: other.ID, Quantity: &one}},
		Proration: "always_invoice", ProrationDate: s.Period.From.Add(s.Period.To.Sub(s.Period.From) / 2).Truncate(time.Second),
	}
	if now := time.Now(); req.ProrationDate.After(now) && s.Period.Contains(now) {
		req.ProrationDate = now.Truncate(time.Second) // no provider prorates the future
	}
	preview, err := h.Gateway.PreviewUpdate(ctx, s.CustomerID, s.ID, req)
	require.NoError(t, err)
	require.Positive(t, preview.AmountDue)
	st, err := h.Gateway.State(ctx, s.CustomerID)
	require.NoError(t, err)
	require.Equal(t, s.Items[0].Price.ID, st.Subscriptions[0].Items[0].Price.ID, "a preview has no effect")
	require.Len(t, st.Invoices, 1)

	got, err := h.Gateway.UpdateSubscription(ctx, s.ID, req, key(t, "change"))
	require.NoError(t, err)
	require.Len(t, got.Items, 1)
	require.Equal(t, other.ID, got.Items[0].Price.ID)
	st, err = h.Gateway.State(ctx, s.CustomerID)
	require.NoError(t, err)
	require.Len(t, st.Invoices, 2)
	require.Equal(t, preview.AmountDue, st.Invoices[0].AmountDue, "newest first")
	require.Equal(t, billing.InvoicePaid, st.Invoices[0].Status)
}

func gatewayCheckout(t *testing.T, h GatewayHarness) {
	ctx, c := t.Context(), h.customer(t)
	session, err := h.Gateway.CreateCheckout(ctx, billing.CheckoutRequest{
		CustomerID: c.ID, Account: c.Account, Items: []billing.LineItem{{PriceID: h.price(t, h.Monthly).ID, Quantity: 1}},
		SuccessURL: "https://app.example/paid?session={CHECKOUT_SESSION_ID}", CancelURL: "https://app.example/plans",
	}, key(t, "checkout"))
	require.NoError(t, err)
	require.Equal(t, "open", session.Status)
	require.NotEmpty(t, session.URL)
	require.Equal(t, c.ID, session.CustomerID)
	require.NoError(t, h.Gateway.ExpireCheckout(ctx, session.ID))
	got, err := h.Gateway.Checkout(ctx, session.ID)
	require.NoError(t, err)
	require.Equal(t, "expired", got.Status)
	require.ErrorIs(t, h.Gateway.ExpireCheckout(ctx, session.ID), billing.ErrInvalid)
	url, err := h.Gateway.CreatePortal(ctx, c.ID, "https://app.example/")
	require.NoError(t, err)
	require.NotEmpty(t, url)
}

func gatewayEvents(t *testing.T, h GatewayHarness) {
	ctx, s := t.Context(), h.active(t)
	var mine []billing.Event
	after := ""
	for more := true; more; {
		var page []billing.Event
		var err error
		page, more, err = h.Gateway.Events(ctx, s.Created.Add(-time.Hour), after)
		require.NoError(t, err)
		for i, e := range page {
			require.NotEmpty(t, e.Raw, "the bytes are needed to store it")
			require.True(t, i == 0 || !e.Created.Before(page[i-1].Created), "oldest first")
			if e.CustomerID == s.CustomerID {
				mine = append(mine, e)
			}
			after = e.ID
		}
		require.True(t, len(page) > 0 || !more)
	}
	require.NotEmpty(t, mine)
	for _, e := range mine {
		again, err := h.Gateway.Decode(e.Raw)
		require.NoError(t, err)
		require.Equal(t, e.ID, again.ID)
		require.Equal(t, e.Type, again.Type)
		require.Equal(t, e.CustomerID, again.CustomerID)
	}
}

func gatewayVerify(t *testing.T, h GatewayHarness) {
	_, err := h.Gateway.Verify(http.Header{}, []byte(`{"id": "evt_1", "object": "event", "type": "invoice.paid"}`))
	require.ErrorIs(t, err, billing.ErrSignature)
	_, err = h.Gateway.Decode([]byte("not JSON"))
	require.ErrorIs(t, err, billing.ErrPayload)
}

func gatewayContext(t *testing.T, h GatewayHarness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	who := account(t)
	_, err := h.Gateway.CreateCustomer(ctx, billing.CustomerRequest{Account: who}, key(t, "customer"))
	require.Error(t, err)
	_, err = h.Gateway.State(ctx, "cus_1")
	require.Error(t, err)
	_, err = h.Gateway.FindCustomer(t.Context(), who)
	require.ErrorIs(t, err, billing.ErrNotFound)
}
