package usagepg

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// span is a half-open range of time.
type span struct{ from, to time.Time }

// split divides the bounds into what whole buckets of a rollup cover within
// each span, and the rest, which has to be read from the events. Neighbours
// are merged.
func split(bounds []time.Time, bucket time.Duration) (whole, rest []span) {
	add := func(list *[]span, from, to time.Time) {
		if !from.Before(to) {
			return
		}
		if n := len(*list); n > 0 && (*list)[n-1].to.Equal(from) {
			(*list)[n-1].to = to
			return
		}
		*list = append(*list, span{from, to})
	}
	for i, from := range bounds[:len(bounds)-1] {
		to := bounds[i+1]
		first := from.Truncate(bucket)
		if first.Before(from) {
			first = first.Add(bucket)
		}
		last := to.Truncate(bucket)
		if !first.Before(last) {
			add(&rest, from, to)
			continue
		}
		add(&rest, from, first)
		add(&whole, first, last)
		add(&rest, last, to)
	}
	return whole, rest
}

func starts(spans []span) []time.Time {
	out := make([]time.Time, len(spans))
	for i, s := range spans {
		out[i] = s.from
	}
	return out
}

func ends(spans []span) []time.Time {
	out := make([]time.Time, len(spans))
	for i, s := range spans {
		out[i] = s.to
	}
	return out
}

// query builds a statement and numbers its arguments.
type query struct {
	args []any
}

func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return fmt.Sprintf("$%d", len(q.args))
}

const latestOf = "max(array[(date_part('epoch', %s) * 1e6)::bigint, %s])"

// parts returns a union of what the rollups and the events of a selection come
// to, by the columns of keys ("span", "grp", "account").
func (q *query) parts(sel usage.Selection, keys string) string {
	table, column, bucket := "usage_days", "day", day
	// Without an account only the platform's rows will do, except where the
	// rows of each account are wanted.
	platform := sel.Account == "" && !strings.Contains(keys, "account")
	if platform {
		table, column, bucket = "usage_platform", "bucket", quarter
	}
	whole, rest := split(sel.Bounds, bucket)
	if !sel.Declared || sel.Unique != "" {
		whole, rest = nil, []span{{sel.Bounds[0], sel.Bounds[len(sel.Bounds)-1]}}
	}
	bounds := q.arg(sel.Bounds)
	first, last := q.arg(sel.Bounds[0]), q.arg(sel.Bounds[len(sel.Bounds)-1])
	var selects []string
	if len(whole) > 0 {
		where := "d.meter = " + q.arg(sel.Meter) + " and d.figure = " + q.arg(sel.Figure)
		if sel.Account != "" {
			where += " and d.account = " + q.arg(sel.Account)
		}
		group := "''"
		switch {
		case sel.GroupBy != "":
			prefix := sel.GroupBy + "="
			where += " and starts_with(d.dim, " + q.arg(prefix) + ")"
			group = fmt.Sprintf("substr(d.dim, %d)", len([]rune(prefix))+1)
		case len(sel.Filter) > 0:
			for name, value := range sel.Filter {
				where += " and d.dim = " + q.arg(name+"="+value)
			}
		default:
			where += " and d.dim = ''"
		}
		account := "''"
		if !platform {
			account = "d.account"
		}
		latest := fmt.Sprintf(latestOf, "d.last_at", "d.last")
		selects = append(selects, fmt.Sprintf(`
	select width_bucket(d.%[2]s, %[3]s::timestamptz[]) as span, %[4]s as grp, %[5]s as account, sum(d.cnt) as cnt, sum(d.sum) as sum,
		min(d.min) as min, max(d.max) as max, %[6]s as latest, 0::bigint as uniq
	from unnest(%[7]s::timestamptz[], %[8]s::timestamptz[]) as r (f, t)
	join %[1]s d on d.%[2]s >= r.f and d.%[2]s < r.t
	where %[9]s and d.%[2]s >= %[10]s and d.%[2]s < %[11]s
	group by 1, 2, 3`, table, column, bounds, group, account, latest, q.arg(starts(whole)), q.arg(ends(whole)), where, first, last))
	}
	if len(rest) > 0 {
		where := "e.meter = " + q.arg(sel.Meter)
		if sel.Account != "" {
			where += " and e.account = " + q.arg(sel.Account)
		}
		value := "e.value"
		if sel.Figure != "" {
			figure := q.arg(sel.Figure)
			value = fmt.Sprintf("round((e.props->>%s)::numeric * 1e%d)::bigint", figure, sel.Scale)
			where += " and jsonb_typeof(e.props->" + figure + ") = 'number'"
		}
		for _, name := range slices.Sorted(maps.Keys(sel.Filter)) {
			where += fmt.Sprintf(" and e.props->>%s = %s", q.arg(name), q.arg(sel.Filter[name]))
		}
		group := "''"
		if sel.GroupBy != "" {
			group = "e.props->>" + q.arg(sel.GroupBy)
			where += " and " + group + " is not null"
		}
		unique := "0::bigint"
		if sel.Unique != "" {
			unique = "count(distinct e.props->>" + q.arg(sel.Unique) + ")"
		}
		account := "''"
		if !platform {
			account = "e.account"
		}
		latest := fmt.Sprintf(latestOf, "e.ts", "v.v")
		selects = append(selects, fmt.Sprintf(`
	select width_bucket(e.ts, %[1]s::timestamptz[]) as span, %[2]s as grp, %[3]s as account, count(*)::numeric as cnt, sum(v.v) as sum,
		min(v.v) as min, max(v.v) as max, %[4]s as latest, %[5]s as uniq
	from unnest(%[6]s::timestamptz[], %[7]s::timestamptz[]) as r (f, t)
	join usage_events e on e.ts >= r.f and e.ts < r.t
	cross join lateral (select %[8]s as v) v
	where %[9]s and e.ts >= %[10]s and e.ts < %[11]s
	group by 1, 2, 3`, bounds, group, account, latest, unique, q.arg(starts(rest)), q.arg(ends(rest)), value, where, first, last))
	}
	return strings.Join(selects, "\n	union all")
}

