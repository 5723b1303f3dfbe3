package usagepg_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// TestMain also is the child process of the tests that kill one.
func TestMain(m *testing.M) {
	if url := os.Getenv("USAGE_CHILD_URL"); url != "" {
		if err := child(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// proving scales a test up for make prove.
func proving(small, large int) int {
	if os.Getenv("COMMERCE_PROVE") == "1" {
		return large
	}
	return small
}

var killMeters = []usage.Meter{{Name: "tokens", Aggregation: usage.Sum}, {Name: "credits", Aggregation: usage.Sum}}

func killService(t testing.TB, pool *pgxpool.Pool) *usage.Service {
	t.Helper()
	svc, err := serviceOn(pool)
	require.NoError(t, err)
	return svc
}

const childLimit = 10_007

func serviceOn(pool *pgxpool.Pool) (*usage.Service, error) {
	return usage.New(usagepg.New(pool), usage.Config{
		Meters: killMeters,
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(childLimit), nil },
		Logger: slog.New(slog.DiscardHandler),
	})
}

// child does what USAGE_CHILD says until it is killed: it tracks events through
// a journal, or takes units in mixed amounts, and reports on its standard
// output what has been acknowledged.
func child(url string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	svc, err := serviceOn(pool)
	if err != nil {
		return err
	}
	name := os.Getenv("USAGE_CHILD_NAME")
	switch os.Getenv("USAGE_CHILD") {
	case "grants":
		return grantChild(ctx, svc, name)
	case "reports":
		return reportChild(ctx, pool)
	case "attempts":
		return attemptChild(ctx, pool, name)
	}
	var mu sync.Mutex
	say := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.WriteString(os.Stdout, line+"\n") // the parent has gone, and so shall this
	}
	if os.Getenv("USAGE_CHILD") == "quota" {
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					key, n := fmt.Sprint(name, ".", w, ".", i), int64(1+(w+i)%3)
					d, err := svc.Consume(ctx, usage.Request{Account: "acct", Meter: "credits", N: n, Key: key, Record: i%5 == 0})
					switch {
					case err != nil:
						say("error " + err.Error())
						return
					case d.Allowed:
						say(fmt.Sprint("ok ", key, " ", n))
					default:
						say("no")
						return
					}
				}
			})
		}
		wg.Wait()
		return nil
	}
	r, err := usage.NewRecorder(svc, usage.RecorderConfig{Journal: os.Getenv("USAGE_CHILD_JOURNAL"), Every: 5 * time.Millisecond})
	if err != nil {
		return err
	}
	say("ready")
	for range 16 {
		go func() {
			for {
				if err := r.Track(ctx, usage.Event{Account: "acct", Meter: "tokens", Value: 1}); err != nil {
					say("error " + err.Error())
					return
				}
				say("+")
			}
		}()
	}
	select {}
}

// start runs a child, hands its lines to f, and returns its kill.
func start(t *testing.T, f func(line string), env ...string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			f(lines.Text())
		}
	}()
	return func() {
		_ = cmd.Process.Kill() // SIGKILL; it may have ended by itself
		<-read
		_ = cmd.Wait() // the status of a killed process says nothing
	}
}

// killable returns a durable server of this test's own, migrated.
func killable(t *testing.T) (*services.Postgres, *pgxpool.Pool) {
	t.Helper()
	server := pgtest.Server(t, services.PostgresConfig{Durable: true})
	pool, err := pgxpool.New(t.Context(), server.URL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, usagepg.Migrate(t.Context(), pool))
	return server, pool
}

