package usagepg_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// The first counter of a period is made while a grant is given: neither sees the
// other's row. Every kind of step that begins after the grant's commit knows it,
// in the process that made the counter and in another one.
func TestAGrantBesideTheFirstStepOfAPeriodIsKnown(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	clock := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	cfg := usage.Config{
		Meters: []usage.Meter{{Name: "credits", Aggregation: usage.Sum, Quota: true}},
		Quota: func(context.Context, string, string) (usage.Quota, error) {
			return usage.Quota{Limit: 5, Overage: usage.Unlimited}, nil
		},
		Now: func() time.Time { return clock },
	}
	var processes []*usage.Service
	for range 2 {
		svc, err := usage.New(usagepg.New(pool), cfg)
		require.NoError(t, err)
		processes = append(processes, svc)
	}
	kinds := map[string]func(svc *usage.Service, account string) error{
		"consume": func(svc *usage.Service, account string) error {
			_, err := svc.Consume(ctx, usage.Request{Account: account, Meter: "credits", N: 2})
			return err
		},
		"consume by key": func(svc *usage.Service, account string) error {
			_, err := svc.Consume(ctx, usage.Request{Account: account, Meter: "credits", N: 2, Key: account + clock.String()})
			return err
		},
		"reserve and commit": func(svc *usage.Service, account string) error {
			r, err := svc.Reserve(ctx, usage.Request{Account: account, Meter: "credits", N: 2})
			if err != nil {
				return err
			}
			_, err = r.Commit(ctx, 2)
			return err
		},
		"record": func(svc *usage.Service, account string) error {
			return svc.Record(ctx, usage.Event{Account: account, Meter: "credits", Value: 2})
		},
	}
	for name, use := range kinds {
		for p, svc := range processes {
			account := fmt.Sprint(name, p)
			for month := range 2 {
				clock = clock.AddDate(0, 1, 0)
				tx, err := pool.Begin(ctx)
				require.NoError(t, err)
				defer func() { _ = tx.Rollback(ctx) }()
				// Of the store itself: the service would make the counter too.
				g := usage.Grant{Account: account, Meter: "credits", Key: fmt.Sprint(month), Amount: 2, From: clock, GrantedAt: clock}
				_, _, err = usagepg.New(tx).Grant(ctx, g, clock)
				require.NoError(t, err)
				if month == 0 {
					// With a wallet from before, a step waits for the grant.
					_, err = processes[0].Consume(ctx, usage.Request{Account: account, Meter: "credits", N: 5})
					require.NoError(t, err)
				}
				require.NoError(t, tx.Commit(ctx))
				if month == 0 {
					// The control: who goes by the counter's mark misses the grant.
					var granted bool
					require.NoError(t, pool.QueryRow(ctx, "select granted from usage_counters where account = $1 order by period_from desc limit 1", account).Scan(&granted))
					require.False(t, granted)
				} else {
					_, err = processes[0].Consume(ctx, usage.Request{Account: account, Meter: "credits", N: 5})
					require.NoError(t, err)
				}
				require.NoError(t, use(svc, account))
				d, err := svc.Quota(ctx, account, "credits")
				require.NoError(t, err)
				require.EqualValues(t, 7, d.Used, account)
				require.Zero(t, d.Overage, account)
				u, err := svc.Balance(ctx, account, "credits", clock)
				require.NoError(t, err)
				require.EqualValues(t, 2*(month+1), u.Burned, account)
			}
		}
	}
	audit, err := processes[0].Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

// Grants come at any moment, some of them long before their commit, to accounts
// that use nothing else, from period to period and in two processes: no step
// that begins after a commit is refused what must be left, and all that was
// granted is used once.
func TestGrantsThatComeAtAnyMomentAreUsedToTheUnit(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	var month atomic.Int64
	cfg := usage.Config{
		Meters: []usage.Meter{{Name: "credits"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(0), nil },
		Now: func() time.Time {
			return time.Date(2026, time.Month(1+month.Load()), 10, 0, 0, 0, 0, time.UTC)
		},
	}
	for a := range proving(12, 300) {
		account := fmt.Sprint("acct", a)
		var processes []*usage.Service
		for range 2 { // that know nothing
			svc, err := usage.New(usagepg.New(pool), cfg)
			require.NoError(t, err)
			processes = append(processes, svc)
		}
		var given, asked, used atomic.Int64 // asked: at most used
		var stop atomic.Bool
		var givers, users sync.WaitGroup
		errs := make(chan error, 16)
		for w := range 3 {
			givers.Go(func() {
				for i := range 4 {
					now := cfg.Now()
					g := usage.Grant{Account: account, Meter: "credits", Key: fmt.Sprint(w, ".", i), Amount: int64(1 + w + i), From: now, GrantedAt: now}
					err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
						if w == 0 { // which makes the period's counter too
							g.GrantedAt = time.Time{}
							_, err := processes[i%2].With(usagepg.New(tx)).Grant(ctx, g)
							return err
						}
						if _, _, err := usagepg.New(tx).Grant(ctx, g, now); err != nil {
							return err
						}
						if (w+i)%2 == 0 {
							_, err := tx.Exec(ctx, "select pg_sleep(0.004)")
							return err
						}
						return nil
					})
					if err != nil {
						errs <- err
						return
					}
					given.Add(g.Amount)
					month.Add(1)
				}
			})
		}
		step := func(svc *usage.Service, w, i int) error {
			n := int64(1 + i%2)
			before, req := given.Load(), usage.Request{Account: account, Meter: "credits", N: n}
			asked.Add(n)
			var allowed bool
			switch (w + i) % 3 {
			case 0, 1:
				if (w+i)%3 == 1 {
					req.Key = fmt.Sprint("k", w, ".", i)
				}
				d, err := svc.Consume(ctx, req)
				if err != nil {
					return err
				}
				allowed = d.Allowed
			default:
				r, err := svc.Reserve(ctx, req)
				if err != nil {
					return err
				}
				if allowed = r.Allowed; allowed {
					if _, err := r.Commit(ctx, n); err != nil {
						return err
					}
				}
			}
			switch {
			case allowed:
				used.Add(n)
			case asked.Load() <= before:
				return fmt.Errorf("refused %d though %d were given and at most %d asked for", n, before, asked.Load())
			default:
				asked.Add(-n)
			}
			return nil
		}
		for w := range 4 {
			users.Go(func() {
				for i := 0; !stop.Load(); i++ {
					if err := step(processes[w%2], w, i); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		givers.Wait()
		stop.Store(true)
		users.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		for {
			d, err := processes[a%2].Consume(ctx, usage.Request{Account: account, Meter: "credits"})
			require.NoError(t, err)
			if !d.Allowed {
				break
			}
			used.Add(1)
		}
		require.Equal(t, given.Load(), used.Load())
		u, err := processes[0].Balance(ctx, account, "credits", cfg.Now())
		require.NoError(t, err)
		require.Equal(t, usage.Units{Issued: given.Load(), Burned: given.Load()}, u)
	}
	svc, err := usage.New(usagepg.New(pool), cfg)
	require.NoError(t, err)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

// A reservation of March is asked for again in April while it is committed: what
// it has become stands, whoever comes first.
func TestAReservationThatIsProlongedInTheNextPeriodStaysSettled(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	now := time.Date(2026, 3, 31, 23, 0, 0, 0, time.UTC)
	cfg := usage.Config{
		Meters: []usage.Meter{{Name: "credits"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
		Now:    func() time.Time { return now },
	}
	svc, err := usage.New(usagepg.New(pool), cfg)
	require.NoError(t, err)
	req := usage.Request{Account: "a", Meter: "credits", Key: "k", N: 3, TTL: 3 * time.Hour}
	r, err := svc.Reserve(ctx, req)
	require.NoError(t, err)
	require.True(t, r.Allowed)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	in := svc.With(usagepg.New(tx))
	held, err := in.Reservation(ctx, "a", "k")
	require.NoError(t, err)
	_, err = held.Commit(ctx, 2) // not yet for the others to see
	require.NoError(t, err)
	now = now.Add(2 * time.Hour)
	again := make(chan error, 1)
	go func() {
		_, err := svc.Reserve(ctx, req)
		again <- err
	}()
	require.Eventually(t, func() bool { // it waits for the commit
		var waiting int
		require.NoError(t, pool.QueryRow(ctx, "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()").Scan(&waiting))
		return waiting > 0
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, <-again)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	d, err := svc.QuotaAt(ctx, "a", "credits", now.Add(-2*time.Hour))
	require.NoError(t, err)
	require.EqualValues(t, 2, d.Used)
	require.Zero(t, d.Held)
}
