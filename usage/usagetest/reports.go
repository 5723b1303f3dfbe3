package usagetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
)

// TestReports runs the part of the contract that is about telling a payment
// provider. newStore returns an empty store that has the methods of
// usage.ReportStore.
func TestReports(t *testing.T, newStore func(t *testing.T) usage.Store) {
	run := func(name string, f func(t *testing.T, k *reportKit)) {
		t.Run(name, func(t *testing.T) { f(t, newReportKit(t, newStore(t))) })
	}
	run("TheProviderIsToldWhatEventsComeTo", reportsTell)
	run("LateEventsAndCorrectionsAreFurtherReports", lateReports)
	run("AnHourIsSplitAtThePeriodsBorder", reportBorders)
	run("ALostAnswerCountsOnce", lostAnswers)
	run("WhatIsRefusedForEverIsDeadUntilRetried", deadReports)
	run("WhatIsTooOldIsDead", tooOldReports)
	run("AnOutageIsCaughtUpWith", reportOutage)
	run("AnOutcomeThatTheProviderHasForgottenIsResolved", forgottenReports)
	run("ManyReportersAreAsOne", racingReporters)
	run("ReconcileFindsDrift", reconcile)
	run("ReportsAreExportedAndErased", reportsErased)
}

// Provider is a payment provider that counts each ID once for a day and takes
// nothing older than 35 days, as Stripe does. What it does beyond that is up to
// Fault.
type Provider struct {
	// Now is its clock.
	Now func() time.Time
	// Fault, if set, says what happens to a call: an error before it is
	// counted, and one after.
	Fault func(account, id string) (before, after error)

	mu    sync.Mutex
	ids   map[string]time.Time
	calls int
	rows  []providerRow
}

type providerRow struct {
	account, meter string
	quantity       int64
	at             time.Time
}

// PermanentError is an error that another try doesn't help.
type PermanentError string

func (p PermanentError) Error() string { return string(p) }

// Retryable is what usage.ReportFunc looks for.
func (p PermanentError) Retryable() bool { return false }

// Report is a usage.ReportFunc.
func (p *Provider) Report(_ context.Context, account, meter, id string, quantity int64, at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	var before, after error
	if p.Fault != nil {
		before, after = p.Fault(account, id)
	}
	now := p.Now()
	switch {
	case before != nil:
		return before
	case at.Before(now.AddDate(0, 0, -35)), at.After(now.Add(5 * time.Minute)):
		return PermanentError("the timestamp is out of range")
	}
	if seen, known := p.ids[id]; known && now.Sub(seen) < 24*time.Hour {
		return after
	}
	if p.ids == nil {
		p.ids = map[string]time.Time{}
	}
	p.ids[id] = now
	p.rows = append(p.rows, providerRow{account, meter, quantity, at})
	return after
}

// Reported is a usage.ReportedFunc.
func (p *Provider) Reported(_ context.Context, account, meter string, from, to time.Time) (n int64, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.rows {
		if r.account == account && r.meter == meter && !r.at.Before(from) && r.at.Before(to) {
			n += r.quantity
		}
	}
	return n, nil
}

// told returns what it has counted, in order of time.
func (p *Provider) told() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rows := slices.Clone(p.rows)
	slices.SortStableFunc(rows, func(a, b providerRow) int { return a.at.Compare(b.at) })
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s %s %s %d", r.account, r.meter, r.at.Format("02 15:04"), r.quantity))
	}
	return out
}

type reportKit struct {
	kit
	store    usage.Store
	provider *Provider
	reporter *usage.Reporter
	quota    usage.Quota
}

