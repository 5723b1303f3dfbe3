// Package apikeyspg keeps API keys in PostgreSQL.
//
//	if err := apikeyspg.Migrate(ctx, pool); err != nil {
//		return err
//	}
//	store := apikeyspg.New(pool)
//	bus := apikeyspg.NewBus(pool)
//
// The pool must lead to the primary: a replica that lags would stretch
// Config.MaxStaleness by its lag.
package apikeyspg

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/internal/pgmigrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the numbered SQL files, for a migration tool of one's
// own. They are in tern's format: what follows "create above / drop below"
// undoes what precedes it.
func Migrations() fs.FS { return pgmigrate.Files(migrations) }

// Migrate brings the tables to the newest version. Several processes may call
// it at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Migrate(ctx, pool, "apikeys", Migrations())
}

// Verify returns an error when the tables lack migrations.
func Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Verify(ctx, pool, "apikeys", Migrations())
}

// DB is what *pgxpool.Pool, *pgx.Conn and pgx.Tx have in common. With a
// pgx.Tx, changes join the caller's transaction: they take effect when it
// commits, and the service that made them may still know the key as it was
// before, or as it never became, for MaxStaleness.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Store is an apikeys.Store in PostgreSQL.
type Store struct{ db DB }

// New returns a store on the database. It needs the tables that Migrate makes.
func New(db DB) *Store { return &Store{db: db} }

// columns are those that a row reads, in this order. The one row of
// apikeys_epoch is a subselect because a join costs each look-up microseconds.
const columns = `
	k.id, k.lineage, k.predecessor, k.successor,
	k.owner_kind, k.owner_id, k.name, k.environment, k.hint, k.scopes, k.networks, k.metadata,
	k.created_at, k.created_by, k.activated_at, k.expires_at, k.disabled_at, k.revoked_at, k.revoked_for,
	k.replaced_at, k.overlap_us, k.sunset_at, k.used_at, k.used_addr, k.used_agent,
	k.hash, k.pepper, k.tag, k.scheme, k.verifier,
	(select revoked_before from apikeys_epoch)
	from apikeys_keys k`

