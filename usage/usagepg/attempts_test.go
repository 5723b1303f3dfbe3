package usagepg_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// attemptService has a limit of USAGE_CHILD_LIMIT units a year.
func attemptService(pool *pgxpool.Pool, limit int64) (*usage.Service, error) {
	return usage.New(usagepg.New(pool), usage.Config{
		Meters: killMeters,
		Quota: func(context.Context, string, string) (usage.Quota, error) {
			return usage.Quota{Limit: limit, Every: usage.Yearly}, nil
		},
	})
}

// attemptChild asks USAGE_CHILD_ATTEMPTS times for one to three units of one
// account, from 64 goroutines. Each fourth attempt has a key; some of these are
// sent twice, and each tenth is the same in all processes.
func attemptChild(ctx context.Context, pool *pgxpool.Pool, name string) error {
	limit, err := strconv.ParseInt(os.Getenv("USAGE_CHILD_LIMIT"), 10, 64)
	if err != nil {
		return err
	}
	attempts, err := strconv.ParseInt(os.Getenv("USAGE_CHILD_ATTEMPTS"), 10, 64)
	if err != nil {
		return err
	}
	svc, err := attemptService(pool, limit)
	if err != nil {
		return err
	}
	var next, admitted, refused, replayed atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for w := range errs {
		wg.Go(func() {
			for i := next.Add(1); i <= attempts && errs[w] == nil; i = next.Add(1) {
				req := usage.Request{Account: "acct", Meter: "credits", N: 1 + i%3}
				if i%4 == 0 {
					req.Key = fmt.Sprint(name, ".", i)
				}
				if i%40 == 0 { // the same of all processes
					req.Key = fmt.Sprint("shared.", i)
				}
				for range 1 + (i%80)/76 { // a retry
					d, err := svc.Consume(ctx, req)
					switch {
					case err != nil:
						errs[w] = err
					case d.Replayed:
						replayed.Add(1)
					case d.Allowed:
						admitted.Add(req.N)
					default:
						refused.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	fmt.Println("done", admitted.Load(), refused.Load(), replayed.Load())
	return errors.Join(errs...)
}

// Eight processes ask for more than there is, in mixed amounts and with retried
// keys: what they were told is admitted comes to the limit, to the unit.
func TestEightProcessesAdmitExactlyTheLimit(t *testing.T) {
	ctx := t.Context()
	server, pool := killable(t)
	attempts := int64(proving(8_000, 1_000_000))
	limit := attempts * 3 / 2
	svc, err := attemptService(pool, limit)
	require.NoError(t, err)
	var mu sync.Mutex
	var admitted, refused, replayed int64
	done := make(chan struct{}, 8)
	line := func(s string) {
		var a, r, p int64
		if _, err := fmt.Sscanf(s, "done %d %d %d", &a, &r, &p); err != nil || !strings.HasPrefix(s, "done") {
			return
		}
		mu.Lock()
		admitted, refused, replayed = admitted+a, refused+r, replayed+p
		mu.Unlock()
		done <- struct{}{}
	}
	began := time.Now()
	var stop []func()
	for p := range 8 {
		stop = append(stop, start(t, line, "USAGE_CHILD_URL="+server.URL(), "USAGE_CHILD=attempts", fmt.Sprint("USAGE_CHILD_NAME=p", p),
			fmt.Sprint("USAGE_CHILD_LIMIT=", limit), fmt.Sprint("USAGE_CHILD_ATTEMPTS=", attempts/8)))
	}
	for range stop {
		select {
		case <-done:
		case <-time.After(20 * time.Minute):
			require.FailNow(t, "a process doesn't end")
		}
	}
	took := time.Since(began)
	for _, s := range stop {
		s()
	}
	// Amounts of two and three leave a rest: ones use it up.
	for {
		d, err := svc.Consume(ctx, usage.Request{Account: "acct", Meter: "credits"})
		require.NoError(t, err)
		if !d.Allowed {
			break
		}
		admitted++
	}
	d, err := svc.Quota(ctx, "acct", "credits")
	require.NoError(t, err)
	require.Equal(t, limit, d.Used)
	require.Equal(t, limit, admitted)
	require.Positive(t, refused)
	require.Positive(t, replayed)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	t.Logf("%d attempts in %s: admitted %d of %d, refused %d attempts, replayed %d", attempts, took.Round(time.Millisecond), admitted, limit, refused, replayed)
}
