package usage

import (
	"math"
	"strconv"
	"time"
)

// OpKind is a kind of quota step.
type OpKind uint8

// The quota steps.
const (
	Reserve OpKind = iota + 1 // hold units, if there are any left
	Consume                   // use units, if there are any left
	Commit                    // turn a hold into use of the actual amount
	Release                   // give a hold back
	Refresh                   // bring the counter's limit up to date, using nothing
)

// Op is one quota step, as a store takes it: complete, so that the store
// decides in one atomic step and asks nobody.
type Op struct {
	Kind    OpKind
	Account string
	Meter   string
	Charge         // for Commit and Release, the hold's own
	Key     string // may be empty for Consume only
	N       int64  // units: asked, or actual for Commit
	Now     time.Time
	Expires time.Time // Reserve only
	// Entry, if any, is stored in the same commit when the step is admitted.
	// It has no Charge of its own.
	Entry *Entry
}

// Counter is what stands against one account's quota of one meter in one
// period.
type Counter struct {
	Account string `json:"account"`
	Meter   string `json:"meter"`
	Period  Period `json:"period"`
	Used    int64  `json:"used"`
	Held    int64  `json:"held"`  // by reservations that aren't settled
	Bare    int64  `json:"bare"`  // the part of Used that has no stored event
	Limit   int64  `json:"limit"` // with grants, as of the last step
	// Drawn and DrawnHeld are the parts of Used and Held that come from
	// grants.
	Drawn     int64 `json:"drawn,omitempty"`
	DrawnHeld int64 `json:"drawn_held,omitempty"`
}

// own returns what is used and held of the quota itself.
func (c *Counter) own() int64 { return c.Used + c.Held - c.Drawn - c.DrawnHeld }

// HoldState is what has become of a key.
type HoldState uint8

// The states of a hold.
const (
	Held HoldState = iota
	Committed
	Released
	Expired
)

// Hold is what is remembered under the key of a quota step.
type Hold struct {
	Account string    `json:"account"`
	Key     string    `json:"key"`
	Meter   string    `json:"meter"`
	Period  Period    `json:"period"`
	Kind    OpKind    `json:"-"` // Reserve or Consume
	N       int64     `json:"n"` // asked
	Actual  int64     `json:"actual"`
	State   HoldState `json:"state"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"`
	// Draws are the units of N that come from grants, while the state is Held.
	Draws []Draw `json:"draws,omitempty"`
}

// Decision is the outcome of a quota step: an exhausted quota is an answer and
// not an error.
type Decision struct {
	Allowed bool   `json:"allowed"`
	Account string `json:"account"`
	Meter   string `json:"meter"`
	Key     string `json:"key,omitempty"`
	N       int64  `json:"n"`
	Used    int64  `json:"used"` // after the step
	Held    int64  `json:"held"` // after the step, by reservations
	// Limit is the quota's and Granted together. Granted is what the period
	// has drawn from grants, and what is left of them.
	Limit   int64 `json:"limit"`
	Granted int64 `json:"granted,omitempty"`
	// Remaining is what could still be admitted, Unlimited without a bound.
	Remaining int64 `json:"remaining"`
	// Overage is the part of Used beyond Limit.
	Overage int64  `json:"overage"`
	Period  Period `json:"period"` // a new one begins at Period.To
	// Replayed says that the key was known and nothing was counted again.
	Replayed bool `json:"replayed,omitempty"`
	// Late says that a commit came after its reservation had expired. What
	// was used is counted all the same.
	Late bool `json:"late,omitempty"`
}

// Reset returns the instant at which the quota starts anew.
func (d Decision) Reset() time.Time { return d.Period.To }

// Notice says that an account's use has crossed a threshold of its quota.
type Notice struct {
	// ID is the same for account, meter, period and percent, for ever: use it
	// as the idempotency key of what the notice sets off.
	ID      string    `json:"id"`
	Account string    `json:"account"`
	Meter   string    `json:"meter"`
	Period  Period    `json:"period"`
	Percent int       `json:"percent"`
	Used    int64     `json:"used"` // at the crossing
	Limit   int64     `json:"limit"`
	At      time.Time `json:"at"`
	// Superseded says that the same step crossed a higher threshold too. Such
	// a notice is remembered, so that it never comes later, but not delivered.
	Superseded bool `json:"-"`
}

// Outcome is what a step changes; see Counter.Step.
type Outcome struct {
	Decision Decision
	Hold     *Hold    // to be stored under its key; nil leaves it as it is
	Notices  []Notice // to be stored unless their ID is there already
	Changed  bool     // the counter has changed
}

