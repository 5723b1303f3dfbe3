package apikeys

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
)

// SharedCache holds what other processes have read from the store, so that
// one that has just started needn't ask it for every key. See Config.Shared;
// apikeysredis has one on Redis.
//
// It is trusted with nothing: what it holds is encrypted and authenticated
// under the first pepper, and is used only while the log of changes proves
// that it still holds. It may lose, delay, mix up and keep things as it likes.
type SharedCache interface {
	// Get returns what is stored under a name, or nil.
	Get(ctx context.Context, name string) ([]byte, error)
	// Set stores something under a name, for as long as the cache likes.
	Set(ctx context.Context, name string, value []byte) error
}

const (
	sharedTimeout = 50 * time.Millisecond
	sharedPause   = time.Second // after an error

	// maxChanged bounds the keys whose last change is remembered.
	maxChanged = 1 << 16

	allKeys = "" // Entry.Key of a change that concerns every key
)

// shared is the second level of the cache.
type shared struct {
	cache  SharedCache
	key    []byte
	aead   cipher.AEAD
	window window
	off    atomic.Int64 // elapsed until which it isn't asked
	hits   atomic.Int64
}

// sharedRecord is what is stored, sealed.
type sharedRecord struct {
	// Seq is how far the writer had read the log before it read the key: the
	// key is as every change up to there has left it, or newer.
	Seq int64
	Key Key
}

func newShared(cache SharedCache, pepper Pepper) (*shared, error) {
	key := pepper.derive("apikeys/shared/v1")
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &shared{cache: cache, key: key, aead: aead}, nil
}

// name is that of a hash in the cache, which learns nothing of the hash.
func (s *shared) name(h *Hash) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write(h[:])
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:18])
}

func (s *shared) seal(h *Hash, r sharedRecord) ([]byte, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	_, _ = rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, plain, h[:]), nil
}

// open returns what was sealed for this hash under this pepper, or false.
func (s *shared) open(h *Hash, sealed []byte) (sharedRecord, bool) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return sharedRecord{}, false
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], h[:])
	if err != nil {
		return sharedRecord{}, false
	}
	var r sharedRecord
	return r, json.Unmarshal(plain, &r) == nil
}

// fromShared returns an entry as good as one read from the store when the log
// was last read, or nil.
func (s *Service) fromShared(ctx context.Context, c *candidate) *entry {
	sh := s.shared
	// Read first: whatever the log says later makes the window narrower.
	confirmed := s.sync.confirmed.Load()
	now := s.elapsed(s.now())
	if sh == nil || now < sh.off.Load() || confirmed < now-int64(s.cfg.MaxStaleness) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	sealed, err := sh.cache.Get(ctx, sh.name(&c.hash))
	if err != nil {
		s.sharedFailed(ctx, err)
		return nil
	}
	r, ok := sh.open(&c.hash, sealed)
	if !ok || !sh.window.holds(r.Key.ID, r.Seq) {
		return nil
	}
	sh.hits.Add(1)
	return s.newEntry(c, r.Key, confirmed)
}

// share gives others what was read from the store after position.
func (s *Service) share(ctx context.Context, c *candidate, rec Record, position int64) {
	sh := s.shared
	if sh == nil || position < 0 || rec.Hash != c.hash || rec.ActivatedAt.IsZero() || s.elapsed(s.now()) < sh.off.Load() {
		return
	}
	rec.LastUsed = Use{}
	sealed, err := sh.seal(&c.hash, sharedRecord{Seq: position, Key: rec.Key})
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
		defer cancel()
		err = sh.cache.Set(ctx, sh.name(&c.hash), sealed)
	}
	if err != nil {
		s.sharedFailed(ctx, err)
	}
}

func (s *Service) sharedFailed(ctx context.Context, err error) {
	s.shared.off.Store(s.elapsed(s.now()) + int64(sharedPause))
	s.log.WarnContext(ctx, "apikeys: the shared cache can't be reached; the store is asked instead", "error", err)
}

// window is the part of the log of which this process knows every entry. A key
// that was read at a position within it, and that no later entry is about, is
// now as it was read.
type window struct {
	mu      sync.Mutex
	known   bool
	from    int64 // every key that has changed after this is in changed
	to      int64 // as far as the log has been read
	changed map[string]int64
	// own are the keys that this process has changed and whose entries it may
	// not have read yet, by the number of the change.
	own   map[string]int64
	owned int64
}

// position is how far the log has been read, or -1.
func (s *shared) position() int64 {
	if s == nil {
		return -1
	}
	w := &s.window
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		return -1
	}
	return w.to
}

func (w *window) holds(id string, seq int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, own := w.own[id]
	_, all := w.own[allKeys]
	return w.known && !own && !all && seq >= w.from && seq >= w.changed[id]
}

// touch notes that this process has changed keys.
func (s *shared) touch(ids map[string]bool) {
	if s == nil {
		return
	}
	w := &s.window
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owned++
	if w.own == nil {
		w.own = map[string]int64{}
	}
	for id := range ids {
		w.own[id] = w.owned
	}
}

// begin is called before the log is read; what touch has noted until then is
// in what is read.
func (s *shared) begin() (mark int64) {
	if s == nil {
		return 0
	}
	s.window.mu.Lock()
	defer s.window.mu.Unlock()
	return s.window.owned
}

// reset says that the log is known from here on.
func (w *window) reset(from int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known, w.from, w.to, w.changed = true, from, from, map[string]int64{}
}

// extend adds the entries that follow, up to the log's end.
func (s *shared) extend(entries []Entry, mark int64) {
	if s == nil {
		return
	}
	w := &s.window
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range entries {
		w.to = e.Seq
		if e.Key == allKeys || len(w.changed) >= maxChanged {
			w.from, w.changed = e.Seq, map[string]int64{}
			continue
		}
		w.changed[e.Key] = e.Seq
	}
	for id, n := range w.own {
		if n <= mark {
			delete(w.own, id)
		}
	}
}
