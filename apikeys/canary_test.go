package apikeys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
)

// TestNoSecretLeavesTheService goes through everything that the service does,
// also wrongly and without a store, gathers all that it says (logs, errors,
// panics, answers, dumps, exports), and looks for parts of any token, stored
// hash or pepper. The one place where a token may appear, the answer to issue
// and rotate, is the control.
func TestNoSecretLeavesTheService(t *testing.T) {
	var said, allowed strings.Builder
	secret := bytes.Repeat([]byte("CANARY-pepper-"), 3)
	cfg := apikeys.Config{
		Prefix: "acme", Peppers: []apikeys.Pepper{{ID: 3, Secret: secret}}, MaxKeys: 20,
		Logger: slog.New(slog.NewJSONHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	store := mem()
	s, err := apikeys.New(store, cfg)
	require.NoError(t, err)
	say := func(v ...any) {
		for _, x := range v {
			fmt.Fprintf(&said, "%v %+v %#v %s %q %x\n", x, x, x, x, x, x)
			if b, err := json.Marshal(x); err == nil {
				said.Write(b)
			}
			slog.New(slog.NewTextHandler(&said, nil)).Info("x", "v", x)
			func() {
				defer func() { fmt.Fprintln(&said, recover()) }()
				panic(x)
			}()
			for err, ok := x.(error); ok && err != nil; err = errors.Unwrap(err) {
				fmt.Fprintf(&said, "%v\n", err)
			}
		}
	}
	handler, err := s.Handler(apikeys.HandlerConfig{Actor: func(*http.Request) (apikeys.Actor, error) { return person, nil }})
	require.NoError(t, err)
	guarded := s.Middleware(apikeys.MiddlewareConfig{})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		say(r.Header, r.URL, apikeys.FromContext(r.Context()), apikeys.FromContext(r.Context()).Key())
	}))
	answer := func(h http.Handler, r *http.Request, to *strings.Builder) map[string]any {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Fprintln(to, w.Header(), w.Body.String())
		var out map[string]any
		_ = json.Unmarshal(w.Body.Bytes(), &out) // some answers are empty
		return out
	}
	var tokens []string
	for range 5 {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"name":"n","scopes":["read"]}`))
		r.Header.Set("Content-Type", "application/json")
		out := answer(handler, r, &allowed)
		tokens = append(tokens, out["token"].(string))
		id := out["key"].(map[string]any)["id"].(string)
		r = httptest.NewRequest(http.MethodPost, "/"+id+"/rotate", strings.NewReader(`{"overlap_seconds":60,"on_first_use":true}`))
		r.Header.Set("Content-Type", "application/json")
		tokens = append(tokens, answer(handler, r, &allowed)["token"].(string))
	}
	token, k, err := s.Issue(ctx, op, apikeys.NewKey{Owner: owner, Name: "n", ExpiresAt: time.Now().Add(time.Hour)})
	say(token, &token, k, err, cfg, s, cfg.Peppers, apikeys.Found{Token: token})
	tokens = append(tokens, token.Reveal())
	for _, cut := range []bool{false, true} {
		store.cut.Store(cut)
		for _, text := range tokens {
			for _, header := range []string{"Authorization: Bearer " + text, "X-API-Key: " + text, "X-API-Key: " + text + "x", "X-API-Key: " + text[:58] + "0"} {
				name, value, _ := strings.Cut(header, ": ")
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set(name, value)
				answer(guarded, r, &said)
			}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.URL.RawQuery = "key=" + text
			w := httptest.NewRecorder()
			guarded.ServeHTTP(w, r)
			fmt.Fprintln(&said, w.Body)
			d, err := s.Verify(ctx, text, apikeys.Client{Agent: "a"})
			say(d, err, d.Principal)
			say(s.Revoke(ctx, op, text, ""))
			_, err = s.Update(ctx, op, text, apikeys.Update{})
			say(err)
		}
		say(s.FlushUses(ctx), s.Sync(ctx), s.Stats(), s.Rules())
		_, err := s.Import(ctx, op, []apikeys.ImportedKey{{Scheme: "none", Stored: tokens[0]}})
		say(err)
		keys, err := s.List(ctx, person, owner, "", 0)
		say(keys, err)
		_ = s.ExportSubject(ctx, owner.ID, func(record string, fields map[string]any) error { say(record, fields); return nil })
		_, err = s.VerifyAudit(ctx, apikeys.Head{})
		say(err)
		answer(handler, httptest.NewRequest(http.MethodGet, "/", nil), &said)
		_, _, err = s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour})
		say(err)
		_, _, err = s.Issue(ctx, op, apikeys.NewKey{Owner: owner})
		say(err)
	}
	store.cut.Store(false)
	entries, err := store.Log(ctx, apikeys.LogQuery{})
	say(entries, err)

	all := strings.ToLower(said.String())
	parts := map[string]string{"pepper": "CANARY", "pepper hex": hex.EncodeToString([]byte("CANARY")), "pepper base64": base64.StdEncoding.EncodeToString(secret)[:12]}
	for i, text := range tokens {
		parts[fmt.Sprint("token ", i)] = text[14:26]
		parts[fmt.Sprint("tail ", i)] = text[48:]
		parts[fmt.Sprint("token hex ", i)] = hex.EncodeToString([]byte(text[14:26]))
		parts[fmt.Sprint("token base64 ", i)] = base64.StdEncoding.EncodeToString([]byte(text))[20:40]
		require.True(t, i == len(tokens)-1 || strings.Contains(allowed.String(), text[14:26]), "the control: it is in the one place")
	}
	keys, err := store.List(ctx, apikeys.Query{Owner: owner})
	require.NoError(t, err)
	for _, k := range keys {
		hash := record(t, store, k.ID).Hash
		parts["hash of "+k.ID] = hex.EncodeToString(hash[:6])
		parts["hash base64 of "+k.ID] = base64.StdEncoding.EncodeToString(hash[:])[:12]
		parts["hash bytes of "+k.ID] = strings.Trim(fmt.Sprintf("%d", hash[:4]), "[]")
	}
	for what, part := range parts {
		if strings.Contains(all, strings.ToLower(part)) {
			t.Errorf("%s got out", what)
		}
	}
	require.Greater(t, len(all), 10_000)
}
