package apikeys

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// HandlerConfig sets the self-service handler up.
type HandlerConfig struct {
	// Actor says who is signed in and what they may grant; usually a Holder.
	// An error is 401. Required.
	Actor func(*http.Request) (Actor, error)
	// MaxOverlap bounds the overlap of a rotation. 0 is 30 days.
	MaxOverlap time.Duration
}

// Handler offers an account its own keys as JSON. It mounts under any prefix
// by http.StripPrefix:
//
//	GET    /              {"keys": […], "scopes": […]}, newest first; ?before=ID&limit=N
//	POST   /              make a key; 201 with the token, which is shown this once
//	GET    /{id}          one key
//	PATCH  /{id}          change name, scopes, networks, metadata, expires_at, disabled
//	DELETE /{id}          revoke; 204; ?reason=text
//	POST   /{id}/rotate   {"overlap_seconds": 3600, "on_first_use": false}; 201 with the new token
//	GET    /{id}/lineage  the key with its predecessors and successors, and when each was last used
//	GET    /{id}/history  what was done to the key; ?after=N
//
// Bodies are JSON with Content-Type application/json. Requests that a browser
// sends from another site are refused, since Actor usually goes by a cookie.
// Errors are problem details: 400 bad_request, 401 unauthenticated, 403
// cross_site and scope_not_held, 404 not_found, 409 state and too_many_keys,
// 413 too_large, 415 not_json, 422 invalid with the field, 503 keys_unavailable.
func (s *Service) Handler(cfg HandlerConfig) (http.Handler, error) {
	if cfg.Actor == nil {
		return nil, &FieldError{"HandlerConfig.Actor", "say who is signed in"}
	}
	if cfg.MaxOverlap <= 0 {
		cfg.MaxOverlap = 30 * 24 * time.Hour
	}
	h := &handler{s: s, cfg: cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.as(h.list))
	mux.HandleFunc("POST /{$}", h.as(h.issue))
	mux.HandleFunc("GET /{id}", h.as(h.one))
	mux.HandleFunc("PATCH /{id}", h.as(h.update))
	mux.HandleFunc("DELETE /{id}", h.as(h.revoke))
	mux.HandleFunc("POST /{id}/rotate", h.as(h.rotate))
	mux.HandleFunc("GET /{id}/lineage", h.as(h.lineage))
	mux.HandleFunc("GET /{id}/history", h.as(h.history))
	crossSite := http.NewCrossOriginProtection()
	crossSite.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, problem.Details{Status: http.StatusForbidden, Code: "cross_site", Detail: "send this from the site itself"})
	}))
	return crossSite.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "" { // StripPrefix of the mount point itself
			r2 := *r
			u := *r.URL
			u.Path = "/"
			r2.URL = &u
			r = &r2
		}
		mux.ServeHTTP(w, r)
	})), nil
}

type handler struct {
	s   *Service
	cfg HandlerConfig
}

// as finds the actor, and turns an error into a problem.
func (h *handler) as(do func(w http.ResponseWriter, r *http.Request, by Actor) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		by, err := h.cfg.Actor(r)
		if err != nil || by.valid() != nil {
			problem.Write(w, problem.Details{Status: http.StatusUnauthorized, Code: "unauthenticated", Detail: "sign in first"})
			return
		}
		if err := do(w, r, by); err != nil {
			h.fail(w, r, err)
		}
	}
}

// requestError is a fault of the request itself; its detail may be shown.
type requestError struct {
	status int
	code   string
	detail string
}

func (e *requestError) Error() string { return "apikeys: " + e.detail }

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var (
		bad   *requestError
		field *FieldError
		scope *ScopeError
		state *StateError
	)
	var d problem.Details
	switch {
	case errors.As(err, &bad):
		d = problem.Details{Status: bad.status, Code: bad.code, Detail: bad.detail}
	case errors.As(err, &field):
		d = problem.Details{Status: 422, Code: "invalid", Detail: field.Field + ": " + field.Problem,
			Errors: []problem.FieldError{{Field: field.Field, Code: "invalid", Detail: field.Problem}}}
	case errors.As(err, &scope):
		d = problem.Details{Status: 403, Code: "scope_not_held", Detail: "you can't grant the scope " + strconv.Quote(scope.Scope)}
	case errors.As(err, &state):
		d = problem.Details{Status: 409, Code: "state", Detail: "this key is " + string(state.Status)}
		if state.Successor != "" {
			d.Detail = "this key has been rotated already"
			d.Extra = map[string]any{"successor": state.Successor}
		}
	case errors.Is(err, ErrLimit):
		d = problem.Details{Status: 409, Code: "too_many_keys", Detail: "revoke a key first"}
	case errors.Is(err, ErrNotFound):
		d = problem.Details{Status: 404, Code: "not_found", Detail: "no such key"}
	default:
		h.s.log.ErrorContext(r.Context(), "apikeys: a request to manage keys failed", "error", err)
		w.Header().Set("Retry-After", "1")
		d = problem.Details{Status: 503, Code: "keys_unavailable", Detail: "try again; look at the list first, the change may have been made"}
	}
	problem.Write(w, d)
}

