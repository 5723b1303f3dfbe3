package web

import (
	"net/http"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

// monthly is what a subscription brings a month: prices of longer intervals by
// their share. Trials and unpaid ones bring nothing.
func monthly(s billing.Subscription) billing.Money {
	price, ok := priceOf(s)
	if !ok || s.Status != billing.StatusActive && s.Status != billing.StatusPastDue {
		return billing.Money{Currency: price.Currency}
	}
	if every(s) == billing.Year {
		if share, err := price.Share(1, 12); err == nil {
			return share
		}
	}
	return price
}

func (a *App) adminRevenue(w http.ResponseWriter, r *http.Request, v *visit) error {
	list, err := a.subscribers(r.Context())
	if err != nil {
		return err
	}
	mrr, paying, failed := billing.Money{Currency: "USD"}, int64(0), int64(0)
	byPlan := map[string]billing.Money{}
	heads := map[string]int64{}
	data := pages.Admin{Tab: "revenue", Subscribers: pages.Table{
		Caption: "The newest first", Heads: []string{"Account", "Plan", "Since", "MRR", "State"}, Numeric: map[int]bool{3: true}, Empty: "Nobody has subscribed yet.",
	}, Plans: pages.Table{
		Caption: "Monthly recurring revenue by plan", Heads: []string{"Plan", "Subscribers", "MRR"}, Numeric: map[int]bool{1: true, 2: true}, Empty: "Nobody has subscribed yet.",
	}, Dunning: pages.Table{
		Caption: "The next attempt first", Heads: []string{"Account", "Due", "Attempts", "Next attempt"}, Numeric: map[int]bool{1: true, 2: true}, Empty: "Everybody has paid.",
	}}
	for _, s := range list {
		part := monthly(s.sub)
		plan, _ := a.Billing.Catalog().PlanOf(s.sub)
		if part.Amount > 0 {
			if mrr, err = mrr.Add(part); err != nil {
				return err
			}
			if byPlan[plan], err = byPlan[plan].Add(part); err != nil {
				return err
			}
			heads[plan]++
			paying++
		}
		badge := statusBadge(s.sub)
		data.Subscribers.Rows = append(data.Subscribers.Rows, pages.Row{Href: "/admin/users/" + s.account.ID, Cells: []string{s.user.Email, a.planName(plan), date(s.sub.StartDate), part.String()}, Badge: &badge})
		for _, i := range s.account.UnpaidInvoices(s.sub.ID) {
			failed++
			data.Dunning.Rows = append(data.Dunning.Rows, pages.Row{Href: "/admin/users/" + s.account.ID, Cells: []string{
				s.user.Email, billing.Money{Amount: i.AmountRemaining, Currency: i.Currency}.String(), number(i.AttemptCount), date(i.NextPaymentAttempt),
			}})
		}
	}
	for _, plan := range a.Billing.Catalog().Plans() {
		if heads[plan.ID] > 0 {
			data.Plans.Rows = append(data.Plans.Rows, pages.Row{Cells: []string{plan.Name, number(heads[plan.ID]), byPlan[plan.ID].String()}})
		}
	}
	arr, err := mrr.Times(12)
	if err != nil {
		return err
	}
	arpa := billing.Money{Currency: "USD"}
	if paying > 0 {
		if arpa, err = mrr.Share(1, paying); err != nil {
			return err
		}
	}
	data.Stats = []pages.Stat{
		{Label: "MRR", Value: mrr.String(), Help: "/definitions#mrr"},
		{Label: "ARR", Value: arr.String(), Help: "/definitions#arr"},
		{Label: "Subscribers", Value: number(paying), Note: count(failed, "unpaid invoice")},
		{Label: "ARPA", Value: arpa.String(), Note: "a month", Help: "/definitions#arpa"},
	}
	return a.show(w, r, v, http.StatusOK, "admin", pages.Page{Title: "Revenue", Nav: "admin", Data: data})
}

func (a *App) definitions(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.show(w, r, v, http.StatusOK, "definitions", pages.Page{Title: "How numbers are computed", Data: []pages.Definition{
		{ID: "mrr", Name: "MRR, monthly recurring revenue", Text: "What all subscriptions that are active or past due bring in a month: a yearly price counts a twelfth. Trials, unpaid and ended subscriptions, taxes and one-off amounts don't count."},
		{ID: "arr", Name: "ARR, annual recurring revenue", Text: "Twelve times MRR."},
		{ID: "arpa", Name: "ARPA, average revenue per account", Text: "MRR divided by the accounts that bring it."},
		{ID: "score", Name: "Engagement score", Text: "From 0 to 100: up to 25 points for a short first sentence and 25 for few posts, 20 for short paragraphs, 15 for a question at the end, 15 for an image. The page of a kolekt lists its own."},
	}})
}
