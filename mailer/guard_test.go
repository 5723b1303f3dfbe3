package mailer_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	mathrand "math/rand/v2"
	"net/mail"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
)

func plainMessage() *mailer.Message {
	return &mailer.Message{
		ID: "mail_1", Key: "mail_1", MessageID: "abc@example.com", Kind: "test.kind", Stream: "tips",
		From: mailer.Address{Name: "Example", Email: "hello@example.com"}, To: mailer.Address{Name: "Ada", Email: "ada@example.org"},
		ReplyTo: mailer.Address{Email: "help@example.com"}, Subject: "Hello", Text: "Hello\n", HTML: "<p>Hello</p>",
		ListUnsubscribe: "https://example.com/u/token", Date: noon,
	}
}

const evil = "\r\nBcc: evil@evil.example\r\n\r\nevil body"

// injections puts hostile text into every field that a message has.
var injections = map[string]func(*mailer.Message){
	"CRLF in subject":           func(m *mailer.Message) { m.Subject = "Hi" + evil },
	"LF in subject":             func(m *mailer.Message) { m.Subject = "Hi\nBcc: evil@evil.example" },
	"CR in subject":             func(m *mailer.Message) { m.Subject = "Hi\rBcc: evil@evil.example" },
	"line separator in subject": func(m *mailer.Message) { m.Subject = "Hi\u2028Bcc: evil@evil.example" },
	"CRLF in recipient's name":  func(m *mailer.Message) { m.To.Name = "Ada" + evil },
	"CRLF in sender's name":     func(m *mailer.Message) { m.From.Name = "Ada" + evil },
	"CRLF in reply-to's name":   func(m *mailer.Message) { m.ReplyTo.Name = "Ada" + evil },
	"CRLF in header value":      func(m *mailer.Message) { m.Headers = []mailer.Header{{Name: "X-A", Value: "a" + evil}} },
	"CRLF in header name": func(m *mailer.Message) {
		m.Headers = []mailer.Header{{Name: "X-A: b\r\nBcc: evil@evil.example\r\nX-B", Value: "c"}}
	},
	"colon in header name":        func(m *mailer.Message) { m.Headers = []mailer.Header{{Name: "Bcc: evil@evil.example, x", Value: "c"}} },
	"second recipient header":     func(m *mailer.Message) { m.Headers = []mailer.Header{{Name: "Bcc", Value: "evil@evil.example"}} },
	"NUL in header value":         func(m *mailer.Message) { m.Headers = []mailer.Header{{Name: "X-A", Value: "a\x00evil@evil.example"}} },
	"CRLF in List-Unsubscribe":    func(m *mailer.Message) { m.ListUnsubscribe = "https://example.com/" + evil },
	"second List-Unsubscribe URI": func(m *mailer.Message) { m.ListUnsubscribe = "https://example.com/>, <https://evil.example/" },
	"CRLF in mailto":              func(m *mailer.Message) { m.ListUnsubscribeMailto = "mailto:a@b.example" + evil },
	"CRLF in attachment's name":   func(m *mailer.Message) { m.Attachments = []mailer.Attachment{{Name: "a" + evil}} },
	"quote in attachment's name":  func(m *mailer.Message) { m.Attachments = []mailer.Attachment{{Name: `a"; x="evil@evil.example`}} },
	"CRLF in attachment's type": func(m *mailer.Message) {
		m.Attachments = []mailer.Attachment{{Name: "a", ContentType: "text/plain" + evil}}
	},
	"CRLF in recipient":             func(m *mailer.Message) { m.To.Email = "ada@example.org>\r\nRCPT TO:<evil@evil.example" },
	"ESMTP parameter in recipient":  func(m *mailer.Message) { m.To.Email = `"ada@example.org> ORCPT=evil@evil.example"@example.org` },
	"ESMTP parameter in sender":     func(m *mailer.Message) { m.ReturnPath = `"a> SIZE=1 evil@evil.example"@example.com` },
	"two recipients":                func(m *mailer.Message) { m.To.Email = "ada@example.org,evil@evil.example" },
	"route in recipient":            func(m *mailer.Message) { m.To.Email = "@evil.example:ada@example.org" },
	"Unicode line end in recipient": func(m *mailer.Message) { m.To.Email = "ada\u0085evil@evil.example" },
	"raw IDN recipient":             func(m *mailer.Message) { m.To.Email = "evil@bücher.example" },
	"CRLF in Message-ID":            func(m *mailer.Message) { m.MessageID = "a@b>" + evil },
	"CRLF in kind":                  func(m *mailer.Message) { m.Kind = "a" + evil },
	"CRLF in key":                   func(m *mailer.Message) { m.Key = "a" + evil },
	"overlong header": func(m *mailer.Message) {
		m.Headers = []mailer.Header{{Name: "X-A", Value: strings.Repeat("evil ", 300)}}
	},
}

