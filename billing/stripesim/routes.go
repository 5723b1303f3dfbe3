package stripesim

import "strings"

// listing are the parameters that every list takes.
const listing = " limit:int starting_after ending_before "

// billingDetails are the parameters of a card's owner.
const billingDetails = " billing_details.email billing_details.name billing_details.phone" +
	" billing_details.address.city billing_details.address.country billing_details.address.line1 billing_details.address.line2" +
	" billing_details.address.postal_code billing_details.address.state "

const addressParams = " address.city address.country address.line1 address.line2 address.postal_code address.state" +
	" shipping.name shipping.phone shipping.address.city shipping.address.country shipping.address.line1 shipping.address.line2" +
	" shipping.address.postal_code shipping.address.state "

const discountParams = " discounts[].coupon discounts[].promotion_code "

// changeParams are the parameters of an update of a subscription, under a
// prefix in previews.
func changeParams(prefix string) string {
	names := []string{
		"items[].id", "items[].price", "items[].quantity:int", "items[].deleted:bool", "items[].clear_usage:bool", "items[].metadata:map",
		"proration_behavior:=create_prorations|always_invoice|none", "proration_date:time", "trial_end:time|now",
		"billing_cycle_anchor:=now|unchanged", "cancel_at_period_end:bool",
	}
	return prefix + strings.Join(names, " "+prefix)
}

