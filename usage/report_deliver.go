package usage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ReportPass is what a call of Deliver has done.
type ReportPass struct {
	Cut       int `json:"cut"` // reports made of events
	Delivered int `json:"delivered"`
	Failed    int `json:"failed"` // to be tried again
	Dead      int `json:"dead"`   // given up: look at their Reason
}

// Deliver cuts reports of what has been stored since the last time, and
// delivers those that are due. While the provider is out of reach it gives up
// for now after a few failures, so that an outage leaves the others untried.
// When the context ends in between, its error is Deliver's.
func (r *Reporter) Deliver(ctx context.Context) (ReportPass, error) {
	var pass ReportPass
	err := r.cutAll(ctx, &pass)
	err = errors.Join(err, r.deliverAll(ctx, &pass))
	if ctx.Err() != nil {
		return pass, ctx.Err()
	}
	return pass, err
}

const daysAtOnce = 100

// lease is how long others leave a day or a report alone.
func (r *Reporter) lease() time.Duration { return 2 * r.cfg.Timeout }

func (r *Reporter) cutAll(ctx context.Context, pass *ReportPass) error {
	var failed []error
	for {
		cutoff := r.svc.now().Add(-r.cfg.Delay)
		days, err := r.store.ClaimReportDays(ctx, cutoff, cutoff.Add(r.lease()), daysAtOnce)
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, d := range days {
			n, err := r.cut(ctx, d, cutoff)
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				failed = append(failed, err) // due again when the claim ends
			}
			pass.Cut += n
		}
		if len(days) < daysAtOnce {
			return errors.Join(failed...)
		}
	}
}

// cut makes reports of what a day's hours that have ended by the cutoff come to
// beyond the reports that they have.
func (r *Reporter) cut(ctx context.Context, d ReportDay, cutoff time.Time) (int, error) {
	if m := r.svc.meters[d.Meter]; !m.Report {
		_, err := r.store.CutReports(ctx, d, nil, time.Time{})
		return 0, err
	}
	borders, err := r.borders(ctx, d)
	if err != nil {
		return 0, err
	}
	// The sums are read after d.Version: they have all that it stands for.
	stats, err := r.sums(ctx, d.Account, d.Meter, borders)
	if err != nil {
		return 0, err
	}
	sums, err := r.store.ReportSums(ctx, d.Account, d.Meter, d.Day, d.Day.AddDate(0, 0, 1))
	if err != nil {
		return 0, err
	}
	var reports []Report
	var next time.Time // when the rest of the day is to be looked at
	later := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	report := func(hour Period, total int64) {
		i := slices.IndexFunc(sums, func(s ReportSum) bool { return s.From.Equal(hour.From) })
		have := ReportSum{}
		if i >= 0 {
			have = sums[i]
		}
		switch {
		case total == have.Quantity:
		case have.Pending:
			later(cutoff.Add(r.cfg.Every))
		default:
			reports = append(reports, Report{
				ID:      ReportID(d.Account, d.Meter, hour.From, have.Reports),
				Account: d.Account, Meter: d.Meter, Hour: hour, Seq: have.Reports, Quantity: total - have.Quantity,
				State: ReportPending, CutAt: r.svc.now(), Due: r.svc.now(),
			})
		}
	}
	for i, s := range stats {
		hour := Period{borders[i], borders[i+1]}
		switch {
		case !hour.To.After(cutoff):
			report(hour, s.Sum)
		case s.Count > 0:
			later(hour.To)
		}
	}
	// Hours that were drawn otherwise when they were reported: the quota's
	// period has another border since.
	for _, s := range sums {
		if !slices.ContainsFunc(borders, s.From.Equal) {
			report(Period{s.From, s.From.Truncate(time.Hour).Add(time.Hour)}, 0)
		}
	}
	stored, err := r.store.CutReports(ctx, d, reports, next)
	if err != nil || !stored {
		return 0, err // somebody else has been faster: they have the day's mark now
	}
	return len(reports), nil
}

// borders returns the borders of a day's hours and of the quota's periods in it.
func (r *Reporter) borders(ctx context.Context, d ReportDay) ([]time.Time, error) {
	var out []time.Time
	for h := range 25 {
		out = append(out, d.Day.Add(time.Duration(h)*time.Hour))
	}
	if r.svc.cfg.Quota == nil {
		return out, nil
	}
	q, err := r.svc.quota(ctx, d.Account, d.Meter)
	if errors.Is(err, ErrNoQuota) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	end := out[24]
	for t := q.PeriodAt(d.Day).To; t.Before(end); t = q.PeriodAt(t).To {
		out = append(out, t)
	}
	slices.SortFunc(out, time.Time.Compare)
	return slices.CompactFunc(out, time.Time.Equal), nil
}

