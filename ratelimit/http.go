package ratelimit

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// MiddlewareConfig says whom the middleware limits, and how. Key and Plan are
// required.
type MiddlewareConfig struct {
	// Key says who is asking: an account, a key's ID, or ByIP. There is no
	// default, for the wrong one limits all customers together. An error or an
	// empty key is answered with 401.
	Key func(*http.Request) (string, error)
	// Plan returns the plan of a key: StaticPlan, PlansFrom, or a look-up of
	// the application's own. An error is answered as an unavailable store is.
	Plan func(r *http.Request, key string) (*Plan, error)
	// Cost of a request; 0 lets it pass unseen. nil means 1.
	Cost func(*http.Request) int64
	// Anchor of a key's billing period, for plans with Billing windows; see
	// Call.Anchor. nil means calendar periods.
	Anchor func(r *http.Request, key string) time.Time
	// Skip lets requests pass unseen, such as health checks; nil means none.
	Skip func(*http.Request) bool
	// Upgrade names the plan that would help after a refusal, for the problem
	// body; nil means that none is named.
	Upgrade func(r *http.Request, d *Decision) Upgrade
	// Headers are the fields to write; 0 means StandardHeaders.
	Headers Headers
	// Shadow decides and reports, and lets every request pass.
	Shadow bool
	// FailOpen lets requests pass when nobody can decide. Otherwise they are
	// answered with 503. A Guard decides locally instead of either.
	FailOpen bool
	// RefundStatus says after which responses the cost is given back, such as
	// those from 500 on; a panic counts as 500. nil means none.
	RefundStatus func(status int) bool
	// OnDecision hears every decision, for logs and metrics, before the handler
	// runs; nil means nobody. It must be quick.
	OnDecision func(r *http.Request, key string, d *Decision)
	// OnError hears why nobody could decide; nil means nobody.
	OnError func(r *http.Request, err error)
}

// Upgrade is a way out of a refusal.
type Upgrade struct {
	Plan string // name of the plan; empty means that none would help
	URL  string // where to get it; may be empty
}

// StaticPlan limits every key by one plan.
func StaticPlan(p *Plan) func(*http.Request, string) (*Plan, error) {
	return func(*http.Request, string) (*Plan, error) { return p, nil }
}

// Middleware returns a middleware for net/http and every router that takes
// one. A refused request is answered with 429, Retry-After, the RateLimit
// fields and an RFC 9457 body with the code "rate_limited".
func (l *Limiter) Middleware(cfg MiddlewareConfig) (func(http.Handler) http.Handler, error) {
	switch {
	case cfg.Key == nil:
		return nil, errors.New("ratelimit: MiddlewareConfig.Key is missing: say who is asking, such as ByIP()")
	case cfg.Plan == nil:
		return nil, errors.New("ratelimit: MiddlewareConfig.Plan is missing: say what they may do, such as StaticPlan(plan)")
	case cfg.Headers >= NoHeaders<<1:
		return nil, errors.New("ratelimit: MiddlewareConfig.Headers has an unknown bit")
	case cfg.Headers&LegacyDelta != 0 && cfg.Headers&LegacyEpoch != 0:
		return nil, errors.New("ratelimit: MiddlewareConfig.Headers can't have both LegacyDelta and LegacyEpoch")
	}
	return func(next http.Handler) http.Handler {
		return &handler{limiter: l, cfg: cfg, next: next}
	}, nil
}

