package usagepg

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sort"
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
	for i, from := range bounds[:len(bounds)-1] {
		w, r := inner(span{from, bounds[i+1]}, bucket)
		whole, rest = join(whole, w), append(rest, r...)
	}
	var merged []span
	for _, r := range rest {
		merged = join(merged, r)
	}
	return whole, merged
}

// inner returns the part of a span that whole buckets cover, and the rest of
// it.
func inner(s span, bucket time.Duration) (whole span, rest []span) {
	first := s.from.Truncate(bucket)
	if first.Before(s.from) {
		first = first.Add(bucket)
	}
	last := s.to.Truncate(bucket)
	if !first.Before(last) {
		return span{}, []span{s}
	}
	return span{first, last}, []span{{s.from, first}, {last, s.to}}
}

// join appends a span, unless it is empty, to ascending ones.
func join(list []span, s span) []span {
	if !s.from.Before(s.to) {
		return list
	}
	if n := len(list); n > 0 && list[n-1].to.Equal(s.from) {
		list[n-1].to = s.to
		return list
	}
	return append(list, s)
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

// folder gathers what a selection comes to from rollups, events and packed
// events.
type folder struct {
	sel       usage.Selection
	byAccount bool
	cells     map[point]*folded
}

type point struct {
	span           int
	group, account string
}

type folded struct {
	usage.Stats
	unique map[string]struct{}
}

func (f *folder) at(p point) *folded {
	c := f.cells[p]
	if c == nil {
		c = &folded{Stats: usage.Stats{Scale: f.sel.Scale}}
		f.cells[p] = c
	}
	return c
}

// spanAt returns the index of the span in which t lies. It is false outside of
// all of them.
func (f *folder) spanAt(t time.Time) (int, bool) {
	i := sort.Search(len(f.sel.Bounds), func(i int) bool { return f.sel.Bounds[i].After(t) }) - 1
	return i, i >= 0 && i < len(f.sel.Bounds)-1
}

// fold reads what the selection comes to.
func (s *Store) fold(ctx context.Context, sel usage.Selection, byAccount bool) (*folder, error) {
	f := &folder{sel: sel, byAccount: byAccount, cells: map[point]*folded{}}
	all := []span{{sel.Bounds[0], sel.Bounds[len(sel.Bounds)-1]}}
	switch {
	case !sel.Declared || sel.Unique != "":
		return f, s.foldEvents(ctx, f, all)
	case sel.Account != "" || byAccount:
		whole, rest := split(sel.Bounds, quarter)
		if len(whole) > 0 {
			if err := s.foldTotals(ctx, f, whole); err != nil {
				return nil, err
			}
		}
		return f, s.foldEvents(ctx, f, rest)
	}
	days, rest := split(sel.Bounds, day)
	if len(days) > 0 {
		if err := s.foldPlatform(ctx, f, grainDay, days); err != nil {
			return nil, err
		}
	}
	if len(rest) == 0 {
		return f, nil
	}
	// Within each rest, which lies in one span or in several.
	var quarters, events []span
	for _, r := range rest {
		bounds := []time.Time{r.from}
		for _, b := range sel.Bounds {
			if b.After(r.from) && b.Before(r.to) {
				bounds = append(bounds, b)
			}
		}
		q, e := split(append(bounds, r.to), quarter)
		quarters, events = append(quarters, q...), append(events, e...)
	}
	if len(quarters) > 0 {
		if err := s.foldPlatform(ctx, f, grainQuarter, quarters); err != nil {
			return nil, err
		}
	}
	return f, s.foldEvents(ctx, f, events)
}

// dimension returns the condition on a rollup's dim. The argument is the
// prefix or the whole of it.
func dimension(sel usage.Selection, column string, arg int) (condition, value string) {
	if sel.GroupBy != "" {
		return fmt.Sprintf("starts_with(%s, $%d)", column, arg), sel.GroupBy + "="
	}
	for name, text := range sel.Filter { // one at most, being declared
		value = name + "=" + text
	}
	return fmt.Sprintf("%s = $%d", column, arg), value
}

func (f *folder) group(dim string) string {
	if f.sel.GroupBy == "" {
		return ""
	}
	return dim[len(f.sel.GroupBy)+1:]
}

// addBuckets adds rows of a rollup that lie in one of the spans.
func (f *folder) addBuckets(rows pgx.Rows, whole []span) error {
	var at time.Time
	var dim string
	var st usage.Stats
	_, err := pgx.ForEachRow(rows, []any{&at, &dim, &st.Count, &st.Sum, &st.Min, &st.Max, &st.Last, &st.LastAt}, func() error {
		i := sort.Search(len(whole), func(i int) bool { return whole[i].to.After(at) })
		if i == len(whole) || at.Before(whole[i].from) {
			return nil
		}
		n, ok := f.spanAt(at)
		if !ok {
			return nil
		}
		st.LastAt = st.LastAt.UTC()
		return f.at(point{span: n, group: f.group(dim)}).Merge(st)
	})
	return err
}

// Of quarters there may be thousands: they are added up where they are.
const platformSums = `
select width_bucket(p.bucket, $2::timestamptz[]), p.dim, sum(p.cnt)::bigint, sum(p.sum)::bigint, min(p.min), max(p.max),
	max(array[(date_part('epoch', p.last_at) * 1e6)::bigint, p.last])
from unnest($3::timestamptz[], $4::timestamptz[]) as r (f, t)
join usage_platform p on p.bucket >= r.f and p.bucket < r.t
where p.meter = $1 and p.figure = $5 and p.grain = $6 and p.bucket >= $7 and p.bucket < $8 and %s
group by 1, 2`

const platformDays = `
select bucket, dim, cnt, sum::bigint, min, max, last, last_at from usage_platform
where meter = $1 and figure = $2 and grain = 1 and bucket >= $3 and bucket < $4 and `

func (s *Store) foldPlatform(ctx context.Context, f *folder, grain int16, whole []span) error {
	sel := f.sel
	from, to := whole[0].from, whole[len(whole)-1].to
	if grain == grainDay {
		where, dim := dimension(sel, "dim", 5)
		rows, err := s.db.Query(ctx, platformDays+where, sel.Meter, sel.Figure, from, to, dim)
		if err != nil {
			return kindOf(err)
		}
		return kindOf(f.addBuckets(rows, whole))
	}
	where, dim := dimension(sel, "p.dim", 9)
	rows, err := s.db.Query(ctx, fmt.Sprintf(platformSums, where), sel.Meter, sel.Bounds, starts(whole), ends(whole), sel.Figure, grain, from, to, dim)
	if err != nil {
		return kindOf(err)
	}
	var n int
	var st usage.Stats
	var latest []int64
	_, err = pgx.ForEachRow(rows, []any{&n, &dim, &st.Count, &st.Sum, &st.Min, &st.Max, &latest}, func() error {
		st.LastAt, st.Last = time.UnixMicro(latest[0]).UTC(), latest[1]
		return f.at(point{span: n - 1, group: f.group(dim)}).Merge(st)
	})
	return kindOf(err)
}

// query builds a statement and numbers its arguments.
type query struct {
	args []any
}

func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return fmt.Sprintf("$%d", len(q.args))
}

