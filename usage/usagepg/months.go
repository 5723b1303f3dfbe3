package usagepg

import (
	"cmp"
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// Folding takes days that are over for a while out of usage_days and puts
// them, a month in a row, into usage_months: both in one commit, so that every
// snapshot has each of them once. What comes late makes a row of usage_days
// again, which the next round adds to the month. So usage_days has but the last
// days, and what is kept for good takes about ten bytes a day.

// foldAfter is how long after its end a day is folded.
const foldAfter = 36 * time.Hour

// foldBatch is how many days are folded in one transaction.
const foldBatch = 20_000

// foldMonths folds what has come to be old enough.
func (s *Store) foldMonths(ctx context.Context, now time.Time) error {
	parts, err := s.partitions(ctx, "usage_days")
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
		var after dayPosition
		for more := true; more; {
			if more, err = s.foldSome(ctx, p, until, &after); err != nil {
				return err
			}
		}
	}
	return nil
}

// dayPosition is where in the order of usage_days' key folding has got to.
type dayPosition struct {
	monthKey
	at time.Time
}

type monthKey struct{ account, meter, figure, dim string }

// Days that somebody is writing to are left for the next time, so that folding
// waits for nobody. Sums that have outgrown an int64 stay where they are.
const takeDays = `
with gone as (
	delete from %[1]s where ctid = any (array(
		select ctid from %[1]s where (account, meter, figure, dim, day) > ($1, $2, $3, $4, $5)
			and day < $6 and sum between -9223372036854775808 and 9223372036854775807
		order by account, meter, figure, dim, day limit $7
		for update skip locked
	))
	returning account, meter, figure, dim, day, cnt, sum, min, max, last, last_at, scale
)
select account, meter, figure, dim, day, cnt, sum::bigint, min, max, last, last_at, scale from gone
order by account, meter, figure, dim, day`

const readMonths = `
select m.account, m.meter, m.figure, m.dim, m.data
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as k (account, meter, figure, dim)
join usage_months m on m.account = k.account and m.meter = k.meter and m.figure = k.figure and m.dim = k.dim and m.month = $5`

const upsertMonths = `
insert into usage_months as m (account, meter, figure, dim, data, month)
select *, $6 from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[])
on conflict (account, meter, figure, dim, month) do update set data = excluded.data`

// Whoever folds has this lock for itself; whoever erases shares it. So neither
// meets rows that the other is moving.
const (
	lockFolding   = "select pg_try_advisory_xact_lock(hashtext('usage_months'))"
	lockUnfolding = "select pg_advisory_xact_lock_shared(hashtext('usage_months'))"
)

