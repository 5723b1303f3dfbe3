package revenue

import (
	"errors"
	"fmt"
	"math/big"

	"github.com/kolekt/commerce/billing"
)

// Scenario is a business as it might be: how many users there will be, which
// share of them takes which plan, and what it costs.
type Scenario struct {
	Currency string
	// Users are all users, paying or not, in each month.
	Users []int64
	Plans []PlanMix
	// Costs are those of a month that don't depend on users.
	Costs billing.Money
	// CostPerUser is that of a month for each user, paying or not.
	CostPerUser billing.Money
	// FeeBasisPoints and FeePerCharge are what the payment provider keeps of
	// each payment: 290 and 30 cents for 2.9 % + 0.30.
	FeeBasisPoints int64
	FeePerCharge   billing.Money
}

// PlanMix is the share of users who take a plan.
type PlanMix struct {
	Plan string
	// Price is for a user and month.
	Price billing.Money
	// BasisPoints is the share of all users: 500 for 5 %. What the plans leave
	// of 10,000 uses the product for free.
	BasisPoints int64
}

// ProjectedMonth is one month of a scenario.
type ProjectedMonth struct {
	Month   int // from 0
	Users   int64
	Free    int64
	Plans   []ProjectedPlan
	Revenue billing.Money // of all plans
	Costs   billing.Money // fixed, by user, and fees
	Profit  billing.Money // negative: a loss
	Sum     billing.Money // of the profits until this month
}

// ProjectedPlan is one plan in a month.
type ProjectedPlan struct {
	Plan    string
	Users   int64
	Revenue billing.Money
}

const wholeMix = 10_000 // basis points

func (s Scenario) validate() error {
	if err := (billing.Money{Currency: s.Currency}).Validate(); err != nil {
		return fmt.Errorf("revenue: Scenario.Currency: %w", err)
	}
	for _, m := range []struct {
		name  string
		money billing.Money
	}{{"Costs", s.Costs}, {"CostPerUser", s.CostPerUser}, {"FeePerCharge", s.FeePerCharge}} {
		if m.money.Amount < 0 || m.money != (billing.Money{}) && m.money.Currency != s.Currency {
			return fmt.Errorf("revenue: Scenario.%s must be an amount in %s, not negative", m.name, s.Currency)
		}
	}
	if s.FeeBasisPoints < 0 || s.FeeBasisPoints > wholeMix {
		return errors.New("revenue: Scenario.FeeBasisPoints must be 0 to 10,000")
	}
	var share int64
	for _, p := range s.Plans {
		if p.Price.Currency != s.Currency || p.Price.Amount < 0 {
			return fmt.Errorf("revenue: the price of plan %q must be an amount in %s, not negative", p.Plan, s.Currency)
		}
		if p.BasisPoints < 0 || p.BasisPoints > wholeMix-share {
			return fmt.Errorf("revenue: with plan %q the shares are negative or more than 10,000 basis points", p.Plan)
		}
		share += p.BasisPoints
	}
	for i, n := range s.Users {
		if n < 0 {
			return fmt.Errorf("revenue: Scenario.Users[%d] is negative", i)
		}
	}
	return nil
}

