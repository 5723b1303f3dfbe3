package mailertest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
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
// "RCPT", "DATA", "BODY" (while the message comes in), "DOT" (after it) and
// "RSET".
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
	// Extensions are offered; nil means PIPELINING, SIZE, 8BITMIME, SMTPUTF8
	// and ENHANCEDSTATUSCODES.
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
		s.cfg.Extensions = []string{"PIPELINING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"}
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
}

// say answers a point with its step or the usual reply; false ends the session.
func (c *session) say(point, usual string) (positive, goOn bool) {
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
	if reply != "" {
		if _, err := io.WriteString(c.conn, strings.ReplaceAll(reply, "\n", "\r\n")+"\r\n"); err != nil {
			return false, false
		}
	}
	return reply != "" && reply[0] < '4', !step.Drop
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
	case "RSET":
		c.current = nil
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

func (c *session) auth(rest string) bool {
	mechanism, initial, _ := strings.Cut(rest, " ")
	ask := func(prompt string) (string, bool) {
		if _, err := io.WriteString(c.conn, "334 "+base64.StdEncoding.EncodeToString([]byte(prompt))+"\r\n"); err != nil {
			return "", false
		}
		line, err := c.r.ReadString('\n')
		answer, decodeErr := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		return string(answer), err == nil && decodeErr == nil
	}
	if strings.EqualFold(mechanism, "SCRAM-SHA-256") {
		return c.scram(initial, ask)
	}
	var user, password string
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		decoded, err := base64.StdEncoding.DecodeString(initial)
		parts := strings.Split(string(decoded), "\x00")
		if err == nil && len(parts) == 3 {
			user, password = parts[1], parts[2]
		}
	case "XOAUTH2":
		decoded, err := base64.StdEncoding.DecodeString(initial)
		rest, ok := strings.CutPrefix(string(decoded), "user=")
		if name, bearer, cut := strings.Cut(rest, "\x01auth=Bearer "); err == nil && ok && cut {
			user, password = name, strings.TrimRight(bearer, "\x01")
		}
	case "LOGIN":
		var ok bool
		if user, ok = ask("Username:"); !ok {
			return false
		}
		if password, ok = ask("Password:"); !ok {
			return false
		}
	}
	want, known := c.s.cfg.Users[user]
	return c.admit(user, known && want == password)
}

// admit ends an AUTH exchange.
func (c *session) admit(user string, good bool) bool {
	if !good {
		_, ok := c.say("AUTH", "535 5.7.8 authentication failed")
		return ok
	}
	positive, ok := c.say("AUTH", "235 2.7.0 welcome")
	if positive {
		c.user = user
	}
	return ok
}

// scram is the server's side of RFC 7677, without channel binding.
func (c *session) scram(initial string, ask func(string) (string, bool)) bool {
	first, err := base64.StdEncoding.DecodeString(initial)
	if initial == "" {
		answer, ok := ask("")
		if !ok {
			return false
		}
		first = []byte(answer)
	}
	bare, ok := strings.CutPrefix(string(first), "n,,")
	fields := strings.Split(bare, ",")
	if err != nil || !ok || len(fields) < 2 {
		return c.admit("", false)
	}
	user := strings.TrimPrefix(fields[0], "n=")
	nonce := strings.TrimPrefix(fields[1], "r=") + rand.Text()
	salt := []byte("mailertest salt")
	serverFirst := fmt.Sprintf("r=%s,s=%s,i=4096", nonce, base64.StdEncoding.EncodeToString(salt))
	final, ok := ask(serverFirst)
	if !ok {
		return false
	}
	withoutProof, proof, _ := strings.Cut(final, ",p=")
	password, known := c.s.cfg.Users[user]
	salted, err := pbkdf2.Key(sha256.New, password, salt, 4096, 32)
	if err != nil {
		return false
	}
	sign := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	clientKey := sign(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	auth := bare + "," + serverFirst + "," + withoutProof
	want := make([]byte, len(clientKey))
	subtle.XORBytes(want, clientKey, sign(stored[:], auth))
	if !known || base64.StdEncoding.EncodeToString(want) != proof || !strings.Contains(withoutProof, "r="+nonce) {
		return c.admit("", false)
	}
	if _, ok := ask("v=" + base64.StdEncoding.EncodeToString(sign(sign(salted, "Server Key"), auth))); !ok {
		return false
	}
	return c.admit(user, true)
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
	got := *c.current
	got.Data = body
	c.current = nil
	c.s.mu.Lock()
	c.s.received = append(c.s.received, got)
	at := len(c.s.received) - 1
	close(c.s.arrived)
	c.s.arrived = make(chan struct{})
	c.s.mu.Unlock()
	positive, ok := c.say("DOT", "250 2.0.0 Ok: queued as "+strconv.Itoa(at+1))
	c.s.mu.Lock()
	c.s.received[at].Accepted = positive
	c.s.mu.Unlock()
	return ok
}

// path splits "FROM:<a@b> SIZE=1" into the path and the parameters, as a
// tolerant server does: at the first closing bracket.
func path(s string) (address, parameters string) {
	_, s, _ = strings.Cut(s, "<")
	address, parameters, _ = strings.Cut(s, ">")
	return address, strings.TrimSpace(parameters)
}
