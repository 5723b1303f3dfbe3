package gdpr

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// purgeEvery is how often Run calls Purge.
const purgeEvery = 24 * time.Hour

// Run works on requests until the context ends: it starts erasures whose grace
// period is over, retries failed steps, builds archives, removes expired ones
// and what was retained until now, reminds, and purges once a day. Any number
// of processes may run it. It starts no goroutine.
func (s *Service) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var purged time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if _, err := s.Work(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.ErrorContext(ctx, "gdpr: work", "err", err)
		}
		if now := s.now(); now.Sub(purged) >= purgeEvery {
			if _, err := s.Purge(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Logger.ErrorContext(ctx, "gdpr: purge", "err", err)
			}
			purged = now
		}
		timer.Reset(s.cfg.Poll)
	}
}

// Work does what is due now and returns how many requests it looked at. A
// request whose step fails is tried again later; the others go on. The error
// is the store's.
func (s *Service) Work(ctx context.Context) (int, error) {
	n := 0
	for ctx.Err() == nil {
		claimed, err := s.store.Claim(ctx, s.now(), s.cfg.Lease, 8)
		if err != nil {
			return n, fmt.Errorf("gdpr: work: %w", err)
		}
		if len(claimed) == 0 {
			return n, nil
		}
		for _, r := range claimed {
			n++
			if err := s.process(ctx, r); err != nil && !errors.Is(err, ErrConflict) {
				s.cfg.Logger.ErrorContext(ctx, "gdpr: request", "request", r.ID, "kind", string(r.Kind), "err", err)
			}
		}
	}
	return n, ctx.Err()
}

// process takes one claimed request as far as it goes now. ErrConflict means
// that somebody else changed it: a hold, or a worker that outlived its lease.
func (s *Service) process(ctx context.Context, r Request) error {
	job := &job{s: s, r: r}
	err := job.run(ctx)
	if err == nil || errors.Is(err, ErrConflict) || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, job.later(ctx))
}

// job is a request in the hands of a worker.
type job struct {
	s       *Service
	r       Request
	subject Subject
	env     envelope
}

// save stores the request and keeps the lease.
func (j *job) save(ctx context.Context, tombstones []Tombstone, entries ...Entry) error {
	if !j.r.NextRun.IsZero() {
		j.r.LeaseUntil = j.s.now().Add(j.s.cfg.Lease)
	}
	if err := j.s.store.UpdateRequest(ctx, j.r, tombstones, entries...); err != nil {
		return err
	}
	j.r.Version++
	return nil
}

// release gives the request back, to be claimed at its NextRun.
func (j *job) release(ctx context.Context, entries ...Entry) error {
	j.r.LeaseUntil = time.Time{}
	if err := j.s.store.UpdateRequest(ctx, j.r, nil, entries...); err != nil {
		return err
	}
	j.r.Version++
	return nil
}

// later puts the request off after a failure outside of any source. It starts
// from the stored request: what this job changed and couldn't store, a state
// without its tombstones for example, must not be stored now.
func (j *job) later(ctx context.Context) error {
	stored, err := j.s.store.Request(ctx, j.r.ID)
	if err != nil {
		return err
	}
	if stored.Version != j.r.Version {
		return ErrConflict
	}
	j.r = stored
	j.r.NextRun = j.s.now().Add(backoff(1))
	return j.release(ctx)
}

// backoff grows from a minute to an hour: long enough for an outage, short
// enough for a limit of one month.
func backoff(attempts int) time.Duration {
	return min(time.Minute<<min(max(attempts-1, 0), 6), time.Hour)
}

func (j *job) run(ctx context.Context) error {
	s := j.s
	if j.r.State.Closed() {
		return j.expire(ctx)
	}
	if err := j.remind(ctx); err != nil {
		return err
	}
	switch j.r.State {
	case Received, Held, InForce:
		s.wake(&j.r, time.Time{})
		return j.release(ctx)
	case Verified:
		if !j.r.Kind.exports() {
			s.wake(&j.r, time.Time{})
			return j.release(ctx)
		}
	}
	env, err := s.unseal(j.r)
	if err != nil {
		return err
	}
	j.env, j.subject = env, env.Subject
	if j.r.Kind.exports() {
		return j.export(ctx)
	}
	if j.r.State == Cooling {
		if j.r.FrozenAt.IsZero() {
			// The process died, or the mail was down, right after the request.
			if err := s.freeze(ctx, &j.r, j.subject, j.env.Again); err != nil {
				return err
			}
		}
		if now := s.now(); now.Before(j.r.StartAt) {
			s.wake(&j.r, j.r.StartAt)
			return j.release(ctx)
		}
		if err := j.begin(ctx); err != nil {
			return err
		}
	}
	if j.r.State == Running {
		if err := j.eraseAll(ctx); err != nil {
			return err
		}
	}
	if j.r.State == Verifying {
		return j.verify(ctx)
	}
	return nil
}

