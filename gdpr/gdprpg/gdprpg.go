// Package gdprpg keeps the requests, tombstones, consents, keys and audit log
// of package gdpr in PostgreSQL, makes a gdpr.Source of any table, and finds
// the tables that no source covers.
package gdprpg

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/internal/pgmigrate"
	"github.com/kolekt/commerce/internal/pgtx"
)

// DB is what *pgxpool.Pool, *pgx.Conn and pgx.Tx have in common.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the numbered SQL files, for a migration tool of your own.
func Migrations() fs.FS { return pgmigrate.Files(migrations) }

// Migrate brings the tables to the newest version. It is safe to call from
// several processes at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Migrate(ctx, pool, "gdpr", Migrations())
}

// Verify returns an error when the tables lack migrations.
func Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Verify(ctx, pool, "gdpr", Migrations())
}

// Store is a gdpr.Store in PostgreSQL.
type Store struct{ db DB }

var _ gdpr.Store = (*Store)(nil)

// New returns a store on a pool, a connection or a transaction: on a
// transaction, everything is part of it.
func New(db DB) *Store { return &Store{db} }

// body is what a request keeps beside the columns that are searched.
type body struct {
	HeldFrom    gdpr.State      `json:"held_from,omitempty"`
	Note        string          `json:"note,omitempty"`
	ExtendedAt  time.Time       `json:"extended_at,omitzero"`
	StartAt     time.Time       `json:"start_at,omitzero"`
	FrozenAt    time.Time       `json:"frozen_at,omitzero"`
	RemindedAt  time.Time       `json:"reminded_at,omitzero"`
	ClosedAt    time.Time       `json:"closed_at,omitzero"`
	Steps       []gdpr.Step     `json:"steps,omitempty"`
	Certificate json.RawMessage `json:"certificate,omitempty"`
	Archive     gdpr.Archive    `json:"archive,omitzero"`
}

func encode(r gdpr.Request) ([]byte, error) {
	return json.Marshal(body{r.HeldFrom, r.Note, r.ExtendedAt, r.StartAt, r.FrozenAt, r.RemindedAt, r.ClosedAt, r.Steps, r.Certificate, r.Archive})
}

const requestColumns = `id, kind, subject_ref, state, received_at, due_at, next_run, lease_until, version, body, sealed`

func scan(row pgx.CollectableRow) (gdpr.Request, error) {
	var r gdpr.Request
	var b []byte
	var next, lease *time.Time
	err := row.Scan(&r.ID, &r.Kind, &r.SubjectRef, &r.State, &r.ReceivedAt, &r.DueAt, &next, &lease, &r.Version, &b, &r.Sealed)
	if err != nil {
		return r, err
	}
	var extra body
	if err := json.Unmarshal(b, &extra); err != nil {
		return r, err
	}
	r.HeldFrom, r.Note, r.ExtendedAt, r.StartAt, r.ClosedAt = extra.HeldFrom, extra.Note, extra.ExtendedAt, extra.StartAt, extra.ClosedAt
	r.FrozenAt, r.RemindedAt = extra.FrozenAt, extra.RemindedAt
	r.Steps, r.Certificate, r.Archive = extra.Steps, extra.Certificate, extra.Archive
	r.ReceivedAt, r.DueAt = r.ReceivedAt.UTC(), r.DueAt.UTC()
	r.NextRun, r.LeaseUntil = pgtx.Instant(next), pgtx.Instant(lease)
	return r, nil
}

