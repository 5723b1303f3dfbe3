package usage

import (
	"context"
	"time"
)

// Store keeps events, counters and notices. The conformance suite
// usagetest.TestStore states its contract as tests. All methods are safe for
// concurrent use and honour the context while they wait.
type Store interface {
	EventStore
	QuotaStore
	NoticeStore
	// Audit recomputes everything from the events and reports what differs.
	Audit(ctx context.Context) (Audit, error)
	// Maintain does what has to be done from time to time: it gives expired
	// holds back, forgets keys whose time is over, and drops what lies beyond
	// retention. It works in bounded batches and is safe to call from several
	// processes.
	Maintain(ctx context.Context, now time.Time) error
	// ExportSubject and EraseSubject are for the account's rights; see
	// Service.
	ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error
	EraseSubject(ctx context.Context, account string) (map[string]int64, error)
}

// EventStore keeps events and what they come to.
type EventStore interface {
	// Append stores events and returns an outcome for each, in order. For
	// each event that is new, in the same atomic step: the event, its
	// figures in what Aggregate reads, its charge on the counter (and the
	// notices of crossed thresholds). An event whose key is there already
	// changes nothing; nor does the second of two in one call. When Append
	// returns an error nothing was stored, unless the error is
	// ErrUnknownOutcome; a *EventError means that this event can't ever be
	// stored. The caller may use the slice again once Append has returned
	// without an error.
	Append(ctx context.Context, now time.Time, entries []Entry) ([]AppendOutcome, error)
	// Aggregate folds events into one Point for each span and group that has
	// any, in order of span, then group. It always equals a scan of all
	// events.
	Aggregate(ctx context.Context, sel Selection) ([]Point, error)
	// Accounts folds the events of all accounts in the selection's one span
	// into a row for each account, by descending Sum then account, at most n.
	Accounts(ctx context.Context, sel Selection, n int) ([]AccountStats, error)
	// Active returns, for each span, how many accounts have events in it.
	Active(ctx context.Context, meter string, bounds []time.Time) ([]int64, error)
	// Retention returns, for the accounts whose first event of the meter in
	// the bounds lies in span i, how many have events in span j.
	Retention(ctx context.Context, meter string, bounds []time.Time) ([][]int64, error)
	// Events returns the next page of an account's events in ascending order
	// of time and key, at most n.
	Events(ctx context.Context, page EventPage, n int) ([]Entry, error)
}

// QuotaStore decides about quotas. It may be another one than the store of
// events; see Config.Quotas.
type QuotaStore interface {
	// Apply takes one quota step, atomically and durably before it returns,
	// for any number of processes; Counter.Step says how it is decided.
	Apply(ctx context.Context, op Op) (Decision, error)
	// Counter returns the counter, zero when there is none yet.
	Counter(ctx context.Context, account, meter string, p Period) (Counter, error)
	// Hold returns what is stored under a key, or ErrNotFound.
	Hold(ctx context.Context, account, key string) (Hold, error)
	// Holds returns the account's holds that are neither settled nor expired,
	// oldest first, at most n.
	Holds(ctx context.Context, account, meter string, n int) ([]Hold, error)
	// NearLimit returns counters of periods that contain now whose use is at
	// least percent of their limit, by descending share, at most n.
	NearLimit(ctx context.Context, meter string, now time.Time, percent, n int) ([]Counter, error)
}

// NoticeStore hands notices to whoever delivers them.
type NoticeStore interface {
	// ClaimNotices returns at most n notices that are due: not delivered, and
	// not claimed by somebody else until after now. They are claimed until
	// the given instant.
	ClaimNotices(ctx context.Context, now, until time.Time, n int) ([]Notice, error)
	// NoticeDone marks a notice as delivered.
	NoticeDone(ctx context.Context, n Notice, now time.Time) error
	// Notices returns the account's notices, newest first, at most n.
	Notices(ctx context.Context, account string, n int) ([]Notice, error)
}

// AppendOutcome says what became of an event.
type AppendOutcome uint8

// The outcomes of Append.
const (
	Stored    AppendOutcome = iota
	Duplicate               // the key was there, with the same content
	Reused                  // the key was there, with other content
)

// Selection says which events to fold and how.
type Selection struct {
	Account string // empty: all accounts
	Meter   string
	Figure  string // empty: the value; else a measure
	// Scale is the figure's.
	Scale int
	// Bounds are at least two ascending instants; span i is
	// [Bounds[i], Bounds[i+1]).
	Bounds []time.Time
	// GroupBy is a property, or empty.
	GroupBy string
	// Filter has, for some properties, the text that they must have.
	Filter map[string]string
	// Declared says that GroupBy and Filter together are at most one
	// property, and a declared dimension, so that rollups have the answer.
	Declared bool
	// Unique is the property whose different values are counted, or empty.
	Unique string
}

// Point is what the events of one span and group come to.
type Point struct {
	Span  int
	Group string
	Stats
}

// Stats is what events come to. Sum, Min, Max and Last are in units of
// 10^-Scale.
type Stats struct {
	Count  int64     `json:"count"`
	Sum    int64     `json:"sum"`
	Min    int64     `json:"min"`
	Max    int64     `json:"max"`
	Last   int64     `json:"last"` // of equally new ones, the greatest
	LastAt time.Time `json:"last_at,omitzero"`
	Unique int64     `json:"unique,omitempty"`
	Scale  int       `json:"scale,omitempty"`
}

// AccountStats is what one account's events come to.
type AccountStats struct {
	Account string `json:"account"`
	Stats
}

// EventPage says which page of an account's events is next.
type EventPage struct {
	Account  string
	Meter    string // empty: all
	From, To time.Time
	// AfterTime and AfterKey are the last event of the page before.
	AfterTime time.Time
	AfterKey  [16]byte
	// Newest asks for the newest events, in descending order, instead; there
	// are no further pages.
	Newest bool
}

// Audit is the result of recomputing everything from the events.
type Audit struct {
	Events   int64 `json:"events"`
	Rollups  int64 `json:"rollups"`  // that were compared
	Counters int64 `json:"counters"` // that were compared
	// Differences has a line for each number that isn't what the events say,
	// at most 100.
	Differences []string `json:"differences"`
}

// Add folds another value, in any order.
func (s *Stats) Add(value int64, at time.Time) error {
	return s.Merge(Stats{Count: 1, Sum: value, Min: value, Max: value, Last: value, LastAt: at})
}

// Merge folds another fold, in any order. Unique counts don't merge.
func (s *Stats) Merge(o Stats) error {
	if o.Count == 0 {
		return nil
	}
	if s.Count == 0 {
		o.Scale = s.Scale
		*s = o
		return nil
	}
	sum := s.Sum + o.Sum
	if (o.Sum > 0 && sum < s.Sum) || (o.Sum < 0 && sum > s.Sum) {
		return ErrOverflow
	}
	s.Count += o.Count
	s.Sum = sum
	s.Min = min(s.Min, o.Min)
	s.Max = max(s.Max, o.Max)
	if o.LastAt.After(s.LastAt) || o.LastAt.Equal(s.LastAt) && o.Last > s.Last {
		s.Last, s.LastAt = o.Last, o.LastAt
	}
	return nil
}

// Average returns Sum divided by Count in whole units, 0 without events. It is
// for showing; the integers are exact.
func (s Stats) Average() float64 {
	if s.Count == 0 {
		return 0
	}
	return floatOf(s.Sum, s.Scale) / float64(s.Count)
}

// Total returns Sum in whole units. It is for showing; Sum is exact.
func (s Stats) Total() float64 { return floatOf(s.Sum, s.Scale) }
