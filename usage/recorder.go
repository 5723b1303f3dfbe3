package usage

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// RecorderConfig has a good default for everything.
type RecorderConfig struct {
	// Journal is a folder for a write-ahead file. With it Track returns once
	// the event is on disk, and a crash loses no accepted event: the next
	// Recorder on the folder stores what was left. Without it events wait in
	// memory and a crash loses them. A folder belongs to one Recorder at a
	// time.
	Journal string
	// Batch is how many events are stored in one commit at most: 5000 when
	// zero, which is also the most. A writer begins when 1000 (or Batch, if it
	// is less) are likely to wait for it, and takes more when it is behind.
	Batch int
	// Every is how long an event waits at most for its batch to fill: 100 ms
	// when zero.
	Every time.Duration
	// Max is how many events may wait: 100,000 when zero.
	Max int
	// Refuse makes Track return ErrFull when Max events wait, instead of
	// blocking until there is room. An event is never dropped in silence.
	Refuse bool
	// Writers is how many batches are stored at the same time: 2 when zero.
	Writers int
	// Dead is called for each event that can never be stored, such as one
	// whose ID was used for something else, from one of the Recorder's
	// goroutines. Nil logs its ID and the reason.
	Dead func(Event, error)
}

// Recorder takes events quickly and stores them in batches, retrying with the
// same IDs until they are stored. It has Writers goroutines and, with a
// journal, one more; Close ends them.
type Recorder struct {
	svc     *Service
	cfg     RecorderConfig
	journal *journal

	shards [recorderShards]recorderShard
	room   atomic.Int64 // events that wait, in shards, taken or in flight
	closed atomic.Bool
	clock  atomic.Pointer[reading]
	seed   maphash.Seed

	full int             // events of a shard with which each writer is likely to have a batch
	wake []chan struct{} // of each writer
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	used sync.Pool // of *[]Entry

	mu    sync.Mutex
	freed chan struct{} // closed when there is room again
	// waiting has, for each writer, what was taken from the shards or put back.
	// An account's events are one writer's, so that two writers never wait for
	// each other's rows.
	waiting  [][]tracked
	inflight map[*batch]struct{}
	spare    recorderRoom // a shard's next
	stats    RecorderStats
}

const (
	recorderShards = 8
	maxBatch       = 5000
	goodBatch      = 1000
)

// recorderShard has room that is used again: to track an event allocates
// nothing. Events lie in it as records of the journal, so that nothing of the
// caller's memory is kept.
type recorderShard struct {
	mu       sync.Mutex
	records  []byte
	slots    []slot // of the records, in order
	accepted int64
	random   *rand.ChaCha8
	_        [64]byte // on cache lines of its own
}

// recorderRoom is what a shard can do without.
type recorderRoom struct {
	records []byte
	slots   []slot
}

// slot says where a record ends, and in which segment of the journal it is.
type slot struct {
	end     int
	segment *segment
}

// tracked is an event with its time fixed, and its key where that is our own.
type tracked struct {
	Event
	key     [16]byte
	segment *segment
}

func (t *tracked) own() bool { return t.ID == "" }

type batch struct {
	writer int
	events []tracked
	done   chan struct{}
}

// RecorderStats are counts since the Recorder began. Accepted is always
// Stored + Duplicates + Dead + Pending when nothing is under way.
type RecorderStats struct {
	Accepted   int64 // by Track, or found in the journal
	Stored     int64
	Duplicates int64
	Dead       int64
	Pending    int64
	Refused    int64 // with ErrFull
	Retries    int64 // of batches
	// Oldest is the age of the oldest event that waits.
	Oldest time.Duration
}

// LeftError says that Flush or Close ended before everything was stored.
type LeftError struct {
	Pending int64
	Journal string // where they are; empty if only in memory
	Err     error
}

func (e *LeftError) Error() string {
	if e.Journal != "" {
		return fmt.Sprintf("usage: %d events are left in the journal %s: %v", e.Pending, e.Journal, e.Err)
	}
	return fmt.Sprintf("usage: %d events are left in memory: %v", e.Pending, e.Err)
}

func (e *LeftError) Unwrap() error { return e.Err }

