package mailerhttp

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kolekt/commerce/internal/problem"
	"github.com/kolekt/commerce/mailer"
)

// Recorder takes events in; *mailer.Service is one.
type Recorder interface {
	Record(ctx context.Context, e mailer.Event) (fresh bool, err error)
}

// WebhookConfig holds what proves a webhook's origin.
type WebhookConfig struct {
	// Secret is Resend's signing secret ("whsec_…") or Mailgun's webhook
	// signing key. Postmark signs nothing: there it is the password of the
	// webhook URL's basic authentication.
	Secret string
	// Username is Postmark's, beside the password.
	Username string
	// Window is how old or how far ahead a signature may be. Zero means 5
	// minutes. Postmark has no time.
	Window time.Duration
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// maxBody is the largest webhook that is read.
const maxBody = 1 << 20

// webhook is a provider's way to prove and to tell.
type webhook struct {
	provider string
	verify   func(cfg WebhookConfig, r *http.Request, body []byte) error
	parse    func(r *http.Request, body []byte) (mailer.Event, error)
}

// handler answers 204 to what was recorded, also to a repetition and to an
// event that nobody knows: a provider's news must not make it retry. 401 means
// a wrong signature, 503 that the store is away and the provider shall retry.
func (h webhook) handler(to Recorder, cfg WebhookConfig) http.Handler {
	if cfg.Window == 0 {
		cfg.Window = 5 * time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", "POST")
			problem.Write(w, problem.Details{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed"})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			problem.Write(w, problem.Details{Status: http.StatusRequestEntityTooLarge, Code: "too_large"})
			return
		}
		if err != nil {
			problem.Write(w, problem.Details{Status: http.StatusBadRequest, Code: "unreadable"})
			return
		}
		if cfg.Secret == "" || h.verify(cfg, r, body) != nil {
			problem.Write(w, problem.Details{Status: http.StatusUnauthorized, Code: "signature_invalid", Detail: mailer.ErrSignature.Error()})
			return
		}
		event, err := h.parse(r, body)
		if err != nil {
			// Signed, and not what we know: keep that it came.
			event = mailer.Event{Type: mailer.EventUnknown}
		}
		event.Provider = h.provider
		if event.ID == "" {
			sum := sha256.Sum256(body)
			event.ID = hex.EncodeToString(sum[:])
		}
		if event.At.IsZero() {
			event.At = cfg.Now()
		}
		if _, err := to.Record(r.Context(), event); err != nil {
			w.Header().Set("Retry-After", "60")
			problem.Write(w, problem.Details{Status: http.StatusServiceUnavailable, Code: "unavailable"})
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// within checks a timestamp in seconds against the window, both ways.
func within(cfg WebhookConfig, seconds string) bool {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return false
	}
	age := cfg.Now().Sub(time.Unix(n, 0))
	return age <= cfg.Window && age >= -cfg.Window
}

// ResendWebhook takes in Resend's webhooks.
func ResendWebhook(to Recorder, cfg WebhookConfig) http.Handler {
	return webhook{"resend", verifySvix, parseResend}.handler(to, cfg)
}

// verifySvix checks the scheme that Resend uses: HMAC-SHA256 of
// "id.timestamp.body", any of several signatures.
func verifySvix(cfg WebhookConfig, r *http.Request, body []byte) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(cfg.Secret, "whsec_"))
	id, at := r.Header.Get("svix-id"), r.Header.Get("svix-timestamp")
	if err != nil || len(key) == 0 || id == "" || !within(cfg, at) {
		return mailer.ErrSignature
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(id + "." + at + "."))
	h.Write(body)
	want := h.Sum(nil)
	for candidate := range strings.FieldsSeq(r.Header.Get("svix-signature")) {
		version, signature, _ := strings.Cut(candidate, ",")
		got, err := base64.StdEncoding.DecodeString(signature)
		if err == nil && version == "v1" && hmac.Equal(got, want) {
			return nil
		}
	}
	return mailer.ErrSignature
}

var resendTypes = map[string]mailer.EventType{
	"email.scheduled": mailer.EventQueued, "email.sent": mailer.EventSent, "email.delivered": mailer.EventDelivered,
	"email.delivery_delayed": mailer.EventDeferred, "email.bounced": mailer.EventBounced, "email.complained": mailer.EventComplained,
	"email.opened": mailer.EventOpened, "email.clicked": mailer.EventClicked, "email.failed": mailer.EventFailed,
	"email.suppressed": mailer.EventRejected,
}

func parseResend(r *http.Request, body []byte) (mailer.Event, error) {
	var in struct {
		Type      string
		CreatedAt time.Time `json:"created_at"`
		Data      struct {
			To     []string
			Tags   json.RawMessage
			Bounce struct{ Type string }
		}
	}
	err := json.Unmarshal(body, &in)
	e := mailer.Event{ID: r.Header.Get("svix-id"), Type: known(resendTypes, in.Type), At: in.CreatedAt, MailID: mailIDTag(in.Data.Tags)}
	if len(in.Data.To) == 1 {
		e.Email = in.Data.To[0]
	}
	if e.Type == mailer.EventBounced {
		e.Reason = mailer.RejectInvalid
		if in.Data.Bounce.Type != "" && in.Data.Bounce.Type != "Permanent" {
			e.Type, e.Reason = mailer.EventSoftBounced, mailer.RejectOther
		}
	}
	if e.Type == mailer.EventRejected {
		e.Reason = mailer.RejectBounced
	}
	return e, err
}

// mailIDTag finds our tag, which has been a map and a list of pairs.
func mailIDTag(raw json.RawMessage) string {
	var m map[string]string
	if json.Unmarshal(raw, &m) == nil {
		return m["mail_id"]
	}
	var list []resendTag
	if json.Unmarshal(raw, &list) == nil {
		for _, t := range list {
			if t.Name == "mail_id" {
				return t.Value
			}
		}
	}
	return ""
}

func known(types map[string]mailer.EventType, name string) mailer.EventType {
	if t, ok := types[name]; ok {
		return t
	}
	return mailer.EventUnknown
}

// PostmarkWebhook takes in Postmark's webhooks, behind basic authentication.
func PostmarkWebhook(to Recorder, cfg WebhookConfig) http.Handler {
	return webhook{"postmark", verifyBasic, parsePostmark}.handler(to, cfg)
}

func verifyBasic(cfg WebhookConfig, r *http.Request, _ []byte) error {
	user, password, ok := r.BasicAuth()
	good := subtle.ConstantTimeCompare([]byte(user), []byte(cfg.Username)) & subtle.ConstantTimeCompare([]byte(password), []byte(cfg.Secret))
	if !ok || good != 1 {
		return mailer.ErrSignature
	}
	return nil
}

var postmarkTypes = map[string]mailer.EventType{
	"Delivery": mailer.EventDelivered, "Bounce": mailer.EventBounced, "SpamComplaint": mailer.EventComplained,
	"Open": mailer.EventOpened, "Click": mailer.EventClicked, "SubscriptionChange": mailer.EventUnsubscribed,
}

func parsePostmark(_ *http.Request, body []byte) (mailer.Event, error) {
	var in struct {
		RecordType                                    string
		ID                                            json.Number
		MessageID                                     string
		Type                                          string
		Email, Recipient                              string
		Metadata                                      map[string]string
		BouncedAt, DeliveredAt, ReceivedAt, ChangedAt string
		SuppressSending                               bool
		SuppressionReason                             string
	}
	err := json.Unmarshal(body, &in)
	e := mailer.Event{Type: known(postmarkTypes, in.RecordType), MailID: in.Metadata["mail_id"], Email: in.Email + in.Recipient}
	for _, at := range []string{in.BouncedAt, in.DeliveredAt, in.ReceivedAt, in.ChangedAt} {
		if t, err := time.Parse(time.RFC3339, at); err == nil {
			e.At = t
		}
	}
	switch in.RecordType {
	case "Bounce", "SpamComplaint":
		e.ID = in.RecordType + "/" + in.ID.String()
	case "Delivery":
		e.ID = in.RecordType + "/" + in.MessageID + "/" + in.DeliveredAt
	}
	if in.RecordType == "Bounce" {
		switch in.Type {
		case "HardBounce", "BadEmailAddress", "AddressChange", "ManuallyDeactivated":
			e.Reason = mailer.RejectInvalid
		case "SpamNotification", "SpamComplaint":
			// The receiving server calls it spam: our reputation, not the
			// person's mailbox and not the person's complaint.
			e.Type, e.Reason = mailer.EventFailed, mailer.RejectSpam
		case "Blocked", "DMARCPolicy":
			e.Type, e.Reason = mailer.EventFailed, mailer.RejectBlocked
		case "AutoResponder", "ChallengeVerification", "Subscribe", "VirusNotification", "OpenRelayTest", "InboundError":
			e.Type, e.Reason = mailer.EventUnknown, mailer.RejectOther
		case "Unsubscribe":
			e.Type = mailer.EventUnsubscribed
		default:
			e.Type, e.Reason = mailer.EventSoftBounced, mailer.RejectOther
		}
	}
	if in.RecordType == "SubscriptionChange" {
		switch {
		case !in.SuppressSending:
			e.Type = mailer.EventUnknown
		case in.SuppressionReason == "HardBounce":
			e.Type, e.Reason = mailer.EventBounced, mailer.RejectInvalid
		case in.SuppressionReason == "SpamComplaint":
			e.Type = mailer.EventComplained
		}
	}
	return e, err
}

// MailgunWebhook takes in Mailgun's webhooks.
func MailgunWebhook(to Recorder, cfg WebhookConfig) http.Handler {
	return webhook{"mailgun", verifyMailgun, parseMailgun}.handler(to, cfg)
}

func verifyMailgun(cfg WebhookConfig, _ *http.Request, body []byte) error {
	var in struct {
		Signature struct{ Timestamp, Token, Signature string }
	}
	if json.Unmarshal(body, &in) != nil || !within(cfg, in.Signature.Timestamp) {
		return mailer.ErrSignature
	}
	got, err := hex.DecodeString(in.Signature.Signature)
	h := hmac.New(sha256.New, []byte(cfg.Secret))
	h.Write([]byte(in.Signature.Timestamp + in.Signature.Token))
	if err != nil || !hmac.Equal(got, h.Sum(nil)) {
		return mailer.ErrSignature
	}
	return nil
}

var mailgunTypes = map[string]mailer.EventType{
	"accepted": mailer.EventQueued, "delivered": mailer.EventDelivered, "failed": mailer.EventBounced, "rejected": mailer.EventRejected,
	"opened": mailer.EventOpened, "clicked": mailer.EventClicked, "unsubscribed": mailer.EventUnsubscribed, "complained": mailer.EventComplained,
}

func parseMailgun(_ *http.Request, body []byte) (mailer.Event, error) {
	var in struct {
		Event struct {
			ID, Event, Recipient, Severity, Reason string
			Timestamp                              float64
			Status                                 struct {
				Code     int
				Enhanced string `json:"enhanced-code"`
			} `json:"delivery-status"`
			Variables struct {
				MailID string `json:"mail_id"`
			} `json:"user-variables"`
		} `json:"event-data"`
	}
	err := json.Unmarshal(body, &in)
	d := in.Event
	e := mailer.Event{ID: d.ID, Type: known(mailgunTypes, d.Event), Email: d.Recipient, MailID: d.Variables.MailID, Code: d.Status.Code, Enhanced: d.Status.Enhanced}
	if d.Timestamp > 0 {
		e.At = time.UnixMicro(int64(d.Timestamp * 1e6))
	}
	if d.Event == "failed" {
		_, fault := mailer.ClassifySMTP(d.Status.Code, d.Status.Enhanced, "rcpt")
		switch {
		case d.Severity == "temporary":
			e.Type, e.Reason = mailer.EventDeferred, mailer.RejectOther
		case d.Reason == "suppress-bounce":
			e.Reason = mailer.RejectBounced
		case d.Reason == "suppress-complaint":
			e.Type = mailer.EventComplained
		case d.Reason == "suppress-unsubscribe":
			e.Type, e.Reason = mailer.EventUnsubscribed, mailer.RejectUnsubscribed
		case fault == mailer.FaultSender || fault == mailer.FaultMessage:
			e.Type, e.Reason = mailer.EventFailed, mailer.RejectBlocked
		case fault == mailer.FaultMailbox:
			e.Type, e.Reason = mailer.EventSoftBounced, mailer.RejectFull
		default:
			e.Reason = mailer.RejectInvalid
		}
	}
	return e, err
}
