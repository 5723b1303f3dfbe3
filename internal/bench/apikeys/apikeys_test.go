// Package apikeys measures verifications beside the bare floor (the same hash
// and look-up without a library) and beside what programs do without one: a
// SHA-256 and an LRU cache with a lifetime, a signed JWT, bcrypt. Each round
// measures all of them one after the other, so that a busy machine slows all
// of them alike.
//
//	go test -run TestFigures -v ./apikeys
package apikeys

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/crypto/bcrypt"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
	"github.com/kolekt/commerce/apikeys/apikeyspg"
	"github.com/kolekt/commerce/internal/pgtest"
)

var (
	ctx     = context.Background()
	op      = apikeys.Operator("bench")
	peppers = []apikeys.Pepper{{ID: 1, Secret: bytes.Repeat([]byte("p"), 32)}}
)

// A round has many short slices, in which the contenders take turns: what else
// the machine does in a moment then falls on all of them.
const (
	rounds = 9
	turns  = 20
)

// contender is one way to do the same thing.
type contender struct {
	name string
	run  func(n int)
	each int // iterations in a round
	ns   []float64
}

// compare runs the contenders interleaved and prints best and median of the
// slices, and the ratio of the medians and of the bests to the first, which is
// the floor.
func compare(t *testing.T, title string, cs ...*contender) {
	t.Helper()
	for range rounds {
		runtime.GC()
		for turn := range turns {
			for _, c := range cs {
				if c.each < turns && turn >= c.each {
					continue // too slow for a slice each turn
				}
				n := max(c.each/turns, 1)
				start := time.Now()
				c.run(n)
				c.ns = append(c.ns, float64(time.Since(start).Nanoseconds())/float64(n))
			}
		}
	}
	out := fmt.Sprintf("%s\n%-44s %12s %12s %8s %8s %8s\n", title, "", "best ns", "median ns", "x best", "x median", "allocs")
	for _, c := range cs {
		slices.Sort(c.ns)
		allocs := testing.AllocsPerRun(10, func() { c.run(1) })
		out += fmt.Sprintf("%-44s %12.0f %12.0f %8.2f %8.2f %8.0f\n", c.name, c.ns[0], c.ns[len(c.ns)/2],
			c.ns[0]/cs[0].ns[0], c.ns[len(c.ns)/2]/cs[0].ns[len(cs[0].ns)/2], allocs)
	}
	t.Log("\n" + out)
}

func must(ok bool) {
	if !ok {
		panic("refused")
	}
}

