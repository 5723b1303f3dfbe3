package apikeys

import (
	"crypto/subtle"
	"encoding/binary"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	never   = math.MinInt64 / 2
	forever = math.MaxInt64

	ways = 4 // entries that may stand for one slot of the cache
)

// entry is a key ready to be verified. It is immutable but for nextUse. What
// a verification reads comes first, to stand in few cache lines.
type entry struct {
	hash      Hash
	revoked   bool
	disabled  bool
	awaits    bool   // a successor that hasn't been used: never cached
	listed    bool   // there are networks
	crc       uint64 // as in the text, so that it needn't be computed
	until     int64  // the first of expires and sunset
	filled    int64  // elapsed before the store was asked
	nextUse   atomic.Int64
	id        string
	principal *Principal

	networks    []netip.Prefix
	expires     int64 // Unix nanoseconds
	sunset      int64
	deprecation []string // header values, nil unless the key has been replaced
	sunsetAt    []string
}

func (s *Service) newEntry(c *candidate, k Key, filled int64) *entry {
	e := &entry{
		hash:      c.hash,
		crc:       c.crc,
		id:        k.ID,
		principal: s.principal(k),
		networks:  k.Networks,
		listed:    len(k.Networks) > 0,
		revoked:   !k.RevokedAt.IsZero(),
		disabled:  !k.DisabledAt.IsZero(),
		awaits:    k.ActivatedAt.IsZero(),
		expires:   unixNano(k.ExpiresAt),
		sunset:    unixNano(k.SunsetAt),
		filled:    filled,
	}
	e.until = min(e.expires, e.sunset)
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
	slots      []slot
	mask       uint64
}

// slot holds one entry. The print, a part of its hash, spares readers a look
// at other entries. The two aren't written together: who reads between the
// writes misses, and asks the store.
type slot struct {
	print atomic.Uint64
	entry atomic.Pointer[entry]
}

func (s *slot) store(e *entry) {
	if e == nil {
		s.print.Store(0)
		s.entry.Store(nil)
		return
	}
	s.entry.Store(e)
	s.print.Store(print(&e.hash))
}

func print(h *Hash) uint64 { return binary.LittleEndian.Uint64(h[8:16]) | 1 }

func newCache(size int) *cache {
	n := uint64(ways)
	for n < uint64(size) {
		n *= 2
	}
	return &cache{slots: make([]slot, n), mask: n - 1}
}

// places returns those where the hash's entry may be. Hashes are uniform already.
func (c *cache) places(h *Hash) []slot {
	at := binary.LittleEndian.Uint64(h[:8]) & c.mask &^ (ways - 1)
	return c.slots[at : at+ways]
}

func (c *cache) find(h *Hash) *entry {
	want, places := print(h), c.places(h)
	for i := range places {
		if places[i].print.Load() != want {
			continue
		}
		if e := places[i].entry.Load(); e != nil && subtle.ConstantTimeCompare(e.hash[:], h[:]) == 1 {
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
	places := c.places(&e.hash)
	var free *slot
	for i := range places {
		switch old := places[i].entry.Load(); {
		case old == nil:
			free = &places[i]
		case old.hash == e.hash:
			e.nextUse.Store(old.nextUse.Load())
			places[i].store(e)
			return
		}
	}
	if free == nil {
		c.victim++
		free = &places[c.victim%ways]
	}
	free.store(e)
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
		if e := c.slots[i].entry.Load(); e != nil && ids[e.id] {
			c.slots[i].store(nil)
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
		c.slots[i].store(nil)
	}
}

func (c *cache) len() int {
	n := 0
	for i := range c.slots {
		if c.slots[i].entry.Load() != nil {
			n++
		}
	}
	return n
}

const (
	unknownSlots = 1 << 14
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
