package usagemem

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kolekt/commerce/usage"
)

// reports are an account's.
type reports struct {
	days []*reportDay
	all  []*usage.Report
}

type reportDay struct {
	usage.ReportDay
	done int64
	due  time.Time
}

var _ usage.ReportStore = (*Store)(nil)

// mark says that the event isn't in a report yet.
func (a *account) mark(e usage.Entry) {
	if !e.Report {
		return
	}
	d := a.day(e.Meter, e.Day())
	if d == nil {
		d = &reportDay{ReportDay: usage.ReportDay{Account: a.name, Meter: e.Meter, Day: e.Day()}}
		a.reports.days = append(a.reports.days, d)
	}
	if d.Version == d.done || e.HourEnd().Before(d.due) {
		d.due = e.HourEnd()
	}
	d.Version++
}

func (a *account) day(meter string, day time.Time) *reportDay {
	for _, d := range a.reports.days {
		if d.Meter == meter && d.Day.Equal(day) {
			return d
		}
	}
	return nil
}

// ClaimReportDays implements usage.ReportStore.
func (s *Store) ClaimReportDays(ctx context.Context, due, until time.Time, n int) ([]usage.ReportDay, error) {
	var out []usage.ReportDay
	err := s.each(func(a *account) error {
		for _, d := range a.reports.days {
			if len(out) < n && d.Version != d.done && !d.due.After(due) {
				d.due = until
				out = append(out, d.ReportDay)
			}
		}
		return ctx.Err()
	})
	return out, err
}

// ReportSums implements usage.ReportStore.
func (s *Store) ReportSums(ctx context.Context, name, meter string, from, to time.Time) ([]usage.ReportSum, error) {
	a, unlock := s.lock(name)
	defer unlock()
	var out []usage.ReportSum
	for _, r := range a.reports.all {
		if r.Meter != meter || r.Hour.From.Before(from) || !r.Hour.From.Before(to) {
			continue
		}
		i := slices.IndexFunc(out, func(x usage.ReportSum) bool { return x.From.Equal(r.Hour.From) })
		if i < 0 {
			i = len(out)
			out = append(out, usage.ReportSum{From: r.Hour.From})
		}
		out[i].Reports++
		out[i].Quantity += r.Quantity
		switch r.State {
		case usage.ReportPending:
			out[i].Pending = true
		case usage.ReportDelivered:
			out[i].Delivered += r.Quantity
		case usage.ReportDead:
		}
	}
	slices.SortFunc(out, func(a, b usage.ReportSum) int { return a.From.Compare(b.From) })
	return out, ctx.Err()
}

// pending reports whether a report of the hour is.
func (a *account) pending(meter string, hour time.Time) bool {
	return slices.ContainsFunc(a.reports.all, func(r *usage.Report) bool {
		return r.Meter == meter && r.Hour.From.Equal(hour) && r.State == usage.ReportPending
	})
}

func (a *account) report(meter, id string) *usage.Report {
	for _, r := range a.reports.all {
		if r.Meter == meter && r.ID == id {
			return r
		}
	}
	return nil
}

// CutReports implements usage.ReportStore.
func (s *Store) CutReports(ctx context.Context, d usage.ReportDay, fresh []usage.Report, next time.Time) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	a, unlock := s.lock(d.Account)
	defer unlock()
	day := a.day(d.Meter, d.Day)
	if day == nil {
		return false, nil // erased in the meantime
	}
	for _, r := range fresh {
		if a.report(r.Meter, r.ID) != nil || a.pending(r.Meter, r.Hour.From) {
			return false, nil
		}
	}
	for _, r := range fresh {
		a.reports.all = append(a.reports.all, &r)
	}
	switch {
	case next.IsZero():
		day.done = d.Version
	case day.Version == d.Version || next.Before(day.due):
		day.due = next
	}
	return true, nil
}

