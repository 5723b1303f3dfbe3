// Package stripesim is a stateful Stripe in memory: the API, a checkout page,
// a customer portal, signed webhooks, a clock that can be moved, and faults on
// demand. It lets a program take its first payment without an account, a
// tunnel or a network, and lets a test see a year of billing in a second.
//
// The application needs no change. It is given another base URL, and keys that
// aren't real:
//
//	sim, err := stripesim.New(stripesim.Config{
//		BaseURL:   "http://localhost:8000/stripe",
//		Products:  []stripesim.Product{{Name: "Pro", Prices: []stripesim.Price{{LookupKey: "pro_monthly", UnitAmount: 999}}}},
//		Endpoints: []stripesim.Endpoint{{Handler: webhook, Secret: "whsec_dev"}},
//	})
//	if err != nil {
//		return err
//	}
//	mux.Handle("/stripe/", sim.Handler())
//	go sim.Run(ctx) // renewals come also while nobody asks
//	// The Stripe client: URL "http://localhost:8000/stripe", key stripesim.DefaultSecretKey, clock sim.Now.
//
// A test takes [NewServer], which listens on a free port, and a Config with a
// Start: the clock then stands until [Simulator.Advance] moves it.
//
// # What it promises
//
// What the simulator does, it does as Stripe does. What it lacks, it refuses:
// an endpoint, a parameter or an expansion that isn't simulated is answered
// with 501 and its name, and has no effect. It never makes up an answer. A live
// key is refused, in the configuration and in a request.
//
// Amounts are integers, prorations are to the second, months are counted from
// the anchor and clamped, and every movement of money is in
// [Simulator.Ledger], so that an application's own books can be compared with
// it to the cent. Nothing is lost but by a fault that was asked for, and
// nothing survives the process: all state is in memory, and identifiers are
// random unless Config.Seed is set.
//
// All methods are safe for concurrent use. One request runs at a time. Each
// endpoint's events go out one after the other, in the order in which they
// happened, from a goroutine that lives while there is something to deliver; a
// delivery that fails is tried again after growing waits on the simulator's
// clock. [Simulator.Settle] waits until all is delivered; don't call it, or
// Advance, from within a webhook's handler.
//
// # Cards
//
// Stripe's test cards work on the pages, by number, and in the API as
// pm_card_… and tok_…: 4242 4242 4242 4242 pays; 4000 0000 0000 0002 is
// declined, …9995 for lack of funds, …9987 as lost, …9979 as stolen, …0069 as
// expired, …0127 for its code, …0119 by an error; 4000 0000 0000 0341 can be
// saved and is declined when charged; 4000 0025 0000 3155 asks for 3-D Secure
// once, 4000 0027 6000 3184 each time, on a page that stands in for the bank.
//
// # Versions
//
// Requests are answered in the version of their Stripe-Version header, and
// events are rendered in their endpoint's: those of [Versions]. Endpoints and
// parameters that a version took away are gone in it. Subscriptions are always
// of the classic billing mode.
//
// # Differences
//
// Billing: charges are collected automatically; there is no tax, no fee, no
// minimum charge, one currency for each customer. Tiers are graduated. A
// schedule has what there is until the period ends and what comes then; a
// subscription that has one takes no other items until it is released. An
// update that would stay pending for want of a payment is 501. A coupon for one
// invoice leaves its subscription with the next renewal. Prorations of a
// discounted item are of what it cost after the discount. Retries follow
// Config.Dunning; a card that can't get better by waiting isn't charged again
// until there is another. A renewal's invoice is a draft for one hour. An
// upcoming invoice is announced three days before. previous_attributes has
// each changed field whole.
//
// Checkout makes the subscription when the payment succeeds: a declined card
// leaves nothing behind. The portal offers what Config.Portal says.
//
// # Endpoints
//
// [Coverage] has the same table with every parameter.
//
//	POST   /v1/customers
//	GET    /v1/customers
//	GET    /v1/customers/search                                        email, name and metadata; finds at once what Stripe finds after up to a minute
//	GET    /v1/customers/{id}
//	POST   /v1/customers/{id}
//	DELETE /v1/customers/{id}
//	DELETE /v1/customers/{id}/discount
//	POST   /v1/customers/{id}/balance_transactions                     one balance, in one currency
//	GET    /v1/customers/{id}/balance_transactions
//	GET    /v1/customers/{id}/balance_transactions/{transaction}
//	GET    /v1/customers/{id}/payment_methods                          cards only
//	GET    /v1/customers/{id}/subscriptions
//	POST   /v1/products
//	GET    /v1/products
//	GET    /v1/products/{id}
//	POST   /v1/products/{id}
//	DELETE /v1/products/{id}
//	POST   /v1/prices                                                  tiers graduated only, no transformed quantities, one currency
//	GET    /v1/prices
//	GET    /v1/prices/{id}
//	POST   /v1/prices/{id}
//	POST   /v1/coupons                                                 one currency
//	GET    /v1/coupons
//	GET    /v1/coupons/{id}
//	POST   /v1/coupons/{id}
//	DELETE /v1/coupons/{id}
//	POST   /v1/promotion_codes                                         no minimum amounts
//	GET    /v1/promotion_codes
//	GET    /v1/promotion_codes/{id}
//	POST   /v1/promotion_codes/{id}
//	POST   /v1/payment_methods                                         test cards only
//	GET    /v1/payment_methods
//	GET    /v1/payment_methods/{id}
//	POST   /v1/payment_methods/{id}
//	POST   /v1/payment_methods/{id}/attach
//	POST   /v1/payment_methods/{id}/detach
//	POST   /v1/payment_intents                                         cards; captured at once
//	GET    /v1/payment_intents
//	GET    /v1/payment_intents/{id}
//	POST   /v1/payment_intents/{id}
//	POST   /v1/payment_intents/{id}/confirm                            3-D Secure is a page of the simulator
//	POST   /v1/payment_intents/{id}/cancel
//	POST   /v1/setup_intents
//	GET    /v1/setup_intents
//	GET    /v1/setup_intents/{id}
//	POST   /v1/setup_intents/{id}/confirm
//	POST   /v1/setup_intents/{id}/cancel
//	GET    /v1/charges                                                 no balance transactions, no fees
//	GET    /v1/charges/{id}
//	POST   /v1/refunds                                                 succeeds at once
//	GET    /v1/refunds
//	GET    /v1/refunds/{id}
//	POST   /v1/refunds/{id}
//	POST   /v1/credit_notes                                            no tax; a discount is not split out
//	GET    /v1/credit_notes
//	GET    /v1/credit_notes/preview
//	GET    /v1/credit_notes/{id}
//	POST   /v1/credit_notes/{id}
//	POST   /v1/credit_notes/{id}/void
//	GET    /v1/credit_notes/{id}/lines
//	GET    /v1/disputes                                                made by Simulator.Dispute
//	GET    /v1/disputes/{id}
//	POST   /v1/disputes/{id}/close
//	POST   /v1/checkout/sessions                                       hosted page; the subscription is made when the payment succeeds, not before
//	GET    /v1/checkout/sessions
//	GET    /v1/checkout/sessions/{id}
//	GET    /v1/checkout/sessions/{id}/line_items
//	POST   /v1/checkout/sessions/{id}/expire
//	POST   /v1/billing_portal/sessions                                 what it offers is in Config.Portal
//	POST   /v1/subscriptions                                           charged automatically; no backdating
//	GET    /v1/subscriptions
//	GET    /v1/subscriptions/{id}
//	POST   /v1/subscriptions/{id}                                      pending updates only where the payment succeeds
//	DELETE /v1/subscriptions/{id}
//	POST   /v1/subscriptions/{id}/resume
//	DELETE /v1/subscriptions/{id}/discount
//	POST   /v1/subscription_schedules                                  of a subscription that exists
//	GET    /v1/subscription_schedules
//	GET    /v1/subscription_schedules/{id}
//	POST   /v1/subscription_schedules/{id}                             two phases: what there is until the period ends, and what comes then
//	POST   /v1/subscription_schedules/{id}/release
//	GET    /v1/subscription_items
//	GET    /v1/subscription_items/{id}
//	POST   /v1/subscription_items/{id}/usage_records
//	GET    /v1/subscription_items/{id}/usage_record_summaries
//	POST   /v1/invoices
//	GET    /v1/invoices                                                no tax
//	GET    /v1/invoices/upcoming                                       of an existing subscription
//	GET    /v1/invoices/upcoming/lines
//	POST   /v1/invoices/create_preview
//	GET    /v1/invoices/{id}
//	POST   /v1/invoices/{id}
//	DELETE /v1/invoices/{id}
//	GET    /v1/invoices/{id}/lines
//	POST   /v1/invoices/{id}/finalize
//	POST   /v1/invoices/{id}/pay
//	POST   /v1/invoices/{id}/void
//	POST   /v1/invoices/{id}/mark_uncollectible
//	POST   /v1/invoiceitems
//	GET    /v1/invoiceitems
//	GET    /v1/invoiceitems/{id}
//	DELETE /v1/invoiceitems/{id}
//	POST   /v1/billing/meters
//	GET    /v1/billing/meters
//	GET    /v1/billing/meters/{id}/event_summaries                     one for the whole range
//	GET    /v1/billing/meters/{id}
//	POST   /v1/billing/meters/{id}
//	POST   /v1/billing/meters/{id}/deactivate
//	POST   /v1/billing/meters/{id}/reactivate
//	POST   /v1/billing/meter_events                                    counts at once; integers only
//	GET    /v1/events                                                  30 days, in the API version of the account
//	GET    /v1/events/{id}
//	POST   /v1/webhook_endpoints
//	GET    /v1/webhook_endpoints
//	GET    /v1/webhook_endpoints/{id}
//	POST   /v1/webhook_endpoints/{id}
//	DELETE /v1/webhook_endpoints/{id}
//	POST   /v1/test_helpers/test_clocks
//	GET    /v1/test_helpers/test_clocks
//	GET    /v1/test_helpers/test_clocks/{id}
//	POST   /v1/test_helpers/test_clocks/{id}/advance                   is done when it answers
//	DELETE /v1/test_helpers/test_clocks/{id}
package stripesim
