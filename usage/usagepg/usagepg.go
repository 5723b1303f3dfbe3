// Package usagepg is a usage.Store in PostgreSQL 14 or newer, without
// extensions.
//
// Events lie in monthly partitions that are made when they are needed and
// dropped as a whole. What Aggregate reads, an account's and the platform's
// quarters of an hour, is written in the same commit as the event: a quarter fits
// the days and hours of every time zone of today. Maintain folds days that are
// over into a row a month, and packs the events of a month that is long over: call
// it daily.
//
// On a pool, callers of Apply who wait at the same time share a transaction:
// one lock, one write and one flush to disk for all of them, in the order in
// which they came. That makes a hot account dozens of times faster than an
// UPDATE for each. A lone caller waits for nobody.
package usagepg

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgmigrate"
	"github.com/kolekt/commerce/usage"
)

// DB is what the store needs of a database: *pgxpool.Pool, *pgx.Conn and
// pgx.Tx have it. On a pgx.Tx everything is committed with the caller's own
// changes, or not at all.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Config has a good default for everything.
type Config struct {
	// Retention is how long events, days, counters, delivered notices and
	// settled keys are kept by Maintain, counted in whole months: for ever
	// when zero. The platform's totals stay.
	Retention time.Duration
	// KeyRetention is how long the keys of events are remembered, and those
	// of quota steps beyond their period: 36 days when zero. It must be longer
	// than usage.Config.MaxAge, or a very late retry is counted twice.
	KeyRetention time.Duration
	// PackAfter is how long after its end Maintain packs a month's events: a
	// sixth of the room, still counted, exported and erased as ever, but not
	// for SQL of one's own. 40 days when zero, and at least a day; never when
	// negative. Questions that quarters of an hour can't answer take longer over
	// packed events.
	PackAfter time.Duration
	// Timeout bounds a shared transaction, which no single caller's context
	// ends: 10 seconds when zero.
	Timeout time.Duration
}

// Store is a usage.Store.
type Store struct {
	db    DB
	pool  *pgxpool.Pool // nil when db is a connection or transaction
	cfg   Config
	seed  maphash.Seed
	lanes [lanes]*lane[*step] // of a pool
	// months and counters are known to exist.
	months   known[string]
	counters known[counterKey]
	// granted are the accounts and meters that have or had grants.
	granted known[usage.AccountMeter]
	// duplicates is for how many batches more the keys that were taken are
	// asked for; see append.
	duplicates atomic.Int32
	appends    *lane[*appending] // of a pool
}

var _ usage.Store = (*Store)(nil)

// New returns a store with the default configuration. Call Migrate first.
func New(db DB) *Store { return NewWith(db, Config{}) }

// NewWith returns a store.
func NewWith(db DB, cfg Config) *Store {
	if cfg.KeyRetention == 0 {
		cfg.KeyRetention = 36 * 24 * time.Hour
	}
	if cfg.PackAfter == 0 {
		cfg.PackAfter = 40 * 24 * time.Hour
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	s := &Store{db: db, cfg: cfg, seed: maphash.MakeSeed()}
	var ok bool
	if s.pool, ok = db.(*pgxpool.Pool); ok {
		for i := range s.lanes {
			s.lanes[i] = s.newLane()
		}
		s.appends = s.newAppends()
	}
	return s
}

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the numbered SQL files, for a migration tool of one's own.
func Migrations() fs.FS { return pgmigrate.Files(migrations) }

// Migrate brings the schema up to date. Several processes may call it at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Migrate(ctx, pool, "usage", Migrations())
}

// Verify returns an error when the schema lacks migrations.
func Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Verify(ctx, pool, "usage", Migrations())
}

// known is a bounded set of what is known to exist.
type known[K comparable] struct {
	mu  sync.Mutex
	set map[K]struct{}
}

const maxKnown = 100_000

func (k *known[K]) has(key K) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.set[key]
	return ok
}

func (k *known[K]) add(key K) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil || len(k.set) >= maxKnown {
		k.set = map[K]struct{}{}
	}
	k.set[key] = struct{}{}
}

func (k *known[K]) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set = nil
}

const maxTries = 8

// tx runs f in a transaction: begin travels with f's first batch and commit
// with its last, where the store has a pool. f sends its last batch with
// work.commit, or returns without having done so to roll back. A deadlock, a
// serialization failure or a raced key is tried again.
func (s *Store) tx(ctx context.Context, f func(w *work) error) error {
	for try := 1; ; try++ {
		err := s.once(ctx, f)
		if err == nil || try == maxTries || ctx.Err() != nil || !again(err) {
			return kindOf(err)
		}
	}
}

