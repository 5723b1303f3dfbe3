package mailer

import (
	"context"
	"time"
)

// State is where a mail of the outbox stands. Stores keep the number.
type State int

// The states of a mail. Pending, Claimed and Sending are open; the others are
// final, except that Held and Dead can be released by hand.
const (
	Pending State = iota // waits for its time
	Claimed              // a worker holds the lease and has not begun to send
	Sending              // a send that must not be repeated blindly has begun
	Done                 // the transport took it
	Dead                 // refused, or out of attempts: somebody has to look
	Dropped              // not wanted any more: see Reason
	Held                 // the outcome is unknown and the kind says not to repeat
)

func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Claimed:
		return "claimed"
	case Sending:
		return "sending"
	case Done:
		return "sent"
	case Dead:
		return "dead"
	case Dropped:
		return "dropped"
	case Held:
		return "held"
	}
	return "unknown"
}

// Reasons why a mail was dropped or ended, as they stand in a store.
const (
	ReasonSuppressed = "suppressed"
	ReasonCapped     = "capped"
	ReasonSuperseded = "superseded"
	ReasonExpired    = "expired"
	ReasonIrrelevant = "irrelevant"
	ReasonErased     = "erased"
	ReasonCancelled  = "cancelled"
	ReasonRefused    = "refused"   // by the receiving side, for good
	ReasonAttempts   = "attempts"  // gave up
	ReasonAmbiguous  = "ambiguous" // may have been sent
	ReasonInvalid    = "invalid"   // can't be rendered or composed
)

// Mail is one mail as the outbox keeps it. Data are the frozen variables; the
// templates are applied when it is sent.
type Mail struct {
	ID string
	// KeyHash is half of an HMAC-SHA256 of the idempotency key, 16 bytes, and
	// unique. Nobody without the secret can look for two keys that collide, and
	// by chance they do so once in 2^64 mails.
	KeyHash []byte
	Kind    string
	Stream  string
	Class   Class
	// Account is whoever the mail is about; Topic narrows it (an invoice).
	Account string
	Topic   string

	Email       string
	Name        string
	Locale      string
	TimeZone    string
	Domain      string // of Email, for pacing
	AddressHash []byte // 32 bytes: suppression works on it

	Data []byte // JSON

	CreatedAt time.Time
	RunAt     time.Time
	ExpiresAt time.Time

	State    State
	Attempts int // begun so far, this one included once it is claimed
	// Guarded mails get the Sending mark before a send: their outcome must be
	// known, or they are held.
	Guarded bool

	// What happened, as far as it did. Nothing here holds an address.
	Reason     string
	Code       int
	Enhanced   string
	Transport  string
	ProviderID string
	FinishedAt time.Time
}

// Enqueue is a mail on its way into the outbox, with the rules that the store
// decides in the same atomic step.
type Enqueue struct {
	Mail Mail
	// Group collects mails that stand in for each other: while one with the
	// same Account, Topic and Group is pending, this one takes its place and
	// its time. Empty means never.
	Group string
	// Supersedes are kinds whose pending mails to the same Account are
	// dropped; with a Topic, only those with the same Topic.
	Supersedes []string
	// CapCount, if positive, is how many mails of this Stream and Class the
	// Account may get that were enqueued at or after CapSince; dropped ones
	// don't count.
	CapCount int
	CapSince time.Time
}

// Status says what became of an enqueued mail. It is no error: every one of
// them is what the rules say.
type Status int

// What Enqueue can answer.
const (
	Queued     Status = iota // the outbox has it
	Duplicate                // the key has been used; ID is the earlier mail's
	Coalesced                // it took the place of a pending mail, whose ID it keeps
	Suppressed               // the address must not get it
	Capped                   // the account has had enough for now
	Delivered                // a direct send that the transport took
	Irrelevant               // a direct send that StillRelevant did not want
)

func (s Status) String() string {
	switch s {
	case Queued:
		return "queued"
	case Duplicate:
		return "duplicate"
	case Coalesced:
		return "coalesced"
	case Suppressed:
		return "suppressed"
	case Capped:
		return "capped"
	case Delivered:
		return "delivered"
	case Irrelevant:
		return "irrelevant"
	}
	return "unknown"
}

// Receipt is the answer to an enqueued mail.
type Receipt struct {
	ID     string
	Status Status
}

// Claim asks for mails to send.
type Claim struct {
	Now   time.Time
	Limit int
	Lease time.Duration
	// NotDomains are paused destinations.
	NotDomains []string
}

// Leased is a claimed mail.
type Leased struct {
	Mail
	// Suppressed says that the address must not get it any more.
	Suppressed bool
}

// Ack is the end of an attempt. It is applied only while the mail is claimed
// by that very attempt: a worker that lost its lease changes nothing.
type Ack struct {
	ID      string
	Attempt int // Mail.Attempts of the lease
	State   State
	// RunAt is when a mail that goes back to Pending is due.
	RunAt time.Time
	// Refund takes the attempt back: it did not count.
	Refund bool

	At         time.Time
	Reason     string
	Code       int
	Enhanced   string
	Transport  string
	ProviderID string
}

// Suppression keeps an address, known only by its HMAC, from getting mail.
type Suppression struct {
	AddressHash []byte
	// Stream it is limited to; empty means every stream.
	Stream string
	// Blocks is the most important class that it stops.
	Blocks Class
	Reason string // SuppressUnsubscribed, SuppressBounced, …
	Source string // who said so: a transport's or provider's name
	At     time.Time
}

