package apikeyspg_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeyspg"
	"github.com/kolekt/commerce/apikeys/apikeystest"
	"github.com/kolekt/commerce/internal/pgmigrate"
	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
)

func TestMain(m *testing.M) {
	// The shared test server lives as long as the test binary.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/kolekt/commerce/internal/services.startProcess.func1"))
}

var (
	ctx     = context.Background()
	op      = apikeys.Operator("op")
	owner   = apikeys.Account("acct_1")
	peppers = []apikeys.Pepper{{ID: 1, Secret: []byte(strings.Repeat("p", 32))}}
)

func proof(small, large int) int {
	if os.Getenv("COMMERCE_PROVE") != "" {
		return large
	}
	return small
}

func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, apikeyspg.Migrate(ctx, pool))
	return pool
}

func newService(t testing.TB, store apikeys.Store, change ...func(*apikeys.Config)) *apikeys.Service {
	t.Helper()
	cfg := apikeys.Config{Prefix: "acme", Peppers: peppers, MaxKeys: -1}
	for _, f := range change {
		f(&cfg)
	}
	s, err := apikeys.New(store, cfg)
	require.NoError(t, err)
	return s
}

func issue(t testing.TB, s *apikeys.Service) (string, apikeys.Key) {
	t.Helper()
	token, k, err := s.Issue(ctx, op, apikeys.NewKey{Owner: owner, Name: "n", Scopes: []string{"read"}})
	require.NoError(t, err)
	return token.Reveal(), k
}

func TestStore(t *testing.T) {
	apikeystest.TestStore(t, func(t testing.TB) apikeys.Store { return apikeyspg.New(migrated(t)) })
}

func TestVerifySaysThatMigrationsAreMissing(t *testing.T) {
	pool := pgtest.Pool(t)
	require.ErrorIs(t, apikeyspg.Verify(ctx, pool), pgmigrate.ErrBehind)
	require.NoError(t, apikeyspg.Migrate(ctx, pool))
	require.NoError(t, apikeyspg.Migrate(ctx, pool))
	require.NoError(t, apikeyspg.Verify(ctx, pool))
}

// TestChangesJoinTheCallersTransaction issues a key in a transaction that is
// rolled back, and in one that commits.
func TestChangesJoinTheCallersTransaction(t *testing.T) {
	pool := migrated(t)
	outside := newService(t, apikeyspg.New(pool))
	for _, commit := range []bool{false, true} {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		token, _ := issue(t, newService(t, apikeyspg.New(tx)))
		if commit {
			require.NoError(t, tx.Commit(ctx))
		} else {
			require.NoError(t, tx.Rollback(ctx))
		}
		d, err := outside.Verify(ctx, token, apikeys.Client{})
		require.NoError(t, err)
		require.Equal(t, commit, d.Allowed())
	}
	head, err := outside.VerifyAudit(ctx, apikeys.Head{})
	require.NoError(t, err)
	require.EqualValues(t, 1, head.Seq)
}

// TestRevocationReachesOtherProcessesByNotification polls so rarely that only
// a notification can bring it.
func TestRevocationReachesOtherProcessesByNotification(t *testing.T) {
	pool := migrated(t)
	a := newService(t, apikeyspg.New(pool))
	b := newService(t, apikeyspg.New(pool), func(c *apikeys.Config) {
		c.Bus, c.PollInterval, c.MaxStaleness = apikeyspg.NewBus(pool), time.Hour, time.Hour
	})
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.Run(run) }()
	defer func() {
		stop()
		require.NoError(t, <-done)
	}()
	listening := func() bool {
		var n int
		require.NoError(t, pool.QueryRow(ctx, "select count(*) from pg_stat_activity where query like 'listen apikeys%' and pid <> pg_backend_pid()").Scan(&n))
		return n > 0 && b.Stats().Behind >= 0
	}
	require.Eventually(t, listening, 30*time.Second, 5*time.Millisecond)
	for round := range 5 {
		token, k := issue(t, a)
		accepted := func() bool {
			d, err := b.Verify(ctx, token, apikeys.Client{})
			require.NoError(t, err)
			return d.Allowed()
		}
		require.True(t, accepted())
		require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
		require.Eventually(t, func() bool { return !accepted() }, 30*time.Second, time.Millisecond)
		if round == 2 { // the connection dies, and comes back by itself
			_, err := pool.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen apikeys%' and pid <> pg_backend_pid()")
			require.NoError(t, err)
			require.Eventually(t, listening, 30*time.Second, 5*time.Millisecond)
		}
	}
}

