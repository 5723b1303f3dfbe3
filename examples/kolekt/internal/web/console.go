package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/revenue"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/usage"
)

// happening is one line of an account's timeline.
type happening struct {
	at         time.Time
	what, more string
}

func (a *App) adminUser(w http.ResponseWriter, r *http.Request, v *visit) error {
	ctx := r.Context()
	u, err := a.Users.Store().ByID(ctx, r.PathValue("id"))
	if err != nil {
		return errNoPage
	}
	access, err := a.Billing.Access(ctx, u.ID)
	if err != nil {
		return err
	}
	m, err := a.meter(ctx, &visit{user: u, access: access})
	if err != nil {
		return err
	}
	acc, err := a.Billing.Account(ctx, u.ID)
	if err != nil {
		return err
	}
	data := pages.AdminUser{Tab: "users", ID: u.ID, Name: u.Name, Email: u.Email, Since: date(u.CreatedAt), Plan: a.planName(access.Plan), Meter: m, Badge: pages.Badge{Text: "Free", Kind: "mute"}}
	if sub, ok := acc.Current(); ok {
		data.Badge = statusBadge(sub)
	}
	paid := billing.Money{Currency: currency}
	for _, i := range acc.Invoices {
		if i.Currency == currency {
			paid.Amount += i.AmountPaid - i.AmountRefunded
		}
	}
	data.Stats = []pages.Stat{
		{Label: "Plan", Value: data.Plan}, {Label: "Paid so far", Value: paid.String(), Note: "of the last invoices"},
		{Label: "Kolekts", Value: number(m.Used), Note: "this period"}, {Label: "Invoices", Value: number(int64(len(acc.Invoices))), Note: "synced " + ago(acc.SyncedAt, a.Now()) + ", " + orNone(acc.CustomerID)},
	}
	log, err := a.timeline(ctx, u, acc)
	if err != nil {
		return err
	}
	data.Log = pages.Table{Caption: "The newest first", Heads: []string{"When", "What", ""}, Empty: "Nothing yet."}
	for _, h := range log[:min(60, len(log))] {
		data.Log.Rows = append(data.Log.Rows, pages.Row{Cells: []string{moment(h.at), h.what, h.more}})
	}
	return a.show(w, r, v, http.StatusOK, "admin-user", pages.Page{Title: u.Email, Nav: "admin", Data: data})
}

func orNone(s string) string {
	if s == "" {
		return "no customer"
	}
	return s
}

// timeline is all that the packages remember of an account.
func (a *App) timeline(ctx context.Context, u users.User, acc billing.Account) ([]happening, error) {
	log := []happening{{u.CreatedAt, "Signed up", ""}}
	if !u.VerifiedAt.IsZero() {
		log = append(log, happening{u.VerifiedAt, "Address confirmed", ""})
	}
	notices, err := a.Accounts.Notices(ctx, u.ID, "", 200)
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		amount := ""
		if n.Amount.Currency != "" {
			amount = n.Amount.String()
		}
		log = append(log, happening{n.At, "Billing: " + string(n.Kind), amount})
	}
	for _, i := range acc.Invoices {
		log = append(log, happening{i.Created, "Invoice " + i.Number, billing.Money{Amount: i.Total, Currency: i.Currency}.String() + ", " + string(i.Status)})
	}
	keys, err := a.Keys.List(ctx, apikeys.Operator("admin"), apikeys.Account(u.ID), "", 100)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		log = append(log, happening{k.CreatedAt, "API key created", k.Name})
		if !k.RevokedAt.IsZero() {
			log = append(log, happening{k.RevokedAt, "API key revoked", k.Name})
		}
	}
	mails, err := a.Outbox.List(ctx, mailer.Query{Account: u.ID, Limit: 100})
	if err != nil {
		return nil, err
	}
	for _, m := range mails {
		log = append(log, happening{m.CreatedAt, "Mail: " + m.Kind, m.State.String()})
	}
	told, err := a.Usage.Notices(ctx, u.ID, 50)
	if err != nil {
		return nil, err
	}
	for _, n := range told {
		log = append(log, happening{n.At, fmt.Sprintf("%d %% of the %s used", n.Percent, n.Meter), fmt.Sprintf("%d of %d", n.Used, n.Limit)})
	}
	slices.SortStableFunc(log, func(x, y happening) int { return cmp.Compare(y.at.UnixNano(), x.at.UnixNano()) })
	return log, nil
}

