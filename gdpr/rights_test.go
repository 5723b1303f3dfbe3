package gdpr_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
)

const day = 24 * time.Hour

// reminders makes the world's service tell those who answer requests, and
// returns what it told.
func (w *world) reminders() map[string]int {
	told := map[string]int{}
	w.config.Remind = func(_ context.Context, n gdpr.Notice) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if n.Subject.ID != "" || n.Request.Sealed != nil {
			return errors.New("a reminder names the subject")
		}
		if w.deaf > 0 {
			w.deaf--
			return errors.New("mail is down")
		}
		told[n.ID]++
		return nil
	}
	w.rebuild()
	return told
}

func TestAReminderComesOnceBeforeTheTimeLimit(t *testing.T) {
	ctx := context.Background()
	for name, ask := range map[string]func(w *world) gdpr.Request{
		"a person answers": func(w *world) gdpr.Request {
			r, err := w.service.Ask(ctx, gdpr.Objection, "ada", true)
			require.NoError(w.t, err)
			return r
		},
		"the identity is in doubt": func(w *world) gdpr.Request {
			r, err := w.service.Ask(ctx, gdpr.Access, "ada", false)
			require.NoError(w.t, err)
			return r
		},
		"a hold": func(w *world) gdpr.Request {
			r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
			require.NoError(w.t, err)
			r, err = w.service.Hold(ctx, r.ID, "a claim")
			require.NoError(w.t, err)
			return r
		},
		"a source fails": func(w *world) gdpr.Request {
			w.tables[0].failing = 1 << 20
			r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
			require.NoError(w.t, err)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			told := w.reminders()
			r := ask(w)
			id := r.ID + ":due_soon:" + r.DueAt.Format(time.DateOnly)
			early := r.DueAt.Add(-7*day - time.Hour)
			for w.now.Before(early) {
				w.advance(min(6*time.Hour, early.Sub(w.now)))
				w.work()
				require.Empty(t, told, "too early, at %s", w.now)
			}
			w.deaf = 1 // the first attempt fails
			w.advance(2 * time.Hour)
			w.work()
			require.Empty(t, told)
			for range 30 {
				w.advance(time.Hour)
				w.work()
			}
			require.Equal(t, map[string]int{id: 1}, told)
			got, err := w.service.Request(ctx, r.ID)
			require.NoError(t, err)
			require.False(t, got.RemindedAt.IsZero())
			require.Equal(t, r.State == gdpr.Cooling, got.State == gdpr.Running, "a reminder does nothing else")
		})
	}
}

func TestTheExtendedTimeLimitIsRemindedOfToo(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	told := w.reminders()
	r, err := w.service.Ask(ctx, gdpr.Objection, "ada", true)
	require.NoError(t, err)
	w.advance(29 * day)
	w.work()
	require.Len(t, told, 1)
	r, err = w.service.Extend(ctx, r.ID, "many systems")
	require.NoError(t, err)
	w.advance(r.DueAt.Add(-6 * day).Sub(w.now))
	w.work()
	w.work()
	require.Len(t, told, 2)
	_, err = w.service.Complete(ctx, r.ID, "stopped")
	require.NoError(t, err)
	w.advance(100 * day)
	w.work()
	require.Len(t, told, 2, "nothing is due of what is answered")
}

func TestRetainedDataGoesWhenItsTimeHasEnded(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	told := w.reminders()
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))
	require.Equal(t, 5, w.tables[1].kept)
	kept := func() gdpr.Retained {
		r, err := w.service.Request(ctx, r.ID)
		require.NoError(t, err)
		require.Equal(t, gdpr.Done, r.State)
		c, err := gdpr.ReadCertificate(r.Certificate, w.public)
		require.NoError(t, err)
		for _, s := range c.Sources {
			if s.Source == "invoices" {
				require.Len(t, s.Retained, 1)
				return s.Retained[0]
			}
		}
		t.Fatal("invoices are missing in the certificate")
		return gdpr.Retained{}
	}
	require.True(t, kept().RemovedAt.IsZero())
	until := kept().Until

	w.advance(until.Sub(w.now) - time.Second)
	w.work()
	require.Equal(t, 5, w.tables[1].kept, "not before")
	w.tables[1].extended = until.AddDate(1, 0, 0) // the tax office looks at the year still
	w.advance(time.Second)
	w.work()
	require.Equal(t, 5, w.tables[1].kept)
	w.advance(until.AddDate(1, 0, 0).Sub(w.now))
	w.tables[1].failing = 1
	w.work()
	require.Equal(t, 5, w.tables[1].kept, "the source failed")
	w.advance(time.Hour)
	w.work()
	require.Zero(t, w.tables[1].kept, "in pages")
	require.Equal(t, w.now, kept().RemovedAt)
	var actions []string
	for e, err := range w.store.Audit(ctx, 0) {
		require.NoError(t, err)
		actions = append(actions, e.Action+" "+e.Detail)
	}
	require.Equal(t, []string{"retention extended invoices/invoices", "retained data removed invoices/invoices"}, actions[len(actions)-2:])
	require.Empty(t, told)
	w.advance(1000 * day)
	w.work() // nothing to do any more
}

