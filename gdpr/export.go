package gdpr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"filippo.io/age"
)

// export builds the archive, or removes it when it has expired.
func (j *job) export(ctx context.Context) error {
	s := j.s
	if j.r.State == Ready {
		if s.now().Before(j.r.Archive.ExpiresAt) {
			j.r.NextRun = j.r.Archive.ExpiresAt
			return j.release(ctx)
		}
		if err := s.cfg.Files.Remove(ctx, j.r.Archive.File); err != nil {
			return err
		}
		s.close(&j.r, Done, s.now())
		return j.release(ctx, s.entry(j.r, "archive removed", ""))
	}
	if j.r.State == Verified {
		j.r.State, j.r.NextRun = Running, s.now()
		if err := j.save(ctx, nil, s.entry(j.r, "export started", "")); err != nil {
			return err
		}
	}
	if j.r.Archive.File == "" {
		if err := j.build(ctx); err != nil {
			return err
		}
	}
	// The archive stands; a crash before here only repeats the notice.
	j.r.State, j.r.NextRun = Ready, j.r.Archive.ExpiresAt
	if err := s.notify(ctx, j.r, "export_ready", j.subject); err != nil {
		return err
	}
	return j.release(ctx, s.entry(j.r, "export ready", ""))
}

func (j *job) build(ctx context.Context) (err error) {
	s := j.s
	// A fresh key for each attempt, known to nobody but the sealed envelope:
	// it goes with the request's end, and the file with it, wherever copies
	// of it lie.
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("gdpr: export: %w", err)
	}
	name := j.r.ID + ".zip.age"
	file, err := s.cfg.Files.Create(ctx, name)
	if err != nil {
		return err
	}
	tee := &summed{to: file, sum: sha256.New()}
	// Until Close the file has no name, so that an attempt that fails leaves
	// nothing behind that looks complete.
	enc, err := age.Encrypt(tee, identity.Recipient())
	if err != nil {
		return errors.Join(fmt.Errorf("gdpr: export: %w", err), abandon(file))
	}
	j.r.Steps = nil
	saved, stop := j.heartbeat(ctx)
	err = s.export(ctx, enc, j.r.Kind, j.subject, func(source string, rows int64) error {
		// What whoever waits is shown: which sources are done.
		return saved(func() {
			j.r.Steps = append(j.r.Steps, Step{Source: source, Done: true, Rows: rows, EndedAt: s.now()})
		})
	})
	if beatErr := stop(); err == nil {
		err = beatErr
	}
	if err == nil {
		err = enc.Close()
	}
	if err != nil {
		return errors.Join(err, abandon(file))
	}
	if err := file.Close(); err != nil {
		return err
	}
	j.env.Key = identity.String()
	if err := s.seal(&j.r, j.env); err != nil {
		return err
	}
	j.r.Archive = Archive{File: name, Size: tee.n, SHA256: hex.EncodeToString(tee.sum.Sum(nil)), ExpiresAt: s.now().Add(s.cfg.ArchiveTTL)}
	err = j.save(ctx, nil)
	if errors.Is(err, ErrConflict) {
		// Somebody closed the request meanwhile, or has it: nobody knows this
		// file's key.
		err = errors.Join(err, s.cfg.Files.Remove(ctx, name))
	}
	return err
}

// abandon gives up a file that isn't complete. A Files that can do so without
// storing it says so with Abandon; for another one the next attempt replaces
// it.
func abandon(w io.WriteCloser) error {
	if a, ok := w.(interface{ Abandon() error }); ok {
		return a.Abandon()
	}
	return w.Close()
}

// heartbeat keeps the lease while an archive is built. Saved stores a change of
// the request meanwhile; stop ends the heartbeat and returns its error.
func (j *job) heartbeat(ctx context.Context) (saved func(change func()) error, stop func() error) {
	var mu sync.Mutex // on the request
	saved = func(change func()) error {
		mu.Lock()
		defer mu.Unlock()
		change()
		return j.save(ctx, nil)
	}
	done, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		ticker := time.NewTicker(j.s.cfg.Lease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				failed <- nil
				return
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			case <-ticker.C:
				if err := saved(func() {}); err != nil {
					failed <- err
					return
				}
			}
		}
	}()
	return saved, func() error {
		close(done)
		return <-failed
	}
}

// summed counts and hashes what it passes on.
type summed struct {
	to  io.Writer
	sum hash.Hash
	n   int64
}

func (w *summed) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.sum.Write(p[:n])
	w.n += int64(n)
	return n, err
}