// foldEvents adds the events of some spans. Both kinds of them are read in one
// statement: between two, packing could have moved some.
func (s *Store) foldEvents(ctx context.Context, f *folder, rest []span) error {
	if len(rest) == 0 {
		return nil
	}
	sel, q := f.sel, &query{}
	bounds, meter := q.arg(sel.Bounds), q.arg(sel.Meter)
	first, last := q.arg(rest[0].from), q.arg(rest[len(rest)-1].to)
	where, packed := "", ""
	if sel.Account != "" {
		account := q.arg(sel.Account)
		where, packed = " and e.account = "+account, " and p.account = "+account
	} else if f.byAccount {
		where, packed = " and e.account <> ''", " and p.account <> ''"
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
	group, account, unique := "''", "''", "null::text[]"
	if sel.GroupBy != "" {
		group = "e.props->>" + q.arg(sel.GroupBy)
		where += " and " + group + " is not null"
	}
	if f.byAccount {
		account = "e.account"
	}
	if sel.Unique != "" {
		property := q.arg(sel.Unique)
		unique = "array_agg(distinct e.props->>" + property + ") filter (where e.props ? " + property + ")"
	}
	ranges := fmt.Sprintf("unnest(%s::timestamptz[], %s::timestamptz[]) as r (f, t)", q.arg(starts(rest)), q.arg(ends(rest)))
	sql := fmt.Sprintf(`
select width_bucket(e.ts, %s::timestamptz[]) - 1 as span, %s as grp, %s as account, count(*), sum(v.v)::bigint, min(v.v), max(v.v),
	max(array[(date_part('epoch', e.ts) * 1e6)::bigint, v.v]), %s, null::timestamptz, null::bytea
from %s
join usage_events e on e.ts >= r.f and e.ts < r.t
cross join lateral (select %s as v) v
where e.meter = %s%s and e.ts >= %s and e.ts < %s
group by 1, 2, 3
union all
select 0, '', p.account, 0, 0, 0, 0, null, null, p.ts, p.data from usage_packed p
where p.meter = %[7]s and p.ts >= date_trunc('month', %[9]s::timestamptz, 'UTC') and p.ts < %[10]s and p.until >= %[9]s%[11]s
	and exists (select from %[5]s where p.ts < r.t and p.until >= r.f)`,
		bounds, group, account, unique, ranges, value, meter, where, first, last, packed)
	rows, err := s.db.Query(ctx, sql, q.args...)
	if err != nil {
		return kindOf(err)
	}
	var p point
	var st usage.Stats
	var latest []int64
	var texts []string
	var ts *time.Time
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&p.span, &p.group, &p.account, &st.Count, &st.Sum, &st.Min, &st.Max, &latest, &texts, &ts, &data}, func() error {
		if ts != nil {
			return f.addPacked(p.account, *ts, data, rest)
		}
		c := f.at(p)
		c.see(texts...)
		st.LastAt, st.Last = time.UnixMicro(latest[0]).UTC(), latest[1]
		return c.Merge(st)
	})
	return kindOf(err)
}

