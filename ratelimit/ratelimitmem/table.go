package ratelimitmem

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// shards is how many parts a scope has. A part is rebuilt as a whole, so it is
// what an insertion may wait for.
const shards = 256

// The first word of an entry carries a lock in bit 0: whoever sets it owns the
// entry. The word moved, which no entry can hold otherwise, says that the
// entry lives in the shard's next table.
const (
	locked = uint64(1)
	moved  = ^uint64(0)
)

// table is an open-addressing table of entries of a hash and words. A hash of
// 0 is a free slot; a slot's hash is written once, under the shard's mutex,
// after its words. Entries leave only by a rebuild.
type table struct {
	stride uint64 // 1 + words
	n      uint64 // slots
	data   []uint64
}

func newTable(words int, n uint64) *table {
	stride := uint64(words) + 1
	return &table{stride: stride, n: n, data: make([]uint64, n*stride)}
}

func (t *table) words() int { return int(t.stride) - 1 }

// find returns where the entry of a hash is, or else where it would go.
func (t *table) find(hash uint64) (at uint64, ok bool) {
	// The high half picks the slot; the low byte has picked the shard.
	at = (hash >> 32) * t.n >> 32 * t.stride
	for {
		switch h := atomic.LoadUint64(&t.data[at]); h {
		case hash:
			return at, true
		case 0:
			return at, false
		}
		if at += t.stride; at == uint64(len(t.data)) {
			at = 0
		}
	}
}

// entry returns the words of the entry at a place.
func (t *table) entry(at uint64) []uint64 { return t.data[at+1 : at+t.stride : at+t.stride] }

// lock takes an entry and returns its first word; ok is false when the entry
// has moved.
func lock(words []uint64) (first uint64, ok bool) {
	for spin := 0; ; spin++ {
		w := atomic.LoadUint64(&words[0])
		if w == moved {
			return 0, false
		}
		if w&locked == 0 && atomic.CompareAndSwapUint64(&words[0], w, w|locked) {
			return w, true
		}
		if spin > 30 {
			runtime.Gosched()
		}
	}
}

func unlock(word *uint64, first uint64) { atomic.StoreUint64(word, first) }

// comeBack is within what time a key that was here is expected again although
// its state is the same as none, in microseconds.
const comeBack = 1_000_000

// shard is what inserting into a part of a scope takes.
type shard struct {
	mu   sync.Mutex // held to insert and to rebuild
	used uint64     // slots taken, the dead ones too
	full int64      // until when not to look for dead entries again, microseconds
	last int64      // when it was rebuilt, microseconds
}

// insert makes an empty entry for a hash. When its shard holds its share of
// live keys, it makes none and returns false.
func (sc *scope) insert(hash uint64, now int64, always bool) bool {
	s := &sc.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	t := sc.tables[hash%shards].Load()
	free, ok := t.find(hash)
	if ok {
		return true
	}
	over := s.used >= sc.maxShard
	if over && !always && now < s.full {
		return false
	}
	if over || (s.used+1)*4 > t.n*3 {
		t = sc.rebuild(hash%shards, now, t.words())
		if s.used >= sc.maxShard && !always {
			// Looking costs time that an attack with new keys must not get.
			s.full = now + 100_000
			return false
		}
		free, _ = t.find(hash)
	}
	s.used++
	atomic.StoreUint64(&t.data[free], hash)
	return true
}

// widen gives the entries of a hash's shard at least this many words.
func (sc *scope) widen(hash uint64, words int, now int64) {
	s := &sc.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc.tables[hash%shards].Load().words() < words {
		sc.rebuild(hash%shards, now, words)
	}
}

// rebuild moves the live entries of a shard to a new table, of twice their
// number. Each entry is taken away under its lock and marked, so a decision
// that is under way is either moved with it or starts again in the new table:
// none is lost. The caller holds the mutex.
func (sc *scope) rebuild(shard uint64, now int64, words int) *table {
	s, old := &sc.shards[shard], sc.tables[shard].Load()
	states := *sc.states.Load()
	live := make([]uint64, 0, (s.used+1)*old.stride)
	for i := uint64(0); i < uint64(len(old.data)); i += old.stride {
		hash := old.data[i]
		if hash == 0 {
			continue
		}
		entry := old.entry(i)
		first, _ := lock(entry) // can't have moved: only the mutex's holder moves
		if !dead(states, entry, first, now) {
			live = append(live, hash, first)
			live = append(live, entry[1:]...)
		}
		atomic.StoreUint64(&entry[0], moved)
	}
	room := uint64(len(live)) / old.stride
	if now-s.last < comeBack {
		// Full again so soon: those that died meanwhile will be back, and must
		// not cost a rebuild each time.
		room = max(room, min(s.used, sc.maxShard))
	}
	s.used, s.last = uint64(len(live))/old.stride, now
	t := newTable(words, max(2*(room+1), 4))
	for i := uint64(0); i < uint64(len(live)); i += old.stride {
		free, _ := t.find(live[i])
		copy(t.data[free:], live[i:i+old.stride])
	}
	sc.tables[shard].Store(t)
	return t
}

// next waits until the shard of a hash has another table than t.
func (sc *scope) next(hash uint64, t *table) {
	s := &sc.shards[hash%shards]
	for sc.tables[hash%shards].Load() == t {
		s.mu.Lock()   // held by the one who rebuilds
		s.mu.Unlock() //nolint:staticcheck // waiting is the purpose
	}
}
