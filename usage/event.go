package usage

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of an event.
const (
	MaxID         = 200     // bytes
	MaxAccount    = 200     // bytes
	MaxProperties = 32      // by number
	MaxText       = 1024    // bytes of one string property
	MaxValue      = 1 << 53 // of a value or scaled measure, either sign
	maxGroup      = 64      // bytes of a dimension's value
)

// Event is one use of a meter.
type Event struct {
	// ID is the idempotency key within account and meter: the same ID is
	// counted once, however often it is sent. Empty means that one is made,
	// which protects the retries of a Recorder but not those of the caller.
	ID      string `json:"id"`
	Account string `json:"account"`
	Meter   string `json:"meter"`
	// Value is how much, in the meter's smallest unit. Count meters take 1,
	// which 0 stands for. A negative value corrects a Sum.
	Value int64 `json:"value"`
	// Time is when it happened. Zero means now.
	Time time.Time `json:"time"`
	// Properties are what else is known about it: at most MaxProperties
	// strings, bools and numbers.
	Properties Properties `json:"properties,omitempty"`
}

// Entry is an event as a Store takes it: checked, with its key and time fixed,
// so that it stays the same through every retry.
type Entry struct {
	// Time is UTC in whole microseconds, Properties are in their one form and
	// in the order of their names, and ID may be empty where Own is true: it
	// is IDOf(Key).
	Event
	// Key identifies the event within account and meter. The keys of IDs that
	// were made by this package are KeyAt of the event's Time, those of the
	// caller's IDs are KeyOf: a store that has time and ID needs to keep only
	// the second half.
	Key [16]byte
	// Own says that the ID was made by this package. Such an event always
	// comes with the same Time.
	Own bool
	// Hash is of value and properties: another content under the same ID is
	// ErrKeyReused.
	Hash int64
	// Figures are the event's value (first, named "") and its measures.
	Figures []Figure
	// Groups are the event's dimensions as "name=value", in ascending order.
	Groups []string
	// Charge, when its period isn't zero, is the quota that the event counts
	// against, whatever is left of it.
	Charge Charge
	// Report says that the payment provider is to be told; see ReportStore.
	Report bool
}

// Figure is a number that an event carries.
type Figure struct {
	Name  string // empty for the event's value, else the measure's property
	Value int64  // in units of 10^-Scale
	Scale int
}

// Charge says which quota a step is about.
type Charge struct {
	Period     Period
	Limit      int64 // Unlimited, or units; for information and thresholds
	Cap        int64 // Unlimited, or the most that may ever be used and held
	Thresholds []int // percent, ascending
}

// entry checks an event and fixes its key and time.
func (s *Service) entry(e Event, now time.Time) (Entry, error) {
	var err error
	if e.Time, e.Value, err = s.check(&e, now.UTC().Truncate(time.Microsecond)); err != nil {
		return Entry{}, err
	}
	x := Entry{Event: e, Own: e.ID == ""}
	x.Properties = slices.Clone(e.Properties) // the caller's stay as they are
	if x.Own {
		x.Key = newKey(e.Time)
		x.ID = IDOf(x.Key)
	} else {
		x.Key = KeyOf(e.Meter, e.ID)
	}
	x.describe(s.meter(e.Meter))
	return x, nil
}

// check returns an error unless the event can be stored, and else what Time and
// Value it has. now is UTC in whole microseconds.
func (s *Service) check(e *Event, now time.Time) (at time.Time, value int64, err error) {
	if value, err = s.checkContent(e); err != nil || e.Time.IsZero() {
		return now, value, err
	}
	at, err = s.checkTime(e.Time, now)
	return at, value, err
}

// checkContent looks at everything but the time, and returns what Value the
// event has. It allocates nothing for a good event and keeps no part of it,
// which is why it changes nothing in place: so the caller's properties can stay
// on the caller's stack.
func (s *Service) checkContent(e *Event) (value int64, err error) {
	m := s.meter(e.Meter)
	if m == nil {
		return 0, s.unknownMeter(strings.Clone(e.Meter))
	}
	if err := checkAccount(e.Account); err != nil {
		return 0, err
	}
	if len(e.ID) > MaxID || !validText(e.ID) {
		return 0, invalid("ID must be valid UTF-8 of at most %d bytes", MaxID)
	}
	value = e.Value
	if m.Aggregation == Count {
		if value != 0 && value != 1 {
			return 0, invalid("meter %q counts events: Value must be 0 or 1, not %d (use Aggregation sum)", m.Name, value)
		}
		value = 1
	}
	if value < 0 && m.Aggregation != Sum {
		return 0, invalid("meter %q: only a sum takes a negative Value", m.Name)
	}
	if value > MaxValue || value < -MaxValue {
		return 0, invalid("Value %d is beyond ±2^53", value)
	}
	if len(e.Properties) > 0 || m.Aggregation == Unique {
		if err := m.checkProperties(e.Properties); err != nil {
			return 0, err
		}
	}
	return value, nil
}

