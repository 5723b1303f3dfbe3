package usage_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

const accounts = 50_000

// hot is a store that packs nothing.
func hot(pool *pgxpool.Pool) *usagepg.Store {
	return usagepg.NewWith(pool, usagepg.Config{PackAfter: -1})
}

// fill writes n events of 90 days and what the store would have folded from
// them, with a few accounts having most of the events.
func fill(b *testing.B, pool *pgxpool.Pool, n, accounts int, now time.Time) {
	b.Helper()
	ctx := context.Background()
	if err := hot(pool).Maintain(ctx, now.AddDate(0, -3, 0)); err != nil {
		b.Fatal(err)
	}
	if err := hot(pool).Maintain(ctx, now); err != nil {
		b.Fatal(err)
	}
	for done, part := 0, n/10; done < n; done += part {
		exec(b, pool, `
insert into usage_events (account, meter, ts, key, value, flags)
select 'acct_' || lpad(floor($1 * power(random(), 3))::text, 6, '0'), (array['kolekts', 'tokens', 'bytes'])[1 + i % 3],
	date_trunc('milliseconds', $2::timestamptz - random() * interval '90 days'), (random() * 9e18)::bigint, 1 + i % 100, 0
from generate_series(1, $3::int) i`, float64(accounts), now, part)
	}
	roll(b, pool, now)
}

