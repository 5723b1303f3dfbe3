package usage_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

const batchSize = 1000

// bareTable is what the floor writes into: a plain table of the same rows with
// one key, and nothing behind it.
const bareTable = `
create table bare (ts timestamptz not null, value bigint not null, key uuid not null, flags smallint not null,
	account text not null, meter text not null, id text, props jsonb, primary key (account, meter, ts, key))`

const bareInsert = `
insert into bare (account, meter, ts, key, value, flags, id, props)
select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::uuid[], $5::bigint[], $6::smallint[], $7::text[], $8::jsonb[])
on conflict do nothing`

const someProps = `{"model": "gpt", "region": "eu-west", "cached": false}`

func batchOf(w, i, accounts int, props usage.Properties, charge usage.Charge) []usage.Entry {
	out := make([]usage.Entry, batchSize)
	now := time.Now().UTC().Truncate(time.Microsecond)
	for j := range out {
		at := now.Add(-time.Duration(j) * time.Millisecond)
		v := int64(j%100 + 1)
		out[j] = usage.Entry{
			Event: usage.Event{Account: fmt.Sprintf("acct_%06d", (w*31+i*977+j*7919)%accounts), Meter: "tokens", Value: v, Time: at, Properties: props},
			Key:   usage.KeyAt(at, rand.Uint64()), Own: true, Hash: v, Figures: []usage.Figure{{Value: v}}, Charge: charge,
		}
	}
	return out
}

// Batches of 1,000 events from four connections into a durable PostgreSQL: the
// bare statement beside the store, which also writes rollups, and beside the
// store with quota counters and thresholds.
func BenchmarkIngest(b *testing.B) {
	pool := durable(b, 8)
	exec(b, pool, bareTable)
	store := usagepg.New(pool)
	props := usage.Properties{usage.Bool("cached", false), usage.String("model", "gpt"), usage.String("region", "eu-west")}
	now := time.Now()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	charge := usage.Charge{
		Period: usage.Period{From: month, To: month.AddDate(0, 1, 0)}, Limit: plenty, Cap: plenty, Thresholds: []int{80, 100},
	}
	for _, accounts := range []int{1000, 100_000} {
		appendTo := func(c usage.Charge) func(ctx context.Context, w, i int) error {
			return func(ctx context.Context, w, i int) error {
				_, err := store.Append(ctx, now, batchOf(w, i, accounts, props, c))
				return err
			}
		}
		contest(b, fmt.Sprintf("ingest, durable and deduplicated, %d accounts", accounts), 4, 3, 3*time.Second,
			contender{name: "bare unnest … ON CONFLICT DO NOTHING", per: batchSize, do: func(ctx context.Context, w, i int) error {
				_, err := pool.Exec(ctx, bareInsert, bareArgs(batchOf(w, i, accounts, props, usage.Charge{}))...)
				return err
			}},
			contender{name: "Append with rollups", per: batchSize, do: appendTo(usage.Charge{})},
			contender{name: "Append with rollups, counters, thresholds", per: batchSize, do: appendTo(charge)},
		)
	}
}

func bareArgs(entries []usage.Entry) []any {
	n := len(entries)
	accounts, meters := make([]string, n), make([]string, n)
	times, keys, values := make([]time.Time, n), make([][16]byte, n), make([]int64, n)
	flags, ids, props := make([]int16, n), make([]*string, n), make([]string, n)
	for i, e := range entries {
		accounts[i], meters[i], times[i], keys[i], values[i], props[i] = e.Account, e.Meter, e.Time, e.Key, e.Value, someProps
	}
	return []any{accounts, meters, times, keys, values, flags, ids, props}
}
