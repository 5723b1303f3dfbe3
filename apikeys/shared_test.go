package apikeys_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
)

// hoard is the worst shared cache: it keeps everything that it was ever given,
// and answers with any of it.
type hoard struct {
	mu      sync.Mutex
	values  map[string][][]byte
	pick    func(n int) int // nil: the first
	offered int64
	fail    error
	asked   int
}

func (h *hoard) Get(_ context.Context, name string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	v := h.values[name]
	switch {
	case h.fail != nil:
		return nil, h.fail
	case len(v) == 0:
		return nil, nil
	case h.pick == nil:
		return v[0], nil
	}
	h.offered++
	return v[h.pick(len(v))], nil
}

func (h *hoard) Set(_ context.Context, name string, value []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.values == nil {
		h.values = map[string][][]byte{}
	}
	h.values[name] = append(h.values[name], value)
	return h.fail
}

func with(shared apikeys.SharedCache) func(*apikeys.Config) {
	return func(cfg *apikeys.Config) { cfg.Shared = shared }
}

// TestSharedCacheSparesTheStore starts a second process whose store can't be
// asked for keys.
func TestSharedCacheSparesTheStore(t *testing.T) {
	truth, second := apikeysmem.New(), &hoard{}
	a, storeB := newService(t, truth, with(second)), &node{Store: truth}
	require.NoError(t, a.Sync(ctx))
	var tokens []string
	for range 20 {
		token, _ := issue(t, a, apikeys.NewKey{Scopes: []string{"read"}, Metadata: map[string]string{"team": "blue"}})
		require.NoError(t, a.Sync(ctx))
		require.True(t, verify(t, a, token).Allowed())
		tokens = append(tokens, token)
	}
	b := newService(t, storeB, with(second))
	require.NoError(t, b.Sync(ctx))
	for _, token := range tokens {
		first, d := verify(t, a, token), verify(t, b, token)
		require.True(t, d.Allowed())
		require.Equal(t, first.Principal, d.Principal)
	}
	require.Zero(t, storeB.finds.Load())
	require.EqualValues(t, 20, b.Stats().SharedHits)
}

// TestSharedCacheNeverBringsAKeyBack changes keys in one process and verifies
// them in others, one that has made the change, one that follows and one that
// has just started, while the shared cache offers what it was given first.
func TestSharedCacheNeverBringsAKeyBack(t *testing.T) {
	c, off := newClock(), true
	for name, end := range map[string]func(s *apikeys.Service, id string) error{
		"revoke": func(s *apikeys.Service, id string) error { return s.Revoke(ctx, op, id, "") },
		"disable": func(s *apikeys.Service, id string) error {
			_, err := s.Update(ctx, op, id, apikeys.Update{Disabled: &off})
			return err
		},
		"expire": func(s *apikeys.Service, id string) error {
			soon := c.now().Add(time.Millisecond)
			_, err := s.Update(ctx, op, id, apikeys.Update{ExpiresAt: &soon})
			c.advance(2 * time.Millisecond)
			return err
		},
		"rotate": func(s *apikeys.Service, id string) error {
			_, _, err := s.Rotate(ctx, op, id, apikeys.Rotation{})
			return err
		},
		"everything": func(s *apikeys.Service, _ string) error {
			c.advance(time.Millisecond)
			return s.RevokeBefore(ctx, op, c.now())
		},
		"owner": func(s *apikeys.Service, _ string) error {
			_, err := s.RevokeOwner(ctx, op, owner, "")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			truth, second := apikeysmem.New(), &hoard{}
			small := func(cfg *apikeys.Config) { cfg.CacheSize, cfg.Shared, cfg.Now = 1, second, c.now }
			a, b := newService(t, truth, small), newService(t, truth, small)
			token, k := issue(t, a, apikeys.NewKey{})
			require.NoError(t, a.Sync(ctx))
			require.NoError(t, b.Sync(ctx))
			require.True(t, verify(t, a, token).Allowed()) // from here on the hoard has it
			require.True(t, verify(t, b, token).Allowed())
			require.EqualValues(t, 1, b.Stats().SharedHits)

			require.NoError(t, end(a, k.ID))
			require.False(t, verify(t, a, token).Allowed(), "here, at once")
			require.NoError(t, b.Sync(ctx))
			require.False(t, verify(t, b, token).Allowed(), "elsewhere, after the log")
			fresh := newService(t, truth, small)
			require.NoError(t, fresh.Sync(ctx))
			require.False(t, verify(t, fresh, token).Allowed(), "in a new process")
			require.NoError(t, a.Sync(ctx))
			require.False(t, verify(t, a, token).Allowed())
		})
	}
}

