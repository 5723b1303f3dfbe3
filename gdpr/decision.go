package gdpr

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Verify says that the identity of the one who asked is no longer in doubt.
func (s *Service) Verify(ctx context.Context, id string) (Request, error) {
	r, err := s.change(ctx, id, "verified", "", func(r *Request, now time.Time) error {
		if r.State != Received {
			return r.refuse("verify")
		}
		s.verify(r, now)
		return nil
	})
	return r, err
}

// Cancel withdraws a request that isn't under way: an erasure within its grace
// period, above all.
func (s *Service) Cancel(ctx context.Context, id string) (Request, error) {
	var subject Subject
	r, err := s.change(ctx, id, "cancelled", "", func(r *Request, now time.Time) error {
		if r.State != Received && r.State != Verified && r.State != Cooling {
			return r.refuse("cancel")
		}
		e, err := s.unseal(*r)
		if err != nil {
			return err
		}
		subject = e.Subject
		// Before the state: a crash in between leaves a frozen account with
		// an erasure that can be cancelled again, never the other way round.
		if r.Kind == Erasure && s.cfg.Thaw != nil {
			if err := s.cfg.Thaw(ctx, subject); err != nil {
				return fmt.Errorf("gdpr: thaw: %w", err)
			}
		}
		s.close(r, Cancelled, now)
		return nil
	})
	if err == nil && r.Kind == Erasure {
		if err := s.notify(ctx, r, "erasure_cancelled", subject); err != nil {
			s.cfg.Logger.ErrorContext(ctx, "gdpr: cancel", "request", id, "err", err)
		}
	}
	return r, err
}

// Deny refuses a request. Reason is told to the subject (Art. 12(4)).
func (s *Service) Deny(ctx context.Context, id, reason string) (Request, error) {
	if reason == "" {
		return Request{}, fmt.Errorf("%w: a denial needs a reason (Art. 12(4))", ErrInvalid)
	}
	var subject Subject
	r, err := s.change(ctx, id, "denied", reason, func(r *Request, now time.Time) error {
		if !r.unanswered() || r.State == Running || r.State == Verifying {
			return r.refuse("deny")
		}
		e, err := s.unseal(*r)
		if err != nil {
			return err
		}
		subject = e.Subject
		if r.Kind == Erasure && s.cfg.Thaw != nil {
			if err := s.cfg.Thaw(ctx, subject); err != nil {
				return fmt.Errorf("gdpr: thaw: %w", err)
			}
		}
		r.Note = reason
		s.close(r, Denied, now)
		return nil
	})
	if err == nil {
		err = s.notify(ctx, r, "denied", subject)
	}
	return r, err
}

// Extend prolongs the time limit by two months, once, before it has passed,
// with the reason that the subject is told (Art. 12(3)).
func (s *Service) Extend(ctx context.Context, id, reason string) (Request, error) {
	if reason == "" {
		return Request{}, fmt.Errorf("%w: an extension needs a reason (Art. 12(3))", ErrInvalid)
	}
	return s.change(ctx, id, "extended", reason, func(r *Request, now time.Time) error {
		if !r.unanswered() || !r.ExtendedAt.IsZero() || !now.Before(r.DueAt) {
			return r.refuse("extend")
		}
		e, err := s.unseal(*r)
		if err != nil {
			return err
		}
		// An extension that nobody was told of is none: the notice first.
		r.DueAt, r.ExtendedAt, r.Note = s.cfg.Calendar.Due(r.ReceivedAt, 3), now, reason
		r.RemindedAt = time.Time{} // of the new limit, too
		s.wake(r, r.NextRun)
		return s.notify(ctx, *r, "extended", e.Subject)
	})
}

// Hold stops an erasure for a legal claim (Art. 17(3)(e)); Release lets it go
// on. A hold reaches a running erasure too, between two pages.
func (s *Service) Hold(ctx context.Context, id, reason string) (Request, error) {
	return s.change(ctx, id, "held", reason, func(r *Request, _ time.Time) error {
		if r.Kind != Erasure || r.State.Closed() || r.State == Held {
			return r.refuse("hold")
		}
		r.HeldFrom, r.State, r.Note = r.State, Held, reason
		s.wake(r, time.Time{})
		return nil
	})
}

// Release ends a hold.
func (s *Service) Release(ctx context.Context, id string) (Request, error) {
	return s.change(ctx, id, "released", "", func(r *Request, now time.Time) error {
		if r.State != Held {
			return r.refuse("release")
		}
		r.State, r.HeldFrom, r.NextRun = r.HeldFrom, "", now
		return nil
	})
}

// maxWords bounds what a subject says about a request, in bytes.
const maxWords = 4096

// AddWords puts what the subject says about an open request into its sealed
// envelope: what is wrong and how it is right, or what is objected to. They go
// with the request's end.
func (s *Service) AddWords(ctx context.Context, id, words string) (Request, error) {
	if words == "" || len(words) > maxWords {
		return Request{}, fmt.Errorf("%w: words have 1 to %d bytes", ErrInvalid, maxWords)
	}
	return s.change(ctx, id, "words added", "", func(r *Request, _ time.Time) error {
		if !r.unanswered() {
			return r.refuse("add words to")
		}
		e, err := s.unseal(*r)
		if err != nil {
			return err
		}
		e.Words = words
		return s.seal(r, e)
	})
}

