package revenue_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
)

var usd = revenue.Selection{Currency: "USD"}

func day(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }

func price(plan string, amount int64, interval billing.Interval) billing.Price {
	return billing.Price{ID: "price_" + plan, LookupKey: plan, UnitAmount: billing.Money{Amount: amount, Currency: "USD"}, Interval: interval, IntervalCount: 1}
}

// change is a subscription of one item as it has been since a day.
func change(at time.Time, account string, status billing.Status, plan string, amount int64, edit ...func(*billing.Subscription)) revenue.Change {
	s := billing.Subscription{
		ID: "sub_" + account, CustomerID: "cus_" + account, Status: status,
		Items: []billing.Item{{ID: "si_" + account, Quantity: 1, Price: price(plan, amount, billing.Month)}},
	}
	for _, f := range edit {
		f(&s)
	}
	return revenue.Change{At: at, Account: account, Subscription: s}
}

func book(t testing.TB, config revenue.Config, changes ...revenue.Change) *revenue.Book {
	t.Helper()
	b, err := revenue.New(changes, nil, config)
	require.NoError(t, err)
	return b
}

func value(t *testing.T, r revenue.Ratio) float64 {
	t.Helper()
	v, ok := r.Value()
	require.True(t, ok, "the ratio is undefined")
	return v
}

// TestGoldenCase: 100 × 100 USD a month and 50 × 600 USD a year are 12,500 USD
// a month (support.stripe.com/questions/billing-analytics).
func TestGoldenCase(t *testing.T) {
	var changes []revenue.Change
	for i := range 150 {
		c := change(day(1), fmt.Sprintf("acc_%03d", i), billing.StatusActive, "monthly", 100_00)
		if i >= 100 {
			c.Subscription.Items[0].Price = price("yearly", 600_00, billing.Year)
		}
		changes = append(changes, c)
	}
	s := book(t, revenue.Config{}, changes...).AsOf(day(2), usd)
	assert.Equal(t, billing.Money{Amount: 12_500_00, Currency: "USD"}, s.MRR.Money())
	assert.Equal(t, billing.Money{Amount: 150_000_00, Currency: "USD"}, s.ARR.Money())
	assert.Equal(t, 150, s.Customers.N)
	assert.Len(t, s.MRR.Parts, 150)
	arpa, ok := s.ARPA()
	require.True(t, ok)
	assert.Equal(t, int64(83_33), arpa.Amount)
	require.Len(t, s.Plans, 2)
	assert.Equal(t, "$10,000.00", s.Plans[0].MRR.Money().String())
	assert.Equal(t, "$2,500.00", s.Plans[1].MRR.Money().String())
}

// TestAddonsCountAndUseDoesNot: what recurs beside the plan is MRR, what is
// metered is not.
func TestAddonsCountAndUseDoesNot(t *testing.T) {
	c := change(day(1), "acc", billing.StatusActive, "pro", 10_00, func(s *billing.Subscription) {
		emails := price("pro_emails", 1, billing.Month)
		emails.Metered = true
		s.Items = append(s.Items, billing.Item{ID: "si_2", Quantity: 2, Price: price("storage", 3_00, billing.Month)}, billing.Item{ID: "si_3", Price: emails})
	})
	more := c
	more.At, more.Subscription.Items = day(3), slices.Clone(c.Subscription.Items)
	more.Subscription.Items[1].Quantity = 5
	b := book(t, revenue.Config{}, c, more)
	assert.Equal(t, int64(16_00), b.AsOf(day(2), usd).MRR.Money().Amount)
	assert.Equal(t, int64(25_00), b.AsOf(day(4), usd).MRR.Money().Amount)
}

