package ratelimit

import (
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kolekt/commerce/internal/period"
)

// MaxWindows is how many windows a plan can have.
const MaxWindows = 4

// The largest limits that every store can count.
const (
	MaxLimit        = 1<<32 - 1 // of Bucket and Period windows
	MaxRollingLimit = 1<<21 - 1 // of Rolling windows
)

// RollingSlots is into how many slots a Rolling window is divided. One slot
// more is counted, so that the slots always cover the window.
const RollingSlots = 8

// Algorithm says how a window counts.
type Algorithm uint8

// The algorithms.
const (
	// Bucket is a bucket of Burst units that refills evenly at Limit units in
	// Per (the generic cell rate algorithm).
	Bucket Algorithm = iota + 1
	// Period counts exactly in calendar or billing periods.
	Period
	// Rolling never lets more than Limit through in any stretch of Per.
	Rolling
)

func (a Algorithm) String() string {
	switch a {
	case Bucket:
		return "bucket"
	case Period:
		return "period"
	case Rolling:
		return "rolling"
	}
	return fmt.Sprintf("Algorithm(%d)", uint8(a))
}

// Unit is the length of a Period window.
type Unit uint8

// The units. Weeks start on Monday unless the call brings an anchor.
const (
	Day Unit = iota + 1
	Week
	Month
	Year
)

func (u Unit) String() string {
	switch u {
	case Day:
		return "day"
	case Week:
		return "week"
	case Month:
		return "month"
	case Year:
		return "year"
	}
	return fmt.Sprintf("Unit(%d)", uint8(u))
}

// Failure says what a [Guard] does with a window while its store is away.
type Failure uint8

// What to do with a window while the store is away.
const (
	// LocalShare enforces Limit divided by the number of instances in the
	// process, and of a period that is under way what is known to be left.
	LocalShare Failure = iota
	// Open lets requests pass this window.
	Open
	// Closed refuses requests.
	Closed
)

// Window is one limit of a plan. Make one with PerMinute and its like, or
// write it out.
type Window struct {
	// Name of the window, unique in the plan: it is written to headers and
	// names what was used. Letters, digits, '-', '_' and '.', at most 32.
	Name      string
	Algorithm Algorithm
	// Limit is how many units fit, at least 0: a window of 0 refuses everything.
	Limit int64
	// Per is the time for Limit units. Bucket and Rolling only.
	Per time.Duration
	// Burst is how many units can be taken at once. Bucket only; 0 means Limit.
	Burst int64
	// Unit and Count (0 means 1) are the length of the period. Period only.
	Unit  Unit
	Count int
	// Anchored takes the period's start from the anchor that travels with the
	// call, as a subscription's does. Without one, and without an anchor, the
	// period is the calendar's, in UTC. Period only.
	Anchored bool
	// Shadow makes the window count and report, but never refuse.
	Shadow bool
	// OnFailure is what a Guard does while the store is away.
	OnFailure Failure
}

// PerSecond is a bucket of n units a second, named "second".
func PerSecond(n int64) Window { return Rate("second", n, time.Second) }

// PerMinute is a bucket of n units a minute, named "minute".
func PerMinute(n int64) Window { return Rate("minute", n, time.Minute) }

// PerHour is a bucket of n units an hour, named "hour".
func PerHour(n int64) Window { return Rate("hour", n, time.Hour) }

// PerDay counts n units in a calendar day, named "day".
func PerDay(n int64) Window { return Calendar(n, Day) }

// PerMonth counts n units in a calendar month, named "month".
func PerMonth(n int64) Window { return Calendar(n, Month) }

// Rate is a bucket of n units that refills at n in per.
func Rate(name string, n int64, per time.Duration) Window {
	return Window{Name: name, Algorithm: Bucket, Limit: n, Per: per}
}

// Strict lets at most n units through in any stretch of per. Under a flood it
// admits about nine tenths of n: the price of constant space.
func Strict(name string, n int64, per time.Duration) Window {
	return Window{Name: name, Algorithm: Rolling, Limit: n, Per: per}
}

// Calendar counts n units in a calendar unit (UTC), named after the unit.
func Calendar(n int64, unit Unit) Window {
	return Window{Name: unit.String(), Algorithm: Period, Limit: n, Unit: unit}
}

// Billing counts n units in periods that start at the anchor of the call
// ([Call.Anchor]), named after the unit.
func Billing(n int64, unit Unit) Window {
	w := Calendar(n, unit)
	w.Anchored = true
	return w
}

// WithBurst returns the window with another burst.
func (w Window) WithBurst(n int64) Window { w.Burst = n; return w }

// WithShadow returns the window in shadow mode.
func (w Window) WithShadow() Window { w.Shadow = true; return w }

// WithFailure returns the window with another way to fail.
func (w Window) WithFailure(f Failure) Window { w.OnFailure = f; return w }

