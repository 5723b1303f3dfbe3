package ratelimit_test

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/ratelimit"
)

func FuzzParseRateLimit(f *testing.F) {
	f.Add(`"minute";r=3;t=42, "day";r=1`)
	f.Add(`"a\"b\\"; r=0;t=1 , 	"c";r=5;pk=:YWI=:;x;y=?1;z="s";d=1.25;k=to/ken;at=@1`)
	f.Fuzz(func(t *testing.T, field string) {
		for _, l := range ratelimit.ParseRateLimit([]string{field}) {
			if l.Remaining < 0 || l.Reset < -1 {
				t.Fatalf("%+v of %q", l, field)
			}
		}
	})
}

// said is a store that says the same to everybody.
type said struct {
	ratelimit.Store
	out  ratelimit.Outcome
	used ratelimit.Used
}

func (s *said) Prepare(string, *ratelimit.Plan) (ratelimit.Decider, error) { return s, nil }

func (s *said) Decide(context.Context, ratelimit.Op, ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	return s.out, s.used, nil
}

// FuzzHeaders writes what a decision says, whatever that is, and reads it back.
func FuzzHeaders(f *testing.F) {
	f.Add("minute", int64(10), int64(60), int64(3_000_000), uint32(1), uint8(0), int64(0))
	f.Add("strict", int64(10), int64(60), int64(10), uint32(10), uint8(7), int64(1_000_001))
	f.Fuzz(func(t *testing.T, name string, limit, seconds, used int64, month uint32, kind uint8, wait int64) {
		w := ratelimit.Rate(name, limit, time.Duration(seconds)*time.Second)
		if kind&1 != 0 {
			w = ratelimit.Strict(name, limit, time.Duration(seconds)*time.Second)
		}
		plan, err := ratelimit.NewPlan(name, w, ratelimit.PerMonth(1<<20))
		if err != nil {
			return
		}
		rule := plan.Rules()[0]
		store := &said{out: ratelimit.Outcome{Now: noon.UnixMicro()}}
		most := rule.Limit
		if w.Algorithm == ratelimit.Bucket {
			most *= 2 * rule.Interval
		}
		store.used.Set(0, min(max(used, 0), most))
		store.used.Set(1, int64(month))
		if wait > 0 {
			store.out.SetOver(int(kind>>1&1), false, wait)
		}
		l, err := ratelimit.New(store, ratelimit.Config{Now: func() time.Time { return noon }})
		require.NoError(t, err)
		d, err := l.Allow(context.Background(), "k", plan, 1)
		require.NoError(t, err)
		h := http.Header{}
		d.WriteHeaders(h, ratelimit.StandardHeaders|ratelimit.Headers(kind&6))
		read := ratelimit.ParseRateLimit(h.Values("RateLimit"))
		if len(read) != 2 {
			t.Fatal(h)
		}
		for i, r := range read {
			w := d.Window(i)
			if r.Policy != w.Name || r.Remaining != w.Remaining || w.Next > 0 && r.Reset < min(w.Next, 100*365*24*time.Hour) {
				t.Fatalf("%+v of %v", w, h)
			}
			if w.Remaining < 0 || w.Remaining > w.Limit || w.Next < 0 || w.Reset < w.Next {
				t.Fatalf("%+v", w)
			}
		}
		if d.Allowed() != (h.Get("Retry-After") == "") && d.RetryAfter() != ratelimit.Never {
			t.Fatal(h)
		}
		if v := h.Get("Retry-After"); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < int64(d.RetryAfter()/time.Second) {
				t.Fatalf("%v of %v", h, d.RetryAfter())
			}
		}
	})
}

// FuzzByIP walks what proxies and clients may write.
func FuzzByIP(f *testing.F) {
	f.Add("10.0.0.1:1", "198.51.100.7, 203.0.113.9")
	f.Add("[2001:db8:1:2:3:4:5:6]:443", "")
	f.Add("10.0.0.1:1", "2001:db8::1%eth0,[::1]:80,,10.0.0.2")
	key := ratelimit.ByIP(netip.MustParsePrefix("10.0.0.0/8"))
	f.Fuzz(func(t *testing.T, remote, forwarded string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": strings.Split(forwarded, "\n")}}
		k, err := key(r)
		if err != nil {
			if k != "" {
				t.Fatalf("%q with %v", k, err)
			}
			return
		}
		addr, err := netip.ParseAddr(k)
		if err == nil && addr.Is4() {
			return
		}
		network, err := netip.ParsePrefix(k)
		if err != nil || network.Bits() != 64 || network.Masked() != network || network.Addr().Zone() != "" || network.Addr().Is4In6() {
			t.Fatalf("%q is no network: of %q, %q", k, remote, forwarded)
		}
	})
}
