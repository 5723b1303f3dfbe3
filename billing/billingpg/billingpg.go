// Package billingpg keeps billing's accounts, inbox and outbox in PostgreSQL,
// in five tables whose names begin with billing_.
//
// Each method is one statement. Saving an account replaces it if its version
// stands, marks the events as done, and adds the notices, in that one
// statement: nobody sees half of it, and nothing is locked while the payment
// provider is asked.
package billingpg

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/internal/pgmigrate"
)

// DB is what the store needs: *pgxpool.Pool, *pgx.Conn and pgx.Tx have it.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the numbered SQL files, for a migration tool of your own.
// They work in any schema.
func Migrations() fs.FS { return pgmigrate.Files(migrations) }

// Migrate brings the tables to the newest version, in the schema that the
// search path names first. Several processes may call it at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Migrate(ctx, pool, "billing", Migrations())
}

// Verify returns an error if the tables lack a migration.
func Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Verify(ctx, pool, "billing", Migrations())
}

// Store is a billing.Store on PostgreSQL. It is safe for concurrent use as
// far as its DB is: a pool is, a transaction isn't.
type Store struct{ db DB }

// New returns a store on tables that Migrate has made.
func New(db DB) *Store { return &Store{db: db} }

var _ billing.Store = (*Store)(nil)

const selectAccount = `
	select coalesce(customer_id, ''), version, synced_at, due_at, data
	from billing_accounts
	where account = $1`

// Account implements billing.Store.
func (s *Store) Account(ctx context.Context, id string) (billing.Account, error) {
	a := billing.Account{ID: id}
	var synced, due *time.Time
	var data []byte
	err := s.db.QueryRow(ctx, selectAccount, id).Scan(&a.CustomerID, &a.Version, &synced, &due, &data)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, nil
	}
	if err != nil {
		return billing.Account{}, wrap("read account", err)
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return billing.Account{}, wrap("decode account", err)
	}
	a.SyncedAt, a.DueAt = instant(synced), instant(due)
	return a, nil
}

// AccountOf implements billing.Store.
func (s *Store) AccountOf(ctx context.Context, customerID string) (string, error) {
	var account string
	err := s.db.QueryRow(ctx, `select account from billing_accounts where customer_id = $1`, customerID).Scan(&account)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("billingpg: account of customer %s: %w", customerID, billing.ErrNotFound)
	}
	return account, wrap("read account of customer", err)
}

const selectAccounts = `
	select account
	from billing_accounts
	where account > $1
	  and ($2::timestamptz is null or due_at <= $2)
	  and ($3::timestamptz is null or customer_id is not null and coalesce(synced_at, '-infinity') < $3)
	order by account
	limit $4`

