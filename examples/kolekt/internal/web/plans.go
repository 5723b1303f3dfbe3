package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

func (a *App) home(w http.ResponseWriter, r *http.Request, v *visit) error {
	if v.known() {
		http.Redirect(w, r, "/kolekts", http.StatusSeeOther)
		return nil
	}
	return a.show(w, r, v, http.StatusOK, "home", pages.Page{Title: "Long thoughts, in good order", Data: pages.Home{
		Sample: []string{
			"Some ideas don't fit in one post. They arrive with their reasons, their examples and their doubts, and each of them wants a little room.\n\n1/3",
			"So write the whole thing first. Don't count. When it stands, look for the places where a reader would nod: those are the ends of your posts.\n\n2/3",
			"What would you write if nobody counted?\n\n3/3",
		},
		Pricing: a.pricingCards(billing.Month, v.access, false),
	}})
}

func interval(r *http.Request) billing.Interval {
	if r.FormValue("interval") == "year" {
		return billing.Year
	}
	return billing.Month
}

func (a *App) pricing(w http.ResponseWriter, r *http.Request, v *visit) error {
	return a.show(w, r, v, http.StatusOK, "pricing", pages.Page{Title: "Pricing", Nav: "pricing", Data: a.pricingCards(interval(r), v.access, v.known())})
}

func (a *App) pricingCards(every billing.Interval, access billing.Decision, known bool) pages.Pricing {
	p := pages.Pricing{Yearly: every == billing.Year, Currency: "US dollars"}
	for _, plan := range a.Billing.Catalog().Plans() {
		card := a.planCard(plan, every, access)
		if !known {
			card.Current = false
			card.Action = &pages.Action{Text: "Choose " + plan.Name, Href: "/signup?next=" + url.QueryEscape("/pricing?interval="+string(every)), Quiet: !card.Featured}
			if len(plan.Prices) == 0 {
				card.Action = &pages.Action{Text: "Start free", Href: "/signup", Quiet: true}
			}
		}
		p.Plans = append(p.Plans, card)
	}
	return p
}

// planCard is a plan as the account sees it: its own, one to pay for, or one
// to change to.
func (a *App) planCard(plan billing.Plan, every billing.Interval, access billing.Decision) pages.PlanCard {
	card := pages.PlanCard{ID: plan.ID, Name: plan.Name, Blurb: plan.Description, Price: billing.Money{Currency: "USD"}.String(), Features: a.features(plan), Featured: plan.ID == "pro"}
	card.Current = access.Plan == plan.ID
	price, err := a.Billing.Catalog().Price(plan.ID, "", every)
	if err != nil {
		// The free plan: it is left by paying and entered by cancelling.
		card.Price = "$0"
		if access.Paid {
			card.Action = &pages.Action{Text: "Cancel in your account", Href: "/account", Quiet: true}
		}
		return card
	}
	card.Price, card.Interval = price.Amount.String(), string(price.Interval)
	if monthly, err := a.Billing.Catalog().Price(plan.ID, price.Amount.Currency, billing.Month); err == nil && every == billing.Year {
		if share, err := price.Amount.Share(1, 12); err == nil {
			card.PerMonth = share.String()
		}
		if free := 12 - price.Amount.Amount/max(1, monthly.Amount.Amount); free > 0 {
			card.Saving = count(free, "month") + " free"
		}
	}
	if plan.TrialDays > 0 && !access.Paid {
		card.Trial = "First " + count(plan.TrialDays, "day") + " free"
	}
	switch {
	case card.Current && !access.Paid && access.Reason != billing.ReasonComp:
	case access.Paid:
		text := "Change to " + plan.Name
		if card.Current {
			text = "Pay by the " + string(every)
		}
		card.Action = &pages.Action{Text: text, Href: "/account/change?" + url.Values{"plan": {plan.ID}, "interval": {string(every)}}.Encode(), Quiet: !card.Featured || card.Current, Dialog: true}
	default:
		card.Action = &pages.Action{Text: "Choose " + plan.Name, Post: true, Href: "/checkout", Plan: plan.ID, Yearly: every == billing.Year, Quiet: !card.Featured}
	}
	return card
}

// order reads which plan a form asks for.
func order(r *http.Request) billing.Order {
	return billing.Order{Plan: r.FormValue("plan"), Interval: interval(r)}
}

