// Package web is Kolekt's screens and its JSON API: it asks the packages and
// hands what they say to the pages.
package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/audit"
	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/examples/kolekt/internal/ledger"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/refusals"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/internal/problem"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/referral"
	"github.com/kolekt/commerce/usage"
)

// Config is what the application is made of. All fields but Guard and Dev
// are required.
type Config struct {
	PublicURL string
	Users     *users.Service
	Sessions  *scs.SessionManager
	Kolekts   kolekts.Store
	// Make counts a kolekt against the quota and stores it, together or not at
	// all. A refusal is in the decision.
	Make func(ctx context.Context, meters *usage.Service, r usage.Request, k kolekts.Kolekt) (usage.Decision, error)

	Billing  *billing.Service
	Accounts billing.Store // for the administrator's lists
	Ledger   ledger.Store  // what happened to subscriptions
	Usage    *usage.Service
	Requests *ratelimit.Limiter // requests of an account
	Logins   *ratelimit.Limiter // attempts to log in
	Keys     *apikeys.Service
	Mail     Mail
	Outbox   *mailer.Service
	Streams  []MailStream // of mail, as people choose them
	Refused  *refusals.Log
	Audit    audit.Store
	// Guard watches over shared rate limits; nil without Redis.
	Guard *ratelimit.Guard

	// Feed answers what an account may do from memory, for programs.
	Feed      *billing.Feed
	Referrals *referral.Service
	Privacy   *gdpr.Service
	Purposes  []gdpr.Purpose // that people may agree to

	// Ready says whether the stores answer.
	Ready   func(ctx context.Context) error
	Trusted []netip.Prefix // proxies whose X-Forwarded-For counts
	Now     func() time.Time
	Log     *slog.Logger
	Dev     *Dev // nil outside development
	// Stopping is closed when the process is about to end: streams end then.
	Stopping <-chan struct{}
	// FormTargets are the origins of the payment pages.
	FormTargets []string
}

// Mail is what the application sends.
type Mail interface {
	Welcome(ctx context.Context, u users.User, verifyURL string) error
	ResetPassword(ctx context.Context, u users.User, resetURL string) error
}

// App is the application.
type App struct {
	Config
	pages   *pages.Pages
	plans   map[string]*ratelimit.Plan // of requests, by the catalogue's plan
	login   *ratelimit.Plan            // attempts for one address of mail
	network *ratelimit.Plan            // attempts from one place
	counts  counts
	streams streams
	root    http.Handler

	healthShared sync.Mutex // of all streams
	healthAt     time.Time
	healthLast   []part
}

// New returns the application.
func New(cfg Config) (*App, error) {
	p, err := pages.New(cfg.FormTargets...)
	if err != nil {
		return nil, err
	}
	a := &App{Config: cfg, pages: p, plans: map[string]*ratelimit.Plan{}}
	for _, plan := range a.Billing.Catalog().Plans() {
		limit, err := a.Billing.Catalog().Limit(plan.ID, "requests")
		if err != nil {
			return nil, err
		}
		var windows []ratelimit.Window
		if !limit.Unlimited() {
			windows = append(windows, ratelimit.Rate("requests", limit.N, limit.Per))
		}
		if a.plans[plan.ID], err = ratelimit.NewPlan(plan.ID, windows...); err != nil {
			return nil, err
		}
	}
	// Somebody who mistypes has room; an office behind one address has more.
	if a.login, err = ratelimit.NewPlan("login", ratelimit.PerMinute(10), ratelimit.PerHour(60)); err != nil {
		return nil, err
	}
	if a.network, err = ratelimit.NewPlan("network", ratelimit.PerMinute(60), ratelimit.PerHour(600)); err != nil {
		return nil, err
	}
	a.root, err = a.routes()
	return a, err
}

// ServeHTTP serves everything.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.root.ServeHTTP(w, r) }

