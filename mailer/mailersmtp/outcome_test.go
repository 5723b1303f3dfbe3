package mailersmtp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailersmtp"
	"github.com/kolekt/commerce/mailer/mailertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func message() *mailer.Message {
	return &mailer.Message{
		ID: "mail_1", Key: "mail_1", MessageID: "abc@example.com", Kind: "test.kind", Stream: "test",
		From: mailer.Address{Name: "Example", Email: "hello@example.com"}, To: mailer.Address{Name: "Ada", Email: "ada@example.org"},
		Subject: "Hello", Text: "Hello\n.\n.. dots\n", HTML: "<p>Hello</p>", Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func dialTo(t *testing.T, srv *mailertest.SMTP, change func(*mailersmtp.Config)) *mailersmtp.Transport {
	t.Helper()
	cfg := mailersmtp.Config{Host: srv.Host, Port: srv.Port, TLSConfig: srv.ClientTLS(), Hello: "client.example.com"}
	if change != nil {
		change(&cfg)
	}
	transport, err := mailersmtp.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, transport.Close()) })
	return transport
}

// failure is a server that misbehaves, and what is true of the mail then.
type failure struct {
	name    string
	server  mailertest.SMTPConfig
	big     bool
	timeout bool // answers never
	login   bool
	outcome mailer.Outcome
	fault   mailer.Fault
	stage   string
}

func failures() []failure {
	reply := func(point, text string) mailertest.SMTPConfig {
		return mailertest.SMTPConfig{TLS: true, Steps: map[string]mailertest.Step{point: {Reply: text}}}
	}
	drop := func(point string) mailertest.SMTPConfig {
		return mailertest.SMTPConfig{TLS: true, Steps: map[string]mailertest.Step{point: {Drop: true}}}
	}
	hang := func(point string) mailertest.SMTPConfig {
		return mailertest.SMTPConfig{TLS: true, Steps: map[string]mailertest.Step{point: {Hang: true}}}
	}
	return []failure{
		{name: "greeting says busy", server: reply("GREETING", "421 4.3.2 busy"), outcome: mailer.Temporary, fault: mailer.FaultRate, stage: "connect"},
		{name: "greeting refuses", server: reply("GREETING", "554 5.7.1 go away"), outcome: mailer.Temporary, fault: mailer.FaultSender, stage: "connect"},
		{name: "no greeting", server: drop("GREETING"), outcome: mailer.Temporary, fault: mailer.FaultNetwork, stage: "connect"},
		{name: "STARTTLS is stripped", server: mailertest.SMTPConfig{}, outcome: mailer.Temporary, fault: mailer.FaultTransport, stage: "connect"},
		{name: "login is refused", server: mailertest.SMTPConfig{TLS: true, Users: map[string]string{"app": "other"}}, login: true,
			outcome: mailer.Temporary, fault: mailer.FaultTransport, stage: "connect"},
		{name: "MAIL says try later and hangs up", server: mailertest.SMTPConfig{TLS: true, Steps: map[string]mailertest.Step{"MAIL": {Reply: "421 4.7.0 slow down", Drop: true}}},
			outcome: mailer.Temporary, fault: mailer.FaultRate, stage: "mail"},
		{name: "sender is refused", server: reply("MAIL", "550 5.7.1 policy"), outcome: mailer.Permanent, fault: mailer.FaultSender, stage: "mail"},
		{name: "greylisted", server: reply("RCPT", "451 4.7.1 greylisted"), outcome: mailer.Temporary, fault: mailer.FaultRate, stage: "rcpt"},
		{name: "no such user", server: reply("RCPT", "550 5.1.1 <ada@example.org> unknown"), outcome: mailer.Permanent, fault: mailer.FaultRecipient, stage: "rcpt"},
		{name: "mailbox is full", server: reply("RCPT", "552 5.2.2 full"), outcome: mailer.Permanent, fault: mailer.FaultMailbox, stage: "rcpt"},
		{name: "drop at RCPT", server: drop("RCPT"), outcome: mailer.Temporary, fault: mailer.FaultNetwork, stage: "rcpt"},
		{name: "no room at DATA", server: reply("DATA", "452 4.3.1 no room"), outcome: mailer.Temporary, fault: mailer.FaultNetwork, stage: "data"},
		{name: "drop at DATA", server: drop("DATA"), outcome: mailer.Temporary, fault: mailer.FaultNetwork, stage: "data"},
		{name: "drop within the message", server: drop("BODY"), big: true, outcome: mailer.Temporary, fault: mailer.FaultNetwork, stage: "body"},
		{name: "message is refused", server: reply("DOT", "554 5.6.0 malformed"), outcome: mailer.Permanent, fault: mailer.FaultMessage, stage: "body"},
		{name: "message is put off", server: reply("DOT", "451 4.3.0 disk"), outcome: mailer.Temporary, fault: mailer.FaultNetwork, stage: "body"},
		{name: "unauthenticated sender", server: reply("DOT", "550 5.7.26 SPF and DKIM failed"), outcome: mailer.Permanent, fault: mailer.FaultSender, stage: "body"},
		{name: "drop after the message", server: drop("DOT"), outcome: mailer.Ambiguous, fault: mailer.FaultNetwork, stage: "reply"},
		{name: "silence after the message", server: hang("DOT"), timeout: true, outcome: mailer.Ambiguous, fault: mailer.FaultNetwork, stage: "reply"},
		{name: "silence at MAIL", server: hang("MAIL"), timeout: true, outcome: mailer.Temporary, fault: mailer.FaultNetwork, stage: "mail"},
		{name: "taken, then hung up", server: mailertest.SMTPConfig{TLS: true, Steps: map[string]mailertest.Step{"DOT": {Reply: "250 2.0.0 ok", Drop: true}}},
			outcome: mailer.Sent, stage: "reply"},
	}
}

