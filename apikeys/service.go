package apikeys

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kolekt/commerce/internal/ident"
)

// NewKey is what Issue needs to know.
type NewKey struct {
	// Owner is whose key it is; empty means the actor's own.
	Owner Owner
	// Name is for people: 1 to 100 characters.
	Name   string
	Scopes []string
	// Networks are the only ones that the key may be used from; none is all.
	Networks []netip.Prefix
	// Metadata is the application's own: at most 32 entries of at most 500
	// bytes. It goes with every use of the key, so keep it small.
	Metadata map[string]string
	// ExpiresAt is when the key ends; zero is Config.MaxLifetime from now, or
	// never.
	ExpiresAt time.Time
}

// Issue makes a key and returns its token, which exists nowhere else: show it
// once. When the answer is lost, so is the token; revoke the key.
func (s *Service) Issue(ctx context.Context, by Actor, in NewKey) (Token, Key, error) {
	if err := by.valid(); err != nil {
		return Token{}, Key{}, err
	}
	if in.Owner == (Owner{}) {
		in.Owner = by.Owner
	}
	now := s.stamp()
	k := Key{
		ID:          ident.New("key", now),
		Owner:       in.Owner.normal(),
		Environment: s.cfg.Environment,
		CreatedAt:   now,
		CreatedBy:   by.ID,
		ActivatedAt: now,
		ExpiresAt:   in.ExpiresAt,
	}
	k.Lineage = k.ID
	if err := k.Owner.valid(); err != nil {
		return Token{}, Key{}, err
	}
	if !by.owns(k.Owner) {
		return Token{}, Key{}, ErrNotFound
	}
	u := Update{Name: &in.Name, Scopes: &in.Scopes, Networks: &in.Networks, Metadata: &in.Metadata}
	if !in.ExpiresAt.IsZero() || s.cfg.MaxLifetime > 0 {
		u.ExpiresAt = &in.ExpiresAt
	}
	if err := s.edit(&k, by, u, now); err != nil {
		return Token{}, Key{}, err
	}
	token, rec := s.mint(k)
	sel := Selection{}
	if s.cfg.MaxKeys > 0 {
		sel.Owner = k.Owner
	}
	err := s.change(ctx, sel, func(found []Record) (Delta, error) {
		live := 0
		for i := range found {
			if st := found[i].Status(now); st == StatusActive || st == StatusDisabled {
				live++
			}
		}
		if s.cfg.MaxKeys > 0 && live >= s.cfg.MaxKeys {
			return Delta{}, fmt.Errorf("%w: the owner has %d: revoke one first", ErrLimit, live)
		}
		return Delta{Put: []Record{rec}, Log: []Entry{entryFor(&rec.Key, ActionIssued, by, now, map[string]string{
			"name": k.Name, "scopes": strings.Join(k.Scopes, " "),
		})}}, nil
	})
	if err != nil {
		return Token{}, Key{}, err
	}
	return token, rec.Key.Clone(), nil
}

// mint gives the key a token.
func (s *Service) mint(k Key) (Token, Record) {
	head := s.cfg.Prefix + "_" + k.Environment + "_"
	token, hash := s.hashers[0].mint(head, randomPart())
	k.Hint = token.Hint()
	return token, Record{Key: k, Hash: hash, Pepper: s.hashers[0].id, Tag: s.hashers[0].id}
}

func entryFor(k *Key, action string, by Actor, now time.Time, detail map[string]string) Entry {
	return Entry{At: now, Action: action, Key: k.ID, Owner: k.Owner, Actor: by.ID, Detail: detail}
}

// Update is a change of a key: nil leaves a field as it is.
type Update struct {
	Name     *string
	Scopes   *[]string
	Networks *[]netip.Prefix
	Metadata *map[string]string
	// ExpiresAt ends the key at an instant; the zero time, never.
	ExpiresAt *time.Time
	Disabled  *bool
}

