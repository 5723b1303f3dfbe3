package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/usage"
)

func (a *App) account(w http.ResponseWriter, r *http.Request, v *visit) error {
	ctx := r.Context()
	data, err := a.accountNow(ctx, v)
	if err != nil {
		return err
	}
	if data.Chart, data.Stats, err = a.usageCharts(ctx, v.user.ID); err != nil {
		return err
	}
	if !v.access.Has("csv") {
		data.Chart.CSV = ""
		data.CSVPlan = a.planWith("csv")
	}
	if data.Invoices, err = a.invoices(ctx, v.user.ID); err != nil {
		return err
	}
	return a.show(w, r, v, http.StatusOK, "account", pages.Page{Title: "Account", Nav: "account", Data: data})
}

// accountNow is what of the page is live.
func (a *App) accountNow(ctx context.Context, v *visit) (data pages.Account, err error) {
	if data.Plan, err = a.planNow(ctx, v); err != nil {
		return data, err
	}
	kolekts, err := a.meter(ctx, v)
	if err != nil {
		return data, err
	}
	rate, err := v.access.Limit("requests")
	if err != nil {
		return data, err
	}
	refused, err := a.refusedOf(ctx, v.user.ID)
	if err != nil {
		return data, err
	}
	data.Now = pages.UsageNow{Meters: []pages.Meter{kolekts}, Rate: limitText(rate, "requests") + ", by page and by key together.", Refused: refused.text()}
	data.Banner, err = a.banner(ctx, v)
	return data, err
}

// planWith is the name of the smallest plan that has a feature.
func (a *App) planWith(feature string) string {
	for _, p := range a.Billing.Catalog().Plans() {
		if slices.Contains(p.Features, feature) {
			return p.Name
		}
	}
	return "no plan"
}

// planNow is the card of the account's plan.
func (a *App) planNow(ctx context.Context, v *visit) (pages.Subscription, error) {
	if !v.access.Allowed {
		return pages.Subscription{Name: "No plan", Badge: pages.Badge{Text: string(v.access.Reason), Kind: "bad"}, CanUpgrade: true}, nil
	}
	plan, err := a.Billing.Catalog().Plan(v.access.Plan)
	if err != nil {
		return pages.Subscription{}, err
	}
	card := pages.Subscription{Name: plan.Name, Price: "Free", Features: a.features(plan), Badge: pages.Badge{Text: "Active", Kind: "good"}, CanUpgrade: true}
	acc, err := a.Billing.Account(ctx, v.user.ID)
	if err != nil {
		return card, err
	}
	if v.access.Reason == billing.ReasonComp {
		card.Badge, card.Since = pages.Badge{Text: "Given to you", Kind: "info"}, "For nothing, until "+date(v.access.Until)+"."
	}
	if acc.Balance.Amount < 0 {
		card.Credit = billing.Money{Amount: -acc.Balance.Amount, Currency: acc.Balance.Currency}.String() + " of credit come off the next invoices."
	}
	sub, ok := acc.Current()
	if !ok {
		card.Next = "No card, no charges."
		return card, nil
	}
	card.CanPortal = true
	if !sub.Status.Live() {
		card.Since = "Your paid plan ended on " + date(sub.EndedAt) + "."
		return card, nil
	}
	card.Badge = statusBadge(sub)
	card.Since = "Subscribed since " + date(sub.StartDate) + "."
	if price, ok := priceOf(sub); ok && v.access.Paid {
		card.Price = fmt.Sprintf("%s a %s", price, every(sub))
		card.Next = fmt.Sprintf("Next charge: %s on %s.", price, date(sub.Period.To))
	}
	if s := sub.Scheduled; s != nil && !s.At.IsZero() && s.Plan != "" {
		card.Next = "On " + date(s.At) + " you move to " + a.planName(s.Plan) + "."
		card.Keep = "Stay on " + card.Name
	}
	ends := sub.CancelAtPeriodEnd || !sub.CancelAt.IsZero()
	if ends {
		card.Next = "No more charges. On " + date(endOf(sub)) + " you move to the free plan."
	}
	card.CanResume, card.CanCancel = ends, !ends
	if v.access.Stale {
		card.Provisional = "The payment provider was last heard on " + moment(v.access.AsOf) + ". Your limits stay as they are."
	}
	return card, nil
}

// priceOf is what a subscription costs an interval.
func priceOf(s billing.Subscription) (billing.Money, bool) {
	var sum billing.Money
	for _, i := range s.Items {
		part, err := i.Price.UnitAmount.Times(i.Quantity)
		if err != nil {
			return sum, false
		}
		if sum, err = sum.Add(part); err != nil {
			return sum, false
		}
	}
	return sum, len(s.Items) > 0
}

