package mailerpg_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailerpg"
	"github.com/kolekt/commerce/mailer/mailertest"
)

// trips counts what goes to the server, a batch as one.
type trips struct{ n atomic.Int64 }

func (c *trips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *trips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *trips) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *trips) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *trips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func TestAMailAndWhatItGoesAlongWithComeTogetherOrNotAtAll(t *testing.T) {
	ctx := t.Context()
	plain := migrated(t)
	_, err := plain.Exec(ctx, "create table orders (id text primary key, pieces int check (pieces > 0))")
	require.NoError(t, err)
	cfg := plain.Config()
	var count trips
	cfg.ConnConfig.Tracer = &count
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	require.NoError(t, err)
	defer pool.Close()
	store := mailerpg.New(pool)
	placed, err := mailer.Define(mailer.Spec[note]{
		Name: "order.placed", Stream: "orders", Class: mailer.Transactional, Sample: note{1}, Templates: fstest.MapFS{
			"order.placed.en.txt": {Data: []byte("Subject: Order {{.Data.N}}\nPreheader: It is on its way.\n\nOrder {{.Data.N}}.\n")},
		},
	})
	require.NoError(t, err)
	tip, err := mailer.Define(mailer.Spec[note]{
		Name: "order.tip", Stream: "tips", Class: mailer.Lifecycle, Sample: note{1}, Cap: mailer.Cap{Count: 1, Per: time.Hour}, Templates: fstest.MapFS{
			"order.tip.en.txt": {Data: []byte("Subject: Tip {{.Data.N}}\nPreheader: What goes with it.\n\nTip {{.Data.N}}.\n")},
		},
	})
	require.NoError(t, err)
	svc, err := mailer.New(store, mailertest.NewInbox(t), mailer.Config{
		From: mailer.Address{Email: "hello@example.com"}, Secret: make([]byte, 32), Kinds: []mailer.AnyKind{placed, tip},
		PublicURL: "https://example.com/unsubscribe",
	})
	require.NoError(t, err)

	// order places one and mails by the kind, as one step.
	to := mailer.To{Account: "a", Email: "ada@example.org"}
	order := func(store *mailerpg.Store, kind *mailer.Kind[note], id string, pieces int, key string) (mailer.Receipt, error) {
		return kind.Enqueue(ctx, svc.WithStore(store.Along(func(b *pgx.Batch) {
			b.Queue("insert into orders (id, pieces) values ($1, $2)", id, pieces)
		})), to, note{pieces}, key)
	}
	stored := func(id string) (ok bool) {
		require.NoError(t, plain.QueryRow(ctx, "select exists (select 1 from orders where id = $1)", id).Scan(&ok))
		return ok
	}
	mails := func() (n int) {
		require.NoError(t, plain.QueryRow(ctx, "select count(*) from mailer_outbox").Scan(&n))
		return n
	}

	r, err := order(store, placed, "one", 1, "one")
	require.NoError(t, err)
	require.Equal(t, mailer.Queued, r.Status)
	require.True(t, stored("one"))
	before := count.n.Load()
	_, err = order(store, placed, "two", 1, "two")
	require.NoError(t, err)
	require.EqualValues(t, 1, count.n.Load()-before, "round trips")

	// A refused order takes the mail with it, whatever way that goes.
	for _, kind := range []*mailer.Kind[note]{placed, tip} {
		had := mails()
		_, err = order(store, kind, "none", 0, "none")
		require.ErrorContains(t, err, "orders_pieces_check")
		require.False(t, stored("none"))
		require.Equal(t, had, mails())
	}
	_, err = svc.WithStore(store.Along(func(b *pgx.Batch) {
		b.Queue("insert into orders (id, pieces) values ('none', 0)")
	})).EnqueueAll(ctx, several(t, svc, placed, to, 3))
	require.ErrorContains(t, err, "orders_pieces_check")
	require.Equal(t, 2, mails())

	// What becomes of the mail doesn't keep the order from being stored.
	r, err = order(store, placed, "again", 1, "one")
	require.NoError(t, err)
	require.Equal(t, mailer.Duplicate, r.Status)
	require.True(t, stored("again"))
	for i, want := range []mailer.Status{mailer.Queued, mailer.Capped} {
		id := "tip" + strconv.Itoa(i)
		r, err = order(store, tip, id, 1, id)
		require.NoError(t, err)
		require.Equal(t, want, r.Status)
		require.True(t, stored(id))
	}
	receipts, err := svc.WithStore(store.Along(func(b *pgx.Batch) {
		b.Queue("insert into orders (id, pieces) values ('many', 1)")
	})).EnqueueAll(ctx, several(t, svc, placed, to, 3))
	require.NoError(t, err)
	require.Len(t, receipts, 3)
	require.True(t, stored("many"))
	require.NoError(t, svc.Suppress(ctx, to.Email))
	r, err = order(store, placed, "quiet", 1, "quiet")
	require.NoError(t, err)
	require.Equal(t, mailer.Suppressed, r.Status)
	require.True(t, stored("quiet"))

	// In a transaction they are a part of it.
	had := mails()
	undo := errors.New("undo")
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		r, err := order(mailerpg.New(tx), placed, "undone", 1, "undone")
		require.NoError(t, err)
		require.Equal(t, mailer.Suppressed, r.Status)
		return undo
	})
	require.ErrorIs(t, err, undo)
	require.False(t, stored("undone"))
	require.Equal(t, had, mails())
}

func several(t *testing.T, svc *mailer.Service, kind *mailer.Kind[note], to mailer.To, n int) []mailer.Enqueue {
	out := make([]mailer.Enqueue, n)
	for i := range out {
		var err error
		out[i], err = kind.Prepare(svc, to, note{i}, "several"+strconv.Itoa(i))
		require.NoError(t, err)
	}
	return out
}
