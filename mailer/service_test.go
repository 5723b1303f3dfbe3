package mailer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailermem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var noon = time.Date(2026, time.March, 2, 12, 0, 0, 0, time.UTC)

// note is a kind for tests.
type note struct{ Text, URL string }

var noteFiles = fstest.MapFS{
	"test.note.en.txt": {Data: []byte("Subject: Note: {{.Data.Text}}\nPreheader: A note.\n\n# Hello{{with .Name}} {{.}}{{end}}\n\n{{.Data.Text}}\n\n[Open]({{.Data.URL}})\n")},
	"test.tip.en.txt":  {Data: []byte("Subject: Tip: {{.Data.Text}}\nPreheader: A tip.\n\n{{.Data.Text}}\n")},
}

func noteSpec(class mailer.Class) mailer.Spec[note] {
	s := mailer.Spec[note]{Name: "test.note", Stream: "notes", Class: class, Templates: noteFiles, Sample: note{Text: "text", URL: "https://example.com"}}
	if class == mailer.Lifecycle {
		s.Name, s.Stream = "test.tip", "tips"
	}
	return s
}

// world is a service over a scripted transport.
type world struct {
	*mailer.Service
	clock *clock
	note  *mailer.Kind[note]
	tip   *mailer.Kind[note]
	store mailer.Store

	mu     sync.Mutex
	script func(m *mailer.Message) mailer.Result
	sent   []*mailer.Message
	seen   []mailer.Attempt
	log    bytes.Buffer
}

