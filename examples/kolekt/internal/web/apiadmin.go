package web

import (
	"net/http"
	"time"

	"github.com/kolekt/commerce/billing/revenue"
)

// administrator lets administrators through. To others there is nothing.
func (a *App) administrator(h apiHandler) apiHandler {
	return func(w http.ResponseWriter, r *http.Request, c *caller) error {
		u, err := a.Users.Store().ByID(r.Context(), c.account)
		if err != nil || !u.Admin || c.key != nil {
			return errNoPage
		}
		return h(w, r, c)
	}
}

func (a *App) apiRevenue(w http.ResponseWriter, r *http.Request, _ *caller) error {
	_, book, err := a.business(r.Context())
	if err != nil {
		return err
	}
	now, selection := a.Now().UTC(), revenue.Selection{Currency: currency}
	writeJSON(w, http.StatusOK, map[string]any{
		"now": book.AsOf(now, selection), "last_30_days": book.Between(now.AddDate(0, 0, -30), now.Add(time.Nanosecond), selection),
		"months": book.Months(now, 12, selection), "cohorts": book.Cohorts(now, selection),
	})
	return nil
}

func (a *App) apiUsers(w http.ResponseWriter, r *http.Request, _ *caller) error {
	list, err := a.Users.Store().List(r.Context(), r.FormValue("q"), r.FormValue("before"), 100)
	if err != nil {
		return err
	}
	total, err := a.Users.Store().Count(r.Context())
	if err != nil {
		return err
	}
	out := []map[string]any{}
	for _, u := range list {
		access, err := a.Billing.Access(r.Context(), u.ID)
		if err != nil {
			return err
		}
		p := a.person(u)
		p["plan"], p["paid"], p["status"], p["admin"] = access.Plan, access.Paid, access.Status, u.Admin
		out = append(out, p)
	}
	writeJSON(w, http.StatusOK, map[string]any{"users": out, "total": total})
	return nil
}

func (a *App) apiPlatform(w http.ResponseWriter, r *http.Request, _ *caller) error {
	p, err := a.platform(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}

func (a *App) apiHealth(w http.ResponseWriter, r *http.Request, _ *caller) error {
	h, err := a.health(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, h)
	return nil
}

func (a *App) apiProjections(w http.ResponseWriter, r *http.Request, _ *caller) error {
	p, _, err := a.projection(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}
