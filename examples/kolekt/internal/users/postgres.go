package users

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgmigrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is that of users and their sessions.
var Schema = pgmigrate.Schema{Concern: "users", Embedded: migrations}

// Postgres is a Store on PostgreSQL.
type Postgres struct{ pool *pgxpool.Pool }

var _ Store = Postgres{}

// NewPostgres returns a Store on the pool, which stays the caller's.
func NewPostgres(pool *pgxpool.Pool) Postgres { return Postgres{pool} }

const columns = `id, email, name, hash, admin, created_at, verified_at`

func scan(row pgx.CollectableRow) (User, error) {
	var u User
	var verified *time.Time
	err := row.Scan(&u.ID, &u.Email, &u.Name, &u.Hash, &u.Admin, &u.CreatedAt, &verified)
	u.CreatedAt = u.CreatedAt.UTC()
	if verified != nil {
		u.VerifiedAt = verified.UTC()
	}
	return u, err
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Create implements Store.
func (p Postgres) Create(ctx context.Context, u User) error {
	_, err := p.pool.Exec(ctx, `insert into users (`+columns+`) values ($1, $2, $3, $4, $5, $6, $7)`,
		u.ID, u.Email, u.Name, u.Hash, u.Admin, u.CreatedAt, instant(u.VerifiedAt))
	return wrap("create", err)
}

// ByID implements Store.
func (p Postgres) ByID(ctx context.Context, id string) (User, error) {
	return p.one(ctx, `select `+columns+` from users where id = $1`, id)
}

// ByEmail implements Store.
func (p Postgres) ByEmail(ctx context.Context, email string) (User, error) {
	return p.one(ctx, `select `+columns+` from users where email = $1`, email)
}

func (p Postgres) one(ctx context.Context, sql, arg string) (User, error) {
	if !storable(arg) {
		return User{}, ErrNotFound
	}
	rows, err := p.pool.Query(ctx, sql, arg)
	if err != nil {
		return User{}, wrap("find", err)
	}
	u, err := pgx.CollectExactlyOneRow(rows, scan)
	return u, wrap("find", err)
}

// Update implements Store.
func (p Postgres) Update(ctx context.Context, u User) error {
	tag, err := p.pool.Exec(ctx, `update users set email = $2, name = $3, hash = $4, admin = $5, verified_at = $6 where id = $1`,
		u.ID, u.Email, u.Name, u.Hash, u.Admin, instant(u.VerifiedAt))
	if err == nil && tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return wrap("update", err)
}

// storable reports whether PostgreSQL can hold a text at all: what it can't
// hold, nobody has.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// List implements Store.
func (p Postgres) List(ctx context.Context, text, before string, limit int) ([]User, error) {
	if !storable(text) || !storable(before) {
		return nil, nil
	}
	rows, err := p.pool.Query(ctx, `select `+columns+` from users
		where (position($1 in email) > 0 or position($1 in lower(name)) > 0) and ($2::text = '' or id < $2)
		order by id desc limit $3`, strings.ToLower(text), before, limit)
	if err != nil {
		return nil, wrap("list", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	return list, wrap("list", err)
}

// Count implements Store.
func (p Postgres) Count(ctx context.Context) (n int64, err error) {
	err = p.pool.QueryRow(ctx, `select count(*) from users`).Scan(&n)
	return n, wrap("count", err)
}

// Delete implements Store.
func (p Postgres) Delete(ctx context.Context, id string) (int64, error) {
	tag, err := p.pool.Exec(ctx, `delete from users where id = $1`, id)
	return tag.RowsAffected(), wrap("delete", err)
}

func wrap(what string, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case errors.As(err, &pg) && pg.Code == "23505":
		return ErrTaken
	}
	return fmt.Errorf("users: %s: %w", what, err)
}
