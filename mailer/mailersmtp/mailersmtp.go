// Package mailersmtp sends the messages of package mailer over SMTP: on pooled
// connections, encrypted, two round trips for a mail, and with an exact answer
// to what became of it.
//
//	smtp, err := mailersmtp.New(mailersmtp.Config{
//		Host: "smtp.example.com", Username: "app", Password: password,
//	})
//
// STARTTLS is mandatory unless the Config says otherwise, and credentials never
// cross an unencrypted connection, whatever it says. Composition and SASL are
// github.com/wneessen/go-mail's.
package mailersmtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kolekt/commerce/mailer"
)

// TLS says how a connection is encrypted.
type TLS int

// The modes.
const (
	// STARTTLS is mandatory: a server that doesn't offer it gets no mail.
	STARTTLS TLS = iota
	// Implicit encrypts from the first byte, usually on port 465 (RFC 8314).
	Implicit
	// Insecure sends in clear, for a mail catcher on the developer's machine.
	// It can't be combined with credentials.
	Insecure
)

// Config of a [Transport]. Host is required.
type Config struct {
	Host string
	// Port is 587 by default, 465 with Implicit.
	Port int
	TLS  TLS
	// TLSConfig overrides roots, certificates or the server's name.
	TLSConfig *tls.Config

	// Username and Password log in; both empty means without.
	Username, Password string
	// Token, if set, is asked for an OAuth 2 access token instead of Password
	// (XOAUTH2). It is called for each connection.
	Token func(ctx context.Context) (string, error)
	// Auth is the mechanism: SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1,
	// PLAIN, LOGIN or XOAUTH2. Empty takes the best that the server offers.
	Auth string

	// Hello is the name that the client gives. Empty means the sender's domain.
	Hello string
	// Name is what results call this transport. Empty means "smtp".
	Name string
	// KeyHeader hands the idempotency key on in a header, for a relay that
	// honours one, such as "Resend-Idempotency-Key".
	KeyHeader string

	// Conns is how many connections are open at most. Zero means 4.
	Conns int
	// Idle is how long an unused connection stays open. Zero means 30 s, below
	// what servers grant.
	Idle time.Duration
	// MaxMails and MaxAge renew a connection. Zero means 100 mails, 5 minutes.
	MaxMails int
	MaxAge   time.Duration
	// ConnectTimeout bounds connecting, TLS and login together. Zero means 30 s.
	ConnectTimeout time.Duration
	// VerbTimeout bounds the reply to a command. Zero means 60 s.
	VerbTimeout time.Duration
	// DataTimeout bounds the message and the reply to it. Zero means 2 minutes;
	// RFC 5321 asks for 10, and answering in less is what servers do.
	DataTimeout time.Duration
	// NoPipelining sends one command at a time even where the server offers
	// PIPELINING (RFC 2920).
	NoPipelining bool
	// NoChunking sends the message with DATA even where the server offers
	// CHUNKING (RFC 3030) on an encrypted connection.
	NoChunking bool

	// Dial replaces the dialler, for a proxy.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock for ages. Nil means time.Now.
	Now func() time.Time
}

// Errors about the connection, before any mail. Match them with errors.Is.
var (
	// ErrNoTLS says that the server offers no STARTTLS.
	ErrNoTLS = errors.New("mailersmtp: the server does not offer STARTTLS; nothing was sent (an attacker may have removed it)")
	// ErrAuth says that the server refused the credentials, or offers no
	// mechanism that can be used.
	ErrAuth = errors.New("mailersmtp: login failed")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("mailersmtp: the transport is closed")
)

var mechanisms = []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN"}

// Transport is a mailer.Transport over SMTP. It is safe for concurrent use;
// sends beyond Config.Conns wait. It has no goroutines of its own.
type Transport struct {
	cfg   Config
	addr  string
	slots chan struct{}
	bufs  sync.Pool // *bytes.Buffer

	mu     sync.Mutex
	idle   []*conn // the newest last
	closed bool
}

var _ mailer.Transport = (*Transport)(nil)

