package mailerpg_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailerhttp"
	"github.com/kolekt/commerce/mailer/mailerpg"
	"github.com/kolekt/commerce/mailer/mailersmtp"
	"github.com/kolekt/commerce/mailer/mailertest"
)

// TestMain runs a worker instead of the tests when a crash test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("MAILERPG_WORKER_DB") != "" {
		if err := worker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type note struct{ N int }

func noteKind() (*mailer.Kind[note], error) {
	return mailer.Define(mailer.Spec[note]{Name: "test.note", Stream: "notes", Class: mailer.Transactional, Sample: note{1},
		Templates: fstest.MapFS{"test.note.en.txt": {Data: []byte("Subject: Note {{.Data.N}}\nPreheader: A note.\n\nNumber {{.Data.N}}.\n")}}})
}

func service(store mailer.Store, transport mailer.Transport, change func(*mailer.Config)) (*mailer.Kind[note], *mailer.Service, error) {
	kind, err := noteKind()
	if err != nil {
		return nil, nil, err
	}
	cfg := mailer.Config{From: mailer.Address{Email: "hello@example.com"}, Secret: bytes.Repeat([]byte("s"), 32), Kinds: []mailer.AnyKind{kind},
		Lease: time.Second, Poll: 20 * time.Millisecond, Batch: 50}
	if change != nil {
		change(&cfg)
	}
	svc, err := mailer.New(store, transport, cfg)
	return kind, svc, err
}

// worker is the process that is killed.
func worker() error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("MAILERPG_WORKER_DB"))
	if err != nil {
		return err
	}
	var transport mailer.Transport
	if url := os.Getenv("MAILERPG_WORKER_HTTP"); url != "" {
		transport, err = mailerhttp.NewResend(mailerhttp.ResendConfig{Key: "k", Endpoint: url})
	} else {
		var port int
		if port, err = strconv.Atoi(os.Getenv("MAILERPG_WORKER_SMTP")); err != nil {
			return err
		}
		transport, err = mailersmtp.New(mailersmtp.Config{Host: "127.0.0.1", Port: port, TLS: mailersmtp.Insecure})
	}
	if err != nil {
		return err
	}
	var store mailer.Store = mailerpg.New(pool)
	if os.Getenv("MAILERPG_WORKER_ACK") == "batch" {
		store = &lateStore{Store: store}
	}
	_, svc, err := service(store, transport, func(cfg *mailer.Config) {
		cfg.Concurrency, _ = strconv.Atoi(os.Getenv("MAILERPG_WORKER_SENDERS")) // none means the default
	})
	if err != nil {
		return err
	}
	return svc.Run(ctx)
}

// lateStore writes results at the end of a batch, as a naive worker does.
type lateStore struct {
	mailer.Store
	mu   sync.Mutex
	acks []mailer.Ack
}

func (s *lateStore) Ack(ctx context.Context, acks []mailer.Ack) (int, error) {
	if len(acks) == 0 {
		return s.Store.Ack(ctx, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acks = append(s.acks, acks...); len(s.acks) < 50 {
		return len(acks), nil
	}
	_, err := s.Store.Ack(ctx, s.acks)
	s.acks = nil
	return len(acks), err
}

// scale is how often a proof kills: more with COMMERCE_PROVE=1.
func scale(small, proof int) int {
	if os.Getenv("COMMERCE_PROVE") == "1" {
		return proof
	}
	return small
}

var messageID = regexp.MustCompile(`Message-ID: <([^>]+)>`)

// perKill is how many mails are enqueued for each kill.
const perKill = 150

// killWorkers runs and kills workers, drains what is left, and returns how
// often each mail came in.
func killWorkers(t *testing.T, kills int, mode string, senders int) (seen map[string]int, total int) {
	t.Helper()
	url := pgtest.URL(t)
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, url)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, mailerpg.Migrate(ctx, pool))
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{})
	smtp, err := mailersmtp.New(mailersmtp.Config{Host: srv.Host, Port: srv.Port, TLS: mailersmtp.Insecure, Conns: 32})
	require.NoError(t, err)
	defer smtp.Close()
	kind, svc, err := service(mailerpg.New(pool), smtp, func(cfg *mailer.Config) { cfg.Concurrency = 32 })
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, uint64(kills)))
	for k := range kills {
		enqueue(t, kind, svc, k*perKill, perKill)
		before := len(srv.Received())
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MAILERPG_WORKER_DB="+url, "MAILERPG_WORKER_SMTP="+strconv.Itoa(srv.Port), "MAILERPG_WORKER_ACK="+mode, "MAILERPG_WORKER_SENDERS="+strconv.Itoa(senders))
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		err := srv.Wait(ctx, before+1+r.IntN(perKill/2))
		// At any moment, not at the arrival of a mail.
		time.Sleep(time.Duration(r.IntN(5000)) * time.Microsecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed: the status says nothing
		require.NoError(t, err)
	}
	drain(t, svc)
	seen = map[string]int{}
	for _, m := range srv.Received() {
		if id := messageID.FindSubmatch(m.Data); id != nil && m.Accepted {
			seen[string(id[1])]++
		}
	}
	return seen, kills * perKill
}

