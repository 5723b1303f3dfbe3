package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
)

// BenchmarkMeteredEndpoint shows what the layer costs: POST /api/v1/kolekts
// with key, rate limit, quota, usage event and storage, beside the same work
// bare, and beside the same work that also stores the kolekt in PostgreSQL by
// one insert. All go through a real connection, in turns; ratios are of each
// one's best turn.
//
//	go test -run '^$' -bench MeteredEndpoint -benchtime 1x ./examples/kolekt
func BenchmarkMeteredEndpoint(b *testing.B) {
	answer := func(w http.ResponseWriter, r *http.Request, store kolekts.Store) {
		var d kolekts.Draft
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		k, err := kolekts.Make("bare", d, time.Now())
		if err == nil && store != nil {
			err = store.Add(r.Context(), k)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(k)
	}
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, nil) }))
	defer bare.Close()
	b.Run("memory", func(b *testing.B) { compare(b, bare.URL, "", start(b, nil)) })
	b.Run("postgres+redis", func(b *testing.B) {
		env := map[string]string{"DATABASE_URL": pgtest.URL(b), "REDIS_URL": redistest.URL(b)}
		origin := start(b, env)
		pool, err := pgxpool.New(b.Context(), env["DATABASE_URL"])
		require.NoError(b, err)
		defer pool.Close()
		stored := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, kolekts.NewPostgres(pool)) }))
		defer stored.Close()
		compare(b, bare.URL, stored.URL, origin)
	})
}

// turn is how one of the servers has fared.
type turn struct {
	best time.Duration // for all requests of a round
	cpu  time.Duration // of all rounds
	all  []time.Duration
}

func (t *turn) take(send func() (time.Duration, []time.Duration)) {
	before := burnt()
	took, all := send()
	t.cpu += burnt() - before
	if t.best == 0 || took < t.best {
		t.best = took
	}
	t.all = append(t.all, all...)
}

// burnt is the time that processors have worked for this process and all that
// it has started, PostgreSQL and Redis among them: what other work on the
// machine doesn't change. Zero where there is no /proc.
func burnt() (sum time.Duration) {
	const tick = 10 * time.Millisecond // as Linux tells it to programs
	type process struct {
		parent int
		ticks  time.Duration
	}
	all := map[int]process{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // a constant pattern
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		// After the name, which may hold anything: state, parent, …, and as the
		// 12th and 13th the time in the program and in the kernel.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		id, _ := strconv.Atoi(strings.Split(f, "/")[2])
		parent, _ := strconv.Atoi(fields[1])
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		all[id] = process{parent, time.Duration(user + system)}
	}
	for id, p := range all {
		for at := id; at != 0; at = all[at].parent {
			if at == os.Getpid() {
				sum += p.ticks * tick
				break
			}
		}
	}
	return sum
}

func compare(b *testing.B, bare, stored, origin string) {
	const rounds, requests, clients = 7, 400, 8
	for b.Loop() {
		var keys []string // of accounts of their own, as in life
		for range clients {
			keys = append(keys, subscriber(b, origin))
		}
		var floor, insert, full turn
		for range rounds { // in turns, so that all meet the same noise
			floor.take(func() (time.Duration, []time.Duration) { return hammer(b, bare+"/", make([]string, clients), requests) })
			if stored != "" {
				insert.take(func() (time.Duration, []time.Duration) {
					return hammer(b, stored+"/", make([]string, clients), requests)
				})
			}
			full.take(func() (time.Duration, []time.Duration) { return hammer(b, origin+"/api/v1/kolekts", keys, requests) })
		}
		report := func(name string, t turn) {
			b.ReportMetric(requests/t.best.Seconds(), name+"-req/s")
			b.ReportMetric(float64(percentile(t.all, 99).Microseconds())/1000, name+"-p99-ms")
			b.ReportMetric(float64(t.cpu.Microseconds())/(rounds*requests), name+"-cpu-µs")
		}
		report("bare", floor)
		report("full", full)
		b.ReportMetric(full.best.Seconds()/floor.best.Seconds(), "times-bare")
		b.ReportMetric(float64(percentile(full.all, 99))/float64(percentile(floor.all, 99)), "p99-times-bare")
		if stored != "" {
			report("stored", insert)
			b.ReportMetric(full.best.Seconds()/insert.best.Seconds(), "times-stored")
		}
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
