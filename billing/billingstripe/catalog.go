package billingstripe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

// Diff is what must be done for Stripe's products and prices to be those of a
// catalogue.
type Diff struct {
	Steps   []Step
	catalog *billing.Catalog
}

// Action is what a step does.
type Action string

// The actions.
const (
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace" // of a price, which never changes: a new one takes its lookup key over
	Archive Action = "archive" // it sells no more; subscriptions that have it keep it
)

// Step is one request.
type Step struct {
	Action  Action
	Object  string // "product" or "price"
	Name    string // the plan of a product, the lookup key of a price
	ID      string // at Stripe; empty for a price that is created
	Changes []FieldChange

	product *stripe.ProductParams
	price   *stripe.PriceParams
	// defaultKey is the lookup key of the price that becomes a product's
	// default: it may not exist before an earlier step.
	defaultKey string
}

// FieldChange is a field that changes.
type FieldChange struct {
	Field    string
	From, To string
}

// identity says whether two steps are the same one. What the name and the
// successor of a price that goes are depends on what has been done already.
func (s Step) identity() string {
	switch {
	case s.Action == Archive:
		return "archive " + s.ID
	case s.replacesDefault():
		return "default " + s.ID + " " + s.Changes[0].From
	}
	return s.String()
}

func (s Step) replacesDefault() bool {
	return len(s.Changes) == 1 && s.Changes[0].Field == "default price"
}

// String writes a step on one line: "~ product pro (prod_1): name "Pro" → "Pro+"".
func (s Step) String() string {
	var b strings.Builder
	b.WriteString(map[Action]string{Create: "+", Update: "~", Replace: "±", Archive: "-"}[s.Action])
	fmt.Fprintf(&b, " %s %s", s.Object, s.Name)
	if s.ID != "" {
		fmt.Fprintf(&b, " (%s)", s.ID)
	}
	for i, c := range s.Changes {
		b.WriteString([]string{": ", ", "}[min(i, 1)])
		b.WriteString(c.Field + " ")
		if s.Action != Create {
			fmt.Fprintf(&b, "%q → ", c.From)
		}
		fmt.Fprintf(&b, "%q", c.To)
	}
	return b.String()
}

// String writes the steps below each other, and their number.
func (d *Diff) String() string {
	var b strings.Builder
	for _, s := range d.Steps {
		b.WriteString(s.String() + "\n")
	}
	counts := map[Action]int{}
	for _, s := range d.Steps {
		counts[s.Action]++
	}
	if len(d.Steps) == 0 {
		return "Stripe has this catalogue.\n"
	}
	fmt.Fprintf(&b, "%d to create, %d to update, %d to replace, %d to archive.\n", counts[Create], counts[Update], counts[Replace], counts[Archive])
	return b.String()
}

// PlanCatalog compares a catalogue with Stripe and changes nothing.
//
// Each plan with prices has a product, known by its metadata or by the lookup
// key of one of its prices; so a catalogue that was made by hand is adopted. A
// price is known by its lookup key. Prices never change: another amount,
// interval, currency or product makes a new price that takes the lookup key
// over, and the old one is archived. Products and prices that carry a plan in
// their metadata and are no longer in the catalogue are archived, except the
// PriceIDs of a plan: list there the prices of your own making that carry one.
// What carries no plan is somebody else's. So a Stripe account has one
// catalogue: another one's products would be archived.
func (g *Gateway) PlanCatalog(ctx context.Context, catalog *billing.Catalog) (*Diff, error) {
	diff, _, err := g.plan(ctx, catalog)
	return diff, err
}

// ApplyCatalog does the steps of a diff, in order, and calls done, which may be
// nil, after each. It compares again first: steps that are done already are
// left out, so that an apply that was interrupted is resumed by calling it
// again, and one that would have to do something else than planned is
// ErrConflict and does nothing.
func (g *Gateway) ApplyCatalog(ctx context.Context, diff *Diff, done func(Step)) error {
	const op = "apply catalogue"
	if diff == nil || diff.catalog == nil {
		return invalid(op, "the diff is not one of PlanCatalog")
	}
	now, remote, err := g.plan(ctx, diff.catalog)
	if err != nil {
		return err
	}
	planned := map[string]bool{}
	for _, s := range diff.Steps {
		planned[s.identity()] = true
	}
	for _, s := range now.Steps {
		if !planned[s.identity()] {
			return &billing.GatewayError{Op: op, Kind: billing.ErrConflict, Message: "Stripe has changed since the plan was made; make it again. Not planned: " + s.String()}
		}
	}
	for _, s := range now.Steps {
		if err := g.apply(ctx, s, remote); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		if done != nil {
			done(s)
		}
	}
	return nil
}

func (g *Gateway) apply(ctx context.Context, s Step, remote *remoteCatalog) error {
	op := string(s.Action) + " " + s.Object
	// A new price is known by what it is and what it replaces. Everything else
	// can be repeated, and its key must not be that of an equal one of an hour
	// ago: the answer would come without the effect.
	key := newKey()
	if s.price != nil && (s.Action == Create || s.Action == Replace) {
		sum := sha256.Sum256([]byte(s.identity()))
		key = "commerce_catalog_" + hex.EncodeToString(sum[:16])
	}
	if s.defaultKey != "" {
		s.product.DefaultPrice = stripe.String(remote.ids[s.defaultKey])
	}
	path, params := "/v1/prices", any(s.price)
	if s.product != nil {
		path, params = "/v1/products", s.product
	}
	if s.Action == Update || s.Action == Archive {
		var err error
		if path, err = objectPath(op, path+"/%s", s.ID); err != nil {
			return err
		}
	}
	n, err := g.call(ctx, post(op, path, params, key))
	if err != nil {
		return err
	}
	id := n.at("id").text()
	if s.price != nil && s.Action != Archive {
		remote.ids[s.Name] = id
	}
	return check(op, key, n, id != "")
}
