package ratelimitmem

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// coarseStep is how old a coarse instant can be on an idle machine.
const coarseStep = time.Millisecond

// clock counts microseconds since the Unix epoch. It takes the wall clock once
// and follows the monotonic clock from there, so that a step of the wall clock
// neither refills nor empties a bucket.
//
// Where the processor has a steady counter, most instants are read from that:
// counted from an instant of the monotonic clock that is at most fixSpan old. So
// whatever the counter does, be it that a virtual machine moves to another
// host, an instant is wrong by no more than fixSpan, and usually by a few
// microseconds.
type clock struct {
	custom func() time.Time
	coarse bool
	base   time.Time
	micros int64        // of base
	tick   atomic.Int64 // of the coarse clock
	fix    atomic.Pointer[fix]
	ticker ticker

	stop func()
	done chan struct{}
}

// fix ties the processor's counter to the clock.
type fix struct {
	ticks  uint64
	micros int64
	rate   uint64 // microseconds a tick, times 2⁶⁴
	span   uint64 // ticks for which it is good
}

func (f *fix) after(ticks uint64) int64 {
	hi, _ := bits.Mul64(ticks, f.rate)
	return f.micros + int64(hi)
}

// ticker makes fixes.
type ticker struct {
	read func() uint64 // nil: there is no steady counter

	mu    sync.Mutex
	from  reading // the rate is taken from here on
	begun bool
}

// reading is both clocks at one instant.
type reading struct {
	ticks uint64
	nanos int64 // since clock.base
}

const (
	// fixSpan is how long a fix serves.
	fixSpan = 5 * time.Millisecond
	// minBaseline is over what time a rate is taken at least, and maxDrift how
	// far a fix may have gone wrong until the rate is taken anew.
	minBaseline = int64(2 * time.Millisecond)
	maxDrift    = 50 // microseconds
	// maxBracket is how long reading both clocks may take: a goroutine that was
	// interrupted in between has read two instants.
	maxBracket = int64(2 * time.Microsecond)
)

func newClock(custom func() time.Time, coarse bool) *clock {
	c := &clock{custom: custom, coarse: coarse && custom == nil, base: time.Now()}
	c.micros = c.base.UnixMicro()
	if !c.coarse {
		// A wall clock in the past isn't real, such as testing/synctest's, which
		// begins with the year 2000: the counter knows nothing of it.
		if custom == nil && c.base.Year() >= 2026 && steadyTicks() {
			c.ticker.read = ticks
		}
		c.fix.Store(new(fix))
		return c
	}
	c.tick.Store(c.precise())
	quit := make(chan struct{})
	c.stop = sync.OnceFunc(func() { close(quit) })
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		ticker := time.NewTicker(coarseStep)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				c.tick.Store(c.precise())
			case <-quit:
				return
			}
		}
	}()
	return c
}

func (c *clock) nanos() int64   { return int64(time.Since(c.base)) }
func (c *clock) precise() int64 { return c.micros + c.nanos()/1000 }

func (c *clock) now() int64 {
	if c.coarse {
		return c.tick.Load()
	}
	return c.exact()
}

func (c *clock) exact() int64 {
	if f := c.fix.Load(); f.span != 0 {
		// A counter that went back has gone far ahead, as unsigned numbers go.
		if passed := ticks() - f.ticks; passed < f.span {
			return f.after(passed)
		}
	}
	return c.slow()
}

// slow reads the clock itself, and ties the counter to it anew.
func (c *clock) slow() int64 {
	if c.custom != nil {
		return c.custom().UnixMicro()
	}
	t := &c.ticker
	if t.read == nil || !t.mu.TryLock() {
		return c.precise()
	}
	defer t.mu.Unlock()
	before := c.nanos()
	r := reading{ticks: t.read()}
	r.nanos = c.nanos()
	now := c.micros + r.nanos/1000
	if r.nanos-before > maxBracket {
		return now
	}
	c.fix.Store(t.next(r, c.fix.Load(), now))
	return now
}

// next returns the fix for a reading; one without a span while the rate isn't
// known. The caller holds the mutex.
func (t *ticker) next(r reading, last *fix, now int64) *fix {
	if passed := r.ticks - last.ticks; last.span != 0 && passed < 10*last.span {
		if drift := last.after(passed) - now; drift > maxDrift || drift < -maxDrift {
			t.begun = false
		}
	}
	if !t.begun || r.ticks <= t.from.ticks {
		t.from, t.begun = r, true
		return new(fix)
	}
	elapsed, passed := r.nanos-t.from.nanos, r.ticks-t.from.ticks
	if elapsed < minBaseline {
		return last
	}
	if perMicro := passed / (uint64(elapsed) / 1000); perMicro < 10 || perMicro > 100_000 {
		t.begun = false // no counter runs at less than 10 MHz or more than 100 GHz
		return new(fix)
	}
	rate, _ := bits.Div64(uint64(elapsed)/1000, 0, passed)
	hi, lo := bits.Mul64(passed, uint64(fixSpan))
	span, _ := bits.Div64(hi, lo, uint64(elapsed))
	if more := int64(span - last.span); last.span != 0 && max(more, -more) > int64(last.span/64) {
		t.begun = false // it has jumped since the rate was first taken
		return new(fix)
	}
	return &fix{ticks: r.ticks, micros: now, rate: rate, span: span}
}

func (c *clock) close() {
	if c.stop != nil {
		c.stop()
		<-c.done
	}
}
