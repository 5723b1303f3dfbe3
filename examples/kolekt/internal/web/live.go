package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/kolekt/commerce/examples/kolekt/internal/users"
)

// Open pages hear what changes by server-sent events: the parts that are no
// longer what the page shows, rendered anew. One stream serves one page. It
// looks every two seconds, and at once after a write of this process; it ends
// after five minutes, when browsers ask again, so that nobody listens for long
// with rights that are gone.
const (
	streamsMax  = 1000 // of this process
	streamsEach = 8    // of one person
	streamLasts = 5 * time.Minute
	streamLooks = 2 * time.Second
	streamBeats = 15 * time.Second
	streamRests = 200 * time.Millisecond // between two looks, however much happens
)

// part is a piece of a page: the ID of its element, and the element.
type part struct {
	ID   string `json:"id"`
	HTML string `json:"html"`
}

// streams are those that are open.
type streams struct {
	mu   sync.Mutex
	all  int
	wake map[string]map[chan struct{}]bool // by person
}

// open takes a place, if there is one. The channel wakes the stream up.
func (s *streams) open(person string) (wake <-chan struct{}, end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= streamsMax || len(s.wake[person]) >= streamsEach {
		return nil, nil, false
	}
	if s.wake == nil {
		s.wake = map[string]map[chan struct{}]bool{}
	}
	if s.wake[person] == nil {
		s.wake[person] = map[chan struct{}]bool{}
	}
	c := make(chan struct{}, 1)
	s.wake[person][c] = true
	s.all++
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if delete(s.wake[person], c); len(s.wake[person]) == 0 {
			delete(s.wake, person)
		}
	}, true
}

// poke makes a person's streams look at once.
func (s *streams) poke(person string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.wake[person] {
		select {
		case c <- struct{}{}:
		default: // it is awake
		}
	}
}

// count is how many are open.
func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// errReload ends a stream and makes the page load again.
var errReload = errors.New("kolekt: reload")

// looker returns the parts of a page as they are now.
type looker func(ctx context.Context, v *visit) ([]part, error)

// live serves the stream that a look feeds, to whoever allowed lets in.
func (a *App) live(allowed func(*visit) bool, choose func(*http.Request) looker) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := a.visit(r)
		if err != nil || !v.known() {
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		look := choose(r)
		if !allowed(v) || look == nil {
			http.NotFound(w, r)
			return
		}
		wake, end, ok := a.streams.open(v.user.ID)
		if !ok {
			w.Header().Set("Retry-After", "30")
			http.Error(w, "too many open pages", http.StatusServiceUnavailable)
			return
		}
		defer end()
		a.feed(w, r, v, look, wake)
	}
}

// feed sends parts until the page is closed, the time is over, or the process
// is about to end.
func (a *App) feed(w http.ResponseWriter, r *http.Request, v *visit, look looker, wake <-chan struct{}) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	if out.SetReadDeadline(time.Time{}) != nil { // that of the server is for bodies
		http.Error(w, "no stream here", http.StatusNotImplemented)
		return
	}
	send := func(format string, args ...any) bool {
		if out.SetWriteDeadline(time.Now().Add(streamBeats)) != nil {
			return false
		}
		_, err := fmt.Fprintf(w, format, args...)
		return err == nil && out.Flush() == nil
	}
	// A browser says what it has, after a break too: nothing is sent twice.
	last, shown := r.Header.Get("Last-Event-ID"), map[string]uint64{}
	if !send("retry: 2000\n: still waiting\n\n") {
		return
	}
	over, tick, beat := time.After(streamLasts), time.NewTicker(streamLooks), time.NewTicker(streamBeats)
	defer tick.Stop()
	defer beat.Stop()
	for {
		parts, err := look(r.Context(), v)
		switch {
		case errors.Is(err, errReload):
			send("event: reload\ndata: -\n\n")
			return
		case r.Context().Err() != nil:
			return
		case err != nil:
			a.Log.WarnContext(r.Context(), "kolekt: live page", "path", r.URL.Path, "err", err)
		}
		// The ID says that the browser has all of it, so it comes last.
		id, changed := strconv.FormatUint(fingerprint(parts), 36), []part{}
		for _, p := range parts {
			if sum := fingerprint([]part{p}); shown[p.ID] != sum {
				shown[p.ID] = sum
				changed = append(changed, p)
			}
		}
		if id == last {
			changed = nil
		}
		for i, p := range changed {
			data, err := json.Marshal(p)
			if err != nil {
				return
			}
			if i == len(changed)-1 {
				data = append(data, "\nid: "+id...)
			}
			if !send("event: part\ndata: %s\n\n", data) {
				return
			}
		}
		last = ""
		if !a.rest(r, wake, tick.C, beat.C, over, func() bool {
			return a.stillIn(r.Context(), v) && send(": still here\n\n")
		}) {
			return
		}
	}
}

