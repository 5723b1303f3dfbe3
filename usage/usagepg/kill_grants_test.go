package usagepg_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// grantChild gives and uses grants until it is killed: each key is the same in
// every life of the same name, so that all but the first are retries.
func grantChild(ctx context.Context, svc *usage.Service, name string) error {
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key, n := fmt.Sprint(name, ".", w, ".", i), int64(1+(w+i)%4)
				if err := grantStep(ctx, svc, key, n, (w+i)%4); err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("ok", key)
			}
		})
	}
	wg.Wait()
	return nil
}

// grantStep takes one of four kinds of steps.
func grantStep(ctx context.Context, svc *usage.Service, key string, n int64, kind int) error {
	req := usage.Request{Account: "acct", Meter: "credits", N: n, Key: key}
	if kind == 0 {
		_, err := svc.Grant(ctx, usage.Grant{Account: "acct", Meter: "credits", Key: fmt.Sprint("g", len(key)%7, key[len(key)-1:]), Amount: 1000})
		return err
	}
	if kind == 1 {
		_, err := svc.Consume(ctx, req)
		return err
	}
	r, err := svc.Reserve(ctx, req)
	if err != nil || !r.Allowed {
		return ignoreSettled(err)
	}
	if kind == 2 {
		return ignoreSettled(r.Release(ctx))
	}
	_, err = r.Commit(ctx, n-1)
	return ignoreSettled(err)
}

// ignoreSettled takes the retry of a released reservation for what it is.
func ignoreSettled(err error) error {
	if err != nil && strings.Contains(err.Error(), usage.ErrSettled.Error()) {
		return nil
	}
	return err
}

// Processes that give and use grants are killed, and so is PostgreSQL: no unit
// is lost or made, and the limit and the grants are used to the unit.
func TestKilledProcessesConserveGrants(t *testing.T) {
	ctx := t.Context()
	server, pool := killable(t)
	svc := killService(t, pool)
	var acked atomic.Int64
	progress := make(chan struct{}, 1)
	line := func(s string) {
		if strings.HasPrefix(s, "ok ") {
			acked.Add(1)
		}
		select {
		case progress <- struct{}{}:
		default:
		}
	}
	kills := 0
	for run := range proving(2, 10) {
		var stop []func()
		for p := range proving(2, 4) {
			stop = append(stop, start(t, line, "USAGE_CHILD_URL="+server.URL(), "USAGE_CHILD=grants", fmt.Sprint("USAGE_CHILD_NAME=p", p)))
		}
		for want := acked.Load() + int64(proving(300, 3000)); acked.Load() < want; {
			<-progress
		}
		if run%2 == 1 {
			restart(t, server)
		}
		for _, kill := range stop {
			kill()
			kills++
		}
	}
	pool.Reset()
	var granted, settled, used int64
	read := func() usage.Decision {
		require.NoError(t, pool.QueryRow(ctx, "select coalesce(sum(issued), 0)::bigint from usage_grants").Scan(&granted))
		require.NoError(t, pool.QueryRow(ctx, "select coalesce(sum(actual), 0)::bigint from usage_holds where state = 1").Scan(&settled))
		d, err := svc.Quota(ctx, "acct", "credits")
		require.NoError(t, err)
		used = d.Used
		return d
	}
	// What the killed held comes back by itself.
	_, err := pool.Exec(ctx, "update usage_holds set expires = now() where state = 0")
	require.NoError(t, err)
	require.NoError(t, svc.Maintain(ctx))
	d := read()
	require.Equal(t, settled, used, "what was counted is what was settled")
	require.Zero(t, d.Held)
	require.Equal(t, childLimit+granted, d.Limit)
	rest := d.Remaining
	for rest > 0 {
		n := min(rest, 500)
		d, err := svc.Consume(ctx, usage.Request{Account: "acct", Meter: "credits", N: n})
		require.NoError(t, err)
		require.True(t, d.Allowed)
		rest -= n
	}
	d, err = svc.Consume(ctx, usage.Request{Account: "acct", Meter: "credits"})
	require.NoError(t, err)
	require.False(t, d.Allowed)
	require.Equal(t, childLimit+granted, d.Used)
	u, err := svc.Balance(ctx, "acct", "credits", time.Now())
	require.NoError(t, err)
	require.Equal(t, usage.Units{Issued: granted, Burned: granted}, u)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	t.Logf("%d kills, %d acknowledged, %d granted, %d used", kills, acked.Load(), granted, d.Used)
}

