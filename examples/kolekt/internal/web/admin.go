package web

import (
	"context"
	"net/http"
	"slices"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
)

// everyAccount calls f with each account that billing knows.
func (a *App) everyAccount(ctx context.Context, f func(billing.Account) error) error {
	const batch = 500
	for after := ""; ; {
		ids, err := a.Accounts.Accounts(ctx, billing.AccountQuery{After: after, Limit: batch})
		if err != nil {
			return err
		}
		for _, id := range ids {
			acc, err := a.Accounts.Account(ctx, id)
			if err != nil {
				return err
			}
			if err := f(acc); err != nil {
				return err
			}
			after = id
		}
		if len(ids) < batch {
			return nil
		}
	}
}

// subscriber is an account with its current subscription and user.
type subscriber struct {
	account billing.Account
	sub     billing.Subscription
	access  billing.Decision
	user    users.User
}

func (a *App) subscribers(ctx context.Context) ([]subscriber, error) {
	var list []subscriber
	err := a.everyAccount(ctx, func(acc billing.Account) error {
		sub, ok := acc.Current()
		if !ok {
			return nil
		}
		u, err := a.Users.Store().ByID(ctx, acc.ID)
		if err != nil {
			u = users.User{ID: acc.ID, Email: "erased"}
		}
		list = append(list, subscriber{acc, sub, billing.Access(a.Billing.Catalog(), billing.Policy{}, &acc, a.Now()), u})
		return nil
	})
	slices.SortFunc(list, func(x, y subscriber) int { return y.sub.Created.Compare(x.sub.Created) })
	return list, err
}

func (a *App) adminUsers(w http.ResponseWriter, r *http.Request, v *visit) error {
	const perPage = 50
	text := r.FormValue("q")
	list, err := a.Users.Store().List(r.Context(), text, r.FormValue("before"), perPage)
	if err != nil {
		return err
	}
	total, err := a.Users.Store().Count(r.Context())
	if err != nil {
		return err
	}
	data := pages.AdminUsers{Tab: "users", Search: text, Total: count(total, "user"), Users: pages.Table{
		Caption: "The newest first", Heads: []string{"Address", "Name", "Since", "Plan", "State"}, Empty: "Nobody has this name or address.",
	}}
	for _, u := range list {
		access, err := a.Billing.Access(r.Context(), u.ID)
		if err != nil {
			return err
		}
		badge := pages.Badge{Text: "Free", Kind: "mute"}
		if sub, err := a.Billing.Subscription(r.Context(), u.ID); err == nil {
			badge = statusBadge(sub)
		}
		if u.Admin {
			badge = pages.Badge{Text: "Administrator", Kind: "info"}
		}
		data.Users.Rows = append(data.Users.Rows, pages.Row{Href: "/admin/users/" + u.ID, Cells: []string{u.Email, u.Name, date(u.CreatedAt), a.planName(access.Plan)}, Badge: &badge})
	}
	if len(list) == perPage {
		data.More = "/admin/users?before=" + list[perPage-1].ID
	}
	return a.show(w, r, v, http.StatusOK, "admin-users", pages.Page{Title: "Users", Nav: "admin", Data: data})
}