// Rule is a window as a store applies it: integers only, times in
// microseconds.
type Rule struct {
	// State names what is counted: rules of one scope with the same State
	// share it. At most 64 bytes.
	State     string
	Algorithm Algorithm
	// Limit is how many units fit at once.
	Limit int64
	// Interval is, of a Bucket, the time in which one unit comes back; of a
	// Rolling window, the length of a slot; of a Period, 0.
	Interval int64
	// Shadow windows report that they are over, but don't refuse.
	Shadow bool
}

// Plan is an immutable, checked set of windows. Make each plan once and keep
// it: what a store prepares for it is kept with it. A plan without windows is
// unlimited and never asks a store.
type Plan struct {
	name    string
	windows []Window
	rules   []Rule
	shadow  uint8 // bit i: window i is a shadow
	periods uint8 // bit i: window i is a Period
	anchors uint8 // bit i: window i is an anchored Period
	terms   atomic.Pointer[term]
	render  rendered
}

// NewPlan returns a plan after checking it. The name is for people and
// programs that ask which plan refused; it doesn't tell counts apart.
func NewPlan(name string, windows ...Window) (*Plan, error) { return newPlan(name, windows, true) }

// newPlan makes a plan. One that isn't exact may be slower than it says: it is
// the share of a plan that was checked.
func newPlan(name string, windows []Window, exact bool) (*Plan, error) {
	if len(windows) > MaxWindows {
		return nil, fmt.Errorf("ratelimit: plan %q has %d windows, the most is %d", name, len(windows), MaxWindows)
	}
	p := &Plan{name: name, windows: append([]Window(nil), windows...)}
	seen := map[string]bool{}
	for i := range p.windows {
		w := &p.windows[i]
		if err := w.check(exact); err != nil {
			return nil, fmt.Errorf("ratelimit: plan %q, window %q: %w", name, w.Name, err)
		}
		if seen[w.Name] {
			return nil, fmt.Errorf("ratelimit: plan %q has two windows %q: give one another name", name, w.Name)
		}
		seen[w.Name] = true
		p.rules = append(p.rules, w.rule())
		bit := uint8(1) << i
		if w.Shadow {
			p.shadow |= bit
		}
		if w.Algorithm == Period {
			p.periods |= bit
			if w.Anchored {
				p.anchors |= bit
			}
		}
	}
	p.render = render(p)
	return p, nil
}

// Name returns the plan's name.
func (p *Plan) Name() string { return p.name }

// Windows returns the plan's windows, with their defaults filled in.
func (p *Plan) Windows() []Window { return append([]Window(nil), p.windows...) }

// Rules returns the windows as stores apply them. The slice must not be
// changed.
func (p *Plan) Rules() []Rule { return p.rules }

// Unlimited reports whether the plan has no window.
func (p *Plan) Unlimited() bool { return len(p.rules) == 0 }

