package ratelimit

import (
	"strconv"
	"strings"
	"time"
)

// ServerLimit is an item of a RateLimit field: what a server has left.
type ServerLimit struct {
	Policy    string
	Remaining int64
	Reset     time.Duration // until there is more; -1 when the server doesn't say
}

// ParseRateLimit reads RateLimit fields of draft-ietf-httpapi-ratelimit-
// headers-10: a List of Strings with parameters, as RFC 9651 has it. As that
// asks, a field that breaks the grammar is ignored as a whole; items without r
// are left out.
func ParseRateLimit(fields []string) []ServerLimit {
	var limits []ServerLimit
	p := sfParser{rest: strings.Join(fields, ",")}
	p.spaces()
	for p.rest != "" {
		l := ServerLimit{Remaining: -1, Reset: -1}
		var ok bool
		if l.Policy, ok = p.str(); !ok {
			return nil
		}
		if !p.parameters(func(key string, n int64, isInt bool) {
			switch {
			case !isInt || n < 0:
			case key == "r":
				l.Remaining = n
			case key == "t":
				l.Reset = time.Duration(min(n, maxSeconds)) * time.Second
			}
		}) {
			return nil
		}
		if l.Remaining >= 0 {
			limits = append(limits, l)
		}
		p.blanks()
		if p.rest == "" {
			break
		}
		if !p.char(',') {
			return nil
		}
		if p.blanks(); p.rest == "" {
			return nil // a comma at the end
		}
	}
	return limits
}

// sfParser reads the part of RFC 9651 that the field uses: lists of strings
// with parameters whose values are bare items of any type.
type sfParser struct{ rest string }

func (p *sfParser) char(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *sfParser) spaces() { p.rest = strings.TrimLeft(p.rest, " ") }
func (p *sfParser) blanks() { p.rest = strings.TrimLeft(p.rest, " \t") }

// while takes the longest prefix of which every byte is ok.
func (p *sfParser) while(ok func(c byte) bool) string {
	i := 0
	for i < len(p.rest) && ok(p.rest[i]) {
		i++
	}
	s := p.rest[:i]
	p.rest = p.rest[i:]
	return s
}

func (p *sfParser) str() (string, bool) {
	if !p.char('"') {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case c == '\\':
			i++
			if i == len(p.rest) || p.rest[i] != '"' && p.rest[i] != '\\' {
				return "", false
			}
			b.WriteByte(p.rest[i])
		case c < 0x20 || c > 0x7e:
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

func (p *sfParser) parameters(each func(key string, n int64, isInt bool)) bool {
	for p.char(';') {
		p.spaces()
		if p.rest == "" || !isLower(p.rest[0]) && p.rest[0] != '*' {
			return false
		}
		key := p.while(func(c byte) bool {
			return isLower(c) || isDigit(c) || c == '_' || c == '-' || c == '.' || c == '*'
		})
		n, isInt, ok := int64(0), false, true
		if p.char('=') {
			n, isInt, ok = p.bare()
		}
		if !ok {
			return false
		}
		each(key, n, isInt)
	}
	return true
}

// bare reads a bare item and returns its value if it is an Integer.
func (p *sfParser) bare() (n int64, isInt, ok bool) {
	if p.rest == "" {
		return 0, false, false
	}
	switch c := p.rest[0]; {
	case c == '"':
		_, ok = p.str()
		return 0, false, ok
	case c == '?':
		p.rest = p.rest[1:]
		return 0, false, p.char('0') || p.char('1')
	case c == ':':
		p.rest = p.rest[1:]
		p.while(func(c byte) bool {
			return isLower(c) || isUpper(c) || isDigit(c) || c == '+' || c == '/' || c == '='
		})
		return 0, false, p.char(':')
	case c == '-' || isDigit(c):
		return p.number()
	case c == '@':
		p.rest = p.rest[1:]
		_, isInt, ok = p.number()
		return 0, false, ok && isInt
	case isLower(c) || isUpper(c) || c == '*':
		p.while(func(c byte) bool {
			return isLower(c) || isUpper(c) || isDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0
		})
		return 0, false, true
	}
	return 0, false, false
}

// number reads an Integer of up to 15 digits or a Decimal of up to 12 and 3.
func (p *sfParser) number() (n int64, isInt, ok bool) {
	negative := p.char('-')
	digits := p.while(isDigit)
	if digits == "" {
		return 0, false, false
	}
	if p.char('.') {
		fraction := p.while(isDigit)
		return 0, false, len(digits) <= 12 && len(fraction) >= 1 && len(fraction) <= 3
	}
	if len(digits) > 15 {
		return 0, false, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if negative {
		n = -n
	}
	return n, true, err == nil
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
