// Package billing measures billing's request paths beside the bare floor.
package billing

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

const plans = `
plans:
  - {id: free, limits: {requests: 10/minute}}
  - {id: pro, limits: {requests: 100/minute}, prices: [{amount: 9.99 USD, every: month}]}
`

// subject is a service with paying accounts and a feed of it.
func subject(tb testing.TB, accounts int) (*billing.Service, *billing.Feed, []string) {
	tb.Helper()
	ctx := context.Background()
	check := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	catalog, err := billing.ParseCatalog("plans.yaml", []byte(plans))
	check(err)
	gateway := billingtest.NewGateway(catalog, nil)
	svc, err := billing.New(catalog, billingmem.New(), gateway, billing.Config{})
	check(err)
	var ids []string
	for i := range accounts {
		id := fmt.Sprintf("account-%06d", i)
		customer := gateway.AddCustomer(id)
		_, err := gateway.AddSubscription(customer.ID, "pro_month_usd")
		check(err)
		ids = append(ids, id)
	}
	check(gateway.Deliver(svc.Webhook()))
	_, err = svc.ProcessPending(ctx)
	check(err)
	feed, err := svc.NewFeed(billing.FeedConfig{MaxAge: time.Hour})
	check(err)
	for _, id := range ids {
		if n, _, err := feed.Limit(ctx, id, "requests"); err != nil || n != 100 {
			tb.Fatal(n, err)
		}
	}
	return svc, feed, ids
}

// contender is one way to look a limit up.
type contender struct {
	name string
	do   func(account string)
}

func contenders(tb testing.TB) ([]contender, []string) {
	svc, feed, ids := subject(tb, 1000)
	ctx := context.Background()
	type entry struct {
		n     int64
		until time.Time
	}
	bare := map[string]entry{}
	var shared sync.Map
	var mu sync.RWMutex
	for _, id := range ids {
		e := entry{100, time.Now().Add(time.Hour)}
		bare[id] = e
		shared.Store(id, e)
	}
	var sink int64
	return []contender{
		{"floor: map behind a lock, and the time", func(account string) {
			mu.RLock()
			e := bare[account]
			mu.RUnlock()
			if time.Now().Before(e.until) {
				sink += e.n
			}
		}},
		{"sync.Map, and the time", func(account string) {
			v, _ := shared.Load(account)
			if e := v.(entry); time.Now().Before(e.until) {
				sink += e.n
			}
		}},
		{"Feed.Limit", func(account string) {
			n, _, err := feed.Limit(ctx, account, "requests")
			if err != nil {
				panic(err)
			}
			sink += n
		}},
		{"Service.Limit on billingmem", func(account string) {
			n, _, err := svc.Limit(ctx, account, "requests")
			if err != nil {
				panic(err)
			}
			sink += n
		}},
	}, ids
}

// TestLookUps prints a table of best and median, all contenders interleaved in
// one run.
func TestLookUps(t *testing.T) {
	all, ids := contenders(t)
	const rounds, calls = 31, 20_000
	times := make([][]float64, len(all))
	for range rounds {
		for i, c := range all {
			start := time.Now()
			for n := range calls {
				c.do(ids[n%len(ids)])
			}
			times[i] = append(times[i], float64(time.Since(start).Nanoseconds())/calls)
		}
	}
	for i := range times {
		slices.Sort(times[i])
	}
	t.Logf("%-42s %10s %10s %8s", "", "best", "median", "× floor")
	for i, c := range all {
		allocs := testing.AllocsPerRun(1000, func() { c.do(ids[0]) })
		t.Logf("%-42s %7.1f ns %7.1f ns %7.2f  %v allocs", c.name, times[i][0], times[i][rounds/2], times[i][rounds/2]/times[0][rounds/2], allocs)
	}
}

func BenchmarkLookUp(b *testing.B) {
	all, ids := contenders(b)
	for _, c := range all {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				c.do(ids[n%len(ids)])
			}
		})
	}
}
