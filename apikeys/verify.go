package apikeys

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kolekt/commerce/internal/clientip"
)

// Reason says why a key was refused; it is stable and made for programs.
type Reason string

// The reasons. From ReasonEnvironment on, the token itself was authentic.
const (
	ReasonNone        Reason = ""
	ReasonMalformed   Reason = "malformed"          // a typing error, or no key at all
	ReasonUnknown     Reason = "unknown"            // well-formed, and not a key
	ReasonEnvironment Reason = "wrong_environment"  // a test key in live use, or the reverse
	ReasonRevoked     Reason = "revoked"            //
	ReasonDisabled    Reason = "disabled"           //
	ReasonExpired     Reason = "expired"            //
	ReasonReplaced    Reason = "replaced"           // rotated, and the overlap is over
	ReasonNetwork     Reason = "network_not_listed" // used from an address that it doesn't list
)

// Decision is the answer to Verify.
type Decision struct {
	// Principal is nil when the key was refused.
	Principal *Principal
	// Reason is ReasonNone when the key was accepted.
	Reason Reason
	// KeyID names the key, also a refused one, once it is known to be authentic.
	KeyID string
	// Stale says that Config.ServeStale let it through.
	Stale bool
}

// Allowed reports whether the key was accepted.
func (d Decision) Allowed() bool { return d.Principal != nil }

// Client is where a key is used from. A key that lists networks is refused
// when the address is unknown.
type Client struct {
	Addr  netip.Addr
	Agent string
}

// Verify decides about a token. The error is ErrUnavailable, or the context's:
// then nothing is known about the key, and the answer to the client is 503.
//
// A key in the cache takes no lock, no allocation and no I/O. Another one takes
// one question to the store, shared by all that ask at the same time; a
// text that can't be a key takes none.
func (s *Service) Verify(ctx context.Context, token string, client Client) (Decision, error) {
	src := source{client: client, known: true}
	d, _, err := s.verify(ctx, token, &src)
	return d, err
}

// source finds out about the client when it matters.
type source struct {
	client  Client
	known   bool
	request *http.Request
	trusted []netip.Prefix
	guard   *guard
}

func (src *source) get() Client {
	if !src.known {
		src.known = true
		src.client = Client{Addr: clientip.From(src.request, src.trusted), Agent: src.request.UserAgent()}
	}
	return src.client
}

// errGuarded says that the client's network has tried too many invalid keys.
var errGuarded = errors.New("apikeys: too many invalid keys")

func (s *Service) verify(ctx context.Context, token string, src *source) (Decision, *entry, error) {
	b := buffers.Get().(*buffer)
	hash, extra, reason := s.identify(token, b)
	buffers.Put(b)
	if reason != ReasonNone {
		return Decision{Reason: reason}, nil, nil
	}
	now := s.now()
	var stale *entry
	if s.cache != nil {
		if e := s.cache.find(&hash); e != nil && subtle.ConstantTimeCompare(e.hash[:], hash[:]) == 1 {
			if s.fresh(e, now) {
				return s.decide(e, now, src), e, nil
			}
			stale = e
		}
	}
	return s.ask(ctx, token, hash, extra, stale, now, src)
}

// fresh reports whether everything that had changed up to MaxStaleness ago is
// in the entry: because it was read since, or because the log was.
func (s *Service) fresh(e *entry, now time.Time) bool {
	since := s.elapsed(now) - int64(s.cfg.MaxStaleness)
	return e.filled >= since || s.sync.confirmed.Load() >= since
}

