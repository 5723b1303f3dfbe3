package referral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// HandlerConfig is what Handler wants to know. Campaign and Person are
// required.
type HandlerConfig struct {
	Campaign string
	// Person says who asks, with what is known of them: the same signals count
	// as with Code and Redeem. An error, or an empty Account, is 401.
	Person func(*http.Request) (Person, error)
	// Allow says whether one more code may be tried: a limiter by account and
	// address, against guessing. Nil allows all.
	Allow func(*http.Request) bool
	// Link returns the link that carries a code; nil leaves it out.
	Link func(code string) string
}

// maxRequest is the greatest body of a request, in bytes.
const maxRequest = 4 << 10

// Handler answers the requests of a page about one's own referrals, as JSON.
// Mount it under any prefix with http.StripPrefix:
//
//	GET  /code         the account's code, made if there is none
//	POST /code         {"text"} → a code of the account's choice
//	POST /code/rotate  → a new code; the old one ends
//	POST /apply        {"code"} → the redemption; a code, or the token of a link
//	GET  /rewards      the account's rewards, oldest first; friends aren't named
//	GET  /stats        clicks, sign-ups and what came of them
//
// Requests of other sites are refused. Errors are RFC 9457 problems whose code
// is one of unauthenticated, cross_origin, body_unreadable, body_too_large,
// too_many_requests, invalid, code_taken, unknown_code, code_disabled,
// code_expired, not_started, code_exhausted, self_referral, already_referred,
// cycle, budget_exhausted, referrer_capped, not_eligible and unavailable.
func (s *Service) Handler(cfg HandlerConfig) (http.Handler, error) {
	if cfg.Person == nil {
		return nil, fmt.Errorf("%w: HandlerConfig.Person is required", ErrInvalid)
	}
	if _, err := s.Campaign(cfg.Campaign); err != nil {
		return nil, fmt.Errorf("%w: HandlerConfig.Campaign: %w", ErrInvalid, err)
	}
	codeJSON := func(c Code, err error) (any, error) {
		if err != nil {
			return nil, err
		}
		out := map[string]any{"code": c.Text, "uses": c.Uses, "max_uses": c.MaxUses, "expires_at": instant(c.ExpiresAt)}
		if cfg.Link != nil {
			out["link"] = cfg.Link(c.Text)
		}
		return out, nil
	}
	h := handler{s: s, who: cfg.Person}
	return h.routes(map[string]answer{
		"GET /code": func(r *http.Request, p Person) (any, error) {
			return codeJSON(s.Code(r.Context(), cfg.Campaign, p))
		},
		"POST /code": func(r *http.Request, p Person) (any, error) {
			var in struct {
				Text string `json:"text"`
			}
			if err := readJSON(r, &in); err != nil {
				return nil, err
			}
			return codeJSON(s.Vanity(r.Context(), cfg.Campaign, p, in.Text))
		},
		"POST /code/rotate": func(r *http.Request, p Person) (any, error) {
			return codeJSON(s.Rotate(r.Context(), cfg.Campaign, p))
		},
		"POST /apply": func(r *http.Request, p Person) (any, error) {
			if cfg.Allow != nil && !cfg.Allow(r) {
				return nil, errTooMany
			}
			var in struct {
				Code string `json:"code"`
			}
			if err := readJSON(r, &in); err != nil {
				return nil, err
			}
			if at, ok := s.ReadToken(in.Code); ok {
				in.Code = at.Code
			}
			red, err := s.Redeem(r.Context(), in.Code, p)
			if err != nil {
				return nil, err
			}
			return map[string]any{"id": red.ID, "state": red.State, "benefit": red.Terms.Referee, "closes_at": instant(red.ClosesAt)}, nil
		},
		"GET /rewards": func(r *http.Request, p Person) (any, error) { return s.rewardsJSON(r.Context(), p.Account) },
		"GET /stats": func(r *http.Request, p Person) (any, error) {
			f, err := s.Funnel(r.Context(), cfg.Campaign, p.Account)
			return map[string]any{"clicks": f.Clicks, "sign_ups": f.SignUps, "qualified": f.Qualified, "under_review": f.Review, "granted": f.Granted}, err
		},
	}), nil
}