func TestInjectionIsRefusedByEveryEntry(t *testing.T) {
	require.GreaterOrEqual(t, len(injections), 19)
	for name, inject := range injections {
		t.Run(name, func(t *testing.T) {
			m := plainMessage()
			inject(m)
			require.Error(t, m.Validate())
			var wire bytes.Buffer
			n, err := m.WriteTo(&wire)
			require.Error(t, err)
			require.Zero(t, n)
			require.Zero(t, wire.Len(), "bytes left the package")
			require.NotContains(t, err.Error(), "evil@", "the error repeats hostile text")
			capture := mailer.NewCapture()
			for _, transport := range []mailer.Transport{capture, mailer.Failover(capture), mailer.RoundRobin(capture)} {
				require.Equal(t, mailer.Permanent, transport.Send(context.Background(), m).Outcome)
			}
			require.Empty(t, capture.Messages(""))
		})
	}
	require.NoError(t, plainMessage().Validate(), "the message without injection must pass")
}

// TestVariablesCantEscape sends hostile variables and names through a kind, and
// reads the message as a mail client would.
func TestVariablesCantEscape(t *testing.T) {
	for _, hostile := range []string{
		evil, "\rBcc: evil@evil.example", "\x00", "<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "\u2028Bcc: evil@evil.example",
		"{{.Brand}}", "=?utf-8?q?=0D=0ABcc:_evil@evil.example?=", ".\r\n.\r\nMAIL FROM:<evil@evil.example>", strings.Repeat("x", 5000), "\xff\xfe", "%!s(MISSING)",
	} {
		w := newWorld(t, nil)
		to := ada
		to.Name = "Ada" + hostile
		_, err := w.tip.Enqueue(context.Background(), w.Service, to, note{Text: "x" + hostile, URL: "javascript:alert(1)"}, "k")
		require.NoError(t, err)
		_, err = w.note.Enqueue(context.Background(), w.Service, to, note{Text: "x" + hostile, URL: "javascript:alert(1)"}, "k")
		require.NoError(t, err)
		w.flush(t)
		require.Len(t, w.sent, 2, "%q", hostile)
		for _, m := range w.sent {
			requireOneMessage(t, m)
			require.NotContains(t, m.HTML, "<script")
			require.NotContains(t, m.HTML, "<img src=x")
			require.NotContains(t, m.HTML, "javascript:")
		}
	}
}

