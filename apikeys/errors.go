package apikeys

import (
	"errors"
	"fmt"
)

// The kinds of error. Detail comes as a typed error that is one of them by
// errors.Is. No error holds a token, a hash or a part of either.
var (
	// ErrNotFound says that no such key exists, or that it isn't the actor's.
	ErrNotFound = errors.New("apikeys: no such key")
	// ErrInvalid says that an argument can't be accepted; see FieldError.
	ErrInvalid = errors.New("apikeys: invalid")
	// ErrScope says that the actor doesn't hold what it wants to grant; see ScopeError.
	ErrScope = errors.New("apikeys: scope not held")
	// ErrState says that the key's state forbids the change; see StateError.
	ErrState = errors.New("apikeys: state forbids it")
	// ErrLimit says that the owner has as many keys as Config.MaxKeys allows.
	ErrLimit = errors.New("apikeys: too many keys")
	// ErrUnavailable says that the store gave no answer. It may be retried; it
	// says nothing about the key. A change that failed so has an unknown outcome.
	ErrUnavailable = errors.New("apikeys: store unavailable")
	// ErrDuplicate says that a key with the same ID or hash is stored already.
	ErrDuplicate = errors.New("apikeys: duplicate")
	// ErrAltered says that the log isn't what was written; see AuditError.
	ErrAltered = errors.New("apikeys: log altered")
)

// FieldError names an argument that can't be accepted. It is ErrInvalid.
type FieldError struct {
	Field   string
	Problem string // what to do about it
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("apikeys: %s: %s", e.Field, e.Problem)
}

// Is reports whether target is ErrInvalid.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// ScopeError names a scope that the actor wanted to grant and doesn't hold. It
// is ErrScope.
type ScopeError struct{ Scope string }

func (e *ScopeError) Error() string {
	return fmt.Sprintf("apikeys: scope %q isn't held by the one who grants it: ask for fewer scopes", e.Scope)
}

// Is reports whether target is ErrScope.
func (e *ScopeError) Is(target error) bool { return target == ErrScope }

// StateError says which state forbids a change. It is ErrState.
type StateError struct {
	Key       string // the key's ID
	Status    Status
	Successor string // the key that replaced it, if one did
}

func (e *StateError) Error() string {
	if e.Successor != "" {
		return fmt.Sprintf("apikeys: key %s has been rotated: go on with %s", e.Key, e.Successor)
	}
	return fmt.Sprintf("apikeys: key %s is %s: issue another one", e.Key, e.Status)
}

// Is reports whether target is ErrState.
func (e *StateError) Is(target error) bool { return target == ErrState }

// unavailable marks an error of the store as one that says nothing about keys.
func unavailable(doing string, err error) error {
	for _, kind := range []error{ErrNotFound, ErrInvalid, ErrScope, ErrState, ErrLimit, ErrDuplicate, ErrUnavailable} {
		if errors.Is(err, kind) {
			return err
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, err)
}
