package mailerhttp_test

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailerhttp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func message() *mailer.Message {
	return &mailer.Message{
		ID: "mail_1", Key: "mail_1", MessageID: "abc@example.com", Kind: "test.kind", Stream: "tips",
		From: mailer.Address{Name: `Ex "A" mple`, Email: "hello@example.com"}, To: mailer.Address{Name: "Ada", Email: "ada@example.org"},
		ReplyTo: mailer.Address{Email: "help@example.com"}, Subject: "Hello", Text: "Hello\n", HTML: "<p>Hello</p>",
		ListUnsubscribe: "https://example.com/u/token", Headers: []mailer.Header{{Name: "X-Tag", Value: "1"}},
		Attachments: []mailer.Attachment{{Name: "a.txt", Data: []byte("data")}}, Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// provider is one of the three, against a scripted server.
type provider struct {
	name      string
	transport func(url string, client *http.Client) (mailer.Transport, error)
	good      string
	id        string
}

var providers = []provider{
	{"resend", func(url string, c *http.Client) (mailer.Transport, error) {
		return mailerhttp.NewResend(mailerhttp.ResendConfig{Key: "re_key", Endpoint: url, Client: c})
	}, `{"id":"49a3999c"}`, "49a3999c"},
	{"postmark", func(url string, c *http.Client) (mailer.Transport, error) {
		return mailerhttp.NewPostmark(mailerhttp.PostmarkConfig{Token: "pm_key", Endpoint: url, Client: c, Streams: map[string]string{"tips": "broadcast"}})
	}, `{"ErrorCode":0,"MessageID":"b7bc2f4a"}`, "b7bc2f4a"},
	{"mailgun", func(url string, c *http.Client) (mailer.Transport, error) {
		return mailerhttp.NewMailgun(mailerhttp.MailgunConfig{Key: "mg_key", Domain: "example.com", Endpoint: url, Client: c})
	}, `{"id":"<2026@example.com>","message":"Queued"}`, "2026@example.com"},
}

func serve(t *testing.T, p provider, handler http.HandlerFunc) mailer.Transport {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	transport, err := p.transport(srv.URL, &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}})
	require.NoError(t, err)
	return transport
}

func TestProvidersGetTheMessage(t *testing.T) {
	for _, p := range providers {
		t.Run(p.name, func(t *testing.T) {
			var req *http.Request
			var body string
			transport := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				req, body = r, string(b)
				_, _ = io.WriteString(w, p.good)
			})
			res := transport.Send(context.Background(), message())
			require.Equal(t, mailer.Sent, res.Outcome, "%s", res)
			require.Equal(t, p.id, res.ProviderID)
			require.Equal(t, p.name, res.Transport)
			switch p.name {
			case "resend":
				require.Equal(t, "/emails", req.URL.Path)
				require.Equal(t, "Bearer re_key", req.Header.Get("Authorization"))
				require.Equal(t, "mail_1", req.Header.Get("Idempotency-Key"))
				var in map[string]any
				require.NoError(t, json.Unmarshal([]byte(body), &in))
				require.Equal(t, `"Ex \"A\" mple" <hello@example.com>`, in["from"])
				require.Equal(t, []any{"ada@example.org"}, in["to"])
				require.Equal(t, "List-Unsubscribe=One-Click", in["headers"].(map[string]any)["List-Unsubscribe-Post"])
			case "postmark":
				require.Equal(t, "/email", req.URL.Path)
				require.Equal(t, "pm_key", req.Header.Get("X-Postmark-Server-Token"))
				var in map[string]any
				require.NoError(t, json.Unmarshal([]byte(body), &in))
				require.Equal(t, "broadcast", in["MessageStream"])
				require.Equal(t, "mail_1", in["Metadata"].(map[string]any)["mail_id"])
				require.Contains(t, body, `{"Name":"List-Unsubscribe","Value":"\u003chttps://example.com/u/token\u003e"}`)
			case "mailgun":
				require.Equal(t, "/v3/example.com/messages.mime", req.URL.Path)
				user, password, _ := req.BasicAuth()
				require.Equal(t, "api mg_key", user+" "+password)
				_, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
				require.NoError(t, err)
				form, err := multipart.NewReader(strings.NewReader(body), params["boundary"]).ReadForm(1 << 20)
				require.NoError(t, err)
				require.Equal(t, []string{"mail_1"}, form.Value["v:mail_id"])
				f, err := form.File["message"][0].Open()
				require.NoError(t, err)
				raw, err := io.ReadAll(f)
				require.NoError(t, err)
				require.Contains(t, string(raw), "Message-ID: <abc@example.com>\r\n")
			}
		})
	}
}

