package usage_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("down")

// flaky is a store whose Append can be made to fail.
type flaky struct {
	usage.Store
	mu    sync.Mutex
	fail  func(entries []usage.Entry) error
	after bool // fail after storing: the answer is lost
}

func (f *flaky) set(fail func([]usage.Entry) error, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.after = fail, after
}

func (f *flaky) Append(ctx context.Context, now time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	f.mu.Lock()
	fail, after := f.fail, f.after
	f.mu.Unlock()
	var err error
	if fail != nil {
		err = fail(entries)
	}
	if err != nil && !after {
		return nil, err
	}
	out, appendErr := f.Store.Append(ctx, now, entries)
	return out, errors.Join(err, appendErr)
}

var tokens = usage.Config{
	Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum}},
	Logger: slog.New(slog.DiscardHandler),
}

func recorder(t *testing.T, store usage.Store, cfg usage.RecorderConfig) (*usage.Service, *usage.Recorder) {
	t.Helper()
	svc, err := usage.New(store, tokens)
	require.NoError(t, err)
	r, err := usage.NewRecorder(svc, cfg)
	require.NoError(t, err)
	return svc, r
}

func sum(t *testing.T, svc *usage.Service) int64 {
	t.Helper()
	s, err := svc.Summary(t.Context(), usage.Query{Account: "a", Meter: "tokens"})
	require.NoError(t, err)
	return s.Value.Sum
}

func conserved(t *testing.T, s usage.RecorderStats) {
	t.Helper()
	require.Equal(t, s.Accepted, s.Stored+s.Duplicates+s.Dead+s.Pending, "%+v", s)
}

func one(id string) usage.Event {
	return usage.Event{ID: id, Account: "a", Meter: "tokens", Value: 1}
}

func TestEveryTrackedEventIsStoredOnce(t *testing.T) {
	for _, journal := range []string{"", t.TempDir()} {
		store := &flaky{Store: usagemem.New()}
		svc, r := recorder(t, store, usage.RecorderConfig{Journal: journal, Max: 300, Batch: 50, Every: time.Millisecond})
		// Every third answer is lost after the events were stored.
		calls := 0
		store.set(func([]usage.Entry) error {
			if calls++; calls%3 == 0 {
				return errDown
			}
			return nil
		}, true)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 250 {
					e := one("")
					if i%5 == 0 {
						e.ID = fmt.Sprint(w, "-", i/10) // each of these twice
					}
					if err := r.Track(context.Background(), e); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, r.Close(t.Context()))
		s := r.Stats()
		conserved(t, s)
		require.EqualValues(t, 2000, s.Accepted)
		require.Zero(t, s.Pending)
		require.EqualValues(t, 2000-8*25, sum(t, svc))
		if journal != "" {
			files, err := filepath.Glob(filepath.Join(journal, "*.journal"))
			require.NoError(t, err)
			require.Empty(t, files, "settled segments are deleted")
		}
	}
}

func TestPoisonIsBisectedOut(t *testing.T) {
	store := &flaky{Store: usagemem.New()}
	store.set(func(entries []usage.Entry) error {
		for _, e := range entries {
			if e.ID == "poison" {
				return fmt.Errorf("%w: no", usage.ErrInvalid)
			}
		}
		return nil
	}, false)
	var dead []string
	svc, r := recorder(t, store, usage.RecorderConfig{Every: time.Hour, Dead: func(e usage.Event, err error) {
		dead = append(dead, e.ID)
		if !errors.Is(err, usage.ErrInvalid) && !errors.Is(err, usage.ErrKeyReused) {
			t.Errorf("dead for %v", err)
		}
	}})
	for i := range 99 {
		require.NoError(t, r.Track(t.Context(), one(fmt.Sprint(i))))
	}
	require.NoError(t, r.Track(t.Context(), one("poison")))
	other := one("7")
	other.Value = 9
	require.NoError(t, r.Flush(t.Context()))
	require.NoError(t, r.Track(t.Context(), other))
	require.NoError(t, r.Close(t.Context()))
	require.Equal(t, []string{"poison", "7"}, dead)
	require.EqualValues(t, 99, sum(t, svc))
	conserved(t, r.Stats())
	require.EqualValues(t, 2, r.Stats().Dead)
}

