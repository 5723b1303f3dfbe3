package mailer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Run sends what the outbox holds until ctx ends. Any number of processes may
// run it on one store. When ctx ends it takes no more mail, lets the sends that
// have begun finish (Config.Drain), gives the rest back, and returns nil: call
// it with a context that SIGTERM cancels.
//
// Its goroutines are Config.Concurrency senders, as many that write results but
// at most four, and one that renews leases; all have ended when Run returns. An
// unreachable store is waited for, with a warning in the log.
func (s *Service) Run(ctx context.Context) error {
	if s.store == nil {
		<-ctx.Done()
		return nil
	}
	w := s.newWorker(ctx)
	for ctx.Err() == nil {
		leased := w.look(ctx)
		if len(leased) == 0 && ctx.Err() == nil {
			leased = w.idle(ctx)
		}
		w.hand(leased)
	}
	return w.close()
}

// Flush sends what is due now and returns how many mails it took in hand, for
// tests, cron jobs and queue workers.
func (s *Service) Flush(ctx context.Context) (int, error) {
	if s.store == nil {
		return 0, nil
	}
	w := s.newWorker(ctx)
	total := 0
	var err error
	for ctx.Err() == nil {
		var leased []Leased
		leased, err = w.claim(ctx)
		if err != nil || len(leased) == 0 {
			break
		}
		total += len(leased)
		w.hand(leased)
		w.settled.Wait()
	}
	return total, errors.Join(err, w.close())
}

// job is a leased mail on its way through a sender.
type job struct {
	mail Leased
	def  *definition
}

// worker is one Run or Flush.
type worker struct {
	s        *Service
	stopping context.Context // ends when no further mail shall be begun
	sending  context.Context // ends Drain later
	cancel   context.CancelFunc
	jobs     chan job
	results  chan result
	senders  sync.WaitGroup
	acker    sync.WaitGroup
	settled  sync.WaitGroup // mails in hand

	mu       sync.Mutex
	held     map[string]int // leases: ID to attempt
	recover  time.Time
	opened   time.Time // by the real clock
	renew    *time.Ticker
	finished chan struct{}
}

func (s *Service) newWorker(ctx context.Context) *worker {
	// Sends and acks outlive ctx by Drain, and carry its values.
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &worker{
		s: s, stopping: ctx, sending: sending, cancel: cancel,
		jobs: make(chan job), results: make(chan result), held: map[string]int{},
		renew: time.NewTicker(s.cfg.Lease / 3), finished: make(chan struct{}),
	}
	for range s.cfg.Concurrency {
		w.senders.Add(1)
		go func() {
			defer w.senders.Done()
			for j := range w.jobs {
				w.process(j)
			}
		}()
	}
	// A result should not wait for another one's way to the store: what a crash
	// repeats is what waits. Beyond a few writers they go in batches.
	for range w.writers() {
		w.acker.Go(w.collect)
	}
	w.acker.Go(w.heartbeat)
	return w
}

// close drains: no job is taken any more, running sends get Drain.
func (w *worker) close() error {
	close(w.jobs)
	stop := time.AfterFunc(w.s.cfg.Drain, w.cancel)
	w.senders.Wait()
	close(w.results)
	close(w.finished)
	w.acker.Wait()
	stop.Stop()
	w.cancel()
	w.renew.Stop()
	if n := len(w.held); n > 0 {
		return fmt.Errorf("mailer: %d results could not be written before the drain ended; their leases will run out", n)
	}
	return nil
}

// claim takes one batch.
func (w *worker) claim(ctx context.Context) ([]Leased, error) {
	s := w.s
	now := s.now()
	if !now.Before(w.recover) {
		n, err := s.store.Recover(ctx, now)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			s.log.WarnContext(ctx, "mailer: mails of a worker that went away were taken back", "mails", n)
		}
		w.recover = now.Add(s.cfg.Lease / 2)
	}
	if !s.pacer.paused(transportCircuit).IsZero() {
		return nil, nil
	}
	// Not with ctx: a claim that is cut off can leave mails leased to nobody.
	claiming, cancel := context.WithTimeout(w.sending, s.cfg.Drain)
	defer cancel()
	return s.store.Claim(claiming, Claim{Now: now, Limit: s.cfg.Batch, Lease: s.cfg.Lease, NotDomains: s.pacer.pausedDomains()})
}

