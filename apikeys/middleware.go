package apikeys

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// MiddlewareConfig sets the middleware up; its zero value is good.
type MiddlewareConfig struct {
	// TrustedProxies are the networks of proxies whose X-Forwarded-For counts.
	// Without any, the client is whoever made the connection.
	TrustedProxies []netip.Prefix
	// Limit, if set, says whether the key may make this request now; if not,
	// the answer is 429 with Retry-After. Count on Principal.Lineage, so that
	// rotation doubles no limit. An error is 503: nobody passes uncounted.
	Limit func(ctx context.Context, p *Principal) (allowed bool, retryAfter time.Duration, err error)
	// InvalidPerMinute is how many invalid keys a client's network (an IPv4
	// address, an IPv6 /64) may try before the store isn't asked for it any
	// more and the answer is 429. 0 is 60; negative is no bound.
	InvalidPerMinute int
	// PassOptions lets requests with the method OPTIONS through without a key
	// and without a principal, for CORS.
	PassOptions bool
	// Refused, if set, hears of every refused request; the key's ID is empty
	// unless the token was authentic. It must not block.
	Refused func(r *http.Request, reason Reason, keyID string)
}

// ReasonMissing and the others are what Refused hears beside the reasons of a
// Decision.
const (
	ReasonMissing     Reason = "missing"       // no key in the request
	ReasonAmbiguous   Reason = "ambiguous"     // more than one, or one that is too long
	ReasonInQuery     Reason = "in_query"      // a key in the URL, where logs keep it
	ReasonTooMany     Reason = "too_many"      // too many invalid keys from here
	ReasonLimited     Reason = "limited"       // Limit said no
	ReasonUnavailable Reason = "unavailable"   // no answer: not the key's fault
	ReasonScope       Reason = "missing_scope" // Require said no
)

// Middleware authenticates requests by key: exactly one, in "Authorization:
// Bearer" or in "X-API-Key". It removes both headers, so that nothing behind
// it can log or forward a token, and puts the Principal into the context.
//
// Errors are problem details: 400 ambiguous_key and key_in_query, 401
// missing_key, invalid_key, wrong_environment, key_revoked, key_disabled,
// key_expired and key_replaced, 403 network_not_listed, 429 rate_limited and
// too_many_invalid_keys, 503 keys_unavailable.
func (s *Service) Middleware(cfg MiddlewareConfig) func(http.Handler) http.Handler {
	if cfg.InvalidPerMinute == 0 {
		cfg.InvalidPerMinute = 60
	}
	a := &authenticator{s: s, cfg: cfg, guard: newGuard(cfg.InvalidPerMinute), marker: s.cfg.Prefix + "_"}
	a.challenge = `Bearer realm="` + s.cfg.Prefix + `"`
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, next) })
	}
}

type authenticator struct {
	s         *Service
	cfg       MiddlewareConfig
	guard     *guard
	marker    string
	challenge string
}

func (a *authenticator) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.Method == http.MethodOptions && a.cfg.PassOptions {
		next.ServeHTTP(w, r)
		return
	}
	token, reason := a.token(r)
	if reason != ReasonNone {
		a.refuse(w, r, reason, "")
		return
	}
	src := source{request: r, trusted: a.cfg.TrustedProxies, guard: a.guard}
	d, e, err := a.s.verify(r.Context(), token, &src)
	if err != nil {
		if errors.Is(err, errGuarded) {
			a.refuse(w, r, ReasonTooMany, "")
			return
		}
		a.refuse(w, r, ReasonUnavailable, "")
		return
	}
	if !d.Allowed() {
		if (d.Reason == ReasonUnknown || d.Reason == ReasonMalformed) && a.guard.count(&src, a.s.now()) {
			d.Reason = ReasonTooMany
		}
		a.refuse(w, r, d.Reason, d.KeyID)
		return
	}
	h := w.Header()
	if e.deprecation != nil {
		h["Deprecation"] = e.deprecation
		if e.sunsetAt != nil {
			h["Sunset"] = e.sunsetAt
		}
	}
	if a.cfg.Limit != nil {
		ok, retryAfter, err := a.cfg.Limit(r.Context(), d.Principal)
		switch {
		case err != nil:
			a.s.log.WarnContext(r.Context(), "apikeys: the limit of a key is unknown", "key", d.KeyID, "error", err)
			a.refuse(w, r, ReasonUnavailable, d.KeyID)
			return
		case !ok:
			seconds := int64((retryAfter + time.Second - 1) / time.Second)
			h.Set("Retry-After", strconv.FormatInt(max(seconds, 1), 10))
			a.refuse(w, r, ReasonLimited, d.KeyID)
			return
		}
	}
	next.ServeHTTP(w, r.WithContext(WithPrincipal(r.Context(), d.Principal)))
}