// TestOutcomeIsWhatTheServerDid runs every failure with and without pipelining,
// and with the message sent either way.
func TestOutcomeIsWhatTheServerDid(t *testing.T) {
	for _, f := range failures() {
		for way := range 4 {
			pipelining, chunking := way&1 == 0, way&2 == 0
			if chunking && f.server.Steps["DATA"] != (mailertest.Step{}) {
				continue // there is no DATA
			}
			name := fmt.Sprintf("%s, pipelined %v, in one piece %v", f.name, pipelining, chunking)
			t.Run(name, func(t *testing.T) {
				srv := mailertest.NewSMTP(t, f.server)
				transport := dialTo(t, srv, func(cfg *mailersmtp.Config) {
					cfg.NoPipelining, cfg.NoChunking = !pipelining, !chunking
					if f.login {
						cfg.Username, cfg.Password = "app", "secret"
					}
					// Only the wait that is in vain is cut short.
					switch {
					case f.timeout && f.stage == "mail":
						cfg.VerbTimeout = 50 * time.Millisecond
					case f.timeout:
						cfg.DataTimeout = 50 * time.Millisecond
					}
				})
				m := message()
				if f.big {
					m.Attachments = []mailer.Attachment{{Name: "a.bin", Data: make([]byte, 6<<20)}}
				}
				res := transport.Send(context.Background(), m)
				assert.Equal(t, f.outcome, res.Outcome, "outcome: %s", res)
				assert.Equal(t, f.fault, res.Fault, "fault: %s", res)
				assert.Equal(t, f.stage, res.Stage, "stage: %s", res)
				assert.NotContains(t, res.String(), "ada@", "an address in a result")
				// What the result says must be what happened.
				taken := false
				for _, r := range srv.Received() {
					taken = taken || r.Accepted
				}
				for _, line := range srv.Commands() {
					assert.False(t, strings.HasPrefix(line, "DATA") && chunking || strings.HasPrefix(line, "BDAT") && !chunking, line)
				}
				if res.Outcome != mailer.Ambiguous {
					assert.Equal(t, res.Outcome == mailer.Sent, taken, "result %s, taken %v", res, taken)
				}
				srv.Close()
			})
		}
	}
}