func (a *App) checkout(w http.ResponseWriter, r *http.Request, v *visit) error {
	c, err := a.openCheckout(r.Context(), v.user.ID, order(r))
	if errors.Is(err, billing.ErrSubscribed) {
		http.Redirect(w, r, "/account/change?"+url.Values{"plan": {r.FormValue("plan")}, "interval": {string(interval(r))}}.Encode(), http.StatusSeeOther)
		return nil
	} else if err != nil {
		return err
	}
	http.Redirect(w, r, c.URL, http.StatusSeeOther)
	return nil
}

// openCheckout opens the payment page, with what a friend has given.
func (a *App) openCheckout(ctx context.Context, account string, o billing.Order) (billing.Checkout, error) {
	var err error
	if o.CouponID, err = a.coupon(ctx, account, o); err != nil {
		return billing.Checkout{}, err
	}
	return a.Billing.Checkout(ctx, account, billing.CheckoutOrder{Order: o, SuccessURL: a.PublicURL + "/checkout/return?session={CHECKOUT_SESSION_ID}", CancelURL: a.PublicURL + "/checkout/return"})
}

// checkoutReturn is where the payment page sends people. They may be faster
// than the webhook: it asks, and comes to the same result.
func (a *App) checkoutReturn(w http.ResponseWriter, r *http.Request, v *visit) error {
	session := r.FormValue("session")
	data := pages.Return{State: "failed", Detail: "You left the payment page. Nothing was charged, and your plan is what it was."}
	if session != "" {
		c, access, err := a.Billing.SyncCheckout(r.Context(), v.user.ID, session)
		switch {
		case errors.Is(err, billing.ErrNotFound):
			return errNoPage
		case errors.Is(err, billing.ErrUnavailable):
			data.State, data.Detail = "waiting", "The payment page has sent you back, but its answer isn't here yet. Your plan changes as soon as it comes, also when you leave this page."
		case err != nil:
			return err
		case access.Paid:
			v.access = access
			plan, err := a.Billing.Catalog().Plan(access.Plan)
			if err != nil {
				return err
			}
			data = pages.Return{State: "paid", Plan: plan.Name, Gains: a.features(plan)}
		case c.Status == "complete":
			data.State, data.Detail = "waiting", "Your bank hasn't confirmed the payment yet. Your plan changes as soon as it has."
		case c.Status == "open":
			data.Detail = "The payment isn't finished. Nothing was charged."
		}
	}
	data.Now = v.access.Plan
	return a.show(w, r, v, http.StatusOK, "return", pages.Page{Title: "Checkout", Data: data})
}

// changeForm shows what a change would cost before anything happens.
func (a *App) changeForm(w http.ResponseWriter, r *http.Request, v *visit) error {
	o := order(r)
	to, err := a.Billing.Catalog().Plan(o.Plan)
	if err != nil {
		return err
	}
	sub, err := a.Billing.Subscription(r.Context(), v.user.ID)
	if errors.Is(err, billing.ErrNoSubscription) || err == nil && !sub.Status.Live() {
		http.Redirect(w, r, "/pricing", http.StatusSeeOther)
		return nil
	} else if err != nil {
		return err
	}
	p, err := a.Billing.Preview(r.Context(), v.user.ID, o)
	if errors.Is(err, billing.ErrInvalid) {
		a.tell(r, "warn", "The plan can't be changed now: pay the open invoice first.")
		http.Redirect(w, r, "/account", http.StatusSeeOther)
		return nil
	} else if err != nil {
		return err
	}
	from, err := a.Billing.Catalog().Plan(v.access.Plan)
	if err != nil {
		return err
	}
	data := pages.Change{
		From: a.planCard(from, every(sub), v.access), To: a.planCard(to, o.Interval, v.access),
		Yearly: o.Interval == billing.Year, Downgrade: p.Downgrade,
		Date: strconv.FormatInt(p.Confirm.At.Unix(), 10), Amount: strconv.FormatInt(p.Confirm.Due.Amount, 10), Currency: p.Confirm.Due.Currency, When: string(p.Confirm.When),
		Next: "Due now", Due: p.Due.String(), Detail: "The new limits count at once. What you have used in this period stays used.",
	}
	if p.Due.Amount < 0 {
		data.Next, data.Due = "Credit for the next invoices", billing.Money{Amount: -p.Due.Amount, Currency: p.Due.Currency}.String()
	}
	if p.When == billing.PeriodEnd {
		data.Next, data.Due = "Due now", p.Due.String()
		data.Detail = "Until " + date(p.At) + " everything stays as it is. Then you move to " + to.Name + ", and pay what stands above each time."
	}
	for _, l := range p.Invoice.Lines {
		data.Lines = append(data.Lines, pages.ChangeLine{Text: l.Description, Amount: billing.Money{Amount: l.Amount, Currency: p.Invoice.Currency}.String()})
	}
	return a.show(w, r, v, http.StatusOK, "change", pages.Page{Title: "Change plan", Nav: "pricing", Data: data})
}

