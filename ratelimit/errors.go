package ratelimit

import "errors"

var (
	// ErrUnavailable says that the store couldn't be asked, or didn't answer in
	// time. Whether the cost was charged is unknown.
	ErrUnavailable = errors.New("ratelimit: store unavailable")

	// ErrInvalid says that a call can't mean anything, such as an empty key or a
	// cost below 1.
	ErrInvalid = errors.New("ratelimit: invalid call")

	// ErrUnsupported says that the store lacks an ability.
	ErrUnsupported = errors.New("ratelimit: not supported by this store")
)
