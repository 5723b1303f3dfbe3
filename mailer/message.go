package mailer

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	mail "github.com/wneessen/go-mail"
)

// Message is one mail to one person, rendered and ready for a transport. It is
// a value: a transport must not change it.
type Message struct {
	ID        string // of the mail in the outbox
	Key       string // idempotency key for transports that take one; at most 256 characters
	MessageID string // without angle brackets; the same on every attempt
	Kind      string
	Stream    string

	From       Address
	To         Address
	ReplyTo    Address // empty means none
	ReturnPath string  // envelope sender; empty means From.Email

	Subject string
	Text    string
	HTML    string

	// ListUnsubscribe is the https URI of the one-click endpoint; empty means
	// that the mail carries neither of RFC 8058's headers.
	ListUnsubscribe string
	// ListUnsubscribeMailto is an optional mailto URI beside it.
	ListUnsubscribeMailto string

	Headers     []Header
	Attachments []Attachment
	Date        time.Time

	// DKIM signs the message when a transport writes it itself; nil leaves the
	// signature to the relay.
	DKIM *DKIM
}

// Header is one further header field.
type Header struct{ Name, Value string }

// Attachment is a file of a message, in memory.
type Attachment struct {
	Name        string
	ContentType string // empty means application/octet-stream
	Data        []byte
}

// DKIM holds what RFC 6376 needs to sign. RSA keys of 2048 bits are what every
// receiver verifies; Ed25519 is not.
type DKIM struct {
	Domain   string
	Selector string
	Key      crypto.Signer // *rsa.PrivateKey or ed25519.PrivateKey
}

func (d *DKIM) check() error {
	if d == nil {
		return nil
	}
	if domain, reason := checkDomain(d.Domain); reason != "" || domain != d.Domain {
		return fmt.Errorf("%w: DKIM.Domain must be a host name in lower case", ErrConfig)
	}
	if _, reason := checkDomain(d.Selector); reason != "" {
		return fmt.Errorf("%w: DKIM.Selector must be a DNS label", ErrConfig)
	}
	switch key := d.Key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < 2048 {
			return fmt.Errorf("%w: DKIM.Key has %d bits, receivers want 2048", ErrConfig, key.N.BitLen())
		}
	case ed25519.PrivateKey:
	default:
		return fmt.Errorf("%w: DKIM.Key must be an RSA or Ed25519 private key", ErrConfig)
	}
	return nil
}

// signedHeaders is the explicit h= list: everything that a reader or a client
// acts on. RFC 8058, section 4, wants both List-Unsubscribe headers in it.
var signedHeaders = []string{
	"From", "To", "Subject", "Date", "Message-ID", "Reply-To", "Cc", "MIME-Version", "Content-Type",
	"List-Unsubscribe", "List-Unsubscribe-Post", "Auto-Submitted", "Feedback-ID",
}

// NeedsUTF8 reports whether only a server with the SMTPUTF8 extension can take
// the message: an envelope address has a local part beyond ASCII.
func (m *Message) NeedsUTF8() bool {
	return needsUTF8(m.To.Email) || needsUTF8(m.Sender()) || needsUTF8(m.From.Email) || needsUTF8(m.ReplyTo.Email)
}

// Sender returns the envelope sender.
func (m *Message) Sender() string {
	if m.ReturnPath != "" {
		return m.ReturnPath
	}
	return m.From.Email
}

// Validate refuses a message that could put anything on the wire beyond what
// its fields say: header injection, smuggled parameters, additional
// recipients. The errors match [ErrAddress] or [ErrHeader].
//
// Every transport of this module calls it before it sends.
func (m *Message) Validate() error {
	for _, a := range []struct {
		field string
		addr  Address
		need  bool
	}{
		{"from", m.From, true}, {"to", m.To, true}, {"reply-to", m.ReplyTo, false},
		{"return-path", Address{Email: m.ReturnPath}, false},
	} {
		if a.addr.Email == "" && !a.need {
			continue
		}
		email, err := normalEmail(a.field, a.addr.Email)
		if err != nil {
			return err
		}
		if email != a.addr.Email {
			return &AddressError{a.field, "has a domain that is not in lower-case A-labels: use ParseAddress"}
		}
		if reason := checkText(a.addr.Name); reason != "" || len(a.addr.Name) > 400 {
			return &AddressError{a.field, "has a name with a control character, or of more than 400 octets"}
		}
	}
	if m.Subject == "" {
		return &HeaderError{"Subject", "is empty"}
	}
	if err := checkHeaderValue("Subject", m.Subject); err != nil {
		return err
	}
	if !validMessageID(m.MessageID) {
		return &HeaderError{"Message-ID", "must be id@domain in printable ASCII"}
	}
	for name, value := range map[string]string{"ID": m.ID, "Key": m.Key, "Kind": m.Kind, "Stream": m.Stream} {
		if err := checkHeaderValue(name, value); err != nil {
			return err
		}
	}
	if m.Text == "" {
		return &HeaderError{"Content-Type", "the text part is missing"}
	}
	if m.ListUnsubscribe != "" && !publicURI(m.ListUnsubscribe) {
		return &HeaderError{"List-Unsubscribe", "must be one absolute https URI (http only for localhost)"}
	}
	if m.ListUnsubscribeMailto != "" && (m.ListUnsubscribe == "" || !checkURI(m.ListUnsubscribeMailto, "mailto:")) {
		return &HeaderError{"List-Unsubscribe", "the mailto URI must be one URI, beside an https URI"}
	}
	seen := make(map[string]bool, len(m.Headers))
	for _, h := range m.Headers {
		if err := checkHeader(h.Name, h.Value); err != nil {
			return err
		}
		lower := strings.ToLower(h.Name)
		if seen[lower] {
			return &HeaderError{display(h.Name), "is given twice"}
		}
		seen[lower] = true
	}
	for _, a := range m.Attachments {
		if a.Name == "" || len(a.Name) > 200 || checkText(a.Name) != "" || strings.ContainsAny(a.Name, "/\\\"\t") {
			return &HeaderError{"Content-Disposition", "an attachment's name is a plain file name"}
		}
		if !validContentType(a.ContentType) {
			return &HeaderError{"Content-Type", "an attachment's type is type/subtype"}
		}
	}
	return nil
}

