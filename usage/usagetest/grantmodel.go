package usagetest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
)

// grantModel is grants as plainly as can be: a unit at a time, and a job that
// runs at every border.
type grantModel struct {
	now      time.Time
	quota    usage.Quota
	lots     []*modelLot
	counters map[time.Time]*modelCounter
	holds    map[string]*modelHold
}

type modelLot struct {
	usage.Lot
	free  int64
	ended bool
}

type modelCounter struct {
	used, held, own int64 // own: of the quota itself
	drawn           map[*modelLot]int64
	drawnHeld       int64
}

type modelHold struct {
	r      *usage.Reservation
	period time.Time
	own    int64
	units  []*modelLot // one for each unit, in the order in which they were drawn
}

func newGrantModel(now time.Time) *grantModel {
	return &grantModel{now: now, counters: map[time.Time]*modelCounter{}, holds: map[string]*modelHold{}}
}

func (m *grantModel) counter(from time.Time) *modelCounter {
	c := m.counters[from]
	if c == nil {
		c = &modelCounter{drawn: map[*modelLot]int64{}}
		m.counters[from] = c
	}
	return c
}

func (m *grantModel) period() time.Time { return m.quota.PeriodAt(m.now).From }

func (m *grantModel) next(l *modelLot) *modelLot {
	for _, x := range m.lots {
		if x.Key == l.Key && x.Seq == l.Seq+1 {
			return x
		}
	}
	return nil
}

// advance runs the job of every border up to an instant.
func (m *grantModel) advance(to time.Time) {
	for {
		var due *modelLot
		for _, l := range m.lots {
			if !l.ended && !l.End.IsZero() && !l.End.After(to) && (due == nil || l.End.Before(due.End)) {
				due = l
			}
		}
		if due == nil {
			m.now = to
			return
		}
		m.now, due.ended = due.End, true
		if due.Every != "" && due.RevokedAt.IsZero() && (due.Expires.IsZero() || due.End.Before(due.Expires)) {
			n := &modelLot{free: due.Amount}
			n.Grant, n.Seq, n.Start, n.End, n.Issued = due.Grant, due.Seq+1, due.End, due.End.AddDate(0, 0, 1), due.Amount
			if due.Every == usage.Weekly {
				n.End = due.End.AddDate(0, 0, 7)
			}
			if !n.Expires.IsZero() && n.Expires.Before(n.End) {
				n.End = n.Expires
			}
			m.lots = append(m.lots, n)
		}
		m.lose(due)
	}
}

// lose takes the free units of a lot that is over.
func (m *grantModel) lose(l *modelLot) {
	for l != nil && (l.ended || !l.RevokedAt.IsZero()) {
		n := m.next(l)
		for ; l.free > 0; l.free-- {
			switch {
			case !l.RevokedAt.IsZero():
				l.Voided++
			case n != nil && (l.Rollover == usage.Unlimited || l.Rolled < l.Rollover):
				l.Rolled++
				n.Carried++
				n.free++
			default:
				l.Expired++
			}
		}
		l = n
	}
}

func inOrder(a, b *modelLot) int {
	end := func(l *modelLot) int64 {
		if l.End.IsZero() {
			return 1 << 62
		}
		return l.End.Unix()
	}
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(end(a), end(b)), a.Start.Compare(b.Start), cmp.Compare(a.Key, b.Key))
}

// best is the lot of which the next unit is used, nil if there is none.
func (m *grantModel) best() (best *modelLot) {
	for _, l := range m.lots {
		if l.free > 0 && !l.ended && l.RevokedAt.IsZero() && !l.Start.After(m.now) && (best == nil || inOrder(l, best) < 0) {
			best = l
		}
	}
	return best
}

func (m *grantModel) balance() (n int64) {
	for _, l := range m.lots {
		if !l.ended && l.RevokedAt.IsZero() && !l.Start.After(m.now) {
			n += l.free
		}
	}
	return n
}

func (m *grantModel) admits(n int64) bool {
	c := m.counter(m.period())
	return m.quota.Overage == usage.Unlimited || n <= max(0, m.quota.Limit+m.quota.Overage-c.own)+m.balance()
}

func (m *grantModel) use(c *modelCounter, n int64, held []*modelLot) []*modelLot {
	c.used += n
	for range n {
		switch l := m.best(); {
		case c.own < m.quota.Limit:
			c.own++
		case len(held) > 0:
			held[0].Held--
			held[0].Burned++
			c.drawn[held[0]]++
			held = held[1:]
		case l != nil:
			l.free--
			l.Burned++
			c.drawn[l]++
		default:
			c.own++
		}
	}
	return held
}

func (m *grantModel) correct(c *modelCounter, n int64) {
	c.used -= n
	for range n {
		var last *modelLot
		for l, k := range c.drawn {
			if k > 0 && (last == nil || inOrder(l, last) > 0) {
				last = l
			}
		}
		if c.own > m.quota.Limit || last == nil {
			c.own--
			continue
		}
		c.drawn[last]--
		last.Burned--
		last.free++
		m.lose(last)
	}
}

