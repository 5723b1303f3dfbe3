package usage

import (
	"errors"
	"fmt"
)

// The kinds of errors. Typed errors carry the detail and match their kind with
// errors.Is.
var (
	// ErrUnknownMeter says that a meter isn't declared in Config.Meters.
	ErrUnknownMeter = errors.New("usage: unknown meter")
	// ErrInvalid says that an argument, an event or a property is malformed.
	// Retrying doesn't help.
	ErrInvalid = errors.New("usage: invalid")
	// ErrTooLate and ErrInFuture say that an event's time lies outside what
	// Config.MaxAge and Config.MaxAhead accept.
	ErrTooLate  = errors.New("usage: event is too old")
	ErrInFuture = errors.New("usage: event lies in the future")
	// ErrKeyReused says that an ID or key has been used before for something
	// else. Nothing was counted.
	ErrKeyReused = errors.New("usage: key was used before with other content")
	// ErrOverflow says that a sum doesn't fit into an int64.
	ErrOverflow = errors.New("usage: sum overflows int64")
	// ErrNoQuota says that Config.Quota is missing or knows no quota for the
	// account and meter.
	ErrNoQuota = errors.New("usage: no quota")
	// ErrNotFound says that there is no such reservation.
	ErrNotFound = errors.New("usage: not found")
	// ErrSettled says that a reservation was settled before in another way:
	// committed with another amount, or released.
	ErrSettled = errors.New("usage: reservation is settled already")
	// ErrUnavailable says that a store could not be reached or is full.
	// Nothing was counted; a retry with the same ID or key is safe.
	ErrUnavailable = errors.New("usage: store is unavailable")
	// ErrUnknownOutcome says that a step may or may not have been taken: the
	// connection broke, or the context ended, in mid-flight. A retry with the
	// same ID or key finds out and never counts twice.
	ErrUnknownOutcome = errors.New("usage: outcome is unknown")
	// ErrUnsupported says that the store lacks an optional ability.
	ErrUnsupported = errors.New("usage: not supported by this store")
	// ErrFull says that a Recorder's buffer has no room.
	ErrFull = errors.New("usage: buffer is full")
	// ErrClosed says that a Recorder was closed.
	ErrClosed = errors.New("usage: recorder is closed")
)

// EventError says what is wrong with one event of a batch. It is the kind of
// its Err.
type EventError struct {
	Index int    // in the batch
	ID    string // as given
	Err   error
}

func (e *EventError) Error() string {
	return fmt.Sprintf("usage: event %d (ID %q): %v", e.Index, e.ID, e.Err)
}

func (e *EventError) Unwrap() error { return e.Err }

// UnknownOutcomeError is ErrUnknownOutcome with the key to retry with.
type UnknownOutcomeError struct {
	Key string
	Err error
}

func (e *UnknownOutcomeError) Error() string {
	return fmt.Sprintf("usage: outcome is unknown, retry with key %q: %v", e.Key, e.Err)
}

func (e *UnknownOutcomeError) Unwrap() []error { return []error{ErrUnknownOutcome, e.Err} }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
