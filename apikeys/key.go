package apikeys

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Kinds of owner.
const (
	KindAccount      = "account"
	KindOrganisation = "organisation"
	KindService      = "service"
)

// Owner is whoever a key belongs to. The ID is the application's own.
type Owner struct {
	Kind string `json:"kind"` // empty means KindAccount
	ID   string `json:"id"`
}

// Account is the owner that an account is.
func Account(id string) Owner { return Owner{Kind: KindAccount, ID: id} }

// Organisation is the owner that an organisation is: its keys outlive the
// people who made them.
func Organisation(id string) Owner { return Owner{Kind: KindOrganisation, ID: id} }

// ServiceOwner is the owner that a machine of the application's own is.
func ServiceOwner(id string) Owner { return Owner{Kind: KindService, ID: id} }

func (o Owner) normal() Owner {
	if o.Kind == "" {
		o.Kind = KindAccount
	}
	return o
}

func (o Owner) valid() *FieldError {
	switch o.Kind {
	case KindAccount, KindOrganisation, KindService:
	default:
		return &FieldError{"Owner.Kind", "want account, organisation or service"}
	}
	if !validName(o.ID) {
		return &FieldError{"Owner.ID", "want 1 to 200 bytes of printable UTF-8"}
	}
	return nil
}

// Key is all that is known of an API key: everything but its token. Instants
// are UTC, whole microseconds, and zero when the thing hasn't happened.
type Key struct {
	ID string // key_…, public, sortable by time
	// Lineage is the ID of the first of a row of rotated keys. Limits and
	// usage belong to the lineage: rotation neither doubles nor loses them.
	Lineage     string
	Predecessor string // the key that this one replaces
	Successor   string // the key that replaces this one
	Owner       Owner
	Name        string
	Environment string
	Hint        string // what may be shown of the token
	Scopes      []string
	Networks    []netip.Prefix // where the key may be used from; empty is anywhere
	Metadata    map[string]string

	CreatedAt   time.Time
	CreatedBy   string    // the actor's ID
	ActivatedAt time.Time // zero for a successor that awaits its first use
	ExpiresAt   time.Time // the key ends at this instant; zero is never
	DisabledAt  time.Time
	RevokedAt   time.Time
	RevokedFor  string        // the reason that was given
	ReplacedAt  time.Time     // when it was rotated
	Overlap     time.Duration // how long it lives on after its successor's first use
	SunsetAt    time.Time     // when a replaced key ends
	LastUsed    Use
}

// Use is the last use of a key, as far as it has been written: see
// Config.UseInterval.
type Use struct {
	Key   string // the key's ID
	At    time.Time
	Addr  netip.Addr // invalid when unknown
	Agent string     // the User-Agent header, at most 120 bytes
}

// Status is the state of a key at an instant.
type Status string

// The states. Only an active key opens anything.
const (
	StatusActive   Status = "active"
	StatusRevoked  Status = "revoked"
	StatusDisabled Status = "disabled"
	StatusExpired  Status = "expired"
	StatusReplaced Status = "replaced" // rotated, and the overlap is over
)

// Status returns the state of the key at the instant.
func (k *Key) Status(now time.Time) Status {
	switch {
	case !k.RevokedAt.IsZero():
		return StatusRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return StatusExpired
	case !k.SunsetAt.IsZero() && !now.Before(k.SunsetAt):
		return StatusReplaced
	case !k.DisabledAt.IsZero():
		return StatusDisabled
	}
	return StatusActive
}

// Clone returns a copy that shares no memory with the key.
func (k Key) Clone() Key {
	k.Scopes = slices.Clone(k.Scopes)
	k.Networks = slices.Clone(k.Networks)
	k.Metadata = maps.Clone(k.Metadata)
	return k
}

// Actor is who changes a key. The zero value may do nothing.
type Actor struct {
	// ID stands in the log: an account, a key, a name of the application's own.
	ID string
	// Owner limits the actor to the keys of this owner: others don't exist
	// for it.
	Owner Owner
	// Scopes are what the actor holds: it can't grant more.
	Scopes []string
	// Operator lifts both limits, for the application's own administrators.
	Operator bool
}

// Operator is an administrator of the application: every key, every scope.
func Operator(id string) Actor { return Actor{ID: id, Operator: true} }

// Holder is a signed-in person who manages the owner's keys and may grant the
// scopes.
func Holder(id string, owner Owner, scopes ...string) Actor {
	return Actor{ID: id, Owner: owner.normal(), Scopes: scopes}
}

func (a Actor) valid() error {
	if !validName(a.ID) {
		return &FieldError{"Actor.ID", "want 1 to 200 bytes of printable UTF-8: who changes a key stands in the log"}
	}
	if !a.Operator && a.Owner.ID == "" {
		return &FieldError{"Actor.Owner", "say whose keys the actor manages, or make it an Operator"}
	}
	return nil
}

// validName says whether the text can name an owner or an actor.
func validName(s string) bool {
	return s != "" && len(s) <= 200 && cleanText(s) == s
}

// validID says whether the text can be a key's ID; no other one is shown to a
// store, which may not be able to hold it.
func validID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

func (a Actor) owns(o Owner) bool { return a.Operator || a.Owner.normal() == o }
