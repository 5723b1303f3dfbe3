package ratelimit

import (
	"context"
	"math"
	"time"
)

// Store keeps what keys have used. Users call a [Limiter]; authors of a store
// implement this and prove it with ratelimittest.TestStore.
//
// A store has a clock of its own and decides by it alone. State is told apart
// by scope, key and [Rule.State]. It may forget a state only when it is the
// same as none: a bucket that is full again, a period that is over, a rolling
// window whose slots have left.
//
// All methods are safe for concurrent use.
type Store interface {
	// Prepare readies a plan of at least one window. It does no I/O and may be
	// called more than once for a scope and a plan.
	Prepare(scope string, plan *Plan) (Decider, error)

	// Reset forgets all that a key has used and reports whether there was
	// anything. A key without state is no error.
	Reset(ctx context.Context, scope, key string) (bool, error)

	// Inspect returns what a key has used, in any order. A key without state is
	// no error.
	Inspect(ctx context.Context, scope, key string) ([]Held, error)
}

// Held is one stored state.
type Held struct {
	State string    // Rule.State, or the store's own short form of it
	Used  int64     // microseconds of debt of a bucket, units of the others
	Until time.Time // when the store may forget it
}

// Op is what a Decider does.
type Op uint8

// The operations.
const (
	// Take charges Cost to every window when all windows that aren't shadows
	// have room, and else to none. A shadow without room is not charged.
	Take Op = iota
	// Peek answers as Take would, and charges nothing.
	Peek
	// Adjust charges Cost, which may be negative, whether or not there is room.
	// A period is adjusted only while its stored end is that of Spans. Nothing
	// goes below empty, and a bucket not further than 2*Limit.
	Adjust

	// adjustLocal is the Adjust of a decision that a Guard took without its
	// store. No other store is asked for it.
	adjustLocal
)

// Request asks about one key. Like the answer, it is small enough to travel in
// registers.
type Request struct {
	Key  string
	Cost int64 // at least 1; any but 0 for Adjust
	// Spans has the span of each Period window; nil when there is none.
	Spans *Spans
}

// Decider decides for one scope and plan.
type Decider interface {
	// Decide performs op in one atomic step: nobody sees or charges a part of
	// it. When a span doesn't contain the store's clock, and op isn't Adjust,
	// it does nothing and answers SetStale.
	//
	// The rules, with now the store's clock in microseconds:
	//
	//   - Bucket: the state is an instant, now or earlier when absent. There is
	//     room when instant + Cost*Interval is not after now + Limit*Interval.
	//     Charging adds Cost*Interval.
	//   - Period: the state is a count and an end. A count whose end has
	//     passed is 0; any other is kept, and charging gives it the span's end.
	//     There is room when count + Cost is not over Limit.
	//   - Rolling: the state is a count for each of the last RollingSlots+1
	//     slots of Interval, counted from the epoch. There is room when their
	//     sum + Cost is not over Limit. Charging adds to the newest slot, a
	//     refund takes from the oldest first. A newest slot ahead of the clock
	//     stays the newest.
	//
	// The clock may have stepped back, and a key must not stay refused for as
	// long as the step. So what no charge at this time can have made is lowered,
	// and kept so whatever the answer (but not by Adjust): an instant to now +
	// 2*Limit*Interval, an end to the span's, and slots of which the newest is
	// more than RollingSlots+1 ahead all move so that it is the clock's.
	//
	// An error means that the outcome is unknown: it may or may not have been
	// charged.
	Decide(ctx context.Context, op Op, req Request) (Outcome, Used, error)
}

// Outcome is what a store decided. Without more said, every window had room.
type Outcome struct {
	// Now is the store's clock, in microseconds since the Unix epoch.
	Now int64

	state state
}

// state is what a decision says beside the time and the use, in one word. That
// of an Outcome is 0 when every window had room. A refusing has its wait in it,
// and a Decision that allows its cost instead. So the sign tells them apart, and
// a Decision fits the registers in which Go returns results.
type state int64

