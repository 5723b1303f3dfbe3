package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
	"github.com/kolekt/commerce/examples/kolekt/internal/ledger"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/examples/kolekt/internal/web"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailersmtp"
	"github.com/kolekt/commerce/usage"
)

// linkMail is a mail that carries a link with a secret.
type linkMail struct{ URL string }

// Mails turns what the packages tell into mail.
type Mails struct {
	*mailer.Service
	Plans *billing.Service
	// Refer hears every notice of billing too.
	Refer func(context.Context, billing.Notice) error
	// Captured are the mails of development, the newest first; nil when they
	// are sent.
	Captured func() []web.CapturedMail

	ledger ledger.Store
	kinds  *mailer.ShippedKinds
	verify *mailer.Kind[linkMail]
	reset  *mailer.Kind[linkMail]
	people *users.Service
	url    string
	now    func() time.Time
	log    *slog.Logger
}

func newMails(cfg Config, stores *Stores, people *users.Service, now func() time.Time, log *slog.Logger) (*Mails, error) {
	m := &Mails{ledger: stores.Ledger, people: people, url: cfg.PublicURL, now: now, log: log}
	templates, err := fs.Sub(files, "mail")
	if err != nil {
		return nil, err
	}
	if m.kinds, err = mailer.Shipped(nil); err != nil {
		return nil, err
	}
	sample := linkMail{URL: "https://example.com/verify?token=abc"}
	if m.verify, err = mailer.Define(mailer.Spec[linkMail]{
		Name: "account.verify", Title: "Welcome, with a link that proves the address", Stream: "account", Class: mailer.Transactional, Templates: templates, Sample: sample,
	}); err != nil {
		return nil, err
	}
	if m.reset, err = mailer.Define(mailer.Spec[linkMail]{
		Name: "account.reset", Title: "A link for a new password", Stream: "account", Class: mailer.Security, Templates: templates, Sample: sample, TTL: time.Hour,
	}); err != nil {
		return nil, err
	}
	transport, err := m.transport(cfg)
	if err != nil {
		return nil, err
	}
	m.Service, err = mailer.New(stores.Mail, transport, mailer.Config{
		From: mailer.Address{Name: "Kolekt", Email: cfg.FromEmail}, Secret: cfg.Derive("mailer"), Kinds: append(m.kinds.All(), m.verify, m.reset),
		Brand: mailer.Brand{Name: "Kolekt", URL: cfg.PublicURL, Accent: "#3142c9"}, PublicURL: cfg.PublicURL + "/mail/unsubscribe", Logger: log, Now: now,
	})
	return m, err
}

func (m *Mails) transport(cfg Config) (mailer.Transport, error) {
	if cfg.SMTPServer != "" {
		return mailersmtp.New(mailersmtp.Config{Host: cfg.SMTPServer, Port: cfg.SMTPPort, Username: cfg.SMTPUsername, Password: cfg.SMTPPassword})
	}
	capture := mailer.NewCapture()
	m.Captured = func() []web.CapturedMail {
		var list []web.CapturedMail
		for _, c := range slices.Backward(capture.Messages("")) {
			list = append(list, web.CapturedMail{ID: strconv.Itoa(c.Number), To: c.Message.To.Email, Subject: c.Message.Subject, Text: c.Message.Text, At: c.At})
		}
		return list
	}
	return capture, nil
}

// streams are the kinds of mail as people choose them.
func streams() []web.MailStream {
	return []web.MailStream{
		{ID: "tips", Name: "Reminders and hints", Text: "When 80 % of a month's kolekts are used, and which plan would help."},
		{ID: "account", Name: "Your account", Text: "Confirming the address, a new password.", Always: true},
		{ID: "usage", Name: "Limits", Text: "When all kolekts of a month are used.", Always: true},
		{ID: "billing", Name: "Payments", Text: "A payment that failed, a plan that changes or ends.", Always: true},
		{ID: "referrals", Name: "Rewards", Text: "A free month from a friend.", Always: true},
		{ID: "privacy", Name: "Privacy", Text: "A copy that is ready, an erasure that is near.", Always: true},
	}
}

func to(u users.User) mailer.To { return mailer.To{Account: u.ID, Email: u.Email, Name: u.Name} }

// Welcome greets, and asks to prove the address.
func (m *Mails) Welcome(ctx context.Context, u users.User, verifyURL string) error {
	_, err := m.verify.Enqueue(ctx, m.Service, to(u), linkMail{URL: verifyURL}, mailer.Key(u.ID))
	return err
}

// ResetPassword sends the link. Each request is a mail of its own.
func (m *Mails) ResetPassword(ctx context.Context, u users.User, resetURL string) error {
	_, err := m.reset.Enqueue(ctx, m.Service, to(u), linkMail{URL: resetURL}, mailer.Key(u.ID, strconv.FormatInt(m.now().UnixMilli(), 36)))
	return err
}

// Person is what the payment provider is told about an account.
func (m *Mails) Person(ctx context.Context, account string) (billing.Person, error) {
	u, err := m.people.Store().ByID(ctx, account)
	return billing.Person{Email: u.Email, Name: u.Name}, err
}