func (a *App) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	page := func(pattern string, h handler) { mux.Handle(pattern, a.page(h)) }
	member := func(pattern string, h handler) { mux.Handle(pattern, a.page(a.members(h))) }
	admin := func(pattern string, h handler) { mux.Handle(pattern, a.page(a.admins(h))) }

	page("GET /{$}", a.home)
	page("GET /pricing", a.pricing)
	page("GET /definitions", a.definitions)
	page("GET /signup", a.signUpForm)
	page("POST /signup", a.signUp)
	page("GET /login", a.logInForm)
	page("POST /login", a.logIn)
	page("POST /logout", a.logOut)
	page("GET /forgot", a.forgotForm)
	page("POST /forgot", a.forgot)
	page("GET /reset", a.resetForm)
	page("POST /reset", a.reset)
	page("GET /verify", a.verify)

	member("GET /kolekts", a.compose)
	member("POST /kolekts", a.makePage)
	member("GET /kolekts/{id}", a.kolekt)
	member("POST /kolekts/{id}/delete", a.deletePage)

	member("POST /checkout", a.checkout)
	member("GET /checkout/return", a.checkoutReturn)
	member("GET /account", a.account)
	member("GET /account/usage.csv", a.usageCSV)
	member("GET /account/change", a.changeForm)
	member("POST /account/change", a.change)
	member("POST /account/cancel", a.cancel)
	member("POST /account/resume", a.resume)
	member("POST /account/keep", a.keep)
	member("POST /account/portal", a.portal)
	member("GET /account/portal-return", a.portalReturn)
	member("GET /account/limits", a.limitsPage)
	member("GET /account/mail", a.mailPage)
	member("POST /account/mail", a.mailChoose)
	member("GET /account/keys", a.keysPage)
	member("POST /account/keys", a.issueKey)
	member("POST /account/keys/{id}/{action}", a.changeKey)

	member("GET /account/referral", a.referralPage)
	member("POST /account/referral", a.applyCode)
	member("GET /account/privacy", a.privacyPage)
	member("POST /account/privacy/export", a.ask(gdpr.Access))
	member("POST /account/privacy/erasure", a.ask(gdpr.Erasure))
	member("POST /account/privacy/cancel/{id}", a.callOff)
	member("POST /account/privacy/consents", a.consent)
	member("GET /account/privacy/download/{id}", a.download)

	admin("GET /admin", a.adminRevenue)
	admin("GET /admin/users", a.adminUsers)
	admin("GET /admin/users/{id}", a.adminUser)
	admin("POST /admin/users/{id}/{deed}", a.adminDeed)
	admin("GET /admin/behind/{what}", a.adminBehind)
	admin("GET /admin/drift", a.adminDrift)
	admin("GET /admin/audit", a.adminAudit)
	admin("GET /admin/usage", a.adminUsage)
	admin("GET /admin/health", a.adminHealth)
	admin("POST /admin/health/replay/{id}", a.adminReplay)
	admin("POST /admin/health/resend/{id}", a.adminResend)
	admin("POST /admin/health/reconcile", a.adminReconcile)
	admin("GET /admin/projections", a.adminProjections)
	admin("GET /admin/projections.csv", a.projectionsCSV)

	if a.Dev != nil {
		a.Dev.routes(a, mux, page)
	}
	mux.Handle("GET /static/", a.pages.Static())
	mux.Handle("/mail/unsubscribe/", a.Outbox.UnsubscribeHandler())
	mux.HandleFunc("GET /metrics", a.metrics)
	a.liveRoutes(mux)
	mux.Handle("GET /r/", http.StripPrefix("/r", a.Referrals.Links(referral.LinkConfig{Target: "/signup", Allow: a.mayLook})))
	mux.HandleFunc("GET /api/v1/openapi.json", a.description)
	mux.Handle("GET /api", http.RedirectHandler("/api/v1/openapi.json", http.StatusSeeOther))
	mux.Handle("/api/v1/gdpr/", a.privacyAPI())
	mux.Handle("POST /api/v1/payments/webhook", a.Billing.Webhook())
	if err := a.api(mux); err != nil {
		return nil, err
	}
	page("/", func(http.ResponseWriter, *http.Request, *visit) error { return errNoPage })

	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.Details{Status: http.StatusForbidden, Code: "cross_origin", Detail: "The request comes from another site."})
	}))
	return a.counted(a.guard(csrf.Handler(a.Sessions.LoadAndSave(mux)))), nil
}

// guard is the outermost layer: it turns a panic into a page and adds the
// headers that no answer may lack.
func (a *App) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
					panic(v)
				}
				a.Log.ErrorContext(r.Context(), "kolekt: panic", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				problem.Write(w, problem.Details{Status: http.StatusInternalServerError, Code: "internal", Detail: "Something broke. We have been told."})
			}
		}()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.TLS != nil || len(a.PublicURL) > 8 && a.PublicURL[:8] == "https://" {
			w.Header().Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
		}
		next.ServeHTTP(w, r)
	})
}

// visit is one request for a page: who asks, and what they may do.
type visit struct {
	user   users.User // zero when nobody is logged in
	access billing.Decision
}

func (v *visit) known() bool { return v.user.ID != "" }

type handler func(w http.ResponseWriter, r *http.Request, v *visit) error

var (
	errNoPage    = errors.New("no such page")
	errForbidden = errors.New("not an administrator")
)

// page finds out who asks, and answers errors with a page.
func (a *App) page(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := a.visit(r)
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
			err = h(w, r, v)
		}
		if err != nil {
			a.fail(w, r, v, err)
		}
	})
}

