package web

import (
	"encoding/csv"
	"net/http"
	"strconv"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

// projection is a business that doesn't exist yet.
type projection struct {
	Scenario revenue.Scenario         `json:"scenario"`
	Months   []revenue.ProjectedMonth `json:"months"`
	// BreakEven is how many users of one plan alone pay a month's costs.
	BreakEven map[string]int64 `json:"break_even_users"`
	Mix       int64            `json:"break_even_users_of_the_mix"`
}

// defaults of the projections' form: users at the start, growth a month in
// percent, costs a month in dollars, and shares of the plans in percent.
var projectionDefaults = map[string]int64{"users": 100, "growth": 20, "costs": 500, "pro": 5, "business": 2, "enterprise": 1}

func (a *App) projection(r *http.Request) (projection, map[string]string, error) {
	n, form := map[string]int64{}, map[string]string{}
	for name, standard := range projectionDefaults {
		n[name] = standard
		if v, err := strconv.ParseInt(r.FormValue(name), 10, 64); err == nil && v >= 0 && v <= 10_000_000 {
			n[name] = v
		}
		form[name] = strconv.FormatInt(n[name], 10)
	}
	p := projection{BreakEven: map[string]int64{}}
	p.Scenario = revenue.Scenario{
		Currency: currency, Users: revenue.Growth(n["users"], n["growth"]*100, 12), Costs: billing.Money{Amount: n["costs"] * 100, Currency: currency},
		FeeBasisPoints: 290, FeePerCharge: billing.Money{Amount: 30, Currency: currency}, CostPerUser: billing.Money{Currency: currency},
	}
	for _, plan := range a.Billing.Catalog().Plans() {
		price, err := a.Billing.Catalog().Price(plan.ID, currency, billing.Month)
		if err != nil {
			continue // the free plan
		}
		p.Scenario.Plans = append(p.Scenario.Plans, revenue.PlanMix{Plan: plan.ID, Price: price.Amount, BasisPoints: n[plan.ID] * 100})
	}
	var err error
	if p.Months, err = p.Scenario.Project(); err != nil {
		return p, form, &bodyError{sentence(err)}
	}
	for _, plan := range p.Scenario.Plans {
		if users, ok := p.Scenario.BreakEven(plan.Plan); ok {
			p.BreakEven[plan.Plan] = users
		}
	}
	p.Mix, _ = p.Scenario.BreakEvenMix()
	return p, form, nil
}

func (a *App) adminProjections(w http.ResponseWriter, r *http.Request, v *visit) error {
	p, form, err := a.projection(r)
	data := pages.AdminProjections{Tab: "projections", Form: pages.Form{Values: form, Errors: map[string]string{}}}
	if err != nil {
		data.Form.Errors[""] = sentence(err)
		return a.show(w, r, v, http.StatusUnprocessableEntity, "admin-projections", pages.Page{Title: "Projections", Nav: "admin", Data: data})
	}
	income, profit := pages.Series{Name: "Revenue", Class: "a"}, pages.Series{Name: "Costs and fees", Class: "e"}
	c := &pages.Chart{ID: "projection", Title: "Revenue and costs, month by month", Format: dollars, CSV: "/admin/projections.csv?" + r.URL.RawQuery}
	data.Months = pages.Table{Caption: "Revenue by month from user counts and plan mix", Heads: []string{"Month", "Users", "Paying", "Revenue", "Costs and fees", "Profit", "Sum"}, Numeric: map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true, 6: true}}
	for _, m := range p.Months {
		label := strconv.Itoa(m.Month + 1)
		c.Labels = append(c.Labels, label)
		income.Values = append(income.Values, float64(m.Revenue.Amount))
		profit.Values = append(profit.Values, -float64(m.Costs.Amount))
		data.Months.Rows = append(data.Months.Rows, pages.Row{Cells: []string{label, number(m.Users), number(m.Users - m.Free), m.Revenue.String(), m.Costs.String(), m.Profit.String(), m.Sum.String()}})
	}
	c.Series, data.Chart = []pages.Series{income, profit}, c
	last := p.Months[len(p.Months)-1]
	c.Takeway = "After a year " + last.Revenue.String() + " a month."
	data.Stats = []pages.Stat{
		{Label: "Revenue in month 12", Value: last.Revenue.String()}, {Label: "Profit in month 12", Value: last.Profit.String()},
		{Label: "Sum of the year", Value: last.Sum.String()}, {Label: "Break-even with this mix", Value: number(p.Mix), Note: "users, paying or not"},
	}
	data.BreakEven = pages.Table{Caption: "How many users of one plan alone pay the costs of a month", Heads: []string{"Plan", "Users"}, Numeric: map[int]bool{1: true}}
	for _, plan := range p.Scenario.Plans {
		data.BreakEven.Rows = append(data.BreakEven.Rows, pages.Row{Cells: []string{a.planName(plan.Plan), number(p.BreakEven[plan.Plan])}})
	}
	return a.show(w, r, v, http.StatusOK, "admin-projections", pages.Page{Title: "Projections", Nav: "admin", Data: data})
}

func (a *App) projectionsCSV(w http.ResponseWriter, r *http.Request, _ *visit) error {
	p, _, err := a.projection(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="projections.csv"`)
	w.Header().Set("Cache-Control", "no-store")
	out := csv.NewWriter(w)
	_ = out.Write([]string{"month", "users", "paying", "revenue_cents", "costs_cents", "profit_cents", "sum_cents"}) // Error says it
	for _, m := range p.Months {
		var row []string
		for _, n := range []int64{int64(m.Month) + 1, m.Users, m.Users - m.Free, m.Revenue.Amount, m.Costs.Amount, m.Profit.Amount, m.Sum.Amount} {
			row = append(row, strconv.FormatInt(n, 10))
		}
		_ = out.Write(row)
	}
	out.Flush()
	return out.Error()
}
