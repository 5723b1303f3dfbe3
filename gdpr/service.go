package gdpr

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config configures a Service. Pepper, Sources and Subject are required; every
// other field has a good default.
type Config struct {
	// Pepper keys every hash of an identifier and seals the open requests, at
	// least 32 bytes. Keep it outside the database and its backups. Another
	// pepper forgets all tombstones.
	Pepper []byte
	// Sources hold the personal data.
	Sources []Source
	// Subject returns the person with the application's ID, with every
	// identifier by which sources may hold it, or ErrNotFound.
	Subject func(ctx context.Context, id string) (Subject, error)

	// Purposes are what subjects may consent to.
	Purposes []Purpose
	// Files keep archives; without them only ExportTo works.
	Files Files
	// Journal keeps tombstones outside the database; without one, a restored
	// backup isn't noticed.
	Journal Journal
	// Notify tells people: at least once for each Notice.ID. What a worker
	// has to tell (an erasure's schedule and end, a ready archive) is tried
	// again after an error; a decision's is returned or logged.
	Notify func(ctx context.Context, n Notice) error
	// Freeze runs when an erasure's grace period begins: end the sessions,
	// revoke the keys, refuse the login. It must be idempotent.
	Freeze func(ctx context.Context, subject Subject) error
	// Thaw undoes Freeze after a cancellation.
	Thaw func(ctx context.Context, subject Subject) error
	// Remind tells those who answer requests, at least once for each
	// Notice.ID: "due_soon" RemindBefore the time limit of a request that
	// isn't answered, "retention_due" when data that a person must have
	// removed may be kept no longer (see Service.Removed). The notice has no
	// subject.
	Remind func(ctx context.Context, n Notice) error

	Grace        time.Duration      // before an erasure begins; 0 means 72 hours, negative none
	ArchiveTTL   time.Duration      // how long a download waits; 0 means 7 days
	TombstoneTTL time.Duration      // longer than the oldest backup; 0 means 400 days
	RemindBefore time.Duration      // the time limit; 0 means 7 days
	Calendar     Calendar           // of the controller
	SigningKey   ed25519.PrivateKey // for certificates of erasure; nil leaves them unsigned
	Lease        time.Duration      // of a worker on a request; 0 means 5 minutes
	Poll         time.Duration      // between looks for work; 0 means 5 seconds
	Now          func() time.Time   // nil means time.Now
	Logger       *slog.Logger       // nil means discard
}

// Notice is something to tell. The subject is there as long as the request is
// open: an erasure's last notice is sent before the address is gone.
type Notice struct {
	ID string // the same for every attempt
	// Event is "erasure_scheduled", "erasure_cancelled", "erasure_done",
	// "export_ready", "identity_needed", "extended", "denied",
	// "restriction_lifted", or one of Config.Remind's.
	Event   string
	Request Request
	Subject Subject
}

// Service answers requests. Make it with New, and have one process or more
// call Run.
type Service struct {
	store     Store
	cfg       Config
	sources   []Source
	pepper    []byte
	purposes  map[string]Purpose
	envelopes box
	keys      box
}

// New returns a service. It does no I/O and starts nothing.
func New(store Store, cfg Config) (*Service, error) {
	if store == nil {
		return nil, fmt.Errorf("%w: store is nil", ErrInvalid)
	}
	if len(cfg.Pepper) < 32 {
		return nil, fmt.Errorf("%w: Config.Pepper has %d bytes, needs at least 32", ErrInvalid, len(cfg.Pepper))
	}
	if cfg.Subject == nil {
		return nil, fmt.Errorf("%w: Config.Subject is nil", ErrInvalid)
	}
	if len(cfg.Sources) == 0 {
		return nil, fmt.Errorf("%w: Config.Sources is empty", ErrInvalid)
	}
	setDefault(&cfg.Grace, 72*time.Hour)
	setDefault(&cfg.ArchiveTTL, 7*24*time.Hour)
	setDefault(&cfg.TombstoneTTL, 400*24*time.Hour)
	setDefault(&cfg.RemindBefore, 7*24*time.Hour)
	setDefault(&cfg.Lease, 5*time.Minute)
	setDefault(&cfg.Poll, 5*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.SigningKey != nil && len(cfg.SigningKey) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%w: Config.SigningKey has %d bytes, needs %d", ErrInvalid, len(cfg.SigningKey), ed25519.PrivateKeySize)
	}
	s := &Service{store: store, cfg: cfg, pepper: cfg.Pepper, purposes: map[string]Purpose{}}
	for _, p := range cfg.Purposes {
		if !validName(p.ID) || p.Version < 1 || p.Text == "" || p.Covers < 0 || p.Covers > p.Version {
			return nil, fmt.Errorf("%w: purpose %q needs a name of lower-case letters, a version from 1 and a text", ErrInvalid, p.ID)
		}
		if p.Basis != "" && p.Basis != Consent && p.Basis != LegitimateInterest {
			return nil, fmt.Errorf("%w: purpose %q: Basis is Consent or LegitimateInterest, others can't be withdrawn", ErrInvalid, p.ID)
		}
		if _, dup := s.purposes[p.ID]; dup {
			return nil, fmt.Errorf("%w: two purposes are named %q", ErrInvalid, p.ID)
		}
		s.purposes[p.ID] = p
	}
	var err error
	if s.sources, err = arrange(append([]Source{consentSource{s}}, cfg.Sources...)); err != nil {
		return nil, err
	}
	if s.envelopes, err = newBox(cfg.Pepper, "envelope"); err != nil {
		return nil, err
	}
	if s.keys, err = newBox(cfg.Pepper, "subject key"); err != nil {
		return nil, err
	}
	return s, nil
}

