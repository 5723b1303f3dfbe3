package gdpr_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
)

// feed is a source that emits lines and files, as tables and buckets do.
type feed struct {
	rows, files int
	broken      bool
}

func (*feed) Describe() gdpr.Descriptor {
	return gdpr.Descriptor{Name: "stream", Categories: []string{"log"}, Purpose: "to see", Basis: gdpr.LegitimateInterest, Retention: "a week", Portable: true, After: []string{"profile"}}
}

func (s *feed) Export(_ context.Context, subject gdpr.Subject, sink *gdpr.Sink) error {
	if subject.ID != "ada" || s.rows+s.files == 0 {
		return nil
	}
	w, err := sink.Lines("visits")
	if err != nil {
		return err
	}
	for i := range s.rows {
		line := fmt.Sprintf("{\"at\":%q,\"n\":%d}\n", start.AddDate(0, 0, i).Format(time.RFC3339), i)
		for _, half := range []string{line[:5], line[5:]} { // lines come in pieces
			if _, err := io.WriteString(w, half); err != nil {
				return err
			}
		}
	}
	for i := range s.files {
		if err := sink.File(fmt.Sprintf("../picture of %s %d.PNG", sink.Other("bob"), i), strings.NewReader("picture")); err != nil {
			return err
		}
	}
	if s.broken {
		_, err = io.WriteString(w, "no JSON\n")
	}
	return err
}

func (s *feed) Erase(context.Context, gdpr.Subject, string) (gdpr.Outcome, error) {
	n := s.rows + s.files
	s.rows, s.files = 0, 0
	return gdpr.Outcome{Removed: int64(n), Done: true}, nil
}

func TestLinesAndFilesAreExportedCountedAndErased(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	src := &feed{rows: 4, files: 2}
	w.config.Sources = append(w.config.Sources, src)
	w.rebuild()
	var b bytes.Buffer
	rows, err := w.service.ExportTo(ctx, &b, gdpr.Portability, w.subjects["ada"])
	require.NoError(t, err)
	require.Equal(t, int64(4), rows["stream"])
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	require.NoError(t, err)
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	require.Contains(t, names, "files/stream/000002.png", "the path is ours")
	require.Contains(t, names, "data/stream/visits.jsonl")

	everybody := func(_ context.Context, yield func(gdpr.Subject) error) error { return yield(w.subjects["ada"]) }
	breach := gdpr.Breach{From: start, To: start.AddDate(0, 0, 2), NoticedAt: start, Categories: []string{"log"}}
	report, err := w.service.BreachReport(ctx, breach, everybody, nil)
	require.NoError(t, err)
	require.Equal(t, int64(2+2), report.Records, "two of the lines, and the files")
	src.broken = true
	_, err = w.service.BreachReport(ctx, breach, everybody, nil)
	require.Error(t, err)
	src.broken = false

	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	require.Equal(t, gdpr.Done, w.state(r.ID))
	require.Zero(t, src.rows+src.files)
}

func TestNumbersThatNoReaderCanHoldAreTexts(t *testing.T) {
	w := newWorld(t, nil)
	w.tables[0].add("ada", map[string]any{
		"big": int64(math.MaxInt64), "unsigned": uint64(math.MaxUint64), "small": 7, "nested": map[string]any{"list": []any{int64(-math.MaxInt64), "x"}}, "formula": "=1+1", "nothing": nil,
	})
	var b bytes.Buffer
	_, err := w.service.ExportTo(context.Background(), &b, gdpr.Access, w.subjects["ada"])
	require.NoError(t, err)
	all := unzip(t, b.Bytes())
	require.Contains(t, all["data/keys/rows.jsonl"], `"big":"9223372036854775807"`)
	require.Contains(t, all["data/keys/rows.jsonl"], `"unsigned":"18446744073709551615"`)
	require.Contains(t, all["data/keys/rows.jsonl"], `{"list":["-9223372036854775807","x"]}`)
}

// A database that was restored to a time at which the erasure was open.
func TestAnErasureThatWasOpenAtTheBackupGoesOn(t *testing.T) {
	ctx := context.Background()
	for _, held := range []bool{false, true} {
		w := newWorld(t, nil)
		w.config.Journal = gdpr.NewFileJournal(t.TempDir() + "/journal")
		w.rebuild()
		old := gdprmem.New()
		w.store = old
		w.rebuild()
		open, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
		require.NoError(t, err)
		if held {
			_, err = w.service.Hold(ctx, open.ID, "a claim")
			require.NoError(t, err)
		}
		// Meanwhile, in the database that is lost, it went to its end.
		w.store = gdprmem.New()
		w.rebuild()
		_, err = w.service.Ask(ctx, gdpr.Erasure, "ada", true)
		require.NoError(t, err)
		w.advance(72 * time.Hour)
		w.work()
		require.Zero(t, w.leftOf("ada"))

		w.populate("ada")
		w.store = old
		w.rebuild()
		require.ErrorIs(t, w.service.CheckJournal(ctx), gdpr.ErrBehind)
		n, err := w.service.Reapply(ctx, func(_ context.Context, yield func(gdpr.Subject) error) error { return yield(w.subjects["ada"]) })
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Zero(t, w.leftOf("ada"))
		require.Equal(t, gdpr.Done, w.state(open.ID))
		require.NoError(t, w.service.CheckJournal(ctx))
	}
}