// Words returns what the subject said about an open request, and who it is, for
// those who answer it. The look is written to the audit log.
func (s *Service) Words(ctx context.Context, id string) (string, Subject, error) {
	r, err := s.Request(ctx, id)
	if err != nil {
		return "", Subject{}, err
	}
	if r.Sealed == nil {
		return "", Subject{}, r.refuse("open the envelope of")
	}
	e, err := s.unseal(r)
	if err != nil {
		return "", Subject{}, err
	}
	if err := s.store.AppendAudit(ctx, s.entry(r, "envelope opened", "")); err != nil {
		return "", Subject{}, fmt.Errorf("gdpr: words: %w", err)
	}
	return e.Words, e.Subject, nil
}

// Complete closes a request that a person answers: rectification or objection.
// A restriction is in force from then on, until Lift: see Restricted.
func (s *Service) Complete(ctx context.Context, id, note string) (Request, error) {
	return s.change(ctx, id, "completed", note, func(r *Request, now time.Time) error {
		if r.State != Verified || r.Kind == Erasure || r.Kind.exports() {
			return r.refuse("complete")
		}
		r.Note = note
		if r.Kind == Restriction {
			r.State, r.NextRun = InForce, time.Time{}
			return nil
		}
		s.close(r, Done, now)
		return nil
	})
}

// Restricted reports whether processing of the subject's data is restricted
// (Art. 18): ask before anything is done with it but storing it. A restriction
// that was asked for counts from the time when the identity was sure, so that
// nothing happens while somebody decides.
func (s *Service) Restricted(ctx context.Context, subjectID string) (bool, error) {
	list, err := s.store.Requests(ctx, Filter{SubjectRef: s.ref(subjectID), Kind: Restriction, Open: true})
	if err != nil {
		return true, fmt.Errorf("gdpr: restricted: %w", err)
	}
	for _, r := range list {
		if r.State != Received {
			return true, nil
		}
	}
	return false, nil
}

// Lift ends a restriction. The subject is told before (Art. 18(3)).
func (s *Service) Lift(ctx context.Context, id, reason string) (Request, error) {
	if reason == "" {
		return Request{}, fmt.Errorf("%w: the end of a restriction needs a reason", ErrInvalid)
	}
	return s.change(ctx, id, "lifted", reason, func(r *Request, now time.Time) error {
		if r.State != InForce {
			return r.refuse("lift")
		}
		e, err := s.unseal(*r)
		if err != nil {
			return err
		}
		r.Note = reason
		if err := s.notify(ctx, *r, "restriction_lifted", e.Subject); err != nil {
			return err
		}
		s.close(r, Done, now)
		return nil
	})
}

// Rectify answers a request for rectification: every source that is a
// Rectifier is given the changes, by the names under which it exports the
// fields, and the request is completed with what each of them changed. The
// values are stored nowhere else. After an error it can be called again.
func (s *Service) Rectify(ctx context.Context, id string, changes map[string]string) (Request, error) {
	if len(changes) == 0 {
		return Request{}, fmt.Errorf("%w: a rectification needs changes", ErrInvalid)
	}
	return s.change(ctx, id, "rectified", "", func(r *Request, now time.Time) error {
		if r.State != Verified || r.Kind != Rectification {
			return r.refuse("rectify")
		}
		e, err := s.unseal(*r)
		if err != nil {
			return err
		}
		r.Steps = nil
		var changed int64
		for _, src := range s.sources {
			to, ok := src.(Rectifier)
			if !ok {
				continue
			}
			name := src.Describe().Name
			n, err := to.Rectify(ctx, e.Subject, changes)
			if err != nil {
				return fmt.Errorf("gdpr: rectify %s: %w", name, err)
			}
			changed += n
			r.Steps = append(r.Steps, Step{Source: name, Done: true, Rows: n, EndedAt: now})
		}
		if changed == 0 {
			return fmt.Errorf("%w: no source holds %q, or can correct it", ErrNotFound, sortedKeys(changes))
		}
		s.close(r, Done, now)
		return nil
	})
}

// change applies a decision of a person to a request, with its audit entry, in
// one step of the store; it starts over when a worker was faster.
func (s *Service) change(ctx context.Context, id, action, detail string, do func(*Request, time.Time) error) (Request, error) {
	for {
		r, err := s.store.Request(ctx, id)
		if err != nil {
			return Request{}, fmt.Errorf("gdpr: %s: %w", action, err)
		}
		if err := do(&r, s.now()); err != nil {
			return Request{}, err
		}
		err = s.store.UpdateRequest(ctx, r, nil, s.entry(r, action, detail))
		if errors.Is(err, ErrConflict) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return Request{}, fmt.Errorf("gdpr: %s: %w", action, err)
		}
		r.Version++
		return r, nil
	}
}
