package usage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ReportFunc tells a payment provider that an account has used so many units of
// a meter at an instant; a negative quantity corrects. The provider counts the
// same id once. An error with a method Retryable() bool that answers false, as
// errors.As finds it, is for ever; any other one is tried again with the same
// id, since the provider may or may not have got it.
type ReportFunc func(ctx context.Context, account, meter, id string, quantity int64, at time.Time) error

// ReportedFunc returns what the provider has counted of an account's meter in
// [from, to).
type ReportedFunc func(ctx context.Context, account, meter string, from, to time.Time) (int64, error)

// ReportState is what has become of a report.
type ReportState uint8

// The states of a report.
const (
	ReportPending   ReportState = iota + 1 // to be delivered
	ReportDelivered                        // counted by the provider
	ReportDead                             // given up; see Reason
)

var reportStates = [...]string{"", "pending", "delivered", "dead"}

// String returns the state's name.
func (s ReportState) String() string {
	if int(s) < len(reportStates) {
		return reportStates[s]
	}
	return fmt.Sprint("ReportState(", uint8(s), ")")
}

// MarshalText spells the state by its name.
func (s ReportState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Report is a number of units of one account, meter and hour that the provider
// is told. What comes late for an hour is a further report. At most one of an
// hour is pending at a time.
type Report struct {
	// ID is made of account, meter, hour and Seq: the same for ever.
	ID      string `json:"id"`
	Account string `json:"account"`
	Meter   string `json:"meter"`
	// Hour is an hour in UTC, or the part of one before or after a border of
	// the quota's period, so that it belongs to one period.
	Hour     Period      `json:"hour"`
	Seq      int         `json:"seq"` // counts the reports of an hour from 0
	Quantity int64       `json:"quantity"`
	State    ReportState `json:"state"`
	// Reason is the last error, or why it was given up.
	Reason string    `json:"reason,omitempty"`
	CutAt  time.Time `json:"cut_at"`
	// Tries counts the deliveries that have been begun, the first of them at
	// FirstTry. Due is when the next one may be.
	Tries    int       `json:"tries"`
	FirstTry time.Time `json:"first_try,omitzero"`
	Due      time.Time `json:"due"`
}

// ReportID returns the ID of a report.
func ReportID(account, meter string, hour time.Time, seq int) string {
	key := KeyOf(meter, fmt.Sprint(account, "\x00", hour.UnixMicro(), "\x00", seq))
	return "rep_" + hex.EncodeToString(key[:])
}

// ReportDay is an account's UTC day with events that may not be in reports yet.
type ReportDay struct {
	Account string
	Meter   string
	Day     time.Time
	Version int64 // grows with every commit that has events of the day
}

// ReportSum is what the reports of one hour come to.
type ReportSum struct {
	From      time.Time // of Report.Hour
	Reports   int
	Quantity  int64 // of all
	Delivered int64
	Pending   bool
}

// ReportTotal is what the reports of an account and meter come to.
type ReportTotal struct {
	Account, Meter           string
	Delivered, Pending, Dead int64
}

// ReportFilter chooses reports; what is zero chooses all.
type ReportFilter struct {
	Account string
	Meter   string
	State   ReportState
}

// ReportStore is a Store that keeps reports. Append and Apply mark, in the
// commit that stores an Entry with Report, its account, meter and UTC day: the
// mark's version grows by one or more, and its due time becomes the end of the
// event's hour (HourEnd) if that is earlier than the one it has, or if it was
// done. The conformance suite is usagetest.TestReports, which TestStore runs
// for a store that has these methods.
type ReportStore interface {
	// ClaimReportDays returns at most n days that aren't done and are due, and
	// makes them due at until, so that others leave them.
	ClaimReportDays(ctx context.Context, due, until time.Time, n int) ([]ReportDay, error)
	// ReportSums returns what the reports of hours that begin in [from, to)
	// come to, for each hour that has any, in order.
	ReportSums(ctx context.Context, account, meter string, from, to time.Time) ([]ReportSum, error)
	// CutReports stores reports and what follows for the day, atomically: done
	// as of d.Version if next is zero, else due at next or earlier. It returns
	// false and stores nothing when one of the reports is there, or another one
	// of its hour is pending.
	CutReports(ctx context.Context, d ReportDay, reports []Report, next time.Time) (bool, error)
	// ClaimReport returns the pending report that has been due the longest,
	// counts a try, sets FirstTry if it is zero, and makes it due at until. It
	// returns ErrNotFound when none is due.
	ClaimReport(ctx context.Context, now, until time.Time) (Report, error)
	// SettleReport stores State, Reason, Tries, FirstTry and Due of a claimed
	// report, if it is still pending.
	SettleReport(ctx context.Context, r Report) error
	// RetryReport makes a dead report pending and due, with no tries. It
	// returns ErrNotFound when there is no such dead report, or another one of
	// its hour is pending.
	RetryReport(ctx context.Context, account, meter, id string, now time.Time) error
	// Reports returns reports, the newest hours first, at most n.
	Reports(ctx context.Context, f ReportFilter, n int) ([]Report, error)
	// ReportTotals sums the reports of hours that begin in [from, to), for each
	// account and meter that has any, in order, at most n beyond after.
	ReportTotals(ctx context.Context, f ReportFilter, from, to time.Time, after AccountMeter, n int) ([]ReportTotal, error)
}

// HourEnd returns the end of the event's hour in UTC.
func (e Entry) HourEnd() time.Time { return e.Time.Truncate(time.Hour).Add(time.Hour) }

// Day returns the beginning of the event's day in UTC.
func (e Entry) Day() time.Time { return e.Time.Truncate(24 * time.Hour) }

// ReportConfig has a good default for everything but Report.
type ReportConfig struct {
	// Report tells the provider. Required.
	Report ReportFunc
	// Reported asks the provider, for Reconcile and for reports whose outcome
	// is still unknown when the provider has forgotten their ID. Nil gives such
	// reports up, with that reason.
	Reported ReportedFunc
	// Delay is how long after an hour's end its use is reported: 5 minutes when
	// zero. What comes later is one more report.
	Delay time.Duration
	// MaxAge is how old a report the provider takes, 35 days when zero, and
	// MaxAhead how far in its future, 5 minutes when zero: Stripe's bounds.
	// Older ones are given up, with that reason.
	MaxAge   time.Duration
	MaxAhead time.Duration
	// Remembers is for how long the provider knows an ID again: 24 hours when
	// zero, which is Stripe's.
	Remembers time.Duration
	// Parallel is how many reports are under way at once: 4 when zero.
	Parallel int
	// Timeout bounds one call: 30 seconds when zero.
	Timeout time.Duration
	// Every is how often Run looks for work: one minute when zero.
	Every time.Duration
}

// Reporter tells a payment provider what was used of the meters with Report.
//
// Reports are cut from the stored events: for each hour the difference between
// what the events come to and what reports there are already. That is committed
// before the provider is called, with an ID that stays the same through every
// retry, so that a crash at any point loses nothing and counts nothing twice. A
// late event or a correction makes one more report of its hour. What was
// consumed without an event isn't reported, and what is drawn from grants is.
//
// Several processes may report at once. A Reporter has goroutines only while
// Deliver runs.
type Reporter struct {
	svc   *Service
	store ReportStore
	cfg   ReportConfig
}

// NewReporter checks the configuration. The store of events must be a
// ReportStore, as usagemem and usagepg are.
func (s *Service) NewReporter(cfg ReportConfig) (*Reporter, error) {
	store, ok := s.store.(ReportStore)
	if !ok {
		return nil, fmt.Errorf("%w: %T keeps no reports", ErrUnsupported, s.store)
	}
	if cfg.Report == nil {
		return nil, errors.New("usage: ReportConfig.Report is missing: it tells the provider")
	}
	any := false
	for _, m := range s.meters {
		any = any || m.Report
	}
	if !any {
		return nil, errors.New("usage: no meter has Report: set it for those that the provider shall be told of")
	}
	for name, d := range map[string]time.Duration{
		"Delay": cfg.Delay, "MaxAge": cfg.MaxAge, "MaxAhead": cfg.MaxAhead, "Remembers": cfg.Remembers,
		"Timeout": cfg.Timeout, "Every": cfg.Every, "Parallel": time.Duration(cfg.Parallel),
	} {
		if d < 0 {
			return nil, fmt.Errorf("usage: ReportConfig.%s must not be negative", name)
		}
	}
	setDefault(&cfg.Delay, 5*time.Minute)
	setDefault(&cfg.MaxAge, 35*24*time.Hour)
	setDefault(&cfg.MaxAhead, 5*time.Minute)
	setDefault(&cfg.Remembers, 24*time.Hour)
	setDefault(&cfg.Timeout, 30*time.Second)
	setDefault(&cfg.Every, time.Minute)
	if cfg.Parallel == 0 {
		cfg.Parallel = 4
	}
	return &Reporter{svc: s, store: store, cfg: cfg}, nil
}

// Run calls Deliver until the context ends, whose error it returns. What fails
// is logged and tried again.
func (r *Reporter) Run(ctx context.Context) error {
	ticks := time.NewTicker(r.cfg.Every)
	defer ticks.Stop()
	for {
		pass, err := r.Deliver(ctx)
		if ctx.Err() == nil && (err != nil || pass.Dead > 0) {
			r.svc.cfg.Logger.ErrorContext(ctx, "usage: reports", "dead", pass.Dead, "failed", pass.Failed, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
	}
}

// Reports returns reports, the newest hours first, at most n: with State
// ReportDead, the dead letters.
func (r *Reporter) Reports(ctx context.Context, f ReportFilter, n int) ([]Report, error) {
	return r.store.Reports(ctx, f, n)
}

// Retry makes a dead report due again, with its ID: once the customer exists,
// for example. It returns ErrNotFound when there is no such dead report, or
// another one of its hour is pending.
func (r *Reporter) Retry(ctx context.Context, dead Report) error {
	return r.store.RetryReport(ctx, dead.Account, dead.Meter, dead.ID, r.svc.now())
}

// Drift is what is known of an account's meter in a period, here and there.
type Drift struct {
	Account string `json:"account"`
	Meter   string `json:"meter"`
	Period  Period `json:"period"`
	// Events is what the stored events come to. Delivered, Pending and Dead are
	// what reports say; the difference is still to be cut.
	Events    int64 `json:"events"`
	Delivered int64 `json:"delivered"`
	Pending   int64 `json:"pending"`
	Dead      int64 `json:"dead"`
	// Provider is what the provider has counted.
	Provider int64 `json:"provider"`
}

// Unreported returns what events have come to that is in no report.
func (d Drift) Unreported() int64 { return d.Events - d.Delivered - d.Pending - d.Dead }

// Agrees reports whether the provider has counted what was delivered, or that
// and what is under way; and whether nothing was given up.
func (d Drift) Agrees() bool {
	return d.Dead == 0 && (d.Provider == d.Delivered || d.Provider == d.Delivered+d.Pending)
}

// Reconciliation is the outcome of Reconcile.
type Reconciliation struct {
	Checked int     `json:"checked"` // accounts and meters
	Drifts  []Drift `json:"drifts"`  // those that don't agree
}

// Reconcile compares what was reported of the hours that begin in [from, to)
// with what the provider has counted, for every account and meter that has
// reports, and returns those that don't agree.
func (r *Reporter) Reconcile(ctx context.Context, from, to time.Time) (Reconciliation, error) {
	var out Reconciliation
	var after AccountMeter
	for {
		totals, err := r.store.ReportTotals(ctx, ReportFilter{}, from.UTC(), to.UTC(), after, pageSize)
		if err != nil {
			return out, err
		}
		for _, total := range totals {
			d, err := r.drift(ctx, total, Period{from.UTC(), to.UTC()})
			if err != nil {
				return out, err
			}
			out.Checked++
			if !d.Agrees() {
				out.Drifts = append(out.Drifts, d)
			}
			after = AccountMeter{total.Account, total.Meter}
		}
		if len(totals) < pageSize {
			return out, nil
		}
	}
}

// ReconcileAccount compares one account's period of one meter.
func (r *Reporter) ReconcileAccount(ctx context.Context, account, meter string, p Period) (Drift, error) {
	if _, err := r.svc.Meter(meter); err != nil {
		return Drift{}, err
	}
	totals, err := r.store.ReportTotals(ctx, ReportFilter{Account: account, Meter: meter}, p.From.UTC(), p.To.UTC(), AccountMeter{}, 1)
	if err != nil {
		return Drift{}, err
	}
	total := ReportTotal{Account: account, Meter: meter}
	if len(totals) > 0 {
		total = totals[0]
	}
	return r.drift(ctx, total, Period{p.From.UTC(), p.To.UTC()})
}

func (r *Reporter) drift(ctx context.Context, total ReportTotal, p Period) (Drift, error) {
	d := Drift{
		Account: total.Account, Meter: total.Meter, Period: p,
		Delivered: total.Delivered, Pending: total.Pending, Dead: total.Dead,
	}
	if r.cfg.Reported == nil {
		return d, fmt.Errorf("%w: set ReportConfig.Reported: it asks the provider", ErrUnsupported)
	}
	sums, err := r.sums(ctx, total.Account, total.Meter, []time.Time{p.From, p.To})
	if err != nil {
		return d, err
	}
	d.Events = sums[0].Sum
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	if d.Provider, err = r.cfg.Reported(ctx, total.Account, total.Meter, p.From, p.To); err != nil {
		return d, fmt.Errorf("usage: what the provider has counted of meter %q: %w", total.Meter, err)
	}
	return d, nil
}

// sums returns what the events of each span come to.
func (r *Reporter) sums(ctx context.Context, account, meter string, bounds []time.Time) ([]Stats, error) {
	out := make([]Stats, len(bounds)-1)
	points, err := r.svc.store.Aggregate(ctx, r.svc.selection(Query{Account: account}, Meter{Name: meter}, Measure{}, bounds))
	for _, p := range points {
		out[p.Span] = p.Stats
	}
	return out, err
}