// NewRecorder starts a recorder. With a journal it first takes over what an
// earlier process has left.
func NewRecorder(svc *Service, cfg RecorderConfig) (*Recorder, error) {
	if cfg.Batch < 0 || cfg.Batch > maxBatch || cfg.Every < 0 || cfg.Max < 0 || cfg.Writers < 0 {
		return nil, errors.New("usage: RecorderConfig: Batch must be 0 to 5000; Every, Max and Writers must not be negative")
	}
	if cfg.Batch == 0 {
		cfg.Batch = maxBatch
	}
	setDefault(&cfg.Every, 100*time.Millisecond)
	if cfg.Max == 0 {
		cfg.Max = 100_000
	}
	if cfg.Writers == 0 {
		cfg.Writers = 2
	}
	r := &Recorder{
		svc: svc, cfg: cfg, freed: make(chan struct{}),
		inflight: map[*batch]struct{}{}, waiting: make([][]tracked, cfg.Writers), seed: maphash.MakeSeed(),
	}
	// Half of the room is left for those who track while a batch is stored.
	r.full = max(1, min(min(cfg.Batch, goodBatch)*cfg.Writers, cfg.Max/2)/recorderShards)
	for range cfg.Writers {
		r.wake = append(r.wake, make(chan struct{}, 1))
	}
	for i := range r.shards {
		var seed [32]byte
		_, _ = crand.Read(seed[:]) // never fails
		r.shards[i].random = rand.NewChaCha8(seed)
		r.shards[i].slots = make([]slot, 0, min(2*(r.full+1), 2*goodBatch/recorderShards))
		r.shards[i].records = make([]byte, 0, 128*cap(r.shards[i].slots))
	}
	r.readClock()
	if cfg.Journal != "" {
		left, err := r.openJournal()
		if err != nil {
			return nil, err
		}
		for _, t := range left {
			w := r.writerOf(t.Account)
			r.waiting[w] = append(r.waiting[w], t)
		}
		r.stats.Accepted = int64(len(left))
		r.room.Store(int64(len(left)))
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	for w := range cfg.Writers {
		r.wg.Go(func() { r.write(w) })
	}
	return r, nil
}

// Track accepts an event. It returns at once, or with a journal when the event
// is on disk; where there is no room it blocks until the context ends, or
// returns ErrFull. What is wrong with an event itself is returned here.
func (r *Recorder) Track(ctx context.Context, e Event) error {
	var err error
	if e.Value, err = r.svc.checkContent(&e); err != nil {
		return err
	}
	us := r.now()
	if !e.Time.IsZero() {
		at, err := r.svc.checkTime(e.Time, time.UnixMicro(us).UTC())
		if err != nil {
			return err
		}
		us = at.UnixMicro()
	}
	n := r.room.Add(1)
	if n > int64(r.cfg.Max) || r.closed.Load() {
		r.room.Add(-1)
		if n, err = r.enter(ctx); err != nil {
			return err
		}
	}
	// The number of those who wait is another one for each caller.
	sh := &r.shards[uint64(n)%recorderShards]
	if r.journal != nil {
		return r.trackJournal(sh, &e, us)
	}
	sh.mu.Lock()
	var key [16]byte
	if e.ID == "" {
		key = keyAt(us, sh.random.Uint64())
	}
	sh.records = appendPayload(sh.records, &e, us, key)
	sh.slots = append(sh.slots, slot{end: len(sh.records)})
	sh.accepted++
	full := len(sh.slots) == r.full
	sh.mu.Unlock()
	if full {
		r.nudge()
	}
	return nil
}

// trackJournal is the rest of Track where there is a journal.
func (r *Recorder) trackJournal(sh *recorderShard, e *Event, us int64) error {
	var key [16]byte
	if e.ID == "" {
		sh.mu.Lock()
		key = keyAt(us, sh.random.Uint64())
		sh.mu.Unlock()
	}
	seg, err := r.journal.append(e, us, key)
	if err != nil {
		r.leave(1)
		return err
	}
	sh.mu.Lock()
	sh.records = appendPayload(sh.records, e, us, key)
	sh.slots = append(sh.slots, slot{end: len(sh.records), segment: seg})
	sh.accepted++
	full := len(sh.slots) == r.full
	sh.mu.Unlock()
	if full {
		r.nudge()
	}
	return nil
}

// now is the time in Unix microseconds. The system's clock is read only for
// what has passed since a writer has read it whole, which takes half the time.
func (r *Recorder) now() int64 {
	if !r.svc.realTime {
		return r.svc.now().UnixMicro()
	}
	read := r.clock.Load()
	return read.us + int64(time.Since(read.at)/time.Microsecond)
}

// reading is a reading of the system's clock.
type reading struct {
	at time.Time
	us int64 // the same in Unix microseconds
}

func (r *Recorder) readClock() {
	now := time.Now()
	r.clock.Store(&reading{now, now.UnixMicro()})
}

// nudge wakes the writers. A shard does it when it has become full, once: a
// writer that is woken empties all of them.
func (r *Recorder) nudge() {
	for _, wake := range r.wake {
		select {
		case wake <- struct{}{}:
		default: // it has been told
		}
	}
}

// enter takes a place, or waits for one, and returns how many are taken.
func (r *Recorder) enter(ctx context.Context) (int64, error) {
	for {
		// First in, then the look: Close waits for whoever is in.
		n := r.room.Add(1)
		if r.closed.Load() {
			r.leave(1)
			return 0, ErrClosed
		}
		if n <= int64(r.cfg.Max) {
			return n, nil
		}
		r.room.Add(-1)
		r.mu.Lock()
		freed := r.freed
		if r.cfg.Refuse {
			r.stats.Refused++
		}
		r.mu.Unlock()
		if r.cfg.Refuse {
			return 0, ErrFull
		}
		if r.room.Load() < int64(r.cfg.Max) {
			continue // freed between the two looks
		}
		select {
		case <-freed:
		case <-r.ctx.Done():
			return 0, ErrClosed
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (r *Recorder) leave(n int64) {
	r.room.Add(-n)
	r.mu.Lock()
	close(r.freed)
	r.freed = make(chan struct{})
	r.mu.Unlock()
}

// Flush stores everything that was tracked before it was called. When the
// context ends first it returns a *LeftError.
func (r *Recorder) Flush(ctx context.Context) error {
	for w := range r.cfg.Writers {
		for b := r.take(w); b != nil; b = r.take(w) {
			r.settle(ctx, b)
			if ctx.Err() != nil {
				return r.left(ctx.Err())
			}
		}
	}
	r.mu.Lock()
	var waits []chan struct{}
	for b := range r.inflight {
		waits = append(waits, b.done)
	}
	r.mu.Unlock()
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return r.left(ctx.Err())
		}
	}
	return nil
}

func (r *Recorder) left(err error) error {
	return &LeftError{Pending: r.room.Load(), Journal: r.cfg.Journal, Err: err}
}

// Close stops accepting events, stores what waits, and ends the goroutines.
// When the context ends first it returns a *LeftError: with a journal, the next
// Recorder on the folder stores the rest.
func (r *Recorder) Close(ctx context.Context) error {
	if r.closed.Swap(true) {
		return nil
	}
	r.stop()
	r.wg.Wait()
	err := r.Flush(ctx)
	for err == nil && r.room.Load() > 0 {
		// Somebody was let in by Track just before, and is about to be done.
		select {
		case <-ctx.Done():
			err = r.left(ctx.Err())
		case <-time.After(time.Millisecond):
			err = r.Flush(ctx)
		}
	}
	if r.journal != nil {
		err = errors.Join(err, r.journal.close())
	}
	return err
}

// Stats returns the counts.
func (r *Recorder) Stats() RecorderStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Pending = r.room.Load()
	var oldest time.Time
	older := func(t time.Time) {
		if oldest.IsZero() || t.Before(oldest) {
			oldest = t
		}
	}
	for _, list := range r.waiting {
		if len(list) > 0 {
			older(list[0].Time)
		}
	}
	for b := range r.inflight {
		older(b.events[0].Time)
	}
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		s.Accepted += sh.accepted
		if len(sh.slots) > 0 {
			older(payloadTime(sh.records))
		}
		sh.mu.Unlock()
	}
	if !oldest.IsZero() {
		s.Oldest = max(0, r.svc.now().Sub(oldest))
	}
	return s
}