func TestRefusalsAreClassified(t *testing.T) {
	for _, c := range []struct {
		provider string
		status   int
		body     string
		outcome  mailer.Outcome
		fault    mailer.Fault
	}{
		{"", 401, `{}`, mailer.Temporary, mailer.FaultTransport},
		{"", 403, `{}`, mailer.Temporary, mailer.FaultTransport},
		{"", 429, `{}`, mailer.Temporary, mailer.FaultTransport},
		{"", 500, `oops`, mailer.Temporary, mailer.FaultNetwork},
		{"", 503, ``, mailer.Temporary, mailer.FaultNetwork},
		{"", 302, ``, mailer.Permanent, mailer.FaultMessage},
		{"", 400, `{"message":"to <ada@example.org> is wrong"}`, mailer.Permanent, mailer.FaultMessage},
		{"resend", 409, `{"name":"concurrent_idempotent_requests"}`, mailer.Temporary, mailer.FaultUnknown},
		{"resend", 409, `{"name":"invalid_idempotent_request"}`, mailer.Ambiguous, mailer.FaultUnknown},
		{"postmark", 422, `{"ErrorCode":406,"Message":"inactive ada@example.org"}`, mailer.Permanent, mailer.FaultRecipient},
		{"postmark", 422, `{"ErrorCode":400}`, mailer.Permanent, mailer.FaultSender},
		{"postmark", 422, `{"ErrorCode":405}`, mailer.Temporary, mailer.FaultTransport},
		{"postmark", 422, `{"ErrorCode":300}`, mailer.Permanent, mailer.FaultMessage},
		{"", 200, `{}`, mailer.Ambiguous, mailer.FaultUnknown},
	} {
		for _, p := range providers {
			if c.provider != "" && c.provider != p.name {
				continue
			}
			transport := serve(t, p, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			res := transport.Send(context.Background(), message())
			assert.Equal(t, c.outcome, res.Outcome, "%s %d %s: %s", p.name, c.status, c.body, res)
			assert.Equal(t, c.fault, res.Fault, "%s %d %s: %s", p.name, c.status, c.body, res)
			assert.NotContains(t, res.String(), "ada@")
			if c.status >= 300 {
				assert.Equal(t, 7*time.Second, res.RetryAfter)
			}
		}
	}
}

// TestLostReplyIsRepeatedOnlyWithAKey drops the connection after the request.
func TestLostReplyIsRepeatedOnlyWithAKey(t *testing.T) {
	for _, p := range providers {
		transport := serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				c.Close()
			}
		})
		want := mailer.Ambiguous
		if p.name == "resend" {
			want = mailer.Temporary
		}
		res := transport.Send(context.Background(), message())
		require.Equal(t, want, res.Outcome, "%s: %s", p.name, res)
	}
}

// TestIdempotentProviderGetsNoSecondMail loses half of the replies, and retries.
func TestIdempotentProviderGetsNoSecondMail(t *testing.T) {
	var mu sync.Mutex
	sent := map[string]int{}
	calls := 0
	transport := serve(t, providers[0], func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if key := r.Header.Get("Idempotency-Key"); sent[key] == 0 {
			sent[key]++
		}
		if calls%2 == 1 {
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				c.Close()
			}
			return
		}
		_, _ = io.WriteString(w, `{"id":"x"}`)
	})
	for range 10 {
		for transport.Send(context.Background(), message()).Outcome != mailer.Sent {
			continue
		}
	}
	require.Equal(t, map[string]int{"mail_1": 1}, sent)
}

func TestUnreachableProviderIsTemporary(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	for _, p := range providers {
		transport, err := p.transport("http://"+l.Addr().String(), nil)
		require.NoError(t, err)
		res := transport.Send(context.Background(), message())
		require.Equal(t, mailer.Temporary, res.Outcome)
		require.Equal(t, "connect", res.Stage)
		bad := message()
		bad.Subject = "a\nb"
		require.Equal(t, mailer.FaultMessage, transport.Send(context.Background(), bad).Fault)
	}
}

func TestKeysGoToHTTPSOnly(t *testing.T) {
	for _, p := range providers {
		_, err := p.transport("http://api.example.com", nil)
		require.ErrorContains(t, err, "https")
		transport, err := p.transport("", nil)
		require.NoError(t, err)
		require.NotNil(t, transport)
	}
	_, err := mailerhttp.NewResend(mailerhttp.ResendConfig{})
	require.ErrorContains(t, err, "Key")
	_, err = mailerhttp.NewPostmark(mailerhttp.PostmarkConfig{})
	require.ErrorContains(t, err, "Token")
	_, err = mailerhttp.NewMailgun(mailerhttp.MailgunConfig{Key: "k", Domain: "a/b"})
	require.ErrorContains(t, err, "Domain")
	_, err = mailerhttp.NewMailgun(mailerhttp.MailgunConfig{})
	require.ErrorContains(t, err, "Key")
}
