package billing

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The kinds of this package's errors, for errors.Is.
var (
	// ErrNotFound says that an account, customer, subscription, invoice or
	// event doesn't exist.
	ErrNotFound = errors.New("billing: not found")
	// ErrInvalid says that a request is wrong and will stay so.
	ErrInvalid = errors.New("billing: invalid request")
	// ErrUnknownPlan says that the catalogue has no such plan or price.
	ErrUnknownPlan = errors.New("billing: unknown plan")
	// ErrUnknownLimit says that the catalogue has no such limit: a typo is
	// loud, never zero and never infinite.
	ErrUnknownLimit = errors.New("billing: unknown limit")
	// ErrUnknownMeter says that the catalogue has no such meter.
	ErrUnknownMeter = errors.New("billing: unknown meter")
	// ErrSubscribed says that the account has a live subscription already.
	ErrSubscribed = errors.New("billing: account has a live subscription")
	// ErrNoSubscription says that the account has no live subscription.
	ErrNoSubscription = errors.New("billing: account has no live subscription")
	// ErrSignature says that a webhook request isn't the gateway's. Nothing of
	// it was stored.
	ErrSignature = errors.New("billing: webhook signature refused")
	// ErrPayload says that a signed webhook request can't be read as an event.
	ErrPayload = errors.New("billing: webhook payload refused")
	// ErrDeclined says that a payment was refused: GatewayError.DeclineCode
	// says why.
	ErrDeclined = errors.New("billing: payment declined")
	// ErrConflict says that somebody else changed the same thing meanwhile.
	ErrConflict = errors.New("billing: conflict")
	// ErrUnavailable says that the gateway or the store can't answer now and
	// that the request had no effect: try it again.
	ErrUnavailable = errors.New("billing: unavailable")
	// ErrUnknownOutcome says that a write may or may not have had its effect:
	// try it again with the same idempotency key.
	ErrUnknownOutcome = errors.New("billing: unknown outcome")
	// ErrActionRequired says that a payment waits for the customer to
	// authenticate it: ActionRequiredError has what the client needs.
	ErrActionRequired = errors.New("billing: the customer is to authenticate the payment")
	// ErrTrialUsed says that a trial was given before, to the account or for
	// its payment method.
	ErrTrialUsed = errors.New("billing: trial used already")
	// ErrNoSeat says that all seats are taken.
	ErrNoSeat = errors.New("billing: no free seat")
	// ErrUnsupported says that the gateway can't do this.
	ErrUnsupported = errors.New("billing: unsupported by the gateway")
)

// GatewayError is what the payment provider answered. It matches its Kind and
// holds no secret, address or card data.
type GatewayError struct {
	Op             string // "create subscription"
	Kind           error  // ErrNotFound, ErrInvalid, ErrDeclined, ErrConflict, ErrUnavailable, ErrUnknownOutcome, ErrUnsupported
	Status         int    // of the HTTP answer; 0 without one
	Code           string // the provider's code: "resource_missing", "card_declined"
	DeclineCode    string // "insufficient_funds"
	Param          string // the parameter that was wrong
	Message        string // the provider's words for the developer
	RequestID      string // to give to the provider's support
	IdempotencyKey string // to retry with
	RetryAfter     time.Duration
	Err            error // the cause, such as a network error
}

// Error says what was asked, what came back, and the request's ID.
func (e *GatewayError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "billing: %s: %s", e.Op, strings.TrimPrefix(e.Kind.Error(), "billing: "))
	for _, part := range []struct{ name, value string }{
		{"code", e.Code}, {"decline code", e.DeclineCode}, {"parameter", e.Param}, {"request", e.RequestID},
	} {
		if part.value != "" {
			fmt.Fprintf(&b, ", %s %s", part.name, part.value)
		}
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, ", status %d", e.Status)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Is makes the error match its kind.
func (e *GatewayError) Is(target error) bool { return target == e.Kind }

// Unwrap returns the cause.
func (e *GatewayError) Unwrap() error { return e.Err }

// Retryable reports whether the same request, with the same idempotency key,
// may succeed later.
func (e *GatewayError) Retryable() bool {
	return errors.Is(e.Kind, ErrUnavailable) || errors.Is(e.Kind, ErrUnknownOutcome)
}