// remind tells of a time limit that is near. A failure doesn't hold the request
// up; it is tried again with the request's next run. Only one worker has the
// request, so that it is told once, and again only after a crash.
func (j *job) remind(ctx context.Context) error {
	s := j.s
	at := s.remindAt(j.r)
	if at.IsZero() || s.now().Before(at) {
		return nil
	}
	r := j.r
	r.Sealed = nil
	err := s.cfg.Remind(ctx, Notice{ID: r.ID + ":due_soon:" + r.DueAt.Format(time.DateOnly), Event: "due_soon", Request: r})
	if err != nil {
		s.cfg.Logger.ErrorContext(ctx, "gdpr: remind", "request", r.ID, "err", err)
		return ctx.Err()
	}
	j.r.RemindedAt = s.now()
	return j.save(ctx, nil, s.entry(j.r, "reminded", ""))
}

// begin makes the erasure irrevocable: the journal first, then in one step the
// state and the tombstones. From here on nothing brings the subject back.
func (j *job) begin(ctx context.Context) error {
	s, now := j.s, j.s.now()
	if j.subject.Pseudonym == "" {
		j.subject.Pseudonym = "erased_" + strings.ToLower(rand.Text())
		j.env.Subject = j.subject
		if err := s.seal(&j.r, j.env); err != nil {
			return err
		}
	}
	stones := s.tombstones(j.subject, j.r.ID, now)
	if s.cfg.Journal != nil {
		if err := s.cfg.Journal.Append(ctx, stones); err != nil {
			return err
		}
	}
	j.r.State, j.r.NextRun, j.r.Steps = Running, now, nil
	for _, src := range s.sources {
		j.r.Steps = append(j.r.Steps, Step{Source: src.Describe().Name})
	}
	return j.save(ctx, stones, s.entry(j.r, "erasure started", ""))
}

// eraseAll runs every step that can run now. A failing source delays itself
// and those that come after it by declaration.
func (j *job) eraseAll(ctx context.Context) error {
	s := j.s
	next := time.Time{}
	wait := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	blocked := map[string]bool{}
	for _, src := range s.sources {
		d := src.Describe()
		step := j.r.step(d.Name)
		if step == nil {
			// A source that was registered after the erasure began.
			j.r.Steps = append(j.r.Steps, Step{Source: d.Name})
			step = &j.r.Steps[len(j.r.Steps)-1]
		}
		if step.Done {
			continue
		}
		blocked[d.Name] = true
		waiting := false
		for _, dep := range d.After {
			waiting = waiting || blocked[dep]
		}
		if waiting {
			continue
		}
		if step.NotUntil.After(s.now()) {
			wait(step.NotUntil)
			continue
		}
		if err := j.eraseSource(ctx, src, d.Name); err != nil {
			if errors.Is(err, ErrConflict) || ctx.Err() != nil {
				return err
			}
			wait(j.r.step(d.Name).NotUntil)
			continue
		}
		delete(blocked, d.Name)
	}
	if len(blocked) > 0 {
		if next.IsZero() {
			next = s.now().Add(time.Minute)
		}
		s.wake(&j.r, next)
		return j.release(ctx)
	}
	j.r.State, j.r.NextRun = Verifying, s.now()
	return j.save(ctx, nil, s.entry(j.r, "verifying", ""))
}

// eraseSource runs the pages of one source and stores the cursor after each.
func (j *job) eraseSource(ctx context.Context, src Source, name string) error {
	s := j.s
	for {
		step := j.r.step(name)
		out, err := src.Erase(ctx, j.subject, step.Cursor)
		if err == nil && !out.Done && out.Next == "" {
			err = fmt.Errorf("%w: source %q is neither done nor says how to go on", ErrInvalid, name)
		}
		now := s.now()
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			step.Attempts++
			step.NotUntil = now.Add(backoff(step.Attempts))
			// The text of a source's error may hold what it was looking for.
			step.Failed = fmt.Sprintf("%T", rootCause(err))
			s.cfg.Logger.WarnContext(ctx, "gdpr: erase", "request", j.r.ID, "source", name, "attempt", step.Attempts, "err", step.Failed)
			if saveErr := j.save(ctx, nil, s.entry(j.r, "step failed", name)); saveErr != nil {
				return saveErr
			}
			return err
		}
		step.Removed += out.Removed
		step.Anon += out.Anonymised
		for i := range out.Retained {
			out.Retained[i].At = now
		}
		step.Retained = mergeRetained(step.Retained, out.Retained)
		step.Cursor, step.Failed, step.NotUntil = out.Next, "", time.Time{}
		if out.Done {
			step.Done, step.Cursor, step.EndedAt = true, "", now
			return j.save(ctx, nil, s.entry(j.r, "step done", name))
		}
		if err := j.save(ctx, nil); err != nil {
			return err
		}
	}
}

func mergeRetained(have, add []Retained) []Retained {
	for _, r := range add {
		found := false
		for i, h := range have {
			if h.Record == r.Record && h.Article == r.Article && h.Ref == r.Ref {
				have[i].Count += r.Count
				have[i].At = r.At
				if r.Until.After(h.Until) {
					have[i].Until = r.Until
				}
				found = true
			}
		}
		if !found {
			have = append(have, r)
		}
	}
	return have
}