type handler struct {
	limiter *Limiter
	cfg     MiddlewareConfig
	next    http.Handler
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cfg := &h.cfg
	if cfg.Skip != nil && cfg.Skip(r) {
		h.next.ServeHTTP(w, r)
		return
	}
	key, err := cfg.Key(r)
	if err != nil || key == "" {
		problem.Write(w, problem.Details{
			Status: http.StatusUnauthorized, Code: "unidentified",
			Detail: "The request doesn't say who is asking.",
		})
		return
	}
	cost := int64(1)
	if cfg.Cost != nil {
		if cost = cfg.Cost(r); cost == 0 {
			h.next.ServeHTTP(w, r)
			return
		}
	}
	var anchor time.Time
	if cfg.Anchor != nil {
		anchor = cfg.Anchor(r, key)
	}
	plan, err := cfg.Plan(r, key)
	if err != nil {
		h.undecided(w, r, err)
		return
	}
	var d Decision
	d.term, d.out, d.used, err = h.limiter.do(r.Context(), Take, key, plan, cost, &anchor)
	if err != nil {
		h.undecided(w, r, err)
		return
	}
	if cfg.OnDecision != nil {
		heard := d // only what is heard goes to the heap
		cfg.OnDecision(r, key, &heard)
	}
	d.WriteHeaders(w.Header(), cfg.Headers)
	if !d.Allowed() {
		if !cfg.Shadow {
			h.refuse(w, r, &d)
			return
		}
		delete(w.Header(), headerRetryAfter)
	}
	if cfg.RefundStatus == nil || !d.Allowed() {
		h.next.ServeHTTP(w, r)
		return
	}
	h.serveAndSettle(w, r, key, d)
}

func (h *handler) undecided(w http.ResponseWriter, r *http.Request, err error) {
	if h.cfg.OnError != nil {
		h.cfg.OnError(r, err)
	}
	if h.cfg.FailOpen || h.cfg.Shadow {
		h.next.ServeHTTP(w, r)
		return
	}
	w.Header().Set(headerRetryAfter, "1")
	problem.Write(w, problem.Details{
		Status: http.StatusServiceUnavailable, Code: "limits_unavailable",
		Detail: "The limits can't be checked just now. Try again shortly.",
	})
}

// Shared by all responses: no capacity to append into.
var (
	contentProblem = []string{problem.ContentType}
	nosniff        = []string{"nosniff"}
	noStore        = []string{"no-store"}
)

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, d *Decision) {
	header := w.Header()
	header["Content-Type"] = contentProblem
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	delete(header, "Content-Length")
	w.WriteHeader(http.StatusTooManyRequests)
	text := &d.Plan().render.problems[d.out.state.worst()]
	_, _ = w.Write(h.body(r, d, text)) // the client has gone: nobody to tell
}

func (h *handler) body(r *http.Request, d *Decision, text *problemText) []byte {
	if h.cfg.Upgrade == nil {
		return text.whole
	}
	asked := *d
	up := h.cfg.Upgrade(r, &asked)
	if up.Plan == "" {
		return text.whole
	}
	b := append([]byte(text.head), `,"upgrade":{"plan":`...)
	b = append(b, quote(up.Plan)...)
	if up.URL != "" {
		b = append(b, `,"url":`...)
		b = append(b, quote(up.URL)...)
	}
	b = append(b, `},"detail":`...)
	b = append(b, quote(text.detail+" Plan "+strconv.Quote(up.Plan)+" would help.")...)
	return append(b, '}', '\n')
}

// serveAndSettle gives the cost back when the handler's answer says so.
func (h *handler) serveAndSettle(w http.ResponseWriter, r *http.Request, key string, d Decision) {
	sw := &statusWriter{ResponseWriter: w}
	panicked := true
	defer func() {
		status := sw.status
		switch {
		case panicked && status == 0:
			status = http.StatusInternalServerError
		case status == 0:
			status = http.StatusOK
		}
		if !h.cfg.RefundStatus(status) {
			return
		}
		// The client may be gone, and with it the request's context.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Second)
		defer cancel()
		if err := h.limiter.Refund(ctx, key, d); err != nil && h.cfg.OnError != nil {
			h.cfg.OnError(r, err)
		}
	}()
	h.next.ServeHTTP(sw, r)
	panicked = false
}

// statusWriter remembers the status; http.ResponseController reaches the rest
// of the writer through Unwrap.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Flush keeps streaming handlers that ask for http.Flusher working.
func (w *statusWriter) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