// Stored is an event as a store keeps it, without an address.
type Stored struct {
	Provider    string
	ID          string
	Type        EventType
	Reason      RejectReason
	MailID      string
	AddressHash []byte
	Code        int
	Enhanced    string
	At          time.Time
}

// Stats counts the open mails and those that want a look.
type Stats struct {
	Pending, Claimed, Dead, Held int64
	// Oldest is when the mail that has been due for longest was due; zero when
	// none is due.
	Oldest time.Time
}

// Query selects mails for a look at the outbox, newest first.
type Query struct {
	Account string // empty means all
	States  []State
	Limit   int    // 1 to 1000
	Before  string // ID to go on from
}

// Store is the contract of a backend. mailertest.TestStore is its test; every
// sentence here has a case there.
//
// All methods are safe for concurrent use, by several processes where the
// backend is shared. Times are UTC, with microseconds.
type Store interface {
	// Enqueue takes mails in, all or none. For each it decides, in this order
	// and in one atomic step: has the key been used (Duplicate); does a
	// suppression block Stream and Class (the mail is kept as Dropped); is one
	// of the same group pending and untried (it is replaced, keeping ID, RunAt
	// and CreatedAt); is the cap reached (kept as Dropped); else it becomes
	// Pending.
	// Superseded mails are dropped whenever the new one is Queued or Coalesced.
	// Keys stay used until PurgeKeys.
	Enqueue(ctx context.Context, mails []Enqueue) ([]Receipt, error)

	// Claim leases mails that are Pending and due, oldest RunAt first, and
	// counts an attempt for each. No mail is leased twice at a time.
	Claim(ctx context.Context, c Claim) ([]Leased, error)
	// Begin marks a claimed mail as Sending. It reports false when that
	// attempt does not hold the lease any more.
	Begin(ctx context.Context, id string, attempt int) (bool, error)
	// Extend prolongs the leases of attempts that still hold theirs, and
	// returns how many.
	Extend(ctx context.Context, leases []Lease, until time.Time) (int, error)
	// Ack ends attempts, all in one step, and returns how many it applied to.
	// Without any it changes nothing, but makes the way that it would take: a
	// worker asks for that before it sends.
	Ack(ctx context.Context, acks []Ack) (int, error)
	// Recover takes mails back whose lease has ended: Claimed ones become
	// Pending, Sending ones Held with ReasonAmbiguous.
	Recover(ctx context.Context, now time.Time) (int, error)

	// Release makes Dead or Held mails Pending again, due at the time, with no
	// attempts behind them. Mails in another state, or erased ones, stay. It
	// returns how many it released.
	Release(ctx context.Context, ids []string, at, expires time.Time) (int, error)
	// Cancel drops a Pending or Held mail and reports whether it did.
	Cancel(ctx context.Context, id string, at time.Time) (bool, error)

	// Suppress records suppressions. One with the same address, stream and
	// reason is replaced if the new one is not older.
	Suppress(ctx context.Context, s []Suppression) error
	// Unsuppress removes the address's suppressions in exactly that stream
	// with one of the reasons, and returns how many.
	Unsuppress(ctx context.Context, addressHash []byte, stream string, reasons []string) (int, error)
	// Suppressions lists those of an address, by stream and reason.
	Suppressions(ctx context.Context, addressHash []byte) ([]Suppression, error)

	// Record keeps an event and reports whether it is new: events with an ID
	// are kept once for each provider.
	Record(ctx context.Context, e Stored) (bool, error)
	// CountEvents counts events of the type for an address since a time.
	CountEvents(ctx context.Context, addressHash []byte, t EventType, since time.Time) (int, error)
	// Lookup returns a mail, or [ErrNotFound].
	Lookup(ctx context.Context, id string) (Mail, error)
	// List returns mails for a look at the outbox.
	List(ctx context.Context, q Query) ([]Mail, error)
	// Stats counts.
	Stats(ctx context.Context, now time.Time) (Stats, error)

	// Scrub removes address, name and data from at most limit mails that
	// ended before the time, and returns how many. Their keys stay used.
	Scrub(ctx context.Context, before time.Time, limit int) (int, error)
	// PurgeKeys deletes scrubbed mails that ended before the time, and events
	// from before it, at most limit of each. It returns the greater number.
	PurgeKeys(ctx context.Context, before time.Time, limit int) (int, error)

	// Export emits all that is held on an account, oldest first.
	Export(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error
	// Erase removes what is personal in at most limit mails of the account and
	// their events, drops those that are open, and returns counts by record.
	// Suppressions stay: they are what keeps the objection alive. Nothing left
	// to erase is an empty map.
	Erase(ctx context.Context, account string, at time.Time, limit int) (map[string]int64, error)
}

// Lease names a claimed attempt.
type Lease struct {
	ID      string
	Attempt int
}

// Waiter is an optional interface of a Store. Wait returns when mail may have
// become due, when the time is up, or when the context ends. Once it would
// notice new mail it calls look, for what came before, and returns if look
// reports that there was some. It is a hint only; workers poll as well.
type Waiter interface {
	Wait(ctx context.Context, atMost time.Duration, look func(context.Context) bool) error
}