func (w *world) Send(_ context.Context, m *mailer.Message) mailer.Result {
	if err := m.Validate(); err != nil {
		return mailer.Invalid(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	res := mailer.Result{Outcome: mailer.Sent, Transport: "test"}
	if w.script != nil {
		res = w.script(m)
	}
	if res.Outcome == mailer.Sent {
		w.sent = append(w.sent, m)
	}
	return res
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func newWorld(t *testing.T, change func(note, tip *mailer.Spec[note], cfg *mailer.Config)) *world {
	t.Helper()
	w := &world{clock: &clock{now: noon}}
	noteSpec, tipSpec := noteSpec(mailer.Transactional), noteSpec(mailer.Lifecycle)
	cfg := mailer.Config{
		From: mailer.Address{Name: "Example", Email: "hello@example.com"}, Secret: bytes.Repeat([]byte("s"), 32),
		PublicURL: "https://example.com/u", Now: w.clock.Now, Logger: slog.New(slog.NewTextHandler(w, nil)),
		Observe: func(a mailer.Attempt) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen = append(w.seen, a)
		},
	}
	if change != nil {
		change(&noteSpec, &tipSpec, &cfg)
	}
	var err error
	w.note, err = mailer.Define(noteSpec)
	require.NoError(t, err)
	w.tip, err = mailer.Define(tipSpec)
	require.NoError(t, err)
	cfg.Kinds = append(cfg.Kinds, w.note, w.tip)
	w.store, err = mailermem.New(mailermem.Config{})
	require.NoError(t, err)
	w.Service, err = mailer.New(w.store, w, cfg)
	require.NoError(t, err)
	return w
}

var ada = mailer.To{Account: "acct_1", Email: "ada@example.org", Name: "Ada"}

func (w *world) enqueue(t *testing.T, k *mailer.Kind[note], key string, opts ...mailer.Option) mailer.Receipt {
	t.Helper()
	r, err := k.Enqueue(context.Background(), w.Service, ada, note{Text: key, URL: "https://example.com/" + key}, key, opts...)
	require.NoError(t, err)
	return r
}

func (w *world) flush(t *testing.T) int {
	t.Helper()
	n, err := w.Flush(context.Background())
	require.NoError(t, err)
	return n
}

func (w *world) state(t *testing.T, id string) mailer.Mail {
	t.Helper()
	m, err := w.Lookup(context.Background(), id)
	require.NoError(t, err)
	return m
}

func fails(outcome mailer.Outcome, fault mailer.Fault, stage string) func(*mailer.Message) mailer.Result {
	return func(*mailer.Message) mailer.Result {
		return mailer.Result{Outcome: outcome, Fault: fault, Stage: stage, Code: 550, Err: errors.New("refused")}
	}
}

func TestSameMessageIDOnEveryAttempt(t *testing.T) {
	w := newWorld(t, nil)
	var seen []string // under the world's lock
	w.script = func(m *mailer.Message) mailer.Result {
		seen = append(seen, m.MessageID)
		return mailer.Result{Outcome: mailer.Temporary, Stage: "rcpt"}
	}
	r := w.enqueue(t, w.note, "a")
	for range 3 {
		w.flush(t)
		w.clock.add(6 * time.Hour)
	}
	require.Len(t, seen, 3)
	require.Equal(t, seen[0], seen[1])
	require.True(t, strings.HasSuffix(seen[0], "@example.com"))
	require.NotContains(t, seen[0], strings.TrimPrefix(r.ID, "mail_"))
	w.enqueue(t, w.note, "b")
	w.flush(t)
	distinct := map[string]bool{}
	for _, id := range seen {
		distinct[id] = true
	}
	require.Len(t, distinct, 2)
}

func TestWhatBecomesOfAMail(t *testing.T) {
	for _, c := range []struct {
		name     string
		script   func(*mailer.Message) mailer.Result
		hold     bool
		state    mailer.State
		reason   string
		attempts int
		blocked  string // reason of the suppression that follows
	}{
		{"sent", nil, false, mailer.Done, "", 1, ""},
		{"greylisted", fails(mailer.Temporary, mailer.FaultRate, "rcpt"), false, mailer.Pending, "", 1, ""},
		{"network", fails(mailer.Temporary, mailer.FaultNetwork, "data"), false, mailer.Pending, "", 1, ""},
		{"relay is away", fails(mailer.Temporary, mailer.FaultNetwork, "connect"), false, mailer.Pending, "", 0, ""},
		{"wrong password", fails(mailer.Temporary, mailer.FaultTransport, "connect"), false, mailer.Pending, "", 0, ""},
		{"no such user", fails(mailer.Permanent, mailer.FaultRecipient, "rcpt"), false, mailer.Dead, mailer.ReasonRefused, 1, mailer.SuppressBounced},
		{"full", fails(mailer.Permanent, mailer.FaultMailbox, "rcpt"), false, mailer.Dead, mailer.ReasonRefused, 1, ""},
		{"our fault", fails(mailer.Permanent, mailer.FaultMessage, "body"), false, mailer.Dead, mailer.ReasonRefused, 1, ""},
		{"our reputation", fails(mailer.Permanent, mailer.FaultSender, "mail"), false, mailer.Pending, "", 1, ""},
		{"ambiguous", fails(mailer.Ambiguous, mailer.FaultNetwork, "reply"), false, mailer.Pending, mailer.ReasonAmbiguous, 1, ""},
		{"ambiguous, hold", fails(mailer.Ambiguous, mailer.FaultNetwork, "reply"), true, mailer.Held, mailer.ReasonAmbiguous, 1, ""},
		{"panic", func(*mailer.Message) mailer.Result { panic("boom") }, true, mailer.Held, mailer.ReasonAmbiguous, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(note, _ *mailer.Spec[note], _ *mailer.Config) {
				if c.hold {
					note.OnAmbiguous = mailer.Hold
				}
			})
			w.script = c.script
			r := w.enqueue(t, w.note, "a")
			w.flush(t)
			m := w.state(t, r.ID)
			assert.Equal(t, c.state, m.State)
			assert.Equal(t, c.reason, m.Reason)
			assert.Equal(t, c.attempts, m.Attempts)
			list, err := w.Suppressions(context.Background(), ada.Email)
			require.NoError(t, err)
			if c.blocked == "" {
				assert.Empty(t, list)
			} else {
				assert.Equal(t, c.blocked, list[0].Reason)
				assert.Equal(t, mailer.Suppressed, w.enqueue(t, w.note, "b").Status)
			}
			assert.NotContains(t, w.log.String(), ada.Email)
		})
	}
}

func TestRelayThatIsAwayPausesEverythingAndCountsNothing(t *testing.T) {
	w := newWorld(t, nil)
	tries := 0
	w.script = func(*mailer.Message) mailer.Result {
		tries++
		return mailer.Result{Outcome: mailer.Temporary, Fault: mailer.FaultTransport, Stage: "connect"}
	}
	var last mailer.Receipt
	for i := range 50 {
		last = w.enqueue(t, w.note, fmt.Sprint(i))
	}
	w.flush(t)
	require.LessOrEqual(t, tries, 4, "one failure for each sender at most")
	require.Zero(t, w.state(t, last.ID).Attempts)
	w.script = nil
	w.clock.add(time.Minute)
	w.flush(t)
	require.Len(t, w.sent, 50)
}

