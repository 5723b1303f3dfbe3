package billing_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingpg"
	"github.com/kolekt/commerce/internal/pgtest"
)

// flaky is a store that can be switched off, and that counts its reads.
type flaky struct {
	billing.Store
	down  atomic.Bool
	reads atomic.Int64
}

func (s *flaky) Account(ctx context.Context, id string) (billing.Account, error) {
	s.reads.Add(1)
	if s.down.Load() {
		return billing.Account{}, errors.New("no connection")
	}
	return s.Store.Account(ctx, id)
}

func requests(t *testing.T, f *billing.Feed, account string) int64 {
	t.Helper()
	n, per, err := f.Limit(t.Context(), account, "requests")
	require.NoError(t, err)
	require.Equal(t, time.Minute, per)
	return n
}

func TestFeedSeesItsOwnProcessAtOnceAndOthersInTime(t *testing.T) {
	r := newRig(t)
	store := &flaky{Store: r.store}
	r.svc = r.service(store, r.gateway)
	other := r.service(store, r.gateway)
	mine, err := r.svc.NewFeed(billing.FeedConfig{})
	require.NoError(t, err)
	defer mine.Close()
	theirs, err := other.NewFeed(billing.FeedConfig{MaxAge: 10 * time.Second})
	require.NoError(t, err)
	require.Equal(t, int64(10), requests(t, mine, "alice"))
	require.Equal(t, int64(10), requests(t, theirs, "alice"))
	before := store.reads.Load()
	for range 100 {
		requests(t, mine, "alice")
	}
	require.Equal(t, before, store.reads.Load())

	r.subscribe("alice", "pro")
	require.Equal(t, int64(100), requests(t, mine, "alice"))
	require.Equal(t, int64(10), requests(t, theirs, "alice"), "nobody has told it")
	r.clock.Advance(10 * time.Second)
	require.Equal(t, int64(100), requests(t, theirs, "alice"))

	n, from, to, err := mine.Quota(r.ctx, "alice", "kolekts")
	require.NoError(t, err)
	require.Equal(t, int64(100), n)
	require.True(t, from.Before(to))
	_, _, _, err = mine.Quota(r.ctx, "alice", "requests")
	require.ErrorIs(t, err, billing.ErrUnknownLimit)
	_, _, err = mine.Limit(r.ctx, "alice", "reqeusts")
	require.ErrorIs(t, err, billing.ErrUnknownLimit)
}

func TestFeedGoesOnWithoutItsStoreAndSaysSo(t *testing.T) {
	r := newRig(t)
	store := &flaky{Store: r.store}
	r.svc = r.service(store, r.gateway)
	f, err := r.svc.NewFeed(billing.FeedConfig{MaxAge: time.Minute})
	require.NoError(t, err)
	s := r.subscribe("alice", "pro")
	d, err := f.Access(r.ctx, "alice")
	require.NoError(t, err)
	require.False(t, d.Stale)

	store.down.Store(true)
	r.gateway.Down(true)
	r.clock.Advance(time.Hour)
	before := store.reads.Load()
	for range 100 {
		d, err = f.Access(r.ctx, "alice")
		require.NoError(t, err)
		require.Equal(t, "pro", d.Plan)
		require.True(t, d.Stale)
	}
	require.Equal(t, before+1, store.reads.Load(), "a store in trouble is left alone for a second")
	_, err = f.Access(r.ctx, "bob")
	require.ErrorContains(t, err, "no connection")

	// Time alone goes on: the period in which quotas count is the next one.
	r.clock.Advance(30 * 24 * time.Hour)
	_, from, _, err := f.Quota(r.ctx, "alice", "kolekts")
	require.NoError(t, err)
	require.Equal(t, s.Period.To, from)

	store.down.Store(false)
	r.clock.Advance(time.Second)
	d, err = f.Access(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, "pro", d.Plan)
}