func TestAReapplyThatCannotEndSaysSo(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.config.Journal = gdpr.NewFileJournal(t.TempDir() + "/journal")
	w.rebuild()
	_, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	w.store = gdprmem.New()
	w.rebuild()
	w.populate("ada")
	w.tables[2].failing = 1
	again := func() error {
		_, err := w.service.Reapply(ctx, func(_ context.Context, yield func(gdpr.Subject) error) error { return yield(w.subjects["ada"]) })
		return err
	}
	require.ErrorContains(t, again(), "a source failed")
	require.NotZero(t, w.leftOf("ada"))
	w.advance(time.Hour)
	w.work() // the worker goes on with it
	require.Zero(t, w.leftOf("ada"))
	require.NoError(t, again())
	require.NoError(t, w.service.CheckJournal(ctx))
}

// forgetting has ExpireErased, as package billing has.
type forgetting struct {
	exporter
	before time.Time
}

func (f *forgetting) ExpireErased(_ context.Context, before time.Time) (map[string]int64, error) {
	f.before = before
	return map[string]int64{"invoices": f.left["invoices"]}, nil
}

func TestAdaptRemovesWhatWasRetained(t *testing.T) {
	ctx := context.Background()
	now, open := start, time.Time{}
	eight := func(t time.Time) time.Time {
		if until := t.AddDate(8, 0, 0); until.After(open) {
			return until
		}
		return open
	}
	data := &forgetting{exporter: exporter{map[string]int64{"invoices": 3, "letters": 1, "logs": 1}}}
	d := (&table{name: "billing"}).Describe()
	source := gdpr.Adapt(d, data, map[string]gdpr.Retain{
		"invoices": {Ground: "tax law", Article: "17(3)(b)", Until: eight}, "letters": {Ground: "tax law", Article: "17(3)(b)", Until: eight, ByHand: true},
		"logs": {Ground: "disputes", Article: "17(3)(e)", Until: eight, Itself: true},
	}, func() time.Time { return now })
	require.Equal(t, d, source.Describe())
	var b bytes.Buffer
	require.NoError(t, gdpr.ExportSource(ctx, &b, source, gdpr.Subject{ID: "ada"}))
	out, err := source.Erase(ctx, gdpr.Subject{ID: "ada"}, "")
	require.NoError(t, err)
	require.Len(t, out.Retained, 3)
	expirer := source.(gdpr.Expirer)
	now = out.Retained[0].Until
	open = now.AddDate(2, 0, 0)
	later, err := expirer.Expire(ctx, out.Retained[0], "")
	require.NoError(t, err)
	require.Equal(t, open, later.Retained[0].Until)
	require.Zero(t, data.before)
	now = open
	gone, err := expirer.Expire(ctx, out.Retained[0], "")
	require.NoError(t, err)
	require.Equal(t, gdpr.Outcome{Done: true, Removed: 3}, gone)
	require.Equal(t, start.AddDate(0, 0, 1), data.before, "what the end of the contract led to is in it")
	_, err = expirer.Expire(ctx, out.Retained[1], "")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	gone, err = expirer.Expire(ctx, out.Retained[2], "")
	require.NoError(t, err)
	require.Equal(t, gdpr.Outcome{Done: true}, gone)
}

