package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/examples/kolekt/internal/ledger"
	"github.com/kolekt/commerce/examples/kolekt/internal/refusals"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/internal/ident"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/usage"
)

// holders are the packages that hold personal data.
type holders struct {
	users    *users.Service
	kolekts  kolekts.Store
	ledger   ledger.Store
	billing  *billing.Service
	usage    *usage.Service
	keys     *apikeys.Service
	mail     *Mails
	requests *ratelimit.Limiter
	logins   *ratelimit.Limiter
	referral *referral.Service
	stores   *Stores
}

// subjectData makes a gdpr.ExportEraser of two functions.
type subjectData struct {
	export func(ctx context.Context, account string, emit func(string, map[string]any) error) error
	erase  func(ctx context.Context, account string) (map[string]int64, error)
}

func (d subjectData) ExportSubject(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	return d.export(ctx, account, emit)
}

func (d subjectData) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	return d.erase(ctx, account)
}

// sources are everything that is exported and erased. The login goes last: as
// long as it is there, somebody can ask what has become of the request.
func (h holders) sources(now func() time.Time) []gdpr.Source {
	account := "until the account is erased"
	own := map[string]string{"*": "texts and names that the person wrote"}
	books, _, _ := gdpr.InvoiceRetention("DE")
	kept := gdpr.Retain{Ground: "tax law wants invoices kept; here without the person's name and address", Article: "17(3)(b)", Until: books.Until}
	// Stripe fixes who an invoice was issued to and who paid, and has no call
	// that takes it out again: a redaction job in its dashboard does.
	issued := gdpr.Retain{Ground: "tax law wants invoices and payments kept as they were issued; they are redacted at Stripe afterwards", Article: "17(3)(b)", Until: books.Until, ByHand: true}
	logged := gdpr.Retain{
		Ground: "Stripe's log of events, against disputes, which Stripe deletes after 30 days", Article: "17(3)(e)",
		Until: func(t time.Time) time.Time { return t.AddDate(0, 0, 30) }, Itself: true,
	}
	first := []gdpr.Source{
		gdpr.Adapt(gdpr.Descriptor{
			Name: "kolekts", Categories: []string{"content"}, Purpose: "to make and keep posts", Basis: gdpr.Contract, Retention: account, Portable: true, Tables: []string{"kolekts"}, Allow: own,
		}, subjectData{
			func(ctx context.Context, a string, emit func(string, map[string]any) error) error {
				return kolekts.ExportSubject(ctx, h.kolekts, a, emit)
			},
			func(ctx context.Context, a string) (map[string]int64, error) {
				return kolekts.EraseSubject(ctx, h.kolekts, a)
			},
		}, nil, now),
		gdpr.Adapt(gdpr.Descriptor{
			Name: "usage", Categories: []string{"usage"}, Purpose: "to count against the plan", Basis: gdpr.Contract, Retention: account, Portable: true, Allow: own,
			Tables: []string{"usage_events", "usage_counters", "usage_quarters", "usage_holds", "usage_keys", "usage_months", "usage_notices", "usage_packed",
				"usage_wallets", "usage_grants", "usage_grant_entries", "usage_report_days", "usage_reports"},
		}, h.usage, nil, now),
		gdpr.Adapt(gdpr.Descriptor{
			Name: "apikeys", Categories: []string{"credentials' descriptions"}, Purpose: "to let programs in", Basis: gdpr.Contract, Retention: account, Allow: own,
			Tables: []string{"apikeys_keys", "apikeys_log"},
		}, h.keys, nil, now),
		gdpr.Adapt(gdpr.Descriptor{
			Name: "ratelimit", Categories: []string{"usage"}, Purpose: "to keep the service up for everybody", Basis: gdpr.LegitimateInterest, Retention: "minutes",
		}, h.requests, nil, now),
		gdpr.Adapt(gdpr.Descriptor{
			Name: "billing", Categories: []string{"payment"}, Purpose: "to charge for the plan", Basis: gdpr.Contract, Recipients: []string{"Stripe"},
			Retention: "invoices for as long as the law says, the rest until the account is erased", Allow: own,
			Tables: []string{"billing_accounts", "billing_claims", "billing_events", "billing_notices"},
		}, h.billing, map[string]gdpr.Retain{
			"invoice": kept, "subscription": kept, "account": kept,
			"provider_invoice": issued, "provider_charge": issued, "provider_checkout": issued, "provider_subscription": issued, "provider_event_log": logged,
		}, now),
		gdpr.Adapt(gdpr.Descriptor{
			Name: "ledger", Categories: []string{"payment"}, Purpose: "to know the revenue", Basis: gdpr.LegitimateInterest, Retention: "without the person: for ever", Tables: []string{"ledger_changes"},
		}, subjectData{
			func(context.Context, string, func(string, map[string]any) error) error { return nil }, // copies of billing's
			func(ctx context.Context, a string) (map[string]int64, error) {
				n, err := h.ledger.Forget(ctx, a, ident.New("erased", now())) // still one customer, of no name
				return map[string]int64{"change": n}, err
			},
		}, nil, now),
		gdpr.Adapt(gdpr.Descriptor{
			Name: "mailer", Categories: []string{"contact"}, Purpose: "to send what the person should know", Basis: gdpr.Contract, Retention: "30 days after a mail", Allow: own,
			Tables: []string{"mailer_outbox", "mailer_delivery"},
		}, subjectData{h.exportMails, h.mail.EraseSubject}, nil, now),
		logins{h.logins, h.users},
	}
	first = append(first, gdpr.Adapt(gdpr.Descriptor{
		Name: "referral", Categories: []string{"contact's fingerprints"}, Purpose: "to reward who invites friends", Basis: gdpr.Contract,
		Retention: "fingerprints for two years, so that nobody is invited twice", Allow: own,
		Tables: []string{"referral_codes", "referral_redemptions", "referral_rewards", "referral_ledger", "referral_owner_signals", "referral_caps", "referral_carries", "referral_standings"},
	}, h.referral, nil, now))
	first = append(first, gdpr.Adapt(gdpr.Descriptor{
		Name: "refusals", Categories: []string{"usage"}, Purpose: "to say what the limits refused", Basis: gdpr.LegitimateInterest, Retention: "a day", Tables: []string{"refusals"},
	}, subjectData{
		func(ctx context.Context, a string, emit func(string, map[string]any) error) error {
			list, err := h.stores.Refusals.Since(ctx, a, now().Add(-2*refusals.Window), 1000)
			for _, c := range list {
				if err == nil {
					err = emit("refusal", map[string]any{"hour": c.Hour, "plan": c.Plan, "reason": c.Reason, "n": c.N})
				}
			}
			return err
		},
		func(ctx context.Context, a string) (map[string]int64, error) {
			n, err := h.stores.Refusals.Forget(ctx, a)
			return map[string]int64{"refusal": n}, err
		},
	}, nil, now), gdpr.Adapt(gdpr.Descriptor{
		Name: "audit", Categories: []string{"support"}, Purpose: "to know what administrators did, and why", Basis: gdpr.LegitimateInterest, Retention: "without the person: for ever", Allow: own, Tables: []string{"audit"},
	}, subjectData{
		func(ctx context.Context, a string, emit func(string, map[string]any) error) error {
			for before := ""; ; {
				const page = 200
				list, err := h.stores.Audit.List(ctx, a, before, page)
				for _, e := range list {
					if err == nil {
						err = emit("deed", map[string]any{"at": e.At, "action": e.Action, "detail": e.Detail, "reason": e.Reason, "outcome": e.Outcome})
					}
					before = e.ID
				}
				if err != nil || len(list) < page {
					return err
				}
			}
		},
		func(ctx context.Context, a string) (map[string]int64, error) {
			n, err := h.stores.Audit.Forget(ctx, a, ident.New("erased", now()))
			return map[string]int64{"deed": n}, err
		},
	}, nil, now))
	login := gdpr.Descriptor{
		Name: "users", Categories: []string{"contact", "login"}, Purpose: "to let the person in", Basis: gdpr.Contract, Retention: account, Portable: true, Tables: []string{"users", "sessions"}, Allow: own,
	}
	for _, s := range first {
		login.After = append(login.After, s.Describe().Name)
	}
	return append(first, gdpr.Adapt(login, subjectData{
		func(ctx context.Context, a string, emit func(string, map[string]any) error) error {
			if err := h.stores.exportSessions(ctx, a, emit); err != nil {
				return err
			}
			return h.users.ExportSubject(ctx, a, emit)
		},
		func(ctx context.Context, a string) (map[string]int64, error) {
			// The login first: nobody begins a session meanwhile.
			counts, err := h.users.EraseSubject(ctx, a)
			if err == nil {
				counts["session"], err = h.stores.endSessions(ctx, a)
			}
			return counts, err
		},
	}, nil, now))
}