// banner speaks up when a payment has failed.
func (a *App) banner(ctx context.Context, v *visit) (*pages.Notice, error) {
	switch v.access.Status {
	case billing.StatusPastDue, billing.StatusUnpaid:
	default:
		return nil, nil
	}
	acc, err := a.Billing.Account(ctx, v.user.ID)
	if err != nil {
		return nil, err
	}
	text := "The last payment failed."
	if open := acc.UnpaidInvoices(v.access.SubscriptionID); len(open) > 0 {
		text = fmt.Sprintf("The payment of %s failed.", billing.Money{Amount: open[0].AmountRemaining, Currency: open[0].Currency})
		if !open[0].NextPaymentAttempt.IsZero() {
			text += " We try again on " + date(open[0].NextPaymentAttempt) + "."
		}
	}
	if v.access.Paid && !v.access.Until.IsZero() {
		text += " Your plan goes on until " + date(v.access.Until) + "."
	}
	return &pages.Notice{Kind: "bad", Text: text + " A new card under “Card and invoices” settles it."}, nil
}

func (a *App) invoices(ctx context.Context, account string) ([]pages.Invoice, error) {
	list, _, err := a.Billing.Invoices(ctx, account)
	if errors.Is(err, billing.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var rows []pages.Invoice
	for _, i := range list {
		row := pages.Invoice{Number: i.Number, Date: date(i.Created), Amount: billing.Money{Amount: i.Total, Currency: i.Currency}.String(), Badge: invoiceBadge(i.Status), PDF: i.PDFURL, Hosted: i.HostedURL}
		if row.Number == "" {
			row.Number = "Draft"
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// usageCharts is what was used in the last 30 days, beside the 30 before.
func (a *App) usageCharts(ctx context.Context, account string) (*pages.Chart, []pages.Stat, error) {
	q := usage.Query{Account: account, Meter: meterKolekts}
	compare, err := a.Usage.Compare(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	now, err := a.Usage.Series(ctx, usage.Query{Account: account, Meter: meterKolekts, From: compare.Now.From, To: compare.Now.To})
	if err != nil {
		return nil, nil, err
	}
	before, err := a.Usage.Series(ctx, usage.Query{Account: account, Meter: meterKolekts, From: compare.Before.From, To: compare.Before.To})
	if err != nil {
		return nil, nil, err
	}
	total := compare.Now.Value.Count
	c := &pages.Chart{ID: "usage", Title: "Kolekts a day", Takeway: count(total, "kolekt") + " in 30 days" + changeText(compare), CSV: "/account/usage.csv", Help: "/definitions#usage"}
	this, last := pages.Series{Name: "These 30 days", Class: "a"}, pages.Series{Name: "The 30 days before"}
	for i, p := range now {
		c.Labels = append(c.Labels, p.From.Format("2 Jan"))
		this.Values = append(this.Values, p.Number)
		v := 0.0
		if i < len(before) {
			v = before[i].Number
		}
		last.Values = append(last.Values, v)
	}
	c.Series = []pages.Series{this}
	if compare.Before.Value.Count > 0 {
		c.Compare = &last
	}
	if c.Zoom, err = a.zoom(ctx, account, compare.Now.To); err != nil {
		return nil, nil, err
	}
	m := compare.Now.Measures
	stats := []pages.Stat{
		{Label: "Kolekts", Value: number(total), Note: "in 30 days", Help: "/definitions#usage", Rows: "/kolekts"},
		{Label: "Posts", Value: number(m["posts"].Sum)},
		{Label: "Characters", Value: number(m["characters"].Sum)},
		{Label: "Average score", Value: fmt.Sprintf("%.0f", m["engagement_score"].Average()), Note: "of 100", Help: "/definitions#score"},
	}
	return c, stats, nil
}

// zoom is a year of days until an instant, for an account or, without one, for
// everybody.
func (a *App) zoom(ctx context.Context, account string, until time.Time) (*pages.Zoom, error) {
	const days = 365
	year, err := a.Usage.Series(ctx, usage.Query{Account: account, Meter: meterKolekts, From: until.AddDate(0, 0, -days), To: until})
	if err != nil || len(year) == 0 {
		return nil, err
	}
	z := &pages.Zoom{From: year[0].From.Unix(), Name: "Kolekts", Before: 30, Days: 30}
	for _, d := range year {
		z.Values = append(z.Values, d.Number)
	}
	return z, nil
}

func changeText(c usage.Comparison) string {
	change, ok := c.Change()
	switch {
	case !ok:
		return "."
	case change > 0:
		return fmt.Sprintf(", %.0f %% more than in the 30 days before.", 100*change)
	case change < 0:
		return fmt.Sprintf(", %.0f %% fewer than in the 30 days before.", -100*change)
	}
	return ", as many as in the 30 days before."
}

func (a *App) usageCSV(w http.ResponseWriter, r *http.Request, v *visit) error {
	if !v.access.Has("csv") {
		a.tell(r, "info", "Usage as CSV comes with "+a.planWith("csv")+" and above.")
		http.Redirect(w, r, "/pricing", http.StatusSeeOther)
		return nil
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="kolekts.csv"`)
	w.Header().Set("Cache-Control", "no-store")
	return a.Usage.WriteCSV(r.Context(), w, usage.Query{Account: v.user.ID, Meter: meterKolekts})
}