// Step decides a step and applies it to the counter and the wallet. hold is
// what the store has under op.Key, or nil; w is nil for an account that has no
// grants of the meter. It is the one place where quotas are decided: a store
// calls it with counter, hold and wallet locked, and stores the Outcome, the
// wallet's Changes and op.Entry (if Changed) in the same commit. A refused step
// changes nothing but what has come to pass in the wallet by itself; the store
// should then give expired holds back, with Expire, and ask once more.
func (c *Counter) Step(op Op, hold *Hold, w *Wallet) (Outcome, error) {
	w.begin(op)
	switch op.Kind {
	case Reserve, Consume:
		return c.take(op, hold, w)
	case Commit, Release:
		return c.settle(op, hold, w)
	case Refresh:
		return c.refresh(op, w), nil
	}
	return Outcome{}, invalid("unknown quota step %d", op.Kind)
}

func (c *Counter) take(op Op, hold *Hold, w *Wallet) (Outcome, error) {
	if op.N <= 0 || op.N > MaxValue {
		return Outcome{}, invalid("%d units: ask for 1 to 2^53", op.N)
	}
	if hold != nil {
		if hold.Meter != op.Meter || hold.Kind != op.Kind || hold.N != op.N {
			return Outcome{}, ErrKeyReused
		}
		switch hold.State {
		case Released:
			return Outcome{}, ErrSettled
		case Held, Committed:
			out := Outcome{Decision: c.decision(op, true, w)}
			out.Decision.Replayed = true
			out.Decision.Period = hold.Period
			if hold.State == Held && op.Expires.After(hold.Expires) {
				h := *hold
				h.Expires = op.Expires
				out.Hold = &h
			}
			return out, nil
		case Expired: // given back: the key is free again
		}
	}
	if op.Cap != Unlimited && op.N > max(0, op.Cap-c.own())+w.balance(op.Now) {
		return Outcome{Decision: c.decision(op, false, w)}, nil
	}
	if c.Used > math.MaxInt64-c.Held-op.N {
		return Outcome{}, ErrOverflow
	}
	out := Outcome{Changed: true}
	h := Hold{
		Account: op.Account, Key: op.Key, Meter: op.Meter, Period: op.Period, Kind: op.Kind,
		N: op.N, At: op.Now, Expires: op.Expires,
	}
	if op.Kind == Reserve {
		h.Draws = w.draw(MoveHold, op.N-c.included(op, op.N), op.Now)
		c.DrawnHeld += sumDraws(h.Draws)
		c.Held += op.N
	} else {
		h.State, h.Actual, h.Expires = Committed, op.N, time.Time{}
		out.Notices = c.use(op, op.N, nil, w)
	}
	c.Limit, _ = c.limit(op, w)
	if op.Key != "" {
		out.Hold = &h
	}
	out.Decision = c.decision(op, true, w)
	return out, nil
}

func (c *Counter) settle(op Op, hold *Hold, w *Wallet) (Outcome, error) {
	if hold == nil {
		return Outcome{}, ErrNotFound
	}
	if hold.Meter != op.Meter || hold.Kind != Reserve {
		return Outcome{}, ErrKeyReused
	}
	h := *hold
	replay := func() (Outcome, error) {
		out := Outcome{Decision: c.decision(op, true, w)}
		out.Decision.Replayed = true
		return out, nil
	}
	if op.Kind == Release {
		switch h.State {
		case Committed:
			return Outcome{}, ErrSettled
		case Released, Expired:
			return replay()
		case Held:
			c.giveUp(&h, op.Now, w)
		}
		h.State = Released
		c.Limit, _ = c.limit(op, w)
		return Outcome{Decision: c.decision(op, true, w), Hold: &h, Changed: true}, nil
	}
	if op.N < 0 || op.N > MaxValue {
		return Outcome{}, invalid("%d units: commit 0 to 2^53", op.N)
	}
	late := false
	var draws []Draw
	switch h.State {
	case Released:
		return Outcome{}, ErrSettled
	case Committed:
		if h.Actual != op.N {
			return Outcome{}, ErrSettled
		}
		return replay()
	case Held:
		draws, h.Draws = h.Draws, nil
		c.Held -= h.N
		c.DrawnHeld -= sumDraws(draws)
	case Expired:
		late = true
	}
	// What has been used is counted even beyond the limit: refusing it here
	// would lose it.
	h.State, h.Actual = Committed, op.N
	out := Outcome{Hold: &h, Changed: true, Notices: c.use(op, op.N, draws, w)}
	c.Limit, _ = c.limit(op, w)
	out.Decision = c.decision(op, true, w)
	out.Decision.Late = late
	return out, nil
}

// giveUp gives back what a hold holds, to the grants what is theirs.
func (c *Counter) giveUp(h *Hold, now time.Time, w *Wallet) {
	c.Held -= h.N
	c.DrawnHeld -= sumDraws(h.Draws)
	w.settle(h.Draws, 0, now)
	h.Draws = nil
}

// Expire gives back what a hold of the counter holds whose time is over. The
// store calls it with counter, hold and wallet locked, as Step.
func (c *Counter) Expire(h *Hold, now time.Time, w *Wallet) {
	w.begin(Op{Now: now, Key: h.Key, Charge: Charge{Period: h.Period}})
	c.giveUp(h, now, w)
	h.State = Expired
}

