package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
)

// pretender answers as Stripe does to what the doctor asks.
func pretender(t *testing.T, answers map[string]string) stripeAPI {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "Bearer sk_live_of_nobody", r.Header.Get("Authorization"))
		assert.Empty(t, r.Header.Get("Stripe-Version"), "asked without one, Stripe says the account's")
		w.Header().Set("Stripe-Version", "2024-06-20")
		answer := answers[r.URL.Path]
		if answer == "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return stripeAPI{s.URL, "sk_live_of_nobody"}
}

func TestTheDoctorLooksAtTheWebhookEndpoint(t *testing.T) {
	production := Config{PublicURL: "https://kolekt.example.com"}
	endpoint := func(url, status string, events ...string) string {
		return fmt.Sprintf(`{"data": [{"url": "https://other.example.com/hook", "status": "enabled", "enabled_events": ["*"]}, {"url": %q, "status": %q, "enabled_events": ["%s"], "api_version": "2024-06-20"}]}`, url, status, strings.Join(events, `","`))
	}
	const ours = "https://kolekt.example.com/api/v1/payments/webhook"
	for name, test := range map[string]struct {
		answer, found, fix string
		development        bool
	}{
		"everything is there":   {endpoint(ours, "enabled", "*"), "is enabled, in version 2024-06-20", "", false},
		"all that we want":      {endpoint(ours, "enabled", wanted...), "is enabled", "", false},
		"some events are not":   {endpoint(ours, "enabled", wanted[1:]...), "doesn't hear of checkout.session.completed", "add these events", false},
		"it was disabled":       {endpoint(ours, "disabled", "*"), "is disabled", "enable the endpoint", false},
		"another address":       {endpoint(ours+"s", "enabled", "*"), "no endpoint leads to " + ours, "make one", false},
		"development does well": {`{"data": []}`, "stripe listen", "", true},
		"a restricted key":      {"", "may not read", "let the restricted key", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := production
			cfg.Development = test.development
			list := examineEndpoint(t.Context(), pretender(t, map[string]string{"/v1/webhook_endpoints": test.answer}), cfg)
			f := list[len(list)-1]
			require.Equal(t, "webhook", f.what)
			require.Contains(t, f.found, test.found)
			require.Contains(t, f.fix, test.fix)
			require.Equal(t, test.fix == "", f.fix == "")
			if len(list) > 1 {
				require.Contains(t, list[0].found, "2024-06-20")
			}
		})
	}
}

func TestTheDoctorLooksAtThePortal(t *testing.T) {
	for answer, fix := range map[string]string{
		`{"data": []}`: "save its settings once",
		`{"data": [{"features": {"payment_method_update": {"enabled": false}, "invoice_history": {"enabled": true}}}]}`: "allow it",
		`{"data": [{"features": {"payment_method_update": {"enabled": true}, "invoice_history": {"enabled": false}}}]}`: "allow it",
		`{"data": [{"features": {"payment_method_update": {"enabled": true}, "invoice_history": {"enabled": true}}}]}`:  "",
	} {
		f := examinePortal(t.Context(), pretender(t, map[string]string{"/v1/billing_portal/configurations": answer}))
		require.Contains(t, f.fix, fix)
		require.Equal(t, fix == "", f.fix == "")
	}
	f := examinePortal(t.Context(), stripeAPI{"http://127.0.0.1:1", "sk_live_of_nobody"})
	require.Contains(t, f.fix, "reach Stripe")
}

// mailServer speaks as much SMTP as the doctor hears.
func mailServer(t *testing.T, greeting, extensions string) Config {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "%s\r\n", greeting)
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "EHLO") {
					fmt.Fprintf(conn, "250-here\r\n250 %s\r\n", extensions)
				} else {
					fmt.Fprint(conn, "221 bye\r\n")
				}
			}
			_ = conn.Close()
		}
	}()
	return Config{SMTPServer: "127.0.0.1", SMTPPort: l.Addr().(*net.TCPAddr).Port}
}

func TestTheDoctorSpeaksToTheMailServer(t *testing.T) {
	ctx := context.Background()
	require.Contains(t, examineMail(ctx, mailServer(t, "220 here", "SIZE 1000"))[0].fix, "STARTTLS")
	require.Contains(t, examineMail(ctx, mailServer(t, "554 go away", "SIZE 1000"))[0].fix, "SMTP_SERVER")
	require.Contains(t, examineMail(ctx, Config{SMTPServer: "127.0.0.1", SMTPPort: 1})[0].fix, "firewall")
	require.Empty(t, examineMail(ctx, Config{})[0].fix)
}

func TestTheDoctorFindsServersWell(t *testing.T) {
	var out strings.Builder
	env := map[string]string{"DATABASE_URL": pgtest.URL(t), "REDIS_URL": redistest.URL(t)}
	err := run(t.Context(), []string{"doctor"}, func(name string) string { return env[name] }, &out)
	require.ErrorContains(t, err, "1 of ", "only the migrations are missing")
	require.Contains(t, out.String(), "run: kolekt migrate")
	require.Contains(t, out.String(), "eviction")
	require.NoError(t, run(t.Context(), []string{"migrate"}, func(name string) string { return env[name] }, &out))
	out.Reset()
	require.NoError(t, run(t.Context(), []string{"doctor"}, func(name string) string { return env[name] }, &out))
	require.NotContains(t, out.String(), "FIX")
}
