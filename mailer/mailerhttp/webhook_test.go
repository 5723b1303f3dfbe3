package mailerhttp_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailerhttp"
)

type recorder struct {
	events []mailer.Event
	err    error
}

func (r *recorder) Record(_ context.Context, e mailer.Event) (bool, error) {
	r.events = append(r.events, e)
	return true, r.err
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func svix(body string, at time.Time) http.Header {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "msg_1.%d.%s", at.Unix(), body)
	return http.Header{"Svix-Id": {"msg_1"}, "Svix-Timestamp": {fmt.Sprint(at.Unix())},
		"Svix-Signature": {"v1,AAAA v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))}}
}

func mailgunBody(event string, at time.Time) string {
	h := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(h, "%d%s", at.Unix(), "token")
	return fmt.Sprintf(`{"signature":{"timestamp":"%d","token":"token","signature":"%s"},"event-data":%s}`, at.Unix(), hex.EncodeToString(h.Sum(nil)), event)
}

func post(h http.Handler, body string, header http.Header) int {
	r := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(body))
	for k, v := range header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func basic(user, password string) http.Header {
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}}
}

func config() mailerhttp.WebhookConfig {
	return mailerhttp.WebhookConfig{Secret: secret, Username: "hook", Now: func() time.Time { return now }}
}

