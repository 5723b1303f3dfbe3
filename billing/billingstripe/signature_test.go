package billingstripe_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

const smallEvent = `{"id":"evt_1","object":"event","type":"ping","created":1764000000,"livemode":false}`

func sign(secret string, at time.Time, body string) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "." + body))
	return hex.EncodeToString(mac.Sum(nil))
}

func header(at time.Time, signatures ...string) http.Header {
	parts := append([]string{"t=" + strconv.FormatInt(at.Unix(), 10)}, signatures...)
	return http.Header{"Stripe-Signature": {strings.Join(parts, ",v1=")}}
}

func TestSignedEventsAreAccepted(t *testing.T) {
	g := newGateway(t, func(c *billingstripe.Config) { c.WebhookSecrets = []string{"whsec_new\n", "whsec_old"} })
	good := func(secret string) string { return sign(secret, clock, smallEvent) }
	for name, h := range map[string]http.Header{
		"by the first secret":           header(clock, good("whsec_new")),
		"by the second secret":          header(clock, good("whsec_old")),
		"among signatures of others":    header(clock, good("x"), strings.Repeat("0", 64), "zz", good("whsec_old")),
		"with other schemes and spaces": {"Stripe-Signature": {" v0=00, t=" + strconv.FormatInt(clock.Unix(), 10) + " , v1=" + good("whsec_new") + ",v9=1"}},
		"in upper-case hex":             header(clock, strings.ToUpper(good("whsec_new"))),
		"five minutes ago":              header(clock.Add(-5*time.Minute), sign("whsec_new", clock.Add(-5*time.Minute), smallEvent)),
		"five minutes ahead":            header(clock.Add(5*time.Minute), sign("whsec_new", clock.Add(5*time.Minute), smallEvent)),
	} {
		t.Run(name, func(t *testing.T) {
			event, err := g.Verify(h, []byte(smallEvent))
			require.NoError(t, err)
			assert.Equal(t, "evt_1", event.ID)
			assert.True(t, bytes.Equal([]byte(smallEvent), event.Raw), "the bytes as they came")
		})
	}
}

// TestForgedWebhooksAreRefused is the list of what an attacker without a
// secret can try.
func TestForgedWebhooksAreRefused(t *testing.T) {
	g := newGateway(t, nil)
	good := sign(testSecret, clock, smallEvent)
	stamp := "t=" + strconv.FormatInt(clock.Unix(), 10)
	raw := func(value string) http.Header { return http.Header{"Stripe-Signature": {value}} }
	tests := map[string]http.Header{
		"no header":                    {},
		"empty header":                 raw(""),
		"wrong secret":                 header(clock, sign("whsec_other", clock, smallEvent)),
		"empty secret":                 header(clock, sign("", clock, smallEvent)),
		"secret with a newline":        header(clock, sign(testSecret+"\n", clock, smallEvent)),
		"no v1":                        raw(stamp),
		"empty v1":                     raw(stamp + ",v1="),
		"good signature as v0":         raw(stamp + ",v0=" + good),
		"truncated signature":          header(clock, good[:62]),
		"lengthened signature":         header(clock, good+"00"),
		"no timestamp":                 raw("v1=" + good),
		"two timestamps":               raw(stamp + "," + stamp + ",v1=" + good),
		"negative timestamp":           raw("t=-1,v1=" + sign(testSecret, time.Unix(-1, 0), smallEvent)),
		"enormous timestamp":           raw("t=99999999999999999999,v1=" + good),
		"ten minutes ago":              header(clock.Add(-10*time.Minute), sign(testSecret, clock.Add(-10*time.Minute), smallEvent)),
		"ten minutes ahead":            header(clock.Add(10*time.Minute), sign(testSecret, clock.Add(10*time.Minute), smallEvent)),
		"ten years ahead":              header(clock.AddDate(10, 0, 0), sign(testSecret, clock.AddDate(10, 0, 0), smallEvent)),
		"a second past the tolerance":  header(clock.Add(-301*time.Second), sign(testSecret, clock.Add(-301*time.Second), smallEvent)),
		"timestamp of another request": header(clock.Add(time.Second), good),
		"two headers":                  {"Stripe-Signature": {stamp + ",v1=" + good, stamp + ",v1=" + good}},
		"50,000 signatures":            header(clock, strings.Split(strings.Repeat(good[1:]+"0,", 50_000), ",")...),
		"50,000 and the good one":      header(clock, append(strings.Split(strings.Repeat(good[1:]+"0,", 50_000), ","), good)...),
		"50,000 commas":                raw(stamp + strings.Repeat(",", 50_000) + "v1=" + good),
		"a header of 5 kB":             raw(stamp + ",v1=" + good + ",v9=" + strings.Repeat("0", 5000)),
		"17 signatures":                header(clock, append(strings.Split(strings.Repeat(good[1:]+"0,", 16), ","), good)...),
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			event, err := g.Verify(h, []byte(smallEvent))
			require.ErrorIs(t, err, billing.ErrSignature)
			assert.Empty(t, event)
			assert.NotContains(t, err.Error(), testSecret)
			assert.NotContains(t, err.Error(), good)
		})
	}
	t.Run("one bit flipped at each offset", func(t *testing.T) {
		h := header(clock, good)
		body := []byte(smallEvent)
		for i := range len(body) * 8 {
			body[i/8] ^= 1 << (i % 8)
			_, err := g.Verify(h, body)
			require.ErrorIs(t, err, billing.ErrSignature, "bit %d of the body", i)
			body[i/8] ^= 1 << (i % 8)
		}
		value := []byte(h.Get("Stripe-Signature"))
		for i := range len(value) * 8 {
			flipped := append([]byte(nil), value...)
			flipped[i/8] ^= 1 << (i % 8)
			if strings.EqualFold(string(flipped), string(value)) {
				continue // the same hex digit in the other case
			}
			_, err := g.Verify(raw(string(flipped)), body)
			require.ErrorIs(t, err, billing.ErrSignature, "bit %d of the header", i)
		}
		_, err := g.Verify(h, body)
		require.NoError(t, err, "the control: unchanged, it is accepted")
	})
	t.Run("a body of 10 MB", func(t *testing.T) {
		body := smallEvent + strings.Repeat(" ", 10<<20)
		_, err := g.Verify(header(clock, sign("whsec_other", clock, "")), []byte(body))
		require.ErrorIs(t, err, billing.ErrPayload)
		_, err = g.Verify(header(clock, sign(testSecret, clock, body)), []byte(body))
		require.ErrorIs(t, err, billing.ErrPayload, "signed as well: nobody reads more than MaxBody")
	})
}

func TestSignedEventsOfOthersAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ key, body string }{
		"live event, test key":    {"sk_test_1", `{"id":"evt_1","object":"event","type":"x","livemode":true}`},
		"test event, live key":    {"rk_live_1", `{"id":"evt_1","object":"event","type":"x","livemode":false}`},
		"thin event of the other": {"sk_test_1", `{"id":"evt_1","object":"v2.core.event","type":"x","livemode":true}`},
		"connected account":       {"sk_test_1", `{"id":"evt_1","object":"event","type":"x","livemode":false,"account":"acct_1"}`},
		"no event":                {"sk_test_1", `{"id":"evt_1","object":"invoice","livemode":false}`},
		"no JSON":                 {"sk_test_1", `hello`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, func(config *billingstripe.Config) { config.SecretKey = c.key })
			_, err := g.Verify(header(clock, sign(testSecret, clock, c.body)), []byte(c.body))
			require.ErrorIs(t, err, billing.ErrPayload)
		})
	}
}

func TestNoSecretMeansNoEvent(t *testing.T) {
	for _, secrets := range [][]string{{""}, {"whsec_1", ""}, {"\n"}} {
		_, err := billingstripe.New(billingstripe.Config{SecretKey: "sk_test_1", WebhookSecrets: secrets})
		require.ErrorContains(t, err, "WebhookSecrets")
	}
	g := newGateway(t, func(c *billingstripe.Config) { c.WebhookSecrets = nil })
	_, err := g.Verify(header(clock, sign("", clock, smallEvent)), []byte(smallEvent))
	require.ErrorIs(t, err, billing.ErrSignature)

	// Each request looks again, whatever New let through.
	g = newGateway(t, nil)
	billingstripe.SetSecret(g, "")
	_, err = g.Verify(header(clock, sign("", clock, smallEvent)), []byte(smallEvent))
	require.ErrorIs(t, err, billing.ErrSignature)
}

func TestConfigIsChecked(t *testing.T) {
	for name, config := range map[string]billingstripe.Config{
		"no key":                   {},
		"publishable key":          {SecretKey: "pk_test_1"},
		"key of no mode":           {SecretKey: "sk_1"},
		"negative timeout":         {SecretKey: "sk_test_1", Timeout: -1},
		"negative tolerance":       {SecretKey: "sk_test_1", Tolerance: -1},
		"no URL":                   {SecretKey: "sk_test_1", URL: "localhost:12111"},
		"live key in the clear":    {SecretKey: "sk_live_1", URL: "http://127.0.0.1:12111"},
		"password in the URL":      {SecretKey: "sk_test_1", URL: "http://a:b@127.0.0.1"},
		"another scheme":           {SecretKey: "sk_test_1", URL: "ftp://127.0.0.1"},
		"query that would be lost": {SecretKey: "sk_test_1", URL: "http://127.0.0.1/?a=b"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := billingstripe.New(config)
			require.ErrorContains(t, err, "billingstripe: Config.")
		})
	}
	for key, live := range map[string]bool{"sk_test_a1": false, "rk_test_a": false, "sk_live_a": true, "rk_live_a\n": true, "sk_org_live_a": true} {
		g, err := billingstripe.New(billingstripe.Config{SecretKey: key})
		require.NoError(t, err)
		assert.Equal(t, live, g.Livemode(), key)
	}
}

func FuzzSignature(f *testing.F) {
	g := newGateway(f, nil)
	good := sign(testSecret, clock, smallEvent)
	stamp := "t=" + strconv.FormatInt(clock.Unix(), 10)
	f.Add(stamp + ",v1=" + good)
	f.Add(stamp + ",v1=,v1=zz,v0=" + good)
	f.Add("t=1,t=2,v1=" + good)
	f.Add(",=,v1,t=,")
	f.Fuzz(func(t *testing.T, value string) {
		_, signatures, err := billingstripe.ParseSignature(value)
		if err != nil {
			require.ErrorIs(t, err, billing.ErrSignature)
		} else {
			require.LessOrEqual(t, signatures, 16)
			require.LessOrEqual(t, len(value), 4096)
		}
		_, err = g.Verify(http.Header{"Stripe-Signature": {value}}, []byte(smallEvent))
		if err == nil { // only with the one good signature
			require.Contains(t, strings.ToLower(value), good)
		} else {
			require.ErrorIs(t, err, billing.ErrSignature)
		}
	})
}
