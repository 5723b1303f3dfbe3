package usage

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Aggregation says what one number a meter's events come to.
type Aggregation string

// The aggregations of a meter.
const (
	Count   Aggregation = "count"   // how many events
	Sum     Aggregation = "sum"     // the values added up
	Max     Aggregation = "max"     // the greatest value
	Min     Aggregation = "min"     // the least value
	Average Aggregation = "average" // the sum divided by the count
	Latest  Aggregation = "latest"  // the value of the newest event
	Unique  Aggregation = "unique"  // how many different values one property has
)

var aggregations = []Aggregation{Count, Sum, Max, Min, Average, Latest, Unique}

// Bounds of what a meter may declare.
const (
	MaxMeasures   = 16
	MaxDimensions = 8
	maxScale      = 9
)

// Meter is what is counted. Meters are data: they are given to New and may
// change between two starts, but a measure's Scale is for ever.
type Meter struct {
	// Name is how events, quotas and queries call it: 1 to 64 of a-z, 0-9, _,
	// - and the dot.
	Name string
	// Aggregation is Count when empty.
	Aggregation Aggregation
	// Unit is for people: "kolekt", "token", "byte".
	Unit string
	// Property names the property that Unique counts.
	Property string
	// Measures are numeric properties of which totals, averages, least and
	// greatest are kept beside the value's. At most MaxMeasures.
	Measures []Measure
	// Dimensions are properties by which figures are kept apart, so that
	// grouping by one is as fast as a total. Their values are strings of at
	// most 64 bytes, bools or whole numbers; other properties can be grouped
	// by too, at the price of reading the events. At most MaxDimensions. Each
	// one multiplies what is written, so it should have few values.
	Dimensions []string
	// Quota makes each recorded event count against the account's quota: it is
	// added to what is used, whether or not that exceeds the limit. Only Count
	// and Sum can have it. Reserve and Consume work with and without it.
	Quota bool
	// Report makes a Reporter tell the payment provider of what is recorded
	// from now on. Only Count and Sum can have it.
	Report bool
	// Thresholds are the percentages of a quota's limit of whose crossing a
	// Notice is due, ascending. Nil means 80 and 100; empty means none.
	Thresholds []int
}

// Measure is a numeric property that is kept as a whole number of 10^-Scale.
type Measure struct {
	Property string
	// Scale is how many decimals are kept, 0 to 9; further ones are rounded,
	// halves away from zero.
	Scale int
}

func (m Meter) withDefaults() Meter {
	if m.Aggregation == "" {
		m.Aggregation = Count
	}
	if m.Thresholds == nil {
		m.Thresholds = []int{80, 100}
	}
	return m
}

func (m Meter) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("usage: meter %q: %s", m.Name, fmt.Sprintf(format, args...))
	}
	if !validName(m.Name) {
		return bad("the name must be 1 to 64 of a-z, 0-9, '_', '-' and '.'")
	}
	if !slices.Contains(aggregations, m.Aggregation) {
		return bad("unknown Aggregation %q (have %v)", m.Aggregation, aggregations)
	}
	if (m.Aggregation == Unique) != (m.Property != "") {
		return bad("Property is for Aggregation unique, which needs it")
	}
	if m.Quota && !m.countable() {
		return bad("Quota needs Aggregation count or sum, not %s", m.Aggregation)
	}
	if m.Report && !m.countable() {
		return bad("Report needs Aggregation count or sum, not %s", m.Aggregation)
	}
	if len(m.Measures) > MaxMeasures || len(m.Dimensions) > MaxDimensions {
		return bad("at most %d Measures and %d Dimensions", MaxMeasures, MaxDimensions)
	}
	seen := map[string]bool{}
	for _, x := range m.Measures {
		if !validProperty(x.Property) || x.Scale < 0 || x.Scale > maxScale || seen[x.Property] {
			return bad("Measures: %q needs a unique name of at most 64 bytes and a Scale of 0 to %d", x.Property, maxScale)
		}
		seen[x.Property] = true
	}
	for _, d := range m.Dimensions {
		if !validProperty(d) || strings.Contains(d, "=") || seen[d] {
			return bad("Dimensions: %q needs a unique name of at most 64 bytes without '=', and can't be a measure", d)
		}
		seen[d] = true
	}
	for i, t := range m.Thresholds {
		if t < 1 || t > 10000 || i > 0 && t <= m.Thresholds[i-1] {
			return bad("Thresholds must ascend within 1 to 10000 percent")
		}
	}
	return nil
}

func (m Meter) countable() bool { return m.Aggregation == Count || m.Aggregation == Sum }

// measure returns the measure of the property.
func (m *Meter) measure(property string) (Measure, bool) {
	for _, x := range m.Measures {
		if x.Property == property {
			return x, true
		}
	}
	return Measure{}, false
}

func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func validProperty(s string) bool { return s != "" && len(s) <= 64 && validText(s) }

// meterNames lists the known meters for error messages.
func meterNames(meters map[string]Meter) string {
	return strings.Join(slices.Sorted(maps.Keys(meters)), ", ")
}

// pow10 returns 10^n for n of 0 to 18.
func pow10(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

func floatOf(v int64, scale int) float64 { return float64(v) / math.Pow10(scale) }
