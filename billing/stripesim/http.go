package stripesim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxBody is the largest request body that the API reads.
const maxBody = 1 << 20

// call is one request of the API.
type call struct {
	form    *form
	vars    map[string]string
	version string
	cause   cause
}

func (c *call) id() string { return c.vars["id"] }

// handler is one endpoint. It runs with the simulator's lock held.
type handler func(s *Simulator, c *call) (any, error)

type route struct {
	method  string
	pattern string
	parts   []string
	specs   []paramSpec
	do      handler
	note    string // what differs from Stripe: see Fidelity
}

func (rt *route) match(method string, parts []string) (map[string]string, bool) {
	if rt.method != method || len(rt.parts) != len(parts) {
		return nil, false
	}
	vars := map[string]string{}
	for i, part := range rt.parts {
		if strings.HasPrefix(part, "{") {
			vars[strings.Trim(part, "{}")] = parts[i]
		} else if part != parts[i] {
			return nil, false
		}
	}
	return vars, true
}

// offered refuses endpoints and parameters that a later API version took
// away.
func (rt *route) offered(rank int, f *form) error {
	if rank < vBasil {
		return nil
	}
	switch rt.pattern {
	case "/v1/invoices/upcoming", "/v1/invoices/upcoming/lines", "/v1/subscription_items/{id}/usage_records", "/v1/subscription_items/{id}/usage_record_summaries":
		return &apiError{
			status: http.StatusNotFound, kind: "invalid_request_error",
			message: "Unrecognized request URL (" + rt.method + ": " + rt.pattern + "). This API version doesn't have it.",
		}
	case "/v1/subscriptions", "/v1/subscriptions/{id}", "/v1/customers", "/v1/customers/{id}":
		for _, name := range []string{"coupon", "promotion_code"} {
			if f.has(name) {
				return badRequest("parameter_unknown", name, "Received unknown parameter: %s. Use discounts in this API version.", name)
			}
		}
	case "/v1/prices":
		if rt.method == http.MethodPost && (f.has("recurring.aggregate_usage") || f.str("recurring.usage_type") == "metered" && !f.has("recurring.meter")) {
			return badRequest("", "recurring[meter]", "A metered price needs a meter in this API version.")
		}
	}
	return nil
}

// Handler returns the API under /v1/ and the hosted pages. It can be mounted
// at the root, or under the path of Config.BaseURL, with or without
// http.StripPrefix.
func (s *Simulator) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Simulator) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if s.base != nil && s.base.Path != "" {
		if rest, ok := strings.CutPrefix(path, s.base.Path); ok && strings.HasPrefix(rest, "/") {
			path = rest
		}
	}
	if strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v2/") {
		s.serveAPI(w, r, path)
		return
	}
	s.servePage(w, r, path)
}

// answer is a response of the API.
type answer struct {
	status    int
	body      []byte
	requestID string
	replayed  bool
	save      bool // for the same idempotency key
	header    map[string]string
}

// savedAnswer is what a request with an idempotency key got.
type savedAnswer struct {
	method, path, params string
	answer               answer
	at                   int64
}

// idempotencyLife is how long an answer is replayed.
const idempotencyLife = 24 * time.Hour

func (s *Simulator) serveAPI(w http.ResponseWriter, r *http.Request, path string) {
	s.mu.Lock()
	id := s.newID("req_")
	s.mu.Unlock()

	fault := s.takeFault(r.Method, path)
	if fault != nil && fault.before(r.Context(), w, id) {
		return
	}
	version := s.cfg.APIVersion
	if h := r.Header.Get("Stripe-Version"); h != "" {
		version = h
	}
	got := s.answerTo(r, path, version, id)
	if fault != nil && fault.after(r.Context(), w) {
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Request-Id", got.requestID)
	h.Set("Stripe-Version", version)
	h.Set("Cache-Control", "no-store")
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		h.Set("Idempotency-Key", key)
		h.Set("Original-Request", got.requestID)
	}
	if got.replayed {
		h.Set("Idempotent-Replayed", "true")
		h.Set("Request-Id", id)
	}
	for name, value := range got.header {
		h.Set(name, value)
	}
	w.WriteHeader(got.status)
	w.Write(got.body)
}

// answerTo runs a request and always has an answer.
func (s *Simulator) answerTo(r *http.Request, path, version, requestID string) answer {
	fail := func(err error) answer { return failed(err, requestID) }
	if err := s.authorize(r); err != nil {
		return fail(err)
	}
	if versionRank(version) < 0 {
		return fail(badRequest("", "", "Invalid Stripe API version: %s. The simulator renders %s.", clip(version), strings.Join(Versions(), ", ")))
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	rt, vars := s.route(r.Method, parts)
	if rt == nil {
		return fail(unsupported(r.Method + " " + path))
	}
	if r.Header.Get("Stripe-Account") != "" {
		return fail(unsupported("header Stripe-Account"))
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			e := badRequest("", "", "The request is larger than %d bytes", maxBody)
			e.status = http.StatusRequestEntityTooLarge
			return fail(e)
		}
		return fail(badRequest("", "", "The request's body could not be read"))
	}
	if ct := r.Header.Get("Content-Type"); len(body) > 0 && !strings.HasPrefix(ct, "application/x-www-form-urlencoded") {
		return fail(unsupported("content type " + clip(ct)))
	}
	f, err := parseForm(r.URL.RawQuery, string(body))
	if err != nil {
		return fail(err)
	}
	if err := rt.offered(versionRank(version), f); err != nil {
		return fail(err)
	}
	if err := checkForm(f, rt.specs); err != nil {
		return fail(err)
	}
	expand, err := parseExpand(f.strings("expand"))
	if err != nil {
		return fail(err)
	}
	c := &call{form: f, vars: vars, version: version, cause: cause{requestID: requestID}}
	key := r.Header.Get("Idempotency-Key")
	if key == "" || r.Method != http.MethodPost {
		return s.run(r, rt, c, expand)
	}
	if len(key) > 255 {
		return fail(badRequest("", "", "Idempotency keys can have up to 255 characters, but you passed in one with %d characters.", len(key)))
	}
	c.cause.idempotencyKey = key
	return s.runOnce(r, rt, c, expand, key, path, f.canonical(""))
}

// runOnce runs a request unless its idempotency key has an answer already.
func (s *Simulator) runOnce(r *http.Request, rt *route, c *call, expand tree, key, path, params string) answer {
	s.mu.Lock()
	if s.busy[key] {
		s.mu.Unlock()
		return failed(&apiError{
			status: http.StatusConflict, kind: "idempotency_error", code: "idempotency_key_in_use",
			message: "There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through). Please try again later.",
		}, c.cause.requestID)
	}
	if saved := s.saved[key]; saved != nil && s.at("") < saved.at+int64(idempotencyLife/time.Second) {
		s.mu.Unlock()
		if saved.method != r.Method || saved.path != path {
			return failed(idempotencyMismatch("Keys for idempotent requests can only be used for the same endpoint they were first used for ('%s' vs '%s').", saved.path, path), c.cause.requestID)
		}
		if saved.params != params {
			return failed(idempotencyMismatch("Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '%s' if you meant to execute a different request.", clip(key)), c.cause.requestID)
		}
		replay := saved.answer
		replay.replayed = true
		return replay
	}
	s.busy[key] = true
	s.mu.Unlock()

	var got answer
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, key)
		if got.save {
			s.saved[key] = &savedAnswer{method: r.Method, path: path, params: params, answer: got, at: s.at("")}
		}
	}()
	got = s.run(r, rt, c, expand)
	return got
}

func idempotencyMismatch(format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, kind: "idempotency_error", message: fmt.Sprintf(format, args...)}
}

// run runs an endpoint under the lock, with everything that is due done
// before.
func (s *Simulator) run(r *http.Request, rt *route, c *call, expand tree) answer {
	out, err := s.locked(r, rt, c, expand)
	s.pump()
	if err != nil {
		got := failed(err, c.cause.requestID)
		var api *apiError
		got.save = errors.As(err, &api) && api.saved
		return got
	}
	body, err := encode(out)
	if err != nil {
		return failed(err, c.cause.requestID)
	}
	return answer{status: http.StatusOK, body: body, requestID: c.cause.requestID, save: true}
}

// locked is the part of run that holds the lock: and gives it back whatever
// happens.
func (s *Simulator) locked(r *http.Request, rt *route, c *call, expand tree) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &apiError{status: http.StatusServiceUnavailable, kind: "api_error", message: "stripesim is closed"}
	}
	s.noteOrigin(r)
	s.catchUp()
	s.cause = c.cause
	defer func() { s.cause = cause{} }()
	result, err := rt.do(s, c)
	if err == nil {
		return s.present(result, c.version, expand, "")
	}
	var api *apiError
	if errors.As(err, &api) && api.with != nil {
		api.with = s.shown(api.with, c.version)
	}
	return nil, err
}

// noteOrigin remembers where requests come in, for links without BaseURL.
func (s *Simulator) noteOrigin(r *http.Request) {
	if s.base != nil {
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	s.origin = scheme + "://" + r.Host
}

func (s *Simulator) route(method string, parts []string) (*route, map[string]string) {
	var best *route
	var bestVars map[string]string
	for _, rt := range s.routes {
		if vars, ok := rt.match(method, parts); ok && (best == nil || len(vars) < len(bestVars)) {
			best, bestVars = rt, vars
		}
	}
	return best, bestVars
}

// authorize checks the key, as a bearer token or as the user of basic
// authentication.
func (s *Simulator) authorize(r *http.Request) error {
	key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		key, _, _ = r.BasicAuth()
	}
	unauthorized := func(format string, args ...any) error {
		return &apiError{status: http.StatusUnauthorized, kind: "invalid_request_error", message: fmt.Sprintf(format, args...)}
	}
	switch {
	case key == "":
		return unauthorized("You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').")
	case live(key):
		return unauthorized("A live key was sent to a simulator. Nothing was done; check which URL the application uses.")
	case key != s.cfg.SecretKey:
		return unauthorized("Invalid API Key provided: %s", masked(key))
	}
	return nil
}

func masked(key string) string {
	if len(key) < 12 {
		return "****"
	}
	return key[:8] + "****" + key[len(key)-4:]
}

func failed(err error, requestID string) answer {
	var api *apiError
	if !errors.As(err, &api) {
		api = &apiError{status: http.StatusInternalServerError, kind: "api_error", message: err.Error()}
	}
	body, encErr := encode(object{"error": api.render(requestID)})
	if encErr != nil {
		body = []byte(`{"error":{"type":"api_error","message":"the error could not be rendered"}}`)
	}
	got := answer{status: api.status, body: body, requestID: requestID}
	if api.status == http.StatusNotImplemented {
		got.header = map[string]string{"Stripe-Should-Retry": "false"}
	}
	return got
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Run keeps a running clock's renewals, retries and expiries coming while
// nobody asks, once a second, until ctx ends. It returns ctx's error. Without
// it they happen with the next request.
func (s *Simulator) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			s.mu.Lock()
			s.catchUp()
			s.mu.Unlock()
			s.pump()
		}
	}
}
