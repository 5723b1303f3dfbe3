package billing

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// MetadataCoupon is the metadata name under which a coupon of a catalogue
// carries its ID: other coupons are left alone.
const MetadataCoupon = "commerce_coupon"

// Coupon is a discount that the catalogue offers: Order.CouponID takes it.
// Either PercentOff or AmountOff is set.
type Coupon struct {
	ID         string `json:"id"` // at the gateway too
	Name       string `json:"name"`
	PercentOff string `json:"percent_off,omitempty"` // above 0 to 100, with up to two decimals: "12.5"
	AmountOff  Money  `json:"amount_off,omitzero"`
	// Duration is Once (the default), Forever, or a number of Months.
	Duration Duration `json:"duration"`
	Months   int64    `json:"months,omitempty"`
	// MaxRedemptions is how often it may be taken by all together; 0: any
	// number.
	MaxRedemptions int64 `json:"max_redemptions,omitempty"`
	// RedeemBy is until when it may be taken; zero: for good.
	RedeemBy time.Time `json:"redeem_by,omitzero"`
	// Plans are the plans that it is taken off, with their seats and metered
	// prices; none: everything.
	Plans []string `json:"plans,omitempty"`
}

// Duration is how long a coupon takes something off, in the gateway's words.
type Duration string

// The durations of coupons.
const (
	Once      Duration = "once"
	Repeating Duration = "repeating" // Coupon.Months
	Forever   Duration = "forever"
)

// Coupons returns the coupons.
func (c *Catalog) Coupons() []Coupon {
	return cloneEach(c.coupons, func(c *Coupon) { c.Plans = slices.Clone(c.Plans) })
}

var (
	plainCoupon = regexp.MustCompile(`^[0-9A-Za-z_-]{1,200}$`)
	percentage  = regexp.MustCompile(`^(100|[1-9]?[0-9](\.[0-9]{1,2})?)$`)
	nothing     = regexp.MustCompile(`^[0.]*$`)
)

func (c *checker) checkCoupons() {
	seen := map[string]int{}
	for i := range c.coupons {
		k := &c.coupons[i]
		at := fmt.Sprintf("coupons[%d]", i)
		if other, dup := seen[k.ID]; dup {
			c.bad(at+".id", "coupon %q is coupons[%d] already", k.ID, other)
		}
		seen[k.ID] = i
		if !plainCoupon.MatchString(k.ID) {
			c.bad(at+".id", "coupon %q: want letters, digits, - and _", k.ID)
		}
		if k.Name == "" {
			k.Name = k.ID
		}
		if len([]rune(k.Name)) > 40 {
			c.bad(at+".name", "want up to 40 characters, got %d", len([]rune(k.Name)))
		}
		amount := k.AmountOff != (Money{})
		switch {
		case amount == (k.PercentOff != ""):
			c.bad(at, "a coupon takes off either a percentage or an amount")
		case amount && (k.AmountOff.Validate() != nil || k.AmountOff.Amount <= 0):
			c.bad(at+".amount_off", "want an amount above zero in a currency")
		case !amount && (!percentage.MatchString(k.PercentOff) || nothing.MatchString(k.PercentOff)):
			c.bad(at+".percent_off", "percentage %q: want above 0 to 100 with up to two decimals", k.PercentOff)
		}
		if k.Duration == "" {
			k.Duration = Once
			if k.Months > 0 {
				k.Duration = Repeating
			}
		}
		switch k.Duration {
		case Once, Forever:
			if k.Months != 0 {
				c.bad(at+".duration", "a coupon that lasts %s has no months", k.Duration)
			}
		case Repeating:
			if k.Months < 1 || k.Months > 120 {
				c.bad(at+".duration", "want 1 to 120 months, got %d", k.Months)
			}
		default:
			c.bad(at+".duration", `duration %q: want "once", "forever" or "3 months"`, k.Duration)
		}
		if k.MaxRedemptions < 0 {
			c.bad(at+".max_redemptions", "want 0 or more, got %d", k.MaxRedemptions)
		}
		for j, id := range k.Plans {
			if p, ok := c.byID[id]; !ok || len(c.plans[p].Prices) == 0 {
				c.bad(fmt.Sprintf("%s.plans[%d]", at, j), "plan %q is not in the catalogue, or has no price", id)
			}
		}
	}
}