func TestBusyDomainIsLeftAloneOthersGoOn(t *testing.T) {
	w := newWorld(t, func(_, _ *mailer.Spec[note], cfg *mailer.Config) { cfg.Concurrency = 1 })
	w.script = func(m *mailer.Message) mailer.Result {
		if m.To.Domain() == "busy.example" {
			return mailer.Result{Outcome: mailer.Temporary, Fault: mailer.FaultRate, Stage: "rcpt", Code: 421}
		}
		return mailer.Result{Outcome: mailer.Sent}
	}
	for i := range 20 {
		to := mailer.To{Account: "a", Email: fmt.Sprintf("u%d@%s", i, []string{"busy.example", "calm.example"}[i%2])}
		_, err := w.note.Enqueue(context.Background(), w.Service, to, note{Text: "x", URL: "https://example.com"}, fmt.Sprint(i))
		require.NoError(t, err)
	}
	w.flush(t)
	require.Len(t, w.sent, 10)
	tried := 0
	for _, a := range w.seen {
		if a.Domain == "busy.example" && a.Result.Code == 421 {
			tried++
		}
	}
	require.Equal(t, 1, tried)
}

func TestAttemptsEnd(t *testing.T) {
	w := newWorld(t, func(note, _ *mailer.Spec[note], cfg *mailer.Config) { note.TTL, cfg.MaxAttempts = 1000*time.Hour, 3 })
	w.script = fails(mailer.Temporary, mailer.FaultUnknown, "rcpt")
	r := w.enqueue(t, w.note, "a")
	for range 5 {
		w.flush(t)
		w.clock.add(24 * time.Hour)
	}
	m := w.state(t, r.ID)
	require.Equal(t, mailer.Dead, m.State)
	require.Equal(t, mailer.ReasonAttempts, m.Reason)
	require.Equal(t, 3, m.Attempts)

	w.script = nil
	n, err := w.Release(context.Background(), r.ID)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	w.flush(t)
	require.Equal(t, mailer.Done, w.state(t, r.ID).State)
}

func TestExpiredMailIsNotSent(t *testing.T) {
	w := newWorld(t, nil)
	r := w.enqueue(t, w.note, "a", mailer.Until(noon.Add(time.Minute)))
	w.clock.add(time.Minute)
	w.flush(t)
	require.Equal(t, mailer.ReasonExpired, w.state(t, r.ID).Reason)
	require.Empty(t, w.sent)
}

func TestIrrelevantMailIsNotSent(t *testing.T) {
	relevant, failing := true, error(nil)
	w := newWorld(t, func(spec, _ *mailer.Spec[note], _ *mailer.Config) {
		spec.StillRelevant = func(_ context.Context, account string, n note) (bool, error) {
			if account != "acct_1" || n.Text == "" {
				return false, errors.New("wrong question")
			}
			return relevant, failing
		}
	})
	w.enqueue(t, w.note, "a")
	w.flush(t)
	require.Len(t, w.sent, 1)
	relevant = false
	r := w.enqueue(t, w.note, "b")
	w.flush(t)
	require.Equal(t, mailer.ReasonIrrelevant, w.state(t, r.ID).Reason)
	relevant, failing = true, errors.New("database is away")
	r = w.enqueue(t, w.note, "c")
	w.flush(t)
	require.Equal(t, mailer.Pending, w.state(t, r.ID).State)
	require.Len(t, w.sent, 1)
}

func TestQuietHoursAndCapHoldForLifecycleOnly(t *testing.T) {
	w := newWorld(t, func(_, tip *mailer.Spec[note], _ *mailer.Config) {
		tip.QuietHours = mailer.QuietHours{From: 22, To: 8}
		tip.Cap = mailer.Cap{Count: 1, Per: 48 * time.Hour}
	})
	w.clock.now = time.Date(2026, time.March, 28, 22, 30, 0, 0, time.UTC)
	to := ada
	to.TimeZone = "Europe/Berlin" // clocks go forward in this night
	send := func(k *mailer.Kind[note], key string) mailer.Receipt {
		r, err := k.Enqueue(context.Background(), w.Service, to, note{Text: "x", URL: "https://example.com"}, key)
		require.NoError(t, err)
		return r
	}
	tip := send(w.tip, "1")
	require.Equal(t, mailer.Capped, send(w.tip, "2").Status)
	note := send(w.note, "1")
	w.flush(t)
	require.Equal(t, mailer.Done, w.state(t, note.ID).State)
	require.Equal(t, time.Date(2026, time.March, 29, 6, 0, 0, 0, time.UTC), w.state(t, tip.ID).RunAt, "eight in the morning, summer time")
	w.clock.add(8 * time.Hour)
	w.flush(t)
	require.Equal(t, mailer.Done, w.state(t, tip.ID).State)
}

