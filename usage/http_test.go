package usage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

func web(t *testing.T, limit int64) (*usage.Service, http.Handler) {
	t.Helper()
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{
			{Name: "kolekts", Measures: []usage.Measure{{Property: "characters"}}, Dimensions: []string{"tone"}},
			{Name: "tokens", Aggregation: usage.Sum},
		},
		Quota: func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(limit), nil },
		Now:   clock("2026-03-10T12:00:00Z"),
	})
	require.NoError(t, err)
	h, err := svc.Handler(usage.HandlerConfig{Account: account, Trusted: func(r *http.Request) bool { return r.Header.Get("X-Trusted") != "" }})
	require.NoError(t, err)
	return svc, h
}

func account(r *http.Request) (string, error) {
	if a := r.Header.Get("X-Account"); a != "" {
		return a, nil
	}
	return "", errors.New("nobody")
}

func ask(t *testing.T, h http.Handler, method, url, body string, header ...string) (int, map[string]any, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	r.Header.Set("X-Account", "acct_1")
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var v map[string]any
	_ = json.Unmarshal(w.Body.Bytes(), &v) // some answers are lists or CSV
	return w.Code, v, w.Body.String()
}

func TestIngestAnswersForEachEvent(t *testing.T) {
	_, h := web(t, 10)
	status, got, _ := ask(t, h, "POST", "/events", `[
		{"id":"1","meter":"kolekts","properties":{"characters":512,"tone":"casual"}},
		{"id":"1","meter":"kolekts","properties":{"characters":512,"tone":"casual"}},
		{"id":"1","meter":"kolekts"},
		{"id":"2","meter":"nope"},
		{"meter":"tokens","value":7}]`)
	require.Equal(t, 202, status)
	require.EqualValues(t, 2, got["stored"])
	require.EqualValues(t, 1, got["duplicates"])
	events := got["events"].([]any)
	require.Len(t, events, 5)
	code := func(i int) any { return events[i].(map[string]any)["code"] }
	require.Equal(t, "key_reused", code(2))
	require.Equal(t, "unknown_meter", code(3))
	require.Nil(t, code(4))

	status, got, _ = ask(t, h, "GET", "/summary?meter=kolekts&group_by=tone", "")
	require.Equal(t, 200, status)
	require.EqualValues(t, 1, got["number"])
	require.EqualValues(t, 512, got["measures"].(map[string]any)["characters"].(map[string]any)["sum"])
	status, _, body := ask(t, h, "GET", "/series?meter=kolekts&from=2026-03-09T00:00:00Z", "", "Accept", "text/csv")
	require.Equal(t, 200, status)
	require.Contains(t, body, "2026-03-10T00:00:00Z,2026-03-11T00:00:00Z,,1,1,1")
	status, _, body = ask(t, h, "GET", "/series?meter=tokens&step=month", "")
	require.Equal(t, 200, status)
	require.Contains(t, body, `"sum":7`)
	status, got, _ = ask(t, h, "GET", "/quota?meter=kolekts", "")
	require.Equal(t, 200, status)
	require.EqualValues(t, 10, got["limit"])
	status, _, _ = ask(t, h, "GET", "/forecast?meter=kolekts", "")
	require.Equal(t, 200, status)
}

func TestCloudEventsAreAccepted(t *testing.T) {
	svc, h := web(t, 10)
	one := `{"specversion":"1.0","id":"1","source":"/app","type":"tokens","subject":"acct_1","time":"2026-03-10T11:00:00Z","data":{"value":5,"model":"m"}}`
	for _, tc := range []struct{ body, contentType string }{
		{one, "application/cloudevents+json"},
		{"[" + one + "]", "application/cloudevents-batch+json; charset=utf-8"},
	} {
		status, got, body := ask(t, h, "POST", "/events", tc.body, "Content-Type", tc.contentType)
		require.Equal(t, 202, status, body)
		require.EqualValues(t, 0, got["rejected"], body)
	}
	status, _, body := ask(t, h, "POST", "/events", `{"value":4}`, "Ce-Specversion", "1.0", "Ce-Id", "2", "Ce-Source", "/app", "Ce-Type", "tokens")
	require.Equal(t, 202, status, body)
	sum, err := svc.Summary(t.Context(), usage.Query{Account: "acct_1", Meter: "tokens"})
	require.NoError(t, err)
	require.EqualValues(t, 9, sum.Value.Sum)
}

