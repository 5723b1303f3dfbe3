package usagepg_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/ident"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
	"github.com/kolekt/commerce/usage/usagetest"
)

type reportCall struct {
	Account, Meter, ID string
	Quantity           int64
	At                 time.Time
}

func reportService(pool *pgxpool.Pool) (*usage.Service, error) {
	return usage.New(usagepg.New(pool), usage.Config{
		Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum, Report: true}},
		Logger: slog.New(slog.DiscardHandler),
	})
}

// reportChild tells the provider at USAGE_CHILD_PROVIDER until it is killed.
func reportChild(ctx context.Context, pool *pgxpool.Pool) error {
	svc, err := reportService(pool)
	if err != nil {
		return err
	}
	report := func(ctx context.Context, account, meter, id string, quantity int64, at time.Time) error {
		if os.Getenv("USAGE_CHILD_IDS") == "random" {
			id = ident.New("rnd", time.Now())
		}
		body, err := json.Marshal(reportCall{account, meter, id, quantity, at})
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("USAGE_CHILD_PROVIDER"), bytes.NewReader(body))
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = res.Body.Close() // nothing in it
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	}
	r, err := svc.NewReporter(usage.ReportConfig{Report: report, Timeout: 2 * time.Second, Every: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// killedReports kills reporting processes after the provider has counted and
// before it has answered, and returns what events come to and what the provider
// has counted in the end.
func killedReports(t *testing.T, kills int, random bool) (events, counted int64) {
	ctx := t.Context()
	server, pool := killable(t)
	svc, err := reportService(pool)
	require.NoError(t, err)
	provider := &usagetest.Provider{Now: time.Now}
	var calls atomic.Int64
	const each = 25 // calls before a kill
	var last atomic.Bool
	struck, dead := make(chan struct{}), make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var c reportCall
		body, err := io.ReadAll(req.Body)
		if err == nil {
			err = json.Unmarshal(body, &c)
		}
		if err == nil {
			err = provider.Report(ctx, c.Account, c.Meter, c.ID, c.Quantity, c.At)
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if n := calls.Add(1); n%each == 0 && !last.Load() {
			struck <- struct{}{}
			<-dead
		}
	}))
	defer web.Close()
	// hurry ends the claims of the dead, and lets no try wait.
	hurry := func() {
		for _, sql := range []string{
			"update usage_reports set due = now() where state = 1",
			"update usage_report_days set due = least(due, now() - interval '10 minutes')",
		} {
			_, err := pool.Exec(ctx, sql)
			require.NoError(t, err)
		}
	}
	ids := ""
	if random {
		ids = "random"
	}
	now := time.Now().UTC()
	for i := range kills {
		var batch []usage.Event
		for j := range 4 * each {
			batch = append(batch, usage.Event{
				Account: fmt.Sprint("acct", j%5), Meter: "tokens", Value: int64(1 + (i+j)%9), Time: now.Add(-time.Duration(2+j/5%20) * time.Hour),
			})
		}
		_, err := svc.RecordBatch(ctx, batch)
		require.NoError(t, err)
		kill := start(t, func(line string) { t.Log(line) },
			"USAGE_CHILD_URL="+server.URL(), "USAGE_CHILD=reports", "USAGE_CHILD_PROVIDER="+web.URL, "USAGE_CHILD_IDS="+ids)
		select {
		case <-struck:
		case <-time.After(time.Minute):
			kill()
			require.FailNow(t, "nothing is reported")
		}
		if i%4 == 3 {
			restart(t, server)
			pool.Reset()
		}
		kill()
		dead <- struct{}{}
		hurry()
	}
	last.Store(true)
	report := provider.Report
	if random {
		report = func(ctx context.Context, account, meter, _ string, quantity int64, at time.Time) error {
			return provider.Report(ctx, account, meter, ident.New("rnd", time.Now()), quantity, at)
		}
	}
	r, err := svc.NewReporter(usage.ReportConfig{Report: report, Reported: provider.Reported})
	require.NoError(t, err)
	for range 2 { // what came to an hour with a pending report is cut after it
		_, err = r.Deliver(ctx)
		require.NoError(t, err)
		hurry()
	}
	rec, err := r.Reconcile(ctx, now.AddDate(0, 0, -3), now.AddDate(0, 0, 1))
	require.NoError(t, err)
	require.Equal(t, 5, rec.Checked)
	for i := range 5 {
		d, err := r.ReconcileAccount(ctx, fmt.Sprint("acct", i), "tokens", usage.Period{From: now.AddDate(0, 0, -3), To: now.AddDate(0, 0, 1)})
		require.NoError(t, err)
		require.Zero(t, d.Unreported())
		require.Zero(t, d.Pending)
		require.Equal(t, d.Events, d.Delivered)
		require.Equal(t, d.Agrees(), d.Provider == d.Events)
		events, counted = events+d.Events, counted+d.Provider
	}
	require.Equal(t, events != counted, len(rec.Drifts) > 0)
	t.Logf("%d kills, %d calls, events come to %d, the provider has counted %d", kills, calls.Load(), events, counted)
	return events, counted
}

func TestKilledReportersTellEachUnitOnce(t *testing.T) {
	events, counted := killedReports(t, proving(4, 24), false)
	require.Equal(t, events, counted)
}

// The control: IDs that are made anew for each try count twice.
func TestRandomReportIDsCountTwice(t *testing.T) {
	events, counted := killedReports(t, 3, true)
	require.Greater(t, counted, events)
}