func (s *Service) rewardsJSON(ctx context.Context, account string) (any, error) {
	list, err := s.Rewards(ctx, RewardFilter{Account: account, Limit: 1000})
	if err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, rw := range list {
		out = append(out, map[string]any{
			"id": rw.ID, "side": rw.Side, "state": rw.State, "benefit": rw.Benefit, "months_left": rw.MonthsLeft,
			"amount": rw.Amount, "reversed": rw.Reversed, "currency": rw.Currency, "vests_at": instant(rw.VestsAt), "created_at": rw.CreatedAt,
		})
	}
	return map[string]any{"rewards": out}, nil
}

// AdminHandler answers the requests of the people who run campaigns, as JSON.
// Allowed says whether the one who asks is one of them; an error is 403.
//
//	GET  /campaigns                    the campaigns
//	GET  /campaigns/{id}/stats         the funnel, cost, revenue and k-factor; ?holders=N counts who has a code
//	GET  /campaigns/{id}/leaders       the best referrers; ?limit=N
//	GET  /redemptions                  newest first; ?state=review&campaign=ID&limit=N
//	POST /redemptions/{id}/approve     → the redemption
//	POST /redemptions/{id}/reject      {"reason"} → the redemption
//	POST /codes/{code}/disable         → 204
//
// Errors are those of Handler, and forbidden, not_found and conflict.
func (s *Service) AdminHandler(allowed func(*http.Request) error) (http.Handler, error) {
	if allowed == nil {
		return nil, fmt.Errorf("%w: AdminHandler needs to know who is allowed", ErrInvalid)
	}
	h := handler{s: s, who: func(r *http.Request) (Person, error) {
		if err := allowed(r); err != nil {
			return Person{}, errForbidden
		}
		return Person{Account: "admin"}, nil
	}}
	return h.routes(map[string]answer{
		"GET /campaigns": func(*http.Request, Person) (any, error) { return map[string]any{"campaigns": s.cfg.Campaigns}, nil },
		"GET /campaigns/{id}/stats": func(r *http.Request, _ Person) (any, error) {
			c, err := s.Campaign(r.PathValue("id"))
			if err != nil {
				return nil, err
			}
			holders, err := number(r, "holders", 0, 1<<40)
			if err != nil {
				return nil, err
			}
			f, err := s.Funnel(r.Context(), c.ID, "")
			return map[string]any{
				"clicks": f.Clicks, "sign_ups": f.SignUps, "qualified": f.Qualified, "voided": f.Voided, "under_review": f.Review,
				"granted": f.Granted, "revenue": f.Revenue, "k_factor": f.KFactor(holders),
			}, err
		},
		"GET /campaigns/{id}/leaders": func(r *http.Request, _ Person) (any, error) {
			limit, err := number(r, "limit", 10, 1000)
			if err != nil {
				return nil, err
			}
			list, err := s.Leaders(r.Context(), r.PathValue("id"), int(limit))
			out := []map[string]any{}
			for _, l := range list {
				out = append(out, map[string]any{"account": l.Account, "qualified": l.Qualified})
			}
			return map[string]any{"leaders": out}, err
		},
		"GET /redemptions": func(r *http.Request, _ Person) (any, error) {
			limit, err := number(r, "limit", 100, 1000)
			if err != nil {
				return nil, err
			}
			q := r.URL.Query()
			list, err := s.Redemptions(r.Context(), RedemptionFilter{Campaign: q.Get("campaign"), State: RedemptionState(q.Get("state")), Limit: int(limit)})
			out := []any{}
			for _, red := range list {
				out = append(out, redemptionJSON(red))
			}
			return map[string]any{"redemptions": out}, err
		},
		"POST /redemptions/{id}/approve": func(r *http.Request, _ Person) (any, error) {
			red, err := s.Approve(r.Context(), r.PathValue("id"))
			return redemptionJSON(red), err
		},
		"POST /redemptions/{id}/reject": func(r *http.Request, _ Person) (any, error) {
			var in struct {
				Reason string `json:"reason"`
			}
			if err := readJSON(r, &in); err != nil {
				return nil, err
			}
			if in.Reason == "" || len(in.Reason) > 500 {
				return nil, fmt.Errorf("%w: a rejection needs a reason of at most 500 bytes", ErrInvalid)
			}
			red, err := s.Reject(r.Context(), r.PathValue("id"), in.Reason)
			return redemptionJSON(red), err
		},
		"POST /codes/{code}/disable": func(r *http.Request, _ Person) (any, error) { return nil, s.Disable(r.Context(), r.PathValue("code")) },
	}), nil
}