func TestPaymentRecoveredSupersedesPaymentFailed(t *testing.T) {
	kinds, err := mailer.Shipped(nil)
	require.NoError(t, err)
	w := newWorld(t, func(_, _ *mailer.Spec[note], cfg *mailer.Config) { cfg.Kinds = kinds.All() })
	ctx := context.Background()
	_, err = kinds.PaymentFailed.Enqueue(ctx, w.Service, ada, mailer.PaymentFailed{Amount: "$9.99", Plan: "Pro", UpdateURL: "https://example.com"}, "in_1", mailer.At(noon.Add(time.Hour)), mailer.About("in_1"))
	require.NoError(t, err)
	_, err = kinds.PaymentRecovered.Enqueue(ctx, w.Service, ada, mailer.PaymentRecovered{Amount: "$9.99", Plan: "Pro"}, "in_1", mailer.About("in_1"))
	require.NoError(t, err)
	w.clock.add(2 * time.Hour)
	w.flush(t)
	require.Len(t, w.sent, 1)
	require.Equal(t, "payment.recovered", w.sent[0].Kind)
}

func TestRunDrainsAndGivesBack(t *testing.T) {
	w := newWorld(t, func(_, _ *mailer.Spec[note], cfg *mailer.Config) { cfg.Concurrency, cfg.Poll = 1, time.Millisecond })
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.script = func(*mailer.Message) mailer.Result {
		once.Do(func() { close(started); <-release })
		return mailer.Result{Outcome: mailer.Sent}
	}
	for i := range 10 {
		w.enqueue(t, w.note, fmt.Sprint(i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	<-started
	cancel()
	close(release)
	require.NoError(t, <-ended)
	require.Len(t, w.sent, 1, "what had begun is finished")
	st, err := w.Stats(context.Background())
	require.NoError(t, err)
	require.Equal(t, int64(9), st.Pending, "what had not is given back")
	require.Zero(t, st.Claimed)
	mails, err := w.List(context.Background(), mailer.Query{States: []mailer.State{mailer.Pending}})
	require.NoError(t, err)
	for _, m := range mails {
		require.Zero(t, m.Attempts)
	}
}

func TestScannersUnsubscribeNobody(t *testing.T) {
	w := newWorld(t, nil)
	w.enqueue(t, w.tip, "a")
	w.flush(t)
	link := w.sent[0].ListUnsubscribe
	require.Contains(t, w.sent[0].Text, link)
	require.Contains(t, w.sent[0].HTML, link)
	require.NotContains(t, link, "ada")
	mux := http.NewServeMux()
	mux.Handle("/u/", w.UnsubscribeHandler())
	u, err := url.Parse(link)
	require.NoError(t, err)
	do := func(method, contentType, body string) int {
		r := httptest.NewRequest(method, u.Path, strings.NewReader(body))
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, r)
		require.NotContains(t, rec.Body.String(), ada.Email)
		return rec.Code
	}
	suppressed := func() int {
		list, err := w.Suppressions(context.Background(), ada.Email)
		require.NoError(t, err)
		return len(list)
	}
	for i := range 1000 {
		require.Equal(t, http.StatusOK, do([]string{"GET", "HEAD"}[i%2], "", ""))
	}
	require.Zero(t, suppressed(), "a GET must not unsubscribe")
	require.Equal(t, http.StatusMethodNotAllowed, do("PUT", "", ""))
	require.Equal(t, http.StatusUnsupportedMediaType, do("POST", "application/json", "{}"))
	require.Zero(t, suppressed())
	require.Equal(t, http.StatusOK, do("POST", "application/x-www-form-urlencoded", "List-Unsubscribe=One-Click"))
	require.Equal(t, 1, suppressed())
	require.Equal(t, http.StatusOK, do("POST", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--"))
	require.Equal(t, 1, suppressed(), "idempotent")

	require.Equal(t, mailer.Suppressed, w.enqueue(t, w.tip, "b").Status)
	require.Equal(t, mailer.Queued, w.enqueue(t, w.note, "b").Status, "essential mail goes on")
	require.NoError(t, w.Resubscribe(context.Background(), ada.Email, "tips"))
	require.Equal(t, mailer.Queued, w.enqueue(t, w.tip, "c").Status)
}

func TestForgedTokensAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	link, err := w.UnsubscribeURL(ada.Email, "tips")
	require.NoError(t, err)
	token := link[strings.LastIndex(link, "/")+1:]
	for i := range token {
		changed := []byte(token)
		changed[i] = map[bool]byte{true: 'B', false: 'A'}[changed[i] == 'A']
		if string(changed) == token {
			continue
		}
		rec := httptest.NewRecorder()
		w.UnsubscribeHandler().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/u/"+string(changed), nil))
		if rec.Code == http.StatusOK {
			// The last character of base64 has bits that mean nothing.
			require.Equal(t, len(token)-1, i)
		}
	}
}

func TestEventsSuppress(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		event    mailer.EventType
		times    int
		tip, bil mailer.Status
	}{
		{mailer.EventBounced, 1, mailer.Suppressed, mailer.Suppressed},
		{mailer.EventComplained, 1, mailer.Suppressed, mailer.Suppressed},
		{mailer.EventUnsubscribed, 1, mailer.Suppressed, mailer.Queued},
		{mailer.EventSoftBounced, 2, mailer.Queued, mailer.Queued},
		{mailer.EventSoftBounced, 3, mailer.Suppressed, mailer.Suppressed},
		{mailer.EventOpened, 5, mailer.Queued, mailer.Queued},
		{mailer.EventUnknown, 5, mailer.Queued, mailer.Queued},
	} {
		t.Run(fmt.Sprint(c.event, c.times), func(t *testing.T) {
			w := newWorld(t, nil)
			r := w.enqueue(t, w.tip, "0")
			for i := range c.times {
				e := mailer.Event{Provider: "p", ID: fmt.Sprint(i), Type: c.event, MailID: r.ID, Email: "ADA@example.org", At: noon}
				fresh, err := w.Record(ctx, e)
				require.NoError(t, err)
				require.True(t, fresh)
				fresh, err = w.Record(ctx, e)
				require.NoError(t, err)
				require.False(t, fresh)
			}
			require.Equal(t, c.tip, w.enqueue(t, w.tip, "1").Status)
			require.Equal(t, c.bil, w.enqueue(t, w.note, "1").Status)
		})
	}
}

func TestErasureKeepsTheObjection(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	w.enqueue(t, w.tip, "a")
	pending := w.enqueue(t, w.note, "b", mailer.At(noon.Add(time.Hour)))
	w.flush(t)
	require.NoError(t, w.Unsubscribe(ctx, ada.Email, "tips"))
	var records []string
	require.NoError(t, w.ExportSubject(ctx, "acct_1", func(record string, fields map[string]any) error {
		records = append(records, fmt.Sprint(record, ":", fields["kind"], ":", fields["state"]))
		return nil
	}))
	require.Equal(t, []string{"mail:test.tip:sent", "mail:test.note:pending"}, records)
	counts, err := w.EraseSubject(ctx, "acct_1")
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"mail": 2}, counts)
	counts, err = w.EraseSubject(ctx, "acct_1")
	require.NoError(t, err)
	require.Empty(t, counts)
	w.clock.add(2 * time.Hour)
	w.flush(t)
	require.Len(t, w.sent, 1)
	require.Equal(t, mailer.ReasonErased, w.state(t, pending.ID).Reason)
	require.Equal(t, mailer.Suppressed, w.enqueue(t, w.tip, "c").Status)
}

