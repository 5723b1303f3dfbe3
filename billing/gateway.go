package billing

import (
	"context"
	"net/http"
	"time"
)

// Gateway is the payment provider's side: what billingstripe implements on
// Stripe, and what an author of another provider implements. Users call
// Service instead.
//
// Every write takes an idempotency key. A second call with the same key and
// the same request has no second effect and returns what the first one
// returned, for at least 24 hours. Errors are *GatewayError: ErrUnavailable
// when nothing happened and a retry may help, ErrUnknownOutcome when a write
// may have happened. Implementations honour ctx also while they wait, never
// retry behind the caller's back for longer than ctx allows, and are safe for
// concurrent use.
type Gateway interface {
	// Verify checks the signature of a webhook request over exactly these
	// bytes, and decodes the event whatever the API version it was rendered
	// in. A request that isn't the gateway's is ErrSignature; a signed one
	// that is no event, or of the other mode (live or test), is ErrPayload.
	Verify(header http.Header, body []byte) (Event, error)

	// Decode decodes the bytes of a stored event again, without a signature.
	Decode(body []byte) (Event, error)

	// Events lists events created in [since, now], oldest first, at most a
	// page; more says that there are further ones after the last.
	// Stripe keeps them for 30 days. After is the ID of the last event seen,
	// or empty.
	Events(ctx context.Context, since time.Time, after string) (events []Event, more bool, err error)

	// CreateCustomer makes the customer of an account; its metadata carries
	// the account.
	CreateCustomer(ctx context.Context, req CustomerRequest, key string) (Customer, error)
	// FindCustomer looks an account's customer up by metadata: for a write
	// whose outcome is unknown and whose idempotency key has expired. None is
	// ErrNotFound; of several it is the oldest.
	FindCustomer(ctx context.Context, account string) (Customer, error)
	// State fetches everything about a customer that this package keeps:
	// the one read that every webhook leads to.
	State(ctx context.Context, customerID string) (State, error)

	// Prices returns the active prices with these lookup keys. A key without
	// a price is left out.
	Prices(ctx context.Context, lookupKeys []string) ([]Price, error)

	// Subscribe creates a subscription that waits for its first payment
	// (Stripe's default_incomplete).
	Subscribe(ctx context.Context, req SubscribeRequest, key string) (Subscribed, error)
	// UpdateSubscription changes a subscription.
	UpdateSubscription(ctx context.Context, id string, req UpdateRequest, key string) (Subscription, error)
	// CancelSubscription ends a subscription at once.
	CancelSubscription(ctx context.Context, id string, req CancelRequest, key string) (Subscription, error)
	// PreviewUpdate returns the invoice that UpdateSubscription would lead to,
	// without any effect.
	PreviewUpdate(ctx context.Context, customerID, id string, req UpdateRequest) (Invoice, error)

	// CreateCheckout opens a hosted payment page for a new subscription.
	CreateCheckout(ctx context.Context, req CheckoutRequest, key string) (Checkout, error)
	// Checkout fetches a checkout session.
	Checkout(ctx context.Context, id string) (Checkout, error)
	// ExpireCheckout closes an open checkout session; one that is no longer
	// open is ErrInvalid.
	ExpireCheckout(ctx context.Context, id string) error
	// CreatePortal opens the hosted page on which a customer manages payment
	// methods, invoices and the subscription.
	CreatePortal(ctx context.Context, customerID, returnURL string) (url string, err error)

	// Invoices lists a customer's invoices, newest first, at most a page.
	// After is the ID of the last one seen, or empty.
	Invoices(ctx context.Context, customerID, after string) (invoices []Invoice, more bool, err error)
}

// Event is one event of the gateway.
type Event struct {
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	Created    time.Time `json:"created"`
	APIVersion string    `json:"api_version,omitempty"`
	Livemode   bool      `json:"livemode"`
	// CustomerID is whose state the event touches; empty for events that
	// touch no customer.
	CustomerID string `json:"customer_id,omitempty"`
	// ObjectID is the object's own ID; empty for those without one, such as
	// that of invoice.upcoming.
	ObjectID string `json:"object_id,omitempty"`
	// Account is from the object's metadata, or its client reference.
	Account string `json:"account,omitempty"`
	// IdempotencyKey is that of the request that caused the event: our own
	// writes are known by its prefix.
	IdempotencyKey string `json:"idempotency_key,omitempty"`

	// At most one of these is set: the object as it was at Created.
	Subscription *Subscription `json:"subscription,omitempty"`
	Invoice      *Invoice      `json:"invoice,omitempty"`
	Checkout     *Checkout     `json:"checkout,omitempty"`
	Customer     *Customer     `json:"customer,omitempty"`

	// Raw are the exact bytes that came.
	Raw []byte `json:"-"`
}