// foldSome folds the next days of a month.
func (s *Store) foldSome(ctx context.Context, p monthPartition, until time.Time, after *dayPosition) (more bool, err error) {
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
		rows, err := tx.Query(ctx, fmt.Sprintf(takeDays, pgx.Identifier{p.name}.Sanitize()),
			next.account, next.meter, next.figure, next.dim, next.at, until, foldBatch)
		if err != nil {
			return err
		}
		taken := map[monthKey][]dayTotal{}
		var order []monthKey
		n := 0
		err = scanDays(rows, func(k monthKey, d dayTotal) error {
			if taken[k] == nil {
				order = append(order, k)
			}
			taken[k] = append(taken[k], d)
			next = dayPosition{k, d.day}
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

// scanDays reads whole rows of usage_days.
func scanDays(rows pgx.Rows, f func(monthKey, dayTotal) error) error {
	var k monthKey
	var d dayTotal
	_, err := pgx.ForEachRow(rows, []any{
		&k.account, &k.meter, &k.figure, &k.dim, &d.day, &d.Count, &d.Sum, &d.Min, &d.Max, &d.Last, &d.LastAt, &d.scale,
	}, func() error {
		d.day, d.LastAt = d.day.UTC(), d.LastAt.UTC()
		return f(k, d)
	})
	return err
}

// storeMonths adds days to their months' rows.
func storeMonths(ctx context.Context, tx pgx.Tx, month time.Time, order []monthKey, taken map[monthKey][]dayTotal) error {
	var c monthColumns
	for _, k := range order {
		c.add(k, nil)
	}
	rows, err := tx.Query(ctx, readMonths, c.account, c.meter, c.figure, c.dim, month)
	if err != nil {
		return err
	}
	have := map[monthKey][]dayTotal{}
	var k monthKey
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&k.account, &k.meter, &k.figure, &k.dim, &data}, func() error {
		return decodeMonth(month, data, func(d dayTotal) error {
			have[k] = append(have[k], d)
			return nil
		})
	})
	if err != nil {
		return err
	}
	var rest rollups
	for i, k := range order {
		days, left := joinDays(have[k], taken[k])
		if c.data[i], err = encodeMonth(month, days); err != nil {
			return err
		}
		for _, d := range left {
			rest.put(k, d)
		}
	}
	if _, err := tx.Exec(ctx, upsertMonths, c.account, c.meter, c.figure, c.dim, c.data, month); err != nil {
		return err
	}
	return rest.insertDays(ctx, tx)
}

type monthColumns struct {
	account, meter, figure, dim []string
	data                        [][]byte
}

func (c *monthColumns) add(k monthKey, data []byte) {
	c.account, c.meter = append(c.account, k.account), append(c.meter, k.meter)
	c.figure, c.dim = append(c.figure, k.figure), append(c.dim, k.dim)
	c.data = append(c.data, data)
}

// put adds a day's row; it is the only one of its day.
func (r *rollups) put(k monthKey, d dayTotal) {
	at := place{account: r.accounts.of(k.account, 0), series: r.series.of(series{k.meter, k.figure, k.dim}, 0), at: d.day.Unix()}
	r.days.list = append(r.days.list, cell{at, sums{
		cnt: d.Count, sum: d.Sum, min: d.Min, max: d.Max, last: d.Last, lastAt: d.LastAt.UnixMicro(), scale: d.scale,
	}})
}

// insertDays adds to usage_days.
func (r *rollups) insertDays(ctx context.Context, tx pgx.Tx) error {
	if len(r.days.list) == 0 {
		return nil
	}
	d := r.columnsOf(&r.days, r.accounts.ranks(cmp.Compare[string]), r.series.ranks(compareSeries))
	_, err := tx.Exec(ctx, upsertDays, d.account, d.meter, d.figure, d.dim, d.at, d.cnt, d.sum, d.min, d.max, d.last, d.lastAt, d.scale)
	return err
}

const takeMonths = `delete from usage_months where account = $1 returning account, meter, figure, dim, month, data`

// unfold makes the account's months nameless days again, of which there may be
// some. They are folded with the next round.
func unfold(ctx context.Context, tx pgx.Tx, account string) error {
	rows, err := tx.Query(ctx, takeMonths, account)
	if err != nil {
		return err
	}
	var days rollups
	err = scanMonths(rows, func(k monthKey, d dayTotal) error {
		k.account = ""
		days.put(k, d)
		return nil
	})
	if err != nil {
		return err
	}
	return days.insertDays(ctx, tx)
}

// scanMonths calls f with the days of rows of usage_months.
func scanMonths(rows pgx.Rows, f func(monthKey, dayTotal) error) error {
	var k monthKey
	var month time.Time
	var data []byte
	_, err := pgx.ForEachRow(rows, []any{&k.account, &k.meter, &k.figure, &k.dim, &month, &data}, func() error {
		return decodeMonth(month, data, func(d dayTotal) error { return f(k, d) })
	})
	return err
}

const foldedCursor = `
create temp table usage_unfolded (like usage_days) on commit drop;
declare usage_folded cursor for select account, meter, figure, dim, month, data from usage_months`

// What came late stands beside its month.
const allDaysTogether = `
close usage_folded;
create temp table usage_audited_days on commit drop as
select account, meter, figure, dim, day, sum(cnt)::bigint as cnt, sum(sum) as sum, min(min) as min, max(max) as max, max(scale) as scale
from (select * from usage_days union all select * from usage_unfolded) d
group by 1, 2, 3, 4, 5;
create index on usage_audited_days (account, meter, figure, dim, day);
analyze usage_audited_days`

// unfoldForAudit makes a table of all days, also the folded ones, that lives
// as long as the transaction. It returns the name to read them by.
func unfoldForAudit(ctx context.Context, tx pgx.Tx) (string, error) {
	var some bool
	if err := tx.QueryRow(ctx, "select exists (select from usage_months)").Scan(&some); err != nil || !some {
		return "usage_days", err
	}
	if _, err := tx.Exec(ctx, "drop table if exists pg_temp.usage_unfolded, pg_temp.usage_audited_days;"+foldedCursor); err != nil {
		return "", err
	}
	for {
		rows, err := tx.Query(ctx, "fetch 2000 from usage_folded")
		if err != nil {
			return "", err
		}
		var days [][]any
		err = scanMonths(rows, func(k monthKey, d dayTotal) error {
			days = append(days, []any{d.day, d.Count, d.Min, d.Max, d.Last, d.LastAt, d.scale, k.account, k.meter, k.figure, k.dim, d.Sum})
			return nil
		})
		if err != nil {
			return "", err
		}
		if len(days) == 0 {
			break
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"usage_unfolded"},
			[]string{"day", "cnt", "min", "max", "last", "last_at", "scale", "account", "meter", "figure", "dim", "sum"},
			pgx.CopyFromRows(days)); err != nil {
			return "", fmt.Errorf("usagepg: audit: %w", err)
		}
	}
	_, err := tx.Exec(ctx, allDaysTogether)
	return "usage_audited_days", err
}