func service(t *testing.T, store apikeys.Store, cfg apikeys.Config) *apikeys.Service {
	cfg.Prefix, cfg.MaxKeys = "acme", -1
	s, err := apikeys.New(store, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func issue(t *testing.T, s *apikeys.Service, n int) []string {
	var out []string
	for i := range n {
		token, _, err := s.Issue(ctx, op, apikeys.NewKey{Owner: apikeys.Account("acct_1"), Name: fmt.Sprint(i), Scopes: []string{"read"}})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, token.Reveal())
	}
	return out
}

// floor is a pooled HMAC-SHA256, the CRC, a map under a read lock and a clock.
type floor struct {
	pool sync.Pool
	mu   sync.RWMutex
	keys map[[32]byte]time.Time
}

type floorState struct {
	h   hash.Hash
	buf [64]byte
	sum [32]byte
}

func newFloor(tokens []string) *floor {
	f := &floor{keys: map[[32]byte]time.Time{}}
	f.pool.New = func() any { return &floorState{h: hmac.New(sha256.New, peppers[0].Secret)} }
	for _, token := range tokens {
		f.keys[f.hash(token)] = time.Now().Add(time.Hour)
	}
	return f
}

func (f *floor) hash(token string) [32]byte {
	s := f.pool.Get().(*floorState)
	copy(s.buf[:], token)
	if crc32.ChecksumIEEE(s.buf[:53]) == 0 {
		panic("one in four billion")
	}
	s.h.Reset()
	s.h.Write(s.buf[:48])
	s.h.Sum(s.sum[:0])
	out := s.sum
	f.pool.Put(s)
	return out
}

func (f *floor) verify(token string) bool {
	sum := f.hash(token)
	f.mu.RLock()
	expires, ok := f.keys[sum]
	f.mu.RUnlock()
	return ok && time.Now().Before(expires)
}

// common is what many programs do: SHA-256 in hexadecimal, and a cache whose
// entries live for a minute.
type common struct {
	cache *expirable.LRU[string, time.Time]
}

func newCommon(tokens []string) *common {
	c := &common{expirable.NewLRU[string, time.Time](1<<17, nil, time.Minute)}
	for _, token := range tokens {
		sum := sha256.Sum256([]byte(token))
		c.cache.Add(hex.EncodeToString(sum[:]), time.Now().Add(time.Hour))
	}
	return c
}

func (c *common) verify(token string) bool {
	sum := sha256.Sum256([]byte(token))
	expires, ok := c.cache.Get(hex.EncodeToString(sum[:]))
	return ok && time.Now().Before(expires)
}

func TestFiguresCached(t *testing.T) {
	for _, n := range []int{1, 50_000} {
		s := service(t, apikeysmem.New(), apikeys.Config{Peppers: peppers, MaxStaleness: time.Hour, CacheSize: 1 << 18})
		tokens := issue(t, s, n)
		for _, token := range tokens {
			d, err := s.Verify(ctx, token, apikeys.Client{})
			must(err == nil && d.Allowed())
		}
		plainService := service(t, apikeysmem.New(), apikeys.Config{MaxStaleness: time.Hour, CacheSize: 1 << 18})
		plain := issue(t, plainService, n)
		for _, token := range plain {
			d, err := plainService.Verify(ctx, token, apikeys.Client{})
			must(err == nil && d.Allowed())
		}
		f, c := newFloor(tokens), newCommon(tokens)
		signing := []byte(strings.Repeat("k", 32))
		signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Subject: "acct_1", ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour))}).SignedString(signing)
		if err != nil {
			t.Fatal(err)
		}
		slow, err := bcrypt.GenerateFromPassword([]byte(tokens[0]), bcrypt.DefaultCost)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		next := func() int { at = (at + 7919) % n; return at }
		compare(t, fmt.Sprintf("cached verification, %d keys", n),
			&contender{name: "floor: crc, pooled HMAC, map, clock", each: 100_000, run: func(k int) {
				for range k {
					must(f.verify(tokens[next()]))
				}
			}},
			&contender{name: "apikeys.Verify", each: 100_000, run: func(k int) {
				for range k {
					d, err := s.Verify(ctx, tokens[next()], apikeys.Client{})
					must(err == nil && d.Allowed())
				}
			}},
			&contender{name: "apikeys.Verify without a pepper", each: 100_000, run: func(k int) {
				for range k {
					d, err := plainService.Verify(ctx, plain[next()], apikeys.Client{})
					must(err == nil && d.Allowed())
				}
			}},
			&contender{name: "SHA-256 hex + golang-lru, no revocation", each: 100_000, run: func(k int) {
				for range k {
					must(c.verify(tokens[next()]))
				}
			}},
			&contender{name: "golang-jwt HS256, no revocation", each: 5_000, run: func(k int) {
				for range k {
					token, err := jwt.ParseWithClaims(signed, &jwt.RegisteredClaims{}, func(*jwt.Token) (any, error) { return signing, nil })
					must(err == nil && token.Valid)
				}
			}},
			&contender{name: "bcrypt, cost 10", each: 1, run: func(k int) {
				for range k {
					must(bcrypt.CompareHashAndPassword(slow, []byte(tokens[0])) == nil)
				}
			}},
		)
	}
}

func TestFiguresForged(t *testing.T) {
	s := service(t, apikeysmem.New(), apikeys.Config{Peppers: peppers})
	token := issue(t, s, 1)[0]
	// Right checksum, wrong tag.
	body := []byte(token[:53])
	body[50] ^= 1
	crc := crc32.ChecksumIEEE(body)
	var tail [6]byte
	for i := 5; i >= 0; i-- {
		tail[i] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[crc%62]
		crc /= 62
	}
	forged := string(body) + string(tail[:])
	mistyped := token[:40] + "x" + token[41:]
	f := newFloor([]string{token})
	refuse := func(text string) func(int) {
		return func(k int) {
			for range k {
				d, err := s.Verify(ctx, text, apikeys.Client{})
				must(err == nil && !d.Allowed())
			}
		}
	}
	compare(t, "refused without a look-up",
		&contender{name: "floor: crc, pooled HMAC", each: 100_000, run: func(k int) {
			for range k {
				sum := f.hash(forged)
				must(subtle.ConstantTimeCompare(sum[:4], make([]byte, 4)) == 0)
			}
		}},
		&contender{name: "forged, checksum right", each: 100_000, run: refuse(forged)},
		&contender{name: "mistyped", each: 100_000, run: refuse(mistyped)},
		&contender{name: "something else", each: 100_000, run: refuse("sk_live_something_else")},
	)
	if n := s.Stats().Lookups; n != 0 {
		t.Fatalf("%d look-ups", n)
	}
}

