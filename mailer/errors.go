package mailer

import (
	"errors"
	"fmt"
)

// Kinds of error. Match them with [errors.Is]; the typed errors below carry
// the detail. No error of this package contains an address, a name or a body.
var (
	// ErrAddress says that an address can't be used. See [AddressError].
	ErrAddress = errors.New("mailer: address can't be used")
	// ErrHeader says that a header's name or value would break the message.
	// See [HeaderError].
	ErrHeader = errors.New("mailer: header can't be used")
	// ErrDefinition says that a kind of mail breaks a rule. See
	// [DefinitionError].
	ErrDefinition = errors.New("mailer: kind is not well defined")
	// ErrUnknownKind says that a kind isn't among Config.Kinds.
	ErrUnknownKind = errors.New("mailer: kind is not in Config.Kinds")
	// ErrNoKey says that a mail came without an idempotency key.
	ErrNoKey = errors.New("mailer: idempotency key is missing: name the kind, the account and the occasion")
	// ErrNotFound says that the outbox doesn't hold the mail.
	ErrNotFound = errors.New("mailer: mail not found")
	// ErrConfig says that a Config can't work; the text names the field.
	ErrConfig = errors.New("mailer: configuration")
	// ErrToken says that an unsubscribe token is not one of ours.
	ErrToken = errors.New("mailer: unsubscribe token is not valid")
	// ErrSignature says that a webhook's signature does not verify, or that
	// its time is outside the window.
	ErrSignature = errors.New("mailer: webhook signature does not verify")
	// ErrNotSent says that a direct send did not succeed. See [SendError].
	ErrNotSent = errors.New("mailer: mail was not sent")
	// ErrFull says that a bounded store holds as much as it may.
	ErrFull = errors.New("mailer: store is full")
)

// AddressError says why an address can't be used, without repeating it.
type AddressError struct {
	Field  string // "to", "from", "reply-to", …
	Reason string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("mailer: %s address: %s", e.Field, e.Reason)
}

// Is makes the error match [ErrAddress].
func (e *AddressError) Is(target error) bool { return target == ErrAddress }

// HeaderError names the header that can't be used, and why.
type HeaderError struct {
	Name   string // cleaned for display
	Reason string
}

func (e *HeaderError) Error() string {
	return fmt.Sprintf("mailer: header %q: %s", e.Name, e.Reason)
}

// Is makes the error match [ErrHeader].
func (e *HeaderError) Is(target error) bool { return target == ErrHeader }

// DefinitionError says which rule a kind breaks, and where.
type DefinitionError struct {
	Kind   string
	File   string // the template, when it is about one
	Reason string
}

func (e *DefinitionError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("mailer: kind %q: %s", e.Kind, e.Reason)
	}
	return fmt.Sprintf("mailer: kind %q: %s: %s", e.Kind, e.File, e.Reason)
}

// Is makes the error match [ErrDefinition].
func (e *DefinitionError) Is(target error) bool { return target == ErrDefinition }

// SendError is the outcome of a direct send that is not [Sent].
type SendError struct {
	ID     string // of the mail; sending again with the same key keeps it
	Result Result
}

func (e *SendError) Error() string {
	return fmt.Sprintf("mailer: mail %s was not sent: %s", e.ID, e.Result)
}

// Is makes the error match [ErrNotSent].
func (e *SendError) Is(target error) bool { return target == ErrNotSent }

// Unwrap returns the transport's error.
func (e *SendError) Unwrap() error { return e.Result.Err }