func (m *grantModel) reserve(r *usage.Reservation, n int64) {
	c := m.counter(m.period())
	h := &modelHold{r: r, period: m.period()}
	c.held += n
	for range n {
		if l := m.best(); c.own >= m.quota.Limit && l != nil {
			l.free--
			l.Held++
			c.drawnHeld++
			h.units = append(h.units, l)
		} else {
			c.own++
			h.own++
		}
	}
	m.holds[r.Key] = h
}

// settle ends a hold with what was really used of it.
func (m *grantModel) settle(key string, actual int64) {
	h := m.holds[key]
	delete(m.holds, key)
	c := m.counter(h.period)
	c.own -= h.own
	c.held -= h.own + int64(len(h.units))
	c.drawnHeld -= int64(len(h.units))
	for _, l := range m.use(c, actual, h.units) {
		l.Held--
		l.free++
		m.lose(l)
	}
}

// units sums all lots that have begun.
func (m *grantModel) units() (u usage.Units) {
	for _, l := range m.lots {
		if l.Start.After(m.now) {
			continue
		}
		u.Issued += l.Issued
		u.Carried += l.Carried
		u.Burned += l.Burned
		u.Held += l.Held
		u.Expired += l.Expired
		u.Voided += l.Voided
		u.Rolled += l.Rolled
	}
	return u
}

// grantHistory is one random history.
type grantHistory struct {
	t       *rapid.T
	k       *grantKit
	m       *grantModel
	account string
	keys    []string
	past    []pastBalance
}

type pastBalance struct {
	at time.Time
	usage.Units
}

func (h *grantHistory) int(name string, least, most int) int64 {
	return int64(rapid.IntRange(least, most).Draw(h.t, name))
}

func (h *grantHistory) run() {
	h.change()
	for range h.int("steps", 5, 40) {
		switch h.int("what", 0, 9) {
		case 0:
			h.grant()
		case 1, 2:
			h.consume()
		case 3:
			h.reserve()
		case 4:
			h.settle()
		case 5:
			h.record()
		case 6:
			if len(h.keys) > 0 && h.int("revoke", 0, 2) == 0 {
				h.revoke()
			}
		case 7:
			if h.int("change", 0, 2) == 0 {
				h.change()
			}
		default:
			h.wait()
		}
		h.compare()
	}
	h.finish()
}

// change gives the account another quota.
func (h *grantHistory) change() {
	h.m.quota = usage.Quota{Limit: h.int("limit", 0, 6)}
	if over := h.int("overage", -1, 3); over < 3 {
		h.m.quota.Overage = over
	}
	h.k.set(h.m.quota)
}

func (h *grantHistory) wait() {
	u := h.m.units()
	require.Equal(h.t, u.Remaining(), u.Issued+u.Carried-u.Burned-u.Held-u.Expired-u.Voided-u.Rolled)
	h.past = append(h.past, pastBalance{h.m.now, u})
	d := time.Duration(h.int("wait", 1, 40)) * time.Hour
	h.k.now.Add(d)
	h.m.advance(h.m.now.Add(d))
}

func (h *grantHistory) grant() {
	g := usage.Grant{
		Account: h.account, Meter: "credits", Key: fmt.Sprint("g", len(h.keys)), Amount: h.int("amount", 1, 9),
		Priority: int32(h.int("priority", 0, 1)),
	}
	if ahead := h.int("ahead", 0, 30); ahead > 20 {
		g.From = h.m.now.Add(time.Duration(ahead) * time.Hour)
	}
	if lasts := h.int("lasts", 0, 90); lasts > 0 {
		g.Expires = h.m.now.Add(time.Duration(40+lasts) * time.Hour)
	}
	switch h.int("every", 0, 4) {
	case 0, 1:
		g.Every = usage.Daily
	case 2:
		g.Every = usage.Weekly
	}
	if g.Every != "" {
		g.Rollover = h.int("rollover", -1, 8)
	}
	stored, err := h.k.svc.Grant(h.k.ctx, g)
	require.NoError(h.t, err)
	h.keys = append(h.keys, g.Key)
	lot, _ := stored.NewLot(h.m.now)
	h.m.lots = append(h.m.lots, &modelLot{Lot: lot, free: lot.Issued})
}

func (h *grantHistory) revoke() {
	key := rapid.SampledFrom(h.keys).Draw(h.t, "key")
	_, err := h.k.svc.Revoke(h.k.ctx, h.account, "credits", key)
	require.NoError(h.t, err)
	for _, l := range h.m.lots {
		if l.Key == key && l.RevokedAt.IsZero() {
			l.RevokedAt = h.m.now
			l.Voided, l.free = l.Voided+l.free, 0
		}
	}
}

