package usage_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
	"github.com/kolekt/commerce/usage/usageredis"
)

var march = usage.Period{From: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)}

const plenty = 1 << 50

func step(kind usage.OpKind, account, key string, thresholds ...int) usage.Op {
	now := march.From.Add(time.Hour)
	return usage.Op{
		Kind: kind, Account: account, Meter: "kolekts", Key: key, N: 1, Now: now, Expires: now.Add(time.Hour),
		Charge: usage.Charge{Period: march, Limit: plenty, Cap: plenty, Thresholds: thresholds},
	}
}

func admitted(d usage.Decision, err error) error {
	if err == nil && !d.Allowed {
		return errors.New("refused")
	}
	return err
}

const plainUpdate = `update plain set used = used + $2 where id = $1 and used + $2 <= lim returning used`

func plain(pool *pgxpool.Pool) func(context.Context, int, int) error {
	return func(ctx context.Context, _, _ int) error {
		var used int64
		return pool.QueryRow(ctx, plainUpdate, "acct", 1).Scan(&used)
	}
}

// One hot account on a durable PostgreSQL.
func BenchmarkQuotaHotAccount(b *testing.B) {
	pool := durable(b, 32)
	exec(b, pool, "create table plain (id text primary key, used bigint, lim bigint) with (fillfactor = 50)")
	exec(b, pool, "insert into plain values ('acct', 0, $1)", int64(plenty))
	store := usagepg.New(pool)
	consume := func(thresholds ...int) func(context.Context, int, int) error {
		return func(ctx context.Context, _, _ int) error {
			return admitted(store.Apply(ctx, step(usage.Consume, "acct", "", thresholds...)))
		}
	}
	run := 0
	pairs := func(ctx context.Context, w, i int) error {
		key := fmt.Sprint(run, ".", w, ".", i)
		if err := admitted(store.Apply(ctx, step(usage.Reserve, "acct", key))); err != nil {
			return err
		}
		return admitted(store.Apply(ctx, step(usage.Commit, "acct", key)))
	}
	for _, workers := range []int{64, 1} {
		run++
		contest(b, "quota of one hot account, durable", workers, 12, 400*time.Millisecond,
			contender{name: "UPDATE … WHERE used + n <= lim", do: plain(pool)},
			contender{name: "Consume", do: consume()},
			contender{name: "Consume with thresholds 80 and 100", do: consume(80, 100)},
		)
		contest(b, "reserve and commit, durable holds", workers, 9, 500*time.Millisecond,
			contender{name: "UPDATE … WHERE used + n <= lim", do: plain(pool)},
			contender{name: "Reserve + Commit pairs", do: pairs},
		)
	}
	// A long report holds a snapshot open, so that no dead row version goes.
	ctx := context.Background()
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select count(*) from usage_counters"); err != nil {
			return err
		}
		contest(b, "the same beside an open snapshot", 64, 3, 3*time.Second,
			contender{name: "UPDATE … WHERE used + n <= lim", do: plain(pool)},
			contender{name: "Consume", do: consume()},
		)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// Many accounts on a durable PostgreSQL.
func BenchmarkQuotaManyAccounts(b *testing.B) {
	pool := durable(b, 32)
	exec(b, pool, "create table plain (id text primary key, used bigint, lim bigint) with (fillfactor = 50)")
	exec(b, pool, "insert into plain select 'acct' || i, 0, $1 from generate_series(0, 9999) i", int64(plenty))
	store := usagepg.New(pool)
	name := func(w, i int) string { return fmt.Sprint("acct", (w*7919+i*104729)%10000) }
	contest(b, "quotas of 10,000 accounts, durable", 64, 3, 2*time.Second,
		contender{name: "UPDATE … WHERE used + n <= lim", do: func(ctx context.Context, w, i int) error {
			var used int64
			return pool.QueryRow(ctx, plainUpdate, name(w, i), 1).Scan(&used)
		}},
		contender{name: "Consume", do: func(ctx context.Context, w, i int) error {
			return admitted(store.Apply(ctx, step(usage.Consume, name(w, i), "")))
		}},
	)
}

// A bare EVALSHA of the shortest script that decides, beside the whole step.
func BenchmarkQuotaRedis(b *testing.B) {
	server := redistest.Server(b, services.RedisConfig{})
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, PoolSize: 64})
	b.Cleanup(func() { _ = client.Close() })
	bare := redis.NewScript(`
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return {0, used} end
return {1, redis.call('INCRBY', KEYS[1], ARGV[1])}`)
	if err := bare.Load(context.Background(), client).Err(); err != nil {
		b.Fatal(err)
	}
	store := usageredis.New(client)
	for _, workers := range []int{64, 1} {
		// Many short turns: how long an idle processor takes to wake up changes
		// from second to second, and is most of a lone caller's time.
		contest(b, "quota in Redis", workers, 75, 60*time.Millisecond,
			contender{name: "bare EVALSHA", do: func(ctx context.Context, _, _ int) error {
				return bare.EvalSha(ctx, client, []string{"bare"}, 1, plenty).Err()
			}},
			contender{name: "Consume", do: func(ctx context.Context, _, _ int) error {
				return admitted(store.Apply(ctx, step(usage.Consume, "acct", "")))
			}},
		)
	}
}
