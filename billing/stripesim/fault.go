package stripesim

import (
	"context"
	"net/http"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind string

// The faults of the API. Match is then a method and a path, such as
// "POST /v1/subscriptions"; a path that ends in * matches by its start.
const (
	// RateLimited answers 429 without any effect.
	RateLimited FaultKind = "429"
	// ServerError answers 500 without any effect.
	ServerError FaultKind = "500"
	// Unavailable answers 503 without any effect.
	Unavailable FaultKind = "503"
	// Reset closes the connection without any effect.
	Reset FaultKind = "reset"
	// ResetAfter runs the request and closes the connection instead of
	// answering.
	ResetAfter FaultKind = "reset after effect"
	// TimeoutAfter runs the request and doesn't answer until the caller gives
	// up, or Delay has passed when it is set.
	TimeoutAfter FaultKind = "timeout after effect"
)

// The faults of webhooks. Match is then an event type, such as "invoice.*".
const (
	// DropEvent never delivers an event. The events list still has it.
	DropEvent FaultKind = "drop"
	// DuplicateEvent delivers an event twice.
	DuplicateEvent FaultKind = "duplicate"
	// DelayEvent delivers an event when Delay has passed on the simulator's
	// clock.
	DelayEvent FaultKind = "delay"
	// ReorderEvent delivers an event after the one that follows it.
	ReorderEvent FaultKind = "reorder"
)

// Fault is something that goes wrong on demand.
type Fault struct {
	Kind  FaultKind
	Match string        // empty: everything
	Times int           // 0 is once; negative is until ClearFaults
	Delay time.Duration // of DelayEvent and TimeoutAfter
}

func (f *Fault) ofEvents() bool {
	switch f.Kind {
	case DropEvent, DuplicateEvent, DelayEvent, ReorderEvent:
		return true
	}
	return false
}

func (k FaultKind) known() bool {
	switch k {
	case RateLimited, ServerError, Unavailable, Reset, ResetAfter, TimeoutAfter, DropEvent, DuplicateEvent, DelayEvent, ReorderEvent:
		return true
	}
	return false
}

// Inject adds faults. Each request and each event meets at most one: the
// oldest that matches and isn't used up.
func (s *Simulator) Inject(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		if f.Times == 0 {
			f.Times = 1
		}
		s.faults = append(s.faults, &f)
	}
}

// Faults returns the faults that aren't used up, the oldest first. Times is how
// often each is still to come.
func (s *Simulator) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Fault
	for _, f := range s.faults {
		if f.Times != 0 {
			list = append(list, *f)
		}
	}
	return list
}

// ClearFaults removes all faults. What was dropped stays lost.
func (s *Simulator) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

func (s *Simulator) takeFault(method, path string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(false, method+" "+path)
}

func (s *Simulator) takeEventFault(typ string) *Fault { return s.take(true, typ) }

func (s *Simulator) take(ofEvents bool, what string) *Fault {
	for _, f := range s.faults {
		if f.Times == 0 || f.ofEvents() != ofEvents {
			continue
		}
		if f.Match != "" && !matchType(f.Match, what) {
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		return f
	}
	return nil
}

// before answers in place of the endpoint and reports whether it did.
func (f *Fault) before(_ context.Context, w http.ResponseWriter, requestID string) bool {
	var e *apiError
	switch f.Kind {
	case RateLimited:
		e = &apiError{status: http.StatusTooManyRequests, kind: "invalid_request_error", code: "rate_limit", message: "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits."}
	case ServerError:
		e = &apiError{status: http.StatusInternalServerError, kind: "api_error", message: "An unknown error occurred"}
	case Unavailable:
		e = &apiError{status: http.StatusServiceUnavailable, kind: "api_error", message: "Stripe is temporarily unavailable"}
	case Reset:
		reset(w)
		return true
	default:
		return false
	}
	got := failed(e, requestID)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Request-Id", requestID)
	w.WriteHeader(got.status)
	w.Write(got.body)
	return true
}

// after swallows the answer and reports whether it did.
func (f *Fault) after(ctx context.Context, w http.ResponseWriter) bool {
	switch f.Kind {
	case ResetAfter:
		reset(w)
		return true
	case TimeoutAfter:
		var expired <-chan time.Time
		if f.Delay > 0 {
			timer := time.NewTimer(f.Delay)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-ctx.Done():
		case <-expired:
		}
		reset(w)
		return true
	}
	return false
}

// reset closes the connection without an answer.
func reset(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		conn.Close()
		return
	}
	// HTTP/2 has no connection to take over: this aborts the stream.
	panic(http.ErrAbortHandler)
}
