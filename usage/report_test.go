package usage_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

func never(context.Context, string, string, string, int64, time.Time) error { return nil }

// noReports is a store that keeps none.
type noReports struct{ usage.Store }

func TestNewReporterSaysWhatIsWrong(t *testing.T) {
	svc := func(store usage.Store, report bool) *usage.Service {
		s, err := usage.New(store, usage.Config{Meters: []usage.Meter{{Name: "m", Report: report}}})
		require.NoError(t, err)
		return s
	}
	good := svc(usagemem.New(), true)
	_, err := svc(noReports{usagemem.New()}, true).NewReporter(usage.ReportConfig{Report: never})
	require.ErrorIs(t, err, usage.ErrUnsupported)
	_, err = good.NewReporter(usage.ReportConfig{})
	require.ErrorContains(t, err, "ReportConfig.Report")
	_, err = svc(usagemem.New(), false).NewReporter(usage.ReportConfig{Report: never})
	require.ErrorContains(t, err, "no meter has Report")
	for name, cfg := range map[string]usage.ReportConfig{
		"Delay": {Delay: -1}, "MaxAge": {MaxAge: -1}, "MaxAhead": {MaxAhead: -1}, "Remembers": {Remembers: -1},
		"Timeout": {Timeout: -1}, "Every": {Every: -1}, "Parallel": {Parallel: -1},
	} {
		cfg.Report = never
		_, err = good.NewReporter(cfg)
		require.ErrorContains(t, err, name)
	}
	_, err = usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "m", Aggregation: usage.Max, Report: true}}})
	require.ErrorContains(t, err, "count or sum")
	r, err := good.NewReporter(usage.ReportConfig{Report: never})
	require.NoError(t, err)
	_, err = r.ReconcileAccount(t.Context(), "a", "none", usage.Period{})
	require.ErrorIs(t, err, usage.ErrUnknownMeter)
}

// An hour's use is told five minutes after the hour, whoever fails meanwhile,
// and Run leaves no goroutine behind.
func TestReporterRuns(t *testing.T) {
	defer goleak.VerifyNone(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.Sleep(20 * time.Minute) // twenty past
		svc, err := usage.New(usagemem.New(), usage.Config{
			Meters: []usage.Meter{{Name: "m", Report: true}}, Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		var told []time.Time
		fails := 2
		report := func(_ context.Context, _, _, _ string, quantity int64, _ time.Time) error {
			if fails--; fails >= 0 {
				return errors.New("down")
			}
			require.EqualValues(t, 2, quantity)
			told = append(told, time.Now().UTC())
			return nil
		}
		r, err := svc.NewReporter(usage.ReportConfig{Report: report})
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "m"}))
		}
		hour := time.Now().UTC().Truncate(time.Hour)
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(2 * time.Hour)
		// Refused at five past, a minute later, and two minutes after that.
		require.Equal(t, []time.Time{hour.Add(68 * time.Minute)}, told)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

// A call that the context ends is tried again with the same ID, since nobody
// knows what has become of it.
func TestAnInterruptedReportIsTriedAgain(t *testing.T) {
	defer goleak.VerifyNone(t)
	clock := &movable{t: at("2026-03-10T12:00:00Z")}
	svc, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "m", Report: true}}, Now: clock.now})
	require.NoError(t, err)
	require.NoError(t, svc.Record(t.Context(), usage.Event{Account: "a", Meter: "m", Time: clock.now().Add(-2 * time.Hour)}))
	ctx, cancel := context.WithCancel(t.Context())
	var ids []string
	r, err := svc.NewReporter(usage.ReportConfig{Report: func(ctx context.Context, _, _, id string, _ int64, _ time.Time) error {
		ids = append(ids, id)
		cancel()
		return ctx.Err()
	}})
	require.NoError(t, err)
	_, err = r.Deliver(ctx)
	require.ErrorIs(t, err, context.Canceled)
	pending, err := r.Reports(t.Context(), usage.ReportFilter{State: usage.ReportPending}, 10)
	require.NoError(t, err)
	require.Len(t, pending, 1)
	clock.set(clock.now().Add(time.Hour))
	_, err = r.Deliver(t.Context())
	require.NoError(t, err)
	require.Len(t, ids, 2)
	require.Equal(t, ids[0], ids[1])
	_, err = r.Deliver(ctx)
	require.ErrorIs(t, err, context.Canceled)
	text, err := json.Marshal(pending[0])
	require.NoError(t, err)
	require.Contains(t, string(text), `"state":"pending"`)
	require.Equal(t, "ReportState(9)", usage.ReportState(9).String())
}