func TestPricesAreNormalisedToAMonth(t *testing.T) {
	for name, c := range map[string]struct {
		item billing.Item
		want *big.Rat // nil: none
	}{
		"month":            {billing.Item{Quantity: 3, Price: price("p", 999, billing.Month)}, big.NewRat(2997, 1)},
		"year":             {billing.Item{Quantity: 1, Price: price("p", 1000, billing.Year)}, big.NewRat(1000, 12)},
		"week":             {billing.Item{Quantity: 1, Price: price("p", 100, billing.Week)}, big.NewRat(5200, 12)},
		"day":              {billing.Item{Quantity: 1, Price: price("p", 10, billing.Day)}, big.NewRat(3650, 12)},
		"quarter":          {billing.Item{Quantity: 1, Price: billing.Price{UnitAmount: billing.Money{Amount: 100, Currency: "USD"}, Interval: billing.Month, IntervalCount: 3}}, big.NewRat(100, 3)},
		"part of a cent":   {billing.Item{Quantity: 1000, Price: billing.Price{UnitAmount: billing.Money{Amount: 1, Currency: "USD"}, UnitAmountDecimal: "0.5", Interval: billing.Month, IntervalCount: 1}}, big.NewRat(500, 1)},
		"one-off":          {billing.Item{Quantity: 1, Price: price("p", 100, "")}, nil},
		"metered":          {billing.Item{Quantity: 1, Price: billing.Price{UnitAmount: billing.Money{Amount: 100, Currency: "USD"}, Interval: billing.Month, Metered: true}}, nil},
		"none of it":       {billing.Item{Quantity: 0, Price: price("p", 100, billing.Month)}, nil},
		"unknown interval": {billing.Item{Quantity: 1, Price: price("p", 100, "fortnight")}, nil},
		"free":             {billing.Item{Quantity: 1, Price: price("p", 0, billing.Month)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := revenue.Convention{}.MRR(billing.Subscription{Items: []billing.Item{c.item}}, day(1))["USD"]
			if c.want == nil {
				require.Nil(t, got)
				return
			}
			require.NotNil(t, got)
			assert.Zero(t, c.want.Cmp(got), "want %s, got %s", c.want, got)
		})
	}
}

func TestOnlyDiscountsOfTheConventionCount(t *testing.T) {
	with := func(discounts ...billing.Discount) billing.Subscription {
		return billing.Subscription{Discounts: discounts, Items: []billing.Item{
			{Quantity: 1, Price: price("a", 3000, billing.Month)}, {Quantity: 1, Price: price("b", 1000, billing.Month)},
		}}
	}
	forever := billing.Discount{PercentOff: "12.5", Duration: "forever"}
	repeating := billing.Discount{PercentOff: "50", Duration: "repeating", Start: day(1), End: day(20)}
	once := billing.Discount{PercentOff: "50", Duration: "once"}
	amount := billing.Discount{AmountOff: billing.Money{Amount: 500, Currency: "USD"}, Duration: "forever"}
	for name, c := range map[string]struct {
		rule revenue.DiscountRule
		s    billing.Subscription
		want int64
	}{
		"forever, by Stripe":             {revenue.ForeverDiscounts, with(forever), 3500},
		"repeating, by Stripe":           {revenue.ForeverDiscounts, with(repeating), 4000},
		"repeating, by ChartMogul":       {revenue.RunningDiscounts, with(repeating), 2000},
		"once":                           {revenue.RunningDiscounts, with(once), 4000},
		"amount: once over all items":    {revenue.ForeverDiscounts, with(amount), 3500},
		"amount of another currency":     {revenue.ForeverDiscounts, with(billing.Discount{AmountOff: billing.Money{Amount: 500, Currency: "EUR"}, Duration: "forever"}), 4000},
		"amount above the price":         {revenue.ForeverDiscounts, with(billing.Discount{AmountOff: billing.Money{Amount: 9999, Currency: "USD"}, Duration: "forever"}), 0},
		"percentage, then amount":        {revenue.ForeverDiscounts, with(forever, amount), 3000},
		"none":                           {revenue.NoDiscounts, with(forever, amount), 4000},
		"not yet":                        {revenue.ForeverDiscounts, with(billing.Discount{PercentOff: "50", Duration: "forever", Start: day(11)}), 4000},
		"an ID that wasn't expanded":     {revenue.ForeverDiscounts, with(billing.Discount{ID: "di_1"}), 4000},
		"more than everything, in parts": {revenue.ForeverDiscounts, with(billing.Discount{PercentOff: "150", Duration: "forever"}), 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := revenue.Convention{Discounts: c.rule}.MRR(c.s, day(10))["USD"]
			if c.want == 0 {
				require.Nil(t, got)
				return
			}
			assert.Zero(t, big.NewRat(c.want, 1).Cmp(got), "want %d, got %s", c.want, got)
		})
	}
}

