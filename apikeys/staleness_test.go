package apikeys_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
)

// naive is a cache as it is often written: what was read goes in, a change
// deletes it.
type naive struct {
	store apikeys.Store
	mu    sync.Mutex
	byTok map[string]bool
}

func (n *naive) valid(token string, read func() bool) bool {
	n.mu.Lock()
	v, ok := n.byTok[token]
	n.mu.Unlock()
	if ok {
		return v
	}
	v = read()
	n.mu.Lock()
	n.byTok[token] = v
	n.mu.Unlock()
	return v
}

func (n *naive) drop(token string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byTok, token)
}

// dawdle lets other goroutines run for a random while.
func dawdle() {
	for range rand.IntN(20) {
		runtime.Gosched()
	}
}

// TestRevokeAndFillNeverLeaveAStaleKey lets readings of a key race with its
// revocation, here and in another process, and looks whether the key is
// accepted afterwards. The control, a cache that deletes on revocation, must be
// caught.
func TestRevokeAndFillNeverLeaveAStaleKey(t *testing.T) {
	trials := proof(1_000, 100_000)
	shared := apikeysmem.New()
	storeA, storeB := &node{Store: shared}, &node{Store: shared}
	small := func(c *apikeys.Config) { c.CacheSize = 1024 }
	a, b := newService(t, storeA, small), newService(t, storeB, small)
	require.NoError(t, b.Sync(ctx))
	storeA.after, storeB.after = dawdle, dawdle
	bad := &naive{store: shared, byTok: map[string]bool{}}
	probe := newService(t, storeA, func(c *apikeys.Config) { c.MaxStaleness = -1 })
	stale, caught := 0, 0
	for range trials {
		token, k := issue(t, a, apikeys.NewKey{})
		read := func() bool {
			d, err := probe.Verify(ctx, token, apikeys.Client{})
			return err == nil && d.Allowed()
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = a.Verify(ctx, token, apikeys.Client{}) })
			wg.Go(func() { _, _ = b.Verify(ctx, token, apikeys.Client{}) })
			wg.Go(func() { bad.valid(token, read) })
		}
		dawdle()
		require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
		bad.drop(token)
		// Whoever starts now is refused here, and there once it has synced.
		wg.Go(func() {
			if d, err := a.Verify(ctx, token, apikeys.Client{}); err != nil || d.Allowed() {
				t.Error("accepted while older readings are under way")
			}
		})
		require.NoError(t, b.Sync(ctx))
		if d := verify(t, b, token); d.Allowed() {
			stale++
		}
		wg.Wait()
		if verify(t, a, token).Allowed() || verify(t, b, token).Allowed() {
			stale++
		}
		if bad.valid(token, read) {
			caught++
		}
	}
	t.Logf("%d races: %d stale; control: %d stale", trials, stale, caught)
	require.Zero(t, stale)
	require.NotZero(t, caught, "the control went uncaught: this test sees nothing")
}

// TestPartitionedNodeForgetsInTime cuts a node off from the bus, or from
// everything, for a minute in which many keys are revoked elsewhere.
func TestPartitionedNodeForgetsInTime(t *testing.T) {
	for name, tc := range map[string]struct {
		staleness time.Duration
		store     bool // the store is cut off as well
		wantBad   bool
	}{
		"bus":               {0, false, false},
		"bus and store":     {0, true, false},
		"control: a minute": {time.Minute, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, shared := newClock(), apikeysmem.New()
			storeB := &node{Store: shared}
			a := newService(t, shared, at(c), func(cfg *apikeys.Config) { cfg.CacheSize = 1024 })
			b := newService(t, storeB, at(c), func(cfg *apikeys.Config) { cfg.MaxStaleness = tc.staleness })
			require.NoError(t, b.Sync(ctx))
			n := proof(100, 1000)
			tokens, ids := make([]string, n), make([]string, n)
			for i := range n {
				token, k := issue(t, a, apikeys.NewKey{})
				tokens[i], ids[i] = token, k.ID
				require.True(t, verify(t, b, token).Allowed())
			}
			storeB.cut.Store(tc.store)
			revokedAt := map[int]time.Time{}
			bad, within := 0, 0
			for step := range 600 { // 60 s
				c.advance(100 * time.Millisecond)
				for i := step * 2; i < step*2+2 && i < n; i++ {
					require.NoError(t, a.Revoke(ctx, op, ids[i], ""))
					revokedAt[i] = c.now()
				}
				for i, since := range revokedAt {
					if step%10 != 0 && c.now().Sub(since) < 4*time.Second {
						continue
					}
					d, err := b.Verify(ctx, tokens[i], apikeys.Client{})
					if err != nil {
						require.ErrorIs(t, err, apikeys.ErrUnavailable)
					}
					switch age := c.now().Sub(since); {
					case d.Allowed() && age > 5*time.Second:
						bad++
					case d.Allowed():
						within++
					}
				}
			}
			require.Len(t, revokedAt, n)
			require.Equal(t, tc.wantBad, bad > 0, "%d accepted after 5 s", bad)
			require.NotZero(t, within, "nothing was ever stale: the partition cut nothing")
			storeB.cut.Store(false)
			require.NoError(t, b.Sync(ctx)) // what Run does within a second
			for i := range n {
				require.False(t, verify(t, b, tokens[i]).Allowed())
			}
		})
	}
}