// keyJSON is a key on the wire.
type keyJSON struct {
	ID          string            `json:"id"`
	Lineage     string            `json:"lineage"`
	Predecessor string            `json:"predecessor,omitempty"`
	Successor   string            `json:"successor,omitempty"`
	Owner       Owner             `json:"owner"`
	Name        string            `json:"name"`
	Environment string            `json:"environment"`
	Hint        string            `json:"hint"`
	Status      Status            `json:"status"`
	Scopes      []string          `json:"scopes"`
	Networks    []netip.Prefix    `json:"networks"`
	Metadata    map[string]string `json:"metadata"`
	CreatedAt   time.Time         `json:"created_at"`
	CreatedBy   string            `json:"created_by"`
	ExpiresAt   *time.Time        `json:"expires_at"`
	DisabledAt  *time.Time        `json:"disabled_at"`
	RevokedAt   *time.Time        `json:"revoked_at"`
	RevokedFor  string            `json:"revoked_for,omitempty"`
	ReplacedAt  *time.Time        `json:"replaced_at"`
	SunsetAt    *time.Time        `json:"sunset_at"`
	LastUsed    *useJSON          `json:"last_used"`
}

type useJSON struct {
	At    time.Time `json:"at"`
	Addr  string    `json:"address,omitempty"`
	Agent string    `json:"agent,omitempty"`
}

func toJSON(k *Key, now time.Time) keyJSON {
	opt := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	out := keyJSON{
		ID: k.ID, Lineage: k.Lineage, Predecessor: k.Predecessor, Successor: k.Successor, Owner: k.Owner,
		Name: k.Name, Environment: k.Environment, Hint: k.Hint, Status: k.Status(now),
		Scopes: append([]string{}, k.Scopes...), Networks: append([]netip.Prefix{}, k.Networks...), Metadata: map[string]string{},
		CreatedAt: k.CreatedAt, CreatedBy: k.CreatedBy, ExpiresAt: opt(k.ExpiresAt), DisabledAt: opt(k.DisabledAt),
		RevokedAt: opt(k.RevokedAt), RevokedFor: k.RevokedFor, ReplacedAt: opt(k.ReplacedAt), SunsetAt: opt(k.SunsetAt),
	}
	for name, v := range k.Metadata {
		out.Metadata[name] = v
	}
	if !k.LastUsed.At.IsZero() {
		out.LastUsed = &useJSON{At: k.LastUsed.At, Agent: k.LastUsed.Agent}
		if k.LastUsed.Addr.IsValid() {
			out.LastUsed.Addr = k.LastUsed.Addr.String()
		}
	}
	return out
}

func (h *handler) keys(keys []Key) []keyJSON {
	out := make([]keyJSON, 0, len(keys))
	now := h.s.now()
	for i := range keys {
		out = append(out, toJSON(&keys[i], now))
	}
	return out
}

func write(w http.ResponseWriter, status int, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody to tell
	return nil
}

// readJSON reads a body of at most 64 KiB, and no field that it doesn't know.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &requestError{415, "not_json", "send Content-Type: application/json"}
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &requestError{413, "too_large", "at most 64 KiB"}
	}
	return &requestError{400, "bad_request", "the body is not the JSON object that this expects"}
}

func (h *handler) list(w http.ResponseWriter, r *http.Request, by Actor) error {
	limit := 0
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			return &FieldError{"limit", "want 1 to 1000"}
		}
		limit = n
	}
	keys, err := h.s.List(r.Context(), by, by.Owner, r.URL.Query().Get("before"), limit)
	if err != nil {
		return err
	}
	return write(w, 200, map[string]any{"keys": h.keys(keys), "scopes": append([]string{}, h.s.cfg.Scopes...)})
}

// issued is the one answer that holds a token.
func (h *handler) issued(w http.ResponseWriter, token Token, k *Key) error {
	return write(w, 201, map[string]any{"token": token.Reveal(), "key": toJSON(k, h.s.now())})
}

