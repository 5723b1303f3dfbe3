package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Config is what a Service may be told. The zero value is good for a start;
// Customer and Handle are what most applications set.
type Config struct {
	// Policy says what happens to an account that doesn't pay.
	Policy Policy
	// Seats says how the number of seats follows those who sit.
	Seats SeatPolicy
	// TrialCardKey, when set, allows one trial for each card beside the one
	// for each account. What is kept of a card is a hash of the gateway's
	// fingerprint with this key: at least 32 bytes, secret, and never changed.
	// It needs a gateway that is a Payer.
	TrialCardKey []byte
	// TrialAgain says what becomes of a trial with a card that had one.
	TrialAgain TrialAgain
	// TrialNotice is how long before its end a trial's notice comes. 0 means
	// 72 h, when Stripe tells of it too; negative: never, but from Stripe.
	TrialNotice time.Duration
	// Customer returns what the gateway should know about an account that is
	// about to become a customer, such as its e-mail address for receipts.
	// Nil: nothing.
	Customer func(ctx context.Context, account string) (Person, error)
	// Handle receives notices, at least once each, in Run and
	// ProcessPending. An error brings the notice again later. Nil: notices are
	// kept, and none is delivered.
	Handle func(ctx context.Context, n Notice) error

	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger is told about what goes wrong in the background; nil: nobody is.
	Logger *slog.Logger

	// CallTimeout bounds one call of the gateway. 0 means 30 s.
	CallTimeout time.Duration
	// PollEvery is how often Run looks for work of other processes. 0 means
	// 1 s. Work of this process is seen at once.
	PollEvery time.Duration
	// Workers is how many customers Run works on at a time. 0 means 4.
	Workers int
	// Lease is how long a worker may take for what it has claimed. 0 means
	// 1 min.
	Lease time.Duration
	// Attempts is how often an event or a notice is tried before it is dead;
	// an unavailable gateway doesn't count. 0 means 20: about two days.
	Attempts int
	// ReconcileEvery is how often Run looks for events that never came. 0
	// means 1 h; negative: never.
	ReconcileEvery time.Duration
	// SweepAfter is the age at which Reconcile fetches an account again that
	// nothing was heard of. 0 means 24 h; negative: never.
	SweepAfter time.Duration
	// Retention is how long handled events and delivered notices are kept. 0
	// means 90 days; less than 35 days is an error, for the gateway may send
	// an event again for as long as it keeps it.
	Retention time.Duration
	// CancelDuplicates ends the older one of two live subscriptions of an
	// account, at once and with credit for the rest of its period. Without it
	// a notice tells of them.
	CancelDuplicates bool
}

// Person is what the gateway is told about an account.
type Person struct {
	Email    string
	Name     string
	Metadata map[string]string
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
		off   bool // negative is allowed
	}{
		{"CallTimeout", &cfg.CallTimeout, 30 * time.Second, false},
		{"TrialNotice", &cfg.TrialNotice, trialNotice, true},
		{"Seats.Debounce", &cfg.Seats.Debounce, 30 * time.Second, true},
		{"PollEvery", &cfg.PollEvery, time.Second, false},
		{"Lease", &cfg.Lease, time.Minute, false},
		{"ReconcileEvery", &cfg.ReconcileEvery, time.Hour, true},
		{"SweepAfter", &cfg.SweepAfter, 24 * time.Hour, true},
		{"Retention", &cfg.Retention, 90 * 24 * time.Hour, false},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 && !d.off {
			return cfg, fmt.Errorf("%w: Config.%s is negative", ErrInvalid, d.name)
		}
	}
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 20
	}
	switch {
	case cfg.Workers < 0:
		return cfg, fmt.Errorf("%w: Config.Workers is negative", ErrInvalid)
	case cfg.Attempts < 0:
		return cfg, fmt.Errorf("%w: Config.Attempts is negative", ErrInvalid)
	case len(cfg.TrialCardKey) > 0 && len(cfg.TrialCardKey) < minTrialCardKey:
		return cfg, fmt.Errorf("%w: Config.TrialCardKey has %d bytes, want %d or more", ErrInvalid, len(cfg.TrialCardKey), minTrialCardKey)
	case !slices.Contains([]string{"", "create_prorations", "always_invoice", "none"}, cfg.Seats.Proration):
		return cfg, fmt.Errorf("%w: Config.Seats.Proration is %q", ErrInvalid, cfg.Seats.Proration)
	case cfg.Retention < late:
		return cfg, fmt.Errorf("%w: Config.Retention is %v, want 35 days or more", ErrInvalid, cfg.Retention)
	}
	return cfg, cfg.Policy.validate()
}

