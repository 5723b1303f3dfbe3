package billingstripe

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// remoteCatalog is what Stripe has.
type remoteCatalog struct {
	products []remoteProduct
	prices   []remotePrice
	coupons  []remoteCoupon
	meters   []remoteMeter
	ids      map[string]string // of prices by lookup key, of meters by "meter " and event name
}

type remoteProduct struct {
	id, name, description, key, catalog, defaultPrice string
	active                                            bool
}

type remotePrice struct {
	billing.Price
	tiers     []offeredTier
	aggregate string
}

func (g *Gateway) plan(ctx context.Context, catalog *billing.Catalog) (*Diff, *remoteCatalog, error) {
	sold, err := offers(catalog)
	if err != nil {
		return nil, nil, err
	}
	remote, err := g.fetchCatalog(ctx, catalog, sold)
	if err != nil {
		return nil, nil, err
	}
	p := planner{remote: remote, name: catalog.Name(), offers: sold, usageRecords: g.usageRecords, claimed: map[string]string{}, kept: map[string]bool{}}
	for _, o := range sold {
		p.claim(o)
		for _, price := range o.prices {
			for _, id := range price.keep {
				p.kept[id] = true
			}
		}
	}
	if err := p.planMeters(catalog); err != nil {
		return nil, nil, err
	}
	meters := p.archived // what uses them goes before
	p.archived = nil
	for _, o := range sold {
		if err := p.plan(o); err != nil {
			return nil, nil, err
		}
	}
	if err := p.planCoupons(catalog); err != nil {
		return nil, nil, err
	}
	p.gone()
	return &Diff{slices.Concat(p.products, p.meters, p.changes, p.defaults, p.coupons, p.archived, meters), catalog}, remote, nil
}

// fetchCatalog reads the products of this catalogue, or that have a price with
// one of its lookup keys, the prices of these, the coupons, and the meters.
func (g *Gateway) fetchCatalog(ctx context.Context, catalog *billing.Catalog, sold []offer) (*remoteCatalog, error) {
	remote := &remoteCatalog{ids: map[string]string{}}
	root := node{doc: &document{}}
	ours := map[string]bool{}
	var keys []string
	for _, o := range sold {
		ours[o.id] = true
		for _, p := range o.prices {
			keys = append(keys, p.lookupKey)
		}
	}
	for keys := range slices.Chunk(keys, 10) {
		params := &stripe.PriceListParams{LookupKeys: stripe.StringSlice(keys)}
		list, err := g.all(ctx, root, "list prices", "", "/v1/prices", params, &params.ListParams)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			ours[n.at("product").id()] = true
		}
	}
	params := &stripe.ProductListParams{}
	products, err := g.all(ctx, root, "list products", "", "/v1/products", params, &params.ListParams)
	if err != nil {
		return nil, err
	}
	metered := len(catalog.Meters()) > 0
	for _, n := range products {
		metadata := n.at("metadata").dict()
		product := remoteProduct{
			id: n.at("id").text(), name: n.at("name").text(), description: n.at("description").text(), key: keyOf(metadata), catalog: metadata[billing.MetadataCatalog],
			defaultPrice: n.at("default_price").id(), active: n.at("active").flag(),
		}
		if (product.key == "" || product.catalog != catalog.Name()) && !ours[product.id] {
			continue
		}
		remote.products = append(remote.products, product)
		params := &stripe.PriceListParams{Product: &product.id, Expand: stripe.StringSlice([]string{"data.tiers"})}
		prices, err := g.all(ctx, root, "list prices", "", "/v1/prices", params, &params.ListParams)
		if err != nil {
			return nil, err
		}
		for _, n := range prices {
			price := decodeRemotePrice(n)
			metered = metered || price.MeterID != ""
			remote.prices = append(remote.prices, price)
			if price.LookupKey != "" {
				remote.ids[price.LookupKey] = price.ID
			}
		}
	}
	// Lists come newest first; the oldest product of a plan is its product.
	slices.Reverse(remote.products)
	if remote.coupons, err = g.fetchCoupons(ctx, root); err != nil {
		return nil, err
	}
	if metered && !g.usageRecords {
		if remote.meters, err = g.fetchMeters(ctx, root); err != nil {
			return nil, err
		}
	}
	return remote, check("list prices", "", root, true)
}