// verify searches every source again. What a source still holds, except the
// kinds of records that it reported as retained, sends its step back.
func (j *job) verify(ctx context.Context) error {
	s := j.s
	clean := true
	for _, src := range s.sources {
		name := src.Describe().Name
		step := j.r.step(name)
		if step == nil || !step.Done {
			return fmt.Errorf("%w: source %q was registered during the verification", ErrConflict, name)
		}
		kept := map[string]bool{}
		for _, r := range step.Retained {
			kept[r.Record] = true
		}
		left, err := residue(ctx, src, j.subject, kept)
		if err != nil {
			return fmt.Errorf("gdpr: verify %s: %w", name, err)
		}
		if left > 0 {
			clean = false
			step.Done, step.Attempts, step.Retained = false, step.Attempts+1, nil
			step.Failed = ErrResidue.Error()
			step.NotUntil = s.now().Add(backoff(step.Attempts))
		}
	}
	if !clean {
		j.r.State, j.r.NextRun = Running, s.now().Add(backoff(1))
		if err := j.release(ctx, s.entry(j.r, "residue found", "")); err != nil {
			return err
		}
		return ErrResidue
	}
	if err := j.closeOthers(ctx); err != nil {
		return err
	}
	if err := s.store.DestroyKey(ctx, j.r.SubjectRef, s.now()); err != nil {
		return fmt.Errorf("gdpr: shred: %w", err)
	}
	// The last message, while the address is still known.
	if !j.env.Again {
		if err := s.notify(ctx, j.r, "erasure_done", j.subject); err != nil {
			return err
		}
	}
	now := s.now()
	cert, err := s.certify(j.r, now)
	if err != nil {
		return err
	}
	j.r.Certificate = cert
	s.close(&j.r, Done, now)
	j.r.NextRun = j.r.retainedUntil()
	return j.release(ctx, s.entry(j.r, "erased", ""))
}

// closeOthers ends what else the subject has asked for: an archive that waits
// for its download is personal data, and so is a sealed envelope.
func (j *job) closeOthers(ctx context.Context) error {
	s := j.s
	open, err := s.store.Requests(ctx, Filter{SubjectRef: j.r.SubjectRef, Open: true})
	if err != nil {
		return fmt.Errorf("gdpr: close: %w", err)
	}
	for _, r := range open {
		if r.ID == j.r.ID {
			continue
		}
		state := Cancelled
		if r.State == Ready {
			state = Done
		}
		if r.Archive.File != "" {
			if err := s.cfg.Files.Remove(ctx, r.Archive.File); err != nil {
				return err
			}
		}
		s.close(&r, state, s.now())
		if err := s.store.UpdateRequest(ctx, r, nil, s.entry(r, "closed by the erasure", "")); err != nil {
			return fmt.Errorf("gdpr: close: %w", err)
		}
	}
	return nil
}

// residue counts what a source still emits about the subject.
func residue(ctx context.Context, src Source, subject Subject, kept map[string]bool) (int64, error) {
	var left int64
	count := func(record string, n int64) {
		if !kept[record] {
			left += n
		}
	}
	err := src.Export(ctx, subject, &Sink{
		row: func(record string, _ map[string]any) error { count(record, 1); return ctx.Err() },
		raw: func(record string) (io.Writer, error) {
			return writerFunc(func(p []byte) (int, error) { count(record, int64(len(p))); return len(p), ctx.Err() }), nil
		},
		file: func(string, io.Reader) error { count("files", 1); return ctx.Err() },
		name: func(id string) string { return id },
	})
	return left, err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// eraseNow erases a subject at once, for Reapply.
func (s *Service) eraseNow(ctx context.Context, subject Subject) error {
	now := s.now()
	r := Request{
		ID: newRequestID(now), Kind: Erasure, SubjectRef: s.ref(subject.ID), State: Cooling, StartAt: now,
		ReceivedAt: now, DueAt: s.cfg.Calendar.Due(now, 1), NextRun: now, LeaseUntil: now.Add(s.cfg.Lease),
	}
	if err := s.seal(&r, envelope{Subject: subject, Again: true}); err != nil {
		return err
	}
	err := s.store.CreateRequest(ctx, r, s.entry(r, "reapplied", ""))
	if errors.Is(err, ErrActive) {
		// The restored database knows an erasure that was open at the time of
		// the backup: that one goes on.
		open, err := s.store.Requests(ctx, Filter{SubjectRef: r.SubjectRef, Kind: Erasure, Open: true})
		if err != nil || len(open) == 0 {
			return errors.Join(ErrActive, err)
		}
		r = open[0]
		if r.State == Received || r.State == Cooling || r.State == Held {
			r.State, r.StartAt = Cooling, now
		}
	} else if err != nil {
		return err
	} else {
		r.Version = 1
	}
	j := &job{s: s, r: r}
	if err := j.run(ctx); err != nil {
		return err
	}
	if j.r.State != Done {
		return fmt.Errorf("gdpr: request %s isn't finished: a source failed; the worker retries it", r.ID)
	}
	return nil
}

func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
