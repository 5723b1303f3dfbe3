package billing

import (
	"errors"
	"io"
	"net/http"

	"github.com/kolekt/commerce/internal/problem"
)

// MaxWebhookBody is the greatest body that Webhook reads, in bytes. Large
// invoices go far beyond the 64 KiB of many examples.
const MaxWebhookBody = 1 << 20

// Webhook receives the gateway's events. It verifies the exact bytes, stores
// them, and answers 200 only then; the work is done by Run. What it refuses
// leaves no trace in the store: 405 for other methods than POST, 413 for a body
// over MaxWebhookBody, 400 for a signature or a payload that is none. It
// answers 503 when the store fails, so that the gateway comes again.
//
// Mount it outside of any middleware that reads or rewrites bodies, and
// without authentication: the signature is that.
func (s *Service) Webhook() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			problem.Write(w, problem.Details{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Detail: "Send webhook events with POST."})
			return
		}
		if r.ContentLength > MaxWebhookBody {
			tooLarge(w)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxWebhookBody))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			tooLarge(w)
			return
		case err != nil:
			problem.Write(w, problem.Details{Status: http.StatusBadRequest, Code: "body_unreadable", Detail: "The body ended early."})
			return
		}
		e, err := s.gateway.Verify(r.Header, body)
		if err == nil && e.ID == "" {
			err = ErrPayload
		}
		switch {
		case errors.Is(err, ErrSignature):
			s.cfg.Logger.WarnContext(r.Context(), "billing: webhook refused", "error", err)
			problem.Write(w, problem.Details{Status: http.StatusBadRequest, Code: "signature_refused", Detail: "The signature doesn't match: check the endpoint's signing secret and the clock."})
			return
		case err != nil:
			s.cfg.Logger.WarnContext(r.Context(), "billing: webhook refused", "error", err)
			problem.Write(w, problem.Details{Status: http.StatusBadRequest, Code: "payload_refused", Detail: "The body is no event of this endpoint's mode."})
			return
		}
		e.Raw = body
		if _, err := s.store.PutEvent(r.Context(), s.received(&e)); err != nil {
			s.cfg.Logger.ErrorContext(r.Context(), "billing: webhook not stored", "event", e.ID, "error", err)
			problem.Write(w, problem.Details{Status: http.StatusServiceUnavailable, Code: "store_unavailable", Detail: "The event wasn't stored: send it again."})
			return
		}
		s.poke()
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"received":true}`+"\n") // a lost answer brings the event again
	})
}

func tooLarge(w http.ResponseWriter) {
	problem.Write(w, problem.Details{Status: http.StatusRequestEntityTooLarge, Code: "body_too_large", Detail: "A webhook event has at most 1 MiB."})
}

// received is the inbox's form of an event.
func (s *Service) received(e *Event) InboxEvent {
	now := s.now()
	return InboxEvent{
		ID: e.ID, Type: e.Type, CustomerID: e.CustomerID, Account: e.Account, Created: e.Created.UTC(),
		Received: now, Body: e.Raw, Status: EventPending, Next: now,
	}
}