func (a *App) adminResync(w http.ResponseWriter, r *http.Request, v *visit) error {
	id := r.PathValue("id")
	if _, err := a.Billing.Sync(r.Context(), id); err != nil {
		return err
	}
	a.Log.InfoContext(r.Context(), "kolekt: resync", "account", id, "by", v.user.ID)
	a.tell(r, "good", "Fetched from the payment provider.")
	http.Redirect(w, r, "/admin/users/"+id, http.StatusSeeOther)
	return nil
}

// platform is how everybody together uses the product.
type platform struct {
	Summary usage.Comparison     `json:"last_30_days"`
	Days    []usage.TimePoint    `json:"days"`
	Top     []usage.AccountStats `json:"top"`
	Near    []usage.Counter      `json:"near_limit"`
	Active  int64                `json:"active_accounts"`
}

func (a *App) platform(ctx context.Context) (p platform, err error) {
	q := usage.Query{Meter: meterKolekts}
	if p.Summary, err = a.Usage.Compare(ctx, q); err != nil {
		return p, err
	}
	if p.Days, err = a.Usage.Series(ctx, q); err != nil {
		return p, err
	}
	if p.Top, err = a.Usage.Top(ctx, q, 10); err != nil {
		return p, err
	}
	if p.Near, err = a.Usage.NearLimit(ctx, meterKolekts, 80, 20); err != nil {
		return p, err
	}
	accounts, err := a.Usage.Top(ctx, q, 10_000)
	p.Active = int64(len(accounts))
	return p, err
}

func (a *App) adminUsage(w http.ResponseWriter, r *http.Request, v *visit) error {
	p, err := a.platform(r.Context())
	if err != nil {
		return err
	}
	email := func(account string) string {
		if u, err := a.Users.Store().ByID(r.Context(), account); err == nil {
			return u.Email
		}
		return "erased"
	}
	m := p.Summary.Now.Measures
	data := pages.AdminUsage{Tab: "usage", Stats: []pages.Stat{
		{Label: "Kolekts", Value: number(p.Summary.Now.Value.Count), Note: "in 30 days"},
		{Label: "Active accounts", Value: number(p.Active), Note: "in 30 days"},
		{Label: "Posts", Value: number(m["posts"].Sum)}, {Label: "Characters", Value: number(m["characters"].Sum)},
		{Label: "Refused", Value: number(a.counts.overQuota.Load()), Note: "over quota, since the start of this process"},
		{Label: "Throttled", Value: number(a.counts.throttled.Load()), Note: "requests, since the start of this process"},
	}}
	c := &pages.Chart{ID: "platform", Title: "Kolekts a day", Takeway: count(p.Summary.Now.Value.Count, "kolekt") + " in 30 days" + changeText(p.Summary)}
	s := pages.Series{Name: "Kolekts", Class: "a"}
	for _, d := range p.Days {
		c.Labels = append(c.Labels, d.From.Format("2 Jan"))
		s.Values = append(s.Values, d.Number)
	}
	c.Series, data.Chart = []pages.Series{s}, c
	data.Top = pages.Table{Caption: "Most kolekts in 30 days", Heads: []string{"Account", "Kolekts"}, Numeric: map[int]bool{1: true}, Empty: "Nobody has made a kolekt yet."}
	for _, t := range p.Top {
		data.Top.Rows = append(data.Top.Rows, pages.Row{Href: "/admin/users/" + t.Account, Cells: []string{email(t.Account), number(t.Count)}})
	}
	data.Near = pages.Table{Caption: "80 % of the quota and more: who may want a bigger plan", Heads: []string{"Account", "Used", "Of"}, Numeric: map[int]bool{1: true, 2: true}, Empty: "Nobody is near a limit."}
	for _, n := range p.Near {
		data.Near.Rows = append(data.Near.Rows, pages.Row{Href: "/admin/users/" + n.Account, Cells: []string{email(n.Account), number(n.Used), number(n.Limit)}})
	}
	return a.show(w, r, v, http.StatusOK, "admin-usage", pages.Page{Title: "Usage", Nav: "admin", Data: data})
}

