package usage

import (
	"cmp"
	"slices"
	"time"
)

// Wallet is an account's grants of one meter, as a store has them locked for
// quota steps. It is where grants are decided, as Counter is for quotas: a
// store makes one of its lots, hands it to Counter.Step, Counter.Charge or
// Counter.Expire, and stores Changes in the same commit. A nil Wallet has no
// grants.
type Wallet struct {
	lots []*Lot
	// drawn is what the committed use of a period has drawn, for corrections.
	drawn []Draw

	changed map[*Lot]bool
	entries []GrantEntry
	lapsed  int64 // expired since the wallet was made, without a step's doing
	period  time.Time
	step    string
}

// NewWallet returns a wallet of lots, which must be all that aren't Closed.
func NewWallet(lots []Lot) *Wallet {
	w := &Wallet{}
	for _, l := range lots {
		w.lots = append(w.lots, &l)
	}
	w.sort()
	return w
}

// Drawn tells the wallet what the committed use of a period has drawn from each
// lot: it is needed before a correction is charged to a counter with Drawn, and
// then the lots of these grants must be in the wallet even if they are Closed.
func (w *Wallet) Drawn(draws []Draw) { w.drawn = draws }

// Changes returns the lots that have changed since the wallet was made or
// Changes was called, and the entries to append to the ledger.
func (w *Wallet) Changes() ([]Lot, []GrantEntry) {
	if w == nil {
		return nil, nil
	}
	w.close()
	var lots []Lot
	for _, l := range w.lots {
		if w.changed[l] {
			lots = append(lots, *l)
		}
	}
	entries := w.entries
	w.changed, w.entries = nil, nil
	return lots, entries
}

// Open returns the lots of which something is left or to come, as of an
// instant, in the order in which they are used. It changes the wallet.
func (w *Wallet) Open(now time.Time) []Lot {
	w.advance(now)
	var out []Lot
	for _, l := range w.all() {
		if l.RevokedAt.IsZero() && !l.ended(now) && (l.Remaining() > 0 || l.Held > 0 || l.follows()) {
			out = append(out, *l)
		}
	}
	return out
}

// Revoke ends a grant, of which the wallet must have all lots: what remains of
// it is void. It returns how many units are.
func (w *Wallet) Revoke(key string, now time.Time) (voided int64) {
	w.begin(Op{Now: now})
	for _, l := range w.all() {
		if l.Key != key {
			continue
		}
		if l.RevokedAt.IsZero() {
			l.RevokedAt = now
			w.touch(l)
			if left := l.Remaining(); left > 0 {
				at := now
				if l.Start.After(now) {
					at = l.Start // when it would have come into the balance
				}
				w.move(l, MoveVoid, left, at)
				voided += left
			}
		}
	}
	return voided
}

// begin starts a step: what has come to pass by itself is booked first.
func (w *Wallet) begin(op Op) {
	if w == nil {
		return
	}
	w.period, w.step = time.Time{}, ""
	w.advance(op.Now)
	w.period, w.step = op.Period.From, op.Key
}

// advance books the ends of lots and issues the ones that follow, up to now. No
// job does it at the time: the borders come from the grants alone, so that it
// is the same whenever it is done.
func (w *Wallet) advance(now time.Time) {
	if w == nil {
		return
	}
	for added := true; added; {
		added = false
		for _, l := range w.lots {
			if !l.Passed && l.ended(now) {
				added = w.pass(l, l.End) || added
			}
		}
		if added {
			w.sort()
		}
	}
}

// pass takes what is left of an ended lot on: into the next lot, as far as it
// rolls over, and the rest to nothing. It is called again for what a
// reservation gives back afterwards, and then comes to what it would have if
// that had never been held. It reports whether the next lot is new.
func (w *Wallet) pass(l *Lot, at time.Time) (added bool) {
	first := !l.Passed
	l.Passed = true
	w.touch(l)
	next := w.find(l.Key, l.Seq+1)
	if next == nil && first && l.follows() {
		lot := l.next()
		next, added = &lot, true
		w.lots = append(w.lots, next)
		w.move(next, MoveIssue, l.Amount, next.Start)
	}
	left := l.Remaining()
	if left > 0 && !l.RevokedAt.IsZero() {
		w.move(l, MoveVoid, left, at)
		left = 0
	}
	if next != nil && left > 0 {
		most := l.Rollover
		if most == Unlimited {
			most = MaxValue
		}
		if n := min(left, most-l.Rolled); n > 0 {
			w.move(l, MoveRoll, n, at)
			w.move(next, MoveCarry, n, at)
			left -= n
		}
	}
	if left > 0 {
		w.move(l, MoveExpire, left, at)
		w.lapsed += left
	}
	return added
}

// balance returns what could be drawn.
func (w *Wallet) balance(now time.Time) (n int64) {
	for _, l := range w.all() {
		if l.live(now) {
			n += l.Remaining()
		}
	}
	return n
}