func TestRetainedDataOfAProcessorIsRemovedByHand(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.tables[1].byHand = true
	told := w.reminders()
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	w.advance(10 * 366 * day)
	w.deaf = 1
	w.work()
	require.Empty(t, told)
	w.advance(2 * time.Hour)
	w.work()
	w.advance(2 * time.Hour)
	w.work()
	require.Equal(t, map[string]int{r.ID + ":retention_due:invoices:invoices": 1}, told)
	_, err = w.service.Removed(ctx, r.ID, "invoices", "letters", "")
	require.ErrorIs(t, err, gdpr.ErrNotFound)
	done, err := w.service.Removed(ctx, r.ID, "invoices", "invoices", "redaction job 5")
	require.NoError(t, err)
	c, err := gdpr.ReadCertificate(done.Certificate, w.public)
	require.NoError(t, err)
	require.Contains(t, string(done.Certificate), "removed_at")
	require.Equal(t, r.ID, c.Request)
	_, err = w.service.Removed(ctx, r.ID, "invoices", "invoices", "twice")
	require.ErrorIs(t, err, gdpr.ErrNotFound)
}

// A crash at any write of the second phase, and a second try.
func TestACrashInTheSecondPhaseIsResumed(t *testing.T) {
	ctx := context.Background()
	for crash := 1; ; crash++ {
		w := newWorld(t, nil)
		r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
		require.NoError(t, err)
		w.advance(72 * time.Hour)
		w.work()
		w.advance(9 * 366 * day)
		healthy := w.store
		broken := &failingStore{Store: healthy, at: crash}
		w.store = broken
		w.rebuild()
		_, _ = w.service.Work(ctx)
		w.store = healthy
		w.rebuild()
		w.advance(2 * time.Hour)
		w.work()
		require.Zero(t, w.tables[1].kept, "crash %d", crash)
		got, err := w.service.Request(ctx, r.ID)
		require.NoError(t, err)
		require.Contains(t, string(got.Certificate), "removed_at")
		if broken.at > 0 {
			require.Greater(t, crash, 3)
			return
		}
	}
}

// failingStore fails from the at-th write on.
type failingStore struct {
	gdpr.Store
	at int
}

func (f *failingStore) UpdateRequest(ctx context.Context, r gdpr.Request, ts []gdpr.Tombstone, audit ...gdpr.Entry) error {
	if f.at--; f.at <= 0 {
		f.at = 0
		return errors.New("the process has died")
	}
	return f.Store.UpdateRequest(ctx, r, ts, audit...)
}

// An erasure ends what else the person asked for: the archive above all.
func TestAnErasureRemovesWaitingArchives(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	access, err := w.service.Ask(ctx, gdpr.Access, "ada", true)
	require.NoError(t, err)
	w.work()
	require.Equal(t, gdpr.Ready, w.state(access.ID))
	objection, err := w.service.Ask(ctx, gdpr.Objection, "ada", true)
	require.NoError(t, err)
	theirs, err := w.service.Ask(ctx, gdpr.Access, "bob", true)
	require.NoError(t, err)
	w.work()
	_, err = w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Done, w.state(access.ID))
	require.Equal(t, gdpr.Cancelled, w.state(objection.ID))
	for _, id := range []string{access.ID, objection.ID} {
		r, err := w.service.Request(ctx, id)
		require.NoError(t, err)
		require.Empty(t, r.Sealed)
	}
	require.Equal(t, gdpr.Ready, w.state(theirs.ID))
	files, err := os.ReadDir(string(w.config.Files.(gdpr.DirFiles)))
	require.NoError(t, err)
	require.Len(t, files, 1, "Bob's")
}

func TestReapplyTellsNobodyAgain(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	journal := gdpr.NewFileJournal(t.TempDir() + "/journal")
	w.config.Journal = journal
	w.rebuild()
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, 1, w.notices[r.ID+":erasure_done"])
	before := len(w.notices)
	w.store = gdprmem.New()
	w.rebuild()
	w.populate("ada")
	n, err := w.service.Reapply(ctx, func(_ context.Context, yield func(gdpr.Subject) error) error { return yield(w.subjects["ada"]) })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Zero(t, w.leftOf("ada"))
	require.Len(t, w.notices, before)
}