// TestSyncedNodeAsksNothingAgain shows what reading the log buys: a key that
// is used all day is read once.
func TestSyncedNodeAsksNothingAgain(t *testing.T) {
	c, store := newClock(), mem()
	s := newService(t, store, at(c))
	token, k := issue(t, s, apikeys.NewKey{})
	require.NoError(t, s.Sync(ctx))
	for range 100 {
		require.True(t, verify(t, s, token).Allowed())
		c.advance(4 * time.Second)
		require.NoError(t, s.Sync(ctx))
	}
	require.EqualValues(t, 1, store.finds.Load())
	other := newService(t, store, at(c))
	require.NoError(t, other.Revoke(ctx, op, k.ID, ""))
	require.NoError(t, s.Sync(ctx))
	require.Equal(t, apikeys.ReasonRevoked, verify(t, s, token).Reason)
	require.Less(t, s.Stats().Behind, time.Second)
}

// TestManyChangesFlushTheCache is the case of a node that has missed more than
// it reads at once.
func TestManyChangesFlushTheCache(t *testing.T) {
	store := apikeysmem.New()
	a, b := newService(t, store), newService(t, store)
	token, k := issue(t, a, apikeys.NewKey{})
	require.NoError(t, b.Sync(ctx))
	require.True(t, verify(t, b, token).Allowed())
	for range 1200 {
		issue(t, a, apikeys.NewKey{})
	}
	require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
	require.NoError(t, b.Sync(ctx))
	require.Equal(t, apikeys.ReasonRevoked, verify(t, b, token).Reason)
	require.NoError(t, a.RevokeBefore(ctx, op, time.Now()))
	require.NoError(t, b.Sync(ctx))
	require.Zero(t, b.Stats().Cached)
}

// pipe is a bus in the process that can be cut.
type pipe struct {
	mu     sync.Mutex
	wakers map[int]func()
	next   int
	cut    atomic.Bool
	fails  atomic.Int64
}

func (p *pipe) Announce(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut.Load() {
		return errCut
	}
	for _, wake := range p.wakers {
		wake()
	}
	return nil
}

func (p *pipe) Listen(ctx context.Context, wake func()) error {
	if p.cut.Load() {
		p.fails.Add(1)
		return errCut
	}
	p.mu.Lock()
	if p.wakers == nil {
		p.wakers = map[int]func(){}
	}
	id := p.next
	p.next++
	p.wakers[id] = wake
	p.mu.Unlock()
	wake()
	<-ctx.Done()
	p.mu.Lock()
	delete(p.wakers, id)
	p.mu.Unlock()
	return ctx.Err()
}

func TestRunBringsChangesAndWritesUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, bus := apikeysmem.New(), &pipe{}
		with := func(c *apikeys.Config) { c.Bus = bus }
		a, b := newService(t, store, with), newService(t, store, with)
		run, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.Run(run); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		token, k := issue(t, a, apikeys.NewKey{})
		require.True(t, verify(t, b, token).Allowed())
		require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
		synctest.Wait() // no time passes: the bus has brought it
		require.Equal(t, apikeys.ReasonRevoked, verify(t, b, token).Reason)

		// Without the bus, polling does it within a second.
		bus.cut.Store(true)
		token, k = issue(t, a, apikeys.NewKey{})
		require.True(t, verify(t, b, token).Allowed())
		require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, apikeys.ReasonRevoked, verify(t, b, token).Reason)

		// Uses are written each ten seconds, and at the end.
		token, k = issue(t, a, apikeys.NewKey{})
		verify(t, b, token)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		got, err := a.Key(ctx, op, k.ID)
		require.NoError(t, err)
		require.False(t, got.LastUsed.At.IsZero())
		verify(t, b, token)
		stop()
		wg.Wait()
		again, err := a.Key(ctx, op, k.ID)
		require.NoError(t, err)
		require.True(t, again.LastUsed.At.After(got.LastUsed.At))
	})
}

func TestRunOutlivesTheLossOfStoreAndBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, bus := mem(), &pipe{}
		store.cut.Store(true)
		bus.cut.Store(true)
		s := newService(t, store, func(c *apikeys.Config) { c.Bus = bus })
		run, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- s.Run(run) }()
		time.Sleep(time.Minute)
		require.Negative(t, s.Stats().Behind)
		// It asks again at least each second, and doesn't spin.
		require.Greater(t, bus.fails.Load(), int64(30))
		require.Less(t, bus.fails.Load(), int64(120))
		store.cut.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Less(t, s.Stats().Behind, 2*time.Second)
		stop()
		require.NoError(t, <-done)
	})
}

// truth is what the model knows of a key: whether it is valid at an instant.
type truth struct {
	token     string
	id        string
	expires   time.Time
	sunset    time.Time
	revoked   bool
	disabled  bool
	overlap   time.Duration
	awaits    int // index of the predecessor, -1 for none
	lastValid time.Time
	since     time.Time // valid without a break since
	changedBy int       // the node that has changed it last
}

func (k *truth) valid(now time.Time) bool {
	return !k.revoked && !k.disabled &&
		(k.expires.IsZero() || now.Before(k.expires)) && (k.sunset.IsZero() || now.Before(k.sunset))
}

