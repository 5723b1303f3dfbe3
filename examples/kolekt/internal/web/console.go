package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/refusals"
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
	if errors.Is(err, users.ErrNotFound) {
		return errNoPage
	} else if err != nil {
		return err
	}
	return a.showUser(w, r, v, http.StatusOK, u, nil)
}

func (a *App) showUser(w http.ResponseWriter, r *http.Request, v *visit, status int, u users.User, wrong *pages.Deed) error {
	ctx := r.Context()
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
	credit := billing.Money{Currency: currency}
	if acc.Balance.Amount < 0 {
		credit = billing.Money{Amount: -acc.Balance.Amount, Currency: acc.Balance.Currency}
	}
	refused, err := a.refusedOf(ctx, u.ID)
	if err != nil {
		return err
	}
	data.Stats = []pages.Stat{
		{Label: "Plan", Value: data.Plan, Note: string(access.Reason)}, {Label: "Paid so far", Value: paid.String(), Note: "by the last " + count(int64(len(acc.Invoices)), "invoice"), Rows: "#timeline"},
		{Label: "Kolekts", Value: number(m.Used), Note: "this period", Help: "/definitions#usage"},
		{Label: "Refused", Value: number(refused.Rate + refused.Quota), Note: "in 24 hours", Help: "/definitions#throttled"},
		{Label: "Credit", Value: credit.String(), Note: "for the next invoices"},
		{Label: "Heard of", Value: ago(acc.SyncedAt, a.Now()), Note: orNone(acc.CustomerID), Help: "/definitions#staleness"},
	}
	log, err := a.timeline(ctx, u, acc)
	if err != nil {
		return err
	}
	data.Log = pages.Table{Caption: "The newest first", Heads: []string{"When", "What", ""}, Empty: "Nothing yet."}
	for _, h := range log[:min(60, len(log))] {
		data.Log.Rows = append(data.Log.Rows, pages.Row{Cells: []string{moment(h.at), h.what, h.more}})
	}
	done, err := a.Audit.List(ctx, u.ID, "", 20)
	if err != nil {
		return err
	}
	data.Audit, data.Deeds = a.auditTable(ctx, done, false), a.deedForms(acc, wrong)
	return a.show(w, r, v, status, "admin-user", pages.Page{Title: u.Email, Nav: "admin", Data: data})
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
		log = append(log, happening{n.At, "Billing: " + plain(string(n.Kind)), amount})
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
		log = append(log, happening{m.CreatedAt, "Mail: " + plain(m.Kind), m.State.String()})
	}
	asked, err := a.Privacy.RequestsOf(ctx, u.ID)
	if err != nil {
		return nil, err
	}
	for _, q := range asked {
		log = append(log, happening{q.ReceivedAt, "Privacy: " + string(q.Kind) + " asked for", string(q.State)})
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

// platform is how everybody together uses the product.
type platform struct {
	Summary usage.Comparison     `json:"last_30_days"`
	Days    []usage.TimePoint    `json:"days"`
	Top     []usage.AccountStats `json:"top"`
	Near    []usage.Counter      `json:"near_limit"`
	Active  int64                `json:"active_accounts"`
	Refused []refusals.Count     `json:"refused_24h"`          // by plan and reason
	Most    []refusals.Count     `json:"refused_24h_accounts"` // by account and hour, the greatest first
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
	if p.Refused, err = a.Refused.Totals(ctx); err != nil {
		return p, err
	}
	if p.Most, err = a.Refused.Since(ctx, "", 20); err != nil {
		return p, err
	}
	p.Refused, p.Most = append([]refusals.Count{}, p.Refused...), append([]refusals.Count{}, p.Most...)
	accounts, err := a.Usage.Top(ctx, q, 10_000)
	p.Active = int64(len(accounts))
	return p, err
}

func (a *App) adminUsage(w http.ResponseWriter, r *http.Request, v *visit) error {
	p, err := a.platform(r.Context())
	if err != nil {
		return err
	}
	email := a.emails(r.Context())
	var fast, over int64
	for _, c := range p.Refused {
		if c.Reason == refusals.Rate {
			fast += c.N
		} else {
			over += c.N
		}
	}
	m := p.Summary.Now.Measures
	data := pages.AdminUsage{Tab: "usage", Stats: []pages.Stat{
		{Label: "Kolekts", Value: number(p.Summary.Now.Value.Count), Note: "in 30 days", Help: "/definitions#usage", Rows: "#top"},
		{Label: "Active accounts", Value: number(p.Active), Note: "in 30 days", Rows: "#top"},
		{Label: "Posts", Value: number(m["posts"].Sum), Note: "in 30 days"}, {Label: "Characters", Value: number(m["characters"].Sum), Note: "in 30 days"},
		{Label: "Near a limit", Value: number(int64(len(p.Near))), Note: "80 % and more", Help: "/definitions#near", Rows: "#near"},
		{Label: "Throttled", Value: number(fast), Note: "requests in 24 hours", Help: "/definitions#throttled", Rows: "#refused"},
		{Label: "Over the quota", Value: number(over), Note: "kolekts refused in 24 hours", Help: "/definitions#throttled", Rows: "#refused"},
		{Label: "Drift", Value: "Compare", Note: "with the payment provider", Help: "/definitions#drift", Rows: "/admin/drift"},
	}}
	c := &pages.Chart{ID: "platform", Title: "Kolekts a day", Takeway: count(p.Summary.Now.Value.Count, "kolekt") + " in 30 days" + changeText(p.Summary)}
	s := pages.Series{Name: "Kolekts", Class: "a"}
	for _, d := range p.Days {
		c.Labels = append(c.Labels, d.From.Format("2 Jan"))
		s.Values = append(s.Values, d.Number)
	}
	c.Series, data.Chart = []pages.Series{s}, c
	if c.Zoom, err = a.zoom(r.Context(), "", p.Summary.Now.To); err != nil {
		return err
	}
	data.Refused = pages.Table{Caption: "The most in an hour first", Heads: []string{"Account", "Hour", "Why", "Plan", "Refused"}, Numeric: map[int]bool{4: true}, Empty: "Nothing: there was room for everybody."}
	for _, c := range p.Most {
		data.Refused.Rows = append(data.Refused.Rows, pages.Row{Href: userPage(c.Account), Cells: []string{email(c.Account), c.Hour.Format("2 Jan, 15:04"), refusalText(c.Reason), a.planName(c.Plan), number(c.N)}})
	}
	data.Plans = pages.Table{Caption: "The last 24 hours", Heads: []string{"Plan", "Why", "Refused"}, Numeric: map[int]bool{2: true}, Empty: "Nothing."}
	for _, c := range p.Refused {
		data.Plans.Rows = append(data.Plans.Rows, pages.Row{Cells: []string{a.planName(c.Plan), refusalText(c.Reason), number(c.N)}})
	}
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

func refusalText(r refusals.Reason) string {
	if r == refusals.Rate {
		return "Too fast"
	}
	return "Over the quota"
}