func TestARestrictionIsInForceUntilItIsLifted(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	restricted := func() bool {
		yes, err := w.service.Restricted(ctx, "ada")
		require.NoError(t, err)
		return yes
	}
	require.False(t, restricted())
	r, err := w.service.Ask(ctx, gdpr.Restriction, "ada", false)
	require.NoError(t, err)
	require.False(t, restricted(), "anybody could have asked")
	_, err = w.service.Verify(ctx, r.ID)
	require.NoError(t, err)
	require.True(t, restricted(), "while somebody decides")
	r, err = w.service.Complete(ctx, r.ID, "the data is disputed")
	require.NoError(t, err)
	require.Equal(t, gdpr.InForce, r.State)
	w.advance(200 * day)
	w.work()
	require.True(t, restricted())
	require.False(t, r.Overdue(w.now))
	_, err = w.service.Lift(ctx, r.ID, "")
	require.ErrorIs(t, err, gdpr.ErrInvalid)
	w.deaf = 1
	_, err = w.service.Lift(ctx, r.ID, "the data was right")
	require.Error(t, err, "not before the subject is told")
	require.True(t, restricted())
	r, err = w.service.Lift(ctx, r.ID, "the data was right")
	require.NoError(t, err)
	require.Empty(t, r.Sealed)
	require.Equal(t, 1, w.notices[r.ID+":restriction_lifted"])
	require.False(t, restricted())
	_, err = w.service.Lift(ctx, r.ID, "twice")
	require.ErrorIs(t, err, gdpr.ErrState)
}

func TestARectificationReachesEverySourceThatCan(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Rectification, "ada", true)
	require.NoError(t, err)
	r, err = w.service.AddWords(ctx, r.ID, "My name is Ada Lovelace.")
	require.NoError(t, err)
	words, who, err := w.service.Words(ctx, r.ID)
	require.NoError(t, err)
	require.Equal(t, "My name is Ada Lovelace.", words)
	require.Equal(t, "ada", who.ID)
	_, err = w.service.Rectify(ctx, r.ID, nil)
	require.ErrorIs(t, err, gdpr.ErrInvalid)
	_, err = w.service.Rectify(ctx, r.ID, map[string]string{"shoe": "40"})
	require.ErrorIs(t, err, gdpr.ErrNotFound)
	done, err := w.service.Rectify(ctx, r.ID, map[string]string{"who": "Ada Lovelace"})
	require.NoError(t, err)
	require.Equal(t, gdpr.Done, done.State)
	require.Len(t, done.Steps, 4)
	require.Equal(t, 20, w.count("Ada Lovelace"))
	require.Zero(t, w.leftOf("ada"))
	require.Equal(t, 20, w.leftOf("bob"))
	for e, err := range w.store.Audit(ctx, 0) {
		require.NoError(t, err)
		require.NotContains(t, e.Detail, "Lovelace")
	}
	_, _, err = w.service.Words(ctx, r.ID)
	require.ErrorIs(t, err, gdpr.ErrState, "they go with the request")
}

func TestAnObjectionEndsWhatIsAllowedByInterest(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.config.Purposes = []gdpr.Purpose{{ID: "hints", Version: 2, Text: "We send you hints.", Basis: gdpr.LegitimateInterest}}
	w.rebuild()
	allowed := func() bool {
		yes, err := w.service.Allowed(ctx, "ada", "hints")
		require.NoError(t, err)
		return yes
	}
	require.True(t, allowed(), "until the subject objects")
	_, err := w.service.Consent(ctx, "ada", "hints", false, "link in a mail", "de")
	require.NoError(t, err)
	require.False(t, allowed())
	w.config.Purposes[0].Version = 3
	w.rebuild()
	w.advance(time.Hour)
	require.False(t, allowed(), "another wording doesn't undo an objection")
	w.config.Purposes[0].Basis = gdpr.Contract
	_, err = gdpr.New(w.store, w.config)
	require.ErrorIs(t, err, gdpr.ErrInvalid)
}