func TestWebhooksSpeakOneLanguage(t *testing.T) {
	for _, c := range []struct {
		provider, body string
		want           mailer.EventType
		reason         mailer.RejectReason
	}{
		{"resend", `{"type":"email.delivered","created_at":"2026-03-01T11:00:00Z","data":{"to":["ada@example.org"],"tags":{"mail_id":"mail_1"}}}`, mailer.EventDelivered, ""},
		{"resend", `{"type":"email.bounced","data":{"to":["ada@example.org"],"tags":[{"name":"mail_id","value":"mail_1"}],"bounce":{"type":"Permanent","subType":"General"}}}`, mailer.EventBounced, mailer.RejectInvalid},
		{"resend", `{"type":"email.bounced","data":{"to":["ada@example.org"],"tags":{"mail_id":"mail_1"},"bounce":{"type":"Transient"}}}`, mailer.EventSoftBounced, mailer.RejectOther},
		{"resend", `{"type":"email.complained","data":{"to":["ada@example.org"],"tags":{"mail_id":"mail_1"}}}`, mailer.EventComplained, ""},
		{"resend", `{"type":"email.suppressed","data":{"to":["ada@example.org"],"tags":{"mail_id":"mail_1"}}}`, mailer.EventRejected, mailer.RejectBounced},
		{"resend", `{"type":"email.invented","data":{"to":["ada@example.org"],"tags":{"mail_id":"mail_1"}}}`, mailer.EventUnknown, ""},
		{"resend", `not json`, mailer.EventUnknown, ""},
		{"postmark", `{"RecordType":"Delivery","MessageID":"b7","Recipient":"ada@example.org","DeliveredAt":"2026-03-01T11:00:00Z","Metadata":{"mail_id":"mail_1"}}`, mailer.EventDelivered, ""},
		{"postmark", `{"RecordType":"Bounce","ID":42,"Type":"HardBounce","Email":"ada@example.org","BouncedAt":"2026-03-01T11:00:00Z","Metadata":{"mail_id":"mail_1"}}`, mailer.EventBounced, mailer.RejectInvalid},
		{"postmark", `{"RecordType":"Bounce","ID":43,"Type":"SoftBounce","Email":"ada@example.org","Metadata":{"mail_id":"mail_1"}}`, mailer.EventSoftBounced, mailer.RejectOther},
		{"postmark", `{"RecordType":"Bounce","ID":44,"Type":"SpamNotification","Email":"ada@example.org","Metadata":{"mail_id":"mail_1"}}`, mailer.EventFailed, mailer.RejectSpam},
		{"postmark", `{"RecordType":"Bounce","ID":45,"Type":"Blocked","Email":"ada@example.org","Metadata":{"mail_id":"mail_1"}}`, mailer.EventFailed, mailer.RejectBlocked},
		{"postmark", `{"RecordType":"Bounce","ID":46,"Type":"AutoResponder","Email":"ada@example.org","Metadata":{"mail_id":"mail_1"}}`, mailer.EventUnknown, mailer.RejectOther},
		{"postmark", `{"RecordType":"SpamComplaint","ID":47,"Email":"ada@example.org","Metadata":{"mail_id":"mail_1"}}`, mailer.EventComplained, ""},
		{"postmark", `{"RecordType":"SubscriptionChange","Recipient":"ada@example.org","SuppressSending":true,"SuppressionReason":"ManualSuppression","Metadata":{"mail_id":"mail_1"}}`, mailer.EventUnsubscribed, ""},
		{"postmark", `{"RecordType":"SubscriptionChange","Recipient":"ada@example.org","SuppressSending":true,"SuppressionReason":"HardBounce","Metadata":{"mail_id":"mail_1"}}`, mailer.EventBounced, mailer.RejectInvalid},
		{"postmark", `{"RecordType":"SubscriptionChange","Recipient":"ada@example.org","SuppressSending":false,"Metadata":{"mail_id":"mail_1"}}`, mailer.EventUnknown, ""},
		{"mailgun", `{"id":"e1","event":"delivered","timestamp":1772362800.5,"recipient":"ada@example.org","user-variables":{"mail_id":"mail_1"}}`, mailer.EventDelivered, ""},
		{"mailgun", `{"id":"e2","event":"failed","severity":"permanent","recipient":"ada@example.org","delivery-status":{"code":550,"enhanced-code":"5.1.1"},"user-variables":{"mail_id":"mail_1"}}`, mailer.EventBounced, mailer.RejectInvalid},
		{"mailgun", `{"id":"e3","event":"failed","severity":"temporary","recipient":"ada@example.org","delivery-status":{"code":451},"user-variables":{"mail_id":"mail_1"}}`, mailer.EventDeferred, mailer.RejectOther},
		{"mailgun", `{"id":"e4","event":"failed","severity":"permanent","recipient":"ada@example.org","delivery-status":{"code":550,"enhanced-code":"5.7.1"},"user-variables":{"mail_id":"mail_1"}}`, mailer.EventFailed, mailer.RejectBlocked},
		{"mailgun", `{"id":"e5","event":"failed","severity":"permanent","recipient":"ada@example.org","delivery-status":{"code":552,"enhanced-code":"5.2.2"},"user-variables":{"mail_id":"mail_1"}}`, mailer.EventSoftBounced, mailer.RejectFull},
		{"mailgun", `{"id":"e6","event":"failed","severity":"permanent","reason":"suppress-unsubscribe","recipient":"ada@example.org","user-variables":{"mail_id":"mail_1"}}`, mailer.EventUnsubscribed, mailer.RejectUnsubscribed},
		{"mailgun", `{"id":"e7","event":"unsubscribed","recipient":"ada@example.org","user-variables":{"mail_id":"mail_1"}}`, mailer.EventUnsubscribed, ""},
		{"mailgun", `{"id":"e8","event":"complained","recipient":"ada@example.org","user-variables":{"mail_id":"mail_1"}}`, mailer.EventComplained, ""},
		{"mailgun", `{"id":"e9","event":"invented","recipient":"ada@example.org","user-variables":{"mail_id":"mail_1"}}`, mailer.EventUnknown, ""},
	} {
		t.Run(c.provider+" "+string(c.want), func(t *testing.T) {
			to := &recorder{}
			code := 0
			switch c.provider {
			case "resend":
				code = post(mailerhttp.ResendWebhook(to, config()), c.body, svix(c.body, now))
			case "postmark":
				code = post(mailerhttp.PostmarkWebhook(to, config()), c.body, basic("hook", secret))
			case "mailgun":
				code = post(mailerhttp.MailgunWebhook(to, config()), mailgunBody(c.body, now), nil)
			}
			require.Equal(t, http.StatusNoContent, code)
			require.Len(t, to.events, 1)
			e := to.events[0]
			require.Equal(t, c.want, e.Type)
			require.Equal(t, c.reason, e.Reason)
			require.Equal(t, c.provider, e.Provider)
			require.NotEmpty(t, e.ID)
			require.False(t, e.At.IsZero())
			if c.body != "not json" {
				require.Equal(t, "mail_1", e.MailID)
				require.Equal(t, "ada@example.org", e.Email)
			}
		})
	}
}

