package web

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/kolekts"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/internal/problem"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/usage"
)

// caller is who asks the JSON API: a person with a session or a key.
type caller struct {
	account string
	access  billing.Decision
	key     *apikeys.Principal // nil for a session
}

type apiHandler func(w http.ResponseWriter, r *http.Request, c *caller) error

func (a *App) api(mux *http.ServeMux) error {
	open := func(pattern string, h apiHandler) { mux.Handle(pattern, a.json(h)) }
	byKey := a.Keys.Middleware(apikeys.MiddlewareConfig{TrustedProxies: a.Trusted})
	// A key or a session, within the account's rate; a key needs the scope.
	both := func(pattern, scope string, h apiHandler) {
		metered := a.json(a.identified(a.paced(h)))
		withKey := byKey(apikeys.Require(scope)(metered))
		mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" || r.Header.Get("X-API-Key") != "" {
				withKey.ServeHTTP(w, r)
				return
			}
			metered.ServeHTTP(w, r)
		}))
	}
	// A session only: what concerns money and the account itself.
	person := func(pattern string, h apiHandler) { mux.Handle(pattern, a.json(a.identified(a.paced(h)))) }

	open("POST /api/v1/auth/signup", a.apiSignUp)
	open("POST /api/v1/auth/login", a.apiLogIn)
	open("POST /api/v1/auth/logout", a.apiLogOut)

	both("POST /api/v1/kolekts", "kolekts:write", a.apiMake)
	both("GET /api/v1/kolekts", "kolekts:read", a.apiList)
	both("GET /api/v1/kolekts/{id}", "kolekts:read", a.apiFind)
	both("DELETE /api/v1/kolekts/{id}", "kolekts:write", a.apiDelete)
	both("GET /api/v1/usage", "kolekts:read", a.apiUsage)
	both("GET /api/v1/analytics", "kolekts:read", a.apiAnalytics)
	both("GET /api/v1/limits", "kolekts:read", a.apiLimits)

	person("GET /api/v1/subscriptions/current", a.apiSubscription)
	person("POST /api/v1/subscriptions", a.apiSubscribe)
	person("POST /api/v1/payments/create-checkout-session", a.apiCheckout)
	person("POST /api/v1/payments/portal-session", a.apiPortal)
	person("POST /api/v1/payments/change-plan", a.apiChange)
	person("POST /api/v1/payments/cancel", a.apiCancel)
	person("POST /api/v1/payments/resume", a.apiResume)

	person("GET /api/v1/api-keys", a.apiKeys)
	person("POST /api/v1/api-keys", a.apiIssueKey)
	person("POST /api/v1/api-keys/{id}/rotate", a.apiRotateKey)
	person("DELETE /api/v1/api-keys/{id}", a.apiRevokeKey)

	admin := func(pattern string, h apiHandler) {
		mux.Handle(pattern, a.json(a.identified(a.paced(a.administrator(h)))))
	}
	admin("GET /api/v1/admin/revenue", a.apiRevenue)
	admin("GET /api/v1/admin/users", a.apiUsers)
	admin("GET /api/v1/admin/usage", a.apiPlatform)
	admin("GET /api/v1/admin/health", a.apiHealth)
	admin("GET /api/v1/admin/drift", a.apiDrift)
	admin("GET /api/v1/admin/projections", a.apiProjections)

	person("GET /api/v1/referrals", a.apiReferral)
	person("POST /api/v1/referrals/apply", a.apiApply)

	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if err := a.Ready(r.Context()); err != nil {
			a.Log.WarnContext(r.Context(), "kolekt: not ready", "err", err)
			problem.Write(w, problem.Details{Status: http.StatusServiceUnavailable, Code: "not_ready", Detail: "A store doesn't answer."})
			return
		}
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	open("/api/", func(http.ResponseWriter, *http.Request, *caller) error { return errNoPage })
	return nil
}

// json answers errors with problem details.
func (a *App) json(h apiHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		w.Header().Set("Cache-Control", "no-store")
		if err := h(w, r, &caller{}); err != nil {
			problem.Write(w, a.problem(r, err))
		}
	})
}

var errNobody = errors.New("kolekt: nobody is logged in")