const statsOf = `sum(cnt)::bigint, sum(sum)::bigint, min(min), max(max), max(latest), sum(uniq)::bigint`

func scanStats(rows pgx.Rows, scale int, dest ...any) (usage.Stats, error) {
	s := usage.Stats{Scale: scale}
	var latest []int64
	if err := rows.Scan(append(dest, &s.Count, &s.Sum, &s.Min, &s.Max, &latest, &s.Unique)...); err != nil {
		return s, err
	}
	s.LastAt, s.Last = time.UnixMicro(latest[0]).UTC(), latest[1]
	return s, nil
}

// Aggregate implements usage.EventStore.
func (s *Store) Aggregate(ctx context.Context, sel usage.Selection) ([]usage.Point, error) {
	q := &query{}
	sql := fmt.Sprintf("with parts as (%s\n)\nselect (span - 1)::int, grp, %s from parts group by 1, 2 order by 1, grp collate \"C\"",
		q.parts(sel, "span, grp"), statsOf)
	rows, err := s.db.Query(ctx, sql, q.args...)
	if err != nil {
		return nil, kindOf(err)
	}
	points, err := pgx.AppendRows([]usage.Point{}, rows, func(row pgx.CollectableRow) (usage.Point, error) {
		var p usage.Point
		stats, err := scanStats(rows, sel.Scale, &p.Span, &p.Group)
		p.Stats = stats
		return p, err
	})
	return points, kindOf(err)
}

// Accounts implements usage.EventStore.
func (s *Store) Accounts(ctx context.Context, sel usage.Selection, n int) ([]usage.AccountStats, error) {
	q := &query{}
	sql := fmt.Sprintf(`with parts as (%s
)
select account, %s from parts where account <> '' group by 1 order by sum(sum) desc, account collate "C" limit %s`,
		q.parts(sel, "account"), statsOf, q.arg(n))
	rows, err := s.db.Query(ctx, sql, q.args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (usage.AccountStats, error) {
		var a usage.AccountStats
		stats, err := scanStats(rows, sel.Scale, &a.Account)
		a.Stats = stats
		return a, err
	})
	return out, kindOf(err)
}

