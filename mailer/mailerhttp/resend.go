package mailerhttp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/kolekt/commerce/mailer"
)

// ResendConfig configures [NewResend]. Key is required.
type ResendConfig struct {
	Key string // "re_…"
	// Endpoint replaces https://api.resend.com, for tests.
	Endpoint string
	// Client replaces the HTTP client; nil means one with a 30 s deadline.
	Client *http.Client
}

// Resend is a mailer.Transport for resend.com.
type Resend struct {
	api
	cfg ResendConfig
}

// NewResend makes a transport.
func NewResend(cfg ResendConfig) (*Resend, error) {
	if cfg.Key == "" {
		return nil, errors.New("mailerhttp: ResendConfig.Key is missing")
	}
	if cfg.Endpoint == "" {
		cfg.Endpoint = "https://api.resend.com"
	}
	if err := checkEndpoint("ResendConfig.Endpoint", cfg.Endpoint); err != nil {
		return nil, err
	}
	return &Resend{newAPI("resend", cfg.Client, true), cfg}, nil
}

type resendMail struct {
	From        string             `json:"from"`
	To          []string           `json:"to"`
	Subject     string             `json:"subject"`
	HTML        string             `json:"html,omitempty"`
	Text        string             `json:"text"`
	ReplyTo     string             `json:"reply_to,omitempty"`
	Headers     map[string]string  `json:"headers"`
	Tags        []resendTag        `json:"tags"`
	Attachments []resendAttachment `json:"attachments,omitempty"`
}

type resendTag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type resendAttachment struct {
	Filename    string `json:"filename"`
	Content     []byte `json:"content"` // base64 by encoding/json
	ContentType string `json:"content_type,omitempty"`
}

// Send implements mailer.Transport. The message's Key is the idempotency key,
// which Resend remembers for 24 hours.
func (t *Resend) Send(ctx context.Context, m *mailer.Message) mailer.Result {
	if err := m.Validate(); err != nil {
		return mailer.Invalid(err)
	}
	body := resendMail{From: mailbox(m.From), To: []string{m.To.Email}, Subject: m.Subject, HTML: m.HTML, Text: m.Text,
		Headers: headers(m), Tags: []resendTag{{"mail_id", m.ID}}}
	if m.ReplyTo.Email != "" {
		body.ReplyTo = mailbox(m.ReplyTo)
	}
	for _, a := range m.Attachments {
		body.Attachments = append(body.Attachments, resendAttachment{a.Name, a.Data, a.ContentType})
	}
	req, err := jsonRequest(t.cfg.Endpoint+"/emails", body)
	if err != nil {
		return mailer.Invalid(err)
	}
	req.Header.Set("Authorization", "Bearer "+t.cfg.Key)
	req.Header.Set("Idempotency-Key", m.Key)
	return t.call(ctx, req, func(b []byte) (string, error) {
		var answer struct{ ID string }
		if json.Unmarshal(b, &answer) != nil || answer.ID == "" {
			return "", errors.New("mailerhttp: resend: 2xx without an ID")
		}
		return answer.ID, nil
	}, func(status int, b []byte) (mailer.Outcome, mailer.Fault, string) {
		var answer struct{ Name, Message string }
		_ = json.Unmarshal(b, &answer) // the status speaks too
		switch answer.Name {
		case "concurrent_idempotent_requests":
			return mailer.Temporary, mailer.FaultUnknown, answer.Message
		case "invalid_idempotent_request":
			// The key was used with another payload: an earlier attempt, made
			// with other templates, may have gone out.
			return mailer.Ambiguous, mailer.FaultUnknown, answer.Message
		}
		outcome, fault := byStatus(status)
		return outcome, fault, answer.Name + " " + answer.Message
	})
}
