package mailer

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Config of a [Service]. From and Secret are required; PublicURL is when a kind
// is Lifecycle.
type Config struct {
	// From is the sender. Its domain should be the one that SPF, DKIM and
	// DMARC speak for.
	From Address
	// FromStream overrides From for a stream, so that tips can't spoil the
	// reputation of receipts: tips@news.example.com.
	FromStream map[string]Address
	// ReplyTo should be a mailbox that somebody reads. Empty means none.
	ReplyTo Address
	// ReturnPath gets the bounces; empty means From.
	ReturnPath string
	// Secret is at least 32 random bytes. Keys for tokens, Message-IDs and the
	// suppression list are derived from it: it must stay the same for as long
	// as the suppression list is to be honoured.
	Secret []byte
	// Kinds are all that will be sent.
	Kinds []AnyKind
	Brand Brand

	// PublicURL is where [Service.UnsubscribeHandler] is mounted, such as
	// "https://example.com/mail/unsubscribe". http is taken for localhost only.
	PublicURL string
	// UnsubscribeMailto is an optional mailto URI beside it.
	UnsubscribeMailto string
	// DKIM signs what an SMTP transport sends; nil leaves it to the relay.
	DKIM *DKIM

	// Concurrency is how many mails are sent at once, and how many a crash can
	// send twice at most: a sender takes the next mail when the result of the
	// last one is written. Zero means 4, which is also mailersmtp's number of
	// connections.
	Concurrency int
	// Batch is how many mails a worker leases at once, 1 to 1000. Zero means 100.
	Batch int
	// Lease is how long a worker may be silent before its mails are taken
	// from it; it renews three times as often. Zero means 2 minutes, at least
	// one second.
	Lease time.Duration
	// Poll is how often the outbox is looked at without a hint. Zero means 1 s.
	Poll time.Duration
	// Drain is how long sends that have begun may take after Run's context
	// has ended. Zero means 30 s.
	Drain time.Duration
	// MaxAttempts ends a mail that keeps failing. Zero means 12, which is
	// about three days.
	MaxAttempts int
	// DomainPerMinute caps the mails to one domain in this process; it halves
	// when the domain pushes back and recovers slowly. Zero means no cap.
	DomainPerMinute int
	// Pace, if set, is asked before each send how long to wait: a rate limit
	// that all processes share. Zero means go ahead.
	Pace func(ctx context.Context, domain string) (time.Duration, error)

	// Retain is how long address and variables of finished mails are kept.
	// Zero means 30 days.
	Retain time.Duration
	// RetainKeys is how long a used key stays used. Zero means 400 days.
	RetainKeys time.Duration

	// Observe, if set, is told of each attempt. It must not block.
	Observe func(Attempt)
	// Logger gets warnings, never an address. Nil discards.
	Logger *slog.Logger
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Attempt describes one attempt to send, for metrics and logs. It holds no
// personal data.
type Attempt struct {
	MailID, Kind, Stream, Domain string
	Number                       int
	State                        State // afterwards
	Reason                       string
	Result                       Result
	Took                         time.Duration
}

// Service is the mailer: it enqueues, sends, and keeps the rules. It is safe
// for concurrent use. It starts no goroutine by itself: [Service.Run] does.
type Service struct {
	store     Store
	transport Transport
	cfg       Config
	kinds     map[string]*definition
	templates map[*definition]map[string]*compiled // by locale
	keys      keys
	zones     *zones
	log       *slog.Logger
	pacer     *pacer
}

// keys are derived from Config.Secret, one for each use.
type keys struct{ idempotency, address, token, messageID *macKey }

// New makes a Service. A nil store means direct sending: [Kind.Enqueue] sends
// before it returns, nothing is retried or suppressed, and Run has nothing to
// do.
func New(store Store, transport Transport, cfg Config) (*Service, error) {
	bad := func(format string, args ...any) (*Service, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
	}
	if transport == nil {
		return bad("a transport is needed; NewCapture is one for development")
	}
	if len(cfg.Secret) < 32 {
		return bad("Secret needs at least 32 bytes, has %d", len(cfg.Secret))
	}
	if err := checkSenders(&cfg); err != nil {
		return nil, err
	}
	if err := errors.Join(cfg.Brand.check(), cfg.DKIM.check()); err != nil {
		return nil, err
	}
	s := &Service{store: store, transport: transport, kinds: make(map[string]*definition, len(cfg.Kinds)),
		templates: make(map[*definition]map[string]*compiled, len(cfg.Kinds)), zones: new(zones), log: cfg.Logger}
	for _, k := range cfg.Kinds {
		def := k.definition()
		if _, dup := s.kinds[def.name]; dup {
			return bad("Kinds has %q twice", def.name)
		}
		s.kinds[def.name] = def
		if def.class == Lifecycle && cfg.PublicURL == "" {
			return bad("PublicURL is needed: %q is lifecycle mail and must carry an unsubscribe link", def.name)
		}
	}
	for _, k := range cfg.Kinds {
		for _, name := range k.definition().supersedes {
			if s.kinds[name] == nil {
				return bad("%q supersedes %q, which is not in Kinds", k.Name(), name)
			}
		}
	}
	if cfg.PublicURL = strings.TrimRight(cfg.PublicURL, "/"); cfg.PublicURL != "" && !publicURI(cfg.PublicURL) {
		return bad("PublicURL must be an absolute https URL (http only for localhost)")
	}
	if cfg.UnsubscribeMailto != "" && !checkURI(cfg.UnsubscribeMailto, "mailto:") {
		return bad("UnsubscribeMailto must be one mailto URI")
	}
	cfg.Brand = cfg.Brand.withDefaults()
	if cfg.Brand.Name == "" {
		cfg.Brand.Name = cfg.From.Name
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.keys, err = deriveKeys(cfg.Secret); err != nil {
		return nil, err
	}
	for _, def := range s.kinds {
		s.templates[def] = make(map[string]*compiled, len(def.locales))
		for _, locale := range def.locales {
			if s.templates[def][locale], err = def.parsed[locale].compile(&cfg.Brand); err != nil {
				return nil, err
			}
		}
	}
	s.cfg = cfg
	s.pacer = newPacer(cfg.DomainPerMinute, cfg.Now)
	return s, nil
}

func checkSenders(cfg *Config) error {
	check := func(name string, a *Address, required bool) error {
		if a.Email == "" && !required {
			return nil
		}
		email, err := normalEmail(name, a.Email)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrConfig, name, err)
		}
		if reason := checkText(a.Name); reason != "" {
			return fmt.Errorf("%w: %s: the name %s", ErrConfig, name, reason)
		}
		a.Email = email
		return nil
	}
	if err := errors.Join(check("From", &cfg.From, true), check("ReplyTo", &cfg.ReplyTo, false)); err != nil {
		return err
	}
	streams := make(map[string]Address, len(cfg.FromStream))
	for stream, a := range cfg.FromStream {
		if err := check("FromStream", &a, true); err != nil {
			return err
		}
		streams[stream] = a
	}
	cfg.FromStream = streams
	path := Address{Email: cfg.ReturnPath}
	err := check("ReturnPath", &path, false)
	cfg.ReturnPath = path.Email
	return err
}

