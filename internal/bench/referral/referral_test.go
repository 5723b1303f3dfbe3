// Package referral measures a redemption beside the bare statement that it
// can't do without: a guarded UPDATE and an INSERT. Beside it stands a second
// floor, which writes the rows and indexes that a redemption has, and decides
// nothing but the code's cap.
package referral

import (
	"context"
	"fmt"
	"slices"
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
		insert into bare_codes values ('HOT', 0, 1000000000);
		create table rows_codes (like referral_codes including all);
		create table rows_redemptions (like referral_redemptions including all);
		create table rows_signals (like referral_signals including all);
		insert into rows_codes (code, campaign, account, active, max_uses, created_at) values ('HOT', 'c', 'ada', true, 1000000000, now())`)
	if err != nil {
		b.Fatal(err)
	}
	_, err = referralpg.New(p).CreateCode(context.Background(), referral.Code{Text: "HOTCODE", Campaign: "c", Account: "ada", Active: true, MaxUses: 1_000_000_000, CreatedAt: at})
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// redeem redeems one code, HOTCODE. Plain hides the pool from the store, so that
// each redemption is a statement of its own.
func redeem(db referralpg.DB, prefix string) func(i int) error {
	store := referralpg.New(db)
	return func(i int) error {
		id := fmt.Sprint(prefix, i)
		referee := "u" + id
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

type plain struct{ referralpg.DB }

func bare(p *pgxpool.Pool) func(i int) error {
	return func(i int) error {
		_, err := p.Exec(context.Background(), `
			with c as (update bare_codes set uses = uses + 1 where code = $1 and uses < max_uses returning code)
			insert into bare_redemptions select code, $2, $3 from c`, "HOT", fmt.Sprint("u", i), at)
		return err
	}
}

// sameRows writes what a redemption writes.
func sameRows(p *pgxpool.Pool) func(i int) error {
	return func(i int) error {
		id := fmt.Sprint("s", i)
		_, err := p.Exec(context.Background(), `
			with c as (update rows_codes set uses = uses + 1 where code = $1 and (max_uses = 0 or uses < max_uses) returning account),
			s as (insert into rows_signals select unnest($5::text[]), $2, $4 from c)
			insert into rows_redemptions (id, campaign, code, referrer, referee, state, reasons, terms, created_at, changed_at, closes_at, rewards)
			select $2, 'c', $1, account, $3, 'pending', '{}', $6, $4, $4, $4, $7 from c`,
			"HOT", id, "u"+id, at, []string{"c/card/" + id, "c/email/" + id}, `{"id":"c","version":1,"referrer":{},"referee":{}}`,
			`[{"id":"a","side":"referee","benefit":{"percent_off":50},"months":0,"currency":""},{"id":"b","side":"referrer","benefit":{"free_months":1},"months":1,"currency":""}]`)
		return err
	}
}

// BenchmarkRedeem interleaves all ways in short turns, and reports the best and
// the median of each.
func BenchmarkRedeem(b *testing.B) {
	p := pool(b)
	ways := []func(i int) error{bare(p), sameRows(p), redeem(p, "r")}
	times := interleave(b, ways, 1, 30, 100)
	b.ReportMetric(us(times[0][0]), "µs-bare")
	b.ReportMetric(us(times[1][0]), "µs-same-rows")
	b.ReportMetric(us(times[2][0]), "µs-redeem")
	b.ReportMetric(times[2][0].Seconds()/times[0][0].Seconds(), "x-bare-best")
	b.ReportMetric(times[2][50].Seconds()/times[0][50].Seconds(), "x-bare-median")
	b.ReportMetric(times[2][50].Seconds()/times[1][50].Seconds(), "x-same-rows-median")
}

// BenchmarkLaunch is one code that 64 callers want at once: each by a statement
// of its own, and together.
func BenchmarkLaunch(b *testing.B) {
	p := pool(b)
	ways := []func(i int) error{bare(p), redeem(plain{p}, "p"), redeem(p, "l")}
	times := interleave(b, ways, 64, 1280, 8)
	b.ReportMetric(us(times[0][0]), "µs-bare")
	b.ReportMetric(us(times[1][0]), "µs-plain")
	b.ReportMetric(us(times[2][0]), "µs-launch")
	b.ReportMetric(1/times[2][0].Seconds(), "launch/s")
	b.ReportMetric(times[1][0].Seconds()/times[2][0].Seconds(), "x-plain-best")
	b.ReportMetric(times[1][4].Seconds()/times[2][4].Seconds(), "x-plain-median")
	uses := int64(0)
	if err := p.QueryRow(context.Background(), `select uses from referral_codes where code = 'HOTCODE'`).Scan(&uses); err != nil || uses != 2*1280*8 {
		b.Fatalf("uses: %d, %v", uses, err)
	}
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// interleave gives each way its turn of n calls, and returns the time of a call
// in each turn, sorted.
func interleave(b *testing.B, ways []func(i int) error, callers, n, turns int) [][]time.Duration {
	b.Helper()
	times := make([][]time.Duration, len(ways))
	for turn := range turns {
		for w, do := range ways {
			start := time.Now()
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					for i := c; i < n; i += callers {
						if err := do(turn*n + i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			times[w] = append(times[w], time.Since(start)/time.Duration(n))
		}
	}
	for _, t := range times {
		slices.Sort(t)
	}
	return times
}
