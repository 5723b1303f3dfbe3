package stripesim

import (
	"math/big"
)

// tier is a step of a graduated price.
type tier struct {
	upTo int64 // 0: the last one
	unit *big.Rat
	flat *big.Rat // once, when the tier is reached
}

// tiered is the price of a quantity: each unit by the tier that it falls into.
func tiered(tiers []tier, quantity int64) int64 {
	total, from := new(big.Rat), int64(0)
	for _, t := range tiers {
		if quantity <= from && from > 0 {
			break
		}
		to := quantity
		if t.upTo > 0 {
			to = min(quantity, t.upTo)
		}
		total.Add(total, new(big.Rat).Mul(t.unit, new(big.Rat).SetInt64(max(to-from, 0))))
		total.Add(total, t.flat)
		from = max(from, to)
		if t.upTo > 0 {
			from = t.upTo
		}
	}
	return round(total)
}

func readTiers(f *form, name func(string) string) ([]tier, error) {
	if f.str("tiers_mode") != "graduated" {
		return nil, badRequest("parameter_missing", name("tiers_mode"), "Missing required param: tiers_mode.")
	}
	var out []tier
	list := f.list("tiers")
	for i, n := range list {
		t := tier{unit: new(big.Rat), flat: new(big.Rat)}
		last := i == len(list)-1
		if up := n.str("up_to"); (up == "inf") != last {
			return nil, badRequest("", name("tiers"), "The last tier, and only the last one, must be `inf`.")
		} else if !last {
			t.upTo = atoi(up)
		}
		if !last && (t.upTo < 1 || i > 0 && t.upTo <= out[i-1].upTo) {
			return nil, badRequest("", name("tiers"), "Tiers must be in ascending order of `up_to`.")
		}
		for _, amount := range []struct {
			field string
			into  **big.Rat
		}{{"unit_amount", &t.unit}, {"unit_amount_decimal", &t.unit}, {"flat_amount", &t.flat}, {"flat_amount_decimal", &t.flat}} {
			if !n.has(amount.field) {
				continue
			}
			r, err := parseDecimal(n.str(amount.field))
			if err != nil || r.Sign() < 0 {
				return nil, badRequest("parameter_invalid_integer", name("tiers"), "Invalid non-negative integer")
			}
			*amount.into = r
		}
		out = append(out, t)
	}
	if len(out) == 0 {
		return nil, badRequest("parameter_missing", name("tiers"), "Missing required param: tiers.")
	}
	return out, nil
}

func renderTiers(tiers []tier) any {
	if len(tiers) == 0 {
		return nil
	}
	out := []any{}
	for _, t := range tiers {
		o := object{"up_to": stamp(t.upTo), "flat_amount": nil, "flat_amount_decimal": nil, "unit_amount": nil, "unit_amount_decimal": decimalText(t.unit)}
		if t.unit.IsInt() {
			o["unit_amount"] = t.unit.Num().Int64()
		}
		if t.flat.Sign() != 0 {
			o["flat_amount_decimal"] = decimalText(t.flat)
			if t.flat.IsInt() {
				o["flat_amount"] = t.flat.Num().Int64()
			}
		}
		out = append(out, o)
	}
	return out
}