// The audit isn't blind to grants.
func TestAuditFindsDamagedGrants(t *testing.T) {
	ctx := t.Context()
	for _, damage := range []string{
		"update usage_grants set burned = burned + 1",
		"update usage_grants set issued = issued + 1",
		"delete from usage_grant_entries where move = 1",
		"update usage_counters set drawn = drawn + 1",
		"update usage_holds set draws = null",
	} {
		pool := migrated(t)
		svc, err := usage.New(usagepg.New(pool), usage.Config{
			Meters: []usage.Meter{{Name: "credits"}},
			Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(0), nil },
		})
		require.NoError(t, err)
		_, err = svc.Grant(ctx, usage.Grant{Account: "a", Meter: "credits", Amount: 5})
		require.NoError(t, err)
		_, err = svc.Consume(ctx, usage.Request{Account: "a", Meter: "credits", N: 2})
		require.NoError(t, err)
		_, err = svc.Reserve(ctx, usage.Request{Account: "a", Meter: "credits", N: 2})
		require.NoError(t, err)
		audit, err := svc.Audit(ctx)
		require.NoError(t, err)
		require.Empty(t, audit.Differences)
		_, err = pool.Exec(ctx, damage)
		require.NoError(t, err)
		audit, err = svc.Audit(ctx)
		require.NoError(t, err)
		require.NotEmpty(t, audit.Differences, damage)
	}
}

// A grant on the caller's transaction is there with its commit.
func TestAGrantJoinsTheCallersTransaction(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	svc := killService(t, pool)
	for _, commit := range []bool{false, true} {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		in := svc.With(usagepg.New(tx))
		_, err = in.Grant(ctx, usage.Grant{Account: "a", Meter: "credits", Key: "k", Amount: 5})
		require.NoError(t, err)
		d, err := in.Quota(ctx, "a", "credits")
		require.NoError(t, err)
		require.EqualValues(t, 5, d.Granted)
		if commit {
			require.NoError(t, tx.Commit(ctx))
		} else {
			require.NoError(t, tx.Rollback(ctx))
		}
		d, err = svc.Quota(ctx, "a", "credits")
		require.NoError(t, err)
		require.Equal(t, commit, d.Granted == 5)
	}
}

// Old grants and reports go with the retention, and nothing that is open does.
func TestRetentionDropsClosedGrantsAndReports(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	now := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	clock := now.AddDate(-3, 0, 0)
	svc, err := usage.New(usagepg.NewWith(pool, usagepg.Config{Retention: 62 * 24 * time.Hour}), usage.Config{
		Meters: []usage.Meter{{Name: "credits", Aggregation: usage.Sum, Report: true}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(0), nil },
		Now:    func() time.Time { return clock },
	})
	require.NoError(t, err)
	reporter, err := svc.NewReporter(usage.ReportConfig{Report: func(context.Context, string, string, string, int64, time.Time) error { return nil }})
	require.NoError(t, err)
	for _, g := range []usage.Grant{{Key: "done", Amount: 2}, {Key: "open", Amount: 2, Priority: 1}} {
		g.Account, g.Meter = "a", "credits"
		_, err = svc.Grant(ctx, g)
		require.NoError(t, err)
	}
	_, err = svc.Consume(ctx, usage.Request{Account: "a", Meter: "credits", N: 3, Key: "k", Record: true})
	require.NoError(t, err)
	clock = clock.Add(2 * time.Hour)
	pass, err := reporter.Deliver(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, pass.Delivered)
	clock = now
	require.NoError(t, svc.Maintain(ctx))
	var keys []string
	require.NoError(t, pool.QueryRow(ctx, "select array_agg(key) from usage_grants").Scan(&keys))
	require.Equal(t, []string{"open"}, keys)
	var left int
	require.NoError(t, pool.QueryRow(ctx, "select (select count(*) from usage_reports) + (select count(*) from usage_report_days)").Scan(&left))
	require.Zero(t, left)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

// An account that had no grants goes by one statement; its first grant ends
// that at once, and a correction of a closed period brings one to life for the
// running one.
func TestTheShortWayKnowsOfGrants(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	clock := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	svc, err := usage.New(usagepg.New(pool), usage.Config{
		Meters: []usage.Meter{{Name: "credits", Aggregation: usage.Sum, Quota: true}},
		Quota: func(context.Context, string, string) (usage.Quota, error) {
			return usage.Quota{Limit: 10, Overage: usage.Unlimited}, nil
		},
		Now: func() time.Time { return clock },
	})
	require.NoError(t, err)
	consume := func(n int64) usage.Decision {
		d, err := svc.Consume(ctx, usage.Request{Account: "a", Meter: "credits", N: n})
		require.NoError(t, err)
		return d
	}
	require.EqualValues(t, 2, consume(12).Overage)
	_, err = svc.Grant(ctx, usage.Grant{Account: "a", Meter: "credits", Amount: 3})
	require.NoError(t, err)
	require.EqualValues(t, 2, consume(1).Overage)
	require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "credits", Value: 4})) // 2 of the grant
	clock = clock.AddDate(0, 0, 1)
	require.Zero(t, consume(10).Overage)
	require.EqualValues(t, 1, consume(1).Overage, "the grant is used up")
	require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "credits", Value: -5, Time: clock.AddDate(0, 0, -1)}))
	d := consume(1)
	require.EqualValues(t, 1, d.Overage)
	require.EqualValues(t, 1, d.Granted)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}