// State is all that the gateway holds about a customer, read at one time.
type State struct {
	Customer      Customer
	Subscriptions []Subscription // of every status, newest first, the last 100
	Invoices      []Invoice      // newest first, the last 100
}

// MetadataAccount is the metadata name under which every object that this
// package creates carries its account.
const MetadataAccount = "commerce_account"

// CustomerRequest asks for a customer.
type CustomerRequest struct {
	Account  string
	Email    string
	Name     string
	Metadata map[string]string // MetadataAccount wins over an entry of that name
}

// LineItem is a price and how many of it.
type LineItem struct {
	PriceID  string
	Quantity int64 // 0 for metered prices, which take none
}

// SubscribeRequest asks for a subscription.
type SubscribeRequest struct {
	CustomerID string
	Account    string
	Items      []LineItem
	TrialEnd   time.Time // zero: no trial
	// PaymentMethod, when set, is charged; otherwise the customer's default.
	PaymentMethod string
	// TrialWithoutCard pauses the subscription at the trial's end unless there
	// is a payment method by then.
	TrialWithoutCard bool
	CouponID         string
	PromotionCode    string
	Metadata         map[string]string
}

// Subscribed is a new subscription and what the client needs to pay for it.
type Subscribed struct {
	Subscription Subscription
	Invoice      Invoice
	// ClientSecret is for the client that pays or sets a payment method up;
	// empty when nothing is due. Setup says that it is of a setup intent.
	ClientSecret string
	Setup        bool
}

// UpdateRequest asks for a change of a subscription. Zero fields change
// nothing.
type UpdateRequest struct {
	// Items replaces items: those with an ID change or are deleted, those
	// without one are added, those not named stay.
	Items []UpdateItem
	// Proration is "create_prorations" (settled with the next invoice),
	// "always_invoice" (settled now) or "none"; required with Items.
	Proration string
	// ProrationDate pins the instant of a proration, so that the change costs
	// what its preview said.
	ProrationDate time.Time
	// CancelAtPeriodEnd, when set, schedules or withdraws the end.
	CancelAtPeriodEnd *bool
	// CancelReason is the customer's reason, in the gateway's words.
	CancelReason string
	TrialEnd     time.Time
	// PauseCollection, when set, is a behaviour, or empty to collect again.
	PauseCollection *string
	// PauseUntil is when collection begins again by itself; zero: never.
	PauseUntil time.Time
	// AnchorNow begins a period now, and invoices it.
	AnchorNow     bool
	CouponID      string
	PaymentMethod string
	Metadata      map[string]string
	// IfUnpaid says what happens when a payment that is due now fails:
	// "error_if_incomplete" (the default: nothing changes and the error is
	// ErrDeclined), "pending_if_incomplete" or "allow_incomplete".
	IfUnpaid string
}

// UpdateItem is a change of one item.
type UpdateItem struct {
	ID       string // empty: a new item
	PriceID  string // empty: as it is
	Quantity *int64 // nil: as it is
	Delete   bool
}

// CancelRequest asks for the end of a subscription at once.
type CancelRequest struct {
	Prorate    bool // credit the unused time
	InvoiceNow bool // invoice what is pending
	Reason     string
}

// CheckoutRequest asks for a checkout session in subscription mode.
type CheckoutRequest struct {
	CustomerID          string
	Account             string
	Items               []LineItem
	SuccessURL          string // {CHECKOUT_SESSION_ID} in it becomes the session's ID
	CancelURL           string
	TrialDays           int64
	TrialWithoutCard    bool // asks for a payment method only if something is due now
	CouponID            string
	PromotionCode       string
	AllowPromotionCodes bool
	ExpiresAt           time.Time // zero: the gateway's default, 24 hours for Stripe
	Metadata            map[string]string
}

// Checkout is a checkout session.
type Checkout struct {
	ID             string            `json:"id"`
	URL            string            `json:"url,omitempty"`
	Status         string            `json:"status"`         // open, complete, expired
	PaymentStatus  string            `json:"payment_status"` // paid, unpaid, no_payment_required
	CustomerID     string            `json:"customer_id,omitempty"`
	Account        string            `json:"account,omitempty"`
	SubscriptionID string            `json:"subscription_id,omitempty"` // may come late
	ExpiresAt      time.Time         `json:"expires_at,omitzero"`
	Created        time.Time         `json:"created,omitzero"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Livemode       bool              `json:"livemode"`
}
