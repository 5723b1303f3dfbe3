package apikeys

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"net/http"
)

const (
	never   = math.MinInt64 / 2
	forever = math.MaxInt64

	ways = 4 // entries that may stand for one slot of the cache
)

// entry is a key ready to be verified. It is immutable but for nextUse.
type entry struct {
	hash      Hash
	principal *Principal
	networks  []netip.Prefix
	revoked   bool
	disabled  bool
	awaits    bool  // a successor that hasn't been used: never cached
	expires   int64 // Unix nanoseconds
	sunset    int64
	filled    int64 // elapsed before the store was asked
	nextUse   atomic.Int64

	deprecation []string // header values, nil unless the key has been replaced
	sunsetAt    []string
}

func (s *Service) newEntry(hash Hash, k Key, filled int64) *entry {
	e := &entry{
		hash:      hash,
		principal: s.principal(k),
		networks:  k.Networks,
		revoked:   !k.RevokedAt.IsZero(),
		disabled:  !k.DisabledAt.IsZero(),
		awaits:    k.ActivatedAt.IsZero(),
		expires:   unixNano(k.ExpiresAt),
		sunset:    unixNano(k.SunsetAt),
		filled:    filled,
	}
	e.nextUse.Store(never)
	if !k.ReplacedAt.IsZero() {
		e.deprecation = []string{"@" + strconv.FormatInt(k.ReplacedAt.Unix(), 10)}
	}
	if !k.SunsetAt.IsZero() {
		e.sunsetAt = []string{k.SunsetAt.UTC().Format(http.TimeFormat)}
	}
	return e
}

// unixNano returns forever for the zero time and for what nanoseconds can't hold.
func unixNano(t time.Time) int64 {
	if t.IsZero() || t.Year() > 2200 {
		return forever
	}
	return t.UnixNano()
}

// cache holds entries by hash in a table of fixed size. Readers take no lock.
//
// An entry that was read before a change must not be inserted after it: a
// fill notes the generation before it asks the store, and insert refuses it
// when a drop has come in between. Insert and drop exclude each other.
type cache struct {
	mu         sync.Mutex
	generation atomic.Uint64
	victim     uint64
	slots      []atomic.Pointer[entry]
	mask       uint64
}

func newCache(size int) *cache {
	n := uint64(ways)
	for n < uint64(size) {
		n *= 2
	}
	return &cache{slots: make([]atomic.Pointer[entry], n), mask: n - 1}
}

// slot returns the first of the entry's places. Hashes are uniform already.
func (c *cache) slot(h *Hash) uint64 {
	return binary.LittleEndian.Uint64(h[:8]) & c.mask &^ (ways - 1)
}

func (c *cache) find(h *Hash) *entry {
	at := c.slot(h)
	for i := range uint64(ways) {
		if e := c.slots[at+i].Load(); e != nil && e.hash == *h {
			return e
		}
	}
	return nil
}

// insert adds the entry unless something was dropped since the generation.
func (c *cache) insert(e *entry, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation.Load() != generation {
		return
	}
	at := c.slot(&e.hash)
	put := -1
	for i := range ways {
		switch old := c.slots[at+uint64(i)].Load(); {
		case old == nil && put < 0:
			put = i
		case old != nil && old.hash == e.hash:
			e.nextUse.Store(old.nextUse.Load())
			put = i
			c.slots[at+uint64(put)].Store(e)
			return
		}
	}
	if put < 0 {
		c.victim++
		put = int(c.victim % ways)
	}
	c.slots[at+uint64(put)].Store(e)
}

// drop removes the entries of the keys. When it returns, no verification that
// starts will see them, nor what was read of them before.
func (c *cache) drop(ids map[string]bool) {
	if c == nil || len(ids) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation.Add(1)
	for i := range c.slots {
		if e := c.slots[i].Load(); e != nil && ids[e.principal.key.ID] {
			c.slots[i].Store(nil)
		}
	}
}

// flush removes everything.
func (c *cache) flush() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation.Add(1)
	for i := range c.slots {
		c.slots[i].Store(nil)
	}
}

func (c *cache) len() int {
	n := 0
	for i := range c.slots {
		if c.slots[i].Load() != nil {
			n++
		}
	}
	return n
}

const (
	unknownSlots = 1 << 16
	unknownFor   = 2 * time.Second
	unknownTick  = 100 * time.Millisecond
)

// unknownKeys remembers for a moment which hashes the store doesn't know: 8
// bytes each, in a table of fixed size. A word holds 40 bits of the hash that
// don't choose the slot, and 24 bits of time.
type unknownKeys struct {
	slots []atomic.Uint64
}

func newUnknownKeys() *unknownKeys {
	return &unknownKeys{slots: make([]atomic.Uint64, unknownSlots)}
}

func (u *unknownKeys) word(h *Hash, elapsed int64) (slot *atomic.Uint64, print, tick uint64) {
	slot = &u.slots[binary.LittleEndian.Uint64(h[8:16])%unknownSlots]
	print = binary.LittleEndian.Uint64(h[16:24]) &^ (1<<24 - 1)
	return slot, print, uint64(elapsed/int64(unknownTick)+1) & (1<<24 - 1)
}

func (u *unknownKeys) add(h *Hash, elapsed int64) {
	slot, print, tick := u.word(h, elapsed)
	slot.Store(print | tick)
}

func (u *unknownKeys) has(h *Hash, elapsed int64) bool {
	slot, print, tick := u.word(h, elapsed)
	w := slot.Load()
	age := (tick - w) & (1<<24 - 1)
	return w != 0 && w&^(1<<24-1) == print && age < uint64(unknownFor/unknownTick)
}
