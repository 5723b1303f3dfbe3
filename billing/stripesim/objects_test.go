package stripesim

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProductsAndPrices(t *testing.T) {
	r := newRig(t)
	p := r.post("/v1/products", "id=prod_x", "name=X", "features[0][name]=Fast", "images[0]=http://x.test/a.png", "default_price_data[currency]=usd", "default_price_data[unit_amount]=100")
	require.Equal(t, "Fast", text(p, "features", 0, "name"))
	require.Equal(t, "one_time", text(r.get("/v1/prices/"+text(p, "default_price")), "type"))
	require.Equal(t, "Fast", text(r.get("/v1/products/prod_x", "Stripe-Version: 2024-04-10"), "marketing_features", 0, "name"))
	require.Equal(t, "resource_already_exists", text(r.fails(400, "POST", "/v1/products", "id=prod_x", "name=Y"), "code"))
	r.fails(400, "POST", "/v1/products/prod_x", "default_price=price_pro")
	r.fails(400, "DELETE", "/v1/products/prod_x")
	other := text(r.post("/v1/products", "name=Y", "active=false"), "id")
	require.Len(t, r.get("/v1/products", "active=false")["data"], 1)
	require.Len(t, r.get("/v1/products", "ids[0]="+other)["data"], 1)
	r.post("/v1/products/"+other, "name=Z", "url=http://z.test", "unit_label=seat", "description=")
	require.Equal(t, true, r.ok("DELETE", "/v1/products/"+other)["deleted"])
	require.Equal(t, true, r.get("/v1/products/" + other)["deleted"])
	r.fails(404, "POST", "/v1/products/"+other, "name=Q")

	const base = "currency=usd"
	moved := r.post("/v1/prices", base, "unit_amount=1200", "product=prod_pro", "recurring[interval]=month", "lookup_key=pro_monthly", "transfer_lookup_key=true")
	require.Equal(t, "pro_monthly", text(moved, "lookup_key"))
	require.Nil(t, r.get("/v1/prices/price_pro")["lookup_key"], "the key moved")
	list := r.get("/v1/prices", "lookup_keys[]=pro_monthly", "lookup_keys[]=business_monthly", "active=true")
	require.Len(t, list["data"], 2)
	require.Len(t, r.get("/v1/prices", "type=one_time", "currency=usd")["data"], 2)
	require.Len(t, r.get("/v1/prices", "recurring[interval]=year", "recurring[usage_type]=licensed")["data"], 1)
	require.Len(t, r.get("/v1/prices", "product=prod_business")["data"], 1)
	fraction := r.post("/v1/prices", base, "unit_amount_decimal=0.0125", "product_data[name]=Calls")
	require.Nil(t, fraction["unit_amount"])
	require.Equal(t, "0.0125", text(fraction, "unit_amount_decimal"))
	r.post("/v1/prices/"+text(moved, "id"), "lookup_key=business_monthly", "transfer_lookup_key=true", "nickname=n", "tax_behavior=exclusive")
	for _, wrong := range [][]string{
		{base, "unit_amount=1"},
		{base, "unit_amount=1", "product=prod_none"},
		{base, "unit_amount=1", "product=prod_pro", "product_data[name]=x"},
		{base, "product=prod_pro"},
		{base, "unit_amount=-1", "product=prod_pro"},
		{"currency=dollars", "unit_amount=1", "product=prod_pro"},
		{base, "unit_amount=1", "product=prod_pro", "lookup_key=pro_yearly"},
		{base, "unit_amount=1", "product=prod_pro", "recurring[interval_count]=2"},
		{base, "unit_amount=1", "product=prod_pro", "recurring[interval]=year", "recurring[interval_count]=9"},
		{base, "unit_amount=1", "product=prod_pro", "recurring[interval]=month", "recurring[aggregate_usage]=sum"},
		{base, "unit_amount=1", "product=prod_pro", "recurring[interval]=month", "recurring[meter]=mtr_none"},
		{base, "unit_amount_decimal=1.1234567890123", "product=prod_pro"},
		{base, "unit_amount=9999999999999", "product=prod_pro"},
		{base, "unit_amount=1", "product_data[metadata][a]=b"},
	} {
		r.fails(400, "POST", "/v1/prices", wrong...)
	}
	r.fails(400, "POST", "/v1/prices/price_pro", "lookup_key=pro_yearly")
	keys := []string{}
	for i := range 11 {
		keys = append(keys, "lookup_keys[]=k"+itoa(i))
	}
	r.fails(400, "GET", "/v1/prices", keys...)
}

