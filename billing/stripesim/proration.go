package stripesim

import (
	"math/big"
	"slices"
)

// free reports whether a subscription's licensed items cost nothing.
func (s *Simulator) free(sub *subscription) bool {
	for _, it := range sub.items {
		p := must[*price](s, kindPrice, it.price)
		if p.metered || p.amount(it.quantity) != 0 {
			return false
		}
	}
	return true
}

// prorate credits what the old items have left of the period and charges what
// the new ones take of it, to the second. A reset charges nothing here: the
// new period has its own lines.
func (s *Simulator) prorate(old *subscription, c *change) []*invoiceItem {
	if c.date >= old.periodEnd {
		return nil
	}
	var out []*invoiceItem
	oldNet := s.netOf(old, old.periodDiscounts)
	newNet := s.netOf(c.sub, s.runningDiscounts(c.sub))
	for i, it := range old.items {
		twin := slices.IndexFunc(c.sub.items, func(x *item) bool { return x.id == it.id })
		same := twin >= 0 && c.sub.items[twin].price == it.price && c.sub.items[twin].quantity == it.quantity
		p := must[*price](s, kindPrice, it.price)
		if p.metered || same && !c.reset {
			continue
		}
		out = append(out, s.proration(old, it, p, -portion(oldNet[i], c.date, old.periodStart, old.periodEnd), c.date, "Unused time on "))
		if twin >= 0 && !c.reset {
			out = append(out, s.remaining(old, c, c.sub.items[twin], newNet[twin])...)
		}
	}
	if c.reset {
		return out
	}
	for i, it := range c.sub.items {
		if it.id == "" {
			out = append(out, s.remaining(old, c, it, newNet[i])...)
		}
	}
	return out
}

func (s *Simulator) remaining(old *subscription, c *change, it *item, net int64) []*invoiceItem {
	p := must[*price](s, kindPrice, it.price)
	if p.metered {
		return nil
	}
	return []*invoiceItem{s.proration(old, it, p, portion(net, c.date, old.periodStart, old.periodEnd), c.date, "Remaining time on ")}
}

func (s *Simulator) proration(old *subscription, it *item, p *price, amount, date int64, words string) *invoiceItem {
	name := s.productName(p)
	if it.quantity != 1 {
		name = itoa(int(it.quantity)) + " × " + name
	}
	return &invoiceItem{
		customer: old.customer, currency: old.currency, price: p.id, subscription: old.id, item: it.id, amount: amount, quantity: it.quantity,
		date: s.at(old.clock), start: date, end: old.periodEnd, proration: true, description: words + name + " after " + dateText(date),
	}
}

// portion is the share of an amount that falls to [date, end) of a period.
func portion(amount, date, start, end int64) int64 {
	if end <= start {
		return 0
	}
	return round(new(big.Rat).Mul(new(big.Rat).SetInt64(amount), big.NewRat(end-date, end-start)))
}

// netOf is what each item of a subscription costs for a whole period, after
// discounts.
func (s *Simulator) netOf(sub *subscription, discounts []*discount) []int64 {
	v := &invoice{customer: sub.customer, currency: sub.currency, discounts: discounts}
	for _, it := range sub.items {
		v.lines = append(v.lines, s.periodLine(sub, it, sub.periodStart, sub.periodEnd))
	}
	v.sum(s)
	out := make([]int64, len(v.lines))
	for i, l := range v.lines {
		out[i] = l.amount
		for _, d := range l.discounts {
			out[i] -= d.amount
		}
	}
	return out
}
