package stripesim

import (
)

// challengePage stands in for the bank's 3-D Secure check: of a checkout
// session, a payment intent or a setup intent.
func (s *Simulator) challengePage(v *visit) {
	if x, ok := get[*session](s, kindSession, v.id); ok {
		s.challengeSession(x, v)
		return
	}
	if p, ok := get[*intent](s, kindIntent, v.id); ok {
		s.challengeIntent(p, v)
		return
	}
	if p, ok := get[*setupIntent](s, kindSetup, v.id); ok {
		s.challengeSetup(p, v)
		return
	}
	v.gone("Nothing to confirm", "This link is wrong, or the simulator has been started anew since it was made.")
}

func (s *Simulator) challengeSession(x *session, v *visit) {
	if x.status != "open" || x.payer == nil {
		v.message("Nothing to confirm", "This checkout isn’t waiting for a confirmation.", x.landing())
		return
	}
	switch {
	case v.posted("authorize"):
		no, _, err := s.completeSession(x, *x.payer, true)
		switch {
		case err != nil:
			v.message("The payment failed", said(err), s.link("/c/pay/"+x.id))
		case no != nil:
			v.message("The payment failed", no.message, v.up+"c/pay/"+x.id)
		default:
			v.redirect = x.landing()
		}
		return
	case v.posted("fail"):
		x.payer = nil
		v.message("The check failed", "The bank could not confirm who you are. Nothing was charged; try another card.", v.up+"c/pay/"+x.id)
		return
	}
	v.show("challenge", view{
		Title: "Confirm", Last4: x.payer.card.number[len(x.payer.card.number)-4:], origins: originOf(x.successURL),
		Lines: []viewLine{{Name: "Total due today", Amount: moneyText(x.total, x.currency)}},
	})
}

func (s *Simulator) challengeIntent(p *intent, v *visit) {
	if p.status != "requires_action" {
		v.message("Nothing to confirm", "This payment isn’t waiting for a confirmation.", p.returnURL)
		return
	}
	pm := must[*paymentMethod](s, kindPaymentMethod, p.paymentMethod)
	switch {
	case v.posted("authorize"):
		no := s.confirm(p, pm, false, true)
		if no != nil && p.invoice != "" {
			s.invoiceFailed(must[*invoice](s, kindInvoice, p.invoice))
		}
		if cust, ok := get[*customer](s, kindCustomer, p.customer); ok && no == nil {
			s.keepCard(p, pm, cust)
		}
	case v.posted("fail"):
		no := authenticationFailed("payment_intent_authentication_failure")
		p.status, p.failure, p.failedPM, p.paymentMethod = "requires_payment_method", no, pm.id, ""
		s.emit("payment_intent.payment_failed", p)
		if p.invoice != "" {
			s.invoiceFailed(must[*invoice](s, kindInvoice, p.invoice))
		}
	default:
		v.show("challenge", view{
			Title: "Confirm", Last4: pm.last4(), origins: originOf(p.returnURL), Lines: []viewLine{{Name: "Amount", Amount: moneyText(p.amount, p.currency)}},
		})
		return
	}
	s.leave(v, p.returnURL, p.status == "succeeded")
}

func (s *Simulator) challengeSetup(p *setupIntent, v *visit) {
	if p.status != "requires_action" {
		v.message("Nothing to confirm", "This card isn’t waiting for a confirmation.", p.returnURL)
		return
	}
	pm := must[*paymentMethod](s, kindPaymentMethod, p.paymentMethod)
	switch {
	case v.posted("authorize"):
		s.confirmSetup(p, pm, true)
	case v.posted("fail"):
		p.status, p.failure, p.failedPM, p.paymentMethod = "requires_payment_method", authenticationFailed("setup_intent_authentication_failure"), pm.id, ""
		s.emit("setup_intent.setup_failed", p)
	default:
		v.show("challenge", view{Title: "Confirm", Last4: pm.last4(), origins: originOf(p.returnURL)})
		return
	}
	s.leave(v, p.returnURL, p.status == "succeeded")
}

func authenticationFailed(code string) *decline {
	return because(code, "", "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new PaymentMethod to attempt to fulfill this PaymentIntent again.")
}

func (s *Simulator) leave(v *visit, to string, done bool) {
	if to != "" {
		v.redirect = to
		return
	}
	if done {
		v.message("Confirmed", "You can close this page.", "")
		return
	}
	v.message("Not confirmed", "The bank could not confirm who you are.", "")
}