// Update changes a key. It answers with the key as it is afterwards.
func (s *Service) Update(ctx context.Context, by Actor, id string, u Update) (Key, error) {
	var out Key
	err := s.changeOne(ctx, by, id, func(r *Record, now time.Time) (Delta, error) {
		if st := r.Status(now); st == StatusRevoked {
			return Delta{}, &StateError{Key: id, Status: st}
		}
		before := r.Key.Clone()
		if err := s.edit(&r.Key, by, u, now); err != nil {
			return Delta{}, err
		}
		out = r.Key.Clone()
		return Delta{Put: []Record{*r}, Log: []Entry{entryFor(&r.Key, ActionUpdated, by, now, differences(&before, &r.Key))}}, nil
	})
	return out, err
}

// edit applies an update after checking it.
func (s *Service) edit(k *Key, by Actor, u Update, now time.Time) error {
	if u.Name != nil {
		name := strings.TrimSpace(*u.Name)
		if name == "" || utf8.RuneCountInString(name) > 100 || cleanText(name) != name {
			return &FieldError{"Name", "want 1 to 100 characters on one line"}
		}
		k.Name = name
	}
	if u.Scopes != nil {
		scopes, err := normalScopes(*u.Scopes, s.cfg.Scopes)
		if err != nil {
			return err
		}
		if err := s.grantable(by, scopes); err != nil {
			return err
		}
		k.Scopes = scopes
	}
	if u.Networks != nil {
		networks, err := normalNetworks(*u.Networks)
		if err != nil {
			return err
		}
		k.Networks = networks
	}
	if u.Metadata != nil {
		if len(*u.Metadata) > 32 {
			return &FieldError{"Metadata", "at most 32 entries"}
		}
		for name, value := range *u.Metadata {
			if name == "" || len(name)+len(value) > 500 || cleanText(name+value) != name+value {
				return &FieldError{"Metadata", "want printable UTF-8, at most 500 bytes for a name and its value"}
			}
		}
		k.Metadata = maps.Clone(*u.Metadata)
	}
	if u.ExpiresAt != nil {
		at := u.ExpiresAt.UTC().Truncate(time.Microsecond)
		if u.ExpiresAt.IsZero() {
			at = time.Time{}
		}
		if s.cfg.MaxLifetime > 0 {
			latest := k.CreatedAt.Add(s.cfg.MaxLifetime)
			if at.IsZero() {
				at = latest
			}
			if at.After(latest) {
				return &FieldError{"ExpiresAt", "at most " + s.cfg.MaxLifetime.String() + " after the key was made"}
			}
		}
		if !at.IsZero() && (at.Before(k.CreatedAt) || at.Year() > 9999) {
			return &FieldError{"ExpiresAt", "want an instant after the key was made"}
		}
		k.ExpiresAt = at
	}
	if u.Disabled != nil {
		switch {
		case !*u.Disabled:
			k.DisabledAt = time.Time{}
		case k.DisabledAt.IsZero():
			k.DisabledAt = now
		}
	}
	return nil
}

// grantable says whether the actor holds all the scopes.
func (s *Service) grantable(by Actor, scopes []string) error {
	if by.Operator {
		return nil
	}
	held := compileScopes(by.Scopes, s.implies)
	for _, scope := range scopes {
		if !held.covers(scope) {
			return &ScopeError{scope}
		}
	}
	return nil
}

