package stripesim

import (
	"math/big"
	"strings"
)

// Product is a product with its prices, to start with.
type Product struct {
	ID          string // empty: a random one
	Name        string // required
	Description string
	Metadata    map[string]string
	Prices      []Price
}

// Price is a price of a Product.
type Price struct {
	ID        string // empty: a random one
	LookupKey string
	Currency  string // ISO code in lower case; empty is "usd"
	// UnitAmount is in minor units. UnitAmountDecimal, when set, wins and may
	// have fractions: "0.25".
	UnitAmount        int64
	UnitAmountDecimal string
	Interval          string // day, week, month, year; empty is "month", "once" is a one-off price
	IntervalCount     int64  // 0 is 1
	Metered           bool   // billed by usage records or, with Meter, by meter events
	Aggregate         string // of usage records: sum (the default), max, last_during_period, last_ever
	Meter             string // the event name of a meter, which is made when there is none
	Nickname          string
	Metadata          map[string]string
}

// AddProduct adds a product and its prices, and returns the product's ID.
func (s *Simulator) AddProduct(p Product) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.seed(p); err != nil {
		return "", err
	}
	list := s.db.byKind[kindProduct]
	return list[len(list)-1].base().id, nil
}

func (s *Simulator) seed(p Product) error {
	if p.Name == "" {
		return invalid("a Product needs a Name")
	}
	if p.ID == "" {
		p.ID = s.newID("prod_")
	}
	if _, ok := get[*product](s, kindProduct, p.ID); ok {
		return invalid("Product %q exists already", p.ID)
	}
	prices := make([]*price, 0, len(p.Prices))
	for _, in := range p.Prices {
		pr, err := s.seedPrice(in)
		if err != nil {
			return err
		}
		prices = append(prices, pr)
	}
	prod := &product{name: p.Name, description: p.Description, active: true}
	prod.metadata = cloneMeta(p.Metadata)
	s.add(kindProduct, p.ID, "", prod)
	prod.updated = prod.created
	s.emit("product.created", prod)
	for i, pr := range prices {
		id := p.Prices[i].ID
		if id == "" {
			id = s.newID("price_")
		}
		pr.product = prod.id
		s.add(kindPrice, id, "", pr)
		s.emit("price.created", pr)
	}
	return nil
}

func (s *Simulator) seedPrice(in Price) (*price, error) {
	if in.ID != "" {
		if _, ok := get[*price](s, kindPrice, in.ID); ok {
			return nil, invalid("Price %q exists already", in.ID)
		}
	}
	if in.LookupKey != "" && s.priceByKey(in.LookupKey) != nil {
		return nil, invalid("Price.LookupKey %q is taken", in.LookupKey)
	}
	out := &price{
		currency: strings.ToLower(in.Currency), lookupKey: in.LookupKey, nickname: in.Nickname, taxBehavior: "unspecified", active: true,
		unit: new(big.Rat).SetInt64(in.UnitAmount), interval: in.Interval, count: max(1, in.IntervalCount), metered: in.Metered, aggregate: in.Aggregate,
	}
	out.metadata = cloneMeta(in.Metadata)
	if out.currency == "" {
		out.currency = "usd"
	}
	switch in.Interval {
	case "":
		out.interval = "month"
	case "once":
		out.interval = ""
	case "day", "week", "month", "year":
	default:
		return nil, invalid("Price.Interval %q is none of day, week, month, year, once", in.Interval)
	}
	if in.UnitAmountDecimal != "" {
		unit, err := parseDecimal(in.UnitAmountDecimal)
		if err != nil {
			return nil, invalid("Price.UnitAmountDecimal %q is no decimal", in.UnitAmountDecimal)
		}
		out.unit = unit
	}
	out.decimal = decimalText(out.unit)
	if in.Metered && in.Meter == "" && out.aggregate == "" {
		out.aggregate = "sum"
	}
	if in.Meter != "" {
		if !in.Metered {
			return nil, invalid("Price.Meter needs Price.Metered")
		}
		out.meter = s.meterFor(in.Meter).id
	}
	return out, nil
}

func cloneMeta(m map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = v
	}
	return out
}
