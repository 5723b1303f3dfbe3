package billingstripe

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var _ billing.CustomerEraser = (*Gateway)(nil)

// EraseCustomer takes the person away from a customer; see
// billing.CustomerEraser. It empties the metadata of the subscriptions but for
// the plan, empties and detaches the payment methods, empties the customer's
// own fields, and deletes the customer, which ends what still runs. Each step
// looks at what is left, so that a second call goes on where the first one
// ended; a customer that Stripe doesn't know any more is done.
//
// Stripe fixes the customer's name and addresses on an invoice when it is
// finalised, on a charge when it is made and on a Checkout session when it is
// paid, and lists events for 30 days: this API has no call that takes them out
// again. They are counted as kept. Redaction jobs, which would, are a preview
// beyond the API version that this package speaks; they are made in Stripe's
// dashboard when the invoices' time has ended.
func (g *Gateway) EraseCustomer(ctx context.Context, customerID string) (map[string]int64, error) {
	const op = "erase customer"
	path, err := objectPath(op, "/v1/customers/%s", customerID)
	if err != nil {
		return nil, err
	}
	n, err := g.call(ctx, get(op, path, nil))
	if errors.Is(err, billing.ErrNotFound) {
		return nil, nil // never at this Stripe, so that nothing is kept there
	} else if err != nil {
		return nil, err
	}
	if !n.at("deleted").flag() {
		for _, step := range []func(context.Context, node, string, string) error{g.clearSubscriptions, g.clearPaymentMethods, g.clearCustomer} {
			if err := step(ctx, n, customerID, path); err != nil && !errors.Is(err, billing.ErrNotFound) {
				return nil, err
			}
		}
		_, err := g.call(ctx, request{op: op, method: http.MethodDelete, path: path, key: newKey()})
		if err != nil && !errors.Is(err, billing.ErrNotFound) {
			return nil, err
		}
	}
	return g.kept(ctx, n, customerID)
}

// clearSubscriptions empties their metadata: the account's name in it is the
// application's name of the person. The plan stays, for the revenue.
func (g *Gateway) clearSubscriptions(ctx context.Context, of node, customerID, _ string) error {
	const op = "erase subscription's metadata"
	page := &stripe.ListParams{}
	list, err := g.all(ctx, of, op, "", "/v1/subscriptions", &ofCustomer{customerID, stripe.String("all"), page}, page)
	if err != nil {
		return err
	}
	for _, n := range list {
		empty := naming(n)
		if len(empty) == 0 {
			continue
		}
		path, err := objectPath(op, "/v1/subscriptions/%s", n.at("id").text())
		if err != nil {
			return err
		}
		_, err = g.call(ctx, post(op, path, &stripe.SubscriptionParams{Metadata: empty}, newKey()))
		refused := errors.Is(err, billing.ErrInvalid) || errors.Is(err, billing.ErrNotFound)
		if refused && billing.Status(n.at("status").text()).Terminal() {
			continue // Stripe may change nothing of one that has ended: it is counted as kept
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// naming returns the metadata of a subscription that may name the person, with
// the empty values that remove it.
func naming(subscription node) map[string]string {
	empty := map[string]string{}
	for name := range subscription.at("metadata").dict() {
		if name != billing.MetadataPlan {
			empty[name] = ""
		}
	}
	return empty
}

// clearPaymentMethods empties them first: a detached one can't be changed any
// more, and stays readable by its ID.
func (g *Gateway) clearPaymentMethods(ctx context.Context, of node, _, customer string) error {
	const op = "erase payment method"
	page := &stripe.ListParams{}
	list, err := g.all(ctx, of, op, "", customer+"/payment_methods", page, page)
	if err != nil {
		return err
	}
	for _, n := range list {
		path, err := objectPath(op, "/v1/payment_methods/%s", n.at("id").text())
		if err != nil {
			return err
		}
		_, err = g.call(ctx, post(op, path, emptyPaymentMethod(), newKey()))
		if errors.Is(err, billing.ErrInvalid) {
			err = nil // a kind that keeps its owner, such as a bank debit: the detachment is what there is
		}
		if err == nil {
			_, err = g.call(ctx, post(op, path+"/detach", nil, newKey()))
		}
		if err != nil && !errors.Is(err, billing.ErrNotFound) {
			return err
		}
	}
	return nil
}

// clearCustomer leaves nothing for the events that the deletion leads to.
func (g *Gateway) clearCustomer(ctx context.Context, _ node, _, customer string) error {
	_, err := g.call(ctx, post("erase customer's fields", customer, emptyCustomer(), newKey()))
	return err
}

// kept counts what Stripe keeps of a deleted customer with the person in it.
func (g *Gateway) kept(ctx context.Context, of node, customerID string) (map[string]int64, error) {
	kept := map[string]int64{"event_log": 1} // can't be listed by customer
	for record, path := range map[string]string{
		"invoice": "/v1/invoices", "charge": "/v1/charges", "checkout": "/v1/checkout/sessions", "subscription": "/v1/subscriptions",
	} {
		page := &stripe.ListParams{}
		params := &ofCustomer{customerID, nil, page}
		if record == "subscription" {
			params.Status = stripe.String("all")
		}
		list, err := g.all(ctx, of, "count what is kept", "", path, params, page)
		if errors.Is(err, billing.ErrNotFound) {
			continue // a deleted customer may have no lists any more
		} else if err != nil {
			return nil, err
		}
		if record == "subscription" {
			list = slices.DeleteFunc(list, func(n node) bool { return len(naming(n)) == 0 })
		}
		if len(list) > 0 {
			kept[record] = int64(len(list))
		}
	}
	return kept, nil
}

// ofCustomer are the parameters of a customer's list.
type ofCustomer struct {
	Customer string             `form:"customer"`
	Status   *string            `form:"status"`
	Page     *stripe.ListParams `form:"*"`
}

// fields are parameters that are sent as they are. As the empty text they make
// Stripe unset a field, which stripe-go's own parameters can't say of a hash.
type fields map[string]any

func emptyCustomer() fields {
	return fields{"address": "", "description": "", "email": "", "metadata": "", "name": "", "phone": "", "shipping": ""}
}

func emptyPaymentMethod() fields {
	return fields{"billing_details": fields{"address": "", "email": "", "name": "", "phone": ""}, "metadata": ""}
}