// CreateRequest implements gdpr.Store.
func (s *Store) CreateRequest(ctx context.Context, r gdpr.Request, audit ...gdpr.Entry) error {
	b, err := encode(r)
	if err != nil {
		return fmt.Errorf("gdprpg: %w", err)
	}
	return pgtx.Do(ctx, s.db, "gdprpg", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			insert into gdpr_requests (id, kind, subject_ref, state, received_at, due_at, next_run, lease_until, closed, version, body, sealed)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $11)
			on conflict do nothing`,
			r.ID, r.Kind, r.SubjectRef, r.State, r.ReceivedAt, r.DueAt, pgtx.Null(r.NextRun), pgtx.Null(r.LeaseUntil), r.State.Closed(), b, r.Sealed)
		if err != nil {
			return fmt.Errorf("gdprpg: create request: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return gdpr.ErrActive
		}
		return appendAudit(ctx, tx, audit)
	})
}

// Request implements gdpr.Store.
func (s *Store) Request(ctx context.Context, id string) (gdpr.Request, error) {
	list, err := s.query(ctx, `select `+requestColumns+` from gdpr_requests where id = $1`, id)
	if err != nil {
		return gdpr.Request{}, err
	}
	if len(list) == 0 {
		return gdpr.Request{}, gdpr.ErrNotFound
	}
	return list[0], nil
}

func (s *Store) query(ctx context.Context, sql string, args ...any) ([]gdpr.Request, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("gdprpg: requests: %w", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("gdprpg: requests: %w", err)
	}
	return list, nil
}

// Requests implements gdpr.Store.
func (s *Store) Requests(ctx context.Context, f gdpr.Filter) ([]gdpr.Request, error) {
	if f.Limit == 0 {
		f.Limit = 100
	}
	return s.query(ctx, `
		select `+requestColumns+` from gdpr_requests
		where ($1 = '' or subject_ref = $1) and ($2 = '' or kind = $2) and (not $3 or not closed)
			and ($4::timestamptz is null or not closed and due_at < $4)
		order by received_at desc, id desc limit $5`,
		f.SubjectRef, string(f.Kind), f.Open, pgtx.Null(f.DueBefore), f.Limit)
}

// UpdateRequest implements gdpr.Store.
func (s *Store) UpdateRequest(ctx context.Context, r gdpr.Request, tombstones []gdpr.Tombstone, audit ...gdpr.Entry) error {
	b, err := encode(r)
	if err != nil {
		return fmt.Errorf("gdprpg: %w", err)
	}
	return pgtx.Do(ctx, s.db, "gdprpg", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update gdpr_requests set state = $3, due_at = $4, next_run = $5, lease_until = $6, closed = $7, body = $8, sealed = $9, version = version + 1
			where id = $1 and version = $2`,
			r.ID, r.Version, r.State, r.DueAt, pgtx.Null(r.NextRun), pgtx.Null(r.LeaseUntil), r.State.Closed(), b, r.Sealed)
		if err != nil {
			return fmt.Errorf("gdprpg: update request: %w", err)
		}
		if tag.RowsAffected() == 0 {
			var known bool
			if err := tx.QueryRow(ctx, `select exists (select from gdpr_requests where id = $1)`, r.ID).Scan(&known); err != nil {
				return fmt.Errorf("gdprpg: update request: %w", err)
			}
			if !known {
				return gdpr.ErrNotFound
			}
			return gdpr.ErrConflict
		}
		if err := putTombstones(ctx, tx, tombstones); err != nil {
			return err
		}
		return appendAudit(ctx, tx, audit)
	})
}

// Claim implements gdpr.Store.
func (s *Store) Claim(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]gdpr.Request, error) {
	// Locked rows are in the hands of another worker that is claiming them
	// at this moment.
	return s.query(ctx, `
		with due as (
			select id from gdpr_requests
			where next_run <= $1 and (lease_until is null or lease_until <= $1)
			order by next_run limit $3
			for update skip locked
		)
		update gdpr_requests r set lease_until = $2, version = version + 1
		from due where r.id = due.id
		returning r.id, r.kind, r.subject_ref, r.state, r.received_at, r.due_at, r.next_run, r.lease_until, r.version, r.body, r.sealed`,
		now, now.Add(lease), limit)
}