func TestBadRequestsSayWhy(t *testing.T) {
	_, h := web(t, 10)
	for _, tc := range []struct {
		method, url, body string
		header            []string
		status            int
		code              string
	}{
		{"POST", "/events", `{"meter":"tokens"`, nil, 422, "invalid"},
		{"POST", "/events", `{"meter":"tokens"} {}`, nil, 422, "invalid"},
		{"POST", "/events", `x`, []string{"Content-Type", "text/plain"}, 422, "invalid"},
		{"POST", "/events", `{"specversion":"0.3"}`, []string{"Content-Type", "application/cloudevents+json"}, 422, "invalid"},
		{"POST", "/events", `{"specversion":"1.0","id":"1","source":"s","type":"tokens","data":{"value":1.5}}`, []string{"Content-Type", "application/cloudevents+json"}, 422, "invalid"},
		{"POST", "/events", `{"meter":"tokens","account":"acct_2"}`, nil, 403, "other_account"},
		{"POST", "/events", `[` + strings.Repeat(" ", 1<<20) + `]`, nil, 413, "too_large"},
		{"GET", "/summary?meter=nope", "", nil, 422, "unknown_meter"},
		{"GET", "/summary?meter=tokens&from=yesterday", "", nil, 422, "invalid"},
		{"GET", "/series?meter=tokens&step=decade", "", nil, 422, "invalid"},
		{"GET", "/summary?meter=tokens", "", []string{"X-Account", ""}, 401, "unauthenticated"},
	} {
		status, got, body := ask(t, h, tc.method, tc.url, tc.body, tc.header...)
		require.Equal(t, tc.status, status, body)
		require.Equal(t, tc.code, got["code"], body)
	}
	status, _, body := ask(t, h, "POST", "/events", `{"meter":"tokens","account":"acct_2","value":3}`, "X-Trusted", "1")
	require.Equal(t, 202, status, body)
	_, got, _ := ask(t, h, "GET", "/summary?meter=tokens&account=acct_2", "", "X-Trusted", "1")
	require.EqualValues(t, 3, got["number"])
	_, got, _ = ask(t, h, "GET", "/summary?meter=tokens&account=acct_2", "")
	require.EqualValues(t, 0, got["number"], "the untrusted see their own")
}

func TestMiddlewareCommitsByTheOutcome(t *testing.T) {
	svc, _ := web(t, 4)
	guard, err := svc.Middleware(usage.MiddlewareConfig{
		Account: account, Meter: "tokens", Record: true,
		Key:     func(r *http.Request) string { return r.Header.Get("Idempotency-Key") },
		Refused: func(*http.Request, usage.Decision) map[string]any { return map[string]any{"upgrade": "pro"} },
	})
	require.NoError(t, err)
	h := guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/panic":
			panic("boom")
		case "/fail":
			w.WriteHeader(http.StatusBadGateway)
		case "/odd":
			usage.UseOf(r.Context()).Set(1, usage.Property{Name: "model"})
		case "/two":
			usage.UseOf(r.Context()).Set(2, usage.String("model", "m"))
		}
		_, _ = fmt.Fprint(w, "ok")
	}))
	state := func() usage.Decision {
		d, err := svc.Quota(t.Context(), "acct_1", "tokens")
		require.NoError(t, err)
		return d
	}
	status, _, _ := ask(t, h, "POST", "/fail", "")
	require.Equal(t, 502, status)
	require.PanicsWithValue(t, "boom", func() { ask(t, h, "POST", "/panic", "") })
	require.Zero(t, state().Used+state().Held, "a failed request is free")
	for range 2 {
		status, _, _ = ask(t, h, "POST", "/two", "", "Idempotency-Key", "k")
		require.Equal(t, 200, status)
	}
	require.EqualValues(t, 2, state().Used, "a retried key counts once")
	for _, path := range []string{"/", "/odd"} {
		status, _, _ = ask(t, h, "POST", path, "")
		require.Equal(t, 200, status)
	}
	require.EqualValues(t, 4, state().Used, "a malformed event doesn't make the use free")
	status, got, _ := ask(t, h, "POST", "/", "")
	require.Equal(t, 402, status)
	require.Equal(t, "quota_exceeded", got["code"])
	require.EqualValues(t, 4, got["limit"])
	require.Equal(t, "pro", got["upgrade"])
	require.Equal(t, "2026-04-01T00:00:00Z", got["reset"])
	sum, err := svc.Summary(t.Context(), usage.Query{Account: "acct_1", Meter: "tokens"})
	require.NoError(t, err)
	require.EqualValues(t, 3, sum.Value.Sum)
	usage.UseOf(t.Context()).Set(1) // outside of the middleware: nothing
}

// What is decoded can be encoded and decoded again to the same.
func FuzzDecodeEvents(f *testing.F) {
	f.Add("application/json", []byte(`{"id":"1","account":"a","meter":"m","value":1,"time":"2026-03-10T12:00:00Z","properties":{"x":1.50,"y":true}}`))
	f.Add("application/json", []byte(`[{"meter":"m"},{}]`))
	f.Add("application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","source":"s","type":"m","subject":"a","data":{"value":3}}`))
	f.Add("application/cloudevents-batch+json", []byte(`[{"specversion":"1.0","id":"1","source":"s","type":"m"}]`))
	cfg := usage.Config{Meters: []usage.Meter{{Name: "m", Aggregation: usage.Sum, Measures: []usage.Measure{{Property: "x", Scale: 2}}, Dimensions: []string{"y"}}}}
	svc, err := usage.New(usagemem.New(), cfg)
	require.NoError(f, err)
	held := 0
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		events, err := usage.DecodeEvents(http.Header{"Content-Type": {contentType}}, body)
		if err != nil {
			require.ErrorIs(t, err, usage.ErrInvalid)
			return
		}
		for i := range events {
			if events[i].Time.Year() < 0 || events[i].Time.Year() > 9999 {
				events[i].Time = time.Time{}
			}
			events[i].Time = events[i].Time.UTC()
		}
		text, err := json.Marshal(events)
		require.NoError(t, err)
		again, err := usage.DecodeEvents(http.Header{}, text)
		require.NoError(t, err)
		require.Len(t, again, len(events))
		res, err := svc.RecordBatch(t.Context(), events)
		require.NoError(t, err)
		require.Equal(t, len(events), res.Stored+res.Duplicates+len(res.Rejected))
		if held += res.Stored; held > 1000 { // a store that grows would slow the search down
			held = 0
			svc, err = usage.New(usagemem.New(), cfg)
			require.NoError(t, err)
		}
	})
}
