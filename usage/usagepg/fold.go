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

// cell is a row of a rollup. account is empty for the platform's.
type cell struct {
	account, meter, figure, dim string
	grain                       int16 // of the platform's rows
	at                          int64 // Unix seconds
}

// The grains of the platform's rows.
const (
	grainQuarter int16 = 0
	grainDay     int16 = 1
)

func compareCells(a, b cell) int {
	return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.meter, b.meter),
		cmp.Compare(a.figure, b.figure), cmp.Compare(a.dim, b.dim), cmp.Compare(a.grain, b.grain), cmp.Compare(a.at, b.at))
}

// sums is what a cell's events come to. The sum of many events of one batch
// can't overflow: batches are smaller than 2^10 times 2^53.
type sums struct {
	cnt, sum, min, max, last int64
	lastAt                   time.Time
	scale                    int
}

// rollups folds events, so that each row is written once for a batch.
type rollups struct{ days, platform map[cell]*sums }

func (r *rollups) add(e usage.Entry) {
	if r.days == nil {
		r.days, r.platform = map[cell]*sums{}, map[cell]*sums{}
	}
	dayAt := e.Time.Truncate(day).Unix()
	quarterAt := e.Time.Truncate(quarter).Unix()
	for _, f := range e.Figures {
		r.addTo("", f, e, dayAt, quarterAt)
		for _, dim := range e.Groups {
			r.addTo(dim, f, e, dayAt, quarterAt)
		}
	}
}

func (r *rollups) addTo(dim string, f usage.Figure, e usage.Entry, dayAt, quarterAt int64) {
	fold(r.days, cell{account: e.Account, meter: e.Meter, figure: f.Name, dim: dim, at: dayAt}, f, e.Time)
	fold(r.platform, cell{meter: e.Meter, figure: f.Name, dim: dim, grain: grainQuarter, at: quarterAt}, f, e.Time)
	fold(r.platform, cell{meter: e.Meter, figure: f.Name, dim: dim, grain: grainDay, at: dayAt}, f, e.Time)
}

func fold(m map[cell]*sums, c cell, f usage.Figure, at time.Time) {
	s := m[c]
	if s == nil {
		m[c] = &sums{cnt: 1, sum: f.Value, min: f.Value, max: f.Value, last: f.Value, lastAt: at, scale: f.Scale}
		return
	}
	s.cnt++
	s.sum += f.Value
	s.min, s.max = min(s.min, f.Value), max(s.max, f.Value)
	if at.After(s.lastAt) || at.Equal(s.lastAt) && f.Value > s.last {
		s.last, s.lastAt = f.Value, at
	}
}

// mergeRollup adds what an insert into a rollup d has run into.
const mergeRollup = `
	cnt = d.cnt + excluded.cnt,
	sum = d.sum + excluded.sum,
	min = least(d.min, excluded.min),
	max = greatest(d.max, excluded.max),
	last = case when (excluded.last_at, excluded.last) > (d.last_at, d.last) then excluded.last else d.last end,
	last_at = greatest(d.last_at, excluded.last_at)`

const upsertDays = `
insert into usage_days as d (account, meter, figure, dim, day, cnt, sum, min, max, last, last_at, scale)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::bigint[],
	$8::bigint[], $9::bigint[], $10::bigint[], $11::timestamptz[], $12::smallint[])
on conflict (account, meter, figure, dim, day) do update set` + mergeRollup

const upsertPlatform = `
insert into usage_platform as d (meter, figure, dim, grain, bucket, cnt, sum, min, max, last, last_at, scale, shard)
select *, $13 from unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::timestamptz[], $6::bigint[], $7::bigint[],
	$8::bigint[], $9::bigint[], $10::bigint[], $11::timestamptz[], $12::smallint[])
on conflict (meter, figure, dim, grain, bucket, shard) do update set` + mergeRollup

// columns are the arrays that a rollup's rows are sent as.
type columns struct {
	account, meter, figure, dim []string
	at, lastAt                  []time.Time
	cnt, min, max, last         []int64
	sum                         []int64
	scale, grain                []int16
}

// columnsOf returns the rows in the order of their keys: flushes that touch
// the same rows then take their locks in the same order.
func columnsOf(m map[cell]*sums) columns {
	keys := make([]cell, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareCells)
	var c columns
	for _, k := range keys {
		s := m[k]
		c.account, c.meter = append(c.account, k.account), append(c.meter, k.meter)
		c.figure, c.dim = append(c.figure, k.figure), append(c.dim, k.dim)
		c.at, c.lastAt = append(c.at, time.Unix(k.at, 0).UTC()), append(c.lastAt, s.lastAt)
		c.cnt, c.min = append(c.cnt, s.cnt), append(c.min, s.min)
		c.max, c.last = append(c.max, s.max), append(c.last, s.last)
		c.sum = append(c.sum, s.sum)
		c.scale, c.grain = append(c.scale, int16(s.scale)), append(c.grain, k.grain)
	}
	return c
}

// queue adds the statements that write the rollups.
func (r *rollups) queue(b *pgx.Batch) {
	if len(r.days) == 0 {
		return
	}
	d := columnsOf(r.days)
	b.Queue(upsertDays, d.account, d.meter, d.figure, d.dim, d.at, d.cnt, d.sum, d.min, d.max, d.last, d.lastAt, d.scale)
	p := columnsOf(r.platform)
	b.Queue(upsertPlatform, p.meter, p.figure, p.dim, p.grain, p.at, p.cnt, p.sum, p.min, p.max, p.last, p.lastAt, p.scale,
		int16(rand.IntN(platformShards)))
}

const insertKeys = `
insert into usage_keys (account, key, hash, at)
select * from unnest($1::text[], $2::uuid[], $3::bigint[], $4::timestamptz[])`

const insertEvents = `
insert into usage_events (account, meter, ts, key, value, flags, id, props)
select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::smallint[], $7::text[], $8::jsonb[])`

// eventColumns are the arguments of insertEvents.
func eventColumns(entries []usage.Entry, counted func(usage.Entry) bool) ([]any, error) {
	n := len(entries)
	accounts, meters := make([]string, n), make([]string, n)
	times, keys, values := make([]time.Time, n), make([]int64, n), make([]int64, n)
	flags, ids, props := make([]int16, n), make([]*string, n), make([]*string, n)
	for i, e := range entries {
		accounts[i], meters[i], times[i], keys[i], values[i] = e.Account, e.Meter, e.Time, shortKey(e.Key), e.Value
		if counted(e) {
			flags[i] = 1
		}
		if !e.Own {
			ids[i] = &entries[i].ID
		}
		if len(e.Properties) > 0 {
			object := string(e.Properties.AppendJSON(nil))
			props[i] = &object
		}
	}
	return []any{accounts, meters, times, keys, values, flags, ids, props}, nil
}

// shortKey is what is stored of an event's key: its second half.
func shortKey(key [16]byte) int64 { return int64(binary.BigEndian.Uint64(key[8:])) }

// keyColumns are the arguments of insertKeys.
func keyColumns(entries []usage.Entry, now time.Time) []any {
	n := len(entries)
	accounts, keys, hashes, at := make([]string, n), make([][16]byte, n), make([]int64, n), make([]time.Time, n)
	for i, e := range entries {
		accounts[i], keys[i], hashes[i], at[i] = e.Account, e.Key, e.Hash, now
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
