package revenue

import (
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/kolekt/commerce/billing"
)

// Kind is the kind of a movement.
type Kind string

// The kinds of movements of a customer's MRR.
const (
	KindNew          Kind = "new"          // from zero, for the first time
	KindReactivation Kind = "reactivation" // from zero, again
	KindExpansion    Kind = "expansion"
	KindContraction  Kind = "contraction"
	KindChurn        Kind = "churn" // to zero; with another subscription left it is contraction
)

// Movement is a change of a customer's MRR.
type Movement struct {
	At      time.Time `json:"at"`
	Account string    `json:"account"`
	Kind    Kind      `json:"kind"`
	// Delta is negative for contraction and churn; its parts are the
	// subscriptions that changed.
	Delta Figure `json:"delta"`
	// Involuntary says of churn that a payment failed for good.
	Involuntary bool `json:"involuntary,omitempty"`
}

// Movements returns what moved MRR in [from, to), in order. Their sum is the
// difference of MRR between the two instants, whatever the convention: groups
// of movements (Convention.Group) end at the window's edges.
func (b *Book) Movements(from, to time.Time, selection Selection) []Movement {
	var movements []Movement
	for _, lives := range b.accounts {
		if stirs(lives, from, to) {
			movements = append(movements, b.walk(lives, from, to, selection)...)
		}
	}
	slices.SortStableFunc(movements, func(a, b Movement) int { return a.At.Compare(b.At) })
	return movements
}

// stirs reports whether anything begins in a window.
func stirs(lives []series, from, to time.Time) bool {
	for i := range lives {
		if g := lives[i].at(to, true); g != nil && !g.at.Before(from) {
			return true
		}
	}
	return false
}

// step is a segment's beginning.
type step struct {
	life    int
	segment *segment
}

// walk goes through the life of one customer.
func (b *Book) walk(lives []series, from, to time.Time, selection Selection) []Movement {
	var steps []step
	for i := range lives {
		for j := range lives[i].segments {
			if g := &lives[i].segments[j]; g.at.Before(to) {
				steps = append(steps, step{i, g})
			}
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return a.segment.at.Compare(b.segment.at) })
	var movements []Movement
	amounts := make([]*big.Rat, len(lives))
	for i := range amounts {
		amounts[i] = zero
	}
	total, ever := new(big.Rat), false
	for len(steps) > 0 {
		group := steps[:groupLength(steps, from, b.config.Convention.Group)]
		steps = steps[len(group):]
		move := Movement{At: group[len(group)-1].segment.at, Account: lives[0].account, Delta: newFigure(selection.Currency)}
		before := make(map[int]*big.Rat, len(group))
		failed := false
		for _, s := range group {
			if before[s.life] == nil {
				before[s.life] = amounts[s.life]
			}
			amounts[s.life] = s.segment.recurring(selection)
			state := &lives[s.life].changes[s.segment.change].Subscription
			failed = failed || state.Status == billing.StatusUnpaid || state.CancelReason == "payment_failed"
		}
		for _, i := range slices.Sorted(maps.Keys(before)) {
			move.Delta.add(lives[i].account, lives[i].id, new(big.Rat).Sub(amounts[i], before[i]))
		}
		after := new(big.Rat).Add(total, move.Delta.Exact)
		move.Kind = kindOf(total, after, ever)
		total, ever = after, ever || after.Sign() > 0
		if move.Kind == "" || move.At.Before(from) {
			continue
		}
		move.Involuntary = move.Kind == KindChurn && failed
		movements = append(movements, move)
	}
	return movements
}

// groupLength returns how many steps count as one: those at the same instant,
// and those within the time of a group, on one side of the window's start.
func groupLength(steps []step, from time.Time, group time.Duration) int {
	start := steps[0].segment.at
	n := 1
	for n < len(steps) {
		at := steps[n].segment.at
		if at.Sub(start) > group || start.Before(from) && !at.Before(from) {
			break
		}
		n++
	}
	return n
}

func kindOf(before, after *big.Rat, ever bool) Kind {
	change := after.Cmp(before)
	switch {
	case change == 0:
		return ""
	case before.Sign() == 0 && ever:
		return KindReactivation
	case before.Sign() == 0:
		return KindNew
	case after.Sign() == 0:
		return KindChurn
	case change > 0:
		return KindExpansion
	}
	return KindContraction
}