func decodeRemotePrice(n node) remotePrice {
	p := remotePrice{Price: decodePrice(n), aggregate: n.at("recurring", "aggregate_usage").text()}
	tiers, _ := n.at("tiers").list()
	for _, t := range tiers {
		tier := offeredTier{upTo: "inf"}
		if up := t.at("up_to").number(); up != 0 {
			tier.upTo = strconv.FormatInt(up, 10)
		}
		if rat := t.at("unit_amount_decimal").or(t.at("unit_amount")).rat(); rat != nil {
			tier.unit = plain(rat)
		}
		if !t.at("flat_amount_decimal").or(t.at("flat_amount")).null() {
			tier.unit += " and a flat amount" // a catalogue has none
		}
		p.tiers = append(p.tiers, tier)
	}
	return p
}

// planner compares one catalogue with what Stripe has.
type planner struct {
	remote       *remoteCatalog
	name         string
	offers       []offer
	usageRecords bool
	claimed      map[string]string // product ID by offer
	kept         map[string]bool   // prices that stay as they are, or are replaced already

	products, meters, changes, defaults, coupons, archived []Step
}

// claim finds the product of an offer.
func (p *planner) claim(o offer) {
	taken := func(id string) bool {
		for _, other := range p.claimed {
			if other == id {
				return true
			}
		}
		return false
	}
	for _, active := range []bool{true, false} {
		for _, product := range p.remote.products {
			if product.key == o.key && product.catalog == p.name && product.active == active {
				p.claimed[o.key] = product.id
				return
			}
		}
	}
	if product := p.product(o.id); product != nil && product.key == "" {
		p.claimed[o.key] = product.id
		return
	}
	for _, want := range o.prices {
		for _, price := range p.remote.prices {
			if price.LookupKey != want.lookupKey || taken(price.ProductID) {
				continue
			}
			if product := p.product(price.ProductID); product != nil && product.key == "" {
				p.claimed[o.key] = product.id
				return
			}
		}
	}
}

func (p *planner) product(id string) *remoteProduct {
	for i := range p.remote.products {
		if p.remote.products[i].id == id {
			return &p.remote.products[i]
		}
	}
	return nil
}