// identified finds out who asks, by the key that the middleware has checked or
// by the session.
func (a *App) identified(h apiHandler) apiHandler {
	return func(w http.ResponseWriter, r *http.Request, c *caller) error {
		if c.key = apikeys.FromContext(r.Context()); c.key != nil {
			c.account = c.key.Account()
			var err error
			if c.access, err = a.Feed.Access(r.Context(), c.account); err != nil {
				return err
			}
			return h(w, r, c)
		}
		v, err := a.visit(r)
		if err != nil {
			return err
		}
		if !v.known() {
			return errNobody
		}
		c.account, c.access = v.user.ID, v.access
		return h(w, r, c)
	}
}

// paced counts the request against the account's rate and says in headers how
// much is left.
func (a *App) paced(h apiHandler) apiHandler {
	return func(w http.ResponseWriter, r *http.Request, c *caller) error {
		d, err := a.Requests.Allow(r.Context(), c.account, a.plans[c.access.Plan], 1)
		if err != nil {
			return err
		}
		d.WriteHeaders(w.Header(), ratelimit.StandardHeaders)
		if !d.Allowed() {
			a.throttled(c.account, c.access.Plan)
			return &rateError{d}
		}
		return h(w, r, c)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		problem.Write(w, problem.Details{Status: http.StatusInternalServerError, Code: "internal"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody to tell
}

// bodyError says what is wrong with a request's JSON.
type bodyError struct{ detail string }

func (e *bodyError) Error() string { return "kolekt: " + e.detail }

// read decodes a request's body, strictly.
func read(r *http.Request, v any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		var tooBig *http.MaxBytesError
		switch {
		case errors.As(err, &tooBig):
			return err
		case errors.Is(err, io.EOF):
			return &bodyError{"the body is empty: send a JSON object"}
		}
		return &bodyError{"the body can't be read: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if dec.More() {
		return &bodyError{"the body has more than one JSON value"}
	}
	return nil
}

// problem says an error to a program.
func (a *App) problem(r *http.Request, err error) problem.Details {
	var quota *quotaError
	var fast *rateError
	var body *bodyError
	var plan *planError
	var tooBig *http.MaxBytesError
	if d, ok := codeProblem(err); ok {
		return d
	}
	if field, ok := refusedText(err); ok {
		if field == "" {
			field = "tone"
		}
		return invalid(field, err)
	}
	switch {
	case errors.As(err, &quota):
		d := problem.Details{Status: http.StatusPaymentRequired, Code: "quota_exceeded", Detail: sentence(err), Extra: map[string]any{"used": quota.Used, "limit": quota.Limit, "resets_at": quota.Reset()}}
		a.help(r, &d, quota.Account, meterKolekts, quota.Limit+1)
		return d
	case errors.As(err, &fast):
		d := problem.Details{Status: http.StatusTooManyRequests, Code: "rate_limited", Detail: "Too many requests: wait as long as Retry-After says.", Extra: map[string]any{"retry_after": int64(fast.RetryAfter().Seconds()) + 1}}
		if n, ok := fast.Nearest(); ok {
			d.Extra["limit"] = n.Limit
			if v, err := a.visitorOf(r); err == nil {
				a.help(r, &d, v, "requests", n.Limit+1)
			}
		}
		return d
	case errors.As(err, &plan):
		return problem.Details{Status: http.StatusPaymentRequired, Code: "plan_required", Detail: "The plan doesn't include this.", Extra: map[string]any{"feature": plan.feature, "upgrade": map[string]any{"url": a.PublicURL + "/pricing"}}}
	case errors.As(err, &body):
		return problem.Details{Status: http.StatusBadRequest, Code: "bad_json", Detail: sentence(body)}
	case errors.As(err, &tooBig):
		return problem.Details{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Detail: "The body has more than 1 MiB."}
	case errors.Is(err, kolekts.ErrGone):
		return problem.Details{Status: http.StatusUnauthorized, Code: "erased", Detail: "The account is erased."}
	case errors.Is(err, errNobody):
		return problem.Details{Status: http.StatusUnauthorized, Code: "unauthenticated", Detail: "Log in at /api/v1/auth/login, or send an API key: Authorization: Bearer …"}
	case errors.Is(err, errTooMany):
		return problem.Details{Status: http.StatusTooManyRequests, Code: "too_many_attempts", Detail: sentence(err)}
	case errors.Is(err, users.ErrCredentials):
		return problem.Details{Status: http.StatusUnauthorized, Code: "bad_credentials", Detail: sentence(err)}
	case errors.Is(err, users.ErrTaken):
		return problem.Details{Status: http.StatusConflict, Code: "email_taken", Detail: sentence(err)}
	case errors.Is(err, users.ErrEmail):
		return invalid("email", err)
	case errors.Is(err, users.ErrPassword):
		return invalid("password", err)
	case errors.Is(err, users.ErrName):
		return invalid("name", err)
	case errors.Is(err, billing.ErrUnknownPlan):
		return invalid("plan_type", err)
	case errors.Is(err, billing.ErrSubscribed):
		return problem.Details{Status: http.StatusConflict, Code: "subscribed", Detail: "The account has a plan: change it at /api/v1/payments/change-plan."}
	case errors.Is(err, billing.ErrNoSubscription):
		return problem.Details{Status: http.StatusConflict, Code: "not_subscribed", Detail: "The account has no plan: choose one at /api/v1/payments/create-checkout-session."}
	case errors.Is(err, billing.ErrAmountChanged):
		return problem.Details{Status: http.StatusConflict, Code: "amount_changed", Detail: "The change costs something else by now."}
	case errors.Is(err, billing.ErrDeclined):
		return problem.Details{Status: http.StatusPaymentRequired, Code: "card_declined", Detail: "The card was declined, and nothing has changed."}
	case errors.Is(err, billing.ErrInvalid), errors.Is(err, apikeys.ErrInvalid):
		return problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Detail: sentence(err)}
	case errors.Is(err, apikeys.ErrScope), errors.Is(err, errForbidden):
		return problem.Details{Status: http.StatusForbidden, Code: "forbidden", Detail: sentence(err)}
	case errors.Is(err, apikeys.ErrState):
		return problem.Details{Status: http.StatusConflict, Code: "key_state", Detail: sentence(err)}
	case errors.Is(err, errNoPage), errors.Is(err, kolekts.ErrNotFound), errors.Is(err, apikeys.ErrNotFound), errors.Is(err, billing.ErrNotFound):
		return problem.Details{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such thing, or it isn't yours."}
	case errors.Is(err, billing.ErrUnavailable), errors.Is(err, billing.ErrUnknownOutcome), errors.Is(err, usage.ErrUnavailable), errors.Is(err, usage.ErrUnknownOutcome), errors.Is(err, ratelimit.ErrUnavailable):
		a.Log.WarnContext(r.Context(), "kolekt: unavailable", "path", r.URL.Path, "err", err)
		return problem.Details{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "A part of us doesn't answer: try again."}
	}
	a.Log.ErrorContext(r.Context(), "kolekt: api", "path", r.URL.Path, "err", err)
	return problem.Details{Status: http.StatusInternalServerError, Code: "internal", Detail: "Something broke. We have been told."}
}

func invalid(field string, err error) problem.Details {
	return problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Detail: sentence(err), Errors: []problem.FieldError{{Field: field, Code: "invalid", Detail: sentence(err)}}}
}

func (a *App) visitorOf(r *http.Request) (string, error) {
	if p := apikeys.FromContext(r.Context()); p != nil {
		return p.Account(), nil
	}
	v, err := a.visit(r)
	return v.user.ID, err
}

// help names the plan that would.
func (a *App) help(r *http.Request, d *problem.Details, account, limit string, needed int64) {
	access, err := a.Billing.Access(r.Context(), account)
	if err != nil {
		return // the refusal stands without it
	}
	if plan, ok := access.Upgrade(limit, needed); ok {
		d.Extra["upgrade"] = map[string]any{"plan": plan.ID, "name": plan.Name, "limit": plan.Limits[limit].String(), "url": a.PublicURL + "/pricing"}
	}
}

type credentials struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Name     string `json:"name"`
	Code     string `json:"referral_code"`
}

func (a *App) person(u users.User) map[string]any {
	return map[string]any{"id": u.ID, "email": u.Email, "name": u.Name, "verified": !u.VerifiedAt.IsZero(), "created_at": u.CreatedAt}
}

func (a *App) apiSignUp(w http.ResponseWriter, r *http.Request, _ *caller) error {
	var in credentials
	if err := read(r, &in); err != nil {
		return err
	}
	u, err := a.register(r, in.Email, in.Password, in.Name, in.Code)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, a.person(u))
	return nil
}