// Tombstoned implements gdpr.Store.
func (s *Store) Tombstoned(ctx context.Context, hashes []string) ([]gdpr.Tombstone, error) {
	rows, err := s.db.Query(ctx, `
		select hash, loose, request, erased_at, expires_at from gdpr_tombstones where hash = any ($1)
		union
		select hash, loose, request, erased_at, expires_at from gdpr_tombstones where loose = any ($1)`, hashes)
	if err != nil {
		return nil, fmt.Errorf("gdprpg: tombstones: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t gdpr.Tombstone, err error) {
		err = row.Scan(&t.Hash, &t.Loose, &t.Request, &t.ErasedAt, &t.ExpiresAt)
		t.ErasedAt, t.ExpiresAt = t.ErasedAt.UTC(), t.ExpiresAt.UTC()
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("gdprpg: tombstones: %w", err)
	}
	return list, nil
}

// PutTombstones implements gdpr.Store.
func (s *Store) PutTombstones(ctx context.Context, tombstones []gdpr.Tombstone) error {
	return putTombstones(ctx, s.db, tombstones)
}

func putTombstones(ctx context.Context, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, tombstones []gdpr.Tombstone) error {
	if len(tombstones) == 0 {
		return nil
	}
	var hash, loose, request []string
	var erased, expires []time.Time
	for _, t := range tombstones {
		hash, loose, request = append(hash, t.Hash), append(loose, t.Loose), append(request, t.Request)
		erased, expires = append(erased, t.ErasedAt), append(expires, t.ExpiresAt)
	}
	// In key order, so that two writers of the same hashes can't deadlock.
	_, err := db.Exec(ctx, `
		insert into gdpr_tombstones (hash, loose, request, erased_at, expires_at)
		select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[]) as t order by 1
		on conflict (hash) do nothing`, hash, loose, request, erased, expires)
	if err != nil {
		return fmt.Errorf("gdprpg: tombstones: %w", err)
	}
	return nil
}

// CountTombstones implements gdpr.Store.
func (s *Store) CountTombstones(ctx context.Context) (n int64, err error) {
	if err := s.db.QueryRow(ctx, `select count(*) from gdpr_tombstones`).Scan(&n); err != nil {
		return 0, fmt.Errorf("gdprpg: tombstones: %w", err)
	}
	return n, nil
}

// ExpireTombstones implements gdpr.Store.
func (s *Store) ExpireTombstones(ctx context.Context, before time.Time) (int64, error) {
	tag, err := s.db.Exec(ctx, `delete from gdpr_tombstones where expires_at < $1`, before)
	if err != nil {
		return 0, fmt.Errorf("gdprpg: tombstones: %w", err)
	}
	return tag.RowsAffected(), nil
}

// AppendConsent implements gdpr.Store.
func (s *Store) AppendConsent(ctx context.Context, c gdpr.ConsentEvent) error {
	_, err := s.db.Exec(ctx, `
		insert into gdpr_consents (id, subject_ref, purpose, version, text_hash, granted, at, method, locale)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (id) do nothing`,
		c.ID, c.SubjectRef, c.Purpose, c.Version, c.TextHash, c.Granted, c.At, c.Method, c.Locale)
	if err != nil {
		return fmt.Errorf("gdprpg: consent: %w", err)
	}
	return nil
}

// Consents implements gdpr.Store.
func (s *Store) Consents(ctx context.Context, subjectRef string) ([]gdpr.ConsentEvent, error) {
	rows, err := s.db.Query(ctx, `
		select id, subject_ref, purpose, version, text_hash, granted, at, method, locale
		from gdpr_consents where subject_ref = $1 order by at, ordinal`, subjectRef)
	if err != nil {
		return nil, fmt.Errorf("gdprpg: consents: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c gdpr.ConsentEvent, err error) {
		err = row.Scan(&c.ID, &c.SubjectRef, &c.Purpose, &c.Version, &c.TextHash, &c.Granted, &c.At, &c.Method, &c.Locale)
		c.At = c.At.UTC()
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("gdprpg: consents: %w", err)
	}
	return list, nil
}

// DeleteConsents implements gdpr.Store.
func (s *Store) DeleteConsents(ctx context.Context, subjectRef string) (int64, error) {
	tag, err := s.db.Exec(ctx, `delete from gdpr_consents where subject_ref = $1`, subjectRef)
	if err != nil {
		return 0, fmt.Errorf("gdprpg: consents: %w", err)
	}
	return tag.RowsAffected(), nil
}

// PutKey implements gdpr.Store.
func (s *Store) PutKey(ctx context.Context, subjectRef string, wrapped []byte) ([]byte, error) {
	if _, err := s.db.Exec(ctx, `insert into gdpr_keys (subject_ref, wrapped) values ($1, $2) on conflict do nothing`, subjectRef, wrapped); err != nil {
		return nil, fmt.Errorf("gdprpg: key: %w", err)
	}
	return s.Key(ctx, subjectRef)
}

// Key implements gdpr.Store.
func (s *Store) Key(ctx context.Context, subjectRef string) ([]byte, error) {
	var wrapped []byte
	err := s.db.QueryRow(ctx, `select wrapped from gdpr_keys where subject_ref = $1`, subjectRef).Scan(&wrapped)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, gdpr.ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("gdprpg: key: %w", err)
	case wrapped == nil:
		return nil, gdpr.ErrShredded
	}
	return wrapped, nil
}

// DestroyKey implements gdpr.Store.
func (s *Store) DestroyKey(ctx context.Context, subjectRef string, at time.Time) error {
	_, err := s.db.Exec(ctx, `
		update gdpr_keys set wrapped = null, destroyed_at = $2 where subject_ref = $1 and wrapped is not null`, subjectRef, at)
	if err != nil {
		return fmt.Errorf("gdprpg: key: %w", err)
	}
	return nil
}

// Audit implements gdpr.Store. It holds no connection between two pages.
func (s *Store) Audit(ctx context.Context, from int64) iter.Seq2[gdpr.Entry, error] {
	return func(yield func(gdpr.Entry, error) bool) {
		const page = 1000
		for {
			rows, err := s.db.Query(ctx, `
				select seq, at, request, subject_ref, action, detail, hash from gdpr_audit
				where seq >= $1 order by seq limit $2`, from, page)
			var entries []gdpr.Entry
			if err == nil {
				entries, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e gdpr.Entry, err error) {
					err = row.Scan(&e.Seq, &e.At, &e.Request, &e.SubjectRef, &e.Action, &e.Detail, &e.Hash)
					e.At = e.At.UTC()
					return e, err
				})
			}
			if err != nil {
				yield(gdpr.Entry{}, fmt.Errorf("gdprpg: audit: %w", err))
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			if len(entries) < page {
				return
			}
			from = entries[page-1].Seq + 1
		}
	}
}