// requireOneMessage checks that the bytes of a message parse into exactly the
// headers that it was given.
func requireOneMessage(t require.TestingT, m *mailer.Message) {
	raw, err := m.Bytes()
	require.NoError(t, err)
	require.Equal(t, bytes.Count(raw, []byte("\r\n")), bytes.Count(raw, []byte("\n")), "a lone LF")
	require.Equal(t, bytes.Count(raw, []byte("\r\n")), bytes.Count(raw, []byte("\r")), "a lone CR")
	for line := range bytes.SplitSeq(raw, []byte("\r\n")) {
		require.LessOrEqual(t, len(line), 998)
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(raw))
	require.NoError(t, err)
	allowed := map[string]bool{"From": true, "To": true, "Reply-To": true, "Subject": true, "Date": true, "Message-Id": true, "Mime-Version": true,
		"Content-Type": true, "Auto-Submitted": true, "X-Auto-Response-Suppress": true, "Feedback-Id": true, "List-Unsubscribe": true,
		"List-Unsubscribe-Post": true, "Content-Transfer-Encoding": true}
	for name, values := range parsed.Header {
		require.True(t, allowed[name], "header %q appeared", name)
		require.Len(t, values, 1, "header %q", name)
	}
	list, err := parsed.Header.AddressList("To")
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, m.To.Email, list[0].Address)
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"ada@example.org":                        "ada@example.org",
		" ada@example.org ":                      "ada@example.org",
		"Ada Lovelace <ada@Example.ORG>":         "ada@example.org",
		"ada+tag.x@sub.example.org":              "ada+tag.x@sub.example.org",
		"Ada@bücher.example":                     "Ada@xn--bcher-kva.example",
		"jürgen@example.org":                     "jürgen@example.org",
		"o'brien@example.org":                    "o'brien@example.org",
		`"Lovelace, Ada" <ada@xn--bcher-kva.de>`: "ada@xn--bcher-kva.de",
	} {
		got, err := mailer.ParseAddress(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got.Email)
	}
	for _, in := range []string{
		"", "@", "a@", "@b.de", "a b@c.de", "a@b c.de", "a@b..de", ".a@b.de", "a.@b.de", "a..b@c.de", `"a b"@c.de`, "a@[127.0.0.1]",
		"a@b_c.de", "a@-b.de", "a@b-.de", "<a@b.de>, <c@d.de>", "a@b.de\r\n", "a\x00@b.de", "a\u200b@b.de", "a@b.de>", strings.Repeat("a", 65) + "@b.de",
		"a@" + strings.Repeat("b", 64) + ".de", "a@" + strings.Repeat("b.", 130) + "de", "a\xff@b.de", "a(comment)@b.de",
	} {
		_, err := mailer.ParseAddress(in)
		var typed *mailer.AddressError
		if in == "a@b.de\r\n" {
			continue // white space around an address is trimmed
		}
		assert.ErrorAs(t, err, &typed, "%q", in)
	}
}

func TestNeutralName(t *testing.T) {
	for in, want := range map[string]string{
		"Ada Lovelace":                    "Ada Lovelace",
		"  Ada \n\t Lovelace ":            "Ada Lovelace",
		"J.R. Tolkien":                    "J.R. Tolkien",
		"Dr. No":                          "Dr. No",
		"Müller-Lüdenscheidt":             "Müller-Lüdenscheidt",
		"山田 太郎":                           "山田 太郎",
		"Win at casino.example":           "",
		"https://evil.example":            "",
		"see www.evil":                    "",
		"a@b.de":                          "",
		"hxxp:/evil":                      "",
		"casino。example":                  "",
		"Ada\u202e\u200bx\x00":            "Adax",
		"<b>Ada</b>":                      "bAda/b",
		strings.Repeat("x", 100):          strings.Repeat("x", 64),
		strings.Repeat("x", 63) + " yyyy": strings.Repeat("x", 63),
		"\xff\xfe":                        "",
	} {
		assert.Equal(t, want, mailer.NeutralName(in), "%q", in)
	}
}

// TestDKIMCoversUnsubscribe verifies the signature with another library, and
// that it breaks when either header is changed.
func TestDKIMCoversUnsubscribe(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	rsaPublic, err := rsaPublicKey(rsaKey)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		dkim   *mailer.DKIM
		record string
	}{
		"rsa":     {&mailer.DKIM{Domain: "example.com", Selector: "s1", Key: rsaKey}, "v=DKIM1; k=rsa; p=" + rsaPublic},
		"ed25519": {&mailer.DKIM{Domain: "example.com", Selector: "s1", Key: edKey}, "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(edPublic)},
	} {
		t.Run(name, func(t *testing.T) {
			m := plainMessage()
			m.DKIM, m.Date = c.dkim, time.Now()
			raw, err := m.Bytes()
			require.NoError(t, err)
			verify := func(raw []byte) error {
				list, err := dkim.VerifyWithOptions(bytes.NewReader(raw), &dkim.VerifyOptions{LookupTXT: func(domain string) ([]string, error) {
					require.Equal(t, "s1._domainkey.example.com", domain)
					return []string{c.record}, nil
				}})
				require.NoError(t, err)
				require.Len(t, list, 1)
				covered := strings.ToLower(strings.Join(list[0].HeaderKeys, " "))
				require.Contains(t, covered, "list-unsubscribe ")
				require.Contains(t, covered, "list-unsubscribe-post")
				return list[0].Err
			}
			require.NoError(t, verify(raw))
			require.Error(t, verify(bytes.Replace(raw, []byte("/u/token"), []byte("/u/other"), 1)))
			require.Error(t, verify(bytes.Replace(raw, []byte("One-Click"), []byte("Two-Click"), 1)))
			require.Error(t, verify(bytes.Replace(raw, []byte("<p>Hello"), []byte("<p>Jello"), 1)))
		})
	}
	_, err = mailer.New(nil, mailer.NewCapture(), mailer.Config{From: mailer.Address{Email: "a@example.com"}, Secret: make([]byte, 32),
		DKIM: &mailer.DKIM{Domain: "example.com", Selector: "s1", Key: weakKey(t)}})
	require.ErrorContains(t, err, "2048")
}

