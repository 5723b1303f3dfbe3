package billingstripe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/form"

	"github.com/kolekt/commerce/billing"
)

// request is one call of the API.
type request struct {
	op     string // what it does, for errors: "create customer"
	method string
	path   string
	params any    // a parameter struct of stripe-go, or nil
	key    string // the idempotency key of a write
}

func (r request) write() bool { return r.method != http.MethodGet }

// get returns the request of a read.
func get(op, path string, params any) request {
	return request{op: op, method: http.MethodGet, path: path, params: params}
}

// post returns the request of a write.
func post(op, path string, params any, key string) request {
	return request{op: op, method: http.MethodPost, path: path, params: params, key: key}
}

// newKey returns a key for a write whose caller has none: it keeps our own
// retries from doing it twice.
func newKey() string { return "commerce_once_" + rand.Text() }

// call sends a request, again where that may help, and returns the body. The
// body is decoded by nobody before it gets here: stripe-go's structs know one
// API version and read a newer one as zeros.
func (g *Gateway) call(ctx context.Context, r request) (node, error) {
	if r.write() && !validKey(r.key) {
		return node{}, &billing.GatewayError{Op: r.op, Kind: billing.ErrInvalid, Message: "the idempotency key must have 1 to 255 printable characters"}
	}
	var values form.Values
	if r.params != nil {
		form.AppendTo(&values, r.params)
	}
	unknown := false // whether an earlier attempt may have had its effect
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return node{}, r.failed(unknown, &billing.GatewayError{Kind: billing.ErrUnavailable, Err: context.Cause(ctx)})
		}
		started := time.Now()
		body, x, err := g.send(ctx, r, &values)
		g.log.DebugContext(ctx, "stripe request", "op", r.op, "status", x.status, "request", x.requestID, "attempt", attempt, "duration", time.Since(started))
		failure, again := r.judge(x, err, g.key)
		if failure == nil {
			n, err := parse(body)
			if err == nil && n.object() {
				n.doc.status, n.doc.requestID = x.status, x.requestID
				return n, nil
			}
			failure, again = r.unreadable(x), true
		}
		unknown = unknown || errors.Is(failure, billing.ErrUnknownOutcome)
		wait := backoff(attempt, failure.RetryAfter)
		deadline, bounded := ctx.Deadline()
		if !again || attempt >= g.retries || wait > maxWait || bounded && time.Until(deadline) < wait {
			return node{}, r.failed(unknown, failure)
		}
		g.log.WarnContext(ctx, "stripe request is sent again", "op", r.op, "status", failure.Status, "code", failure.Code, "request", failure.RequestID, "wait", wait)
		if err := g.sleep(ctx, wait); err != nil {
			if failure.Err == nil {
				failure.Err = context.Cause(ctx)
			}
			return node{}, r.failed(unknown, failure)
		}
	}
}

// failed completes the error of a call. An outcome that was unknown once stays
// so, whatever the later attempts met, unless one of them was answered.
func (r request) failed(unknown bool, failure *billing.GatewayError) error {
	failure.Op = r.op
	failure.IdempotencyKey = r.key
	if unknown && errors.Is(failure, billing.ErrUnavailable) {
		failure.Kind = billing.ErrUnknownOutcome
	}
	return failure
}

func validKey(key string) bool {
	if key == "" || len(key) > 255 {
		return false
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return false
		}
	}
	return true
}

// maxWait is the longest that a call waits before it sends a request again;
// whoever is told to wait longer decides that himself.
const maxWait = 5 * time.Second

// backoff is half a second, doubled for each attempt, less up to a half of it
// at random so that many callers don't come back together.
func backoff(attempt int, retryAfter time.Duration) time.Duration {
	base := 500 * time.Millisecond << min(attempt, 4)
	wait := base - mrand.N(base/2)
	return max(wait, retryAfter)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send makes one attempt.
func (g *Gateway) send(ctx context.Context, r request, values *form.Values) ([]byte, *exchange, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	x := &exchange{traced: g.traced}
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { x.connected.Store(true) },
	})
	params := &stripe.Params{Context: ctx}
	if r.write() {
		params.IdempotencyKey = stripe.String(r.key)
	}
	var answer answer
	err := g.backend.CallRaw(r.method, r.path, g.key, values, params, &answer)
	if answer.APIResponse == nil {
		return nil, x, err
	}
	return answer.RawJSON, x, err
}

// answer keeps the body of a response for our own decoder.
type answer struct{ *stripe.APIResponse }

func (a *answer) SetLastResponse(response *stripe.APIResponse) { a.APIResponse = response }
func (a *answer) UnmarshalJSON([]byte) error                   { return nil }

// exchange is what was seen of one request and its response. stripe-go's error
// has none of it when the response isn't Stripe's, such as a proxy's page, or
// holds an object of another API version.
type exchange struct {
	traced      bool        // the transport tells of connections
	connected   atomic.Bool // the request had a connection to go out on
	status      int
	requestID   string
	retryAfter  time.Duration
	shouldRetry string
	refusal     []byte // the body of a response that isn't a success
}

type exchangeKey struct{}

// watcher is the transport that fills the exchange in.
type watcher struct{ next http.RoundTripper }

// maxResponse bounds a response in memory; a page of a hundred invoices has
// about a megabyte.
const maxResponse = 32 << 20

func (w *watcher) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	x, _ := req.Context().Value(exchangeKey{}).(*exchange)
	if x != nil {
		x.connected.Store(true)
		x.status = resp.StatusCode
		x.requestID = resp.Header.Get("Request-Id")
		x.shouldRetry = resp.Header.Get("Stripe-Should-Retry")
		if seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
			x.retryAfter = time.Duration(seconds) * time.Second
		}
	}
	resp.Body = &boundedBody{resp.Body, maxResponse}
	if x != nil && resp.StatusCode >= 300 {
		// A body that breaks off is a refusal that can't be read; stripe-go
		// gets what came.
		x.refusal, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(x.refusal))
	}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