func (s *Store) once(ctx context.Context, f func(w *work) error) (err error) {
	w := &work{ctx: ctx}
	if s.pool == nil {
		tx, err := s.db.Begin(ctx)
		if err != nil {
			return err
		}
		w.db, w.tx = tx, tx
		defer func() {
			if !w.committed {
				_ = tx.Rollback(context.WithoutCancel(ctx)) // f's error is the one that counts
			}
		}()
		return f(w)
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // closes a connection that is still in a transaction
	w.db, w.begin = conn, true
	err = f(w)
	if !w.begin && !w.committed && !conn.Conn().IsClosed() {
		_, rollbackErr := conn.Exec(context.WithoutCancel(ctx), "rollback")
		err = errors.Join(err, rollbackErr)
	}
	return err
}

// A plan for the very arrays of a call is a little better and takes longer than
// the statement. Without joins by hash or merge, and without rows put aside,
// there is no other way left than to look each key up.
const planOnce = `
select set_config('plan_cache_mode', 'force_generic_plan', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('enable_material', 'off', true)`

// work is a transaction under way.
type work struct {
	ctx context.Context
	db  interface {
		SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	}
	tx        pgx.Tx
	begin     bool // still to be sent
	keyed     bool // nothing but short statements that are planned once
	committed bool
}

// send sends the statements in one round trip and hands each one's result to
// its own Query, Exec or QueryRow callback.
func (w *work) send(b *pgx.Batch) error {
	if w.begin {
		with := &pgx.Batch{}
		with.Queue("begin")
		// All these statements go by keys. A plan that was made while a table
		// was small would go on reading it from end to end.
		with.Queue("set local enable_seqscan = off")
		if w.keyed {
			with.Queue(planOnce)
		}
		with.QueuedQueries = append(with.QueuedQueries, b.QueuedQueries...)
		b, w.begin = with, false
	}
	return w.db.SendBatch(w.ctx, b).Close()
}

// commit sends the statements and the commit in one round trip.
func (w *work) commit(b *pgx.Batch) error {
	if w.tx == nil {
		b.Queue("commit").Exec(func(tag pgconn.CommandTag) error {
			if tag.String() != "COMMIT" {
				return fmt.Errorf("usagepg: commit answered %s", tag)
			}
			return nil
		})
		err := w.send(b)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			w.committed = true
		case !errors.As(err, &pg):
			// The server may have got the commit.
			err = &unknownOutcomeError{err}
		}
		return err
	}
	if err := w.send(b); err != nil {
		return err
	}
	err := w.tx.Commit(w.ctx)
	if err == nil {
		w.committed = true
		return nil
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) && !errors.Is(err, pgx.ErrTxCommitRollback) {
		err = &unknownOutcomeError{err}
	}
	return err
}

// unknownOutcomeError is a lost connection at a commit.
type unknownOutcomeError struct{ err error }

func (e *unknownOutcomeError) Error() string   { return e.err.Error() }
func (e *unknownOutcomeError) Unwrap() []error { return []error{usage.ErrUnknownOutcome, e.err} }

// errRaced says that somebody else has stored the same key in the meantime.
var errRaced = errors.New("usagepg: raced")

func again(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "40001" || pg.Code == "40P01" || pg.Code == "23505"
	}
	return errors.Is(err, errRaced)
}

// kindOf gives a database error its kind: out of reach, or the data's fault.
func kindOf(err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil, errors.Is(err, usage.ErrUnknownOutcome), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &pg):
		switch pg.Code[:2] {
		case "22", "23": // the data doesn't fit
			if pg.Code == "22003" {
				return fmt.Errorf("%w: %w", usage.ErrOverflow, err)
			}
			return fmt.Errorf("%w: %w", usage.ErrInvalid, err)
		case "08", "53", "57", "40", "55", "58":
			return fmt.Errorf("%w: %w", usage.ErrUnavailable, err)
		}
		return fmt.Errorf("usagepg: %w", err)
	case isKind(err):
		return err
	}
	return fmt.Errorf("%w: %w", usage.ErrUnavailable, err)
}

// isKind reports whether the error comes from the core.
func isKind(err error) bool {
	for _, kind := range []error{
		usage.ErrInvalid, usage.ErrKeyReused, usage.ErrNotFound, usage.ErrSettled, usage.ErrOverflow, usage.ErrUnavailable,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
