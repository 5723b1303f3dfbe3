package ratelimitmem

import (
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
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

// table is an open-addressing table of slots: a hash, and the words of its
// entry. A hash of 0 is a free slot; a slot's hash is written once, under the
// shard's mutex, after its words. Entries leave only by a rebuild.
type table struct {
	first  *slot
	n      uint64 // slots
	stride uint64 // words of a slot
}

// slot is the beginning of a slot: the hash, and the entry's first word. What
// else the entry has follows it.
type slot [2]uint64

func newTable(words int, n uint64) *table {
	stride := uint64(words) + 1
	return &table{stride: stride, n: n, first: (*slot)(make([]uint64, n*stride))}
}

func (t *table) words() int   { return int(t.stride) - 1 }
func (t *table) bytes() int64 { return int64(t.n*t.stride) * 8 }

// at returns the i-th slot, i below n. A slice would be checked twice, and its
// length fetched, in what is mostly the wait for a line of memory.
func (t *table) at(i uint64) *slot {
	return (*slot)(unsafe.Add(unsafe.Pointer(t.first), i*t.stride*8))
}

// entry returns the words of a slot's entry.
func (t *table) entry(s *slot) []uint64 { return unsafe.Slice(&s[1], t.words()) }

// pair returns the first two words of an entry that has two.
func (s *slot) pair() *[2]uint64 { return (*[2]uint64)(unsafe.Pointer(&s[1])) }

// home returns the number of the slot where a hash belongs. The high half picks
// it; the low byte has picked the shard.
func (t *table) home(hash uint64) uint64 { return (hash >> 32) * t.n >> 32 }

func (s *slot) hash() uint64 { return atomic.LoadUint64(&s[0]) }

// find returns the slot of a hash, or else the one where it would go.
func (t *table) find(hash uint64) (s *slot, ok bool) {
	i := t.home(hash)
	for {
		s = t.at(i)
		switch h := s.hash(); h {
		case hash:
			return s, true
		case 0:
			return s, false
		}
		if i++; i == t.n {
			i = 0
		}
	}
}

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

// comeBack is for how long a dead entry keeps its slot if there is room, in
// microseconds: a key that is back so soon needn't be inserted again.
const comeBack = 1_000_000

// shard is what inserting into a part of a scope takes.
type shard struct {
	mu   sync.Mutex // held to insert and to rebuild
	used uint64     // slots taken, the dead ones too
	full int64      // until when not to look for dead entries again, microseconds
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
		since := now - comeBack
		if over {
			since = now
		}
		t = sc.rebuild(hash%shards, since, t.words())
		if s.used >= sc.maxShard && !always {
			// Looking costs time that an attack with new keys must not get.
			s.full = now + 100_000
			return false
		}
		free, _ = t.find(hash)
	}
	s.used++
	atomic.StoreUint64(&free[0], hash)
	return true
}

// widen gives the entries of a hash's shard at least this many words.
func (sc *scope) widen(hash uint64, words int, now int64) {
	s := &sc.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc.tables[hash%shards].Load().words() < words {
		sc.rebuild(hash%shards, now-comeBack, words)
	}
}

// rebuild moves the entries of a shard that weren't dead at an instant to a new
// table, of twice their number. Each entry is taken away under its lock and
// marked, so a decision that is under way is either moved with it or starts
// again in the new table: none is lost. The caller holds the mutex.
func (sc *scope) rebuild(shard uint64, since int64, words int) *table {
	s, old := &sc.shards[shard], sc.tables[shard].Load()
	states := *sc.states.Load()
	live := make([]uint64, 0, (s.used+1)*old.stride)
	for i := range old.n {
		slot := old.at(i)
		hash := slot[0]
		if hash == 0 {
			continue
		}
		entry := old.entry(slot)
		first, _ := lock(entry) // can't have moved: only the mutex's holder moves
		if !dead(states, entry, first, since) {
			live = append(live, hash, first)
			live = append(live, entry[1:]...)
		}
		atomic.StoreUint64(&entry[0], moved)
	}
	s.used = uint64(len(live)) / old.stride
	t := newTable(words, max(2*(s.used+1), 4))
	for i := uint64(0); i < uint64(len(live)); i += old.stride {
		free, _ := t.find(live[i])
		free[0] = live[i]
		copy(t.entry(free), live[i+1:i+old.stride])
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
