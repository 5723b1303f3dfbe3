package billing

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Unlimited is the number of a limit that is none. It is greater than every
// other number, so that comparisons need no special case.
const Unlimited int64 = math.MaxInt64

// Limit is how much a plan allows: N in each Per, or N in each billing period
// when Per is zero. Written "10/minute", "100/period" or "unlimited".
type Limit struct {
	N   int64
	Per time.Duration
}

var limitUnits = []struct {
	name string
	per  time.Duration
}{
	{"second", time.Second},
	{"minute", time.Minute},
	{"hour", time.Hour},
	{"day", 24 * time.Hour},
	{"period", 0},
}

// ParseLimit reads "10/minute", "100/period" or "unlimited". The units are
// second, minute, hour, day and period.
func ParseLimit(text string) (Limit, error) {
	if text == "unlimited" {
		return Limit{N: Unlimited}, nil
	}
	number, unit, ok := strings.Cut(text, "/")
	n, err := strconv.ParseInt(number, 10, 64)
	if ok && err == nil && n >= 0 && n != Unlimited && !strings.HasPrefix(number, "+") {
		for _, u := range limitUnits {
			if u.name == unit {
				return Limit{N: n, Per: u.per}, nil
			}
		}
	}
	return Limit{}, fmt.Errorf(`%w: limit %q: want "10/minute", "100/period" or "unlimited" (units: second, minute, hour, day, period)`, ErrInvalid, text)
}

// Unlimited reports whether the limit is none.
func (l Limit) Unlimited() bool { return l.N == Unlimited }

// String returns what ParseLimit reads.
func (l Limit) String() string {
	if l.Unlimited() {
		return "unlimited"
	}
	for _, u := range limitUnits {
		if u.per == l.Per {
			return strconv.FormatInt(l.N, 10) + "/" + u.name
		}
	}
	return strconv.FormatInt(l.N, 10) + "/" + l.Per.String()
}

// MarshalText returns what ParseLimit reads.
func (l Limit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseLimit.
func (l *Limit) UnmarshalText(text []byte) error {
	parsed, err := ParseLimit(string(text))
	if err != nil {
		return err
	}
	*l = parsed
	return nil
}

// sameKind reports whether both are rates or both are quotas; none is both.
func (l Limit) sameKind(m Limit) bool {
	return l.Unlimited() || m.Unlimited() || (l.Per == 0) == (m.Per == 0)
}

// less reports whether l allows less than m, which is of the same kind.
func (l Limit) less(m Limit) bool {
	if l.Unlimited() || m.Unlimited() || l.Per == 0 {
		return l.N < m.N
	}
	return float64(l.N)/float64(l.Per) < float64(m.N)/float64(m.Per)
}

// plus is the limit with another one added some times, and whether they can be
// added: a rate to a rate of the same unit, a quota to a quota. It never
// becomes Unlimited by adding.
func (l Limit) plus(m Limit, times int64) (Limit, bool) {
	switch {
	case l.Unlimited():
		return l, true
	case m.Unlimited():
		return m, true
	case l.Per != m.Per:
		return l, false
	case m.N != 0 && times > (Unlimited-1-l.N)/m.N:
		return Limit{N: Unlimited - 1, Per: l.Per}, true
	}
	return Limit{N: l.N + m.N*times, Per: l.Per}, true
}

// feed returns the number as other packages are fed with it: negative for no
// limit, as is the custom of those who ask by an interface of their own.
func (l Limit) feed() int64 {
	if l.Unlimited() {
		return -1
	}
	return l.N
}
