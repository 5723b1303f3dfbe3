package mailersmtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/kolekt/commerce/mailer"
)

// conn is one connection that is encrypted, logged in and between mails.
type conn struct {
	cfg    *Config
	raw    net.Conn // deadlines work through the TLS layer above it
	text   *textproto.Conn
	born   time.Time
	mails  int
	dirty  bool // a transaction was begun and not ended: RSET is due
	broken bool
	timer  *time.Timer

	pipelining, chunking, utf8, size bool
	maxSize                          int64
}

// connect opens a connection. When it can't, the result says why; no byte of a
// mail has been sent then.
func (t *Transport) connect(ctx context.Context, m *mailer.Message) (*conn, mailer.Result) {
	cfg := &t.cfg
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	raw, err := dial(ctx, "tcp", t.addr)
	if err != nil {
		return nil, connectFailure(mailer.FaultNetwork, fmt.Errorf("mailersmtp: connect: %w", err))
	}
	// go-mail's client leaves the connection open when a step fails, and reads
	// without a context: both are done here.
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		raw.Close()
		return nil, connectFailure(mailer.FaultNetwork, fmt.Errorf("mailersmtp: connect: %w", err))
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	c, res := t.handshake(ctx, raw, m)
	if !stop() && c != nil {
		return nil, connectFailure(mailer.FaultNetwork, fmt.Errorf("mailersmtp: connect: %w", context.Cause(ctx)))
	}
	if c == nil {
		raw.Close()
		if caller.Err() != nil {
			// The caller gave up: that says nothing about the server.
			res.Stage, res.Fault = "wait", mailer.FaultUnknown
		}
	}
	return c, res
}

func connectFailure(fault mailer.Fault, err error) mailer.Result {
	return mailer.Result{Outcome: mailer.Temporary, Fault: fault, Stage: "connect", Err: err}
}

// handshake goes from the greeting to the login.
func (t *Transport) handshake(ctx context.Context, raw net.Conn, m *mailer.Message) (*conn, mailer.Result) {
	cfg := &t.cfg
	transport := raw
	if cfg.TLS == Implicit {
		transport = tls.Client(raw, cfg.tls())
	}
	client, err := smtp.NewClient(transport, cfg.Host)
	if err != nil {
		return nil, handshakeFailure("greeting", err)
	}
	hello := cfg.Hello
	if hello == "" {
		hello = "localhost"
		if m != nil {
			hello = m.From.Domain()
		}
	}
	if err := client.Hello(hello); err != nil {
		return nil, handshakeFailure("EHLO", err)
	}
	if cfg.TLS == STARTTLS {
		if ok, _ := client.Extension("STARTTLS"); !ok {
			return nil, connectFailure(mailer.FaultTransport, ErrNoTLS)
		}
		// Replies that arrived in clear before the handshake are thrown away
		// with the reader, and EHLO is asked again.
		if err := client.StartTLS(cfg.tls()); err != nil {
			return nil, handshakeFailure("STARTTLS", err)
		}
	}
	if cfg.Username != "" {
		if res, ok := login(ctx, cfg, client); !ok {
			return nil, res
		}
	}
	c := &conn{cfg: cfg, raw: raw, text: client.Text, born: cfg.Now()}
	c.pipelining, _ = client.Extension("PIPELINING")
	c.pipelining = c.pipelining && !cfg.NoPipelining
	// A server that offers BDAT and doesn't know it would read the message as
	// commands. That is a box between which takes commands away, and it can't be
	// where the connection is encrypted.
	c.chunking, _ = client.Extension("CHUNKING")
	c.chunking = c.chunking && !cfg.NoChunking && cfg.TLS != Insecure
	c.utf8, _ = client.Extension("SMTPUTF8")
	var limit string
	c.size, limit = client.Extension("SIZE")
	c.maxSize, _ = strconv.ParseInt(limit, 10, 64) // no number means no limit
	return c, mailer.Result{}
}

func (cfg *Config) tls() *tls.Config {
	c := cfg.TLSConfig.Clone()
	if c == nil {
		c = &tls.Config{}
	}
	if c.ServerName == "" {
		c.ServerName = cfg.Host
	}
	if c.MinVersion < tls.VersionTLS12 {
		c.MinVersion = tls.VersionTLS12
	}
	return c
}