func TestUnreachableServerIsTheTransportsFault(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{})
	srv.Close()
	res := dialTo(t, srv, nil).Send(context.Background(), message())
	require.Equal(t, mailer.Temporary, res.Outcome)
	require.Equal(t, "connect", res.Stage)
	require.Error(t, res.Err)
}

func TestConnectionSurvivesARefusal(t *testing.T) {
	for _, point := range []string{"RCPT", "DOT"} {
		for _, chunking := range []bool{true, false} {
			srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true, Steps: map[string]mailertest.Step{point: {Reply: "550 5.1.1 unknown", Times: 1}}})
			transport := dialTo(t, srv, func(cfg *mailersmtp.Config) { cfg.Conns, cfg.NoChunking = 1, !chunking })
			require.Equal(t, mailer.Permanent, transport.Send(context.Background(), message()).Outcome)
			require.Equal(t, mailer.Sent, transport.Send(context.Background(), message()).Outcome)
			require.Equal(t, 1, srv.Connections())
			if point == "RCPT" || chunking {
				require.Contains(t, srv.Commands(), "RSET")
			}
		}
	}
}

// In clear, a box between may have taken a command away that the server offers:
// the message would be read as commands.
func TestChunksOnlyWhereNobodyIsBetween(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{})
	transport := dialTo(t, srv, func(cfg *mailersmtp.Config) { cfg.TLS = mailersmtp.Insecure })
	require.Equal(t, mailer.Sent, transport.Send(context.Background(), message()).Outcome)
	require.Contains(t, srv.Commands(), "DATA")
}

func TestStaleConnectionIsReplaced(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	transport := dialTo(t, srv, func(cfg *mailersmtp.Config) { cfg.Conns = 1 })
	require.Equal(t, mailer.Sent, transport.Send(context.Background(), message()).Outcome)
	srv.DropAll()
	res := transport.Send(context.Background(), message())
	require.Equal(t, mailer.Sent, res.Outcome, "%s", res)
	require.Equal(t, 2, srv.Connections())
	require.Len(t, srv.Received(), 2)
}

func TestMessageArrivesAsItIs(t *testing.T) {
	for name, cfg := range map[string]mailertest.SMTPConfig{
		"STARTTLS": {TLS: true}, "implicit TLS": {Implicit: true}, "login": {TLS: true, Users: map[string]string{"app": "secret"}},
		"bare": {TLS: true, Extensions: []string{"8BITMIME"}}, "DATA": {TLS: true, Extensions: []string{"PIPELINING"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := mailertest.NewSMTP(t, cfg)
			transport := dialTo(t, srv, func(c *mailersmtp.Config) {
				if cfg.Implicit {
					c.TLS = mailersmtp.Implicit
				}
				if cfg.Users != nil {
					c.Username, c.Password = "app", "secret"
				}
			})
			res := transport.Send(context.Background(), message())
			require.Equal(t, mailer.Sent, res.Outcome, "%s", res)
			require.Equal(t, "1", res.ProviderID)
			got := srv.Received()
			require.Len(t, got, 1)
			require.True(t, got[0].TLS)
			require.Equal(t, "hello@example.com", got[0].From)
			require.Equal(t, "ada@example.org", got[0].To)
			require.NotContains(t, got[0].Parameters, "SMTPUTF8", "asked for without need")
			require.Contains(t, string(got[0].Data), "\r\n.\r\n.. dots\r\n")
			require.Contains(t, string(got[0].Data), "Message-ID: <abc@example.com>\r\n")
			require.NotContains(t, strings.ToLower(string(got[0].Data)), "go-mail")
		})
	}
}

