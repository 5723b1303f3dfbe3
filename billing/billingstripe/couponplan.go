package billingstripe

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// remoteCoupon is a coupon at Stripe.
type remoteCoupon struct {
	id, name, catalog string
	ours              bool
	terms             couponTerms
}

// couponTerms is what never changes about a coupon, as text.
type couponTerms struct{ off, duration, most, until, products string }

func (t couponTerms) changes(to couponTerms) []FieldChange {
	return changes(
		FieldChange{"off", t.off, to.off}, FieldChange{"duration", t.duration, to.duration}, FieldChange{"max redemptions", t.most, to.most},
		FieldChange{"redeem by", t.until, to.until}, FieldChange{"products", t.products, to.products},
	)
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func durationText(duration string, months int64) string {
	if months > 0 {
		return fmt.Sprintf("%d months", months)
	}
	return duration
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func (g *Gateway) fetchCoupons(ctx context.Context, root node) ([]remoteCoupon, error) {
	params := &stripe.CouponListParams{Expand: stripe.StringSlice([]string{"data.applies_to"})}
	list, err := g.all(ctx, root, "list coupons", "", "/v1/coupons", params, &params.ListParams)
	if err != nil {
		return nil, err
	}
	var coupons []remoteCoupon
	for _, n := range list {
		metadata := n.at("metadata").dict()
		c := remoteCoupon{
			id: n.at("id").text(), name: n.at("name").text(), ours: metadata[billing.MetadataCoupon] != "", catalog: metadata[billing.MetadataCatalog],
			terms: couponTerms{
				duration: durationText(n.at("duration").text(), n.at("duration_in_months").number()),
				most:     number(n.at("max_redemptions").number()), until: day(n.at("redeem_by").time()),
			},
		}
		if percent := n.at("percent_off").rat(); percent != nil {
			c.terms.off = plain(percent) + "%"
		} else {
			currency := n.at("currency").currency()
			c.terms.off = billing.Money{Amount: n.at("amount_off").amount(currency), Currency: currency}.String()
		}
		products, _ := n.at("applies_to", "products").list()
		var ids []string
		for _, p := range products {
			ids = append(ids, p.text())
		}
		slices.Sort(ids)
		c.terms.products = strings.Join(ids, " ")
		coupons = append(coupons, c)
	}
	return coupons, nil
}

// planCoupons compares the coupons. One that changes is taken away and made
// again under its ID: discounts at work go on as they are.
func (p *planner) planCoupons(catalog *billing.Catalog) error {
	wanted := map[string]bool{}
	for _, want := range catalog.Coupons() {
		wanted[want.ID] = true
		terms, params, err := p.couponParams(catalog, want)
		if err != nil {
			return err
		}
		create := Step{Action: Create, Object: "coupon", Name: want.ID, method: "POST", path: "/v1/coupons", params: params}
		i := slices.IndexFunc(p.remote.coupons, func(c remoteCoupon) bool { return c.id == want.ID })
		if i < 0 {
			create.Changes = append(changes(FieldChange{"name", "", want.Name}), couponTerms{}.changes(terms)...)
			p.coupons = append(p.coupons, create)
			continue
		}
		have := p.remote.coupons[i]
		fixed := have.terms.changes(terms)
		switch foreign := have.ours && have.catalog != catalog.Name(); {
		case foreign, !have.ours && len(fixed) > 0:
			return &ConflictError{Object: "coupon", Name: want.ID, ID: have.id, Owner: have.catalog, Changes: fixed}
		case len(fixed) > 0:
			p.coupons = append(p.coupons, p.withoutCoupon(have))
			create.Changes = fixed
			p.coupons = append(p.coupons, create)
			continue
		}
		step := Step{Action: Update, Object: "coupon", Name: want.ID, ID: have.id, method: "POST", path: "/v1/coupons/" + have.id}
		step.Changes = changes(FieldChange{"name", have.name, want.Name}, FieldChange{"ours", strconv.FormatBool(have.ours), "true"})
		if len(step.Changes) > 0 {
			step.params = &stripe.CouponParams{Name: stripe.String(want.Name), Metadata: params.Metadata}
			p.coupons = append(p.coupons, step)
		}
	}
	for _, have := range p.remote.coupons {
		if have.ours && have.catalog == catalog.Name() && !wanted[have.id] {
			p.coupons = append(p.coupons, p.withoutCoupon(have))
		}
	}
	return nil
}

// withoutCoupon takes a coupon away: nobody can take it any more.
func (p *planner) withoutCoupon(have remoteCoupon) Step {
	return Step{
		Action: Archive, Object: "coupon", Name: have.id, ID: have.id, method: "DELETE", path: "/v1/coupons/" + have.id,
		Changes: []FieldChange{{"off", have.terms.off, ""}},
	}
}

func (p *planner) couponParams(catalog *billing.Catalog, want billing.Coupon) (couponTerms, *stripe.CouponParams, error) {
	params := &stripe.CouponParams{
		ID: stripe.String(want.ID), Name: stripe.String(want.Name), Duration: stripe.String(string(want.Duration)),
		Metadata: map[string]string{billing.MetadataCoupon: want.ID}, RedeemBy: instant(want.RedeemBy),
	}
	if catalog.Name() != "" {
		params.Metadata[billing.MetadataCatalog] = catalog.Name()
	}
	terms := couponTerms{duration: durationText(string(want.Duration), want.Months), most: number(want.MaxRedemptions), until: day(want.RedeemBy)}
	if want.Months > 0 {
		params.DurationInMonths = &want.Months
	}
	if want.MaxRedemptions > 0 {
		params.MaxRedemptions = &want.MaxRedemptions
	}
	if want.PercentOff != "" {
		rat, _ := decimal(want.PercentOff)
		terms.off = plain(rat) + "%"
		params.AddExtra("percent_off", plain(rat)) // stripe-go's is a float
	} else {
		amount, err := toStripe(want.AmountOff)
		if err != nil {
			return terms, nil, fmt.Errorf("coupon %q: %w", want.ID, err)
		}
		terms.off = want.AmountOff.String()
		params.AmountOff, params.Currency = &amount, stripe.String(strings.ToLower(want.AmountOff.Currency))
	}
	var products []string
	for _, plan := range want.Plans {
		for _, o := range p.offers {
			if o.metadata[billing.MetadataPlan] == plan {
				products = append(products, p.claimed[o.key])
			}
		}
	}
	slices.Sort(products)
	terms.products = strings.Join(products, " ")
	if len(products) > 0 {
		params.AppliesTo = &stripe.CouponAppliesToParams{Products: stripe.StringSlice(products)}
	}
	return terms, params, nil
}
