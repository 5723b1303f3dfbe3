package stripesim

import (
	"math/big"
	"slices"
	"strings"
)

const (
	kindProduct = "product"
	kindPrice   = "price"
)

type product struct {
	head
	name, description, defaultPrice, unitLabel, url, statement string
	images, features                                           []string
	active                                                     bool
	updated                                                    int64
	deleted                                                    bool
}

func (p *product) render(*Simulator) object {
	if p.deleted {
		return object{"id": p.id, "object": kindProduct, "deleted": true}
	}
	images, features := []any{}, []any{}
	for _, u := range p.images {
		images = append(images, u)
	}
	for _, f := range p.features {
		features = append(features, object{"name": f})
	}
	return object{
		"id": p.id, "object": kindProduct, "active": p.active, "created": p.created, "default_price": ref{kindPrice, p.defaultPrice},
		"description": optional(p.description), "features": features, "images": images, "livemode": false, "metadata": copyMeta(p.metadata),
		"name": p.name, "package_dimensions": nil, "shippable": nil, "statement_descriptor": optional(p.statement), "tax_code": nil,
		"type": "service", "unit_label": optional(p.unitLabel), "updated": p.updated, "url": optional(p.url),
	}
}

type price struct {
	head
	product, currency, lookupKey, nickname, taxBehavior string
	active                                              bool
	unit                                                *big.Rat // minor units
	tiers                                               []tier   // instead of unit, which is zero then
	decimal                                             string
	interval                                            string // empty: one-off
	count                                               int64
	metered                                             bool
	aggregate, meter                                    string
}

// amount is the price of a quantity, rounded to a minor unit, halves away
// from zero.
func (p *price) amount(quantity int64) int64 {
	if len(p.tiers) > 0 {
		return tiered(p.tiers, quantity)
	}
	return round(new(big.Rat).Mul(p.unit, new(big.Rat).SetInt64(quantity)))
}

// round rounds to an integer, halves away from zero.
func round(r *big.Rat) int64 {
	twice := new(big.Int).Mul(r.Num(), big.NewInt(2))
	sign := int64(twice.Sign())
	twice.Add(twice, new(big.Int).Mul(r.Denom(), big.NewInt(sign)))
	return twice.Quo(twice, new(big.Int).Mul(r.Denom(), big.NewInt(2))).Int64()
}

func (p *price) render(*Simulator) object {
	out := object{
		"id": p.id, "object": kindPrice, "active": p.active, "billing_scheme": "per_unit", "created": p.created, "currency": p.currency,
		"custom_unit_amount": nil, "livemode": false, "lookup_key": optional(p.lookupKey), "metadata": copyMeta(p.metadata),
		"nickname": optional(p.nickname), "product": ref{kindProduct, p.product}, "recurring": nil, "tax_behavior": p.taxBehavior,
		"tiers_mode": nil, "transform_quantity": nil, "type": "one_time", "unit_amount": nil, "unit_amount_decimal": p.decimal,
	}
	if p.unit.IsInt() {
		out["unit_amount"] = p.unit.Num().Int64()
	}
	if len(p.tiers) > 0 {
		out["billing_scheme"], out["tiers_mode"], out["unit_amount"], out["unit_amount_decimal"] = "tiered", "graduated", nil, nil
	}
	out["tiers"] = lazy(func() any { return renderTiers(p.tiers) })
	if p.interval != "" {
		out["type"] = "recurring"
		out["recurring"] = p.recurring()
	}
	return out
}

func (p *price) recurring() object {
	usage, aggregate := "licensed", any(nil)
	if p.metered {
		usage = "metered"
		aggregate = optional(p.aggregate)
	}
	return object{
		"aggregate_usage": aggregate, "interval": p.interval, "interval_count": p.count, "meter": optional(p.meter),
		"trial_period_days": nil, "usage_type": usage,
	}
}