// look is claim, with a warning in place of an error.
func (w *worker) look(ctx context.Context) []Leased {
	leased, err := w.claim(ctx)
	if err != nil && ctx.Err() == nil {
		w.s.log.WarnContext(ctx, "mailer: the outbox can't be read", "error", err)
	}
	return leased
}

// hand gives a batch to the senders.
func (w *worker) hand(leased []Leased) {
	if len(leased) == 0 {
		return
	}
	w.settled.Add(len(leased))
	w.mu.Lock()
	for _, m := range leased {
		w.held[m.ID] = m.Attempts
	}
	w.mu.Unlock()
	w.open()
	for _, m := range leased {
		w.jobs <- job{m, w.s.kinds[m.Kind]}
	}
}

// openEvery is how often the way of results is looked after; pools close
// connections that are idle for longer.
const openEvery = time.Minute

// open has a connection ready for each writer, and for the next claim beside
// them: what is sent while results wait for a connection would be sent again
// after a crash.
func (w *worker) open() {
	if time.Since(w.opened) < openEvery {
		return
	}
	ctx, cancel := context.WithTimeout(w.sending, ackTimeout)
	defer cancel()
	var ready sync.WaitGroup
	for range w.writers() + 1 {
		ready.Go(func() { _, _ = w.s.store.Ack(ctx, nil) }) // the results themselves are tried again and again
	}
	ready.Wait()
	w.opened = time.Now()
}

// writers is how many write results side by side.
func (w *worker) writers() int { return min(w.s.cfg.Concurrency, maxWriters) }

// idle waits for a hint, the poll, or the end, and returns what it found.
func (w *worker) idle(ctx context.Context) (leased []Leased) {
	pause := w.s.cfg.Poll
	if until := w.s.pacer.paused(transportCircuit); !until.IsZero() {
		sleep(ctx, min(max(until.Sub(w.s.cfg.Now()), time.Millisecond), pause))
		return nil
	}
	if waiter, ok := w.s.store.(Waiter); ok {
		err := waiter.Wait(ctx, pause, func(context.Context) bool {
			if ctx.Err() == nil && len(leased) == 0 {
				leased = w.look(ctx)
			}
			return len(leased) > 0
		})
		if err == nil || len(leased) > 0 {
			return leased
		}
	}
	sleep(ctx, pause)
	return nil
}

// sleep waits in real time: only the decisions use the injected clock.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// process takes one mail to its end.
func (w *worker) process(j job) {
	s, m := w.s, j.mail
	started := s.cfg.Now()
	ack, res := w.attempt(j)
	if s.cfg.Observe != nil {
		s.cfg.Observe(Attempt{MailID: m.ID, Kind: m.Kind, Stream: m.Stream, Domain: m.Domain, Number: m.Attempts,
			State: ack.State, Reason: ack.Reason, Result: res, Took: s.cfg.Now().Sub(started)})
	}
	if ack.State == Dead || ack.State == Held {
		s.log.WarnContext(w.sending, "mailer: a mail needs a look", "mail", m.ID, "kind", m.Kind, "domain", m.Domain,
			"state", ack.State.String(), "reason", ack.Reason, "result", res.String())
	}
	r := result{ack, make(chan struct{})}
	w.results <- r
	<-r.written
}

