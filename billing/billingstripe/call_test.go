package billingstripe_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

// script answers one request after the other, the last one again and again.
type script struct {
	mu      sync.Mutex
	answers []answer
	got     []*http.Request
	bodies  []string
	waits   []time.Duration
}

type answer struct {
	status int
	body   string
	header http.Header
	cut    bool // the connection breaks after the request was read
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	a := s.answers[min(len(s.got), len(s.answers)-1)]
	s.got = append(s.got, r)
	s.bodies = append(s.bodies, string(body))
	id := "req_" + strconv.Itoa(len(s.got))
	s.mu.Unlock()
	if a.cut {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Request-Id", id)
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

// requests returns those that came.
func (s *script) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

// run starts a server with these answers and a gateway that talks to it and
// waits in no time.
func run(t *testing.T, answers ...answer) (*billingstripe.Gateway, *script) {
	t.Helper()
	s := &script{answers: answers}
	server := httptest.NewServer(s)
	server.Config.ErrorLog = nil
	t.Cleanup(server.Close)
	g := newGateway(t, func(c *billingstripe.Config) { c.URL = server.URL })
	billingstripe.SetSleep(g, func(ctx context.Context, d time.Duration) error {
		s.waits = append(s.waits, d)
		return ctx.Err()
	})
	return g, s
}

const (
	customerBody = `{"id":"cus_1","object":"customer","created":1764000000,"livemode":false,"metadata":{}}`
	page502      = "<html><body>502 Bad Gateway</body></html>"
)

func refusal(status int, kind, code string) answer {
	return answer{status: status, body: `{"error":{"type":"` + kind + `","code":"` + code + `","message":"words","param":"items[0][price]"}}`}
}

func create(t *testing.T, g *billingstripe.Gateway) (billing.Customer, error) {
	t.Helper()
	return g.CreateCustomer(t.Context(), billing.CustomerRequest{Account: "acc_1"}, "key_1")
}

func fetch(t *testing.T, g *billingstripe.Gateway) error {
	t.Helper()
	_, err := g.Checkout(t.Context(), "cs_1")
	return err
}

// TestErrorsAreMappedToKinds holds, for each answer, the kind for a write and
// for a read and how many requests were made.
func TestErrorsAreMappedToKinds(t *testing.T) {
	for name, c := range map[string]struct {
		answer        answer
		write, read   error
		writes, reads int
	}{
		"wrong parameter":        {refusal(400, "invalid_request_error", "parameter_unknown"), billing.ErrInvalid, billing.ErrInvalid, 1, 1},
		"no such object":         {refusal(404, "invalid_request_error", "resource_missing"), billing.ErrNotFound, billing.ErrNotFound, 1, 1},
		"no such price":          {refusal(400, "invalid_request_error", "resource_missing"), billing.ErrNotFound, billing.ErrNotFound, 1, 1},
		"no such URL":            {refusal(404, "invalid_request_error", ""), billing.ErrInvalid, billing.ErrInvalid, 1, 1},
		"exists already":         {refusal(400, "invalid_request_error", "resource_already_exists"), billing.ErrConflict, billing.ErrConflict, 1, 1},
		"declined":               {refusal(402, "card_error", "card_declined"), billing.ErrDeclined, billing.ErrDeclined, 1, 1},
		"key with other request": {refusal(400, "idempotency_error", ""), billing.ErrConflict, billing.ErrConflict, 1, 1},
		"key in use":             {refusal(409, "idempotency_error", "idempotency_key_in_use"), billing.ErrUnknownOutcome, billing.ErrUnknownOutcome, 3, 3},
		"locked":                 {refusal(429, "invalid_request_error", "lock_timeout"), billing.ErrUnavailable, billing.ErrUnavailable, 3, 3},
		"rate limit":             {refusal(429, "invalid_request_error", "rate_limit"), billing.ErrUnavailable, billing.ErrUnavailable, 3, 3},
		"wrong API key":          {refusal(401, "invalid_request_error", "api_key_expired"), billing.ErrUnavailable, billing.ErrUnavailable, 1, 1},
		"no permission":          {refusal(403, "invalid_request_error", ""), billing.ErrUnavailable, billing.ErrUnavailable, 1, 1},
		"server error":           {refusal(500, "api_error", ""), billing.ErrUnknownOutcome, billing.ErrUnavailable, 1, 3},
		"unavailable":            {refusal(503, "api_error", ""), billing.ErrUnknownOutcome, billing.ErrUnavailable, 3, 3},
		"not implemented":        {refusal(501, "invalid_request_error", "unsupported"), billing.ErrUnsupported, billing.ErrUnsupported, 1, 1},
		"a proxy's page":         {answer{status: 502, body: page502}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 3, 3},
		"a proxy's refusal":      {answer{status: 403, body: "<html>"}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 1, 1},
		"a redirect":             {answer{status: 302, header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 1, 1},
		"JSON of somebody else":  {answer{status: 502, body: `{"error":"bad gateway"}`}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 3, 3},
		"success that is a page": {answer{status: 200, body: page502}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 3, 3},
		"success that is null":   {answer{status: 200, body: "null"}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 3, 3},
		"success without an ID":  {answer{status: 200, body: "{}"}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 1, 1},
		"a value out of shape":   {answer{status: 200, body: `{"id":"x","created":"soon"}`}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 1, 1},
		"a broken connection":    {answer{cut: true}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 3, 3},
		"should not be repeated": {answer{status: 503, body: `{"error":{"type":"api_error"}}`, header: http.Header{"Stripe-Should-Retry": {"false"}}}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 1, 1},
		"should be repeated":     {answer{status: 500, body: `{"error":{"type":"api_error"}}`, header: http.Header{"Stripe-Should-Retry": {"true"}}}, billing.ErrUnknownOutcome, billing.ErrUnavailable, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			g, s := run(t, c.answer)
			_, err := create(t, g)
			var failure *billing.GatewayError
			require.ErrorAs(t, err, &failure)
			require.ErrorIs(t, err, c.write)
			assert.Equal(t, "create customer", failure.Op)
			assert.Equal(t, "key_1", failure.IdempotencyKey)
			assert.Equal(t, c.answer.status, failure.Status)
			if c.answer.status != 0 {
				assert.Equal(t, "req_"+strconv.Itoa(c.writes), failure.RequestID)
			}
			require.Len(t, s.requests(), c.writes)
			for _, r := range s.requests() {
				assert.Equal(t, "key_1", r.Header.Get("Idempotency-Key"), "each attempt has the one key")
			}

			g, s = run(t, c.answer)
			require.ErrorIs(t, fetch(t, g), c.read)
			assert.Len(t, s.requests(), c.reads)
		})
	}
}

func TestErrorsSayWhatStripeSaid(t *testing.T) {
	g, _ := run(t, answer{
		status: 402,
		body: `{"error":{"type":"card_error","code":"card_declined","decline_code":"insufficient_funds","param":"p",
			"message":"No card of ann@example.com for sk_test_1 and whsec_abc.","payment_intent":{"id":{"new":"shape"}}}}`,
		header: http.Header{"Retry-After": {"7"}},
	})
	_, err := create(t, g)
	assert.Equal(t, &billing.GatewayError{
		Op: "create customer", Kind: billing.ErrDeclined, Status: 402, Code: "card_declined", DeclineCode: "insufficient_funds", Param: "p",
		Message: "No card of (address) for (key) and (key).", RequestID: "req_1", IdempotencyKey: "key_1", RetryAfter: 7 * time.Second,
	}, err)
}

// TestUnknownStaysUnknown: the first attempt may have had its effect, so that
// no later "nothing happened" may hide it.
func TestUnknownStaysUnknown(t *testing.T) {
	g, s := run(t, answer{cut: true}, refusal(429, "invalid_request_error", "rate_limit"))
	_, err := create(t, g)
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	assert.Len(t, s.requests(), 3)

	g, _ = run(t, answer{status: 502, body: page502}, answer{status: 200, body: customerBody})
	customer, err := create(t, g)
	require.NoError(t, err, "an answer with the same key settles it")
	assert.Equal(t, "cus_1", customer.ID)
}

func TestNothingWasSent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	g := newGateway(t, func(c *billingstripe.Config) { c.URL, c.Retries = "http://"+listener.Addr().String(), -1 })
	_, err = create(t, g)
	require.ErrorIs(t, err, billing.ErrUnavailable, "a refused connection has no effect")

	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("stop")
	cancel(cause)
	_, err = g.CreateCustomer(ctx, billing.CustomerRequest{}, "k")
	require.ErrorIs(t, err, billing.ErrUnavailable)
	require.ErrorIs(t, err, cause)

	for _, key := range []string{"", "a b", "a\nb", strings.Repeat("x", 256)} {
		_, err = g.CreateCustomer(t.Context(), billing.CustomerRequest{}, key)
		require.ErrorIs(t, err, billing.ErrInvalid, "%q", key)
	}
}

// TestNoConnectionNothingHappened: the connection never came about, which
// however it ended is not an unknown outcome.
func TestNoConnectionNothingHappened(t *testing.T) {
	refuse := errors.New("no route")
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"blocked until the deadline": func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"refused": func(context.Context, string, string) (net.Conn, error) { return nil, refuse },
	} {
		g := newGateway(t, func(c *billingstripe.Config) {
			c.URL, c.Timeout, c.Retries = "http://stripe.invalid", 10*time.Millisecond, -1
			c.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: dial}}
		})
		_, err := create(t, g)
		require.ErrorIs(t, err, billing.ErrUnavailable, name)
	}
	// A transport that tells nothing of its connections isn't trusted.
	g := newGateway(t, func(c *billingstripe.Config) {
		c.Retries = -1
		c.HTTPClient = &http.Client{Transport: failing{refuse}}
	})
	_, err := create(t, g)
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	g = newGateway(t, func(c *billingstripe.Config) {
		c.Retries = -1
		c.HTTPClient = &http.Client{Transport: failing{&net.OpError{Op: "dial", Err: refuse}}}
	})
	_, err = create(t, g)
	require.ErrorIs(t, err, billing.ErrUnavailable)
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, billingstripe.Sleep(ctx, time.Hour), context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))
		require.NoError(t, billingstripe.Sleep(t.Context(), time.Hour))
		assert.Equal(t, time.Hour+time.Second, time.Since(began))
	})
	ctx, cancel := context.WithCancel(t.Context())
	g, s := run(t, refusal(429, "invalid_request_error", "rate_limit"))
	billingstripe.SetSleep(g, func(ctx context.Context, _ time.Duration) error {
		cancel()
		return ctx.Err()
	})
	_, err := g.CreateCustomer(ctx, billing.CustomerRequest{}, "k")
	require.ErrorIs(t, err, billing.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
	assert.Len(t, s.requests(), 1)
}

