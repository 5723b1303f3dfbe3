package stripesim

import (
	"net/http"
	"strconv"
	"strings"
)

// checkoutPage is the hosted page of a checkout session.
func (s *Simulator) checkoutPage(v *visit) {
	x, ok := get[*session](s, kindSession, v.id)
	if !ok {
		v.gone("No such checkout", "This link is wrong, or the simulator has been started anew since it was made.")
		return
	}
	switch x.status {
	case "expired":
		v.message("This checkout has expired", "Nothing was charged. Go back and start again.", x.cancelURL)
		return
	case "complete":
		v.message("This checkout is done", "The payment went through; nothing was charged twice.", x.landing())
		return
	}
	f := s.formOf(v)
	notice, problem := "", ""
	switch {
	case v.posted("promo"):
		notice, problem = s.applyCode(x, f.Promo)
	case v.posted("pay"):
		var done bool
		if done, problem = s.pay(x, f, v); done {
			return
		}
	}
	data := s.checkoutView(x, f)
	data.Notice, data.Error = notice, problem
	if problem != "" {
		v.status = http.StatusUnprocessableEntity
	}
	v.show("checkout", data)
}

// landing is where a completed session leads.
func (x *session) landing() string {
	return strings.ReplaceAll(x.successURL, "{CHECKOUT_SESSION_ID}", x.id)
}

func (s *Simulator) applyCode(x *session, code string) (notice, problem string) {
	if !x.allowCodes {
		return "", "This checkout takes no promotion codes."
	}
	promo := s.promotionByCode(strings.TrimSpace(code))
	cust, _ := get[*customer](s, kindCustomer, x.customer)
	if promo != nil {
		if _, _, err := s.redeemable("", promo.id, cust); err == nil {
			x.discounts = []redemption{{promotion: promo.id}}
			s.priceSession(x)
			return "The code " + promo.code + " is applied.", ""
		}
	}
	return "", "This code is invalid."
}

// pay tries a checkout's payment and reports whether the visit is settled;
// else the text says why not.
func (s *Simulator) pay(x *session, f cardForm, v *visit) (bool, string) {
	in, problem := payer{email: strings.TrimSpace(f.Email), name: strings.TrimSpace(f.Name)}, ""
	if f.Number != "" || !x.cardless() {
		in, problem = s.readCard(f, s.at(x.clock))
	}
	if problem != "" {
		return false, problem
	}
	if in.email == "" || !strings.Contains(in.email, "@") {
		return false, "The e-mail address is incomplete."
	}
	no, challenge, err := s.completeSession(x, in, false)
	switch {
	case err != nil:
		return false, said(err)
	case no != nil:
		return false, no.message
	case challenge:
		x.payer = &in
		v.redirect = v.up + "3ds/" + x.id
	default:
		v.redirect = x.landing()
	}
	return true, ""
}

func (s *Simulator) checkoutView(x *session, f cardForm) view {
	data := view{
		Title: "Checkout", Heading: "Subscribe", Cancel: x.cancelURL, Button: "Subscribe", Form: f, Cards: shownCards(), Codes: x.allowCodes, NoCard: x.cardless(),
		origins: originOf(x.successURL),
	}
	if cust, ok := get[*customer](s, kindCustomer, x.customer); ok && cust.email != "" {
		data.Form.Email, data.Known = cust.email, true
	} else if x.email != "" {
		data.Form.Email, data.Known = x.email, true
	}
	if x.mode == "setup" {
		data.Heading, data.Lead, data.Button = "Save a payment method", "Nothing is charged today.", "Save the card"
		return data
	}
	inv := s.sessionInvoice(x, true)
	full := s.sessionInvoice(x, false)
	first := x.items[0].price
	data.Heading = "Subscribe to " + s.productName(first)
	renewal := full.subtotal
	for _, r := range x.discounts {
		if r.trial(s).coupon.duration == "forever" {
			renewal = full.total
		}
	}
	data.Price, data.Every = moneyText(renewal, x.currency), "per "+everyText(first)
	data.Total, data.Subtotal = moneyText(inv.total, x.currency), moneyText(inv.subtotal, x.currency)
	for i, spec := range x.items {
		name := s.productName(spec.price)
		if spec.quantity != 1 && !spec.price.metered {
			name = strconv.FormatInt(spec.quantity, 10) + " × " + name
		}
		note := priceText(spec.price)
		if spec.price.metered {
			note += ", billed by use"
		}
		data.Lines = append(data.Lines, viewLine{Name: name, Note: note, Amount: moneyText(inv.lines[i].amount, x.currency)})
	}
	if off := inv.subtotal - inv.total; off > 0 {
		data.Discount = moneyText(off, x.currency)
		data.DiscountName = discountText(x.discounts[0].trial(s).coupon)
	}
	end := int64(0)
	if x.trialDays > 0 {
		end = s.at(x.clock) + x.trialDays*86400
	} else if x.trialEnd != "" {
		end = atoi(x.trialEnd)
	}
	if end > 0 {
		data.Lead = "Free until " + dateText(end) + ", then " + moneyText(renewal, x.currency) + " per " + everyText(first) + "."
		data.Button = "Start the trial"
	}
	data.Terms = "Renews each " + everyText(first) + " until it is canceled."
	return data
}

func discountText(c *coupon) string {
	name := c.name
	if name == "" {
		name = c.id
	}
	if c.percentOff != nil {
		name += ", " + decimalText(c.percentOff) + "% off"
	}
	switch c.duration {
	case "forever":
		return name + ", on each invoice"
	case "repeating":
		return name + ", for " + strconv.FormatInt(c.months, 10) + " months"
	}
	return name + ", on the first invoice"
}