func (cfg *Config) setDefaults() error {
	for _, d := range []struct {
		name  string
		value *int
		def   int
		most  int
	}{
		{"Concurrency", &cfg.Concurrency, 4, 1000}, {"Batch", &cfg.Batch, 100, 1000},
		{"MaxAttempts", &cfg.MaxAttempts, 12, 100}, {"DomainPerMinute", &cfg.DomainPerMinute, 0, 1 << 30},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 || *d.value > d.most {
			return fmt.Errorf("%w: %s must be from 0 to %d", ErrConfig, d.name, d.most)
		}
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"Lease", &cfg.Lease, 2 * time.Minute}, {"Poll", &cfg.Poll, time.Second},
		{"Drain", &cfg.Drain, 30 * time.Second}, {"Retain", &cfg.Retain, 30 * 24 * time.Hour}, {"RetainKeys", &cfg.RetainKeys, 400 * 24 * time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 {
			return fmt.Errorf("%w: %s can't be negative", ErrConfig, d.name)
		}
	}
	if cfg.Lease < time.Second {
		return fmt.Errorf("%w: Lease must be at least a second", ErrConfig)
	}
	if cfg.RetainKeys < cfg.Retain {
		return fmt.Errorf("%w: RetainKeys can't be shorter than Retain", ErrConfig)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return nil
}

// publicURI accepts an https URL, and http on the developer's own machine.
func publicURI(s string) bool {
	if checkURI(s, "https://") {
		return true
	}
	if !checkURI(s, "http://") {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && (u.Hostname() == "localhost" || u.Hostname() == "127.0.0.1")
}

func deriveKeys(secret []byte) (keys, error) {
	var k keys
	for _, d := range []struct {
		use  string
		into **macKey
	}{{"idempotency", &k.idempotency}, {"address", &k.address}, {"token", &k.token}, {"message-id", &k.messageID}} {
		key, err := hkdf.Key(sha256.New, secret, nil, "commerce/mailer/"+d.use, 32)
		if err != nil {
			return k, fmt.Errorf("%w: Secret: %w", ErrConfig, err)
		}
		*d.into = newMacKey(key)
	}
	return k, nil
}

// WithStore returns a Service that is the same but for its store: one that
// writes in the caller's transaction, so that a mail exists if and only if what
// it speaks of does.
//
//	receipt, err := kind.Enqueue(ctx, svc.WithStore(mailerpg.New(tx)), to, data, key)
func (s *Service) WithStore(store Store) *Service {
	c := *s
	c.store = store
	return &c
}

// WithTransport returns a Service that is the same but for its transport, for
// tests and for one stream that goes another way.
func (s *Service) WithTransport(t Transport) *Service {
	c := *s
	c.transport = t
	return &c
}

func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// macKey computes HMAC-SHA256 under one key. Its states are kept: to begin anew
// with the key takes longer than the sum.
type macKey struct{ states sync.Pool }

func newMacKey(key []byte) *macKey {
	return &macKey{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// sum returns the sum of the parts with a zero octet between each two.
func (k *macKey) sum(parts ...string) []byte {
	h := k.states.Get().(hash.Hash)
	defer k.states.Put(h)
	h.Reset()
	h.Write([]byte(strings.Join(parts, "\x00")))
	return h.Sum(nil)
}

// hashAddress folds case: two spellings of an address are one person to a
// suppression list. Dots and plus signs stay, only their provider knows them.
func (s *Service) hashAddress(email string) []byte {
	return s.keys.address.sum(strings.ToLower(email))
}

// Covers reports whether the suppression stops mail of the stream and class.
func (s Suppression) Covers(stream string, class Class) bool {
	return class <= s.Blocks && (s.Stream == "" || s.Stream == stream)
}

// message renders a mail into what a transport sends.
func (s *Service) message(m Mail, data any, def *definition) (*Message, error) {
	v := def.view(data, def.locale(m.Locale), s.cfg.Brand)
	v.Name, v.Stream = m.Name, m.Stream
	msg := &Message{
		ID: m.ID, Key: m.ID, Kind: m.Kind, Stream: m.Stream, From: s.from(m.Stream), To: Address{Name: m.Name, Email: m.Email},
		ReplyTo: s.cfg.ReplyTo, ReturnPath: s.cfg.ReturnPath, Date: s.now(), DKIM: s.cfg.DKIM,
	}
	msg.MessageID = s.messageID(m.ID, msg.From.Domain())
	if def.class == Lifecycle {
		v.Unsubscribe = s.cfg.PublicURL + "/" + s.token(m.AddressHash, m.Stream)
		msg.ListUnsubscribe, msg.ListUnsubscribeMailto = v.Unsubscribe, s.cfg.UnsubscribeMailto
	}
	r, err := s.templates[def][v.Locale].render(v)
	if err != nil {
		return nil, err
	}
	msg.Subject, msg.Text, msg.HTML = cut(r.Subject, maxSubject), r.Text, r.HTML
	return msg, nil
}

// maxSubject keeps a subject whose variables are long within a header line.
const maxSubject = 240

// cut shortens s to n bytes at a rune's edge.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}

func (s *Service) from(stream string) Address {
	if a, ok := s.cfg.FromStream[stream]; ok {
		return a
	}
	return s.cfg.From
}

// messageID is the same on every attempt, tells nothing, and never names the
// host.
func (s *Service) messageID(id, domain string) string {
	sum := s.keys.messageID.sum(id)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])) + "@" + domain
}
