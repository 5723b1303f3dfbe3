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

// number behind which there are rows: what the administrator's pages link to.
type explained struct {
	name, text, value string
	rows              pages.Table
}

// figureRows are the subscriptions that a figure consists of.
func figureRows(f revenue.Figure, email func(string) string) pages.Table {
	t := pages.Table{Caption: "The subscriptions; the last column adds up to the number", Heads: []string{"Account", "Subscription", "A month"}, Numeric: map[int]bool{2: true}, Empty: "None."}
	for _, p := range f.Parts {
		t.Rows = append(t.Rows, pages.Row{Href: userPage(p.Account), Cells: []string{email(p.Account), p.SubscriptionID, exact(p.Exact, f.Currency)}})
	}
	return t
}

// exact writes an amount that may have parts of a cent, so that rows add up.
func exact(r *big.Rat, currency string) string {
	if r.IsInt() {
		return billing.Money{Amount: r.Num().Int64(), Currency: currency}.String()
	}
	f, _ := new(big.Rat).Quo(r, big.NewRat(100, 1)).Float64()
	return fmt.Sprintf("%s (%.4f)", revenue.Figure{Currency: currency, Exact: r}.Money(), f)
}

func userPage(account string) string { return "/admin/users/" + account }

func countRows(caption string, email func(string) string, columns map[string]revenue.Count, order ...string) pages.Table {
	t := pages.Table{Caption: caption, Heads: []string{"Account", "Which"}, Empty: "None."}
	for _, what := range order {
		for _, id := range columns[what].Accounts {
			t.Rows = append(t.Rows, pages.Row{Href: userPage(id), Cells: []string{email(id), what}})
		}
	}
	return t
}

// behind looks a number up.
func (a *App) behind(ctx context.Context, what string) (e explained, err error) {
	_, book, err := a.business(ctx)
	if err != nil {
		return e, err
	}
	email := a.emails(ctx)
	now, selection := a.Now().UTC(), revenue.Selection{Currency: currency}
	s := book.AsOf(now, selection)
	last := book.Between(now.AddDate(0, 0, -30), now.Add(time.Nanosecond), selection)
	figure := func(name, text string, f revenue.Figure) (explained, error) {
		return explained{name, text, f.Money().String(), figureRows(f, email)}, nil
	}
	switch what {
	case "mrr":
		return figure("MRR", definition("mrr"), s.MRR)
	case "committed":
		return figure("Committed MRR", definition("committed"), s.Committed)
	case "at-risk":
		return figure("MRR at risk", definition("risk"), s.AtRisk)
	case "trial":
		return explained{"Trial conversion", definition("trial"), last.TrialConversion.Percent(0),
			countRows("Trials that ended in the last 30 days", email, map[string]revenue.Count{"paid for": last.TrialsConverted, "ended": last.TrialsEnded}, "paid for", "ended")}, nil
	case "customers":
		return explained{"Subscribers", "Accounts with MRR now.", number(int64(s.Customers.N)),
			countRows("Accounts with MRR", email, map[string]revenue.Count{"pays": s.Customers}, "pays")}, nil
	case "churn":
		return explained{"Customer churn", definition("churn"), last.LogoChurn.Percent(1),
			countRows("The last 30 days", email, map[string]revenue.Count{"left": last.Churned, "was there at the start": last.CustomersAtStart, "came": last.Came}, "left", "was there at the start", "came")}, nil
	case "nrr":
		return explained{"Net revenue retention", definition("nrr"), last.NRR.Percent(1) + ", gross " + last.GRR.Percent(1), retentionRows(last, email)}, nil
	case "movements":
		e := explained{"Movements", definition("movements"), signed(s.MRR.Money().Amount - last.Opening.Money().Amount), pages.Table{
			Caption: "What moved MRR in the last 30 days; the last column adds up to the difference", Heads: []string{"Account", "When", "What", "By"}, Numeric: map[int]bool{3: true}, Empty: "Nothing.",
		}}
		for _, m := range book.Movements(now.AddDate(0, 0, -30), now.Add(time.Nanosecond), selection) {
			e.rows.Rows = append(e.rows.Rows, pages.Row{Href: userPage(m.Account), Cells: []string{email(m.Account), moment(m.At), sentenceCase(string(m.Kind)), exact(m.Delta.Exact, currency)}})
		}
		return e, nil
	case "received":
		return a.received(ctx, last, email)
	}
	return e, errNoPage
}

// retentionRows shows the customers of 30 days ago, then and now.
func retentionRows(last revenue.Report, email func(string) string) pages.Table {
	t := pages.Table{Caption: "The customers of 30 days ago", Heads: []string{"Account", "Then", "Now"}, Numeric: map[int]bool{1: true, 2: true}, Empty: "There were none."}
	sum := func(f revenue.Figure, account string) string {
		total := new(big.Rat)
		for _, p := range f.Parts {
			if p.Account == account {
				total.Add(total, p.Exact)
			}
		}
		return exact(total, f.Currency)
	}
	for _, id := range last.CustomersAtStart.Accounts {
		t.Rows = append(t.Rows, pages.Row{Href: userPage(id), Cells: []string{email(id), sum(last.Opening, id), sum(last.Closing, id)}})
	}
	return t
}

// received are the payments of 30 days.
func (a *App) received(ctx context.Context, last revenue.Report, email func(string) string) (explained, error) {
	e := explained{"Received", definition("received"), last.Revenue.String(), pages.Table{
		Caption: "Payments, less what was given back; the last column adds up to the number", Heads: []string{"Account", "When", "Invoice", "Amount"}, Numeric: map[int]bool{3: true}, Empty: "Nothing.",
	}}
	list, err := a.subscribers(ctx)
	if err != nil {
		return e, err
	}
	for _, s := range list {
		for _, i := range s.account.Invoices {
			p, ok := revenue.PaymentOf(s.account.ID, i)
			if !ok || p.Amount.Currency != currency || p.At.Before(last.From) || !p.At.Before(last.To) {
				continue
			}
			e.rows.Rows = append(e.rows.Rows, pages.Row{Href: userPage(p.Account), Cells: []string{email(p.Account), moment(p.At), i.Number, p.Amount.String()}})
		}
	}
	return e, nil
}

// emails looks addresses up, each once.
func (a *App) emails(ctx context.Context) func(account string) string {
	known := map[string]string{}
	return func(account string) string {
		if known[account] == "" {
			known[account] = "erased"
			if u, err := a.Users.Store().ByID(ctx, account); err == nil {
				known[account] = u.Email
			}
		}
		return known[account]
	}
}

func signed(cents int64) string {
	m := billing.Money{Amount: cents, Currency: currency}
	if cents < 0 {
		m.Amount = -cents
		return "−" + m.String()
	}
	return "+" + m.String()
}

func (a *App) adminBehind(w http.ResponseWriter, r *http.Request, v *visit) error {
	e, err := a.behind(r.Context(), r.PathValue("what"))
	if err != nil {
		return err
	}
	return a.show(w, r, v, http.StatusOK, "admin-rows", pages.Page{Title: e.name, Nav: "admin", Data: pages.AdminRows{
		Tab: "revenue", Name: e.name, Text: e.text, Value: e.value, Back: pages.Link{Href: "/admin", Text: "Revenue"}, Rows: e.rows,
	}})
}