func TestTrackSaysWhatIsWrongWithAnEvent(t *testing.T) {
	_, r := recorder(t, usagemem.New(), usage.RecorderConfig{})
	for _, tc := range []struct {
		event usage.Event
		kind  error
	}{
		{usage.Event{Account: "a", Meter: "nope"}, usage.ErrUnknownMeter},
		{usage.Event{Account: "", Meter: "tokens"}, usage.ErrInvalid},
		{usage.Event{Account: "a\x00", Meter: "tokens"}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "tokens", Value: usage.MaxValue + 1}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "tokens", Properties: usage.Properties{{Name: "x"}}}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "tokens", Time: time.Now().AddDate(-1, 0, 0)}, usage.ErrTooLate},
		{usage.Event{Account: "a", Meter: "tokens", Time: time.Now().Add(time.Hour)}, usage.ErrInFuture},
	} {
		require.ErrorIs(t, r.Track(t.Context(), tc.event), tc.kind)
	}
	require.NoError(t, r.Close(t.Context()))
	require.ErrorIs(t, r.Track(t.Context(), one("")), usage.ErrClosed)
	require.Zero(t, r.Stats().Accepted)
}

func TestAFullBufferRefusesOrBlocksAndNeverDrops(t *testing.T) {
	store := &flaky{Store: usagemem.New()}
	store.set(func([]usage.Entry) error { return errDown }, false)
	svc, r := recorder(t, store, usage.RecorderConfig{Max: 3, Refuse: true, Every: time.Millisecond})
	for range 3 {
		require.NoError(t, r.Track(t.Context(), one("")))
	}
	require.ErrorIs(t, r.Track(t.Context(), one("")), usage.ErrFull)
	require.EqualValues(t, 1, r.Stats().Refused)
	store.set(nil, false)
	require.NoError(t, r.Close(t.Context()))
	require.EqualValues(t, 3, sum(t, svc))

	store.set(func([]usage.Entry) error { return errDown }, false)
	_, r = recorder(t, store, usage.RecorderConfig{Max: 1, Every: time.Millisecond})
	require.NoError(t, r.Track(t.Context(), one("")))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.Track(ctx, one("")), context.DeadlineExceeded)
	blocked := make(chan error)
	go func() { blocked <- r.Track(context.Background(), one("")) }()
	store.set(nil, false)
	require.NoError(t, <-blocked, "room comes back")
	require.NoError(t, r.Close(t.Context()))
	require.EqualValues(t, 5, sum(t, svc))
}

func TestCloseSaysWhatIsLeftAndTheJournalKeepsIt(t *testing.T) {
	store := &flaky{Store: usagemem.New()}
	store.set(func([]usage.Entry) error { return errDown }, false)
	dir := t.TempDir()
	_, r := recorder(t, store, usage.RecorderConfig{Journal: dir})
	_, err := usage.NewRecorder(newService(t, store), usage.RecorderConfig{Journal: dir})
	require.ErrorContains(t, err, "in use")
	for range 5 {
		require.NoError(t, r.Track(t.Context(), usage.Event{Account: "a", Meter: "tokens", Value: 2, Properties: usage.Properties{usage.Float("x", 1.5), usage.String("y", "é")}}))
	}
	require.Positive(t, r.Stats().Pending)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = r.Close(ctx)
	var left *usage.LeftError
	require.ErrorAs(t, err, &left)
	require.EqualValues(t, 5, left.Pending)
	require.Equal(t, dir, left.Journal)
	conserved(t, r.Stats())

	// A crash in mid-write leaves half a record behind.
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0], append(data, data[:len(data)/7]...), 0o600))

	store.set(nil, false)
	svc, r := recorder(t, store, usage.RecorderConfig{Journal: dir})
	require.NoError(t, r.Flush(t.Context()))
	require.EqualValues(t, 10, sum(t, svc))
	require.EqualValues(t, 5, r.Stats().Stored)
	require.NoError(t, r.Close(t.Context()))
	files, err = filepath.Glob(filepath.Join(dir, "*.journal"))
	require.NoError(t, err)
	require.Empty(t, files)
}

