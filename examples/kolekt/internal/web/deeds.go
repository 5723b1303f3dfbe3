package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/audit"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/internal/ident"
)

// deed is something that an administrator can do to an account, with a reason.
// The form carries the deed's own key: sent twice, it is done once, also when
// the first answer was lost.
type deed struct {
	name, title, text, button string
	fields                    []pages.DeedField
	// read reads the form, says in a few words what will be done, and does it
	// when it is called. Why carries the deed's key: the same one has one
	// effect.
	read func(r *http.Request) (detail string, do act, err error)
}

type act func(ctx context.Context, account string, why billing.Audit) error

const (
	reasonMin, reasonMax = 3, 300
	creditMax            = 100_000 // cents
)

// wrongFormError says what is wrong with a form, in words for its sender.
type wrongFormError struct{ text string }

func (e *wrongFormError) Error() string { return "kolekt: " + e.text }

func wrongForm(format string, args ...any) error {
	return &wrongFormError{fmt.Sprintf(format, args...)}
}

// cents reads an amount such as "5" or "5.50".
func cents(text string, most int64) (int64, error) {
	whole, part, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(text), "$"), ".")
	n, err := strconv.ParseUint(whole, 10, 32)
	if err != nil || len(part) > 2 {
		return 0, wrongForm("%q is no amount such as 5 or 5.50", text)
	}
	amount := int64(n) * 100
	if part != "" {
		p, err := strconv.ParseUint((part + "0")[:2], 10, 8)
		if err != nil {
			return 0, wrongForm("%q is no amount such as 5 or 5.50", text)
		}
		amount += int64(p)
	}
	if amount < 1 || amount > most {
		return 0, wrongForm("an amount is from 0.01 to %d", most/100)
	}
	return amount, nil
}

// day reads the date of a form: its end, in UTC.
func day(text string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return t, wrongForm("%q is no date such as 2026-12-31", text)
	}
	return t.AddDate(0, 0, 1), nil
}

// deeds are those that an account allows, in the order of the page.
func (a *App) deeds(acc billing.Account) []deed {
	plans := []pages.Choice{}
	for _, p := range a.Billing.Catalog().Plans() {
		if len(p.Prices) > 0 {
			plans = append(plans, pages.Choice{ID: p.ID, Name: p.Name})
		}
	}
	list := []deed{
		{
			name: "credit", title: "Credit", text: "Comes off the next invoices.", button: "Give the credit",
			fields: []pages.DeedField{{Name: "amount", Label: "Amount, $", Placeholder: "5.00"}},
			read: func(r *http.Request) (string, act, error) {
				n, err := cents(r.FormValue("amount"), creditMax)
				m := billing.Money{Amount: n, Currency: currency}
				return m.String(), func(ctx context.Context, account string, why billing.Audit) error {
					_, err := a.Billing.GrantCredit(ctx, account, m, why)
					return err
				}, err
			},
		},
		{
			name: "comp", title: "Give a plan", text: "For nothing, up to and with a day. A plan that is paid for goes on being charged.", button: "Give the plan",
			fields: []pages.DeedField{{Name: "plan", Label: "Plan", Choices: plans}, {Name: "until", Label: "Until", Type: "date"}},
			read: func(r *http.Request) (string, act, error) {
				plan := r.FormValue("plan")
				if !slices.ContainsFunc(plans, func(c pages.Choice) bool { return c.ID == plan }) {
					return "", nil, wrongForm("choose a plan")
				}
				until, err := day(r.FormValue("until"))
				return a.planName(plan) + " until " + r.FormValue("until"), func(ctx context.Context, account string, why billing.Audit) error {
					_, err := a.Billing.Comp(ctx, account, plan, until, why)
					return err
				}, err
			},
		},
	}
	if acc.Comp != nil && acc.Comp.Until.After(a.Now()) {
		list = append(list, deed{
			name: "uncomp", title: "Take the given plan back", text: a.planName(acc.Comp.Plan) + ", given until " + date(acc.Comp.Until) + ".", button: "Take it back",
			read: func(*http.Request) (string, act, error) {
				return "", func(ctx context.Context, account string, why billing.Audit) error {
					_, err := a.Billing.Comp(ctx, account, "", time.Time{}, why)
					return err
				}, nil
			},
		})
	}
	if sub, ok := acc.Current(); ok && sub.Status == billing.StatusTrialing {
		list = append(list, deed{
			name: "extend", title: "Extend the trial", text: "It ends on " + date(sub.TrialEnd) + ". Nothing is charged before.", button: "Extend it",
			fields: []pages.DeedField{{Name: "until", Label: "Until", Type: "date"}},
			read: func(r *http.Request) (string, act, error) {
				until, err := day(r.FormValue("until"))
				return "until " + r.FormValue("until"), func(ctx context.Context, account string, why billing.Audit) error {
					_, err := a.Billing.ExtendTrial(ctx, account, until, why)
					return err
				}, err
			},
		})
	}
	return append(list, deed{
		name: "resync", title: "Fetch from the payment provider", text: "Replaces what we hold by what the provider holds.", button: "Fetch now",
		read: func(*http.Request) (string, act, error) {
			return "", func(ctx context.Context, account string, _ billing.Audit) error {
				_, err := a.Billing.Sync(ctx, account)
				return err
			}, nil
		},
	})
}

// deedForms are the forms of a user's page. Wrong, if set, is the form that
// was sent and refused.
func (a *App) deedForms(acc billing.Account, wrong *pages.Deed) []pages.Deed {
	var forms []pages.Deed
	for _, d := range a.deeds(acc) {
		f := pages.Deed{Name: d.name, Title: d.title, Text: d.text, Button: d.button, Fields: d.fields, Key: ident.New("aud", a.Now())}
		if wrong != nil && wrong.Name == d.name {
			f.Key, f.Error, f.Values, f.Open = wrong.Key, wrong.Error, wrong.Values, true
		}
		forms = append(forms, f)
	}
	return forms
}

