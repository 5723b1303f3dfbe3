package apikeys

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"time"

	"golang.org/x/sync/singleflight"
)

// Config sets a Service up. Its zero value is good but for Prefix.
type Config struct {
	// Prefix begins every token and says whose it is, to scanners and people:
	// 2 to 12 of a-z and 0-9, such as "acme". Required; never change it.
	Prefix string
	// Environment stands in every token that this service issues, and is the
	// only one that it accepts. Empty is "live". Prefix and Environment have
	// at most 15 characters together.
	Environment string
	// Peppers are the secrets under which tokens are hashed; the first is for
	// new keys, the others are still accepted, and their keys move to the
	// first when they are next used. At most 3. None is plain SHA-256.
	//
	// To rotate: add the new one in second place everywhere, then make it the
	// first everywhere, then wait until Peppers counts 0 under the old one.
	Peppers []Pepper
	// Scopes are what keys may be granted; others are refused at issue. None
	// allows every well-formed scope.
	Scopes []string
	// Implies says which actions an action implies. Nil is
	// {"write": {"read"}}; empty is none.
	Implies map[string][]string
	// MaxKeys bounds the keys of one owner that are neither revoked nor
	// expired nor replaced. 0 is 100, negative is no bound.
	MaxKeys int
	// MaxLifetime bounds how far ahead ExpiresAt may lie, and is the expiry of
	// keys that are issued without one. 0 is no bound.
	MaxLifetime time.Duration

	// MaxStaleness bounds how long this process may go on accepting a key
	// after another process has revoked, disabled, narrowed or expired it,
	// whatever is cut off from whatever. 0 is 5 s; negative is no cache, so
	// that every verification asks the store. In this process a change takes
	// effect before the method that makes it returns.
	MaxStaleness time.Duration
	// ServeStale accepts keys for so much longer than MaxStaleness while the
	// store doesn't answer. 0, the default, refuses with ErrUnavailable.
	ServeStale time.Duration
	// CacheSize bounds the keys in the cache. 0 is 65,536.
	CacheSize int
	// PollInterval is how often Run asks the store for changes. 0 is a fifth
	// of MaxStaleness.
	PollInterval time.Duration
	// Bus wakes the other processes after a change, so that it takes effect
	// there in milliseconds. Nil leaves it to PollInterval. It can be lost,
	// late or partitioned: MaxStaleness holds all the same.
	Bus Bus
	// Shared is a second cache, behind that of the process, that several
	// processes share: one that has just started then reads its keys there. It
	// is used while Run, or Sync, keeps this process up with the log of
	// changes, which proves for each key that it is as it was; so it never adds
	// to MaxStaleness. What doesn't answer within 50 ms is passed over for a
	// second. It needs a pepper, under which its content is encrypted. Nil is
	// none.
	Shared SharedCache
	// LookupTimeout bounds a question to the store on behalf of a request. 0 is
	// 2 s. It is never longer than MaxStaleness, since an answer may be as old.
	LookupTimeout time.Duration
	// MaxLookups bounds how many such questions are under way. 0 is 64.
	MaxLookups int

	// UseInterval is how often Run writes last uses to the store. 0 is 10 s;
	// negative keeps none. A crash loses the uses of one interval.
	UseInterval time.Duration

	// Schemes accept keys that other libraries have issued; see Import.
	Schemes []Scheme

	// Logger hears about faults that no caller sees. Nil drops them. It never
	// gets a token.
	Logger *slog.Logger
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
}

// Bus carries the news that something has changed, and nothing else: whoever
// can write to it can cause work, but make no key valid or invalid.
type Bus interface {
	// Announce tells every process that listens.
	Announce(ctx context.Context) error
	// Listen calls wake at each announcement, and once whenever a connection
	// has been made, until the context ends or the connection is lost.
	Listen(ctx context.Context, wake func()) error
}

// Service issues, verifies and ends keys. It is safe for concurrent use.
type Service struct {
	store   Store
	cfg     Config
	head    string // <prefix>_<environment>_
	headCRC uint32 // checksum of head
	hashers []*hasher
	proving bool // every pepper has a secret: a tag proves who issued a token
	implies map[string][]string
	log     *slog.Logger
	now     func() time.Time
	base    time.Time

	cache    *cache
	shared   *shared // nil for none
	unknown  *unknownKeys
	flights  singleflight.Group
	lookups  chan struct{}
	counters counters
	sync     synchroniser
	uses     useBuffer
}

