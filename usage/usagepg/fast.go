package usagepg

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/usage"
)

// consumeAll takes the units of several steps on one counter, or none: no row
// comes back where the counter is new, where they don't all fit, where they
// cross a threshold, or where there are grants. It is one statement, and so one
// round trip and one flush.
const consumeAll = `
update usage_counters c set used = c.used + $4, bare = c.bare + $4, lim = $5
where c.account = $1 and c.meter = $2 and c.period_from = $3
	and ($6::bigint < 0 or c.used + c.held + $4 <= $6)` + noGrants

// Two thresholds are the rule, and a subquery a tenth of the time.
const (
	consumeBelowTwo = consumeAll + `
	and not (c.used < $7 and $7 <= c.used + $4) and not (c.used < $8 and $8 <= c.used + $4)
returning c.used, c.held`
	consumeBelowMany = consumeAll + `
	and not exists (select from unnest($7::bigint[]) t where c.used < t and t <= c.used + $4)
returning c.used, c.held`
)

// fast decides steps that are nothing but units and keys of one counter, which
// most are. It is false when they have to go the whole way.
func (s *Store) fast(ctx context.Context, steps []*step) (bool, error) {
	first := steps[0].op
	sum, ok := tallyOf(steps)
	if !ok || !s.counters.has(keyOfCounter(first.Account, first.Meter, first.Period)) {
		return false, nil // or likely new: the whole way makes it
	}
	thresholds := make([]int64, 0, 2)
	if first.Limit > 0 {
		for _, percent := range first.Thresholds {
			thresholds = append(thresholds, usage.Threshold(first.Limit, percent))
		}
	}
	if len(sum.keys) > 0 {
		return s.hold(ctx, steps, sum, thresholds)
	}
	total := sum.used
	sql, args := consumeBelowMany, []any{first.Account, first.Meter, first.Period.From, total, first.Limit, first.Cap, thresholds}
	if len(thresholds) <= 2 {
		// What hardly anything crosses stands for one that isn't there.
		two := append(thresholds, 0, 0)
		sql, args = consumeBelowTwo, append(args[:6], two[0], two[1])
	}
	var c usage.Counter
	err := s.db.QueryRow(ctx, sql, args...).
		Scan(&c.Used, &c.Held)
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case errors.As(err, &pg) && pg.Code == "22003":
		return false, nil // an overflow is one step's own error
	case err != nil && !errors.As(err, &pg) && !pgconn.SafeToRetry(err) && s.pool != nil:
		return false, fmt.Errorf("usagepg: %w", &unknownOutcomeError{err})
	case err != nil:
		return false, kindOf(err)
	}
	// In the order in which they came.
	c.Used -= total
	for _, st := range steps {
		out, err := c.Step(st.op, nil, nil)
		st.decision, st.err = out.Decision, err
	}
	return true, nil
}