const (
	findOneSQL  = `select` + columns + ` where k.hash = $1`
	findManySQL = `select` + columns + ` where k.hash = any ($1) order by array_position($1, k.hash) limit 1`

	// The head is locked before anything is read: changes follow one another,
	// so that none sees what another is about to replace, the log has no
	// gaps, and its order is that of the commits.
	lockSQL    = `select seq, hash from apikeys_head for update`
	byIDsSQL   = `select` + columns + ` where k.id = any ($1) order by k.id for update of k`
	byOwnerSQL = `select` + columns + `
		where k.owner_id = $1 and k.owner_kind = $2
		and ($3 or k.revoked_at is null
			and k.created_at >= (select revoked_before from apikeys_epoch))
		order by k.id limit $4 for update of k`
	deleteSQL   = `delete from apikeys_keys where id = any ($1)`
	moveHeadSQL = `update apikeys_head set seq = $1, hash = $2`
	revokeSQL   = `
		update apikeys_epoch set revoked_before = $1 where revoked_before < $1`
	notifySQL = `select pg_notify('` + channel + `', '')`

	// Everything but the last use, which recordUsesSQL writes.
	putSQL = `
		insert into apikeys_keys (
			id, lineage, predecessor, successor, owner_kind, owner_id, name, environment, hint,
			scopes, networks, metadata, created_at, created_by, activated_at, expires_at,
			disabled_at, revoked_at, revoked_for, replaced_at, overlap_us, sunset_at,
			hash, pepper, tag, scheme, verifier)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9,
			$10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27)
		on conflict (id) do update set
			lineage = excluded.lineage, predecessor = excluded.predecessor, successor = excluded.successor,
			owner_kind = excluded.owner_kind, owner_id = excluded.owner_id, name = excluded.name,
			environment = excluded.environment, hint = excluded.hint, scopes = excluded.scopes,
			networks = excluded.networks, metadata = excluded.metadata, created_at = excluded.created_at,
			created_by = excluded.created_by, activated_at = excluded.activated_at,
			expires_at = excluded.expires_at, disabled_at = excluded.disabled_at,
			revoked_at = excluded.revoked_at, revoked_for = excluded.revoked_for,
			replaced_at = excluded.replaced_at, overlap_us = excluded.overlap_us,
			sunset_at = excluded.sunset_at, hash = excluded.hash, pepper = excluded.pepper,
			tag = excluded.tag, scheme = excluded.scheme, verifier = excluded.verifier`
	appendSQL = `
		insert into apikeys_log (seq, at, action, key_id, owner_kind, owner_id, actor, detail, salt, digest, hash)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

	rehashSQL = `
		update apikeys_keys set hash = $3, pepper = $4, scheme = '', verifier = null
		where id = $1 and hash = $2`

	// Rows are locked in order of ID, as byIDsSQL does, so that two batches
	// don't wait for each other.
	recordUsesSQL = `
		with used as (
			select * from unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[]) as u (id, at, addr, agent)
		), locked as (
			select k.id from apikeys_keys k where k.id = any ($1) order by k.id for update
		)
		update apikeys_keys k set used_at = u.at, used_addr = u.addr, used_agent = u.agent
		from used u join locked l on l.id = u.id
		where k.id = l.id and (k.used_at is null or k.used_at < u.at)`

	logSQL = `
		select seq, at, action, key_id, owner_kind, owner_id, actor, detail, salt, digest, hash
		from apikeys_log where seq > $1`
	headSQL = `select seq, hash from apikeys_head`

	forgetMakerSQL = `
		with locked as (
			select id from apikeys_keys where created_by = $1 order by id limit $2 for update
		)
		update apikeys_keys k set created_by = '' from locked l where k.id = l.id`
	forgetSQL = `
		with locked as (
			select seq from apikeys_log where owner_id = $1 or actor = $1 order by seq limit $2 for update
		)
		update apikeys_log g set owner_kind = '', owner_id = '', actor = '', detail = '{}', salt = ''
		from locked l where g.seq = l.seq`

	peppersSQL = `
		with live as (
			select pepper, tag from apikeys_keys where revoked_at is null
			and created_at >= (select revoked_before from apikeys_epoch)
		)
		select pepper, sum(hashed)::bigint, sum(tagged)::bigint from (
			select pepper, count(*) as hashed, 0 as tagged from live group by pepper
			union all
			select tag, 0, count(*) from live group by tag
		) as counts group by pepper order by pepper`
)

// Find implements apikeys.Store.
func (s *Store) Find(ctx context.Context, hashes []apikeys.Hash) (apikeys.Record, error) {
	var row pgx.Row
	if len(hashes) == 1 {
		row = s.db.QueryRow(ctx, findOneSQL, hashes[0][:])
	} else {
		many := make([][]byte, len(hashes))
		for i := range hashes {
			many[i] = hashes[i][:]
		}
		row = s.db.QueryRow(ctx, findManySQL, many)
	}
	r, err := scanRecord(row)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, apikeys.ErrNotFound
	}
	return r, fail("find a key", err)
}

// Change implements apikeys.Store.
func (s *Store) Change(ctx context.Context, sel apikeys.Selection, decide func([]apikeys.Record) (apikeys.Delta, error)) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return fail("begin", err)
	}
	// After Commit this does nothing; before it, an error has been returned already.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var head apikeys.Head
	if err := tx.QueryRow(ctx, lockSQL).Scan(&head.Seq, &head.Hash); err != nil {
		return fail("lock the head of the log", err)
	}
	found, err := selected(ctx, tx, sel)
	if err != nil {
		return fail("read keys", err)
	}
	d, err := decide(found)
	if err != nil {
		return err
	}
	if err := write(ctx, tx, head, d); err != nil {
		return err
	}
	return fail("commit", tx.Commit(ctx))
}

func selected(ctx context.Context, tx pgx.Tx, sel apikeys.Selection) ([]apikeys.Record, error) {
	var rows pgx.Rows
	var err error
	switch {
	case sel.Owner.ID != "":
		var limit any
		if sel.Limit > 0 {
			limit = sel.Limit
		}
		rows, err = tx.Query(ctx, byOwnerSQL, sel.Owner.ID, sel.Owner.Kind, sel.Revoked, limit)
	case len(sel.IDs) > 0:
		rows, err = tx.Query(ctx, byIDsSQL, sel.IDs)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (apikeys.Record, error) { return scanRecord(row) })
}

// write sends everything that a change writes in one round trip.
func write(ctx context.Context, tx pgx.Tx, head apikeys.Head, d apikeys.Delta) error {
	var b pgx.Batch
	for i := range d.Put {
		args, err := putArgs(&d.Put[i])
		if err != nil {
			return fail("encode a key", err)
		}
		b.Queue(putSQL, args...)
	}
	if len(d.Delete) > 0 {
		b.Queue(deleteSQL, d.Delete)
	}
	for _, e := range d.Log {
		e, head = head.Seal(e)
		detail := e.Detail
		if detail == nil {
			detail = map[string]string{}
		}
		text, err := json.Marshal(detail)
		if err != nil {
			return fail("encode a log entry", err)
		}
		b.Queue(appendSQL, e.Seq, e.At, e.Action, e.Key, e.Owner.Kind, e.Owner.ID, e.Actor, text, e.Salt, e.Digest, e.Hash)
	}
	if n := len(d.Log); n > 0 {
		b.Queue(moveHeadSQL, head.Seq, head.Hash)
		b.Queue(notifySQL)
	}
	if !d.RevokeBefore.IsZero() {
		b.Queue(revokeSQL, d.RevokeBefore)
	}
	if b.Len() == 0 {
		return nil
	}
	return fail("write a change", tx.SendBatch(ctx, &b).Close())
}

func putArgs(r *apikeys.Record) ([]any, error) {
	metadata := r.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	text, err := json.Marshal(metadata)
	if err != nil {
		return nil, err
	}
	networks := make([]string, 0, len(r.Networks))
	for _, n := range r.Networks {
		networks = append(networks, n.String())
	}
	return []any{
		r.ID, r.Lineage, r.Predecessor, r.Successor, r.Owner.Kind, r.Owner.ID, r.Name, r.Environment, r.Hint,
		append([]string{}, r.Scopes...), networks, text, r.CreatedAt, r.CreatedBy, null(r.ActivatedAt), null(r.ExpiresAt),
		null(r.DisabledAt), null(r.RevokedAt), r.RevokedFor, null(r.ReplacedAt), r.Overlap.Microseconds(), null(r.SunsetAt),
		r.Hash[:], r.Pepper, r.Tag, r.Scheme, r.Verifier,
	}, nil
}

func null(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Rehash implements apikeys.Store.
func (s *Store) Rehash(ctx context.Context, id string, old, hash apikeys.Hash, pepper int16) (bool, error) {
	tag, err := s.db.Exec(ctx, rehashSQL, id, old[:], hash[:], pepper)
	return tag.RowsAffected() == 1, fail("rehash a key", err)
}

// List implements apikeys.Store.
func (s *Store) List(ctx context.Context, q apikeys.Query) ([]apikeys.Key, error) {
	sql, args := `select`+columns+` where true`, []any{}
	and := func(condition string, arg any) {
		args = append(args, arg)
		sql += fmt.Sprintf(" and "+condition, len(args))
	}
	if q.ID != "" {
		and("k.id = $%d", q.ID)
	}
	if q.Owner.ID != "" {
		and("k.owner_id = $%d", q.Owner.ID)
		and("k.owner_kind = $%d", q.Owner.Kind)
	}
	if q.Lineage != "" {
		and("k.lineage = $%d", q.Lineage)
	}
	if q.Before != "" {
		and("k.id < $%d", q.Before)
	}
	args = append(args, apikeys.PageSize(q.Limit))
	sql += fmt.Sprintf(" order by k.id desc limit $%d", len(args))
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fail("list keys", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (apikeys.Key, error) {
		r, err := scanRecord(row)
		return r.Key, err
	})
	return keys, fail("list keys", err)
}

// RecordUses implements apikeys.Store.
func (s *Store) RecordUses(ctx context.Context, uses []apikeys.Use) error {
	uses = slices.Clone(uses)
	slices.SortFunc(uses, func(a, b apikeys.Use) int { return cmp.Compare(a.Key, b.Key) })
	n := len(uses)
	ids, at, addrs, agents := make([]string, n), make([]time.Time, n), make([]string, n), make([]string, n)
	for i, u := range uses {
		ids[i], at[i], agents[i] = u.Key, u.At, u.Agent
		if u.Addr.IsValid() {
			addrs[i] = u.Addr.String()
		}
	}
	_, err := s.db.Exec(ctx, recordUsesSQL, ids, at, addrs, agents)
	return fail("record uses", err)
}

// Log implements apikeys.Store.
func (s *Store) Log(ctx context.Context, q apikeys.LogQuery) ([]apikeys.Entry, error) {
	sql, args := logSQL, []any{q.After}
	if q.Key != "" {
		args = append(args, q.Key)
		sql += fmt.Sprintf(" and key_id = $%d", len(args))
	}
	if q.Account != "" {
		args = append(args, q.Account)
		sql += fmt.Sprintf(" and (owner_id = $%[1]d or actor = $%[1]d)", len(args))
	}
	args = append(args, apikeys.PageSize(q.Limit))
	sql += fmt.Sprintf(" order by seq limit $%d", len(args))
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fail("read the log", err)
	}
	entries, err := pgx.CollectRows(rows, scanEntry)
	return entries, fail("read the log", err)
}

func scanEntry(row pgx.CollectableRow) (apikeys.Entry, error) {
	var e apikeys.Entry
	var detail []byte
	err := row.Scan(&e.Seq, &e.At, &e.Action, &e.Key, &e.Owner.Kind, &e.Owner.ID, &e.Actor, &detail, &e.Salt, &e.Digest, &e.Hash)
	if err != nil {
		return e, err
	}
	e.At = e.At.UTC()
	if !bytes.Equal(detail, []byte("{}")) {
		if err := json.Unmarshal(detail, &e.Detail); err != nil {
			return e, fmt.Errorf("detail of log entry %d: %w", e.Seq, err)
		}
	}
	return e, nil
}

// Head implements apikeys.Store.
func (s *Store) Head(ctx context.Context) (apikeys.Head, error) {
	var h apikeys.Head
	err := s.db.QueryRow(ctx, headSQL).Scan(&h.Seq, &h.Hash)
	return h, fail("read the head of the log", err)
}

// Forget implements apikeys.Store.
func (s *Store) Forget(ctx context.Context, account string, limit int) (int64, error) {
	for {
		tag, err := s.db.Exec(ctx, forgetMakerSQL, account, limit)
		if err != nil {
			return 0, fail("forget who made keys", err)
		}
		if tag.RowsAffected() < int64(limit) {
			break
		}
	}
	tag, err := s.db.Exec(ctx, forgetSQL, account, limit)
	return tag.RowsAffected(), fail("forget log entries", err)
}

// Peppers implements apikeys.Store.
func (s *Store) Peppers(ctx context.Context) ([]apikeys.PepperUse, error) {
	rows, err := s.db.Query(ctx, peppersSQL)
	if err != nil {
		return nil, fail("count peppers", err)
	}
	uses, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u apikeys.PepperUse, err error) {
		return u, row.Scan(&u.Pepper, &u.Hashed, &u.Tagged)
	})
	return uses, fail("count peppers", err)
}

// fail says what couldn't be done. A violated unique constraint is
// apikeys.ErrDuplicate.
func fail(doing string, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pg) && pg.Code == "23505":
		return apikeys.ErrDuplicate
	case errors.As(err, &pg):
		// Message and code only: the detail may quote values.
		return fmt.Errorf("apikeyspg: %s: %s (SQLSTATE %s)", doing, pg.Message, pg.Code)
	}
	return fmt.Errorf("apikeyspg: %s: %w", doing, err)
}
