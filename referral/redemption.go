package referral

import "time"

// RedemptionState is where a redemption stands.
type RedemptionState string

// The states of a redemption.
const (
	RedemptionReview    RedemptionState = "review"    // a person decides: Approve or Reject
	RedemptionPending   RedemptionState = "pending"   // the referee hasn't qualified
	RedemptionQualified RedemptionState = "qualified" // the reward vests, or has vested
	RedemptionVoided    RedemptionState = "voided"    // taken back, rejected, or the window passed
)

// Redemption is one use of a code by a new account.
type Redemption struct {
	ID         string
	Campaign   string
	Code       string
	Referrer   string
	Referee    string
	State      RedemptionState
	Reasons    []string // why it is under review or voided
	Terms      Campaign // as they were
	CreatedAt  time.Time
	ChangedAt  time.Time
	ClosesAt   time.Time // when an unqualified one is voided
	PaidBy     string    // the payment that qualified it
	PaidAmount int64     // minor units
	Refunded   int64     // of PaidAmount, in all
	Currency   string
	Version    int64 // of what is stored, from 1
}

// Side is whose reward it is.
type Side string

// The sides.
const (
	Referrer Side = "referrer"
	Referee  Side = "referee"
)

// RewardState is where a reward stands.
type RewardState string

// The states of a reward: pending → qualified → granted → reversed, or
// expired.
const (
	RewardPending   RewardState = "pending"   // waits for the referee
	RewardQualified RewardState = "qualified" // to be granted from VestsAt on
	RewardGranted   RewardState = "granted"   // it reached the invoice
	RewardReversed  RewardState = "reversed"  // taken back before or after
	RewardExpired   RewardState = "expired"   // never qualified
)

// Reward is what one side gets from a redemption.
type Reward struct {
	ID         string
	Redemption string
	Campaign   string
	Account    string
	Side       Side
	Benefit    Benefit
	State      RewardState
	VestsAt    time.Time // zero until it is qualified
	CreatedAt  time.Time
	ChangedAt  time.Time

	// MonthsLeft are the free months that haven't reached an invoice.
	MonthsLeft int64
	// Amount is what was granted in all, Reversed what was taken back of it,
	// in minor units of Currency.
	Amount   int64
	Reversed int64
	Currency string
	// Grants are the gateway's objects by which it was granted.
	Grants []Grant
	// Call is a grant that is under way: it is written down before the
	// gateway is asked, with all that it depends on, so that whoever finishes
	// it, after a crash or a lost answer, asks for the same.
	Call *Call

	// Corrected is how often Reconcile booked another amount.
	Corrected int64
	NextTry   time.Time
	Attempts  int
	Version   int64
}

// Grant is one object at the gateway.
type Grant struct {
	ID       string    `json:"id"` // reward, and the month of it
	Ref      string    `json:"ref"`
	Invoice  string    `json:"invoice,omitempty"`
	Amount   int64     `json:"amount"`
	Currency string    `json:"currency"`
	At       time.Time `json:"at"`
}

// Call is a call of the gateway whose outcome isn't known yet.
type Call struct {
	ID      string `json:"id"`
	Invoice string `json:"invoice,omitempty"` // for a month
	Amount  int64  `json:"amount,omitempty"`  // for a credit: what is due, before Less
	// Less is what is recovered of earlier reversals; Store.Begin sets it.
	Less     int64  `json:"less,omitempty"`
	Currency string `json:"currency,omitempty"` // of Less
	// Returned is the part of a credit that a refund took back before it was
	// granted: it is booked as granted and reversed, and never asked for.
	Returned int64 `json:"returned,omitempty"`
	// Reverse is what is taken back instead, for Cause.
	Reverse int64  `json:"reverse,omitempty"`
	Cause   string `json:"cause,omitempty"`
}

// EntryKind is what a row of the ledger is.
type EntryKind string

// The kinds of rows.
const (
	EntryGrant    EntryKind = "grant"    // positive: it reached the invoice or the balance
	EntryReversal EntryKind = "reversal" // negative: what a refund took back
	// EntryRecovery is positive: a part of a reversal that was made good, from
	// unspent credit or from a later reward. What isn't recovered is carried;
	// no card is ever charged for it.
	EntryRecovery EntryKind = "recovery"
	// EntryCorrection is what Reconcile found at the provider, less what was
	// entered before.
	EntryCorrection EntryKind = "correction"
)

// Carried reports whether rows of the kind count in what an account carries.
func (k EntryKind) Carried() bool { return k == EntryReversal || k == EntryRecovery }

// Entry is a row of the append-only ledger.
type Entry struct {
	ID       string // of the cause: the same cause is entered once
	Kind     EntryKind
	Reward   string
	Account  string
	Amount   int64
	Currency string
	Cause    string // the gateway's object, or the notice
	At       time.Time
}
