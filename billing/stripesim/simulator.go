package stripesim

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Config says how a Simulator behaves. The zero Config is a simulator whose
// clock is the machine's, with the key "sk_test_simulator".
type Config struct {
	// SecretKey is the API key that requests must carry; a live key is
	// ErrLiveKey. Empty is "sk_test_simulator".
	SecretKey string
	// BaseURL is where Handler is mounted, such as
	// "http://localhost:8000/stripe": checkout, portal and invoice links start
	// with it. Empty takes scheme and host from the request that makes the
	// link.
	BaseURL string
	// Now is the clock that the simulator's time follows, ahead by what
	// Advance moved it. Nil is time.Now.
	Now func() time.Time
	// Start, when set, makes the simulator's clock stand still at that
	// instant: only Advance and AdvanceTo move it. Now is then not asked.
	Start time.Time
	// APIVersion is the account's default: that of requests without a
	// Stripe-Version header and of webhook endpoints without one of their own.
	// Empty is 2023-10-16. See Versions.
	APIVersion string
	// MerchantName stands on the hosted pages. Empty is "Simulated Shop".
	MerchantName string

	// Products are there from the start.
	Products []Product
	// Endpoints receive events from the start.
	Endpoints []Endpoint

	// Dunning says how failed renewals are retried.
	Dunning Dunning
	// Portal says what the customer portal offers.
	Portal Portal

	// Client sends webhooks to endpoints with a URL. Nil is a client with a
	// deadline of ten seconds.
	Client *http.Client
	// Seed makes identifiers the same in each run: for tests and examples.
	// Zero takes random ones, so that two runs against one database don't
	// meet.
	Seed uint64
	// Log receives deliveries that failed. Nil discards.
	Log *slog.Logger
}

// Dunning says how a renewal that failed is retried.
type Dunning struct {
	// Retries are the waits before each further attempt, counted from the
	// attempt before. Nil is 3, 5 and 7 days. A decline that can't get better
	// by waiting (lost, stolen or expired card, fraud) isn't retried, yet the
	// schedule runs to its end.
	Retries []time.Duration
	// Final is what becomes of the subscription after the last attempt:
	// "cancel" (the default), "unpaid" or "past_due".
	Final string
}

// Portal says what the customer portal offers.
type Portal struct {
	// Prices are the lookup keys that a customer may change to. Nil offers
	// every active recurring licensed price.
	Prices []string
	// Proration is "create_prorations" (the default), "always_invoice" or
	// "none".
	Proration string
	// CancelNow ends a subscription at once instead of at the end of its
	// period.
	CancelNow bool
}

// DefaultSecretKey is the key of a zero Config.
const DefaultSecretKey = "sk_test_simulator"

// Simulator is a stateful Stripe in memory. Its methods are safe for
// concurrent use. One goroutine for each endpoint runs while there is
// something to deliver; none does when all is quiet. Close ends them.
type Simulator struct {
	cfg    Config
	base   *url.URL // nil without Config.BaseURL
	routes []*route
	hosted *hosted
	client *http.Client
	log    *slog.Logger

	mu      sync.Mutex // guards everything below
	rng     *rand.Rand
	seq     int64
	pinned  time.Time     // the instant that is being run, while time moves
	stands  time.Time     // the clock, when it stands still
	ahead   time.Duration // of Config.Now, when it runs
	db      store
	faults  []*Fault
	saved   map[string]*savedAnswer
	busy    map[string]bool // idempotency keys whose request is under way
	origin  string          // scheme and host of the latest request, without Config.BaseURL
	cause   cause           // what the events that are being emitted come from
	closed  bool
	quiet   chan struct{} // closed and replaced when a delivery ends
	running sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
}

// cause is the request behind an event.
type cause struct{ requestID, idempotencyKey string }

