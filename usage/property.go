package usage

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
)

// Property is what an event says about itself under a name: a string, a bool
// or a number. String, Bool, Int, Float and Decimal make one.
type Property struct {
	Name string
	kind propertyKind
	bits uint64 // of a bool, whole number or float
	text string // of a string or decimal
}

type propertyKind uint8

const (
	kindNone propertyKind = iota // of a Property that nobody has made, or of JSON that is none of the others
	kindString
	kindBool
	kindInt
	kindFloat
	kindDecimal
)

// String returns a property of at most MaxText bytes of text.
func String(name, value string) Property { return Property{Name: name, kind: kindString, text: value} }

// Bool returns a property that is true or false.
func Bool(name string, value bool) Property {
	p := Property{Name: name, kind: kindBool}
	if value {
		p.bits = 1
	}
	return p
}

// Int returns a property that is a whole number.
func Int(name string, value int64) Property {
	return Property{Name: name, kind: kindInt, bits: uint64(value)}
}

// Float returns a property that is a number: the shortest decimal that reads
// back as value. It must be finite, and 0 or from 1e-30 to 1e30, either sign.
func Float(name string, value float64) Property {
	return Property{Name: name, kind: kindFloat, bits: math.Float64bits(value)}
}

// Decimal returns a property that is exactly the number that text spells in
// decimal, such as "19.90".
func Decimal(name, text string) Property { return Property{Name: name, kind: kindDecimal, text: text} }

// IsNumber reports whether the property was made by Int, Float or Decimal.
func (p Property) IsNumber() bool { return p.kind >= kindInt }

// Text returns the value as text: a number in its one plain form, without
// exponent and trailing zeros.
func (p Property) Text() string {
	if p.kind == kindString {
		return p.text
	}
	var buf [64]byte
	return string(p.appendText(buf[:0]))
}

// Value returns the value as string, bool or json.Number.
func (p Property) Value() any {
	switch p.kind {
	case kindNone:
		return nil
	case kindString:
		return p.text
	case kindBool:
		return p.bits != 0
	}
	return json.Number(p.Text())
}

func (p Property) appendText(buf []byte) []byte {
	switch p.kind {
	case kindString:
		return append(buf, p.text...)
	case kindBool:
		return strconv.AppendBool(buf, p.bits != 0)
	case kindInt:
		return strconv.AppendInt(buf, int64(p.bits), 10)
	case kindFloat:
		f := math.Float64frombits(p.bits)
		if f == 0 {
			return append(buf, '0') // and not -0
		}
		return strconv.AppendFloat(buf, f, 'f', -1, 64)
	case kindDecimal:
		d, ok := parseNumber(p.text)
		if !ok {
			return append(buf, p.text...)
		}
		return d.append(buf)
	}
	return buf
}

// check returns an error unless databases and SQL take the property as it is.
func (p *Property) check() error {
	if !validProperty(p.Name) {
		return invalid("property %.70q: a name has 1 to 64 bytes of UTF-8 without NUL", p.Name)
	}
	switch p.kind {
	case kindString:
		if len(p.text) > MaxText || !validText(p.text) {
			return invalid("property %q must be valid UTF-8 without NUL of at most %d bytes", p.Name, MaxText)
		}
	case kindFloat:
		// A NaN fails every comparison.
		if f := math.Abs(math.Float64frombits(p.bits)); f != 0 && !(f >= 1e-30 && f < 1e30) {
			return invalid("property %q is beyond 1e-30 to 1e30, or not finite", p.Name)
		}
	case kindDecimal:
		if _, ok := parseNumber(p.text); !ok {
			return invalid("property %q is not a decimal number that can be spelled in %d bytes", p.Name, maxDigits)
		}
	case kindNone:
		return invalid("property %q: use a string, a bool or a number", p.Name)
	}
	return nil
}

// number returns the digits of a number, which check has accepted.
func (p *Property) number() (decimalNumber, bool) {
	switch p.kind {
	case kindInt, kindFloat:
		var buf [64]byte
		d, ok := parseNumber(p.appendText(buf[:0]))
		return d, ok
	case kindDecimal:
		return parseNumber(p.text)
	}
	return decimalNumber{}, false
}

// scaled returns the property as whole units of 10^-scale, halves rounded away
// from zero.
func (p *Property) scaled(scale int) (int64, error) {
	if p.kind == kindInt && scale == 0 && int64(p.bits) <= MaxValue && int64(p.bits) >= -MaxValue {
		return int64(p.bits), nil
	}
	d, ok := p.number()
	if !ok {
		return 0, invalid("measure %q must be a number", p.Name)
	}
	n, ok := d.scaled(scale)
	if !ok {
		return 0, invalid("measure %q is beyond ±2^53 units of 10^-%d", p.Name, scale)
	}
	return n, nil
}

// Units returns a number as whole units of 10^-scale, halves rounded away from
// zero. It is false for what is no number, or beyond ±2^53 units.
func (p Property) Units(scale int) (int64, bool) {
	n, err := p.scaled(scale)
	return n, err == nil
}

