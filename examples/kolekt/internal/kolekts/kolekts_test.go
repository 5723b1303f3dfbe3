package kolekts_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/internal/pgtest"
)

var start = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func TestMemory(t *testing.T) {
	testStore(t, func(*testing.T) kolekts.Store { return &kolekts.Memory{} })
}

func TestPostgres(t *testing.T) {
	testStore(t, func(t *testing.T) kolekts.Store {
		pool := pgtest.Pool(t)
		require.Error(t, kolekts.Schema.Verify(t.Context(), pool))
		require.NoError(t, users.Schema.Migrate(t.Context(), pool))
		require.NoError(t, kolekts.Schema.Migrate(t.Context(), pool))
		require.NoError(t, kolekts.Schema.Verify(t.Context(), pool))
		for _, account := range []string{"ann", "bob"} {
			u := users.User{ID: account, Email: account + "@example.com", CreatedAt: start}
			require.NoError(t, users.NewPostgres(pool).Create(t.Context(), u))
		}
		return kolekts.NewPostgres(pool)
	})
}

// An erasure takes the login last. Whoever is storing a kolekt then either
// comes before it, and the kolekt goes too, or is told that nobody is there.
func TestNothingIsStoredForAnErasedAccount(t *testing.T) {
	pool, ctx := pgtest.Pool(t), t.Context()
	require.NoError(t, users.Schema.Migrate(ctx, pool))
	require.NoError(t, kolekts.Schema.Migrate(ctx, pool))
	people := users.NewPostgres(pool)
	require.NoError(t, people.Create(ctx, users.User{ID: "ann", Email: "ann@example.com", CreatedAt: start}))
	draft := kolekts.Draft{Text: "One thought.", Tone: "friendly"}
	first, err := kolekts.Make("ann", draft, start)
	require.NoError(t, err)
	late, err := kolekts.Make("ann", draft, start.Add(time.Second))
	require.NoError(t, err)

	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	require.NoError(t, kolekts.NewPostgres(tx).Add(ctx, first))
	erased := make(chan error, 1)
	go func() {
		_, err := people.Delete(ctx, "ann")
		erased <- err
	}()
	require.Eventually(t, func() bool {
		var waiting bool
		err := pool.QueryRow(ctx, `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&waiting)
		return err == nil && waiting
	}, 10*time.Second, 5*time.Millisecond, "the erasure waits for who is storing")
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, <-erased)

	store := kolekts.NewPostgres(pool)
	_, err = store.Find(ctx, "ann", first.ID)
	require.ErrorIs(t, err, kolekts.ErrNotFound, "what came before went with the login")
	require.ErrorIs(t, store.Add(ctx, late), kolekts.ErrGone)
}

func testStore(t *testing.T, newStore func(*testing.T) kolekts.Store) {
	ctx := t.Context()
	draft := func(t *testing.T, account string, i int) kolekts.Kolekt {
		k, err := kolekts.Make(account, kolekts.Draft{Text: strings.Repeat(fmt.Sprintf("Sentence %d. ", i), 80), Tone: "friendly", Images: []string{"https://example.com/a.png"}}, start.Add(time.Duration(i)*time.Minute))
		require.NoError(t, err)
		return k
	}
	t.Run("FindReturnsWhatWasAdded", func(t *testing.T) {
		s, k := newStore(t), draft(t, "ann", 1)
		require.NoError(t, s.Add(ctx, k))
		require.NoError(t, s.Add(ctx, k), "again")
		got, err := s.Find(ctx, "ann", k.ID)
		require.NoError(t, err)
		require.Equal(t, k, got)
		_, err = s.Find(ctx, "bob", k.ID)
		require.ErrorIs(t, err, kolekts.ErrNotFound, "somebody else's")
		_, err = s.Find(ctx, "ann", "kol_\x00\xff")
		require.ErrorIs(t, err, kolekts.ErrNotFound, "no text at all")
	})
	t.Run("ListPagesNewestFirst", func(t *testing.T) {
		s := newStore(t)
		for i := range 7 {
			require.NoError(t, s.Add(ctx, draft(t, "ann", i)))
		}
		require.NoError(t, s.Add(ctx, draft(t, "bob", 9)))
		var seen []string
		for before := ""; ; {
			page, err := s.List(ctx, "ann", before, 3)
			require.NoError(t, err)
			for _, k := range page {
				seen = append(seen, k.CreatedAt.Format("04"))
				before = k.ID
			}
			if len(page) < 3 {
				break
			}
		}
		require.Equal(t, []string{"06", "05", "04", "03", "02", "01", "00"}, seen)
	})
	t.Run("DeleteIsTheOwnersAlone", func(t *testing.T) {
		s, k := newStore(t), draft(t, "ann", 1)
		require.NoError(t, s.Add(ctx, k))
		require.ErrorIs(t, s.Delete(ctx, "bob", k.ID), kolekts.ErrNotFound)
		require.NoError(t, s.Delete(ctx, "ann", k.ID))
		require.ErrorIs(t, s.Delete(ctx, "ann", k.ID), kolekts.ErrNotFound)
	})
	t.Run("EraseSubjectLeavesNothingOfOneAndAllOfTheOther", func(t *testing.T) {
		s := newStore(t)
		for i := range 120 {
			require.NoError(t, s.Add(ctx, draft(t, "ann", i)))
		}
		require.NoError(t, s.Add(ctx, draft(t, "bob", 1)))
		exported := 0
		require.NoError(t, kolekts.ExportSubject(ctx, s, "ann", func(record string, fields map[string]any) error {
			require.Equal(t, "kolekt", record)
			require.NotEmpty(t, fields["posts"])
			exported++
			return nil
		}))
		require.Equal(t, 120, exported)
		counts, err := kolekts.EraseSubject(ctx, s, "ann")
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"kolekt": 120}, counts)
		counts, err = kolekts.EraseSubject(ctx, s, "ann")
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"kolekt": 0}, counts)
		page, err := s.List(ctx, "bob", "", 10)
		require.NoError(t, err)
		require.Len(t, page, 1)
	})
}

func TestMakeRefusesWhatItCannotUse(t *testing.T) {
	_, err := kolekts.Make("ann", kolekts.Draft{Text: "a", Images: []string{"javascript:alert(1)"}}, start)
	require.ErrorIs(t, err, kolekts.ErrImage)
	_, err = kolekts.Make("ann", kolekts.Draft{Text: "a", Tone: "angry"}, start)
	require.ErrorContains(t, err, "unknown tone")
}
