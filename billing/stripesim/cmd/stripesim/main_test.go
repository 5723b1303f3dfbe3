package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing/stripesim"
)

// log collects what the program prints, and tells when it has.
type log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ready chan string
}

var address = regexp.MustCompile(`API at (http://\S+)`)

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if m := address.FindStringSubmatch(l.text.String()); m != nil {
		select {
		case l.ready <- m[1]:
		default:
		}
	}
	return len(p), nil
}

func TestServesUntilItIsStopped(t *testing.T) {
	catalog := filepath.Join(t.TempDir(), "catalog.json")
	require.NoError(t, os.WriteFile(catalog, []byte(`[{"Name":"Gold","Prices":[{"LookupKey":"gold","UnitAmount":500}]}]`), 0o600))
	ctx, stop := context.WithCancel(t.Context())
	out := &log{ready: make(chan string, 1)}
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-addr", "127.0.0.1:0", "-catalog", catalog, "-webhook", "http://127.0.0.1:1/", "-start", "2025-01-31T12:00:00Z"}, out)
	}()
	var base string
	select {
	case base = <-out.ready:
	case err := <-done:
		t.Fatal(err)
	}
	get := func(path string) map[string]any {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
		res, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		defer res.Body.Close()
		var body map[string]any
		require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
		return body
	}
	require.Len(t, get("/v1/prices?lookup_keys[]=gold")["data"], 1)
	require.Equal(t, "2025-01-31T12:00:00Z", get("/control/clock")["now"])
	stop()
	require.NoError(t, <-done)
	require.Contains(t, out.text.String(), "signed with whsec_")
}

func TestMistakesAreSaid(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.json")
	require.NoError(t, os.WriteFile(broken, []byte(`{`), 0o600))
	for want, args := range map[string][]string{
		"live key":         {"-addr", "127.0.0.1:0", "-key", "sk_live_x"},
		"-start":           {"-start", "yesterday"},
		"broken.json":      {"-catalog", broken},
		"no such file":     {"-catalog", broken + ".none"},
		"listen":           {"-addr", "256.0.0.1:1"},
		"Endpoint.URL":     {"-addr", "127.0.0.1:0", "-webhook", "nowhere", "-secret", "s"},
		"provided but not": {"-nonsense"},
	} {
		err := run(t.Context(), args, &strings.Builder{})
		require.ErrorContains(t, err, want, "%v", args)
	}
	require.Len(t, demo(), 2)
}