// token takes the one token out of the request's headers.
func (a *authenticator) token(r *http.Request) (string, Reason) {
	bearer, other := r.Header["Authorization"], r.Header["X-Api-Key"]
	if len(bearer) > 0 {
		delete(r.Header, "Authorization")
	}
	if len(other) > 0 {
		delete(r.Header, "X-Api-Key")
	}
	if r.URL.RawQuery != "" && strings.Contains(r.URL.RawQuery, a.marker) && a.inQuery(r.URL.RawQuery) {
		return "", ReasonInQuery
	}
	token := ""
	switch {
	case len(bearer)+len(other) > 1:
		return "", ReasonAmbiguous
	case len(bearer) == 1:
		const scheme = "bearer "
		if len(bearer[0]) < len(scheme) || !strings.EqualFold(bearer[0][:len(scheme)], scheme) {
			return "", ReasonMissing
		}
		token = strings.Trim(bearer[0][len(scheme):], " ")
	case len(other) == 1:
		token = other[0]
	}
	switch {
	case token == "":
		return "", ReasonMissing
	case len(token) > maxToken:
		return "", ReasonAmbiguous
	}
	return token, ReasonNone
}

// inQuery reports whether the query holds a token of ours.
func (a *authenticator) inQuery(query string) bool {
	found := false
	scanText([]byte(query), a.s.cfg.Prefix, func(int, []byte) { found = true })
	return found
}

// answers to refused requests. Unknown and malformed tokens get the same.
var answers = map[Reason]problem.Details{
	ReasonMissing:     {Status: 401, Code: "missing_key", Detail: "send your API key as Authorization: Bearer <key>, or as X-API-Key"},
	ReasonAmbiguous:   {Status: 400, Code: "ambiguous_key", Detail: "send exactly one API key, in one header, of at most 128 bytes"},
	ReasonInQuery:     {Status: 400, Code: "key_in_query", Detail: "an API key in a URL ends up in logs: rotate this one, and send it in a header"},
	ReasonMalformed:   {Status: 401, Code: "invalid_key", Detail: "this is not a valid API key"},
	ReasonUnknown:     {Status: 401, Code: "invalid_key", Detail: "this is not a valid API key"},
	ReasonEnvironment: {Status: 401, Code: "wrong_environment", Detail: "this API key belongs to another environment (such as a test key in live use)"},
	ReasonRevoked:     {Status: 401, Code: "key_revoked", Detail: "this API key has been revoked: create another one"},
	ReasonDisabled:    {Status: 401, Code: "key_disabled", Detail: "this API key is disabled: its owner can enable it"},
	ReasonExpired:     {Status: 401, Code: "key_expired", Detail: "this API key has expired: create another one"},
	ReasonReplaced:    {Status: 401, Code: "key_replaced", Detail: "this API key has been rotated: use its successor"},
	ReasonNetwork:     {Status: 403, Code: "network_not_listed", Detail: "this API key may not be used from your network"},
	ReasonTooMany:     {Status: 429, Code: "too_many_invalid_keys", Detail: "too many invalid API keys from your network: wait a minute"},
	ReasonLimited:     {Status: 429, Code: "rate_limited", Detail: "too many requests with this API key: wait as long as Retry-After says"},
	ReasonUnavailable: {Status: 503, Code: "keys_unavailable", Detail: "API keys can't be checked right now: try again"},
	ReasonScope:       {Status: 403, Code: "insufficient_scope"},
}

func (a *authenticator) refuse(w http.ResponseWriter, r *http.Request, reason Reason, keyID string) {
	if a.cfg.Refused != nil {
		a.cfg.Refused(r, reason, keyID)
	}
	answer := answers[reason]
	switch answer.Status {
	case http.StatusUnauthorized:
		challenge := a.challenge
		if reason != ReasonMissing {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusTooManyRequests:
		if reason == ReasonTooMany {
			w.Header().Set("Retry-After", "60")
		}
	}
	problem.Write(w, answer)
}

// Require lets a request through when its key's scopes cover the scope, and
// answers 403 insufficient_scope otherwise. It stands behind Middleware;
// without a principal the answer is 401. A malformed scope is covered by none.
func Require(scope string) func(http.Handler) http.Handler {
	valid := validScope(scope)
	resource, action := splitScope(scope)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p := FromContext(r.Context())
			switch {
			case p == nil:
				w.Header().Set("WWW-Authenticate", "Bearer")
				problem.Write(w, answers[ReasonMissing])
			case !valid || !p.scopes.coversValid(resource, action):
				w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope=`+strconv.Quote(scope))
				answer := answers[ReasonScope]
				answer.Detail = "this API key lacks the scope " + strconv.Quote(scope)
				answer.Extra = map[string]any{"scope": scope}
				problem.Write(w, answer)
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}