func (a *App) apiLogIn(w http.ResponseWriter, r *http.Request, _ *caller) error {
	var in credentials
	if err := read(r, &in); err != nil {
		return err
	}
	if err := a.attempt(r, in.Email); err != nil {
		return err
	}
	u, err := a.Users.LogIn(r.Context(), in.Email, in.Password)
	if err != nil {
		return err
	}
	if err := a.enter(r, u); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, a.person(u))
	return nil
}

func (a *App) apiLogOut(w http.ResponseWriter, r *http.Request, _ *caller) error {
	if err := a.Sessions.Destroy(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *App) apiMake(w http.ResponseWriter, r *http.Request, c *caller) error {
	var draft kolekts.Draft
	if err := read(r, &draft); err != nil {
		return err
	}
	k, err := a.make(r.Context(), c.account, c.access.Plan, draft)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/kolekts/"+k.ID)
	writeJSON(w, http.StatusCreated, k)
	return nil
}

func (a *App) apiList(w http.ResponseWriter, r *http.Request, c *caller) error {
	const perPage = 50
	list, err := a.Kolekts.List(r.Context(), c.account, r.FormValue("before"), perPage)
	if err != nil {
		return err
	}
	out := map[string]any{"kolekts": append([]kolekts.Kolekt{}, list...)}
	if len(list) == perPage {
		out["before"] = list[perPage-1].ID
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (a *App) apiFind(w http.ResponseWriter, r *http.Request, c *caller) error {
	k, err := a.Kolekts.Find(r.Context(), c.account, r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, k)
	return nil
}

func (a *App) apiDelete(w http.ResponseWriter, r *http.Request, c *caller) error {
	if err := a.Kolekts.Delete(r.Context(), c.account, r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *App) apiUsage(w http.ResponseWriter, r *http.Request, c *caller) error {
	f, err := a.Usage.Forecast(r.Context(), c.account, meterKolekts)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"meter": meterKolekts, "used": f.Decision.Used, "limit": f.Decision.Limit, "remaining": f.Decision.Remaining, "period": f.Decision.Period, "forecast": f.AtEnd})
	return nil
}

func (a *App) apiAnalytics(w http.ResponseWriter, r *http.Request, c *caller) error {
	q := usage.Query{Account: c.account, Meter: meterKolekts}
	for name, at := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		if text := r.FormValue(name); text != "" {
			t, err := time.Parse(time.DateOnly, text)
			if err != nil {
				return &bodyError{name + " is not a date such as 2026-01-31"}
			}
			*at = t
		}
	}
	sum, err := a.Usage.Summary(r.Context(), q)
	if err != nil {
		return err
	}
	days, err := a.Usage.Series(r.Context(), q)
	if err != nil {
		return err
	}
	q.GroupBy = "tone"
	tones, err := a.Usage.Summary(r.Context(), q)
	if err != nil {
		return err
	}
	series := []map[string]any{}
	for _, d := range days {
		series = append(series, map[string]any{"from": d.From, "to": d.To, "kolekts": d.Count})
	}
	byTone := map[string]int64{}
	for _, g := range tones.Groups {
		byTone[g.Name] = g.Value.Count
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"from": sum.From, "to": sum.To, "kolekts": sum.Value.Count, "posts": sum.Measures["posts"].Sum, "characters": sum.Measures["characters"].Sum,
		"average_engagement": sum.Measures["engagement_score"].Average(), "by_tone": byTone, "days": series,
	})
	return nil
}

func (a *App) apiLimits(w http.ResponseWriter, r *http.Request, c *caller) error {
	limits := map[string]any{}
	for _, t := range things {
		l, err := c.access.Limit(t.limit)
		if err != nil {
			return err
		}
		limits[t.limit] = l
	}
	refused, err := a.refusedOf(r.Context(), c.account)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"plan": c.access.Plan, "limits": limits, "period": c.access.Period, "refused_24h": refused})
	return nil
}