// Usage sends the reminder at 80 % and the notice at 100 %. The notice's ID is
// the mail's key: one crossing is one mail.
func (m *Mails) Usage(ctx context.Context, n usage.Notice) error {
	u, err := m.people.Store().ByID(ctx, n.Account)
	if errors.Is(err, users.ErrNotFound) {
		return nil // erased meanwhile
	} else if err != nil {
		return err
	}
	access, err := m.Plans.Access(ctx, n.Account)
	if err != nil {
		return err
	}
	plan, better := m.planName(access.Plan), ""
	if p, ok := access.Upgrade(n.Meter, n.Limit+1); ok {
		better = p.Name
	}
	if n.Percent >= 100 {
		_, err = m.kinds.QuotaReached.Enqueue(ctx, m.Service, to(u), mailer.QuotaReached{
			Limit: n.Limit, Unit: n.Meter, ResetsAt: n.Period.To, Plan: plan, BetterPlan: better, UpgradeURL: m.url + "/pricing",
		}, mailer.Key(n.ID))
		return err
	}
	_, err = m.kinds.UpgradeReminder.Enqueue(ctx, m.Service, to(u), mailer.UpgradeReminder{
		Used: n.Used, Limit: n.Limit, Unit: n.Meter, ResetsAt: n.Period.To, Plan: plan, BetterPlan: better, UpgradeURL: m.url + "/pricing",
	}, mailer.Key(n.ID))
	return err
}

func (m *Mails) planName(id string) string {
	if p, err := m.Plans.Catalog().Plan(id); err == nil {
		return p.Name
	}
	return id
}

// Billing writes what happened into the ledger of revenue, and sends what a
// person should know about it.
func (m *Mails) Billing(ctx context.Context, n billing.Notice) error {
	if err := m.record(ctx, n); err != nil {
		return fmt.Errorf("notice %s: %w", n.ID, err)
	}
	if err := m.Refer(ctx, n); err != nil {
		return fmt.Errorf("notice %s: %w", n.ID, err)
	}
	u, err := m.people.Store().ByID(ctx, n.Account)
	if errors.Is(err, users.ErrNotFound) {
		return nil // erased meanwhile
	} else if err != nil {
		return fmt.Errorf("notice %s: %w", n.ID, err)
	}
	return m.billing(ctx, n, u)
}

func (m *Mails) billing(ctx context.Context, n billing.Notice, u users.User) error {
	account := m.url + "/account"
	acc, err := m.Plans.Account(ctx, n.Account)
	if err != nil {
		return err
	}
	sub, ok := acc.Current()
	if !ok {
		return nil
	}
	switch n.Kind {
	case billing.KindPaymentFailed:
		data := mailer.PaymentFailed{Amount: n.Amount.String(), Plan: m.planName(n.Plan), UpdateURL: account}
		if open := acc.UnpaidInvoices(n.SubscriptionID); len(open) > 0 {
			data.RetryAt = open[0].NextPaymentAttempt
		} else {
			return nil // paid meanwhile
		}
		_, err = m.kinds.PaymentFailed.Enqueue(ctx, m.Service, to(u), data, mailer.Key(n.ID))
	case billing.KindPaymentRecovered:
		_, err = m.kinds.PaymentRecovered.Enqueue(ctx, m.Service, to(u), mailer.PaymentRecovered{Amount: n.Amount.String(), Plan: m.planName(n.Plan)}, mailer.Key(n.ID))
	case billing.KindSubscriptionStarted:
		_, err = m.kinds.PlanChanged.Enqueue(ctx, m.Service, to(u), mailer.PlanChanged{From: m.planName("free"), To: m.planName(n.Plan), EffectiveAt: n.At, ManageURL: account}, mailer.Key(n.ID))
	case billing.KindSubscriptionEnding:
		_, err = m.kinds.SubscriptionCancelled.Enqueue(ctx, m.Service, to(u), mailer.SubscriptionCancelled{Plan: m.planName(n.Plan), EndsAt: sub.Period.To, ResumeURL: account}, mailer.Key(n.ID))
	case billing.KindTrialEnding:
		_, err = m.kinds.TrialEnding.Enqueue(ctx, m.Service, to(u), mailer.TrialEnding{Plan: m.planName(n.Plan), EndsAt: sub.TrialEnd, ManageURL: account}, mailer.Key(n.ID))
	}
	return err
}

// record appends the subscription as it is now. The notice's ID makes it once.
func (m *Mails) record(ctx context.Context, n billing.Notice) error {
	if n.SubscriptionID == "" {
		return nil
	}
	acc, err := m.Plans.Account(ctx, n.Account)
	if err != nil {
		return err
	}
	for _, s := range acc.Subscriptions {
		if s.ID == n.SubscriptionID {
			return m.ledger.Append(ctx, n.ID, revenue.Change{At: n.At, Account: n.Account, Subscription: s})
		}
	}
	return nil
}
