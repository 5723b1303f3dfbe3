package gdpr

import (
	"fmt"
	"time"
)

// Kind is a right that a subject exercises.
type Kind string

// The rights of Art. 15 to 21.
const (
	Access        Kind = "access"        // Art. 15: a copy and the information about it
	Rectification Kind = "rectification" // Art. 16
	Erasure       Kind = "erasure"       // Art. 17
	Restriction   Kind = "restriction"   // Art. 18
	Portability   Kind = "portability"   // Art. 20: what the subject gave, machine-readable
	Objection     Kind = "objection"     // Art. 21
)

func (k Kind) valid() bool {
	switch k {
	case Access, Rectification, Erasure, Restriction, Portability, Objection:
		return true
	}
	return false
}

// exports reports whether the request is answered with an archive.
func (k Kind) exports() bool { return k == Access || k == Portability }

// State is where a request stands.
type State string

// The states of a request. Access and portability run from Verified to Ready
// and Done; erasure waits in Cooling first. The other kinds are answered by a
// person: Verified to Done, a restriction by way of InForce.
const (
	Received  State = "received"  // the identity is still in doubt
	Verified  State = "verified"  // to be worked on
	Cooling   State = "cooling"   // an erasure that can still be cancelled
	Running   State = "running"   // steps are under way; retried until they are done
	Verifying State = "verifying" // all sources are searched again
	Ready     State = "ready"     // the archive can be downloaded
	Done      State = "done"
	Denied    State = "denied"
	Cancelled State = "cancelled"
	Held      State = "held"     // a legal hold: an erasure waits, exports go on
	InForce   State = "in_force" // a restriction, until it is lifted
)

// Closed reports whether nothing happens to a request in this state any more.
func (s State) Closed() bool { return s == Done || s == Denied || s == Cancelled }

// Request is a subject's request. It holds the subject only as a keyed hash
// and, until it is closed, in a sealed envelope.
type Request struct {
	ID         string
	Kind       Kind
	SubjectRef string // HMAC of the subject: the same for all of a subject's requests
	Sealed     []byte // the frozen identifiers, encrypted; nil after the end
	State      State
	HeldFrom   State // what Held goes back to
	Note       string

	ReceivedAt time.Time
	DueAt      time.Time // Art. 12(3)
	ExtendedAt time.Time // when the subject was told of the extension
	StartAt    time.Time // the end of an erasure's grace period
	FrozenAt   time.Time // when the account was locked and the subject told so
	ClosedAt   time.Time
	RemindedAt time.Time // when Config.Remind was told of DueAt

	Steps       []Step
	Certificate []byte // of a finished erasure
	Archive     Archive

	// NextRun is when a worker looks at it again; zero: never. A finished
	// erasure that retains something is looked at when its time has ended.
	NextRun    time.Time
	LeaseUntil time.Time
	Version    int64 // of the stored row, for optimistic updates
}

// Step is the part of one source in a request.
type Step struct {
	Source   string     `json:"source"`
	Done     bool       `json:"done"`
	Cursor   string     `json:"cursor,omitempty"`
	Removed  int64      `json:"removed,omitempty"`
	Anon     int64      `json:"anonymised,omitempty"`
	Retained []Retained `json:"retained,omitempty"`
	Rows     int64      `json:"rows,omitempty"` // of an export
	Attempts int        `json:"attempts,omitempty"`
	Failed   string     `json:"failed,omitempty"` // the last failure, without personal data
	NotUntil time.Time  `json:"not_until,omitzero"`
	EndedAt  time.Time  `json:"ended_at,omitzero"`
}

// Archive is a finished export.
type Archive struct {
	File      string    `json:"file,omitempty"` // its name in Config.Files
	Size      int64     `json:"size,omitempty"`
	SHA256    string    `json:"sha256,omitempty"` // of the stored, encrypted file
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// Overdue reports whether the limit of Art. 12(3) has passed without an
// answer.
func (r Request) Overdue(now time.Time) bool {
	return r.unanswered() && !now.Before(r.DueAt)
}

// unanswered reports whether the time limit still runs.
func (r Request) unanswered() bool {
	return !r.State.Closed() && r.State != Ready && r.State != InForce
}

func (r Request) step(source string) *Step {
	for i := range r.Steps {
		if r.Steps[i].Source == source {
			return &r.Steps[i]
		}
	}
	return nil
}

func (r Request) refuse(what string) error {
	return fmt.Errorf("%w: can't %s a request of kind %s that is %s", ErrState, what, r.Kind, r.State)
}
