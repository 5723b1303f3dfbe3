package usagepg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/usage"
)

// monthly are the tables with a partition for each month.
var monthly = []struct{ table, column, options string }{
	{"usage_events", "ts", ""},
	{"usage_packed", "ts", ""},
	{"usage_months", "month", " with (fillfactor = 80)"},
	{"usage_quarters", "bucket", " with (fillfactor = 80)"},
}

func monthOf(t time.Time) time.Time {
	y, m, _ := t.UTC().Date()
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
}

func partition(table string, month time.Time) string {
	return table + month.Format("_200601")
}

// ensureMonths makes the partitions of the events' months, in a transaction
// of their own: an attached partition is of use to everybody.
func (s *Store) ensureMonths(ctx context.Context, entries []usage.Entry) error {
	var month, end time.Time
	for i := range entries {
		if at := entries[i].Time; at.Before(month) || !at.Before(end) {
			month = monthOf(at)
			end = month.AddDate(0, 1, 0)
			if err := s.ensureMonth(ctx, month); err != nil {
				return err
			}
		}
	}
	return nil
}

// inMonths runs f with the partitions of the events' months there. One that was
// known to exist may have been dropped by another process since.
func (s *Store) inMonths(ctx context.Context, entries []usage.Entry, f func() error) error {
	if err := s.ensureMonths(ctx, entries); err != nil {
		return err
	}
	err := f()
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != pgerrNoPartition || len(entries) == 0 {
		return err
	}
	s.months.forget()
	if err := s.ensureMonths(ctx, entries); err != nil {
		return err
	}
	return f()
}

// pgerrNoPartition is check_violation, which this schema has no other cause of.
const pgerrNoPartition = "23514"

func (s *Store) ensureMonth(ctx context.Context, month time.Time) error {
	name := month.Format("200601")
	if s.months.has(name) {
		return nil
	}
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		// One maker at a time; the lock ends with the transaction.
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtext('usage_partitions'))"); err != nil {
			return err
		}
		for _, m := range monthly {
			part := partition(m.table, month)
			var exists bool
			if err := tx.QueryRow(ctx, "select to_regclass($1) is not null", part).Scan(&exists); err != nil {
				return err
			}
			if exists {
				continue
			}
			// Attaching locks out neither readers nor writers, which a
			// CREATE TABLE … PARTITION OF would.
			create := fmt.Sprintf("create table %s (like %s including defaults including indexes including storage)%s", part, m.table, m.options)
			if _, err := tx.Exec(ctx, create); err != nil {
				return err
			}
			attach := fmt.Sprintf("alter table %s attach partition %s for values from ('%s') to ('%s')",
				m.table, part, month.Format(time.RFC3339), month.AddDate(0, 1, 0).Format(time.RFC3339))
			if _, err := tx.Exec(ctx, attach); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return kindOf(err)
	}
	if s.pool != nil { // a transaction's partition may yet be rolled back
		s.months.add(name)
	}
	return nil
}

// monthPartition is a partition of one of the monthly tables.
type monthPartition struct {
	name  string
	month time.Time
}

// partitions returns those that were made here, oldest first.
func (s *Store) partitions(ctx context.Context, table string) ([]monthPartition, error) {
	rows, err := s.db.Query(ctx, `
		select c.relname from pg_inherits i
		join pg_class c on c.oid = i.inhrelid
		where i.inhparent = to_regclass($1) order by 1`, table)
	if err != nil {
		return nil, kindOf(err)
	}
	var out []monthPartition
	var p monthPartition
	_, err = pgx.ForEachRow(rows, []any{&p.name}, func() error {
		if p.month, err = time.Parse(table+"_200601", p.name); err == nil {
			out = append(out, p)
		}
		return nil // somebody else's
	})
	return out, kindOf(err)
}

// dropMonths drops the partitions that lie wholly before the horizon.
func (s *Store) dropMonths(ctx context.Context, horizon time.Time) error {
	for _, m := range monthly {
		parts, err := s.partitions(ctx, m.table)
		if err != nil {
			return err
		}
		for _, part := range parts {
			if part.month.AddDate(0, 1, 0).After(horizon) {
				continue // still wanted
			}
			// The short wait keeps a long report from blocking all writers
			// behind this lock; the next Maintain tries again.
			err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "set local lock_timeout = '2s'"); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, "drop table "+pgx.Identifier{part.name}.Sanitize())
				return err
			})
			if err != nil {
				return err
			}
			s.months.forget()
		}
	}
	return nil
}