// attempt decides whether the mail is still to be sent, and sends it.
func (w *worker) attempt(j job) (Ack, Result) {
	s, m, ctx := w.s, j.mail, w.sending
	now := s.now()
	ack := Ack{ID: m.ID, Attempt: m.Attempts, At: now}
	end := func(state State, reason string) (Ack, Result) {
		ack.State, ack.Reason = state, reason
		return ack, Result{}
	}
	later := func(at time.Time) (Ack, Result) {
		ack.State, ack.RunAt, ack.Refund = Pending, at, true
		return ack, Result{}
	}
	if w.stopping.Err() != nil {
		return later(m.RunAt)
	}
	if j.def == nil {
		// Another process may know the kind: a rolling deployment.
		s.log.WarnContext(ctx, "mailer: kind is not in Config.Kinds", "mail", m.ID, "kind", m.Kind)
		if !now.Before(m.ExpiresAt) {
			return end(Dead, ReasonExpired)
		}
		return later(now.Add(time.Minute))
	}
	switch {
	case m.Suppressed:
		return end(Dropped, ReasonSuppressed)
	case !now.Before(m.ExpiresAt) && m.Attempts > 1:
		return end(Dead, ReasonExpired)
	case !now.Before(m.ExpiresAt):
		return end(Dropped, ReasonExpired)
	}
	if until := w.paused(m.Mail); !until.IsZero() {
		return later(until)
	}
	if m.Class == Lifecycle {
		if open := j.def.quiet.open(now, w.s.zones, m.TimeZone); open.After(now) {
			return later(open)
		}
	}
	data, err := j.def.decode(m.Data)
	if err != nil {
		return end(Dead, ReasonInvalid)
	}
	if j.def.relevant != nil {
		ok, err := j.def.relevant(ctx, m.Account, data)
		if err != nil {
			s.log.WarnContext(ctx, "mailer: StillRelevant failed", "mail", m.ID, "kind", m.Kind, "error", err)
			return s.settle(m.Mail, j.def, Result{Outcome: Temporary, Stage: "relevance"}), Result{}
		}
		if !ok {
			return end(Dropped, ReasonIrrelevant)
		}
	}
	if until, err := w.pace(ctx, m.Domain); err != nil || !until.IsZero() {
		if err != nil {
			s.log.WarnContext(ctx, "mailer: Pace failed", "error", err)
			until = now.Add(s.cfg.Poll)
		}
		return later(until)
	}
	msg, err := s.message(m.Mail, data, j.def)
	if err != nil {
		res := Invalid(err)
		return w.refused(m.Mail, j.def, res, ReasonInvalid)
	}
	if m.Guarded {
		// From here on a crash leaves the mail Sending, which is held, not sent
		// again. A lease that was lost means that somebody else has it.
		ok, err := s.store.Begin(ctx, m.ID, m.Attempts)
		if err != nil {
			return later(now.Add(s.cfg.Poll))
		}
		if !ok {
			return later(m.RunAt)
		}
	}
	res := s.send(ctx, msg)
	return w.refused(m.Mail, j.def, res, "")
}

// refused settles a result, and records the bounce that it may be.
func (w *worker) refused(m Mail, def *definition, res Result, reason string) (Ack, Result) {
	ack := w.s.settle(m, def, res)
	if reason != "" && ack.State == Dead {
		ack.Reason = reason
	}
	if t, why := bounce(res); t != "" {
		// The provider is the transport; the attempt makes it unique. It comes
		// before the ack: a crash between them repeats both.
		_, err := w.s.Record(w.sending, Event{Provider: "transport", ID: fmt.Sprintf("%s/%d", m.ID, m.Attempts), Type: t, Reason: why,
			MailID: m.ID, Email: m.Email, Code: res.Code, Enhanced: res.Enhanced, At: ack.At})
		if err != nil {
			w.s.log.ErrorContext(w.sending, "mailer: bounce could not be recorded, trying again with the mail", "mail", m.ID, "error", err)
			ack.State, ack.RunAt, ack.Refund = Pending, ack.At.Add(time.Minute), true
		}
	}
	return ack, res
}

