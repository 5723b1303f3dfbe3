// Package ledger keeps what happened to subscriptions: the list that package
// revenue computes from. It is appended to and never edited.
package ledger

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/billing/revenue"
	"github.com/kolekt/commerce/internal/pgmigrate"
)

// Store keeps changes. Implementations are safe for concurrent use.
type Store interface {
	// Append stores a change once: a second one with the same ID changes
	// nothing.
	Append(ctx context.Context, id string, c revenue.Change) error
	// Changes returns all changes, in any order.
	Changes(ctx context.Context) ([]revenue.Change, error)
	// Forget replaces the account of its changes by a name that says nothing,
	// and returns how many there were: revenue stays, whose it was doesn't.
	Forget(ctx context.Context, account, alias string) (int64, error)
}

// Memory is a Store that ends with the process. The zero value is ready.
type Memory struct {
	mu      sync.Mutex
	seen    map[string]bool
	changes []revenue.Change
}

var _ Store = (*Memory)(nil)

// Append implements Store.
func (m *Memory) Append(_ context.Context, id string, c revenue.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen == nil {
		m.seen = map[string]bool{}
	}
	if !m.seen[id] {
		m.seen[id] = true
		m.changes = append(m.changes, c)
	}
	return nil
}

// Changes implements Store.
func (m *Memory) Changes(context.Context) ([]revenue.Change, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]revenue.Change(nil), m.changes...), nil
}

// Forget implements Store.
func (m *Memory) Forget(_ context.Context, account, alias string) (n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.changes {
		if c := &m.changes[i]; c.Account == account {
			c.Account, c.Subscription.Account, c.Subscription.Metadata = alias, alias, nil
			n++
		}
	}
	return n, nil
}

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is that of the ledger.
var Schema = pgmigrate.Schema{Concern: "ledger", Embedded: migrations}

// Postgres is a Store on PostgreSQL.
type Postgres struct{ pool *pgxpool.Pool }

var _ Store = Postgres{}

// NewPostgres returns a Store on the pool, which stays the caller's.
func NewPostgres(pool *pgxpool.Pool) Postgres { return Postgres{pool} }

// Append implements Store.
func (p Postgres) Append(ctx context.Context, id string, c revenue.Change) error {
	_, err := p.pool.Exec(ctx, `insert into ledger_changes (id, account, change) values ($1, $2, $3) on conflict do nothing`, id, c.Account, c)
	return wrap("append", err)
}

// Changes implements Store.
func (p Postgres) Changes(ctx context.Context) ([]revenue.Change, error) {
	rows, err := p.pool.Query(ctx, `select change from ledger_changes`)
	if err != nil {
		return nil, wrap("changes", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c revenue.Change, err error) {
		var raw []byte
		if err = row.Scan(&raw); err == nil {
			err = json.Unmarshal(raw, &c)
		}
		return c, err
	})
	return list, wrap("changes", err)
}

// Forget implements Store.
func (p Postgres) Forget(ctx context.Context, account, alias string) (int64, error) {
	tag, err := p.pool.Exec(ctx, `update ledger_changes set account = $2::text, change = jsonb_set(jsonb_set(
		change #- '{subscription,metadata}', '{account}', to_jsonb($2::text)), '{subscription,account}', to_jsonb($2::text))
		where account = $1`, account, alias)
	return tag.RowsAffected(), wrap("forget", err)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("ledger: %s: %w", what, err)
	}
	return nil
}
