package audit_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/examples/kolekt/internal/audit"
	"github.com/kolekt/commerce/internal/pgtest"
)

func TestMemory(t *testing.T) { store(t, &audit.Memory{}) }

func TestPostgres(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, audit.Schema.Migrate(t.Context(), pool))
	require.NoError(t, audit.Schema.Verify(t.Context(), pool))
	store(t, audit.NewPostgres(pool))
}

func store(t *testing.T, s audit.Store) {
	ctx, at := t.Context(), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	first := audit.Entry{ID: "aud_1", At: at, Actor: "root", Account: "ann", Action: "credit", Detail: "$5.00", Reason: "sorry"}
	got, err := s.Begin(ctx, first)
	require.NoError(t, err)
	require.Equal(t, first, got)
	require.NoError(t, s.Finish(ctx, "aud_1", "done"))

	// The same form sent twice is one deed; another deed can't take its ID.
	again := first
	again.At = at.Add(time.Minute)
	got, err = s.Begin(ctx, again)
	require.NoError(t, err)
	require.Equal(t, "done", got.Outcome)
	require.Equal(t, at, got.At)
	again.Detail = "$500.00"
	_, err = s.Begin(ctx, again)
	require.ErrorIs(t, err, audit.ErrKnown)

	for _, e := range []audit.Entry{{ID: "aud_2", At: at, Actor: "root", Account: "bob"}, {ID: "aud_3", At: at, Actor: "ann", Account: "bob", Reason: "why"}} {
		_, err = s.Begin(ctx, e)
		require.NoError(t, err)
	}
	list, err := s.List(ctx, "", "", 2)
	require.NoError(t, err)
	require.Equal(t, "aud_3", list[0].ID)
	require.Equal(t, "aud_2", list[1].ID)
	list, err = s.List(ctx, "", "aud_2", 2)
	require.NoError(t, err)
	require.Len(t, list, 1)

	// Ann goes: what was done to her and by her stays, without her.
	n, err := s.Forget(ctx, "ann", "erased_1")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	list, err = s.List(ctx, "erased_1", "", 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Empty(t, list[0].Reason+list[0].Detail)
	require.Equal(t, "root", list[0].Actor)
	list, err = s.List(ctx, "bob", "", 10)
	require.NoError(t, err)
	require.Equal(t, "erased_1", list[0].Actor)
	require.Equal(t, "why", list[0].Reason)
}
