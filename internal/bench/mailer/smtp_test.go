package mailer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	gomail "github.com/wneessen/go-mail"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailersmtp"
)

// sink is a go-smtp server with STARTTLS that counts and forgets.
type sink struct {
	host  string
	port  int
	roots *x509.CertPool
	count atomic.Int64
}

func (s *sink) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{s}, nil }

type session struct{ s *sink }

func (*session) Reset()                               {}
func (*session) Logout() error                        { return nil }
func (*session) Mail(string, *smtp.MailOptions) error { return nil }
func (*session) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (ss *session) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	ss.s.count.Add(1)
	return nil
}

func startSink(t testing.TB) *sink {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{host: "127.0.0.1", port: l.Addr().(*net.TCPAddr).Port, roots: x509.NewCertPool()}
	s.roots.AddCert(leaf)
	srv := smtp.NewServer(s)
	srv.Domain = "sink"
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.MaxMessageBytes = 10 << 20
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return s
}

// delayed forwards to a port, each way with half of the round trip's time.
func delayed(t testing.TB, port int, rtt time.Duration) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	pipe := func(dst, src net.Conn) {
		type chunk struct {
			b  []byte
			at time.Time
		}
		queue := make(chan chunk, 10000)
		go func() {
			for c := range queue {
				time.Sleep(time.Until(c.at))
				if _, err := dst.Write(c.b); err != nil {
					break
				}
			}
			dst.Close()
		}()
		for {
			b := make([]byte, 32<<10)
			n, err := src.Read(b)
			if n > 0 {
				queue <- chunk{b[:n], time.Now().Add(rtt / 2)}
			}
			if err != nil {
				close(queue)
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", itoa(port)))
			if err != nil {
				in.Close()
				continue
			}
			go pipe(out, in)
			go pipe(in, out)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

var (
	text = strings.Repeat("Your quota on the Free plan starts again on the first.\n", 15)
	html = strings.Repeat("<p style=\"margin:0 0 16px\">Your quota on the <strong>Free</strong> plan starts again.</p>\n", 40)
)

// ours is a message of about 5 KB, composed for each send.
func ours() *mailer.Message {
	return &mailer.Message{ID: "mail_1", Key: "mail_1", MessageID: "abc@example.com", Kind: "bench", Stream: "bench",
		From: mailer.Address{Name: "Example", Email: "hello@example.com"}, To: mailer.Address{Name: "Ada", Email: "ada@example.org"},
		Subject: "8 of 10 used", Text: text, HTML: html, Date: time.Now()}
}

func theirs() *gomail.Msg {
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	_ = m.FromFormat("Example", "hello@example.com")
	_ = m.AddToFormat("Ada", "ada@example.org")
	m.Subject("8 of 10 used")
	m.SetDate()
	m.SetMessageIDWithValue("abc@example.com")
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader("X-Auto-Response-Suppress", "All")
	m.SetGenHeader("Feedback-ID", "bench:bench:example.com")
	m.SetBodyString(gomail.TypeTextPlain, text)
	m.AddAlternativeString(gomail.TypeTextHTML, html)
	return m
}

// sender is a way to send; send is called by one goroutine for each of conns.
type sender struct {
	name  string
	conns int
	open  func(t testing.TB, s *sink, port int) (send func(worker int) error, done func())
}

func goMail(name string, conns int, opts ...gomail.Option) sender {
	return sender{name, conns, func(t testing.TB, s *sink, port int) (func(int) error, func()) {
		clients := make([]*gomail.Client, conns)
		for i := range clients {
			c, err := gomail.NewClient(s.host, append([]gomail.Option{gomail.WithPort(port), gomail.WithTLSPolicy(gomail.TLSMandatory),
				gomail.WithTLSConfig(&tls.Config{RootCAs: s.roots, ServerName: s.host}), gomail.WithHELO("client.example.com")}, opts...)...)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.DialWithContext(context.Background()); err != nil {
				t.Fatal(err)
			}
			clients[i] = c
		}
		return func(w int) error { return clients[w].Send(theirs()) }, func() {
			for _, c := range clients {
				_ = c.Close()
			}
		}
	}}
}

func commerce(conns int) sender {
	return sender{"commerce", conns, func(t testing.TB, s *sink, port int) (func(int) error, func()) {
		tr, err := mailersmtp.New(mailersmtp.Config{Host: s.host, Port: port, TLSConfig: &tls.Config{RootCAs: s.roots}, Conns: conns,
			MaxMails: 1 << 30, Hello: "client.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		return func(int) error {
			res := tr.Send(context.Background(), ours())
			if res.Outcome != mailer.Sent {
				return res.Err
			}
			return nil
		}, func() { _ = tr.Close() }
	}}
}

// run sends n mails and returns how long it took.
func run(t testing.TB, s sender, sk *sink, port, n int) time.Duration {
	t.Helper()
	send, done := s.open(t, sk, port)
	defer done()
	for w := range s.conns { // connections and login are not measured
		if err := send(w); err != nil {
			t.Fatal(err)
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for w := range s.conns {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := send(w); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func TestTableThroughput(t *testing.T) {
	sk := startSink(t)
	rows := []sender{goMail("go-mail, reused", 1), goMail("go-mail, reused, no NOOP, no RSET", 1, gomail.WithoutNoop(), gomail.WithoutRset()), commerce(1),
		goMail("go-mail, one client for each connection", 8), goMail("go-mail, the same, no NOOP, no RSET", 8, gomail.WithoutNoop(), gomail.WithoutRset()), commerce(8)}
	const n, rounds = 1500, 7
	took := make([][]time.Duration, len(rows))
	for range rounds {
		for i, s := range rows {
			took[i] = append(took[i], run(t, s, sk, sk.port, n))
		}
	}
	base := map[int]time.Duration{1: median(took[0]), 8: median(took[3])}
	best := map[int]time.Duration{1: fastest(took[0]), 8: fastest(took[3])}
	t.Logf("5 KB multipart, STARTTLS, loopback, %d mails, %d rounds interleaved", n, rounds)
	for i, s := range rows {
		t.Logf("%d conn  %-42s median %6.0f/s  best %6.0f/s  ratio to go-mail %.2f (best %.2f)", s.conns, s.name, per(n, median(took[i])), per(n, fastest(took[i])),
			float64(base[s.conns])/float64(median(took[i])), float64(best[s.conns])/float64(fastest(took[i])))
	}
}

func TestTableDistance(t *testing.T) {
	sk := startSink(t)
	port := delayed(t, sk.port, 20*time.Millisecond)
	rows := []sender{goMail("go-mail, reused", 1), goMail("go-mail, reused, no NOOP, no RSET", 1, gomail.WithoutNoop(), gomail.WithoutRset()), commerce(1)}
	const n, rounds = 20, 3
	took := make([][]time.Duration, len(rows))
	for range rounds {
		for i, s := range rows {
			took[i] = append(took[i], run(t, s, sk, port, n))
		}
	}
	for i, s := range rows {
		t.Logf("20 ms away, 1 conn  %-36s median %5.1f ms a mail  best %5.1f  ratio to go-mail %.2f", s.name, ms(median(took[i]))/n, ms(fastest(took[i]))/n,
			float64(median(took[0]))/float64(median(took[i])))
	}
}
