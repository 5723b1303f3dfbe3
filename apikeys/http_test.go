package apikeys_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
)

// request sends one request with the given headers ("Name: value") through
// the middleware and returns the answer and the problem's code.
func request(h http.Handler, target string, headers ...string) (*httptest.ResponseRecorder, string) {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var p struct{ Code string }
	_ = json.Unmarshal(w.Body.Bytes(), &p) // an answer that isn't a problem has no code
	return w, p.Code
}

func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "account=%s authorization=%q key=%q", apikeys.FromContext(r.Context()).Account(), r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"))
}

func TestMiddlewareTakesExactlyOneKey(t *testing.T) {
	s := newService(t, mem())
	token, _ := issue(t, s, apikeys.NewKey{})
	other, _ := issue(t, s, apikeys.NewKey{})
	h := s.Middleware(apikeys.MiddlewareConfig{})(http.HandlerFunc(echo))
	for name, tc := range map[string]struct {
		target  string
		headers []string
		status  int
		code    string
	}{
		"bearer":           {"/", []string{"Authorization: Bearer " + token}, 200, ""},
		"bearer lower":     {"/", []string{"Authorization: bearer  " + token}, 200, ""},
		"x-api-key":        {"/", []string{"X-API-Key: " + token}, 200, ""},
		"none":             {"/", nil, 401, "missing_key"},
		"basic":            {"/", []string{"Authorization: Basic dTpw"}, 401, "missing_key"},
		"bearer alone":     {"/", []string{"Authorization: Bearer "}, 401, "missing_key"},
		"short scheme":     {"/", []string{"Authorization: Bear"}, 401, "missing_key"},
		"empty":            {"/", []string{"X-API-Key: "}, 401, "missing_key"},
		"both":             {"/", []string{"Authorization: Bearer " + token, "X-API-Key: " + token}, 400, "ambiguous_key"},
		"basic and key":    {"/", []string{"Authorization: Basic dTpw", "X-API-Key: " + token}, 400, "ambiguous_key"},
		"two keys":         {"/", []string{"X-API-Key: " + token, "X-API-Key: " + other}, 400, "ambiguous_key"},
		"two in one":       {"/", []string{"X-API-Key: " + token + ", " + other}, 401, "invalid_key"},
		"129 bytes":        {"/", []string{"X-API-Key: " + strings.Repeat("a", 129)}, 400, "ambiguous_key"},
		"a megabyte":       {"/", []string{"X-API-Key: " + strings.Repeat("a", 1<<20)}, 400, "ambiguous_key"},
		"line break":       {"/", []string{"X-API-Key: " + token + "\r\nX-Evil: 1"}, 401, "invalid_key"},
		"query":            {"/?api_key=" + token, []string{"X-API-Key: " + token}, 400, "key_in_query"},
		"query alone":      {"/?x=1&k=" + token, nil, 400, "key_in_query"},
		"prefix in query":  {"/?q=acme_live_", []string{"X-API-Key: " + token}, 200, ""},
		"malformed":        {"/", []string{"X-API-Key: nonsense"}, 401, "invalid_key"},
		"forged":           {"/", []string{"X-API-Key: " + forge("acme_live_", 7)}, 401, "invalid_key"},
		"hash as bearer":   {"/", []string{"Authorization: Bearer 6d9f2a"}, 401, "invalid_key"},
		"other header":     {"/", []string{"Api-Key: " + token}, 401, "missing_key"},
		"cookie is no key": {"/", []string{"Cookie: key=" + token}, 401, "missing_key"},
	} {
		w, code := request(h, tc.target, tc.headers...)
		require.Equal(t, tc.status, w.Code, name)
		require.Equal(t, tc.code, code, name)
		if w.Code == 200 {
			require.Equal(t, `account=acct_1 authorization="" key=""`, w.Body.String(), name)
			continue
		}
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"), name)
		require.Equal(t, w.Code == 401, w.Header().Get("WWW-Authenticate") != "", name)
		require.NotContains(t, w.Body.String()+fmt.Sprint(w.Header()), token, name)
	}
}

func TestRefusalsOfUnknownAndMalformedKeysAreTheSame(t *testing.T) {
	s := newService(t, mem())
	h := s.Middleware(apikeys.MiddlewareConfig{})(http.HandlerFunc(echo))
	a, _ := request(h, "/", "X-API-Key: nonsense")
	b, _ := request(h, "/", "X-API-Key: "+forge("acme_live_", 7))
	require.Equal(t, a.Body.String(), b.Body.String())
	require.Equal(t, a.Header(), b.Header())
}

