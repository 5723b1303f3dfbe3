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
	Object  string // "product", "price", "coupon" or "meter"
	Name    string // what a product is for, the lookup key of a price, the ID of a coupon, the event name of a meter
	ID      string // at Stripe; empty for a price that is created
	Changes []FieldChange

	method, path string
	params       any
	// meter is the event name of a price's meter, and defaultKey the lookup key
	// of the price that becomes a product's default: they may not exist before
	// an earlier step.
	meter, defaultKey string
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
		return "archive " + s.Object + " " + s.ID
	case s.Action == Create && s.Object == "coupon":
		return "create coupon " + s.Name // what it was before is gone when it is made again
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

// ConflictError says that something which the catalogue names is somebody
// else's, or can't be changed: a lookup key or a coupon of another catalogue, a
// coupon that was made by hand and says something else, a meter that counts
// otherwise. It is billing.ErrConflict, and nothing was changed.
type ConflictError struct {
	Object  string // "price", "coupon" or "meter"
	Name    string // the lookup key, the coupon's ID, the event name
	ID      string // at Stripe
	Owner   string // the name of the other catalogue, if it is one's
	Changes []FieldChange
}

// Error says whose it is, or what is different.
func (e *ConflictError) Error() string {
	text := fmt.Sprintf("billingstripe: %s %s (%s)", e.Object, e.Name, e.ID)
	switch {
	case e.Owner != "":
		text += fmt.Sprintf(" is of catalogue %q", e.Owner)
	case len(e.Changes) == 0:
		text += " is of a catalogue without a name, or somebody else's"
	default:
		text += " isn't this catalogue's, or never changes"
	}
	for _, c := range e.Changes {
		text += fmt.Sprintf("; %s is %q, not %q", c.Field, c.From, c.To)
	}
	return text + ": rename one of them"
}

// Is makes it billing.ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == billing.ErrConflict }

// PlanCatalog compares a catalogue with Stripe and changes nothing.
//
// Each plan with prices has a product, and so have its seats with a price of
// their own, each of its meters, and each add-on. They are known by their
// metadata or by the lookup key of one of their prices; so a catalogue that was
// made by hand is adopted. A price is known by its lookup key. Prices never
// change: another amount, interval, currency, product, meter or version of the
// plan makes a new price that takes the lookup key over, and the old one is
// archived, unless it is of a version that the catalogue lists; its subscribers
// keep it. Coupons don't change either, but for their
// names: they are deleted and made again, and discounts at work go on.
//
// What carries this catalogue in its metadata and is no longer in it is
// archived, except the PriceIDs of a plan: list there the prices of your own
// making that carry one. What carries no plan is somebody else's, and so is
// what carries the name of another catalogue: without names, a Stripe account
// has one catalogue. To take over what is somebody else's is a *ConflictError.
// All of the account's coupons are read, a hundred in a request.
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
	made := s.Object == "price" && (s.Action == Create || s.Action == Replace)
	if made {
		sum := sha256.Sum256([]byte(s.identity()))
		key = "commerce_catalog_" + hex.EncodeToString(sum[:16])
	}
	if product, ok := s.params.(*stripe.ProductParams); ok && s.defaultKey != "" {
		product.DefaultPrice = stripe.String(remote.ids[s.defaultKey])
	}
	if price, ok := s.params.(*stripe.PriceParams); ok && s.meter != "" {
		price.Recurring.Meter = stripe.String(remote.ids["meter "+s.meter])
	}
	n, err := g.call(ctx, request{op: op, method: s.method, path: s.path, params: s.params, key: key})
	if err != nil {
		return err
	}
	id := n.at("id").text()
	switch {
	case made:
		remote.ids[s.Name] = id
	case s.Object == "meter" && s.Action == Create:
		remote.ids["meter "+s.Name] = id
	}
	return check(op, key, n, id != "")
}
