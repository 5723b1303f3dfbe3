package gdpr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// Purpose is something that a subject may consent to, with the text that is
// shown. A new wording is a new version: consent to the old one doesn't count
// for it unless the new one says so with Covers.
type Purpose struct {
	ID      string // "newsletter"
	Version int    // from 1
	Text    string // exactly as shown
	// Covers is the oldest version whose consent still counts; 0 means only
	// this Version.
	Covers int
	// Basis is Consent when it is empty. With LegitimateInterest the purpose
	// is allowed until the subject objects (Art. 21), whatever the version: a
	// withdrawal is the objection.
	Basis Basis
}

// ConsentEvent is one giving or withdrawal of consent: the proof of Art. 7(1).
type ConsentEvent struct {
	ID         string    `json:"id"`
	SubjectRef string    `json:"-"`
	Purpose    string    `json:"purpose"`
	Version    int       `json:"version"`
	TextHash   string    `json:"text_sha256"` // of the text that was shown
	Granted    bool      `json:"granted"`
	At         time.Time `json:"at"`
	Method     string    `json:"method"` // how: "sign-up form", "privacy page"
	Locale     string    `json:"locale,omitempty"`
}

// Consent records that the subject gave or withdrew consent to the current
// version of a purpose. Withdrawing is the same call as giving (Art. 7(3)).
func (s *Service) Consent(ctx context.Context, subject, purpose string, granted bool, method, locale string) (ConsentEvent, error) {
	p, ok := s.purposes[purpose]
	if !ok {
		return ConsentEvent{}, fmt.Errorf("%w: consent purpose %q", ErrNotFound, purpose)
	}
	if subject == "" || method == "" || len(method) > 200 || len(locale) > 35 {
		return ConsentEvent{}, fmt.Errorf("%w: consent needs a subject and a method of at most 200 bytes", ErrInvalid)
	}
	now := s.now()
	sum := sha256.Sum256([]byte(p.Text))
	c := ConsentEvent{
		ID: ident.New("cns", now), SubjectRef: s.ref(subject), Purpose: p.ID, Version: p.Version,
		TextHash: hex.EncodeToString(sum[:]), Granted: granted, At: now, Method: method, Locale: locale,
	}
	if err := s.store.AppendConsent(ctx, c); err != nil {
		return ConsentEvent{}, fmt.Errorf("gdpr: consent: %w", err)
	}
	return c, nil
}

// Allowed reports whether the subject consents to a purpose now. An unknown
// purpose and a store that doesn't answer are errors, and false: no consent
// is the default.
func (s *Service) Allowed(ctx context.Context, subject, purpose string) (bool, error) {
	return s.AllowedAt(ctx, subject, purpose, s.now())
}

// AllowedAt is Allowed at a past instant, by the version of then.
func (s *Service) AllowedAt(ctx context.Context, subject, purpose string, at time.Time) (bool, error) {
	p, ok := s.purposes[purpose]
	if !ok {
		return false, fmt.Errorf("%w: consent purpose %q", ErrNotFound, purpose)
	}
	history, err := s.store.Consents(ctx, s.ref(subject))
	if err != nil {
		return false, fmt.Errorf("gdpr: consent: %w", err)
	}
	oldest := p.Version
	if p.Covers > 0 {
		oldest = p.Covers
	}
	now := s.now()
	allowed := p.Basis == LegitimateInterest
	for _, c := range history {
		if c.Purpose != purpose || c.At.After(at) {
			continue
		}
		// For the past, what was consented to then counts as it stood; a
		// wording that came later asks for nothing of then.
		allowed = c.Granted && (p.Basis == LegitimateInterest || at.Before(now) || c.Version >= oldest)
	}
	return allowed, nil
}

// Consents returns the subject's history, oldest first.
func (s *Service) Consents(ctx context.Context, subject string) ([]ConsentEvent, error) {
	history, err := s.store.Consents(ctx, s.ref(subject))
	if err != nil {
		return nil, fmt.Errorf("gdpr: consents: %w", err)
	}
	return history, nil
}

// consentSource offers the history of consent itself as personal data.
type consentSource struct{ service *Service }

func (c consentSource) Describe() Descriptor {
	return Descriptor{
		Name: "consents", Categories: []string{"consent"}, Purpose: "proof of consent (Art. 7(1))",
		Basis: LegalObligation, Retention: "until the subject is erased", Portable: true,
		Tables: []string{"gdpr_consents"},
	}
}

func (c consentSource) Export(ctx context.Context, subject Subject, sink *Sink) error {
	history, err := c.service.Consents(ctx, subject.ID)
	if err != nil {
		return err
	}
	for _, e := range history {
		if err := sink.Row("consents", map[string]any{
			"purpose": e.Purpose, "version": e.Version, "text_sha256": e.TextHash, "granted": e.Granted,
			"at": e.At, "method": e.Method, "locale": e.Locale,
		}); err != nil {
			return err
		}
	}
	return nil
}

func (c consentSource) Erase(ctx context.Context, subject Subject, _ string) (Outcome, error) {
	n, err := c.service.store.DeleteConsents(ctx, c.service.ref(subject.ID))
	return Outcome{Removed: n, Done: true}, err
}
