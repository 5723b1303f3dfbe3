// Package usagemem is a usage.Store in the process's memory, for development
// and tests: correct, bounded, and gone with the process.
package usagemem

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kolekt/commerce/usage"
)

// Config has a good default for everything.
type Config struct {
	// MaxEvents bounds the memory: beyond it Append returns
	// usage.ErrUnavailable. 1,000,000 when zero.
	MaxEvents int64
	// Retention is how long events, counters, settled keys and notices are
	// kept by Maintain: for ever when zero.
	Retention time.Duration
	// KeyRetention is how long the keys of settled quota steps are remembered
	// beyond their period: 35 days when zero.
	KeyRetention time.Duration
}

const shards = 64

// Store is a usage.Store. Each account lives in one of its shards, whose lock
// makes a step atomic.
type Store struct {
	cfg    Config
	seed   maphash.Seed
	events atomic.Int64
	shards [shards]shard

	claiming sync.Mutex // of reports
}

type shard struct {
	mu       sync.Mutex
	accounts map[string]*account
}

type account struct {
	name     string
	logs     map[string]*eventLog // by meter
	counters map[counterKey]*usage.Counter
	holds    map[string]*usage.Hold
	notices  map[string]*notice
	grants   map[string]*grants // by meter
	reports  reports
}

type counterKey struct {
	meter string
	from  int64
}

type notice struct {
	usage.Notice
	done    bool
	claimed time.Time
}

// eventLog has the events of one account and meter, in order of time and key.
type eventLog struct {
	entries []usage.Entry
	hashes  map[[16]byte]int64
}

var _ usage.Store = (*Store)(nil)

// New returns an empty store with the default bounds.
func New() *Store { return NewWith(Config{}) }

// NewWith returns an empty store.
func NewWith(cfg Config) *Store {
	if cfg.MaxEvents == 0 {
		cfg.MaxEvents = 1_000_000
	}
	if cfg.KeyRetention == 0 {
		cfg.KeyRetention = 35 * 24 * time.Hour
	}
	s := &Store{cfg: cfg, seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].accounts = map[string]*account{}
	}
	return s
}

// lock returns the account with its shard locked, and the unlock.
func (s *Store) lock(name string) (*account, func()) {
	sh := &s.shards[s.shardOf(name)]
	sh.mu.Lock()
	a := sh.accounts[name]
	if a == nil {
		a = &account{
			name: name, logs: map[string]*eventLog{}, counters: map[counterKey]*usage.Counter{},
			holds: map[string]*usage.Hold{}, notices: map[string]*notice{}, grants: map[string]*grants{},
		}
		sh.accounts[name] = a
	}
	return a, sh.mu.Unlock
}

func (s *Store) shardOf(name string) uint64 { return maphash.String(s.seed, name) % shards }

// each calls f for every account, with its shard locked.
func (s *Store) each(f func(*account) error) error {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, a := range sh.accounts {
			if err := f(a); err != nil {
				sh.mu.Unlock()
				return err
			}
		}
		sh.mu.Unlock()
	}
	return nil
}

func (a *account) log(meter string) *eventLog {
	l := a.logs[meter]
	if l == nil {
		l = &eventLog{hashes: map[[16]byte]int64{}}
		a.logs[meter] = l
	}
	return l
}

func compareEntries(a, b usage.Entry) int {
	return cmp.Or(a.Time.Compare(b.Time), slices.Compare(a.Key[:], b.Key[:]))
}

// add inserts an event at its place: nearly always the end.
func (l *eventLog) add(e usage.Entry) {
	l.hashes[e.Key] = e.Hash
	if e.ID == "" && e.Account != "" {
		e.ID = usage.IDOf(e.Key)
	}
	if n := len(l.entries); n == 0 || compareEntries(l.entries[n-1], e) < 0 {
		l.entries = append(l.entries, e)
		return
	}
	i, _ := slices.BinarySearchFunc(l.entries, e, compareEntries)
	l.entries = slices.Insert(l.entries, i, e)
}