// Project returns each month of a scenario. Users are split by the plans'
// shares so that they sum to all of them.
func (s Scenario) Project() ([]ProjectedMonth, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	// Free comes first, and with it the users that can't be split.
	weights := []int64{wholeMix}
	for _, p := range s.Plans {
		weights = append(weights, p.BasisPoints)
		weights[0] -= p.BasisPoints
	}
	sum := new(big.Rat)
	projected := make([]ProjectedMonth, 0, len(s.Users))
	for i, users := range s.Users {
		split, err := billing.Money{Amount: users}.Allocate(weights...)
		if err != nil {
			return nil, fmt.Errorf("revenue: month %d: %w", i, err)
		}
		month := ProjectedMonth{Month: i, Users: users, Free: split[0].Amount}
		revenue, fees := new(big.Rat), new(big.Rat)
		for j, p := range s.Plans {
			taken := split[j+1].Amount
			income := product(taken, p.Price.Amount)
			revenue.Add(revenue, income)
			if p.Price.Amount > 0 {
				fees.Add(fees, s.fee(income, taken))
			}
			month.Plans = append(month.Plans, ProjectedPlan{p.Plan, taken, s.money(income)})
		}
		costs := new(big.Rat).Add(fees, product(users, s.CostPerUser.Amount))
		costs.Add(costs, product(1, s.Costs.Amount))
		// Rounded before the difference, so that what is shown adds up.
		month.Revenue, month.Costs = s.money(revenue), s.money(costs)
		profit := new(big.Rat).Sub(product(1, month.Revenue.Amount), product(1, month.Costs.Amount))
		sum.Add(sum, profit)
		month.Profit, month.Sum = s.money(profit), s.money(sum)
		projected = append(projected, month)
	}
	return projected, nil
}

// fee is what the provider keeps of n payments that sum to income.
func (s Scenario) fee(income *big.Rat, n int64) *big.Rat {
	fee := new(big.Rat).Mul(income, big.NewRat(s.FeeBasisPoints, wholeMix))
	return fee.Add(fee, product(n, s.FeePerCharge.Amount))
}

func (s Scenario) money(r *big.Rat) billing.Money {
	return billing.Money{Amount: rounded(r), Currency: s.Currency}
}

// BreakEven returns how many users of one plan alone, with no others, pay the
// costs of a month; false if a user costs as much as he pays, so that no number
// does, or if the plan isn't in the scenario.
func (s Scenario) BreakEven(plan string) (users int64, ok bool) {
	if s.validate() != nil {
		return 0, false
	}
	for _, p := range s.Plans {
		if p.Plan == plan {
			return s.cover(s.left(p, big.NewRat(1, 1)))
		}
	}
	return 0, false
}

// BreakEvenMix returns how many users in all, of whom the plans take their
// shares, pay the costs of a month; false if no number does.
func (s Scenario) BreakEvenMix() (users int64, ok bool) {
	if s.validate() != nil {
		return 0, false
	}
	left := new(big.Rat).Neg(product(1, s.CostPerUser.Amount))
	for _, p := range s.Plans {
		share := big.NewRat(p.BasisPoints, wholeMix)
		left.Add(left, s.left(p, share))
		left.Add(left, new(big.Rat).Mul(share, product(1, s.CostPerUser.Amount))) // counted for all above
	}
	return s.cover(left)
}

// left is what a share of a user of a plan leaves for the fixed costs.
func (s Scenario) left(p PlanMix, share *big.Rat) *big.Rat {
	left := product(1, p.Price.Amount)
	if p.Price.Amount > 0 {
		left.Sub(left, s.fee(product(1, p.Price.Amount), 1))
	}
	left.Sub(left, product(1, s.CostPerUser.Amount))
	return left.Mul(left, share)
}

// cover returns how many times an amount it takes to reach the fixed costs.
func (s Scenario) cover(left *big.Rat) (int64, bool) {
	if s.Costs.Amount == 0 {
		return 0, left.Sign() >= 0
	}
	if left.Sign() <= 0 {
		return 0, false
	}
	users := new(big.Rat).Quo(product(1, s.Costs.Amount), left)
	n, rest := new(big.Int).QuoRem(users.Num(), users.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	return n.Int64(), n.IsInt64()
}

func product(a, b int64) *big.Rat {
	return new(big.Rat).SetInt(new(big.Int).Mul(big.NewInt(a), big.NewInt(b)))
}

// Growth returns user counts that begin with start and grow by so many basis
// points each month, rounded to whole users: 1000 is 10 %.
func Growth(start, basisPoints int64, months int) []int64 {
	users := make([]int64, 0, max(months, 0))
	factor := big.NewRat(wholeMix+basisPoints, wholeMix)
	exact := new(big.Rat).SetInt64(start)
	for range months {
		users = append(users, rounded(exact))
		exact.Mul(exact, factor)
	}
	return users
}