// hasLapsed returns how many units have expired since the last step's commit.
func (w *Wallet) hasLapsed() int64 {
	if w == nil {
		return 0
	}
	return w.lapsed
}

func (l *Lot) live(now time.Time) bool {
	return !l.Start.After(now) && !l.ended(now) && l.RevokedAt.IsZero()
}

// draw takes up to n units, in the order in which lots are used.
func (w *Wallet) draw(m GrantMove, n int64, now time.Time) (draws []Draw) {
	for _, l := range w.all() {
		if n <= 0 {
			break
		}
		if k := min(n, l.Remaining()); k > 0 && l.live(now) {
			w.move(l, m, k, now)
			draws = append(draws, Draw{Key: l.Key, Seq: l.Seq, N: k})
			n -= k
		}
	}
	return draws
}

// settle burns up to n of the units that a reservation holds, gives the others
// back, and returns how many were burned.
func (w *Wallet) settle(held []Draw, n int64, now time.Time) (burned int64) {
	if w == nil {
		return 0
	}
	for _, d := range held {
		l := w.find(d.Key, d.Seq)
		if l == nil {
			continue // no store does this: a lot with held units stays open
		}
		k := min(d.N, n-burned)
		if k > 0 {
			w.move(l, MoveCommit, k, now)
			burned += k
		}
		if k < d.N {
			w.move(l, MoveRelease, d.N-k, now)
			w.passOn(l, now)
		}
	}
	return burned
}

// giveBack returns up to n units that the period's committed use has drawn, the
// last drawn first, and says how many.
func (w *Wallet) giveBack(n int64, now time.Time) (back int64) {
	if w == nil {
		return 0
	}
	for _, l := range slices.Backward(w.lots) {
		for i := range w.drawn {
			d := &w.drawn[i]
			k := min(n-back, d.N)
			if d.Key != l.Key || d.Seq != l.Seq || k <= 0 {
				continue
			}
			d.N -= k
			w.move(l, MoveReturn, k, now)
			w.passOn(l, now)
			back += k
		}
	}
	return back
}

// passOn passes what came back to a lot whose time is over through all the lots
// after it whose time is over too.
func (w *Wallet) passOn(l *Lot, now time.Time) {
	lapsed := w.lapsed
	for l != nil && (l.ended(now) || !l.RevokedAt.IsZero()) && l.Remaining() > 0 {
		if !l.RevokedAt.IsZero() {
			w.move(l, MoveVoid, l.Remaining(), now)
			return
		}
		w.pass(l, now)
		l = w.find(l.Key, l.Seq+1)
	}
	w.lapsed = lapsed // what comes and goes at once has lowered no limit
}

// move books a movement.
func (w *Wallet) move(l *Lot, m GrantMove, n int64, at time.Time) {
	l.Book(m, n)
	w.touch(l)
	e := l.entry(m, n, at)
	switch m {
	case MoveHold, MoveRelease, MoveBurn, MoveCommit, MoveReturn:
		e.Period, e.Step = w.period, w.step
	}
	w.entries = append(w.entries, e)
}

func (w *Wallet) touch(l *Lot) {
	if w.changed == nil {
		w.changed = map[*Lot]bool{}
	}
	w.changed[l] = true
}

func (w *Wallet) all() []*Lot {
	if w == nil {
		return nil
	}
	return w.lots
}

func (w *Wallet) find(key string, seq int) *Lot {
	for _, l := range w.all() {
		if l.Key == key && l.Seq == seq {
			return l
		}
	}
	return nil
}

// close closes lots of which nothing can come: empty ones behind which the next
// one is there already, if there is to be one. A lot stays open as long as one
// before it does, whose units may yet roll through it.
func (w *Wallet) close() {
	if len(w.changed) == 0 {
		return
	}
	bySeq := slices.Clone(w.lots)
	slices.SortFunc(bySeq, func(a, b *Lot) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Seq, b.Seq)) })
	for i, l := range bySeq {
		open := l.Remaining() > 0 || l.Held > 0 ||
			l.follows() && (i+1 == len(bySeq) || bySeq[i+1].Key != l.Key) ||
			i > 0 && bySeq[i-1].Key == l.Key && !bySeq[i-1].Closed
		if l.Closed == open {
			l.Closed = !open
			w.touch(l)
		}
	}
}

// sort puts the lots in the order in which they are used.
func (w *Wallet) sort() {
	never := time.Unix(1<<40, 0)
	end := func(l *Lot) time.Time {
		if l.End.IsZero() {
			return never
		}
		return l.End
	}
	slices.SortFunc(w.lots, func(a, b *Lot) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), end(a).Compare(end(b)), a.Start.Compare(b.Start),
			cmp.Compare(a.Key, b.Key), cmp.Compare(a.Seq, b.Seq))
	})
}