func newService(t *testing.T, store usage.Store) *usage.Service {
	t.Helper()
	svc, err := usage.New(store, tokens)
	require.NoError(t, err)
	return svc
}

// An event is fixed when it is tracked: what its caller does to the properties
// afterwards has no effect.
func TestATrackedEventDoesNotChange(t *testing.T) {
	store := usagemem.New()
	svc, r := recorder(t, store, usage.RecorderConfig{Every: time.Hour})
	props := usage.Properties{usage.String("model", "a")}
	require.NoError(t, r.Track(t.Context(), usage.Event{Account: "a", Meter: "tokens", Value: 1, Properties: props}))
	props[0] = usage.String("model", "b")
	require.NoError(t, r.Close(t.Context()))
	for e, err := range svc.Events(t.Context(), usage.Query{Account: "a"}) {
		require.NoError(t, err)
		model, _ := e.Properties.Get("model")
		require.Equal(t, "a", model.Text())
	}
}

// To track an event allocates nothing, whatever it carries.
func TestTrackAllocatesNothing(t *testing.T) {
	svc, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{
		Name: "kolekts", Measures: []usage.Measure{{Property: "characters"}, {Property: "score", Scale: 2}}, Dimensions: []string{"tone"},
	}}})
	require.NoError(t, err)
	r, err := usage.NewRecorder(svc, usage.RecorderConfig{Every: time.Hour})
	require.NoError(t, err)
	ctx, id := t.Context(), strings.Repeat("i", usage.MaxID)
	for name, track := range map[string]func() error{
		"a value": func() error { return r.Track(ctx, usage.Event{Account: "acct", Meter: "kolekts"}) },
		"an ID and a time": func() error {
			return r.Track(ctx, usage.Event{ID: id, Account: "acct", Meter: "kolekts", Time: time.Now()})
		},
		"properties": func() error {
			return r.Track(ctx, usage.Event{Account: "acct", Meter: "kolekts", Properties: usage.Properties{
				usage.Int("characters", 512), usage.Float("score", 7.25), usage.String("tone", "dry"), usage.Bool("images", true),
			}})
		},
	} {
		// Few enough to fit into the room that the shards begin with; what
		// the properties need grows now and then, and rounds to nothing.
		require.Zero(t, testing.AllocsPerRun(200, func() {
			if err := track(); err != nil {
				t.Error(err)
			}
		}), name)
		require.NoError(t, r.Flush(ctx))
	}
	require.NoError(t, r.Close(ctx))
}

// The time is that of Track alone: what is tracked is stored between the
// bursts, which fit into a batch, while the clock stands still.
func BenchmarkTrack(b *testing.B) {
	for _, bench := range []struct {
		name  string
		track func(context.Context, *usage.Recorder) error
	}{
		{"value", func(ctx context.Context, r *usage.Recorder) error {
			return r.Track(ctx, usage.Event{Account: "acct_000001", Meter: "tokens", Value: 1})
		}},
		{"properties", func(ctx context.Context, r *usage.Recorder) error {
			return r.Track(ctx, usage.Event{Account: "acct_000001", Meter: "tokens", Value: 1, Properties: usage.Properties{
				usage.String("model", "gpt"), usage.Int("characters", 512), usage.Bool("cached", false),
			}})
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			store := &gated{Store: usagemem.New()}
			svc, err := usage.New(store, tokens)
			require.NoError(b, err)
			const burst = 900
			r, err := usage.NewRecorder(svc, usage.RecorderConfig{Every: time.Hour})
			require.NoError(b, err)
			ctx := context.Background()
			b.ReportAllocs()
			store.gate.Lock()
			b.ResetTimer()
			for i := range b.N {
				if i%burst == burst-1 {
					b.StopTimer()
					store.gate.Unlock()
					require.NoError(b, r.Flush(ctx))
					store.gate.Lock()
					b.StartTimer()
				}
				if err := bench.track(ctx, r); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			store.gate.Unlock()
			require.NoError(b, r.Close(ctx))
		})
	}
}

// gated stores nothing, and only while the gate is open.
type gated struct {
	usage.Store
	gate sync.RWMutex
}

func (g *gated) Append(_ context.Context, _ time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return make([]usage.AppendOutcome, len(entries)), nil
}