// TestNothingAcknowledgedIsLostWhenTheServerIsKilled kills the server again
// and again under writers. What was acknowledged must be there; no key has two
// successors or half of one; the log's chain holds.
func TestNothingAcknowledgedIsLostWhenTheServerIsKilled(t *testing.T) {
	server := pgtest.Server(t, services.PostgresConfig{Durable: true})
	pool := pgtest.PoolOn(t, server.URL())
	require.NoError(t, apikeyspg.Migrate(ctx, pool))
	s := newService(t, apikeyspg.New(pool))
	kills, writers := proof(2, 20), 4
	type issued struct{ token, id string }
	var mu sync.Mutex
	var acked []issued
	var revoked []issued
	var unknown atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				limited, cancel := context.WithTimeout(ctx, 5*time.Second)
				err := func() error {
					defer cancel()
					token, k, err := s.Issue(limited, op, apikeys.NewKey{Owner: owner, Name: fmt.Sprint(i, n)})
					if err != nil {
						return err
					}
					mu.Lock()
					acked = append(acked, issued{token.Reveal(), k.ID})
					mu.Unlock()
					next, nk, err := s.Rotate(limited, op, k.ID, apikeys.Rotation{Overlap: time.Hour})
					if err != nil {
						return err
					}
					mu.Lock()
					acked = append(acked, issued{next.Reveal(), nk.ID})
					mu.Unlock()
					if err := s.Revoke(limited, op, k.ID, ""); err != nil {
						return err
					}
					mu.Lock()
					revoked = append(revoked, issued{token.Reveal(), k.ID})
					mu.Unlock()
					return nil
				}()
				if err != nil {
					if !errors.Is(err, apikeys.ErrUnavailable) {
						t.Errorf("not a fault of the store: %v", err)
					}
					unknown.Add(1)
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	for range kills {
		before := count()
		require.Eventually(t, func() bool { return count() > before+proof(50, 500) }, 2*time.Minute, time.Millisecond)
		require.NoError(t, server.Kill())
		// The killed server's last children may still hold its memory.
		require.Eventually(t, func() bool { return server.Start() == nil }, time.Minute, 50*time.Millisecond)
	}
	close(stop)
	wg.Wait()

	fresh := newService(t, apikeyspg.New(pool))
	gone := map[string]bool{}
	for _, k := range revoked {
		gone[k.id] = true
		d, err := fresh.Verify(ctx, k.token, apikeys.Client{})
		require.NoError(t, err)
		require.Equal(t, apikeys.ReasonRevoked, d.Reason)
	}
	for _, k := range acked {
		d, err := fresh.Verify(ctx, k.token, apikeys.Client{})
		require.NoError(t, err)
		require.Equal(t, k.id, d.KeyID, "acknowledged and lost")
		if !gone[k.id] && !d.Allowed() {
			require.Equal(t, apikeys.ReasonRevoked, d.Reason, "only a revocation of unknown outcome")
		}
	}
	var half int
	require.NoError(t, pool.QueryRow(ctx, `
		select count(*) from apikeys_keys k left join apikeys_keys n on n.id = k.successor
		where k.successor <> '' and n.predecessor is distinct from k.id`).Scan(&half))
	require.Zero(t, half)
	head, err := fresh.VerifyAudit(ctx, apikeys.Head{})
	require.NoError(t, err)
	t.Logf("%d kills, %d acknowledged, %d unknown outcomes, %d log entries: 0 lost, 0 half rotations", kills, len(acked), unknown.Load(), head.Seq)
}

// TestUsesOfManyProcessesDoNotBlockEachOther writes the same keys from many
// sides, in every order, while they are changed.
func TestUsesOfManyProcessesDoNotBlockEachOther(t *testing.T) {
	store := apikeyspg.New(migrated(t))
	s := newService(t, store)
	var ids []string
	for range 50 {
		_, k := issue(t, s)
		ids = append(ids, k.ID)
	}
	var wg sync.WaitGroup
	var failed atomic.Value
	for i := range 8 {
		wg.Go(func() {
			for n := range 10 {
				uses := make([]apikeys.Use, len(ids))
				for j, id := range ids {
					uses[j] = apikeys.Use{Key: id, At: time.Unix(int64(i*100+n), 0).UTC()}
				}
				if i%2 == 0 {
					slices.Reverse(uses)
				}
				if err := store.RecordUses(ctx, uses); err != nil {
					failed.Store(err)
				}
				if _, err := s.RevokeOwner(ctx, op, apikeys.Account(fmt.Sprint("none", n)), ""); err != nil {
					failed.Store(err)
				}
				name := fmt.Sprint(i, n)
				if _, err := s.Update(ctx, op, ids[n], apikeys.Update{Name: &name}); err != nil {
					failed.Store(err)
				}
			}
		})
	}
	wg.Wait()
	require.Nil(t, failed.Load())
	keys, err := store.List(ctx, apikeys.Query{Owner: owner})
	require.NoError(t, err)
	for _, k := range keys {
		require.Equal(t, time.Unix(709, 0).UTC(), k.LastUsed.At)
	}
}

// TestRowsWrittenByHandAreNoKeys is about somebody who can write to the
// database but doesn't know the pepper.
func TestRowsWrittenByHandAreNoKeys(t *testing.T) {
	pool := migrated(t)
	s := newService(t, apikeyspg.New(pool))
	plain, err := apikeys.New(apikeyspg.New(pool), apikeys.Config{Prefix: "acme"})
	require.NoError(t, err)
	planted, _, err := plain.Issue(ctx, op, apikeys.NewKey{Owner: owner, Name: "planted", Scopes: []string{"read"}})
	require.NoError(t, err)
	d, err := s.Verify(ctx, planted.Reveal(), apikeys.Client{})
	require.NoError(t, err)
	require.Equal(t, apikeys.ReasonUnknown, d.Reason)
	_, err = pool.Exec(ctx, "update apikeys_log set actor = 'nobody' where seq = 1")
	require.NoError(t, err)
	_, err = s.VerifyAudit(ctx, apikeys.Head{})
	require.ErrorIs(t, err, apikeys.ErrAltered)
	require.ErrorContains(t, err, "entry 1")
}

func TestErrorsQuoteNoValues(t *testing.T) {
	pool := migrated(t)
	s := newService(t, apikeyspg.New(pool))
	issue(t, s)
	_, err := pool.Exec(ctx, "alter table apikeys_keys add check (name <> 'canary-name')")
	require.NoError(t, err)
	_, _, err = s.Issue(ctx, op, apikeys.NewKey{Owner: owner, Name: "canary-name"})
	require.ErrorIs(t, err, apikeys.ErrUnavailable)
	require.NotContains(t, err.Error(), "canary")
	require.NotContains(t, err.Error(), `\x`)
}
