package billingstripe

import (
	"math/big"
	"time"

	"github.com/kolekt/commerce/billing"
)

// The functions of this file read an object in whichever shape its API version
// gave it. Where a field moved, the newer path comes first; a comment names
// the version that moved it. "plan" is never read: it is the older half of
// "price" and absent for some prices.

func decodeCustomer(n node) billing.Customer {
	metadata := n.at("metadata").dict()
	c := billing.Customer{
		ID:                   n.at("id").text(),
		Account:              metadata[billing.MetadataAccount],
		Email:                n.at("email").text(),
		Name:                 n.at("name").text(),
		Metadata:             metadata,
		Deleted:              n.at("deleted").flag(),
		Livemode:             n.at("livemode").flag(),
		Created:              n.at("created").time(),
		DefaultPaymentMethod: n.at("invoice_settings", "default_payment_method").id(),
	}
	// A customer has no currency before the first charge, and no balance then.
	if currency := n.at("currency").currency(); currency != "" {
		c.Balance = billing.Money{Amount: n.at("balance").amount(currency), Currency: currency}
	}
	return c
}

func decodeSubscription(n node) billing.Subscription {
	metadata := n.at("metadata").dict()
	s := billing.Subscription{
		ID:                   n.at("id").text(),
		CustomerID:           n.at("customer").id(), // null for customers of Accounts v2 (clover)
		Account:              metadata[billing.MetadataAccount],
		Status:               billing.Status(n.at("status").text()),
		Metadata:             metadata,
		Livemode:             n.at("livemode").flag(),
		BillingCycleAnchor:   n.at("billing_cycle_anchor").time(),
		Created:              n.at("created").time(),
		StartDate:            n.at("start_date").time(),
		TrialStart:           n.at("trial_start").time(),
		TrialEnd:             n.at("trial_end").time(),
		CancelAtPeriodEnd:    n.at("cancel_at_period_end").flag(),
		CancelAt:             n.at("cancel_at").time(),
		CanceledAt:           n.at("canceled_at").time(),
		EndedAt:              n.at("ended_at").time(),
		PauseCollection:      n.at("pause_collection", "behavior").text(),
		PauseResumesAt:       n.at("pause_collection", "resumes_at").time(),
		LatestInvoiceID:      n.at("latest_invoice").id(),
		DefaultPaymentMethod: n.at("default_payment_method").id(),
		CollectionMethod:     n.at("collection_method").text(),
		Discounts:            decodeDiscounts(n),
	}
	details := n.at("cancellation_details")
	for _, name := range []string{"reason", "feedback", "comment"} {
		if s.CancelReason == "" {
			s.CancelReason = details.at(name).text()
		}
	}
	items, _ := n.at("items").list()
	s.Items = decodeItems(items, n)
	s.Period = spanOf(s.Items, periodOf(n))
	s.Scheduled = decodeScheduled(n.at("schedule"), &s)
	return s
}

// periodOf is the period on a subscription (before basil) or on an item (since).
func periodOf(n node) billing.Period {
	return billing.Period{From: n.at("current_period_start").time(), To: n.at("current_period_end").time()}
}

// decodeItems reads the items of a subscription; before basil they have its
// period.
func decodeItems(items []node, subscription node) []billing.Item {
	var decoded []billing.Item
	for _, n := range items {
		item := billing.Item{
			ID:     n.at("id").text(),
			Price:  decodePrice(n.at("price")),
			Period: periodOf(n),
		}
		if item.Period.IsZero() {
			item.Period = periodOf(subscription)
		}
		var given bool
		if item.Quantity, given = decodeQuantity(n); !given && !item.Price.Metered {
			item.Quantity = 1 // Stripe's default
		}
		decoded = append(decoded, item)
	}
	return decoded
}

// decodeQuantity reads a quantity, which dahlia made optional beside a decimal
// one. Fractions of a unit are rounded.
func decodeQuantity(n node) (quantity int64, given bool) {
	q := n.at("quantity").or(n.at("quantity_decimal"))
	rat := q.rat()
	if rat == nil {
		return 0, false
	}
	quantity, ok := round(rat)
	if !ok {
		q.refuse("a quantity")
	}
	return quantity, true
}

// spanOf is the period from the first start to the last end of the items, whose
// periods may differ since clover's flexible billing.
func spanOf(items []billing.Item, otherwise billing.Period) billing.Period {
	var span billing.Period
	for _, item := range items {
		if span.From.IsZero() || !item.Period.From.IsZero() && item.Period.From.Before(span.From) {
			span.From = item.Period.From
		}
		if item.Period.To.After(span.To) {
			span.To = item.Period.To
		}
	}
	if span.IsZero() {
		return otherwise
	}
	return span
}

