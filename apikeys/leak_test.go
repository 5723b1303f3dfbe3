package apikeys_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
)

func scan(t *testing.T, s *apikeys.Service, r io.Reader) map[int64]string {
	found := map[int64]string{}
	require.NoError(t, s.Scan(r, func(f apikeys.Found) error {
		_, twice := found[f.Offset]
		require.False(t, twice)
		found[f.Offset] = f.Token.Reveal()
		return nil
	}))
	return found
}

// TestScanFindsEveryTokenWhereverBlocksEnd hides tokens in a large text and
// reads it in pieces of every kind.
func TestScanFindsEveryTokenWhereverBlocksEnd(t *testing.T) {
	store := mem()
	live := newService(t, store)
	testing := newService(t, store, func(c *apikeys.Config) { c.Environment = "test" })
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	var text bytes.Buffer
	want := map[int64]string{}
	for i := range 300 {
		for range rng.IntN(2000) {
			text.WriteByte("acme_live_\n xyz09"[rng.IntN(17)])
		}
		token, _ := issue(t, []*apikeys.Service{live, testing}[i%2], apikeys.NewKey{})
		want[int64(text.Len())] = token
		text.WriteString(token)
		text.WriteString("acme_live_" + token[11:]) // one character short
	}
	require.Equal(t, want, scan(t, live, bytes.NewReader(text.Bytes())))
	require.Equal(t, want, scan(t, live, iotest.HalfReader(bytes.NewReader(text.Bytes()))))
	require.Equal(t, want, scan(t, live, iotest.DataErrReader(bytes.NewReader(text.Bytes()))))
	short := text.Bytes()[:100_000]
	require.Equal(t, scan(t, live, bytes.NewReader(short)), scan(t, live, iotest.OneByteReader(bytes.NewReader(short))))
	require.ErrorIs(t, live.Scan(iotest.ErrReader(errCut), nil), errCut)
	stop := errors.New("stop")
	require.ErrorIs(t, live.Scan(bytes.NewReader(text.Bytes()), func(apikeys.Found) error { return stop }), stop)
}

func TestScanFindsNothingInNoise(t *testing.T) {
	s := newService(t, mem())
	noise := make([]byte, proof(1<<20, 1<<28))
	chacha := mathrand.NewChaCha8([32]byte{})
	_, _ = chacha.Read(noise) // never fails
	for i := range noise {
		noise[i] = "acme_live_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[int(noise[i])%72]
	}
	for i := 0; i+59 < len(noise); i += 100 {
		copy(noise[i:], "acme_live_")
	}
	require.Empty(t, scan(t, s, bytes.NewReader(noise)))
}

func TestRulesMatchTokens(t *testing.T) {
	s := newService(t, mem())
	rules := s.Rules()
	re := regexp.MustCompile(rules.Pattern)
	token, _ := issue(t, s, apikeys.NewKey{})
	require.Equal(t, token, re.FindString("key = \""+token+"\""))
	require.Contains(t, rules.Gitleaks, rules.Pattern)
	require.False(t, re.MatchString(token[:len(token)-1]))
}

func TestGitHubReportRevokesTheKey(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	store := mem()
	s := newService(t, store)
	var told []apikeys.Leak
	config := apikeys.LeakConfig{
		Keys: func(context.Context) (map[string]*ecdsa.PublicKey, error) {
			return map[string]*ecdsa.PublicKey{"k1": &private.PublicKey}, nil
		},
		Notify: func(_ context.Context, l apikeys.Leak) error {
			told = append(told, l)
			return errors.New("mail is down")
		},
	}
	h := s.GitHubLeaks(config)
	post := func(h http.Handler, key *ecdsa.PrivateKey, id, body string) *httptest.ResponseRecorder {
		sum := sha256.Sum256([]byte(body))
		sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		require.NoError(t, err)
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Github-Public-Key-Identifier", id)
		r.Header.Set("Github-Public-Key-Signature", base64.StdEncoding.EncodeToString(sig))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	token, k := issue(t, s, apikeys.NewKey{})
	verify(t, s, token)
	body := `[{"token":"` + token + `","type":"acme_api_key","url":"https://example.com/` + token + `","source":"commit"},
		{"token":"` + forge("acme_live_", 3) + `","type":"acme_api_key","url":"","source":""},{"token":"","type":"x"}]`

	require.Equal(t, 401, post(h, stranger, "k1", body).Code)
	require.Equal(t, 401, post(h, private, "k2", body).Code)
	require.Equal(t, 401, post(h, private, "", body).Code)
	tamperedBody := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body+" "))
	tamperedBody.Header.Set("Github-Public-Key-Identifier", "k1")
	tamperedBody.Header.Set("Github-Public-Key-Signature", "%%%")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, tamperedBody)
	require.Equal(t, 401, w.Code)
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, 405, w.Code)
	require.Equal(t, 400, post(h, private, "k1", "{").Code)
	require.Equal(t, 413, post(h, private, "k1", strings.Repeat(" ", 1<<20+1)).Code)
	require.True(t, verify(t, s, token).Allowed(), "nothing of that has touched the key")

	store.cut.Store(true)
	require.Equal(t, 503, post(h, private, "k1", body).Code, "GitHub must come again")
	store.cut.Store(false)
	for i := range 2 { // and may come again
		w = post(h, private, "k1", body)
		require.Equal(t, 200, w.Code)
		var feedback []map[string]string
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &feedback))
		require.Equal(t, "true_positive", feedback[0]["label"])
		require.Equal(t, "false_positive", feedback[1]["label"])
		require.Equal(t, "false_positive", feedback[2]["label"])
		require.NotContains(t, w.Body.String(), token)
		require.Len(t, told, 1, i)
	}
	require.Equal(t, apikeys.ReasonRevoked, verify(t, s, token).Reason)
	require.Equal(t, k.ID, told[0].Key.ID)
	require.NotContains(t, told[0].URL, token, "the place names the token itself")
	history, err := s.History(ctx, op, k.ID, 0)
	require.NoError(t, err)
	require.Equal(t, apikeys.ActionLeakReported, history[len(history)-1].Action)

	config.NotifyOnly = true
	spared, _ := issue(t, s, apikeys.NewKey{})
	w = post(s.GitHubLeaks(config), private, "k1", `[{"token":"`+spared+`","type":"t"}]`)
	require.Equal(t, 200, w.Code)
	require.True(t, verify(t, s, spared).Allowed())
	require.Len(t, told, 2)

	config.Keys = func(context.Context) (map[string]*ecdsa.PublicKey, error) { return nil, errCut }
	require.Equal(t, 503, post(s.GitHubLeaks(config), private, "k1", body).Code)
}