// TestSharedCacheIsNotTrusted lets somebody who can write to it try to make a
// key, to open one key as another, and to see what is inside.
func TestSharedCacheIsNotTrusted(t *testing.T) {
	truth, second := apikeysmem.New(), &hoard{}
	a := newService(t, truth, with(second))
	require.NoError(t, a.Sync(ctx))
	token, k := issue(t, a, apikeys.NewKey{Name: "canary-name", Metadata: map[string]string{"note": "canary-note"}})
	other, gone := issue(t, a, apikeys.NewKey{})
	require.NoError(t, a.Sync(ctx))
	require.True(t, verify(t, a, token).Allowed())
	require.True(t, verify(t, a, other).Allowed())
	require.Len(t, second.values, 2)
	var names []string
	for name, v := range second.values {
		names = append(names, name)
		for _, secret := range []string{"canary", k.ID, owner.ID, token} {
			require.NotContains(t, name+string(v[0]), secret)
		}
	}
	require.NoError(t, a.Revoke(ctx, op, gone.ID, ""))

	// Swapped, cut, altered, sealed under another pepper: the store is asked.
	swap := second.values[names[0]]
	second.values[names[0]] = second.values[names[1]]
	second.values[names[1]] = swap
	for what, alter := range map[string]func([]byte) []byte{
		"swapped": func(v []byte) []byte { return v },
		"cut":     func(v []byte) []byte { return v[:5] },
		"altered": func(v []byte) []byte { v = append([]byte(nil), v...); v[len(v)-1] ^= 1; return v },
		"plain":   func([]byte) []byte { return []byte(`{"Seq":9,"Key":{"ID":"` + k.ID + `"}}`) },
	} {
		evil := &hoard{values: map[string][][]byte{}}
		for name, v := range second.values {
			evil.values[name] = [][]byte{alter(v[0])}
		}
		b := newService(t, truth, with(evil))
		require.NoError(t, b.Sync(ctx))
		require.True(t, verify(t, b, token).Allowed(), what)
		require.False(t, verify(t, b, other).Allowed(), what)
		require.Zero(t, b.Stats().SharedHits, what)
	}
}

// TestSharedCacheMayFail is a cache that answers nothing but errors.
func TestSharedCacheMayFail(t *testing.T) {
	c, store, second := newClock(), mem(), &hoard{fail: fmt.Errorf("down")}
	s := newService(t, store, at(c), with(second))
	require.NoError(t, s.Sync(ctx))
	for i := range 10 {
		token, _ := issue(t, s, apikeys.NewKey{Name: strings.Repeat("n", i+1)})
		require.True(t, verify(t, s, token).Allowed())
	}
	require.Equal(t, 1, second.asked, "it isn't asked again for a second")
	c.advance(1100 * time.Millisecond)
	second.fail = nil
	token, _ := issue(t, s, apikeys.NewKey{})
	require.True(t, verify(t, s, token).Allowed())
	require.Equal(t, 2, second.asked)

	// Without having read the log there is no proof, and no question.
	lost := newService(t, store, at(c), with(second))
	require.True(t, verify(t, lost, token).Allowed())
	require.Equal(t, 2, second.asked)
}

func TestSharedCacheNeedsAPepperAndACache(t *testing.T) {
	for _, cfg := range []apikeys.Config{
		{Prefix: "acme", Shared: &hoard{}},
		{Prefix: "acme", Shared: &hoard{}, Peppers: peppers, MaxStaleness: -1},
	} {
		_, err := apikeys.New(apikeysmem.New(), cfg)
		var field *apikeys.FieldError
		require.ErrorAs(t, err, &field)
		require.Equal(t, "Config.Shared", field.Field)
	}
}