func decodePrice(n node) billing.Price {
	if !n.object() {
		return billing.Price{ID: n.id()}
	}
	recurring := n.at("recurring")
	p := billing.Price{
		ID:            n.at("id").text(),
		LookupKey:     n.at("lookup_key").text(),
		ProductID:     n.at("product").id(),
		Interval:      billing.Interval(recurring.at("interval").text()),
		IntervalCount: recurring.at("interval_count").number(),
		Metered:       recurring.at("usage_type").text() == "metered",
		MeterID:       recurring.at("meter").id(),
		Active:        n.at("active").flag(),
		Metadata:      n.at("metadata").dict(),
	}
	// The decimal is there for every price but tiered ones, with all digits.
	currency := n.at("currency").currency()
	p.UnitAmount.Currency = currency
	if rat := n.at("unit_amount_decimal").or(n.at("unit_amount")).rat(); rat != nil {
		rat.Mul(rat, scale(currency))
		p.UnitAmountDecimal = plain(rat)
		var ok bool
		if p.UnitAmount.Amount, ok = round(rat); !ok {
			n.at("unit_amount").refuse("an amount")
		}
	}
	return p
}

// decodeDiscounts reads the discounts of a subscription or an invoice. One
// alone stood in "discount" before basil; between, both fields were there, and
// the list may hold only IDs while the other is an object.
func decodeDiscounts(n node) []billing.Discount {
	var discounts []billing.Discount
	list, _ := n.at("discounts").list()
	if legacy := n.at("discount"); !legacy.null() {
		list = append(list, legacy)
	}
	for _, d := range list {
		discount := decodeDiscount(d)
		known := false
		for i := range discounts {
			if discounts[i].ID == discount.ID && discount.ID != "" {
				known = true
				if d.object() {
					discounts[i] = discount
				}
			}
		}
		if !known {
			discounts = append(discounts, discount)
		}
	}
	return discounts
}

func decodeDiscount(n node) billing.Discount {
	d := billing.Discount{ID: n.id()}
	if !n.object() {
		return d
	}
	coupon := n.at("source", "coupon").or(n.at("coupon")) // moved in clover
	d.CouponID = coupon.id()
	d.Reference = coupon.at("metadata").at(billing.MetadataReference).text()
	d.PromotionCode = n.at("promotion_code").id()
	d.Start = n.at("start").time()
	d.End = n.at("end").time()
	d.Duration = coupon.at("duration").text()
	if percent := coupon.at("percent_off").rat(); percent != nil {
		d.PercentOff = plain(percent)
	}
	if amount := coupon.at("amount_off"); !amount.null() {
		currency := coupon.at("currency").currency()
		d.AmountOff = billing.Money{Amount: amount.amount(currency), Currency: currency}
	}
	return d
}

func decodeInvoice(n node) billing.Invoice {
	currency := n.at("currency").currency()
	parent := n.at("parent", "subscription_details") // since basil
	inv := billing.Invoice{
		ID:                 n.at("id").text(), // upcoming invoices have none
		Number:             n.at("number").text(),
		CustomerID:         n.at("customer").id(),
		SubscriptionID:     parent.at("subscription").or(n.at("subscription")).id(),
		Status:             billing.InvoiceStatus(n.at("status").text()),
		BillingReason:      n.at("billing_reason").text(),
		Currency:           currency,
		Subtotal:           n.at("subtotal").amount(currency),
		Total:              n.at("total").amount(currency),
		Tax:                decodeTax(n, currency),
		AmountDue:          n.at("amount_due").amount(currency),
		AmountPaid:         n.at("amount_paid").amount(currency),
		AmountRemaining:    n.at("amount_remaining").amount(currency),
		StartingBalance:    n.at("starting_balance").amount(currency),
		EndingBalance:      n.at("ending_balance").amount(currency),
		AmountRefunded:     n.at("post_payment_credit_notes_amount").amount(currency),
		AttemptCount:       n.at("attempt_count").number(),
		NextPaymentAttempt: n.at("next_payment_attempt").time(),
		Created:            n.at("created").time(),
		FinalizedAt:        n.at("status_transitions", "finalized_at").time(),
		PaidAt:             n.at("status_transitions", "paid_at").time(),
		Period:             billing.Period{From: n.at("period_start").time(), To: n.at("period_end").time()},
		HostedURL:          n.at("hosted_invoice_url").text(),
		PDFURL:             n.at("invoice_pdf").text(),
		PaymentIntentID:    n.at("payment_intent").id(),
		ChargeID:           n.at("charge").or(n.at("payment_intent", "latest_charge")).id(),
		ClientSecret:       n.at("confirmation_secret", "client_secret").or(n.at("payment_intent", "client_secret")).text(),
		Discounts:          decodeDiscounts(n),
		Metadata:           n.at("metadata").dict(),
		Livemode:           n.at("livemode").flag(),
	}
	decodeAttempt(n.at("payment_intent"), &inv)
	decodePayments(n, &inv)
	lines, _ := n.at("lines").list()
	inv.Lines = decodeLines(lines, currency)
	return inv
}