// plan is the older form of a price, which items carried beside it.
func (p *price) plan() object {
	out := p.recurring()
	out["id"], out["object"], out["active"], out["amount"], out["amount_decimal"] = p.id, "plan", p.active, nil, p.decimal
	if p.unit.IsInt() {
		out["amount"] = p.unit.Num().Int64()
	}
	out["billing_scheme"], out["created"], out["currency"], out["livemode"] = "per_unit", p.created, p.currency, false
	out["metadata"], out["nickname"], out["product"] = copyMeta(p.metadata), optional(p.nickname), ref{kindProduct, p.product}
	out["tiers_mode"], out["transform_usage"] = nil, nil
	if len(p.tiers) > 0 {
		out["billing_scheme"], out["tiers_mode"], out["amount"], out["amount_decimal"] = "tiered", "graduated", nil, nil
	}
	return out
}

func decimalText(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	return strings.TrimRight(r.FloatString(12), "0")
}

func (s *Simulator) priceByKey(key string) *price {
	for _, p := range newest[*price](s, kindPrice, nil) {
		if p.lookupKey == key {
			return p
		}
	}
	return nil
}

func (s *Simulator) createProduct(c *call) (any, error) {
	id := c.form.str("id")
	if id == "" {
		id = s.newID("prod_")
	} else if _, ok := get[*product](s, kindProduct, id); ok {
		return nil, badRequest("resource_already_exists", "id", "Product already exists.")
	}
	prod := &product{active: true}
	var data *price
	if d := c.form.at("default_price_data"); d != nil {
		var err error
		if data, err = s.priceFrom(d, "default_price_data"); err != nil {
			return nil, err
		}
	}
	s.add(kindProduct, id, "", prod)
	s.setProduct(prod, c.form)
	s.emit("product.created", prod)
	if data != nil {
		data.product = id
		s.add(kindPrice, s.newID("price_"), "", data)
		prod.defaultPrice = data.id
		s.emit("price.created", data)
	}
	return prod, nil
}

func (s *Simulator) setProduct(prod *product, f *form) {
	for name, field := range map[string]*string{
		"name": &prod.name, "description": &prod.description, "unit_label": &prod.unitLabel, "url": &prod.url, "statement_descriptor": &prod.statement,
	} {
		if f.has(name) {
			*field = f.str(name)
		}
	}
	if f.has("active") {
		prod.active = f.bool("active")
	}
	if f.has("images") {
		prod.images = f.strings("images")
	}
	for _, list := range []string{"features", "marketing_features"} {
		if f.has(list) {
			prod.features = nil
			for _, x := range f.list(list) {
				prod.features = append(prod.features, x.str("name"))
			}
		}
	}
	prod.metadata = f.merge("metadata", prod.metadata)
	prod.updated = s.at("")
}

func (s *Simulator) liveProduct(id, param string) (*product, error) {
	p, err := find[*product](s, kindProduct, id, param)
	if err == nil && p.deleted {
		return nil, missing(kindProduct, id, param)
	}
	return p, err
}

func (s *Simulator) updateProduct(c *call) (any, error) {
	prod, err := s.liveProduct(c.id(), "")
	if err != nil {
		return nil, err
	}
	if id := c.form.str("default_price"); id != "" {
		p, err := find[*price](s, kindPrice, id, "default_price")
		if err != nil {
			return nil, err
		}
		if p.product != prod.id {
			return nil, badRequest("", "default_price", "The price %s is not of the product %s", id, prod.id)
		}
	}
	s.change("product.updated", prod, func() {
		s.setProduct(prod, c.form)
		if c.form.has("default_price") {
			prod.defaultPrice = c.form.str("default_price")
		}
	})
	return prod, nil
}

func (s *Simulator) fetchProduct(c *call) (any, error) {
	return find[*product](s, kindProduct, c.id(), "")
}