func TestLoginMechanisms(t *testing.T) {
	users := map[string]string{"app": "secret"}
	for _, mechanism := range []string{"PLAIN", "LOGIN", "SCRAM-SHA-256", "XOAUTH2", ""} {
		for _, password := range []string{"secret", "wrong"} {
			t.Run(mechanism+" "+password, func(t *testing.T) {
				srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true, Users: users})
				transport := dialTo(t, srv, func(c *mailersmtp.Config) {
					c.Username, c.Password, c.Auth = "app", password, mechanism
					if mechanism == "XOAUTH2" {
						c.Password, c.Token = "", func(context.Context) (string, error) { return password, nil }
					}
				})
				err := transport.Check(context.Background())
				if password == "secret" {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, mailersmtp.ErrAuth)
					require.NotContains(t, err.Error(), "wrong")
				}
				for _, line := range srv.Commands() {
					if mechanism == "" && strings.HasPrefix(line, "AUTH") {
						require.Contains(t, line, "SCRAM-SHA-256", "the best mechanism is taken")
					}
				}
			})
		}
	}
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true, Users: users})
	transport := dialTo(t, srv, func(c *mailersmtp.Config) { c.Username, c.Password, c.Auth = "app", "secret", "SCRAM-SHA-1" })
	require.ErrorIs(t, transport.Check(context.Background()), mailersmtp.ErrAuth)
	transport = dialTo(t, srv, func(c *mailersmtp.Config) {
		c.Username, c.Token = "app", func(context.Context) (string, error) { return "", errors.New("expired") }
	})
	require.ErrorContains(t, transport.Check(context.Background()), "expired")
}

func TestConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]mailersmtp.Config{
		"Host":           {},
		"Host must":      {Host: "a b"},
		"Config.TLS":     {Host: "h", TLS: 9},
		"Port":           {Host: "h", Port: 70000},
		"Username":       {Host: "h", Username: "u"},
		"Auth":           {Host: "h", Auth: "CRAM-MD5"},
		"XOAUTH2":        {Host: "h", Username: "u", Password: "p", Auth: "XOAUTH2"},
		"Hello":          {Host: "h", Hello: "a\r\nb"},
		"verifies":       {Host: "h", Username: "u", Password: "p", TLSConfig: &tls.Config{InsecureSkipVerify: true}},
		"Idle":           {Host: "h", Idle: -1},
		"Conns":          {Host: "h", Conns: -1},
		"ConnectTimeout": {Host: "h", ConnectTimeout: -1},
	} {
		_, err := mailersmtp.New(cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestClosedTransportSendsNothing(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	transport := dialTo(t, srv, nil)
	require.Equal(t, mailer.Sent, transport.Send(context.Background(), message()).Outcome)
	require.NoError(t, transport.Close())
	require.ErrorIs(t, transport.Send(context.Background(), message()).Err, mailersmtp.ErrClosed)
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	transport := dialTo(t, srv, func(c *mailersmtp.Config) { c.Idle = time.Millisecond })
	require.Equal(t, mailer.Sent, transport.Send(context.Background(), message()).Outcome)
	require.Eventually(t, func() bool {
		commands := srv.Commands()
		return commands[len(commands)-1] == "QUIT"
	}, 10*time.Second, time.Millisecond)
}

func TestCredentialsNeverGoInClear(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{Extensions: []string{"AUTH PLAIN LOGIN"}})
	transport := dialTo(t, srv, func(c *mailersmtp.Config) { c.Username, c.Password = "app", "secret" })
	res := transport.Send(context.Background(), message())
	require.ErrorIs(t, res.Err, mailersmtp.ErrNoTLS)
	for _, line := range srv.Commands() {
		require.True(t, strings.HasPrefix(line, "EHLO"), "sent in clear: %s", line)
	}
	_, err := mailersmtp.New(mailersmtp.Config{Host: "127.0.0.1", TLS: mailersmtp.Insecure, Username: "app", Password: "secret"})
	require.ErrorContains(t, err, "Insecure")
}

func TestForeignCertificateIsRefused(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	other := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	transport := dialTo(t, srv, func(c *mailersmtp.Config) { c.TLSConfig = other.ClientTLS() })
	res := transport.Send(context.Background(), message())
	require.Equal(t, mailer.Temporary, res.Outcome)
	require.Equal(t, mailer.FaultTransport, res.Fault, "%s", res)
	require.Empty(t, srv.Received())
}

func TestSMTPUTF8OnlyWhereNeeded(t *testing.T) {
	m := message()
	m.To.Email = "jürgen@example.org"
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	res := dialTo(t, srv, nil).Send(context.Background(), m)
	require.Equal(t, mailer.Sent, res.Outcome, "%s", res)
	require.Contains(t, srv.Received()[0].Parameters, "SMTPUTF8")

	without := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true, Extensions: []string{"PIPELINING"}})
	res = dialTo(t, without, nil).Send(context.Background(), m)
	require.Equal(t, mailer.Permanent, res.Outcome)
	require.ErrorContains(t, res.Err, "SMTPUTF8")
	require.Empty(t, without.Received())
}