func TestCouponsAndCodes(t *testing.T) {
	r := newRig(t)
	for _, wrong := range [][]string{
		{"duration=once"}, {"percent_off=0", "duration=once"}, {"percent_off=101", "duration=once"}, {"amount_off=5", "duration=once"},
		{"percent_off=5", "duration=repeating"}, {"percent_off=5", "duration=once", "duration_in_months=2"}, {"percent_off=5", "amount_off=5", "currency=usd"},
		{"percent_off=5", "applies_to[products][0]=prod_none"},
	} {
		r.fails(400, "POST", "/v1/coupons", wrong...)
	}
	c := text(r.post("/v1/coupons", "percent_off=25", "redeem_by="+itoa(int(start.Add(day).Unix())), "applies_to[products][0]=prod_pro"), "id")
	require.Equal(t, "prod_pro", text(r.get("/v1/coupons/"+c, "expand[0]=applies_to"), "applies_to", "products", 0))
	r.post("/v1/coupons/"+c, "name=Quarter", "metadata[a]=b")
	r.fails(400, "POST", "/v1/coupons", "id="+c, "percent_off=5")
	cus := r.customer("visa")
	promo := r.post("/v1/promotion_codes", "coupon="+c, "code=MINE", "customer="+cus, "max_redemptions=1")
	r.fails(400, "POST", "/v1/promotion_codes", "coupon="+c, "code=mine", "customer="+cus)
	r.fails(400, "POST", "/v1/promotion_codes", "coupon="+c, "customer=cus_none")
	require.Regexp(t, `^[A-Z0-9]{8}$`, text(r.post("/v1/promotion_codes", "coupon="+c), "code"))
	r.fails(400, "POST", "/v1/subscriptions", "customer="+r.customer("visa"), "items[0][price]=price_pro", "promotion_code="+text(promo, "id"))

	// Only the product that the coupon names is cheaper.
	sub := r.subscribe(cus, "price_pro", "items[1][price]=price_business", "promotion_code="+text(promo, "id"), "expand[0]=latest_invoice")
	require.EqualValues(t, 999-250+2999, number(sub, "latest_invoice", "total"))
	require.EqualValues(t, 250, number(sub, "latest_invoice", "lines", "data", 0, "discount_amounts", 0, "amount"))
	require.Equal(t, false, r.get("/v1/promotion_codes/" + text(promo, "id"))["active"], "used up")
	require.Len(t, r.get("/v1/promotion_codes", "active=false", "coupon="+c, "customer="+cus)["data"], 1)
	r.post("/v1/promotion_codes/"+text(promo, "id"), "active=false")
	gone := r.ok("DELETE", "/v1/subscriptions/"+text(sub, "id")+"/discount")
	require.Equal(t, true, gone["deleted"])
	r.fails(404, "DELETE", "/v1/subscriptions/"+text(sub, "id")+"/discount")
	again := r.post("/v1/subscriptions/"+text(sub, "id"), "coupon="+c)
	require.Equal(t, c, text(again, "discount", "coupon", "id"))
	kept := r.post("/v1/subscriptions/"+text(sub, "id"), "discounts[0][discount]="+text(again, "discounts", 0))
	require.Equal(t, text(again, "discounts", 0), text(kept, "discounts", 0))
	r.fails(400, "POST", "/v1/subscriptions/"+text(sub, "id"), "discounts[0][discount]=di_none")
	require.Nil(t, r.post("/v1/subscriptions/"+text(sub, "id"), "discounts=")["discount"])

	r.ok("DELETE", "/v1/coupons/"+c)
	r.fails(404, "GET", "/v1/coupons/"+c)
	require.Empty(t, r.get("/v1/coupons")["data"])
	r.fails(404, "DELETE", "/v1/customers/"+cus+"/discount")
	require.Equal(t, "200", itoa(r.do("POST", "/v1/coupons", "id="+c, "percent_off=5").status), "a deleted coupon's name is free")
	own := r.post("/v1/customers/"+cus, "coupon="+c)
	require.Equal(t, c, text(own, "discount", "coupon", "id"))
	require.Nil(t, r.post("/v1/customers/"+cus, "coupon=")["discount"])
}