// exportMails leaves the links out that let their holder in.
func (h holders) exportMails(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	return h.mail.ExportSubject(ctx, account, func(record string, fields map[string]any) error {
		if kind, _ := fields["kind"].(string); kind == h.mail.verify.Name() || kind == h.mail.reset.Name() {
			fields["variables"] = "(a link with a secret)"
		}
		return emit(record, fields)
	})
}

// logins is the limiter of logins. Its keys are fingerprints: of addresses, which
// are found again, and of networks, which are gone within the hour.
type logins struct {
	limiter *ratelimit.Limiter
	users   *users.Service
}

func (l logins) Describe() gdpr.Descriptor {
	return gdpr.Descriptor{
		Name: "logins", Categories: []string{"login"}, Purpose: "to make guessing passwords slow", Basis: gdpr.LegitimateInterest, Retention: "an hour",
	}
}

func (l logins) keys(s gdpr.Subject) []string {
	var keys []string
	for _, email := range s.Values("email") {
		keys = append(keys, l.users.Fingerprint("for "+email))
	}
	return keys
}

func (l logins) Export(ctx context.Context, s gdpr.Subject, sink *gdpr.Sink) error {
	for _, key := range l.keys(s) {
		if err := l.limiter.ExportSubject(ctx, key, sink.Row); err != nil {
			return err
		}
	}
	return nil
}