// TestNoKeyIsAcceptedAfterItsBound drives four nodes on one store at random
// (issue, rotate, revoke, disable, expire, partition, synchronise, time) beside
// a model, and asks after each step. A key may be accepted only if it was
// valid at some instant of the last MaxStaleness, and at once not by the node
// that has ended it; it must be accepted by a connected node if it was valid
// all that time. Three of the nodes share a cache that answers with whatever
// it was ever given.
func TestNoKeyIsAcceptedAfterItsBound(t *testing.T) {
	var steps, accepted, refused, staleOK, hits, offered atomic.Int64
	run := func(t *rapid.T, limit time.Duration) error {
		c, shared := newClock(), apikeysmem.New()
		second := &hoard{pick: func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "version") }}
		var nodes [4]*apikeys.Service
		var stores [4]*node
		for i := range nodes {
			stores[i] = &node{Store: shared}
			cfg := apikeys.Config{Prefix: "acme", Peppers: peppers, Now: c.now, MaxKeys: -1, CacheSize: 64, MaxStaleness: limit}
			if i > 0 {
				cfg.Shared, cfg.CacheSize = second, 4
			}
			s, err := apikeys.New(stores[i], cfg)
			if err != nil {
				return err
			}
			nodes[i] = s
		}
		var keys []*truth
		const bound = 5 * time.Second
		tick := func() {
			for _, k := range keys {
				if k.valid(c.now()) {
					k.lastValid = c.now()
				} else {
					k.since = time.Time{}
				}
			}
		}
		changed := func(k *truth, by int) {
			k.changedBy = by
			if k.valid(c.now()) && k.since.IsZero() {
				k.since = c.now()
			}
			tick()
		}
		pick := func() (int, *truth) {
			i := rapid.IntRange(0, len(keys)-1).Draw(t, "key")
			return i, keys[i]
		}
		for range proof(60, 1000) {
			steps.Add(1)
			n := rapid.IntRange(0, 3).Draw(t, "node")
			s := nodes[n]
			what := rapid.IntRange(0, 15).Draw(t, "step")
			if len(keys) == 0 {
				what = 0
			}
			if stores[n].cut.Load() && what < 7 {
				what = 10
			}
			switch what {
			case 0, 1:
				k := &truth{awaits: -1, lastValid: c.now(), since: c.now(), changedBy: n}
				if rapid.Bool().Draw(t, "expires") {
					k.expires = c.now().Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "life")) * time.Second)
				}
				token, key, err := s.Issue(ctx, op, apikeys.NewKey{Owner: owner, Name: "n", ExpiresAt: k.expires})
				if err != nil {
					return err
				}
				k.token, k.id = token.Reveal(), key.ID
				keys = append(keys, k)
			case 2:
				_, k := pick()
				if err := s.Revoke(ctx, op, k.id, ""); err != nil {
					return err
				}
				k.revoked = true
				changed(k, n)
			case 3:
				_, k := pick()
				off := !k.disabled
				_, err := s.Update(ctx, op, k.id, apikeys.Update{Disabled: &off})
				if k.revoked != errors.Is(err, apikeys.ErrState) {
					return err
				}
				if err == nil {
					k.disabled = off
					changed(k, n)
				}
			case 4:
				_, k := pick()
				soon := c.now().Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "soon")) * time.Second)
				_, err := s.Update(ctx, op, k.id, apikeys.Update{ExpiresAt: &soon})
				if k.revoked != errors.Is(err, apikeys.ErrState) {
					return err
				}
				if err == nil {
					k.expires = soon
					changed(k, n)
				}
			case 5, 6:
				i, k := pick()
				r := apikeys.Rotation{
					Overlap:    time.Duration(rapid.IntRange(0, 10).Draw(t, "overlap")) * time.Second,
					OnFirstUse: rapid.Bool().Draw(t, "on first use"),
				}
				token, key, err := s.Rotate(ctx, op, k.id, r)
				if err != nil {
					if !errors.Is(err, apikeys.ErrState) {
						return err
					}
					break
				}
				next := &truth{token: token.Reveal(), id: key.ID, expires: k.expires, awaits: -1, lastValid: c.now(), since: c.now(), changedBy: n}
				if r.OnFirstUse {
					next.awaits, k.overlap = i, r.Overlap
				} else {
					k.sunset = earlier(k.expires, c.now().Add(r.Overlap))
					changed(k, n)
				}
				keys = append(keys, next)
			case 7, 8:
				tick()
				c.advance(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
				tick()
			case 9:
				stores[n].cut.Store(!stores[n].cut.Load())
			case 10, 11:
				if err := s.Sync(ctx); err != nil && !errors.Is(err, apikeys.ErrUnavailable) {
					return err
				}
			default:
				_, k := pick()
				tick()
				d, err := s.Verify(ctx, k.token, apikeys.Client{})
				now := c.now()
				switch {
				case err != nil && !errors.Is(err, apikeys.ErrUnavailable):
					return err
				case err != nil && !stores[n].cut.Load():
					return err
				case d.Allowed():
					accepted.Add(1)
					if !k.valid(now) {
						staleOK.Add(1)
						if k.changedBy == n || now.Sub(k.lastValid) > bound {
							return errors.New("accepted after its bound")
						}
					}
					if k.awaits >= 0 && !stores[n].cut.Load() {
						old := keys[k.awaits]
						k.awaits = -1
						if old.sunset.IsZero() {
							old.sunset = earlier(old.expires, now.Add(old.overlap))
						}
						changed(old, n)
					}
				case err == nil:
					refused.Add(1)
					if !k.since.IsZero() && now.Sub(k.since) > bound && k.valid(now) {
						return errors.New("refused " + string(d.Reason) + " though valid all the time")
					}
				}
			}
		}
		for i := range stores {
			stores[i].cut.Store(false)
			hits.Add(nodes[i].Stats().SharedHits)
		}
		offered.Add(second.offered)
		_, err := nodes[0].VerifyAudit(ctx, apikeys.Head{})
		return err
	}
	rapid.Check(t, func(t *rapid.T) {
		if err := run(t, 0); err != nil {
			t.Fatalf("%v", err)
		}
	})
	t.Logf("%d steps: %d accepted (of these %d stale within the bound), %d refused; of %d entries that the shared cache offered %d served",
		steps.Load(), accepted.Load(), staleOK.Load(), refused.Load(), offered.Load(), hits.Load())
	require.NotZero(t, hits.Load(), "the shared cache served nothing")
	require.Less(t, hits.Load(), offered.Load(), "the shared cache offered nothing stale")
	require.NotZero(t, staleOK.Load(), "no step was ever stale: the model tests nothing")

	// The control: with a bound of a minute the same steps must break the rule.
	caught := false
	for seed := 0; seed < 300 && !caught; seed++ {
		rapid.Custom(func(t *rapid.T) bool { caught = caught || run(t, time.Minute) != nil; return caught }).Example(seed)
	}
	require.True(t, caught, "the control went uncaught")
}

func earlier(a, b time.Time) time.Time {
	if !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}
