// Package simcheck holds the proof that stripesim speaks Stripe's language:
// every response of every endpoint is checked against the OpenAPI description
// that stripe-mock embeds.
package simcheck