// Accounts implements billing.Store.
func (s *Store) Accounts(ctx context.Context, q billing.AccountQuery) ([]string, error) {
	rows, err := s.db.Query(ctx, selectAccounts, q.After, null(q.DueBefore), null(q.SyncedBefore), q.Limit)
	if err != nil {
		return nil, wrap("list accounts", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, wrap("list accounts", err)
}

// The other two steps depend on the first one's row, so that they come after
// it, and after its lock: writers of one account queue up there.
const save = `
	with saved as (
		insert into billing_accounts as a (account, customer_id, version, synced_at, due_at, data)
		select $1, nullif($2, ''), $3::bigint + 1, $4::timestamptz, $5::timestamptz, $6::json
		where $3::bigint = 0 or exists (select from billing_accounts where account = $1)
		on conflict (account) do update
		set customer_id = excluded.customer_id, version = excluded.version,
			synced_at = excluded.synced_at, due_at = excluded.due_at, data = excluded.data
		where a.version = $3::bigint
		returning 1
	), done as (
		update billing_events
		set status = 'done', last_error = ''
		where id = any($7::text[]) and status <> 'done' and exists (select from saved)
	), added as (
		insert into billing_notices (id, account, data, next_at)
		select n.id, $1, n.data::json, n.at
		from unnest($8::text[], $9::text[], $10::timestamptz[]) with ordinality as n (id, data, at, place)
		where exists (select from saved)
		order by n.place
		on conflict (id) do nothing
	)
	select count(*), count(pg_notify('billing_accounts', left($1, 2000))) from saved`

// Save implements billing.Store.
func (s *Store) Save(ctx context.Context, c billing.Change) error {
	a := &c.Account
	data, err := json.Marshal(a)
	if err != nil {
		return wrap("encode account", err)
	}
	ids, notices, due := make([]string, len(c.Notices)), make([]string, len(c.Notices)), make([]time.Time, len(c.Notices))
	for i, n := range c.Notices {
		text, err := json.Marshal(n)
		if err != nil {
			return wrap("encode notice", err)
		}
		ids[i], notices[i], due[i] = n.ID, string(text), n.At
	}
	var saved, told int
	err = s.db.QueryRow(ctx, save, a.ID, a.CustomerID, a.Version, null(a.SyncedAt), null(a.DueAt), string(data),
		texts(c.Done), ids, notices, due).Scan(&saved, &told)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "23505": // unique_violation
		return fmt.Errorf("billingpg: customer %s belongs to another account: %w", a.CustomerID, billing.ErrConflict)
	case err != nil:
		return wrap("save account", err)
	case saved == 0:
		return fmt.Errorf("billingpg: account %q is not at version %d: %w", a.ID, a.Version, billing.ErrConflict)
	}
	return nil
}

const insertEvent = `
	insert into billing_events (id, type, customer_id, account, created, received, body, next_at)
	values ($1, $2, $3, $4, $5, $6, $7, $8)
	on conflict (id) do nothing`

// PutEvent implements billing.Store.
func (s *Store) PutEvent(ctx context.Context, e billing.InboxEvent) (bool, error) {
	body := e.Body
	if body == nil {
		body = []byte{}
	}
	tag, err := s.db.Exec(ctx, insertEvent, e.ID, e.Type, e.CustomerID, e.Account, e.Created, e.Received, body, e.Next)
	return err == nil && tag.RowsAffected() == 1, wrap("store event", err)
}

const eventColumns = `id, type, customer_id, account, created, received, body, status, attempts, next_at, last_error`

const claimEvents = `
	with due as (
		select id, next_at as was
		from billing_events
		where status = 'pending' and next_at <= $1
		order by next_at, id
		limit $3
		for update skip locked
	), claimed as (
		update billing_events as e
		set attempts = attempts + 1, next_at = $2
		from due
		where e.id = due.id
		returning e.*, due.was
	)
	select ` + eventColumns + ` from claimed order by was, id`

// ClaimEvents implements billing.Store.
func (s *Store) ClaimEvents(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]billing.InboxEvent, error) {
	return s.events(ctx, "claim events", claimEvents, now, now.Add(lease), limit)
}

func (s *Store) events(ctx context.Context, what, sql string, args ...any) ([]billing.InboxEvent, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(what, err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (billing.InboxEvent, error) {
		var e billing.InboxEvent
		err := row.Scan(&e.ID, &e.Type, &e.CustomerID, &e.Account, &e.Created, &e.Received, &e.Body, &e.Status, &e.Attempts, &e.Next, &e.LastError)
		e.Created, e.Received, e.Next = e.Created.UTC(), e.Received.UTC(), e.Next.UTC()
		return e, err
	})
	return events, wrap(what, err)
}

// FinishEvents implements billing.Store.
func (s *Store) FinishEvents(ctx context.Context, ids []string) error {
	_, err := s.db.Exec(ctx, `update billing_events set status = 'done', last_error = '' where id = any($1) and status <> 'done'`, texts(ids))
	return wrap("finish events", err)
}

const failEvents = `
	update billing_events as e
	set last_error = f.error,
		status = case when f.dead then 'dead' else e.status end,
		next_at = case when f.dead then e.next_at else f.next_at end
	from unnest($1::text[], $2::timestamptz[], $3::text[], $4::bool[]) as f (id, next_at, error, dead)
	where e.id = f.id and e.status = 'pending'`

// FailEvents implements billing.Store.
func (s *Store) FailEvents(ctx context.Context, failures []billing.Failure) error {
	_, err := s.db.Exec(ctx, failEvents, columns(failures)...)
	return wrap("record failures", err)
}

func columns(failures []billing.Failure) []any {
	n := len(failures)
	ids, next, texts, dead := make([]string, n), make([]time.Time, n), make([]string, n), make([]bool, n)
	for i, f := range failures {
		ids[i], next[i], texts[i], dead[i] = f.ID, f.Next, f.Error, f.Dead
	}
	return []any{ids, next, texts, dead}
}