func TestPaymentMethods(t *testing.T) {
	r := newRig(t)
	cus := text(r.post("/v1/customers"), "id")
	for _, wrong := range [][]string{
		{"type=card"}, {"type=card", "card[number]=4242424242424242", "card[exp_month]=1", "card[exp_year]=2020"},
		{"type=card", "card[number]=4242424242424242", "card[exp_month]=13", "card[exp_year]=2030"},
	} {
		got := r.do("POST", "/v1/payment_methods", wrong...)
		require.Contains(t, []int{400, 402}, got.status)
	}
	r.fails(501, "POST", "/v1/payment_methods", "type=card", "card[number]=1234")
	r.fails(501, "POST", "/v1/payment_methods", "type=card", "card[token]=tok_x")
	pm := text(r.post("/v1/payment_methods", "type=card", "card[token]=tok_mastercard", "card[exp_year]=31", "billing_details[address][city]=Rome"), "id")
	r.fails(400, "POST", "/v1/payment_methods/"+pm, "metadata[a]=b")
	r.post("/v1/payment_methods/"+pm+"/attach", "customer="+cus)
	r.post("/v1/payment_methods/"+pm, "card[exp_month]=3", "billing_details[name]=Ada")
	require.EqualValues(t, 2031, number(r.get("/v1/payment_methods/"+pm), "card", "exp_year"))
	r.fails(400, "POST", "/v1/payment_methods/"+pm+"/attach", "customer="+text(r.post("/v1/customers"), "id"))
	e := r.fails(402, "POST", "/v1/payment_methods/pm_card_chargeDeclined/attach", "customer="+cus)
	require.Equal(t, "generic_decline", text(e, "decline_code"))
	r.fails(501, "POST", "/v1/payment_methods/pm_card_unknown/attach", "customer="+cus)
	r.post("/v1/customers/"+cus, "invoice_settings[default_payment_method]="+pm)
	r.fails(400, "POST", "/v1/customers/"+cus, "invoice_settings[default_payment_method]="+text(r.post("/v1/payment_methods", "type=card", "card[token]=tok_visa"), "id"))
	sub := r.subscribe(cus, "price_pro", "default_payment_method="+pm)
	require.Equal(t, pm, text(sub, "default_payment_method"))
	r.fails(400, "POST", "/v1/subscriptions", "customer="+r.customer("visa"), "items[0][price]=price_pro", "default_payment_method="+pm)
	r.post("/v1/payment_methods/" + pm + "/detach")
	require.Nil(t, r.sub(text(sub, "id"))["default_payment_method"])
	require.Nil(t, at(r.get("/v1/customers/"+cus), "invoice_settings", "default_payment_method"))
	r.fails(400, "POST", "/v1/payment_methods/"+pm+"/detach")
	r.fails(400, "POST", "/v1/payment_methods/"+pm+"/attach", "customer="+cus)
	require.Empty(t, r.get("/v1/payment_methods", "customer="+cus)["data"])
	r.advance(40 * day)
	require.Equal(t, "past_due", text(r.sub(text(sub, "id")), "status"), "no card, no payment")
}