func (l logins) Erase(ctx context.Context, s gdpr.Subject, _ string) (gdpr.Outcome, error) {
	out := gdpr.Outcome{Done: true}
	for _, key := range l.keys(s) {
		counts, err := l.limiter.EraseSubject(ctx, key)
		if err != nil {
			return gdpr.Outcome{}, err
		}
		for _, n := range counts {
			out.Removed += n
		}
	}
	return out, nil
}

// ofAccount finds an account's sessions by the ID in them: their tokens are
// hashed, and there is no column for it.
const ofAccount = ` from sessions where position(convert_to($1::text, 'UTF8') in data) > 0`

func (s *Stores) exportSessions(ctx context.Context, account string, emit func(string, map[string]any) error) error {
	if s.pool == nil {
		return nil // in memory they are the process's, and end with the login
	}
	rows, err := s.pool.Query(ctx, `select expiry`+ofAccount, account)
	if err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	ends, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	for _, t := range ends {
		if err := emit("session", map[string]any{"expires_at": t.UTC()}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stores) endSessions(ctx context.Context, account string) (int64, error) {
	if s.pool == nil {
		return 0, nil
	}
	tag, err := s.pool.Exec(ctx, `delete`+ofAccount, account)
	if err != nil {
		return 0, fmt.Errorf("sessions: %w", err)
	}
	return tag.RowsAffected(), nil
}

// purposes are what people may agree to.
func purposes() []gdpr.Purpose {
	return []gdpr.Purpose{
		{ID: "tips", Version: 1, Text: "Send me a hint now and then on how to write better threads."},
		{ID: "research", Version: 1, Text: "Use the lengths and scores of my kolekts, without their texts, to make Kolekt better."},
	}
}

func newPrivacy(cfg Config, stores *Stores, h holders, now func() time.Time, log *slog.Logger) (*gdpr.Service, error) {
	folder := cfg.ExportDir
	if folder == "" {
		folder = filepath.Join(os.TempDir(), "kolekt-exports")
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("EXPORT_DIR: %w", err)
	}
	var journal gdpr.Journal
	if cfg.DatabaseURL != "" {
		// Beside the database, so that a restored backup is noticed. A store in
		// memory has no past to be behind of.
		journal = gdpr.NewFileJournal(filepath.Join(folder, "erasures.jsonl"))
	}
	return gdpr.New(stores.Privacy, gdpr.Config{
		Journal: journal, Pepper: cfg.Derive("gdpr"), Sources: h.sources(now), Files: gdpr.DirFiles(folder), Poll: time.Second, Now: now, Logger: log,
		Subject: func(ctx context.Context, id string) (gdpr.Subject, error) {
			u, err := h.users.Store().ByID(ctx, id)
			if err != nil {
				return gdpr.Subject{}, fmt.Errorf("%w: %w", gdpr.ErrNotFound, err)
			}
			return subject(u), nil
		},
		Purposes: purposes(),
		// Programs lose their keys at once. The person may still come in, and
		// call the erasure off.
		Freeze: func(ctx context.Context, s gdpr.Subject) error {
			_, err := h.keys.RevokeOwner(ctx, apikeys.Operator("erasure"), apikeys.Account(s.ID), "the account is about to be erased")
			return err
		},
		Notify: h.mail.Privacy,
		Remind: func(ctx context.Context, n gdpr.Notice) error {
			log.WarnContext(ctx, "a request of a person wants attention: see /admin", "what", n.Event, "request", n.Request.ID, "due", n.Request.DueAt)
			return nil
		},
	})
}

func subject(u users.User) gdpr.Subject {
	return gdpr.Subject{ID: u.ID, Epoch: u.CreatedAt, Identifiers: []gdpr.Identifier{{Kind: "email", Value: u.Email}}}
}

// eraseAgain is for a database that was restored from a backup: whom the
// journal knows as erased is erased again before anybody is served.
func eraseAgain(ctx context.Context, privacy *gdpr.Service, people *users.Service, log *slog.Logger) error {
	err := privacy.CheckJournal(ctx)
	if !errors.Is(err, gdpr.ErrBehind) {
		return err
	}
	n, err := privacy.Reapply(ctx, func(ctx context.Context, yield func(gdpr.Subject) error) error {
		const page = 500
		for before := ""; ; {
			list, err := people.Store().List(ctx, "", before, page)
			if err != nil {
				return err
			}
			for _, u := range list {
				if err := yield(subject(u)); err != nil {
					return err
				}
				before = u.ID
			}
			if len(list) < page {
				return nil
			}
		}
	})
	log.WarnContext(ctx, "the database was behind the journal of erasures", "erased_again", n)
	return err
}

// Privacy tells a person what has become of a request.
func (m *Mails) Privacy(ctx context.Context, n gdpr.Notice) error {
	u := users.User{ID: n.Subject.ID}
	for _, email := range n.Subject.Values("email") {
		u.Email = email
	}
	if u.Email == "" {
		return nil
	}
	var err error
	page := m.url + "/account/privacy"
	switch n.Event {
	case "export_ready":
		_, err = m.kinds.ExportReady.Enqueue(ctx, m.Service, to(u), mailer.ExportReady{DownloadURL: page, ExpiresAt: n.Request.Archive.ExpiresAt}, mailer.Key(n.ID))
	case "erasure_scheduled":
		_, err = m.kinds.ErasureScheduled.Enqueue(ctx, m.Service, to(u), mailer.ErasureScheduled{EraseAt: n.Request.StartAt, CancelURL: page}, mailer.Key(n.ID))
	case "erasure_done":
		// Past the outbox: a mail in it would be the person's data again, and
		// a failure comes back by itself.
		_, err = m.kinds.ErasureDone.Send(ctx, m.Service, mailer.To{Email: u.Email}, mailer.ErasureDone{ErasedAt: m.now()}, mailer.Key(n.ID))
	}
	return err
}