// TestADiscountThatEndsMovesMRR: no change of the subscription says so.
func TestADiscountThatEndsMovesMRR(t *testing.T) {
	discounted := func(s *billing.Subscription) {
		s.Discounts = []billing.Discount{{PercentOff: "50", Duration: "repeating", Start: day(1), End: day(10)}}
	}
	b := book(t, revenue.Config{Convention: revenue.ChartMogul}, change(day(1), "a", billing.StatusActive, "pro", 1000, discounted))
	assert.Equal(t, int64(500), b.AsOf(day(9), usd).MRR.Money().Amount)
	assert.Equal(t, int64(1000), b.AsOf(day(10), usd).MRR.Money().Amount)
	movements := b.Movements(day(1), day(31), usd)
	require.Len(t, movements, 2)
	assert.Equal(t, revenue.KindExpansion, movements[1].Kind)
	assert.Equal(t, day(10), movements[1].At)
}

func TestEachStatusHasItsFigure(t *testing.T) {
	pending := func(s *billing.Subscription) { s.CancelAtPeriodEnd = true }
	paused := func(s *billing.Subscription) { s.PauseCollection = "void" }
	changes := []revenue.Change{
		change(day(1), "active", billing.StatusActive, "p", 1),
		change(day(1), "ending", billing.StatusActive, "p", 10, pending),
		change(day(1), "past due", billing.StatusPastDue, "p", 100),
		change(day(1), "trialing", billing.StatusTrialing, "p", 1000),
		change(day(1), "uncollected", billing.StatusActive, "p", 10_000, paused),
		change(day(1), "unpaid", billing.StatusUnpaid, "p", 7),
		change(day(1), "paused", billing.StatusPaused, "p", 7),
		change(day(1), "incomplete", billing.StatusIncomplete, "p", 7),
		change(day(1), "expired", billing.StatusIncompleteExpired, "p", 7),
		change(day(1), "canceled", billing.StatusCanceled, "p", 7),
		change(day(1), "of 2031", "suspended", "p", 7),
		change(day(1), "free", billing.StatusActive, "p", 0),
	}
	s := book(t, revenue.Config{}, changes...).AsOf(day(1), usd)
	assert.Equal(t, int64(10_111), s.MRR.Money().Amount)
	assert.Equal(t, int64(10_101), s.Committed.Money().Amount)
	assert.Equal(t, int64(100), s.AtRisk.Money().Amount)
	assert.Equal(t, int64(1000), s.Trial.Money().Amount)
	assert.Equal(t, []string{"active", "ending", "past due", "uncollected"}, s.Customers.Accounts)
	assert.Equal(t, []string{"trialing"}, s.Trialing.Accounts)
	assert.Equal(t, []string{"past due"}, s.PastDue.Accounts)
	assert.Equal(t, []revenue.Part{{Account: "past due", SubscriptionID: "sub_past due", Exact: big.NewRat(100, 1)}}, s.AtRisk.Parts)

	s = book(t, revenue.Config{Convention: revenue.Convention{ExcludePastDue: true, ExcludePaused: true}}, changes...).AsOf(day(1), usd)
	assert.Equal(t, int64(11), s.MRR.Money().Amount)
	assert.Zero(t, book(t, revenue.Config{}, changes...).AsOf(day(1).Add(-1), usd).MRR.Money().Amount)
}