func newRoutes() []*route {
	var out []*route
	add := func(method, pattern, params string, do handler, note string) {
		if method != "DELETE" || pattern == "/v1/subscriptions/{id}" {
			params += " expand:list" // the other deletions return nothing to expand
		}
		out = append(out, &route{
			method: method, pattern: pattern, parts: strings.Split(strings.Trim(pattern, "/"), "/"),
			specs: parseSpecs(params), do: do, note: note,
		})
	}
	get := func(pattern, params string, do handler, note string) { add("GET", pattern, params, do, note) }
	post := func(pattern, params string, do handler, note string) { add("POST", pattern, params, do, note) }
	del := func(pattern, params string, do handler, note string) { add("DELETE", pattern, params, do, note) }

	customerParams := "email name phone description balance:int metadata:map coupon promotion_code" + addressParams
	post("/v1/customers", customerParams+" payment_method test_clock", (*Simulator).createCustomer, "")
	get("/v1/customers", "email created:range test_clock"+listing, (*Simulator).listCustomers, "")
	get("/v1/customers/search", "query! limit:int page", (*Simulator).searchCustomers, "email, name and metadata; finds at once what Stripe finds after up to a minute")
	get("/v1/customers/{id}", "", (*Simulator).fetchCustomer, "")
	post("/v1/customers/{id}", customerParams+" invoice_settings.default_payment_method", (*Simulator).updateCustomer, "")
	del("/v1/customers/{id}", "", (*Simulator).deleteCustomer, "")
	del("/v1/customers/{id}/discount", "", (*Simulator).deleteCustomerDiscount, "")
	post("/v1/customers/{id}/balance_transactions", "amount!:int currency! description metadata:map", (*Simulator).createBalance, "one balance, in one currency")
	get("/v1/customers/{id}/balance_transactions", listing, (*Simulator).listBalance, "")
	get("/v1/customers/{id}/balance_transactions/{transaction}", "", (*Simulator).fetchBalance, "")
	get("/v1/customers/{id}/payment_methods", "type:=card"+listing, (*Simulator).listPMs, "cards only")
	get("/v1/customers/{id}/subscriptions", listing, (*Simulator).listSubscriptions, "")

	productParams := "name description active:bool unit_label url statement_descriptor images:list metadata:map features[].name marketing_features[].name"
	post("/v1/products", strings.Replace(productParams, "name", "name!", 1)+" id"+
		" default_price_data.currency default_price_data.unit_amount:int default_price_data.unit_amount_decimal:dec"+
		" default_price_data.tax_behavior:=exclusive|inclusive|unspecified"+
		" default_price_data.recurring.interval:=day|week|month|year default_price_data.recurring.interval_count:int", (*Simulator).createProduct, "")
	get("/v1/products", "active:bool ids:list created:range"+listing, (*Simulator).listProducts, "")
	get("/v1/products/{id}", "", (*Simulator).fetchProduct, "")
	post("/v1/products/{id}", productParams+" default_price", (*Simulator).updateProduct, "")
	del("/v1/products/{id}", "", (*Simulator).deleteProduct, "")

	post("/v1/prices", "currency! product product_data.name product_data.metadata:map unit_amount:int unit_amount_decimal:dec nickname lookup_key"+
		" transfer_lookup_key:bool active:bool metadata:map tax_behavior:=exclusive|inclusive|unspecified billing_scheme:=per_unit|tiered tiers_mode:=graduated|~volume tiers[].up_to tiers[].unit_amount:int tiers[].unit_amount_decimal:dec tiers[].flat_amount:int tiers[].flat_amount_decimal:dec"+
		" recurring.interval:=day|week|month|year recurring.interval_count:int recurring.usage_type:=licensed|metered"+
		" recurring.aggregate_usage:=sum|max|last_during_period|last_ever recurring.meter", (*Simulator).createPrice, "tiers graduated only, no transformed quantities, one currency")
	get("/v1/prices", "active:bool product currency type:=one_time|recurring lookup_keys:list created:range"+
		" recurring.interval:=day|week|month|year recurring.usage_type:=licensed|metered"+listing, (*Simulator).listPrices, "")
	get("/v1/prices/{id}", "", (*Simulator).fetchPrice, "")
	post("/v1/prices/{id}", "active:bool nickname lookup_key transfer_lookup_key:bool metadata:map tax_behavior:=exclusive|inclusive|unspecified", (*Simulator).updatePrice, "")

	post("/v1/coupons", "id name percent_off:dec amount_off:int currency duration:=once|repeating|forever duration_in_months:int max_redemptions:int"+
		" redeem_by:time applies_to.products:list metadata:map", (*Simulator).createCoupon, "one currency")
	get("/v1/coupons", listing, (*Simulator).listCoupons, "")
	get("/v1/coupons/{id}", "", (*Simulator).fetchCoupon, "")
	post("/v1/coupons/{id}", "name metadata:map", (*Simulator).updateCoupon, "")
	del("/v1/coupons/{id}", "", (*Simulator).deleteCoupon, "")
	post("/v1/promotion_codes", "coupon! code customer active:bool expires_at:time max_redemptions:int metadata:map"+
		" restrictions.first_time_transaction:bool", (*Simulator).createPromotion, "no minimum amounts")
	get("/v1/promotion_codes", "active:bool code coupon customer"+listing, (*Simulator).listPromotions, "")
	get("/v1/promotion_codes/{id}", "", (*Simulator).fetchPromotion, "")
	post("/v1/promotion_codes/{id}", "active:bool metadata:map", (*Simulator).updatePromotion, "")

	post("/v1/payment_methods", "type:=card card.number card.exp_month:int card.exp_year:int card.cvc card.token metadata:map"+billingDetails,
		(*Simulator).createPM, "test cards only")
	get("/v1/payment_methods", "customer type:=card"+listing, (*Simulator).listPMs, "")
	get("/v1/payment_methods/{id}", "", (*Simulator).fetchPM, "")
	post("/v1/payment_methods/{id}", "card.exp_month:int card.exp_year:int metadata:map"+billingDetails, (*Simulator).updatePM, "")
	post("/v1/payment_methods/{id}/attach", "customer!", (*Simulator).attachPM, "")
	post("/v1/payment_methods/{id}/detach", "", (*Simulator).detachPM, "")

	post("/v1/payment_intents", "amount!:int currency! customer payment_method payment_method_types:list confirm:bool off_session:bool description"+
		" setup_future_usage:=on_session|off_session return_url metadata:map", (*Simulator).createIntent, "cards; captured at once")
	get("/v1/payment_intents", "customer created:range"+listing, (*Simulator).listIntents, "")
	get("/v1/payment_intents/{id}", "client_secret", (*Simulator).fetchIntent, "")
	post("/v1/payment_intents/{id}", "amount:int description payment_method setup_future_usage:=on_session|off_session metadata:map", (*Simulator).updateIntent, "")
	post("/v1/payment_intents/{id}/confirm", "payment_method off_session:bool return_url setup_future_usage:=on_session|off_session", (*Simulator).confirmIntent, "3-D Secure is a page of the simulator")
	post("/v1/payment_intents/{id}/cancel", "cancellation_reason:=duplicate|fraudulent|requested_by_customer|abandoned", (*Simulator).cancelIntent, "")
	post("/v1/setup_intents", "customer payment_method payment_method_types:list confirm:bool description return_url usage:=on_session|off_session metadata:map", (*Simulator).createSetup, "")
	get("/v1/setup_intents", "customer created:range"+listing, (*Simulator).listSetups, "")
	get("/v1/setup_intents/{id}", "client_secret", (*Simulator).fetchSetup, "")
	post("/v1/setup_intents/{id}/confirm", "payment_method return_url", (*Simulator).confirmSetupIntent, "")
	post("/v1/setup_intents/{id}/cancel", "cancellation_reason:=abandoned|duplicate|requested_by_customer", (*Simulator).cancelSetup, "")
	get("/v1/charges", "customer payment_intent created:range"+listing, (*Simulator).listCharges, "no balance transactions, no fees")
	get("/v1/charges/{id}", "", (*Simulator).fetchCharge, "")
	post("/v1/refunds", "charge payment_intent amount:int reason:=duplicate|fraudulent|requested_by_customer metadata:map", (*Simulator).createRefund, "succeeds at once")
	get("/v1/refunds", "charge payment_intent created:range"+listing, (*Simulator).listRefunds, "")
	get("/v1/refunds/{id}", "", (*Simulator).fetchRefund, "")
	post("/v1/refunds/{id}", "metadata:map", (*Simulator).updateRefund, "")

	creditParams := "invoice! amount:int reason:=duplicate|fraudulent|order_change|product_unsatisfactory memo refund_amount:int credit_amount:int out_of_band_amount:int" +
		" metadata:map lines[].type:=custom_line_item|invoice_line_item lines[].invoice_line_item lines[].description lines[].quantity:int lines[].amount:int lines[].unit_amount:int"
	post("/v1/credit_notes", creditParams, (*Simulator).createCreditNote, "no tax; a discount is not split out")
	get("/v1/credit_notes", "customer invoice"+listing, (*Simulator).listCreditNotes, "")
	get("/v1/credit_notes/preview", creditParams, (*Simulator).previewCreditNote, "")
	get("/v1/credit_notes/{id}", "", (*Simulator).fetchCreditNote, "")
	post("/v1/credit_notes/{id}", "memo metadata:map", (*Simulator).updateCreditNote, "")
	post("/v1/credit_notes/{id}/void", "", (*Simulator).voidCreditNote, "")
	get("/v1/credit_notes/{id}/lines", listing, (*Simulator).creditLines, "")
	get("/v1/disputes", "charge payment_intent created:range"+listing, (*Simulator).listDisputes, "made by Simulator.Dispute")
	get("/v1/disputes/{id}", "", (*Simulator).fetchDispute, "")
	post("/v1/disputes/{id}/close", "", (*Simulator).closeDispute, "")

	post("/v1/checkout/sessions", "mode:=subscription|setup|~payment customer customer_email client_reference_id success_url cancel_url line_items[].price"+
		" line_items[].quantity:int allow_promotion_codes:bool expires_at:time metadata:map payment_method_types:list payment_method_collection:=always|if_required"+
		" subscription_data.metadata:map subscription_data.description subscription_data.trial_end:time subscription_data.trial_period_days:int"+
		" subscription_data.trial_settings.end_behavior.missing_payment_method:=cancel|create_invoice|pause"+discountParams, (*Simulator).createSession,
		"hosted page; the subscription is made when the payment succeeds, not before")
	get("/v1/checkout/sessions", "customer subscription status:=open|complete|expired created:range"+listing, (*Simulator).listSessions, "")
	get("/v1/checkout/sessions/{id}", "", (*Simulator).fetchSession, "")
	get("/v1/checkout/sessions/{id}/line_items", listing, (*Simulator).sessionLines, "")
	post("/v1/checkout/sessions/{id}/expire", "", (*Simulator).expireSessionCall, "")
	post("/v1/billing_portal/sessions", "customer! return_url", (*Simulator).createPortal, "what it offers is in Config.Portal")

	subscriptionParams := " default_payment_method description coupon promotion_code off_session:bool cancel_at:time metadata:map collection_method:=charge_automatically|~send_invoice" +
		" payment_behavior:=allow_incomplete|default_incomplete|error_if_incomplete|pending_if_incomplete payment_settings.payment_method_types:list" +
		" payment_settings.save_default_payment_method:=off|on_subscription trial_settings.end_behavior.missing_payment_method:=cancel|create_invoice|pause" +
		" add_invoice_items[].price add_invoice_items[].quantity:int" + discountParams
	post("/v1/subscriptions", "customer! items[].price items[].quantity:int items[].metadata:map currency trial_end:time|now trial_period_days:int cancel_at_period_end:bool"+
		" proration_behavior:=create_prorations|always_invoice|none"+subscriptionParams, (*Simulator).createSubscription, "charged automatically; no backdating")
	get("/v1/subscriptions", "customer price test_clock created:range status:=all|ended|active|trialing|past_due|unpaid|canceled|incomplete|incomplete_expired|paused"+listing, (*Simulator).listSubscriptions, "")
	get("/v1/subscriptions/{id}", "", (*Simulator).fetchSubscription, "")
	post("/v1/subscriptions/{id}", changeParams("")+subscriptionParams+" discounts[].discount cancellation_details.comment"+
		" cancellation_details.feedback:=customer_service|low_quality|missing_features|other|switched_service|too_complex|too_expensive|unused"+
		" pause_collection.behavior:=keep_as_draft|mark_uncollectible|void pause_collection.resumes_at:time", (*Simulator).updateSubscription, "pending updates only where the payment succeeds")
	del("/v1/subscriptions/{id}", "prorate:bool invoice_now:bool cancellation_details.comment"+
		" cancellation_details.feedback:=customer_service|low_quality|missing_features|other|switched_service|too_complex|too_expensive|unused", (*Simulator).cancelSubscription, "")
	post("/v1/subscriptions/{id}/resume", "billing_cycle_anchor:=now|~unchanged proration_behavior:=create_prorations|always_invoice|none", (*Simulator).resumeSubscription, "")
	del("/v1/subscriptions/{id}/discount", "", (*Simulator).deleteDiscount, "")
	post("/v1/subscription_schedules", "from_subscription! metadata:map", (*Simulator).createSchedule, "of a subscription that exists")
	get("/v1/subscription_schedules", "customer created:range"+listing, (*Simulator).listSchedules, "")
	get("/v1/subscription_schedules/{id}", "", (*Simulator).fetchSchedule, "")
	post("/v1/subscription_schedules/{id}", "end_behavior:=release|~cancel proration_behavior:=create_prorations|always_invoice|none metadata:map phases[].items[].price phases[].items[].quantity:int"+
		" phases[].start_date:time phases[].end_date:time phases[].iterations:int phases[].proration_behavior:=create_prorations|always_invoice|none phases[].metadata:map"+
		" phases[].discounts[].discount", (*Simulator).updateSchedule, "two phases: what there is until the period ends, and what comes then")
	post("/v1/subscription_schedules/{id}/release", "", (*Simulator).releaseSchedule, "")
	get("/v1/subscription_items", "subscription!"+listing, (*Simulator).listItems, "")
	get("/v1/subscription_items/{id}", "", (*Simulator).fetchItem, "")
	post("/v1/subscription_items/{id}/usage_records", "quantity!:int timestamp:time|now action:=set|increment", (*Simulator).createUsage, "")
	get("/v1/subscription_items/{id}/usage_record_summaries", listing, (*Simulator).usageSummaries, "")

	post("/v1/invoices", "customer! currency subscription description auto_advance:bool default_payment_method metadata:map"+discountParams+
		" collection_method:=charge_automatically|~send_invoice pending_invoice_items_behavior:=include|exclude", (*Simulator).createInvoice, "")
	get("/v1/invoices", "customer subscription status:=draft|open|paid|uncollectible|void created:range"+listing, (*Simulator).listInvoices, "no tax")
	get("/v1/invoices/upcoming", "customer subscription coupon "+changeParams("subscription_")+discountParams, (*Simulator).upcomingInvoice, "of an existing subscription")
	get("/v1/invoices/upcoming/lines", "customer subscription coupon "+changeParams("subscription_")+discountParams+listing, (*Simulator).upcomingLines, "")
	post("/v1/invoices/create_preview", "customer subscription coupon "+changeParams("subscription_details.")+discountParams, (*Simulator).createPreview, "")
	get("/v1/invoices/{id}", "", (*Simulator).fetchInvoice, "")
	post("/v1/invoices/{id}", "description auto_advance:bool default_payment_method metadata:map discounts[].discount"+discountParams, (*Simulator).updateInvoice, "")
	del("/v1/invoices/{id}", "", (*Simulator).deleteInvoice, "")
	get("/v1/invoices/{id}/lines", listing, (*Simulator).invoiceLines, "")
	post("/v1/invoices/{id}/finalize", "auto_advance:bool", (*Simulator).finalizeInvoice, "")
	post("/v1/invoices/{id}/pay", "payment_method paid_out_of_band:bool off_session:bool", (*Simulator).payInvoice, "")
	post("/v1/invoices/{id}/void", "", (*Simulator).voidInvoiceCall, "")
	post("/v1/invoices/{id}/mark_uncollectible", "", (*Simulator).markInvoice, "")
	post("/v1/invoiceitems", "customer! amount:int currency description price quantity:int unit_amount:int discountable:bool subscription invoice metadata:map", (*Simulator).createInvoiceItem, "")
	get("/v1/invoiceitems", "customer invoice pending:bool created:range"+listing, (*Simulator).listInvoiceItems, "")
	get("/v1/invoiceitems/{id}", "", (*Simulator).fetchInvoiceItem, "")
	del("/v1/invoiceitems/{id}", "", (*Simulator).deleteInvoiceItem, "")

	post("/v1/billing/meters", "display_name! event_name! default_aggregation.formula:=sum|count customer_mapping.event_payload_key customer_mapping.type:=by_id"+
		" value_settings.event_payload_key", (*Simulator).createMeter, "")
	get("/v1/billing/meters", "status:=active|inactive"+listing, (*Simulator).listMeters, "")
	get("/v1/billing/meters/{id}/event_summaries", "customer! start_time!:time end_time!:time value_grouping_window:=~day|~hour"+listing, (*Simulator).meterSummaries, "one for the whole range")
	get("/v1/billing/meters/{id}", "", (*Simulator).fetchMeter, "")
	post("/v1/billing/meters/{id}", "display_name", (*Simulator).updateMeter, "")
	post("/v1/billing/meters/{id}/deactivate", "", (*Simulator).deactivateMeter, "")
	post("/v1/billing/meters/{id}/reactivate", "", (*Simulator).reactivateMeter, "")
	post("/v1/billing/meter_events", "event_name! payload!:map identifier timestamp:time", (*Simulator).createMeterEvent, "counts at once; integers only")

	get("/v1/events", "type types:list created:range delivery_success:bool"+listing, (*Simulator).listEvents, "30 days, in the API version of the account")
	get("/v1/events/{id}", "", (*Simulator).fetchEvent, "")
	post("/v1/webhook_endpoints", "url! enabled_events!:list api_version description metadata:map", (*Simulator).createEndpoint, "")
	get("/v1/webhook_endpoints", listing, (*Simulator).listEndpoints, "")
	get("/v1/webhook_endpoints/{id}", "", (*Simulator).fetchEndpoint, "")
	post("/v1/webhook_endpoints/{id}", "url enabled_events:list description disabled:bool metadata:map", (*Simulator).updateEndpoint, "")
	del("/v1/webhook_endpoints/{id}", "", (*Simulator).deleteEndpoint, "")
	post("/v1/test_helpers/test_clocks", "frozen_time!:time name", (*Simulator).createClock, "")
	get("/v1/test_helpers/test_clocks", listing, (*Simulator).listClocks, "")
	get("/v1/test_helpers/test_clocks/{id}", "", (*Simulator).fetchClock, "")
	post("/v1/test_helpers/test_clocks/{id}/advance", "frozen_time!:time", (*Simulator).advanceClock, "is done when it answers")
	del("/v1/test_helpers/test_clocks/{id}", "", (*Simulator).deleteClock, "")
	return out
}
