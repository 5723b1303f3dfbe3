package billingstripe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var errTooLarge = errors.New("the response is too large")

// judge turns what came back into an error, nil for success, and says whether
// sending the same request again may help within one call.
func (r request) judge(x *exchange, err error, secret string) (failure *billing.GatewayError, again bool) {
	if err == nil && x.status >= 200 && x.status < 300 {
		return nil, false
	}
	failure = &billing.GatewayError{Status: x.status, RequestID: x.requestID, RetryAfter: x.retryAfter}
	refusal, ok := parseRefusal(x.refusal)
	switch {
	case ok:
		failure.Code = refusal.code
		if failure.Code == "" {
			failure.Code = refusal.kind
		}
		failure.DeclineCode = refusal.decline
		failure.Param = refusal.param
		failure.Message = redact(refusal.message, secret)
		failure.Kind, again = r.kind(x.status, refusal)
	case x.status != 0:
		// Not Stripe's words: a proxy's page, or a body that broke off.
		failure.Kind, again = r.lost(), x.status < 300 || x.status >= 500
		failure.Message = "the answer is not Stripe's"
		if errors.Is(err, errTooLarge) {
			failure.Err = errTooLarge
		}
	default:
		failure.Kind, again = r.lost(), true
		failure.Err = cause(err)
		if neverSent(x, err) {
			failure.Kind = billing.ErrUnavailable
		}
	}
	switch x.shouldRetry {
	case "true":
		again = true
	case "false":
		again = false
	}
	return failure, again
}

// refusal is the body of an error of Stripe's.
type refusal struct {
	kind, code, decline, param, message string
}

func parseRefusal(body []byte) (refusal, bool) {
	n, err := parse(body)
	if err != nil {
		return refusal{}, false
	}
	e := n.at("error")
	r := refusal{
		kind:    e.at("type").text(),
		code:    e.at("code").text(),
		decline: e.at("decline_code").text(),
		param:   e.at("param").text(),
		message: e.at("message").text(),
	}
	return r, n.doc.err == nil && e.object() && (r.kind != "" || r.message != "")
}

// kind maps an error of Stripe's; docs.stripe.com/error-codes and
// docs.stripe.com/error-low-level list them.
func (r request) kind(status int, e refusal) (kind error, again bool) {
	switch {
	case e.kind == string(stripe.ErrorTypeIdempotency) && e.code != string(stripe.ErrorCodeIdempotencyKeyInUse) && status != http.StatusConflict:
		// The key was used with other parameters.
		return billing.ErrConflict, false
	case e.code == string(stripe.ErrorCodeIdempotencyKeyInUse), e.kind == string(stripe.ErrorTypeIdempotency):
		// The same request is under way: its outcome will come.
		return billing.ErrUnknownOutcome, true
	case e.code == string(stripe.ErrorCodeLockTimeout):
		return billing.ErrUnavailable, true
	case e.kind == string(stripe.ErrorTypeCard), status == http.StatusPaymentRequired:
		return billing.ErrDeclined, false
	case e.code == string(stripe.ErrorCodeResourceMissing):
		return billing.ErrNotFound, false
	case e.code == string(stripe.ErrorCodeResourceAlreadyExists):
		return billing.ErrConflict, false
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		// Nothing is wrong with the request: it works once the key is mended.
		return billing.ErrUnavailable, false
	case status == http.StatusConflict:
		return billing.ErrConflict, true
	case status == http.StatusTooManyRequests:
		return billing.ErrUnavailable, true
	case status == http.StatusNotImplemented:
		return billing.ErrUnsupported, false
	case status >= 500:
		// Stripe keeps a write's 500 under its key and would repeat it: only a
		// read is worth another try at once.
		return r.lost(), !r.write() || status == http.StatusServiceUnavailable
	}
	return billing.ErrInvalid, false
}

// lost is the kind of a request without a usable answer.
func (r request) lost() error {
	if r.write() {
		return billing.ErrUnknownOutcome
	}
	return billing.ErrUnavailable
}

// unreadable is the error of a success whose body can't be read.
func (r request) unreadable(x *exchange) *billing.GatewayError {
	return &billing.GatewayError{Kind: r.lost(), Status: x.status, RequestID: x.requestID, Message: "the answer is not Stripe's"}
}

// neverSent reports whether a request certainly didn't reach Stripe. The error
// alone doesn't tell: the transport sends a request with an idempotency key
// again by itself when a kept connection breaks, and only the last error is
// seen. Without a connection, in all of these attempts, nothing went out.
func neverSent(x *exchange, err error) bool {
	if x.connected.Load() {
		return false
	}
	if x.traced {
		return true
	}
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}

// cause strips the URL, whose query has parameters, from a network error, and
// stripe-go's sample of the body from its error about it.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errors.New("the request failed")
}

var (
	keys      = regexp.MustCompile(`\b(sk|rk|pk|whsec|ek)_[0-9A-Za-z_*]+`)
	addresses = regexp.MustCompile(`[^\s"'<>:;,]+@[^\s"'<>:;,]+`)
)

// redact takes keys and mail addresses out of Stripe's words.
func redact(message, secret string) string {
	message = strings.ReplaceAll(message, secret, "(key)")
	message = keys.ReplaceAllString(message, "(key)")
	return addresses.ReplaceAllString(message, "(address)")
}