// between returns the events of [from, to).
func (l *eventLog) between(from, to time.Time) []usage.Entry {
	at := func(t time.Time) int {
		i, _ := slices.BinarySearchFunc(l.entries, t, func(e usage.Entry, t time.Time) int { return e.Time.Compare(t) })
		return i
	}
	i, j := at(from), at(to)
	return l.entries[i:max(i, j)]
}

func (a *account) counter(meter string, p usage.Period) *usage.Counter {
	k := counterKey{meter, p.From.UnixMicro()}
	c := a.counters[k]
	if c == nil {
		c = &usage.Counter{Account: a.name, Meter: meter, Period: p}
		a.counters[k] = c
	}
	return c
}

func (a *account) notify(notices []usage.Notice) {
	for _, n := range notices {
		if _, known := a.notices[n.ID]; !known {
			a.notices[n.ID] = &notice{Notice: n, done: n.Superseded}
		}
	}
}

// reserve counts n events against MaxEvents.
func (s *Store) reserve(n int64) error {
	if s.events.Add(n) > s.cfg.MaxEvents {
		s.events.Add(-n)
		return fmt.Errorf("%w: usagemem holds at most %d events (Config.MaxEvents)", usage.ErrUnavailable, s.cfg.MaxEvents)
	}
	return nil
}

// Append implements usage.EventStore.
func (s *Store) Append(ctx context.Context, now time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.reserve(int64(len(entries))); err != nil {
		return nil, err
	}
	out := make([]usage.AppendOutcome, len(entries))
	for i, e := range entries {
		a, unlock := s.lock(e.Account)
		out[i] = a.append(e, now)
		unlock()
		if out[i] != usage.Stored {
			s.events.Add(-1)
		}
	}
	return out, nil
}

func (a *account) append(e usage.Entry, now time.Time) usage.AppendOutcome {
	l := a.log(e.Meter)
	if hash, known := l.hashes[e.Key]; known {
		if hash != e.Hash {
			return usage.Reused
		}
		return usage.Duplicate
	}
	l.add(e)
	a.mark(e)
	if !e.Charge.Period.IsZero() {
		c := a.counter(e.Meter, e.Charge.Period)
		w := a.walletFor(e, c)
		a.notify(c.Charge(e, now, w))
		a.save(e.Meter, w)
	}
	return usage.Stored
}

// Apply implements usage.QuotaStore.
func (s *Store) Apply(ctx context.Context, op usage.Op) (usage.Decision, error) {
	if err := ctx.Err(); err != nil {
		return usage.Decision{}, err
	}
	if op.Entry != nil {
		if err := s.reserve(1); err != nil {
			return usage.Decision{}, err
		}
	}
	a, unlock := s.lock(op.Account)
	defer unlock()
	d, stored, err := a.apply(op)
	if op.Entry != nil && !stored {
		s.events.Add(-1)
	}
	return d, err
}

func (a *account) apply(op usage.Op) (d usage.Decision, stored bool, err error) {
	var hold *usage.Hold
	if op.Key != "" {
		hold = a.holds[op.Key]
	}
	c := a.counter(op.Meter, op.Period)
	if op.Entry != nil && hold == nil {
		if hash, known := a.log(op.Meter).hashes[op.Entry.Key]; known {
			if hash != op.Entry.Hash {
				return d, false, usage.ErrKeyReused
			}
			// Recorded before, and charged then: the same use.
			d, err := c.Step(op, &usage.Hold{Meter: op.Meter, Kind: op.Kind, N: op.N, State: usage.Committed, Period: op.Period, Actual: op.N}, a.wallet(op.Meter))
			return d.Decision, false, err
		}
	}
	w := a.wallet(op.Meter)
	defer func() { a.save(op.Meter, w) }()
	out, err := c.Step(op, hold, w)
	if err == nil && !out.Decision.Allowed && c.Held > 0 {
		a.save(op.Meter, w)
		if a.expire(op.Now) > 0 {
			w = a.wallet(op.Meter)
			out, err = c.Step(op, hold, w)
		}
	}
	if err != nil {
		return d, false, err
	}
	if out.Hold != nil {
		a.holds[op.Key] = out.Hold
	}
	a.notify(out.Notices)
	if op.Entry != nil && out.Changed {
		l := a.log(op.Meter)
		if _, known := l.hashes[op.Entry.Key]; !known {
			l.add(*op.Entry)
			a.mark(*op.Entry)
			stored = true
		}
	}
	return out.Decision, stored, nil
}

