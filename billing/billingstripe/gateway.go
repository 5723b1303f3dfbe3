package billingstripe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// Config configures a Gateway. SecretKey is required, and WebhookSecrets for
// Verify; the rest has good defaults.
type Config struct {
	// SecretKey is the API key: sk_test_…, sk_live_…, or a restricted one
	// (rk_…) that may write customers, subscriptions, invoices, credit notes,
	// coupons, setup intents, checkout and portal sessions, and read prices,
	// promotion codes, payment methods, payment intents and events.
	SecretKey string
	// WebhookSecrets are the signing secrets (whsec_…) of the endpoints whose
	// events Verify accepts: more than one while a secret is being rotated.
	// An empty one is an error, for anybody can sign with it. With none, Verify
	// refuses everything.
	WebhookSecrets []string
	// UsageRecords makes ApplyCatalog bill metered prices by usage records
	// instead of meters: for accounts of before meters. Stripe took them away
	// with API version 2025-03-31.basil. Usage is reported to either kind,
	// whichever an account's price is of.
	UsageRecords bool
	// URL is the base of the API, https://api.stripe.com by default: set it to
	// reach a simulator. A live key is sent over https only.
	URL string
	// HTTPClient makes the requests; its Transport and Timeout are used, its
	// redirect policy isn't, for Stripe redirects nothing. The default is a
	// client of the gateway's own.
	HTTPClient *http.Client
	// Timeout bounds one request, 30 seconds by default. A caller's context
	// bounds a call with all of its requests.
	Timeout time.Duration
	// Retries is how often a request that failed in a passing way (connection,
	// lock, rate limit, 502 to 504) is sent again, with the same idempotency
	// key: 2 by default, none if negative. Waits begin at half a second,
	// double, and follow Retry-After up to 5 seconds; a call returns at once
	// when its context would end first.
	Retries int
	// Tolerance is how far the timestamp of a signature may lie from now, in
	// either direction: 5 minutes by default.
	Tolerance time.Duration
	// MaxBody is the size in bytes above which Verify refuses a body, 1 MiB by
	// default.
	MaxBody int64
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Logger gets a debug line for each request and a warning for each retry,
	// never with a body, a key or a parameter. The default logs nothing.
	Logger *slog.Logger
}

// Gateway is billing.Gateway on Stripe. It is safe for concurrent use, starts
// no goroutine and needs no closing.
type Gateway struct {
	backend        stripe.Backend
	traced         bool // the transport tells of connections
	key            string
	livemode       bool
	usageRecords   bool
	webhookSecrets [][]byte
	timeout        time.Duration
	retries        int
	tolerance      time.Duration
	maxBody        int64
	now            func() time.Time
	sleep          func(context.Context, time.Duration) error
	log            *slog.Logger
}

var _ billing.Gateway = (*Gateway)(nil)

var secretKey = regexp.MustCompile(`^[sr]k_[0-9A-Za-z_]*(test|live)_[0-9A-Za-z_]+$`)

// New returns a gateway. It reaches nothing: a wrong key shows at the first
// call.
func New(config Config) (*Gateway, error) {
	key := strings.TrimSpace(config.SecretKey)
	match := secretKey.FindStringSubmatch(key)
	if match == nil {
		return nil, errors.New("billingstripe: Config.SecretKey is not a Stripe secret key, such as sk_test_… or rk_live_…")
	}
	g := &Gateway{
		key:      key,
		livemode: match[1] == "live",

		usageRecords: config.UsageRecords,
		timeout:      config.Timeout,
		retries:      config.Retries,
		tolerance:    config.Tolerance,
		maxBody:      config.MaxBody,
		now:          config.Now,
		sleep:        sleep,
		log:          config.Logger,
	}
	for i, secret := range config.WebhookSecrets {
		secret = strings.TrimSpace(secret) // a file's trailing newline is no part of it
		if secret == "" {
			return nil, fmt.Errorf("billingstripe: Config.WebhookSecrets[%d] is empty: anybody could sign with it", i)
		}
		g.webhookSecrets = append(g.webhookSecrets, []byte(secret))
	}
	if g.timeout < 0 || g.tolerance < 0 || g.maxBody < 0 {
		return nil, errors.New("billingstripe: Config.Timeout, Tolerance and MaxBody must not be negative")
	}
	if g.timeout == 0 {
		g.timeout = 30 * time.Second
	}
	if g.retries == 0 {
		g.retries = 2
	}
	if g.tolerance == 0 {
		g.tolerance = 5 * time.Minute
	}
	if g.maxBody == 0 {
		g.maxBody = 1 << 20
	}
	if g.now == nil {
		g.now = time.Now
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	base, err := baseURL(config.URL, g.livemode)
	if err != nil {
		return nil, err
	}
	// A backend of our own: stripe-go's default one shares its key, client and
	// logger with the whole process, and its retries sleep through a context's
	// end.
	client, traced := httpClient(config.HTTPClient)
	g.traced = traced
	g.backend = stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL:               stripe.String(base),
		HTTPClient:        client,
		MaxNetworkRetries: stripe.Int64(0),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
		EnableTelemetry:   stripe.Bool(false),
	})
	return g, nil
}

// Livemode reports whether the secret key is a live one.
func (g *Gateway) Livemode() bool { return g.livemode }

func baseURL(base string, live bool) (string, error) {
	if base == "" {
		return stripe.APIURL, nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.User != nil {
		return "", errors.New("billingstripe: Config.URL is not a base URL, such as https://api.stripe.com")
	}
	if live && u.Scheme != "https" {
		return "", errors.New("billingstripe: Config.URL is not https, and the secret key is a live one")
	}
	return strings.TrimSuffix(base, "/"), nil
}

// httpClient returns a client that watches its exchanges and doesn't follow
// redirects, and whether its transport traces connections (net/http/httptrace),
// which a transport of somebody else's may not.
func httpClient(base *http.Client) (client *http.Client, traced bool) {
	client = &http.Client{}
	if base != nil {
		*client = *base
	}
	if client.Transport == nil {
		client.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:     true,
			MaxIdleConns:          64,
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
		}
	}
	_, traced = client.Transport.(*http.Transport)
	client.Transport = &watcher{client.Transport}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client, traced
}