// rest waits until there may be something new; false: the stream is over.
func (a *App) rest(r *http.Request, wake <-chan struct{}, tick, beat <-chan time.Time, over <-chan time.Time, alive func() bool) bool {
	for {
		select {
		case <-r.Context().Done():
			return false
		case <-a.Stopping:
			return false
		case <-over:
			return false
		case <-beat:
			if !alive() {
				return false
			}
		case <-wake:
			select {
			case <-time.After(streamRests):
			case <-r.Context().Done():
				return false
			}
			return true
		case <-tick:
			return true
		}
	}
}

// stillIn reports whether the person's login still holds.
func (a *App) stillIn(ctx context.Context, v *visit) bool {
	u, err := a.Users.Store().ByID(ctx, v.user.ID)
	if errors.Is(err, users.ErrNotFound) {
		return false
	}
	return err != nil || a.Users.SessionMark(u) == a.Users.SessionMark(v.user) && u.Admin == v.user.Admin
}

func fingerprint(parts []part) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte(p.ID + "\x00" + p.HTML + "\x00")) // a hash takes everything
	}
	return h.Sum64()
}

// render makes a part.
func (a *App) render(parts *[]part, id, name string, data any) error {
	html, err := a.pages.Part(name, data)
	if err == nil {
		*parts = append(*parts, part{id, html})
	}
	return err
}

// accountLook chooses what the page of the request shows of an account.
func (a *App) accountLook(r *http.Request) looker {
	switch r.FormValue("page") {
	case "account":
		return a.accountParts
	case "write":
		return func(ctx context.Context, v *visit) (parts []part, err error) {
			m, err := a.meter(ctx, v)
			if err != nil {
				return nil, err
			}
			err = a.render(&parts, "meter-card", "meter", m)
			return parts, err
		}
	case "limits":
		return func(ctx context.Context, v *visit) (parts []part, err error) {
			now, _, err := a.limitsNow(ctx, v)
			if err != nil {
				return nil, err
			}
			err = a.render(&parts, "limits-now", "limits", now)
			return parts, err
		}
	case "return":
		// The page says what it shows, so that a change before the stream is
		// open isn't missed.
		shown := r.FormValue("plan")
		return func(_ context.Context, v *visit) ([]part, error) {
			if v.access.Paid || v.access.Plan != shown {
				return nil, errReload
			}
			return nil, nil
		}
	}
	return nil
}

// fresh reads what the account may do now.
func (a *App) fresh(look looker) looker {
	if look == nil {
		return nil
	}
	return func(ctx context.Context, v *visit) ([]part, error) {
		var err error
		if v.access, err = a.Feed.Access(ctx, v.user.ID); err != nil {
			return nil, err
		}
		return look(ctx, v)
	}
}

func (a *App) accountParts(ctx context.Context, v *visit) (parts []part, err error) {
	data, err := a.accountNow(ctx, v)
	if err != nil {
		return nil, err
	}
	if err := a.render(&parts, "banner", "banner", data.Banner); err != nil {
		return nil, err
	}
	if err := a.render(&parts, "plan-card", "plan", data.Plan); err != nil {
		return nil, err
	}
	err = a.render(&parts, "usage-card", "usage", data.Now)
	return parts, err
}

// healthParts is the administrator's health page. All streams share a look.
func (a *App) healthParts(ctx context.Context, _ *visit) (parts []part, err error) {
	a.healthShared.Lock()
	defer a.healthShared.Unlock()
	if time.Since(a.healthAt) < streamLooks/2 {
		return a.healthLast, nil
	}
	h, err := a.health(ctx)
	if err != nil {
		return nil, err
	}
	page := a.healthPage(h)
	if err := a.render(&parts, "health-now", "health", page.Now); err != nil {
		return nil, err
	}
	if err := a.render(&parts, "dead", "dead", page.Dead); err != nil {
		return nil, err
	}
	a.healthAt, a.healthLast = time.Now(), parts
	return parts, nil
}

func (a *App) liveRoutes(mux *http.ServeMux) {
	mux.Handle("GET /account/events", a.live(func(*visit) bool { return true }, func(r *http.Request) looker { return a.fresh(a.accountLook(r)) }))
	mux.Handle("GET /admin/events", a.live(func(v *visit) bool { return v.user.Admin }, func(*http.Request) looker { return a.healthParts }))
}
