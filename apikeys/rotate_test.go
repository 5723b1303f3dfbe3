package apikeys_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
)

func TestRotationKeepsEverythingButTheSecret(t *testing.T) {
	c := newClock()
	s := newService(t, mem(), at(c))
	old, before := issue(t, s, apikeys.NewKey{
		Scopes: []string{"invoices:read"}, Metadata: map[string]string{"a": "b"}, ExpiresAt: c.now().Add(30 * time.Minute),
	})
	c.advance(time.Minute)
	token, k, err := s.Rotate(ctx, person, before.ID, apikeys.Rotation{Overlap: time.Hour})
	require.NoError(t, err)
	require.NotEqual(t, old, token.Reveal())
	require.Equal(t, before.ID, k.Lineage)
	require.Equal(t, before.ID, k.Predecessor)
	require.Equal(t, before.Scopes, k.Scopes)
	require.Equal(t, before.Metadata, k.Metadata)
	require.Equal(t, before.Name, k.Name)
	require.Equal(t, before.ExpiresAt, k.ExpiresAt, "a successor doesn't outlive it unless asked")
	got, err := s.Key(ctx, person, before.ID)
	require.NoError(t, err)
	require.Equal(t, before.ExpiresAt, got.SunsetAt, "nor does the overlap")
	require.Equal(t, k.ID, got.Successor)

	c.advance(time.Second)
	longer := c.now().Add(48 * time.Hour)
	_, third, err := s.Rotate(ctx, person, k.ID, apikeys.Rotation{ExpiresAt: longer})
	require.NoError(t, err)
	require.Equal(t, longer, third.ExpiresAt)
	require.Equal(t, before.ID, third.Lineage)
	keys, err := s.Lineage(ctx, person, k.ID)
	require.NoError(t, err)
	require.Len(t, keys, 3)
	require.Equal(t, third.ID, keys[0].ID)
}

func TestOverlapEnds(t *testing.T) {
	c := newClock()
	s := newService(t, mem(), at(c))
	old, k := issue(t, s, apikeys.NewKey{})
	token, _, err := s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour})
	require.NoError(t, err)
	c.advance(time.Hour - 1)
	require.True(t, verify(t, s, old).Allowed())
	c.advance(1)
	require.Equal(t, apikeys.ReasonReplaced, verify(t, s, old).Reason)
	require.True(t, verify(t, s, token.Reveal()).Allowed())
}

func TestOverlapMayBeginWithTheFirstUse(t *testing.T) {
	c, store := newClock(), mem()
	s := newService(t, store, at(c))
	old, k := issue(t, s, apikeys.NewKey{})
	token, next, err := s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour, OnFirstUse: true})
	require.NoError(t, err)
	c.advance(300 * time.Hour)
	require.True(t, verify(t, s, old).Allowed(), "nobody has the new one yet")

	// The first use can't be written: the new key works, and tries again.
	store.lost = false
	broken := &brokenChange{Store: store.Store, err: errCut}
	other := newService(t, broken, at(c))
	require.True(t, verify(t, other, token.Reveal()).Allowed())
	require.True(t, verify(t, other, token.Reveal()).Allowed())
	require.EqualValues(t, 2, broken.calls.Load())

	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if d, err := s.Verify(ctx, token.Reveal(), apikeys.Client{}); err != nil || !d.Allowed() {
				t.Error("refused")
			}
		})
	}
	wg.Wait()
	got, err := s.Key(ctx, op, k.ID)
	require.NoError(t, err)
	require.Equal(t, c.now().Add(time.Hour), got.SunsetAt)
	got, err = s.Key(ctx, op, next.ID)
	require.NoError(t, err)
	require.Equal(t, c.now(), got.ActivatedAt)
	c.advance(time.Hour)
	require.Equal(t, apikeys.ReasonReplaced, verify(t, s, old).Reason)
	activated := 0
	history, err := s.History(ctx, op, next.ID, 0)
	require.NoError(t, err)
	for _, e := range history {
		if e.Action == apikeys.ActionActivated {
			activated++
		}
	}
	require.Equal(t, 1, activated)
}

type brokenChange struct {
	apikeys.Store
	err   error
	calls atomic.Int64
}

func (b *brokenChange) Change(_ context.Context, _ apikeys.Selection, _ func([]apikeys.Record) (apikeys.Delta, error)) error {
	b.calls.Add(1)
	return b.err
}

