package usagepg

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
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