func TestForgedWebhooksAreRefused(t *testing.T) {
	body := `{"type":"email.bounced"}`
	to := &recorder{}
	stale, early := now.Add(-6*time.Minute), now.Add(6*time.Minute)
	wrong := svix(body, now)
	wrong.Set("Svix-Signature", "v1,"+base64.StdEncoding.EncodeToString(make([]byte, 32)))
	noID := svix(body, now)
	noID.Del("Svix-Id")
	empty := config()
	empty.Secret = ""
	for name, code := range map[string]int{
		"resend, other body":      post(mailerhttp.ResendWebhook(to, config()), body+" ", svix(body, now)),
		"resend, none":            post(mailerhttp.ResendWebhook(to, config()), body, nil),
		"resend, wrong":           post(mailerhttp.ResendWebhook(to, config()), body, wrong),
		"resend, stale":           post(mailerhttp.ResendWebhook(to, config()), body, svix(body, stale)),
		"resend, from the future": post(mailerhttp.ResendWebhook(to, config()), body, svix(body, early)),
		"resend, no id":           post(mailerhttp.ResendWebhook(to, config()), body, noID),
		"resend, no secret":       post(mailerhttp.ResendWebhook(to, empty), body, svix(body, now)),
		"postmark, none":          post(mailerhttp.PostmarkWebhook(to, config()), body, nil),
		"postmark, wrong":         post(mailerhttp.PostmarkWebhook(to, config()), body, basic("hook", "x")),
		"postmark, no secret":     post(mailerhttp.PostmarkWebhook(to, empty), body, basic("hook", "")),
		"mailgun, none":           post(mailerhttp.MailgunWebhook(to, config()), body, nil),
		"mailgun, stale":          post(mailerhttp.MailgunWebhook(to, config()), mailgunBody("{}", stale), nil),
		"mailgun, wrong":          post(mailerhttp.MailgunWebhook(to, config()), strings.Replace(mailgunBody("{}", now), `"token":"token"`, `"token":"other"`, 1), nil),
	} {
		require.Equal(t, http.StatusUnauthorized, code, name)
	}
	require.Empty(t, to.events)
}

func TestWebhookAnswers(t *testing.T) {
	to := &recorder{err: errors.New("database is away")}
	h := mailerhttp.PostmarkWebhook(to, config())
	require.Equal(t, http.StatusServiceUnavailable, post(h, "{}", basic("hook", secret)), "the provider shall try again")
	require.Equal(t, http.StatusRequestEntityTooLarge, post(h, strings.Repeat("x", 1<<20+1), basic("hook", secret)))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/hook", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
}

func FuzzWebhook(f *testing.F) {
	f.Add(`{"RecordType":"Bounce","ID":1}`)
	f.Add(`{"RecordType":1}`)
	f.Fuzz(func(t *testing.T, body string) {
		to := &recorder{}
		if code := post(mailerhttp.PostmarkWebhook(to, config()), body, basic("hook", secret)); code != http.StatusNoContent {
			t.Fatalf("a signed webhook was answered %d", code)
		}
		if len(to.events) != 1 || to.events[0].ID == "" || to.events[0].Type == "" {
			t.Fatalf("event %+v", to.events)
		}
	})
}
