package referral

import (
	"fmt"
	"slices"
	"time"
)

// Campaign says who gets what, when and how often. It is data: a redemption
// keeps the terms under which it was made, whatever the campaign says later.
type Campaign struct {
	ID      string `json:"id"`
	Version int    `json:"version"` // raise it with every change of terms

	Referrer Benefit `json:"referrer"` // for the one whose code it is
	Referee  Benefit `json:"referee"`  // for the new account
	// Tiers replace the referrer's benefit from a number of qualified
	// referrals on: the third one brings more.
	Tiers []Tier `json:"tiers,omitempty"`

	// Qualify says what the referee must do for the referrer's reward.
	Qualify Qualification `json:"qualify,omitempty"`
	// Hold is how long a qualified reward waits: at least the time within
	// which a payment can be taken back. 0 means 30 days, negative none.
	Hold time.Duration `json:"hold,omitempty"`
	// Window is how long after the redemption the referee may qualify; 0
	// means 90 days.
	Window time.Duration `json:"window,omitempty"`

	// Audience are the groups whose accounts may have a code, Newcomers those
	// whose accounts may redeem one: one of Person.Groups must be among them.
	// Empty means everybody.
	Audience  []string `json:"audience,omitempty"`
	Newcomers []string `json:"newcomers,omitempty"`
	// NewFor is how long after Person.Since an account may redeem a code. 0
	// means for ever.
	NewFor time.Duration `json:"new_for,omitempty"`

	MaxUses int64 `json:"max_uses,omitempty"` // of one code; 0 means unlimited
	// PerReferrer is the most redemptions of a referrer within a calendar
	// year, over all codes; 0 means unlimited.
	PerReferrer int64 `json:"per_referrer,omitempty"`
	// Budget and Cost, in minor units of one currency: each redemption is
	// reckoned at Cost, and none is accepted beyond Budget. 0 means unlimited.
	Budget int64 `json:"budget,omitempty"`
	Cost   int64 `json:"cost,omitempty"`

	Starts time.Time `json:"starts,omitzero"`
	Ends   time.Time `json:"ends,omitzero"` // zero: never
}

// Tier is a benefit from a number of qualified referrals on.
type Tier struct {
	From    int64   `json:"from"` // the referrer's nth qualified referral and later ones
	Benefit Benefit `json:"benefit"`
}

// Qualification is what a referee must do. Who must stay for n days as well, or
// until a payment can't be refunded any more, gets a Hold of that time: an end,
// a refund or a dispute within it stops the reward.
type Qualification string

// The qualifications. Payment, the default, takes money: an invoice of zero, as
// in a trial, doesn't count.
const (
	Payment Qualification = ""
	SignUp  Qualification = "sign_up"
)

// Benefit is what one side gets. Exactly one kind is set; the zero Benefit is
// nothing.
type Benefit struct {
	// FreeMonths are taken off renewals, one month each: the price of the
	// account's plan for a month, a twelfth of it for a yearly one.
	FreeMonths int64 `json:"free_months,omitempty"`
	// PercentOff is taken off the first Months (0 means 1) of a new
	// subscription.
	PercentOff int64 `json:"percent_off,omitempty"`
	Months     int64 `json:"months,omitempty"`
	// Credit is an amount for the next invoices, in minor units of Currency.
	Credit   int64  `json:"credit,omitempty"`
	Currency string `json:"currency,omitempty"`
	// Custom is for the application to give: Biller isn't asked.
	Custom string `json:"custom,omitempty"`
}

// IsZero reports whether the benefit is nothing.
func (b Benefit) IsZero() bool { return b == Benefit{} }

func (b Benefit) validate(side string) error {
	kinds := 0
	for _, set := range []bool{b.FreeMonths != 0, b.PercentOff != 0, b.Credit != 0, b.Custom != ""} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return fmt.Errorf("%w: %s has more than one kind of benefit", ErrInvalid, side)
	case b.FreeMonths < 0 || b.FreeMonths > 24:
		return fmt.Errorf("%w: %s: %d free months, must be 1 to 24", ErrInvalid, side, b.FreeMonths)
	case b.PercentOff < 0 || b.PercentOff > 100 || b.Months < 0 || b.Months > 24 || b.Months > 0 && b.PercentOff == 0:
		return fmt.Errorf("%w: %s: %d %% off for %d months", ErrInvalid, side, b.PercentOff, b.Months)
	case b.Credit < 0 || (b.Credit > 0) != (b.Currency != ""):
		return fmt.Errorf("%w: %s: a credit needs a positive amount and a currency", ErrInvalid, side)
	}
	return nil
}

func (c Campaign) validate() error {
	if c.ID == "" || len(c.ID) > 64 || c.Version < 1 {
		return fmt.Errorf("%w: campaign %q version %d: needs an ID of at most 64 bytes and a version from 1", ErrInvalid, c.ID, c.Version)
	}
	if c.Referrer.PercentOff != 0 {
		return fmt.Errorf("%w: campaign %q: percent off is for the referee's new subscription; give the referrer months or a credit", ErrInvalid, c.ID)
	}
	if c.Referee.FreeMonths != 0 {
		return fmt.Errorf("%w: campaign %q: give the referee 100 percent off the first months instead of free months", ErrInvalid, c.ID)
	}
	if err := c.Referrer.validate("referrer"); err != nil {
		return err
	}
	if err := c.Referee.validate("referee"); err != nil {
		return err
	}
	from := int64(0)
	for _, t := range c.Tiers {
		if t.From <= from || t.Benefit.PercentOff != 0 {
			return fmt.Errorf("%w: campaign %q: tiers must rise and can't be percentages", ErrInvalid, c.ID)
		}
		if err := t.Benefit.validate("tier"); err != nil {
			return err
		}
		from = t.From
	}
	if c.Qualify != Payment && c.Qualify != SignUp {
		return fmt.Errorf("%w: campaign %q: qualification %q", ErrInvalid, c.ID, c.Qualify)
	}
	if c.NewFor < 0 {
		return fmt.Errorf("%w: campaign %q: NewFor is negative", ErrInvalid, c.ID)
	}
	if c.MaxUses < 0 || c.PerReferrer < 0 || c.Budget < 0 || c.Cost < 0 || c.Budget > 0 && c.Cost == 0 {
		return fmt.Errorf("%w: campaign %q: caps must not be negative, and a budget needs the cost of a redemption", ErrInvalid, c.ID)
	}
	if !c.Ends.IsZero() && !c.Ends.After(c.Starts) {
		return fmt.Errorf("%w: campaign %q ends before it starts", ErrInvalid, c.ID)
	}
	return nil
}

func (c Campaign) hold() time.Duration {
	if c.Hold == 0 {
		return 30 * 24 * time.Hour
	}
	return max(c.Hold, 0)
}

func (c Campaign) window() time.Duration {
	if c.Window == 0 {
		return 90 * 24 * time.Hour
	}
	return c.Window
}

// among reports whether a person is in one of the groups.
func among(groups []string, p Person) bool {
	return len(groups) == 0 || slices.ContainsFunc(p.Groups, func(g string) bool { return slices.Contains(groups, g) })
}

// benefit returns the referrer's benefit for the nth qualified referral.
func (c Campaign) benefit(nth int64) Benefit {
	b := c.Referrer
	for _, t := range c.Tiers {
		if nth >= t.From {
			b = t.Benefit
		}
	}
	return b
}