// decodePayments fills in what basil moved from the invoice into its list of
// payments: the default payment, or else the last one.
func decodePayments(n node, inv *billing.Invoice) {
	payments, _ := n.at("payments").list()
	for _, payment := range payments {
		p := payment.at("payment")
		intent := p.at("payment_intent")
		if id := intent.id(); id != "" {
			inv.PaymentIntentID = id
		}
		decodeAttempt(intent, inv)
		if id := p.at("charge").or(intent.at("latest_charge")).id(); id != "" {
			inv.ChargeID = id
		}
		if payment.at("is_default").flag() {
			return
		}
	}
}

// decodeAttempt reads what a payment intent, where it is an object, tells of
// the last attempt at an open invoice.
func decodeAttempt(intent node, inv *billing.Invoice) {
	if !intent.object() || inv.Status != billing.InvoiceOpen {
		return
	}
	inv.ActionRequired = intent.at("status").text() == "requires_action"
	failure := intent.at("last_payment_error")
	if inv.ActionRequired || failure.null() {
		return
	}
	inv.DeclineCode = failure.at("decline_code").or(failure.at("code")).text()
	inv.FailedMethod = failure.at("payment_method").id()
}

// decodeTax sums the taxes of an invoice: total_taxes since basil, before it
// tax beside total_tax_amounts.
func decodeTax(n node, currency string) int64 {
	if tax := n.at("tax"); !tax.null() {
		return tax.amount(currency)
	}
	return sum(n.at("total_taxes").or(n.at("total_tax_amounts")), currency)
}

// sum adds the field "amount" of a list's elements.
func sum(n node, currency string) int64 {
	total := new(big.Int)
	list, _ := n.list()
	for _, element := range list {
		total.Add(total, big.NewInt(element.at("amount").amount(currency)))
	}
	if !total.IsInt64() {
		n.refuse("a list of amounts")
		return 0
	}
	return total.Int64()
}

// decodeLines reads the lines of an invoice; basil moved most of their fields
// below "parent" and "pricing".
func decodeLines(list []node, currency string) []billing.InvoiceLine {
	var lines []billing.InvoiceLine
	for _, n := range list {
		parent := n.at("parent")
		parent = parent.at(parent.at("type").text()) // subscription_item_details or invoice_item_details
		quantity, _ := decodeQuantity(n)
		line := billing.InvoiceLine{
			ID:             n.at("id").text(),
			Description:    n.at("description").text(),
			Amount:         n.at("amount").amount(currency),
			Quantity:       quantity,
			PriceID:        n.at("pricing", "price_details", "price").or(n.at("price")).id(),
			SubscriptionID: parent.at("subscription").or(n.at("subscription")).id(),
			ItemID:         parent.at("subscription_item").or(n.at("subscription_item")).id(),
			Proration:      parent.at("proration").or(n.at("proration")).flag(),
			Discount:       sum(n.at("discount_amounts"), currency),
			Period:         billing.Period{From: n.at("period", "start").time(), To: n.at("period", "end").time()},
		}
		lines = append(lines, line)
	}
	return lines
}

func decodeCheckout(n node) billing.Checkout {
	metadata := n.at("metadata").dict()
	c := billing.Checkout{
		ID:             n.at("id").text(),
		URL:            n.at("url").text(),
		Status:         n.at("status").text(),
		PaymentStatus:  n.at("payment_status").text(),
		CustomerID:     n.at("customer").id(),
		Account:        accountOf(n),
		SubscriptionID: n.at("subscription").id(),
		ExpiresAt:      n.at("expires_at").time(),
		Created:        n.at("created").time(),
		Metadata:       metadata,
		Livemode:       n.at("livemode").flag(),
	}
	return c
}

// accountOf is the account that an object names: in its metadata, in the
// metadata of the subscription that an invoice is for, or as the client
// reference of a checkout session. The reference of a payment link isn't
// taken: anybody can write it into the link.
func accountOf(n node) string {
	for _, metadata := range []node{
		n.at("metadata"),
		n.at("parent", "subscription_details", "metadata"),
		n.at("subscription_details", "metadata"), // before basil
	} {
		if account := metadata.dict()[billing.MetadataAccount]; account != "" {
			return account
		}
	}
	if n.at("payment_link").null() {
		return n.at("client_reference_id").text()
	}
	return ""
}

// instant is what Stripe takes as a time.
func instant(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	seconds := t.Unix()
	return &seconds
}
