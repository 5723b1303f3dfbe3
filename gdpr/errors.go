package gdpr

import "errors"

// The kinds of this package's errors, for errors.Is.
var (
	// ErrNotFound says that a request, an export or a consent purpose doesn't
	// exist.
	ErrNotFound = errors.New("gdpr: not found")
	// ErrInvalid says that a request is wrong and will stay so.
	ErrInvalid = errors.New("gdpr: invalid request")
	// ErrActive says that the subject has an open request of this kind
	// already.
	ErrActive = errors.New("gdpr: a request of this kind is open")
	// ErrState says that a request's state doesn't allow the step: a running
	// erasure can't be cancelled.
	ErrState = errors.New("gdpr: not possible in this state")
	// ErrConflict says that somebody else changed the request meanwhile.
	ErrConflict = errors.New("gdpr: conflict")
	// ErrErased says that the identifier belongs to an erased subject:
	// whatever asks to write it came too late.
	ErrErased = errors.New("gdpr: subject is erased")
	// ErrBehind says that the database is older than the journal of erasures,
	// as after a restored backup: Reapply before anything is written.
	ErrBehind = errors.New("gdpr: database is behind the journal of erasures: run Reapply")
	// ErrResidue says that a source still holds data after it reported its
	// erasure as done.
	ErrResidue = errors.New("gdpr: data left after erasure")
	// ErrSecret says that an export was stopped because a field looked like a
	// credential.
	ErrSecret = errors.New("gdpr: export holds a secret")
	// ErrShredded says that the subject's key was destroyed: what it sealed
	// can't be read by anybody any more.
	ErrShredded = errors.New("gdpr: key is shredded")
	// ErrTampered says that the audit log isn't what was written.
	ErrTampered = errors.New("gdpr: audit log was altered")
	// ErrToken says that a download token is wrong, used up or expired.
	ErrToken = errors.New("gdpr: download token refused")
)