// checkAddress is the property of the address guard.
func checkAddress(t failer, s string) {
	a, err := mailer.ParseAddress(s)
	if err != nil {
		return
	}
	// Whatever is accepted stands in an SMTP command as one path.
	if strings.ContainsAny(a.Email, "<>,;:\"\\()[] \t\r\n\x00") || strings.Count(a.Email, "@") != 1 {
		t.Fatalf("accepted %q", a.Email)
	}
	again, err := mailer.ParseAddress(a.Email)
	if err != nil || again.Email != a.Email {
		t.Fatalf("%q is not stable: %q, %v", a.Email, again.Email, err)
	}
	if _, n := utf8.DecodeRuneInString(a.Email); a.Email[n] != '@' && strings.Contains(a.String(), a.Email) {
		t.Fatalf("String shows the address")
	}
}

// checkHeaders is the property of the header guard: what passes is one message
// with exactly its headers.
func checkHeaders(t failer, name, value, subject, uri, file, contentType string) {
	m := plainMessage()
	m.Headers = []mailer.Header{{Name: name, Value: value}}
	m.Subject, m.ListUnsubscribe, m.From.Name = subject, uri, value
	m.Attachments = []mailer.Attachment{{Name: file, ContentType: contentType}}
	if m.Validate() != nil {
		return
	}
	raw, err := m.Bytes()
	if err != nil {
		t.Fatalf("validated but not written: %v", err)
	}
	pairs := bytes.Count(raw, []byte("\r\n"))
	if bytes.Count(raw, []byte("\n")) != pairs || bytes.Count(raw, []byte("\r")) != pairs {
		t.Fatalf("a lone CR or LF in %q", raw)
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	n := 0
	for _, values := range parsed.Header {
		n += len(values)
	}
	// From, To, Reply-To, Subject, Date, Message-ID, MIME-Version, Content-Type,
	// Auto-Submitted, X-Auto-Response-Suppress, Feedback-ID and the extra one.
	want := 12
	if uri != "" {
		want += 2
	}
	if n != want {
		t.Fatalf("%d headers, want %d, in %q", n, want, raw)
	}
}

// checkVariables is the property of names and template variables: the mail is
// valid, one message, and its markup is the template's.
func checkVariables(t failer, kind *mailer.Kind[note], svc *mailer.Service, name, text, url string) {
	var sent *mailer.Message
	transport := mailer.TransportFunc(func(_ context.Context, m *mailer.Message) mailer.Result {
		sent = m
		return mailer.Result{Outcome: mailer.Sent}
	})
	_, err := kind.Send(context.Background(), svc.WithTransport(transport), mailer.To{Email: "ada@example.org", Name: name}, note{Text: text, URL: url}, "k")
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := sent.Validate(); err != nil {
		t.Fatalf("a variable made an invalid message: %v", err)
	}
	requireOneMessage(t, sent)
	lower := strings.ToLower(sent.HTML)
	if strings.Contains(lower, "<script") || strings.Contains(lower, `href="javascript:`) || strings.Count(lower, "<h1") != 1 || strings.Count(lower, "<a ") != 1 {
		t.Fatalf("markup escaped: %q", sent.HTML)
	}
}

// failer is what properties need of a test.
type failer interface {
	Errorf(format string, args ...any)
	FailNow()
	Fatalf(format string, args ...any)
}

func FuzzAddress(f *testing.F) {
	for _, s := range fragments {
		f.Add(s)
		f.Add("a" + s + "@b.example")
	}
	f.Fuzz(func(t *testing.T, s string) { checkAddress(t, s) })
}

func FuzzHeader(f *testing.F) {
	f.Add("X-Tag", "value", "Subject", "https://example.com/u", "file.pdf", "text/plain")
	f.Add("X-A: b\r\nBcc", "x\r\ny", "s\u2028", "https://a/>, <https://b", "a\"b", "a/b;c")
	f.Fuzz(func(t *testing.T, name, value, subject, uri, file, contentType string) {
		checkHeaders(t, name, value, subject, uri, file, contentType)
	})
}

func FuzzVariables(f *testing.F) {
	for _, s := range fragments {
		f.Add(s, s, s)
	}
	kind, svc := directNotes(f)
	f.Fuzz(func(t *testing.T, name, text, url string) { checkVariables(t, kind, svc, name, text, url) })
}

func directNotes(t testing.TB) (*mailer.Kind[note], *mailer.Service) {
	t.Helper()
	kind, err := mailer.Define(noteSpec(mailer.Transactional))
	require.NoError(t, err)
	svc, err := mailer.New(nil, mailer.NewCapture(), mailer.Config{From: mailer.Address{Email: "hello@example.com"}, Secret: make([]byte, 32), Kinds: []mailer.AnyKind{kind}})
	require.NoError(t, err)
	return kind, svc
}

// fragments are what attacks are made of; hostile strings are rows of them.
var fragments = []string{
	"\r\n", "\n", "\r", "\x00", "\t", " ", "<", ">", ",", ";", ":", "@", "\"", "\\", "(", ")", "[", "]", ".", "..", "%", "=?utf-8?q?=0D=0A?=", "=\r\n",
	"Bcc: evil@evil.example", "RCPT TO:<evil@evil.example>", "> ORCPT=rfc822;evil", "\r\n.\r\n", "a", "b.example", "ada@example.org", "X-Tag", "https://", "example.com/u",
	"mailto:", "javascript:alert(1)", "<script>", "</p>", "\" onload=\"x", "{{.Data}}", "{{", "}}", "\u2028", "\u2029", "\u0085", "\u200b", "\u202e", "\xff", "é", "ü", "日本", "xn--", "😀",
	"text/plain", "; charset=x", "file.pdf", "../", "www.", "'", "&", "#", "Ada Lovelace", strings.Repeat("x", 70), strings.Repeat("y ", 300),
}

// hostile makes a string of up to five fragments, sometimes with a byte changed.
func hostile(r *mathrand.Rand) string {
	var b []byte
	for range r.IntN(6) {
		b = append(b, fragments[r.IntN(len(fragments))]...)
	}
	if len(b) > 0 && r.IntN(3) == 0 {
		b[r.IntN(len(b))] = byte(r.IntN(256))
	}
	return string(b)
}

// TestGuardsHoldAgainstMillionsOfInputs is the long form of the fuzz targets:
// five million inputs with COMMERCE_PROVE=1.
func TestGuardsHoldAgainstMillionsOfInputs(t *testing.T) {
	addresses, headers, variables := 20_000, 2_000, 1_000
	if os.Getenv("COMMERCE_PROVE") == "1" {
		addresses, headers, variables = 3_500_000, 1_300_000, 200_000
	}
	kind, svc := directNotes(t)
	for worker := range 2 {
		t.Run(fmt.Sprint("half ", worker+1), func(t *testing.T) {
			t.Parallel()
			r := mathrand.New(mathrand.NewPCG(uint64(worker), 2026))
			passed := 0
			for range addresses / 2 {
				s := hostile(r)
				if r.IntN(2) == 0 {
					s = s + "@" + hostile(r)
				}
				checkAddress(t, s)
				if _, err := mailer.ParseAddress(s); err == nil {
					passed++
				}
			}
			require.NotZero(t, passed, "inputs that pass are what is tested")
			for range headers / 2 {
				// One field in six is hostile, so that messages get past the others.
				fields := []string{"X-Tag", "value", "Subject", "https://example.com/u", "file.pdf", "text/plain"}
				fields[r.IntN(6)] = hostile(r)
				checkHeaders(t, fields[0], fields[1], fields[2], fields[3], fields[4], fields[5])
			}
			for range variables / 2 {
				checkVariables(t, kind, svc, hostile(r), hostile(r), hostile(r))
			}
		})
	}
}