func TestPaymentIntents(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	for _, wrong := range [][]string{
		{"amount=0", "currency=usd"}, {"amount=1", "currency=euro"}, {"amount=1", "currency=usd", "customer=cus_none"},
		{"amount=1", "currency=usd", "confirm=true"}, {"amount=1", "currency=usd", "payment_method=pm_none"},
	} {
		r.fails(400, "POST", "/v1/payment_intents", wrong...)
	}
	p := text(r.post("/v1/payment_intents", "amount=500", "currency=usd", "customer="+cus, "setup_future_usage=off_session"), "id")
	r.fails(400, "POST", "/v1/payment_intents/"+p+"/confirm")
	r.post("/v1/payment_intents/"+p, "amount=700", "payment_method=pm_card_mastercard", "description=d", "metadata[a]=b")
	got := r.post("/v1/payment_intents/" + p + "/confirm")
	require.Equal(t, "succeeded", text(got, "status"))
	require.EqualValues(t, 700, r.sim.Collected(cus)["usd"])
	require.Len(t, r.get("/v1/payment_methods", "customer="+cus)["data"], 2, "kept for later")
	for _, path := range []string{"/confirm", "/cancel"} {
		e := r.fails(400, "POST", "/v1/payment_intents/"+p+path)
		require.Equal(t, "payment_intent_unexpected_state", text(e, "code"))
	}
	r.fails(400, "POST", "/v1/payment_intents/"+p, "amount=1")
	sub := r.subscribe(text(r.post("/v1/customers"), "id"), "price_pro", "payment_behavior=default_incomplete", "expand[0]=latest_invoice")
	ofInvoice := text(sub, "latest_invoice", "payment_intent")
	r.fails(400, "POST", "/v1/payment_intents/"+ofInvoice+"/cancel")
	r.fails(400, "POST", "/v1/payment_intents/"+ofInvoice, "amount=1")

	ch := text(got, "latest_charge")
	for _, wrong := range [][]string{{}, {"charge=ch_none"}, {"charge=" + ch, "amount=701"}, {"charge=" + ch, "amount=0"}, {"payment_intent=" + ofInvoice}, {"payment_intent=pi_none"}} {
		r.fails(400, "POST", "/v1/refunds", wrong...)
	}
	r.post("/v1/refunds", "payment_intent="+p, "amount=200")
	r.post("/v1/refunds", "charge="+ch)
	require.EqualValues(t, 0, r.sim.Collected(cus)["usd"])
	require.Equal(t, true, r.get("/v1/charges/" + ch)["refunded"])
	require.Equal(t, "charge_already_refunded", text(r.fails(400, "POST", "/v1/refunds", "charge="+ch), "code"))
	require.Len(t, at(r.get("/v1/charges/"+ch, "expand[0]=refunds"), "refunds", "data"), 2)

	away := r.post("/v1/payment_intents", "amount=500", "currency=usd", "payment_method=pm_card_authenticationRequired", "confirm=true", "return_url=http://shop.test/back")
	require.Equal(t, "redirect_to_url", text(away, "next_action", "type"))
	back := r.page("POST", "/3ds/"+text(away, "id"), "do=authorize")
	require.Equal(t, "http://shop.test/back", back.Header().Get("Location"))
	off := r.fails(402, "POST", "/v1/payment_intents", "amount=500", "currency=usd", "payment_method=pm_card_authenticationRequired", "confirm=true", "off_session=true")
	require.Equal(t, "authentication_required", text(off, "code"))
}

func TestSetupIntents(t *testing.T) {
	r := newRig(t)
	cus := text(r.post("/v1/customers"), "id")
	r.fails(400, "POST", "/v1/setup_intents", "confirm=true")
	r.fails(400, "POST", "/v1/setup_intents", "customer=cus_none")
	e := r.fails(402, "POST", "/v1/setup_intents", "customer="+cus, "payment_method=pm_card_chargeDeclined", "confirm=true")
	require.Equal(t, "requires_payment_method", text(e, "setup_intent", "status"))
	s := text(r.post("/v1/setup_intents", "customer="+cus, "usage=on_session"), "id")
	r.fails(400, "POST", "/v1/setup_intents/"+s+"/confirm")
	r.fails(402, "POST", "/v1/setup_intents/"+s+"/confirm", "payment_method=pm_card_chargeDeclined")
	r.post("/v1/setup_intents/"+s+"/confirm", "payment_method=pm_card_authenticationRequiredOnSetup")
	require.Contains(t, r.page("GET", "/3ds/"+s).Body.String(), "3155")
	require.Contains(t, r.page("POST", "/3ds/"+s, "do=fail").Body.String(), "Not confirmed")
	r.post("/v1/setup_intents/"+s+"/confirm", "payment_method=pm_card_authenticationRequiredOnSetup")
	require.Contains(t, r.page("POST", "/3ds/"+s, "do=authorize").Body.String(), "Confirmed")
	require.Contains(t, r.page("GET", "/3ds/"+s).Body.String(), "Nothing to confirm")
	require.Len(t, r.get("/v1/payment_methods", "customer="+cus)["data"], 1)
	r.fails(400, "POST", "/v1/setup_intents/"+s+"/confirm")
	r.fails(400, "POST", "/v1/setup_intents/"+s+"/cancel")
	r.post("/v1/setup_intents", "customer="+cus, "payment_method=pm_card_visa", "confirm=true")
}

