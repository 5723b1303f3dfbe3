package apikeys

import (
	"context"
	"time"
)

// Principal is who a request comes from, as its key says. It is immutable and
// safe to keep for the length of a request. All methods work on nil, which may
// do nothing.
type Principal struct {
	key    Key
	scopes scopeSet
}

func (s *Service) principal(k Key) *Principal {
	return &Principal{key: k.Clone(), scopes: compileScopes(k.Scopes, s.implies)}
}

// NewPrincipal returns the principal that the key makes, for tests of
// handlers. Implies is as in Config.
func NewPrincipal(k Key, implies map[string][]string) *Principal {
	if implies == nil {
		implies = defaultImplies
	}
	return &Principal{key: k.Clone(), scopes: compileScopes(k.Scopes, implies)}
}

// KeyID returns the key's public ID.
func (p *Principal) KeyID() string {
	if p == nil {
		return ""
	}
	return p.key.ID
}

// Lineage returns the ID that stays the same through rotations. Limits and
// usage are counted on it.
func (p *Principal) Lineage() string {
	if p == nil {
		return ""
	}
	return p.key.Lineage
}

// Owner returns whoever the key belongs to.
func (p *Principal) Owner() Owner {
	if p == nil {
		return Owner{}
	}
	return p.key.Owner
}

// Account returns the owner's ID.
func (p *Principal) Account() string { return p.Owner().ID }

// Environment returns the environment in which the key was issued.
func (p *Principal) Environment() string {
	if p == nil {
		return ""
	}
	return p.key.Environment
}

// Metadata returns what the application stored with the key under the name.
func (p *Principal) Metadata(name string) string {
	if p == nil {
		return ""
	}
	return p.key.Metadata[name]
}

// Replaced returns when the key was rotated, and when it ends (zero: not until
// its successor is used). Both are zero for a key that wasn't.
func (p *Principal) Replaced() (at, sunset time.Time) {
	if p == nil {
		return time.Time{}, time.Time{}
	}
	return p.key.ReplacedAt, p.key.SunsetAt
}

// Key returns a copy of the key, as it was when it was last read.
func (p *Principal) Key() Key {
	if p == nil {
		return Key{}
	}
	return p.key.Clone()
}

// Can reports whether the key's scopes cover the scope. It doesn't allocate.
func (p *Principal) Can(scope string) bool { return p != nil && p.scopes.covers(scope) }

// Actor returns the key as one who manages keys of its owner. Whoever offers
// that to keys checks the scope "apikeys:write" first.
func (p *Principal) Actor() Actor {
	if p == nil {
		return Actor{}
	}
	k := p.Key()
	return Actor{ID: k.ID, Owner: k.Owner, Scopes: k.Scopes}
}

type principalKey struct{}

// WithPrincipal returns a context that carries the principal.
func WithPrincipal(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the principal that Middleware put there, or nil.
func FromContext(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}
