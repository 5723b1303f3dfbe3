package billingstripe

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/kolekt/commerce/billing"
)

// Verify checks the signature of a webhook request and decodes its event; see
// billing.Gateway. A body above Config.MaxBody bytes is refused unread.
func (g *Gateway) Verify(header http.Header, body []byte) (billing.Event, error) {
	if int64(len(body)) > g.maxBody {
		return billing.Event{}, unreadable("it has more than %d bytes", g.maxBody)
	}
	if err := g.verify(header, body); err != nil {
		return billing.Event{}, err
	}
	event, n, err := decodeEvent(body)
	if err != nil {
		return billing.Event{}, err
	}
	if event.Livemode != g.livemode {
		return billing.Event{}, unreadable("event %s is of %s mode, and the secret key of %s mode", event.ID, mode(event.Livemode), mode(g.livemode))
	}
	if account := n.at("account").id(); account != "" {
		return billing.Event{}, unreadable("event %s is of the connected account %s", event.ID, account)
	}
	return event, nil
}

// Decode decodes the bytes of an event, without a signature; see
// billing.Gateway.
func (g *Gateway) Decode(body []byte) (billing.Event, error) {
	event, _, err := decodeEvent(body)
	return event, err
}

// decodeEvent reads an event of any API version. Only its ID and type are
// required. An object that can't be read is left out rather than wrong: an
// event is a hint, and CustomerID says whose state to fetch.
func decodeEvent(body []byte) (billing.Event, node, error) {
	n, err := parse(body)
	if err != nil {
		return billing.Event{}, n, unreadable("%s", err)
	}
	kind := n.at("object").text()
	event := billing.Event{
		ID:         n.at("id").text(),
		Type:       n.at("type").text(),
		Created:    n.at("created").time(),
		APIVersion: n.at("api_version").text(),
		Livemode:   n.at("livemode").flag(),
		Raw:        bytes.Clone(body),
	}
	if n.doc.err != nil {
		return billing.Event{}, n, unreadable("%s", n.doc.err)
	}
	const maxName = 255
	if event.ID == "" || event.Type == "" || len(event.ID) > maxName || len(event.Type) > maxName {
		return billing.Event{}, n, unreadable("it has no id or no type")
	}
	// What follows must not make the event itself unreadable.
	switch {
	case kind == "event":
		event.IdempotencyKey = n.fork().at("request", "idempotency_key").text()
		decodeData(n.fork().at("data"), &event)
	case strings.HasPrefix(kind, "v2.core.event"):
		// Thin events name an object and don't carry it.
		event.IdempotencyKey = n.fork().at("reason", "request", "idempotency_key").text()
		event.ObjectID = n.fork().at("related_object", "id").text()
		if strings.HasPrefix(event.ObjectID, "cus_") {
			event.CustomerID = event.ObjectID
		}
	default:
		return billing.Event{}, n, unreadable("it is of kind %.40q, not an event", kind)
	}
	return event, n, nil
}

// decodeData reads the object of a snapshot event.
func decodeData(data node, event *billing.Event) {
	n := data.at("object")
	event.ObjectID = n.fork().at("id").text()
	event.Account = accountOf(n.fork())
	event.CustomerID = n.fork().at("customer").id()
	if event.CustomerID == "" {
		// A payment method that was detached names its customer only here.
		event.CustomerID = data.fork().at("previous_attributes", "customer").id()
	}
	object := n.fork()
	switch object.at("object").text() {
	case "subscription":
		if s := decodeSubscription(object); object.doc.err == nil && s.ID != "" && s.Status != "" {
			event.Subscription = &s
		}
	case "invoice":
		if inv := decodeInvoice(object); object.doc.err == nil {
			event.Invoice = &inv
		}
	case "checkout.session":
		if c := decodeCheckout(object); object.doc.err == nil && c.ID != "" {
			event.Checkout = &c
		}
	case "customer":
		event.CustomerID = event.ObjectID
		c := decodeCustomer(object)
		c.Deleted = c.Deleted || event.Type == "customer.deleted"
		if object.doc.err == nil && c.ID != "" {
			event.Customer = &c
		}
	}
}

func unreadable(format string, args ...any) error {
	return fmt.Errorf("%w: %s", billing.ErrPayload, fmt.Sprintf(format, args...))
}

func mode(live bool) string {
	if live {
		return "live"
	}
	return "test"
}
