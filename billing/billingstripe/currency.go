package billingstripe

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/kolekt/commerce/billing"
)

// stripeExponent is the number of decimals that Stripe's API gives to the
// amounts of a currency. It is 2 except for those below. It differs from the
// currency's own for some: Stripe counts ISK and UGX in hundredths that don't
// exist (an amount is always a multiple of 100), and MGA without its decimals.
//
// Source: docs.stripe.com/currencies, "zero-decimal", "three-decimal" and
// "special case" currencies.
func stripeExponent(currency string) int {
	switch currency {
	case "BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF":
		return 0
	case "BHD", "JOD", "KWD", "OMR", "TND":
		return 3
	}
	return 2
}

// scale returns the factor from Stripe's unit to the currency's minor unit.
func scale(currency string) *big.Rat {
	steps := billing.Money{Currency: currency}.Exponent() - stripeExponent(currency)
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(steps, -steps))), nil)
	if steps < 0 {
		return new(big.Rat).SetFrac(big.NewInt(1), power)
	}
	return new(big.Rat).SetInt(power)
}

// currency is an ISO 4217 code, which Stripe writes in lower case.
func (n node) currency() string { return strings.ToUpper(n.text()) }

// amount is an amount of Stripe's in the minor unit of the currency.
func (n node) amount(currency string) int64 {
	rat := n.rat()
	if rat == nil {
		return 0
	}
	if !rat.IsInt() {
		n.refuse("an amount")
		return 0
	}
	amount, ok := round(rat.Mul(rat, scale(currency)))
	if !ok {
		n.refuse("an amount")
	}
	return amount
}

// round rounds half away from zero; false says that the result doesn't fit.
func round(rat *big.Rat) (int64, bool) {
	twice := new(big.Int).Mul(new(big.Int).Abs(rat.Num()), big.NewInt(2))
	twice.Add(twice, rat.Denom())
	rounded := twice.Quo(twice, new(big.Int).Mul(rat.Denom(), big.NewInt(2)))
	if rat.Sign() < 0 {
		rounded.Neg(rounded)
	}
	return rounded.Int64(), rounded.IsInt64()
}

// plain writes a number as a decimal without exponent or trailing zeros.
func plain(rat *big.Rat) string {
	const decimals = 20 // Stripe has at most 12
	text := rat.FloatString(decimals)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// toStripe returns an amount as Stripe's API counts it.
func toStripe(m billing.Money) (int64, error) {
	rat := new(big.Rat).SetInt64(m.Amount)
	rat.Quo(rat, scale(m.Currency))
	if !rat.IsInt() || !rat.Num().IsInt64() {
		return 0, fmt.Errorf("%w: Stripe takes no %s: it counts %s in another unit", billing.ErrMoney, m, m.Currency)
	}
	return rat.Num().Int64(), nil
}