// send calls the transport, and survives it: a panic after the first byte is
// an outcome that nobody knows.
func (s *Service) send(ctx context.Context, msg *Message) (res Result) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "mailer: transport panicked", "mail", msg.ID, "panic", fmt.Sprintf("%T", p))
			res = Result{Outcome: Ambiguous, Stage: "panic", Err: errors.New("mailer: the transport panicked")}
		}
	}()
	return s.transport.Send(ctx, msg)
}

// paused returns until when the mail's transport, domain or stream is paused.
func (w *worker) paused(m Mail) time.Time {
	p := w.s.pacer
	until := p.paused(transportCircuit)
	until = later(until, p.paused(domainCircuit(m.Domain)))
	return later(until, p.paused(streamCircuit(m.Stream)))
}

// pace waits a little for its turn; for a long wait it returns the time.
func (w *worker) pace(ctx context.Context, domain string) (time.Time, error) {
	d := w.s.pacer.take(domain)
	if d == 0 && w.s.cfg.Pace != nil {
		var err error
		if d, err = w.s.cfg.Pace(ctx, domain); err != nil {
			return time.Time{}, err
		}
	}
	if d <= 0 {
		return time.Time{}, nil
	}
	return w.s.now().Add(d), nil
}

// maxWriters bounds the connections that results take.
const maxWriters = 4

// result is the end of an attempt on its way into the store.
type result struct {
	ack     Ack
	written chan struct{} // closed when the store has it, or never will
}

// collect writes results as soon as they come, and together what came while it
// was writing. A crash can repeat what has been sent and is not written yet:
// that is at most one mail for each sender, since they wait.
func (w *worker) collect() {
	for first := range w.results {
		batch := []result{first}
	more:
		for len(batch) < w.s.cfg.Batch {
			select {
			case r, ok := <-w.results:
				if !ok {
					break more
				}
				batch = append(batch, r)
			default:
				break more
			}
		}
		acks := make([]Ack, len(batch))
		for i, r := range batch {
			acks[i] = r.ack
		}
		w.write(acks)
		for _, r := range batch {
			close(r.written)
		}
	}
}

// ackTimeout bounds one try to write results.
const ackTimeout = 10 * time.Second

// write tries until the store has the results or the drain is over. Meanwhile
// the senders stand still: nothing more goes out that could not be written down.
func (w *worker) write(batch []Ack) {
	s := w.s
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		// The end of the drain stops sends; what was sent is still written down.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.sending), ackTimeout)
		n, err := s.store.Ack(ctx, batch)
		cancel()
		if err == nil {
			if n < len(batch) {
				s.log.WarnContext(w.sending, "mailer: leases were lost before their results were written", "mails", len(batch)-n)
			}
			break
		}
		if w.sending.Err() != nil {
			s.log.ErrorContext(w.sending, "mailer: results were not written", "mails", len(batch), "error", err)
			w.settled.Add(-len(batch))
			return
		}
		s.log.WarnContext(w.sending, "mailer: results can't be written, trying again", "mails", len(batch), "error", err)
		sleep(w.sending, delay)
	}
	w.mu.Lock()
	for _, a := range batch {
		delete(w.held, a.ID)
	}
	w.mu.Unlock()
	w.settled.Add(-len(batch))
}

// heartbeat renews the leases of the mails in hand.
func (w *worker) heartbeat() {
	for {
		select {
		case <-w.finished:
			return
		case <-w.renew.C:
		}
		w.mu.Lock()
		leases := make([]Lease, 0, len(w.held))
		for id, attempt := range w.held {
			leases = append(leases, Lease{id, attempt})
		}
		w.mu.Unlock()
		if len(leases) == 0 {
			continue
		}
		if _, err := w.s.store.Extend(w.sending, leases, w.s.now().Add(w.s.cfg.Lease)); err != nil {
			w.s.log.WarnContext(w.sending, "mailer: leases can't be renewed", "mails", len(leases), "error", err)
		}
	}
}
