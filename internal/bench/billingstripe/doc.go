// Package billingstripe measures what a webhook request costs that is forged,
// and one that isn't, beside stripe-go's own check and the bare floor: one
// HMAC-SHA256 of the body. All are interleaved in one run.
//
//	go test -run TestForgedWebhooks -v ./billingstripe
package billingstripe
