package revenue_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
)

func dollars(cents int64) billing.Money { return billing.Money{Amount: cents, Currency: "USD"} }

// kolekt is a business of three plans that costs 500 dollars a month.
func kolekt(users ...int64) revenue.Scenario {
	return revenue.Scenario{
		Currency: "USD", Users: users, Costs: dollars(500_00),
		Plans: []revenue.PlanMix{
			{Plan: "pro", Price: dollars(9_99), BasisPoints: 1000},
			{Plan: "business", Price: dollars(29_99), BasisPoints: 300},
			{Plan: "enterprise", Price: dollars(99_99), BasisPoints: 100},
		},
	}
}

func TestProjectionOfAPlanMix(t *testing.T) {
	months, err := kolekt(100, 1000).Project()
	require.NoError(t, err)
	require.Len(t, months, 2)
	assert.Equal(t, revenue.ProjectedMonth{
		Month: 0, Users: 100, Free: 86,
		Plans:   []revenue.ProjectedPlan{{"pro", 10, dollars(99_90)}, {"business", 3, dollars(89_97)}, {"enterprise", 1, dollars(99_99)}},
		Revenue: dollars(289_86), Costs: dollars(500_00), Profit: dollars(-210_14), Sum: dollars(-210_14),
	}, months[0])
	assert.Equal(t, dollars(2898_60), months[1].Revenue)
	assert.Equal(t, dollars(2898_60-500_00-210_14), months[1].Sum)
}

func TestBreakEven(t *testing.T) {
	s := kolekt()
	for plan, want := range map[string]int64{"pro": 51, "business": 17, "enterprise": 6} {
		got, ok := s.BreakEven(plan)
		require.True(t, ok)
		assert.Equal(t, want, got, plan)
	}
	mix, ok := s.BreakEvenMix()
	require.True(t, ok)
	assert.Equal(t, int64(173), mix, "500 / 2.8986")
	_, ok = s.BreakEven("gold")
	assert.False(t, ok)

	s.FeeBasisPoints, s.FeePerCharge, s.CostPerUser = 290, dollars(30), dollars(10)
	got, ok := s.BreakEven("pro")
	require.True(t, ok)
	assert.Equal(t, int64(54), got, "500 / (9.99 − 0.28971 − 0.30 − 0.10)")
	s.CostPerUser = dollars(10_00)
	_, ok = s.BreakEven("pro")
	assert.False(t, ok, "no number of users pays when each costs more than he brings")
	_, ok = s.BreakEvenMix()
	assert.False(t, ok)
	s.Costs, s.CostPerUser = billing.Money{}, billing.Money{}
	got, ok = s.BreakEven("pro")
	assert.True(t, ok)
	assert.Zero(t, got)
}

// TestBreakEvenIsTheFirstProfitableMonth ties the two together.
func TestBreakEvenIsTheFirstProfitableMonth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := revenue.Scenario{
			Currency: "USD", Costs: dollars(rapid.Int64Range(1, 1e7).Draw(rt, "costs")), CostPerUser: dollars(rapid.Int64Range(0, 50).Draw(rt, "per user")),
			FeeBasisPoints: rapid.Int64Range(0, 500).Draw(rt, "fee"),
			Plans:          []revenue.PlanMix{{Plan: "p", Price: dollars(rapid.Int64Range(100, 10_000).Draw(rt, "price")), BasisPoints: 10_000}},
		}
		n, ok := s.BreakEven("p")
		mix, mixOK := s.BreakEvenMix()
		if !ok || !mixOK || n != mix {
			rt.Fatalf("%d, %t; of the mix %d, %t", n, ok, mix, mixOK)
		}
		s.Users = []int64{n - 1, n, n + 1}
		months, err := s.Project()
		if err != nil {
			rt.Fatal(err)
		}
		// Costs are rounded to a cent.
		if months[0].Profit.Amount > 0 || months[1].Profit.Amount < 0 && months[1].Profit.Amount < -1 {
			rt.Fatalf("%d users: %v and %v", n, months[0].Profit, months[1].Profit)
		}
	})
}

func TestProjectedUsersAreAllUsers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := kolekt(rapid.SliceOfN(rapid.Int64Range(0, 1e12), 1, 5).Draw(rt, "users")...)
		s.Plans[0].BasisPoints = rapid.Int64Range(0, 9600).Draw(rt, "share")
		months, err := s.Project()
		if err != nil {
			rt.Fatal(err)
		}
		sum := int64(0)
		for i, m := range months {
			users, income := m.Free, int64(0)
			for _, p := range m.Plans {
				users += p.Users
				income += p.Revenue.Amount
			}
			sum += m.Profit.Amount
			if users != s.Users[i] || income != m.Revenue.Amount || m.Profit.Amount != m.Revenue.Amount-m.Costs.Amount || m.Sum.Amount != sum {
				rt.Fatalf("%+v", m)
			}
		}
	})
}

func TestScenariosAreChecked(t *testing.T) {
	for name, edit := range map[string]func(*revenue.Scenario){
		"Currency":     func(s *revenue.Scenario) { s.Currency = "usd" },
		"Costs":        func(s *revenue.Scenario) { s.Costs.Currency = "EUR" },
		"CostPerUser":  func(s *revenue.Scenario) { s.CostPerUser = dollars(-1) },
		"pro":          func(s *revenue.Scenario) { s.Plans[0].Price.Currency = "EUR" },
		"basis points": func(s *revenue.Scenario) { s.Plans[0].BasisPoints = 9601 },
		"Users[0]":     func(s *revenue.Scenario) { s.Users = []int64{-1} },
		"FeeBasis":     func(s *revenue.Scenario) { s.FeeBasisPoints = 10_001 },
	} {
		s := kolekt()
		edit(&s)
		_, err := s.Project()
		require.ErrorContains(t, err, name)
		_, ok := s.BreakEven("pro")
		assert.False(t, ok, name)
	}
}

func ExampleScenario() {
	s := revenue.Scenario{
		Currency: "USD",
		Users:    revenue.Growth(500, 4000, 3), // 40 % a month
		Costs:    billing.Money{Amount: 500_00, Currency: "USD"},
		Plans: []revenue.PlanMix{
			{Plan: "pro", Price: billing.Money{Amount: 9_99, Currency: "USD"}, BasisPoints: 500},
			{Plan: "business", Price: billing.Money{Amount: 29_99, Currency: "USD"}, BasisPoints: 100},
		},
	}
	months, err := s.Project()
	if err != nil {
		panic(err)
	}
	for _, m := range months {
		fmt.Println(m.Users, m.Revenue, m.Profit)
	}
	users, _ := s.BreakEven("pro")
	fmt.Println("break-even with", users, "users of pro")
	// Output:
	// 500 $399.70 -$100.30
	// 700 $559.58 $59.58
	// 980 $759.42 $259.42
	// break-even with 51 users of pro
}