// handshakeFailure reads an error of the steps before a mail. A refusal with a
// code or of a certificate is the transport's; anything else the network's.
func handshakeFailure(step string, err error) mailer.Result {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		_, fault := mailer.ClassifySMTP(reply.Code, enhanced(reply.Msg), "connect")
		res := connectFailure(fault, fmt.Errorf("mailersmtp: %s: %d %s", step, reply.Code, mailer.ScrubText(reply.Msg)))
		res.Code, res.Enhanced = reply.Code, enhanced(reply.Msg)
		return res
	}
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	if errors.As(err, &cert) || errors.As(err, &record) || errors.As(err, &alert) {
		return connectFailure(mailer.FaultTransport, fmt.Errorf("mailersmtp: %s: TLS: %w", step, err))
	}
	return connectFailure(mailer.FaultNetwork, fmt.Errorf("mailersmtp: %s: %w", step, err))
}

func login(ctx context.Context, cfg *Config, client *smtp.Client) (mailer.Result, bool) {
	_, offered := client.Extension("AUTH")
	have := strings.Fields(strings.ToUpper(offered))
	mechanism := cfg.Auth
	switch {
	case mechanism == "" && cfg.Token != nil:
		mechanism = "XOAUTH2"
	case mechanism == "":
		for _, name := range mechanisms {
			if slices.Contains(have, name) {
				mechanism = name
				break
			}
		}
	}
	if !slices.Contains(have, mechanism) {
		return connectFailure(mailer.FaultTransport, fmt.Errorf("%w: the server offers %v", ErrAuth, have)), false
	}
	var auth smtp.Auth
	switch mechanism {
	case "SCRAM-SHA-256-PLUS":
		state, ok := client.TLSConnectionState()
		if !ok {
			return connectFailure(mailer.FaultTransport, fmt.Errorf("%w: channel binding needs TLS", ErrAuth)), false
		}
		auth = smtp.ScramSHA256PlusAuth(cfg.Username, cfg.Password, &state)
	case "SCRAM-SHA-256":
		auth = smtp.ScramSHA256Auth(cfg.Username, cfg.Password)
	case "SCRAM-SHA-1":
		auth = smtp.ScramSHA1Auth(cfg.Username, cfg.Password)
	case "PLAIN":
		auth = smtp.PlainAuth("", cfg.Username, cfg.Password, cfg.Host, false)
	case "LOGIN":
		auth = smtp.LoginAuth(cfg.Username, cfg.Password, cfg.Host, false)
	case "XOAUTH2":
		token, err := cfg.Token(ctx)
		if err != nil {
			return connectFailure(mailer.FaultTransport, fmt.Errorf("%w: token: %w", ErrAuth, err)), false
		}
		auth = smtp.XOAuth2Auth(cfg.Username, token)
	}
	err := client.Auth(auth)
	if err == nil {
		return mailer.Result{}, true
	}
	var reply *textproto.Error
	if !errors.As(err, &reply) {
		var netErr net.Error
		if errors.As(err, &netErr) {
			return handshakeFailure("AUTH", err), false
		}
		// A SASL exchange that failed on our side, such as a server that does
		// not know the password in SCRAM. Its text can quote the exchange.
		return connectFailure(mailer.FaultTransport, fmt.Errorf("%w: %s was not completed", ErrAuth, mechanism)), false
	}
	res := connectFailure(mailer.FaultTransport, fmt.Errorf("%w: %s: %d %s", ErrAuth, mechanism, reply.Code, mailer.ScrubText(reply.Msg)))
	res.Code, res.Enhanced = reply.Code, enhanced(reply.Msg)
	return res, false
}

// quit says goodbye and hangs up; the answer changes nothing.
func (c *conn) quit() {
	if c.raw.SetDeadline(time.Now().Add(2*time.Second)) == nil && c.text.PrintfLine("QUIT") == nil {
		_, _, _ = c.text.ReadResponse(221)
	}
	c.raw.Close()
}
