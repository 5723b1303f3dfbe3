package usagepg

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/kolekt/commerce/usage"
)

// One statement for both, so that folding can't hide a day between them. An
// account's rows are few and come as they are: the statement is the same for
// every question and needs no plan of its own. Quarters that nobody asks for
// aren't read: those of busy accounts lie beside the table.
const readQuarters = `
select account, dim, bucket, cnt, sum::bigint, min, max, last, last_at, null::bytea, null::bytea from usage_quarters
where meter = $1 and figure = $2 and bucket >= $3 and bucket < $4 and %[1]s and %[2]s
union all
select account, dim, month, 0, 0, 0, 0, 0, null, days, case when month = any ($7::timestamptz[]) then quarters end from usage_months
where meter = $1 and figure = $2 and month >= $6 and month < $4 and %[1]s and %[2]s`

// cuts are the days that don't lie in one span as a whole.
type cuts struct {
	days   []int64 // when they begin, ascending
	months []time.Time
}

// cutsOf returns the days in which a bound lies. What whole quarters cover
// begins and ends in the same days, or between two.
func cutsOf(bounds []time.Time) (c cuts) {
	for _, b := range bounds {
		us := b.UnixMicro()
		at := floor(us, day)
		if n := len(c.days); us == at*1e6 || n > 0 && c.days[n-1] == at {
			continue
		}
		c.days = append(c.days, at)
		if n, m := len(c.months), monthOf(b); n == 0 || !c.months[n-1].Equal(m) {
			c.months = append(c.months, m)
		}
	}
	return c
}

func (c *cuts) has(day int64) bool {
	_, found := slices.BinarySearch(c.days, day)
	return found
}

// eachTotal calls f with each account's totals in the spans, in any order: with
// those of days that lie in one span of the bounds, and of quarters of the
// others. One may come in several parts. Without an account they are those of
// all that have a name. What f is given is only valid until it returns.
func (s *Store) eachTotal(ctx context.Context, sel usage.Selection, whole []span, f func(account, dim string, d *total) error) error {
	from, to := whole[0].from, whole[len(whole)-1].to
	cut := cutsOf(sel.Bounds)
	where, dim := dimension(sel, "dim", 5)
	args := []any{sel.Meter, sel.Figure, from, to, dim, monthOf(from), cut.months}
	of := "account <> ''"
	if sel.Account != "" {
		of, args = "account = $8", append(args, sel.Account)
	}
	rows, err := s.db.Query(ctx, fmt.Sprintf(readQuarters, where, of), args...)
	if err != nil {
		return kindOf(err)
	}
	r := totalReader{cut: cut, whole: make([][2]int64, len(whole)), f: f}
	for i, w := range whole {
		r.whole[i] = [2]int64{w.from.Unix(), w.to.Unix()}
	}
	return kindOf(r.read(rows))
}

// totalReader hands out what readQuarters finds. It makes nothing of its own of
// a row, unless the row is of another account or group than the one before.
type totalReader struct {
	cut          cuts
	whole        [][2]int64 // Unix seconds, half-open
	account, dim string
	f            func(account, dim string, d *total) error
}

func (r *totalReader) read(rows pgx.Rows) error {
	var account, dim, days, quarters pgtype.DriverBytes
	var at time.Time
	var d total
	var lastAt pgtype.Timestamptz
	_, err := pgx.ForEachRow(rows, []any{&account, &dim, &at, &d.cnt, &d.sum, &d.min, &d.max, &d.last, &lastAt, &days, &quarters}, func() error {
		if string(account) != r.account {
			r.account = string(account)
		}
		if string(dim) != r.dim {
			r.dim = string(dim)
		}
		if days != nil {
			return decodeMonth(at, days, quarters, r.cut.has, r.within)
		}
		d.from, d.lastAt = at.Unix(), lastAt.Time.UnixMicro()
		return r.within(&d)
	})
	return err
}

func (r *totalReader) within(d *total) error {
	for _, w := range r.whole { // mostly it is one
		if d.from < w[1] {
			if d.from < w[0] {
				return nil
			}
			return r.f(r.account, r.dim, d)
		}
	}
	return nil
}

// foldTotals adds what rollups have. Totals of one span mostly come after each
// other: they are added up before they are put to the others.
func (s *Store) foldTotals(ctx context.Context, f *folder, whole []span) error {
	var run struct {
		sums
		account, dim string
		point        point
		from, to     int64 // Unix seconds: totals from here on, and before, are in the span
	}
	flush := func() error {
		if run.cnt == 0 {
			return nil
		}
		return f.at(run.point).Merge(run.stats())
	}
	err := s.eachTotal(ctx, f.sel, whole, func(account, dim string, d *total) error {
		d.scale = 0 // the selection has one
		if d.from >= run.from && d.from < run.to && dim == run.dim && account == run.account && run.merge(&d.sums) {
			return nil
		}
		if err := flush(); err != nil {
			return err
		}
		run.cnt, run.to = 0, 0
		n, ok := f.spanAt(time.Unix(d.from, 0))
		if !ok {
			return nil
		}
		run.sums, run.account, run.dim = d.sums, account, dim
		// No bound is inside of what a total covers.
		run.from, run.to = ceil(f.sel.Bounds[n]), ceil(f.sel.Bounds[n+1])
		run.point = point{span: n, group: f.group(dim)}
		if f.byAccount {
			run.point.account = account
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// ceil returns the first Unix second that isn't before a time.
func ceil(t time.Time) int64 {
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	return s
}