func TestMovementsHaveTheirKinds(t *testing.T) {
	second := func(s *billing.Subscription) { s.ID = "sub_second" }
	failed := func(s *billing.Subscription) { s.CancelReason = "payment_failed" }
	b := book(t, revenue.Config{},
		change(day(2), "a", billing.StatusActive, "pro", 1000),
		change(day(3), "a", billing.StatusActive, "business", 3000),
		change(day(4), "a", billing.StatusActive, "pro", 1000),
		change(day(5), "a", billing.StatusActive, "extra", 500, second),
		change(day(6), "a", billing.StatusCanceled, "pro", 1000), // another is left: contraction
		change(day(7), "a", billing.StatusCanceled, "extra", 500, second, failed),
		change(day(8), "a", billing.StatusTrialing, "pro", 1000),
		change(day(9), "a", billing.StatusActive, "pro", 1000),
		change(day(9), "b", billing.StatusActive, "pro", 1000),
	)
	type row struct {
		day    int
		who    string
		kind   revenue.Kind
		amount int64
	}
	var got []row
	for _, m := range b.Movements(day(1), day(31), usd) {
		got = append(got, row{m.At.Day(), m.Account, m.Kind, m.Delta.Money().Amount})
		assert.Equal(t, m.At.Day() == 7, m.Involuntary)
		assert.NotEmpty(t, m.Delta.Parts)
	}
	assert.Equal(t, []row{
		{2, "a", revenue.KindNew, 1000}, {3, "a", revenue.KindExpansion, 2000}, {4, "a", revenue.KindContraction, -2000},
		{5, "a", revenue.KindExpansion, 500}, {6, "a", revenue.KindContraction, -1000}, {7, "a", revenue.KindChurn, -500},
		{9, "a", revenue.KindReactivation, 1000}, {9, "b", revenue.KindNew, 1000},
	}, got)

	// To who looks at one plan, a customer leaves it and comes back to it.
	got = nil
	for _, m := range b.Movements(day(1), day(5), revenue.Selection{Currency: "USD", Plan: "pro"}) {
		got = append(got, row{m.At.Day(), m.Account, m.Kind, m.Delta.Money().Amount})
	}
	assert.Equal(t, []row{{2, "a", revenue.KindNew, 1000}, {3, "a", revenue.KindChurn, -1000}, {4, "a", revenue.KindReactivation, 1000}}, got)
}

func TestMovementsWithinTheGroupAreOne(t *testing.T) {
	second := func(s *billing.Subscription) { s.ID = "sub_second" }
	changes := []revenue.Change{
		change(day(1), "a", billing.StatusActive, "pro", 1000),
		change(day(5), "a", billing.StatusCanceled, "pro", 1000),
		change(day(5).Add(10*time.Minute), "a", billing.StatusActive, "business", 3000, second),
	}
	assert.Len(t, book(t, revenue.Config{}, changes...).Movements(day(2), day(9), usd), 2)
	movements := book(t, revenue.Config{Convention: revenue.Convention{Group: time.Hour}}, changes...).Movements(day(2), day(9), usd)
	require.Len(t, movements, 1)
	assert.Equal(t, revenue.KindExpansion, movements[0].Kind)
	assert.Equal(t, int64(2000), movements[0].Delta.Money().Amount)
	assert.Len(t, movements[0].Delta.Parts, 2)
}

func TestGroupsEndAtTheEdgesOfWindowsAndMonths(t *testing.T) {
	feb := day(1).AddDate(0, 1, 0)
	b := book(t, revenue.Config{Convention: revenue.Convention{Group: 2 * time.Hour}},
		change(feb.Add(-time.Hour), "a", billing.StatusActive, "pro", 1000),
		change(feb.Add(time.Minute), "a", billing.StatusActive, "business", 3000),
	)
	r := b.Between(feb, feb.AddDate(0, 1, 0), usd)
	assert.Equal(t, int64(1000), r.Opening.Money().Amount)
	assert.Equal(t, int64(2000), r.Expansion.Money().Amount)
	assert.Zero(t, r.New.Money().Amount)
	cohorts := b.Cohorts(feb.Add(time.Hour), usd)
	require.Len(t, cohorts, 1)
	assert.Equal(t, day(1), cohorts[0].Month)
	assert.Equal(t, int64(1000), cohorts[0].Cells[0].MRR.Money().Amount)
}