// checkTime returns the time that an event is stored with.
func (s *Service) checkTime(at, now time.Time) (time.Time, error) {
	if at.After(now.Add(s.cfg.MaxAhead)) {
		if !s.cfg.ClampFuture {
			return at, ErrInFuture
		}
		return now, nil
	}
	if s.cfg.MaxAge > 0 && at.Before(now.Add(-s.cfg.MaxAge)) {
		return at, ErrTooLate
	}
	return at.UTC().Truncate(time.Microsecond), nil
}

func (m *Meter) checkProperties(props Properties) error {
	if len(props) > MaxProperties {
		return invalid("%d properties, at most %d", len(props), MaxProperties)
	}
	for i := range props {
		p := &props[i]
		if err := p.check(); err != nil {
			return err
		}
		for j := range i {
			if props[j].Name == p.Name {
				return invalid("property %q comes twice", p.Name)
			}
		}
		if ms, ok := m.measure(p.Name); ok {
			if _, err := p.scaled(ms.Scale); err != nil {
				return err
			}
		}
		if slices.Contains(m.Dimensions, p.Name) && !p.isGroup() {
			return invalid("dimension %q must be a string of at most %d bytes, a bool or a whole number", p.Name, maxGroup)
		}
	}
	if m.Aggregation == Unique {
		if _, ok := props.Get(m.Property); !ok {
			return invalid("meter %q counts different values of property %q, which the event lacks", m.Name, m.Property)
		}
	}
	return nil
}

// isGroup reports whether the property can be a dimension's value.
func (p *Property) isGroup() bool {
	if !p.IsNumber() {
		return len(p.text) <= maxGroup
	}
	d, ok := p.number()
	return ok && d.n <= d.point
}

// describe brings the properties, which it changes, into their one form, and
// derives Figures, Groups and Hash. check has accepted them.
func (e *Entry) describe(m *Meter) {
	e.Figures = append(e.Figures, Figure{Value: e.Value})
	if len(e.Properties) == 0 {
		e.Properties, e.Hash = nil, e.Value
		return
	}
	slices.SortFunc(e.Properties, func(a, b Property) int { return cmp.Compare(a.Name, b.Name) })
	var buf [MaxText + 8]byte
	h := hashBytes(fnvOffset, strconv.AppendInt(buf[:0], e.Value, 10))
	for i := range e.Properties {
		p := &e.Properties[i]
		if ms, ok := m.measure(p.Name); ok {
			n, _ := p.scaled(ms.Scale) // check has done it before
			e.Figures = append(e.Figures, Figure{Name: p.Name, Value: n, Scale: ms.Scale})
			*p = unitsOf(p.Name, n, ms.Scale)
		} else if p.kind == kindFloat || p.kind == kindDecimal {
			*p = numberProperty(p.Name, p.Text())
		}
		text := p.appendText(buf[:0])
		if slices.Contains(m.Dimensions, p.Name) {
			e.Groups = append(e.Groups, p.Name+"="+string(text))
		}
		h = hashBytes(h, "\x00")
		h = hashBytes(h, p.Name)
		h = hashBytes(h, "\x00")
		h = hashBytes(h, text)
	}
	e.Hash = int64(h)
}

// unitsOf returns n units of 10^-scale as a property.
func unitsOf(name string, n int64, scale int) Property {
	if scale == 0 {
		return Int(name, n)
	}
	d, _ := parseNumber(decimal(n, scale)) // at most 17 digits
	var buf [64]byte
	return numberProperty(name, string(d.append(buf[:0])))
}

// FNV-1a of 64 bits.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

func hashBytes[T string | []byte](h uint64, s T) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}

// KeyOf returns the key of a caller's ID within a meter.
func KeyOf(meter, id string) (key [16]byte) {
	sum := sha256.Sum256([]byte(meter + "\x00" + id))
	copy(key[:], sum[:])
	return key
}

func checkAccount(account string) error {
	if account == "" || len(account) > MaxAccount || !validText(account) {
		return invalid("account must be 1 to %d bytes of UTF-8 without NUL", MaxAccount)
	}
	return nil
}

// validText reports whether databases take the text: they refuse NUL and
// broken UTF-8.
func validText(s string) bool {
	for i := range len(s) {
		if s[i]-1 >= utf8.RuneSelf-1 { // NUL, or more than ASCII
			return !strings.Contains(s[i:], "\x00") && utf8.ValidString(s[i:])
		}
	}
	return true
}
