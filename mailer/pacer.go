package mailer

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// pacer remembers, for this process, which destinations, streams and transports
// want to be left alone, and how fast a domain takes mail.
type pacer struct {
	mu       sync.Mutex
	now      func() time.Time
	most     float64 // mails a second and domain; 0 means no cap
	circuits map[string]*circuit
	buckets  map[string]*bucket
}

// circuit counts failures in a row; while open, nothing is sent there.
type circuit struct {
	failures int
	until    time.Time
}

// bucket is a token bucket whose rate is halved when the domain pushes back
// and grows by a tenth of the cap with each success.
type bucket struct {
	rate, tokens float64
	at           time.Time
}

const (
	transportCircuit = "transport"
	pauseBase        = 5 * time.Second
	pauseMost        = 15 * time.Minute
	maxPaused        = 1000
)

func domainCircuit(domain string) string { return "domain:" + domain }
func streamCircuit(stream string) string { return "stream:" + stream }

func newPacer(perMinute int, now func() time.Time) *pacer {
	return &pacer{now: now, most: float64(perMinute) / 60, circuits: map[string]*circuit{}, buckets: map[string]*bucket{}}
}

// pause opens a circuit: for atLeast, or for a time that doubles with each
// failure in a row, with jitter so that processes don't come back together.
func (p *pacer) pause(name string, base, atLeast time.Duration) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.circuits[name]
	if c == nil {
		if len(p.circuits) >= maxPaused {
			p.prune()
		}
		c = &circuit{}
		p.circuits[name] = c
	}
	// Attempts that were under way when the circuit opened fail with it: they
	// are one failure, not many.
	if now := p.now(); !now.Before(c.until) {
		c.failures++
		d := min(base<<min(c.failures-1, 16), pauseMost)
		c.until = now.Add(max(atLeast, d/2+rand.N(d/2+1)))
	} else if until := now.Add(atLeast); until.After(c.until) {
		c.until = until
	}
	return c.until
}

func (p *pacer) prune() {
	now := p.now()
	for name, c := range p.circuits {
		if now.After(c.until) {
			delete(p.circuits, name)
		}
	}
}

// succeed closes circuits.
func (p *pacer) succeed(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		delete(p.circuits, name)
	}
}

// paused returns until when a circuit is open; zero when it isn't.
func (p *pacer) paused(name string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.circuits[name]; c != nil && p.now().Before(c.until) {
		return c.until
	}
	return time.Time{}
}

// pausedDomains lists the domains whose circuit is open.
func (p *pacer) pausedDomains() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	now := p.now()
	for name, c := range p.circuits {
		if domain, ok := cutPrefix(name, "domain:"); ok && now.Before(c.until) {
			out = append(out, domain)
		}
	}
	slices.Sort(out)
	return out
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return s, false
}

// take takes a token for a domain and returns how long to wait for it.
func (p *pacer) take(domain string) time.Duration {
	if p.most == 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	b := p.buckets[domain]
	if b == nil {
		if len(p.buckets) >= maxPaused {
			clear(p.buckets)
		}
		b = &bucket{rate: p.most, tokens: max(1, p.most), at: now}
		p.buckets[domain] = b
	}
	b.tokens = min(max(1, b.rate), b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return 0
	}
	return time.Duration((1 - b.tokens) / b.rate * float64(time.Second))
}

// adapt halves or raises a domain's rate.
func (p *pacer) adapt(domain string, pushedBack bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.buckets[domain]
	if b == nil {
		return
	}
	if pushedBack {
		b.rate = max(b.rate/2, p.most/64)
		return
	}
	b.rate = min(p.most, b.rate+p.most/10)
}