func enqueue(t *testing.T, kind *mailer.Kind[note], svc *mailer.Service, from, n int) {
	t.Helper()
	var batch []mailer.Enqueue
	for i := range n {
		e, err := kind.Prepare(svc, mailer.To{Account: "a", Email: fmt.Sprintf("u%d@example.org", from+i)}, note{from + i}, strconv.Itoa(from+i))
		require.NoError(t, err)
		batch = append(batch, e)
	}
	// An unknown outcome is asked again with the same keys.
	require.Eventually(t, func() bool {
		_, err := svc.EnqueueAll(t.Context(), batch)
		return err == nil
	}, time.Minute, 10*time.Millisecond)
}

// drain works until nothing is open, leases of the dead included.
func drain(t *testing.T, svc *mailer.Service) {
	t.Helper()
	require.Eventually(t, func() bool {
		if _, err := svc.Flush(t.Context()); err != nil {
			return false
		}
		st, err := svc.Stats(t.Context())
		return err == nil && st.Pending+st.Claimed+st.Dead+st.Held == 0
	}, 2*time.Minute, 20*time.Millisecond)
}

func duplicates(seen map[string]int) int {
	n := 0
	for _, times := range seen {
		n += times - 1
	}
	return n
}

func TestKilledWorkerLosesNothing(t *testing.T) {
	rate := func(kills int, mode, what string, senders int) float64 {
		seen, total := killWorkers(t, kills, mode, senders)
		require.Len(t, seen, total, "mails were lost")
		dup := duplicates(seen)
		t.Logf("%s: %d kills -9 of the worker, %d mails: lost 0, duplicates %d (%.2f a kill)", what, kills, total, dup, float64(dup)/float64(kills))
		return float64(dup) / float64(kills)
	}
	one := rate(scale(3, 200), "", "one sender", 1)
	four := rate(scale(3, 200), "", "four senders", 4)
	control := rate(scale(3, 40), "batch", "control, four senders, results at the end of a batch", 4)
	require.LessOrEqual(t, one, 1.0, "more than one mail a kill")
	// A few kills may all fall into the worst moment: one mail for each sender.
	require.LessOrEqual(t, four, float64(scale(4, 1)), "more than one mail a kill")
	require.Greater(t, control, four, "the control must show more duplicates, or the test shows nothing")
}

func TestKilledWorkerRepeatsNothingWithKeys(t *testing.T) {
	kills := scale(3, 40)
	url := pgtest.URL(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, mailerpg.Migrate(t.Context(), pool))
	// A provider that honours keys: it sends the first time only.
	var mu sync.Mutex
	sent, calls := map[string]int{}, 0
	arrived := make(chan struct{}, 1<<20)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls++
		if key := r.Header.Get("Idempotency-Key"); sent[key] == 0 {
			sent[key]++
		}
		mu.Unlock()
		arrived <- struct{}{}
		fmt.Fprint(w, `{"id":"x"}`)
	}))
	defer srv.Close()
	transport, err := mailerhttp.NewResend(mailerhttp.ResendConfig{Key: "k", Endpoint: srv.URL})
	require.NoError(t, err)
	kind, svc, err := service(mailerpg.New(pool), transport, nil)
	require.NoError(t, err)
	for k := range kills {
		enqueue(t, kind, svc, k*perKill, perKill)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MAILERPG_WORKER_DB="+url, "MAILERPG_WORKER_HTTP="+srv.URL, "MAILERPG_WORKER_ACK=batch")
		require.NoError(t, cmd.Start())
		for range 20 + rand.IntN(perKill/2) {
			<-arrived
		}
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed: the status says nothing
	}
	drain(t, svc)
	require.Len(t, sent, kills*perKill, "mails were lost")
	require.Greater(t, calls, kills*perKill, "nothing was asked twice: the test shows nothing")
	t.Logf("%d kills, %d mails, %d requests: lost 0, sent twice 0", kills, kills*perKill, calls)
}

