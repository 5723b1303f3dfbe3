package revenue

import (
	"math"
	"math/big"
	"slices"

	"github.com/kolekt/commerce/billing"
)

// Figure is an amount in one currency and what it consists of. It is exact
// (a twelfth of a yearly price is no whole number of cents) and rounded only
// when it is shown.
type Figure struct {
	Currency string   `json:"currency"`
	Exact    *big.Rat `json:"exact"` // in minor units
	Parts    []Part   `json:"parts"` // by subscription; their sum is Exact
}

// Part is what one subscription adds to a figure.
type Part struct {
	Account        string   `json:"account"`
	SubscriptionID string   `json:"subscription_id"`
	Exact          *big.Rat `json:"exact"`
}

// Money returns the amount rounded half away from zero to minor units.
func (f Figure) Money() billing.Money {
	return billing.Money{Amount: rounded(f.Exact), Currency: f.Currency}
}

// add adds a part; nothing for zero.
func (f *Figure) add(account, subscription string, amount *big.Rat) {
	if amount.Sign() == 0 {
		return
	}
	f.Exact.Add(f.Exact, amount)
	f.Parts = append(f.Parts, Part{account, subscription, new(big.Rat).Set(amount)})
}

// times returns the figure, and each of its parts, times n.
func (f Figure) times(n int64) Figure {
	product := newFigure(f.Currency)
	for _, p := range f.Parts {
		product.add(p.Account, p.SubscriptionID, new(big.Rat).Mul(p.Exact, big.NewRat(n, 1)))
	}
	return product
}

func newFigure(currency string) Figure { return Figure{Currency: currency, Exact: new(big.Rat)} }

// rounded rounds half away from zero; what doesn't fit becomes the largest
// number.
func rounded(r *big.Rat) int64 {
	if r == nil {
		return 0
	}
	n := new(big.Int).Abs(r.Num())
	n.Add(n.Lsh(n, 1), r.Denom())
	n.Quo(n, new(big.Int).Lsh(r.Denom(), 1))
	if !n.IsInt64() {
		n.SetInt64(math.MaxInt64)
	}
	if r.Sign() < 0 {
		n.Neg(n)
	}
	return n.Int64()
}

// Count is how many accounts, and which, in order.
type Count struct {
	N        int      `json:"n"`
	Accounts []string `json:"accounts"`
}

func countOf(set map[string]bool) Count {
	c := Count{}
	for account, in := range set {
		if in {
			c.Accounts = append(c.Accounts, account)
		}
	}
	slices.Sort(c.Accounts)
	c.N = len(c.Accounts)
	return c
}

func (c Count) rat() *big.Rat { return big.NewRat(int64(c.N), 1) }

// Ratio is a part of a whole. It is undefined, and never infinite, when the
// whole is zero.
type Ratio struct {
	Part  *big.Rat `json:"part"`
	Whole *big.Rat `json:"whole"`
}

// Value returns part / whole; false if the whole is zero.
func (r Ratio) Value() (value float64, ok bool) {
	if r.Whole == nil || r.Whole.Sign() == 0 {
		return 0, false
	}
	value, _ = r.rat().Float64()
	return value, true
}

// Percent writes the ratio as "12.5 %" with so many decimals, and an undefined
// one as "n/a".
func (r Ratio) Percent(decimals int) string {
	if _, ok := r.Value(); !ok {
		return "n/a"
	}
	percent := r.rat()
	return percent.Mul(percent, big.NewRat(100, 1)).FloatString(decimals) + " %"
}

func (r Ratio) rat() *big.Rat { return new(big.Rat).Quo(r.Part, r.Whole) }