func (h *grantHistory) consume() {
	n := h.int("n", 1, 12)
	d, err := h.k.svc.Consume(h.k.ctx, usage.Request{Account: h.account, Meter: "credits", N: n})
	require.NoError(h.t, err)
	require.Equal(h.t, h.m.admits(n), d.Allowed)
	if d.Allowed {
		h.m.use(h.m.counter(h.m.period()), n, nil)
	}
}

func (h *grantHistory) reserve() {
	n := h.int("n", 1, 12)
	r, err := h.k.svc.Reserve(h.k.ctx, usage.Request{Account: h.account, Meter: "credits", N: n})
	require.NoError(h.t, err)
	require.Equal(h.t, h.m.admits(n), r.Allowed)
	if r.Allowed {
		h.m.reserve(r, n)
	}
}

func (h *grantHistory) settle() {
	if len(h.m.holds) == 0 {
		return
	}
	var keys []string
	for key := range h.m.holds {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	key := rapid.SampledFrom(keys).Draw(h.t, "hold")
	// Found again, so that it is settled by today's quota.
	r, err := h.k.svc.Reservation(h.k.ctx, h.account, key)
	require.NoError(h.t, err)
	actual := h.int("actual", -3, 12)
	if actual <= 0 && actual > -3 {
		require.NoError(h.t, r.Release(h.k.ctx))
	} else {
		_, err = r.Commit(h.k.ctx, max(0, actual))
		require.NoError(h.t, err)
	}
	h.m.settle(key, max(0, actual))
}

// record stores an event, which may be a correction.
func (h *grantHistory) record() {
	c := h.m.counter(h.m.period())
	v := h.int("value", -6, 8)
	if v < 0 {
		v = -min(-v, c.used)
	}
	if v == 0 {
		return
	}
	require.NoError(h.t, h.k.svc.Record(h.k.ctx, usage.Event{Account: h.account, Meter: "credits", Value: v}))
	if v > 0 {
		h.m.use(c, v, nil)
	} else {
		h.m.correct(c, -v)
	}
}

// compare looks at everything that can be seen.
func (h *grantHistory) compare() {
	d, err := h.k.svc.Quota(h.k.ctx, h.account, "credits")
	require.NoError(h.t, err)
	c := h.m.counter(h.m.period())
	var drawn int64
	for _, n := range c.drawn {
		drawn += n
	}
	require.Equal(h.t, c.used, d.Used, "used")
	require.Equal(h.t, c.held, d.Held, "held")
	require.Equal(h.t, drawn+c.drawnHeld+h.m.balance(), d.Granted, "granted")
	require.Equal(h.t, h.m.quota.Limit+d.Granted, d.Limit, "limit")
	require.Equal(h.t, max(0, c.used-drawn-h.m.quota.Limit), d.Overage, "overage")
	if h.m.quota.Overage != usage.Unlimited {
		require.Equal(h.t, max(0, h.m.quota.Limit+h.m.quota.Overage-c.own)+h.m.balance(), d.Remaining, "remaining")
	}
	u, err := h.k.svc.Balance(h.k.ctx, h.account, "credits", h.m.now)
	require.NoError(h.t, err)
	require.Equal(h.t, h.m.units(), u, "balance")
}

// finish compares every lot, and the balance at every past instant.
func (h *grantHistory) finish() {
	for _, p := range h.past {
		u, err := h.k.svc.Balance(h.k.ctx, h.account, "credits", p.at)
		require.NoError(h.t, err)
		require.Equal(h.t, p.Units, u, "balance at %s", p.at)
	}
	if !h.m.admits(1) { // a step books what has come to pass
		h.consumeNothing()
	} else {
		h.consume()
	}
	type lot struct {
		key string
		seq int
	}
	got := map[lot]*usage.Units{}
	for e, err := range h.k.svc.GrantHistory(h.k.ctx, h.account, "credits", start, start.AddDate(1, 0, 0)) {
		require.NoError(h.t, err)
		k := lot{e.Key, e.Seq}
		if got[k] == nil {
			got[k] = &usage.Units{}
		}
		got[k].Book(e.Move, e.Units)
	}
	for _, l := range h.m.lots {
		require.NotNil(h.t, got[lot{l.Key, l.Seq}], "lot %s %d", l.Key, l.Seq)
		require.Equal(h.t, l.Units, *got[lot{l.Key, l.Seq}], "lot %s %d", l.Key, l.Seq)
		require.Equal(h.t, l.free, l.Units.Remaining())
	}
	require.Len(h.t, got, len(h.m.lots))
}

func (h *grantHistory) consumeNothing() {
	d, err := h.k.svc.Consume(h.k.ctx, usage.Request{Account: h.account, Meter: "credits"})
	require.NoError(h.t, err)
	require.False(h.t, d.Allowed)
}
