package stripesim

import (
	"slices"
)

const kindPortal = "billing_portal.session"

// portalSession is a customer's way into the portal.
type portalSession struct {
	head
	customer, returnURL, configuration string
}

// portalLife is how long a portal link works.
const portalLife = int64(3600)

func (p *portalSession) render(s *Simulator) object {
	return object{
		"id": p.id, "object": kindPortal, "configuration": p.configuration, "created": p.created, "customer": p.customer, "flow": nil, "livemode": false,
		"locale": nil, "on_behalf_of": nil, "return_url": optional(p.returnURL), "url": s.link("/p/session/" + p.id),
	}
}

func (s *Simulator) createPortal(c *call) (any, error) {
	cust, err := s.liveCustomer(c.form.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	if text := c.form.str("return_url"); text != "" && !webURL(text) {
		return nil, badRequest("url_invalid", "return_url", "Not a valid URL")
	}
	p := &portalSession{customer: cust.id, returnURL: c.form.str("return_url"), configuration: "bpc_simulator"}
	s.add(kindPortal, s.newID("bps_"), "", p)
	s.emit("billing_portal.session.created", p)
	return p, nil
}

// portalPrices are the prices that a customer may change to.
func (s *Simulator) portalPrices(currency string) []*price {
	return all(s, kindPrice, func(p *price) bool {
		if !p.active || p.interval == "" || p.metered || p.currency != currency {
			return false
		}
		if s.cfg.Portal.Prices != nil {
			return slices.Contains(s.cfg.Portal.Prices, p.lookupKey)
		}
		prod, ok := get[*product](s, kindProduct, p.product)
		return ok && prod.active && !prod.deleted
	})
}