// Where in a state is what.
const (
	worstShift  = 4  // the window that takes longest, and isn't a shadow
	sourceShift = 6  // Source
	amountShift = 12 // the wait or the cost; what the sign leaves of it

	flagMask  state = 1<<amountShift - 1
	overMask  state = 1<<MaxWindows - 1 // a bit for each window without room
	worstMask state = (MaxWindows - 1) << worstShift
	stale     state = 1 << 8
	refusing  state = -1 << 63

	maxAmount = 1<<51 - 1 // seventy years; a wait that long is for ever
)

func (s state) over() uint8    { return uint8(s & overMask) }
func (s state) worst() int     { return int(s & worstMask >> worstShift) }
func (s state) source() Source { return Source(s >> sourceShift & 3) }
func (s state) amount() int64  { return int64(s &^ refusing >> amountShift) }

// with returns the state with another amount.
func (s state) with(amount int64) state {
	return s&(refusing|flagMask) | state(min(amount, maxAmount))<<amountShift
}

// wait is in how many microseconds the cost would have room: 0 when it had.
func (s state) wait() int64 {
	switch {
	case s >= 0:
		return 0
	case s.amount() == maxAmount:
		return WaitForever
	}
	return s.amount()
}

// Used is what of each window is used after the operation: microseconds of
// debt of a bucket, units of the others. An array would not fit the registers.
type Used struct{ a, b, c, d int64 }

// Set says what of window i is used.
func (u *Used) Set(i int, n int64) {
	switch i {
	case 0:
		u.a = n
	case 1:
		u.b = n
	case 2:
		u.c = n
	default:
		u.d = n
	}
}

// UsedOf returns what of two windows is used.
func UsedOf(first, second int64) Used { return Used{a: first, b: second} }

// Of returns what of window i is used.
func (u *Used) Of(i int) int64 {
	switch i {
	case 0:
		return u.a
	case 1:
		return u.b
	case 2:
		return u.c
	default:
		return u.d
	}
}

// SetOver says that window i had no room for the cost, and in how many
// microseconds it would have if nothing else happens; WaitForever if never.
func (o *Outcome) SetOver(i int, shadow bool, wait int64) {
	if wait = max(wait, 1); !shadow && wait > o.state.wait() {
		o.state = (o.state&^worstMask | state(i)<<worstShift | refusing).with(wait)
	}
	o.state |= 1 << i
}

// Over returns a bit for each window that had no room.
func (o *Outcome) Over() uint8 { return o.state.over() }

// Refused returns in how many microseconds the cost would have room in every
// window that isn't a shadow: 0 when it had, WaitForever if never.
func (o *Outcome) Refused() int64 { return o.state.wait() }

// Later makes an outcome that was kept say what it says some microseconds
// later.
func (o *Outcome) Later(passed int64) {
	o.Now += passed
	if wait := o.state.wait(); wait != WaitForever && wait != 0 {
		o.state = o.state.with(max(wait-passed, 1))
	}
}

// SetStale says that nothing was done, because a span doesn't contain Now.
func (o *Outcome) SetStale() { o.state |= stale }

// Stale reports whether nothing was done.
func (o *Outcome) Stale() bool { return o.state&stale != 0 }

func (o *Outcome) setSource(s Source) { o.state |= state(s) << sourceShift }

// WaitForever is the wait for a cost that is over the limit.
const WaitForever = math.MaxInt64

// Source says who took a decision.
type Source uint8

// Who took a decision.
const (
	FromStore   Source = iota // the store
	FromLocal                 // a Guard, by the local share of the limits
	FromFailure               // a Guard, by the windows' Open or Closed
	FromPlan                  // nobody was asked: the plan is unlimited
)

// LeaseStore is implemented by stores that can limit how many things run at
// the same time.
type LeaseStore interface {
	// Acquire takes one of limit places of a key for ttl, under an ID that the
	// caller chose at random, in one atomic step. Places whose ttl has passed
	// are free. Held is how many places are taken afterwards; retry is when the
	// next one runs out if none is free. Acquiring an ID that is held renews it.
	Acquire(ctx context.Context, scope, key, id string, limit int64, ttl time.Duration) (ok bool, held int64, retry time.Duration, err error)
	// Release gives a place back and reports whether it was still held.
	Release(ctx context.Context, scope, key, id string) (bool, error)
}
