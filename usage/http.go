package usage

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// HandlerConfig says who may ask what.
type HandlerConfig struct {
	// Account says who is asking. An error is answered with 401.
	Account func(*http.Request) (string, error)
	// Trusted says that a request may name any account: "account" in the
	// query, the account of each event. Others get and record their own. Nil
	// trusts nobody.
	Trusted func(*http.Request) bool
	// MaxBody bounds an ingest request: 1 MiB when zero.
	MaxBody int64
}

// Handler returns endpoints to mount under any prefix, with http.StripPrefix:
//
//	POST /events   an event, a batch or CloudEvents; 202 with a result for each
//	GET  /summary  ?meter= &from= &to= &group_by= &account=
//	GET  /series   the same, &step= &measure=; as CSV with Accept: text/csv
//	GET  /quota    ?meter=; with the grants of which something is left or to come
//	GET  /forecast ?meter=
//
// Instants are RFC 3339. Errors are problem details (RFC 9457).
func (s *Service) Handler(cfg HandlerConfig) (http.Handler, error) {
	if cfg.Account == nil {
		return nil, errors.New("usage: HandlerConfig.Account is missing: it says who is asking")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	h := &handler{svc: s, cfg: cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /events", h.ingest)
	mux.HandleFunc("GET /summary", h.query(func(r *http.Request, q Query) (any, error) { return s.Summary(r.Context(), q) }))
	mux.HandleFunc("GET /series", h.series)
	mux.HandleFunc("GET /quota", h.query(func(r *http.Request, q Query) (any, error) {
		return s.standing(r.Context(), q.Account, q.Meter)
	}))
	mux.HandleFunc("GET /forecast", h.query(func(r *http.Request, q Query) (any, error) {
		return s.Forecast(r.Context(), q.Account, q.Meter)
	}))
	return mux, nil
}

// standing is a quota with the grants that count in.
type standing struct {
	Decision
	Grants []standingGrant `json:"grants"`
}

type standingGrant struct {
	Key       string    `json:"key"`
	Note      string    `json:"note,omitempty"`
	Remaining int64     `json:"remaining"`
	Held      int64     `json:"held"`
	Start     time.Time `json:"start"`
	End       time.Time `json:"end,omitzero"`
	// Next is how many units come at End, and Rollover how many of these may
	// stay, Unlimited for all.
	Next     int64 `json:"next,omitempty"`
	Rollover int64 `json:"rollover,omitempty"`
}

func (s *Service) standing(ctx context.Context, account, meter string) (standing, error) {
	d, err := s.Quota(ctx, account, meter)
	if err != nil {
		return standing{}, err
	}
	w, err := s.wallet(ctx, account, meter)
	if err != nil {
		return standing{}, err
	}
	out := standing{Decision: d, Grants: []standingGrant{}}
	for _, l := range w.Open(s.now()) {
		g := standingGrant{Key: l.Key, Note: l.Note, Remaining: l.Remaining(), Held: l.Held, Start: l.Start, End: l.End}
		if l.follows() {
			g.Next, g.Rollover = l.Amount, l.Rollover
		}
		out.Grants = append(out.Grants, g)
	}
	return out, nil
}

type handler struct {
	svc *Service
	cfg HandlerConfig
}

// account returns who is asking, or answers the request.
func (h *handler) account(w http.ResponseWriter, r *http.Request) (account string, trusted, ok bool) {
	account, err := h.cfg.Account(r)
	trusted = err == nil && h.cfg.Trusted != nil && h.cfg.Trusted(r)
	if err != nil || account == "" && !trusted {
		problem.Write(w, problem.Details{Status: http.StatusUnauthorized, Code: "unauthenticated", Detail: "Sign in, or send a key."})
		return "", false, false
	}
	return account, trusted, true
}

// eventResult is what became of one event of an ingest request.
type eventResult struct {
	Status string `json:"status"` // accepted or rejected
	ID     string `json:"id,omitempty"`
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"`
}

func (h *handler) ingest(w http.ResponseWriter, r *http.Request) {
	account, trusted, ok := h.account(w, r)
	if !ok {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		problem.Write(w, problem.Details{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Detail: "Send fewer events in one request."})
		return
	}
	if err != nil {
		problem.Write(w, problem.Details{Status: http.StatusBadRequest, Code: "unreadable", Detail: "The body could not be read."})
		return
	}
	events, err := DecodeEvents(r.Header, body)
	if err != nil {
		writeError(w, err)
		return
	}
	for i := range events {
		if events[i].Account == "" {
			events[i].Account = account
		}
		if events[i].Account != account && !trusted {
			problem.Write(w, problem.Details{Status: http.StatusForbidden, Code: "other_account", Detail: "An event names another account."})
			return
		}
	}
	res, err := h.svc.RecordBatch(r.Context(), events)
	if err != nil {
		writeError(w, err)
		return
	}
	results := make([]eventResult, len(events))
	for i, id := range res.IDs {
		results[i] = eventResult{Status: "accepted", ID: id}
	}
	for _, bad := range res.Rejected {
		results[bad.Index] = eventResult{Status: "rejected", ID: bad.ID, Code: codeOf(bad.Err), Detail: bad.Err.Error()}
	}
	writeJSON(w, http.StatusAccepted, map[string]any{
		"stored": res.Stored, "duplicates": res.Duplicates, "rejected": len(res.Rejected), "events": results,
	})
}

// parse reads a query from the URL.
func (h *handler) parse(r *http.Request, account string, trusted bool) (Query, error) {
	v := r.URL.Query()
	q := Query{
		Account: account, Meter: v.Get("meter"), GroupBy: v.Get("group_by"), Step: Step(v.Get("step")), Measure: v.Get("measure"),
	}
	if trusted && v.Has("account") {
		q.Account = v.Get("account")
	}
	var err error
	for name, t := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		if text := v.Get(name); text != "" {
			if *t, err = time.Parse(time.RFC3339, text); err != nil {
				return q, invalid("%s is not an RFC 3339 instant", name)
			}
		}
	}
	return q, nil
}

func (h *handler) query(answer func(*http.Request, Query) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		account, trusted, ok := h.account(w, r)
		if !ok {
			return
		}
		q, err := h.parse(r, account, trusted)
		if err != nil {
			writeError(w, err)
			return
		}
		v, err := answer(r, q)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
}

func (h *handler) series(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.Header.Get("Accept"), "text/csv") {
		h.query(func(r *http.Request, q Query) (any, error) { return h.svc.Series(r.Context(), q) })(w, r)
		return
	}
	account, trusted, ok := h.account(w, r)
	if !ok {
		return
	}
	q, err := h.parse(r, account, trusted)
	var csv strings.Builder
	if err == nil {
		err = h.svc.WriteCSV(r.Context(), &csv, q)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="usage.csv"`)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, csv.String()) // the client has gone: nobody to tell
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		problem.Write(w, problem.Details{Status: http.StatusInternalServerError, Code: "internal"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client has gone: nobody to tell
}

// codes are the stable codes of errors.
var codes = []struct {
	kind   error
	code   string
	status int
}{
	{ErrUnknownMeter, "unknown_meter", http.StatusUnprocessableEntity},
	{ErrTooLate, "too_late", http.StatusUnprocessableEntity},
	{ErrInFuture, "in_future", http.StatusUnprocessableEntity},
	{ErrKeyReused, "key_reused", http.StatusConflict},
	{ErrSettled, "settled", http.StatusConflict},
	{ErrOverflow, "overflow", http.StatusUnprocessableEntity},
	{ErrInvalid, "invalid", http.StatusUnprocessableEntity},
	{ErrNoQuota, "no_quota", http.StatusNotFound},
	{ErrNotFound, "not_found", http.StatusNotFound},
	{ErrUnsupported, "unsupported", http.StatusNotImplemented},
	{ErrUnknownOutcome, "unknown_outcome", http.StatusServiceUnavailable},
	{ErrUnavailable, "unavailable", http.StatusServiceUnavailable},
}

func codeOf(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.kind) {
			return c.code
		}
	}
	return "internal"
}

// writeError answers with the error's kind. What a database says stays here.
func writeError(w http.ResponseWriter, err error) {
	for _, c := range codes {
		if !errors.Is(err, c.kind) {
			continue
		}
		d := problem.Details{Status: c.status, Code: c.code, Detail: err.Error()}
		if c.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
			d.Detail = "Usage can't be stored at the moment; the same request may be sent again."
		}
		problem.Write(w, d)
		return
	}
	problem.Write(w, problem.Details{Status: http.StatusInternalServerError, Code: "internal"})
}