func newReportKit(t testing.TB, s usage.Store) *reportKit {
	t.Helper()
	clock := &fakeClock{t: start}
	k := &reportKit{store: s, provider: &Provider{Now: clock.Now}, quota: usage.Calendar(usage.Unlimited)}
	svc, err := usage.New(s, usage.Config{
		Meters: []usage.Meter{
			{Name: "credits", Aggregation: usage.Sum, Quota: true, Report: true},
			{Name: "kolekts", Report: true},
			{Name: "private", Aggregation: usage.Sum},
		},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return k.quota, nil },
		MaxAge: -1,
		Now:    clock.Now,
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	k.kit = kit{ctx: t.Context(), svc: svc, now: clock}
	k.reporter = k.with(t, usage.ReportConfig{Reported: k.provider.Reported})
	return k
}

func (k *reportKit) with(t testing.TB, cfg usage.ReportConfig) *usage.Reporter {
	t.Helper()
	cfg.Report = k.provider.Report
	r, err := k.svc.NewReporter(cfg)
	require.NoError(t, err)
	return r
}

func (k *reportKit) record(t testing.TB, account string, v int64, ago time.Duration) {
	t.Helper()
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: account, Meter: "credits", Value: v, Time: k.now.Now().Add(-ago)}))
}

func (k *reportKit) deliver(t testing.TB) usage.ReportPass {
	t.Helper()
	pass, err := k.reporter.Deliver(k.ctx)
	require.NoError(t, err)
	return pass
}

// exact asserts that the provider has counted what the events come to, and that
// each unit is in one report.
func (k *reportKit) exact(t testing.TB, accounts ...string) {
	t.Helper()
	for _, account := range accounts {
		d, err := k.reporter.ReconcileAccount(k.ctx, account, "credits", usage.Period{From: start.AddDate(-1, 0, 0), To: start.AddDate(1, 0, 0)})
		require.NoError(t, err)
		require.Equal(t, d.Events, d.Provider, account)
		require.Equal(t, d.Events, d.Delivered, account)
		require.Zero(t, d.Unreported())
		require.True(t, d.Agrees())
	}
}

func reportsTell(t *testing.T, k *reportKit) {
	k.record(t, "a", 3, 0)
	k.record(t, "a", 4, 90*time.Minute)
	k.record(t, "b", 5, 26*time.Hour)
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "a", Meter: "private", Value: 1}))
	d, err := k.svc.Consume(k.ctx, usage.Request{Account: "a", Meter: "kolekts", Key: "k", Record: true})
	require.NoError(t, err)
	require.True(t, d.Allowed)
	_, err = k.svc.Consume(k.ctx, usage.Request{Account: "a", Meter: "kolekts"})
	require.NoError(t, err)
	require.Equal(t, usage.ReportPass{Cut: 2, Delivered: 2}, k.deliver(t))
	require.Equal(t, []string{"b credits 09 10:00 5", "a credits 10 10:00 4"}, k.provider.told(), "an hour that runs waits")
	k.now.Add(time.Hour + 5*time.Minute - time.Microsecond)
	require.Zero(t, k.deliver(t))
	k.now.Add(time.Microsecond)
	require.Equal(t, usage.ReportPass{Cut: 2, Delivered: 2}, k.deliver(t))
	require.ElementsMatch(t, []string{
		"b credits 09 10:00 5", "a credits 10 10:00 4", "a credits 10 12:00 3", "a kolekts 10 12:00 1",
	}, k.provider.told())
	require.Zero(t, k.deliver(t), "nothing is told twice")
	k.exact(t, "a", "b")
	reports, err := k.reporter.Reports(k.ctx, usage.ReportFilter{Account: "a", Meter: "credits"}, 10)
	require.NoError(t, err)
	require.Len(t, reports, 2)
	hour := start.Truncate(time.Hour)
	require.Equal(t, usage.Report{
		ID: usage.ReportID("a", "credits", hour, 0), Account: "a", Meter: "credits", Hour: usage.Period{From: hour, To: hour.Add(time.Hour)},
		Quantity: 3, State: usage.ReportDelivered, CutAt: k.now.Now(), Tries: 1, FirstTry: k.now.Now(), Due: reports[0].Due,
	}, reports[0])
}

