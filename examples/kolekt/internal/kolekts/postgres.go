package kolekts

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/internal/pgmigrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is that of kolekts. The one of users comes first.
var Schema = pgmigrate.Schema{Concern: "kolekts", Embedded: migrations}

// DB is what *pgxpool.Pool and pgx.Tx have in common: what is added in a
// transaction is there when the transaction is.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Postgres is a Store on PostgreSQL.
type Postgres struct{ db DB }

var _ Store = Postgres{}

// NewPostgres returns a Store on the database, which stays the caller's.
func NewPostgres(db DB) Postgres { return Postgres{db} }

const columns = `id, account, text, tone, images, posts, characters, score, factors, created_at`

func scan(row pgx.CollectableRow) (Kolekt, error) {
	var k Kolekt
	err := row.Scan(&k.ID, &k.Account, &k.Text, &k.Tone, &k.Images, &k.Posts, &k.Characters, &k.Score, &k.Factors, &k.CreatedAt)
	k.CreatedAt = k.CreatedAt.UTC()
	return k, err
}

const insert = `insert into kolekts (` + columns + `) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing`

func (k Kolekt) row() []any {
	return []any{k.ID, k.Account, k.Text, string(k.Tone), k.Images, k.Posts, k.Characters, k.Score, k.Factors, k.CreatedAt}
}

// Add implements Store.
func (p Postgres) Add(ctx context.Context, k Kolekt) error {
	_, err := p.db.Exec(ctx, insert, k.row()...)
	return wrap("add", err)
}

// Insert queues a kolekt for a batch that somebody else commits.
func Insert(b *pgx.Batch, k Kolekt) { b.Queue(insert, k.row()...) }

// IsGone reports whether a kolekt wasn't stored because its account has been
// erased meanwhile, for errors of batches that [Insert] has added to.
func IsGone(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23503" && pg.TableName == "kolekts"
}

// storable reports whether PostgreSQL can hold a text at all: what it can't
// hold isn't there.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// Find implements Store.
func (p Postgres) Find(ctx context.Context, account, id string) (Kolekt, error) {
	if !storable(id) {
		return Kolekt{}, ErrNotFound
	}
	rows, err := p.db.Query(ctx, `select `+columns+` from kolekts where account = $1 and id = $2`, account, id)
	if err != nil {
		return Kolekt{}, wrap("find", err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, scan)
	return k, wrap("find", err)
}

// List implements Store.
func (p Postgres) List(ctx context.Context, account, before string, limit int) ([]Kolekt, error) {
	if !storable(before) {
		return nil, nil
	}
	rows, err := p.db.Query(ctx, `select `+columns+` from kolekts
		where account = $1 and ($2::text = '' or id < $2) order by id desc limit $3`, account, before, limit)
	if err != nil {
		return nil, wrap("list", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	return list, wrap("list", err)
}

// Delete implements Store.
func (p Postgres) Delete(ctx context.Context, account, id string) error {
	if !storable(id) {
		return ErrNotFound
	}
	tag, err := p.db.Exec(ctx, `delete from kolekts where account = $1 and id = $2`, account, id)
	if err == nil && tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return wrap("delete", err)
}

// DeleteAccount implements Store.
func (p Postgres) DeleteAccount(ctx context.Context, account string, limit int) (int64, error) {
	tag, err := p.db.Exec(ctx, `delete from kolekts where account = $1 and id in
		(select id from kolekts where account = $1 order by id limit $2)`, account, limit)
	return tag.RowsAffected(), wrap("delete account", err)
}

func wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case IsGone(err):
		err = ErrGone
	}
	return fmt.Errorf("kolekt: %s: %w", what, err)
}
