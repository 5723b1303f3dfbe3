package stripesim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSubscriptionIsPaidAndRenewed(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	r.types()
	sub := r.subscribe(cus, "price_pro", "expand[0]=latest_invoice.payment_intent")
	require.Equal(t, "active", text(sub, "status"))
	require.Equal(t, "paid", text(sub, "latest_invoice", "status"))
	require.EqualValues(t, 999, number(sub, "latest_invoice", "amount_paid"))
	require.Equal(t, "succeeded", text(sub, "latest_invoice", "payment_intent", "status"))
	require.Equal(t, start.Unix(), number(sub, "current_period_start"))
	require.Equal(t, time.Date(2025, 2, 28, 12, 0, 0, 0, time.UTC).Unix(), number(sub, "current_period_end"))
	require.Equal(t, []string{
		"invoice.created", "customer.subscription.created", "payment_intent.created", "invoice.finalized", "charge.succeeded",
		"payment_intent.succeeded", "invoice.paid", "invoice.payment_succeeded", "customer.subscription.updated",
	}, r.types())

	r.advanceTo(2025, 3, 1, 0)
	sub = r.sub(text(sub, "id"))
	require.Equal(t, time.Date(2025, 3, 31, 12, 0, 0, 0, time.UTC).Unix(), number(sub, "current_period_end"), "the anchor's day comes back")
	inv := r.get("/v1/invoices/" + text(sub, "latest_invoice"))
	require.Equal(t, "paid", text(inv, "status"))
	require.Equal(t, "subscription_cycle", text(inv, "billing_reason"))
	require.Equal(t, time.Date(2025, 2, 28, 13, 0, 0, 0, time.UTC).Unix(), number(inv, "status_transitions", "finalized_at"), "a renewal is a draft for an hour")
	require.Equal(t, start.Unix(), number(inv, "period_start"), "an invoice's own period is the one before")
	require.Equal(t, time.Date(2025, 2, 28, 12, 0, 0, 0, time.UTC).Unix(), number(inv, "lines", "data", 0, "period", "start"))
}
