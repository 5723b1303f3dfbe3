package usagepg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Folding takes quarters of days that are over for a while out of
// usage_quarters and puts them, a month in a row, into usage_months: both in one
// commit, so that every snapshot has each of them once. What comes late makes a
// row of usage_quarters again, which the next round adds to the month. So
// usage_quarters has but the last days, and what is kept for good takes about
// ten bytes a day and seven more for each of its quarters, unless it has but
// one.

// foldAfter is how long after its end a day is folded: what comes up to half a
// day late still meets its quarter's row, and whoever reads meets few of them.
const foldAfter = 12 * time.Hour

// foldBatch is how many quarters are folded in one transaction.
const foldBatch = 20_000

// foldMonths folds what has come to be old enough.
func (s *Store) foldMonths(ctx context.Context, now time.Time) error {
	parts, err := s.partitions(ctx, "usage_quarters")
	if err != nil {
		return err
	}
	until := now.Add(-foldAfter).UTC().Truncate(day)
	for _, p := range parts {
		if !p.month.Before(until) {
			continue
		}
		if err := s.ensureMonth(ctx, p.month); err != nil {
			return err
		}
		var after quarterPosition
		for more := true; more; {
			if more, err = s.foldSome(ctx, p, until, &after); err != nil {
				return err
			}
		}
	}
	return nil
}

// quarterPosition is where in the order of usage_quarters' key folding has got
// to.
type quarterPosition struct {
	monthKey
	at time.Time
}

type monthKey struct{ account, meter, figure, dim string }

// Quarters that somebody is writing to are left for the next time, so that
// folding waits for nobody. Sums that have outgrown an int64 stay where they
// are.
const takeQuarters = `
with gone as (
	delete from %[1]s where ctid = any (array(
		select ctid from %[1]s where (account, meter, figure, dim, bucket) > ($1, $2, $3, $4, $5)
			and bucket < $6 and sum between -9223372036854775808 and 9223372036854775807
		order by account, meter, figure, dim, bucket limit $7
		for update skip locked
	))
	returning account, meter, figure, dim, bucket, cnt, sum, min, max, last, last_at, scale
)
select account, meter, figure, dim, bucket, cnt, sum::bigint, min, max, last, last_at, scale from gone
order by account, meter, figure, dim, bucket`

// Looked up one by one, whatever the planner believes of a month that has just
// begun: a join may read the whole month for each of them, and a comparison of
// the meter by itself all of the meter's.
const readMonths = `
select k.account, k.meter, k.figure, k.dim, m.days, m.quarters
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as k (account, meter, figure, dim)
cross join lateral (
	select days, quarters from usage_months
	where (account, meter, figure, dim) >= (k.account, k.meter, k.figure, k.dim)
		and (account, meter, figure, dim) <= (k.account, k.meter, k.figure, k.dim) and month = $5 limit 1
) m`

const upsertMonths = `
insert into usage_months as m (account, meter, figure, dim, days, quarters, month)
select *, $7 from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[])
on conflict (account, meter, figure, dim, month) do update set days = excluded.days, quarters = excluded.quarters`

// Whoever folds has this lock for itself; whoever erases shares it. So neither
// meets rows that the other is moving.
const (
	lockFolding   = "select pg_try_advisory_xact_lock(hashtext('usage_months'))"
	lockUnfolding = "select pg_advisory_xact_lock_shared(hashtext('usage_months'))"
)

// foldSome folds the next quarters of a month.
func (s *Store) foldSome(ctx context.Context, p monthPartition, until time.Time, after *quarterPosition) (more bool, err error) {
	next := *after
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, lockFolding).Scan(&mine); err != nil || !mine {
			return err
		}
		// All goes by keys, as in packing.
		if _, err := tx.Exec(ctx, "set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, fmt.Sprintf(takeQuarters, pgx.Identifier{p.name}.Sanitize()),
			next.account, next.meter, next.figure, next.dim, next.at, until, foldBatch)
		if err != nil {
			return err
		}
		taken := map[monthKey][]total{}
		var order []monthKey
		n := 0
		err = scanQuarters(rows, func(k monthKey, d *total) error {
			if taken[k] == nil {
				order = append(order, k)
			}
			taken[k] = append(taken[k], *d)
			next = quarterPosition{k, time.Unix(d.from, 0)}
			n++
			return nil
		})
		if err != nil || n == 0 {
			return err
		}
		more = n == foldBatch
		return storeMonths(ctx, tx, p.month, order, taken)
	})
	if err == nil {
		*after = next
	}
	return more, kindOf(err)
}

