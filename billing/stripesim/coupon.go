package stripesim

import (
	"math/big"
	"strings"
)

const (
	kindCoupon    = "coupon"
	kindPromotion = "promotion_code"
	kindDiscount  = "discount"
)

type coupon struct {
	head
	name, currency, duration string
	amountOff, months        int64
	percentOff               *big.Rat // nil: an amount
	maxRedemptions, redeemed int64
	redeemBy                 int64
	products                 []string // empty: all
	deleted                  bool
}

func (c *coupon) render(s *Simulator) object {
	out := object{
		"id": c.id, "object": kindCoupon, "amount_off": nil, "created": c.created, "currency": optional(c.currency), "duration": c.duration,
		"duration_in_months": stamp(c.months), "livemode": false, "max_redemptions": stamp(c.maxRedemptions), "metadata": copyMeta(c.metadata),
		"name": optional(c.name), "percent_off": nil, "redeem_by": stamp(c.redeemBy), "times_redeemed": c.redeemed, "valid": c.valid(s.at("")),
	}
	if c.percentOff != nil {
		f, _ := c.percentOff.Float64()
		out["percent_off"] = f
	} else {
		out["amount_off"] = c.amountOff
	}
	out["applies_to"] = lazy(func() any {
		if len(c.products) == 0 {
			return nil
		}
		products := []any{}
		for _, p := range c.products {
			products = append(products, p)
		}
		return object{"products": products}
	})
	return out
}

func (c *coupon) valid(now int64) bool {
	return !c.deleted && (c.maxRedemptions == 0 || c.redeemed < c.maxRedemptions) && (c.redeemBy == 0 || now < c.redeemBy)
}

type promotion struct {
	head
	code, coupon, customer   string
	active, firstTime        bool
	expiresAt                int64
	maxRedemptions, redeemed int64
	minimum                  int64
	minimumCurrency          string
}

func (p *promotion) render(s *Simulator) object {
	return object{
		"id": p.id, "object": kindPromotion, "active": p.usable(s), "code": p.code, "coupon": must[*coupon](s, kindCoupon, p.coupon),
		"created": p.created, "customer": ref{kindCustomer, p.customer}, "expires_at": stamp(p.expiresAt), "livemode": false,
		"max_redemptions": stamp(p.maxRedemptions), "metadata": copyMeta(p.metadata), "times_redeemed": p.redeemed,
		"restrictions": object{
			"first_time_transaction": p.firstTime, "minimum_amount": stamp(p.minimum), "minimum_amount_currency": optional(p.minimumCurrency),
		},
	}
}

func (p *promotion) usable(s *Simulator) bool {
	now := s.at("")
	return p.active && (p.maxRedemptions == 0 || p.redeemed < p.maxRedemptions) && (p.expiresAt == 0 || now < p.expiresAt) &&
		must[*coupon](s, kindCoupon, p.coupon).valid(now)
}

// discount is a coupon at work.
type discount struct {
	head
	coupon                                           *coupon
	promotionCode, customer, subscription, invoiceID string
	session                                          string
	start, end                                       int64
	used                                             bool // a coupon for one invoice has had it
}

func (d *discount) render(*Simulator) object {
	return object{
		"id": d.id, "object": kindDiscount, "checkout_session": optional(d.session), "coupon": d.coupon, "customer": ref{kindCustomer, d.customer},
		"end": stamp(d.end), "invoice": optional(d.invoiceID), "invoice_item": nil, "promotion_code": ref{kindPromotion, d.promotionCode},
		"start": d.start, "subscription": optional(d.subscription), "subscription_item": nil,
	}
}

// nested is a discount inside another object, or null.
func nested(d *discount) any {
	if d == nil {
		return nil
	}
	return entity(d)
}

// running reports whether a discount lowers an invoice made now.
func (d *discount) running(now int64) bool {
	used := d.coupon.duration == "once" && d.used
	return !used && (d.end == 0 || now < d.end)
}

func (s *Simulator) createCoupon(c *call) (any, error) {
	f := c.form
	id := f.str("id")
	if id == "" {
		id = s.newID("")[:8]
	} else if old, ok := get[*coupon](s, kindCoupon, id); ok && !old.deleted {
		return nil, badRequest("resource_already_exists", "id", "Coupon already exists.")
	}
	if f.has("percent_off") == f.has("amount_off") {
		return nil, badRequest("", "", "You must pass either `percent_off` or `amount_off`.")
	}
	out := &coupon{
		name: f.str("name"), currency: f.str("currency"), duration: f.str("duration"), amountOff: f.int("amount_off"), months: f.int("duration_in_months"),
		maxRedemptions: f.int("max_redemptions"), redeemBy: f.int("redeem_by"), products: f.strings("applies_to.products"),
	}
	if out.duration == "" {
		out.duration = "once"
	}
	if f.has("percent_off") {
		r, err := parseDecimal(f.str("percent_off"))
		if err != nil || r.Sign() <= 0 || r.Cmp(big.NewRat(100, 1)) > 0 {
			return nil, badRequest("", "percent_off", "Invalid percent_off: must be greater than 0 and at most 100")
		}
		out.percentOff = r
	} else if out.amountOff <= 0 || !validCurrency(out.currency) {
		return nil, badRequest("parameter_missing", "currency", "A coupon with an amount_off above zero needs a currency.")
	}
	if (out.duration == "repeating") != (out.months > 0) {
		return nil, badRequest("", "duration_in_months", "duration_in_months is required when, and only when, the duration is repeating.")
	}
	for _, p := range out.products {
		if _, err := s.liveProduct(p, "applies_to[products]"); err != nil {
			return nil, err
		}
	}
	out.metadata = f.merge("metadata", nil)
	s.add(kindCoupon, id, "", out)
	s.emit("coupon.created", out)
	return out, nil
}