func TestAReportOfOneMonth(t *testing.T) {
	failed := func(s *billing.Subscription) { s.CancelReason = "payment_failed" }
	asked := func(s *billing.Subscription) { s.CancelAtPeriodEnd, s.CanceledAt = true, day(20) }
	b := book(t, revenue.Config{GrossMargin: 80},
		change(day(1).AddDate(0, -1, 0), "stays", billing.StatusActive, "p", 1000),
		change(day(1).AddDate(0, -1, 0), "grows", billing.StatusActive, "p", 1000),
		change(day(10), "grows", billing.StatusActive, "q", 3000),
		change(day(1).AddDate(0, -1, 0), "shrinks", billing.StatusActive, "q", 3000),
		change(day(11), "shrinks", billing.StatusActive, "p", 1000),
		change(day(1).AddDate(0, -1, 0), "leaves", billing.StatusActive, "p", 2000),
		change(day(12), "leaves", billing.StatusPastDue, "p", 2000),
		change(day(15), "leaves", billing.StatusCanceled, "p", 2000, failed),
		change(day(1).AddDate(0, -1, 0), "returns", billing.StatusActive, "p", 1000),
		change(day(1).AddDate(0, 0, -9), "returns", billing.StatusCanceled, "p", 1000),
		change(day(16), "returns", billing.StatusActive, "p", 1000),
		change(day(1), "comes", billing.StatusTrialing, "p", 5000),
		change(day(15), "comes", billing.StatusActive, "p", 5000, asked),
		change(day(2), "tries", billing.StatusTrialing, "p", 5000),
		change(day(16), "tries", billing.StatusCanceled, "p", 5000),
		change(day(17), "stays", billing.StatusPastDue, "p", 1000),
		change(day(19), "stays", billing.StatusActive, "p", 1000),
		change(day(1).AddDate(0, 1, 0), "later", billing.StatusActive, "p", 9000), // the next month's
	)
	r := b.Between(day(1), day(1).AddDate(0, 1, 0), usd)
	amounts := []int64{}
	for _, f := range []revenue.Figure{r.Opening, r.New, r.Reactivation, r.Expansion, r.Contraction, r.Churn, r.Closing, r.Involuntary} {
		amounts = append(amounts, f.Money().Amount)
	}
	assert.Equal(t, []int64{7000, 5000, 1000, 2000, 2000, 2000, 11_000, 2000}, amounts)
	assert.Equal(t, []string{"grows", "leaves", "shrinks", "stays"}, r.CustomersAtStart.Accounts)
	assert.Equal(t, []string{"leaves"}, r.Churned.Accounts)
	assert.Equal(t, []string{"comes", "returns"}, r.Came.Accounts)
	assert.Equal(t, []string{"comes"}, r.Asked.Accounts)
	assert.Equal(t, []string{"comes", "tries"}, r.TrialsEnded.Accounts)
	assert.Equal(t, []string{"comes"}, r.TrialsConverted.Accounts)
	assert.Equal(t, []string{"leaves", "stays"}, r.PastDueEntered.Accounts)
	assert.Equal(t, []string{"stays"}, r.PastDueSaved.Accounts)

	assert.InDelta(t, 1.0/6, value(t, r.LogoChurn), 1e-12, "one of four who were there and two who came")
	assert.InDelta(t, 4000.0/7000, value(t, r.GrossChurn), 1e-12)
	assert.InDelta(t, 1000.0/7000, value(t, r.NetChurn), 1e-12)
	assert.InDelta(t, 3000.0/7000, value(t, r.GRR), 1e-12)
	assert.InDelta(t, 5000.0/7000, value(t, r.NRR), 1e-12)
	assert.InDelta(t, 2.0, value(t, r.QuickRatio), 1e-12)
	assert.InDelta(t, 1.0, value(t, r.InvoluntaryShare), 1e-12)
	assert.InDelta(t, 0.5, value(t, r.TrialConversion), 1e-12)
	assert.Equal(t, "50.0 %", r.Recovery.Percent(1))
	ltv, ok := r.LTV()
	require.True(t, ok)
	assert.Equal(t, billing.Money{Amount: 8400, Currency: "USD"}, ltv, "1750 × 80 % × 6")
}

func TestNothingIsEverInfinite(t *testing.T) {
	r := book(t, revenue.Config{}).Between(day(1), day(31), usd)
	for _, ratio := range []revenue.Ratio{r.LogoChurn, r.GrossChurn, r.NetChurn, r.GRR, r.NRR, r.QuickRatio, r.InvoluntaryShare, r.TrialConversion, r.Recovery} {
		_, ok := ratio.Value()
		assert.False(t, ok)
		assert.Equal(t, "n/a", ratio.Percent(1))
	}
	_, ok := r.LTV()
	assert.False(t, ok)
	_, ok = r.ObservedLTV()
	assert.False(t, ok)
	_, ok = book(t, revenue.Config{}).AsOf(day(1), usd).ARPA()
	assert.False(t, ok)
	assert.Empty(t, book(t, revenue.Config{}).Cohorts(day(1), usd))

	stable := book(t, revenue.Config{}, change(day(1), "a", billing.StatusActive, "p", 1000)).Between(day(2), day(31), usd)
	_, ok = stable.LTV()
	assert.False(t, ok, "nobody left: no churn to divide by")
}

