package mailertest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Step is what a scripted server does at a point of the dialogue instead of
// saying yes. The points are "GREETING", "EHLO", "STARTTLS", "AUTH", "MAIL",
// "RCPT", "DATA", "BODY" (while the message comes in), "DOT" (after it, also
// when it came with BDAT) and "RSET".
type Step struct {
	// Reply is sent instead of the usual answer, such as "550 5.1.1 unknown".
	Reply string
	// Drop closes the connection, after Reply if there is one.
	Drop bool
	// Delay comes before the answer, as on a long way.
	Delay time.Duration
	// Hang leaves the client waiting.
	Hang bool
	// Times limits the step to the first so many arrivals at this point; zero
	// means always.
	Times int
}

// SMTPConfig scripts an [SMTP] server. The zero value accepts everything.
type SMTPConfig struct {
	Steps map[string]Step
	// TLS offers STARTTLS with a certificate that [SMTP.ClientTLS] trusts.
	TLS bool
	// Implicit speaks TLS from the first byte.
	Implicit bool
	// Users maps names to passwords (XOAUTH2: to tokens) and offers AUTH PLAIN,
	// LOGIN, SCRAM-SHA-256 and XOAUTH2, over TLS only. A login is then required.
	Users map[string]string
	// Extensions are offered; nil means PIPELINING, CHUNKING, SIZE, 8BITMIME,
	// SMTPUTF8 and ENHANCEDSTATUSCODES.
	Extensions []string
}

// Received is a message that the server took, or began to take.
type Received struct {
	From, To   string
	Parameters string // of MAIL
	User       string
	TLS        bool
	Data       []byte // without dot-stuffing
	Accepted   bool   // it was answered with 250
}

// SMTP is a scripted SMTP server for tests. It can misbehave at every verb.
type SMTP struct {
	Host string
	Port int

	cfg      SMTPConfig
	listener net.Listener
	cert     tls.Certificate
	roots    *x509.CertPool
	wg       sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]bool
	seen     map[string]int
	received []Received
	arrived  chan struct{} // closed and replaced with each message
	commands []string
	closed   bool
	dials    int
}

// NewSMTP starts a server that ends with the test.
func NewSMTP(t testing.TB, cfg SMTPConfig) *SMTP {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("mailertest: %v", err)
	}
	s := &SMTP{cfg: cfg, listener: l, conns: map[net.Conn]bool{}, seen: map[string]int{}, arrived: make(chan struct{})}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	s.Host = host
	s.Port, _ = strconv.Atoi(port)
	if s.cfg.Extensions == nil {
		s.cfg.Extensions = []string{"PIPELINING", "CHUNKING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"}
	}
	if cfg.TLS || cfg.Implicit {
		s.cert, s.roots, err = selfSigned()
		if err != nil {
			t.Fatalf("mailertest: %v", err)
		}
	}
	s.wg.Add(1)
	go s.accept()
	t.Cleanup(s.Close)
	return s
}

// selfSigned makes a certificate for 127.0.0.1 and the pool that trusts it.
func selfSigned() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mailertest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool, nil
}

// ClientTLS returns a client's configuration that trusts the server.
func (s *SMTP) ClientTLS() *tls.Config { return &tls.Config{RootCAs: s.roots} }

// Received returns the messages so far, in the order of their MAIL commands.
func (s *SMTP) Received() []Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Received(nil), s.received...)
}

// Wait returns when n messages have come in, or with the context's error.
func (s *SMTP) Wait(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		have, arrived := len(s.received), s.arrived
		s.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return fmt.Errorf("mailertest: %d of %d messages came in: %w", have, n, ctx.Err())
		}
	}
}

// Commands returns every command line so far.
func (s *SMTP) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// Connections returns how many connections have been made.
func (s *SMTP) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// DropAll closes all connections, as a server does with idle ones.
func (s *SMTP) DropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// Close ends the server.
func (s *SMTP) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	s.DropAll()
	s.wg.Wait()
}

