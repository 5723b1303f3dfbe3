package stripesim

import (
	"errors"
	"fmt"
	"net/http"
)

// The kinds of this package's errors, for errors.Is.
var (
	// ErrLiveKey says that the configuration holds a live key: the simulator
	// never runs beside real money.
	ErrLiveKey = errors.New("stripesim: refuses to run beside a live key")
	// ErrInvalid says that the configuration, or a call, is wrong.
	ErrInvalid = errors.New("stripesim: invalid")
	// ErrNotFound says that no such object exists in the simulator.
	ErrNotFound = errors.New("stripesim: not found")
	// ErrClosed says that the simulator has been closed.
	ErrClosed = errors.New("stripesim: closed")
)

// apiError is what the API answers instead of an object.
type apiError struct {
	status      int
	kind        string // "type" on the wire
	code        string
	declineCode string
	param       string
	message     string
	// saved says that the endpoint ran: its answer is replayed for the same
	// idempotency key. Refusals before the endpoint ran aren't.
	saved bool
	// with holds objects that the error carries: payment_intent,
	// setup_intent, payment_method, charge.
	with object
}

func (e *apiError) Error() string {
	return fmt.Sprintf("stripesim: %s: %s", e.kind, e.message)
}

func (e *apiError) render(requestID string) object {
	body := object{"type": e.kind, "message": e.message}
	for name, value := range map[string]string{"code": e.code, "decline_code": e.declineCode, "param": e.param} {
		if value != "" {
			body[name] = value
		}
	}
	if e.code != "" {
		body["doc_url"] = "https://stripe.com/docs/error-codes/" + dashed(e.code)
	}
	for name, value := range e.with {
		body[name] = value
	}
	if requestID != "" {
		body["request_log_url"] = "https://dashboard.stripe.com/test/logs/" + requestID
	}
	return body
}

func dashed(code string) string {
	out := []byte(code)
	for i, c := range out {
		if c == '_' {
			out[i] = '-'
		}
	}
	return string(out)
}

// badRequest is an error of the request that will stay one.
func badRequest(code, param, format string, args ...any) *apiError {
	return &apiError{
		status: http.StatusBadRequest, kind: "invalid_request_error", code: code, param: param,
		message: fmt.Sprintf(format, args...), saved: true,
	}
}

// missing is the answer for an ID that doesn't exist: 404 when it stands in
// the path, 400 in a parameter.
func missing(what, id, param string) *apiError {
	e := badRequest("resource_missing", param, "No such %s: '%s'", what, clip(id))
	if param == "" || param == "id" {
		e.status, e.param = http.StatusNotFound, "id"
	}
	return e
}

// unsupported is the answer for what Stripe has and the simulator lacks.
func unsupported(what string) *apiError {
	return &apiError{
		status: http.StatusNotImplemented, kind: "api_error", code: "stripesim_unsupported",
		message: "stripesim does not simulate: " + what,
	}
}

// declined is the answer for a refused card.
func declined(d decline) *apiError {
	return &apiError{
		status: http.StatusPaymentRequired, kind: "card_error", code: d.code, declineCode: d.declineCode,
		message: d.message, saved: true, with: object{},
	}
}

// invalid is an error of a Go call.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func errNotFound(what, id string) error {
	return fmt.Errorf("%w: no %s %q", ErrNotFound, what, clip(id))
}

// said is an error's text for people.
func said(err error) string {
	var api *apiError
	if errors.As(err, &api) {
		return api.message
	}
	return err.Error()
}