func TestChurnRules(t *testing.T) {
	asked := func(s *billing.Subscription) { s.CanceledAt = day(5) }
	changes := []revenue.Change{
		change(day(1), "a", billing.StatusActive, "p", 1), change(day(1), "b", billing.StatusActive, "p", 1),
		change(day(5), "a", billing.StatusActive, "p", 1, asked), change(day(6), "b", billing.StatusActive, "p", 1, asked),
		change(day(7), "c", billing.StatusActive, "p", 1), change(day(8), "c", billing.StatusCanceled, "p", 1),
		change(day(9), "b", billing.StatusCanceled, "p", 1, asked),
	}
	for rule, want := range map[revenue.ChurnRule]float64{revenue.ChurnOfAll: 2.0 / 3, revenue.ChurnOfStart: 1.0 / 2, revenue.ChurnByIntent: 1} {
		r := book(t, revenue.Config{Convention: revenue.Convention{Churn: rule}}, changes...).Between(day(2), day(20), usd)
		assert.InDelta(t, want, value(t, r.LogoChurn), 1e-12, "rule %d", rule)
	}
}

func TestPaymentsProveWhatStatusesDoNot(t *testing.T) {
	changes := []revenue.Change{
		change(day(1), "paid", billing.StatusTrialing, "p", 1000), change(day(8), "paid", billing.StatusActive, "p", 1000),
		change(day(1), "not", billing.StatusTrialing, "p", 1000), change(day(8), "not", billing.StatusActive, "p", 1000),
		change(day(9), "not", billing.StatusCanceled, "p", 1000), change(day(9), "paid", billing.StatusCanceled, "p", 1000),
	}
	var payments []revenue.Payment
	for _, inv := range []billing.Invoice{
		{ID: "in_0", SubscriptionID: "sub_paid", Status: billing.InvoicePaid, Currency: "USD", Created: day(1)}, // the trial's: nothing
		{ID: "in_1", SubscriptionID: "sub_paid", Status: billing.InvoicePaid, Currency: "USD", AmountPaid: 1000, AmountRefunded: 100, PaidAt: day(8)},
		{ID: "in_2", SubscriptionID: "sub_not", Status: billing.InvoiceOpen, Currency: "USD", AmountPaid: 5, Created: day(8)},
		{ID: "in_3", SubscriptionID: "sub_paid", Status: billing.InvoicePaid, Currency: "EUR", AmountPaid: 77, PaidAt: day(8)},
	} {
		if p, ok := revenue.PaymentOf("paid", inv); ok {
			payments = append(payments, p)
		}
	}
	require.Len(t, payments, 2)
	b, err := revenue.New(changes, payments, revenue.Config{})
	require.NoError(t, err)
	r := b.Between(day(1), day(31), usd)
	assert.Equal(t, []string{"not", "paid"}, r.TrialsEnded.Accounts)
	assert.Equal(t, []string{"paid"}, r.TrialsConverted.Accounts)
	assert.Equal(t, billing.Money{Amount: 900, Currency: "USD"}, r.Revenue)
	observed, ok := r.ObservedLTV()
	require.True(t, ok)
	assert.Equal(t, billing.Money{Amount: 450, Currency: "USD"}, observed)
	assert.Equal(t, 2, book(t, revenue.Config{}, changes...).Between(day(1), day(31), usd).TrialsConverted.N, "without payments, active is all that is known")
}

func TestCohortsKeepWhoReturns(t *testing.T) {
	feb, mar := day(1).AddDate(0, 1, 0), day(1).AddDate(0, 2, 0)
	b := book(t, revenue.Config{},
		change(day(5), "a", billing.StatusActive, "p", 1000),
		change(day(6), "b", billing.StatusActive, "p", 1000),
		change(feb.AddDate(0, 0, 3), "b", billing.StatusCanceled, "p", 1000),
		change(feb.AddDate(0, 0, 4), "c", billing.StatusActive, "p", 500),
		change(feb.AddDate(0, 0, 5), "a", billing.StatusActive, "q", 3000),
		change(mar.AddDate(0, 0, 1), "b", billing.StatusActive, "p", 1000),
	)
	cohorts := b.Cohorts(mar.AddDate(0, 0, 9), usd)
	require.Len(t, cohorts, 2)
	assert.Equal(t, []string{"a", "b"}, cohorts[0].Size.Accounts)
	require.Len(t, cohorts[0].Cells, 3)
	require.Len(t, cohorts[1].Cells, 2)
	for i, want := range []struct{ logo, revenue float64 }{{1, 1}, {0.5, 1.5}, {1, 2}} {
		cell := cohorts[0].Cells[i]
		assert.InDelta(t, want.logo, value(t, cell.Logo), 1e-12, i)
		assert.InDelta(t, want.revenue, value(t, cell.Revenue), 1e-12, i)
		assert.Equal(t, i == 2, cell.Partial)
	}
}

