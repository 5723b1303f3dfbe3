package usagepg_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// What rides along is there when its step was counted, and only then, whoever
// else was in the same transaction.
func TestAStepAndWhatItCarriesComeTogetherOrNotAtAll(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	_, err := pool.Exec(ctx, "create table reports (id text primary key, size int check (size > 0))")
	require.NoError(t, err)
	store := usagepg.New(pool)
	const limit = 40
	svc, err := usage.New(store, usage.Config{
		Meters: []usage.Meter{{Name: "reports", Quota: true}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(limit), nil },
	})
	require.NoError(t, err)
	make := func(account, id string, size int) (usage.Decision, error) {
		return svc.With(store.Along(func(b *pgx.Batch) {
			b.Queue("insert into reports (id, size) values ($1, $2)", id, size)
		})).Consume(ctx, usage.Request{Account: account, Meter: "reports", Key: id, Record: true})
	}
	var mu sync.Mutex
	allowed, broken := map[string]int{}, 0
	var wg sync.WaitGroup
	for i := range 200 { // of which every tenth can't be stored, and of the rest forty fit
		wg.Go(func() {
			account, size := fmt.Sprint("account", i%2), 1
			if i%10 == 9 {
				size = 0
			}
			d, err := make(account, fmt.Sprint("report", i), size)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				broken++
			case d.Allowed:
				allowed[account]++
			}
		})
	}
	wg.Wait()
	require.Positive(t, broken)
	var stored int
	require.NoError(t, pool.QueryRow(ctx, "select count(*) from reports").Scan(&stored))
	require.Equal(t, map[string]int{"account0": limit, "account1": limit}, allowed)
	require.Equal(t, 2*limit, stored)
	for account := range allowed {
		d, err := svc.Quota(ctx, account, "reports")
		require.NoError(t, err)
		require.EqualValues(t, limit, d.Used)
	}

	// A repeated key is answered as before and carries nothing.
	var id string
	require.NoError(t, pool.QueryRow(ctx, "select id from reports where id like '%0' limit 1").Scan(&id))
	d, err := make("account0", id, 1)
	require.NoError(t, err)
	require.True(t, d.Allowed)
	require.True(t, d.Replayed)

	// It works in a caller's transaction too, and goes with it.
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	in := usagepg.New(tx)
	d, err = svc.With(in.Along(func(b *pgx.Batch) {
		b.Queue("insert into reports (id, size) values ('late', 1)")
	})).Consume(ctx, usage.Request{Account: "account2", Meter: "reports", Key: "late"})
	require.NoError(t, err)
	require.True(t, d.Allowed)
	require.NoError(t, tx.Rollback(ctx))
	require.NoError(t, pool.QueryRow(ctx, "select count(*) from reports").Scan(&stored))
	require.Equal(t, 2*limit, stored)
}
