// Package billingstripe is [billing.Gateway] on Stripe.
//
//	gateway, err := billingstripe.New(billingstripe.Config{
//		SecretKey:      os.Getenv("STRIPE_SECRET_KEY"),
//		WebhookSecrets: []string{os.Getenv("STRIPE_WEBHOOK_SECRET")},
//	})
//
// # Requests
//
// Requests are those of API version 2023-10-16, made by stripe-go v76 with a
// backend of the gateway's own: nothing process-wide is read or set, nothing is
// printed, and no telemetry is sent. A request that fails in a passing way is
// sent again with the same idempotency key; a wait ends with the context.
//
// Every error is a [billing.GatewayError]. A write whose answer was lost, such
// as by a time-out or a proxy's error page, is [billing.ErrUnknownOutcome] and
// keeps being so whatever later attempts meet: sent again with the same key,
// within 24 hours, it has no second effect. [billing.ErrUnavailable] is said
// only when nothing can have happened. Keys and mail addresses are taken out
// of Stripe's messages.
//
// # Answers and events
//
// What comes back is decoded here and not by stripe-go, whose structs know one
// API version and read others, without an error, as zeros: an event comes in
// the version of its webhook endpoint, which is often the account's newest.
// The decoder reads 2023-10-16 up to dahlia (2026): fields that moved, IDs
// where objects were, objects where IDs were, amounts as text. Statuses and
// other words that it doesn't know are kept as they came. A value that is
// there and can't be read is never zero: an answer is an error, and an event
// comes without its object but with CustomerID, whose state can be fetched.
// What a version leaves out stays out: since basil, the invoice of an event has
// its discounts as IDs, and no payments.
//
// Amounts are in the minor unit of ISO 4217, also where Stripe's API counts
// differently (ISK, UGX, MGA).
//
// # Catalogue
//
// [Gateway.PlanCatalog] compares a catalogue with the products and prices that
// Stripe has and shows the difference; [Gateway.ApplyCatalog] makes it so.
//
// # Signatures
//
// [Gateway.Verify] needs one matching v1 signature among several secrets, in
// constant time, over the exact bytes, made within Config.Tolerance of now in
// either direction. No secret can be empty. The header's size and number of
// signatures are bounded, and so is the body's, before any of it is hashed.
// Events of the other mode, or of a connected account, are refused.
package billingstripe