// activity returns a statement whose rows are the spans in which each account
// has events.
func (q *query) activity(meter string, bounds []time.Time) string {
	parts := q.parts(usage.Selection{Meter: meter, Bounds: bounds, Declared: true}, "span, account")
	return fmt.Sprintf("select distinct account, span from (%s\n) parts where account <> ''", parts)
}

// Active implements usage.EventStore.
func (s *Store) Active(ctx context.Context, meter string, bounds []time.Time) ([]int64, error) {
	q := &query{}
	sql := fmt.Sprintf("select (span - 1)::int, count(*) from (%s) a group by 1", q.activity(meter, bounds))
	rows, err := s.db.Query(ctx, sql, q.args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out := make([]int64, len(bounds)-1)
	var i int
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&i, &n}, func() error {
		out[i] = n
		return nil
	})
	return out, kindOf(err)
}

// Retention implements usage.EventStore.
func (s *Store) Retention(ctx context.Context, meter string, bounds []time.Time) ([][]int64, error) {
	q := &query{}
	sql := fmt.Sprintf(`
with active as (%s),
cohorts as (select account, min(span) as first from active group by 1)
select (c.first - 1)::int, (a.span - 1)::int, count(*)
from cohorts c join active a using (account)
group by 1, 2`, q.activity(meter, bounds))
	rows, err := s.db.Query(ctx, sql, q.args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out := make([][]int64, len(bounds)-1)
	for i := range out {
		out[i] = make([]int64, len(bounds)-1)
	}
	var i, j int
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&i, &j, &n}, func() error {
		out[i][j] = n
		return nil
	})
	return out, kindOf(err)
}

const eventPage = `
select account, meter, ts, key, value, flags, coalesce(id, ''), props from usage_events
where account = $1 and ($2 = '' or meter = $2) and ts >= $3 and ts < $4 and (ts, key) > ($5, $6)
order by ts, key limit $7`

const newestEvents = `
select account, meter, ts, key, value, flags, coalesce(id, ''), props from usage_events
where account = $1 and ($2 = '' or meter = $2) and ts >= $3 and ts < $4
order by ts desc, key desc limit $5`

// Events implements usage.EventStore.
func (s *Store) Events(ctx context.Context, page usage.EventPage, n int) ([]usage.Entry, error) {
	sql, args := eventPage, []any{page.Account, page.Meter, page.From, page.To, page.AfterTime, page.AfterKey, n}
	if page.Newest {
		sql, args = newestEvents, []any{page.Account, page.Meter, page.From, page.To, n}
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (usage.Entry, error) {
		var e usage.Entry
		var flags int16
		var props *string
		if err := row.Scan(&e.Account, &e.Meter, &e.Time, &e.Key, &e.Value, &flags, &e.ID, &props); err != nil {
			return e, err
		}
		e.Time = e.Time.UTC()
		if e.Own = e.ID == ""; e.Own {
			e.ID = usage.IDOf(e.Key)
		}
		if props == nil {
			return e, nil
		}
		dec := json.NewDecoder(strings.NewReader(*props))
		dec.UseNumber()
		return e, dec.Decode(&e.Properties)
	})
	return out, kindOf(err)
}

const counterColumns = `account, meter, period_from, period_to, used, held, bare, lim, drawn, drawn_held, granted`

// Counter implements usage.QuotaStore.
func (s *Store) Counter(ctx context.Context, account, meter string, p usage.Period) (usage.Counter, error) {
	out := usage.Counter{Account: account, Meter: meter, Period: p}
	rows, err := s.db.Query(ctx, "select "+counterColumns+" from usage_counters where account = $1 and meter = $2 and period_from = $3",
		account, meter, p.From)
	if err != nil {
		return out, kindOf(err)
	}
	defer rows.Close()
	return out, kindOf(eachCounter(rows, func(c usage.Counter, _ bool) { out = c }))
}