func TestHandlersForTheRightsThatAPersonAnswers(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	w.tables[1].byHand = true
	w.rebuild()
	mux := http.NewServeMux()
	who := "ada"
	mux.Handle("/privacy/", http.StripPrefix("/privacy", w.service.SelfService(gdpr.SelfServiceConfig{
		Subject: func(*http.Request) (string, error) {
			if who == "nobody knows" {
				return "", errors.New("the sessions' database is away")
			}
			return who, nil
		},
	})))
	mux.Handle("/admin/", http.StripPrefix("/admin", w.service.Admin(gdpr.AdminConfig{Allow: func(*http.Request) bool { return true }})))
	call := func(want int, method, path, body string) map[string]any {
		t.Helper()
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
		require.Equal(t, want, rec.Code, "%s %s: %s", method, path, rec.Body)
		var v map[string]any
		_ = json.Unmarshal(rec.Body.Bytes(), &v)
		return v
	}
	call(422, "POST", "/privacy/requests", `{"kind":"erasure"}`)
	call(422, "POST", "/privacy/requests", `{"kind":"wish"}`)
	call(422, "POST", "/privacy/requests", `{"kind":"objection","words":"`+strings.Repeat("x", 5000)+`"}`)
	call(422, "POST", "/privacy/export", `{"kind":"erasure"}`)
	call(400, "POST", "/privacy/requests", `[]`)
	id := call(202, "POST", "/privacy/requests", `{"kind":"rectification","words":"I am Ada Lovelace"}`)["id"].(string)
	require.NotContains(t, fmt.Sprint(call(200, "GET", "/privacy/requests", "")), "Lovelace", "sealed")
	words := call(200, "GET", "/admin/requests/"+id+"/words", "")
	require.Equal(t, "I am Ada Lovelace", words["words"])
	require.NotContains(t, call(200, "GET", "/admin/requests/"+id, ""), "words")
	call(404, "GET", "/admin/requests/none/words", "")
	call(422, "POST", "/admin/requests/"+id+"/rectify", "{}")
	require.Equal(t, "done", call(200, "POST", "/admin/requests/"+id+"/rectify", `{"changes":{"who":"Ada Lovelace"}}`)["state"])
	call(409, "GET", "/admin/requests/"+id+"/words", "")

	id = call(202, "POST", "/privacy/requests", `{"kind":"restriction"}`)["id"].(string)
	require.Equal(t, "in_force", call(200, "POST", "/admin/requests/"+id+"/complete", `{"reason":"disputed"}`)["state"])
	require.Equal(t, "done", call(200, "POST", "/admin/requests/"+id+"/lift", `{"reason":"it was right"}`)["state"])
	id = call(202, "POST", "/privacy/requests", `{"kind":"objection"}`)["id"].(string)
	call(200, "POST", "/admin/requests/"+id+"/extend", `{"reason":"many systems"}`)
	call(200, "POST", "/admin/requests/"+id+"/cancel", "{}")

	id = call(202, "POST", "/privacy/erasure", "")["id"].(string)
	call(409, "POST", "/privacy/erasure", "")
	call(200, "POST", "/admin/requests/"+id+"/hold", `{"reason":"a claim"}`)
	call(409, "POST", "/admin/requests/"+id+"/hold", `{"reason":"a claim"}`)
	call(200, "POST", "/admin/requests/"+id+"/release", "{}")
	call(409, "POST", "/admin/requests/"+id+"/removed", `{"source":"invoices","record":"invoices"}`)
	w.advance(72 * time.Hour)
	w.work()
	require.NotNil(t, call(200, "GET", "/admin/requests/"+id+"/certificate", "")["certificate"])
	call(404, "POST", "/admin/requests/"+id+"/removed", `{"source":"invoices","record":"letters"}`)
	call(200, "POST", "/admin/requests/"+id+"/removed", `{"source":"invoices","record":"invoices","reason":"redaction job 5"}`)
	due := call(200, "GET", "/admin/requests?open=1&due_days=40", "")
	require.Empty(t, due["requests"])
	who = "nobody knows"
	call(503, "GET", "/privacy/requests", "")
	who = "ada"
	_, err := w.service.Requests(ctx, gdpr.Filter{})
	require.NoError(t, err)

	// A store that is away is 503 everywhere, and never a panic or an empty list.
	w.store = away{}
	w.rebuild()
	for _, path := range []string{"/requests", "/consents", "/requests/x/link"} {
		rec := httptest.NewRecorder()
		w.service.SelfService(gdpr.SelfServiceConfig{Subject: func(*http.Request) (string, error) { return "ada", nil }}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, 503, rec.Code, path)
	}
	for _, path := range []string{"/requests", "/requests/x", "/requests/x/certificate", "/requests/x/words"} {
		rec := httptest.NewRecorder()
		w.service.Admin(gdpr.AdminConfig{Allow: func(*http.Request) bool { return true }}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, 503, rec.Code, path)
	}
	_, err = w.service.Restricted(ctx, "ada")
	require.ErrorIs(t, err, errAway)
	yes, err := w.service.Allowed(ctx, "ada", "newsletter")
	require.ErrorIs(t, err, errAway)
	require.False(t, yes)
	_, err = w.service.Work(ctx)
	require.ErrorIs(t, err, errAway)
	_, err = w.service.Purge(ctx)
	require.ErrorIs(t, err, errAway)
	_, err = w.service.VerifyAudit(ctx)
	require.ErrorIs(t, err, errAway)
	_, err = w.service.Seal(ctx, "ada", []byte("x"), "y")
	require.ErrorIs(t, err, errAway)
	_, err = w.service.Open(ctx, "ada", []byte("x"), "y")
	require.ErrorIs(t, err, errAway)
	require.ErrorIs(t, w.service.Guard(ctx, gdpr.Identifier{Kind: "id", Value: "ada"}, time.Time{}, start), errAway)
	_, err = w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.ErrorIs(t, err, errAway)
	_, err = w.service.Consent(ctx, "ada", "newsletter", true, "form", "de")
	require.ErrorIs(t, err, errAway)
	_, err = w.service.Cancel(ctx, "x")
	require.ErrorIs(t, err, errAway)
}