// refresh makes the counter know today's limit, and finds the thresholds that
// a lower one has brought down to what is used.
func (c *Counter) refresh(op Op, w *Wallet) Outcome {
	limit, _ := c.limit(op, w)
	out := Outcome{Decision: c.decision(op, true, w)}
	if limit == c.Limit {
		return out
	}
	before := c.Limit
	if before == Unlimited {
		before = math.MaxInt64 / 100 // so that its hundredfold fits
	}
	op.Limit = limit
	out.Notices = crossings(op, c.Used, c.Used, before)
	out.Changed, c.Limit = true, limit
	return out
}

// Charge adds the value of a stored event, which may be negative, and returns
// the thresholds that it crosses.
func (c *Counter) Charge(e Entry, now time.Time, w *Wallet) []Notice {
	op := Op{Account: e.Account, Meter: e.Meter, Charge: e.Charge, Now: now, Entry: &e}
	w.begin(op)
	notices := c.use(op, e.Value, nil, w)
	c.Limit, _ = c.limit(op, w)
	return notices
}

// use adds n to what is used: of the quota's own limit first, then of what a
// reservation has held of grants, then of the other grants, and the rest as
// overage. A correction goes the same way back.
func (c *Counter) use(op Op, n int64, held []Draw, w *Wallet) []Notice {
	before := c.Used
	if n >= 0 {
		rest := n - c.included(op, n)
		burned := w.settle(held, rest, op.Now)
		burned += sumDraws(w.draw(MoveBurn, rest-burned, op.Now))
		c.Drawn += burned
	} else if c.Drawn > 0 {
		back := min(-n, c.Drawn)
		if op.Limit != Unlimited {
			back = min(back, max(0, op.Limit-(c.own()+n)))
		}
		c.Drawn -= w.giveBack(back, op.Now)
	}
	c.Used += n
	if op.Entry == nil {
		c.Bare += n
	}
	op.Limit, _ = c.limit(op, w)
	return crossings(op, before, c.Used, op.Limit+w.hasLapsed())
}

// included returns how many of n more units the quota's own limit has room for.
func (c *Counter) included(op Op, n int64) int64 {
	if op.Limit == Unlimited {
		return n
	}
	return min(n, max(0, op.Limit-c.own()))
}

// limit returns the quota's limit with the grants', and the latter by itself.
func (c *Counter) limit(op Op, w *Wallet) (limit, granted int64) {
	granted = c.Drawn + c.DrawnHeld + w.balance(op.Now)
	if op.Limit == Unlimited {
		return Unlimited, granted
	}
	return op.Limit + granted, granted
}

// crossings returns a notice for each threshold that was above what was used
// before, of the limit that was before, and isn't above what is used after. All
// but the highest are superseded.
func crossings(op Op, before, after, limitBefore int64) []Notice {
	if op.Limit <= 0 {
		return nil
	}
	var out []Notice
	for i := len(op.Thresholds) - 1; i >= 0; i-- {
		if before < Threshold(limitBefore, op.Thresholds[i]) && Threshold(op.Limit, op.Thresholds[i]) <= after {
			out = append(out, Notice{
				ID:      NoticeID(op.Account, op.Meter, op.Period.From, op.Thresholds[i]),
				Account: op.Account, Meter: op.Meter, Period: op.Period, Percent: op.Thresholds[i],
				Used: after, Limit: op.Limit, At: op.Now, Superseded: len(out) > 0,
			})
		}
	}
	return out
}

// Threshold returns percent of a limit, rounded up: 80 % of 9 is 8.
func Threshold(limit int64, percent int) int64 {
	p := int64(percent)
	if limit/100 > (math.MaxInt64-p)/max(p, 1) {
		return math.MaxInt64
	}
	return limit/100*p + (limit%100*p+99)/100
}

// NoticeID returns the ID of the notice of a crossing.
func NoticeID(account, meter string, from time.Time, percent int) string {
	key := KeyOf(meter, account+"\x00"+strconv.FormatInt(from.UnixMicro(), 10)+"\x00"+strconv.Itoa(percent))
	return "ntc_" + IDOf(key)[len("use_"):]
}

func (c *Counter) decision(op Op, allowed bool, w *Wallet) Decision {
	d := Decision{
		Allowed: allowed, Account: op.Account, Meter: op.Meter, Key: op.Key, N: op.N,
		Used: c.Used, Held: c.Held, Remaining: Unlimited, Period: op.Period,
	}
	d.Limit, d.Granted = c.limit(op, w)
	if op.Cap != Unlimited {
		d.Remaining = max(0, op.Cap-c.own()) + w.balance(op.Now)
	}
	if op.Limit != Unlimited {
		d.Overage = max(0, c.Used-c.Drawn-op.Limit)
	}
	return d
}
