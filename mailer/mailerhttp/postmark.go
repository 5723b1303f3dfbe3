package mailerhttp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/kolekt/commerce/mailer"
)

// PostmarkConfig configures [NewPostmark]. Token is required.
type PostmarkConfig struct {
	Token string // of the server
	// Streams maps our streams to Postmark's message streams; others go to
	// "outbound".
	Streams map[string]string
	// Endpoint replaces https://api.postmarkapp.com, for tests.
	Endpoint string
	// Client replaces the HTTP client; nil means one with a 30 s deadline.
	Client *http.Client
}

// Postmark is a mailer.Transport for postmarkapp.com.
type Postmark struct {
	api
	cfg PostmarkConfig
}

// NewPostmark makes a transport.
func NewPostmark(cfg PostmarkConfig) (*Postmark, error) {
	if cfg.Token == "" {
		return nil, errors.New("mailerhttp: PostmarkConfig.Token is missing")
	}
	if cfg.Endpoint == "" {
		cfg.Endpoint = "https://api.postmarkapp.com"
	}
	if err := checkEndpoint("PostmarkConfig.Endpoint", cfg.Endpoint); err != nil {
		return nil, err
	}
	return &Postmark{newAPI("postmark", cfg.Client, false), cfg}, nil
}

type postmarkMail struct {
	From          string
	To            string
	ReplyTo       string `json:",omitempty"`
	Subject       string
	HTMLBody      string `json:"HtmlBody,omitempty"`
	TextBody      string
	Tag           string
	MessageStream string
	Metadata      map[string]string
	Headers       []mailer.Header
	Attachments   []postmarkAttachment `json:",omitempty"`
}

type postmarkAttachment struct {
	Name        string
	Content     []byte
	ContentType string
}

// Send implements mailer.Transport.
func (t *Postmark) Send(ctx context.Context, m *mailer.Message) mailer.Result {
	if err := m.Validate(); err != nil {
		return mailer.Invalid(err)
	}
	stream := t.cfg.Streams[m.Stream]
	if stream == "" {
		stream = "outbound"
	}
	body := postmarkMail{From: mailbox(m.From), To: mailbox(m.To), Subject: m.Subject, HTMLBody: m.HTML, TextBody: m.Text, Tag: m.Kind,
		MessageStream: stream, Metadata: map[string]string{"mail_id": m.ID}}
	if m.ReplyTo.Email != "" {
		body.ReplyTo = mailbox(m.ReplyTo)
	}
	for name, value := range headers(m) {
		body.Headers = append(body.Headers, mailer.Header{Name: name, Value: value})
	}
	slices.SortFunc(body.Headers, func(a, b mailer.Header) int { return strings.Compare(a.Name, b.Name) })
	for _, a := range m.Attachments {
		contentType := a.ContentType
		if contentType == "" {
			contentType = "application/octet-stream"
		}
		body.Attachments = append(body.Attachments, postmarkAttachment{a.Name, a.Data, contentType})
	}
	req, err := jsonRequest(t.cfg.Endpoint+"/email", body)
	if err != nil {
		return mailer.Invalid(err)
	}
	req.Header.Set("X-Postmark-Server-Token", t.cfg.Token)
	return t.call(ctx, req, func(b []byte) (string, error) {
		var answer struct {
			ErrorCode int
			MessageID string
		}
		if json.Unmarshal(b, &answer) != nil || answer.ErrorCode != 0 || answer.MessageID == "" {
			return "", errors.New("mailerhttp: postmark: 2xx without a MessageID")
		}
		return answer.MessageID, nil
	}, postmarkRefusal)
}

// postmarkRefusal reads the API error codes of a 422.
func postmarkRefusal(status int, b []byte) (mailer.Outcome, mailer.Fault, string) {
	var answer struct {
		ErrorCode int
		Message   string
	}
	_ = json.Unmarshal(b, &answer) // the status speaks too
	message := strconv.Itoa(answer.ErrorCode) + " " + answer.Message
	switch answer.ErrorCode {
	case 406: // bounced or complained before
		return mailer.Permanent, mailer.FaultRecipient, message
	case 400, 401, 412: // sender signature not found, not confirmed; account pending
		return mailer.Permanent, mailer.FaultSender, message
	case 10, 405: // bad token; out of credits
		return mailer.Temporary, mailer.FaultTransport, message
	}
	outcome, fault := byStatus(status)
	return outcome, fault, message
}