func lateReports(t *testing.T, k *reportKit) {
	k.record(t, "a", 3, 3*time.Hour)
	k.deliver(t)
	for _, v := range []int64{4, -2} {
		k.record(t, "a", v, 3*time.Hour)
		require.Equal(t, usage.ReportPass{Cut: 1, Delivered: 1}, k.deliver(t))
	}
	k.record(t, "a", 1, 3*time.Hour)
	k.record(t, "a", -1, 3*time.Hour)
	require.Zero(t, k.deliver(t), "which come to nothing")
	require.Equal(t, []string{"a credits 10 09:00 3", "a credits 10 09:00 4", "a credits 10 09:00 -2"}, k.provider.told())
	k.exact(t, "a")
}

func reportBorders(t *testing.T, k *reportKit) {
	k.quota.Anchor = start.AddDate(0, -1, 0).Add(-90 * time.Minute) // the 10th, 10:30
	k.record(t, "a", 3, 2*time.Hour)                                // 10:00
	k.record(t, "a", 4, 80*time.Minute)                             // 10:40
	require.Equal(t, usage.ReportPass{Cut: 2, Delivered: 2}, k.deliver(t))
	require.Equal(t, []string{"a credits 10 10:00 3", "a credits 10 10:30 4"}, k.provider.told())
	// The border moves: what was told of the old part is put right.
	k.quota.Anchor = k.quota.Anchor.AddDate(0, 0, 1)
	k.record(t, "a", 1, 2*time.Hour)
	k.deliver(t)
	require.Equal(t, []string{"a credits 10 10:00 3", "a credits 10 10:00 5", "a credits 10 10:30 4", "a credits 10 10:30 -4"}, k.provider.told())
	k.exact(t, "a")
}

func lostAnswers(t *testing.T, k *reportKit) {
	n := 0
	k.provider.Fault = func(string, string) (error, error) {
		switch n++; n % 3 {
		case 0:
			return errors.New("connection refused"), nil
		case 1:
			return nil, errors.New("connection reset")
		}
		return nil, nil
	}
	for i := range 20 {
		k.record(t, fmt.Sprint("a", i%3), int64(i), time.Duration(1+i)*time.Hour)
	}
	pass := k.deliver(t)
	require.Equal(t, 20-1, pass.Cut, "a report of nothing is none")
	for range 20 {
		k.now.Add(time.Hour)
		k.deliver(t)
	}
	k.exact(t, "a0", "a1", "a2")
	k.provider.Fault = nil
	require.Zero(t, k.deliver(t))
}

func deadReports(t *testing.T, k *reportKit) {
	k.provider.Fault = func(account, _ string) (error, error) {
		if account == "stranger" {
			return fmt.Errorf("report: %w", PermanentError("no such customer")), nil
		}
		return nil, nil
	}
	k.record(t, "stranger", 3, 2*time.Hour)
	k.record(t, "known", 4, 2*time.Hour)
	require.Equal(t, usage.ReportPass{Cut: 2, Delivered: 1, Dead: 1}, k.deliver(t))
	dead, err := k.reporter.Reports(k.ctx, usage.ReportFilter{State: usage.ReportDead}, 10)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Contains(t, dead[0].Reason, "no such customer")
	rec, err := k.reporter.Reconcile(k.ctx, start.AddDate(0, 0, -1), start.AddDate(0, 0, 1))
	require.NoError(t, err)
	require.Equal(t, 2, rec.Checked)
	require.Len(t, rec.Drifts, 1)
	require.EqualValues(t, 3, rec.Drifts[0].Dead)
	// What comes later isn't mixed up with it.
	k.provider.Fault = nil
	k.record(t, "stranger", 2, 2*time.Hour)
	require.Equal(t, usage.ReportPass{Cut: 1, Delivered: 1}, k.deliver(t))
	require.NoError(t, k.reporter.Retry(k.ctx, dead[0]))
	require.ErrorIs(t, k.reporter.Retry(k.ctx, dead[0]), usage.ErrNotFound, "it isn't dead any more")
	require.Equal(t, usage.ReportPass{Delivered: 1}, k.deliver(t))
	require.ErrorIs(t, k.reporter.Retry(k.ctx, dead[0]), usage.ErrNotFound)
	k.exact(t, "stranger", "known")
}

