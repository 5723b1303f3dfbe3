package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"
)

// Config has a good default for everything but Meters.
type Config struct {
	// Meters are what is counted. At least one.
	Meters []Meter
	// Quota says what an account may use; see QuotaFrom. Nil means that there
	// are no quotas.
	Quota QuotaFunc
	// Quotas, when set, decides about quotas instead of the store: for
	// example usageredis in front of a usagepg that keeps the events. A step
	// that also records an event is then two commits, and no longer one. For
	// grants it must be a GrantStore, which usageredis isn't.
	Quotas QuotaStore
	// HoldTTL is how long a reservation is held when its request doesn't say:
	// 15 minutes when zero.
	HoldTTL time.Duration
	// MaxAge is how old an event may be: 35 days when zero, which is also how
	// long keys are remembered; negative for any age. Older ones are refused
	// with ErrTooLate.
	MaxAge time.Duration
	// MaxAhead is how far in the future an event's time may lie: 5 minutes
	// when zero. Events beyond it are refused with ErrInFuture, or counted as
	// of now with ClampFuture.
	MaxAhead    time.Duration
	ClampFuture bool
	// Location says in which time zone an account's days and months are
	// drawn. Nil means UTC.
	Location func(ctx context.Context, account string) (*time.Location, error)
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// Logger is for what Run can't return: slog.Default when nil.
	Logger *slog.Logger
}

// Service records events, decides about quotas and answers queries. Its
// methods are safe for concurrent use. It has no goroutines of its own; Run
// and NewRecorder do.
type Service struct {
	store  Store
	quotas QuotaStore
	cfg    Config
	meters map[string]Meter
	list   []Meter // the same; to look at a few is faster than to hash a name
	// realTime says that Config.Now is time.Now.
	realTime bool
}

// New checks the configuration and returns a service on the store.
func New(store Store, cfg Config) (*Service, error) {
	if store == nil {
		return nil, errors.New("usage: New needs a store, such as usagemem.New()")
	}
	if len(cfg.Meters) == 0 {
		return nil, errors.New("usage: Config.Meters is empty: declare what is counted")
	}
	meters := make(map[string]Meter, len(cfg.Meters))
	list := make([]Meter, 0, len(cfg.Meters))
	for _, m := range cfg.Meters {
		m = m.withDefaults()
		if err := m.validate(); err != nil {
			return nil, err
		}
		if _, dup := meters[m.Name]; dup {
			return nil, fmt.Errorf("usage: Config.Meters has %q twice", m.Name)
		}
		if m.Quota && cfg.Quota == nil {
			return nil, fmt.Errorf("usage: meter %q counts against a quota: set Config.Quota", m.Name)
		}
		meters[m.Name] = m
		list = append(list, m)
	}
	if cfg.HoldTTL < 0 || cfg.MaxAhead < 0 {
		return nil, errors.New("usage: Config.HoldTTL and Config.MaxAhead must not be negative")
	}
	setDefault(&cfg.HoldTTL, 15*time.Minute)
	setDefault(&cfg.MaxAge, 35*24*time.Hour)
	setDefault(&cfg.MaxAhead, 5*time.Minute)
	realTime := cfg.Now == nil
	if realTime {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Service{store: store, quotas: cfg.Quotas, cfg: cfg, meters: meters, list: list, realTime: realTime}
	if s.quotas == nil {
		s.quotas = store
	}
	return s, nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// With returns the service on another store, such as one on a transaction: what
// is recorded and consumed through it is committed with the caller's own
// changes, or not at all.
func (s *Service) With(store Store) *Service {
	c := *s
	c.store = store
	if s.cfg.Quotas == nil {
		c.quotas = store
	}
	return &c
}

// Meter returns the declaration of a meter, defaults filled in.
func (s *Service) Meter(name string) (Meter, error) {
	m, ok := s.meters[name]
	if !ok {
		return Meter{}, s.unknownMeter(name)
	}
	return m, nil
}

// Audit recomputes rollups and counters from the events and reports what
// differs. It reads everything: run it where a full scan doesn't hurt.
func (s *Service) Audit(ctx context.Context) (Audit, error) { return s.store.Audit(ctx) }

// ExportSubject emits everything that is held on an account: events, counters,
// reservations, notices, grants with their ledger, and reports.
func (s *Service) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	if q, ok := s.cfg.Quotas.(subjectStore); ok {
		if err := q.ExportSubject(ctx, account, emit); err != nil {
			return err
		}
	}
	return s.store.ExportSubject(ctx, account, emit)
}

// subjectStore is a QuotaStore that holds data on accounts.
type subjectStore interface {
	ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error
	EraseSubject(ctx context.Context, account string) (map[string]int64, error)
}

// EraseSubject deletes everything that is held on an account and returns how
// many of each kind. The platform's totals keep the account's share, without a
// trace of whose it was. It is idempotent.
func (s *Service) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	counts := map[string]int64{}
	if q, ok := s.cfg.Quotas.(subjectStore); ok {
		erased, err := q.EraseSubject(ctx, account)
		if err != nil {
			return nil, err
		}
		maps.Copy(counts, erased)
	}
	erased, err := s.store.EraseSubject(ctx, account)
	for record, n := range erased {
		counts[record] += n
	}
	return counts, err
}

// meter returns the declaration of a meter, or nil.
func (s *Service) meter(name string) *Meter {
	if len(s.list) <= 8 {
		for i := range s.list {
			if s.list[i].Name == name {
				return &s.list[i]
			}
		}
		return nil
	}
	if m, ok := s.meters[name]; ok {
		return &m
	}
	return nil
}

func (s *Service) now() time.Time { return s.cfg.Now().UTC() }

func (s *Service) unknownMeter(name string) error {
	return fmt.Errorf("%w %.70q (have %s)", ErrUnknownMeter, name, meterNames(s.meters))
}

func (s *Service) location(ctx context.Context, account string) (*time.Location, error) {
	if s.cfg.Location == nil || account == "" {
		return time.UTC, nil
	}
	loc, err := s.cfg.Location(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("usage: time zone of the account: %w", err)
	}
	if loc == nil {
		return time.UTC, nil
	}
	return loc, nil
}
