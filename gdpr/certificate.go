package gdpr

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// Certificate says what an erasure did. It holds no identifier of the subject.
// It is written again when data is removed that was retained at first.
type Certificate struct {
	Request    string            `json:"request"`
	SubjectRef string            `json:"subject_ref"`
	ReceivedAt time.Time         `json:"received_at"`
	ErasedAt   time.Time         `json:"erased_at"`
	Sources    []CertifiedSource `json:"sources"`
	// BackupsUntil is when the tombstones expire: by then every backup that
	// still holds the subject must be gone.
	BackupsUntil time.Time `json:"backups_until"`
	// Scope says what the verification can't see.
	Scope string `json:"scope"`
}

// CertifiedSource is the part of one source in a certificate.
type CertifiedSource struct {
	Source     string     `json:"source"`
	Removed    int64      `json:"removed"`
	Anonymised int64      `json:"anonymised"`
	Retained   []Retained `json:"retained,omitempty"`
}

const certificateScope = "Every registered source was searched again after its erasure and emitted nothing but what is listed as retained. " +
	"Backups, write-ahead logs and unregistered copies were not searched."

type signedCertificate struct {
	Certificate json.RawMessage `json:"certificate"`
	Signature   string          `json:"ed25519,omitempty"` // base64, over the bytes of certificate
}

func (s *Service) certify(r Request, now time.Time) ([]byte, error) {
	c := Certificate{
		Request: r.ID, SubjectRef: r.SubjectRef, ReceivedAt: r.ReceivedAt, ErasedAt: now,
		BackupsUntil: now.Add(s.cfg.TombstoneTTL), Scope: certificateScope,
	}
	for _, st := range r.Steps {
		c.Sources = append(c.Sources, CertifiedSource{st.Source, st.Removed, st.Anon, st.Retained})
	}
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("gdpr: certificate: %w", err)
	}
	signed := signedCertificate{Certificate: body}
	if s.cfg.SigningKey != nil {
		signed.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(s.cfg.SigningKey, body))
	}
	b, err := json.Marshal(signed)
	if err != nil {
		return nil, fmt.Errorf("gdpr: certificate: %w", err)
	}
	return b, nil
}

// recertify writes the certificate again, with what was removed meanwhile.
func (s *Service) recertify(r *Request) error {
	cert, err := s.certify(*r, r.ClosedAt)
	if err == nil {
		r.Certificate = cert
	}
	return err
}

// ReadCertificate reads a request's certificate and checks its signature.
func ReadCertificate(b []byte, key ed25519.PublicKey) (Certificate, error) {
	var signed signedCertificate
	var c Certificate
	if err := json.Unmarshal(b, &signed); err != nil {
		return c, fmt.Errorf("gdpr: certificate: %w", err)
	}
	sig, err := base64.StdEncoding.DecodeString(signed.Signature)
	if err != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed.Certificate, sig) {
		return c, errors.New("gdpr: certificate: signature is wrong")
	}
	if err := json.Unmarshal(signed.Certificate, &c); err != nil {
		return c, fmt.Errorf("gdpr: certificate: %w", err)
	}
	return c, nil
}

func newRequestID(now time.Time) string { return ident.New("gdr", now) }