func TestFeedEndsAGraceOnTime(t *testing.T) {
	r := newRig(t)
	f, err := r.svc.NewFeed(billing.FeedConfig{MaxAge: 365 * 24 * time.Hour})
	require.NoError(t, err)
	s := r.subscribe("alice", "pro")
	require.NoError(t, r.gateway.Renew(s.ID, false))
	r.settle()
	require.Equal(t, int64(100), requests(t, f, "alice"))
	r.clock.Advance(billing.DefaultGrace - 1)
	require.Equal(t, int64(100), requests(t, f, "alice"))
	r.clock.Advance(1)
	require.Equal(t, int64(10), requests(t, f, "alice"))
}

func TestFeedIsBounded(t *testing.T) {
	r := newRig(t)
	store := &flaky{Store: r.store}
	r.svc = r.service(store, r.gateway)
	f, err := r.svc.NewFeed(billing.FeedConfig{Size: 64})
	require.NoError(t, err)
	for i := range 1000 {
		requests(t, f, string(rune('a'+i%26))+string(rune('0'+i)))
	}
	store.reads.Store(0)
	for i := range 1000 {
		requests(t, f, string(rune('a'+i%26))+string(rune('0'+i)))
	}
	require.Greater(t, store.reads.Load(), int64(900))
	_, err = r.svc.NewFeed(billing.FeedConfig{Size: -1})
	require.ErrorIs(t, err, billing.ErrInvalid)
}

func TestFeedLooksUpWithoutAllocation(t *testing.T) {
	r := newRig(t)
	f, err := r.svc.NewFeed(billing.FeedConfig{})
	require.NoError(t, err)
	r.subscribe("alice", "pro")
	ctx := r.ctx
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, _, err := f.Limit(ctx, "alice", "requests"); err != nil {
			t.Error(err)
		}
	}))
}

func TestRevokedAccessReachesAnotherProcess(t *testing.T) {
	pool := pgtest.Pool(t)
	require.NoError(t, billingpg.Migrate(t.Context(), pool))
	r := newRig(t)
	r.store = billingpg.New(pool)
	r.svc = r.service(r.store, r.gateway)
	other := r.service(billingpg.New(pool), r.gateway)
	f, err := other.NewFeed(billing.FeedConfig{MaxAge: 24 * time.Hour}) // only a message can help
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	r.subscribe("alice", "pro")
	require.Eventually(t, func() bool { return requests(t, f, "alice") == 100 }, 30*time.Second, time.Millisecond)
	require.True(t, f.State().Hearing)
	require.Equal(t, 1, f.State().Accounts)
	_, err = r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{Now: true})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return requests(t, f, "alice") == 10 }, 30*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.ErrorIs(t, billingpg.New(nil).Watch(r.ctx, nil, nil), billing.ErrUnsupported)
}

func BenchmarkFeedLimit(b *testing.B) {
	r := newRig(b)
	svc := r.service(r.store, r.gateway, func(c *billing.Config) { c.Now = time.Now })
	f, err := svc.NewFeed(billing.FeedConfig{})
	require.NoError(b, err)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := f.Limit(ctx, "alice", "requests"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFeedStateTellsOfAStoreThatCantBeRead(t *testing.T) {
	r := newRig(t)
	store := &flaky{Store: r.store}
	f, err := r.service(store, r.gateway).NewFeed(billing.FeedConfig{})
	require.NoError(t, err)
	requests(t, f, "alice")
	read := r.clock.Now()
	require.Equal(t, billing.FeedState{Accounts: 1, Oldest: read}, f.State())
	store.down.Store(true)
	r.clock.Advance(time.Minute)
	requests(t, f, "alice")
	require.Equal(t, billing.FeedState{Accounts: 1, Oldest: read, Unread: 1}, f.State())
	store.down.Store(false)
	r.clock.Advance(time.Minute)
	requests(t, f, "alice")
	require.Equal(t, billing.FeedState{Accounts: 1, Oldest: r.clock.Now()}, f.State())
}
