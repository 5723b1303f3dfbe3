package mailerhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/kolekt/commerce/mailer"
)

// MailgunConfig configures [NewMailgun]. Key and Domain are required.
type MailgunConfig struct {
	Key    string
	Domain string // the sending domain
	// Endpoint replaces https://api.mailgun.net; the European region is
	// https://api.eu.mailgun.net.
	Endpoint string
	// Client replaces the HTTP client; nil means one with a 30 s deadline.
	Client *http.Client
}

// Mailgun is a mailer.Transport for mailgun.com. It hands the message over as
// it was composed, with its Message-ID and signature.
type Mailgun struct {
	api
	cfg MailgunConfig
}

// NewMailgun makes a transport.
func NewMailgun(cfg MailgunConfig) (*Mailgun, error) {
	if cfg.Key == "" {
		return nil, errors.New("mailerhttp: MailgunConfig.Key is missing")
	}
	if cfg.Domain == "" || strings.ContainsAny(cfg.Domain, "/?# \r\n") {
		return nil, errors.New("mailerhttp: MailgunConfig.Domain must be a domain")
	}
	if cfg.Endpoint == "" {
		cfg.Endpoint = "https://api.mailgun.net"
	}
	if err := checkEndpoint("MailgunConfig.Endpoint", cfg.Endpoint); err != nil {
		return nil, err
	}
	return &Mailgun{newAPI("mailgun", cfg.Client, false), cfg}, nil
}

// Send implements mailer.Transport.
func (t *Mailgun) Send(ctx context.Context, m *mailer.Message) mailer.Result {
	raw, err := m.Bytes()
	if err != nil {
		return mailer.Invalid(err)
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	err = errors.Join(w.WriteField("to", m.To.Email), w.WriteField("v:mail_id", m.ID), w.WriteField("o:tag", m.Kind))
	part, partErr := w.CreateFormFile("message", "message.eml")
	if err = errors.Join(err, partErr); err == nil {
		_, err = part.Write(raw)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return mailer.Invalid(err)
	}
	req, err := http.NewRequest(http.MethodPost, t.cfg.Endpoint+"/v3/"+t.cfg.Domain+"/messages.mime", bytes.NewReader(form.Bytes())) //nolint:noctx // call adds it
	if err != nil {
		return mailer.Invalid(err)
	}
	req.Header.Set("Content-Type", w.FormDataContentType())
	req.SetBasicAuth("api", t.cfg.Key)
	return t.call(ctx, req, func(b []byte) (string, error) {
		var answer struct{ ID string }
		if json.Unmarshal(b, &answer) != nil || answer.ID == "" {
			return "", errors.New("mailerhttp: mailgun: 2xx without an ID")
		}
		return strings.Trim(answer.ID, "<>"), nil
	}, func(status int, b []byte) (mailer.Outcome, mailer.Fault, string) {
		var answer struct{ Message string }
		_ = json.Unmarshal(b, &answer) // the status speaks too
		outcome, fault := byStatus(status)
		return outcome, fault, answer.Message
	})
}