func TestInvoicesByHand(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	r.post("/v1/customers/"+cus+"/balance_transactions", "amount=-300", "currency=usd")
	r.fails(400, "POST", "/v1/customers/"+cus+"/balance_transactions", "amount=-300", "currency=eur")
	r.post("/v1/invoiceitems", "customer="+cus, "price=price_setup", "quantity=2")
	r.post("/v1/invoiceitems", "customer="+cus, "unit_amount=10", "quantity=3", "currency=usd")
	for _, wrong := range [][]string{{"price=price_pro"}, {"amount=1"}, {"amount=1", "currency=usd", "subscription=sub_none"}, {"amount=1", "currency=usd", "invoice=in_none"}} {
		r.fails(400, "POST", "/v1/invoiceitems", append(wrong, "customer="+cus)...)
	}
	inv := r.post("/v1/invoices", "customer="+cus, "pending_invoice_items_behavior=include", "auto_advance=true", "description=Work")
	id := text(inv, "id")
	require.Equal(t, "draft", text(inv, "status"))
	require.Nil(t, inv["hosted_invoice_url"])
	r.post("/v1/invoiceitems", "customer="+cus, "invoice="+id, "amount=5", "currency=usd")
	require.EqualValues(t, 10000+30+5, number(r.get("/v1/invoices/"+id), "total"))
	r.fails(400, "POST", "/v1/invoices/"+id+"/void")
	r.advance(2 * 3600e9)
	inv = r.get("/v1/invoices/" + id)
	require.Equal(t, "paid", text(inv, "status"), "it advances by itself")
	require.EqualValues(t, 9735, number(inv, "amount_paid"))
	require.EqualValues(t, -300, number(inv, "starting_balance"))
	require.EqualValues(t, 0, number(inv, "ending_balance"))
	require.Equal(t, text(r.get("/v1/customers/"+cus), "invoice_prefix")+"-0001", text(inv, "number"))
	r.fails(400, "POST", "/v1/invoices/"+id, "description=late")
	for _, path := range []string{"/pay", "/finalize", "/mark_uncollectible", "/void"} {
		r.fails(400, "POST", "/v1/invoices/"+id+path)
	}
	r.fails(400, "DELETE", "/v1/invoices/"+id)

	manual := func(fields ...string) string {
		r.post("/v1/invoiceitems", "customer="+cus, "amount=1000", "currency=usd")
		return text(r.post("/v1/invoices", append([]string{"customer=" + cus, "pending_invoice_items_behavior=include"}, fields...)...), "id")
	}
	cash := manual()
	paid := r.post("/v1/invoices/"+cash+"/pay", "paid_out_of_band=true")
	require.Equal(t, true, paid["paid_out_of_band"])
	require.EqualValues(t, 9735, r.sim.Collected(cus)["usd"])
	card := manual()
	r.post("/v1/invoices/"+card, "default_payment_method="+text(r.post("/v1/payment_methods/pm_card_amex/attach", "customer="+cus), "id"))
	r.post("/v1/invoices/"+card+"/finalize", "auto_advance=true")
	r.advance(2 * 3600e9)
	require.Equal(t, "paid", text(r.get("/v1/invoices/"+card), "status"))
	bad := manual()
	e := r.fails(402, "POST", "/v1/invoices/"+bad+"/pay", "payment_method=pm_card_chargeDeclinedInsufficientFunds")
	require.Equal(t, "insufficient_funds", text(e, "decline_code"))
	e = r.fails(400, "POST", "/v1/invoices/"+bad+"/pay", "payment_method=pm_card_authenticationRequired")
	require.Equal(t, "invoice_payment_intent_requires_action", text(e, "code"))
	r.post("/v1/invoices/" + bad + "/mark_uncollectible")
	require.Equal(t, "paid", text(r.post("/v1/invoices/"+bad+"/pay"), "status"), "late is better than never")
	r.fails(400, "POST", "/v1/invoices", "customer="+cus, "subscription=sub_none")
	poor := text(r.post("/v1/customers"), "id")
	r.post("/v1/invoiceitems", "customer="+poor, "amount=100", "currency=usd")
	r.fails(400, "POST", "/v1/invoices/"+text(r.post("/v1/invoices", "customer="+poor, "pending_invoice_items_behavior=include"), "id")+"/pay")

	// Voiding gives back the credit that was used.
	r.post("/v1/customers/"+cus, "balance=-250")
	void := manual()
	r.post("/v1/invoices/" + void + "/finalize")
	require.EqualValues(t, 0, number(r.get("/v1/customers/"+cus), "balance"))
	r.post("/v1/invoices/" + void + "/void")
	require.EqualValues(t, -250, number(r.get("/v1/customers/"+cus), "balance"))
	sub := text(r.subscribe(cus, "price_pro"), "id")
	r.post("/v1/invoiceitems", "customer="+cus, "subscription="+sub, "amount=70", "currency=usd")
	of := r.post("/v1/invoices", "customer="+cus, "subscription="+sub, "pending_invoice_items_behavior=include")
	require.EqualValues(t, 70, number(of, "total"))
	require.Len(t, r.get("/v1/invoices", "subscription="+sub)["data"], 2)
	r.fails(400, "POST", "/v1/invoices", "customer="+poor, "subscription="+sub)
}

