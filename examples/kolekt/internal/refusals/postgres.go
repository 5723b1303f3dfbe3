package refusals

import (
	"context"
	"embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgmigrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is that of refusals.
var Schema = pgmigrate.Schema{Concern: "refusals", Embedded: migrations}

// Postgres is a Store on PostgreSQL.
type Postgres struct{ pool *pgxpool.Pool }

var _ Store = Postgres{}

// NewPostgres returns a Store on the pool, which stays the caller's.
func NewPostgres(pool *pgxpool.Pool) Postgres { return Postgres{pool} }

// Add implements Store.
func (p Postgres) Add(ctx context.Context, counts []Count) error {
	var accounts, reasons, plans []string
	var hours []time.Time
	var ns []int64
	for _, c := range counts {
		accounts, reasons, plans = append(accounts, c.Account), append(reasons, string(c.Reason)), append(plans, c.Plan)
		hours, ns = append(hours, c.Hour), append(ns, c.N)
	}
	_, err := p.pool.Exec(ctx, `
		insert into refusals as r (account, hour, reason, plan, n)
		select * from unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::bigint[])
		on conflict (account, hour, reason, plan) do update set n = r.n + excluded.n`, accounts, hours, reasons, plans, ns)
	return wrap("add", err)
}

func scan(row pgx.CollectableRow) (c Count, err error) {
	err = row.Scan(&c.Account, &c.Hour, &c.Reason, &c.Plan, &c.N)
	c.Hour = c.Hour.UTC()
	return c, err
}

// Since implements Store.
func (p Postgres) Since(ctx context.Context, account string, from time.Time, limit int) ([]Count, error) {
	const columns = `select account, hour, reason, plan, n from refusals where hour >= $1`
	var rows pgx.Rows
	var err error
	if account == "" {
		rows, err = p.pool.Query(ctx, columns+` order by n desc, account, hour limit $2`, from, limit)
	} else {
		rows, err = p.pool.Query(ctx, columns+` and account = $3 order by n desc, account, hour limit $2`, from, limit, account)
	}
	if err != nil {
		return nil, wrap("since", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	return list, wrap("since", err)
}

// Totals implements Store.
func (p Postgres) Totals(ctx context.Context, from time.Time) ([]Count, error) {
	rows, err := p.pool.Query(ctx, `select plan, reason, sum(n)::bigint from refusals where hour >= $1 group by plan, reason order by plan, reason`, from)
	if err != nil {
		return nil, wrap("totals", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Count, err error) {
		return c, row.Scan(&c.Plan, &c.Reason, &c.N)
	})
	return list, wrap("totals", err)
}

// Forget implements Store.
func (p Postgres) Forget(ctx context.Context, account string) (int64, error) {
	tag, err := p.pool.Exec(ctx, `delete from refusals where account = $1`, account)
	return tag.RowsAffected(), wrap("forget", err)
}

// Prune implements Store.
func (p Postgres) Prune(ctx context.Context, before time.Time) error {
	_, err := p.pool.Exec(ctx, `delete from refusals where hour < $1`, before)
	return wrap("prune", err)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("refusals: %s: %w", what, err)
	}
	return nil
}
