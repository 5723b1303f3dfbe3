package billingstripe

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/kolekt/commerce/billing/billingstripe"
)

const secret = "whsec_bench"

func sign(at time.Time, secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func header(at time.Time, signatures ...string) string {
	return strings.Join(append([]string{"t=" + strconv.FormatInt(at.Unix(), 10)}, signatures...), ",v1=")
}

// event is a subscription's event of about the size of Stripe's, 4 kB.
func event() []byte {
	items := []any{}
	for range 4 {
		items = append(items, map[string]any{
			"id": "si_123456789012", "object": "subscription_item", "quantity": 3,
			"price": map[string]any{
				"id": "price_123456789012", "object": "price", "currency": "usd", "unit_amount": 999, "unit_amount_decimal": "999", "active": true,
				"lookup_key": "pro_month_usd", "product": "prod_1234567890", "recurring": map[string]any{"interval": "month", "interval_count": 1, "usage_type": "licensed"},
			},
		})
	}
	body, _ := json.Marshal(map[string]any{
		"id": "evt_1", "object": "event", "type": "customer.subscription.updated", "created": 1764000000, "livemode": false, "api_version": "2023-10-16",
		"data": map[string]any{"object": map[string]any{
			"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "current_period_start": 1764000000, "current_period_end": 1766000000,
			"items": map[string]any{"object": "list", "data": items, "has_more": false}, "metadata": map[string]any{"commerce_account": "acc_1"},
			"description": strings.Repeat("x", 1500),
		}},
	})
	return body
}

func TestForgedWebhooks(t *testing.T) {
	g, err := billingstripe.New(billingstripe.Config{SecretKey: "sk_test_1", WebhookSecrets: []string{secret}})
	require.NoError(t, err)
	now := time.Now()
	small := event()
	big := append(slices.Clone(small), []byte(strings.Repeat(" ", 10<<20))...)
	bad := sign(now, "other", small)
	many := strings.Split(strings.Repeat(bad+",", 50_000), ",")
	flipped := slices.Clone(small)
	flipped[len(flipped)/2] ^= 1
	good := header(now, sign(now, secret, small))
	for _, c := range []struct {
		name   string
		header string
		body   []byte
		ok     bool
	}{
		{"good event (control)", good, small, true},
		{"wrong secret", header(now, bad), small, false},
		{"empty secret", header(now, sign(now, "", small)), small, false},
		{"no v1", header(now), small, false},
		{"50,000 signatures", header(now, many...), small, false},
		{"one bit flipped", good, flipped, false},
		{"ten minutes ahead", header(now.Add(10*time.Minute), sign(now.Add(10*time.Minute), secret, small)), small, false},
		{"ten minutes ago", header(now.Add(-10*time.Minute), sign(now.Add(-10*time.Minute), secret, small)), small, false},
		{"body of 10 MB", header(now, bad), big, false},
	} {
		h := http.Header{"Stripe-Signature": {c.header}}
		contenders := []struct {
			name string
			run  func() error
		}{
			{"floor", func() error { sign(now, secret, c.body); return nil }},
			{"stripe-go", func() error {
				_, err := webhook.ConstructEventWithOptions(c.body, c.header, secret, webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
				return err
			}},
			{"ours", func() error { _, err := g.Verify(h, c.body); return err }},
		}
		const rounds = 41
		times := make([][]time.Duration, len(contenders))
		var outcome [3]error
		for range rounds {
			for i, contender := range contenders {
				began := time.Now()
				outcome[i] = contender.run()
				times[i] = append(times[i], time.Since(began))
			}
		}
		require.Equal(t, c.ok, outcome[2] == nil, "%s: %v", c.name, outcome[2])
		for i := range times {
			slices.Sort(times[i])
		}
		verdict := "refused"
		if outcome[1] == nil {
			verdict = "accepted"
		}
		t.Logf("%-21s ours median %9s best %9s worst %9s | stripe-go %-8s median %9s (%.2f×) | one HMAC median %9s (%.2f×)",
			c.name, times[2][rounds/2], times[2][0], times[2][rounds-1], verdict, times[1][rounds/2], ratio(times[2], times[1]), times[0][rounds/2], ratio(times[2], times[0]))
	}
}

// ratio is that of the medians.
func ratio(a, b []time.Duration) float64 { return float64(a[len(a)/2]) / float64(b[len(b)/2]) }

// BenchmarkVerify is a good event, whole: signature and decoding.
func BenchmarkVerify(b *testing.B) {
	g, err := billingstripe.New(billingstripe.Config{SecretKey: "sk_test_1", WebhookSecrets: []string{secret}})
	require.NoError(b, err)
	body, now := event(), time.Now()
	value := header(now, sign(now, secret, body))
	h := http.Header{"Stripe-Signature": {value}}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if event, err := g.Verify(h, body); err != nil || event.Subscription == nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stripe-go", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			event, err := webhook.ConstructEvent(body, value, secret)
			if err != nil {
				b.Fatal(err)
			}
			var s stripe.Subscription
			if err := json.Unmarshal(event.Data.Raw, &s); err != nil {
				b.Fatal(err)
			}
		}
	})
}