// scanQuarters reads whole rows of usage_quarters.
func scanQuarters(rows pgx.Rows, f func(monthKey, *total) error) error {
	var k monthKey
	var d total
	var from, lastAt time.Time
	_, err := pgx.ForEachRow(rows, []any{
		&k.account, &k.meter, &k.figure, &k.dim, &from, &d.cnt, &d.sum, &d.min, &d.max, &d.last, &lastAt, &d.scale,
	}, func() error {
		d.from, d.lastAt = from.Unix(), lastAt.UnixMicro()
		return f(k, &d)
	})
	return err
}

// storeMonths adds quarters to their months' rows.
func storeMonths(ctx context.Context, tx pgx.Tx, month time.Time, order []monthKey, taken map[monthKey][]total) error {
	var c monthColumns
	for _, k := range order {
		c.add(k)
	}
	rows, err := tx.Query(ctx, readMonths, c.account, c.meter, c.figure, c.dim, month)
	if err != nil {
		return err
	}
	have := map[monthKey][]total{}
	var k monthKey
	var days, quarters []byte
	_, err = pgx.ForEachRow(rows, []any{&k.account, &k.meter, &k.figure, &k.dim, &days, &quarters}, func() error {
		return decodeMonth(month, days, quarters, always, func(d *total) error {
			have[k] = append(have[k], *d)
			return nil
		})
	})
	if err != nil {
		return err
	}
	rest := newRollups(0)
	for i, k := range order {
		all, left := joinQuarters(have[k], taken[k])
		if c.days[i], c.quarters[i], err = encodeMonth(month, all); err != nil {
			return err
		}
		for i := range left {
			rest.put(k, &left[i])
		}
	}
	if _, err := tx.Exec(ctx, upsertMonths, c.account, c.meter, c.figure, c.dim, c.days, c.quarters, month); err != nil {
		return err
	}
	return rest.insertQuarters(ctx, tx)
}

func always(int64) bool { return true }

type monthColumns struct {
	account, meter, figure, dim []string
	days, quarters              [][]byte
}

func (c *monthColumns) add(k monthKey) {
	c.account, c.meter = append(c.account, k.account), append(c.meter, k.meter)
	c.figure, c.dim = append(c.figure, k.figure), append(c.dim, k.dim)
	c.days, c.quarters = append(c.days, nil), append(c.quarters, nil)
}

// put adds a quarter's row; it is the only one of its quarter.
func (r *rollups) put(k monthKey, d *total) {
	at := place{account: r.accounts.of(k.account, 0), series: r.series.of(series{k.meter, k.figure, k.dim}, 0), at: d.from}
	r.quarters.list = append(r.quarters.list, cell{at, d.sums})
}

// insertQuarters adds to usage_quarters.
func (r *rollups) insertQuarters(ctx context.Context, tx pgx.Tx) error {
	b := &pgx.Batch{}
	if r.queueQuarters(b); b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, b).Close()
}

const takeMonths = `
with gone as (
	delete from usage_months where account = $1 returning meter, figure, dim, month, days, quarters
)
select * from gone order by meter, figure, dim, month`

// unfold makes the account's months nameless quarters again, of which there may
// be some. They are folded with the next round. What they were is small, what
// they become is not: it is written in parts, in the order that keeps two
// erasures from locking the nameless rows crosswise.
func unfold(ctx context.Context, tx pgx.Tx, account string) error {
	rows, err := tx.Query(ctx, takeMonths, account)
	if err != nil {
		return err
	}
	type folded struct {
		meter, figure, dim string
		month              time.Time
		days, quarters     []byte
	}
	months, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m folded, err error) {
		err = row.Scan(&m.meter, &m.figure, &m.dim, &m.month, &m.days, &m.quarters)
		return m, err
	})
	if err != nil {
		return err
	}
	part := newRollups(0)
	for i, m := range months {
		k := monthKey{meter: m.meter, figure: m.figure, dim: m.dim}
		err := decodeMonth(m.month, m.days, m.quarters, always, func(d *total) error {
			part.put(k, d)
			return nil
		})
		if err != nil {
			return err
		}
		if len(part.quarters.list) < foldBatch && i < len(months)-1 {
			continue
		}
		if err := part.insertQuarters(ctx, tx); err != nil {
			return err
		}
		part = newRollups(0)
	}
	return nil
}

