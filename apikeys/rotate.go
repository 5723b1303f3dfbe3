package apikeys

import (
	"context"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// Rotation says how a key is replaced.
type Rotation struct {
	// Overlap is how long the old key goes on working. 0 ends it at once: right
	// for a key that has leaked.
	Overlap time.Duration
	// OnFirstUse begins the overlap when the new key is used for the first
	// time, instead of now. With Overlap 0 the old key ends with that use.
	OnFirstUse bool
	// ExpiresAt is when the new key ends; zero is when the old one would have.
	ExpiresAt time.Time
}

// maxOverlap is a year: a longer overlap is two keys.
const maxOverlap = 366 * 24 * time.Hour

// Rotate replaces an active key by a new one of the same lineage, with the
// same name, scopes, networks and metadata, and returns the new token. A key
// has one successor: of many rotations at the same time one succeeds, and the
// others get a *StateError that names the successor. The overlap never
// outlives the old key's own expiry.
//
// Responses to the old key carry Deprecation and Sunset headers. Lineage tells
// who still uses it. To end it early, Revoke it.
func (s *Service) Rotate(ctx context.Context, by Actor, id string, r Rotation) (Token, Key, error) {
	if r.Overlap < 0 || r.Overlap > maxOverlap {
		return Token{}, Key{}, &FieldError{"Overlap", "want 0 to 366 days"}
	}
	var token Token
	var successor Record
	err := s.changeOne(ctx, by, id, func(old *Record, now time.Time) (Delta, error) {
		if old.Successor != "" {
			return Delta{}, &StateError{Key: id, Status: old.Status(now), Successor: old.Successor}
		}
		if st := old.Status(now); st != StatusActive {
			return Delta{}, &StateError{Key: id, Status: st}
		}
		if err := s.grantable(by, old.Scopes); err != nil {
			return Delta{}, err
		}
		k := old.Key.Clone()
		k.ID, k.Predecessor = ident.New("key", now), old.ID
		k.CreatedAt, k.CreatedBy, k.ActivatedAt, k.LastUsed = now, by.ID, now, Use{}
		if r.OnFirstUse {
			k.ActivatedAt = time.Time{}
		}
		if !r.ExpiresAt.IsZero() {
			if err := s.edit(&k, by, Update{ExpiresAt: &r.ExpiresAt}, now); err != nil {
				return Delta{}, err
			}
		}
		token, successor = s.mint(k)
		old.Successor, old.ReplacedAt = k.ID, now
		if r.OnFirstUse {
			old.Overlap = r.Overlap
		} else {
			old.SunsetAt = sunset(&old.Key, now, r.Overlap)
		}
		return Delta{Put: []Record{*old, successor}, Log: []Entry{
			entryFor(&old.Key, ActionRotated, by, now, map[string]string{"successor": k.ID, "sunset_at": instant(old.SunsetAt)}),
			entryFor(&k, ActionIssued, by, now, map[string]string{"predecessor": old.ID}),
		}}, nil
	})
	if err != nil {
		return Token{}, Key{}, err
	}
	return token, successor.Key.Clone(), nil
}

// sunset is the end of the overlap, and never after the key's own end.
func sunset(k *Key, from time.Time, overlap time.Duration) time.Time {
	at := from.Add(overlap)
	if !k.ExpiresAt.IsZero() && k.ExpiresAt.Before(at) {
		return k.ExpiresAt
	}
	return at
}

// activate records the first use of a successor and begins its predecessor's
// overlap. Doing it again changes nothing.
func (s *Service) activate(ctx context.Context, id string) error {
	keys, err := s.store.List(ctx, Query{ID: id, Limit: 1})
	if err != nil {
		return unavailable("read a key", err)
	}
	if len(keys) == 0 {
		return ErrNotFound
	}
	by := Operator(id)
	return s.change(ctx, Selection{IDs: []string{id, keys[0].Predecessor}}, func(found []Record) (Delta, error) {
		now := s.stamp()
		var d Delta
		for i := range found {
			switch r := &found[i]; {
			case r.ID == id && !r.ActivatedAt.IsZero():
				return Delta{}, nil
			case r.ID == id:
				r.ActivatedAt = now
				d.Put = append(d.Put, *r)
				d.Log = append(d.Log, entryFor(&r.Key, ActionActivated, by, now, nil))
			case r.SunsetAt.IsZero():
				r.SunsetAt = sunset(&r.Key, now, r.Overlap)
				d.Put = append(d.Put, *r)
				d.Log = append(d.Log, entryFor(&r.Key, ActionUpdated, by, now, map[string]string{"sunset_at": instant(r.SunsetAt)}))
			}
		}
		return d, nil
	})
}
