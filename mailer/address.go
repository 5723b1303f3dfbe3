package mailer

import (
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Address is a mailbox: the address itself and the name beside it.
type Address struct {
	Name  string // may be empty
	Email string
}

// ParseAddress reads "a@example.com" or "Ada <a@example.com>". The domain
// comes back in lower case and as A-labels (RFC 5890). It refuses quoted local
// parts, address literals, routes and comments: nobody signs up with them, and
// they are how ESMTP parameters are smuggled into a transaction.
func ParseAddress(s string) (Address, error) {
	return parseAddress("mailbox", s)
}

func parseAddress(field, s string) (Address, error) {
	if len(s) > 998 {
		return Address{}, &AddressError{field, "is longer than a line of mail may be"}
	}
	if i := strings.LastIndexByte(s, '<'); i >= 0 {
		// net/mail reads the display name; the address goes through the
		// stricter check below either way.
		parsed, err := mail.ParseAddress(s)
		if err != nil {
			return Address{}, &AddressError{field, "is not of the form name <local@domain>"}
		}
		email, err := normalEmail(field, parsed.Address)
		return Address{Name: parsed.Name, Email: email}, err
	}
	email, err := normalEmail(field, strings.TrimSpace(s))
	return Address{Email: email}, err
}

// normalEmail checks an address and writes its domain as lower-case A-labels.
// The local part stays as it is: only its owner may fold its case.
func normalEmail(field, s string) (string, error) {
	at := strings.LastIndexByte(s, '@')
	if at <= 0 || at == len(s)-1 {
		return "", &AddressError{field, "has no local part or no domain"}
	}
	local, domain := s[:at], s[at+1:]
	if reason := checkLocal(local); reason != "" {
		return "", &AddressError{field, reason}
	}
	domain, reason := checkDomain(domain)
	if reason != "" {
		return "", &AddressError{field, reason}
	}
	return local + "@" + domain, nil
}

// checkLocal accepts a Dot-string of RFC 5321, section 4.1.2, with the
// letters that RFC 6531 adds; at most 64 octets.
func checkLocal(s string) string {
	if len(s) > 64 {
		return "has a local part of more than 64 octets"
	}
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	prev := '.'
	for _, r := range s {
		switch {
		case r == '.':
			if prev == '.' {
				return "has an empty part between dots"
			}
		case r < utf8.RuneSelf:
			if !isAtext(byte(r)) {
				return "has a character in its local part that mail would need to quote"
			}
		case unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Zs, unicode.Co, unicode.Noncharacter_Code_Point):
			return "has an invisible character in its local part"
		}
		prev = r
	}
	if prev == '.' {
		return "has a local part that ends in a dot"
	}
	return ""
}

func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func checkDomain(s string) (domain, reason string) {
	if plainDomain(s) {
		return s, ""
	}
	ascii, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", "has a domain that is not a valid name"
	}
	ascii = strings.ToLower(ascii)
	// Some code points map to an A-label that no resolver would take back.
	if again, err := idna.Lookup.ToASCII(ascii); err != nil || again != ascii {
		return "", "has a domain that is not a valid name"
	}
	if len(ascii) > 253 {
		return "", "has a domain of more than 253 octets"
	}
	labels := strings.Split(ascii, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return "", "has a domain with an empty or overlong label"
		}
		for i := range len(label) {
			c := label[i]
			letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
			if !letter && (c != '-' || i == 0 || i == len(label)-1) {
				return "", "has a domain with a character that host names don't have"
			}
		}
	}
	return ascii, ""
}

// plainDomain reports whether s is a host name as it should be, without any
// label that IDNA has a say in: the usual case, for which no table is needed.
func plainDomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || len(label) > 3 && label[2:4] == "--" {
			return false
		}
		for i := range len(label) {
			if c := label[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}

// Domain returns what stands after the @.
func (a Address) Domain() string {
	return a.Email[strings.LastIndexByte(a.Email, '@')+1:]
}

// String returns a masked form, such as "a…@example.com", that can stand in a
// log. The address itself is in Email.
func (a Address) String() string {
	at := strings.LastIndexByte(a.Email, '@')
	if at <= 0 {
		return "(no address)"
	}
	_, n := utf8.DecodeRuneInString(a.Email)
	return a.Email[:n] + "…" + a.Email[at:]
}

// header returns the address as it stands in a header field.
func (a Address) header() *mail.Address {
	return &mail.Address{Name: a.Name, Address: a.Email}
}

// needsUTF8 reports whether only a server with SMTPUTF8 can take the address.
func needsUTF8(email string) bool {
	for i := range len(email) {
		if email[i] >= utf8.RuneSelf {
			return true
		}
	}
	return false
}

// maxName is how many runes of a name stand in a mail.
const maxName = 64

// NeutralName makes a name that somebody typed safe to stand in a mail: it
// drops control and invisible characters, joins white space, and cuts after 64
// runes. A name that carries a link ("://", "www.", "word.tld", an @) becomes
// empty, because sign-up forms are used to send advertising to third parties
// through other people's welcome mails.
func NeutralName(s string) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		if n == maxName {
			break
		}
		if unicode.IsSpace(r) {
			space = b.Len() > 0
			continue
		}
		if !unicode.IsGraphic(r) || r == utf8.RuneError || strings.ContainsRune("<>{}[]\\|`\"", r) {
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
			if n++; n == maxName {
				break
			}
		}
		b.WriteRune(r)
		n++
	}
	out := strings.TrimSpace(b.String())
	if carriesLink(out) || carriesLink(s) {
		return ""
	}
	return out
}

func carriesLink(s string) bool {
	lower := strings.ToLower(s)
	if strings.ContainsAny(lower, "@") || strings.Contains(lower, "//") || strings.Contains(lower, "www.") ||
		strings.Contains(lower, ":/") {
		return true
	}
	// "word.tld": a dot between a letter or digit and at least two letters.
	// Initials ("J.R. Tolkien") have one letter before the next dot or space.
	runes := []rune(lower)
	for i, r := range runes {
		if r != '.' && r != '。' && r != '．' || i == 0 || !letterOrDigit(runes[i-1]) {
			continue
		}
		letters := 0
		for _, q := range runes[i+1:] {
			if !unicode.IsLetter(q) {
				break
			}
			letters++
		}
		if letters >= 2 {
			return true
		}
	}
	return false
}

func letterOrDigit(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
