// Package referral measures a redemption beside the bare statement that it
// can't do without: a guarded UPDATE and an INSERT.
package referral

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/referral/referralpg"
)

var at = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func pool(b *testing.B) *pgxpool.Pool {
	b.Helper()
	server := pgtest.Server(b, services.PostgresConfig{Durable: true})
	p := pgtest.PoolOn(b, server.URL())
	if err := referralpg.Migrate(context.Background(), p); err != nil {
		b.Fatal(err)
	}
	_, err := p.Exec(context.Background(), `
		create table bare_codes (code text primary key, uses bigint not null, max_uses bigint not null);
		create table bare_redemptions (code text not null, account text primary key, at timestamptz not null);
		insert into bare_codes values ('HOT', 0, 1000000000)`)
	if err != nil {
		b.Fatal(err)
	}
	_, err = referralpg.New(p).CreateCode(context.Background(), referral.Code{Text: "HOTCODE", Campaign: "c", Account: "ada", Active: true, MaxUses: 1_000_000_000, CreatedAt: at})
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func redeem(p *pgxpool.Pool) func(i int) error {
	store := referralpg.New(p)
	return func(i int) error {
		id := fmt.Sprint("r", i)
		referee := fmt.Sprint("u", i)
		_, err := store.Redeem(context.Background(), referral.Attempt{
			Now:        at,
			Redemption: referral.Redemption{ID: id, Campaign: "c", Code: "HOTCODE", Referee: referee, State: referral.RedemptionPending, CreatedAt: at, ChangedAt: at, ClosesAt: at},
			Signals:    []referral.Signal{{Kind: "card", Hash: id}, {Kind: "email", Hash: id}},
			Rewards: []referral.Reward{
				{ID: id + "a", Side: referral.Referee, Account: referee, Benefit: referral.Benefit{PercentOff: 50}},
				{ID: id + "b", Side: referral.Referrer, Benefit: referral.Benefit{FreeMonths: 1}, MonthsLeft: 1},
			},
		})
		return err
	}
}

func bare(p *pgxpool.Pool) func(i int) error {
	return func(i int) error {
		_, err := p.Exec(context.Background(), `
			with c as (update bare_codes set uses = uses + 1 where code = $1 and uses < max_uses returning code)
			insert into bare_redemptions select code, $2, $3 from c`, "HOT", fmt.Sprint("u", i), at)
		return err
	}
}

// BenchmarkRedeem interleaves both in batches and reports the best of each.
func BenchmarkRedeem(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("callers-%d", callers), func(b *testing.B) {
			p := pool(b)
			ways := []func(i int) error{bare(p), redeem(p)}
			best := []time.Duration{time.Hour, time.Hour}
			n := 0
			const batch = 400
			for range 8 {
				for w, do := range ways {
					start := time.Now()
					var wg sync.WaitGroup
					for c := range callers {
						wg.Go(func() {
							for i := c; i < batch; i += callers {
								if err := do(n + i); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
					best[w] = min(best[w], time.Since(start)/batch)
				}
				n += batch
			}
			b.ReportMetric(float64(best[0].Microseconds()), "µs-bare")
			b.ReportMetric(float64(best[1].Microseconds()), "µs-redeem")
			b.ReportMetric(best[1].Seconds()/best[0].Seconds(), "x-bare")
		})
	}
}
