package apikeys

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
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
	c, reason := s.identify(token)
	if reason != ReasonNone {
		return Decision{Reason: reason}, nil, nil
	}
	now := s.now()
	var stale *entry
	if s.cache != nil {
		if e := s.cache.find(&c.hash); e != nil {
			// The hash covers all but tag and checksum. The tag has been
			// compared; the checksum must be that of the text that was parsed
			// when the entry was made.
			if e.crc != c.crc {
				return Decision{Reason: ReasonMalformed}, nil, nil
			}
			if s.fresh(e, now) {
				return s.decide(e, now, src), e, nil
			}
			stale = e
		}
	}
	if !c.parses(token) {
		return Decision{Reason: ReasonMalformed}, nil, nil
	}
	return s.ask(ctx, token, c, stale, now, src)
}

// candidate is a text that may be a key.
type candidate struct {
	hash  Hash   // under which the cache knows it
	extra []Hash // under which the store may know it besides
	crc   uint64 // as written
	own   bool   // it begins like a token of this service
}

// parses reports whether the text is a token, or one that isn't ours.
func (c *candidate) parses(token string) bool {
	if !c.own {
		return true
	}
	_, ok := parse([]byte(token))
	return ok
}

// fresh reports whether everything that had changed up to MaxStaleness ago is
// in the entry: because it was read since, or because the log was.
func (s *Service) fresh(e *entry, now time.Time) bool {
	since := s.elapsed(now) - int64(s.cfg.MaxStaleness)
	return e.filled >= since || s.sync.confirmed.Load() >= since
}

// identify finds out which key a text would be. Texts that begin like a token
// of this service aren't parsed yet: when the cache knows the hash, comparing
// the checksum with that of the entry is as good, and faster.
func (s *Service) identify(token string) (candidate, Reason) {
	if len(token) > maxToken || len(token) == 0 {
		return candidate{}, ReasonMalformed
	}
	if len(token) != len(s.head)+bodyLen || token[:len(s.head)] != s.head {
		return s.identifyOther(token)
	}
	st := s.hashers[0].states.Get().(*state)
	text := st.text[:copy(st.text[:], token)]
	at := len(s.head) + randomLen
	written, crc, ok := tail(text[at:])
	c := candidate{crc: crc, own: true}
	tag, hash := st.of(text[:at])
	c.hash = hash
	same := subtle.ConstantTimeEq(int32(tag), int32(uint32(written)))
	if len(s.hashers) > 1 {
		var other int
		c.extra, other = s.identifyAmong(text[:at], uint32(written))
		same |= other
	}
	if ok && same == 1 {
		s.hashers[0].states.Put(st)
		return c, ReasonNone
	}
	ok = ok && intact(text[len(s.head):], s.headCRC, crc)
	s.hashers[0].states.Put(st)
	if !ok {
		return s.identifyForeign(token)
	}
	return candidate{}, ReasonUnknown
}

// identifyAmong tries the other peppers. The tag says under which of them the
// token was issued; its hash may stand under any that isn't TagOnly.
func (s *Service) identifyAmong(input []byte, written uint32) (extra []Hash, same int) {
	for _, h := range s.hashers[1:] {
		tag, hash := h.sum(input)
		same |= subtle.ConstantTimeEq(int32(tag), int32(written))
		if !h.tagOnly {
			extra = append(extra, hash)
		}
	}
	return extra, same
}

// identifyOther is for what doesn't begin like a token of this service: one of
// another environment, or one that another library issued.
func (s *Service) identifyOther(token string) (candidate, Reason) {
	if len(s.cfg.Schemes) == 0 && !strings.HasPrefix(token, s.cfg.Prefix) {
		return candidate{}, ReasonMalformed
	}
	text := []byte(token)
	p, ok := parse(text)
	if !ok || !strings.HasPrefix(token, s.cfg.Prefix+"_") || !word(token[len(s.cfg.Prefix)+1:p.headLen-1]) {
		return s.identifyForeign(token)
	}
	for _, h := range s.hashers {
		// Without a secret anyone can write a tag, and it proves nothing.
		if tag, _ := h.sum(text[:p.headLen+randomLen]); s.proving && tag == p.tag {
			return candidate{}, ReasonEnvironment
		}
	}
	return candidate{}, ReasonUnknown
}

