// Package mailerhttp sends the messages of package mailer through the HTTP APIs
// of Resend, Postmark and Mailgun, and takes in their webhooks.
//
//	transport, err := mailerhttp.NewResend(mailerhttp.ResendConfig{Key: apiKey})
//	mux.Handle("POST /hooks/resend", mailerhttp.ResendWebhook(mails, mailerhttp.WebhookConfig{Secret: secret}))
//
// Resend honours idempotency keys: a lost reply is simply asked for again, and
// no mail goes out twice. Postmark and Mailgun don't, so that a lost reply is
// ambiguous with them, as with SMTP.
package mailerhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kolekt/commerce/mailer"
)

// timeout bounds a request when the context doesn't.
const timeout = 30 * time.Second

// api is what the three providers have in common.
type api struct {
	name       string
	client     *http.Client
	idempotent bool
}

func newAPI(name string, client *http.Client, idempotent bool) api {
	if client == nil {
		client = &http.Client{Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirected POST would carry the key elsewhere
		}}
	}
	return api{name, client, idempotent}
}

func checkEndpoint(field, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "127.0.0.1" && u.Hostname() != "localhost") {
		return fmt.Errorf("mailerhttp: %s must be an absolute https URL: the key goes there", field)
	}
	return nil
}

// call sends a request and says what is known. read takes the answer of a 2xx
// and refuse that of anything else.
func (a api) call(ctx context.Context, req *http.Request, read func(body []byte) (id string, err error),
	refuse func(status int, body []byte) (mailer.Outcome, mailer.Fault, string)) mailer.Result {
	var written atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { written.Store(true) }}
	res, err := a.client.Do(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		return a.lost(written.Load(), err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if res.StatusCode/100 == 2 {
		// The status line is the answer; the ID is a convenience.
		out := mailer.Result{Outcome: mailer.Sent, Stage: "reply", Code: res.StatusCode, Transport: a.name}
		if err == nil {
			id, idErr := read(body)
			if idErr != nil {
				return mailer.Result{Outcome: mailer.Ambiguous, Stage: "reply", Code: res.StatusCode, Transport: a.name, Err: idErr}
			}
			out.ProviderID = id
		}
		return out
	}
	outcome, fault, message := refuse(res.StatusCode, body)
	return mailer.Result{Outcome: outcome, Fault: fault, Stage: "reply", Code: res.StatusCode, Transport: a.name,
		RetryAfter: retryAfter(res.Header.Get("Retry-After")),
		Err:        fmt.Errorf("mailerhttp: %s refused: %d %s", a.name, res.StatusCode, mailer.ScrubText(message))}
}

// lost is a request without an answer.
func (a api) lost(written bool, err error) mailer.Result {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL
	}
	r := mailer.Result{Outcome: mailer.Ambiguous, Fault: mailer.FaultNetwork, Stage: "reply", Transport: a.name,
		Err: fmt.Errorf("mailerhttp: %s: no answer: %w", a.name, err)}
	if !written {
		r.Outcome, r.Stage = mailer.Temporary, "connect"
	} else if a.idempotent {
		// Asking again with the same key is safe, and gives the answer.
		r.Outcome = mailer.Temporary
	}
	return r
}

// byStatus reads a refusal that says nothing more than its status.
func byStatus(status int) (mailer.Outcome, mailer.Fault) {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusTooManyRequests || status == http.StatusPaymentRequired:
		return mailer.Temporary, mailer.FaultTransport
	case status == http.StatusRequestTimeout || status >= 500:
		return mailer.Temporary, mailer.FaultNetwork
	}
	return mailer.Permanent, mailer.FaultMessage
}

// retryAfter reads seconds; the date form is rare and not worth a clock.
func retryAfter(s string) time.Duration {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Hour)
}

// headers are those that a provider with a JSON API has to be told.
func headers(m *mailer.Message) map[string]string {
	out := map[string]string{"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"}
	for name, value := range m.UnsubscribeHeaders() {
		out[name] = value
	}
	for _, h := range m.Headers {
		out[h.Name] = h.Value
	}
	return out
}

// mailbox writes an address for a JSON API.
func mailbox(a mailer.Address) string {
	if a.Name == "" {
		return a.Email
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a.Name) + `" <` + a.Email + `>`
}

func jsonRequest(endpoint string, body any) (*http.Request, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("mailerhttp: %w", err)
	}
	req, err := http.NewRequest(http.MethodPost, endpoint, bytes.NewReader(b)) //nolint:noctx // call adds it
	if err != nil {
		return nil, fmt.Errorf("mailerhttp: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	return req, nil
}