// members lets through who is logged in.
func (a *App) members(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, v *visit) error {
		if !v.known() {
			target := "/login"
			if r.Method == http.MethodGet {
				target += "?next=" + r.URL.EscapedPath()
			}
			http.Redirect(w, r, target, http.StatusSeeOther)
			return nil
		}
		return h(w, r, v)
	}
}

// admins lets administrators through. To others the pages don't exist.
func (a *App) admins(h handler) handler {
	return a.members(func(w http.ResponseWriter, r *http.Request, v *visit) error {
		if !v.user.Admin {
			return errNoPage
		}
		return h(w, r, v)
	})
}

// visit reads the session. A session whose user is gone, or has another
// password by now, is over.
func (a *App) visit(r *http.Request) (*visit, error) {
	v := &visit{}
	id := a.Sessions.GetString(r.Context(), "user")
	if id == "" {
		return v, nil
	}
	u, err := a.Users.Store().ByID(r.Context(), id)
	if errors.Is(err, users.ErrNotFound) || err == nil && a.Users.SessionMark(u) != a.Sessions.GetString(r.Context(), "mark") {
		return v, a.Sessions.Destroy(r.Context())
	}
	if err != nil {
		return v, err
	}
	v.user = u
	v.access, err = a.Billing.Access(r.Context(), u.ID)
	return v, err
}

// show renders a page for the visitor.
func (a *App) show(w http.ResponseWriter, r *http.Request, v *visit, status int, name string, p pages.Page) error {
	if v != nil && v.known() {
		p.Visitor = &pages.Visitor{Name: v.user.Name, Email: v.user.Email, Plan: a.planName(v.access.Plan), Admin: v.user.Admin}
	}
	if p.Notice == nil {
		if text := a.Sessions.PopString(r.Context(), "notice"); text != "" {
			p.Notice = &pages.Notice{Kind: a.Sessions.PopString(r.Context(), "notice-kind"), Text: text}
		}
	}
	if a.Dev != nil {
		p.Dev = a.Dev.bar(a)
	}
	return a.pages.Render(w, status, name, p)
}

// tell keeps a message for the next page.
func (a *App) tell(r *http.Request, kind, text string) {
	a.Sessions.Put(r.Context(), "notice", text)
	a.Sessions.Put(r.Context(), "notice-kind", kind)
}

func (a *App) planName(id string) string {
	if p, err := a.Billing.Catalog().Plan(id); err == nil {
		return p.Name
	}
	return id
}

// fail answers an error that no handler has dealt with.
func (a *App) fail(w http.ResponseWriter, r *http.Request, v *visit, err error) {
	f := pages.Failure{Status: http.StatusInternalServerError, Heading: "Something broke", Text: "It isn't your fault, and we have been told. Try again in a moment.", Link: pages.Link{Href: "/", Text: "To the first page"}}
	switch {
	case errors.Is(err, errNoPage), errors.Is(err, kolekts.ErrNotFound), errors.Is(err, apikeys.ErrNotFound), errors.Is(err, billing.ErrUnknownPlan):
		f.Status, f.Heading, f.Text = http.StatusNotFound, "There is no such page", "It may have been moved or deleted."
	case errors.Is(err, kolekts.ErrGone):
		f.Status, f.Heading, f.Text = http.StatusGone, "This account is erased", "Nothing of it is kept, and nothing was counted or stored now."
	case errors.Is(err, errForbidden):
		f.Status, f.Heading, f.Text = http.StatusForbidden, "Not for you", "Ask an administrator."
	case errors.Is(err, billing.ErrUnavailable), errors.Is(err, billing.ErrUnknownOutcome):
		f.Status, f.Heading, f.Text = http.StatusServiceUnavailable, "Payments are out of reach", "Your plan and your limits stay as they are. Nothing was charged twice. Try again in a minute."
		f.Link = pages.Link{Href: "/account", Text: "To your account"}
		a.Log.WarnContext(r.Context(), "kolekt: gateway", "path", r.URL.Path, "err", err)
	case errors.Is(err, usage.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		f.Status, f.Heading, f.Text = http.StatusServiceUnavailable, "One moment", "A part of us doesn't answer. Try again in a minute."
		a.Log.ErrorContext(r.Context(), "kolekt: store", "path", r.URL.Path, "err", err)
	case errors.Is(err, context.Canceled):
		return // the visitor has gone
	default:
		a.Log.ErrorContext(r.Context(), "kolekt: page", "path", r.URL.Path, "err", err)
	}
	if err := a.show(w, r, v, f.Status, "error", pages.Page{Title: f.Heading, Data: f}); err != nil {
		a.Log.ErrorContext(r.Context(), "kolekt: error page", "err", err)
	}
}
