package mailer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLine is the longest line that RFC 5322, section 2.1.1, allows, without
// its CRLF.
const maxLine = 998

// reserved are the headers that the composition itself writes; a second one
// would let a mail say two things at once.
var reserved = map[string]bool{
	"from": true, "to": true, "cc": true, "bcc": true, "sender": true, "reply-to": true, "return-path": true,
	"subject": true, "date": true, "message-id": true, "mime-version": true, "content-type": true,
	"content-transfer-encoding": true, "content-disposition": true, "content-id": true, "dkim-signature": true,
	"received": true, "list-unsubscribe": true, "list-unsubscribe-post": true, "auto-submitted": true,
	"x-auto-response-suppress": true, "feedback-id": true,
}

// checkHeader refuses a header that would change the message around it. It
// refuses and never repairs: a repaired header is one that nobody asked for.
func checkHeader(name, value string) error {
	if err := checkHeaderName(name); err != nil {
		return err
	}
	if reserved[strings.ToLower(name)] {
		return &HeaderError{display(name), "is written by this package"}
	}
	return checkHeaderValue(name, value)
}

// checkHeaderName accepts a field-name of RFC 5322, section 3.6.8: printable
// ASCII without the colon.
func checkHeaderName(name string) error {
	if name == "" || len(name) > 76 {
		return &HeaderError{display(name), "a name has 1 to 76 characters"}
	}
	for i := range len(name) {
		if c := name[i]; c < '!' || c > '~' || c == ':' {
			return &HeaderError{display(name), "a name has printable ASCII characters other than the colon"}
		}
	}
	return nil
}

func checkHeaderValue(name, value string) error {
	if reason := checkText(value); reason != "" {
		return &HeaderError{display(name), reason}
	}
	if len(name)+2+len(value) > maxLine {
		return &HeaderError{display(name), "is longer than 998 octets"}
	}
	return nil
}

// checkText refuses what can end a header line early, in any decoder: CR, LF,
// NUL, every other control character, and the Unicode line ends.
func checkText(s string) string {
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	for _, r := range s {
		if r != '\t' && unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return "has a control character or a line end"
		}
	}
	return ""
}

// display returns the harmless beginning of an untrusted header name, for an
// error text.
func display(name string) string {
	for i := range len(name) {
		c := name[i]
		if i == 40 || c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return name[:i]
		}
	}
	return name
}

// checkURI accepts an absolute https (or mailto) URI without anything that
// could end the angle brackets of List-Unsubscribe (RFC 2369, section 2).
func checkURI(s, scheme string) bool {
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok || rest == "" || rest[0] == '/' || len(s) > 900 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("<>,\"\\", c) >= 0 {
			return false
		}
	}
	return true
}