func (s *Simulator) listProducts(c *call) (any, error) {
	f := c.form
	ids := f.strings("ids")
	items := newest(s, kindProduct, func(p *product) bool {
		return !p.deleted && (!f.has("active") || p.active == f.bool("active")) && (len(ids) == 0 || slices.Contains(ids, p.id))
	})
	return &page{url: "/v1/products", items: within(f, entities(items)), window: f}, nil
}

func (s *Simulator) deleteProduct(c *call) (any, error) {
	prod, err := s.liveProduct(c.id(), "")
	if err != nil {
		return nil, err
	}
	if prices := all(s, kindPrice, func(p *price) bool { return p.product == prod.id }); len(prices) > 0 {
		return nil, badRequest("", "id", "This product cannot be deleted because it has one or more user-created prices.")
	}
	snapshot := s.snapshot(prod)
	prod.deleted = true
	s.record("product.deleted", snapshot, nil, "")
	return prod, nil
}

// priceFrom reads a price from a hash of parameters; prefix names the hash.
func (s *Simulator) priceFrom(f *form, prefix string) (*price, error) {
	name := func(field string) string {
		if prefix == "" {
			return field
		}
		return prefix + "[" + field + "]"
	}
	p := &price{
		currency: strings.ToLower(f.str("currency")), lookupKey: f.str("lookup_key"), nickname: f.str("nickname"),
		taxBehavior: "unspecified", active: !f.has("active") || f.bool("active"), count: 1,
	}
	if !validCurrency(p.currency) {
		return nil, badRequest("", name("currency"), "Invalid currency: %s. Stripe's currencies are three-letter ISO codes.", clip(p.currency))
	}
	if f.has("tax_behavior") {
		p.taxBehavior = f.str("tax_behavior")
	}
	if f.str("billing_scheme") == "tiered" {
		var err error
		if p.tiers, err = readTiers(f, name); err != nil {
			return nil, err
		}
		p.unit = new(big.Rat)
	} else if f.has("unit_amount") == f.has("unit_amount_decimal") {
		return nil, badRequest("parameter_missing", name("unit_amount"), "You must specify either `unit_amount` or `unit_amount_decimal`.")
	}
	if len(p.tiers) == 0 {
		text := f.str("unit_amount")
		if text == "" {
			text = f.str("unit_amount_decimal")
		}
		unit, err := parseDecimal(text)
		if err != nil || unit.Sign() < 0 {
			return nil, badRequest("parameter_invalid_integer", name("unit_amount"), "Invalid non-negative integer")
		}
		p.unit, p.decimal = unit, decimalText(unit)
	}
	if f.has("recurring") {
		if p.interval = f.str("recurring.interval"); p.interval == "" {
			return nil, badRequest("parameter_missing", name("recurring[interval]"), "Missing required param: recurring[interval].")
		}
		p.count = f.intOr("recurring.interval_count", 1)
		longest := map[string]int64{"day": 1095, "week": 156, "month": 36, "year": 3}[p.interval]
		if p.count < 1 || p.count > longest {
			return nil, badRequest("", name("recurring[interval_count]"), "The interval_count of a price with the interval %s is between 1 and %d", p.interval, longest)
		}
		p.metered = f.str("recurring.usage_type") == "metered"
		if p.aggregate = f.str("recurring.aggregate_usage"); p.aggregate != "" && !p.metered {
			return nil, badRequest("", name("recurring[aggregate_usage]"), "You can only set `aggregate_usage` for metered prices.")
		}
		if p.meter = f.str("recurring.meter"); p.meter != "" {
			if _, err := find[*meter](s, kindMeter, p.meter, name("recurring[meter]")); err != nil {
				return nil, err
			}
			p.metered = true
		} else if p.metered && p.aggregate == "" {
			p.aggregate = "sum"
		}
	}
	return p, nil
}

func validCurrency(code string) bool {
	if len(code) != 3 {
		return false
	}
	return strings.Trim(code, "abcdefghijklmnopqrstuvwxyz") == ""
}