func normalNetworks(in []netip.Prefix) ([]netip.Prefix, error) {
	if len(in) > 100 {
		return nil, &FieldError{"Networks", "at most 100"}
	}
	var out []netip.Prefix
	for _, n := range in {
		if n.IsValid() && n.Addr().Is4In6() && n.Bits() >= 96 {
			n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		}
		if n = n.Masked(); !n.IsValid() {
			return nil, &FieldError{"Networks", "want networks such as 203.0.113.0/24 or 2001:db8::/32"}
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// differences says for the log which fields have changed.
func differences(a, b *Key) map[string]string {
	d := map[string]string{}
	note := func(field, was, is string) {
		if was != is {
			d[field] = is
		}
	}
	note("name", a.Name, b.Name)
	note("scopes", strings.Join(a.Scopes, " "), strings.Join(b.Scopes, " "))
	note("networks", fmt.Sprint(a.Networks), fmt.Sprint(b.Networks))
	note("expires_at", instant(a.ExpiresAt), instant(b.ExpiresAt))
	note("disabled_at", instant(a.DisabledAt), instant(b.DisabledAt))
	if !maps.Equal(a.Metadata, b.Metadata) {
		d["metadata"] = "changed"
	}
	return d
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Revoke ends a key for good, at once. Revoking it again changes nothing. The
// reason is for people; it stands in the key and in the log.
func (s *Service) Revoke(ctx context.Context, by Actor, id, reason string) error {
	return s.changeOne(ctx, by, id, func(r *Record, now time.Time) (Delta, error) {
		if !r.RevokedAt.IsZero() {
			return Delta{}, nil
		}
		return revocation([]Record{*r}, by, reason, now), nil
	})
}

// RevokeOwner ends all keys of an owner in one step, and reports how many.
func (s *Service) RevokeOwner(ctx context.Context, by Actor, owner Owner, reason string) (int, error) {
	owner = owner.normal()
	if err := by.valid(); err != nil {
		return 0, err
	}
	if err := owner.valid(); err != nil {
		return 0, err
	}
	if !by.owns(owner) {
		return 0, ErrNotFound
	}
	n := 0
	err := s.change(ctx, Selection{Owner: owner}, func(found []Record) (Delta, error) {
		n = len(found)
		return revocation(found, by, reason, s.stamp()), nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// RevokeBefore is the panic switch: every key of every owner that was made
// before the instant ends, in one step, however many there are. Only an
// Operator may. Instants in the future are refused.
func (s *Service) RevokeBefore(ctx context.Context, by Actor, t time.Time) error {
	now := s.stamp()
	switch {
	case by.valid() != nil:
		return by.valid()
	case !by.Operator:
		return &FieldError{"Actor", "only an Operator may revoke everybody's keys"}
	case t.IsZero() || t.After(s.now()):
		return &FieldError{"t", "want an instant that is past"}
	}
	// Up to the next whole microsecond, which is what stores can tell apart.
	t = t.UTC().Add(time.Microsecond - 1).Truncate(time.Microsecond)
	err := s.change(ctx, Selection{}, func([]Record) (Delta, error) {
		return Delta{RevokeBefore: t, Log: []Entry{{
			At: now, Action: ActionRevokedAll, Actor: by.ID, Detail: map[string]string{"before": instant(t)},
		}}}, nil
	})
	s.cache.flush()
	return err
}

func revocation(found []Record, by Actor, reason string, now time.Time) Delta {
	reason = cleanText(reason[:min(len(reason), 200)])
	var d Delta
	for _, r := range found {
		r.RevokedAt, r.RevokedFor = now, reason
		d.Put = append(d.Put, r)
		d.Log = append(d.Log, entryFor(&r.Key, ActionRevoked, by, now, map[string]string{"reason": reason}))
	}
	return d
}

// Key returns one key.
func (s *Service) Key(ctx context.Context, by Actor, id string) (Key, error) {
	if err := by.valid(); err != nil {
		return Key{}, err
	}
	if !validID(id) {
		return Key{}, ErrNotFound
	}
	keys, err := s.store.List(ctx, Query{ID: id, Limit: 1})
	if err != nil {
		return Key{}, unavailable("read a key", err)
	}
	if len(keys) == 0 || !by.owns(keys[0].Owner) {
		return Key{}, ErrNotFound
	}
	return keys[0], nil
}

// List returns the owner's keys, the newest first, in whatever state: at most
// limit (0 is 100, most is 1000) with an ID before the given one; an empty
// before begins.
func (s *Service) List(ctx context.Context, by Actor, owner Owner, before string, limit int) ([]Key, error) {
	owner = owner.normal()
	if err := by.valid(); err != nil {
		return nil, err
	}
	if err := owner.valid(); err != nil {
		return nil, err
	}
	if !by.owns(owner) {
		return nil, ErrNotFound
	}
	if before != "" && !validID(before) {
		return nil, &FieldError{"before", "want the ID of the last key of the page before"}
	}
	keys, err := s.store.List(ctx, Query{Owner: owner, Before: before, Limit: limit})
	if err != nil {
		return nil, unavailable("list keys", err)
	}
	return keys, nil
}

// Lineage returns all keys of the lineage that the key belongs to, the newest
// first. Their LastUsed tells who still uses a key that has been replaced.
func (s *Service) Lineage(ctx context.Context, by Actor, id string) ([]Key, error) {
	k, err := s.Key(ctx, by, id)
	if err != nil {
		return nil, err
	}
	keys, err := s.store.List(ctx, Query{Lineage: k.Lineage, Limit: 1000})
	if err != nil {
		return nil, unavailable("list a lineage", err)
	}
	return keys, nil
}

// History returns the log of one key, the oldest entry first, after the given
// number.
func (s *Service) History(ctx context.Context, by Actor, id string, after int64) ([]Entry, error) {
	if _, err := s.Key(ctx, by, id); err != nil {
		return nil, err
	}
	entries, err := s.store.Log(ctx, LogQuery{Key: id, After: after})
	if err != nil {
		return nil, unavailable("read a key's log", err)
	}
	return entries, nil
}

// Peppers counts the keys that each pepper serves, so that an old one can go.
func (s *Service) Peppers(ctx context.Context) ([]PepperUse, error) {
	uses, err := s.store.Peppers(ctx)
	if err != nil {
		return nil, unavailable("count keys by pepper", err)
	}
	return uses, nil
}

// change makes one atomic change and lets this process and the others know.
func (s *Service) change(ctx context.Context, sel Selection, decide func([]Record) (Delta, error)) error {
	touched := map[string]bool{}
	changed := false
	err := s.store.Change(ctx, sel, func(found []Record) (Delta, error) {
		// What was found to be so already may still be cached as it was before.
		for i := range found {
			touched[found[i].ID] = true
		}
		d, err := decide(found)
		if err == nil {
			changed = len(d.Log) > 0
			for i := range d.Put {
				touched[d.Put[i].ID] = true
			}
			for _, id := range d.Delete {
				touched[id] = true
			}
			if !d.RevokeBefore.IsZero() {
				touched[allKeys] = true
			}
		}
		return d, err
	})
	// Also after an error: the outcome may be unknown, and reading a key again
	// is never wrong.
	s.shared.touch(touched)
	s.cache.drop(touched)
	if err != nil {
		return unavailable("change keys", err)
	}
	if changed && s.cfg.Bus != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.LookupTimeout)
		defer cancel()
		if err := s.cfg.Bus.Announce(ctx); err != nil {
			s.log.WarnContext(ctx, "apikeys: a change was not announced; other processes notice it by polling", "error", err)
		}
	}
	return nil
}

// changeOne changes one key of the actor's.
func (s *Service) changeOne(ctx context.Context, by Actor, id string, decide func(*Record, time.Time) (Delta, error)) error {
	if err := by.valid(); err != nil {
		return err
	}
	if !validID(id) {
		return ErrNotFound
	}
	return s.change(ctx, Selection{IDs: []string{id}}, func(found []Record) (Delta, error) {
		if len(found) != 1 || !by.owns(found[0].Owner) {
			return Delta{}, ErrNotFound
		}
		return decide(&found[0], s.stamp())
	})
}