// identifyForeign is for tokens that another library may have issued.
func (s *Service) identifyForeign(token string) (candidate, Reason) {
	hash, extra := s.foreignHashes(token)
	if len(extra) == 0 {
		return candidate{}, ReasonMalformed
	}
	return candidate{hash: hash, extra: extra}, ReasonNone
}

// decide judges an entry at an instant.
func (s *Service) decide(e *entry, now time.Time, src *source) Decision {
	wall := now.UnixNano()
	d := Decision{KeyID: e.id}
	switch {
	case e.revoked:
		d.Reason = ReasonRevoked
	case wall >= e.until && wall >= e.expires:
		d.Reason = ReasonExpired
	case wall >= e.until:
		d.Reason = ReasonReplaced
	case e.disabled:
		d.Reason = ReasonDisabled
	case e.listed && !listed(e.networks, src.get().Addr):
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
	SharedHits  int64 // questions that Config.Shared has spared the store
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
	if s.shared != nil {
		st.SharedHits = s.shared.hits.Load()
	}
	if at := s.sync.confirmed.Load(); at != never {
		st.Behind = time.Duration(s.elapsed(s.now()) - at)
	}
	return st
}

// ask verifies a key that the cache can't vouch for.
func (s *Service) ask(ctx context.Context, token string, c candidate, stale *entry, now time.Time, src *source) (Decision, *entry, error) {
	if s.unknown.has(&c.hash, s.elapsed(now)) {
		return Decision{Reason: ReasonUnknown}, nil, nil
	}
	if src.guard.blocks(src, now) {
		return Decision{}, nil, errGuarded
	}
	e, err := s.lookup(ctx, token, c)
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
		if err := s.activate(ctx, e.id); err != nil {
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
func (s *Service) lookup(ctx context.Context, token string, c candidate) (*entry, error) {
	if s.cache == nil {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.LookupTimeout)
		defer cancel()
		return s.load(ctx, token, c)
	}
	generation := s.cache.generation.Load()
	flight := fmt.Sprintf("%s%d", c.hash[:], generation)
	ch := s.flights.DoChan(flight, func() (any, error) {
		// One caller's cancellation is not the others'.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.LookupTimeout)
		defer cancel()
		// Somebody may have asked since this caller looked into the cache.
		if e := s.cache.find(&c.hash); e != nil && e.crc == c.crc && s.fresh(e, s.now()) {
			return e, nil
		}
		if e := s.fromShared(ctx, &c); e != nil {
			s.cache.insert(e, generation)
			return e, nil
		}
		e, err := s.load(ctx, token, c)
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
func (s *Service) load(ctx context.Context, token string, c candidate) (*entry, error) {
	select {
	case s.lookups <- struct{}{}:
		defer func() { <-s.lookups }()
	case <-ctx.Done():
		s.counters.unavailable.Add(1)
		return nil, fmt.Errorf("%w: too many lookups under way: %w", ErrUnavailable, ctx.Err())
	}
	s.counters.lookups.Add(1)
	position := s.shared.position()
	filled := s.elapsed(s.now())
	hashes := append([]Hash{c.hash}, c.extra...)
	rec, err := s.store.Find(ctx, hashes)
	if errors.Is(err, ErrNotFound) {
		s.unknown.add(&c.hash, filled)
		return nil, nil
	}
	if err != nil {
		s.counters.unavailable.Add(1)
		return nil, unavailable("look a key up", err)
	}
	if rec.Verifier != nil && !s.schemeMatches(rec, token) {
		s.unknown.add(&c.hash, filled)
		return nil, nil
	}
	if rec.Hash != c.hash {
		// A retired pepper, or the first use of an imported key. Losing the
		// race against another process, or failing, costs a slower next time.
		if _, err := s.store.Rehash(ctx, rec.ID, rec.Hash, c.hash, s.hashers[0].id); err != nil {
			s.log.WarnContext(ctx, "apikeys: a key was not rehashed", "key", rec.ID, "error", err)
		}
	}
	s.share(ctx, &c, rec, position)
	return s.newEntry(&c, rec.Key, filled), nil
}