// AppendAudit implements gdpr.Store.
func (s *Store) AppendAudit(ctx context.Context, entries ...gdpr.Entry) error {
	return pgtx.Do(ctx, s.db, "gdprpg", func(tx pgx.Tx) error { return appendAudit(ctx, tx, entries) })
}

// auditLock serialises the writers of the chain: each row's hash needs the one
// before it. The lock is taken last in every transaction and held for one
// statement and the commit.
const auditLock = 0x6764_7072_6175_6474 // "gdpraudt"

func appendAudit(ctx context.Context, tx pgx.Tx, entries []gdpr.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	// Schemas in one database have logs of their own.
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1 # hashtext(current_schema())::bigint)`, int64(auditLock)); err != nil {
		return fmt.Errorf("gdprpg: audit: %w", err)
	}
	var seq int64
	var previous string
	err := tx.QueryRow(ctx, `select seq, hash from gdpr_audit order by seq desc limit 1`).Scan(&seq, &previous)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("gdprpg: audit: %w", err)
	}
	for _, e := range entries {
		seq++
		e.Seq = seq
		e.At = e.At.UTC().Truncate(time.Microsecond)
		e.Hash = gdpr.ChainHash(previous, e)
		previous = e.Hash
		_, err := tx.Exec(ctx, `
			insert into gdpr_audit (seq, at, request, subject_ref, action, detail, hash) values ($1, $2, $3, $4, $5, $6, $7)`,
			e.Seq, e.At, e.Request, e.SubjectRef, e.Action, e.Detail, e.Hash)
		if err != nil {
			return fmt.Errorf("gdprpg: audit: %w", err)
		}
	}
	return nil
}

// Ignored returns this package's own tables that hold no personal data, for
// Coverage.Ignore: subjects stand in them as keyed hashes.
func Ignored() map[string]string {
	const why = "subjects are keyed hashes, identifiers are sealed until the request is closed"
	return map[string]string{
		"gdpr_requests": why, "gdpr_tombstones": why, "gdpr_keys": why, "gdpr_audit": why,
		"gdpr_schema_version": "migrations",
	}
}