// New returns a simulator, or an error that names the field that is wrong.
func New(cfg Config) (*Simulator, error) {
	if cfg.SecretKey == "" {
		cfg.SecretKey = DefaultSecretKey
	}
	if live(cfg.SecretKey) {
		return nil, ErrLiveKey
	}
	if !strings.HasPrefix(cfg.SecretKey, "sk_test_") && !strings.HasPrefix(cfg.SecretKey, "rk_test_") {
		return nil, invalid("Config.SecretKey must start with sk_test_ or rk_test_")
	}
	if cfg.APIVersion == "" {
		cfg.APIVersion = firstVersion
	}
	if versionRank(cfg.APIVersion) < 0 {
		return nil, invalid("Config.APIVersion %q is not one of %s", cfg.APIVersion, strings.Join(Versions(), ", "))
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MerchantName == "" {
		cfg.MerchantName = "Simulated Shop"
	}
	if cfg.Dunning.Retries == nil {
		cfg.Dunning.Retries = []time.Duration{3 * day, 5 * day, 7 * day}
	}
	if len(cfg.Dunning.Retries) > maxRetries {
		return nil, invalid("Config.Dunning.Retries has %d waits; the most is %d", len(cfg.Dunning.Retries), maxRetries)
	}
	for _, wait := range cfg.Dunning.Retries {
		if wait < time.Minute {
			return nil, invalid("Config.Dunning.Retries: a wait of %s is below a minute", wait)
		}
	}
	switch cfg.Dunning.Final {
	case "":
		cfg.Dunning.Final = "cancel"
	case "cancel", "unpaid", "past_due":
	default:
		return nil, invalid("Config.Dunning.Final %q is none of cancel, unpaid, past_due", cfg.Dunning.Final)
	}
	switch cfg.Portal.Proration {
	case "":
		cfg.Portal.Proration = "create_prorations"
	case "create_prorations", "always_invoice", "none":
	default:
		return nil, invalid("Config.Portal.Proration %q is none of create_prorations, always_invoice, none", cfg.Portal.Proration)
	}
	s := &Simulator{
		cfg:    cfg,
		client: cfg.Client,
		log:    cfg.Log,
		db:     newStore(),
		saved:  map[string]*savedAnswer{},
		busy:   map[string]bool{},
		quiet:  make(chan struct{}),
	}
	if cfg.BaseURL != "" {
		base, err := url.Parse(strings.TrimRight(cfg.BaseURL, "/"))
		if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
			return nil, invalid("Config.BaseURL %q is no http or https URL", cfg.BaseURL)
		}
		s.base = base
	}
	if !cfg.Start.IsZero() {
		s.stands = cfg.Start.UTC()
	}
	if s.client == nil {
		s.client = &http.Client{Timeout: 10 * time.Second}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	seed := cfg.Seed
	if seed == 0 {
		var b [8]byte
		crand.Read(b[:]) // never fails: see its documentation
		seed = binary.LittleEndian.Uint64(b[:])
	}
	s.rng = rand.New(rand.NewPCG(seed, 0x5717e)) //nolint:gosec // identifiers of a simulator guard nothing
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.routes = newRoutes()
	var err error
	if s.hosted, err = newHosted(); err != nil {
		return nil, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range cfg.Endpoints {
		if _, err := s.addEndpoint(e); err != nil {
			return nil, err
		}
	}
	for _, p := range cfg.Products {
		if err := s.seed(p); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func live(key string) bool {
	return strings.HasPrefix(key, "sk_live_") || strings.HasPrefix(key, "rk_live_") || strings.HasPrefix(key, "pk_live_")
}

// Close stops deliveries and waits for the ones under way, at most until ctx
// ends. The simulator answers 503 afterwards.
func (s *Simulator) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newID returns an identifier with Stripe's prefix.
func (s *Simulator) newID(prefix string) string {
	const letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	n := 24
	switch prefix {
	case "cus_", "prod_", "si_":
		n = 14
	case "req_":
		n = 14
	case "whsec_":
		n = 32
	case "cs_test_", "bps_":
		n = 40
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[s.rng.IntN(len(letters))]
	}
	return prefix + string(b)
}

// link returns the URL of one of the hosted pages.
func (s *Simulator) link(path string) string {
	if s.base != nil {
		return s.base.String() + path
	}
	return s.origin + path
}
