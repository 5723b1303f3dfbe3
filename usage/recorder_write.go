package usage

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"time"
)

// write stores batches until the recorder is closed.
func (r *Recorder) write(writer int) {
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for {
		r.readClock()
		for {
			b := r.take(writer)
			if b == nil {
				break
			}
			r.settle(r.ctx, b)
			if r.ctx.Err() != nil {
				return
			}
			if len(b.events) < r.cfg.Batch {
				break // the rest may wait for its batch to fill
			}
		}
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		case <-r.wake[writer]:
		}
	}
}

// take gathers a batch of a writer's and marks it as under way. It is nil when
// nothing waits.
func (r *Recorder) take(writer int) *batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting[writer]) < r.cfg.Batch {
		for i := range r.shards {
			r.empty(&r.shards[i])
		}
	}
	list := r.waiting[writer]
	n := min(len(list), r.cfg.Batch)
	if n == 0 {
		return nil
	}
	// The batch keeps its part of the list; whoever adds to the rest doesn't
	// touch it.
	b := &batch{writer: writer, events: list[:n:n], done: make(chan struct{})}
	if r.waiting[writer] = list[n:]; n == len(list) {
		r.waiting[writer] = nil
	}
	r.inflight[b] = struct{}{}
	return b
}

// empty hands a shard's events to the writers. Whoever tracks waits no longer
// than it takes to give the shard other room.
func (r *Recorder) empty(sh *recorderShard) {
	sh.mu.Lock()
	room := recorderRoom{sh.records, sh.slots}
	if len(room.slots) == 0 {
		sh.mu.Unlock()
		return
	}
	sh.records, sh.slots, r.spare = r.spare.records, r.spare.slots, recorderRoom{}
	sh.mu.Unlock()
	for w, list := range r.waiting {
		// Each writer gets about as many.
		r.waiting[w] = slices.Grow(list, 9*len(room.slots)/(8*r.cfg.Writers)+1)
	}
	records, start := string(room.records), 0 // what the events' texts are parts of
	for _, s := range room.slots {
		t, err := decodePayload(records[start:s.end])
		start = s.end
		if err != nil {
			panic(err) // we have written it ourselves
		}
		t.segment = s.segment
		w := r.writerOf(t.Account)
		r.waiting[w] = append(r.waiting[w], t)
	}
	clear(room.slots)
	r.spare = recorderRoom{room.records[:0], room.slots[:0]}
}

func (r *Recorder) writerOf(account string) int {
	return int(maphash.String(r.seed, account) % uint64(r.cfg.Writers))
}

// settle stores a batch, or puts it back when the context ends first.
func (r *Recorder) settle(ctx context.Context, b *batch) {
	left := r.store(ctx, b.events)
	r.mu.Lock()
	if len(left) > 0 {
		r.waiting[b.writer] = append(left, r.waiting[b.writer]...)
	}
	delete(r.inflight, b)
	r.mu.Unlock()
	close(b.done)
}

const (
	minBackoff = 20 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// store writes events until they are settled and returns those that aren't
// when the context ends.
func (r *Recorder) store(ctx context.Context, events []tracked) (left []tracked) {
	entries := r.entries(len(events))
	good := events
	now := r.svc.now()
	values := make([]Figure, len(events)) // one allocation for all
	for i := range events {
		e, err := r.entryOf(&events[i], values[i:i:i+1])
		if err != nil { // checked by Track, so that only meters can have changed
			if len(entries) == i {
				good = slices.Clone(events[:i])
			}
			r.bury(events[i], err)
			continue
		}
		if len(entries) < i { // some were buried
			good = append(good, events[i])
		}
		entries = append(entries, e)
	}
	for backoff := minBackoff; len(good) > 0; backoff = min(2*backoff, maxBackoff) {
		outcomes, err := r.append(ctx, now, entries)
		switch {
		case err == nil:
			r.count(good, outcomes)
			clear(entries)
			r.used.Put(&entries)
			return nil
		case isKind(err) && len(good) == 1:
			r.bury(good[0], err)
			return nil
		case isKind(err):
			// One of them can't be stored: the halves find out which.
			half := len(good) / 2
			return append(r.store(ctx, good[:half:half]), r.store(ctx, good[half:])...)
		}
		r.mu.Lock()
		r.stats.Retries++
		r.mu.Unlock()
		if ctx.Err() == nil {
			r.svc.cfg.Logger.WarnContext(ctx, "usage: storing a batch failed, trying again", "events", len(good), "error", err)
		}
		wait := time.NewTimer(backoff/2 + rand.N(backoff/2))
		select {
		case <-ctx.Done():
			wait.Stop()
			return good
		case <-wait.C:
		}
	}
	return nil
}

// entries returns room for n of them. What a batch needed is used again once it
// is stored; after an error the store may still be at work on it.
func (r *Recorder) entries(n int) []Entry {
	if used, ok := r.used.Get().(*[]Entry); ok && cap(*used) >= n {
		return (*used)[:0]
	}
	return make([]Entry, 0, n)
}

func (r *Recorder) append(ctx context.Context, now time.Time, entries []Entry) ([]AppendOutcome, error) {
	c := charger{svc: r.svc}
	for i := range entries {
		if err := c.charge(ctx, &entries[i]); err != nil && !isKind(err) {
			return nil, err
		} else if err != nil {
			return nil, &EventError{Index: i, ID: entries[i].ID, Err: err}
		}
	}
	return r.svc.store.Append(ctx, now, entries)
}

// entryOf makes the entry of an event that Track has accepted, however long
// ago.
func (r *Recorder) entryOf(t *tracked, figures []Figure) (Entry, error) {
	m := r.svc.meter(t.Meter)
	if m == nil {
		return Entry{}, r.svc.unknownMeter(t.Meter)
	}
	e := Entry{Event: t.Event, Key: t.key, Own: t.own(), Figures: figures}
	if !e.Own {
		e.Key = KeyOf(e.Meter, e.ID)
	}
	// The journal may be of a time in which the meter was another one.
	if r.journal != nil && (len(e.Properties) > 0 || m.Aggregation == Unique) {
		if err := m.checkProperties(e.Properties); err != nil {
			return Entry{}, err
		}
	}
	e.describe(m)
	return e, nil
}

// count books the outcomes of stored events and lets the journal forget them.
func (r *Recorder) count(events []tracked, outcomes []AppendOutcome) {
	var stored, duplicates int64
	for i, o := range outcomes {
		switch o {
		case Stored:
			stored++
		case Duplicate:
			duplicates++
		case Reused:
			r.bury(events[i], ErrKeyReused)
			continue
		}
		events[i].segment.release()
	}
	r.mu.Lock()
	r.stats.Stored += stored
	r.stats.Duplicates += duplicates
	r.mu.Unlock()
	r.leave(stored + duplicates)
}

// bury hands over an event that can never be stored.
func (r *Recorder) bury(t tracked, err error) {
	e := t.Event
	if t.own() {
		e.ID = IDOf(t.key)
	}
	if r.cfg.Dead != nil {
		r.cfg.Dead(e, err)
	} else {
		r.svc.cfg.Logger.Error("usage: event can't be stored", "id", e.ID, "meter", e.Meter, "error", err)
	}
	t.segment.release()
	r.mu.Lock()
	r.stats.Dead++
	r.mu.Unlock()
	r.leave(1)
}
