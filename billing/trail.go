package billing

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Trail is what the gateway's events showed of one subscription, in the order
// in which it was so: sorted by (At, lifecycle rank, ID), whatever the order
// in which the events came. What lies between two equal observations is dropped
// in time, so that a trail grows with the changes and not with the events.
//
// Notices are numbered by runs in the trail: "the second time that it was
// scheduled to end". An observation that comes late never lowers the number of
// runs of a value. So the set of notices only grows, and is the same in the
// end for every order of arrival.
type Trail []Observation

// Observation is what one event showed of a subscription.
type Observation struct {
	At     time.Time `json:"at"`
	ID     string    `json:"id"` // of the event
	Status Status    `json:"status"`
	Items  string    `json:"items"` // fingerprint of prices and quantities
	Ending bool      `json:"ending,omitempty"`
	Paused bool      `json:"paused,omitempty"`
}

func observe(id string, at time.Time, s *Subscription) Observation {
	items := make([]string, 0, len(s.Items))
	for _, it := range s.Items {
		items = append(items, fmt.Sprintf("%s:%d", it.Price.ID, it.Quantity))
	}
	slices.Sort(items)
	text := strings.Join(items, "+")
	if len(text) > 80 {
		sum := sha256.Sum256([]byte(text))
		text = hex.EncodeToString(sum[:12])
	}
	return Observation{
		At: at, ID: id, Status: s.Status, Items: text,
		Ending: !s.endsAt().IsZero(),
		Paused: s.PauseCollection != "" || s.Status == StatusPaused,
	}
}

// lifecycle orders the statuses as a subscription goes through them: for
// events of the same second.
func (s Status) lifecycle() int {
	switch s {
	case StatusIncomplete:
		return 0
	case StatusTrialing:
		return 1
	case StatusActive:
		return 2
	case StatusPastDue:
		return 3
	case StatusUnpaid, StatusPaused:
		return 4
	case StatusIncompleteExpired, StatusCanceled:
		return 6
	}
	return 5
}

func (o Observation) compare(p Observation) int {
	return cmp.Or(o.At.Compare(p.At), cmp.Compare(o.Status.lifecycle(), p.Status.lifecycle()), strings.Compare(o.ID, p.ID))
}

// same reports whether two observations tell the same.
func (o Observation) same(p Observation) bool {
	return o.Status == p.Status && o.Items == p.Items && o.Ending == p.Ending && o.Paused == p.Paused
}

// with returns the trail with an observation in its place, and whether it is
// the last one.
func (t Trail) with(o Observation) (Trail, bool) {
	i, found := slices.BinarySearchFunc(t, o, Observation.compare)
	if found {
		return t, i == len(t)-1
	}
	last := i == len(t)
	t = slices.Insert(slices.Clone(t), i, o)
	return t.compact(), last
}

// late is how long after it was so an observation may still come: the gateway
// keeps its events for 30 days.
const late = 35 * 24 * time.Hour

// maxTrail bounds a trail that changes all the time.
const maxTrail = 256

// compact drops what is equal to both of its neighbours, where nothing can
// come between them any more.
func (t Trail) compact() Trail {
	newest := t[len(t)-1].At
	kept := make(Trail, 0, len(t))
	for i, o := range t {
		settled := newest.Sub(o.At) > late || len(t)-i > maxTrail
		if i > 0 && i < len(t)-1 && settled && o.same(t[i-1]) && o.same(t[i+1]) {
			continue
		}
		kept = append(kept, o)
	}
	return kept
}

// granted reports whether the subscription ever gave access.
func (t Trail) granted() bool {
	return slices.ContainsFunc(t, func(o Observation) bool {
		return o.Status == StatusActive || o.Status == StatusTrialing || o.Status == StatusPastDue
	})
}

// runs returns the value of each run of equal values, in order, of the
// observations that pick accepts.
func runs[T comparable](t Trail, pick func(Observation) (value T, ok bool)) []T {
	var values []T
	for _, o := range t {
		if v, ok := pick(o); ok && (len(values) == 0 || values[len(values)-1] != v) {
			values = append(values, v)
		}
	}
	return values
}