func (s *Simulator) createPrice(c *call) (any, error) {
	f := c.form
	if f.has("product") == f.has("product_data") {
		return nil, badRequest("parameter_missing", "product", "You must specify either `product` or `product_data`.")
	}
	p, err := s.priceFrom(f, "")
	if err != nil {
		return nil, err
	}
	if f.has("product") {
		prod, err := s.liveProduct(f.str("product"), "product")
		if err != nil {
			return nil, err
		}
		p.product = prod.id
	}
	if err := s.freeKey(p.lookupKey, f.bool("transfer_lookup_key"), ""); err != nil {
		return nil, err
	}
	if f.has("product_data") {
		if f.str("product_data.name") == "" {
			return nil, badRequest("parameter_missing", "product_data[name]", "Missing required param: product_data[name].")
		}
		prod := &product{name: f.str("product_data.name"), active: true}
		prod.metadata = f.merge("product_data.metadata", nil)
		s.add(kindProduct, s.newID("prod_"), "", prod)
		prod.updated = prod.created
		s.emit("product.created", prod)
		p.product = prod.id
	}
	p.metadata = f.merge("metadata", nil)
	s.takeKey(p.lookupKey)
	s.add(kindPrice, s.newID("price_"), "", p)
	s.emit("price.created", p)
	return p, nil
}

// freeKey refuses a lookup key that another price has, unless it moves.
func (s *Simulator) freeKey(key string, transfer bool, self string) error {
	if key == "" {
		return nil
	}
	holder := s.priceByKey(key)
	if holder == nil || holder.id == self || transfer {
		return nil
	}
	return badRequest("", "lookup_key", "A price (`%s`) already uses that lookup key.", holder.id)
}

// takeKey removes a lookup key from the price that has it.
func (s *Simulator) takeKey(key string) {
	if key == "" {
		return
	}
	if holder := s.priceByKey(key); holder != nil {
		s.change("price.updated", holder, func() { holder.lookupKey = "" })
	}
}

func (s *Simulator) updatePrice(c *call) (any, error) {
	p, err := find[*price](s, kindPrice, c.id(), "")
	if err != nil {
		return nil, err
	}
	f := c.form
	if err := s.freeKey(f.str("lookup_key"), f.bool("transfer_lookup_key"), p.id); err != nil {
		return nil, err
	}
	if f.has("lookup_key") && f.str("lookup_key") != p.lookupKey {
		s.takeKey(f.str("lookup_key"))
	}
	s.change("price.updated", p, func() {
		if f.has("active") {
			p.active = f.bool("active")
		}
		if f.has("lookup_key") {
			p.lookupKey = f.str("lookup_key")
		}
		if f.has("nickname") {
			p.nickname = f.str("nickname")
		}
		if f.has("tax_behavior") {
			p.taxBehavior = f.str("tax_behavior")
		}
		p.metadata = f.merge("metadata", p.metadata)
	})
	return p, nil
}

func (s *Simulator) fetchPrice(c *call) (any, error) { return find[*price](s, kindPrice, c.id(), "") }

func (s *Simulator) listPrices(c *call) (any, error) {
	f := c.form
	keys := f.strings("lookup_keys")
	if len(keys) > 10 {
		return nil, badRequest("", "lookup_keys", "You can look up at most 10 keys at once (you gave %d)", len(keys))
	}
	items := newest(s, kindPrice, func(p *price) bool {
		switch {
		case f.has("active") && p.active != f.bool("active"),
			f.has("product") && p.product != f.str("product"),
			f.has("currency") && p.currency != f.str("currency"),
			f.has("type") && (f.str("type") == "recurring") != (p.interval != ""),
			f.has("recurring.interval") && p.interval != f.str("recurring.interval"),
			f.has("recurring.usage_type") && (f.str("recurring.usage_type") == "metered") != p.metered,
			len(keys) > 0 && !slices.Contains(keys, p.lookupKey):
			return false
		}
		return true
	})
	return &page{url: "/v1/prices", items: within(f, entities(items)), window: f}, nil
}
