package stripesim

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Endpoint is a receiver of events.
type Endpoint struct {
	// URL receives POST requests; Handler receives them in the process,
	// without a port. One of the two is required.
	URL     string
	Handler http.Handler
	// Secret signs; empty takes a random one, which the endpoint's JSON shows
	// once.
	Secret string
	// Events are the types wanted, such as "invoice.paid" or "invoice.*".
	// Empty is all.
	Events []string
	// APIVersion renders the events; empty is Config.APIVersion.
	APIVersion string
	// SignatureTime dates signatures. Nil is the simulator's clock.
	SignatureTime func() time.Time
}

// endpoint is an Endpoint with its queues.
type endpoint struct {
	head
	Endpoint
	description string
	disabled    bool

	queue   []*delivery // in the order in which they go out
	later   []*delivery // waiting for their time: retries and delayed ones
	held    []*delivery // held back by a Reorder fault until the next one has passed
	busy    bool        // a goroutine is sending
	gone    bool
	pending map[string]int // deliveries of an event that haven't succeeded
}

// delivery is one event on its way to one endpoint.
type delivery struct {
	to      *endpoint
	event   *event
	body    []byte
	attempt int
	due     int64
}

// webhookWaits are the waits before a delivery that failed is tried again:
// Stripe tries for up to three days with growing waits.
var webhookWaits = []time.Duration{
	5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour,
	12 * time.Hour, 12 * time.Hour, 12 * time.Hour, 12 * time.Hour,
}

// maxResponse is how much of a receiver's answer is read.
const maxResponse = 64 << 10

func (e *endpoint) render(*Simulator) object {
	events := []any{}
	for _, t := range e.Events {
		events = append(events, t)
	}
	status := "enabled"
	if e.disabled {
		status = "disabled"
	}
	return object{
		"id": e.id, "object": kindEndpoint, "api_version": optional(e.APIVersion), "application": nil, "created": e.created,
		"description": optional(e.description), "enabled_events": events, "livemode": false, "metadata": copyMeta(e.metadata),
		"status": status, "url": e.URL,
	}
}

// AddEndpoint adds a receiver of events and returns its ID.
func (s *Simulator) AddEndpoint(e Endpoint) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	added, err := s.addEndpoint(e)
	if err != nil {
		return "", err
	}
	return added.id, nil
}

func (s *Simulator) addEndpoint(e Endpoint) (*endpoint, error) {
	if (e.URL == "") == (e.Handler == nil) {
		return nil, invalid("an Endpoint needs a URL or a Handler, and not both")
	}
	if e.URL != "" {
		u, err := url.Parse(e.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, invalid("Endpoint.URL %q is no http or https URL", e.URL)
		}
	} else {
		e.URL = "http://in-process.invalid/webhook"
	}
	if e.APIVersion != "" && versionRank(e.APIVersion) < 0 {
		return nil, invalid("Endpoint.APIVersion %q is not one of %s", e.APIVersion, strings.Join(Versions(), ", "))
	}
	if e.Secret == "" {
		e.Secret = s.newID("whsec_")
	}
	if len(e.Events) == 0 {
		e.Events = []string{"*"}
	}
	added := &endpoint{Endpoint: e, pending: map[string]int{}}
	s.add(kindEndpoint, s.newID("we_"), "", added)
	return added, nil
}

// enqueue queues an event for every endpoint that wants it, as the faults
// have it.
func (s *Simulator) enqueue(ev *event) {
	for _, e := range all[*endpoint](s, kindEndpoint, nil) {
		if e.disabled || !slices.ContainsFunc(e.Events, func(p string) bool { return matchType(p, ev.typ) }) {
			continue
		}
		d := &delivery{to: e, event: ev, body: s.eventBody(ev, e)}
		e.pending[ev.id]++
		fault := s.takeEventFault(ev.typ)
		if fault == nil {
			e.push(d)
			continue
		}
		switch fault.Kind {
		case DropEvent:
			// It stays pending: the events list shows it as not delivered.
		case DuplicateEvent:
			e.push(d)
			e.pending[ev.id]++
			e.push(&delivery{to: e, event: ev, body: d.body})
		case DelayEvent:
			d.due = s.at("") + int64(fault.Delay/time.Second)
			e.later = append(e.later, d)
		case ReorderEvent:
			e.held = append(e.held, d)
		}
	}
}

// push queues a delivery, and behind it what was held back.
func (e *endpoint) push(d *delivery) {
	e.queue = append(e.queue, d)
	e.release()
}

func (e *endpoint) release() {
	e.queue = append(e.queue, e.held...)
	e.held = nil
}

// wake moves a delivery that has fallen due to the queue.
func (e *endpoint) wake(d *delivery) {
	e.later = slices.DeleteFunc(e.later, func(x *delivery) bool { return x == d })
	e.queue = append(e.queue, d)
}

// eventBody renders an event for an endpoint.
func (s *Simulator) eventBody(ev *event, e *endpoint) []byte {
	version := cmp.Or(e.APIVersion, s.cfg.APIVersion)
	shown := s.eventIn(ev, version)
	shown["pending_webhooks"] = int64(1)
	body, err := encode(s.shown(shown, version))
	if err != nil {
		panic("stripesim: event " + ev.typ + " can't be encoded: " + err.Error()) // plain JSON values only
	}
	return body
}

