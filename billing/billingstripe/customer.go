package billingstripe

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// pageSize is Stripe's largest.
const pageSize = 100

// CreateCustomer makes the customer of an account; see billing.Gateway.
func (g *Gateway) CreateCustomer(ctx context.Context, req billing.CustomerRequest, key string) (billing.Customer, error) {
	const op = "create customer"
	n, err := g.call(ctx, post(op, "/v1/customers", &stripe.CustomerParams{
		Email:    optional(req.Email),
		Name:     optional(req.Name),
		Metadata: metadata(req.Metadata, req.Account),
	}, key))
	if err != nil {
		return billing.Customer{}, err
	}
	return customer(op, key, n)
}

// FindCustomer looks the customer of an account up by metadata. Stripe's search
// lags behind writes, by less than a minute as a rule and by up to an hour
// when it is disturbed, and isn't offered to merchants in India.
func (g *Gateway) FindCustomer(ctx context.Context, account string) (billing.Customer, error) {
	const op = "find customer"
	if account == "" {
		return billing.Customer{}, invalid(op, "the account is empty")
	}
	query := "metadata['" + billing.MetadataAccount + "']:'" + quote.Replace(account) + "'"
	var found billing.Customer
	for page := ""; ; {
		n, err := g.call(ctx, get(op, "/v1/customers/search", &stripe.CustomerSearchParams{
			SearchParams: stripe.SearchParams{Query: query, Limit: stripe.Int64(pageSize)},
			Page:         optional(page),
		}))
		if err != nil {
			return billing.Customer{}, err
		}
		list, more := n.list()
		for _, n := range list {
			c, err := customer(op, "", n)
			if err != nil {
				return billing.Customer{}, err
			}
			// Search compares without regard to case.
			if c.Account != account || c.Deleted {
				continue
			}
			if found.ID == "" || c.Created.Before(found.Created) || c.Created.Equal(found.Created) && c.ID < found.ID {
				found = c
			}
		}
		if page = n.at("next_page").text(); !more || page == "" {
			break
		}
	}
	if found.ID == "" {
		return billing.Customer{}, &billing.GatewayError{Op: op, Kind: billing.ErrNotFound, Message: "no customer carries this account in its metadata"}
	}
	return found, nil
}

var quote = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// State fetches the customer, the subscriptions and the invoices; see
// billing.Gateway. It takes three requests, one more for each list that is too
// long to come within its object, and one for each open invoice whose payment
// was tried.
func (g *Gateway) State(ctx context.Context, customerID string) (billing.State, error) {
	const op = "fetch customer"
	path, err := objectPath(op, "/v1/customers/%s", customerID)
	if err != nil {
		return billing.State{}, err
	}
	n, err := g.call(ctx, get(op, path, nil))
	if err != nil {
		return billing.State{}, err
	}
	var state billing.State
	if state.Customer, err = customer(op, "", n); err != nil {
		return billing.State{}, err
	}
	// The subscriptions come last: what matters most is what is freshest. A
	// deleted customer may have no lists any more.
	state.Invoices, _, err = g.Invoices(ctx, customerID, "")
	if err == nil {
		err = g.attempts(ctx, state.Invoices)
	}
	if err == nil {
		state.Subscriptions, err = g.subscriptions(ctx, customerID)
	}
	if state.Customer.Deleted && errors.Is(err, billing.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return billing.State{}, err
	}
	return state, nil
}

// customer decodes a customer that an operation was answered with.
func customer(op, key string, n node) (billing.Customer, error) {
	n = n.fork()
	c := decodeCustomer(n)
	return c, check(op, key, n, c.ID != "")
}

// check returns an error unless an answer could be read whole. For a write the
// effect has happened, and asking again with its key returns the answer again.
func check(op, key string, n node, complete bool) error {
	if n.doc.err == nil && complete {
		return nil
	}
	failure := &billing.GatewayError{
		Op: op, Kind: billing.ErrUnavailable, Status: n.doc.status, RequestID: n.doc.requestID, IdempotencyKey: key,
		Message: "the answer can't be read", Err: n.doc.err,
	}
	if key != "" {
		failure.Kind = billing.ErrUnknownOutcome
	}
	return failure
}

func invalid(op, message string) error {
	return &billing.GatewayError{Op: op, Kind: billing.ErrInvalid, Message: message}
}

// objectPath returns the path of an object. An empty ID would be the path of
// the whole list.
func objectPath(op, format, id string) (string, error) {
	if id == "" || id == "." || id == ".." {
		return "", invalid(op, "the ID is empty")
	}
	return stripe.FormatURLPath(format, id), nil
}

// metadata returns the metadata of a new object: the account's name in it wins.
func metadata(extra map[string]string, account string) map[string]string {
	all := maps.Clone(extra)
	if all == nil {
		all = map[string]string{}
	}
	if account != "" {
		all[billing.MetadataAccount] = account
	}
	return all
}

// optional leaves an empty parameter out.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
