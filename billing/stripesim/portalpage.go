package stripesim

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

type viewSubscription struct {
	ID, Name, Status, Badge, Price, Every, When string
	Ending, CanCancel                           bool
	Choices                                     []viewChoice
}

type viewChoice struct {
	ID, Name, Price string
	Current         bool
}

type viewPreview struct {
	Subscription, Price, Lead, When, Due string
	Lines                                []viewLine
}

type viewOwnCard struct{ Brand, Last4, Exp string }

type viewInvoice struct{ Date, Number, Status, Amount, Link string }

// portalPage is the page on which a customer manages plan, card and invoices.
func (s *Simulator) portalPage(v *visit) {
	p, ok := get[*portalSession](s, kindPortal, v.id)
	if !ok {
		v.gone("No such page", "This link is wrong, or the simulator has been started anew since it was made.")
		return
	}
	cust, err := s.liveCustomer(p.customer, "")
	if err != nil || s.at("") > p.created+portalLife {
		v.message("This page has expired", "Go back and open it again.", p.returnURL)
		return
	}
	data := view{Title: "Billing", Cancel: p.returnURL, Cards: shownCards(), Form: s.formOf(v), origins: originOf(p.returnURL)}
	data.CardOpen = data.Form.Number != ""
	if v.r.Method == http.MethodPost {
		s.portalAction(v, cust, &data)
		if data.Error != "" {
			v.status = http.StatusUnprocessableEntity
		} else if data.Preview == nil {
			// The page is shown by a fresh GET: a reload repeats nothing.
			v.redirect = "?done=" + url.QueryEscape(v.r.PostForm.Get("do"))
			return
		}
	} else {
		data.Notice = map[string]string{
			"change": "The plan is changed.", "cancel": "The plan is canceled.", "resume": "The plan goes on.", "card": "The card is saved.",
		}[v.r.URL.Query().Get("done")]
	}
	s.fillPortal(cust, &data)
	v.show("portal", data)
}

// portalAction does what a button asks for.
func (s *Simulator) portalAction(v *visit, cust *customer, data *view) {
	post := v.r.PostForm.Get
	if v.posted("card") {
		data.CardOpen = true
		data.Error = s.replaceCard(cust, data.Form)
		return
	}
	sub, ok := get[*subscription](s, kindSubscription, post("subscription"))
	if !ok || sub.customer != cust.id || sub.ended() {
		data.Error = "This plan has ended."
		return
	}
	switch {
	case v.posted("cancel"):
		if s.cfg.Portal.CancelNow || sub.status == "past_due" || sub.status == "unpaid" || sub.status == "incomplete" {
			s.cancelNow(sub, false, false)
			return
		}
		s.change("customer.subscription.updated", sub, func() {
			sub.cancelAtPeriodEnd, sub.cancelAt, sub.canceledAt, sub.cancelReason = true, sub.periodEnd, s.at(sub.clock), "cancellation_requested"
		})
	case v.posted("resume"):
		s.change("customer.subscription.updated", sub, func() {
			sub.cancelAtPeriodEnd, sub.cancelAt, sub.canceledAt, sub.cancelReason = false, 0, 0, ""
		})
	case v.posted("preview"), v.posted("change"):
		to, ok := get[*price](s, kindPrice, post("price"))
		if !ok || !slices.Contains(s.portalPrices(sub.currency), to) {
			data.Error = "Choose one of the plans."
			return
		}
		s.changePlan(sub, to, v.posted("change"), data)
	default:
		data.Error = "This page can’t do that."
	}
}

// planItem is the item that a change of plan replaces: the first one that
// isn't metered.
func (s *Simulator) planItem(sub *subscription) *item {
	for _, it := range sub.items {
		if !must[*price](s, kindPrice, it.price).metered {
			return it
		}
	}
	return sub.items[0]
}

