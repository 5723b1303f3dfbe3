package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
)

// BenchmarkMeteredEndpoint shows what the layer costs: POST /api/v1/kolekts
// with key, rate limit, quota, usage event and storage, beside the same work
// bare. Both go through a real connection, in turns.
//
//	go test -run '^$' -bench MeteredEndpoint -benchtime 1x ./examples/kolekt
func BenchmarkMeteredEndpoint(b *testing.B) {
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var d kolekts.Draft
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		k, err := kolekts.Make("bare", d, time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(k)
	}))
	defer bare.Close()
	for name, env := range map[string]map[string]string{
		"memory":         nil,
		"postgres+redis": {"DATABASE_URL": pgtest.URL(b), "REDIS_URL": redistest.URL(b)},
	} {
		b.Run(name, func(b *testing.B) {
			origin := start(b, env)
			for b.Loop() {
				const rounds, requests, clients = 3, 500, 8
				var keys []string // of accounts of their own, as in life
				for range clients {
					keys = append(keys, subscriber(b, origin))
				}
				var floor, full []time.Duration
				var floorTime, fullTime time.Duration
				for range rounds { // in turns, so that both meet the same noise
					took, all := hammer(b, bare.URL+"/", make([]string, clients), requests)
					floor, floorTime = append(floor, all...), floorTime+took
					took, all = hammer(b, origin+"/api/v1/kolekts", keys, requests)
					full, fullTime = append(full, all...), fullTime+took
				}
				n := float64(rounds * requests)
				b.ReportMetric(n/floorTime.Seconds(), "bare-req/s")
				b.ReportMetric(n/fullTime.Seconds(), "full-req/s")
				b.ReportMetric(fullTime.Seconds()/floorTime.Seconds(), "times-bare")
				b.ReportMetric(float64(percentile(floor, 99).Microseconds()), "bare-p99-µs")
				b.ReportMetric(float64(percentile(full, 99).Microseconds()), "full-p99-µs")
			}
		})
	}
}

// subscriber pays for the biggest plan and returns a key.
func subscriber(t testing.TB, origin string) string {
	c := newClient(t, origin, nil)
	c.do("POST", "/api/v1/auth/signup", map[string]any{"email": fmt.Sprintf("load%d@example.com", time.Now().UnixNano()), "password": "a password of some length", "name": "Load"}, http.StatusCreated)
	page := c.do("POST", "/api/v1/payments/create-checkout-session", map[string]any{"plan_type": "enterprise"}, http.StatusCreated)
	c.pay(page["url"].(string))
	return c.do("POST", "/api/v1/api-keys", map[string]any{"name": "load", "permissions": []string{"write"}}, http.StatusCreated)["token"].(string)
}

// hammer sends requests, with each key at once, and returns how long they took together and each.
func hammer(t testing.TB, address string, keys []string, requests int) (time.Duration, []time.Duration) {
	body, err := json.Marshal(map[string]any{"text": strings.Repeat("A sentence of a text of some length. ", 40)})
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: len(keys)}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	began := time.Now()
	for _, key := range keys {
		wg.Go(func() {
			for range requests / len(keys) {
				r, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				if key != "" {
					r.Header.Set("Authorization", "Bearer "+key)
				}
				at := time.Now()
				resp, err := client.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusCreated {
					t.Errorf("status %d", resp.StatusCode)
					return
				}
				mu.Lock()
				all = append(all, time.Since(at))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return time.Since(began), all
}

func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[(len(d)-1)*p/100]
}
