package web

import (
	"context"
	"net/http"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

// drift is how accounts differ from what the payment provider holds.
type drift struct {
	Compared int         `json:"compared"`
	Unasked  int         `json:"unasked"` // the provider couldn't be asked
	Differ   []differing `json:"differ"`
	Next     string      `json:"next,omitempty"` // where to go on
}

// differing is an account, and in what it differs.
type differing struct {
	Account string   `json:"account"`
	What    []string `json:"what"` // "subscription sub_1: active, is past_due": ours, and the provider's
}

// drift compares a hundred accounts, four at a time: as many as a person waits
// for, and few enough not to take the provider's rate away.
func (a *App) drift(ctx context.Context, after string) (d drift, err error) {
	const batch, together = 100, 4
	ids, err := a.Accounts.Accounts(ctx, billing.AccountQuery{After: after, Limit: batch})
	if err != nil {
		return d, err
	}
	found := make([]billing.Drift, len(ids))
	failed := make([]bool, len(ids))
	var g errgroup.Group
	g.SetLimit(together)
	for i, id := range ids {
		g.Go(func() error {
			var err error
			if found[i], err = a.Billing.Compare(ctx, id); err != nil {
				failed[i] = true
				a.Log.WarnContext(ctx, "kolekt: compare", "account", id, "err", err)
			}
			return nil // the others are compared all the same
		})
	}
	_ = g.Wait() // see above
	d.Differ = []differing{}
	for i := range ids {
		switch {
		case failed[i]:
			d.Unasked++
		default:
			d.Compared++
			if len(found[i].What) > 0 {
				d.Differ = append(d.Differ, differing(found[i]))
			}
		}
	}
	if len(ids) == batch {
		d.Next = ids[batch-1]
	}
	return d, ctx.Err()
}

func (a *App) adminDrift(w http.ResponseWriter, r *http.Request, v *visit) error {
	d, err := a.drift(r.Context(), r.FormValue("after"))
	if err != nil {
		return err
	}
	data := pages.AdminDrift{Tab: "drift", Stats: []pages.Stat{
		{Label: "Compared", Value: number(int64(d.Compared)), Note: "accounts", Help: "/definitions#drift"},
		{Label: "Differ", Value: number(int64(len(d.Differ))), Note: "accounts", Alarm: len(d.Differ) > 0, Help: "/definitions#drift"},
		{Label: "Not asked", Value: number(int64(d.Unasked)), Note: "the provider didn't answer", Alarm: d.Unasked > 0},
	}}
	data.Rows = pages.Table{Caption: "What we hold, and what the provider holds", Heads: []string{"Account", "Difference"}, Empty: "None: what we hold is what the provider holds."}
	for _, x := range d.Differ {
		name := x.Account
		if u, err := a.Users.Store().ByID(r.Context(), x.Account); err == nil {
			name = u.Email
		}
		data.Rows.Rows = append(data.Rows.Rows, pages.Row{Href: "/admin/users/" + x.Account + "#deed-resync", Cells: []string{name, strings.Join(x.What, "; ")}})
	}
	if d.Next != "" {
		data.Next = "/admin/drift?after=" + d.Next
	}
	return a.show(w, r, v, http.StatusOK, "admin-drift", pages.Page{Title: "Drift", Nav: "admin", Data: data})
}

func (a *App) apiDrift(w http.ResponseWriter, r *http.Request, _ *caller) error {
	d, err := a.drift(r.Context(), r.FormValue("after"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

func (a *App) adminReconcile(w http.ResponseWriter, r *http.Request, v *visit) error {
	report, err := a.Billing.Reconcile(r.Context())
	if err != nil {
		return err
	}
	a.Log.InfoContext(r.Context(), "kolekt: reconcile", "by", v.user.ID)
	kind, text := "good", "Compared with the payment provider: "+count(int64(report.Listed), "event")+", "+number(int64(report.Missing))+" of them new to us; "+count(int64(report.Swept), "account")+" fetched again."
	if n := int64(len(report.Drift)); n > 0 {
		kind = "warn"
		text += " " + count(n, "account") + " differed and hold what the provider holds now, such as " + report.Drift[0].Account + ": " + strings.Join(report.Drift[0].What, "; ") + "."
	}
	a.tell(r, kind, text)
	http.Redirect(w, r, "/admin/drift", http.StatusSeeOther)
	return nil
}