func TestReconstructFindsWhatTheTimesSay(t *testing.T) {
	base := billing.Subscription{ID: "sub_1", StartDate: day(1), Items: []billing.Item{{Quantity: 1, Price: price("p", 100, billing.Month)}}}
	type row struct {
		day     int
		status  billing.Status
		pending bool
	}
	for name, c := range map[string]struct {
		edit func(*billing.Subscription)
		want []row
	}{
		"active":        {func(s *billing.Subscription) { s.Status = billing.StatusActive }, []row{{1, billing.StatusActive, false}}},
		"incomplete":    {func(s *billing.Subscription) { s.Status = billing.StatusIncomplete }, []row{{1, billing.StatusIncomplete, false}}},
		"in trial":      {func(s *billing.Subscription) { s.Status, s.TrialEnd = billing.StatusTrialing, day(8) }, []row{{1, billing.StatusTrialing, false}}},
		"after a trial": {func(s *billing.Subscription) { s.Status, s.TrialEnd = billing.StatusActive, day(8) }, []row{{1, billing.StatusTrialing, false}, {8, billing.StatusActive, false}}},
		"ended in the trial": {func(s *billing.Subscription) {
			s.Status, s.TrialEnd, s.EndedAt = billing.StatusCanceled, day(8), day(5)
		}, []row{{1, billing.StatusTrialing, false}, {5, billing.StatusCanceled, false}}},
		"end asked for": {func(s *billing.Subscription) {
			s.Status, s.CancelAtPeriodEnd, s.CanceledAt = billing.StatusActive, true, day(9)
		}, []row{{1, billing.StatusActive, false}, {9, billing.StatusActive, true}}},
		"ended after asking": {func(s *billing.Subscription) {
			s.Status, s.CancelAtPeriodEnd, s.CanceledAt, s.EndedAt = billing.StatusCanceled, true, day(9), day(20)
		}, []row{{1, billing.StatusActive, false}, {9, billing.StatusActive, true}, {20, billing.StatusCanceled, true}}},
		"asked in the trial": {func(s *billing.Subscription) {
			s.Status, s.TrialEnd, s.CancelAtPeriodEnd, s.CanceledAt, s.EndedAt = billing.StatusCanceled, day(8), true, day(3), day(8)
		}, []row{{1, billing.StatusTrialing, false}, {3, billing.StatusTrialing, true}, {8, billing.StatusCanceled, true}}},
		"past due": {func(s *billing.Subscription) { s.Status, s.Period.From = billing.StatusPastDue, day(15) }, []row{{1, billing.StatusActive, false}, {15, billing.StatusPastDue, false}}},
		"asked, trial, since": {func(s *billing.Subscription) {
			s.Status, s.TrialEnd, s.CancelAt, s.CanceledAt = billing.StatusActive, day(8), day(30), day(3)
		}, []row{{1, billing.StatusTrialing, false}, {3, billing.StatusTrialing, true}, {8, billing.StatusActive, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := base
			c.edit(&s)
			var got []row
			for _, change := range revenue.Reconstruct("acc_1", s) {
				got = append(got, row{change.At.Day(), change.Subscription.Status, change.Subscription.CancelAtPeriodEnd || !change.Subscription.CancelAt.IsZero()})
				assert.Equal(t, "acc_1", change.Account)
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestChangesAreChecked(t *testing.T) {
	for _, c := range []revenue.Change{{At: day(1)}, {Subscription: billing.Subscription{ID: "sub_1"}}} {
		_, err := revenue.New([]revenue.Change{c}, nil, revenue.Config{})
		require.ErrorContains(t, err, "change 0")
	}
	_, err := revenue.New(nil, nil, revenue.Config{GrossMargin: 101})
	require.ErrorContains(t, err, "GrossMargin")
	_, err = revenue.New(nil, nil, revenue.Config{Convention: revenue.Convention{Group: -1}})
	require.ErrorContains(t, err, "Group")
}
