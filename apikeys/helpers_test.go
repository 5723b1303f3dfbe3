package apikeys_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proof scales a long proof up under COMMERCE_PROVE.
func proof(small, large int) int {
	if os.Getenv("COMMERCE_PROVE") != "" {
		return large
	}
	return small
}

// clock is a hand-wound clock.
type clock struct{ at atomic.Int64 }

var epoch = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func newClock() *clock {
	c := &clock{}
	c.at.Store(epoch.UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

var errCut = errors.New("connection refused")

// node is a store as one process sees it: counted, cut off, or slow.
type node struct {
	apikeys.Store
	cut   atomic.Bool
	finds atomic.Int64
	// after, if set, runs between the reading of a key and its arrival.
	after func()
	mu    sync.Mutex
	lost  bool // commits, and loses the answer
}

func (n *node) fault() error {
	if n.cut.Load() {
		return errCut
	}
	return nil
}

func (n *node) Find(ctx context.Context, h []apikeys.Hash) (apikeys.Record, error) {
	n.finds.Add(1)
	if err := n.fault(); err != nil {
		return apikeys.Record{}, err
	}
	r, err := n.Store.Find(ctx, h)
	if n.after != nil {
		n.after()
	}
	return r, err
}

func (n *node) Change(ctx context.Context, sel apikeys.Selection, decide func([]apikeys.Record) (apikeys.Delta, error)) error {
	if err := n.fault(); err != nil {
		return err
	}
	err := n.Store.Change(ctx, sel, decide)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil && n.lost {
		return errCut
	}
	return err
}

func (n *node) List(ctx context.Context, q apikeys.Query) ([]apikeys.Key, error) {
	if err := n.fault(); err != nil {
		return nil, err
	}
	return n.Store.List(ctx, q)
}

func (n *node) Log(ctx context.Context, q apikeys.LogQuery) ([]apikeys.Entry, error) {
	if err := n.fault(); err != nil {
		return nil, err
	}
	return n.Store.Log(ctx, q)
}

func (n *node) Head(ctx context.Context) (apikeys.Head, error) {
	if err := n.fault(); err != nil {
		return apikeys.Head{}, err
	}
	return n.Store.Head(ctx)
}

func (n *node) RecordUses(ctx context.Context, uses []apikeys.Use) error {
	if err := n.fault(); err != nil {
		return err
	}
	return n.Store.RecordUses(ctx, uses)
}

func (n *node) Rehash(ctx context.Context, id string, old, hash apikeys.Hash, pepper int16) (bool, error) {
	if err := n.fault(); err != nil {
		return false, err
	}
	return n.Store.Rehash(ctx, id, old, hash, pepper)
}

var peppers = []apikeys.Pepper{{ID: 1, Secret: bytes.Repeat([]byte("1"), 32)}}

func newService(t testing.TB, store apikeys.Store, change ...func(*apikeys.Config)) *apikeys.Service {
	t.Helper()
	cfg := apikeys.Config{Prefix: "acme", Peppers: peppers, MaxKeys: -1}
	for _, f := range change {
		f(&cfg)
	}
	s, err := apikeys.New(store, cfg)
	require.NoError(t, err)
	return s
}

func at(c *clock) func(*apikeys.Config) { return func(cfg *apikeys.Config) { cfg.Now = c.now } }

var (
	ctx    = context.Background()
	op     = apikeys.Operator("op")
	owner  = apikeys.Account("acct_1")
	person = apikeys.Holder("acct_1", owner, "read", "write", "invoices:*")
)

func issue(t testing.TB, s *apikeys.Service, in apikeys.NewKey) (string, apikeys.Key) {
	t.Helper()
	if in.Name == "" {
		in.Name = "test"
	}
	if in.Owner == (apikeys.Owner{}) {
		in.Owner = owner
	}
	token, k, err := s.Issue(ctx, op, in)
	require.NoError(t, err)
	return token.Reveal(), k
}

func verify(t testing.TB, s *apikeys.Service, token string) apikeys.Decision {
	t.Helper()
	d, err := s.Verify(ctx, token, apikeys.Client{})
	require.NoError(t, err)
	require.Equal(t, d.Reason == apikeys.ReasonNone, d.Allowed())
	return d
}

func mem() *node { return &node{Store: apikeysmem.New()} }
