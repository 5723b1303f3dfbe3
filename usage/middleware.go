package usage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// MiddlewareConfig says what a request costs.
type MiddlewareConfig struct {
	// Account says who is asking. An error is answered with 401.
	Account func(*http.Request) (string, error)
	Meter   string
	// Units is how many units a request asks for: 1 when nil.
	Units func(*http.Request) int64
	// Key makes a request idempotent, from its Idempotency-Key field for
	// example. Nil or empty: each request counts.
	Key func(*http.Request) string
	// Success says whether a response of the status is to be counted: below
	// 400 when nil.
	Success func(status int) bool
	// Record also stores an event for each counted request; see Use.
	Record bool
	// Refused adds members to the answer of a refused request, such as the
	// plan that would allow more.
	Refused func(*http.Request, Decision) map[string]any
}

// commitTimeout bounds how long a response's use is tried to be counted after
// the handler has returned.
const commitTimeout = 5 * time.Second

// Middleware reserves units before the handler runs, and commits them after a
// successful response or gives them back after another one, or after a panic.
// A request beyond the quota is answered with 402 and never reaches the
// handler. The handler can say what it has really used with UseOf.
func (s *Service) Middleware(cfg MiddlewareConfig) (func(http.Handler) http.Handler, error) {
	if cfg.Account == nil {
		return nil, errors.New("usage: MiddlewareConfig.Account is missing: it says who is asking")
	}
	if _, err := s.Meter(cfg.Meter); err != nil {
		return nil, fmt.Errorf("usage: MiddlewareConfig.Meter: %w", err)
	}
	if cfg.Success == nil {
		cfg.Success = func(status int) bool { return status < 400 }
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.guard(cfg, next, w, r) })
	}, nil
}

// Use is what a request is going to be charged.
type Use struct {
	mu         sync.Mutex
	units      int64
	properties Properties
}

// Set says what the request has really used, and the properties of its event.
func (u *Use) Set(units int64, properties ...Property) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.units, u.properties = units, properties
}

type useKey struct{}

// UseOf returns the request's use inside Middleware, and nil elsewhere; a nil
// Use takes Set and does nothing.
func UseOf(ctx context.Context) *Use {
	u, _ := ctx.Value(useKey{}).(*Use)
	return u
}

func (s *Service) guard(cfg MiddlewareConfig, next http.Handler, w http.ResponseWriter, r *http.Request) {
	account, err := cfg.Account(r)
	if err != nil || account == "" {
		problem.Write(w, problem.Details{Status: http.StatusUnauthorized, Code: "unauthenticated", Detail: "Sign in, or send a key."})
		return
	}
	req := Request{Account: account, Meter: cfg.Meter, N: 1}
	if cfg.Units != nil {
		req.N = cfg.Units(r)
	}
	if cfg.Key != nil {
		req.Key = cfg.Key(r)
	}
	res, err := s.Reserve(r.Context(), req)
	if err != nil {
		writeError(w, err)
		return
	}
	if !res.Allowed {
		refuse(cfg, w, r, res.Decision)
		return
	}
	use := &Use{units: req.N}
	rec := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	counted := false
	defer func() {
		if !counted { // a panic: net/http or the caller's own recovery goes on with it
			s.finish(r, res, nil)
		}
	}()
	next.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), useKey{}, use)))
	counted = true
	if cfg.Success(rec.status) {
		s.finish(r, res, func(ctx context.Context) error {
			use.mu.Lock()
			defer use.mu.Unlock()
			var err error
			if cfg.Record {
				_, err = res.CommitEvent(ctx, use.units, use.properties...)
				if !errors.Is(err, ErrInvalid) {
					return err
				}
				// An event that can't be stored mustn't make the use free.
				s.cfg.Logger.ErrorContext(ctx, "usage: a request's event is malformed", "reservation", res.Key, "error", err)
			}
			_, err = res.Commit(ctx, use.units)
			return err
		})
	} else {
		s.finish(r, res, nil)
	}
}

// finish commits, or releases without a commit. The response is out already,
// so that its client can neither wait nor be told: what fails is tried again
// for a while, and logged.
func (s *Service) finish(r *http.Request, res *Reservation, commit func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), commitTimeout)
	defer cancel()
	act := commit
	if act == nil {
		act = res.Release
	}
	err := act(ctx)
	for wait := minBackoff; err != nil && !isKind(err) && !errors.Is(err, ErrSettled) && !errors.Is(err, ErrKeyReused); wait *= 2 {
		select {
		case <-ctx.Done():
			s.cfg.Logger.ErrorContext(ctx, "usage: a request's use was not counted", "reservation", res.Key, "error", err)
			return
		case <-time.After(wait):
			err = act(ctx)
		}
	}
	// A replayed request has been settled by the first one.
	if err != nil && (!errors.Is(err, ErrSettled) || !res.Replayed) {
		s.cfg.Logger.ErrorContext(ctx, "usage: a request's use was not counted", "reservation", res.Key, "error", err)
	}
}

func refuse(cfg MiddlewareConfig, w http.ResponseWriter, r *http.Request, d Decision) {
	extra := map[string]any{}
	if cfg.Refused != nil {
		extra = cfg.Refused(r, d)
		if extra == nil {
			extra = map[string]any{}
		}
	}
	extra["meter"], extra["used"], extra["held"], extra["limit"], extra["reset"] = d.Meter, d.Used, d.Held, d.Limit, d.Reset()
	problem.Write(w, problem.Details{
		Status: http.StatusPaymentRequired, Code: "quota_exceeded",
		Detail: fmt.Sprintf("%d of %d %s are used until %s.", d.Used+d.Held, d.Limit, d.Meter, d.Reset().Format(time.RFC3339)),
		Extra:  extra,
	})
}

// statusWriter remembers the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (w *statusWriter) WriteHeader(status int) {
	if !w.wrote && status >= 200 {
		w.status, w.wrote = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach what the server's writer can do.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
