package gdpr

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Purge runs retention that no request asks for: expired tombstones go, and
// every source that is a Sweeper removes what is too old. Run calls it once a
// day. It returns how much went; a source that fails doesn't keep the others.
func (s *Service) Purge(ctx context.Context) (int64, error) {
	now := s.now()
	total, err := s.store.ExpireTombstones(ctx, now)
	if err != nil {
		return 0, fmt.Errorf("gdpr: purge: %w", err)
	}
	var errs []error
	for _, src := range s.sources {
		sweeper, ok := src.(Sweeper)
		if !ok {
			continue
		}
		name := src.Describe().Name
		n, err := sweeper.Sweep(ctx, now)
		total += n
		if err != nil {
			errs = append(errs, fmt.Errorf("gdpr: purge %s: %w", name, err))
		}
		if n > 0 {
			errs = append(errs, s.store.AppendAudit(ctx, Entry{At: now, Action: "swept", Detail: fmt.Sprintf("%s: %d", name, n)}))
		}
	}
	return total, errors.Join(errs...)
}

// Removed says that retained records which the source can't remove itself were
// removed by hand: those of a processor. The certificate says so from then on.
func (s *Service) Removed(ctx context.Context, id, source, record, note string) (Request, error) {
	return s.change(ctx, id, "retained data removed by hand", source+"/"+record, func(r *Request, now time.Time) error {
		step := r.step(source)
		if r.Kind != Erasure || r.State != Done || step == nil {
			return r.refuse("note a removal in")
		}
		for i := range step.Retained {
			if kept := &step.Retained[i]; kept.Record == record && kept.RemovedAt.IsZero() {
				kept.RemovedAt, r.Note = now, note
				return s.recertify(r)
			}
		}
		return fmt.Errorf("%w: request %s retains no %s of %s", ErrNotFound, r.ID, record, source)
	})
}

// retainedUntil is when a finished erasure is to be looked at again; zero:
// never.
func (r Request) retainedUntil() time.Time {
	var next time.Time
	for _, step := range r.Steps {
		for _, kept := range step.Retained {
			if kept.RemovedAt.IsZero() && kept.ToldAt.IsZero() && (next.IsZero() || kept.Until.Before(next)) {
				next = kept.Until
			}
		}
	}
	return next
}

// expire is the second phase of an erasure: what was retained on a legal ground
// is removed when its time has ended.
func (j *job) expire(ctx context.Context) error {
	s := j.s
	var failed error
	for i := range j.r.Steps {
		for k := range j.r.Steps[i].Retained {
			kept := j.r.Steps[i].Retained[k]
			if !kept.RemovedAt.IsZero() || !kept.ToldAt.IsZero() || kept.Until.After(s.now()) {
				continue
			}
			if err := j.expireRecord(ctx, i, k); err != nil {
				if errors.Is(err, ErrConflict) || ctx.Err() != nil {
					return err
				}
				// The others go on; this one is tried again in an hour.
				j.r.Steps[i].Failed = fmt.Sprintf("%T", rootCause(err))
				failed = fmt.Errorf("gdpr: expire %s/%s: %w", j.r.Steps[i].Source, kept.Record, err)
			}
		}
	}
	j.r.NextRun = j.r.retainedUntil()
	if failed != nil && !j.r.NextRun.After(s.now()) {
		j.r.NextRun = s.now().Add(time.Hour)
		s.cfg.Logger.WarnContext(ctx, "gdpr: retention", "request", j.r.ID, "err", failed)
	}
	return j.release(ctx)
}

// expireRecord removes one kind of retained records, page by page.
func (j *job) expireRecord(ctx context.Context, step, record int) error {
	s := j.s
	st := &j.r.Steps[step]
	kept := &st.Retained[record]
	what := st.Source + "/" + kept.Record
	for {
		out, err := Outcome{}, errors.ErrUnsupported
		if src, ok := s.source(st.Source).(Expirer); ok {
			out, err = src.Expire(ctx, *kept, st.Cursor)
		}
		if err == nil && !out.Done && out.Next == "" {
			err = fmt.Errorf("%w: source %q is neither done nor says how to go on", ErrInvalid, st.Source)
		}
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return j.byHand(ctx, st, kept)
		case err != nil:
			return err
		case len(out.Retained) > 0:
			if !out.Retained[0].Until.After(s.now()) {
				return fmt.Errorf("%w: source %q retains %s until an instant that has passed", ErrInvalid, st.Source, kept.Record)
			}
			kept.Until, st.Cursor = out.Retained[0].Until, ""
			return j.save(ctx, nil, s.entry(j.r, "retention extended", what))
		}
		st.Cursor = out.Next
		if !out.Done {
			if err := j.save(ctx, nil); err != nil {
				return err
			}
			continue
		}
		st.Cursor, st.Failed, kept.RemovedAt = "", "", s.now()
		if err := s.recertify(&j.r); err != nil {
			return err
		}
		return j.save(ctx, nil, s.entry(j.r, "retained data removed", what))
	}
}

// byHand tells those who answer requests that they must see to a removal.
func (j *job) byHand(ctx context.Context, st *Step, kept *Retained) error {
	s := j.s
	if s.cfg.Remind != nil {
		r := j.r
		r.Sealed = nil
		if err := s.cfg.Remind(ctx, Notice{ID: r.ID + ":retention_due:" + st.Source + ":" + kept.Record, Event: "retention_due", Request: r}); err != nil {
			return fmt.Errorf("gdpr: remind: %w", err)
		}
	}
	kept.ToldAt = s.now()
	return j.save(ctx, nil, s.entry(j.r, "retained data is due", st.Source+"/"+kept.Record))
}

func (s *Service) source(name string) Source {
	for _, src := range s.sources {
		if src.Describe().Name == name {
			return src
		}
	}
	return nil
}