// expire gives back what expired reservations hold.
func (a *account) expire(now time.Time) (n int) {
	for _, h := range a.holds {
		if h.State == usage.Held && !h.Expires.After(now) {
			w := a.wallet(h.Meter)
			a.counter(h.Meter, h.Period).Expire(h, now, w)
			a.save(h.Meter, w)
			n++
		}
	}
	return n
}

// Counter implements usage.QuotaStore.
func (s *Store) Counter(ctx context.Context, name, meter string, p usage.Period) (usage.Counter, error) {
	a, unlock := s.lock(name)
	defer unlock()
	if c := a.counters[counterKey{meter, p.From.UnixMicro()}]; c != nil {
		return *c, ctx.Err()
	}
	return usage.Counter{Account: name, Meter: meter, Period: p}, ctx.Err()
}

// Hold implements usage.QuotaStore.
func (s *Store) Hold(ctx context.Context, name, key string) (usage.Hold, error) {
	a, unlock := s.lock(name)
	defer unlock()
	if h := a.holds[key]; h != nil {
		return *h, ctx.Err()
	}
	return usage.Hold{}, usage.ErrNotFound
}

// Holds implements usage.QuotaStore.
func (s *Store) Holds(ctx context.Context, name, meter string, n int) ([]usage.Hold, error) {
	a, unlock := s.lock(name)
	defer unlock()
	var out []usage.Hold
	for _, h := range a.holds {
		if h.Meter == meter && h.State == usage.Held {
			out = append(out, *h)
		}
	}
	slices.SortFunc(out, func(a, b usage.Hold) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Key, b.Key)) })
	return out[:min(n, len(out))], ctx.Err()
}

// NearLimit implements usage.QuotaStore.
func (s *Store) NearLimit(ctx context.Context, meter string, now time.Time, percent, n int) ([]usage.Counter, error) {
	var out []usage.Counter
	err := s.each(func(a *account) error {
		for _, c := range a.counters {
			if c.Meter == meter && c.Period.Contains(now) && c.Limit > 0 && c.Used >= usage.Threshold(c.Limit, percent) {
				out = append(out, *c)
			}
		}
		return ctx.Err()
	})
	slices.SortFunc(out, func(a, b usage.Counter) int {
		share := func(c usage.Counter) float64 { return float64(c.Used) / float64(c.Limit) }
		return cmp.Or(cmp.Compare(share(b), share(a)), cmp.Compare(a.Account, b.Account))
	})
	return out[:min(n, len(out))], err
}

// ClaimNotices implements usage.NoticeStore.
func (s *Store) ClaimNotices(ctx context.Context, now, until time.Time, n int) ([]usage.Notice, error) {
	var out []usage.Notice
	err := s.each(func(a *account) error {
		for _, x := range a.notices {
			if len(out) < n && !x.done && !x.claimed.After(now) {
				x.claimed = until
				out = append(out, x.Notice)
			}
		}
		return ctx.Err()
	})
	return out, err
}

// NoticeDone implements usage.NoticeStore.
func (s *Store) NoticeDone(ctx context.Context, n usage.Notice, _ time.Time) error {
	a, unlock := s.lock(n.Account)
	defer unlock()
	if x := a.notices[n.ID]; x != nil {
		x.done = true
	}
	return ctx.Err()
}

// PutNotices stores notices that another QuotaStore has found due.
func (s *Store) PutNotices(ctx context.Context, notices []usage.Notice) error {
	for _, n := range notices {
		a, unlock := s.lock(n.Account)
		a.notify([]usage.Notice{n})
		unlock()
	}
	return ctx.Err()
}

// Notices implements usage.NoticeStore.
func (s *Store) Notices(ctx context.Context, name string, n int) ([]usage.Notice, error) {
	a, unlock := s.lock(name)
	defer unlock()
	var out []usage.Notice
	for _, x := range a.notices {
		out = append(out, x.Notice)
	}
	slices.SortFunc(out, func(a, b usage.Notice) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.ID, b.ID)) })
	return out[:min(n, len(out))], ctx.Err()
}