// deliverAll delivers due reports in a few goroutines, until there are none or
// too many have failed in a row.
func (r *Reporter) deliverAll(ctx context.Context, pass *ReportPass) error {
	var row atomic.Int64 // failures since the last success
	var mu sync.Mutex
	var failed []error
	var wg sync.WaitGroup
	for range r.cfg.Parallel {
		wg.Go(func() {
			for ctx.Err() == nil && row.Load() < int64(2*r.cfg.Parallel) {
				now := r.svc.now()
				// One at a time: nobody is kept from what isn't under way.
				rep, err := r.store.ClaimReport(ctx, now, now.Add(r.lease()))
				if errors.Is(err, ErrNotFound) {
					return
				}
				if err == nil {
					err = r.deliver(ctx, &rep)
				}
				mu.Lock()
				switch {
				case err != nil:
					failed = append(failed, err)
					row.Store(int64(2 * r.cfg.Parallel)) // the store itself
				case rep.State == ReportDelivered:
					pass.Delivered++
					row.Store(0)
				case rep.State == ReportDead:
					pass.Dead++
				case rep.Reason != "":
					pass.Failed++
					row.Add(1)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// deliver sends a claimed report, unless that can't or mustn't be, and stores
// what has become of it. Its error is the store's.
func (r *Reporter) deliver(ctx context.Context, rep *Report) error {
	now := r.svc.now()
	at := rep.Hour.From
	rep.Reason = ""
	switch {
	case at.Before(now.Add(-r.cfg.MaxAge)):
		rep.State = ReportDead
		rep.Reason = fmt.Sprintf("older than the %s that the provider takes", days(r.cfg.MaxAge))
	case at.After(now.Add(r.cfg.MaxAhead)):
		rep.Due, rep.Tries, rep.FirstTry = at.Add(-r.cfg.MaxAhead), 0, time.Time{}
	default:
		err := r.resolve(ctx, rep, now)
		if err == nil && rep.State == ReportPending {
			err = r.send(ctx, rep)
		}
		if err != nil {
			if ctx.Err() != nil {
				rep.Reason = "interrupted"
				return nil // tried again when the claim ends
			}
			rep.Due = now.Add(backoff(rep.Tries))
			rep.Reason = brief(err)
			var p interface{ Retryable() bool }
			if errors.As(err, &p) && !p.Retryable() {
				rep.State = ReportDead
			}
		}
	}
	// Also when the context ends now: what is known isn't to be asked again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Timeout)
	defer cancel()
	return r.store.SettleReport(ctx, *rep)
}

func (r *Reporter) send(ctx context.Context, rep *Report) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	err := r.cfg.Report(ctx, rep.Account, rep.Meter, rep.ID, rep.Quantity, rep.Hour.From)
	if err == nil {
		rep.State = ReportDelivered
	}
	return err
}

// resolve finds out about a report whose outcome is unknown when the provider
// no longer knows its ID again: sending it might count it twice.
func (r *Reporter) resolve(ctx context.Context, rep *Report, now time.Time) error {
	if rep.Tries < 2 || now.Sub(rep.FirstTry) < r.cfg.Remembers {
		return nil
	}
	if r.cfg.Reported == nil {
		rep.State = ReportDead
		rep.Reason = fmt.Sprintf("its outcome is unknown since %s, and the provider has forgotten its ID: compare, then Retry it or leave it",
			rep.FirstTry.Format(time.RFC3339))
		return nil
	}
	sums, err := r.store.ReportSums(ctx, rep.Account, rep.Meter, rep.Hour.From, rep.Hour.From.Add(time.Microsecond))
	if err != nil {
		return err
	}
	var delivered int64
	for _, s := range sums {
		delivered += s.Delivered
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	counted, err := r.cfg.Reported(ctx, rep.Account, rep.Meter, rep.Hour.From, rep.Hour.To)
	if err != nil {
		return err
	}
	switch counted {
	case delivered + rep.Quantity:
		rep.State = ReportDelivered
	case delivered:
		rep.FirstTry = now // it never arrived
	default:
		rep.State = ReportDead
		rep.Reason = fmt.Sprintf("the provider has counted %d of the hour, which is neither the %d delivered nor %d with this one",
			counted, delivered, delivered+rep.Quantity)
	}
	return nil
}

// backoff is how long a report waits after so many tries.
func backoff(tries int) time.Duration {
	return min(time.Minute<<min(max(tries-1, 0), 10), time.Hour)
}

// brief keeps of an error what is worth storing.
func brief(err error) string {
	text := []rune(err.Error())
	text = slices.DeleteFunc(text, func(c rune) bool { return c == 0 })
	return string(text[:min(len(text), 500)])
}

func days(d time.Duration) string { return fmt.Sprintf("%d days", d/(24*time.Hour)) }
