// Package referralpg keeps the codes, redemptions, rewards and ledger of
// package referral in PostgreSQL.
package referralpg

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgmigrate"
	"github.com/kolekt/commerce/internal/pgtx"
	"github.com/kolekt/commerce/referral"
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

//go:embed sql/*.sql
var statements embed.FS

func statement(name string) string {
	text, err := statements.ReadFile("sql/" + name + ".sql")
	if err != nil {
		panic("referralpg: " + err.Error()) // it is in the binary
	}
	return string(text)
}

// Migrations returns the numbered SQL files, for a migration tool of your own.
func Migrations() fs.FS { return pgmigrate.Files(migrations) }

// Migrate brings the tables to the newest version. It is safe to call from
// several processes at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Migrate(ctx, pool, "referral", Migrations())
}

// Verify returns an error when the tables lack migrations.
func Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Verify(ctx, pool, "referral", Migrations())
}

// Store is a referral.Store in PostgreSQL.
type Store struct {
	db    DB
	lanes *lanes // nil unless db is a pool
}

var _ referral.Store = (*Store)(nil)

// New returns a store on a pool, a connection or a transaction. On a pool,
// redemptions of one code that come while another one is under way go together
// in the next statement, so that a code that everybody has at once is as fast
// as many codes; one that comes alone doesn't wait. On a transaction, every
// write joins it, and a refusal leaves it usable.
func New(db DB) *Store {
	s := &Store{db: db}
	if _, ok := db.(*pgxpool.Pool); ok {
		s.lanes = &lanes{busy: map[string]*lane{}}
	}
	return s
}

// violated returns the constraint that a statement violated, or "".
func violated(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "23505" || pgErr.Code == "23514") {
		return pgErr.ConstraintName
	}
	return ""
}

const codeColumns = `code, campaign, account, active, uses, max_uses, created_at, expires_at`

func scanCode(row pgx.Row) (referral.Code, error) {
	var c referral.Code
	var expires *time.Time
	err := row.Scan(&c.Text, &c.Campaign, &c.Account, &c.Active, &c.Uses, &c.MaxUses, &c.CreatedAt, &expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, referral.ErrUnknownCode
	}
	if err != nil {
		return c, fmt.Errorf("referralpg: code: %w", err)
	}
	c.CreatedAt, c.ExpiresAt = c.CreatedAt.UTC(), pgtx.Instant(expires)
	return c, nil
}

const insertCode = `
	insert into referral_codes (code, campaign, account, active, max_uses, created_at, expires_at)
	values ($1, $2, $3, true, $4, $5, $6)
	on conflict do nothing
	returning ` + codeColumns

// CreateCode implements referral.Store.
func (s *Store) CreateCode(ctx context.Context, c referral.Code) (referral.Code, error) {
	for {
		stored, err := scanCode(s.db.QueryRow(ctx, insertCode, c.Text, c.Campaign, c.Account, c.MaxUses, c.CreatedAt, pgtx.Null(c.ExpiresAt)))
		if !errors.Is(err, referral.ErrUnknownCode) {
			return stored, err
		}
		// Nothing was inserted: the account has a code, or the text is taken.
		have, err := s.CodeOf(ctx, c.Campaign, c.Account)
		if !errors.Is(err, referral.ErrUnknownCode) {
			return have, err
		}
		if _, err := s.Code(ctx, c.Text); err == nil {
			return c, referral.ErrCodeTaken
		} else if !errors.Is(err, referral.ErrUnknownCode) {
			return c, err
		}
		// The account's code was disabled in between: there is room now.
	}
}

// RotateCode implements referral.Store.
func (s *Store) RotateCode(ctx context.Context, c referral.Code) (referral.Code, error) {
	var stored referral.Code
	err := pgtx.Do(ctx, s.db, "referralpg", func(tx pgx.Tx) error {
		// Two rotations of one account at once wait for each other here.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, "referral code "+c.Campaign+" "+c.Account); err != nil {
			return fmt.Errorf("referralpg: rotate: %w", err)
		}
		if _, err := tx.Exec(ctx, `update referral_codes set active = false where campaign = $1 and account = $2 and active`, c.Campaign, c.Account); err != nil {
			return fmt.Errorf("referralpg: rotate: %w", err)
		}
		var err error
		stored, err = scanCode(tx.QueryRow(ctx, insertCode, c.Text, c.Campaign, c.Account, c.MaxUses, c.CreatedAt, pgtx.Null(c.ExpiresAt)))
		if errors.Is(err, referral.ErrUnknownCode) {
			return referral.ErrCodeTaken
		}
		return err
	})
	return stored, err
}

// Code implements referral.Store.
func (s *Store) Code(ctx context.Context, text string) (referral.Code, error) {
	return scanCode(s.db.QueryRow(ctx, `select `+codeColumns+` from referral_codes where code = $1`, text))
}

// CodeOf implements referral.Store.
func (s *Store) CodeOf(ctx context.Context, campaign, account string) (referral.Code, error) {
	return scanCode(s.db.QueryRow(ctx, `select `+codeColumns+` from referral_codes where campaign = $1 and account = $2 and active`, campaign, account))
}

// DisableCode implements referral.Store.
func (s *Store) DisableCode(ctx context.Context, text string) error {
	tag, err := s.db.Exec(ctx, `update referral_codes set active = false where code = $1`, text)
	if err != nil {
		return fmt.Errorf("referralpg: disable: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return referral.ErrUnknownCode
	}
	return nil
}