// roll writes what the store would have folded from the events.
func roll(b *testing.B, pool *pgxpool.Pool, now time.Time) {
	b.Helper()
	ctx := context.Background()
	// What the store folds into months by the day has to be loaded in steps: the
	// tables of quarters never have more than those of the last days.
	recent := now.Add(-36 * time.Hour).Truncate(24 * time.Hour)
	quarters := func(from, to time.Time) {
		exec(b, pool, `
insert into usage_quarters (account, meter, figure, dim, bucket, cnt, sum, min, max, last, last_at, scale)
select account, meter, '', '', date_bin('15 minutes', ts, '2000-01-01Z'), count(*), sum(value), min(value), max(value), max(value), max(ts), 0
from usage_events where ts >= $1 and ts < $2 group by 1, 2, 5 order by 1, 2, 5`, from, to)
	}
	for from := now.AddDate(0, -4, 0); from.Before(recent); from = from.AddDate(0, 1, 0) {
		quarters(from, earlier(from.AddDate(0, 1, 0), recent))
		if err := hot(pool).Maintain(ctx, now); err != nil {
			b.Fatal(err)
		}
		exec(b, pool, "vacuum usage_quarters")
		exec(b, pool, "reindex table usage_quarters")
	}
	quarters(recent, now.AddDate(0, 0, 1))
	exec(b, pool, `
insert into usage_platform (meter, figure, dim, grain, bucket, shard, cnt, sum, min, max, last, last_at, scale)
select meter, '', '', g, date_bin(case g when 0 then interval '15 minutes' else interval '1 day' end, ts, '2000-01-01Z'),
	extract(seconds from ts)::int % 8, count(*), sum(value), min(value), max(value), max(value), max(ts), 0
from usage_events, generate_series(0, 1) g group by 1, 4, 5, 6`)
	if err := hot(pool).Maintain(ctx, now); err != nil { // makes one row of a bucket's shards
		b.Fatal(err)
	}
	exec(b, pool, "vacuum analyze")
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// loaded names a cluster with databases small and large that are filled
// already, as 100,000 and 10 million events: loading takes longer than asking.
var loaded = flag.String("loaded", "", "directory of the socket of a server with filled databases small and large")

func filled(b *testing.B, n int, now time.Time) *pgxpool.Pool {
	b.Helper()
	if *loaded == "" {
		pool := durable(b, 8)
		fill(b, pool, n, accounts, now)
		return pool
	}
	name := "large"
	if n == 100_000 {
		name = "small"
	}
	pool, err := pgxpool.New(context.Background(), fmt.Sprintf("postgres:///%s?host=%s&user=postgres", name, *loaded))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	return pool
}

// Queries over 100,000 events and over many more: 10 million with
// COMMERCE_PROVE=1. Each account is asked for twice: what the second time takes
// is the work, and the first time has what the server hadn't in its buffers.
func BenchmarkQueries(b *testing.B) {
	large := 1_000_000
	if os.Getenv("COMMERCE_PROVE") == "1" {
		large = 10_000_000
	}
	now := time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
	zone := func(name string) *time.Location {
		loc, err := time.LoadLocation(name)
		if err != nil {
			b.Fatal(err)
		}
		return loc
	}
	newYork, kolkata, kathmandu := zone("America/New_York"), zone("Asia/Kolkata"), zone("Asia/Kathmandu")
	var before map[string]time.Duration
	for _, n := range []int{100_000, large} {
		pool := filled(b, n, now)
		svc, err := usage.New(usagepg.New(pool), usage.Config{
			Meters: []usage.Meter{{Name: "kolekts", Aggregation: usage.Sum}, {Name: "tokens", Aggregation: usage.Sum}, {Name: "bytes", Aggregation: usage.Sum}},
			Now:    func() time.Time { return now },
		})
		if err != nil {
			b.Fatal(err)
		}
		ctx := context.Background()
		if err := pool.Ping(ctx); err != nil {
			b.Fatal(err)
		}
		// As busy accounts have more of the events, they are asked for more often.
		any := func() string { return fmt.Sprintf("acct_%06d", int(accounts*math.Pow(rand.Float64(), 3))) }
		series := func(loc *time.Location, step usage.Step) func(string) error {
			return func(account string) error {
				_, err := svc.Series(ctx, usage.Query{Account: account, Meter: "tokens", Location: loc, Step: step})
				return err
			}
		}
		fmt.Fprintf(os.Stdout, "\nqueries over %d events of %d accounts in 90 days, each account twice\n%-48s %10s %10s %10s %10s\n",
			n, accounts, "", "1st median", "1st p99", "2nd median", "2nd p99")
		medians := map[string]time.Duration{}
		for _, c := range []struct {
			name    string
			times   int
			account func() string
			ask     func(account string) error
		}{
			{"an account's 30 days, summary", 1000, any, func(account string) error {
				_, err := svc.Summary(ctx, usage.Query{Account: account, Meter: "tokens"})
				return err
			}},
			{"an account's 30 days, by day", 1000, any, series(nil, usage.Day)},
			{"the heaviest account's 30 days, by day", 200, func() string { return "acct_000000" }, series(nil, usage.Day)},
			{"an account's 30 days, by day in New York", 1000, any, series(newYork, usage.Day)},
			{"an account's 30 days, by day in Kolkata", 1000, any, series(kolkata, usage.Day)},
			{"an account's 30 days, by day in Kathmandu", 1000, any, series(kathmandu, usage.Day)},
			{"the heaviest account's, by day in New York", 200, func() string { return "acct_000000" }, series(newYork, usage.Day)},
			{"an account's 30 days, by hour", 1000, any, series(nil, usage.Hour)},
			{"the platform's 30 days, by day", 200, func() string { return "" }, series(nil, usage.Day)},
			{"the platform's 30 days, by day in New York", 50, func() string { return "" }, series(newYork, usage.Day)},
			{"top 20 accounts of 30 days", 5, func() string { return "" }, func(string) error {
				_, err := svc.Top(ctx, usage.Query{Meter: "tokens"}, 20)
				return err
			}},
		} {
			asked := make([]string, c.times)
			for i := range asked {
				asked[i] = c.account()
			}
			var line string
			for range 2 {
				took := make([]time.Duration, c.times)
				for i, account := range asked {
					at := time.Now()
					if err := c.ask(account); err != nil {
						b.Fatal(err)
					}
					took[i] = time.Since(at)
				}
				line += fmt.Sprintf(" %10v %10v", middle(took).Round(time.Microsecond), percentile(took, 99).Round(time.Microsecond))
				medians[c.name] = middle(took)
			}
			if before != nil {
				line += fmt.Sprintf("  %.1f x of that at 100,000", float64(medians[c.name])/float64(before[c.name]))
			}
			fmt.Fprintf(os.Stdout, "%-48s%s\n", c.name, line)
		}
		before = medians
		var events, days int64
		err = pool.QueryRow(ctx, `
select coalesce(sum(pg_total_relation_size(c.oid)) filter (where relname ~ '^usage_events_\d'), 0)::bigint,
	coalesce(sum(pg_total_relation_size(c.oid)) filter (where relname ~ '^usage_(quarters|months)_\d'), 0)::bigint
from pg_class c where relkind = 'r'`).Scan(&events, &days)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(os.Stdout, "bytes for each event: %d with their index, %d of quarters and months\n", events/int64(n), days/int64(n))
		if *loaded != "" {
			continue // they are there for the next time too
		}
		at := time.Now()
		if err := usagepg.NewWith(pool, usagepg.Config{Retention: 35 * 24 * time.Hour}).Maintain(ctx, now); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(os.Stdout, "dropping all but the last months took %v\n", time.Since(at).Round(time.Millisecond))
	}
}

// A month that is over, packed: as many events for each account as there are
// in 10 million of 50,000. 10 million with COMMERCE_PROVE=1.
func BenchmarkPack(b *testing.B) {
	n := 1_000_000
	if os.Getenv("COMMERCE_PROVE") == "1" {
		n = 10_000_000
	}
	now := time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
	pool := durable(b, 8)
	fill(b, pool, n, n/200, now)
	packed(b, pool, now)
}

// packed packs all months but the last and prints what that makes of them.
func packed(b *testing.B, pool *pgxpool.Pool, now time.Time) {
	b.Helper()
	ctx := context.Background()
	var cold int64
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	if err := pool.QueryRow(ctx, "select count(*) from usage_events where ts < $1", month).Scan(&cold); err != nil {
		b.Fatal(err)
	}
	at := time.Now()
	if err := usagepg.NewWith(pool, usagepg.Config{PackAfter: 1}).Maintain(ctx, now.AddDate(0, 0, 2)); err != nil {
		b.Fatal(err)
	}
	took := time.Since(at)
	var events, size, raw int64
	err := pool.QueryRow(ctx, `
select (select sum(n) from usage_packed)::bigint,
	coalesce(sum(pg_total_relation_size(c.oid)) filter (where relname ~ '^usage_packed_\d'), 0)::bigint,
	(select count(*) from usage_events where ts < $1)
from pg_class c where relkind = 'r'`, month).Scan(&events, &size, &raw)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(os.Stdout, "packed %d of %d events of past months in %v: %.1f bytes for each with their index, %d left beside\n",
		events, cold, took.Round(time.Millisecond), float64(size)/float64(events), raw)
}

func percentile(list []time.Duration, p int) time.Duration {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)*p/100]
}