func (s *SMTP) accept() {
	defer s.wg.Done()
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = true
		s.dials++
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			(&session{s: s, raw: c, conn: c}).serve()
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

// step returns the scripted step of a point, if it applies this time.
func (s *SMTP) step(point string) (Step, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	step, ok := s.cfg.Steps[point]
	s.seen[point]++
	if !ok || step.Times > 0 && s.seen[point] > step.Times {
		return Step{}, false
	}
	return step, true
}

type session struct {
	s       *SMTP
	raw     net.Conn
	conn    net.Conn
	r       *bufio.Reader
	user    string
	secure  bool
	current *Received
	chunks  []byte // of BDAT, so far
}

// say answers a point with its step or the usual reply; goOn false ends the
// session.
func (c *session) say(point, usual string) (positive, goOn bool) {
	return c.answer(point, usual, nil)
}

// answer is say with a function that is told whether the answer is positive
// before a client can see it.
func (c *session) answer(point, usual string, decided func(positive bool)) (positive, goOn bool) {
	reply := usual
	step, ok := c.s.step(point)
	if ok {
		if step.Hang {
			_, _ = io.Copy(io.Discard, c.conn) // until the client or the test hangs up
			return false, false
		}
		time.Sleep(step.Delay)
		if step.Reply != "" || step.Drop {
			reply = step.Reply
		}
	}
	positive = reply != "" && reply[0] < '4'
	if decided != nil {
		decided(positive)
	}
	if reply != "" {
		if _, err := io.WriteString(c.conn, strings.ReplaceAll(reply, "\n", "\r\n")+"\r\n"); err != nil {
			return false, false
		}
	}
	return positive, !step.Drop
}

func (c *session) serve() {
	if c.s.cfg.Implicit && !c.encrypt() {
		return
	}
	c.r = bufio.NewReader(c.conn)
	if _, ok := c.say("GREETING", "220 mailertest ESMTP"); !ok {
		return
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		c.s.mu.Lock()
		c.s.commands = append(c.s.commands, line)
		c.s.mu.Unlock()
		verb, rest, _ := strings.Cut(line, " ")
		if !c.command(strings.ToUpper(verb), rest) {
			return
		}
	}
}

func (c *session) command(verb, rest string) bool {
	switch verb {
	case "EHLO", "HELO":
		_, ok := c.say("EHLO", c.hello())
		return ok
	case "STARTTLS":
		if positive, ok := c.say("STARTTLS", "220 2.0.0 go ahead"); !ok || !positive {
			return ok
		}
		if !c.encrypt() {
			return false
		}
		c.r = bufio.NewReader(c.conn)
		return true
	case "AUTH":
		return c.auth(rest)
	case "MAIL":
		if len(c.s.cfg.Users) > 0 && c.user == "" {
			_, ok := c.say("MAIL", "530 5.7.0 authentication required")
			return ok
		}
		if c.current != nil {
			_, ok := c.say("MAIL", "503 5.5.1 sender already specified")
			return ok
		}
		positive, ok := c.say("MAIL", "250 2.1.0 ok")
		if positive {
			from, parameters := path(rest)
			c.current = &Received{From: from, Parameters: parameters, User: c.user, TLS: c.secure}
		}
		return ok
	case "RCPT":
		if c.current == nil {
			_, ok := c.say("RCPT", "503 5.5.1 MAIL first")
			return ok
		}
		positive, ok := c.say("RCPT", "250 2.1.5 ok")
		if positive {
			c.current.To, _ = path(rest)
		}
		return ok
	case "DATA":
		if c.current == nil || c.current.To == "" {
			_, ok := c.say("DATA", "503 5.5.1 RCPT first")
			return ok
		}
		positive, ok := c.say("DATA", "354 go ahead")
		if !positive || !ok {
			return ok
		}
		return c.data()
	case "BDAT":
		return c.bdat(rest)
	case "RSET":
		c.current, c.chunks = nil, nil
		_, ok := c.say("RSET", "250 2.0.0 ok")
		return ok
	case "NOOP":
		_, ok := c.say("NOOP", "250 2.0.0 ok")
		return ok
	case "QUIT":
		c.say("QUIT", "221 2.0.0 bye")
		return false
	}
	_, ok := c.say(verb, "500 5.5.1 unknown command")
	return ok
}

func (c *session) hello() string {
	lines := append([]string{"mailertest"}, c.s.cfg.Extensions...)
	if c.s.cfg.TLS && !c.secure {
		lines = append(lines, "STARTTLS")
	}
	if len(c.s.cfg.Users) > 0 && c.secure {
		lines = append(lines, "AUTH PLAIN LOGIN SCRAM-SHA-256 XOAUTH2")
	}
	var b strings.Builder
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		fmt.Fprintf(&b, "250%s%s", sep, l)
		if sep == "-" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (c *session) encrypt() bool {
	secure := tls.Server(c.raw, &tls.Config{Certificates: []tls.Certificate{c.s.cert}})
	if secure.Handshake() != nil {
		return false
	}
	c.conn, c.secure = secure, true
	return true
}

func (c *session) data() bool {
	if step, ok := c.s.step("BODY"); ok && step.Drop {
		_, _ = c.r.ReadString('\n') // the client has begun
		return false
	}
	var body []byte
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		body = append(body, strings.TrimPrefix(line, ".")...)
	}
	return c.take(body)
}

// bdat reads a chunk whatever it thinks of it, as RFC 3030 wants.
func (c *session) bdat(rest string) bool {
	length, last, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(length, 10, 31)
	if err != nil || last != "" && !strings.EqualFold(last, "LAST") {
		return false // what follows can't be told from commands
	}
	if step, ok := c.s.step("BODY"); ok && step.Drop {
		_, _ = c.r.ReadByte() // the client has begun
		return false
	}
	chunk := make([]byte, n)
	if _, err := io.ReadFull(c.r, chunk); err != nil {
		return false
	}
	if c.current == nil || c.current.To == "" {
		_, ok := c.say("BDAT", "503 5.5.1 RCPT first")
		return ok
	}
	c.chunks = append(c.chunks, chunk...)
	if last == "" {
		_, ok := c.say("BDAT", "250 2.0.0 more")
		return ok
	}
	body := c.chunks
	c.chunks = nil
	return c.take(body)
}

// take records a message that is complete and answers it.
func (c *session) take(body []byte) bool {
	got := *c.current
	got.Data = body
	c.current = nil
	c.s.mu.Lock()
	c.s.received = append(c.s.received, got)
	at := len(c.s.received) - 1
	close(c.s.arrived)
	c.s.arrived = make(chan struct{})
	c.s.mu.Unlock()
	_, ok := c.answer("DOT", "250 2.0.0 Ok: queued as "+strconv.Itoa(at+1), func(positive bool) {
		// Also when the client has gone: a server that took a mail delivers it.
		c.s.mu.Lock()
		c.s.received[at].Accepted = positive
		c.s.mu.Unlock()
	})
	return ok
}

// path splits "FROM:<a@b> SIZE=1" into the path and the parameters, as a
// tolerant server does: at the first closing bracket.
func path(s string) (address, parameters string) {
	_, s, _ = strings.Cut(s, "<")
	address, parameters, _ = strings.Cut(s, ">")
	return address, strings.TrimSpace(parameters)
}
