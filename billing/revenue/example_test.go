package revenue_test

import (
	"fmt"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
)

func Example() {
	pro := billing.Price{LookupKey: "pro", UnitAmount: billing.Money{Amount: 9_99, Currency: "USD"}, Interval: billing.Month, IntervalCount: 1}
	team := billing.Price{LookupKey: "team", UnitAmount: billing.Money{Amount: 588_00, Currency: "USD"}, Interval: billing.Year, IntervalCount: 1}
	subscribed := func(account string, price billing.Price, status billing.Status) billing.Subscription {
		return billing.Subscription{ID: "sub_" + account, Status: status, Items: []billing.Item{{Price: price, Quantity: 1}}}
	}
	march, april := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	// The application appends one of these whenever a subscription changes.
	changes := []revenue.Change{
		{At: march.AddDate(0, 0, -9), Account: "ann", Subscription: subscribed("ann", pro, billing.StatusActive)},
		{At: march.AddDate(0, 0, -8), Account: "bob", Subscription: subscribed("bob", pro, billing.StatusActive)},
		{At: march.AddDate(0, 0, 4), Account: "ann", Subscription: subscribed("ann", team, billing.StatusActive)},
		{At: march.AddDate(0, 0, 5), Account: "bob", Subscription: subscribed("bob", pro, billing.StatusCanceled)},
		{At: march.AddDate(0, 0, 6), Account: "eve", Subscription: subscribed("eve", pro, billing.StatusTrialing)},
	}
	book, err := revenue.New(changes, nil, revenue.Config{})
	if err != nil {
		panic(err)
	}
	usd := revenue.Selection{Currency: "USD"}
	now := book.AsOf(april, usd)
	fmt.Println("MRR", now.MRR.Money(), "from", now.Customers.Accounts, "and in trial", now.Trial.Money())
	r := book.Between(march, april, usd)
	fmt.Println(r.Opening.Money(), "+", r.Expansion.Money(), "-", r.Churn.Money(), "=", r.Closing.Money())
	fmt.Println("NRR", r.NRR.Percent(0), "GRR", r.GRR.Percent(0), "logo churn", r.LogoChurn.Percent(0))
	fmt.Println("trial conversion", r.TrialConversion.Percent(0))
	// Output:
	// MRR $49.00 from [ann] and in trial $9.99
	// $19.98 + $39.01 - $9.99 = $49.00
	// NRR 245 % GRR 50 % logo churn 50 %
	// trial conversion n/a
}