func (h *handler) issue(w http.ResponseWriter, r *http.Request, by Actor) error {
	var in struct {
		Name      string            `json:"name"`
		Scopes    []string          `json:"scopes"`
		Networks  []string          `json:"networks"`
		Metadata  map[string]string `json:"metadata"`
		ExpiresAt time.Time         `json:"expires_at"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	networks, err := ParseNetworks(in.Networks)
	if err != nil {
		return err
	}
	token, k, err := h.s.Issue(r.Context(), by, NewKey{
		Owner: by.Owner, Name: in.Name, Scopes: in.Scopes, Networks: networks, Metadata: in.Metadata, ExpiresAt: in.ExpiresAt,
	})
	if err != nil {
		return err
	}
	return h.issued(w, token, &k)
}

// ParseNetworks reads networks as people write them: a CIDR range, or one
// address.
func ParseNetworks(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				return nil, &FieldError{"Networks", "want networks such as 203.0.113.0/24 or 2001:db8::/32, or single addresses"}
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		out = append(out, p)
	}
	return normalNetworks(out)
}

func (h *handler) one(w http.ResponseWriter, r *http.Request, by Actor) error {
	k, err := h.s.Key(r.Context(), by, r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, 200, toJSON(&k, h.s.now()))
}

func (h *handler) update(w http.ResponseWriter, r *http.Request, by Actor) error {
	var in struct {
		Name      *string            `json:"name"`
		Scopes    *[]string          `json:"scopes"`
		Networks  *[]string          `json:"networks"`
		Metadata  *map[string]string `json:"metadata"`
		ExpiresAt *time.Time         `json:"expires_at"`
		Disabled  *bool              `json:"disabled"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	u := Update{Name: in.Name, Scopes: in.Scopes, Metadata: in.Metadata, ExpiresAt: in.ExpiresAt, Disabled: in.Disabled}
	if in.Networks != nil {
		networks, err := ParseNetworks(*in.Networks)
		if err != nil {
			return err
		}
		u.Networks = &networks
	}
	k, err := h.s.Update(r.Context(), by, r.PathValue("id"), u)
	if err != nil {
		return err
	}
	return write(w, 200, toJSON(&k, h.s.now()))
}

func (h *handler) revoke(w http.ResponseWriter, r *http.Request, by Actor) error {
	reason := r.URL.Query().Get("reason")
	if reason == "" {
		reason = "revoked by its owner"
	}
	if err := h.s.Revoke(r.Context(), by, r.PathValue("id"), reason); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *handler) rotate(w http.ResponseWriter, r *http.Request, by Actor) error {
	var in struct {
		OverlapSeconds int64     `json:"overlap_seconds"`
		OnFirstUse     bool      `json:"on_first_use"`
		ExpiresAt      time.Time `json:"expires_at"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if in.OverlapSeconds < 0 || in.OverlapSeconds > int64(h.cfg.MaxOverlap/time.Second) {
		return &FieldError{"overlap_seconds", "want 0 to " + strconv.FormatInt(int64(h.cfg.MaxOverlap/time.Second), 10)}
	}
	token, k, err := h.s.Rotate(r.Context(), by, r.PathValue("id"), Rotation{
		Overlap: time.Duration(in.OverlapSeconds) * time.Second, OnFirstUse: in.OnFirstUse, ExpiresAt: in.ExpiresAt,
	})
	if err != nil {
		return err
	}
	return h.issued(w, token, &k)
}

func (h *handler) lineage(w http.ResponseWriter, r *http.Request, by Actor) error {
	keys, err := h.s.Lineage(r.Context(), by, r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, 200, map[string]any{"keys": h.keys(keys)})
}

func (h *handler) history(w http.ResponseWriter, r *http.Request, by Actor) error {
	var after int64
	if text := r.URL.Query().Get("after"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return &FieldError{"after", "want the seq of the last entry of the page before"}
		}
		after = n
	}
	entries, err := h.s.History(r.Context(), by, r.PathValue("id"), after)
	if err != nil {
		return err
	}
	type entryJSON struct {
		Seq    int64             `json:"seq"`
		At     time.Time         `json:"at"`
		Action string            `json:"action"`
		Actor  string            `json:"actor,omitempty"`
		Detail map[string]string `json:"detail,omitempty"`
	}
	out := make([]entryJSON, 0, len(entries))
	for _, e := range entries {
		out = append(out, entryJSON{e.Seq, e.At, e.Action, e.Actor, e.Detail})
	}
	return write(w, 200, map[string]any{"entries": out})
}