// Hold implements usage.QuotaStore.
func (s *Store) Hold(ctx context.Context, account, key string) (usage.Hold, error) {
	holds, err := s.selectHolds(ctx, "where account = $1 and key = $2", account, key)
	if err == nil && len(holds) == 0 {
		err = usage.ErrNotFound
	}
	if err != nil {
		return usage.Hold{}, err
	}
	return holds[0], nil
}

// Holds implements usage.QuotaStore.
func (s *Store) Holds(ctx context.Context, account, meter string, n int) ([]usage.Hold, error) {
	return s.selectHolds(ctx, `where account = $1 and meter = $2 and state = 0 order by at, key collate "C" limit $3`, account, meter, n)
}

func (s *Store) selectHolds(ctx context.Context, where string, args ...any) ([]usage.Hold, error) {
	rows, err := s.db.Query(ctx, "select "+holdColumns+" from usage_holds "+where, args...)
	if err != nil {
		return nil, kindOf(err)
	}
	defer rows.Close()
	var out []usage.Hold
	return out, kindOf(eachHold(rows, func(h usage.Hold) { out = append(out, h) }))
}

const nearLimit = `
select ` + counterColumns + ` from usage_counters
where meter = $1 and period_from <= $2 and period_to > $2 and lim > 0
	and used >= lim / 100 * $3 + (lim % 100 * $3 + 99) / 100
order by used::float8 / lim desc, account collate "C" limit $4`

// NearLimit implements usage.QuotaStore.
func (s *Store) NearLimit(ctx context.Context, meter string, now time.Time, percent, n int) ([]usage.Counter, error) {
	rows, err := s.db.Query(ctx, nearLimit, meter, now, int64(percent), n)
	if err != nil {
		return nil, kindOf(err)
	}
	defer rows.Close()
	var out []usage.Counter
	err = eachCounter(rows, func(c usage.Counter, _ bool) { out = append(out, c) })
	return out, kindOf(err)
}

const noticeColumns = `account, id, meter, period_from, period_to, percent, used, lim, at, superseded`

const claimNotices = `
update usage_notices x set claimed_until = $2
from (
	select account, id from usage_notices
	where done_at is null and (claimed_until is null or claimed_until <= $1)
	order by at limit $3
	for update skip locked
) due
where x.account = due.account and x.id = due.id
returning x.account, x.id, x.meter, x.period_from, x.period_to, x.percent, x.used, x.lim, x.at, x.superseded`

// ClaimNotices implements usage.NoticeStore.
func (s *Store) ClaimNotices(ctx context.Context, now, until time.Time, n int) ([]usage.Notice, error) {
	return s.selectNotices(ctx, claimNotices, now, until, n)
}

// NoticeDone implements usage.NoticeStore.
func (s *Store) NoticeDone(ctx context.Context, n usage.Notice, now time.Time) error {
	_, err := s.db.Exec(ctx, "update usage_notices set done_at = $3 where account = $1 and id = $2", n.Account, n.ID, now)
	return kindOf(err)
}

// PutNotices stores notices that another QuotaStore has found due.
func (s *Store) PutNotices(ctx context.Context, notices []usage.Notice) error {
	b := &pgx.Batch{}
	queueNotices(b, slices.Clone(notices))
	if b.Len() == 0 {
		return nil
	}
	return s.tx(ctx, func(w *work) error { return w.commit(b) })
}

// Notices implements usage.NoticeStore.
func (s *Store) Notices(ctx context.Context, account string, n int) ([]usage.Notice, error) {
	return s.selectNotices(ctx, "select "+noticeColumns+` from usage_notices where account = $1 order by at desc, id collate "C" limit $2`, account, n)
}

func (s *Store) selectNotices(ctx context.Context, sql string, args ...any) ([]usage.Notice, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, kindOf(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (usage.Notice, error) {
		var n usage.Notice
		err := row.Scan(&n.Account, &n.ID, &n.Meter, &n.Period.From, &n.Period.To, &n.Percent, &n.Used, &n.Limit, &n.At, &n.Superseded)
		n.Period.From, n.Period.To, n.At = n.Period.From.UTC(), n.Period.To.UTC(), n.At.UTC()
		return n, err
	})
	return out, kindOf(err)
}