func setDefault(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}

func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// Ask opens a request of a subject. Verified says that the caller made sure
// who asks: for a signed-in person, by a login of the last few minutes. An
// unverified request waits for Verify, and its time limit runs all the same.
// A second open request of the same kind is ErrActive.
func (s *Service) Ask(ctx context.Context, kind Kind, subjectID string, verified bool) (Request, error) {
	if !kind.valid() {
		return Request{}, fmt.Errorf("%w: kind %q", ErrInvalid, kind)
	}
	if kind.exports() && s.cfg.Files == nil {
		return Request{}, fmt.Errorf("%w: Config.Files is nil: use ExportTo, or set it", ErrInvalid)
	}
	subject, err := s.cfg.Subject(ctx, subjectID)
	if err != nil {
		return Request{}, fmt.Errorf("gdpr: subject: %w", err)
	}
	now := s.now()
	r := Request{
		ID: newRequestID(now), Kind: kind, SubjectRef: s.ref(subject.ID), State: Received,
		ReceivedAt: now, DueAt: s.cfg.Calendar.Due(now, 1),
	}
	if err := s.seal(&r, envelope{Subject: subject}); err != nil {
		return Request{}, err
	}
	if verified {
		s.verify(&r, now)
	} else {
		s.wake(&r, time.Time{})
	}
	if err := s.store.CreateRequest(ctx, r, s.entry(r, "received", string(kind))); err != nil {
		return Request{}, fmt.Errorf("gdpr: ask: %w", err)
	}
	r.Version = 1
	switch r.State {
	case Cooling:
		// At once, and not at the worker's next look. The worker may have been
		// faster all the same: then the mark is its own.
		if err = s.freeze(ctx, &r, subject, false); err == nil {
			if err = s.store.UpdateRequest(ctx, r, nil); err == nil {
				r.Version++
			}
		}
	case Received:
		err = s.notify(ctx, r, "identity_needed", subject)
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		// The request stands; the worker freezes before it goes on.
		s.cfg.Logger.ErrorContext(ctx, "gdpr: ask", "request", r.ID, "err", err)
	}
	return r, nil
}

// verify moves a request on whose subject is known to be the one who asks.
func (s *Service) verify(r *Request, now time.Time) {
	r.State = Verified
	switch {
	case r.Kind == Erasure:
		r.State, r.StartAt, r.NextRun = Cooling, now.Add(max(s.cfg.Grace, 0)), now
	case r.Kind.exports():
		r.NextRun = now
	default:
		s.wake(r, time.Time{})
	}
}

// remindAt is when Config.Remind is to hear of a request; zero: never.
func (s *Service) remindAt(r Request) time.Time {
	if s.cfg.Remind == nil || !r.RemindedAt.IsZero() || !r.unanswered() {
		return time.Time{}
	}
	return r.DueAt.Add(-s.cfg.RemindBefore)
}

// wake has a worker look at the request again at an instant, zero for never,
// or when a reminder is due if that is earlier.
func (s *Service) wake(r *Request, at time.Time) {
	if remind := s.remindAt(*r); !remind.IsZero() {
		if soon := s.now().Add(backoff(1)); remind.Before(soon) && !r.LeaseUntil.IsZero() {
			remind = soon // it has just failed
		}
		if at.IsZero() || remind.Before(at) {
			at = remind
		}
	}
	r.NextRun = at
}

// freeze locks the account, tells the subject of the scheduled erasure unless
// it has been told before, and marks that both are done.
func (s *Service) freeze(ctx context.Context, r *Request, subject Subject, told bool) error {
	if s.cfg.Freeze != nil {
		if err := s.cfg.Freeze(ctx, subject); err != nil {
			return fmt.Errorf("gdpr: freeze: %w", err)
		}
	}
	if !told {
		if err := s.notify(ctx, *r, "erasure_scheduled", subject); err != nil {
			return err
		}
	}
	r.FrozenAt = s.now()
	return nil
}

func (s *Service) notify(ctx context.Context, r Request, event string, subject Subject) error {
	if s.cfg.Notify == nil {
		return nil
	}
	r.Sealed = nil
	if err := s.cfg.Notify(ctx, Notice{ID: r.ID + ":" + event, Event: event, Request: r, Subject: subject}); err != nil {
		return fmt.Errorf("gdpr: notify %s: %w", event, err)
	}
	return nil
}

// Request returns a request.
func (s *Service) Request(ctx context.Context, id string) (Request, error) {
	r, err := s.store.Request(ctx, id)
	if err != nil {
		return Request{}, fmt.Errorf("gdpr: request: %w", err)
	}
	return r, nil
}

// Requests lists requests, newest first.
func (s *Service) Requests(ctx context.Context, f Filter) ([]Request, error) {
	rs, err := s.store.Requests(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("gdpr: requests: %w", err)
	}
	return rs, nil
}

// RequestsOf lists a subject's requests, newest first.
func (s *Service) RequestsOf(ctx context.Context, subjectID string) ([]Request, error) {
	return s.Requests(ctx, Filter{SubjectRef: s.ref(subjectID)})
}

// Owns reports whether a request is the subject's.
func (s *Service) Owns(r Request, subjectID string) bool { return r.SubjectRef == s.ref(subjectID) }

// close ends a request and shreds what it knew of the subject.
func (s *Service) close(r *Request, state State, now time.Time) {
	r.State, r.ClosedAt, r.Sealed, r.NextRun, r.LeaseUntil = state, now, nil, time.Time{}, time.Time{}
}

func (s *Service) entry(r Request, action, detail string) Entry {
	return Entry{At: s.now(), Request: r.ID, SubjectRef: r.SubjectRef, Action: action, Detail: detail}
}