func redemptionJSON(r Redemption) any {
	return map[string]any{
		"id": r.ID, "campaign": r.Campaign, "version": r.Terms.Version, "code": r.Code, "referrer": r.Referrer, "referee": r.Referee, "state": r.State,
		"reasons": r.Reasons, "created_at": r.CreatedAt, "changed_at": r.ChangedAt, "paid": r.PaidAmount, "refunded": r.Refunded, "currency": r.Currency,
	}
}

// instant is a time as JSON, or null.
func instant(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

// number reads a parameter from 0 to most.
func number(r *http.Request, name string, def, most int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%w: %s must be a number from 0 to %d", ErrInvalid, name, most)
	}
	return n, nil
}

type answer func(r *http.Request, p Person) (any, error)

type handler struct {
	s   *Service
	who func(*http.Request) (Person, error)
}

func (h handler) routes(routes map[string]answer) http.Handler {
	mux := http.NewServeMux()
	for pattern, do := range routes {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, do) })
	}
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, problem.Details{Status: http.StatusForbidden, Code: "cross_origin", Detail: "Send the request from the application's own pages."})
	}))
	return guard.Handler(mux)
}

func (h handler) serve(w http.ResponseWriter, r *http.Request, do answer) {
	p, err := h.who(r)
	if err == nil && p.Account == "" || err != nil && !errors.Is(err, errForbidden) {
		err = errUnauthenticated
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	var out any
	if err == nil {
		out, err = do(r, p)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	body, err := json.Marshal(out)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // the client has gone: nobody to tell
}

func readJSON(r *http.Request, into any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &requestError{http.StatusUnsupportedMediaType, "body_unreadable", "Send application/json."}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &requestError{http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("A request has at most %d bytes.", maxRequest)}
	}
	return &requestError{http.StatusBadRequest, "body_unreadable", "The body is not the JSON object that this endpoint reads."}
}

// requestError is a request that never reached the service.
type requestError struct {
	status       int
	code, detail string
}

func (e *requestError) Error() string { return "referral: " + e.code + ": " + e.detail }

var (
	errUnauthenticated = &requestError{http.StatusUnauthorized, "unauthenticated", "Sign in first."}
	errForbidden       = &requestError{http.StatusForbidden, "forbidden", "This is for the people who run campaigns."}
	errTooMany         = &requestError{http.StatusTooManyRequests, "too_many_requests", "Wait a minute before you try another code."}
)

// refusalProblems are what programs and people are told about a refusal.
var refusalProblems = []struct {
	err          error
	status       int
	code, detail string
}{
	{ErrUnknownCode, 404, "unknown_code", "There is no such code."},
	{ErrDisabled, 409, "code_disabled", "This code has ended."},
	{ErrExpired, 409, "code_expired", "This code or its campaign has ended."},
	{ErrNotStarted, 409, "not_started", "The campaign hasn't started yet."},
	{ErrExhausted, 409, "code_exhausted", "This code is used up."},
	{ErrSelf, 409, "self_referral", "Nobody refers themselves. If you are somebody else, ask the support to look at it."},
	{ErrAlreadyReferred, 409, "already_referred", "This account has used a code before."},
	{ErrCycle, 409, "cycle", "These accounts refer each other."},
	{ErrBudget, 409, "budget_exhausted", "The campaign's budget is used up."},
	{ErrCapped, 409, "referrer_capped", "Whose code it is has reached the most rewards of the period."},
	{ErrNotEligible, 409, "not_eligible", "The campaign isn't for this account."},
	{ErrCodeTaken, 409, "code_taken", "Choose another text: this one is taken."},
	{ErrConflict, 409, "conflict", "It isn't in the state that this starts from. Look at it again."},
	{ErrNotFound, 404, "not_found", "There is no such thing here."},
}

func (h handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var bad *requestError
	if errors.As(err, &bad) {
		if bad.status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "60")
		}
		problem.Write(w, problem.Details{Status: bad.status, Code: bad.code, Detail: bad.detail})
		return
	}
	for _, p := range refusalProblems {
		if errors.Is(err, p.err) {
			problem.Write(w, problem.Details{Status: p.status, Code: p.code, Detail: p.detail})
			return
		}
	}
	if errors.Is(err, ErrInvalid) {
		problem.Write(w, problem.Details{Status: http.StatusUnprocessableEntity, Code: "invalid", Detail: err.Error()})
		return
	}
	h.s.cfg.Logger.ErrorContext(r.Context(), "referral: a request failed", "path", r.URL.Path, "err", err)
	w.Header().Set("Retry-After", "1")
	problem.Write(w, problem.Details{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "Try again: the same request has its effect once."})
}