// New returns a service on the store. It starts no goroutine: call Run for
// prompt news of other processes' changes and for last uses.
func New(store Store, cfg Config) (*Service, error) {
	if store == nil {
		return nil, errors.New("apikeys: New needs a store")
	}
	if cfg.Environment == "" {
		cfg.Environment = "live"
	}
	if err := validHead(cfg.Prefix, cfg.Environment); err != nil {
		return nil, err
	}
	hashers, err := newHashers(cfg.Peppers)
	if err != nil {
		return nil, err
	}
	for i, scope := range cfg.Scopes {
		if !validScope(scope) {
			return nil, &FieldError{fmt.Sprintf("Config.Scopes[%d]", i), "want an action or resource:action"}
		}
	}
	names := map[string]bool{}
	for i, scheme := range cfg.Schemes {
		if scheme.Name == "" || scheme.Name == foreignToken || names[scheme.Name] || scheme.Parse == nil || scheme.Lookup == nil {
			return nil, &FieldError{fmt.Sprintf("Config.Schemes[%d]", i), "want a name of its own, Parse and Lookup"}
		}
		names[scheme.Name] = true
	}
	for field, d := range map[string]time.Duration{
		"MaxLifetime": cfg.MaxLifetime, "ServeStale": cfg.ServeStale,
		"PollInterval": cfg.PollInterval, "LookupTimeout": cfg.LookupTimeout,
	} {
		if d < 0 {
			return nil, &FieldError{"Config." + field, "must not be negative"}
		}
	}
	if cfg.CacheSize < 0 || cfg.CacheSize > 1<<24 {
		return nil, &FieldError{"Config.CacheSize", "want 0 to 16,777,216"}
	}
	if cfg.MaxLookups < 0 {
		return nil, &FieldError{"Config.MaxLookups", "must not be negative"}
	}
	setDefault(&cfg.MaxKeys, 100)
	setDefault(&cfg.MaxStaleness, 5*time.Second)
	setDefault(&cfg.CacheSize, 1<<16)
	setDefault(&cfg.PollInterval, max(cfg.MaxStaleness/5, 10*time.Millisecond))
	setDefault(&cfg.LookupTimeout, 2*time.Second)
	setDefault(&cfg.MaxLookups, 64)
	setDefault(&cfg.UseInterval, 10*time.Second)

	s := &Service{
		store:   store,
		cfg:     cfg,
		head:    cfg.Prefix + "_" + cfg.Environment + "_",
		hashers: hashers,
		proving: true,
		implies: maps.Clone(cfg.Implies),
		log:     cfg.Logger,
		now:     cfg.Now,
		lookups: make(chan struct{}, cfg.MaxLookups),
		unknown: newUnknownKeys(),
	}
	s.headCRC = crc32.ChecksumIEEE([]byte(s.head))
	for _, h := range hashers {
		s.proving = s.proving && !h.plain
	}
	if cfg.Implies == nil {
		s.implies = defaultImplies
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if cfg.MaxStaleness > 0 {
		s.cfg.LookupTimeout = min(cfg.LookupTimeout, cfg.MaxStaleness)
		s.cache = newCache(cfg.CacheSize)
	}
	if cfg.Shared != nil {
		switch {
		case s.cache == nil:
			return nil, &FieldError{"Config.Shared", "is no use without a cache of the process: leave MaxStaleness at 0 or above"}
		case hashers[0].plain:
			return nil, &FieldError{"Config.Shared", "needs a pepper: without one whoever can write to it could make keys"}
		}
		if s.shared, err = newShared(cfg.Shared, cfg.Peppers[0]); err != nil {
			return nil, err
		}
	}
	s.cfg.Peppers = nil // the hashers have what they need; a dump of s must not show them
	s.base = s.now()
	s.sync.confirmed.Store(never)
	s.uses.pending = map[string]Use{}
	return s, nil
}

func setDefault[T int | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// Scopes returns the scopes that keys may be granted, as configured.
func (s *Service) Scopes() []string { return append([]string(nil), s.cfg.Scopes...) }

// Prefix returns what every token of this service begins with, such as
// "acme_live_".
func (s *Service) Prefix() string { return s.head }

// stamp returns the instant as stores keep it.
func (s *Service) stamp() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// elapsed returns nanoseconds since New. With time.Now it follows the
// monotonic clock: setting the wall clock neither stretches nor cuts staleness.
func (s *Service) elapsed(now time.Time) int64 { return int64(now.Sub(s.base)) }
