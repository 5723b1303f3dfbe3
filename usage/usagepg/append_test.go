package usagepg_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

func entryOf(account, id string, value int64, at time.Time, charge usage.Charge) usage.Entry {
	e := usage.Entry{
		Event: usage.Event{ID: id, Account: account, Meter: "tokens", Value: value, Time: at.Truncate(time.Microsecond), Properties: usage.Properties{usage.String("note", `a "quoted" \ é`)}},
		Hash:  value, Figures: []usage.Figure{{Value: value}}, Charge: charge,
	}
	if e.Own = id == ""; e.Own {
		e.Key = usage.KeyAt(e.Time, rand.Uint64())
	} else {
		e.Key = usage.KeyOf(e.Meter, id)
	}
	return e
}

// Calls that share a transaction each get their own outcomes: what is new is
// stored once, what two of them send is one's and the other's duplicate, what
// can't be stored is its own call's error, and everything derived agrees.
func TestAppendsTogether(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	store := usagepg.New(pool)
	now := time.Now().UTC()
	month := usage.Calendar(1).PeriodAt(now)
	charge := usage.Charge{Period: month, Limit: 1000, Cap: usage.Unlimited, Thresholds: []int{80, 100}}
	const callers, rounds, size = 16, 6, 230 // from 200 events on COPY stores them
	shared := make([][]usage.Entry, rounds)
	for i := range shared {
		for j := range size {
			id := ""
			if j%3 == 0 {
				id = fmt.Sprint(i, ".", j)
			}
			shared[i] = append(shared[i], entryOf(fmt.Sprint("acct", j%7), id, int64(j), now, charge))
		}
	}
	var stored, duplicates, sum atomic.Int64
	var wg sync.WaitGroup
	for w := range callers {
		wg.Go(func() {
			for i := range rounds {
				batch := shared[i] // of everybody
				if w%2 == 0 {      // and of one's own
					batch = make([]usage.Entry, size-w)
					for j := range batch {
						batch[j] = entryOf(fmt.Sprint("acct", j%7), "", int64(j), now, charge)
					}
				}
				out, err := store.Append(ctx, now, batch)
				if err != nil {
					t.Error(err)
					return
				}
				for j, o := range out {
					switch o {
					case usage.Stored:
						stored.Add(1)
						sum.Add(batch[j].Value)
					case usage.Duplicate:
						duplicates.Add(1)
					default:
						t.Error("a key was reused")
					}
				}
				bad := entryOf("acct1", "", 1, now, charge)
				bad.Account = "a\x00b"
				if _, err := store.Append(ctx, now, []usage.Entry{bad}); err == nil {
					t.Error("NUL was stored")
				}
			}
		})
	}
	wg.Wait()
	var own int64
	for w := 0; w < callers; w += 2 {
		own += rounds * int64(size-w)
	}
	require.Equal(t, own+rounds*size, stored.Load())
	require.EqualValues(t, callers/2*rounds*size-rounds*size, duplicates.Load())
	var events, used, noticed int64
	require.NoError(t, pool.QueryRow(ctx, "select sum(value)::bigint from usage_events").Scan(&events))
	require.NoError(t, pool.QueryRow(ctx, "select sum(used)::bigint from usage_counters").Scan(&used))
	require.NoError(t, pool.QueryRow(ctx, "select count(*) from usage_notices").Scan(&noticed))
	require.Equal(t, sum.Load(), events)
	require.Equal(t, sum.Load(), used)
	require.EqualValues(t, 7*2, noticed, "each threshold once for each account")
	audit, err := store.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

// A caller whose context ends while it waits for others isn't stored, and says
// so; one that has begun has an unknown outcome.
func TestAnAppendThatWaitsCanBeGivenUp(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	store := usagepg.New(pool)
	now := time.Now().UTC()
	charge := usage.Charge{Period: usage.Calendar(1).PeriodAt(now), Limit: 1000, Cap: usage.Unlimited}
	_, err := store.Append(ctx, now, []usage.Entry{entryOf("a", "", 1, now, charge)})
	require.NoError(t, err)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "select from usage_counters for update")
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 2 { // these wait for the lock
		wg.Go(func() {
			_, err := store.Append(ctx, now, []usage.Entry{entryOf("a", "", 1, now, charge)})
			if err != nil {
				t.Error(err)
			}
		})
	}
	for blocked := 0; blocked < 2; {
		require.NoError(t, pool.QueryRow(ctx, "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%usage_counters%'").Scan(&blocked))
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = store.Append(short, now, []usage.Entry{entryOf("a", "", 100, now, charge)})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, usage.ErrUnknownOutcome)
	require.NoError(t, tx.Rollback(ctx))
	wg.Wait()
	var used int64
	require.NoError(t, pool.QueryRow(ctx, "select used from usage_counters").Scan(&used))
	require.EqualValues(t, 3, used)
}

// Values whose sum is beyond an int64 are split, not added up wrongly.
func TestSumsOfABatchDoNotOverflow(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	store := usagepg.New(pool)
	now := time.Now().UTC()
	var batch []usage.Entry
	for range 2100 { // 2^53 fits 1023 times
		batch = append(batch, entryOf("a", "", usage.MaxValue, now, usage.Charge{}))
	}
	_, err := store.Append(ctx, now, batch)
	require.NoError(t, err)
	var right bool
	require.NoError(t, pool.QueryRow(ctx, "select sum(sum) = 2100::numeric * $1::bigint from usage_quarters", int64(usage.MaxValue)).Scan(&right))
	require.True(t, right)
}

// Poolers and proxies force ways of sending statements in which parameters
// have no types of their own.
func TestAppendWithoutPreparedStatements(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe} {
		t.Run(mode.String(), func(t *testing.T) {
			ctx := t.Context()
			cfg := migrated(t).Config()
			cfg.ConnConfig.DefaultQueryExecMode = mode
			pool, err := pgxpool.NewWithConfig(ctx, cfg)
			require.NoError(t, err)
			defer pool.Close()
			store := usagepg.New(pool)
			now := time.Now().UTC()
			charge := usage.Charge{Period: usage.Calendar(1).PeriodAt(now), Limit: 10, Cap: usage.Unlimited, Thresholds: []int{80}}
			batch := []usage.Entry{entryOf(`a"\ b`, "", 7, now, charge), entryOf(`a"\ b`, strings.Repeat("é", 100), 2, now.Add(-time.Hour), charge)}
			for _, want := range []usage.AppendOutcome{usage.Stored, usage.Duplicate} {
				out, err := store.Append(ctx, now, batch)
				require.NoError(t, err)
				require.Equal(t, []usage.AppendOutcome{want, want}, out)
			}
			notices, err := store.Notices(ctx, `a"\ b`, 10)
			require.NoError(t, err)
			require.Len(t, notices, 1)
			audit, err := store.Audit(ctx)
			require.NoError(t, err)
			require.Empty(t, audit.Differences)
		})
	}
}