func TestSweepForgetsInSteps(t *testing.T) {
	w := newWorld(t, nil)
	r := w.enqueue(t, w.note, "a")
	w.flush(t)
	w.clock.add(31 * 24 * time.Hour)
	scrubbed, forgotten, err := w.Sweep(context.Background())
	require.NoError(t, err)
	require.Equal(t, []int{1, 0}, []int{scrubbed, forgotten})
	require.Equal(t, mailer.Duplicate, w.enqueue(t, w.note, "a").Status)
	require.Empty(t, w.state(t, r.ID).Email)
	w.clock.add(400 * 24 * time.Hour)
	_, forgotten, err = w.Sweep(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, forgotten)
	require.Equal(t, mailer.Queued, w.enqueue(t, w.note, "a").Status)
}

// TestNoAddressInLogsErrorsOrMetrics sends a canary through every outcome and
// looks for it in everything that leaves the package but the mail.
func TestNoAddressInLogsErrorsOrMetrics(t *testing.T) {
	canary := mailer.To{Account: "acct_1", Email: "canary-7f3a@secret.example", Name: "Canary Person"}
	var out strings.Builder
	for _, outcome := range []mailer.Outcome{mailer.Sent, mailer.Temporary, mailer.Permanent, mailer.Ambiguous} {
		for fault := mailer.FaultUnknown; fault <= mailer.FaultTransport; fault++ {
			for _, hold := range []mailer.OnAmbiguous{mailer.Resend, mailer.Hold} {
				w := newWorld(t, func(note, _ *mailer.Spec[note], cfg *mailer.Config) {
					note.OnAmbiguous, cfg.MaxAttempts = hold, 1
				})
				w.script = func(m *mailer.Message) mailer.Result {
					return mailer.Result{Outcome: outcome, Fault: fault, Stage: "rcpt", Code: 550, Enhanced: "5.0.0",
						Err: errors.New(mailer.ScrubText("5.0.0 <" + m.To.Email + "> no " + m.To.Email))}
				}
				r, err := w.note.Enqueue(context.Background(), w.Service, canary, note{Text: "x", URL: "https://example.com"}, "k")
				fmt.Fprintln(&out, r, err)
				w.flush(t)
				_, err = w.note.Send(context.Background(), w.Service, canary, note{Text: "x", URL: "https://example.com"}, "k")
				fmt.Fprintln(&out, err)
				for _, a := range w.seen {
					fmt.Fprintf(&out, "%+v %s %v\n", a, a.Result, a.Result.Err)
				}
				out.WriteString(w.log.String())
				list, err := w.Suppressions(context.Background(), canary.Email)
				require.NoError(t, err)
				fmt.Fprintf(&out, "%+v", list)
			}
		}
	}
	for _, bad := range []string{"canary-7f3a@secret .example", "canary-7f3a@", "canary-7f3a\r\nBcc: x@secret.example"} {
		_, err := mailer.ParseAddress(bad)
		require.Error(t, err)
		fmt.Fprintln(&out, err)
	}
	fmt.Fprintf(&out, "%v", mailer.Address{Email: canary.Email})
	require.Greater(t, out.Len(), 10_000, "the canary must have been everywhere")
	require.NotContains(t, out.String(), "canary-7f3a")
	require.NotContains(t, out.String(), "Canary Person")
}

