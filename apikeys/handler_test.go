package apikeys_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
)

// api is the self-service handler, mounted under a prefix, as a client sees it.
type api struct {
	t *testing.T
	h http.Handler
}

func newAPI(t *testing.T, s *apikeys.Service) api {
	h, err := s.Handler(apikeys.HandlerConfig{Actor: func(r *http.Request) (apikeys.Actor, error) {
		id := r.Header.Get("X-Account")
		if id == "" {
			return apikeys.Actor{}, errors.New("nobody")
		}
		return apikeys.Holder(id, apikeys.Account(id), "read", "write"), nil
	}})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/account/keys/", http.StripPrefix("/account/keys", h))
	mux.Handle("/account/keys", http.StripPrefix("/account/keys", h))
	return api{t, mux}
}

func (a api) do(account, method, path, body string, headers ...string) (int, map[string]any) {
	r := httptest.NewRequest(method, "/account/keys"+path, strings.NewReader(body))
	r.Header.Set("X-Account", account)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	a.h.ServeHTTP(w, r)
	var out map[string]any
	if w.Body.Len() > 0 {
		require.NoError(a.t, json.Unmarshal(w.Body.Bytes(), &out), w.Body.String())
		require.Equal(a.t, "no-store", w.Header().Get("Cache-Control"))
	}
	return w.Code, out
}

func TestHandlerServesAKeysLife(t *testing.T) {
	s := newService(t, mem(), func(c *apikeys.Config) { c.Scopes = []string{"read", "write", "admin"} })
	a := newAPI(t, s)
	code, out := a.do("acct_1", "POST", "/", `{"name":"CI","scopes":["write"],"networks":["203.0.113.7","2001:db8::/32"],"metadata":{"a":"b"}}`)
	require.Equal(t, 201, code, out)
	token := out["token"].(string)
	key := out["key"].(map[string]any)
	id := key["id"].(string)
	require.Equal(t, "active", key["status"])
	require.Equal(t, []any{"203.0.113.7/32", "2001:db8::/32"}, key["networks"])
	require.Nil(t, key["expires_at"])
	require.Equal(t, apikeys.ReasonNetwork, verify(t, s, token).Reason)

	code, out = a.do("acct_1", "PATCH", "/"+id, `{"name":"CD","networks":[],"disabled":true}`)
	require.Equal(t, 200, code, out)
	require.Equal(t, "disabled", out["status"])
	code, _ = a.do("acct_1", "PATCH", "/"+id, `{"disabled":false}`)
	require.Equal(t, 200, code)
	require.True(t, verify(t, s, token).Allowed())
	require.NoError(t, s.FlushUses(ctx))

	code, out = a.do("acct_1", "GET", "", "")
	require.Equal(t, 200, code)
	list := out["keys"].([]any)
	require.Len(t, list, 1)
	require.NotNil(t, list[0].(map[string]any)["last_used"])
	require.Equal(t, "CD", list[0].(map[string]any)["name"])
	require.Equal(t, []any{"read", "write", "admin"}, out["scopes"])
	require.NotContains(t, mustJSON(t, out), token)

	code, out = a.do("acct_1", "POST", "/"+id+"/rotate", `{"overlap_seconds":3600}`)
	require.Equal(t, 201, code, out)
	require.NotEqual(t, token, out["token"])
	require.True(t, verify(t, s, out["token"].(string)).Allowed())
	next := out["key"].(map[string]any)["id"].(string)
	code, out = a.do("acct_1", "POST", "/"+id+"/rotate", `{}`)
	require.Equal(t, 409, code)
	require.Equal(t, next, out["successor"])
	code, out = a.do("acct_1", "GET", "/"+id+"/lineage", "")
	require.Equal(t, 200, code)
	require.Len(t, out["keys"], 2)

	code, _ = a.do("acct_1", "DELETE", "/"+id+"?reason=lost", "")
	require.Equal(t, 204, code)
	require.Equal(t, apikeys.ReasonRevoked, verify(t, s, token).Reason)
	code, out = a.do("acct_1", "GET", "/"+id, "")
	require.Equal(t, 200, code)
	require.Equal(t, "revoked", out["status"])
	require.Equal(t, "lost", out["revoked_for"])
	code, out = a.do("acct_1", "GET", "/"+id+"/history", "")
	require.Equal(t, 200, code)
	var actions []string
	for _, e := range out["entries"].([]any) {
		actions = append(actions, e.(map[string]any)["action"].(string))
	}
	require.Equal(t, []string{"issued", "updated", "updated", "rotated", "revoked"}, actions)
	code, out = a.do("acct_1", "GET", "/"+id+"/history?after=4", "")
	require.Equal(t, 200, code)
	require.NotEmpty(t, out["entries"])
}