// changePlan previews or makes a change of plan.
func (s *Simulator) changePlan(sub *subscription, to *price, really bool, data *view) {
	fields := url.Values{}
	fields.Set("items[0][id]", s.planItem(sub).id)
	fields.Set("items[0][price]", to.id)
	fields.Set("proration_behavior", s.cfg.Portal.Proration)
	f, err := parseForm(fields.Encode())
	if err != nil {
		data.Error = "This page can’t do that."
		return
	}
	if x := s.scheduleOf(sub); x != nil {
		s.release(x, sub)
	}
	ch, err := s.work(sub, f, "")
	if err != nil {
		data.Error = said(err)
		return
	}
	if really {
		if ch.invoiceNow {
			if err := s.preflight(ch, "error_if_incomplete", false); err != nil {
				data.Error = "The payment failed. Use another card, then try again."
				return
			}
		}
		if sub.cancelAtPeriodEnd {
			ch.sub.cancelAtPeriodEnd, ch.sub.cancelAt, ch.sub.canceledAt, ch.sub.cancelReason = false, 0, 0, ""
		}
		s.apply(sub, ch, "", false)
		return
	}
	p := &viewPreview{
		Subscription: sub.id, Price: to.id, Lead: "The plan changes to " + s.productName(to) + ", " + priceText(to) + ".", When: "Due now",
	}
	v := s.bill(ch, false)
	if !ch.invoiceNow {
		p.When = "Settled on " + dateText(sub.periodEnd)
		v.lines = nil
		for _, x := range ch.prorations {
			v.lines = append(v.lines, x.line())
		}
		v.sum(s)
		v.due = v.total
	}
	for _, l := range v.lines {
		p.Lines = append(p.Lines, viewLine{Name: l.description, Amount: moneyText(l.amount, v.currency)})
	}
	p.Due = moneyText(v.due, v.currency)
	data.Preview = p
}

// replaceCard makes a card the customer's default, and pays what is open.
func (s *Simulator) replaceCard(cust *customer, f cardForm) string {
	in, problem := s.readCard(f, s.at(cust.clock))
	if problem != "" {
		return problem
	}
	if in.card.decline != nil && !in.card.attaches {
		return in.card.decline.message
	}
	pm := s.newCard(in.card, cust.clock)
	pm.expMonth, pm.expYear, pm.setUp = in.month, in.year, true
	pm.email, pm.name = cust.email, cust.name
	s.attach(pm, cust)
	s.change("customer.updated", cust, func() { cust.defaultPM = pm.id })
	for _, sub := range all(s, kindSubscription, func(x *subscription) bool { return x.customer == cust.id && !x.ended() }) {
		s.change("customer.subscription.updated", sub, func() { sub.defaultPM = pm.id })
	}
	for _, v := range all(s, kindInvoice, func(x *invoice) bool { return x.customer == cust.id && x.status == "open" && x.attempted }) {
		s.collect(v, pm, false)
	}
	return ""
}

func (s *Simulator) fillPortal(cust *customer, data *view) {
	for _, sub := range newest(s, kindSubscription, func(x *subscription) bool { return x.customer == cust.id && !x.ended() }) {
		data.Subscriptions = append(data.Subscriptions, s.viewOf(sub))
	}
	pm := s.paymentMethodFor(&invoice{customer: cust.id})
	for _, sub := range newest(s, kindSubscription, func(x *subscription) bool { return x.customer == cust.id && !x.ended() && x.defaultPM != "" }) {
		pm = s.cardOf(sub)
	}
	if pm != nil {
		data.Card = &viewOwnCard{Brand: strings.ToUpper(pm.card.brand[:1]) + pm.card.brand[1:], Last4: pm.last4(), Exp: fmt.Sprintf("%02d/%d", pm.expMonth, pm.expYear)}
	}
	for _, v := range newest(s, kindInvoice, func(x *invoice) bool { return x.customer == cust.id }) {
		row := viewInvoice{Date: dateText(v.created), Number: v.number, Status: v.status, Amount: moneyText(v.total, v.currency)}
		if v.status != "draft" {
			row.Link = "../../i/" + v.token
		}
		data.Invoices = append(data.Invoices, row)
		if len(data.Invoices) == 24 {
			break
		}
	}
}

func (s *Simulator) viewOf(sub *subscription) viewSubscription {
	it := s.planItem(sub)
	p := must[*price](s, kindPrice, it.price)
	out := viewSubscription{
		ID: sub.id, Name: s.productName(p), Status: strings.ReplaceAll(sub.status, "_", " "), Badge: sub.status, CanCancel: true,
		Price: moneyText(p.amount(it.quantity), p.currency), Every: "per " + everyText(p), When: "Renews on " + dateText(sub.periodEnd) + ".",
		Ending: sub.cancelAtPeriodEnd || sub.cancelAt > 0,
	}
	if it.quantity > 1 {
		out.Name = strconv.FormatInt(it.quantity, 10) + " × " + out.Name
	}
	switch {
	case out.Ending:
		out.When, out.Status, out.Badge = "Ends on "+dateText(sub.cancelAt)+".", "ends", "ends"
	case sub.status == "trialing":
		out.When = "Free until " + dateText(sub.trialEnd) + "."
	case sub.status == "past_due":
		out.When = "The last payment failed. Use another card to keep the plan."
	}
	for _, x := range s.portalPrices(sub.currency) {
		out.Choices = append(out.Choices, viewChoice{ID: x.id, Name: s.productName(x), Price: priceText(x), Current: x.id == p.id})
	}
	if len(out.Choices) < 2 || sub.status == "incomplete" {
		out.Choices = nil
	}
	return out
}
