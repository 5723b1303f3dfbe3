package audit

import (
	"context"
	"embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgmigrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is that of the audit log.
var Schema = pgmigrate.Schema{Concern: "audit", Embedded: migrations}

// Postgres is a Store on PostgreSQL.
type Postgres struct{ pool *pgxpool.Pool }

var _ Store = Postgres{}

// NewPostgres returns a Store on the pool, which stays the caller's.
func NewPostgres(pool *pgxpool.Pool) Postgres { return Postgres{pool} }

const columns = `id, at, actor, account, action, detail, reason, outcome`

func scan(row pgx.CollectableRow) (e Entry, err error) {
	err = row.Scan(&e.ID, &e.At, &e.Actor, &e.Account, &e.Action, &e.Detail, &e.Reason, &e.Outcome)
	e.At = e.At.UTC()
	return e, err
}

// Begin implements Store.
func (p Postgres) Begin(ctx context.Context, e Entry) (Entry, error) {
	// The update changes nothing: it makes the row that is there come back.
	rows, err := p.pool.Query(ctx, `
		insert into audit (`+columns+`) values ($1, $2, $3, $4, $5, $6, $7, $8)
		on conflict (id) do update set id = excluded.id
		returning `+columns, e.ID, e.At, e.Actor, e.Account, e.Action, e.Detail, e.Reason, e.Outcome)
	if err != nil {
		return e, wrap("begin", err)
	}
	known, err := pgx.CollectExactlyOneRow(rows, scan)
	if err == nil && !known.Same(e) {
		return known, ErrKnown
	}
	return known, wrap("begin", err)
}

// Finish implements Store.
func (p Postgres) Finish(ctx context.Context, id, outcome string) error {
	_, err := p.pool.Exec(ctx, `update audit set outcome = $2 where id = $1`, id, outcome)
	return wrap("finish", err)
}

// List implements Store.
func (p Postgres) List(ctx context.Context, account, before string, limit int) ([]Entry, error) {
	rows, err := p.pool.Query(ctx, `
		select `+columns+` from audit
		where ($1 = '' or account = $1) and ($2 = '' or id < $2)
		order by id desc limit $3`, account, before, limit)
	if err != nil {
		return nil, wrap("list", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	return list, wrap("list", err)
}

// Forget implements Store.
func (p Postgres) Forget(ctx context.Context, person, alias string) (int64, error) {
	tag, err := p.pool.Exec(ctx, `
		update audit set
			actor   = case when actor = $1 then $2 else actor end,
			reason  = case when account = $1 then '' else reason end,
			detail  = case when account = $1 then '' else detail end,
			account = case when account = $1 then $2 else account end
		where actor = $1 or account = $1`, person, alias)
	return tag.RowsAffected(), wrap("forget", err)
}

func wrap(what string, err error) error {
	if err != nil && !errors.Is(err, ErrKnown) {
		return fmt.Errorf("audit: %s: %w", what, err)
	}
	return err
}
