package apikeys

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/kolekt/commerce/internal/clientip"
)

const guardSlots = 1 << 13

// guard counts invalid keys by client network, in a table of fixed size. It
// stands before the store only: a key that the cache knows always passes, so
// that one guesser behind a shared address doesn't shut its neighbours out
// of keys that are in use.
type guard struct {
	perMinute int
	seed      maphash.Seed
	mu        sync.Mutex
	slots     []guardSlot
}

type guardSlot struct {
	print  uint64
	window int64
	count  int
}

func newGuard(perMinute int) *guard {
	if perMinute < 0 {
		return nil
	}
	return &guard{perMinute: perMinute, seed: maphash.MakeSeed(), slots: make([]guardSlot, guardSlots)}
}

// at returns the network's slot in the present minute. The caller holds mu.
func (g *guard) at(network netip.Prefix, now time.Time) *guardSlot {
	print := maphash.Comparable(g.seed, network)
	slot := &g.slots[print%guardSlots]
	if window := now.Unix() / 60; slot.print != print || slot.window != window {
		*slot = guardSlot{print: print, window: window}
	}
	return slot
}

// blocks reports whether the client's network has used its invalid keys up.
func (g *guard) blocks(src *source, now time.Time) bool {
	if g == nil {
		return false
	}
	network := clientip.Network(src.get().Addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at(network, now).count >= g.perMinute
}

// count notes an invalid key, and reports whether there were too many before.
func (g *guard) count(src *source, now time.Time) bool {
	if g == nil {
		return false
	}
	network := clientip.Network(src.get().Addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	slot := g.at(network, now)
	slot.count++
	return slot.count > g.perMinute
}
