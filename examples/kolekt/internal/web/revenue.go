package web

import (
	"context"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

const currency = "USD"

// book is the business as far as it is known: what the ledger has, and what
// each account shows now, so that a notice under way isn't missed.
func (a *App) book(ctx context.Context, list []subscriber) (*revenue.Book, error) {
	changes, err := a.Ledger.Changes(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, c := range changes {
		known[c.Subscription.ID] = true
	}
	var payments []revenue.Payment
	for _, s := range list {
		for _, sub := range s.account.Subscriptions {
			if !known[sub.ID] {
				changes = append(changes, revenue.Reconstruct(s.account.ID, sub)...)
			}
			changes = append(changes, revenue.Change{At: s.account.SyncedAt, Account: s.account.ID, Subscription: sub})
		}
		for _, i := range s.account.Invoices {
			if p, ok := revenue.PaymentOf(s.account.ID, i); ok {
				payments = append(payments, p)
			}
		}
	}
	return revenue.New(changes, payments, revenue.Config{Plan: func(p billing.Price) string {
		plan, _ := a.Billing.Catalog().PlanOf(billing.Subscription{Items: []billing.Item{{Price: p}}})
		return plan
	}})
}

// business is the subscribers and what they bring.
func (a *App) business(ctx context.Context) ([]subscriber, *revenue.Book, error) {
	list, err := a.subscribers(ctx)
	if err != nil {
		return nil, nil, err
	}
	book, err := a.book(ctx, list)
	return list, book, err
}

func (a *App) adminRevenue(w http.ResponseWriter, r *http.Request, v *visit) error {
	list, book, err := a.business(r.Context())
	if err != nil {
		return err
	}
	now := a.Now().UTC()
	selection := revenue.Selection{Currency: currency}
	snapshot := book.AsOf(now, selection)
	months := book.Months(now, 12, selection)
	last := book.Between(now.AddDate(0, 0, -30), now.Add(time.Nanosecond), selection)
	data := pages.Admin{Tab: "revenue", MRR: mrrChart(months), Movements: movementsChart(months), Stats: revenueStats(snapshot, last)}
	data.MRR.Zoom = mrrZoom(book, now, selection)
	data.Subscribers, data.Dunning = a.subscriberTables(list, snapshot)
	data.Plans = pages.Table{Caption: "Monthly recurring revenue by plan", Heads: []string{"Plan", "Subscribers", "MRR"}, Numeric: map[int]bool{1: true, 2: true}, Empty: "Nobody has subscribed yet."}
	for _, p := range snapshot.Plans {
		data.Plans.Rows = append(data.Plans.Rows, pages.Row{Cells: []string{a.planName(p.Plan), number(int64(p.Customers.N)), p.MRR.Money().String()}})
	}
	data.Cohorts = cohortTable(book.Cohorts(now, selection))
	return a.show(w, r, v, http.StatusOK, "admin", pages.Page{Title: "Revenue", Nav: "admin", Data: data})
}

func revenueStats(s revenue.Snapshot, last revenue.Report) []pages.Stat {
	arpa, ltv := "n/a", "n/a"
	if m, ok := s.ARPA(); ok {
		arpa = m.String()
	}
	if m, ok := last.LTV(); ok {
		ltv = m.String()
	}
	return []pages.Stat{
		{Label: "MRR", Value: s.MRR.Money().String(), Note: signed(s.MRR.Money().Amount-last.Opening.Money().Amount) + " in 30 days", Help: "/definitions#mrr", Rows: "/admin/behind/mrr"},
		{Label: "Committed", Value: s.Committed.Money().String(), Note: "without who leaves", Help: "/definitions#committed", Rows: "/admin/behind/committed"},
		{Label: "ARR", Value: s.ARR.Money().String(), Help: "/definitions#arr", Rows: "/admin/behind/mrr"},
		{Label: "At risk", Value: s.AtRisk.Money().String(), Note: number(int64(s.PastDue.N)) + " past due", Help: "/definitions#risk", Rows: "/admin/behind/at-risk", Alarm: s.PastDue.N > 0},
		{Label: "Subscribers", Value: number(int64(s.Customers.N)), Note: "with MRR", Rows: "/admin/behind/customers"},
		{Label: "ARPA", Value: arpa, Note: "a month", Help: "/definitions#arpa", Rows: "/admin/behind/mrr"},
		{Label: "LTV", Value: ltv, Help: "/definitions#ltv", Rows: "/admin/behind/churn"},
		{Label: "Customer churn", Value: last.LogoChurn.Percent(1), Note: "30 days", Help: "/definitions#churn", Rows: "/admin/behind/churn"},
		{Label: "NRR", Value: last.NRR.Percent(1), Note: "GRR " + last.GRR.Percent(1), Help: "/definitions#nrr", Rows: "/admin/behind/nrr"},
		{Label: "Moved", Value: signed(s.MRR.Money().Amount - last.Opening.Money().Amount), Note: "30 days", Help: "/definitions#movements", Rows: "/admin/behind/movements"},
		{Label: "Trial conversion", Value: last.TrialConversion.Percent(0), Note: "30 days", Help: "/definitions#trial", Rows: "/admin/behind/trial"},
		{Label: "Received", Value: last.Revenue.String(), Note: "30 days, less refunds", Help: "/definitions#received", Rows: "/admin/behind/received"},
	}
}

// mrrZoom is MRR at the end of each day of a year: the level at its start and
// what has moved it since.
func mrrZoom(book *revenue.Book, now time.Time, selection revenue.Selection) *pages.Zoom {
	const days = 365
	first := now.Truncate(24*time.Hour).AddDate(0, 0, 1-days)
	z := &pages.Zoom{From: first.Unix(), Name: "MRR", Cents: true, Line: true, Days: days, Values: make([]float64, days)}
	level := new(big.Rat)
	if at := book.AsOf(first.Add(-time.Nanosecond), selection).MRR.Exact; at != nil {
		level.Set(at)
	}
	moves := book.Movements(first, now.Add(time.Nanosecond), selection)
	for i := range z.Values {
		end := first.AddDate(0, 0, i+1)
		for len(moves) > 0 && moves[0].At.Before(end) {
			level.Add(level, moves[0].Delta.Exact)
			moves = moves[1:]
		}
		z.Values[i], _ = level.Float64()
	}
	return z
}

func dollars(v float64) string {
	m := billing.Money{Amount: int64(v), Currency: currency}
	if m.Amount%100 == 0 {
		s := m.String()
		return s[:len(s)-3]
	}
	return m.String()
}

func mrrChart(months []revenue.Report) *pages.Chart {
	c := &pages.Chart{ID: "mrr", Title: "Monthly recurring revenue", Format: dollars, Help: "/definitions#mrr"}
	s := pages.Series{Name: "MRR", Class: "a"}
	for _, m := range months {
		c.Labels = append(c.Labels, m.From.Format("Jan 2006"))
		s.Values = append(s.Values, float64(m.Closing.Money().Amount))
	}
	c.Series = []pages.Series{s}
	if n := len(months); n > 0 {
		c.Takeway = months[n-1].Closing.Money().String() + " at present, at the end of each month before."
	}
	return c
}

func movementsChart(months []revenue.Report) *pages.Chart {
	c := &pages.Chart{ID: "movements", Title: "What moved it", Takeway: "Above the line what came, below what went: the sum is the month's difference.", Format: dollars, Help: "/definitions#movements"}
	names := []struct {
		name, class string
		of          func(revenue.Report) revenue.Figure
		sign        float64
	}{
		{"New", "a", func(r revenue.Report) revenue.Figure { return r.New }, 1},
		{"Expansion", "b", func(r revenue.Report) revenue.Figure { return r.Expansion }, 1},
		{"Reactivation", "c", func(r revenue.Report) revenue.Figure { return r.Reactivation }, 1},
		{"Contraction", "d", func(r revenue.Report) revenue.Figure { return r.Contraction }, -1},
		{"Churn", "e", func(r revenue.Report) revenue.Figure { return r.Churn }, -1},
	}
	for _, n := range names {
		s := pages.Series{Name: n.name, Class: n.class}
		for _, m := range months {
			s.Values = append(s.Values, n.sign*float64(n.of(m).Money().Amount))
		}
		c.Series = append(c.Series, s)
	}
	for _, m := range months {
		c.Labels = append(c.Labels, m.From.Format("Jan 2006"))
	}
	return c
}

// subscriberTables lists who pays and who should have.
func (a *App) subscriberTables(list []subscriber, s revenue.Snapshot) (all, dunning pages.Table) {
	parts := map[string]billing.Money{}
	for _, p := range s.MRR.Parts {
		parts[p.SubscriptionID] = revenue.Figure{Currency: currency, Exact: p.Exact}.Money()
	}
	all = pages.Table{Caption: "The newest first; the last column adds up to MRR", Heads: []string{"Account", "Plan", "Since", "State", "MRR"}, Numeric: map[int]bool{4: true}, Empty: "Nobody has subscribed yet."}
	dunning = pages.Table{Caption: "What is due", Heads: []string{"Account", "Due", "Attempts", "Next attempt"}, Numeric: map[int]bool{1: true, 2: true}, Empty: "Everybody has paid."}
	for _, s := range list {
		plan, _ := a.Billing.Catalog().PlanOf(s.sub)
		part := billing.Money{Currency: currency}
		if p, ok := parts[s.sub.ID]; ok {
			part = p
		}
		href := "/admin/users/" + s.account.ID
		all.Rows = append(all.Rows, pages.Row{Href: href, Cells: []string{s.user.Email, a.planName(plan), date(s.sub.StartDate), statusBadge(s.sub).Text, part.String()}})
		for _, i := range s.account.UnpaidInvoices(s.sub.ID) {
			dunning.Rows = append(dunning.Rows, pages.Row{Href: href, Cells: []string{
				s.user.Email, billing.Money{Amount: i.AmountRemaining, Currency: i.Currency}.String(), number(i.AttemptCount), nextTry(i.NextPaymentAttempt),
			}})
		}
	}
	return all, dunning
}

func nextTry(at time.Time) string {
	if at.IsZero() {
		return "given up"
	}
	return date(at)
}

// cohortTable says how many of each month's customers are still there.
func cohortTable(cohorts []revenue.Cohort) pages.Table {
	t := pages.Table{Caption: "Customers by the month of their first payment, and how many are left after so many months", Heads: []string{"First month", "Customers"}, Numeric: map[int]bool{1: true}, Empty: "No customers yet."}
	longest := 0
	for _, c := range cohorts {
		longest = min(12, max(longest, len(c.Cells)))
	}
	for i := range longest {
		t.Heads = append(t.Heads, fmt.Sprint(i))
		t.Numeric[2+i] = true
	}
	for _, c := range cohorts {
		row := pages.Row{Cells: []string{c.Month.Format("January 2006"), number(int64(c.Size.N))}}
		for i := range longest {
			text := ""
			if i < len(c.Cells) {
				text = c.Cells[i].Logo.Percent(0)
			}
			row.Cells = append(row.Cells, text)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