// restart kills the server and starts it again. The kernel may still be
// clearing up behind a killed back-end when a new server looks.
func restart(t *testing.T, server *services.Postgres) {
	t.Helper()
	require.NoError(t, server.Kill())
	var err error
	for range 100 {
		if err = server.Start(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

// A process that journals is killed again and again, and so is PostgreSQL: each
// acknowledged event is there in the end, and none twice.
func TestKilledProcessesLoseAndRepeatNothing(t *testing.T) {
	ctx := t.Context()
	server, pool := killable(t)
	dir := t.TempDir()
	var acked atomic.Int64
	var failed atomic.Value
	kills, each := proving(2, 40), int64(proving(300, 3000))
	for i := range kills {
		before := acked.Load()
		enough := make(chan struct{})
		var once sync.Once
		kill := start(t, func(line string) {
			switch {
			case line == "+":
				if acked.Add(1) >= before+each {
					once.Do(func() { close(enough) })
				}
			case line != "ready":
				failed.Store(line)
				once.Do(func() { close(enough) })
			}
		}, "USAGE_CHILD_URL="+server.URL(), "USAGE_CHILD_JOURNAL="+dir)
		<-enough
		if i%2 == 1 { // PostgreSQL first, under the process's feet
			restart(t, server)
		}
		kill()
		require.Nil(t, failed.Load())
	}
	pool.Reset()
	svc := killService(t, pool)
	r, err := usage.NewRecorder(svc, usage.RecorderConfig{Journal: dir})
	require.NoError(t, err)
	require.NoError(t, r.Close(ctx))
	sum, err := svc.Summary(ctx, usage.Query{Account: "acct", Meter: "tokens"})
	require.NoError(t, err)
	// A child may have been killed between the journal's answer and the line
	// that says so: at most one event of each of its 16 goroutines.
	require.GreaterOrEqual(t, sum.Value.Sum, acked.Load(), "lost")
	require.LessOrEqual(t, sum.Value.Sum, acked.Load()+int64(16*kills), "counted twice")
	var distinct int64
	require.NoError(t, pool.QueryRow(ctx, "select count(distinct key) from usage_events").Scan(&distinct))
	require.Equal(t, distinct, sum.Value.Sum)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	t.Logf("%d kills, %d of PostgreSQL too, %d acknowledged, %d stored", kills, kills/2, acked.Load(), sum.Value.Sum)
}

// The control: the same without a journal loses what was acknowledged.
func TestWithoutAJournalAKillLosesEvents(t *testing.T) {
	ctx := t.Context()
	server, pool := killable(t)
	var acked atomic.Int64
	ready, enough := make(chan struct{}), make(chan struct{})
	var once sync.Once
	down := make(chan struct{})
	kill := start(t, func(line string) {
		if line == "ready" {
			close(ready)
			<-down // the child tracks into a buffer that nobody can empty
		}
		if line == "+" && acked.Add(1) == 5000 {
			once.Do(func() { close(enough) })
		}
	}, "USAGE_CHILD_URL="+server.URL(), "USAGE_CHILD_JOURNAL=")
	<-ready
	require.NoError(t, server.Kill())
	close(down)
	<-enough
	kill()
	restart(t, server)
	pool.Reset()
	sum, err := killService(t, pool).Summary(ctx, usage.Query{Account: "acct", Meter: "tokens"})
	require.NoError(t, err)
	require.Less(t, sum.Value.Sum, acked.Load())
}

// Several processes take units in mixed amounts, some are killed, and their
// keys are tried again: what was admitted is the limit, to the unit, and each
// acknowledged step is among it.
func TestKilledProcessesNeverExceedTheLimit(t *testing.T) {
	ctx := t.Context()
	server, pool := killable(t)
	require.NoError(t, usagepg.New(pool).Maintain(ctx, time.Now()))
	svc := killService(t, pool)

	var mu sync.Mutex
	acked := map[string]int64{}
	progress := make(chan struct{}, 1)
	line := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		var key string
		var n int64
		if strings.HasPrefix(s, "ok ") {
			if _, err := fmt.Sscanf(s, "ok %s %d", &key, &n); err == nil {
				acked[key] = n
			}
		}
		select {
		case progress <- struct{}{}:
		default:
		}
	}
	processes := proving(3, 8)
	for run := range proving(2, 10) {
		var kills []func()
		for p := range processes {
			// The same names again: every key of the killed is a retry.
			kills = append(kills, start(t, line, "USAGE_CHILD_URL="+server.URL(), "USAGE_CHILD=quota", fmt.Sprint("USAGE_CHILD_NAME=p", p)))
		}
		mu.Lock()
		want := len(acked) + 150
		mu.Unlock()
		for have := 0; have < want; {
			<-progress
			mu.Lock()
			have = len(acked)
			mu.Unlock()
			if d, err := svc.Quota(ctx, "acct", "credits"); err == nil && d.Remaining < 3 {
				break
			}
		}
		if run%2 == 1 {
			restart(t, server)
		}
		for _, kill := range kills {
			kill()
		}
	}
	pool.Reset()
	// The rest is taken one by one, by racing goroutines.
	var wg sync.WaitGroup
	var more atomic.Int64
	for range 64 {
		wg.Go(func() {
			for {
				d, err := svc.Consume(ctx, usage.Request{Account: "acct", Meter: "credits"})
				if err != nil {
					t.Error(err)
					return
				}
				if !d.Allowed {
					return
				}
				more.Add(1)
			}
		})
	}
	wg.Wait()
	d, err := svc.Quota(ctx, "acct", "credits")
	require.NoError(t, err)
	require.EqualValues(t, childLimit, d.Used)
	var keyed int64
	require.NoError(t, pool.QueryRow(ctx, "select coalesce(sum(actual), 0)::bigint from usage_holds").Scan(&keyed))
	require.EqualValues(t, childLimit, keyed+more.Load())
	for key, n := range acked {
		h, err := usagepg.New(pool).Hold(ctx, "acct", key)
		require.NoError(t, err, "an acknowledged step is gone")
		require.Equal(t, n, h.Actual)
	}
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	notices, err := svc.Notices(ctx, "acct", 10)
	require.NoError(t, err)
	require.Len(t, notices, 2, "80 and 100 percent, once each")
	t.Logf("%d acknowledged with a key, %d without", len(acked), more.Load())
}