func TestDirectSendIsTheSameCall(t *testing.T) {
	w := newWorld(t, nil)
	direct, err := mailer.New(nil, w, mailer.Config{From: mailer.Address{Email: "hello@example.com"}, Secret: bytes.Repeat([]byte("s"), 32), Kinds: []mailer.AnyKind{w.note}})
	require.NoError(t, err)
	ctx := context.Background()
	r, err := w.note.Enqueue(ctx, direct, ada, note{Text: "x", URL: "https://example.com"}, "k")
	require.NoError(t, err)
	require.Equal(t, mailer.Delivered, r.Status)
	again, err := w.note.Send(ctx, direct, ada, note{Text: "x", URL: "https://example.com"}, "k")
	require.NoError(t, err)
	require.Equal(t, r, again)
	require.Equal(t, w.sent[0].MessageID, w.sent[1].MessageID)
	w.script = fails(mailer.Permanent, mailer.FaultRecipient, "rcpt")
	_, err = w.note.Send(ctx, direct, ada, note{Text: "x", URL: "https://example.com"}, "k")
	require.ErrorIs(t, err, mailer.ErrNotSent)
	var send *mailer.SendError
	require.ErrorAs(t, err, &send)
	require.Equal(t, mailer.FaultRecipient, send.Result.Fault)
	for _, call := range []func() error{
		func() error { _, err := direct.Lookup(ctx, "x"); return err },
		func() error { _, err := direct.List(ctx, mailer.Query{}); return err },
		func() error { _, err := direct.Stats(ctx); return err },
		func() error { _, err := direct.Release(ctx, "x"); return err },
		func() error { _, err := direct.Cancel(ctx, "x"); return err },
		func() error { _, _, err := direct.Sweep(ctx); return err },
		func() error { _, err := direct.EraseSubject(ctx, "x"); return err },
		func() error { return direct.ExportSubject(ctx, "x", nil) },
		func() error { return direct.Suppress(ctx, ada.Email) },
		func() error {
			_, err := direct.Record(ctx, mailer.Event{Provider: "p", Type: mailer.EventBounced})
			return err
		},
		func() error { _, err := direct.EnqueueAll(ctx, nil); return err },
	} {
		require.ErrorIs(t, call(), mailer.ErrConfig)
	}
	n, err := direct.Flush(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.NoError(t, direct.Run(ended))
}

func TestSuppressedAddressGetsNoDirectMail(t *testing.T) {
	w := newWorld(t, nil)
	require.NoError(t, w.Suppress(context.Background(), "ADA@Example.org"))
	r, err := w.note.Send(context.Background(), w.Service, ada, note{Text: "x", URL: "https://example.com"}, "k")
	require.NoError(t, err)
	require.Equal(t, mailer.Suppressed, r.Status)
	require.Empty(t, w.sent)
	require.NoError(t, w.Unsuppress(context.Background(), ada.Email))
	r, err = w.note.Send(context.Background(), w.Service, ada, note{Text: "x", URL: "https://example.com"}, "k")
	require.NoError(t, err)
	require.Equal(t, mailer.Delivered, r.Status)
}

func TestConfigIsCheckedAtOnce(t *testing.T) {
	tip, err := mailer.Define(noteSpec(mailer.Lifecycle))
	require.NoError(t, err)
	for want, change := range map[string]func(*mailer.Config){
		"Secret":          func(c *mailer.Config) { c.Secret = nil },
		"From":            func(c *mailer.Config) { c.From.Email = "nobody" },
		"ReplyTo":         func(c *mailer.Config) { c.ReplyTo.Email = "a b@c.de" },
		"ReturnPath":      func(c *mailer.Config) { c.ReturnPath = "x" },
		"FromStream":      func(c *mailer.Config) { c.FromStream = map[string]mailer.Address{"tips": {}} },
		"PublicURL":       func(c *mailer.Config) { c.PublicURL = "http://example.com" },
		"http only":       func(c *mailer.Config) { c.PublicURL = "http://localhost.evil.example/u" },
		"lifecycle":       func(c *mailer.Config) { c.PublicURL = "" },
		"Accent":          func(c *mailer.Config) { c.Brand.Accent = "red" },
		"Brand.URL":       func(c *mailer.Config) { c.Brand.URL = "javascript:alert(1)" },
		"Brand.Name":      func(c *mailer.Config) { c.Brand.Name = "a\nb" },
		"Concurrency":     func(c *mailer.Config) { c.Concurrency = -1 },
		"Lease":           func(c *mailer.Config) { c.Lease = time.Millisecond },
		"Poll":            func(c *mailer.Config) { c.Poll = -1 },
		"RetainKeys":      func(c *mailer.Config) { c.RetainKeys = time.Hour },
		"twice":           func(c *mailer.Config) { c.Kinds = append(c.Kinds, tip) },
		"mailto":          func(c *mailer.Config) { c.UnsubscribeMailto = "x@y.z" },
		"DKIM.Domain":     func(c *mailer.Config) { c.DKIM = &mailer.DKIM{Domain: "Example.com"} },
		"DKIM.Key":        func(c *mailer.Config) { c.DKIM = &mailer.DKIM{Domain: "example.com", Selector: "s1"} },
		"supersedes":      func(c *mailer.Config) { c.Kinds = append(c.Kinds, superseding(t)) },
		"DomainPerMinute": func(c *mailer.Config) { c.DomainPerMinute = -1 },
	} {
		t.Run(want, func(t *testing.T) {
			cfg := mailer.Config{From: mailer.Address{Email: "hello@example.com"}, Secret: make([]byte, 32), PublicURL: "https://example.com/u", Kinds: []mailer.AnyKind{tip}}
			change(&cfg)
			_, err := mailer.New(nil, mailer.NewCapture(), cfg)
			require.ErrorIs(t, err, mailer.ErrConfig)
			require.ErrorContains(t, err, want)
		})
	}
	_, err = mailer.New(nil, nil, mailer.Config{})
	require.ErrorIs(t, err, mailer.ErrConfig)
}

func TestLocalhostNeedsNoTLS(t *testing.T) {
	for _, u := range []string{"http://localhost:8000/mail/unsubscribe", "http://127.0.0.1/u", "http://localhost/u/", "https://example.com"} {
		w := newWorld(t, func(_, _ *mailer.Spec[note], cfg *mailer.Config) {
			cfg.PublicURL, cfg.Brand.URL = u, "http://localhost:8000"
		})
		w.enqueue(t, w.tip, "a")
		w.flush(t)
		require.Len(t, w.sent, 1, u)
	}
}

func superseding(t *testing.T) mailer.AnyKind {
	spec := noteSpec(mailer.Transactional)
	spec.Supersedes = []string{"test.gone"}
	k, err := mailer.Define(spec)
	require.NoError(t, err)
	return k
}

func TestEnqueueRefusesWhatItCantSend(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	data := note{Text: "x", URL: "https://example.com"}
	_, err := w.note.Enqueue(ctx, w.Service, ada, data, "")
	require.ErrorIs(t, err, mailer.ErrNoKey)
	_, err = w.note.Enqueue(ctx, w.Service, mailer.To{Email: "a@b\r\n.example"}, data, "k")
	require.ErrorIs(t, err, mailer.ErrAddress)
	_, err = w.note.Enqueue(ctx, w.Service, mailer.To{Email: "a@b.example", Account: "a\nb"}, data, "k")
	require.ErrorIs(t, err, mailer.ErrAddress)
	_, err = w.note.Enqueue(ctx, w.Service, ada, data, "k", mailer.About("a\x00b"))
	require.ErrorIs(t, err, mailer.ErrConfig)
	stranger, err := mailer.Define(noteSpec(mailer.Transactional))
	require.NoError(t, err)
	_, err = stranger.Enqueue(ctx, w.Service, ada, data, "k")
	require.ErrorIs(t, err, mailer.ErrUnknownKind)
}

func TestKeyPartsCantBeConfused(t *testing.T) {
	require.NotEqual(t, mailer.Key("a:b", "c"), mailer.Key("a", "b:c"))
	require.NotEqual(t, mailer.Key(`a\`, "b"), mailer.Key(`a\:b`))
}

func TestDomainRateIsPaced(t *testing.T) {
	w := newWorld(t, func(_, _ *mailer.Spec[note], cfg *mailer.Config) { cfg.DomainPerMinute = 60 })
	for i := range 5 {
		w.enqueue(t, w.note, fmt.Sprint(i))
	}
	for i := range 5 {
		w.flush(t)
		require.Len(t, w.sent, i+1)
		w.clock.add(time.Second)
	}
}

func TestPaceIsAsked(t *testing.T) {
	wait := time.Minute
	w := newWorld(t, func(_, _ *mailer.Spec[note], cfg *mailer.Config) {
		cfg.Pace = func(_ context.Context, domain string) (time.Duration, error) {
			if domain != "example.org" {
				return 0, errors.New("which domain?")
			}
			return wait, nil
		}
	})
	r := w.enqueue(t, w.note, "a")
	w.flush(t)
	require.Equal(t, noon.Add(time.Minute), w.state(t, r.ID).RunAt)
	require.Zero(t, w.state(t, r.ID).Attempts)
	wait = 0
	w.clock.add(time.Minute)
	w.flush(t)
	require.Len(t, w.sent, 1)
}

func TestHintWakesTheWorker(t *testing.T) {
	w := newWorld(t, func(_, _ *mailer.Spec[note], cfg *mailer.Config) { cfg.Poll = time.Hour })
	arrived := make(chan struct{}, 1000)
	w.script = func(*mailer.Message) mailer.Result {
		arrived <- struct{}{}
		return mailer.Result{Outcome: mailer.Sent}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	// A hint can come before the worker waits; mail goes on until one has woken it.
	for i := 0; ; i++ {
		w.enqueue(t, w.note, fmt.Sprint(i))
		select {
		case <-arrived:
			cancel()
			require.NoError(t, <-ended)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestWordsForLogs(t *testing.T) {
	states, statuses := map[string]bool{}, map[string]bool{}
	for s := mailer.Pending; s <= mailer.Held; s++ {
		states[s.String()] = true
	}
	for s := mailer.Queued; s <= mailer.Irrelevant; s++ {
		statuses[s.String()] = true
	}
	require.Len(t, states, 7)
	require.Len(t, statuses, 7)
	for _, s := range []fmt.Stringer{mailer.State(99), mailer.Status(99), mailer.Class(99)} {
		require.Contains(t, []string{"unknown", "unclassified"}, s.String())
	}
	cause := errors.New("cause")
	require.ErrorIs(t, &mailer.SendError{ID: "mail_1", Result: mailer.Result{Err: cause}}, cause)
	require.ErrorIs(t, &mailer.HeaderError{Name: "X", Reason: "y"}, mailer.ErrHeader)
}
