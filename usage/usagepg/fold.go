package usagepg

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

const (
	quarter        = 15 * time.Minute
	day            = 24 * time.Hour
	platformShards = 8
)

// series is what a rollup's row is about, of one account or of the platform.
type series struct{ meter, figure, dim string }

func compareSeries(a, b series) int {
	if c := cmp.Compare(a.meter, b.meter); c != 0 {
		return c
	}
	if c := cmp.Compare(a.figure, b.figure); c != 0 {
		return c
	}
	return cmp.Compare(a.dim, b.dim)
}

// The grains of the platform's rows.
const (
	grainQuarter int16 = 0
	grainDay     int16 = 1
)

// numbered gives keys numbers, so that what belongs to them is found by
// comparing numbers.
type numbered[K comparable] struct {
	compare func(a, b K) int
	keys    []K
	index   map[K]int32 // nil as long as the keys ascend
}

// of returns the key's number, given a guess. Keys that come in their order,
// as those of a batch do, need no index.
func (n *numbered[K]) of(k K, guess int32) int32 {
	if int(guess) < len(n.keys) && n.keys[guess] == k {
		return guess
	}
	i := int32(len(n.keys))
	if n.index == nil {
		if i > 0 && n.keys[i-1] == k {
			return i - 1
		}
		if i == 0 || n.compare(n.keys[i-1], k) < 0 {
			n.keys = append(n.keys, k)
			return i
		}
		n.index = make(map[K]int32, 2*len(n.keys))
		for i, k := range n.keys {
			n.index[k] = int32(i)
		}
	}
	if i, ok := n.index[k]; ok {
		return i
	}
	n.index[k] = i
	n.keys = append(n.keys, k)
	return i
}

// ranks returns each number's place in the order of the keys.
func (n *numbered[K]) ranks() []int32 {
	order, ranks := make([]int32, len(n.keys)), make([]int32, len(n.keys))
	for i := range order {
		order[i] = int32(i)
	}
	if n.index != nil {
		slices.SortFunc(order, func(a, b int32) int { return n.compare(n.keys[a], n.keys[b]) })
	}
	for rank, i := range order {
		ranks[i] = int32(rank)
	}
	return ranks
}

// place names a row of a rollup by numbers. account is 0 for the platform's,
// grain for the accounts' quarters.
type place struct {
	account, series int32
	grain           int16
	at              int64 // Unix seconds
}

// sums is what some events come to. Those of a batch don't overflow, since
// Append keeps its values within an int64.
type sums struct {
	cnt, sum, min, max, last int64
	lastAt                   int64 // Unix microseconds
	scale                    int16
}

type cell struct {
	place
	sums
}

// cells are the rows of a rollup.
type cells struct {
	list  []cell
	last  []int32         // by series and grain, the cell that was added to last; -1 is none
	index map[place]int32 // nil as long as each series' cells ascend
}

// rollups folds events, so that each row is written once for a batch.
type rollups struct {
	accounts           numbered[string]
	series             numbered[series]
	quarters, platform cells
	account            int32   // of the event before
	recent             []int32 // series of the event before, in the order of its figures and groups
}

// newRollups returns rollups that have room for about n rows.
func newRollups(n int) *rollups {
	return &rollups{
		accounts: numbered[string]{compare: cmp.Compare[string], keys: make([]string, 0, n)},
		series:   numbered[series]{compare: compareSeries},
		quarters: cells{list: make([]cell, 0, n)},
	}
}

func (r *rollups) add(e *usage.Entry) {
	r.account = r.accounts.of(e.Account, r.account)
	us := e.Time.UnixMicro()
	n := 0
	for i := range e.Figures {
		r.foldInto(n, "", &e.Figures[i], e.Meter, us)
		n++
		for _, dim := range e.Groups {
			r.foldInto(n, dim, &e.Figures[i], e.Meter, us)
			n++
		}
	}
}

func (r *rollups) foldInto(n int, dim string, f *usage.Figure, meter string, us int64) {
	if n == len(r.recent) {
		r.recent = append(r.recent, 0)
	}
	s := r.series.of(series{meter, f.Name, dim}, r.recent[n])
	r.recent[n] = s
	dayAt, quarterAt := floor(us, day), floor(us, quarter)
	r.quarters.add(place{account: r.account, series: s, at: quarterAt}, f, us)
	r.platform.add(place{series: s, grain: grainQuarter, at: quarterAt}, f, us)
	r.platform.add(place{series: s, grain: grainDay, at: dayAt}, f, us)
}

