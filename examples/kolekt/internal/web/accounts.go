package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/ratelimit"
)

// next is where to go after login: a path of our own, or the first page of a
// member. A form's target with a scheme or a host would send people away.
func next(r *http.Request) string {
	target := r.FormValue("next")
	if u, err := url.Parse(target); err == nil && u.Scheme == "" && u.Host == "" && strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "//") && !strings.Contains(target, `\`) {
		return target
	}
	return ""
}

func orKolekts(target string) string {
	if target == "" {
		return "/kolekts"
	}
	return target
}

// formError puts an error of users at the field that it is about.
func formError(err error) (map[string]string, bool) {
	field := ""
	switch {
	case errors.Is(err, users.ErrEmail), errors.Is(err, users.ErrTaken):
		field = "email"
	case errors.Is(err, users.ErrPassword):
		field = "password"
	case errors.Is(err, users.ErrName):
		field = "name"
	case errors.Is(err, users.ErrCredentials), errors.Is(err, users.ErrToken), errors.Is(err, errTooMany):
	default:
		return nil, false
	}
	return map[string]string{field: sentence(err)}, true
}

// sentence makes an error's text fit for a page.
func sentence(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, ": "); ok {
		text = after
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

var errTooMany = errors.New("kolekt: too many attempts: wait a minute")

// attempt counts a try to log in, by where it comes from and by whom it is
// for, so that neither one machine nor many can guess.
func (a *App) attempt(r *http.Request, email string) error {
	from, err := ratelimit.ByIP(a.Trusted...)(r)
	if err != nil {
		from = "unknown"
	}
	for _, try := range []struct {
		key  string
		plan *ratelimit.Plan
	}{{"from " + from, a.network}, {"for " + strings.ToLower(strings.TrimSpace(email)), a.login}} {
		d, err := a.Logins.Allow(r.Context(), a.Users.Fingerprint(try.key), try.plan, 1)
		if err != nil {
			return err
		}
		if !d.Allowed() {
			return errTooMany
		}
	}
	return nil
}

// proofLasts is how long a login counts as the proof of who somebody is.
const proofLasts = 10 * time.Minute

// enter begins a session. Its token is new, so that nobody can plant one.
func (a *App) enter(r *http.Request, u users.User) error {
	if err := a.Sessions.RenewToken(r.Context()); err != nil {
		return err
	}
	a.Sessions.Put(r.Context(), "user", u.ID)
	a.Sessions.Put(r.Context(), "mark", a.Users.SessionMark(u))
	a.Sessions.Put(r.Context(), "proved", a.Now().Unix())
	return nil
}

// mayLook counts a look-up of a code, against guessing.
func (a *App) mayLook(r *http.Request) bool {
	from, err := ratelimit.ByIP(a.Trusted...)(r)
	if err != nil {
		return false
	}
	d, err := a.Logins.Allow(r.Context(), a.Users.Fingerprint("code "+from), a.network, 1)
	return err == nil && d.Allowed()
}

// register makes a user and sends the welcome.
func (a *App) register(r *http.Request, email, password, name, code string) (users.User, error) {
	if err := a.attempt(r, email); err != nil {
		return users.User{}, err
	}
	u, err := a.Users.SignUp(r.Context(), email, password, name)
	if err != nil {
		return u, err
	}
	if err := a.Mail.Welcome(r.Context(), u, a.PublicURL+"/verify?token="+a.Users.VerifyToken(u)); err != nil {
		// The account is there and works; the link can be sent again.
		a.Log.ErrorContext(r.Context(), "kolekt: welcome mail", "account", u.ID, "err", err)
	}
	if code != "" {
		if err := a.redeem(r.Context(), u, code); err != nil {
			// The account matters more than the code, which can be given later.
			a.Log.InfoContext(r.Context(), "kolekt: code at sign-up", "account", u.ID, "err", err)
		}
	}
	return u, a.enter(r, u)
}

func (a *App) signUpForm(w http.ResponseWriter, r *http.Request, v *visit) error {
	if v.known() {
		http.Redirect(w, r, orKolekts(next(r)), http.StatusSeeOther)
		return nil
	}
	return a.show(w, r, v, http.StatusOK, "signup", pages.Page{Title: "Start free", Data: pages.Form{Next: next(r), Values: map[string]string{"ref": r.FormValue("ref")}}})
}

func (a *App) signUp(w http.ResponseWriter, r *http.Request, v *visit) error {
	_, err := a.register(r, r.FormValue("email"), r.FormValue("password"), r.FormValue("name"), r.FormValue("ref"))
	if fields, ok := formError(err); ok {
		form := pages.Form{Next: next(r), Values: map[string]string{"email": r.FormValue("email"), "name": r.FormValue("name"), "ref": r.FormValue("ref")}, Errors: fields}
		return a.show(w, r, v, http.StatusUnprocessableEntity, "signup", pages.Page{Title: "Start free", Data: form})
	} else if err != nil {
		return err
	}
	http.Redirect(w, r, orKolekts(next(r)), http.StatusSeeOther)
	return nil
}

func (a *App) logInForm(w http.ResponseWriter, r *http.Request, v *visit) error {
	if v.known() {
		http.Redirect(w, r, orKolekts(next(r)), http.StatusSeeOther)
		return nil
	}
	return a.show(w, r, v, http.StatusOK, "login", pages.Page{Title: "Log in", Nav: "login", Data: pages.Form{Next: next(r)}})
}

func (a *App) logIn(w http.ResponseWriter, r *http.Request, v *visit) error {
	email := r.FormValue("email")
	err := a.attempt(r, email)
	var u users.User
	if err == nil {
		u, err = a.Users.LogIn(r.Context(), email, r.FormValue("password"))
	}
	if fields, ok := formError(err); ok {
		form := pages.Form{Next: next(r), Values: map[string]string{"email": email}, Errors: fields}
		return a.show(w, r, v, http.StatusUnprocessableEntity, "login", pages.Page{Title: "Log in", Nav: "login", Data: form})
	} else if err != nil {
		return err
	}
	if err := a.enter(r, u); err != nil {
		return err
	}
	http.Redirect(w, r, orKolekts(next(r)), http.StatusSeeOther)
	return nil
}

func (a *App) logOut(w http.ResponseWriter, r *http.Request, _ *visit) error {
	if err := a.Sessions.Destroy(r.Context()); err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

func (a *App) forgotForm(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.show(w, r, v, http.StatusOK, "forgot", pages.Page{Title: "A new password", Data: pages.Form{}})
}

// forgot says the same whether or not there is such a user.
func (a *App) forgot(w http.ResponseWriter, r *http.Request, v *visit) error {
	email := strings.ToLower(strings.TrimSpace(r.FormValue("email")))
	if err := a.attempt(r, email); err != nil {
		fields, ok := formError(err)
		if !ok {
			return err
		}
		return a.show(w, r, v, http.StatusTooManyRequests, "forgot", pages.Page{Title: "A new password", Data: pages.Form{Errors: fields}})
	}
	u, err := a.Users.Store().ByEmail(r.Context(), email)
	switch {
	case errors.Is(err, users.ErrNotFound):
	case err != nil:
		return err
	default:
		if err := a.Mail.ResetPassword(r.Context(), u, a.PublicURL+"/reset?token="+a.Users.ResetToken(u)); err != nil {
			return err
		}
	}
	return a.show(w, r, v, http.StatusOK, "message", pages.Page{Title: "Look into your mail", Data: pages.Message{
		Heading: "Look into your mail", Text: "If there is an account with this address, a link is on its way. It works for an hour.",
		Links: []pages.Link{{Href: "/login", Text: "Back to login"}},
	}})
}

func (a *App) resetForm(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.show(w, r, v, http.StatusOK, "reset", pages.Page{Title: "A new password", Data: pages.Form{Values: map[string]string{"token": r.FormValue("token")}}})
}

func (a *App) reset(w http.ResponseWriter, r *http.Request, v *visit) error {
	u, err := a.Users.Reset(r.Context(), r.FormValue("token"), r.FormValue("password"))
	if fields, ok := formError(err); ok {
		return a.show(w, r, v, http.StatusUnprocessableEntity, "reset", pages.Page{Title: "A new password", Data: pages.Form{Values: map[string]string{"token": r.FormValue("token")}, Errors: fields}})
	} else if err != nil {
		return err
	}
	if u, err = a.Users.Store().ByID(r.Context(), u.ID); err != nil {
		return err
	}
	if err := a.enter(r, u); err != nil {
		return err
	}
	a.tell(r, "good", "Your new password is set.")
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

func (a *App) verify(w http.ResponseWriter, r *http.Request, v *visit) error {
	_, err := a.Users.Verify(r.Context(), r.FormValue("token"))
	if errors.Is(err, users.ErrToken) {
		return a.show(w, r, v, http.StatusUnprocessableEntity, "message", pages.Page{Title: "Link used up", Data: pages.Message{Heading: "This link doesn't work", Text: "It is too old, or not whole. A new password proves your address as well.", Links: []pages.Link{{Href: "/forgot", Text: "Send a link"}}}})
	} else if err != nil {
		return err
	}
	return a.show(w, r, v, http.StatusOK, "message", pages.Page{Title: "Address confirmed", Data: pages.Message{Heading: "Thank you", Text: "Your address is confirmed.", Links: []pages.Link{{Href: "/kolekts", Text: "Write a kolekt"}}}})
}