// health is what waits and what failed.
type health struct {
	Dead    []billing.InboxEvent `json:"dead_events"`
	Pending int                  `json:"pending_events"`
	Lag     time.Duration        `json:"webhook_lag_ns"`
	Mail    mailer.Stats         `json:"mail"`
	Keys    apikeys.Stats        `json:"api_keys"`
}

func (a *App) health(ctx context.Context) (h health, err error) {
	if h.Dead, err = a.Billing.DeadEvents(ctx, "", 100); err != nil {
		return h, err
	}
	pending, err := a.Accounts.Events(ctx, billing.EventQuery{Status: billing.EventPending, Limit: 1000})
	if err != nil {
		return h, err
	}
	if h.Pending = len(pending); h.Pending > 0 {
		h.Lag = max(0, a.Now().Sub(pending[0].Received))
	}
	h.Mail, err = a.Outbox.Stats(ctx)
	h.Keys = a.Keys.Stats()
	return h, err
}

func (a *App) adminHealth(w http.ResponseWriter, r *http.Request, v *visit) error {
	h, err := a.health(r.Context())
	if err != nil {
		return err
	}
	oldest := "none waits"
	if !h.Mail.Oldest.IsZero() {
		oldest = "the oldest was due " + ago(h.Mail.Oldest, a.Now())
	}
	data := pages.AdminHealth{Tab: "health", Stats: []pages.Stat{
		{Label: "Webhook events waiting", Value: number(int64(h.Pending)), Note: "lag " + h.Lag.Round(time.Second).String()},
		{Label: "Dead events", Value: number(int64(len(h.Dead)))},
		{Label: "Mail waiting", Value: number(h.Mail.Pending + h.Mail.Claimed), Note: oldest},
		{Label: "Dead mail", Value: number(h.Mail.Dead + h.Mail.Held)},
		{Label: "Keys cached", Value: number(int64(h.Keys.Cached)), Note: number(h.Keys.Unavailable) + " look-ups failed"},
	}}
	data.Dead = pages.Table{Caption: "Events that were given up", Heads: []string{"Received", "Type", "Error"}, Empty: "None: every event was handled."}
	for _, e := range h.Dead {
		data.Dead.Rows = append(data.Dead.Rows, pages.Row{Cells: []string{moment(e.Received), e.Type, e.LastError}, Post: &pages.Action{Text: "Replay", Post: true, Href: "/admin/health/replay/" + e.ID, Quiet: true}})
	}
	return a.show(w, r, v, http.StatusOK, "admin-health", pages.Page{Title: "Health", Nav: "admin", Data: data})
}

func (a *App) adminReplay(w http.ResponseWriter, r *http.Request, v *visit) error {
	n, err := a.Billing.Replay(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	a.Log.InfoContext(r.Context(), "kolekt: replay", "event", r.PathValue("id"), "by", v.user.ID)
	a.tell(r, "good", count(int64(n), "event")+" will be handled again.")
	http.Redirect(w, r, "/admin/health", http.StatusSeeOther)
	return nil
}

func (a *App) adminReconcile(w http.ResponseWriter, r *http.Request, v *visit) error {
	report, err := a.Billing.Reconcile(r.Context())
	if err != nil {
		return err
	}
	a.Log.InfoContext(r.Context(), "kolekt: reconcile", "by", v.user.ID)
	a.tell(r, "good", fmt.Sprintf("Compared with the payment provider: %+v.", report))
	http.Redirect(w, r, "/admin/health", http.StatusSeeOther)
	return nil
}

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
	c := &pages.Chart{ID: "projection", Title: "Revenue and costs, month by month", Format: dollars}
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
