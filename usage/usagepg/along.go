package usagepg

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// Along returns the store with statements of the caller's own that ride with
// each quota step: what is counted and what was made with it are committed
// together or not at all, without a transaction of the caller's. It costs no
// further round trip, and steps of several callers still share a commit.
//
//	d, err := meters.With(store.Along(func(b *pgx.Batch) {
//		b.Queue("insert into reports (id, body) values ($1, $2)", id, body)
//	})).Consume(ctx, usage.Request{Account: account, Meter: "reports", Key: id})
//
// Queue is called for a step that is allowed and counted now, not for one that
// is refused or was counted before; with a retry it is called again. It must
// not block. A statement that fails undoes its step, and no other caller's.
func (s *Store) Along(queue func(b *pgx.Batch)) usage.Store { return carrying{s, queue} }

type carrying struct {
	*Store
	queue func(*pgx.Batch)
}

// Apply implements usage.QuotaStore.
func (c carrying) Apply(ctx context.Context, op usage.Op) (usage.Decision, error) {
	return c.take(ctx, &step{op: op, along: c.queue})
}

func carries(st *step) bool { return st.along != nil }
