package refusals_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/examples/kolekt/internal/refusals"
	"github.com/kolekt/commerce/internal/pgtest"
)

var noon = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)

func TestMemory(t *testing.T) { store(t, &refusals.Memory{}) }

func TestPostgres(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, refusals.Schema.Migrate(t.Context(), pool))
	require.NoError(t, refusals.Schema.Verify(t.Context(), pool))
	store(t, refusals.NewPostgres(pool))
}

func store(t *testing.T, s refusals.Store) {
	ctx, now := t.Context(), noon
	// Two instances count into one store.
	one := refusals.New(s, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	two := refusals.New(s, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	for _, l := range []*refusals.Log{one, two} {
		for range 4 {
			wg.Go(func() {
				for range 250 {
					l.Note("ann", "free", refusals.Rate)
				}
			})
		}
	}
	wg.Wait()
	one.Note("ann", "free", refusals.Quota)
	one.Note("bob", "pro", refusals.Rate)
	require.NoError(t, two.Flush(ctx))
	hour := noon.Truncate(time.Hour)
	list, err := one.Since(ctx, "ann", 10)
	require.NoError(t, err)
	require.Equal(t, []refusals.Count{
		{Account: "ann", Plan: "free", Reason: refusals.Rate, Hour: hour, N: 2000}, {Account: "ann", Plan: "free", Reason: refusals.Quota, Hour: hour, N: 1},
	}, list)
	all, err := one.Since(ctx, "", 10)
	require.NoError(t, err)
	require.Len(t, all, 3)
	all, err = one.Since(ctx, "", 1)
	require.NoError(t, err)
	require.EqualValues(t, 2000, all[0].N, "the greatest first")
	totals, err := one.Totals(ctx)
	require.NoError(t, err)
	require.Equal(t, []refusals.Count{{Plan: "free", Reason: refusals.Quota, N: 1}, {Plan: "free", Reason: refusals.Rate, N: 2000}, {Plan: "pro", Reason: refusals.Rate, N: 1}}, totals)

	now = noon.Add(25 * time.Hour)
	list, err = one.Since(ctx, "ann", 10)
	require.NoError(t, err)
	require.Empty(t, list, "a day has passed")
	require.NoError(t, s.Prune(ctx, now.Add(-24*time.Hour)))
	n, err := s.Forget(ctx, "ann")
	require.NoError(t, err)
	require.Zero(t, n, "pruned")
	one.Note("ann", "free", refusals.Rate)
	require.NoError(t, one.Flush(ctx))
	n, err = s.Forget(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

// broken is a Store that is away.
type broken struct {
	refusals.Store
	away bool
}

func (b *broken) Add(ctx context.Context, c []refusals.Count) error {
	if b.away {
		return errors.New("away")
	}
	return b.Store.Add(ctx, c)
}

func TestWhatCantBeWrittenWaitsWithinBounds(t *testing.T) {
	b := &broken{Store: &refusals.Memory{}, away: true}
	l := refusals.New(b, func() time.Time { return noon }, slog.New(slog.DiscardHandler))
	for i := range 12_000 {
		l.Note(fmt.Sprint("account", i), "free", refusals.Rate)
	}
	require.EqualValues(t, 2_000, l.Lost())
	require.Error(t, l.Flush(t.Context()))
	b.away = false
	ctx, end := context.WithCancel(t.Context())
	end()
	require.NoError(t, l.Run(ctx), "the end writes what is left")
	totals, err := l.Totals(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 10_000, totals[0].N)
}