// merge adds others. It is false, and changes nothing, where they don't fit.
func (s *sums) merge(o *sums) bool {
	sum := s.sum + o.sum
	if s.scale != o.scale || o.sum > 0 && sum < s.sum || o.sum < 0 && sum > s.sum {
		return false
	}
	s.cnt, s.sum = s.cnt+o.cnt, sum
	s.min, s.max = min(s.min, o.min), max(s.max, o.max)
	if o.lastAt > s.lastAt || o.lastAt == s.lastAt && o.last > s.last {
		s.last, s.lastAt = o.last, o.lastAt
	}
	return true
}

func (s *sums) stats() usage.Stats {
	return usage.Stats{Count: s.cnt, Sum: s.sum, Min: s.min, Max: s.max, Last: s.last, LastAt: time.UnixMicro(s.lastAt).UTC()}
}

// floor returns the last multiple of d up to an instant in Unix microseconds,
// in Unix seconds.
func floor(us int64, d time.Duration) int64 {
	return floorTo(us, d.Microseconds()) / int64(time.Second/time.Microsecond)
}

func floorTo(n, multiple int64) int64 {
	rest := n % multiple
	if rest < 0 {
		rest += multiple
	}
	return n - rest
}

func (c *cells) add(at place, f *usage.Figure, us int64) {
	i, fresh := c.find(at)
	if fresh {
		c.list = append(c.list, cell{at, sums{cnt: 1, sum: f.Value, min: f.Value, max: f.Value, last: f.Value, lastAt: us, scale: int16(f.Scale)}})
		return
	}
	s := &c.list[i].sums
	s.cnt++
	s.sum += f.Value
	s.min, s.max = min(s.min, f.Value), max(s.max, f.Value)
	if us > s.lastAt || us == s.lastAt && f.Value > s.last {
		s.last, s.lastAt = f.Value, us
	}
}

// find returns the place's index in the list; the caller appends a fresh one.
// Events come in the order of their accounts and times, mostly: then it is the
// series' last one, or one after it.
func (c *cells) find(at place) (i int32, fresh bool) {
	slot := 2*int(at.series) + int(at.grain)
	for len(c.last) <= slot {
		c.last = append(c.last, -1)
	}
	i = int32(len(c.list))
	last := c.last[slot]
	switch {
	case last >= 0 && c.list[last].place == at:
		return last, false
	case c.index == nil && (last < 0 || c.list[last].before(at)):
		c.last[slot] = i
		return i, true
	case c.index == nil:
		c.index = make(map[place]int32, 2*len(c.list))
		for i := range c.list {
			c.index[c.list[i].place] = int32(i)
		}
	}
	if j, ok := c.index[at]; ok {
		c.last[slot] = j
		return j, false
	}
	c.index[at], c.last[slot] = i, i
	return i, true
}

// before compares places of the same series and grain.
func (p *place) before(q place) bool {
	return p.account < q.account || p.account == q.account && p.at < q.at
}

// mergeRollup adds what an insert into a rollup d has run into.
const mergeRollup = `
	cnt = d.cnt + excluded.cnt,
	sum = d.sum + excluded.sum,
	min = least(d.min, excluded.min),
	max = greatest(d.max, excluded.max),
	last = case when (excluded.last_at, excluded.last) > (d.last_at, d.last) then excluded.last else d.last end,
	last_at = greatest(d.last_at, excluded.last_at)`

// Arrays are unnested side by side in the select list: as tables, each one would
// be written to a store of its own and read from there, which takes as long as
// the search in an index.

const upsertQuarters = `
insert into usage_quarters as d (account, meter, figure, dim, bucket, cnt, sum, min, max, last, last_at, scale)
select unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::timestamptz[]),
	unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::bigint[]), unnest($10::bigint[]),
	unnest($11::timestamptz[]), unnest($12::smallint[])
on conflict (account, meter, figure, dim, bucket) do update set` + mergeRollup

