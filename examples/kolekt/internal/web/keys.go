package web

import (
	"errors"
	"net/http"
	"time"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

// Scopes are what API keys may do.
func Scopes() []string { return []string{"kolekts:read", "kolekts:write"} }

// holder is the visitor as one who manages keys of the own account.
func holder(v *visit) apikeys.Actor {
	return apikeys.Holder(v.user.ID, apikeys.Account(v.user.ID), Scopes()...)
}

func (a *App) keysPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.showKeys(w, r, v, http.StatusOK, pages.Keys{})
}

func (a *App) showKeys(w http.ResponseWriter, r *http.Request, v *visit, status int, data pages.Keys) error {
	list, err := a.Keys.List(r.Context(), holder(v), apikeys.Account(v.user.ID), "", 100)
	if err != nil {
		return err
	}
	data.Allowed = v.access.Has("api")
	data.Example = "curl " + a.PublicURL + "/api/v1/kolekts \\\n  -H 'Authorization: Bearer YOUR_KEY' \\\n  -H 'Content-Type: application/json' \\\n  -d '{\"text\": \"A long thought …\"}'"
	data.Scopes = []pages.Tone{{ID: "write", Name: "Read and write", Selected: true}, {ID: "read", Name: "Read only"}}
	for _, k := range list {
		row := pages.KeyRow{ID: k.ID, Name: k.Name, Hint: k.Hint, Scopes: "read", Created: date(k.CreatedAt), Used: ago(k.LastUsed.At, a.Now())}
		for _, s := range k.Scopes {
			if s == "kolekts:write" {
				row.Scopes = "read and write"
			}
		}
		status := k.Status(a.Now())
		row.Active = status == apikeys.StatusActive
		switch {
		case row.Active && !k.ReplacedAt.IsZero():
			row.Badge, row.Active = pages.Badge{Text: "Replaced", Kind: "warn"}, false
		case row.Active:
			row.Badge = pages.Badge{Text: "Active", Kind: "good"}
		default:
			row.Badge = pages.Badge{Text: string(status), Kind: "mute"}
		}
		data.Keys = append(data.Keys, row)
	}
	return a.show(w, r, v, status, "keys", pages.Page{Title: "API keys", Nav: "account", Data: data})
}

func (a *App) issueKey(w http.ResponseWriter, r *http.Request, v *visit) error {
	if !v.access.Has("api") {
		a.tell(r, "info", "API keys come with Pro and above.")
		http.Redirect(w, r, "/pricing", http.StatusSeeOther)
		return nil
	}
	scopes := []string{"kolekts:read"}
	if r.FormValue("scope") == "write" {
		scopes = append(scopes, "kolekts:write")
	}
	token, key, err := a.Keys.Issue(r.Context(), holder(v), apikeys.NewKey{Name: r.FormValue("name"), Scopes: scopes})
	if errors.Is(err, apikeys.ErrInvalid) {
		return a.showKeys(w, r, v, http.StatusUnprocessableEntity, pages.Keys{Form: pages.Form{Errors: map[string]string{"name": sentence(err)}}})
	} else if err != nil {
		return err
	}
	return a.showKeys(w, r, v, http.StatusOK, pages.Keys{Token: token.Reveal(), Name: key.Name})
}

func (a *App) changeKey(w http.ResponseWriter, r *http.Request, v *visit) error {
	id := r.PathValue("id")
	switch r.PathValue("action") {
	case "revoke":
		if err := a.Keys.Revoke(r.Context(), holder(v), id, "by its owner"); err != nil {
			return err
		}
		a.tell(r, "good", "The key is revoked. It opens nothing any more.")
		http.Redirect(w, r, "/account/keys", http.StatusSeeOther)
		return nil
	case "rotate":
		token, key, err := a.Keys.Rotate(r.Context(), holder(v), id, apikeys.Rotation{Overlap: 24 * time.Hour})
		var state *apikeys.StateError
		if errors.As(err, &state) {
			a.tell(r, "info", "The key has been replaced or revoked before.")
			http.Redirect(w, r, "/account/keys", http.StatusSeeOther)
			return nil
		} else if err != nil {
			return err
		}
		return a.showKeys(w, r, v, http.StatusOK, pages.Keys{Token: token.Reveal(), Name: key.Name})
	}
	return errNoPage
}