func TestSizeIsCheckedBeforeSending(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true, Extensions: []string{"PIPELINING", "SIZE 100"}})
	res := dialTo(t, srv, nil).Send(context.Background(), message())
	require.Equal(t, mailer.Permanent, res.Outcome)
	require.Equal(t, mailer.FaultMessage, res.Fault)
}

// A message that is near the limit, or worth a refusal before it is sent, is
// composed first and its exact size declared; any other is composed while the
// server answers.
func TestSizeIsDeclaredWhereItCanMatter(t *testing.T) {
	small, large := message(), message()
	large.Attachments = []mailer.Attachment{{Name: "report.csv", Data: bytes.Repeat([]byte("a,b\n"), 20_000)}}
	for _, c := range []struct {
		limit    string
		m        *mailer.Message
		declared bool
	}{
		{"10485760", small, false}, {"10485760", large, true}, {"", large, true}, {"16000", small, true},
	} {
		srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true, Extensions: []string{"PIPELINING", "SIZE " + c.limit}})
		res := dialTo(t, srv, nil).Send(context.Background(), c.m)
		require.Equal(t, mailer.Sent, res.Outcome, "%s", res)
		got := srv.Received()[0]
		want := ""
		if c.declared {
			want = fmt.Sprint("SIZE=", len(got.Data))
		}
		require.Equal(t, want, got.Parameters)
	}
}

func TestConnectionsAreBoundedAndRenewed(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	transport := dialTo(t, srv, func(c *mailersmtp.Config) { c.Conns, c.MaxMails = 2, 5 })
	done := make(chan mailer.Result)
	for range 20 {
		go func() { done <- transport.Send(context.Background(), message()) }()
	}
	for range 20 {
		res := <-done
		require.Equal(t, mailer.Sent, res.Outcome, "%s", res)
	}
	require.Len(t, srv.Received(), 20)
	require.GreaterOrEqual(t, srv.Connections(), 4)
}

func TestCancelledContextSendsNothing(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true, Steps: map[string]mailertest.Step{"MAIL": {Hang: true}}})
	transport := dialTo(t, srv, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	res := transport.Send(ctx, message())
	require.Equal(t, mailer.Temporary, res.Outcome, "%s", res)
	require.ErrorIs(t, res.Err, context.DeadlineExceeded)
	require.Empty(t, srv.Received())
}

func TestKeyIsHandedOn(t *testing.T) {
	srv := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	transport := dialTo(t, srv, func(c *mailersmtp.Config) { c.KeyHeader = "Resend-Idempotency-Key" })
	require.Equal(t, mailer.Sent, transport.Send(context.Background(), message()).Outcome)
	require.Contains(t, string(srv.Received()[0].Data), "Resend-Idempotency-Key: mail_1\r\n")
}