// Bounds says in words what each window promises in the worst case.
func (p *Plan) Bounds() string {
	if p.Unlimited() {
		return "unlimited\n"
	}
	var b strings.Builder
	for i, w := range p.windows {
		switch w.Algorithm {
		case Bucket:
			fmt.Fprintf(&b, "%s: at most %d at once and %d in any %v, then one each %v",
				w.Name, w.Burst, w.Burst+w.Limit, w.Per, time.Duration(p.rules[i].Interval)*time.Microsecond)
		case Period:
			kind := "calendar"
			if w.Anchored {
				kind = "billing"
			}
			fmt.Fprintf(&b, "%s: at most %d in a %s period of %d %s; at most %d around a border",
				w.Name, w.Limit, kind, w.Count, w.Unit, 2*w.Limit)
		case Rolling:
			fmt.Fprintf(&b, "%s: at most %d in any %v", w.Name, w.Limit, w.Per)
		}
		if w.Shadow {
			b.WriteString(" (shadow: reported, not enforced)")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// maxSpan bounds the time that a bucket can hold in debt. Beyond it, sums with
// an instant would leave the integers that a Lua number holds exactly.
const maxSpan = int64(1) << 50

var maxCount = [...]int{Day: 3650, Week: 520, Month: 120, Year: 10}

func (w *Window) check(exact bool) error {
	if w.Name == "" || len(w.Name) > 32 || strings.ContainsFunc(w.Name, notNameRune) {
		return fmt.Errorf("a name is 1 to 32 letters, digits, '-', '_' or '.'")
	}
	if w.Limit < 0 || w.Limit > MaxLimit {
		return fmt.Errorf("limit %d is not in 0..%d; leave the window out for no limit", w.Limit, int64(MaxLimit))
	}
	if w.OnFailure > Closed {
		return fmt.Errorf("unknown OnFailure %d", w.OnFailure)
	}
	if w.Algorithm != Bucket && w.Burst != 0 {
		return fmt.Errorf("only a bucket has a burst")
	}
	if w.Algorithm == Period {
		if w.Unit < Day || w.Unit > Year || w.Count < 0 || w.Count > maxCount[w.Unit] {
			return fmt.Errorf("a period is one or more days, weeks, months or years, up to ten years")
		}
		if w.Per != 0 {
			return fmt.Errorf("a period's length is Unit and Count, not Per")
		}
		w.Count = max(w.Count, 1)
		return nil
	}
	if w.Unit != 0 || w.Count != 0 || w.Anchored {
		return fmt.Errorf("only a period has Unit, Count or an anchor")
	}
	if w.Per < time.Millisecond || w.Per > 366*24*time.Hour {
		return fmt.Errorf("per %v is not in 1ms..366 days", w.Per)
	}
	switch w.Algorithm {
	case Rolling:
		if w.Limit > MaxRollingLimit {
			return fmt.Errorf("limit %d of a strict window is over %d: use a bucket", w.Limit, MaxRollingLimit)
		}
	case Bucket:
		if w.Burst == 0 {
			w.Burst = w.Limit
		}
		if w.Burst < 0 || w.Burst > MaxLimit {
			return fmt.Errorf("burst %d is not in 0..%d", w.Burst, int64(MaxLimit))
		}
		if w.Limit == 0 {
			w.Burst = 0
			return nil
		}
		if !exact {
			return nil
		}
		interval := w.interval()
		if interval > maxSpan/2/max(w.Burst, 1) {
			return fmt.Errorf("burst %d would take over 17 years to refill: lower it", w.Burst)
		}
		// Whole microseconds make a fast rate slower than asked. Said at once,
		// instead of admitting less in silence.
		per := w.Per.Microseconds()
		if interval*w.Limit-per > per/100 {
			return fmt.Errorf("%d in %v is too fast to be kept to the microsecond: use %d or %d",
				w.Limit, w.Per, per/interval, per/max(interval-1, 1))
		}
	default:
		return fmt.Errorf("unknown algorithm %d", w.Algorithm)
	}
	return nil
}

func notNameRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
		return false
	}
	return true
}

// interval rounds up: a rate is never above what was asked for.
func (w *Window) interval() int64 {
	per := w.Per.Microseconds()
	return (per + w.Limit - 1) / w.Limit
}

// bucketState begins the State of buckets.
const bucketState = "b:"

func (w *Window) rule() Rule {
	r := Rule{Algorithm: w.Algorithm, Limit: w.Limit, Shadow: w.Shadow}
	switch w.Algorithm {
	case Bucket:
		r.State = bucketState + w.Name
		r.Limit = w.Burst
		if w.Limit > 0 {
			r.Interval = w.interval()
		}
	case Period:
		r.State = "p:" + w.Name
	case Rolling:
		r.Interval = (w.Per.Microseconds() + RollingSlots - 1) / RollingSlots
		// Slots of another length can't be read as one's own.
		r.State = fmt.Sprintf("r%d:%s", r.Interval, w.Name)
	}
	return r
}

// StateID is a number for a State that fits a Lua number exactly, for stores
// that want a short name: 51 bits of FNV-1a, then the algorithm.
func (r Rule) StateID() int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.State)) // a hash's Write can't fail
	return int64(h.Sum64()>>13)<<2 | int64(r.Algorithm)
}

// Span is a period [From, To) in microseconds since the Unix epoch, both on
// whole seconds.
type Span struct{ From, To int64 }

// Spans are the spans of a plan's Period windows, by window.
type Spans [MaxWindows]Span

// calendarAnchor is a Monday on the first of a month and of a year.
var calendarAnchor = time.Date(1900, time.January, 1, 0, 0, 0, 0, time.UTC)

// spansAt computes the spans that contain now.
func (p *Plan) spansAt(now int64, anchor time.Time) *Spans {
	s := new(Spans)
	t := time.UnixMicro(now).UTC()
	for i, w := range p.windows {
		if w.Algorithm != Period {
			continue
		}
		a := calendarAnchor
		if w.Anchored && !anchor.IsZero() {
			a = anchor.UTC().Truncate(time.Second)
		}
		cycle := period.Cycle{Anchor: a, Count: w.Count}
		switch w.Unit {
		case Day:
			cycle.Unit = period.Day
		case Week:
			cycle.Unit = period.Week
		case Month:
			cycle.Unit = period.Month
		case Year:
			cycle.Unit = period.Year
		}
		at := cycle.At(t)
		s[i] = Span{From: at.From.UnixMicro(), To: at.To.UnixMicro()}
	}
	return s
}

// Never is the RetryAfter of a request that its plan can't allow at any time.
const Never = time.Duration(math.MaxInt64)

// SpansAt returns the spans that contain now, for authors and tests of stores;
// nil when the plan has no Period window. A Limiter does this by itself.
func SpansAt(p *Plan, now, anchor time.Time) *Spans {
	if p.periods == 0 {
		return nil
	}
	return p.spansAt(now.UnixMicro(), anchor)
}
