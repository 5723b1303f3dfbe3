package ratelimit

import (
	"context"
	"strconv"
	"sync"
	"time"
)

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	// NearLimit says that a key has used NearPercent of a window.
	NearLimit EventKind = "near_limit"
	// LimitReached says that a key has used all of a window, or was refused by
	// it.
	LimitReached EventKind = "limit_reached"
)

// Event says how far a key is in a Period window. It is heard once a period,
// also with many instances, because the count passes a threshold once; a refund
// or a change of plan can make it pass again, and so can a refusal above a
// remainder, once an instance. ID is the same for all of them: pass it on as an
// idempotency key.
type Event struct {
	ID     string
	Kind   EventKind
	Key    string
	Plan   string
	Window string
	Used   int64
	Limit  int64
	Until  time.Time // the end of the period
	At     time.Time // the store's clock
}

// maxRefusals bounds how many (key, window) pairs are remembered as refused in
// their period. Beyond it they are forgotten together, and may be heard again.
const maxRefusals = 1 << 14

type events struct {
	hook func(context.Context, Event)
	near int64 // percent

	mu      sync.Mutex
	refused map[refusal]int64 // end of the period
}

type refusal struct{ key, window string }

func newEvents(hook func(context.Context, Event), nearPercent int) *events {
	return &events{hook: hook, near: int64(nearPercent), refused: map[refusal]int64{}}
}

func (e *events) hear(ctx context.Context, scope, key string, d *Decision) {
	plan, spans := d.term.plan, d.term.spans
	if plan.periods == 0 || d.Source() != FromStore {
		return
	}
	for i := range plan.rules {
		r := &plan.rules[i]
		if r.Algorithm != Period || r.Limit == 0 {
			continue
		}
		used, over := d.used.Of(i), d.out.state.over()&(1<<i) != 0
		kind := EventKind("")
		if over {
			if !e.firstRefusal(key, plan.windows[i].Name, spans[i].To) {
				continue
			}
			kind = LimitReached
		} else if d.Allowed() {
			before, threshold := used-d.Cost(), (r.Limit*e.near+99)/100
			switch {
			case before < r.Limit && used >= r.Limit:
				kind = LimitReached
				// A later refusal is not news.
				e.firstRefusal(key, plan.windows[i].Name, spans[i].To)
			case before < threshold && used >= threshold:
				kind = NearLimit
			}
		}
		if kind == "" {
			continue
		}
		e.hook(ctx, Event{
			ID: scope + "/" + key + "/" + plan.windows[i].Name + "/" +
				strconv.FormatInt(spans[i].To/1_000_000, 10) + "/" + string(kind),
			Kind: kind, Key: key, Plan: plan.name, Window: plan.windows[i].Name,
			Used: used, Limit: r.Limit,
			Until: time.UnixMicro(spans[i].To).UTC(), At: d.At(),
		})
	}
}

func (e *events) firstRefusal(key, window string, end int64) bool {
	k := refusal{key, window}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refused[k] == end {
		return false
	}
	if len(e.refused) >= maxRefusals {
		clear(e.refused)
	}
	e.refused[k] = end
	return true
}