func TestCreditNotes(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_business", "expand[0]=latest_invoice")
	inv := text(sub, "latest_invoice", "id")
	for _, wrong := range [][]string{
		{"invoice=in_none"}, {"invoice=" + inv}, {"invoice=" + inv, "amount=3000", "refund_amount=3000"}, {"invoice=" + inv, "amount=5"},
		{"invoice=" + inv, "lines[0][type]=invoice_line_item", "lines[0][invoice_line_item]=il_none"}, {"invoice=" + inv, "lines[0][amount]=5"},
		{"invoice=" + inv, "amount=5", "lines[0][type]=custom_line_item", "lines[0][amount]=5"},
	} {
		r.fails(400, "POST", "/v1/credit_notes", wrong...)
	}
	n := r.post("/v1/credit_notes", "invoice="+inv, "amount=1000", "refund_amount=600", "credit_amount=300", "out_of_band_amount=100", "reason=duplicate")
	require.Equal(t, "post_payment", text(n, "type"))
	require.EqualValues(t, 2999-600, r.sim.Collected(cus)["usd"])
	require.EqualValues(t, -300, number(r.get("/v1/customers/"+cus), "balance"))
	require.EqualValues(t, 1000, number(r.get("/v1/invoices/"+inv), "post_payment_credit_notes_amount"))
	r.fails(400, "POST", "/v1/credit_notes/"+text(n, "id")+"/void")
	whole := r.post("/v1/credit_notes", "invoice="+inv, "lines[0][type]=custom_line_item", "lines[0][unit_amount]=500", "lines[0][quantity]=2", "credit_amount=1000")
	require.EqualValues(t, 500, number(whole, "lines", "data", 0, "unit_amount"))
	require.Contains(t, text(whole, "number"), "-CN-02")

	open := text(r.subscribe(cus, "price_pro", "payment_behavior=default_incomplete", "metadata[x]=y", "expand[0]=latest_invoice"), "latest_invoice", "id")
	r.fails(400, "POST", "/v1/credit_notes", "invoice="+open, "amount=1", "refund_amount=1")
	_ = open
	r.post("/v1/customers/"+cus, "balance=0")
	second := r.subscribe(cus, "price_pro", "payment_behavior=default_incomplete", "expand[0]=latest_invoice")
	due := text(second, "latest_invoice", "id")
	part := r.post("/v1/credit_notes", "invoice="+due, "amount=400")
	require.EqualValues(t, 599, number(r.get("/v1/invoices/"+due), "amount_remaining"))
	r.post("/v1/credit_notes/" + text(part, "id") + "/void")
	require.EqualValues(t, 999, number(r.get("/v1/invoices/"+due), "amount_remaining"))
	r.post("/v1/credit_notes", "invoice="+due, "amount=999")
	require.Equal(t, "paid", text(r.get("/v1/invoices/"+due), "status"), "nothing is left to pay")
	require.Equal(t, "active", text(r.sub(text(second, "id")), "status"))
}

func TestDisputes(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	ch := func(price string) string {
		return text(r.subscribe(cus, price, "expand[0]=latest_invoice"), "latest_invoice", "charge")
	}
	first, second := ch("price_pro"), ch("price_business")
	r.take()
	id, err := r.sim.Dispute(first, "")
	require.NoError(t, err)
	require.Equal(t, []string{"charge.dispute.created", "charge.dispute.funds_withdrawn"}, r.types())
	require.EqualValues(t, 2999, r.sim.Collected(cus)["usd"])
	require.Equal(t, "charge_disputed", text(r.fails(400, "POST", "/v1/refunds", "charge="+first), "code"))
	require.NoError(t, r.sim.CloseDispute(id, true))
	require.EqualValues(t, 2999+999, r.sim.Collected(cus)["usd"])
	lost, err := r.sim.Dispute(second, "product_not_received")
	require.NoError(t, err)
	require.Equal(t, "lost", text(r.post("/v1/disputes/"+lost+"/close"), "status"))
	require.EqualValues(t, 999, r.sim.Collected(cus)["usd"])
	r.fails(400, "POST", "/v1/disputes/"+lost+"/close")
	require.ErrorIs(t, r.sim.CloseDispute(lost, true), ErrInvalid)
	require.ErrorIs(t, r.sim.CloseDispute("dp_none", true), ErrNotFound)
	_, err = r.sim.Dispute("ch_none", "")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = r.sim.Dispute(second, "")
	require.ErrorIs(t, err, ErrInvalid)
}