// decimalNumber is 0.d1d2d3… times 10^point, without zeros at either end.
type decimalNumber struct {
	negative bool
	digits   [maxDigits]byte // as ASCII
	n        int
	point    int
}

const (
	maxDigits   = 64 // bytes of a number's text
	maxExponent = 30
)

// parseNumber reads a decimal number as JSON spells it; a plus and a missing
// zero before the point are forgiven.
func parseNumber[T string | []byte](s T) (d decimalNumber, ok bool) {
	if len(s) == 0 || len(s) > maxDigits {
		return d, false
	}
	i := 0
	if s[0] == '-' || s[0] == '+' {
		d.negative = s[0] == '-'
		i++
	}
	seen, point := 0, -1
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && point < 0 {
			point = seen
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		d.digits[seen] = c
		seen++
	}
	if seen == 0 {
		return d, false
	}
	d.point = seen
	if point >= 0 {
		d.point = point
	}
	if i < len(s) {
		if s[i] != 'e' && s[i] != 'E' {
			return d, false
		}
		exp, err := strconv.Atoi(string(s[i+1:]))
		if err != nil || exp > maxExponent || exp < -maxExponent {
			return d, false
		}
		d.point += exp
	}
	d.n = seen
	for d.n > 0 && d.digits[d.n-1] == '0' {
		d.n--
	}
	zeros := 0
	for zeros < d.n && d.digits[zeros] == '0' {
		zeros++
	}
	copy(d.digits[:], d.digits[zeros:d.n])
	d.n -= zeros
	d.point -= zeros
	if d.n == 0 {
		d.negative, d.point = false, 0
	}
	// The plain form has to be short too, so that it can be read again.
	return d, max(d.n, d.point, d.n-d.point)+3 <= maxDigits
}

// append spells the number in its one plain form.
func (d *decimalNumber) append(buf []byte) []byte {
	if d.n == 0 {
		return append(buf, '0')
	}
	if d.negative {
		buf = append(buf, '-')
	}
	if d.point <= 0 {
		buf = append(buf, "0."...)
		for range -d.point {
			buf = append(buf, '0')
		}
		return append(buf, d.digits[:d.n]...)
	}
	for i := range max(d.n, d.point) {
		if i == d.point {
			buf = append(buf, '.')
		}
		if i < d.n {
			buf = append(buf, d.digits[i])
		} else {
			buf = append(buf, '0')
		}
	}
	return buf
}

// scaled returns the number in units of 10^-scale, halves rounded away from
// zero. It is false beyond MaxValue.
func (d *decimalNumber) scaled(scale int) (int64, bool) {
	places := d.point + scale // how many digits stand before the unit's point
	if places > 17 {
		return 0, d.n == 0
	}
	var n int64
	for i := range max(0, places) {
		n *= 10
		if i < d.n {
			n += int64(d.digits[i] - '0')
		}
	}
	if places >= 0 && places < d.n && d.digits[places] >= '5' {
		n++
	}
	if n > MaxValue {
		return 0, false
	}
	if d.negative {
		n = -n
	}
	return n, true
}

// Properties are an event's, in any order. A name comes once.
type Properties []Property

// Get returns the property of a name.
func (p Properties) Get(name string) (Property, bool) {
	for _, x := range p {
		if x.Name == name {
			return x, true
		}
	}
	return Property{}, false
}

// AppendJSON appends the properties as a JSON object.
func (p Properties) AppendJSON(buf []byte) []byte {
	buf = append(buf, '{')
	for i := range p {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(appendQuoted(buf, p[i].Name), ':')
		switch p[i].kind {
		case kindNone:
			buf = append(buf, "null"...)
		case kindString:
			buf = appendQuoted(buf, p[i].text)
		default:
			buf = p[i].appendText(buf)
		}
	}
	return append(buf, '}')
}

func appendQuoted(buf []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // a string always has a JSON form
			return append(buf, text...)
		}
	}
	return append(append(append(buf, '"'), s...), '"')
}

// MarshalJSON returns the properties as a JSON object.
func (p Properties) MarshalJSON() ([]byte, error) { return p.AppendJSON(nil), nil }

// UnmarshalJSON reads a JSON object. Numbers keep their exact value. A member
// that is no string, bool or number is kept as one that no event may have, so
// that of a batch only the event is refused.
func (p *Properties) UnmarshalJSON(data []byte) error {
	*p = nil
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	start, err := dec.Token()
	if err != nil || start == nil {
		return err // null
	}
	if start != json.Delim('{') {
		return invalid("properties must be a JSON object")
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		x := Property{Name: name.(string)} // by JSON's grammar
		var value any
		if err := dec.Decode(&value); err != nil {
			return err
		}
		switch v := value.(type) {
		case string:
			x = String(x.Name, v)
		case bool:
			x = Bool(x.Name, v)
		case json.Number:
			x = numberProperty(x.Name, v.String())
		}
		*p = append(*p, x)
	}
	_, err = dec.Token()
	return err
}

// numberProperty returns the plainest property of a number.
func numberProperty(name, text string) Property {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return Int(name, n)
	}
	return Decimal(name, text)
}
