package billingstripe

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// remoteCatalog is what Stripe has.
type remoteCatalog struct {
	products []remoteProduct
	prices   []billing.Price
	ids      map[string]string // of prices, by lookup key
}

type remoteProduct struct {
	id, name, description, plan, defaultPrice string
	active                                    bool
}

func (g *Gateway) plan(ctx context.Context, catalog *billing.Catalog) (*Diff, *remoteCatalog, error) {
	remote, err := g.fetchCatalog(ctx, catalog)
	if err != nil {
		return nil, nil, err
	}
	p := planner{remote: remote, claimed: map[string]string{}, kept: map[string]bool{}}
	for _, plan := range catalog.Plans() {
		if len(plan.Prices) > 0 {
			p.claim(plan)
		}
		for _, price := range plan.Prices {
			for _, id := range price.PriceIDs {
				p.kept[id] = true
			}
		}
	}
	for _, plan := range catalog.Plans() {
		if len(plan.Prices) == 0 {
			continue
		}
		if err := p.plan(plan); err != nil {
			return nil, nil, err
		}
	}
	p.gone()
	return &Diff{slices.Concat(p.products, p.changes, p.defaults, p.archived), catalog}, remote, nil
}

// fetchCatalog reads the products that carry a plan or have a price with one of
// the catalogue's lookup keys, and the prices of these.
func (g *Gateway) fetchCatalog(ctx context.Context, catalog *billing.Catalog) (*remoteCatalog, error) {
	remote := &remoteCatalog{ids: map[string]string{}}
	root := node{doc: &document{}}
	ours := map[string]bool{}
	for _, plan := range catalog.Plans() {
		ours[productID(plan.ID)] = true
	}
	for keys := range slices.Chunk(lookupKeys(catalog), 10) {
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
	for _, n := range products {
		product := remoteProduct{
			id: n.at("id").text(), name: n.at("name").text(), description: n.at("description").text(),
			plan: n.at("metadata").dict()[billing.MetadataPlan], defaultPrice: n.at("default_price").id(), active: n.at("active").flag(),
		}
		if product.plan == "" && !ours[product.id] {
			continue
		}
		remote.products = append(remote.products, product)
		params := &stripe.PriceListParams{Product: &product.id}
		prices, err := g.all(ctx, root, "list prices", "", "/v1/prices", params, &params.ListParams)
		if err != nil {
			return nil, err
		}
		for _, n := range prices {
			price := decodePrice(n)
			remote.prices = append(remote.prices, price)
			if price.LookupKey != "" {
				remote.ids[price.LookupKey] = price.ID
			}
		}
	}
	// Lists come newest first; the oldest product of a plan is its product.
	slices.Reverse(remote.products)
	return remote, check("list prices", "", root, true)
}

func lookupKeys(catalog *billing.Catalog) []string {
	var keys []string
	for _, plan := range catalog.Plans() {
		for _, price := range plan.Prices {
			keys = append(keys, price.LookupKey)
		}
	}
	return keys
}

// planner compares one catalogue with what Stripe has.
type planner struct {
	remote  *remoteCatalog
	claimed map[string]string // product ID by plan
	kept    map[string]bool   // prices that stay as they are, or are replaced already

	products, changes, defaults, archived []Step
}

// claim finds the product of a plan.
func (p *planner) claim(plan billing.Plan) {
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
			if product.plan == plan.ID && product.active == active {
				p.claimed[plan.ID] = product.id
				return
			}
		}
	}
	if product := p.product(productID(plan.ID)); product != nil && product.plan == "" {
		p.claimed[plan.ID] = product.id
		return
	}
	for _, want := range plan.Prices {
		for _, price := range p.remote.prices {
			if price.LookupKey != want.LookupKey || taken(price.ProductID) {
				continue
			}
			if product := p.product(price.ProductID); product != nil && product.plan == "" {
				p.claimed[plan.ID] = product.id
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

// plan compares one plan with its product and prices.
func (p *planner) plan(plan billing.Plan) error {
	id := p.claimed[plan.ID]
	if product := p.product(id); product != nil {
		p.updateProduct(plan, product)
	} else {
		id = productID(plan.ID)
		p.claimed[plan.ID] = id
		p.products = append(p.products, Step{
			Action: Create, Object: "product", Name: plan.ID, ID: id,
			Changes: changes(FieldChange{"name", "", plan.Name}, FieldChange{"description", "", plan.Description}),
			product: &stripe.ProductParams{
				ID: &id, Name: stripe.String(plan.Name), Description: optional(plan.Description), Metadata: map[string]string{billing.MetadataPlan: plan.ID},
			},
		})
	}
	for _, want := range plan.Prices {
		if err := p.planPrice(plan, id, want); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) updateProduct(plan billing.Plan, product *remoteProduct) {
	params := &stripe.ProductParams{}
	step := Step{Action: Update, Object: "product", Name: plan.ID, ID: product.id, product: params}
	step.Changes = changes(
		FieldChange{"name", product.name, plan.Name},
		FieldChange{"description", product.description, plan.Description},
		FieldChange{"plan", product.plan, plan.ID},
		FieldChange{"active", strconv.FormatBool(product.active), "true"},
	)
	for _, c := range step.Changes {
		switch c.Field {
		case "name":
			params.Name = stripe.String(plan.Name)
		case "description":
			params.Description = stripe.String(plan.Description)
		case "plan":
			params.Metadata = map[string]string{billing.MetadataPlan: plan.ID}
		case "active":
			params.Active = stripe.Bool(true)
		}
	}
	if len(step.Changes) > 0 {
		p.products = append(p.products, step)
	}
}

// planPrice compares one price with the one that has its lookup key.
func (p *planner) planPrice(plan billing.Plan, product string, want billing.PlanPrice) error {
	amount, err := toStripe(want.Amount)
	if err != nil {
		return fmt.Errorf("plan %q, price %q: %w", plan.ID, want.LookupKey, err)
	}
	carries := map[string]string{billing.MetadataPlan: plan.ID}
	params := &stripe.PriceParams{
		Product: &product, Currency: stripe.String(strings.ToLower(want.Amount.Currency)), UnitAmount: &amount, LookupKey: stripe.String(want.LookupKey),
		Recurring: &stripe.PriceRecurringParams{Interval: stripe.String(string(want.Interval)), IntervalCount: stripe.Int64(want.IntervalCount)},
		Metadata:  carries,
	}
	i := slices.IndexFunc(p.remote.prices, func(price billing.Price) bool { return price.LookupKey == want.LookupKey })
	if i < 0 {
		p.changes = append(p.changes, Step{
			Action: Create, Object: "price", Name: want.LookupKey, price: params,
			Changes: changes(FieldChange{"amount", "", want.Amount.String()}, FieldChange{"interval", "", interval(want.Interval, want.IntervalCount)}),
		})
		return nil
	}
	have := p.remote.prices[i]
	fixed := changes(
		FieldChange{"amount", amountOf(have), want.Amount.String()},
		FieldChange{"currency", have.UnitAmount.Currency, want.Amount.Currency},
		FieldChange{"interval", interval(have.Interval, have.IntervalCount), interval(want.Interval, want.IntervalCount)},
		FieldChange{"metered", strconv.FormatBool(have.Metered), "false"},
		FieldChange{"product", have.ProductID, product},
	)
	owner := have.Metadata[billing.MetadataPlan]
	if len(fixed) > 0 {
		if owner == "" {
			// Its subscriptions are known by this once the lookup key is gone.
			p.changes = append(p.changes, Step{
				Action: Update, Object: "price", Name: want.LookupKey, ID: have.ID, price: &stripe.PriceParams{Metadata: carries},
				Changes: []FieldChange{{"plan", "", plan.ID}},
			})
		}
		params.TransferLookupKey = stripe.Bool(true)
		p.changes = append(p.changes, Step{Action: Replace, Object: "price", Name: want.LookupKey, ID: have.ID, price: params, Changes: fixed})
		p.retire(have, want.LookupKey)
		return nil
	}
	p.kept[have.ID] = true
	params = &stripe.PriceParams{}
	step := Step{Action: Update, Object: "price", Name: want.LookupKey, ID: have.ID, price: params, Changes: changes(
		FieldChange{"plan", owner, plan.ID}, FieldChange{"active", strconv.FormatBool(have.Active), "true"},
	)}
	for _, c := range step.Changes {
		switch c.Field {
		case "plan":
			params.Metadata = carries
		case "active":
			params.Active = stripe.Bool(true)
		}
	}
	if len(step.Changes) > 0 {
		p.changes = append(p.changes, step)
	}
	return nil
}

// retire archives a price. Stripe doesn't archive the default price of a
// product: another one, or none, becomes the default before.
func (p *planner) retire(price billing.Price, successor string) {
	p.kept[price.ID] = true
	if !price.Active {
		return
	}
	if product := p.product(price.ProductID); product != nil && product.defaultPrice == price.ID {
		step := Step{
			Action: Update, Object: "product", Name: cmp.Or(product.plan, product.id), ID: product.id, defaultKey: successor,
			Changes: []FieldChange{{"default price", price.ID, successor}}, product: &stripe.ProductParams{},
		}
		if successor == "" {
			step.product.AddExtra("default_price", "")
		}
		p.defaults = append(p.defaults, step)
	}
	p.archived = append(p.archived, Step{
		Action: Archive, Object: "price", Name: cmp.Or(price.LookupKey, amountOf(price)), ID: price.ID,
		Changes: []FieldChange{{"active", "true", "false"}}, price: &stripe.PriceParams{Active: stripe.Bool(false)},
	})
}

// gone archives what carries a plan and isn't in the catalogue.
func (p *planner) gone() {
	for _, price := range p.remote.prices {
		if p.kept[price.ID] || price.Metadata[billing.MetadataPlan] == "" {
			continue
		}
		p.retire(price, p.successor(price))
	}
	used := map[string]bool{}
	for _, id := range p.claimed {
		used[id] = true
	}
	for _, product := range p.remote.products {
		if product.active && product.plan != "" && !used[product.id] {
			p.archived = append(p.archived, Step{
				Action: Archive, Object: "product", Name: product.plan, ID: product.id,
				Changes: []FieldChange{{"active", "true", "false"}}, product: &stripe.ProductParams{Active: stripe.Bool(false)},
			})
		}
	}
}

// successor is the lookup key of a price that stays on the product of one that
// goes, or empty.
func (p *planner) successor(gone billing.Price) string {
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

// amountOf writes the amount of a price; tiers, and parts of a minor unit, are
// never equal to an amount of a catalogue.
func amountOf(price billing.Price) string {
	if price.UnitAmountDecimal == "" {
		return "tiers"
	}
	if whole := strconv.FormatInt(price.UnitAmount.Amount, 10); whole != price.UnitAmountDecimal {
		return price.UnitAmountDecimal + " minor units"
	}
	return price.UnitAmount.String()
}

var plainID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,100}$`)

// productID is the ID of the product that is made for a plan: always the same,
// so that it is made once.
func productID(plan string) string {
	if plainID.MatchString(plan) {
		return "commerce_" + plan
	}
	sum := sha256.Sum256([]byte(plan))
	return "commerce_" + hex.EncodeToString(sum[:8])
}
