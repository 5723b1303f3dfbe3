package stripesim

import (
	"math/big"
	"strconv"
	"strings"
	"time"
)

// decimals is how many minor digits a currency has, as Stripe counts them.
func decimals(currency string) int {
	switch currency {
	case "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf":
		return 0
	case "bhd", "jod", "kwd", "omr", "tnd":
		return 3
	}
	return 2
}

// symbol stands before an amount: a sign where it is unmistakable, else the
// code.
func symbol(currency string) string {
	switch currency {
	case "usd":
		return "$"
	case "eur":
		return "€"
	case "gbp":
		return "£"
	case "jpy":
		return "¥"
	}
	return strings.ToUpper(currency) + " "
}

// moneyText writes an amount of minor units for people.
func moneyText(amount int64, currency string) string {
	sign := ""
	if amount < 0 {
		sign, amount = "−", -amount
	}
	digits := strconv.FormatInt(amount, 10)
	n := decimals(currency)
	if len(digits) <= n {
		digits = strings.Repeat("0", n-len(digits)+1) + digits
	}
	whole, frac := digits[:len(digits)-n], digits[len(digits)-n:]
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if frac != "" {
		whole += "." + frac
	}
	return sign + symbol(currency) + whole
}

// priceText writes a price with its interval: "$9.99 / month".
func priceText(p *price) string {
	var amount string
	if len(p.tiers) > 0 {
		amount = "tiers"
	} else if p.unit.IsInt() {
		amount = moneyText(p.unit.Num().Int64(), p.currency)
	} else {
		scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals(p.currency))), nil))
		amount = symbol(p.currency) + strings.TrimRight(new(big.Rat).Quo(p.unit, scale).FloatString(15), "0")
	}
	if every := everyText(p); every != "" {
		return amount + " / " + every
	}
	return amount
}

func everyText(p *price) string {
	switch {
	case p.interval == "":
		return ""
	case p.count == 1:
		return p.interval
	}
	return strconv.FormatInt(p.count, 10) + " " + p.interval + "s"
}

func dateText(t int64) string { return time.Unix(t, 0).UTC().Format("2 Jan 2006") }