func TestCustomersGoWithEverything(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := text(r.subscribe(cus, "price_pro"), "id")
	r.post("/v1/customers/"+cus, "shipping[name]=Ada", "shipping[address][city]=Rome", "phone=1", "description=d", "address[city]=Rome")
	require.Equal(t, "Rome", text(r.get("/v1/customers/"+cus), "shipping", "address", "city"))
	r.take()
	require.Equal(t, true, r.ok("DELETE", "/v1/customers/"+cus)["deleted"])
	require.Equal(t, []string{"customer.subscription.deleted", "customer.deleted"}, r.types())
	require.Equal(t, "canceled", text(r.sub(sub), "status"))
	require.Equal(t, true, r.get("/v1/customers/" + cus)["deleted"])
	r.fails(404, "POST", "/v1/customers/"+cus, "name=x")
	r.fails(404, "DELETE", "/v1/customers/"+cus)
	r.fails(400, "POST", "/v1/subscriptions", "customer="+cus, "items[0][price]=price_pro")
	require.Empty(t, r.get("/v1/customers")["data"])
	r.fails(404, "GET", "/v1/customers/"+cus+"/balance_transactions")
	r.fails(404, "GET", "/v1/customers/"+r.customer("visa")+"/balance_transactions/x")
	r.fails(400, "GET", "/v1/payment_methods", "customer="+cus)
}

func TestMeters(t *testing.T) {
	r := newRig(t)
	m := r.post("/v1/billing/meters", "display_name=Jobs", "event_name=jobs", "default_aggregation[formula]=count", "customer_mapping[event_payload_key]=who", "customer_mapping[type]=by_id", "value_settings[event_payload_key]=n")
	r.fails(400, "POST", "/v1/billing/meters", "display_name=Jobs", "event_name=jobs", "default_aggregation[formula]=count")
	r.fails(400, "POST", "/v1/billing/meters", "display_name=Jobs", "event_name=other")
	price := text(r.post("/v1/prices", "currency=usd", "unit_amount=10", "product=prod_units", "recurring[interval]=month", "recurring[usage_type]=metered", "recurring[meter]="+text(m, "id")), "id")
	cus := r.customer("visa")
	r.subscribe(cus, price)
	for i := range 3 {
		r.post("/v1/billing/meter_events", "event_name=jobs", "payload[who]="+cus, "payload[n]=50", "identifier=i"+itoa(i))
	}
	for _, wrong := range [][]string{
		{"event_name=none", "payload[who]=" + cus}, {"event_name=jobs", "payload[who]=cus_none", "payload[n]=1"}, {"event_name=jobs", "payload[who]=" + cus, "payload[n]=1.5"},
		{"event_name=jobs", "payload[who]=" + cus, "payload[n]=1", "timestamp=5"}, {"event_name=jobs"},
	} {
		r.fails(400, "POST", "/v1/billing/meter_events", wrong...)
	}
	r.advance(30 * day)
	require.EqualValues(t, 30, r.sim.Collected(cus)["usd"], "three events of ten")
	r.post("/v1/billing/meters/" + text(m, "id") + "/deactivate")
	r.fails(400, "POST", "/v1/billing/meter_events", "event_name=jobs", "payload[who]="+cus, "payload[n]=1")
	require.Len(t, r.get("/v1/billing/meters", "status=inactive")["data"], 1)
	r.post("/v1/billing/meters/" + text(m, "id") + "/reactivate")
	r.post("/v1/billing/meters/"+text(m, "id"), "display_name=Tasks")

	// Other ways to count usage records.
	for aggregate, want := range map[string]int64{"max": 9, "last_during_period": 4, "last_ever": 4} {
		p := text(r.post("/v1/prices", "currency=usd", "unit_amount=100", "product=prod_units", "recurring[interval]=month", "recurring[usage_type]=metered", "recurring[aggregate_usage]="+aggregate), "id")
		who := r.customer("visa")
		it := text(r.subscribe(who, p), "items", "data", 0, "id")
		r.post("/v1/subscription_items/"+it+"/usage_records", "quantity=9", "timestamp=now")
		r.advance(3600e9)
		r.post("/v1/subscription_items/"+it+"/usage_records", "quantity=4", "timestamp=now")
		r.fails(400, "POST", "/v1/subscription_items/"+it+"/usage_records", "quantity=-4")
		r.advance(35 * day)
		require.Equal(t, want*100, r.sim.Collected(who)["usd"], aggregate)
	}
	it := text(r.subscribe(r.customer("visa"), "price_pro"), "items", "data", 0, "id")
	r.fails(400, "POST", "/v1/subscription_items/"+it+"/usage_records", "quantity=1")
	r.fails(400, "GET", "/v1/subscription_items/"+it+"/usage_record_summaries")
	require.Equal(t, it, text(r.get("/v1/subscription_items/"+it), "id"))
	used := r.subscribe(r.customer("visa"), "price_pro", "items[1][price]=price_units")
	unit := text(used, "items", "data", 1, "id")
	r.post("/v1/subscription_items/"+unit+"/usage_records", "quantity=1", "timestamp=now")
	r.advance(60e9)
	r.fails(400, "POST", "/v1/subscriptions/"+text(used, "id"), "items[0][id]="+unit, "items[0][deleted]=true")
	r.post("/v1/subscriptions/"+text(used, "id"), "items[0][id]="+unit, "items[0][deleted]=true", "items[0][clear_usage]=true")
	r.fails(400, "POST", "/v1/subscriptions/"+text(used, "id"), "items[0][id]="+unit, "items[0][quantity]=1")
	r.fails(400, "POST", "/v1/subscriptions/"+text(used, "id"), "items[0][deleted]=true")
	r.fails(400, "POST", "/v1/subscriptions/"+text(used, "id"), "items[0][quantity]=1")
}

