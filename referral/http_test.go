package referral_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/referral"
)

// ask sends a request to a handler mounted under /referral.
func ask(h http.Handler, method, path, account, body string) (int, map[string]any, http.Header) {
	r := httptest.NewRequest(method, "/referral"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Account", account)
	rec := httptest.NewRecorder()
	http.StripPrefix("/referral", h).ServeHTTP(rec, r)
	var out map[string]any
	_ = json.Unmarshal(rec.Body.Bytes(), &out)
	return rec.Code, out, rec.Header()
}

func handlers(t testing.TB, w *world, allow *bool) (user, admin http.Handler) {
	t.Helper()
	user, err := w.service.Handler(referral.HandlerConfig{
		Campaign: "friends",
		Person: func(r *http.Request) (referral.Person, error) {
			return referral.Person{Account: r.Header.Get("Account"), Email: r.Header.Get("Account") + "@example.com"}, nil
		},
		Allow: func(*http.Request) bool { return *allow },
		Link:  func(code string) string { return "https://example.com/r/" + code },
	})
	require.NoError(t, err)
	admin, err = w.service.AdminHandler(func(r *http.Request) error {
		if r.Header.Get("Account") != "root" {
			return errors.New("no admin")
		}
		return nil
	})
	require.NoError(t, err)
	return user, admin
}

func TestHandlersAnswerAccountsAndAdmins(t *testing.T) {
	w := newWorld(t)
	w.config.Guards = []referral.Guard{func(_ context.Context, _ referral.Code, p referral.Person) (referral.Verdict, error) {
		return referral.Verdict{Review: strings.HasPrefix(p.Account, "odd"), Reason: "odd"}, nil
	}}
	w.rebuild()
	allow := true
	user, admin := handlers(t, w, &allow)
	is := func(h http.Handler, method, path, account, body string, status int, code string) map[string]any {
		t.Helper()
		got, out, header := ask(h, method, path, account, body)
		require.Equal(t, status, got, "%s %s: %v", method, path, out)
		if code != "" {
			require.Equal(t, code, out["code"])
			require.Equal(t, "application/problem+json", header.Get("Content-Type"))
		}
		require.Equal(t, "no-store", header.Get("Cache-Control"))
		return out
	}
	code := is(user, "GET", "/code", "ada", "", 200, "")["code"].(string)
	require.Equal(t, "https://example.com/r/"+code, is(user, "GET", "/code", "ada", "", 200, "")["link"])
	apply := func(text string) string { return fmt.Sprintf(`{"code":%q}`, text) }
	is(user, "GET", "/code", "", "", 401, "unauthenticated")
	is(user, "POST", "/apply", "ada", apply(code), 409, "self_referral")
	is(user, "POST", "/apply", "bob", apply("nosuch99"), 404, "unknown_code")
	is(user, "POST", "/apply", "bob", `{`, 400, "body_unreadable")
	is(user, "POST", "/apply", "bob", `{"code":"`+strings.Repeat("x", 5000)+`"}`, 413, "body_too_large")
	is(user, "POST", "/apply", "bob", `{"code":"x","more":1}`, 400, "body_unreadable")
	allow = false
	is(user, "POST", "/apply", "bob", apply(code), 429, "too_many_requests")
	allow = true
	require.Equal(t, "pending", is(user, "POST", "/apply", "bob", apply(w.service.Token(code)), 200, "")["state"])
	is(user, "POST", "/code", "bob", `{"text":"`+code+`"}`, 409, "code_taken")
	is(user, "POST", "/code", "bob", `{"text":"support"}`, 422, "invalid")
	require.Equal(t, "BOBS2026", is(user, "POST", "/code", "bob", `{"text":"bobs-2026"}`, 200, "")["code"])
	require.NotEqual(t, "BOBS2026", is(user, "POST", "/code/rotate", "bob", "", 200, "")["code"])
	is(user, "POST", "/apply", "zoe", apply("bobs2026"), 409, "code_disabled")
	w.paid("bob", 999)
	rewards := is(user, "GET", "/rewards", "ada", "", 200, "")["rewards"].([]any)
	require.Len(t, rewards, 1)
	require.Equal(t, "qualified", rewards[0].(map[string]any)["state"])
	require.NotContains(t, fmt.Sprint(rewards), "bob", "friends aren't named")
	require.EqualValues(t, 1, is(user, "GET", "/stats", "ada", "", 200, "")["qualified"])

	is(admin, "GET", "/campaigns", "ada", "", 403, "forbidden")
	require.Len(t, is(admin, "GET", "/campaigns", "root", "", 200, "")["campaigns"], 1)
	require.InDelta(t, 0.5, is(admin, "GET", "/campaigns/friends/stats?holders=2", "root", "", 200, "")["k_factor"], 0)
	is(admin, "GET", "/campaigns/none/stats", "root", "", 404, "not_found")
	is(admin, "GET", "/campaigns/friends/leaders?limit=-1", "root", "", 422, "invalid")
	require.Len(t, is(admin, "GET", "/campaigns/friends/leaders", "root", "", 200, "")["leaders"], 1)
	for _, who := range []string{"odd1", "odd2"} {
		require.Equal(t, "review", is(user, "POST", "/apply", who, apply(code), 200, "")["state"])
	}
	queue := is(admin, "GET", "/redemptions?state=review", "root", "", 200, "")["redemptions"].([]any)
	require.Len(t, queue, 2)
	id := func(i int) string { return queue[i].(map[string]any)["id"].(string) }
	require.Equal(t, "pending", is(admin, "POST", "/redemptions/"+id(0)+"/approve", "root", "", 200, "")["state"])
	is(admin, "POST", "/redemptions/"+id(0)+"/approve", "root", "", 409, "conflict")
	is(admin, "POST", "/redemptions/"+id(1)+"/reject", "root", `{}`, 422, "invalid")
	require.Equal(t, "voided", is(admin, "POST", "/redemptions/"+id(1)+"/reject", "root", `{"reason":"a ring"}`, 200, "")["state"])
	is(admin, "POST", "/redemptions/none/approve", "root", "", 404, "not_found")
	is(admin, "POST", "/codes/"+code+"/disable", "root", "", 204, "")
	is(user, "POST", "/apply", "zoe", apply(code), 409, "code_disabled")

	_, err := w.service.Handler(referral.HandlerConfig{})
	require.ErrorIs(t, err, referral.ErrInvalid)
	_, err = w.service.Handler(referral.HandlerConfig{Campaign: "none", Person: func(*http.Request) (referral.Person, error) { return referral.Person{}, nil }})
	require.ErrorIs(t, err, referral.ErrInvalid)
	_, err = w.service.AdminHandler(nil)
	require.ErrorIs(t, err, referral.ErrInvalid)
	r := httptest.NewRequest(http.MethodPost, "https://example.com/apply", strings.NewReader(apply(code)))
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	rec := httptest.NewRecorder()
	user.ServeHTTP(rec, r)
	require.Equal(t, 403, rec.Code)
}

func FuzzHandler(f *testing.F) {
	w := newWorld(&testing.T{})
	allow := true
	user, admin := handlers(f, w, &allow)
	f.Add("POST", "/apply", `{"code":"k7qm-xg4p"}`)
	f.Add("POST", "/code", `{"text":"ada"}`)
	f.Add("GET", "/redemptions?limit=9", "")
	f.Add("POST", "/redemptions/x/reject", `{"reason":"x"}`)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		for _, h := range []http.Handler{user, admin} {
			r, err := http.NewRequest(method, "/", strings.NewReader(body))
			if err != nil {
				return
			}
			at, query, _ := strings.Cut(path, "?")
			r.URL.Path, r.URL.RawQuery = at, query
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Account", "root")
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Code >= 500 {
				t.Fatalf("%s %s %q: %d", method, path, body, rec.Code)
			}
		}
	})
}