func tooOldReports(t *testing.T, k *reportKit) {
	k.record(t, "a", 3, 36*24*time.Hour)
	k.record(t, "a", 4, 34*24*time.Hour)
	k.provider.Fault = func(string, string) (error, error) { return errors.New("down"), nil }
	require.Equal(t, usage.ReportPass{Cut: 2, Dead: 1, Failed: 1}, k.deliver(t))
	k.now.Add(2 * 24 * time.Hour)
	require.Equal(t, usage.ReportPass{Dead: 1}, k.deliver(t))
	dead, err := k.reporter.Reports(k.ctx, usage.ReportFilter{State: usage.ReportDead}, 10)
	require.NoError(t, err)
	require.Len(t, dead, 2)
	for _, r := range dead {
		require.Contains(t, r.Reason, "older than the 35 days")
	}
	d, err := k.reporter.ReconcileAccount(k.ctx, "a", "credits", usage.Period{From: start.AddDate(0, -2, 0), To: start})
	require.NoError(t, err)
	require.EqualValues(t, 7, d.Dead)
	require.Zero(t, d.Unreported())
	require.False(t, d.Agrees())
}

func reportOutage(t *testing.T, k *reportKit) {
	k.provider.Fault = func(string, string) (error, error) { return errors.New("down"), nil }
	const days = 33
	for range days {
		for i := range 3 {
			k.record(t, fmt.Sprint("a", i), int64(1+i), 0)
		}
		k.now.Add(24 * time.Hour)
		k.deliver(t)
	}
	require.Less(t, k.provider.calls, days*20, "an outage leaves the others untried")
	require.Empty(t, k.provider.told())
	k.provider.Fault = nil
	for range 3 {
		k.now.Add(time.Hour) // what has been tried waits a while
		k.deliver(t)
	}
	k.exact(t, "a0", "a1", "a2")
	require.Len(t, k.provider.told(), 3*days)
}

func forgottenReports(t *testing.T, k *reportKit) {
	k.provider.Fault = func(account, _ string) (error, error) {
		switch account {
		case "arrived", "blind", "mixed":
			return nil, errors.New("connection reset")
		}
		return errors.New("connection refused"), nil
	}
	for _, account := range []string{"arrived", "never", "mixed"} {
		k.record(t, account, 3, 2*time.Hour)
	}
	require.Equal(t, usage.ReportPass{Cut: 3, Failed: 3}, k.deliver(t))
	k.provider.rows = append(k.provider.rows, providerRow{"mixed", "credits", 9, start.Add(-2 * time.Hour)})
	k.now.Add(25 * time.Hour)
	k.provider.Fault = nil
	require.Equal(t, usage.ReportPass{Delivered: 2, Dead: 1}, k.deliver(t))
	k.exact(t, "arrived", "never")
	dead, err := k.reporter.Reports(k.ctx, usage.ReportFilter{Account: "mixed", State: usage.ReportDead}, 10)
	require.NoError(t, err)
	require.Contains(t, dead[0].Reason, "has counted 12 of the hour")
	// Without a way to ask.
	k.provider.Fault = func(string, string) (error, error) { return nil, errors.New("connection reset") }
	k.reporter = k.with(t, usage.ReportConfig{})
	k.record(t, "blind", 3, 2*time.Hour)
	require.Equal(t, usage.ReportPass{Cut: 1, Failed: 1}, k.deliver(t))
	k.now.Add(25 * time.Hour)
	require.Equal(t, usage.ReportPass{Dead: 1}, k.deliver(t))
	_, err = k.reporter.ReconcileAccount(k.ctx, "blind", "credits", march)
	require.ErrorIs(t, err, usage.ErrUnsupported)
}

