package gdprpg_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/internal/pgtest"
)

// A child process works on a request and kills itself, with SIGKILL, at its
// nth step; the parent then finishes the work and looks at what is left.
const (
	childURL  = "GDPR_CHILD_URL"
	childDir  = "GDPR_CHILD_DIR"
	childStep = "GDPR_CHILD_STEP"
)

var killEpoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// fatal counts the steps of the saga, inside the store and inside the sources,
// and kills the process at one of them.
type fatal struct {
	gdpr.Store
	steps *int
	at    int
}

func (f fatal) step() {
	*f.steps++
	if *f.steps == f.at {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (f fatal) UpdateRequest(ctx context.Context, r gdpr.Request, ts []gdpr.Tombstone, audit ...gdpr.Entry) error {
	f.step()
	err := f.Store.UpdateRequest(ctx, r, ts, audit...)
	f.step()
	return err
}

func (f fatal) DestroyKey(ctx context.Context, ref string, at time.Time) error {
	f.step()
	err := f.Store.DestroyKey(ctx, ref, at)
	f.step()
	return err
}

type fatalSource struct {
	gdpr.Source
	f fatal
}

func (s fatalSource) Erase(ctx context.Context, subject gdpr.Subject, cursor string) (gdpr.Outcome, error) {
	s.f.step()
	out, err := s.Source.Erase(ctx, subject, cursor)
	s.f.step()
	return out, err
}

func (s fatalSource) Export(ctx context.Context, subject gdpr.Subject, sink *gdpr.Sink) error {
	s.f.step()
	err := s.Source.Export(ctx, subject, sink)
	s.f.step()
	return err
}

// killable returns a service over two tables; late is how far its clock is
// ahead.
func killable(pool *pgxpool.Pool, dir string, at int, late time.Duration) (*gdpr.Service, *int, error) {
	steps := new(int)
	store := fatal{gdprpg.New(pool), steps, at}
	var sources []gdpr.Source
	for _, name := range []string{"posts", "likes"} {
		src, err := gdprpg.NewTable(pool, gdprpg.Table{Descriptor: described(name), Table: name, By: "author", Columns: []string{"id", "body"}, Page: 2})
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, fatalSource{src, store})
	}
	s, err := gdpr.New(store, gdpr.Config{
		Pepper:  bytes.Repeat([]byte("p"), 32),
		Sources: sources,
		Files:   gdpr.DirFiles(dir),
		Journal: gdpr.NewFileJournal(filepath.Join(dir, "journal")),
		Subject: func(_ context.Context, id string) (gdpr.Subject, error) {
			return gdpr.Subject{ID: id, Epoch: killEpoch}, nil
		},
		Grace: -1,
		Now:   func() time.Time { return time.Now().Add(late) },
	})
	return s, steps, err
}

func TestChildProcess(t *testing.T) {
	url := os.Getenv(childURL)
	if url == "" {
		t.Skip("runs as the child of TestKilledAtEveryStepAndResumed")
	}
	at, err := strconv.Atoi(os.Getenv(childStep))
	require.NoError(t, err)
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(t, err)
	s, _, err := killable(pool, os.Getenv(childDir), at, 0)
	require.NoError(t, err)
	_, err = s.Work(context.Background())
	require.NoError(t, err)
}

func TestKilledAtEveryStepAndResumed(t *testing.T) {
	ctx := context.Background()
	url := pgtest.URL(t)
	pool, err := pgxpool.New(ctx, url)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, gdprpg.Migrate(ctx, pool))
	_, err = pool.Exec(ctx, `create table posts (id int generated always as identity, author text, body text); create table likes (like posts including identity)`)
	require.NoError(t, err)

	for _, kind := range []gdpr.Kind{gdpr.Erasure, gdpr.Access} {
		killed := 0
		for at := 1; ; at++ {
			name := fmt.Sprintf("%s-%d", kind, at)
			dir := t.TempDir()
			_, err = pool.Exec(ctx, `delete from posts; delete from likes`)
			require.NoError(t, err)
			_, err = pool.Exec(ctx, `
				with who as (select unnest(array[$1, 'bob']) as author)
				, p as (insert into posts (author, body) select author, 'canary-' || author from who, generate_series(1, 3))
				insert into likes (author, body) select author, 'canary-' || author from who, generate_series(1, 3)`, name)
			require.NoError(t, err)
			s, _, err := killable(pool, dir, 0, 0)
			require.NoError(t, err)
			r, err := s.Ask(ctx, kind, name, true)
			require.NoError(t, err)

			child := exec.Command(os.Args[0], "-test.run=^TestChildProcess$")
			child.Env = append(os.Environ(), childURL+"="+url, childDir+"="+dir, childStep+"="+strconv.Itoa(at))
			out, err := child.CombinedOutput()
			var exit *exec.ExitError
			if err == nil {
				break // the work has fewer steps than this
			}
			require.True(t, errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL, "%s: %v: %s", name, err, out)
			killed++

			// Another process, after the dead one's lease.
			s, _, err = killable(pool, dir, 0, 6*time.Minute)
			require.NoError(t, err)
			_, err = s.Work(ctx)
			require.NoError(t, err)
			done, err := s.Request(ctx, r.ID)
			require.NoError(t, err)
			if kind == gdpr.Access {
				require.Equal(t, gdpr.Ready, done.State, name)
				archive, err := s.OpenArchive(ctx, done)
				require.NoError(t, err)
				require.NoError(t, archive.Close())
				files, err := filepath.Glob(dir + "/*.age")
				require.NoError(t, err)
				require.Len(t, files, 1, name)
				continue
			}
			require.Equal(t, gdpr.Done, done.State, name)
			var left, bobs int
			require.NoError(t, pool.QueryRow(ctx, `
				select count(*) filter (where author = $1), count(*) filter (where author = 'bob') from (table posts union all table likes) x`, name).Scan(&left, &bobs))
			require.Zero(t, left, name)
			require.Equal(t, 6, bobs, name)
			require.NoError(t, s.CheckJournal(ctx), name)
			require.NotContains(t, strings.ToLower(string(done.Certificate)), "canary")
		}
		require.Greater(t, killed, 6, "%s has more steps than that", kind)
		s, _, err := killable(pool, t.TempDir(), 0, 0)
		require.NoError(t, err)
		_, err = s.VerifyAudit(ctx)
		require.NoError(t, err)
		t.Logf("%s: killed at %d steps, resumed after each", kind, killed)
	}
}