func TestFiguresParallel(t *testing.T) {
	s := service(t, apikeysmem.New(), apikeys.Config{Peppers: peppers, MaxStaleness: time.Hour})
	tokens := issue(t, s, 1000)
	for _, token := range tokens {
		_, _ = s.Verify(ctx, token, apikeys.Client{})
	}
	f := newFloor(tokens)
	on := func(procs int, verify func(string) bool) func(int) {
		return func(k int) {
			var wg sync.WaitGroup
			for p := range procs {
				wg.Go(func() {
					for i := range k / procs {
						must(verify(tokens[(i*7+p)%1000]))
					}
				})
			}
			wg.Wait()
		}
	}
	ours := func(token string) bool {
		d, err := s.Verify(ctx, token, apikeys.Client{})
		return err == nil && d.Allowed()
	}
	compare(t, fmt.Sprintf("cached verification on %d cores (time for one, all cores together)", runtime.GOMAXPROCS(0)),
		&contender{name: "apikeys.Verify, 1 goroutine", each: 400_000, run: on(1, ours)},
		&contender{name: "apikeys.Verify, 2 goroutines", each: 400_000, run: on(2, ours)},
		&contender{name: "floor, 1 goroutine", each: 400_000, run: on(1, f.verify)},
		&contender{name: "floor, 2 goroutines", each: 400_000, run: on(2, f.verify)},
	)
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func TestFiguresMiddleware(t *testing.T) {
	s := service(t, apikeysmem.New(), apikeys.Config{Peppers: peppers, MaxStaleness: time.Hour})
	token := issue(t, s, 1)[0]
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	guarded := s.Middleware(apikeys.MiddlewareConfig{})(apikeys.Require("read")(handler))
	type key struct{}
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, err := s.Verify(r.Context(), r.Header["Authorization"][0][7:], apikeys.Client{})
		must(err == nil && d.Allowed())
		handler(w, r.WithContext(context.WithValue(r.Context(), key{}, d.Principal)))
	})
	r := httptest.NewRequest("GET", "/", nil)
	w, value := discard{http.Header{}}, []string{"Bearer " + token}
	serve := func(h http.Handler) func(int) {
		return func(k int) {
			for range k {
				r.Header["Authorization"] = value
				h.ServeHTTP(w, r)
			}
		}
	}
	compare(t, "middleware",
		&contender{name: "floor: Verify and WithContext", each: 100_000, run: serve(bare)},
		&contender{name: "apikeys.Middleware and Require", each: 100_000, run: serve(guarded)},
	)
}

// TestFiguresUncached compares a verification that asks PostgreSQL with the
// bare prepared look-up of the same row by the same index.
func TestFiguresUncached(t *testing.T) {
	base := pgtest.Pool(t)
	if err := apikeyspg.Migrate(ctx, base); err != nil {
		t.Fatal(err)
	}
	cfg := base.Config()
	cfg.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s := service(t, apikeyspg.New(pool), apikeys.Config{Peppers: peppers, MaxStaleness: -1, UseInterval: -1})
	tokens := issue(t, s, 2000)
	if _, err := pool.Exec(ctx, "analyze apikeys_keys"); err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(ctx, "select hash from apikeys_keys")
	if err != nil {
		t.Fatal(err)
	}
	var hashes [][]byte
	for rows.Next() {
		var h []byte
		if err := rows.Scan(&h); err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, h)
	}
	at := 0
	next := func() int { at = (at + 919) % 2000; return at }
	lookup := func(sql string, into func() []any) func(int) {
		return func(k int) {
			for range k {
				// A request has a deadline, which costs pgx some microseconds.
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				must(pool.QueryRow(ctx, sql, hashes[next()]).Scan(into()...) == nil)
				cancel()
			}
		}
	}
	compare(t, "uncached verification, PostgreSQL over a unix socket",
		&contender{name: "floor: prepared look-up of the row", each: 1000, run: lookup(everyColumn, everyTarget)},
		&contender{name: "prepared look-up, 5 columns", each: 1000, run: lookup(
			"select id, owner_id, scopes, expires_at, revoked_at from apikeys_keys where hash = $1", func() []any {
				var id, owner string
				var scopes []string
				var a, b *time.Time
				return []any{&id, &owner, &scopes, &a, &b}
			})},
		&contender{name: "apikeys.Verify without a cache", each: 1000, run: func(k int) {
			for range k {
				d, err := s.Verify(ctx, tokens[next()], apikeys.Client{})
				must(err == nil && d.Allowed())
			}
		}},
	)
	lookups := s.Stats().Lookups
	if want := int64(rounds*1000 + 11); lookups != want {
		t.Fatalf("%d questions to the store for %d verifications", lookups, want)
	}
}

const everyColumn = `select id, lineage, predecessor, successor, owner_kind, owner_id, name, environment, hint, scopes, networks,
	metadata, created_at, created_by, activated_at, expires_at, disabled_at, revoked_at, revoked_for, replaced_at, overlap_us,
	sunset_at, used_at, used_addr, used_agent, hash, pepper, tag, scheme, verifier from apikeys_keys where hash = $1`

func everyTarget() []any {
	var (
		s       [14]*string
		scopes  [2][]string
		b       [3][]byte
		ts      [9]*time.Time
		overlap int64
		small   [2]int16
	)
	return []any{
		&s[0], &s[1], &s[2], &s[3], &s[4], &s[5], &s[6], &s[7], &s[8], &scopes[0], &scopes[1], &b[0], &ts[0], &s[9], &ts[1], &ts[2],
		&ts[3], &ts[4], &s[10], &ts[5], &overlap, &ts[6], &ts[7], &s[11], &s[12], &b[1], &small[0], &small[1], &s[13], &b[2],
	}
}