// Service is the billing of an application. It is safe for concurrent use, and
// several processes may run one on the same store.
type Service struct {
	catalog *Catalog
	store   Store
	gateway Gateway
	cfg     Config
	prices  priceCache
	feeds   feedList
	wake    chan struct{} // something may be pending
}

// New returns a Service. It starts nothing: Run does the work in the
// background.
func New(catalog *Catalog, store Store, gateway Gateway, cfg Config) (*Service, error) {
	if catalog == nil || store == nil || gateway == nil {
		return nil, fmt.Errorf("%w: New needs a catalogue, a store and a gateway", ErrInvalid)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, ok := gateway.(Payer); len(cfg.TrialCardKey) > 0 && !ok {
		return nil, fmt.Errorf("%w: Config.TrialCardKey needs a gateway that is a Payer", ErrUnsupported)
	}
	return &Service{catalog: catalog, store: store, gateway: gateway, cfg: cfg, wake: make(chan struct{}, 1)}, nil
}

// Catalog returns the catalogue.
func (s *Service) Catalog() *Catalog { return s.catalog }

// now is the clock in UTC, in the resolution that every store keeps.
func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// Account returns what is stored about an account, without asking the gateway.
func (s *Service) Account(ctx context.Context, account string) (Account, error) {
	if account == "" {
		return Account{}, fmt.Errorf("%w: empty account", ErrInvalid)
	}
	a, err := s.store.Account(ctx, account)
	if err != nil {
		return Account{}, fmt.Errorf("billing: read account: %w", err)
	}
	return a, nil
}

// Access decides what an account may do now, from the store alone.
func (s *Service) Access(ctx context.Context, account string) (Decision, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return Decision{}, err
	}
	return Access(s.catalog, s.cfg.Policy, &a, s.now()), nil
}

// Limit returns how much an account may do of something: n in each per, or n
// in each billing period when per is 0; n is -1 for no limit. A name that the
// catalogue doesn't have is ErrUnknownLimit.
func (s *Service) Limit(ctx context.Context, account, name string) (n int64, per time.Duration, err error) {
	d, err := s.Access(ctx, account)
	if err != nil {
		return 0, 0, err
	}
	l, err := d.Limit(name)
	return l.feed(), l.Per, err
}

// Quota returns how much an account may use of something in the billing
// period that is running, -1 for no limit, and that period. A name that the
// catalogue doesn't have, or that is a rate, is ErrUnknownLimit.
func (s *Service) Quota(ctx context.Context, account, name string) (n int64, from, to time.Time, err error) {
	d, err := s.Access(ctx, account)
	if err != nil {
		return 0, time.Time{}, time.Time{}, err
	}
	l, err := d.Limit(name)
	if err == nil && l.Per != 0 {
		err = notQuota(name, l)
	}
	if err != nil {
		return 0, time.Time{}, time.Time{}, err
	}
	return l.feed(), d.Period.From, d.Period.To, nil
}

func notQuota(name string, l Limit) error {
	return fmt.Errorf("%w: limit %q is a rate (%s), not a quota", ErrUnknownLimit, name, l)
}

// Subscription returns the live subscription of an account, or the last one
// that ended, from the store. None is ErrNoSubscription.
func (s *Service) Subscription(ctx context.Context, account string) (Subscription, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return Subscription{}, err
	}
	sub, ok := a.Current()
	if !ok {
		return Subscription{}, fmt.Errorf("%w: %s", ErrNoSubscription, account)
	}
	return sub, nil
}

// Invoices returns an account's invoices, newest first, up to a page of the
// gateway. When the gateway can't be asked, it returns what is stored and
// fresh is false.
func (s *Service) Invoices(ctx context.Context, account string) (invoices []Invoice, fresh bool, err error) {
	a, err := s.Account(ctx, account)
	if err != nil || a.CustomerID == "" {
		return nil, err == nil, err
	}
	call, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	invoices, _, err = s.gateway.Invoices(call, a.CustomerID, "")
	switch {
	case err == nil:
		return invoices, true, nil
	case ctx.Err() != nil:
		return nil, false, ctx.Err()
	case retryable(err):
		return a.Invoices, false, nil
	}
	return nil, false, err
}

// retryable reports whether an error of the gateway may be gone later.
func retryable(err error) bool {
	var r interface{ Retryable() bool }
	if errors.As(err, &r) {
		return r.Retryable()
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknownOutcome) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// call bounds a call of the gateway.
func (s *Service) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.CallTimeout)
}

// poke wakes Run up.
func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