// New makes a Transport. It does not connect.
func New(cfg Config) (*Transport, error) {
	bad := func(format string, args ...any) (*Transport, error) {
		return nil, fmt.Errorf("mailersmtp: Config."+format, args...)
	}
	if cfg.Host == "" || strings.ContainsAny(cfg.Host, " \r\n\t/@") {
		return bad("Host must be a host name or an address, without a port")
	}
	if cfg.TLS < STARTTLS || cfg.TLS > Insecure {
		return bad("TLS must be STARTTLS, Implicit or Insecure")
	}
	if cfg.TLS == Insecure && (cfg.Username != "" || cfg.Password != "" || cfg.Token != nil) {
		return bad("TLS is Insecure: credentials are not sent in clear, use STARTTLS or Implicit")
	}
	if cfg.Port == 0 {
		cfg.Port = map[TLS]int{STARTTLS: 587, Implicit: 465, Insecure: 25}[cfg.TLS]
	}
	if cfg.Port < 1 || cfg.Port > 65535 {
		return bad("Port must be from 1 to 65535")
	}
	if (cfg.Username == "") != (cfg.Password == "" && cfg.Token == nil) {
		return bad("Username needs a Password or a Token, and they need it")
	}
	if cfg.Auth != "" && cfg.Auth != "XOAUTH2" && cfg.Auth != "SCRAM-SHA-256-PLUS" && !slices.Contains(mechanisms, cfg.Auth) {
		return bad("Auth %q is unknown", cfg.Auth)
	}
	if cfg.Auth == "XOAUTH2" && cfg.Token == nil {
		return bad("Auth is XOAUTH2: it needs a Token")
	}
	if strings.ContainsFunc(cfg.Hello, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return bad("Hello must be a host name")
	}
	if cfg.TLSConfig != nil && cfg.TLSConfig.InsecureSkipVerify && cfg.Username != "" && !loopback(cfg.Host) {
		return bad("TLSConfig verifies nothing: credentials would go to whoever answers")
	}
	for _, d := range []struct {
		name       string
		value, def *time.Duration
	}{
		{"Idle", &cfg.Idle, ptr(30 * time.Second)}, {"MaxAge", &cfg.MaxAge, ptr(5 * time.Minute)},
		{"ConnectTimeout", &cfg.ConnectTimeout, ptr(30 * time.Second)}, {"VerbTimeout", &cfg.VerbTimeout, ptr(time.Minute)},
		{"DataTimeout", &cfg.DataTimeout, ptr(2 * time.Minute)},
	} {
		if *d.value == 0 {
			*d.value = *d.def
		}
		if *d.value < 0 {
			return bad("%s can't be negative", d.name)
		}
	}
	if cfg.Conns == 0 {
		cfg.Conns = 4
	}
	if cfg.MaxMails == 0 {
		cfg.MaxMails = 100
	}
	if cfg.Conns < 0 || cfg.MaxMails < 0 {
		return bad("Conns and MaxMails can't be negative")
	}
	if cfg.Name == "" {
		cfg.Name = "smtp"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Transport{cfg: cfg, addr: net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)), slots: make(chan struct{}, cfg.Conns),
		bufs: sync.Pool{New: func() any { return new(bytes.Buffer) }}}, nil
}

// spare keeps a buffer for another mail, unless an attachment has made it large.
func (t *Transport) spare(b *bytes.Buffer) {
	if b.Cap() <= 256<<10 {
		t.bufs.Put(b)
	}
}

func ptr(d time.Duration) *time.Duration { return &d }

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Send implements mailer.Transport. The context is honoured until the end of
// the message is about to be sent; after that the server's answer is waited
// for, because giving up would make the outcome unknown.
func (t *Transport) Send(ctx context.Context, m *mailer.Message) mailer.Result {
	res := t.send(ctx, m)
	res.Transport = t.cfg.Name
	return res
}

func (t *Transport) send(ctx context.Context, m *mailer.Message) mailer.Result {
	if t.cfg.KeyHeader != "" && m.Key != "" {
		changed := *m
		changed.Headers = append(slices.Clone(m.Headers), mailer.Header{Name: t.cfg.KeyHeader, Value: m.Key})
		m = &changed
	}
	if err := m.Validate(); err != nil {
		return mailer.Invalid(err)
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return mailer.Result{Outcome: mailer.Temporary, Stage: "wait", Err: ctx.Err()}
	}
	c, reused, res := t.take(ctx, m)
	if c == nil {
		return res
	}
	l := &letter{Message: m, buf: t.bufs.Get().(*bytes.Buffer)}
	defer t.spare(l.buf)
	res, stale := c.transact(ctx, l)
	if stale && reused {
		// The server had closed the connection while it was idle, before it
		// saw anything of this mail.
		if c, res = t.connect(ctx, m); c == nil {
			return res
		}
		res, _ = c.transact(ctx, l)
	}
	t.put(c)
	return res
}

// take returns a connection that was idle, or a new one.
func (t *Transport) take(ctx context.Context, m *mailer.Message) (c *conn, reused bool, res mailer.Result) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, false, mailer.Result{Outcome: mailer.Temporary, Fault: mailer.FaultTransport, Stage: "connect", Err: ErrClosed}
	}
	for len(t.idle) > 0 {
		c = t.idle[len(t.idle)-1]
		t.idle = t.idle[:len(t.idle)-1]
		// A timer that has fired is about to close the connection.
		if c.timer.Stop() {
			t.mu.Unlock()
			return c, true, res
		}
	}
	t.mu.Unlock()
	c, res = t.connect(ctx, m)
	return c, false, res
}

// put keeps the connection for the next mail, or closes it.
func (t *Transport) put(c *conn) {
	if c.broken {
		c.raw.Close()
		return
	}
	t.mu.Lock()
	if t.closed || c.mails >= t.cfg.MaxMails || t.cfg.Now().Sub(c.born) >= t.cfg.MaxAge {
		t.mu.Unlock()
		c.quit()
		return
	}
	defer t.mu.Unlock()
	t.idle = append(t.idle, c)
	c.timer = time.AfterFunc(t.cfg.Idle, func() { t.expire(c) })
}

func (t *Transport) expire(c *conn) {
	t.mu.Lock()
	t.idle = slices.DeleteFunc(t.idle, func(other *conn) bool { return other == c })
	t.mu.Unlock()
	c.quit()
}

// Close ends idle connections and refuses further sends; those under way finish.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	idle := t.idle
	t.idle = nil
	t.mu.Unlock()
	for _, c := range idle {
		if c.timer.Stop() {
			c.quit()
		}
	}
	return nil
}

// Check connects, encrypts and logs in, and hangs up: for a readiness probe or
// the start of a program.
func (t *Transport) Check(ctx context.Context) error {
	c, res := t.connect(ctx, nil)
	if c == nil {
		return res.Err
	}
	c.quit()
	return nil
}