// plan compares one offer with its product and prices.
func (p *planner) plan(o offer) error {
	id := p.claimed[o.key]
	if product := p.product(id); product != nil {
		p.updateProduct(o, product)
	} else {
		id = o.id
		p.claimed[o.key] = id
		p.products = append(p.products, Step{
			Action: Create, Object: "product", Name: o.key, ID: id, method: "POST", path: "/v1/products",
			Changes: changes(FieldChange{"name", "", o.name}, FieldChange{"description", "", o.description}),
			params:  &stripe.ProductParams{ID: &id, Name: stripe.String(o.name), Description: optional(o.description), Metadata: o.metadata},
		})
	}
	for i := range o.prices {
		if err := p.planPrice(&o, id, &o.prices[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) updateProduct(o offer, product *remoteProduct) {
	params := &stripe.ProductParams{}
	step := Step{Action: Update, Object: "product", Name: o.key, ID: product.id, method: "POST", path: "/v1/products/" + product.id, params: params}
	step.Changes = changes(
		FieldChange{"name", product.name, o.name},
		FieldChange{"description", product.description, o.description},
		FieldChange{"plan", product.key, o.key},
		FieldChange{"active", strconv.FormatBool(product.active), "true"},
	)
	for _, c := range step.Changes {
		switch c.Field {
		case "name":
			params.Name = stripe.String(o.name)
		case "description":
			params.Description = stripe.String(o.description)
		case "plan":
			params.Metadata = o.metadata
		case "active":
			params.Active = stripe.Bool(true)
		}
	}
	if len(step.Changes) > 0 {
		p.products = append(p.products, step)
	}
}

// planPrice compares one price with the one that has its lookup key.
func (p *planner) planPrice(o *offer, product string, want *offeredPrice) error {
	params, meter := want.params(product, p.usageRecords), ""
	if want.meter != nil && !p.usageRecords {
		meter = want.meter.Event
	}
	sale := Step{Object: "price", Name: want.lookupKey, method: "POST", path: "/v1/prices", params: params, meter: meter}
	i := slices.IndexFunc(p.remote.prices, func(price remotePrice) bool { return price.LookupKey == want.lookupKey })
	if i < 0 {
		sale.Action = Create
		sale.Changes = changes(FieldChange{"amount", "", want.amount}, FieldChange{"interval", "", interval(want.interval, want.count)}, FieldChange{"meter", "", meter})
		p.changes = append(p.changes, sale)
		return nil
	}
	have := p.remote.prices[i]
	holder := p.product(have.ProductID)
	for _, catalog := range []string{have.Metadata[billing.MetadataCatalog], holder.catalog} {
		if named := keyOf(have.Metadata) != "" || holder.key != ""; named && catalog != p.name && (catalog != "" || have.Metadata[billing.MetadataCatalog] == holder.catalog) {
			return &ConflictError{Object: "price", Name: want.lookupKey, ID: have.ID, Owner: catalog}
		}
	}
	fixed := changes(
		FieldChange{"amount", have.amount(), want.amount},
		FieldChange{"currency", have.UnitAmount.Currency, want.currency},
		FieldChange{"interval", interval(have.Interval, have.IntervalCount), interval(want.interval, want.count)},
		FieldChange{"metered", strconv.FormatBool(have.Metered), strconv.FormatBool(want.meter != nil)},
		FieldChange{"meter", p.eventOf(have.MeterID), meter},
		FieldChange{"product", have.ProductID, product},
	)
	version := ""
	if want.versioned && (want.want > 1 || have.Metadata[billing.MetadataVersion] != "") {
		is := o.version(have.Price)
		version = strconv.FormatInt(is, 10)
		fixed = append(fixed, changes(FieldChange{"version", version, strconv.FormatInt(want.want, 10)})...)
	}
	step := Step{Action: Update, Object: "price", Name: want.lookupKey, ID: have.ID, method: "POST", path: "/v1/prices/" + have.ID}
	owner := keyOf(have.Metadata)
	if len(fixed) > 0 {
		// Its subscriptions are known by this once the lookup key is gone.
		marks := o.marks()
		if version != "" {
			marks[billing.MetadataVersion] = version
		}
		step.Changes = changes(FieldChange{"plan", owner, cmp.Or(owner, o.key)}, FieldChange{"version", have.Metadata[billing.MetadataVersion], version})
		if len(step.Changes) > 0 && (owner == "" || owner == o.key) {
			step.params = &stripe.PriceParams{Metadata: marks}
			p.changes = append(p.changes, step)
		}
		params.TransferLookupKey = stripe.Bool(true)
		sale.Action, sale.ID, sale.Changes = Replace, have.ID, fixed
		p.changes = append(p.changes, sale)
		if o.sells(have) {
			p.kept[have.ID] = true
		} else {
			p.retire(have, want.lookupKey)
		}
		return nil
	}
	p.kept[have.ID] = true
	update := &stripe.PriceParams{}
	step.params = update
	step.Changes = changes(
		FieldChange{"plan", owner, o.key}, FieldChange{"version", have.Metadata[billing.MetadataVersion], version},
		FieldChange{"active", strconv.FormatBool(have.Active), "true"},
	)
	for _, c := range step.Changes {
		switch c.Field {
		case "plan", "version":
			update.Metadata = want.metadata
		case "active":
			update.Active = stripe.Bool(true)
		}
	}
	if len(step.Changes) > 0 {
		p.changes = append(p.changes, step)
	}
	return nil
}

// eventOf names a meter by its event; one that isn't known by its ID.
func (p *planner) eventOf(meter string) string {
	for _, m := range p.remote.meters {
		if m.id == meter {
			return m.event
		}
	}
	return meter
}

// retire archives a price. Stripe doesn't archive the default price of a
// product: another one, or none, becomes the default before.
func (p *planner) retire(price remotePrice, successor string) {
	p.kept[price.ID] = true
	if !price.Active {
		return
	}
	if product := p.product(price.ProductID); product != nil && product.defaultPrice == price.ID {
		params := &stripe.ProductParams{}
		if successor == "" {
			params.AddExtra("default_price", "")
		}
		p.defaults = append(p.defaults, Step{
			Action: Update, Object: "product", Name: cmp.Or(product.key, product.id), ID: product.id, defaultKey: successor, method: "POST", path: "/v1/products/" + product.id,
			Changes: []FieldChange{{"default price", price.ID, successor}}, params: params,
		})
	}
	p.archived = append(p.archived, Step{
		Action: Archive, Object: "price", Name: cmp.Or(price.LookupKey, price.amount()), ID: price.ID, method: "POST", path: "/v1/prices/" + price.ID,
		Changes: []FieldChange{{"active", "true", "false"}}, params: &stripe.PriceParams{Active: stripe.Bool(false)},
	})
}

// sells reports whether a price is of an older version that the catalogue
// lists: it stays active, for its subscribers' seats and add-ons to change.
func (o *offer) sells(price remotePrice) bool {
	return len(o.older) > 0 && (keyOf(price.Metadata) == o.key || keyOf(price.Metadata) == "") && o.older[o.version(price.Price)]
}

// gone archives what is of this catalogue and isn't in it.
func (p *planner) gone() {
	for _, price := range p.remote.prices {
		if p.kept[price.ID] || keyOf(price.Metadata) == "" || price.Metadata[billing.MetadataCatalog] != p.name {
			continue
		}
		if slices.ContainsFunc(p.offers, func(o offer) bool { return keyOf(price.Metadata) == o.key && o.sells(price) }) {
			continue
		}
		p.retire(price, p.successor(price))
	}
	used := map[string]bool{}
	for _, id := range p.claimed {
		used[id] = true
	}
	for _, product := range p.remote.products {
		if product.active && product.key != "" && product.catalog == p.name && !used[product.id] {
			p.archived = append(p.archived, Step{
				Action: Archive, Object: "product", Name: product.key, ID: product.id, method: "POST", path: "/v1/products/" + product.id,
				Changes: []FieldChange{{"active", "true", "false"}}, params: &stripe.ProductParams{Active: stripe.Bool(false)},
			})
		}
	}
}

// successor is the lookup key of a price that stays on the product of one that
// goes, or empty.
func (p *planner) successor(gone remotePrice) string {
	for _, price := range p.remote.prices {
		if price.ProductID == gone.ProductID && price.ID != gone.ID && p.kept[price.ID] && price.Active && price.LookupKey != "" {
			return price.LookupKey
		}
	}
	return ""
}

// changes leaves out fields that don't change.
func changes(fields ...FieldChange) []FieldChange {
	return slices.DeleteFunc(fields, func(c FieldChange) bool { return c.From == c.To })
}

func interval(i billing.Interval, count int64) string {
	switch {
	case i == "":
		return "once"
	case count > 1:
		return fmt.Sprintf("%d %ss", count, i)
	}
	return string(i)
}

// amount writes the amount of a price; parts of a minor unit are never equal to
// an amount of a licensed price, nor a flat amount of a tier to a metered one.
func (p *remotePrice) amount() string {
	switch {
	case p.UnitAmountDecimal == "" && len(p.tiers) > 0:
		return tiersText(p.tiers)
	case p.UnitAmountDecimal == "":
		return "tiers"
	}
	if whole := strconv.FormatInt(p.UnitAmount.Amount, 10); whole != p.UnitAmountDecimal {
		return p.UnitAmountDecimal + " minor units"
	}
	return p.UnitAmount.String()
}