const listEvents = `
	select ` + eventColumns + `
	from billing_events
	where ($1 = '' or status = $1)
	  and ($2 = '' or customer_id = $2)
	  and ($3::timestamptz is null or (received, id) > ($3, $4))
	order by received, id
	limit $5`

// Events implements billing.Store.
func (s *Store) Events(ctx context.Context, q billing.EventQuery) ([]billing.InboxEvent, error) {
	var from *time.Time
	if q.After != "" {
		err := s.db.QueryRow(ctx, `select received from billing_events where id = $1`, q.After).Scan(&from)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("billingpg: event %s: %w", q.After, billing.ErrNotFound)
		}
		if err != nil {
			return nil, wrap("list events", err)
		}
	}
	return s.events(ctx, "list events", listEvents, string(q.Status), q.CustomerID, from, q.After, q.Limit)
}

const replayEvents = `
	update billing_events
	set status = 'pending', attempts = 0, next_at = $2, last_error = ''
	where id = any($1) and status <> 'pending' and body <> ''`

// ReplayEvents implements billing.Store.
func (s *Store) ReplayEvents(ctx context.Context, ids []string, now time.Time) (int, error) {
	tag, err := s.db.Exec(ctx, replayEvents, texts(ids), now)
	return int(tag.RowsAffected()), wrap("replay events", err)
}

const noticeColumns = `data, attempts, next_at, delivered_at, dead, last_error`

const claimNotices = `
	with due as (
		select id
		from billing_notices
		where delivered_at is null and not dead and data is not null and next_at <= $1
		order by sequence
		limit $3
		for update skip locked
	), claimed as (
		update billing_notices as n
		set attempts = attempts + 1, next_at = $2
		from due
		where n.id = due.id
		returning n.*
	)
	select ` + noticeColumns + ` from claimed order by sequence`

// ClaimNotices implements billing.Store.
func (s *Store) ClaimNotices(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]billing.Delivery, error) {
	return s.notices(ctx, "claim notices", claimNotices, now, now.Add(lease), limit)
}

func (s *Store) notices(ctx context.Context, what, sql string, args ...any) ([]billing.Delivery, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(what, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (billing.Delivery, error) {
		var d billing.Delivery
		var data []byte
		var delivered *time.Time
		if err := row.Scan(&data, &d.Attempts, &d.Next, &delivered, &d.Dead, &d.LastError); err != nil {
			return d, err
		}
		d.Next, d.Delivered = d.Next.UTC(), instant(delivered)
		return d, json.Unmarshal(data, &d.Notice)
	})
	return list, wrap(what, err)
}

const settleNotices = `
	with delivered as (
		update billing_notices
		set delivered_at = $6, last_error = ''
		where id = any($5::text[]) and delivered_at is null
	)
	update billing_notices as n
	set last_error = f.error, dead = f.dead,
		next_at = case when f.dead then n.next_at else f.next_at end
	from unnest($1::text[], $2::timestamptz[], $3::text[], $4::bool[]) as f (id, next_at, error, dead)
	where n.id = f.id and n.delivered_at is null and not n.dead`

// SettleNotices implements billing.Store.
func (s *Store) SettleNotices(ctx context.Context, delivered []string, failures []billing.Failure, now time.Time) error {
	_, err := s.db.Exec(ctx, settleNotices, append(columns(failures), texts(delivered), now)...)
	return wrap("settle notices", err)
}

const listNotices = `
	select ` + noticeColumns + `
	from billing_notices
	where account = $1 and data is not null and sequence > $2
	order by sequence
	limit $3`

// Notices implements billing.Store.
func (s *Store) Notices(ctx context.Context, account, after string, limit int) ([]billing.Delivery, error) {
	var from int64
	if after != "" {
		err := s.db.QueryRow(ctx, `select sequence from billing_notices where id = $1`, after).Scan(&from)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("billingpg: notice %s: %w", after, billing.ErrNotFound)
		}
		if err != nil {
			return nil, wrap("list notices", err)
		}
	}
	return s.notices(ctx, "list notices", listNotices, account, from, limit)
}

