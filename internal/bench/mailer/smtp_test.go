package mailer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
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

// sink is a go-smtp server with STARTTLS that forgets what it takes.
type sink struct {
	host  string
	port  int
	roots *x509.CertPool
}

func (*sink) NewSession(*smtp.Conn) (smtp.Session, error) { return session{}, nil }

type session struct{}

func (session) Reset()                               {}
func (session) Logout() error                        { return nil }
func (session) Mail(string, *smtp.MailOptions) error { return nil }
func (session) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (session) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// TestMain is also the process of a sink.
func TestMain(m *testing.M) {
	if os.Getenv("BENCH_SINK") != "" {
		if err := serveSink(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveSink serves until its standard input ends, and prints the port and the
// certificate.
func serveSink() error {
	srv, l, der, err := newSink(new(sink))
	if err != nil {
		return err
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port, base64.StdEncoding.EncodeToString(der))
	go func() { _ = srv.Serve(l) }()
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, srv.Close())
}

func newSink(s *sink) (*smtp.Server, net.Listener, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, err
	}
	srv := smtp.NewServer(s)
	srv.Domain = "sink"
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.MaxMessageBytes = 10 << 20
	return srv, l, der, nil
}

// trusting fills in where the sink is, and trusts its certificate.
func (s *sink) trusting(t testing.TB, port int, der []byte) *sink {
	t.Helper()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s.host, s.port, s.roots = "127.0.0.1", port, x509.NewCertPool()
	s.roots.AddCert(leaf)
	return s
}

// startSink starts a sink in this process.
func startSink(t testing.TB) *sink {
	t.Helper()
	s := new(sink)
	srv, l, der, err := newSink(s)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return s.trusting(t, l.Addr().(*net.TCPAddr).Port, der)
}

// startSinkProcess starts a sink in a process of its own, as servers are.
func startSinkProcess(t testing.TB) *sink {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), "BENCH_SINK=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	var port int
	var der []byte
	if _, err := fmt.Fscan(out, &port, &der); err != nil {
		t.Fatal(err)
	}
	if der, err = base64.StdEncoding.DecodeString(string(der)); err != nil {
		t.Fatal(err)
	}
	return new(sink).trusting(t, port, der)
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

// TestTableThroughput sends to a server in a process of its own, and once more to
// one in this process: there, the Go scheduler hands a command over without the
// kernel, and round trips cost next to nothing.
func TestTableThroughput(t *testing.T) {
	rows := []sender{goMail("go-mail, reused", 1), goMail("go-mail, reused, no NOOP, no RSET", 1, gomail.WithoutNoop(), gomail.WithoutRset()), commerce(1),
		goMail("go-mail, one client for each connection", 8), goMail("go-mail, the same, no NOOP, no RSET", 8, gomail.WithoutNoop(), gomail.WithoutRset()), commerce(8)}
	const n, rounds = 1500, 7
	for _, where := range []struct {
		name  string
		start func(testing.TB) *sink
	}{{"a server in a process of its own", startSinkProcess}, {"a server in this process", startSink}} {
		sk := where.start(t)
		took := make([][]time.Duration, len(rows))
		for range rounds {
			for i, s := range rows {
				took[i] = append(took[i], run(t, s, sk, sk.port, n))
			}
		}
		base := map[int]time.Duration{1: median(took[0]), 8: median(took[3])}
		best := map[int]time.Duration{1: fastest(took[0]), 8: fastest(took[3])}
		t.Logf("5 KB multipart, STARTTLS, loopback, %s, %d mails, %d rounds interleaved", where.name, n, rounds)
		for i, s := range rows {
			t.Logf("%d conn  %-42s median %6.0f/s  best %6.0f/s  ratio to go-mail %.2f (best %.2f)", s.conns, s.name, per(n, median(took[i])), per(n, fastest(took[i])),
				float64(base[s.conns])/float64(median(took[i])), float64(best[s.conns])/float64(fastest(took[i])))
		}
	}
}

func TestTableDistance(t *testing.T) {
	sk := startSinkProcess(t)
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