func validMessageID(s string) bool {
	at := strings.IndexByte(s, '@')
	if at <= 0 || at == len(s)-1 || len(s) > 250 || strings.Count(s, "@") != 1 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '@' && c != '.' && !isAtext(c) {
			return false
		}
	}
	return true
}

func validContentType(s string) bool {
	if s == "" {
		return true
	}
	major, minor, ok := strings.Cut(s, "/")
	if !ok || major == "" || minor == "" || len(s) > 127 {
		return false
	}
	for _, part := range []string{major, minor} {
		for i := range len(part) {
			if c := part[i]; !isAtext(c) && c != '.' || strings.IndexByte("'*%`{|}", c) >= 0 {
				return false
			}
		}
	}
	return true
}

// WriteTo validates the message and writes it in Internet Message Format with
// CRLF line ends, signed when DKIM is set.
func (m *Message) WriteTo(w io.Writer) (int64, error) {
	if err := m.Validate(); err != nil {
		return 0, err
	}
	if m.DKIM == nil {
		return m.compose().WriteTo(w)
	}
	var b bytes.Buffer
	if _, err := m.compose().WriteTo(&b); err != nil {
		return 0, fmt.Errorf("mailer: sign: %w", err)
	}
	return refold(b.Bytes()).WriteTo(w)
}

// refold folds the DKIM-Signature at its tags. go-mail 0.8.1 breaks a tag of
// more than 75 octets in its middle, as our h= is, which adds white space that
// it has not signed: the signature would not verify.
func refold(raw []byte) *net.Buffers {
	end := 0
	for {
		i := bytes.Index(raw[end:], []byte("\r\n"))
		if i < 0 {
			return &net.Buffers{raw}
		}
		if end += i + 2; end == len(raw) || raw[end] != ' ' {
			break
		}
	}
	signature := bytes.ReplaceAll(raw[:end], []byte("\r\n "), nil)
	signature = bytes.ReplaceAll(signature, []byte("; "), []byte(";\r\n "))
	return &net.Buffers{signature, raw[end:]}
}

// Bytes returns what WriteTo writes.
func (m *Message) Bytes() ([]byte, error) {
	var b bytes.Buffer
	b.Grow(2*len(m.HTML) + 2*len(m.Text) + 2048)
	if _, err := m.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// compose hands the checked fields to go-mail.
func (m *Message) compose() *mail.Msg {
	msg := mail.NewMsg(mail.WithNoDefaultUserAgent())
	msg.FromMailAddress(m.From.header())
	msg.ToMailAddress(m.To.header())
	if m.ReplyTo.Email != "" {
		msg.ReplyToMailAddress(m.ReplyTo.header())
	}
	msg.Subject(m.Subject)
	msg.SetDateWithValue(m.Date.UTC())
	msg.SetMessageIDWithValue(m.MessageID)
	// RFC 3834: no vacation note may answer, and no loop may start.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")
	msg.SetGenHeaderPreformatted("Feedback-ID", feedbackID(m))
	for _, h := range m.Headers {
		msg.SetGenHeader(mail.Header(h.Name), h.Value)
	}
	for name, value := range m.UnsubscribeHeaders() {
		// A URI must stay in one piece; Validate has bounded its length.
		msg.SetGenHeaderPreformatted(mail.Header(name), value)
	}
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(mail.TypeTextHTML, m.HTML)
	}
	for _, a := range m.Attachments {
		contentType := a.ContentType
		if contentType == "" {
			contentType = "application/octet-stream"
		}
		msg.AttachReadSeeker(a.Name, bytes.NewReader(a.Data), mail.WithFileContentType(mail.ContentType(contentType)))
	}
	if m.DKIM != nil {
		signer := mail.NewDKIMSigner(m.DKIM.Domain, m.DKIM.Selector, m.DKIM.Key)
		signer.NowFunc = func() time.Time { return m.Date }
		signer.SignHeaders(signedHeaders...)
		msg.SetDKIM(signer)
	}
	return msg
}

// UnsubscribeHeaders returns the two headers of RFC 8058, or nil.
func (m *Message) UnsubscribeHeaders() map[string]string {
	if m.ListUnsubscribe == "" {
		return nil
	}
	value := "<" + m.ListUnsubscribe + ">"
	if m.ListUnsubscribeMailto != "" {
		value += ", <" + m.ListUnsubscribeMailto + ">"
	}
	return map[string]string{"List-Unsubscribe": value, "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
}

// feedbackID groups complaints in Google's Postmaster Tools by kind and stream.
func feedbackID(m *Message) string {
	clean := func(s string) string {
		s = strings.Map(func(r rune) rune {
			if r > '~' || !isAtext(byte(r)) && r != '.' {
				return '-'
			}
			return r
		}, s)
		return s[:min(len(s), 60)]
	}
	return clean(m.Kind) + ":" + clean(m.Stream) + ":" + clean(m.From.Domain())
}