// every is how often a subscription is paid.
func every(s billing.Subscription) billing.Interval {
	if len(s.Items) > 0 && s.Items[0].Price.Interval != "" {
		return s.Items[0].Price.Interval
	}
	return billing.Month
}

func (a *App) change(w http.ResponseWriter, r *http.Request, v *visit) error {
	at, err1 := strconv.ParseInt(r.FormValue("date"), 10, 64)
	due, err2 := strconv.ParseInt(r.FormValue("amount"), 10, 64)
	if err1 != nil || err2 != nil {
		return errNoPage
	}
	o := order(r)
	confirm := billing.Confirm{At: time.Unix(at, 0).UTC(), Due: billing.Money{Amount: due, Currency: r.FormValue("currency")}, When: billing.When(r.FormValue("when"))}
	sub, err := a.Billing.ChangePlan(r.Context(), v.user.ID, o, &confirm)
	switch {
	case errors.Is(err, billing.ErrAmountChanged):
		a.tell(r, "warn", "The amount has changed in the meantime. Look at it once more.")
		http.Redirect(w, r, "/account/change?"+url.Values{"plan": {o.Plan}, "interval": {string(o.Interval)}}.Encode(), http.StatusSeeOther)
		return nil
	case errors.Is(err, billing.ErrDeclined):
		a.tell(r, "bad", "The card was declined, and your plan is what it was. Try another card under “Card and invoices”.")
	case errors.Is(err, billing.ErrInvalid), errors.Is(err, billing.ErrNoSubscription):
		a.tell(r, "warn", "The plan can't be changed now: pay the open invoice first.")
	case err != nil:
		return err
	case sub.Scheduled != nil && !sub.Scheduled.At.IsZero():
		a.tell(r, "good", fmt.Sprintf("You move to %s on %s. Until then everything stays as it is.", a.planName(o.Plan), date(sub.Scheduled.At)))
	default:
		a.tell(r, "good", fmt.Sprintf("You are on %s now.", a.planName(o.Plan)))
	}
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

func (a *App) cancel(w http.ResponseWriter, r *http.Request, v *visit) error {
	sub, err := a.Billing.Cancel(r.Context(), v.user.ID, billing.CancelOptions{})
	switch {
	case errors.Is(err, billing.ErrNoSubscription):
		a.tell(r, "info", "There is no plan to cancel.")
	case err != nil:
		return err
	case sub.Status.Terminal():
		a.tell(r, "good", "Your plan has ended. You are on the free plan.")
	default:
		a.tell(r, "good", "Your plan ends on "+date(endOf(sub))+". Until then everything stays as it is, and you can change your mind.")
	}
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

func (a *App) resume(w http.ResponseWriter, r *http.Request, v *visit) error {
	switch _, err := a.Billing.Resume(r.Context(), v.user.ID); {
	case errors.Is(err, billing.ErrNoSubscription):
		a.tell(r, "info", "The plan has ended already: choose one again.")
	case err != nil:
		return err
	default:
		a.tell(r, "good", "Good to have you back. Your plan goes on.")
	}
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

// keep withdraws a change of plan that waits for the end of the period.
func (a *App) keep(w http.ResponseWriter, r *http.Request, v *visit) error {
	switch _, err := a.Billing.KeepPlan(r.Context(), v.user.ID); {
	case errors.Is(err, billing.ErrNoSubscription):
		a.tell(r, "info", "The plan has ended already: choose one again.")
	case err != nil:
		return err
	default:
		a.tell(r, "good", "You stay on "+a.planName(v.access.Plan)+".")
	}
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

func (a *App) portal(w http.ResponseWriter, r *http.Request, v *visit) error {
	address, err := a.Billing.Portal(r.Context(), v.user.ID, a.PublicURL+"/account/portal-return")
	if errors.Is(err, billing.ErrNotFound) {
		a.tell(r, "info", "There are no payments yet.")
		address = "/account"
	} else if err != nil {
		return err
	}
	http.Redirect(w, r, address, http.StatusSeeOther)
	return nil
}

// portalReturn fetches what was changed in the portal: the person is back
// before the webhook.
func (a *App) portalReturn(w http.ResponseWriter, r *http.Request, v *visit) error {
	if _, err := a.Billing.Sync(r.Context(), v.user.ID); err != nil && !errors.Is(err, billing.ErrUnavailable) {
		return err
	}
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}