// Rows of one series: what they share is sent once, and the last event tells
// which quarter it is.
const upsertSeries = `
insert into usage_quarters as d (account, meter, figure, dim, bucket, cnt, sum, min, max, last, last_at, scale)
select account, $1::text, $2::text, $3::text, date_bin('15 minutes', last_at, '2000-01-01Z'), cnt, sum, min, max, last, last_at, $4::smallint
from (
	select unnest($5::text[]) as account, unnest($6::bigint[]) as cnt, unnest($7::bigint[]) as sum, unnest($8::bigint[]) as min,
		unnest($9::bigint[]) as max, unnest($10::bigint[]) as last, unnest($11::timestamptz[]) as last_at
) x
on conflict (account, meter, figure, dim, bucket) do update set` + mergeRollup

const upsertPlatform = `
insert into usage_platform as d (meter, figure, dim, bucket, cnt, sum, min, max, last, last_at, scale, grain, shard)
select unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::timestamptz[]),
	unnest($5::bigint[]), unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::bigint[]),
	unnest($10::timestamptz[]), unnest($11::smallint[]), unnest($12::smallint[]), $13::smallint
on conflict (meter, figure, dim, grain, bucket, shard) do update set` + mergeRollup

// columns are the arrays that a rollup's rows are sent as.
type columns struct {
	meter, figure, dim texts
	at                 moments
	scale, grain       numbers
	totalColumns
}

type totalColumns struct {
	account                  texts
	lastAt                   moments
	cnt, sum, min, max, last numbers
}

// sort brings the cells into the order of their series, accounts and times:
// flushes that touch the same rows then take their locks in the same order.
func (r *rollups) sort(c *cells) {
	accounts, names := r.accounts.ranks(), r.series.ranks()
	slices.SortFunc(c.list, func(a, b cell) int {
		if a.series != b.series {
			return cmp.Compare(names[a.series], names[b.series])
		}
		if a.account != b.account {
			return cmp.Compare(accounts[a.account], accounts[b.account])
		}
		if a.grain != b.grain {
			return cmp.Compare(a.grain, b.grain)
		}
		return cmp.Compare(a.at, b.at)
	})
	c.index, c.last = nil, nil // of another order
}

// columnsOf returns the rows as columns.
func (r *rollups) columnsOf(list []cell) columns {
	n := len(list)
	x := columns{
		meter: make(texts, n), figure: make(texts, n), dim: make(texts, n), at: make(moments, n), scale: make(numbers, n), grain: make(numbers, n),
		totalColumns: r.totalsOf(list),
	}
	for i := range list {
		l, s := &list[i], &r.series.keys[list[i].series]
		x.meter[i], x.figure[i], x.dim[i] = text(s.meter), text(s.figure), text(s.dim)
		x.at[i], x.scale[i], x.grain[i] = moment(l.at*1e6), number(l.scale), number(l.grain)
	}
	return x
}

// totalsOf returns what is different in each row of a series.
func (r *rollups) totalsOf(list []cell) totalColumns {
	n := len(list)
	x := totalColumns{
		account: make(texts, n), lastAt: make(moments, n), cnt: make(numbers, n),
		min: make(numbers, n), max: make(numbers, n), last: make(numbers, n), sum: make(numbers, n),
	}
	for i := range list {
		l := &list[i]
		x.account[i] = text(r.accounts.keys[l.account])
		x.cnt[i], x.sum[i], x.min[i], x.max[i] = number(l.cnt), number(l.sum), number(l.min), number(l.max)
		x.last[i], x.lastAt[i] = number(l.last), moment(l.lastAt)
	}
	return x
}

// fewSeries is up to how many series of a batch have a statement each.
const fewSeries = 32

// queueQuarters adds the statements that write the accounts' rows.
func (r *rollups) queueQuarters(b *pgx.Batch) {
	if len(r.quarters.list) == 0 {
		return
	}
	r.sort(&r.quarters)
	if len(r.series.keys) > fewSeries {
		x := r.columnsOf(r.quarters.list)
		b.Queue(upsertQuarters, x.account, x.meter, x.figure, x.dim, x.at, x.cnt, x.sum, x.min, x.max, x.last, x.lastAt, x.scale)
		return
	}
	for rest := r.quarters.list; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].series == rest[0].series && rest[n].scale == rest[0].scale {
			n++
		}
		s, x := r.series.keys[rest[0].series], r.totalsOf(rest[:n])
		b.Queue(upsertSeries, s.meter, s.figure, s.dim, rest[0].scale, x.account, x.cnt, x.sum, x.min, x.max, x.last, x.lastAt)
		rest = rest[n:]
	}
}

