package usage

import (
	"crypto/sha256"
	"encoding/json"
	"hash/fnv"
	"maps"
	"math"
	"math/big"
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
	// Properties are strings, bools and numbers. Numbers may be of any Go
	// integer or float type or json.Number.
	Properties map[string]any `json:"properties,omitempty"`
}

// Entry is an event as a Store takes it: checked, with its key and time fixed,
// so that it stays the same through every retry.
type Entry struct {
	// Time is UTC in whole microseconds, Properties are normalised, and ID
	// may be empty where Own is true: it is IDOf(Key).
	Event
	// Key identifies the event within account and meter. The keys of IDs that
	// were made by this package are UUIDv7, unguessable and ascending; those
	// of the caller's IDs are hashes.
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
	m, ok := s.meters[e.Meter]
	if !ok {
		return Entry{}, s.unknownMeter(e.Meter)
	}
	if err := checkAccount(e.Account); err != nil {
		return Entry{}, err
	}
	if len(e.ID) > MaxID || !validText(e.ID) {
		return Entry{}, invalid("ID must be valid UTF-8 of at most %d bytes", MaxID)
	}
	if len(e.Properties) > MaxProperties {
		return Entry{}, invalid("%d properties, at most %d", len(e.Properties), MaxProperties)
	}
	if m.Aggregation == Count {
		if e.Value != 0 && e.Value != 1 {
			return Entry{}, invalid("meter %q counts events: Value must be 0 or 1, not %d (use Aggregation sum)", m.Name, e.Value)
		}
		e.Value = 1
	}
	if e.Value < 0 && m.Aggregation != Sum {
		return Entry{}, invalid("meter %q: only a sum takes a negative Value", m.Name)
	}
	if e.Value > MaxValue || e.Value < -MaxValue {
		return Entry{}, invalid("Value %d is beyond ±2^53", e.Value)
	}
	t := now
	if !e.Time.IsZero() {
		t = e.Time
		if t.After(now.Add(s.cfg.MaxAhead)) {
			if !s.cfg.ClampFuture {
				return Entry{}, ErrInFuture
			}
			t = now
		}
		if s.cfg.MaxAge > 0 && t.Before(now.Add(-s.cfg.MaxAge)) {
			return Entry{}, ErrTooLate
		}
	}
	e.Time = t.UTC().Truncate(time.Microsecond)

	x := Entry{Event: e, Own: e.ID == ""}
	if x.Own {
		x.Key = newKey(now)
		x.ID = IDOf(x.Key)
	} else {
		x.Key = KeyOf(e.Meter, e.ID)
	}
	if err := x.describe(m); err != nil {
		return Entry{}, err
	}
	return x, nil
}

// describe normalises the properties and derives Figures, Groups and Hash.
func (e *Entry) describe(m Meter) error {
	e.Figures = append(e.Figures, Figure{Value: e.Value})
	if len(e.Properties) == 0 && m.Aggregation != Unique {
		e.Properties, e.Hash = nil, e.Value
		return nil
	}
	props := make(map[string]any, len(e.Properties))
	h := fnv.New64a()
	_, _ = h.Write(strconv.AppendInt(nil, e.Value, 10)) // a hash never fails
	for _, name := range slices.Sorted(maps.Keys(e.Properties)) {
		if !validProperty(name) {
			return invalid("property %.70q: a name has 1 to 64 bytes of UTF-8 without NUL", name)
		}
		v, text, err := normalise(name, e.Properties[name])
		if err != nil {
			return err
		}
		if ms, ok := m.measure(name); ok {
			n, canonical, err := scale(name, text, v, ms.Scale)
			if err != nil {
				return err
			}
			v, text = json.Number(canonical), canonical
			e.Figures = append(e.Figures, Figure{Name: name, Value: n, Scale: ms.Scale})
		}
		if slices.Contains(m.Dimensions, name) {
			if _, isNumber := v.(json.Number); isNumber && strings.ContainsAny(text, ".eE") || len(text) > maxGroup {
				return invalid("dimension %q must be a string of at most %d bytes, a bool or a whole number", name, maxGroup)
			}
			e.Groups = append(e.Groups, name+"="+text)
		}
		props[name] = v
		for _, s := range []string{"\x00", name, "\x00", text} {
			_, _ = h.Write([]byte(s))
		}
	}
	if m.Aggregation == Unique {
		if _, ok := props[m.Property]; !ok {
			return invalid("meter %q counts different values of property %q, which the event lacks", m.Name, m.Property)
		}
	}
	e.Properties = props
	if len(props) == 0 {
		e.Properties = nil
	}
	e.Hash = int64(h.Sum64())
	return nil
}

// normalise returns a property's value as string, bool or json.Number, and its
// text as SQL's ->> gives it.
func normalise(name string, v any) (any, string, error) {
	switch v := v.(type) {
	case string:
		if len(v) > MaxText || !validText(v) {
			return nil, "", invalid("property %q must be valid UTF-8 without NUL of at most %d bytes", name, MaxText)
		}
		return v, v, nil
	case bool:
		return v, strconv.FormatBool(v), nil
	case json.Number:
		return number(name, v.String())
	case float64:
		return float(name, v, 64)
	case float32:
		return float(name, float64(v), 32)
	case int:
		return whole(int64(v))
	case int8:
		return whole(int64(v))
	case int16:
		return whole(int64(v))
	case int32:
		return whole(int64(v))
	case int64:
		return whole(v)
	case uint:
		return number(name, strconv.FormatUint(uint64(v), 10))
	case uint8:
		return whole(int64(v))
	case uint16:
		return whole(int64(v))
	case uint32:
		return whole(int64(v))
	case uint64:
		return number(name, strconv.FormatUint(v, 10))
	}
	return nil, "", invalid("property %q has type %T: use a string, a bool or a number", name, v)
}

func whole(v int64) (any, string, error) {
	s := strconv.FormatInt(v, 10)
	return json.Number(s), s, nil
}

func float(name string, v float64, bits int) (any, string, error) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil, "", invalid("property %q is not a finite number", name)
	}
	return number(name, strconv.FormatFloat(v, 'f', -1, bits))
}

// number takes decimal text to its one plain form: no exponent, no plus, no
// zeros at the end, so that Go and SQL spell it alike.
func number(name, text string) (any, string, error) {
	// A short exponent can stand for a number that fills the memory.
	_, exp, found := strings.Cut(strings.ToLower(text), "e")
	if n, err := strconv.Atoi(exp); found && (err != nil || n > 30 || n < -30) || len(text) > 64 {
		return nil, "", invalid("property %q: number out of range", name)
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok || strings.ContainsAny(text, "/_xXpPbBoO") {
		return nil, "", invalid("property %q is not a decimal number", name)
	}
	digits, _ := r.FloatPrec() // exact: the text was decimal
	s := r.FloatString(digits)
	return json.Number(s), s, nil
}

// scale returns a number as whole units of 10^-scale, rounded half away from
// zero, and its decimal text.
func scale(name, text string, v any, digits int) (int64, string, error) {
	if _, ok := v.(json.Number); !ok {
		return 0, "", invalid("measure %q must be a number, not %T", name, v)
	}
	r, _ := new(big.Rat).SetString(text) // number has checked it
	rounded := r.FloatString(digits)
	n, err := strconv.ParseInt(strings.Replace(rounded, ".", "", 1), 10, 64)
	if err != nil || n > MaxValue || n < -MaxValue {
		return 0, "", invalid("measure %q is beyond ±2^53 units of 10^-%d", name, digits)
	}
	_, canonical, err := number(name, rounded)
	return n, canonical, err
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
func validText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }
