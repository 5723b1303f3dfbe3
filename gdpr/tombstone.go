package gdpr

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Tombstone marks an identifier of an erased subject by keyed hashes, so that
// a late event, a queue or a restored backup doesn't bring the subject back.
type Tombstone struct {
	// Hash is over the identifier and the subject's epoch: it never matches a
	// later person with the same number or address.
	Hash string `json:"hash"`
	// Loose is over the identifier alone, for messages that don't know the
	// epoch; it matches only what is older than ErasedAt.
	Loose     string    `json:"loose"`
	Request   string    `json:"request"`
	ErasedAt  time.Time `json:"erased_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Journal keeps tombstones outside the database, so that they survive the
// restore of an older backup: a file on another volume, an object store, a
// second database.
type Journal interface {
	// Append stores tombstones durably before it returns. Storing one twice
	// is harmless.
	Append(ctx context.Context, tombstones []Tombstone) error
	// Read returns all tombstones.
	Read(ctx context.Context) ([]Tombstone, error)
}

// FileJournal is a Journal in a local file of JSON Lines, synced at each
// append.
type FileJournal struct {
	path string
	mu   sync.Mutex
}

// NewFileJournal returns a journal in the file, which is made by the first
// Append. One process at a time may append.
func NewFileJournal(path string) *FileJournal { return &FileJournal{path: path} }

// Append implements Journal.
func (j *FileJournal) Append(_ context.Context, tombstones []Tombstone) (err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var buf bytes.Buffer
	// A crash may have left half a line: a line break first keeps it apart
	// from what follows, and Read skips it.
	buf.WriteByte('\n')
	enc := json.NewEncoder(&buf)
	for _, t := range tombstones {
		if err := enc.Encode(t); err != nil {
			return fmt.Errorf("gdpr: journal: %w", err)
		}
	}
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("gdpr: journal: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("gdpr: journal: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("gdpr: journal: %w", err)
	}
	return nil
}

// Read implements Journal. A line that a crash cut short was never
// acknowledged and is left out.
func (j *FileJournal) Read(context.Context) ([]Tombstone, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, err := os.Open(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("gdpr: journal: %w", err)
	}
	defer f.Close()
	var all []Tombstone
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("gdpr: journal: %w", err)
		}
		var t Tombstone
		if len(line) > 1 && json.Unmarshal(line, &t) == nil && t.Hash != "" {
			all = append(all, t)
		}
		if err != nil {
			return all, nil
		}
	}
}

// ref returns the keyed hash under which a subject stands in requests,
// consents and the audit log.
func (s *Service) ref(subject string) string { return s.mac("ref", subject) }

func (s *Service) strictHash(i Identifier, epoch time.Time) string {
	return s.mac("tombstone", i.Kind, normal(i), strconv.FormatInt(epoch.UTC().Unix(), 10))
}

func (s *Service) looseHash(i Identifier) string {
	return s.mac("loose", i.Kind, normal(i))
}

func (s *Service) mac(parts ...string) string {
	m := hmac.New(sha256.New, s.pepper)
	for _, p := range parts {
		m.Write([]byte(strconv.Itoa(len(p))))
		m.Write([]byte{':'})
		m.Write([]byte(p))
	}
	return hex.EncodeToString(m.Sum(nil)[:20])
}

// normal makes one address of its spellings; IDs stay as they are.
func normal(i Identifier) string {
	if i.Kind == "email" {
		return strings.ToLower(strings.TrimSpace(i.Value))
	}
	return i.Value
}

func (s *Service) tombstones(subject Subject, request string, now time.Time) []Tombstone {
	ids := append([]Identifier{{"id", subject.ID}}, subject.Identifiers...)
	ts := make([]Tombstone, 0, len(ids))
	for _, i := range ids {
		ts = append(ts, Tombstone{
			Hash: s.strictHash(i, subject.Epoch), Loose: s.looseHash(i), Request: request,
			ErasedAt: now, ExpiresAt: now.Add(s.cfg.TombstoneTTL),
		})
	}
	return ts
}

// Guard returns ErrErased if the identifier belongs to an erased subject. Call
// it before writing what came from a queue, a webhook or a retry. With the
// epoch of the account that holds the identifier now, a newcomer who got an
// erased person's address passes; with a zero epoch, at is the instant of the
// message, and only messages from before the erasure are refused.
func (s *Service) Guard(ctx context.Context, i Identifier, epoch, at time.Time) error {
	hash := s.strictHash(i, epoch)
	if epoch.IsZero() {
		hash = s.looseHash(i)
	}
	found, err := s.store.Tombstoned(ctx, []string{hash})
	if err != nil {
		return fmt.Errorf("gdpr: guard: %w", err)
	}
	for _, t := range found {
		if t.Hash == hash || !at.After(t.ErasedAt) {
			return ErrErased
		}
	}
	return nil
}

// CheckJournal returns ErrBehind when the journal holds a living tombstone
// that the database lacks, as after the restore of a backup. Call it at
// start-up, and don't serve before Reapply has run.
func (s *Service) CheckJournal(ctx context.Context) error {
	missing, err := s.missing(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w (%d tombstones are missing)", ErrBehind, len(missing))
	}
	return nil
}

func (s *Service) missing(ctx context.Context) ([]Tombstone, error) {
	if s.cfg.Journal == nil {
		return nil, nil
	}
	journal, err := s.cfg.Journal.Read(ctx)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	var missing []Tombstone
	for len(journal) > 0 {
		batch := journal[:min(len(journal), 1000)]
		journal = journal[len(batch):]
		hashes := make([]string, len(batch))
		for i, t := range batch {
			hashes[i] = t.Hash
		}
		found, err := s.store.Tombstoned(ctx, hashes)
		if err != nil {
			return nil, fmt.Errorf("gdpr: journal: %w", err)
		}
		known := map[string]bool{}
		for _, t := range found {
			known[t.Hash] = true
		}
		for _, t := range batch {
			if !known[t.Hash] && t.ExpiresAt.After(now) {
				missing = append(missing, t)
				known[t.Hash] = true
			}
		}
	}
	return missing, nil
}

// Reapply erases again whom a restored backup brought back. It takes the
// journal's tombstones into the database, walks over all subjects that the
// application has now, and opens and runs an erasure, without a grace period,
// for each whose identifier and epoch match one. A newcomer with an erased
// person's number or address isn't touched. It returns how many were erased,
// and may be run again at any time.
func (s *Service) Reapply(ctx context.Context, subjects func(ctx context.Context, yield func(Subject) error) error) (int, error) {
	missing, err := s.missing(ctx)
	if err != nil {
		return 0, err
	}
	erased := 0
	err = subjects(ctx, func(subject Subject) error {
		ids := append([]Identifier{{"id", subject.ID}}, subject.Identifiers...)
		hashes := make([]string, len(ids))
		for i, id := range ids {
			hashes[i] = s.strictHash(id, subject.Epoch)
		}
		hit, err := s.store.Tombstoned(ctx, hashes)
		if err != nil {
			return err
		}
		// The missing ones aren't in the database yet: it becomes "not
		// behind" only after everybody is erased, so that a crash here is
		// noticed at the next start.
		match := len(hit) > 0
		for _, t := range missing {
			for _, h := range hashes {
				match = match || t.Hash == h
			}
		}
		if !match {
			return nil
		}
		if err := s.eraseNow(ctx, subject); err != nil {
			return err
		}
		erased++
		return nil
	})
	if err != nil {
		return erased, fmt.Errorf("gdpr: reapply: %w", err)
	}
	if err := s.store.PutTombstones(ctx, missing); err != nil {
		return erased, fmt.Errorf("gdpr: reapply: %w", err)
	}
	return erased, nil
}