// adminDeed does it: first the entry, then the deed, then what came of it.
func (a *App) adminDeed(w http.ResponseWriter, r *http.Request, v *visit) error {
	ctx := r.Context()
	u, err := a.Users.Store().ByID(ctx, r.PathValue("id"))
	if errors.Is(err, users.ErrNotFound) {
		return errNoPage
	} else if err != nil {
		return err
	}
	acc, err := a.Billing.Account(ctx, u.ID)
	if err != nil {
		return err
	}
	var d *deed
	for _, known := range a.deeds(acc) {
		if known.name == r.PathValue("deed") {
			d = &known
		}
	}
	if d == nil {
		return errNoPage
	}
	done, err := a.carryOut(r, v.user, u, d)
	var form *wrongFormError
	switch {
	case errors.As(err, &form):
		wrong := &pages.Deed{Name: d.name, Key: r.FormValue("key"), Error: sentence(err), Values: map[string]string{"reason": r.FormValue("reason")}}
		for _, f := range d.fields {
			wrong.Values[f.Name] = r.FormValue(f.Name)
		}
		return a.showUser(w, r, v, http.StatusUnprocessableEntity, u, wrong)
	case err != nil:
		return err
	}
	a.streams.poke(u.ID)
	a.tell(r, "good", d.title+": "+done+".")
	http.Redirect(w, r, "/admin/users/"+u.ID, http.StatusSeeOther)
	return nil
}

// refusedByBilling are the errors that an administrator can do something about.
var refusedByBilling = []error{billing.ErrInvalid, billing.ErrNoSubscription, billing.ErrNotFound, billing.ErrDeclined, billing.ErrConflict, billing.ErrUnknownPlan, billing.ErrSubscribed}

func (a *App) carryOut(r *http.Request, by, to users.User, d *deed) (string, error) {
	ctx := r.Context()
	reason := strings.TrimSpace(r.FormValue("reason"))
	if n := utf8.RuneCountInString(reason); n < reasonMin || n > reasonMax {
		return "", wrongForm("a reason has %d to %d characters: it is what the audit keeps", reasonMin, reasonMax)
	}
	detail, do, err := d.read(r)
	if err != nil {
		return "", err
	}
	key := r.FormValue("key")
	if !strings.HasPrefix(key, "aud_") || len(key) != len("aud_")+32 {
		return "", wrongForm("the form is too old: send it again from this page")
	}
	entry, err := a.Audit.Begin(ctx, audit.Entry{ID: key, At: a.Now(), Actor: by.ID, Account: to.ID, Action: d.name, Detail: detail, Reason: reason})
	if errors.Is(err, audit.ErrKnown) {
		return "", wrongForm("this form was sent before, with something else in it: send it again from this page")
	} else if err != nil {
		return "", err
	}
	if entry.Outcome == "done" {
		return "done before, and not again", nil
	}
	err = do(ctx, to.ID, billing.Audit{Key: key, By: "admin:" + by.ID, Reason: reason})
	outcome, shown := "done", err
	for _, kind := range refusedByBilling {
		if errors.Is(err, kind) {
			outcome, shown = "refused", wrongForm("%s", strings.TrimPrefix(err.Error(), "billing: "))
		}
	}
	if err != nil && outcome == "done" {
		outcome = "failed; its outcome may be unknown" // the key makes another try safe
	}
	if err := a.Audit.Finish(context.WithoutCancel(ctx), key, outcome); err != nil {
		return "", err
	}
	a.Log.InfoContext(ctx, "kolekt: "+d.name, "account", to.ID, "by", by.ID, "outcome", outcome)
	return outcome, shown
}

// auditTable lists entries. Names of people are looked up once each.
func (a *App) auditTable(ctx context.Context, list []audit.Entry, whose bool) pages.Table {
	t := pages.Table{Caption: "The newest first", Heads: []string{"When", "By", "What", "Reason", "Outcome"}, Empty: "Nothing yet."}
	if whose {
		t.Heads = append([]string{"Account"}, t.Heads...)
	}
	names := map[string]string{}
	name := func(id string) string {
		if names[id] == "" {
			names[id] = "erased"
			if u, err := a.Users.Store().ByID(ctx, id); err == nil {
				names[id] = u.Email
			}
		}
		return names[id]
	}
	for _, e := range list {
		outcome := pages.Badge{Text: e.Outcome, Kind: "good"}
		switch e.Outcome {
		case "done":
		case "":
			outcome = pages.Badge{Text: "unknown", Kind: "warn"}
		default:
			outcome.Kind = "bad"
		}
		row := pages.Row{Cells: []string{moment(e.At), name(e.Actor), strings.TrimSpace(e.Action + " " + e.Detail), e.Reason}, Badge: &outcome}
		if whose {
			row.Cells = append([]string{name(e.Account)}, row.Cells...)
			if row.Cells[0] != "erased" {
				row.Href = "/admin/users/" + e.Account
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (a *App) adminAudit(w http.ResponseWriter, r *http.Request, v *visit) error {
	const perPage = 50
	list, err := a.Audit.List(r.Context(), "", r.FormValue("before"), perPage)
	if err != nil {
		return err
	}
	data := pages.AdminAudit{Tab: "audit", Entries: a.auditTable(r.Context(), list, true)}
	if len(list) == perPage {
		data.More = "/admin/audit?before=" + list[perPage-1].ID
	}
	return a.show(w, r, v, http.StatusOK, "admin-audit", pages.Page{Title: "Audit", Nav: "admin", Data: data})
}