func TestMiddlewareSaysWhy(t *testing.T) {
	c, store := newClock(), mem()
	s := newService(t, store, at(c))
	heard := map[apikeys.Reason]string{}
	h := s.Middleware(apikeys.MiddlewareConfig{Refused: func(_ *http.Request, reason apikeys.Reason, key string) { heard[reason] = key }})(http.HandlerFunc(echo))
	yes := true
	for code, end := range map[string]func(id string) error{
		"key_revoked":  func(id string) error { return s.Revoke(ctx, op, id, "") },
		"key_disabled": func(id string) error { _, err := s.Update(ctx, op, id, apikeys.Update{Disabled: &yes}); return err },
		"key_replaced": func(id string) error { _, _, err := s.Rotate(ctx, op, id, apikeys.Rotation{}); return err },
		"key_expired": func(id string) error {
			now := c.now()
			_, err := s.Update(ctx, op, id, apikeys.Update{ExpiresAt: &now})
			return err
		},
	} {
		token, k := issue(t, s, apikeys.NewKey{})
		require.NoError(t, end(k.ID))
		w, got := request(h, "/", "X-API-Key: "+token)
		require.Equal(t, 401, w.Code)
		require.Equal(t, code, got)
		require.Equal(t, k.ID, heard[apikeys.Reason(strings.TrimPrefix(code, "key_"))])
		require.Contains(t, w.Header().Get("WWW-Authenticate"), `error="invalid_token"`)
	}
	token, _ := issue(t, s, apikeys.NewKey{Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})
	w, code := request(h, "/", "X-API-Key: "+token)
	require.Equal(t, 403, w.Code)
	require.Equal(t, "network_not_listed", code)

	fresh, _ := issue(t, s, apikeys.NewKey{})
	store.cut.Store(true)
	w, code = request(h, "/", "X-API-Key: "+fresh)
	require.Equal(t, 503, w.Code, "a fault is never 401")
	require.Equal(t, "keys_unavailable", code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

func TestForwardedAddressCountsOnlyFromTrustedProxies(t *testing.T) {
	s := newService(t, mem())
	token, _ := issue(t, s, apikeys.NewKey{Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})
	bare := s.Middleware(apikeys.MiddlewareConfig{})(http.HandlerFunc(echo))
	behind := s.Middleware(apikeys.MiddlewareConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})(http.HandlerFunc(echo))
	for _, tc := range []struct {
		h       http.Handler
		forward string
		status  int
	}{
		{bare, "203.0.113.1", 403},
		{behind, "203.0.113.1", 200},
		{behind, "203.0.113.1, 198.51.100.1", 403}, // the client wrote the left one
		{behind, "198.51.100.1, 203.0.113.1", 200},
		{behind, "203.0.113.1, 192.0.2.77", 200},
		{behind, "nonsense", 403},
	} {
		w, _ := request(tc.h, "/", "X-API-Key: "+token, "X-Forwarded-For: "+tc.forward) // from 192.0.2.1
		require.Equal(t, tc.status, w.Code, tc.forward)
	}
}

func TestReplacedKeyIsToldOfItsSunset(t *testing.T) {
	c := newClock()
	s := newService(t, mem(), at(c))
	h := s.Middleware(apikeys.MiddlewareConfig{})(http.HandlerFunc(echo))
	old, k := issue(t, s, apikeys.NewKey{})
	token, _, err := s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: 24 * time.Hour})
	require.NoError(t, err)
	w, _ := request(h, "/", "X-API-Key: "+old)
	require.Equal(t, 200, w.Code)
	require.Equal(t, fmt.Sprint("@", epoch.Unix()), w.Header().Get("Deprecation"))
	require.Equal(t, "Sun, 01 Feb 2026 12:00:00 GMT", w.Header().Get("Sunset"))
	w, _ = request(h, "/", "X-API-Key: "+token.Reveal())
	require.Empty(t, w.Header().Get("Deprecation")+w.Header().Get("Sunset"))
}

func TestLimitIsAskedOnTheLineage(t *testing.T) {
	s := newService(t, mem())
	taken := map[string]int{}
	h := s.Middleware(apikeys.MiddlewareConfig{Limit: func(_ context.Context, p *apikeys.Principal) (bool, time.Duration, error) {
		if p.Account() == "acct_broken" {
			return true, 0, errors.New("redis is down")
		}
		taken[p.Lineage()]++
		return taken[p.Lineage()] <= 3, 1500 * time.Millisecond, nil
	}})(http.HandlerFunc(echo))
	old, k := issue(t, s, apikeys.NewKey{})
	token, _, err := s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour})
	require.NoError(t, err)
	codes := []int{}
	for i := range 6 {
		w, _ := request(h, "/", "X-API-Key: "+[]string{old, token.Reveal()}[i%2])
		codes = append(codes, w.Code)
		if w.Code == 429 {
			require.Equal(t, "2", w.Header().Get("Retry-After"))
		}
	}
	require.Equal(t, []int{200, 200, 200, 429, 429, 429}, codes)
	broken, _ := issue(t, s, apikeys.NewKey{Owner: apikeys.Account("acct_broken")})
	w, code := request(h, "/", "X-API-Key: "+broken)
	require.Equal(t, 503, w.Code, "nobody passes uncounted")
	require.Equal(t, "keys_unavailable", code)
}