// buffer holds the text that is looked at.
type buffer struct{ text [maxToken]byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// identify turns a text into the hash under which the cache knows its key. It
// returns more hashes to look up when the key may stand under another.
func (s *Service) identify(token string, b *buffer) (Hash, []Hash, Reason) {
	if len(token) > maxToken || len(token) == 0 {
		return Hash{}, nil, ReasonMalformed
	}
	if len(token) == len(s.head)+bodyLen && token[:len(s.head)] == s.head {
		text := b.text[:copy(b.text[:], token)]
		p, ok := parse(text)
		if !ok {
			return s.identifyForeign(token)
		}
		input := text[:p.headLen+randomLen]
		tag, hash := s.hashers[0].sum(input)
		if len(s.hashers) == 1 {
			if subtle.ConstantTimeEq(int32(tag), int32(p.tag)) != 1 {
				return Hash{}, nil, ReasonUnknown
			}
			return hash, nil, ReasonNone
		}
		return s.identifyAmong(input, p.tag, tag, hash)
	}
	return s.identifyOther(token, b)
}

// identifyAmong tries the other peppers. The tag says under which of them the
// token was issued; its hash may stand under any that isn't TagOnly.
func (s *Service) identifyAmong(input []byte, written, tag uint32, hash Hash) (Hash, []Hash, Reason) {
	authentic := subtle.ConstantTimeEq(int32(tag), int32(written))
	var extra []Hash
	for _, h := range s.hashers[1:] {
		t, other := h.sum(input)
		authentic |= subtle.ConstantTimeEq(int32(t), int32(written))
		if !h.tagOnly {
			extra = append(extra, other)
		}
	}
	if authentic != 1 {
		return Hash{}, nil, ReasonUnknown
	}
	return hash, extra, ReasonNone
}

// identifyOther is for what doesn't begin like a token of this service: one of
// another environment, or one that another library issued.
func (s *Service) identifyOther(token string, b *buffer) (Hash, []Hash, Reason) {
	text := b.text[:copy(b.text[:], token)]
	p, ok := parse(text)
	if !ok || !strings.HasPrefix(token, s.cfg.Prefix+"_") || !word(token[len(s.cfg.Prefix)+1:p.headLen-1]) {
		return s.identifyForeign(token)
	}
	for _, h := range s.hashers {
		// Without a secret anyone can write a tag, and it proves nothing.
		if tag, _ := h.sum(text[:p.headLen+randomLen]); s.proving && tag == p.tag {
			return Hash{}, nil, ReasonEnvironment
		}
	}
	return Hash{}, nil, ReasonUnknown
}

// identifyForeign is for tokens that another library may have issued.
func (s *Service) identifyForeign(token string) (Hash, []Hash, Reason) {
	hash, extra := s.foreignHashes(token)
	if len(extra) == 0 {
		return Hash{}, nil, ReasonMalformed
	}
	return hash, extra, ReasonNone
}

// decide judges an entry at an instant.
func (s *Service) decide(e *entry, now time.Time, src *source) Decision {
	wall := now.UnixNano()
	d := Decision{KeyID: e.principal.key.ID}
	switch {
	case e.revoked:
		d.Reason = ReasonRevoked
	case wall >= e.expires:
		d.Reason = ReasonExpired
	case wall >= e.sunset:
		d.Reason = ReasonReplaced
	case e.disabled:
		d.Reason = ReasonDisabled
	case len(e.networks) > 0 && !listed(e.networks, src.get().Addr):
		d.Reason = ReasonNetwork
	default:
		d.Principal = e.principal
		s.noteUse(e, now, src)
	}
	return d
}

func listed(networks []netip.Prefix, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return false
	}
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// counters are what Stats reports.
type counters struct {
	lookups     atomic.Int64
	unavailable atomic.Int64
	servedStale atomic.Int64
}

// Stats are counts since New, and gauges.
type Stats struct {
	Lookups     int64 // questions to the store by verifications
	Unavailable int64 // of these, how many got no answer
	ServedStale int64 // verifications that Config.ServeStale let through
	Cached      int   // keys in the cache
	// Behind is how long ago the log was last known to be read to its end;
	// negative when Run or Sync hasn't succeeded yet.
	Behind time.Duration
	// UsesWaiting counts last uses that haven't been written.
	UsesWaiting int
}

// Stats returns the present counts. It walks the cache: call it for metrics,
// not for each request.
func (s *Service) Stats() Stats {
	st := Stats{
		Lookups:     s.counters.lookups.Load(),
		Unavailable: s.counters.unavailable.Load(),
		ServedStale: s.counters.servedStale.Load(),
		Behind:      -1,
		UsesWaiting: s.uses.len(),
	}
	if s.cache != nil {
		st.Cached = s.cache.len()
	}
	if at := s.sync.confirmed.Load(); at != never {
		st.Behind = time.Duration(s.elapsed(s.now()) - at)
	}
	return st
}

// ask verifies a key that the cache can't vouch for.
func (s *Service) ask(ctx context.Context, token string, hash Hash, extra []Hash, stale *entry, now time.Time, src *source) (Decision, *entry, error) {
	if s.unknown.has(&hash, s.elapsed(now)) {
		return Decision{Reason: ReasonUnknown}, nil, nil
	}
	if src.guard.blocks(src, now) {
		return Decision{}, nil, errGuarded
	}
	e, err := s.lookup(ctx, token, hash, extra)
	switch {
	case err != nil && stale != nil && s.mayServe(stale, now):
		if d := s.decide(stale, now, src); d.Allowed() {
			s.counters.servedStale.Add(1)
			d.Stale = true
			return d, stale, nil
		}
		return Decision{}, nil, err
	case err != nil:
		return Decision{}, nil, err
	case e == nil:
		return Decision{Reason: ReasonUnknown}, nil, nil
	}
	d := s.decide(e, now, src)
	if d.Allowed() && e.awaits {
		// Until this has worked the key isn't cached: the next use tries again.
		if err := s.activate(ctx, e.principal.key.ID); err != nil {
			s.log.WarnContext(ctx, "apikeys: the first use of a key was not recorded", "key", d.KeyID, "error", err)
		}
	}
	return d, e, nil
}

func (s *Service) mayServe(e *entry, now time.Time) bool {
	last := max(e.filled, s.sync.confirmed.Load())
	return s.cfg.ServeStale > 0 && s.elapsed(now)-last <= int64(s.cfg.MaxStaleness+s.cfg.ServeStale)
}

// lookup asks the store, together with all who ask for the same key. The
// generation is part of what they share: whoever starts after a change has
// taken effect doesn't join a question that was asked before it.
func (s *Service) lookup(ctx context.Context, token string, hash Hash, extra []Hash) (*entry, error) {
	if s.cache == nil {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.LookupTimeout)
		defer cancel()
		return s.load(ctx, token, hash, extra)
	}
	generation := s.cache.generation.Load()
	flight := fmt.Sprintf("%s%d", hash[:], generation)
	ch := s.flights.DoChan(flight, func() (any, error) {
		// One caller's cancellation is not the others'.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.LookupTimeout)
		defer cancel()
		e, err := s.load(ctx, token, hash, extra)
		if err == nil && e != nil && !e.awaits {
			s.cache.insert(e, generation)
		}
		return e, err
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case r := <-ch:
		e, _ := r.Val.(*entry)
		return e, r.Err
	}
}

// load reads one key. A nil entry means that there is none.
func (s *Service) load(ctx context.Context, token string, hash Hash, extra []Hash) (*entry, error) {
	select {
	case s.lookups <- struct{}{}:
		defer func() { <-s.lookups }()
	case <-ctx.Done():
		s.counters.unavailable.Add(1)
		return nil, fmt.Errorf("%w: too many lookups under way: %w", ErrUnavailable, ctx.Err())
	}
	s.counters.lookups.Add(1)
	filled := s.elapsed(s.now())
	hashes := make([]Hash, 1, 1+len(extra))
	hashes[0] = hash
	hashes = append(hashes, extra...)
	rec, err := s.store.Find(ctx, hashes)
	if errors.Is(err, ErrNotFound) {
		s.unknown.add(&hash, filled)
		return nil, nil
	}
	if err != nil {
		s.counters.unavailable.Add(1)
		return nil, unavailable("look a key up", err)
	}
	if rec.Verifier != nil && !s.schemeMatches(rec, token) {
		s.unknown.add(&hash, filled)
		return nil, nil
	}
	if rec.Hash != hash {
		// A retired pepper, or the first use of an imported key. Losing the
		// race against another process, or failing, costs a slower next time.
		if _, err := s.store.Rehash(ctx, rec.ID, rec.Hash, hash, s.hashers[0].id); err != nil {
			s.log.WarnContext(ctx, "apikeys: a key was not rehashed", "key", rec.ID, "error", err)
		}
	}
	return s.newEntry(hash, rec.Key, filled), nil
}