// One statement for both, so that folding can't hide a day between them. An
// account's days are few and come as they are: the statement is the same for
// every question and needs no plan of its own.
const readDays = `
select account, dim, day, cnt, sum::bigint, min, max, last, last_at, null::bytea from usage_days
where meter = $1 and figure = $2 and day >= $3 and day < $4 and %[1]s and %[2]s
union all
select account, dim, month, 0, 0, 0, 0, 0, null, data from usage_months
where meter = $1 and figure = $2 and month >= $6 and month < $4 and %[1]s and %[2]s`

// eachDay calls f with each account's days that lie in one of the spans, in
// any order; a day may come in two parts. Without an account they are those of
// all that have a name.
func (s *Store) eachDay(ctx context.Context, sel usage.Selection, whole []span, f func(account, dim string, d dayTotal) error) error {
	from, to := whole[0].from, whole[len(whole)-1].to
	where, dim := dimension(sel, "dim", 5)
	args := []any{sel.Meter, sel.Figure, from, to, dim, monthOf(from)}
	of := "account <> ''"
	if sel.Account != "" {
		of, args = "account = $7", append(args, sel.Account)
	}
	rows, err := s.db.Query(ctx, fmt.Sprintf(readDays, where, of), args...)
	if err != nil {
		return kindOf(err)
	}
	within := func(account, dim string, d dayTotal) error {
		i := sort.Search(len(whole), func(i int) bool { return whole[i].to.After(d.day) })
		if i == len(whole) || d.day.Before(whole[i].from) {
			return nil
		}
		return f(account, dim, d)
	}
	var account string
	var d dayTotal
	var lastAt *time.Time
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&account, &dim, &d.day, &d.Count, &d.Sum, &d.Min, &d.Max, &d.Last, &lastAt, &data}, func() error {
		if data != nil {
			return decodeMonth(d.day, data, func(d dayTotal) error { return within(account, dim, d) })
		}
		d.day, d.LastAt = d.day.UTC(), lastAt.UTC()
		return within(account, dim, d)
	})
	return kindOf(err)
}
