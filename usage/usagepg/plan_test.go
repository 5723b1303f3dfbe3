package usagepg

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
)

const updateOne = `update usage_holds h set state = 1 from unnest($2::text[]) k where h.account = $1 and h.key = k`

// Statements that go by keys look each key up, also when they were planned
// before there was anything in the tables. The control is the planner's own
// choice, which reads all keys of the account.
func TestHoldsAreFoundByKeyWhateverThePlannerBelieves(t *testing.T) {
	ctx := t.Context()
	pool := pgtest.Pool(t)
	require.NoError(t, Migrate(ctx, pool))
	plan := func(settings, name, sql, args string) string {
		return planOf(t, pool, settings, name, sql, args)
	}
	holds := "'a', 'm', now(), 1, 1, 9, 9, array['k'], array[1]::smallint[], array[1]::bigint[], array[now()], array[now()], 1, 0, 0"
	old := "array['a'], array['k'], array['m'], array[now()], array[now()], array[1]::smallint[], array[1]::bigint[], array[1]::bigint[], array[1]::smallint[], array[now()], array[now()], array[null]::jsonb[]"
	byKey := func(plan string) bool {
		scans := strings.Count(plan, "on usage_holds") - strings.Count(plan, "Insert on usage_holds") - strings.Count(plan, "Update on usage_holds")
		looked := 0
		for line := range strings.SplitSeq(plan, "\n") {
			if strings.Contains(line, "TID Cond:") || strings.Contains(line, "Index Cond:") && strings.Contains(line, "account =") && strings.Contains(line, "key =") {
				looked++
			}
		}
		return scans > 0 && looked == scans
	}
	for name, st := range map[string]struct{ sql, args string }{
		"hold_all":     {holdAll, holds},
		"select_holds": {selectHolds, "array['a'], array['k']"},
		"update_holds": {updateHolds, old},
	} {
		got := plan(planOnce, name, st.sql, st.args)
		require.True(t, byKey(got), got)
	}
	own := plan("set local plan_cache_mode = force_generic_plan", "own", updateOne, "'a', array['k']")
	require.False(t, byKey(own), own)
}

// planOf returns the plan that a statement gets for good when it is prepared
// now.
func planOf(t *testing.T, pool *pgxpool.Pool, settings, name, sql, args string) string {
	t.Helper()
	ctx := t.Context()
	var lines []string
	require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, set := range []string{"set local enable_seqscan = off", settings} {
			if _, err := tx.Exec(ctx, set); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "prepare "+name+" as "+sql); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "explain execute "+name+"("+args+")")
		if err != nil {
			return err
		}
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}))
	return strings.Join(lines, "\n")
}

// The rows of a month that has just begun are looked up by their key. The
// control is the join.
func TestMonthsAreFoundByKeyWhateverThePlannerBelieves(t *testing.T) {
	pool := pgtest.Pool(t)
	require.NoError(t, Migrate(t.Context(), pool))
	require.NoError(t, New(pool).ensureMonth(t.Context(), aMonth))
	const settings = "set local plan_cache_mode = force_generic_plan; set local enable_hashjoin = off; set local enable_mergejoin = off"
	const args = "array['a'], array['m'], array[''], array[''], '2026-03-01Z'"
	const byKey = "Index Cond: ((ROW(account, meter, figure, dim) >= ROW(k.account, k.meter, k.figure, k.dim)) AND (ROW(account, meter, figure, dim) <= ROW(k.account, k.meter, k.figure, k.dim)) AND (month = $5))"
	require.Contains(t, planOf(t, pool, settings, "read_months", readMonths, args), byKey)
	require.NotContains(t, planOf(t, pool, settings, "joined", strings.Replace(readMonths, "limit 1", "", 1), args), byKey)
}