func TestKilledPostgresLosesNothing(t *testing.T) {
	kills := scale(2, 200)
	pg := pgtest.Server(t, services.PostgresConfig{Durable: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pool, err := pgxpool.New(ctx, pg.URL())
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, mailerpg.Migrate(ctx, pool))
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{})
	smtp, err := mailersmtp.New(mailersmtp.Config{Host: srv.Host, Port: srv.Port, TLS: mailersmtp.Insecure})
	require.NoError(t, err)
	defer smtp.Close()
	kind, svc, err := service(mailerpg.New(pool), smtp, nil)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	for k := range kills {
		before := len(srv.Received())
		enqueue(t, kind, svc, k*perKill, perKill)
		require.NoError(t, srv.Wait(ctx, before+1+rand.IntN(perKill/2)))
		require.NoError(t, pg.Kill())
		// The memory of the killed is not always gone at once.
		require.Eventually(t, func() bool { return pg.Start() == nil }, time.Minute, 50*time.Millisecond)
	}
	require.Eventually(t, func() bool {
		st, err := svc.Stats(ctx)
		return err == nil && st.Pending+st.Claimed+st.Dead+st.Held == 0
	}, 2*time.Minute, 20*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	seen := map[string]int{}
	for _, m := range srv.Received() {
		if id := messageID.FindSubmatch(m.Data); id != nil && m.Accepted {
			seen[string(id[1])]++
		}
	}
	require.Len(t, seen, kills*perKill, "mails were lost")
	dup := duplicates(seen)
	require.LessOrEqual(t, dup, 4*kills)
	t.Logf("%d kills -9 of PostgreSQL, %d mails: lost 0, duplicates %d (%.2f a kill)", kills, kills*perKill, dup, float64(dup)/float64(kills))
}

// TestEnqueueJoinsTheTransaction commits and rolls back.
func TestEnqueueJoinsTheTransaction(t *testing.T) {
	pool := migrated(t)
	inbox := mailertest.NewInbox(t)
	kind, svc, err := service(mailerpg.New(pool), inbox, nil)
	require.NoError(t, err)
	ctx := t.Context()
	for i, commit := range []bool{false, true} {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		r, err := kind.Enqueue(ctx, svc.WithStore(mailerpg.New(tx)), mailer.To{Account: "a", Email: "ada@example.org"}, note{i}, "k")
		require.NoError(t, err)
		require.Equal(t, mailer.Queued, r.Status)
		_, err = svc.Lookup(ctx, r.ID)
		require.ErrorIs(t, err, mailer.ErrNotFound, "the mail must not be seen before the commit")
		if commit {
			require.NoError(t, tx.Commit(ctx))
		} else {
			require.NoError(t, tx.Rollback(ctx))
		}
	}
	_, err = svc.Flush(ctx)
	require.NoError(t, err)
	inbox.Says(inbox.One("ada@example.org", "test.note"), "Number 1.")
}

// TestHintWakesTheWorker needs no poll to find the mail.
func TestHintWakesTheWorker(t *testing.T) {
	pool := migrated(t)
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{})
	smtp, err := mailersmtp.New(mailersmtp.Config{Host: srv.Host, Port: srv.Port, TLS: mailersmtp.Insecure})
	require.NoError(t, err)
	defer smtp.Close()
	kind, svc, err := service(mailerpg.New(pool), smtp, func(cfg *mailer.Config) { cfg.Poll = time.Hour })
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	// A hint can come before the worker listens; enqueueing goes on until one
	// has woken it.
	for i := 0; len(srv.Received()) == 0; i++ {
		_, err := kind.Enqueue(ctx, svc, mailer.To{Account: "a", Email: "ada@example.org"}, note{i}, strconv.Itoa(i))
		require.NoError(t, err)
		wait, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		_ = srv.Wait(wait, 1) // the loop looks again
		stop()
	}
	cancel()
	require.NoError(t, <-ended)
}
