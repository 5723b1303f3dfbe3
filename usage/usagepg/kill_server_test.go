package usagepg_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// outcome is what callers and the store say after a server was killed.
type outcome struct{ acked, sent, stored int64 }

// recordThroughKills has 16 callers record batches, which they try again until
// one succeeds, and kills PostgreSQL again and again meanwhile. Without IDs
// each try makes events of its own.
func recordThroughKills(t *testing.T, kills int, each int64, setting string, ids bool) outcome {
	t.Helper()
	ctx := t.Context()
	server, pool := killable(t)
	if setting != "" {
		_, err := pool.Exec(ctx, "alter database postgres set "+setting)
		require.NoError(t, err)
		pool.Reset()
	}
	require.NoError(t, usagepg.New(pool).Maintain(ctx, time.Now()))
	svc := killService(t, pool)
	const batch = 20
	var out outcome
	var stop atomic.Bool
	var acked, sent atomic.Int64
	progress := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				events := make([]usage.Event, batch)
				for j := range events {
					events[j] = usage.Event{Account: fmt.Sprint("acct", w), Meter: "tokens", Value: 1}
					if ids {
						events[j].ID = fmt.Sprint(w, ".", i, ".", j)
					}
				}
				sent.Add(batch)
				for {
					_, err := svc.RecordBatch(context.WithoutCancel(ctx), events)
					if err == nil {
						break
					}
					if !errors.Is(err, usage.ErrUnavailable) && !errors.Is(err, usage.ErrUnknownOutcome) {
						t.Error(err)
						return
					}
				}
				acked.Add(batch)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for range kills {
		for from := acked.Load(); acked.Load() < from+each; {
			<-progress
		}
		restart(t, server)
	}
	stop.Store(true)
	wg.Wait()
	pool.Reset()
	sum, err := svc.Summary(ctx, usage.Query{Meter: "tokens"})
	require.NoError(t, err)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	out.acked, out.sent, out.stored = acked.Load(), sent.Load(), sum.Value.Sum
	t.Logf("%d kills of PostgreSQL, %d acknowledged, %d stored", kills, out.acked, out.stored)
	return out
}

// Callers that record at once, and try again with the same IDs, lose nothing
// and count nothing twice, however often PostgreSQL is killed.
func TestAKilledServerLosesAndRepeatsNothing(t *testing.T) {
	out := recordThroughKills(t, proving(2, 24), int64(proving(1000, 5000)), "", true)
	require.Equal(t, out.sent, out.acked)
	require.Equal(t, out.acked, out.stored)
}

// The control: commits that don't wait for the disk lose what was acknowledged.
func TestAsynchronousCommitsLoseEvents(t *testing.T) {
	out := recordThroughKills(t, proving(3, 20), int64(proving(1000, 5000)), "synchronous_commit = off", true)
	require.Less(t, out.stored, out.acked)
}

// The control: without IDs a try whose outcome was unknown counts again. Only
// with a commit under way at a kill does that show, so that there are many.
func TestTriesWithoutIDsCountTwice(t *testing.T) {
	out := recordThroughKills(t, proving(12, 24), int64(proving(1000, 5000)), "", false)
	require.Greater(t, out.stored, out.sent)
}
