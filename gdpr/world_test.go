package gdpr_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
)

// table is a source in memory that erases two rows a page.
type table struct {
	name   string
	after  []string
	retain bool // keeps rows, with the person detached
	allow  map[string]string

	mu      sync.Mutex
	rows    map[string][]map[string]any // by subject
	kept    int
	failing int // the next n calls of Erase fail
	half    bool

	byHand   bool      // what it keeps is a processor's
	extended time.Time // what it keeps may be kept until then
	old      int64     // rows that a sweep finds
}

// Expire implements gdpr.Expirer, three rows a page.
func (t *table) Expire(ctx context.Context, kept gdpr.Retained, _ string) (gdpr.Outcome, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return gdpr.Outcome{}, ctx.Err()
	case t.byHand:
		return gdpr.Outcome{}, errors.ErrUnsupported
	case t.failing > 0:
		t.failing--
		return gdpr.Outcome{}, errors.New("can't reach it")
	case t.extended.After(kept.Until):
		kept.Until = t.extended
		return gdpr.Outcome{Done: true, Retained: []gdpr.Retained{kept}}, nil
	}
	n := min(3, t.kept)
	t.kept -= n
	return gdpr.Outcome{Removed: int64(n), Done: t.kept == 0, Next: "more"}, nil
}

// Sweep implements gdpr.Sweeper.
func (t *table) Sweep(context.Context, time.Time) (int64, error) {
	if t.failing > 0 {
		t.failing--
		return 0, errors.New("can't reach it")
	}
	n := t.old
	t.old = 0
	return n, nil
}

// Rectify implements gdpr.Rectifier.
func (t *table) Rectify(_ context.Context, s gdpr.Subject, changes map[string]string) (n int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, row := range t.rows[s.ID] {
		for name, v := range changes {
			if _, ok := row[name]; ok {
				row[name] = v
				n++
			}
		}
	}
	return n, nil
}

func (t *table) Describe() gdpr.Descriptor {
	return gdpr.Descriptor{
		Name: t.name, Categories: []string{"test"}, Purpose: "testing " + t.name, Basis: gdpr.Contract,
		Retention: "until erased", Portable: t.name != "profile", After: t.after, Allow: t.allow,
	}
}

func (t *table) add(subject string, fields map[string]any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		t.rows = map[string][]map[string]any{}
	}
	t.rows[subject] = append(t.rows[subject], fields)
}

func (t *table) Export(_ context.Context, s gdpr.Subject, sink *gdpr.Sink) error {
	t.mu.Lock()
	rows := slices.Clone(t.rows[s.ID])
	t.mu.Unlock()
	for _, r := range rows {
		if err := sink.Row("rows", r); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) Erase(ctx context.Context, s gdpr.Subject, _ string) (gdpr.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return gdpr.Outcome{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failing > 0 {
		t.failing--
		return gdpr.Outcome{}, fmt.Errorf("can't reach %s of ada@example.test", t.name)
	}
	rows := t.rows[s.ID]
	if t.half && len(rows) > 1 {
		t.rows[s.ID] = rows[:1]
		return gdpr.Outcome{Removed: int64(len(rows) - 1), Done: true}, nil
	}
	n := min(2, len(rows))
	if n > 0 {
		t.rows[s.ID] = rows[n:]
	}
	out := gdpr.Outcome{Removed: int64(n), Done: len(rows) == n, Next: "more"}
	if t.retain && n > 0 {
		t.kept += n
		out.Removed = 0
		out.Retained = []gdpr.Retained{{Record: "invoices", Count: int64(n), Ground: "tax law", Article: "Art. 17(3)(b)", Until: start.AddDate(8, 0, 0)}}
	}
	return out, nil
}

func (t *table) dump() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, _ := json.Marshal(t.rows)
	return string(b)
}

var start = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// world is a service with four sources, a clock and recorded notices.
type world struct {
	t        *testing.T
	service  *gdpr.Service
	store    gdpr.Store
	config   gdpr.Config
	tables   []*table
	mu       sync.Mutex
	now      time.Time
	notices  map[string]int
	frozen   map[string]bool
	deaf     int // the next n notices fail
	subjects map[string]gdpr.Subject
	public   ed25519.PublicKey
}

func newWorld(t *testing.T, store gdpr.Store) *world {
	t.Helper()
	w := &world{t: t, store: store, now: start, notices: map[string]int{}, frozen: map[string]bool{}, subjects: map[string]gdpr.Subject{}}
	if w.store == nil {
		w.store = gdprmem.New()
	}
	w.tables = []*table{
		{name: "keys"}, {name: "invoices", retain: true}, {name: "texts", after: []string{"keys"}},
		{name: "profile", after: []string{"keys", "texts", "invoices"}},
	}
	var private ed25519.PrivateKey
	var err error
	w.public, private, err = ed25519.GenerateKey(nil)
	require.NoError(t, err)
	var sources []gdpr.Source
	for _, tab := range w.tables {
		sources = append(sources, tab)
	}
	w.config = gdpr.Config{
		Pepper:  bytes.Repeat([]byte("p"), 32),
		Sources: sources,
		Files:   gdpr.DirFiles(t.TempDir()),
		Subject: func(_ context.Context, id string) (gdpr.Subject, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			s, ok := w.subjects[id]
			if !ok {
				return gdpr.Subject{}, gdpr.ErrNotFound
			}
			return s, nil
		},
		Notify: func(_ context.Context, n gdpr.Notice) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.deaf > 0 {
				w.deaf--
				return errors.New("mail is down")
			}
			if n.Subject.ID == "" {
				return errors.New("notice without a subject")
			}
			w.notices[n.ID]++
			return nil
		},
		Freeze: func(_ context.Context, s gdpr.Subject) error { w.frozen[s.ID] = true; return nil },
		Thaw:   func(_ context.Context, s gdpr.Subject) error { delete(w.frozen, s.ID); return nil },
		Purposes: []gdpr.Purpose{
			{ID: "newsletter", Version: 2, Text: "We send you news."}, {ID: "research", Version: 3, Text: "We ask you.", Covers: 2},
		},
		SigningKey: private,
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
	}
	w.rebuild()
	w.populate("ada")
	w.populate("bob")
	return w
}

func (w *world) rebuild() {
	w.t.Helper()
	var err error
	w.service, err = gdpr.New(w.store, w.config)
	require.NoError(w.t, err)
}

func (w *world) populate(id string) {
	w.subjects[id] = gdpr.Subject{ID: id, Epoch: start.AddDate(-1, 0, 0), Identifiers: []gdpr.Identifier{{Kind: "email", Value: id + "@example.test"}}}
	for _, tab := range w.tables {
		for i := range 5 {
			tab.add(id, map[string]any{"n": i, "who": "canary-" + id, "at": start})
		}
	}
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) work() {
	w.t.Helper()
	_, err := w.service.Work(context.Background())
	require.NoError(w.t, err)
}

func (w *world) leftOf(id string) int { return w.count("canary-" + id) }

func (w *world) count(text string) (n int) {
	for _, tab := range w.tables {
		n += strings.Count(tab.dump(), text)
	}
	return n
}

func (w *world) state(id string) gdpr.State {
	w.t.Helper()
	r, err := w.service.Request(context.Background(), id)
	require.NoError(w.t, err)
	return r.State
}