func TestTimeoutsOfWritesAreUnknown(t *testing.T) {
	blocked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-blocked }))
	defer server.Close()
	defer close(blocked)
	g := newGateway(t, func(c *billingstripe.Config) { c.URL, c.Timeout, c.Retries = server.URL, 20*time.Millisecond, -1 })
	_, err := create(t, g)
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotContains(t, err.Error(), server.URL)
	require.ErrorIs(t, fetch(t, g), billing.ErrUnavailable)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	g = newGateway(t, func(c *billingstripe.Config) { c.URL = server.URL })
	_, err = g.CreateCustomer(ctx, billing.CustomerRequest{}, "k")
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
}

func TestWaitsFollowRetryAfterAndTheContext(t *testing.T) {
	limited := refusal(429, "invalid_request_error", "rate_limit")
	g, s := run(t, limited)
	_, err := create(t, g)
	require.ErrorIs(t, err, billing.ErrUnavailable)
	require.Len(t, s.waits, 2)
	for i, most := range []time.Duration{500 * time.Millisecond, time.Second} {
		assert.GreaterOrEqual(t, s.waits[i], most/2)
		assert.LessOrEqual(t, s.waits[i], most)
	}

	limited.header = http.Header{"Retry-After": {"3"}}
	g, s = run(t, limited)
	_, err = create(t, g)
	require.Error(t, err)
	assert.Equal(t, []time.Duration{3 * time.Second, 3 * time.Second}, s.waits)

	limited.header = http.Header{"Retry-After": {"60"}}
	g, s = run(t, limited)
	_, err = create(t, g)
	var failure *billing.GatewayError
	require.ErrorAs(t, err, &failure)
	assert.Equal(t, time.Minute, failure.RetryAfter, "the caller decides about a long wait")
	assert.Empty(t, s.waits)

	limited.header = http.Header{"Retry-After": {"4"}}
	g, s = run(t, limited)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = g.CreateCustomer(ctx, billing.CustomerRequest{}, "k")
	require.ErrorIs(t, err, billing.ErrUnavailable)
	assert.Empty(t, s.waits, "the context would end before the wait")
}

func TestNothingSecretIsLogged(t *testing.T) {
	var log bytes.Buffer
	s := &script{answers: []answer{{status: 503, body: page502}, {status: 200, body: customerBody}}}
	server := httptest.NewServer(s)
	defer server.Close()
	g := newGateway(t, func(c *billingstripe.Config) {
		c.URL, c.SecretKey = server.URL, "sk_test_very_secret"
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	billingstripe.SetSleep(g, func(context.Context, time.Duration) error { return nil })
	_, err := g.CreateCustomer(t.Context(), billing.CustomerRequest{Account: "acc_1", Email: "ann@example.com"}, "key_1")
	require.NoError(t, err)
	assert.Contains(t, log.String(), "request=req_2")
	for _, secret := range []string{"very_secret", "ann@", "acc_1", "502 Bad"} {
		assert.NotContains(t, log.String(), secret)
	}
	assert.Equal(t, "Bearer sk_test_very_secret", s.requests()[0].Header.Get("Authorization"))
	assert.Empty(t, s.requests()[0].Header.Get("X-Stripe-Client-Telemetry"))
	assert.Equal(t, s.bodies[0], s.bodies[1])
}
