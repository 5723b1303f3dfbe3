package web

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/gdpr"
)

// privacyAPI is the subject's JSON endpoints, for sessions only.
func (a *App) privacyAPI() http.Handler {
	return http.StripPrefix("/api/v1/gdpr", a.Privacy.SelfService(gdpr.SelfServiceConfig{
		Subject: func(r *http.Request) (string, error) {
			v, err := a.visit(r)
			return v.user.ID, err
		},
		Recent: a.recent,
	}))
}

// recent reports whether the person has proved the password lately.
func (a *App) recent(r *http.Request) bool {
	at := a.Sessions.GetInt64(r.Context(), "proved")
	return at != 0 && a.Now().Sub(time.Unix(at, 0)) < proofLasts
}

func (a *App) privacyPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.showPrivacy(w, r, v, http.StatusOK, pages.Form{})
}

func (a *App) showPrivacy(w http.ResponseWriter, r *http.Request, v *visit, status int, form pages.Form) error {
	list, err := a.Privacy.RequestsOf(r.Context(), v.user.ID)
	if err != nil {
		return err
	}
	data := pages.Privacy{Form: form}
	for _, q := range list {
		row := pages.PrivacyRequest{ID: q.ID, Asked: date(q.ReceivedAt), State: requestBadge(q.State)}
		switch q.Kind {
		case gdpr.Erasure:
			row.What = "Erase the account"
			if q.State == gdpr.Cooling || q.State == gdpr.Verified {
				row.Cancel = true
				data.Erasing = "Your account will be erased on " + moment(q.StartAt) + ". Your keys have ended. Until then you can call it off."
			}
		default:
			row.What = "A copy of my data"
			if q.State == gdpr.Ready {
				row.Download = "/account/privacy/download/" + q.ID
				row.Note = "until " + date(q.Archive.ExpiresAt)
			}
		}
		data.Requests = append(data.Requests, row)
	}
	for _, p := range a.Purposes {
		given, err := a.Privacy.Allowed(r.Context(), v.user.ID, p.ID)
		if err != nil {
			return err
		}
		data.Consents = append(data.Consents, pages.Consent{ID: p.ID, Text: p.Text, Given: given})
	}
	return a.show(w, r, v, status, "privacy", pages.Page{Title: "Privacy", Nav: "account", Data: data})
}

func requestBadge(s gdpr.State) pages.Badge {
	switch s {
	case gdpr.Ready:
		return pages.Badge{Text: "Ready", Kind: "good"}
	case gdpr.Done:
		return pages.Badge{Text: "Done", Kind: "good"}
	case gdpr.Cooling:
		return pages.Badge{Text: "Waiting", Kind: "warn"}
	case gdpr.Cancelled:
		return pages.Badge{Text: "Called off", Kind: "mute"}
	case gdpr.Denied:
		return pages.Badge{Text: "Denied", Kind: "bad"}
	case gdpr.Held:
		return pages.Badge{Text: "On hold", Kind: "warn"}
	}
	return pages.Badge{Text: "Under way", Kind: "info"}
}

// ask opens a request, for whoever knows the password: a session alone may be
// a screen that was left open.
func (a *App) ask(kind gdpr.Kind) handler {
	return func(w http.ResponseWriter, r *http.Request, v *visit) error {
		if err := a.attempt(r, v.user.Email); err == nil {
			_, err = a.Users.LogIn(r.Context(), v.user.Email, r.FormValue("password"))
			if errors.Is(err, users.ErrCredentials) {
				return a.showPrivacy(w, r, v, http.StatusUnprocessableEntity, pages.Form{Errors: map[string]string{string(kind): "The password is wrong."}})
			} else if err != nil {
				return err
			}
		} else if errors.Is(err, errTooMany) {
			return a.showPrivacy(w, r, v, http.StatusTooManyRequests, pages.Form{Errors: map[string]string{string(kind): sentence(err)}})
		} else {
			return err
		}
		a.Sessions.Put(r.Context(), "proved", a.Now().Unix())
		switch _, err := a.Privacy.Ask(r.Context(), kind, v.user.ID, true); {
		case errors.Is(err, gdpr.ErrActive):
			a.tell(r, "info", "You have asked for it already.")
		case err != nil:
			return err
		case kind != gdpr.Erasure: // of which the page itself speaks
			a.tell(r, "good", "Your copy is being made. It appears here, and we send you a mail.")
		}
		http.Redirect(w, r, "/account/privacy", http.StatusSeeOther)
		return nil
	}
}

// mine returns the visitor's own request.
func (a *App) mine(r *http.Request, v *visit) (gdpr.Request, error) {
	q, err := a.Privacy.Request(r.Context(), r.PathValue("id"))
	if errors.Is(err, gdpr.ErrNotFound) || err == nil && !a.Privacy.Owns(q, v.user.ID) {
		return q, errNoPage
	}
	return q, err
}

func (a *App) callOff(w http.ResponseWriter, r *http.Request, v *visit) error {
	q, err := a.mine(r, v)
	if err != nil {
		return err
	}
	if _, err := a.Privacy.Cancel(r.Context(), q.ID); errors.Is(err, gdpr.ErrState) {
		a.tell(r, "warn", "It is too late: the erasure has begun.")
	} else if err != nil {
		return err
	} else {
		a.tell(r, "good", "Called off. Nothing is erased; make new API keys where you need them.")
	}
	http.Redirect(w, r, "/account/privacy", http.StatusSeeOther)
	return nil
}

func (a *App) download(w http.ResponseWriter, r *http.Request, v *visit) error {
	q, err := a.mine(r, v)
	if err != nil {
		return err
	}
	archive, err := a.Privacy.OpenArchive(r.Context(), q)
	if errors.Is(err, gdpr.ErrState) || errors.Is(err, gdpr.ErrNotFound) {
		return errNoPage
	} else if err != nil {
		return err
	}
	defer archive.Close()
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Disposition", `attachment; filename="kolekt-my-data.zip"`)
	w.Header().Set("Cache-Control", "no-store")
	_, err = io.Copy(w, archive)
	return err
}

func (a *App) consent(w http.ResponseWriter, r *http.Request, v *visit) error {
	for _, p := range a.Purposes {
		given, err := a.Privacy.Allowed(r.Context(), v.user.ID, p.ID)
		if err != nil {
			return err
		}
		if want := r.FormValue(p.ID) == "on"; want != given {
			if _, err := a.Privacy.Consent(r.Context(), v.user.ID, p.ID, want, "privacy page", "en"); err != nil {
				return err
			}
		}
	}
	a.tell(r, "good", "Your choices are noted.")
	http.Redirect(w, r, "/account/privacy", http.StatusSeeOther)
	return nil
}
