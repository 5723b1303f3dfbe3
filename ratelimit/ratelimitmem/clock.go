package ratelimitmem

import (
	"sync"
	"sync/atomic"
	"time"
)

// coarseStep is how old a coarse instant can be on an idle machine.
const coarseStep = time.Millisecond

// clock counts microseconds since the Unix epoch. It takes the wall clock once
// and follows the monotonic clock from there, so that a step of the wall clock
// neither refills nor empties a bucket.
type clock struct {
	custom func() time.Time
	coarse bool
	base   time.Time
	micros int64        // of base
	tick   atomic.Int64 // of the coarse clock

	stop func()
	done chan struct{}
}

func newClock(custom func() time.Time, coarse bool) *clock {
	c := &clock{custom: custom, coarse: coarse && custom == nil, base: time.Now()}
	c.micros = c.base.UnixMicro()
	if !c.coarse {
		return c
	}
	c.tick.Store(c.micros)
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

func (c *clock) precise() int64 { return c.micros + int64(time.Since(c.base)/time.Microsecond) }

func (c *clock) now() int64 {
	if c.coarse {
		return c.tick.Load()
	}
	return c.slow()
}

func (c *clock) slow() int64 {
	if c.custom != nil {
		return c.custom().UnixMicro()
	}
	return c.precise()
}

func (c *clock) close() {
	if c.stop != nil {
		c.stop()
		<-c.done
	}
}
