package billingstripe

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kolekt/commerce/billing"
)

const (
	// signatureHeader carries "t=<seconds>,v1=<hex>[,v1=<hex>…]".
	signatureHeader = "Stripe-Signature"
	// maxSignatureHeader is far above what Stripe sends, about a hundred bytes
	// for each secret in use, and keeps a header of many signatures from
	// costing anything.
	maxSignatureHeader = 4 << 10
	maxSignatures      = 16
)

// signature is a parsed header.
type signature struct {
	at time.Time
	// stamp is the timestamp as it was written: the text that was signed.
	stamp string
	v1    [][sha256.Size]byte
}

// parseSignature reads the header. Schemes other than v1 are skipped, as
// Stripe asks for, so that a v0 can't stand in for a v1.
func parseSignature(header string) (signature, error) {
	var s signature
	if header == "" {
		return s, refused("the request has no %s header", signatureHeader)
	}
	if len(header) > maxSignatureHeader {
		return s, refused("the %s header has %d bytes", signatureHeader, len(header))
	}
	for part := range strings.SplitSeq(header, ",") {
		scheme, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return s, refused("the %s header is malformed", signatureHeader)
		}
		switch scheme {
		case "t":
			if s.stamp != "" {
				return s, refused("the %s header has two timestamps", signatureHeader)
			}
			seconds, err := strconv.ParseUint(value, 10, 40)
			if err != nil {
				return s, refused("the timestamp in the %s header is malformed", signatureHeader)
			}
			s.stamp, s.at = value, time.Unix(int64(seconds), 0)
		case "v1":
			if len(s.v1) == maxSignatures {
				return s, refused("the %s header has more than %d signatures", signatureHeader, maxSignatures)
			}
			var mac [sha256.Size]byte
			if len(value) != hex.EncodedLen(len(mac)) {
				continue
			}
			if _, err := hex.Decode(mac[:], []byte(value)); err != nil {
				continue
			}
			s.v1 = append(s.v1, mac)
		}
	}
	if s.stamp == "" {
		return s, refused("the %s header has no timestamp", signatureHeader)
	}
	if len(s.v1) == 0 {
		return s, refused("the %s header has no v1 signature", signatureHeader)
	}
	return s, nil
}

// verify checks the signature of a body. It looks at the time first, because
// that is free, and then compares in constant time against every secret.
func (g *Gateway) verify(header http.Header, body []byte) error {
	lines := header.Values(signatureHeader)
	if len(lines) > 1 {
		return refused("the request has %d %s headers", len(lines), signatureHeader)
	}
	s, err := parseSignature(strings.Join(lines, ""))
	if err != nil {
		return err
	}
	// Both sides: a timestamp of the future would stay good, and so
	// replayable, until it has passed.
	if age := g.now().Sub(s.at); age > g.tolerance || age < -g.tolerance {
		return refused("it was signed %s from now, more than %s: is the clock right?", age.Round(time.Second), g.tolerance)
	}
	matched := 0
	for _, secret := range g.webhookSecrets {
		if len(secret) == 0 { // New refuses these; an empty key is one that anybody has
			continue
		}
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(s.stamp))
		mac.Write([]byte("."))
		mac.Write(body)
		want := mac.Sum(nil)
		for _, got := range s.v1 {
			if hmac.Equal(want, got[:]) {
				matched++
			}
		}
	}
	if matched == 0 {
		return refused("no signature matches one of the %d webhook secrets", len(g.webhookSecrets))
	}
	return nil
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", billing.ErrSignature, fmt.Sprintf(format, args...))
}