const prune = `
	with events as (
		delete from billing_events
		where id in (
			select id from billing_events
			where status = 'done' and received < $1
			order by received, id
			limit $2
			for update skip locked
		)
		returning 1
	), notices as (
		update billing_notices
		set data = null, account = null, last_error = ''
		where id in (
			select id from billing_notices
			where data is not null and delivered_at < $1
			order by delivered_at
			limit $2
			for update skip locked
		)
		returning 1
	)
	select (select count(*) from events) + (select count(*) from notices)`

// Prune implements billing.Store.
func (s *Store) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	var n int
	err := s.db.QueryRow(ctx, prune, before, limit).Scan(&n)
	return n, wrap("prune", err)
}

const detach = `
	with claims as (
		update billing_claims as c
		set account = $2
		from billing_accounts as a
		where c.account = $1 and a.account = $1 and a.version = $7
	)
	update billing_accounts
	set account = $2, customer_id = nullif($3, ''), version = version + 1, synced_at = $4, due_at = $5, data = $6::json
	where account = $1 and version = $7
	returning pg_notify('billing_accounts', left($1, 2000))`

// Detach implements billing.Store.
func (s *Store) Detach(ctx context.Context, account string, as billing.Account) error {
	data, err := json.Marshal(&as)
	if err != nil {
		return wrap("encode account", err)
	}
	tag, err := s.db.Exec(ctx, detach, account, as.ID, as.CustomerID, null(as.SyncedAt), null(as.DueAt), string(data), as.Version)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("billingpg: account is not at version %d: %w", as.Version, billing.ErrConflict)
	}
	return wrap("detach account", err)
}

const scrub = `
	with events as (
		update billing_events
		set body = '', account = ''
		where id in (
			select id from billing_events
			where customer_id = $2 and $2 <> '' and status <> 'pending' and body <> ''
			order by received, id
			limit $3
			for update
		)
		returning 1
	), notices as (
		update billing_notices
		set data = null, account = null, last_error = ''
		where id in (
			select id from billing_notices
			where account = $1 and data is not null
			order by sequence
			limit $3
			for update
		)
		returning 1
	)
	select (select count(*) from events), (select count(*) from notices)`

// Scrub implements billing.Store.
func (s *Store) Scrub(ctx context.Context, account, customerID string, limit int) (events, notices int, err error) {
	err = s.db.QueryRow(ctx, scrub, account, customerID, limit).Scan(&events, &notices)
	return events, notices, wrap("scrub", err)
}

// The update that changes nothing locks the row and returns it: an insert
// alone would say nothing about whose it is.
const takeClaim = `
	insert into billing_claims as c (name, account, at)
	values ($1, $2, $3)
	on conflict (name) do update set account = c.account
	returning account`

// Claim implements billing.Store.
func (s *Store) Claim(ctx context.Context, name, account string, now time.Time) (string, error) {
	var holder string
	err := s.db.QueryRow(ctx, takeClaim, name, account, now).Scan(&holder)
	return holder, wrap("claim", err)
}

// Claims implements billing.Store.
func (s *Store) Claims(ctx context.Context, account string) ([]billing.Claimed, error) {
	rows, err := s.db.Query(ctx, `select name, at from billing_claims where account = $1 order by name`, account)
	if err != nil {
		return nil, wrap("list claims", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (billing.Claimed, error) {
		var c billing.Claimed
		err := row.Scan(&c.Name, &c.At)
		c.At = c.At.UTC()
		return c, err
	})
	return list, wrap("list claims", err)
}

// Cursor implements billing.Store.
func (s *Store) Cursor(ctx context.Context, name string) (time.Time, error) {
	var t time.Time
	err := s.db.QueryRow(ctx, `select at from billing_cursors where name = $1`, name).Scan(&t)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, nil
	}
	return t.UTC(), wrap("read cursor", err)
}

const setCursor = `
	insert into billing_cursors as c (name, at)
	values ($1, $2)
	on conflict (name) do update set at = excluded.at where c.at < excluded.at`

// SetCursor implements billing.Store.
func (s *Store) SetCursor(ctx context.Context, name string, t time.Time) error {
	_, err := s.db.Exec(ctx, setCursor, name, t)
	return wrap("write cursor", err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("billingpg: %s: %w", what, err)
}

// null is the instant as SQL has it: the zero time is none.
func null(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func instant(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// texts makes a list that isn't null.
func texts(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