// pump starts a goroutine for each endpoint that has something to deliver and
// none at work.
func (s *Simulator) pump() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for _, e := range all[*endpoint](s, kindEndpoint, nil) {
		if !e.busy && len(e.queue) > 0 {
			e.busy = true
			s.running.Add(1)
			go s.drain(e)
		}
	}
}

// drain delivers an endpoint's queue, one after the other, and ends when it
// is empty.
func (s *Simulator) drain(e *endpoint) {
	defer s.running.Done()
	for {
		s.mu.Lock()
		if len(e.queue) == 0 || s.closed || e.gone {
			e.busy = false
			close(s.quiet)
			s.quiet = make(chan struct{})
			s.mu.Unlock()
			return
		}
		d := e.queue[0]
		e.queue = e.queue[1:]
		signed := s.now()
		s.mu.Unlock()
		if e.SignatureTime != nil {
			signed = e.SignatureTime()
		}
		err := s.send(d, signed)
		s.mu.Lock()
		s.settle(d, err)
		s.mu.Unlock()
	}
}

// settle notes how a delivery went.
func (s *Simulator) settle(d *delivery, err error) {
	e := d.to
	if err == nil {
		if e.pending[d.event.id]--; e.pending[d.event.id] <= 0 {
			delete(e.pending, d.event.id)
		}
		return
	}
	s.log.Warn("webhook not delivered", "event", d.event.id, "type", d.event.typ, "attempt", d.attempt+1, "error", err)
	if d.attempt >= len(webhookWaits) {
		return
	}
	d.due = s.at("") + int64(webhookWaits[d.attempt]/time.Second)
	d.attempt++
	e.later = append(e.later, d)
}

// delivered reports whether every endpoint that wanted an event has it.
func (s *Simulator) delivered(ev *event) bool {
	for _, e := range all[*endpoint](s, kindEndpoint, nil) {
		if e.pending[ev.id] > 0 {
			return false
		}
	}
	return true
}

// Sign returns the value of a Stripe-Signature header.
func Sign(secret string, t time.Time, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.", t.Unix())
	mac.Write(body)
	return fmt.Sprintf("t=%d,v1=%s", t.Unix(), hex.EncodeToString(mac.Sum(nil)))
}

func (s *Simulator) send(d *delivery, at time.Time) error {
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.to.URL, bytes.NewReader(d.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks; stripesim)")
	req.Header.Set("Stripe-Signature", Sign(d.to.Secret, at, d.body))
	if d.to.Handler != nil {
		rec := &recorder{header: http.Header{}}
		d.to.Handler.ServeHTTP(rec, req)
		return statusError(rec.status)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxResponse)); err != nil {
		return err
	}
	return statusError(res.StatusCode)
}

func statusError(status int) error {
	if status == 0 || status >= 200 && status < 300 {
		return nil
	}
	return fmt.Errorf("stripesim: the receiver answered %d", status)
}

// recorder is the response of a handler in the process: only its status
// counts.
type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return len(p), nil
}

// Settle waits until every webhook that is due has been tried, those that a
// fault held back included. Retries that wait for the clock don't count.
func (s *Simulator) Settle(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		idle := true
		for _, e := range all[*endpoint](s, kindEndpoint, nil) {
			e.release()
			idle = idle && !e.busy && len(e.queue) == 0
		}
		quiet := s.quiet
		s.mu.Unlock()
		if idle {
			return nil
		}
		s.pump()
		select {
		case <-quiet:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Simulator) createEndpoint(c *call) (any, error) {
	f := c.form
	e, err := s.addEndpoint(Endpoint{URL: f.str("url"), Events: f.strings("enabled_events"), APIVersion: f.str("api_version")})
	if err != nil {
		return nil, badRequest("url_invalid", "url", "%s", err)
	}
	e.description, e.metadata = f.str("description"), f.merge("metadata", nil)
	out := e.render(s)
	out["secret"] = e.Secret
	return out, nil
}

func (s *Simulator) updateEndpoint(c *call) (any, error) {
	e, err := find[*endpoint](s, kindEndpoint, c.id(), "")
	if err != nil {
		return nil, err
	}
	f := c.form
	if f.has("url") {
		e.URL = f.str("url")
	}
	if f.has("enabled_events") {
		e.Events = f.strings("enabled_events")
	}
	if f.has("disabled") {
		e.disabled = f.bool("disabled")
	}
	if f.has("description") {
		e.description = f.str("description")
	}
	e.metadata = f.merge("metadata", e.metadata)
	return e, nil
}

func (s *Simulator) fetchEndpoint(c *call) (any, error) {
	return find[*endpoint](s, kindEndpoint, c.id(), "")
}

func (s *Simulator) listEndpoints(c *call) (any, error) {
	return &page{url: "/v1/webhook_endpoints", items: entities(newest[*endpoint](s, kindEndpoint, nil)), window: c.form}, nil
}

func (s *Simulator) deleteEndpoint(c *call) (any, error) {
	e, err := find[*endpoint](s, kindEndpoint, c.id(), "")
	if err != nil {
		return nil, err
	}
	e.gone, e.queue, e.later, e.held = true, nil, nil, nil
	s.remove(e)
	return object{"id": e.id, "object": kindEndpoint, "deleted": true}, nil
}
