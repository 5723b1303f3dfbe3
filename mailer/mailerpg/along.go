package mailerpg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Along returns the store with statements of the caller's own that go to the
// server in one round trip with each Enqueue, before the mail. On a pool, they
// and the mail are committed together or not at all, without a transaction of
// the caller's; in a transaction they are a part of it like any other.
//
//	orders := mailerpg.New(pool).Along(func(b *pgx.Batch) {
//		b.Queue("insert into orders (id, account) values ($1, $2)", id, account)
//	})
//	_, err := kinds.OrderPlaced.Enqueue(ctx, mails.WithStore(orders), to, data, mailer.Key(id))
//
// The statements are executed whatever becomes of the mail: also when it is
// suppressed, or a duplicate. One that fails undoes all and is the error that
// Enqueue returns; what a callback in the batch returns comes too late for that.
// Queue may be called again for the same mail, and must not block.
func (s *Store) Along(queue func(b *pgx.Batch)) *Store { return &Store{db: s.db, along: queue} }

// queryRow executes what goes along, and then a statement whose row scan reads.
func (s *Store) queryRow(ctx context.Context, scan func(pgx.Row) error, sql string, args ...any) error {
	var err error
	if s.along == nil {
		err = scan(s.db.QueryRow(ctx, sql, args...))
	} else {
		b := &pgx.Batch{}
		s.along(b)
		b.Queue(sql, args...).QueryRow(scan)
		err = s.db.SendBatch(ctx, b).Close()
	}
	if err != nil {
		return fmt.Errorf("mailerpg: enqueue: %w", err)
	}
	return nil
}
