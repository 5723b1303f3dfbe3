package web

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
	"github.com/kolekt/commerce/examples/kolekt/internal/users"
	"github.com/kolekt/commerce/internal/problem"
	"github.com/kolekt/commerce/referral"
)

// Friends is the campaign of the application.
const Friends = "friends"

// redeem takes a code, or the token of a link, from a sign-up.
func (a *App) redeem(ctx context.Context, u users.User, text string) error {
	if at, ok := a.Referrals.ReadToken(text); ok {
		text = at.Code
	}
	_, err := a.Referrals.Redeem(ctx, text, referral.Person{Account: u.ID, Email: u.Email})
	return err
}

// refusedCode says why a code didn't do, in words for people.
func refusedCode(err error) (string, bool) {
	for kind, text := range map[error]string{
		referral.ErrUnknownCode: "There is no such code.", referral.ErrInvalid: "There is no such code.", referral.ErrDisabled: "This code has ended.", referral.ErrExpired: "This code has ended.",
		referral.ErrNotStarted: "This code doesn't work yet.", referral.ErrExhausted: "This code has been used ten times, which is all it can do.",
		referral.ErrSelf: "This is your own code.", referral.ErrAlreadyReferred: "You have used a code already.", referral.ErrCycle: "You two can't invite each other.",
		referral.ErrBudget: "The campaign has ended.", referral.ErrCapped: "This code has ended for this year.", referral.ErrNotEligible: "Codes are for new accounts.",
	} {
		if errors.Is(err, kind) {
			return text, true
		}
	}
	return "", false
}

// coupon is what a new account's first payment is reduced by.
func (a *App) coupon(ctx context.Context, account string, o billing.Order) (string, error) {
	price, err := a.Billing.Catalog().Price(o.Plan, o.Currency, o.Interval)
	if err != nil {
		return "", err
	}
	months := max(1, price.IntervalCount)
	if price.Interval == billing.Year {
		months *= 12
	}
	return a.Referrals.CheckoutCoupon(ctx, account, referral.Price{Amount: price.Amount.Amount, Currency: price.Amount.Currency, Months: months})
}

func (a *App) inviter(u users.User) referral.Person {
	return referral.Person{Account: u.ID, Email: u.Email}
}

func (a *App) referralPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.showReferral(w, r, v, http.StatusOK, pages.Form{})
}

func (a *App) showReferral(w http.ResponseWriter, r *http.Request, v *visit, status int, form pages.Form) error {
	code, err := a.Referrals.Code(r.Context(), Friends, a.inviter(v.user))
	if err != nil {
		return err
	}
	f, err := a.Referrals.Funnel(r.Context(), Friends, v.user.ID)
	if err != nil {
		return err
	}
	rewards, err := a.Referrals.Rewards(r.Context(), referral.RewardFilter{Account: v.user.ID})
	if err != nil {
		return err
	}
	data := pages.Referral{Code: code.Text, Link: a.PublicURL + "/r/" + code.Text, Form: form, CanApply: !v.access.Paid}
	data.Stats = []pages.Stat{
		{Label: "Clicks", Value: number(f.Clicks)}, {Label: "Signed up", Value: number(f.SignUps)},
		{Label: "Paid", Value: number(f.Qualified)}, {Label: "Uses left", Value: number(code.MaxUses - code.Uses), Note: "of " + number(code.MaxUses)},
	}
	data.Rewards = pages.Table{Caption: "A free month comes off the next renewal, 30 days after your friend has paid", Heads: []string{"Since", "Reward", "State"}, Empty: "No rewards yet."}
	for _, w := range rewards {
		what := "Half of the first month"
		if w.Benefit.FreeMonths > 0 {
			what = count(w.Benefit.FreeMonths, "free month")
		}
		data.Rewards.Rows = append(data.Rewards.Rows, pages.Row{Cells: []string{date(w.CreatedAt), what, rewardText(w)}})
	}
	return a.show(w, r, v, status, "referral", pages.Page{Title: "Friends", Nav: "account", Data: data})
}

func rewardText(w referral.Reward) string {
	switch w.State {
	case referral.RewardPending:
		return "Waits for the first payment"
	case referral.RewardQualified:
		if w.VestsAt.IsZero() {
			return "On its way"
		}
		return "On its way, from " + date(w.VestsAt)
	case referral.RewardGranted:
		return "Granted: " + billing.Money{Amount: w.Amount, Currency: w.Currency}.String()
	case referral.RewardReversed:
		return "Taken back"
	case referral.RewardExpired:
		return "Lapsed"
	}
	return string(w.State)
}

func (a *App) applyCode(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := a.attempt(r, v.user.Email); err != nil {
		return a.showReferral(w, r, v, http.StatusTooManyRequests, pages.Form{Errors: map[string]string{"code": sentence(err)}})
	}
	err := a.redeem(r.Context(), v.user, r.FormValue("code"))
	if text, ok := refusedCode(err); ok {
		return a.showReferral(w, r, v, http.StatusUnprocessableEntity, pages.Form{Values: map[string]string{"code": r.FormValue("code")}, Errors: map[string]string{"code": text}})
	} else if err != nil {
		return err
	}
	a.tell(r, "good", "The code is yours: half of your first month is on your friend.")
	http.Redirect(w, r, "/account/referral", http.StatusSeeOther)
	return nil
}

func (a *App) apiReferral(w http.ResponseWriter, r *http.Request, c *caller) error {
	u, err := a.Users.Store().ByID(r.Context(), c.account)
	if err != nil {
		return err
	}
	code, err := a.Referrals.Code(r.Context(), Friends, a.inviter(u))
	if err != nil {
		return err
	}
	f, err := a.Referrals.Funnel(r.Context(), Friends, c.account)
	if err != nil {
		return err
	}
	list, err := a.Referrals.Rewards(r.Context(), referral.RewardFilter{Account: c.account})
	if err != nil {
		return err
	}
	rewards := []map[string]any{}
	for _, x := range list {
		rewards = append(rewards, map[string]any{"id": x.ID, "side": x.Side, "state": x.State, "created_at": x.CreatedAt, "months_left": x.MonthsLeft, "amount": billing.Money{Amount: x.Amount, Currency: x.Currency}})
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"code": code.Text, "url": a.PublicURL + "/r/" + code.Text, "uses": code.Uses, "max_uses": code.MaxUses,
		"stats": map[string]any{"clicks": f.Clicks, "sign_ups": f.SignUps, "paid": f.Qualified}, "rewards": rewards,
	})
	return nil
}

func (a *App) apiApply(w http.ResponseWriter, r *http.Request, c *caller) error {
	var in struct {
		Code string `json:"code"`
	}
	if err := read(r, &in); err != nil {
		return err
	}
	u, err := a.Users.Store().ByID(r.Context(), c.account)
	if err != nil {
		return err
	}
	if err := a.attempt(r, u.Email); err != nil {
		return err
	}
	if err := a.redeem(r.Context(), u, strings.TrimSpace(in.Code)); err != nil {
		return err
	}
	return a.apiReferral(w, r, c)
}

// codeProblem says a refused code to a program.
func codeProblem(err error) (problem.Details, bool) {
	text, ok := refusedCode(err)
	return problem.Details{Status: http.StatusConflict, Code: "code_refused", Detail: text}, ok
}