// queue adds the statements that write the rollups.
func (r *rollups) queue(b *pgx.Batch) {
	r.queueQuarters(b)
	if len(r.platform.list) == 0 {
		return
	}
	r.sort(&r.platform)
	p := r.columnsOf(r.platform.list)
	b.Queue(upsertPlatform, p.meter, p.figure, p.dim, p.at, p.cnt, p.sum, p.min, p.max, p.last, p.lastAt, p.scale, p.grain,
		int16(rand.IntN(platformShards)))
}

const insertKeys = `
insert into usage_keys (account, key, hash, at)
select unnest($1::text[]), unnest($2::uuid[]), unnest($3::bigint[]), unnest($4::timestamptz[])`

const insertEvents = `
insert into usage_events (account, meter, ts, key, value, flags, id, props)
select unnest($1::text[]), unnest($2::text[]), unnest($3::timestamptz[]), unnest($4::bigint[]), unnest($5::bigint[]),
	unnest($6::smallint[]), unnest($7::text[]), unnest($8::text[])::jsonb`

// eventColumns are the arguments of insertEvents.
func eventColumns(entries []usage.Entry, counted func(usage.Entry) bool) []any {
	n := len(entries)
	accounts, meters, times, keys := make(texts, n), make(texts, n), make(moments, n), make(numbers, n)
	values, flags, ids, props := make(numbers, n), make(numbers, n), make(optionals, n), make(optionals, n)
	for i := range entries {
		e := &entries[i]
		accounts[i], meters[i], times[i] = text(e.Account), text(e.Meter), moment(e.Time.UnixMicro())
		keys[i], values[i] = number(shortKey(e.Key)), number(e.Value)
		if counted(*e) {
			flags[i] = 1
		}
		if !e.Own {
			ids[i].text = &e.ID
		}
		if len(e.Properties) > 0 {
			object := string(e.Properties.AppendJSON(nil))
			props[i].text = &object
		}
	}
	return []any{accounts, meters, times, keys, values, flags, ids, props}
}

// shortKey is what is stored of an event's key: its second half.
func shortKey(key [16]byte) int64 { return int64(binary.BigEndian.Uint64(key[8:])) }

// keyColumns are the arguments of insertKeys.
func keyColumns(entries []usage.Entry, now time.Time) []any {
	n := len(entries)
	accounts, keys, hashes, at := make(texts, n), make(uuids, n), make(numbers, n), make(moments, n)
	for i := range entries {
		e := &entries[i]
		accounts[i], keys[i], hashes[i], at[i] = text(e.Account), uuid(e.Key), number(e.Hash), moment(now.UnixMicro())
	}
	return []any{accounts, keys, hashes, at}
}

const insertNotices = `
insert into usage_notices (account, id, meter, period_from, period_to, percent, used, lim, at, superseded, done_at)
select a, i, m, f, t, p, u, l, at, s, case when s then at end
from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::int[], $7::bigint[], $8::bigint[],
	$9::timestamptz[], $10::boolean[]) as x (a, i, m, f, t, p, u, l, at, s)
on conflict do nothing`

func queueNotices(b *pgx.Batch, notices []usage.Notice) {
	if len(notices) == 0 {
		return
	}
	slices.SortStableFunc(notices, func(a, b usage.Notice) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.ID, b.ID))
	})
	n := len(notices)
	accounts, ids, meters := make([]string, n), make([]string, n), make([]string, n)
	from, to, at := make([]time.Time, n), make([]time.Time, n), make([]time.Time, n)
	percents, used, limits, superseded := make([]int32, n), make([]int64, n), make([]int64, n), make([]bool, n)
	for i, x := range notices {
		accounts[i], ids[i], meters[i] = x.Account, x.ID, x.Meter
		from[i], to[i], at[i] = x.Period.From, x.Period.To, x.At
		percents[i], used[i], limits[i], superseded[i] = int32(x.Percent), x.Used, x.Limit, x.Superseded
	}
	b.Queue(insertNotices, accounts, ids, meters, from, to, percents, used, limits, at, superseded)
}
