package apikeys

import (
	"context"
	"fmt"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// Scheme accepts the keys that another library has issued, without issuing
// them again. Package apikeysimport has the usual ones.
//
// What the other library stored is hashed once more under this service's
// pepper, so that a stored hash opens nothing. At its first use a key is
// rehashed from its token, and is then as fast as any other.
type Scheme struct {
	// Name stands in the store; it never changes.
	Name string
	// Parse reads what the other library stored. The lookup is what Lookup
	// computes from the token. A verifier, if there is one, is what Matches
	// needs: for hashes that can't be looked up, such as bcrypt.
	Parse func(stored string) (lookup, verifier []byte, err error)
	// Lookup computes from a token what Parse returned for it. It reports
	// false for a text that can't be one of these tokens: be strict, since
	// every true costs a question to the store.
	Lookup func(token string) ([]byte, bool)
	// Matches reports whether the token belongs to the verifier. It may be nil
	// when Parse never returns one.
	Matches func(token string, verifier []byte) bool
}

// ImportedKey is a key of another library.
type ImportedKey struct {
	Scheme   string // the name of one of Config.Schemes
	Stored   string // as the other library stored it
	Hint     string // what may be shown of the token
	Name     string
	Owner    Owner
	Scopes   []string
	Metadata map[string]string
	// CreatedAt is when the key was made; zero is now.
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Import takes keys over in one atomic step: all of them or none. At most 1000
// at a time. A key that is there already is ErrDuplicate.
func (s *Service) Import(ctx context.Context, by Actor, in []ImportedKey) ([]Key, error) {
	switch {
	case by.valid() != nil:
		return nil, by.valid()
	case !by.Operator:
		return nil, &FieldError{"Actor", "only an Operator may import keys"}
	case len(in) > 1000:
		return nil, &FieldError{"keys", "at most 1000 at a time"}
	}
	now := s.stamp()
	var d Delta
	keys := make([]Key, 0, len(in))
	for i := range in {
		rec, err := s.importOne(by, &in[i], now)
		if err != nil {
			return nil, fmt.Errorf("key %d of the import: %w", i, err)
		}
		d.Put = append(d.Put, rec)
		d.Log = append(d.Log, entryFor(&rec.Key, ActionImported, by, now, map[string]string{"scheme": rec.Scheme, "name": rec.Name}))
		keys = append(keys, rec.Key.Clone())
	}
	if err := s.change(ctx, Selection{}, func([]Record) (Delta, error) { return d, nil }); err != nil {
		return nil, err
	}
	return keys, nil
}

func (s *Service) importOne(by Actor, in *ImportedKey, now time.Time) (Record, error) {
	scheme := s.scheme(in.Scheme)
	if scheme == nil {
		return Record{}, &FieldError{"Scheme", "not in Config.Schemes"}
	}
	lookup, verifier, err := scheme.Parse(in.Stored)
	if err != nil {
		return Record{}, &FieldError{"Stored", "isn't what " + scheme.Name + " stores"}
	}
	if verifier != nil && scheme.Matches == nil {
		return Record{}, &FieldError{"Scheme", scheme.Name + " returns a verifier and has no Matches"}
	}
	created := in.CreatedAt.UTC().Truncate(time.Microsecond)
	if in.CreatedAt.IsZero() || created.After(now) {
		created = now
	}
	k := Key{
		ID: ident.New("key", created), Owner: in.Owner.normal(), Environment: s.cfg.Environment,
		Hint: in.Hint, CreatedAt: created, CreatedBy: by.ID, ActivatedAt: now,
	}
	k.Lineage = k.ID
	if err := k.Owner.valid(); err != nil {
		return Record{}, err
	}
	if len(k.Hint) > 40 || cleanText(k.Hint) != k.Hint {
		return Record{}, &FieldError{"Hint", "want at most 40 bytes of printable UTF-8: a hint isn't the token"}
	}
	u := Update{Name: &in.Name, Scopes: &in.Scopes, Metadata: &in.Metadata}
	if !in.ExpiresAt.IsZero() {
		u.ExpiresAt = &in.ExpiresAt
	}
	if err := s.edit(&k, by, u, now); err != nil {
		return Record{}, err
	}
	h := s.hashers[0]
	return Record{
		Key: k, Hash: h.wrap(scheme.Name, lookup), Pepper: h.id, Tag: h.id,
		Scheme: scheme.Name, Verifier: verifier,
	}, nil
}

func (s *Service) scheme(name string) *Scheme {
	for i := range s.cfg.Schemes {
		if s.cfg.Schemes[i].Name == name {
			return &s.cfg.Schemes[i]
		}
	}
	return nil
}

// foreignToken labels the hash of an imported key that has been used.
const foreignToken = "token"

// foreignHashes returns the hash under which the cache knows a token of
// another library, and those under which the store may. There are none of the
// latter when no scheme knows the form of the token.
func (s *Service) foreignHashes(token string) (Hash, []Hash) {
	var extra []Hash
	for i := range s.cfg.Schemes {
		lookup, ok := s.cfg.Schemes[i].Lookup(token)
		if !ok {
			continue
		}
		for _, h := range s.hashers {
			if !h.tagOnly {
				extra = append(extra, h.wrap(s.cfg.Schemes[i].Name, lookup))
			}
		}
	}
	if len(extra) == 0 {
		return Hash{}, nil
	}
	for _, h := range s.hashers[1:] {
		if !h.tagOnly {
			extra = append(extra, h.wrap(foreignToken, []byte(token)))
		}
	}
	return s.hashers[0].wrap(foreignToken, []byte(token)), extra
}

func (s *Service) schemeMatches(r Record, token string) bool {
	scheme := s.scheme(r.Scheme)
	return scheme != nil && scheme.Matches != nil && scheme.Matches(token, r.Verifier)
}