func TestOneOfAHundredRotationsSucceeds(t *testing.T) {
	s := newService(t, mem())
	_, k := issue(t, s, apikeys.NewKey{})
	var won atomic.Int64
	var successor atomic.Value
	losers := make(chan error, 100)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			_, next, err := s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour})
			if err == nil {
				won.Add(1)
				successor.Store(next.ID)
				return
			}
			losers <- err
		})
	}
	wg.Wait()
	close(losers)
	require.EqualValues(t, 1, won.Load())
	for err := range losers {
		var state *apikeys.StateError
		require.ErrorAs(t, err, &state)
		require.ErrorIs(t, err, apikeys.ErrState)
		require.Equal(t, successor.Load(), state.Successor)
	}
	keys, err := s.Lineage(ctx, op, k.ID)
	require.NoError(t, err)
	require.Len(t, keys, 2)
}

// TestRotateAndRevokeLeaveNothingAlive revokes both keys while they rotate.
func TestRotateAndRevokeLeaveNothingAlive(t *testing.T) {
	s := newService(t, mem(), func(c *apikeys.Config) { c.CacheSize = 64 })
	for range proof(200, 5000) {
		old, k := issue(t, s, apikeys.NewKey{})
		verify(t, s, old)
		var wg sync.WaitGroup
		var token apikeys.Token
		var rotateErr, revokeErr error
		wg.Go(func() { token, _, rotateErr = s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour}) })
		wg.Go(func() { revokeErr = s.Revoke(ctx, op, k.ID, "leaked") })
		wg.Wait()
		require.NoError(t, revokeErr)
		require.Equal(t, apikeys.ReasonRevoked, verify(t, s, old).Reason)
		if rotateErr != nil {
			require.ErrorIs(t, rotateErr, apikeys.ErrState)
			require.Empty(t, token.Reveal())
			continue
		}
		require.True(t, verify(t, s, token.Reveal()).Allowed(), "a rotation that came first has a life of its own")
	}
}

func TestOnlyActiveKeysRotate(t *testing.T) {
	c := newClock()
	s := newService(t, mem(), at(c))
	yes := true
	for name, end := range map[string]func(id string) error{
		"revoked":  func(id string) error { return s.Revoke(ctx, op, id, "") },
		"disabled": func(id string) error { _, err := s.Update(ctx, op, id, apikeys.Update{Disabled: &yes}); return err },
		"expired": func(id string) error {
			now := c.now()
			_, err := s.Update(ctx, op, id, apikeys.Update{ExpiresAt: &now})
			return err
		},
	} {
		_, k := issue(t, s, apikeys.NewKey{})
		require.NoError(t, end(k.ID), name)
		_, _, err := s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour})
		var state *apikeys.StateError
		require.ErrorAs(t, err, &state, name)
		require.EqualValues(t, name, state.Status)
		require.ErrorContains(t, err, name)
	}
	_, _, err := s.Rotate(ctx, op, "key_none", apikeys.Rotation{Overlap: -1})
	require.ErrorIs(t, err, apikeys.ErrInvalid)
}

// TestRotationUnderTrafficRefusesNobody rotates again and again while a client
// goes on with the newest key that it has heard of.
func TestRotationUnderTrafficRefusesNobody(t *testing.T) {
	s := newService(t, mem())
	h := s.Middleware(apikeys.MiddlewareConfig{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	first, k := issue(t, s, apikeys.NewKey{})
	var current atomic.Value
	current.Store(first)
	stop := make(chan struct{})
	var requests, refused, warned atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					if n > 100 {
						return
					}
				default:
				}
				token := current.Load().(string)
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("X-API-Key", token)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				requests.Add(1)
				if w.Code != 200 {
					refused.Add(1)
				}
				if w.Header().Get("Sunset") != "" {
					warned.Add(1)
				}
			}
		})
	}
	for range proof(50, 2000) {
		token, next, err := s.Rotate(ctx, op, k.ID, apikeys.Rotation{Overlap: time.Hour})
		require.NoError(t, err)
		k = next
		for range 20 {
			verify(t, s, token.Reveal())
		}
		current.Store(token.Reveal())
	}
	close(stop)
	wg.Wait()
	t.Logf("%d requests, %d refused, %d told of the sunset", requests.Load(), refused.Load(), warned.Load())
	require.Zero(t, refused.Load())
}