func TestALinkConfirmsWhoAsked(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Access, "ada", false)
	require.NoError(t, err)
	query, err := w.service.ConfirmQuery(r, time.Hour)
	require.NoError(t, err)
	mux := w.service.SelfService(gdpr.SelfServiceConfig{Subject: func(*http.Request) (string, error) { return "", nil }})
	call := func(method, query string) int {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(method, "/confirm?"+query, nil))
		return rec.Code
	}
	require.Equal(t, http.StatusGone, call("POST", strings.Replace(query, "signature=", "signature=0", 1)))
	require.Equal(t, http.StatusMethodNotAllowed, call("GET", query), "a mail scanner confirms nothing")
	require.Equal(t, gdpr.Received, w.state(r.ID))
	w.advance(time.Hour)
	require.Equal(t, http.StatusGone, call("POST", query))
	query, err = w.service.ConfirmQuery(r, time.Hour)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, call("POST", query))
	require.Equal(t, gdpr.Verified, w.state(r.ID))
	require.Equal(t, http.StatusConflict, call("POST", query), "once")
	values, err := url.ParseQuery(query)
	require.NoError(t, err)
	_, err = w.service.CheckLink(ctx, values)
	require.ErrorIs(t, err, gdpr.ErrToken, "it isn't a download link")
}

func TestABreachReportSaysWhomItConcerns(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.populate("late")
	for _, tab := range w.tables { // Late's records are all from after the breach
		tab.rows["late"] = nil
		tab.add("late", map[string]any{"who": "canary-late", "at": start.Add(time.Hour)})
	}
	w.subjects["new"] = gdpr.Subject{ID: "new", Epoch: start}
	w.tables[0].add("new", map[string]any{"who": "nobody knows when"})
	everybody := func(_ context.Context, yield func(gdpr.Subject) error) error {
		for _, id := range []string{"ada", "bob", "late", "new"} {
			if err := yield(w.subjects[id]); err != nil {
				return err
			}
		}
		return nil
	}
	breach := gdpr.Breach{From: start.Add(-time.Hour), To: start.Add(time.Second), NoticedAt: start, Sources: []string{"keys", "texts"}, Nature: "a copy was taken", HighRisk: true}
	var concerned []string
	breach.To = start.Add(time.Minute)
	report, err := w.service.BreachReport(ctx, breach, everybody, func(a gdpr.Affected) error {
		concerned = append(concerned, a.Subject.ID)
		require.Equal(t, []string{"test"}, a.Categories)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"ada", "bob", "new"}, concerned, "Late's records came later; New came during it")
	require.Equal(t, int64(3), report.Subjects)
	require.Equal(t, int64(21), report.Records)
	require.Equal(t, []gdpr.BreachPart{{"keys", 3, 11}, {"texts", 2, 10}}, report.BySource)
	require.Equal(t, []gdpr.BreachPart{{"test", 3, 21}}, report.ByCategory)
	require.Equal(t, start.Add(72*time.Hour), report.NotifyBy)
	require.Equal(t, []string{"Contact", "Consequences", "Measures"}, report.Missing)
	var md bytes.Buffer
	require.NoError(t, report.WriteMarkdown(&md))
	require.Contains(t, md.String(), "Persons concerned: 3")
	require.Contains(t, md.String(), "| keys | 3 | 11 |")
	require.NotContains(t, md.String(), "ada")
	js, err := json.Marshal(report)
	require.NoError(t, err)
	require.NotContains(t, string(js), "ada")
	var last gdpr.Entry
	for e, err := range w.store.Audit(ctx, 0) {
		require.NoError(t, err)
		last = e
	}
	require.Equal(t, "breach report", last.Action)

	w.advance(80 * time.Hour)
	report, err = w.service.BreachReport(ctx, breach, everybody, nil)
	require.NoError(t, err)
	require.Contains(t, report.Missing, "DelayReason")
	for name, spoil := range map[string]func(*gdpr.Breach){
		"NoticedAt":           func(b *gdpr.Breach) { b.NoticedAt = time.Time{} },
		"From before To":      func(b *gdpr.Breach) { b.To = b.From },
		"there is no source":  func(b *gdpr.Breach) { b.Sources = []string{"cellar"} },
		"no source holds any": func(b *gdpr.Breach) { b.Sources, b.Categories = nil, []string{"health"} },
	} {
		b := breach
		spoil(&b)
		_, err := w.service.BreachReport(ctx, b, everybody, nil)
		require.ErrorIs(t, err, gdpr.ErrInvalid, name)
		require.ErrorContains(t, err, name)
	}
}

func TestPurgeSweepsEverySourceThatCan(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.tables[0].old, w.tables[2].old = 3, 4
	w.tables[1].failing = 1
	n, err := w.service.Purge(ctx)
	require.ErrorContains(t, err, "invoices", "the one that fails")
	require.Equal(t, int64(7), n, "the others go on")
	n, err = w.service.Purge(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
}