func (s *Simulator) liveCoupon(id, param string) (*coupon, error) {
	c, err := find[*coupon](s, kindCoupon, id, param)
	if err == nil && c.deleted {
		return nil, missing(kindCoupon, id, param)
	}
	return c, err
}

func (s *Simulator) fetchCoupon(c *call) (any, error) { return s.liveCoupon(c.id(), "") }

func (s *Simulator) updateCoupon(c *call) (any, error) {
	cp, err := s.liveCoupon(c.id(), "")
	if err != nil {
		return nil, err
	}
	s.change("coupon.updated", cp, func() {
		if c.form.has("name") {
			cp.name = c.form.str("name")
		}
		cp.metadata = c.form.merge("metadata", cp.metadata)
	})
	return cp, nil
}

// deleteCoupon stops further redemptions; discounts at work go on.
func (s *Simulator) deleteCoupon(c *call) (any, error) {
	cp, err := s.liveCoupon(c.id(), "")
	if err != nil {
		return nil, err
	}
	cp.deleted = true
	s.emit("coupon.deleted", cp)
	return object{"id": cp.id, "object": kindCoupon, "deleted": true}, nil
}

func (s *Simulator) listCoupons(c *call) (any, error) {
	items := newest(s, kindCoupon, func(x *coupon) bool { return !x.deleted })
	return &page{url: "/v1/coupons", items: within(c.form, entities(items)), window: c.form}, nil
}

func (s *Simulator) createPromotion(c *call) (any, error) {
	f := c.form
	cp, err := s.liveCoupon(f.str("coupon"), "coupon")
	if err != nil {
		return nil, err
	}
	out := &promotion{
		code: f.str("code"), coupon: cp.id, customer: f.str("customer"), active: !f.has("active") || f.bool("active"), expiresAt: f.int("expires_at"),
		maxRedemptions: f.int("max_redemptions"), firstTime: f.bool("restrictions.first_time_transaction"),
		minimum: f.int("restrictions.minimum_amount"), minimumCurrency: f.str("restrictions.minimum_amount_currency"),
	}
	if out.code == "" {
		out.code = strings.ToUpper(s.newID("")[:8])
	}
	if out.customer != "" {
		if _, err := s.liveCustomer(out.customer, "customer"); err != nil {
			return nil, err
		}
	}
	if twin := s.promotionByCode(out.code); twin != nil && twin.customer == out.customer {
		return nil, badRequest("", "code", "An active promotion code with `code: %s` already exists.", clip(out.code))
	}
	out.metadata = f.merge("metadata", nil)
	s.add(kindPromotion, s.newID("promo_"), "", out)
	s.emit("promotion_code.created", out)
	return out, nil
}

// promotionByCode finds a usable code; case doesn't matter.
func (s *Simulator) promotionByCode(code string) *promotion {
	for _, p := range newest[*promotion](s, kindPromotion, nil) {
		if strings.EqualFold(p.code, code) && p.usable(s) {
			return p
		}
	}
	return nil
}

func (s *Simulator) fetchPromotion(c *call) (any, error) {
	return find[*promotion](s, kindPromotion, c.id(), "")
}

func (s *Simulator) updatePromotion(c *call) (any, error) {
	p, err := find[*promotion](s, kindPromotion, c.id(), "")
	if err != nil {
		return nil, err
	}
	s.change("promotion_code.updated", p, func() {
		if c.form.has("active") {
			p.active = c.form.bool("active")
		}
		p.metadata = c.form.merge("metadata", p.metadata)
	})
	return p, nil
}

func (s *Simulator) listPromotions(c *call) (any, error) {
	f := c.form
	items := newest(s, kindPromotion, func(p *promotion) bool {
		return (!f.has("active") || p.usable(s) == f.bool("active")) && (!f.has("code") || strings.EqualFold(p.code, f.str("code"))) &&
			(!f.has("coupon") || p.coupon == f.str("coupon")) && (!f.has("customer") || p.customer == f.str("customer"))
	})
	return &page{url: "/v1/promotion_codes", items: within(f, entities(items)), window: f}, nil
}
