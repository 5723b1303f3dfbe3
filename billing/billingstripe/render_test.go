package billingstripe_test

import (
	"encoding/json"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// version is a train of Stripe's API versions. The renderer below writes one
// logical object in the shape of each; what it moves where is the list of
// breaking changes in Stripe's changelog.
type version int

const (
	v2023Oct version = iota
	v2024Apr
	v2024Jun
	acacia
	basil
	clover
	dahlia
)

var versions = []version{v2023Oct, v2024Apr, v2024Jun, acacia, basil, clover, dahlia}

func (v version) String() string {
	return []string{"2023-10-16", "2024-04-10", "2024-06-20", "2024-09-30.acacia", "2025-03-31.basil", "2025-09-30.clover", "2026-03-25.dahlia"}[v]
}

// renderer writes objects in one version, with related objects expanded or as
// IDs.
type renderer struct {
	version
	expand bool
}

type object = map[string]any

// ref is a related object: its ID, or the object with more fields.
func (r renderer) ref(kind, id string, fields object) any {
	if id == "" {
		return nil
	}
	if !r.expand {
		return id
	}
	expanded := object{"id": id, "object": kind}
	maps.Copy(expanded, fields)
	return expanded
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func seconds(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}

// apiAmount is an amount as Stripe counts it.
func apiAmount(amount int64, currency string) int64 {
	switch strings.ToUpper(currency) {
	case "ISK", "UGX":
		return amount * 100
	case "MGA":
		return amount / 100
	}
	return amount
}

func (r renderer) list(elements []any) object {
	list := object{"object": "list", "data": elements, "has_more": false, "url": "/v1/x"}
	if r.version < basil {
		list["total_count"] = len(elements)
	}
	return list
}

func (r renderer) customer(c billing.Customer) object {
	o := object{
		"id": c.ID, "object": "customer", "email": text(c.Email), "name": text(c.Name), "metadata": c.Metadata,
		"balance": 0, "currency": nil, "livemode": c.Livemode, "created": seconds(c.Created),
		"invoice_settings": object{"default_payment_method": r.ref("payment_method", c.DefaultPaymentMethod, nil)},
	}
	if c.Deleted {
		return object{"id": c.ID, "object": "customer", "deleted": true}
	}
	if c.Balance.Currency != "" {
		o["currency"], o["balance"] = strings.ToLower(c.Balance.Currency), apiAmount(c.Balance.Amount, c.Balance.Currency)
	}
	return o
}

func (r renderer) price(p billing.Price) object {
	currency := strings.ToLower(p.UnitAmount.Currency)
	decimal, _ := new(big.Rat).SetString(p.UnitAmountDecimal)
	perUnit := new(big.Rat).SetFrac64(apiAmount(100, currency), 100)
	decimal.Mul(decimal, perUnit)
	o := object{
		"id": p.ID, "object": "price", "lookup_key": text(p.LookupKey), "product": r.ref("product", p.ProductID, nil),
		"currency": currency, "unit_amount": nil, "unit_amount_decimal": strings.TrimRight(decimal.FloatString(6), "0"),
		"active": p.Active, "metadata": p.Metadata, "type": "one_time", "recurring": nil,
	}
	if decimal.IsInt() {
		o["unit_amount"], o["unit_amount_decimal"] = decimal.Num().Int64(), decimal.Num().String()
	}
	if p.Interval != "" {
		usage := "licensed"
		if p.Metered {
			usage = "metered"
		}
		recurring := object{"interval": p.Interval, "interval_count": p.IntervalCount, "usage_type": usage, "meter": text(p.MeterID)}
		if r.version < basil {
			recurring["aggregate_usage"] = nil
		}
		o["type"], o["recurring"] = "recurring", recurring
	}
	return o
}

func (r renderer) discount(d billing.Discount) object {
	coupon := object{"id": d.CouponID, "object": "coupon", "duration": d.Duration, "percent_off": nil, "amount_off": nil, "currency": nil}
	if d.PercentOff != "" {
		coupon["percent_off"] = json.Number(d.PercentOff)
		if !strings.Contains(d.PercentOff, ".") {
			coupon["percent_off"] = json.Number(d.PercentOff + ".0")
		}
	}
	if d.AmountOff.Currency != "" {
		coupon["amount_off"], coupon["currency"] = apiAmount(d.AmountOff.Amount, d.AmountOff.Currency), strings.ToLower(d.AmountOff.Currency)
	}
	o := object{
		"id": d.ID, "object": "discount", "promotion_code": r.ref("promotion_code", d.PromotionCode, nil),
		"start": seconds(d.Start), "end": seconds(d.End),
	}
	if r.version < clover {
		o["coupon"] = coupon
	} else {
		o["source"] = object{"type": "coupon", "coupon": coupon}
	}
	return o
}

// discounts writes what stood in one field before basil and in a list since;
// from 2024-06 on the list was there beside it, with IDs.
func (r renderer) discounts(o object, discounts []billing.Discount) {
	var list []any
	for _, d := range discounts {
		list = append(list, r.discount(d))
	}
	if r.version >= basil || len(discounts) > 1 {
		o["discounts"] = list
		return
	}
	o["discount"] = nil
	if len(discounts) == 1 {
		o["discount"] = list[0]
		if r.version >= v2024Jun {
			o["discounts"] = []any{discounts[0].ID}
		}
	}
}

func (r renderer) subscription(s billing.Subscription) object {
	var items []any
	for _, item := range s.Items {
		i := object{"id": item.ID, "object": "subscription_item", "subscription": s.ID, "price": r.price(item.Price),
			"plan": object{"id": "plan_decoy", "amount": 1, "interval": "day"}}
		switch {
		case item.Price.Metered:
		case r.version >= dahlia && r.expand:
			i["quantity_decimal"] = big.NewInt(item.Quantity).String()
		default:
			i["quantity"] = item.Quantity
		}
		if r.version >= basil {
			i["current_period_start"], i["current_period_end"] = seconds(item.Period.From), seconds(item.Period.To)
		}
		items = append(items, i)
	}
	o := object{
		"id": s.ID, "object": "subscription", "customer": r.ref("customer", s.CustomerID, object{"email": "a@example.com"}),
		"status": s.Status, "items": r.list(items), "metadata": s.Metadata, "livemode": s.Livemode,
		"billing_cycle_anchor": seconds(s.BillingCycleAnchor), "created": seconds(s.Created), "start_date": seconds(s.StartDate),
		"trial_start": seconds(s.TrialStart), "trial_end": seconds(s.TrialEnd), "cancel_at_period_end": s.CancelAtPeriodEnd,
		"cancel_at": seconds(s.CancelAt), "canceled_at": seconds(s.CanceledAt), "ended_at": seconds(s.EndedAt),
		"cancellation_details": object{"reason": text(s.CancelReason), "feedback": nil, "comment": nil},
		"latest_invoice":       r.ref("invoice", s.LatestInvoiceID, nil), "default_payment_method": r.ref("payment_method", s.DefaultPaymentMethod, nil),
		"collection_method": s.CollectionMethod, "pause_collection": nil,
	}
	if s.PauseCollection != "" {
		o["pause_collection"] = object{"behavior": s.PauseCollection, "resumes_at": seconds(s.PauseResumesAt)}
	}
	if r.version < basil {
		o["current_period_start"], o["current_period_end"] = seconds(s.Period.From), seconds(s.Period.To)
	}
	if r.version >= clover {
		o["billing_mode"] = object{"type": "classic"}
		o["customer_account"] = nil
	}
	r.discounts(o, s.Discounts)
	return o
}

func (r renderer) line(l billing.InvoiceLine, currency string) object {
	o := object{
		"id": l.ID, "object": "line_item", "description": text(l.Description), "amount": apiAmount(l.Amount, currency),
		"currency": strings.ToLower(currency), "period": object{"start": seconds(l.Period.From), "end": seconds(l.Period.To)},
		"discount_amounts": []any{},
	}
	if l.Discount != 0 {
		o["discount_amounts"] = []any{object{"amount": apiAmount(l.Discount, currency), "discount": "di_1"}}
	}
	if r.version >= dahlia && r.expand {
		o["quantity_decimal"] = big.NewInt(l.Quantity).String()
	} else {
		o["quantity"] = l.Quantity
	}
	if r.version < basil {
		o["price"] = nil
		if l.PriceID != "" {
			o["price"] = object{"id": l.PriceID, "object": "price"}
		}
		o["plan"] = object{"id": "plan_decoy"}
		o["proration"], o["subscription"], o["subscription_item"] = l.Proration, text(l.SubscriptionID), text(l.ItemID)
		o["type"], o["tax_amounts"] = "subscription", []any{}
		return o
	}
	if l.PriceID != "" {
		o["pricing"] = object{"type": "price_details", "price_details": object{"price": r.ref("price", l.PriceID, nil), "product": "prod_1"}}
	}
	details := object{"proration": l.Proration, "subscription": text(l.SubscriptionID), "subscription_item": text(l.ItemID)}
	o["parent"] = object{"type": "subscription_item_details", "subscription_item_details": details, "invoice_item_details": nil}
	if l.ItemID == "" {
		o["parent"] = object{"type": "invoice_item_details", "subscription_item_details": nil, "invoice_item_details": details}
	}
	o["taxes"], o["subscription"] = []any{}, text(l.SubscriptionID)
	return o
}

func (r renderer) invoice(i billing.Invoice) object {
	amount := func(n int64) int64 { return apiAmount(n, i.Currency) }
	var lines []any
	for _, l := range i.Lines {
		lines = append(lines, r.line(l, i.Currency))
	}
	o := object{
		"object": "invoice", "number": text(i.Number), "customer": r.ref("customer", i.CustomerID, nil),
		"status": i.Status, "billing_reason": text(i.BillingReason), "currency": strings.ToLower(i.Currency),
		"subtotal": amount(i.Subtotal), "total": amount(i.Total), "amount_due": amount(i.AmountDue), "amount_paid": amount(i.AmountPaid),
		"amount_remaining": amount(i.AmountRemaining), "starting_balance": amount(i.StartingBalance), "ending_balance": amount(i.EndingBalance),
		"post_payment_credit_notes_amount": amount(i.AmountRefunded), "attempt_count": i.AttemptCount,
		"next_payment_attempt": seconds(i.NextPaymentAttempt), "created": seconds(i.Created),
		"status_transitions": object{"finalized_at": seconds(i.FinalizedAt), "paid_at": seconds(i.PaidAt)},
		"period_start":       seconds(i.Period.From), "period_end": seconds(i.Period.To), "hosted_invoice_url": text(i.HostedURL),
		"invoice_pdf": text(i.PDFURL), "lines": r.list(lines), "metadata": i.Metadata, "livemode": i.Livemode,
	}
	if i.ID != "" { // an upcoming invoice has none
		o["id"] = i.ID
	}
	if r.version < basil {
		o["subscription"] = r.ref("subscription", i.SubscriptionID, nil)
		o["subscription_details"] = object{"metadata": object{}}
		o["payment_intent"] = text(i.PaymentIntentID)
		if i.ClientSecret != "" {
			o["payment_intent"] = object{"id": i.PaymentIntentID, "object": "payment_intent", "client_secret": i.ClientSecret, "latest_charge": text(i.ChargeID)}
		}
		o["charge"] = r.ref("charge", i.ChargeID, nil)
		o["paid"], o["paid_out_of_band"] = i.Status == billing.InvoicePaid, false
		o["tax"] = nil
		if i.Tax != 0 {
			o["tax"], o["total_tax_amounts"] = amount(i.Tax), []any{object{"amount": amount(i.Tax)}}
		}
	} else {
		o["parent"] = object{"type": "subscription_details", "quote_details": nil, "subscription_details": object{
			"metadata": object{}, "subscription": r.ref("subscription", i.SubscriptionID, nil)}}
		if i.SubscriptionID == "" {
			o["parent"] = nil
		}
		if i.ClientSecret != "" {
			o["confirmation_secret"] = object{"type": "payment_intent", "client_secret": i.ClientSecret}
		}
		old := object{"is_default": false, "payment": object{"type": "payment_intent", "payment_intent": "pi_older"}}
		var payments []any
		if i.PaymentIntentID != "" || i.ChargeID != "" {
			payments = append(payments, old, object{"object": "invoice_payment", "is_default": true, "payment": object{
				"type": "payment_intent", "payment_intent": r.ref("payment_intent", i.PaymentIntentID, nil), "charge": r.ref("charge", i.ChargeID, nil)}}, old)
		}
		o["payments"] = r.list(payments)
		o["total_taxes"] = []any{}
		if i.Tax != 0 { // by two authorities
			o["total_taxes"] = []any{object{"amount": amount(i.Tax - i.Tax/2)}, object{"amount": amount(i.Tax / 2)}}
		}
	}
	r.discounts(o, i.Discounts)
	return o
}

func (r renderer) checkout(c billing.Checkout) object {
	o := object{
		"id": c.ID, "object": "checkout.session", "url": text(c.URL), "status": c.Status, "payment_status": c.PaymentStatus,
		"customer": r.ref("customer", c.CustomerID, nil), "client_reference_id": text(c.Account), "payment_link": nil,
		"subscription": r.ref("subscription", c.SubscriptionID, nil), "expires_at": seconds(c.ExpiresAt),
		"created": seconds(c.Created), "metadata": c.Metadata, "livemode": c.Livemode, "mode": "subscription",
	}
	if r.version < basil {
		o["shipping_details"] = nil
	} else {
		o["collected_information"] = object{"shipping_details": nil}
	}
	return o
}

// event wraps an object into an event of this version.
func (r renderer) event(t *testing.T, kind string, data object) []byte {
	t.Helper()
	body, err := json.Marshal(object{
		"id": "evt_1", "object": "event", "type": kind, "api_version": r.version.String(), "created": 1764000000, "livemode": data["livemode"],
		"pending_webhooks": 1, "request": object{"id": "req_1", "idempotency_key": "commerce_1"}, "data": object{"object": data},
	})
	require.NoError(t, err)
	return body
}