func TestUpdateMistakesAreRefused(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	id := text(r.subscribe(cus, "price_pro"), "id")
	for param, fields := range map[string][]string{
		"proration_date": {"proration_date=5"}, "trial_end": {"trial_end=5"}, "cancel_at": {"cancel_at=5"}, "default_payment_method": {"default_payment_method=pm_none"},
		"pause_collection[behavior]": {"pause_collection[resumes_at]=1900000000"}, "cancel_at ": {"cancel_at=1900000000", "cancel_at_period_end=true"},
		"coupon": {"coupon=NONE"}, "default_payment_method ": {"default_payment_method=" + text(r.post("/v1/payment_methods", "type=card", "card[token]=tok_visa"), "id")},
	} {
		e := r.fails(400, "POST", "/v1/subscriptions/"+id, fields...)
		require.Equal(t, trimSpaces(param), text(e, "param"), "%v", fields)
	}
	r.fails(404, "POST", "/v1/subscriptions/sub_none", "metadata[a]=b")
	r.fails(400, "POST", "/v1/subscriptions/"+id+"/resume")
	waiting := text(r.subscribe(cus, "price_business", "payment_behavior=default_incomplete"), "id")
	r.fails(400, "POST", "/v1/subscriptions/"+waiting, "trial_end=now")
	r.post("/v1/subscriptions/"+waiting, "metadata[a]=b", "description=d", "default_payment_method=", "trial_settings[end_behavior][missing_payment_method]=cancel",
		"payment_settings[save_default_payment_method]=on_subscription", "payment_settings[payment_method_types][0]=card", "cancellation_details[feedback]=unused")
	require.Equal(t, "canceled", text(r.ok("DELETE", "/v1/subscriptions/"+waiting, "cancellation_details[feedback]=other", "cancellation_details[comment]=c"), "status"))
	at := r.sim.Now().Add(5 * day).Unix()
	require.Equal(t, at, number(r.post("/v1/subscriptions/"+id, "cancel_at="+itoa(int(at))), "cancel_at"))
	require.Nil(t, r.post("/v1/subscriptions/"+id, "cancel_at=")["cancel_at"])
	fresh := r.post("/v1/subscriptions/"+id, "billing_cycle_anchor=now", "proration_behavior=none")
	require.Equal(t, "active", text(fresh, "status"))
	require.EqualValues(t, 2*999, r.sim.Collected(cus)["usd"])
	require.Len(t, r.get("/v1/subscriptions", "price=price_pro", "status=active")["data"], 1)
	require.Len(t, r.get("/v1/subscriptions", "status=ended")["data"], 1)
	require.Len(t, r.get("/v1/subscriptions")["data"], 1)
	extra := r.post("/v1/subscriptions/"+id, "add_invoice_items[0][price]=price_setup", "proration_behavior=always_invoice", "expand[0]=latest_invoice")
	require.EqualValues(t, 5000, number(extra, "latest_invoice", "total"))
}