func mustJSON(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

func TestHandlerRefuses(t *testing.T) {
	store := mem()
	s := newService(t, store, func(c *apikeys.Config) { c.MaxKeys = 1 })
	a := newAPI(t, s)
	code, out := a.do("acct_1", "POST", "/", `{"name":"CI","scopes":["read"]}`)
	require.Equal(t, 201, code)
	id := out["key"].(map[string]any)["id"].(string)
	good := `{"name":"n"}`
	for name, tc := range map[string]struct {
		account, method, path, body string
		headers                     []string
		status                      int
		code                        string
	}{
		"nobody":          {"", "GET", "/", "", nil, 401, "unauthenticated"},
		"another's key":   {"acct_2", "GET", "/" + id, "", nil, 404, "not_found"},
		"another revokes": {"acct_2", "DELETE", "/" + id, "", nil, 404, "not_found"},
		"no such key":     {"acct_1", "GET", "/key_none", "", nil, 404, "not_found"},
		"bad id":          {"acct_1", "GET", "/%00", "", nil, 404, "not_found"},
		"scope not held":  {"acct_2", "POST", "/", `{"name":"n","scopes":["admin"]}`, nil, 403, "scope_not_held"},
		"no name":         {"acct_2", "POST", "/", `{}`, nil, 422, "invalid"},
		"bad network":     {"acct_2", "POST", "/", `{"name":"n","networks":["x"]}`, nil, 422, "invalid"},
		"unknown field":   {"acct_2", "POST", "/", `{"name":"n","owner":"acct_1"}`, nil, 400, "bad_request"},
		"not JSON":        {"acct_2", "POST", "/", `{`, nil, 400, "bad_request"},
		"two values":      {"acct_2", "POST", "/", good + good, nil, 400, "bad_request"},
		"form":            {"acct_2", "POST", "/", good, []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "not_json"},
		"large":           {"acct_2", "POST", "/", `{"name":"` + strings.Repeat("x", 65<<10) + `"}`, nil, 413, "too_large"},
		"cross-site":      {"acct_1", "DELETE", "/" + id, "", []string{"Sec-Fetch-Site: cross-site"}, 403, "cross_site"},
		"too many":        {"acct_1", "POST", "/", good, nil, 409, "too_many_keys"},
		"long overlap":    {"acct_1", "POST", "/" + id + "/rotate", `{"overlap_seconds":99999999}`, nil, 422, "invalid"},
		"bad limit":       {"acct_1", "GET", "/?limit=x", "", nil, 422, "invalid"},
		"bad page":        {"acct_1", "GET", "/?before=X", "", nil, 422, "invalid"},
		"bad history":     {"acct_1", "GET", "/" + id + "/history?after=-1", "", nil, 422, "invalid"},
	} {
		code, out := a.do(tc.account, tc.method, tc.path, tc.body, tc.headers...)
		require.Equal(t, tc.status, code, "%s: %v", name, out)
		require.Equal(t, tc.code, out["code"], name)
	}
	store.cut.Store(true)
	code, out = a.do("acct_1", "GET", "/", "")
	require.Equal(t, 503, code)
	require.Equal(t, "keys_unavailable", out["code"])
	require.NotContains(t, mustJSON(t, out), errCut.Error())
	_, err := s.Handler(apikeys.HandlerConfig{})
	require.ErrorIs(t, err, apikeys.ErrInvalid)
}
