package stripesim

import (
	"time"

	"github.com/kolekt/commerce/internal/period"
)

// redemption is a coupon or promotion code that a request names, checked and
// not yet redeemed; or a discount that stays.
type redemption struct {
	coupon, promotion string
	existing          *discount
}

// trial is the discount as it would be.
func (r redemption) trial(s *Simulator) *discount {
	if r.existing != nil {
		return r.existing
	}
	id := r.coupon
	if r.promotion != "" {
		id = must[*promotion](s, kindPromotion, r.promotion).coupon
	}
	return &discount{head: head{id: "di_preview"}, coupon: must[*coupon](s, kindCoupon, id), promotionCode: r.promotion}
}

// readDiscounts checks the discounts of a request, in any of the three ways
// in which they are named.
func (s *Simulator) readDiscounts(f *form, cust *customer) ([]redemption, error) {
	var out []redemption
	named := map[string]bool{}
	check := func(r redemption) error {
		cp, _, err := s.redeemable(r.coupon, r.promotion, cust)
		if err != nil {
			return err
		}
		if named[cp.id] {
			return badRequest("", "discounts", "The coupon %s is named more than once.", cp.id)
		}
		named[cp.id] = true
		out = append(out, r)
		return nil
	}
	if f.str("coupon") != "" || f.str("promotion_code") != "" {
		if f.has("discounts") && !f.cleared("discounts") {
			return nil, badRequest("", "discounts", "You may only specify one of these parameters: coupon, promotion_code, discounts.")
		}
		if err := check(redemption{coupon: f.str("coupon"), promotion: f.str("promotion_code")}); err != nil {
			return nil, err
		}
	}
	for i, n := range f.list("discounts") {
		if id := n.str("discount"); id != "" {
			d, err := find[*discount](s, kindDiscount, id, wireName([]string{"discounts", itoa(i), "discount"}))
			if err != nil {
				return nil, err
			}
			out = append(out, redemption{existing: d})
			continue
		}
		if err := check(redemption{coupon: n.str("coupon"), promotion: n.str("promotion_code")}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// redeemAll puts discounts to work that readDiscounts has checked, under the
// lock that is held since.
func (s *Simulator) redeemAll(in []redemption, cust *customer, of entity) []*discount {
	var out []*discount
	for _, r := range in {
		d := r.existing
		if d == nil {
			var err error
			if d, err = s.redeem(r.coupon, r.promotion, cust, of); err != nil {
				panic("stripesim: a coupon that was redeemable isn't: " + err.Error())
			}
		}
		out = append(out, d)
	}
	return out
}

// redeemable checks a coupon or promotion code (by its ID) for a customer,
// without any effect.
func (s *Simulator) redeemable(couponID, promotionID string, cust *customer) (*coupon, *promotion, error) {
	var promo *promotion
	if promotionID != "" {
		var err error
		if promo, err = find[*promotion](s, kindPromotion, promotionID, "promotion_code"); err != nil {
			return nil, nil, err
		}
		if !promo.usable(s) {
			return nil, nil, badRequest("", "promotion_code", "This promotion code is not active or has been used up: %s", promo.id)
		}
		if promo.customer != "" && (cust == nil || promo.customer != cust.id) {
			return nil, nil, badRequest("", "promotion_code", "This promotion code cannot be redeemed by this customer.")
		}
		if promo.firstTime && cust != nil && s.hasPaid(cust.id) {
			return nil, nil, badRequest("promotion_code_customer_not_first_time", "promotion_code", "This promotion code cannot be redeemed because the associated customer has prior transactions.")
		}
		couponID = promo.coupon
	}
	cp, err := s.liveCoupon(couponID, "coupon")
	if err != nil {
		return nil, nil, err
	}
	if !cp.valid(s.at("")) {
		return nil, nil, badRequest("coupon_expired", "coupon", "Coupon expired: %s", cp.id)
	}
	return cp, promo, nil
}

func (s *Simulator) hasPaid(customerID string) bool {
	return len(all(s, kindCharge, func(c *charge) bool { return c.customer == customerID && c.status == "succeeded" })) > 0
}

// redeem puts a coupon to work for a customer, or one of its subscriptions or
// invoices.
func (s *Simulator) redeem(couponID, promotionID string, cust *customer, of entity) (*discount, error) {
	cp, promo, err := s.redeemable(couponID, promotionID, cust)
	if err != nil {
		return nil, err
	}
	cp.redeemed++
	d := &discount{coupon: cp, customer: cust.id}
	if promo != nil {
		promo.redeemed++
		d.promotionCode = promo.id
	}
	s.add(kindDiscount, s.newID("di_"), cust.clock, d)
	d.start = d.created
	switch of := of.(type) {
	case *subscription:
		d.subscription = of.id
	case *invoice:
		d.invoiceID, d.subscription = of.id, ""
	}
	if cp.duration == "repeating" {
		d.end = period.AddMonths(time.Unix(d.start, 0).UTC(), int(cp.months)).Unix()
	}
	if d.invoiceID == "" {
		s.emit("customer.discount.created", d)
	}
	return d, nil
}