func TestInvalidKeysAreLimitedByNetwork(t *testing.T) {
	c, store := newClock(), mem()
	s := newService(t, store, at(c), func(cfg *apikeys.Config) { cfg.Peppers = nil })
	good, _ := issue(t, s, apikeys.NewKey{})
	cold, _ := issue(t, s, apikeys.NewKey{})
	h := s.Middleware(apikeys.MiddlewareConfig{InvalidPerMinute: 5})(http.HandlerFunc(echo))
	w, _ := request(h, "/", "X-API-Key: "+good)
	require.Equal(t, 200, w.Code)
	for i := range 10 {
		w, code := request(h, "/", "X-API-Key: acme_live_wrong")
		require.Equal(t, i >= 5, w.Code == 429)
		require.Equal(t, i >= 5, code == "too_many_invalid_keys")
	}
	w, _ = request(h, "/", "X-API-Key: "+good)
	require.Equal(t, 200, w.Code, "a key in use passes")
	w, _ = request(h, "/", "X-API-Key: "+cold)
	require.Equal(t, 429, w.Code, "the store isn't asked for this network any more")
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "198.51.100.1:1"
	r.Header.Set("X-API-Key", cold)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	require.Equal(t, 200, rec.Code, "others are")
	c.advance(time.Minute)
	w, _ = request(h, "/", "X-API-Key: acme_live_wrong")
	require.Equal(t, 401, w.Code)
	unbounded := s.Middleware(apikeys.MiddlewareConfig{InvalidPerMinute: -1})(http.HandlerFunc(echo))
	for range 200 {
		w, _ = request(unbounded, "/", "X-API-Key: acme_live_wrong")
		require.Equal(t, 401, w.Code)
	}
}

func TestRequire(t *testing.T) {
	s := newService(t, mem())
	token, _ := issue(t, s, apikeys.NewKey{Scopes: []string{"invoices:read"}})
	mw := s.Middleware(apikeys.MiddlewareConfig{})
	w, _ := request(mw(apikeys.Require("invoices:read")(http.HandlerFunc(echo))), "/", "X-API-Key: "+token)
	require.Equal(t, 200, w.Code)
	w, code := request(mw(apikeys.Require("invoices:write")(http.HandlerFunc(echo))), "/", "X-API-Key: "+token)
	require.Equal(t, 403, w.Code)
	require.Equal(t, "insufficient_scope", code)
	require.Equal(t, `Bearer error="insufficient_scope", scope="invoices:write"`, w.Header().Get("WWW-Authenticate"))
	w, _ = request(apikeys.Require("read")(http.HandlerFunc(echo)), "/")
	require.Equal(t, 401, w.Code, "without the middleware nobody passes")
}

func TestOptionsPassWhenAsked(t *testing.T) {
	s := newService(t, mem())
	for _, pass := range []bool{true, false} {
		h := s.Middleware(apikeys.MiddlewareConfig{PassOptions: pass})(http.HandlerFunc(echo))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodOptions, "/", nil))
		require.Equal(t, pass, w.Code == 200)
	}
}

func TestPrincipalOfNobodyMayDoNothing(t *testing.T) {
	p := apikeys.FromContext(ctx)
	require.Nil(t, p)
	require.False(t, p.Can("read"))
	require.Empty(t, p.KeyID()+p.Lineage()+p.Account()+p.Environment()+p.Metadata("a"))
	at, sunset := p.Replaced()
	require.True(t, at.IsZero() && sunset.IsZero())
	require.Equal(t, apikeys.Key{}, p.Key())
	require.Equal(t, apikeys.Actor{}, p.Actor())
	made := apikeys.NewPrincipal(apikeys.Key{ID: "key_1", Scopes: []string{"write"}, Owner: owner}, nil)
	require.True(t, apikeys.FromContext(apikeys.WithPrincipal(ctx, made)).Can("read"))
	require.Equal(t, apikeys.Actor{ID: "key_1", Owner: owner, Scopes: []string{"write"}}, made.Actor())
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func TestMiddlewareAllocatesTwice(t *testing.T) {
	if raceDetector {
		t.Skip("skipped: the race detector allocates")
	}
	s := newService(t, mem())
	token, _ := issue(t, s, apikeys.NewKey{})
	h := s.Middleware(apikeys.MiddlewareConfig{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	w, value := discard{http.Header{}}, []string{"Bearer " + token}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		r.Header["Authorization"] = value
		h.ServeHTTP(w, r)
	}), 2.0)
}