func racingReporters(t *testing.T, k *reportKit) {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(7, 8))
	k.provider.Fault = func(string, string) (error, error) {
		mu.Lock()
		defer mu.Unlock()
		switch r.IntN(10) {
		case 0:
			return errors.New("refused"), nil
		case 1:
			return nil, errors.New("reset")
		}
		return nil, nil
	}
	ctx := t.Context()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		mine := rand.New(rand.NewPCG(9, uint64(w)))
		reporter := k.with(t, usage.ReportConfig{Parallel: 2})
		wg.Go(func() {
			for i := range 30 {
				var err error
				if w < 4 {
					err = k.svc.Record(ctx, usage.Event{
						Account: fmt.Sprint("a", mine.IntN(3)), Meter: "credits", Value: int64(1 + mine.IntN(9)),
						Time: start.Add(-time.Duration(1+mine.IntN(5)) * time.Hour),
					})
				} else if i%3 == 0 {
					_, err = reporter.Deliver(ctx)
				}
				errs[w] = errors.Join(errs[w], err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for range 20 {
		k.now.Add(time.Hour)
		k.deliver(t)
	}
	k.exact(t, "a0", "a1", "a2")
}

func reconcile(t *testing.T, k *reportKit) {
	for i := range 5 {
		k.record(t, fmt.Sprint("a", i), 3, 2*time.Hour)
	}
	k.deliver(t)
	day := usage.Period{From: start.AddDate(0, 0, -1), To: start.AddDate(0, 0, 1)}
	rec, err := k.reporter.Reconcile(k.ctx, day.From, day.To)
	require.NoError(t, err)
	require.Equal(t, usage.Reconciliation{Checked: 5}, rec)
	// The control: the provider loses one and counts another twice.
	k.provider.rows = slices.DeleteFunc(k.provider.rows, func(r providerRow) bool { return r.account == "a1" })
	k.provider.rows = append(k.provider.rows, providerRow{"a3", "credits", 3, start.Add(-time.Hour)})
	rec, err = k.reporter.Reconcile(k.ctx, day.From, day.To)
	require.NoError(t, err)
	require.Equal(t, usage.Reconciliation{Checked: 5, Drifts: []usage.Drift{
		{Account: "a1", Meter: "credits", Period: day, Events: 3, Delivered: 3},
		{Account: "a3", Meter: "credits", Period: day, Events: 3, Delivered: 3, Provider: 6},
	}}, rec)
	rec, err = k.reporter.Reconcile(k.ctx, start, day.To)
	require.NoError(t, err)
	require.Zero(t, rec.Checked, "no report of these hours")
	// What runs is under way or still to be cut, and no drift.
	k.record(t, "a0", 2, 0)
	d, err := k.reporter.ReconcileAccount(k.ctx, "a0", "credits", day)
	require.NoError(t, err)
	require.EqualValues(t, 2, d.Unreported())
	require.True(t, d.Agrees())
}

func reportsErased(t *testing.T, k *reportKit) {
	for _, account := range []string{"gone", "stays"} {
		k.record(t, account, 3, 2*time.Hour)
		k.record(t, account, 4, 0)
	}
	k.deliver(t)
	reports := 0
	require.NoError(t, k.svc.ExportSubject(k.ctx, "gone", func(record string, fields map[string]any) error {
		if record == "report" {
			reports++
			require.EqualValues(t, 3, fields["quantity"])
		}
		return nil
	}))
	require.Equal(t, 1, reports)
	erased, err := k.svc.EraseSubject(k.ctx, "gone")
	require.NoError(t, err)
	require.EqualValues(t, 1, erased["report"])
	k.now.Add(2 * time.Hour)
	require.Equal(t, usage.ReportPass{Cut: 1, Delivered: 1}, k.deliver(t))
	left, err := k.reporter.Reports(k.ctx, usage.ReportFilter{}, 10)
	require.NoError(t, err)
	require.Len(t, left, 2)
	for _, r := range left {
		require.Equal(t, "stays", r.Account)
	}
	k.exact(t, "stays")
}