// scanMonths calls f with the quarters of rows of usage_months, and days with
// their days.
func scanMonths(rows pgx.Rows, f, days func(monthKey, *total) error) error {
	var k monthKey
	var month time.Time
	var daily, quarters []byte
	_, err := pgx.ForEachRow(rows, []any{&k.account, &k.meter, &k.figure, &k.dim, &month, &daily, &quarters}, func() error {
		if err := decodeTotals(month.Unix(), byDay, daily, func(d *total) error { return days(k, d) }); err != nil {
			return err
		}
		return decodeMonth(month, daily, quarters, always, func(d *total) error { return f(k, d) })
	})
	return err
}

const foldedCursor = `
create temp table usage_unfolded (like usage_quarters) on commit drop;
declare usage_folded cursor for select account, meter, figure, dim, month, days, quarters from usage_months`

// What came late stands beside its month.
const allTogether = `
close usage_folded;
create temp table usage_audited_quarters on commit drop as
select account, meter, figure, dim, bucket, sum(cnt)::bigint as cnt, sum(sum) as sum, min(min) as min, max(max) as max, max(scale) as scale
from (select * from usage_quarters union all select * from usage_unfolded) d
group by 1, 2, 3, 4, 5;
create index on usage_audited_quarters (account, meter, figure, dim, bucket);
analyze usage_audited_quarters`

type dayKey struct {
	monthKey
	day int64
}

// unfoldForAudit makes a table of all quarters, also the folded ones, that lives
// as long as the transaction. It returns the name to read them by, and in which
// months the days aren't what their quarters are.
func unfoldForAudit(ctx context.Context, tx pgx.Tx) (name string, differences []string, err error) {
	var some bool
	if err := tx.QueryRow(ctx, "select exists (select from usage_months)").Scan(&some); err != nil || !some {
		return "usage_quarters", nil, err
	}
	if _, err := tx.Exec(ctx, "drop table if exists pg_temp.usage_unfolded, pg_temp.usage_audited_quarters;"+foldedCursor); err != nil {
		return "", nil, err
	}
	for {
		rows, err := tx.Query(ctx, "fetch 2000 from usage_folded")
		if err != nil {
			return "", nil, err
		}
		var quarters [][]any
		have, want := map[dayKey]sums{}, map[dayKey]*sums{}
		err = scanMonths(rows, func(k monthKey, d *total) error {
			quarters = append(quarters, []any{
				time.Unix(d.from, 0), d.cnt, d.min, d.max, d.last, time.UnixMicro(d.lastAt), d.scale, k.account, k.meter, k.figure, k.dim, d.sum,
			})
			at := dayKey{k, d.day()}
			if sum, known := want[at]; !known {
				want[at] = &sums{}
				*want[at] = d.sums
			} else if !sum.merge(&d.sums) {
				return errMonth
			}
			return nil
		}, func(k monthKey, d *total) error {
			have[dayKey{k, d.from}] = d.sums
			return nil
		})
		if err != nil {
			return "", nil, err
		}
		for at, sum := range want {
			if have[at] != *sum {
				differences = append(differences, fmt.Sprintf("day %s/%s/%s/%s %s: have %+v, its quarters say %+v",
					at.account, at.meter, at.figure, at.dim, time.Unix(at.day, 0).UTC().Format(time.DateOnly), have[at], *sum))
			}
		}
		if len(quarters) == 0 {
			break
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"usage_unfolded"},
			[]string{"bucket", "cnt", "min", "max", "last", "last_at", "scale", "account", "meter", "figure", "dim", "sum"},
			pgx.CopyFromRows(quarters)); err != nil {
			return "", nil, fmt.Errorf("usagepg: audit: %w", err)
		}
	}
	_, err = tx.Exec(ctx, allTogether)
	return "usage_audited_quarters", differences, err
}