// ClaimReport implements usage.ReportStore.
func (s *Store) ClaimReport(ctx context.Context, now, until time.Time) (usage.Report, error) {
	s.claiming.Lock() // two of them would find the same one
	defer s.claiming.Unlock()
	var first usage.Report
	err := s.each(func(a *account) error {
		for _, r := range a.reports.all {
			if r.State == usage.ReportPending && !r.Due.After(now) &&
				(first.ID == "" || cmp.Or(r.Due.Compare(first.Due), cmp.Compare(r.ID, first.ID)) < 0) {
				first = *r
			}
		}
		return ctx.Err()
	})
	if err != nil || first.ID == "" {
		return usage.Report{}, cmp.Or(err, usage.ErrNotFound)
	}
	a, unlock := s.lock(first.Account)
	defer unlock()
	r := a.report(first.Meter, first.ID)
	if r == nil {
		return usage.Report{}, usage.ErrNotFound // erased in the meantime
	}
	r.Tries++
	r.Due = until
	if r.FirstTry.IsZero() {
		r.FirstTry = now
	}
	return *r, nil
}

// SettleReport implements usage.ReportStore.
func (s *Store) SettleReport(ctx context.Context, r usage.Report) error {
	a, unlock := s.lock(r.Account)
	defer unlock()
	if have := a.report(r.Meter, r.ID); have != nil && have.State == usage.ReportPending {
		have.State, have.Reason, have.Tries, have.FirstTry, have.Due = r.State, r.Reason, r.Tries, r.FirstTry, r.Due
	}
	return ctx.Err()
}

// RetryReport implements usage.ReportStore.
func (s *Store) RetryReport(ctx context.Context, name, meter, id string, now time.Time) error {
	a, unlock := s.lock(name)
	defer unlock()
	r := a.report(meter, id)
	if r == nil || r.State != usage.ReportDead || a.pending(meter, r.Hour.From) {
		return usage.ErrNotFound
	}
	r.State, r.Tries, r.FirstTry, r.Due = usage.ReportPending, 0, time.Time{}, now
	return ctx.Err()
}

func matches(f usage.ReportFilter, r *usage.Report) bool {
	return (f.Account == "" || f.Account == r.Account) && (f.Meter == "" || f.Meter == r.Meter) && (f.State == 0 || f.State == r.State)
}

// Reports implements usage.ReportStore.
func (s *Store) Reports(ctx context.Context, f usage.ReportFilter, n int) ([]usage.Report, error) {
	var out []usage.Report
	err := s.each(func(a *account) error {
		for _, r := range a.reports.all {
			if matches(f, r) {
				out = append(out, *r)
			}
		}
		return ctx.Err()
	})
	slices.SortFunc(out, func(a, b usage.Report) int {
		return cmp.Or(b.Hour.From.Compare(a.Hour.From), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Meter, b.Meter), cmp.Compare(b.Seq, a.Seq))
	})
	return out[:min(n, len(out))], err
}

// ReportTotals implements usage.ReportStore.
func (s *Store) ReportTotals(ctx context.Context, f usage.ReportFilter, from, to time.Time, after usage.AccountMeter, n int) ([]usage.ReportTotal, error) {
	totals := map[usage.AccountMeter]*usage.ReportTotal{}
	err := s.each(func(a *account) error {
		for _, r := range a.reports.all {
			k := usage.AccountMeter{Account: r.Account, Meter: r.Meter}
			if !matches(f, r) || r.Hour.From.Before(from) || !r.Hour.From.Before(to) ||
				cmp.Or(cmp.Compare(k.Account, after.Account), cmp.Compare(k.Meter, after.Meter)) <= 0 {
				continue
			}
			if totals[k] == nil {
				totals[k] = &usage.ReportTotal{Account: r.Account, Meter: r.Meter}
			}
			switch r.State {
			case usage.ReportPending:
				totals[k].Pending += r.Quantity
			case usage.ReportDelivered:
				totals[k].Delivered += r.Quantity
			case usage.ReportDead:
				totals[k].Dead += r.Quantity
			}
		}
		return ctx.Err()
	})
	var out []usage.ReportTotal
	for _, x := range totals {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b usage.ReportTotal) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Meter, b.Meter))
	})
	return out[:min(n, len(out))], err
}

// retainReports drops the reports of hours before the horizon that aren't
// pending.
func (a *account) retainReports(horizon time.Time) {
	a.reports.all = slices.DeleteFunc(a.reports.all, func(r *usage.Report) bool {
		return r.Hour.From.Before(horizon) && r.State != usage.ReportPending
	})
	a.reports.days = slices.DeleteFunc(a.reports.days, func(d *reportDay) bool {
		return !d.Day.AddDate(0, 0, 1).After(horizon) && d.Version == d.done
	})
}
