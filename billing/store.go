package billing

import (
	"context"
	"time"
)

// Store keeps accounts, the inbox of gateway events, and the outbox of
// notices. Service is its caller; billingmem, billingpg and a store of your
// own implement it, and billingtest.TestStore checks each sentence here.
//
// Every method is one atomic step: it happens wholly or not at all, also when
// the process dies in the middle, and it is safe for concurrent use by several
// processes. What a method returned as stored is durable. Errors other than
// the ones named are for trying again later.
type Store interface {
	// Account returns an account. One that was never saved is the zero Account
	// with its ID.
	Account(ctx context.Context, id string) (Account, error)
	// AccountOf returns the account of a customer; none is ErrNotFound.
	AccountOf(ctx context.Context, customerID string) (string, error)
	// Accounts lists accounts by ID, ascending, after the given one.
	Accounts(ctx context.Context, q AccountQuery) ([]string, error)

	// Save writes an account with all that follows from it: it replaces the
	// account, marks inbox events as done, and adds notices to the outbox,
	// together or not at all. If the stored version isn't Account.Version, or
	// the customer belongs to another account, nothing is written and the
	// error is ErrConflict. The stored version becomes Account.Version + 1.
	// Events that are done already or unknown are passed over; a notice whose
	// ID was ever added is not added again.
	Save(ctx context.Context, c Change) error

	// PutEvent adds an event to the inbox, pending and due at its Next. It
	// reports false, and changes nothing, if the event's ID is known.
	PutEvent(ctx context.Context, e InboxEvent) (added bool, err error)
	// ClaimEvents returns up to limit pending events that are due at now,
	// those due first first, counts the attempt, and makes them due again at
	// now + lease: nobody else gets them before, and somebody gets them then
	// unless they were finished.
	ClaimEvents(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]InboxEvent, error)
	// FinishEvents marks events as done without a change of an account.
	FinishEvents(ctx context.Context, ids []string) error
	// FailEvents records errors of pending events and when they are due again,
	// or that they are dead. Events that aren't pending are passed over.
	FailEvents(ctx context.Context, failures []Failure) error
	// Events lists the inbox by (Received, ID), oldest first.
	Events(ctx context.Context, q EventQuery) ([]InboxEvent, error)
	// ReplayEvents makes dead and done events pending again, due at now, with
	// no attempts counted, and returns how many there were.
	ReplayEvents(ctx context.Context, ids []string, now time.Time) (int, error)

	// ClaimNotices is ClaimEvents for the outbox. Notices of one account come
	// in the order in which they were added.
	ClaimNotices(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]Delivery, error)
	// SettleNotices marks notices as delivered, and records failures as
	// FailEvents does.
	SettleNotices(ctx context.Context, delivered []string, failures []Failure, now time.Time) error
	// Notices lists an account's notices in the order in which they were
	// added, delivered ones too, after the one with the given ID.
	Notices(ctx context.Context, account, after string, limit int) ([]Delivery, error)

	// Prune deletes up to limit inbox events that were received before the
	// instant and are done, and empties up to limit notices delivered before
	// it, whose IDs stay known. It returns how many of both.
	Prune(ctx context.Context, before time.Time, limit int) (int, error)

	// Detach replaces an account by another one, which has no personal data and
	// an ID that was never used: the row is at as.ID and at as.Version + 1
	// then, and the old ID is unknown. If the account's version isn't
	// as.Version, nothing is written and the error is ErrConflict.
	Detach(ctx context.Context, account string, as Account) error
	// Scrub takes the contents away from up to limit done or dead events of a
	// customer, and from up to limit notices of an account, whatever their
	// state. Their IDs stay known; a scrubbed event isn't replayed.
	Scrub(ctx context.Context, account, customerID string, limit int) (events, notices int, err error)

	// Claim takes a name for an account and returns whose it is: of any number
	// of callers, the first one's for good. It changes nothing when the name
	// is taken. Detach moves claims on to the new ID.
	Claim(ctx context.Context, name, account string, now time.Time) (holder string, err error)
	// Claims lists the names that an account holds, ascending.
	Claims(ctx context.Context, account string) ([]Claimed, error)

	// Cursor returns a named instant, zero if it was never set; SetCursor sets
	// it, never back.
	Cursor(ctx context.Context, name string) (time.Time, error)
	SetCursor(ctx context.Context, name string, t time.Time) error
}

// Change is what Save writes.
type Change struct {
	Account Account
	Done    []string // IDs of inbox events
	Notices []Notice
}

// AccountQuery selects accounts: those after After for which every field that
// is set holds.
type AccountQuery struct {
	After        string
	DueBefore    time.Time // DueAt is set and not after this
	SyncedBefore time.Time // has a customer, and SyncedAt is before this
	Limit        int
}

// Claimed is a name that an account holds.
type Claimed struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// EventStatus is where an inbox event stands.
type EventStatus string

// The statuses of an inbox event.
const (
	EventPending EventStatus = "pending"
	EventDone    EventStatus = "done"
	EventDead    EventStatus = "dead" // given up; see Service.Replay
)

// InboxEvent is an event of the gateway as it was received.
type InboxEvent struct {
	ID         string      `json:"id"`
	Type       string      `json:"type"`
	CustomerID string      `json:"customer_id,omitempty"`
	Account    string      `json:"account,omitempty"` // that the event itself names
	Created    time.Time   `json:"created"`
	Received   time.Time   `json:"received"`
	Body       []byte      `json:"-"` // the exact bytes
	Status     EventStatus `json:"status"`
	Attempts   int         `json:"attempts"`
	Next       time.Time   `json:"next"` // due
	LastError  string      `json:"last_error,omitempty"`
}

// EventQuery selects inbox events: those after After for which every field
// that is set holds.
type EventQuery struct {
	Status     EventStatus
	CustomerID string
	After      string // ID of the last event seen
	Limit      int
}

// Delivery is a notice on its way to the application.
type Delivery struct {
	Notice
	Attempts  int       `json:"attempts"`
	Next      time.Time `json:"next,omitzero"`
	Delivered time.Time `json:"delivered,omitzero"`
	Dead      bool      `json:"dead,omitempty"`
	LastError string    `json:"last_error,omitempty"`
}

// Failure is an attempt that failed.
type Failure struct {
	ID    string
	Next  time.Time // due again; unused when dead
	Error string
	Dead  bool
}
