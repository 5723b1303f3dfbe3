package billingstripe

import (
	"context"
	"time"

	"github.com/kolekt/commerce/billing"
)

// SetSleep replaces the waits between attempts.
func SetSleep(g *Gateway, sleep func(context.Context, time.Duration) error) { g.sleep = sleep }

// SetSecret replaces the webhook secrets, unchecked.
func SetSecret(g *Gateway, secret string) { g.webhookSecrets = [][]byte{[]byte(secret)} }

// Sleep waits between attempts.
var Sleep = sleep

// ToStripe is an amount as the API takes it.
var ToStripe = toStripe

// ParseSignature is the parser of the header, for fuzzing.
func ParseSignature(header string) (stamp string, signatures int, err error) {
	s, err := parseSignature(header)
	return s.stamp, len(s.v1), err
}

// DecodeInvoice decodes an invoice alone.
func DecodeInvoice(body []byte) (billing.Invoice, error) {
	n, err := parse(body)
	if err != nil {
		return billing.Invoice{}, err
	}
	return decodeInvoice(n), n.doc.err
}