func (c *folded) see(texts ...string) {
	for _, text := range texts {
		if c.unique == nil {
			c.unique = map[string]struct{}{}
		}
		c.unique[text] = struct{}{}
	}
}

// addPacked adds the events of a block that lie in one of the spans.
func (f *folder) addPacked(account string, ts time.Time, data []byte, rest []span) error {
	events, err := decodeBlock(ts, data)
	if err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		j := sort.Search(len(rest), func(j int) bool { return rest[j].to.After(e.at) })
		if j == len(rest) || e.at.Before(rest[j].from) {
			continue
		}
		if err := f.addEvent(account, e); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) addEvent(account string, e *packed) error {
	n, ok := f.spanAt(e.at)
	if !ok {
		return nil
	}
	p, value := point{span: n}, e.value
	if f.byAccount {
		p.account = account
	}
	props, err := e.properties()
	if err != nil {
		return err
	}
	for name, want := range f.sel.Filter {
		if v, has := props.Get(name); !has || v.Text() != want {
			return nil
		}
	}
	if f.sel.GroupBy != "" {
		v, has := props.Get(f.sel.GroupBy)
		if !has {
			return nil
		}
		p.group = v.Text()
	}
	if f.sel.Figure != "" {
		v, _ := props.Get(f.sel.Figure)
		if value, ok = v.Units(f.sel.Scale); !ok {
			return nil
		}
	}
	c := f.at(p)
	if v, has := props.Get(f.sel.Unique); has && f.sel.Unique != "" {
		c.see(v.Text())
	}
	return c.Add(value, e.at)
}

// Aggregate implements usage.EventStore.
func (s *Store) Aggregate(ctx context.Context, sel usage.Selection) ([]usage.Point, error) {
	f, err := s.fold(ctx, sel, false)
	if err != nil {
		return nil, err
	}
	points := make([]usage.Point, 0, len(f.cells))
	for p, c := range f.cells {
		c.Unique = int64(len(c.unique))
		points = append(points, usage.Point{Span: p.span, Group: p.group, Stats: c.Stats})
	}
	slices.SortFunc(points, func(a, b usage.Point) int {
		return cmp.Or(cmp.Compare(a.Span, b.Span), cmp.Compare(a.Group, b.Group))
	})
	return points, nil
}

// Accounts implements usage.EventStore.
func (s *Store) Accounts(ctx context.Context, sel usage.Selection, n int) ([]usage.AccountStats, error) {
	f, err := s.fold(ctx, sel, true)
	if err != nil {
		return nil, err
	}
	out := make([]usage.AccountStats, 0, len(f.cells))
	for p, c := range f.cells {
		out = append(out, usage.AccountStats{Account: p.account, Stats: c.Stats})
	}
	slices.SortFunc(out, func(a, b usage.AccountStats) int {
		return cmp.Or(cmp.Compare(b.Sum, a.Sum), cmp.Compare(a.Account, b.Account))
	})
	return slices.Clone(out[:min(n, len(out))]), nil
}

// activity calls f with each account that was active, in any order, as the
// spans in which it has events, ascending.
func (s *Store) activity(ctx context.Context, meter string, bounds []time.Time, f func(spans []int)) error {
	folded := &folder{sel: usage.Selection{Meter: meter, Bounds: bounds, Declared: true}, byAccount: true, cells: map[point]*folded{}}
	// Of totals that stand for themselves a bit is enough.
	active := map[string][]uint64{}
	words := (len(bounds) + 62) / 64
	see := func(account string, span int) {
		set := active[account]
		if set == nil {
			set = make([]uint64, words)
			active[account] = set
		}
		set[span/64] |= 1 << (span % 64)
	}
	whole, rest := split(bounds, quarter)
	if len(whole) > 0 {
		err := s.eachTotal(ctx, folded.sel, whole, func(account, _ string, d *total) error {
			if i, ok := folded.spanAt(time.Unix(d.from, 0)); ok {
				see(account, i)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := s.foldEvents(ctx, folded, rest); err != nil {
		return err
	}
	for p := range folded.cells {
		see(p.account, p.span)
	}
	var spans []int
	for _, set := range active {
		spans = spans[:0]
		for i, word := range set {
			for ; word != 0; word &= word - 1 {
				spans = append(spans, i*64+bits.TrailingZeros64(word))
			}
		}
		f(spans)
	}
	return nil
}

// Active implements usage.EventStore.
func (s *Store) Active(ctx context.Context, meter string, bounds []time.Time) ([]int64, error) {
	out := make([]int64, len(bounds)-1)
	return out, s.activity(ctx, meter, bounds, func(spans []int) {
		for _, i := range spans {
			out[i]++
		}
	})
}

// Retention implements usage.EventStore.
func (s *Store) Retention(ctx context.Context, meter string, bounds []time.Time) ([][]int64, error) {
	out := make([][]int64, len(bounds)-1)
	for i := range out {
		out[i] = make([]int64, len(bounds)-1)
	}
	return out, s.activity(ctx, meter, bounds, func(spans []int) {
		for _, j := range spans {
			out[spans[0]][j]++
		}
	})
}
