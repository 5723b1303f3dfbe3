package billing

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/Rhymond/go-money"
)

// Money is an amount in the minor unit of its currency: Money{999, "USD"} is
// 9.99 dollars, Money{999, "JPY"} is 999 yen, Money{9990, "KWD"} is 9.990
// dinars. Currency is an ISO 4217 code in upper case. The zero value is no
// amount in no currency.
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// ErrMoney is the kind of every error of Money's arithmetic.
var ErrMoney = errors.New("billing: money")

// Validate returns an error if the currency isn't an ISO 4217 code in upper
// case.
func (m Money) Validate() error {
	if money.GetCurrency(m.Currency) == nil || m.Currency != strings.ToUpper(m.Currency) {
		return fmt.Errorf("%w: %q is not an ISO 4217 currency code in upper case, such as USD", ErrMoney, m.Currency)
	}
	return nil
}

// Exponent returns the number of decimals of the currency: 2 for USD, 0 for
// JPY, 3 for KWD; 2 for an unknown one.
func (m Money) Exponent() int {
	if c := money.GetCurrency(m.Currency); c != nil {
		return c.Fraction
	}
	return 2
}

// String formats the amount with the symbol and the separators of its
// currency: "$9.99", "¥999".
func (m Money) String() string {
	if m.Currency == "" {
		return "0"
	}
	return money.New(m.Amount, m.Currency).Display()
}

// IsZero reports whether the amount is zero.
func (m Money) IsZero() bool { return m.Amount == 0 }

// Add returns m + n. The currencies must be the same, or one of the two the
// zero value; a sum that doesn't fit is an error, never a wrong amount.
func (m Money) Add(n Money) (Money, error) {
	if m == (Money{}) {
		return n, nil
	}
	if n == (Money{}) {
		return m, nil
	}
	if m.Currency != n.Currency {
		return Money{}, fmt.Errorf("%w: can't add %s to %s", ErrMoney, n.Currency, m.Currency)
	}
	sum := m.Amount + n.Amount
	if (sum > m.Amount) != (n.Amount > 0) && n.Amount != 0 {
		return Money{}, fmt.Errorf("%w: %d + %d overflows", ErrMoney, m.Amount, n.Amount)
	}
	return Money{sum, m.Currency}, nil
}

// Neg returns -m.
func (m Money) Neg() Money { return Money{-m.Amount, m.Currency} }

// Times returns m times a quantity.
func (m Money) Times(quantity int64) (Money, error) {
	amount, err := mulDiv(m.Amount, quantity, 1)
	if err != nil {
		return Money{}, err
	}
	return Money{amount, m.Currency}, nil
}

// Share returns m · part / whole, rounded half away from zero, computed
// without an intermediate overflow: proration and percentages. The whole must
// be positive.
func (m Money) Share(part, whole int64) (Money, error) {
	if whole <= 0 {
		return Money{}, fmt.Errorf("%w: share of a whole of %d", ErrMoney, whole)
	}
	amount, err := mulDiv(m.Amount, part, whole)
	if err != nil {
		return Money{}, err
	}
	return Money{amount, m.Currency}, nil
}

// Allocate splits m in proportion to the weights, which must not be negative
// nor all zero. The parts sum to m exactly: what rounding leaves over goes, a
// unit at a time, to the first parts with a weight.
func (m Money) Allocate(weights ...int64) ([]Money, error) {
	var total int64
	for _, w := range weights {
		if w < 0 || total > math.MaxInt64-w {
			return nil, fmt.Errorf("%w: weights %v", ErrMoney, weights)
		}
		total += w
	}
	if total == 0 {
		return nil, fmt.Errorf("%w: weights %v sum to zero", ErrMoney, weights)
	}
	parts := make([]Money, len(weights))
	rest := m.Amount
	for i, w := range weights {
		// Truncated towards zero, so that the rest has the sign of m.
		hi, lo := bits.Mul64(magnitude(m.Amount), uint64(w))
		q, _ := bits.Div64(hi, lo, uint64(total)) // q ≤ |m|: w ≤ total
		part := int64(q)
		if m.Amount < 0 {
			part = -part
		}
		parts[i] = Money{part, m.Currency}
		rest -= part
	}
	step := int64(1)
	if rest < 0 {
		step = -1
	}
	for i := 0; rest != 0; i = (i + 1) % len(parts) {
		if weights[i] > 0 {
			parts[i].Amount += step
			rest -= step
		}
	}
	return parts, nil
}

// mulDiv returns a·b/c rounded half away from zero through 128 bits.
func mulDiv(a, b, c int64) (int64, error) {
	negative := (a < 0) != (b < 0)
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	lo, carry := bits.Add64(lo, uint64(c)/2, 0)
	hi += carry
	if hi >= uint64(c) {
		return 0, fmt.Errorf("%w: %d · %d / %d overflows", ErrMoney, a, b, c)
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	if q > math.MaxInt64 {
		return 0, fmt.Errorf("%w: %d · %d / %d overflows", ErrMoney, a, b, c)
	}
	if negative {
		return -int64(q), nil
	}
	return int64(q), nil
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return uint64(-(n + 1)) + 1
	}
	return uint64(n)
}
