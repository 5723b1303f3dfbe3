package usagepg

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/usage"
)

// noGrants is for counter c: the account has no open grants of the meter. The
// counter's mark alone isn't enough, since the first grant may have come at the
// same time as the counter.
const noGrants = `
	and not c.granted
	and not exists (select from usage_grants g where g.account = $1 and g.meter = $2 and not g.closed)`

// lockCounter is sent before holdAll, which then sees what the last holder of
// the lock has written: holds change under their counter's lock only. A counter
// that can't have the units isn't locked, so that nothing has to be committed.
const lockCounter = `
select from usage_counters c
where c.account = $1 and c.meter = $2 and c.period_from = $3
	and ($5::bigint = 0 or $4::bigint < 0 or c.used + c.held + $5 <= $4)
for update`

// holdAll takes several steps on one counter, or none: no row comes back where
// they don't all fit in whatever order, where they cross a threshold, where
// there are grants, or where a key isn't what its step expects, which is new for
// units that are asked for and an open reservation for those that are settled.
const holdAll = `
with x as (
	select k.*, h.n as held, h.ctid as place, h.key is not null as found,
		h.meter = $2 and h.period_from = $3 and h.kind = 1 and h.state = 0 and h.draws is null as open
	from unnest($8::text[], $9::smallint[], $10::bigint[], $11::timestamptz[], $12::timestamptz[])
		with ordinality as k (key, kind, n, at, expires, i)
	left join usage_holds h on h.account = $1 and h.key = k.key
), s as (
	select bool_and(case when kind > 2 then coalesce(open, false) else not found end) as fit,
		coalesce(sum(held), 0)::bigint as back,
		coalesce(sum(greatest(n - held, 0)) filter (where kind = 3), 0)::bigint as more,
		array_agg(held order by i) as held
	from x
), c as (
	update usage_counters c set used = c.used + $4, bare = c.bare + $4, held = c.held + $5 - s.back, lim = $6
	from s
	where c.account = $1 and c.meter = $2 and c.period_from = $3 and s.fit
		and ($13::bigint = 0 or $7::bigint < 0 or c.used + c.held + $13 + s.more <= $7)` + noGrants + `
		and not (c.used < $14 and $14 <= c.used + $4) and not (c.used < $15 and $15 <= c.used + $4)
	returning c.used, c.held, s.held as had, c.period_to
), settled as (
	update usage_holds h set state = case x.kind when 3 then 1 else 2 end, actual = case x.kind when 3 then x.n else 0 end
	from c cross join x
	where x.kind > 2 and h.ctid = x.place
), made as (
	insert into usage_holds (account, key, meter, period_from, period_to, kind, n, actual, state, at, expires)
	select $1, x.key, $2, $3, c.period_to, x.kind, x.n, case x.kind when 1 then 0 else x.n end, case x.kind when 1 then 0 else 1 end, x.at, x.expires
	from c cross join x
	where x.kind < 3
)
select used, held, had from c`

// tally is what several steps on one counter come to.
type tally struct {
	used  int64 // of consumed units and what is committed
	asked int64 // of units to consume and to reserve, for which there must be room
	held  int64 // of units to reserve
	keys  []*step
}

// tallyOf adds steps up. It is false for steps that aren't all of one counter and
// quota, or that need more than their keys and units stored.
func tallyOf(steps []*step) (s tally, ok bool) {
	first := steps[0].op
	key := keyOfCounter(first.Account, first.Meter, first.Period)
	for _, st := range steps {
		op := st.op
		if carries(st) || op.Entry != nil || op.N < 0 || op.N > usage.MaxValue || op.Limit != first.Limit || op.Cap != first.Cap ||
			keyOfCounter(op.Account, op.Meter, op.Period) != key || !slices.Equal(op.Thresholds, first.Thresholds) {
			return s, false
		}
		// No overflow: at most 512 times 2^53.
		switch {
		case op.Kind == usage.Consume && op.N > 0:
			s.used, s.asked = s.used+op.N, s.asked+op.N
		case op.Kind == usage.Reserve && op.N > 0 && op.Key != "":
			s.held, s.asked = s.held+op.N, s.asked+op.N
		case op.Kind == usage.Commit && op.Key != "":
			s.used += op.N
		case op.Kind == usage.Release && op.Key != "":
		default:
			return s, false
		}
		if op.Key != "" {
			s.keys = append(s.keys, st)
		}
	}
	return s, true
}

// hold decides steps with keys in one round trip. It is false when they have to
// go the whole way.
func (s *Store) hold(ctx context.Context, steps []*step, sum tally, thresholds []int64) (bool, error) {
	if s.pool == nil || len(thresholds) > 2 {
		return false, nil
	}
	n := len(sum.keys)
	keys, kinds, units, at, expires := make([]string, n), make([]int16, n), make([]int64, n), make([]time.Time, n), make([]*time.Time, n)
	index := make(map[string]int, n)
	for i, st := range sum.keys {
		op := &st.op
		if _, twice := index[op.Key]; twice {
			return false, nil // the second one depends on the first
		}
		index[op.Key] = i
		keys[i], kinds[i], units[i], at[i] = op.Key, int16(op.Kind), op.N, op.Now
		if op.Kind == usage.Reserve {
			expires[i] = &op.Expires
		}
	}
	op := steps[0].op
	two := append(thresholds, 0, 0)
	var c usage.Counter
	var had []*int64
	found := false
	err := s.once(ctx, func(w *work) error {
		w.keyed = true
		b := &pgx.Batch{}
		b.Queue(lockCounter, op.Account, op.Meter, op.Period.From, op.Cap, sum.asked)
		b.Queue(holdAll, op.Account, op.Meter, op.Period.From, sum.used, sum.held, op.Limit, op.Cap,
			keys, kinds, units, at, expires, sum.asked, two[0], two[1]).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				found = true
				if err := rows.Scan(&c.Used, &c.Held, &had); err != nil {
					return err
				}
			}
			return rows.Err()
		})
		return w.commit(b)
	})
	var pg *pgconn.PgError
	switch {
	case err == nil && !found, again(err), errors.As(err, &pg) && pg.Code == "22003":
		return false, nil // an overflow is one step's own error
	case err != nil:
		return false, kindOf(err)
	}
	// In the order in which they came.
	c.Used, c.Held = c.Used-sum.used, c.Held-sum.held
	for _, n := range had {
		if n != nil {
			c.Held += *n
		}
	}
	for _, st := range steps {
		var h *usage.Hold
		if st.op.Kind > usage.Consume {
			h = &usage.Hold{Meter: op.Meter, Kind: usage.Reserve, Period: op.Period, N: *had[index[st.op.Key]]}
		}
		out, err := c.Step(st.op, h, nil)
		st.decision, st.err = out.Decision, err
	}
	return true, nil
}
