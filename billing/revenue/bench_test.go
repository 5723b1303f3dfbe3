package revenue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
)

// BenchmarkBook asks about a year of 100,000 subscriptions, each with a trial
// and six payments; every fifth one ended.
func BenchmarkBook(b *testing.B) {
	var changes []revenue.Change
	var payments []revenue.Payment
	for i := range 100_000 {
		account := fmt.Sprintf("acc_%06d", i)
		start := day(1).Add(time.Duration(i*300) * time.Second)
		changes = append(changes, change(start, account, billing.StatusTrialing, "p", 999), change(start.AddDate(0, 0, 14), account, billing.StatusActive, "p", 999))
		if i%5 == 0 {
			changes = append(changes, change(start.AddDate(0, 2, 0), account, billing.StatusCanceled, "p", 999))
		}
		for m := range 6 {
			payments = append(payments, revenue.Payment{At: start.AddDate(0, m, 14), Account: account, SubscriptionID: "sub_" + account, Amount: billing.Money{Amount: 999, Currency: "USD"}})
		}
	}
	book, err := revenue.New(changes, payments, revenue.Config{})
	require.NoError(b, err)
	for name, ask := range map[string]func(){
		"New": func() {
			if _, err := revenue.New(changes, payments, revenue.Config{}); err != nil {
				b.Fatal(err)
			}
		},
		"AsOf":    func() { book.AsOf(day(200), usd) },
		"Between": func() { book.Between(day(200), day(230), usd) },
		"Months":  func() { book.Months(day(360), 12, usd) },
		"Cohorts": func() { book.Cohorts(day(360), usd) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				ask()
			}
		})
	}
}
