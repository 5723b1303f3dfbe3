package gdpr_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
	"github.com/kolekt/commerce/gdpr/gdprtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDueIsOneMonthAndEndsOnAWorkingDay(t *testing.T) {
	newYear := func(d time.Time) bool { return d.Month() == time.January && d.Day() == 1 }
	for _, tt := range []struct{ received, due string }{
		{"2026-01-31", "2026-03-03"}, // 28 Feb is a Saturday → Monday 2 March
		{"2026-03-02", "2026-04-03"},
		{"2026-12-01", "2027-01-05"}, // 1 Jan is a holiday and a Friday → Monday 4 January
	} {
		received, err := time.Parse(time.DateOnly, tt.received)
		require.NoError(t, err)
		got := gdpr.Calendar{Holidays: newYear}.Due(received.Add(23*time.Hour), 1)
		require.Equal(t, tt.due, got.Format(time.DateOnly), "the first instant after the limit, received %s", tt.received)
	}
	rapid.Check(t, func(t *rapid.T) {
		received := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "received"), 0)
		due := gdpr.Calendar{}.Due(received, 1)
		require.GreaterOrEqual(t, due.Sub(received), 28*24*time.Hour)
		require.LessOrEqual(t, due.Sub(received), 35*24*time.Hour)
		last := due.Add(-1).Weekday()
		require.NotEqual(t, time.Saturday, last)
		require.NotEqual(t, time.Sunday, last)
	})
}

func TestRetentionCountsFromTheEndOfTheYearAndWaitsForAnOpenAssessment(t *testing.T) {
	de, _, ok := gdpr.InvoiceRetention("DE")
	require.True(t, ok)
	require.Equal(t, "2035-01-01", de.Until(start).Format(time.DateOnly))
	open := start.AddDate(20, 0, 0)
	de.ExtendUntil = func(time.Time) time.Time { return open }
	require.Equal(t, open, de.Until(start))
	_, _, ok = gdpr.InvoiceRetention("XX")
	require.False(t, ok)
}

func TestAnExtensionIsToldOnceAndInTime(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Objection, "ada", true)
	require.NoError(t, err)
	_, err = w.service.Extend(ctx, r.ID, "")
	require.ErrorIs(t, err, gdpr.ErrInvalid)
	x, err := w.service.Extend(ctx, r.ID, "three systems to search")
	require.NoError(t, err)
	require.Equal(t, gdpr.Calendar{}.Due(start, 3), x.DueAt)
	require.Equal(t, 1, w.notices[r.ID+":extended"])
	_, err = w.service.Extend(ctx, r.ID, "again")
	require.ErrorIs(t, err, gdpr.ErrState)

	late, err := w.service.Ask(ctx, gdpr.Restriction, "ada", true)
	require.NoError(t, err)
	require.False(t, late.Overdue(w.now))
	w.advance(40 * 24 * time.Hour)
	require.True(t, late.Overdue(w.now))
	_, err = w.service.Extend(ctx, late.ID, "too late")
	require.ErrorIs(t, err, gdpr.ErrState)
	due, err := w.service.Requests(ctx, gdpr.Filter{DueBefore: w.now})
	require.NoError(t, err)
	require.Len(t, due, 1)
}

func TestADenialNeedsAReasonAndThaws(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	r, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	_, err = w.service.Deny(ctx, r.ID, "")
	require.ErrorIs(t, err, gdpr.ErrInvalid)
	denied, err := w.service.Deny(ctx, r.ID, "a claim is pending")
	require.NoError(t, err)
	require.Nil(t, denied.Sealed)
	require.False(t, w.frozen["ada"])
	require.Equal(t, 1, w.notices[r.ID+":denied"])
	w.advance(100 * time.Hour)
	w.work()
	require.Equal(t, 20, w.leftOf("ada"))
}

func TestRequestsThatAPersonAnswers(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	for _, kind := range []gdpr.Kind{gdpr.Rectification, gdpr.Restriction, gdpr.Objection} {
		r, err := w.service.Ask(ctx, kind, "ada", true)
		require.NoError(t, err)
		w.work()
		require.Equal(t, gdpr.Verified, w.state(r.ID))
		_, err = w.service.Complete(ctx, r.ID, "done by hand")
		require.NoError(t, err)
		_, err = w.service.Complete(ctx, r.ID, "twice")
		require.ErrorIs(t, err, gdpr.ErrState)
	}
	mine, err := w.service.RequestsOf(ctx, "ada")
	require.NoError(t, err)
	require.Len(t, mine, 3)
	theirs, err := w.service.RequestsOf(ctx, "bob")
	require.NoError(t, err)
	require.Empty(t, theirs)
}

func TestConsentIsProvedByVersionAndWithdrawnLikeGiven(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	allowed := func(purpose string) bool {
		ok, err := w.service.Allowed(ctx, "ada", purpose)
		require.NoError(t, err)
		return ok
	}
	require.False(t, allowed("newsletter"), "no consent is the default")
	e, err := w.service.Consent(ctx, "ada", "newsletter", true, "form", "de")
	require.NoError(t, err)
	require.Equal(t, 2, e.Version)
	require.Len(t, e.TextHash, 64)
	require.True(t, allowed("newsletter"))
	given := w.now
	w.advance(time.Hour)
	_, err = w.service.Consent(ctx, "ada", "newsletter", false, "form", "de")
	require.NoError(t, err)
	require.False(t, allowed("newsletter"))
	w.advance(time.Hour)
	then, err := w.service.AllowedAt(ctx, "ada", "newsletter", given.Add(time.Minute))
	require.NoError(t, err)
	require.True(t, then)

	// A new wording asks again, unless it covers the old one.
	_, err = w.service.Consent(ctx, "ada", "newsletter", true, "form", "de")
	require.NoError(t, err)
	_, err = w.service.Consent(ctx, "ada", "research", true, "form", "de")
	require.NoError(t, err)
	w.config.Purposes = []gdpr.Purpose{{ID: "newsletter", Version: 3, Text: "New."}, {ID: "research", Version: 4, Text: "New.", Covers: 2}}
	w.rebuild()
	w.advance(time.Hour)
	require.False(t, allowed("newsletter"))
	require.True(t, allowed("research"))

	ok, err := w.service.Allowed(ctx, "ada", "tracking")
	require.ErrorIs(t, err, gdpr.ErrNotFound)
	require.False(t, ok)
}

func TestShreddedDataCannotBeReadByAnybody(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	sealed, err := w.service.Seal(ctx, "ada", []byte("Ada lives at 12 Elm Street"), "log line")
	require.NoError(t, err)
	require.NotContains(t, string(sealed), "Elm")
	plain, err := w.service.Open(ctx, "ada", sealed, "log line")
	require.NoError(t, err)
	require.Equal(t, "Ada lives at 12 Elm Street", string(plain))
	_, err = w.service.Open(ctx, "ada", sealed, "another field")
	require.Error(t, err)
	_, err = w.service.Open(ctx, "bob", sealed, "log line")
	require.ErrorIs(t, err, gdpr.ErrNotFound)

	_, err = w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	_, err = w.service.Open(ctx, "ada", sealed, "log line")
	require.ErrorIs(t, err, gdpr.ErrShredded)
	_, err = w.service.Seal(ctx, "ada", []byte("more"), "log line")
	require.ErrorIs(t, err, gdpr.ErrShredded)
}

func TestTheRegisterIsMadeOfTheSources(t *testing.T) {
	w := newWorld(t, nil)
	var md, js bytes.Buffer
	require.NoError(t, w.service.WriteRegister(&md))
	require.NoError(t, w.service.WriteRegisterJSON(&js))
	for _, d := range w.service.Descriptors() {
		require.Contains(t, md.String(), "| "+d.Name+" | "+d.Purpose)
	}
	var list []map[string]any
	require.NoError(t, json.Unmarshal(js.Bytes(), &list))
	require.Len(t, list, 5)
}

// altered is a store whose audit log was changed behind its back.
type altered struct {
	gdpr.Store
	seq int64
	do  func(*gdpr.Entry) bool // false drops the row
}

func (a altered) Audit(ctx context.Context, from int64) iter.Seq2[gdpr.Entry, error] {
	return func(yield func(gdpr.Entry, error) bool) {
		for e, err := range a.Store.Audit(ctx, from) {
			if err == nil && e.Seq == a.seq && !a.do(&e) {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func TestATamperedAuditLogNamesTheFirstAlteredRow(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	_, err := w.service.Ask(ctx, gdpr.Erasure, "ada", true)
	require.NoError(t, err)
	w.advance(72 * time.Hour)
	w.work()
	last, err := w.service.VerifyAudit(ctx)
	require.NoError(t, err)
	require.Len(t, last, 64)
	for e, err := range w.store.Audit(ctx, 0) {
		require.NoError(t, err)
		require.NotContains(t, e.Detail+e.SubjectRef+e.Action, "ada")
	}
	healthy := w.store
	for name, do := range map[string]func(*gdpr.Entry) bool{
		"action":  func(e *gdpr.Entry) bool { e.Action = "nothing"; return true },
		"time":    func(e *gdpr.Entry) bool { e.At = e.At.Add(time.Second); return true },
		"subject": func(e *gdpr.Entry) bool { e.SubjectRef = "somebody"; return true },
		"dropped": func(*gdpr.Entry) bool { return false },
	} {
		w.store = altered{healthy, 4, do}
		w.rebuild()
		_, err = w.service.VerifyAudit(ctx)
		require.ErrorIs(t, err, gdpr.ErrTampered, name)
		require.ErrorContains(t, err, "row 4", name)
	}
}

func TestNewNamesTheFieldThatIsWrong(t *testing.T) {
	w := newWorld(t, nil)
	good := w.config
	for name, spoil := range map[string]func(*gdpr.Config){
		"Pepper":     func(c *gdpr.Config) { c.Pepper = c.Pepper[:31] },
		"Sources":    func(c *gdpr.Config) { c.Sources = nil },
		"Subject":    func(c *gdpr.Config) { c.Subject = nil },
		"SigningKey": func(c *gdpr.Config) { c.SigningKey = c.SigningKey[:5] },
		"purpose":    func(c *gdpr.Config) { c.Purposes = []gdpr.Purpose{{ID: "x"}} },
		"wait for each": func(c *gdpr.Config) {
			c.Sources = []gdpr.Source{&table{name: "a", after: []string{"b"}}, &table{name: "b", after: []string{"a"}}}
		},
		"isn't registered": func(c *gdpr.Config) { c.Sources = []gdpr.Source{&table{name: "a", after: []string{"b"}}} },
		"two sources":      func(c *gdpr.Config) { c.Sources = []gdpr.Source{&table{name: "a"}, &table{name: "a"}} },
	} {
		c := good
		spoil(&c)
		_, err := gdpr.New(gdprmem.New(), c)
		require.ErrorIs(t, err, gdpr.ErrInvalid, name)
		require.ErrorContains(t, err, name)
	}
	_, err := gdpr.New(nil, good)
	require.ErrorIs(t, err, gdpr.ErrInvalid)
}

func TestRunEndsWithItsContext(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.service.Run(ctx) }()
	r, err := w.service.Ask(ctx, gdpr.Access, "ada", true)
	require.NoError(t, err)
	_ = r
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

// exporter has the shape in which the module's other packages offer their
// data.
type exporter struct{ left map[string]int64 }

func (e exporter) ExportSubject(_ context.Context, account string, emit func(string, map[string]any) error) error {
	for kind, n := range e.left {
		for range n {
			if err := emit(kind, map[string]any{"account": account}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e exporter) EraseSubject(context.Context, string) (map[string]int64, error) {
	counts := map[string]int64{}
	for kind, n := range e.left {
		counts[kind] = n
		if kind != "invoices" {
			e.left[kind] = 0
		}
	}
	return counts, nil
}

func TestAdaptReportsWhatIsRetained(t *testing.T) {
	source := gdpr.Adapt((&table{name: "billing"}).Describe(), exporter{map[string]int64{"invoices": 3, "customers": 1}}, map[string]gdpr.Retain{
		"invoices": {Ground: "tax law", Article: "Art. 17(3)(b)", Until: func(now time.Time) time.Time { return now.AddDate(8, 0, 0) }},
	}, func() time.Time { return start })
	out, err := source.Erase(context.Background(), gdpr.Subject{ID: "ada"}, "")
	require.NoError(t, err)
	require.Equal(t, gdpr.Outcome{Removed: 1, Done: true, Retained: []gdpr.Retained{{Record: "invoices", Count: 3, Ground: "tax law", Article: "Art. 17(3)(b)", Until: start.AddDate(8, 0, 1), At: start}}}, out)
}

// The suite must fail a source that leaks and one that erases half.
func TestTheSourceSuiteFailsBrokenSources(t *testing.T) {
	ctx := context.Background()
	harness := func(tab *table) gdprtest.Harness {
		return gdprtest.Harness{
			Source: tab,
			Plant: func(_ context.Context, s gdpr.Subject, canary string) error {
				for range 3 {
					tab.add(s.ID, map[string]any{"who": canary})
				}
				return nil
			},
			Dump: func(context.Context) ([]byte, error) { return []byte(tab.dump()), nil },
		}
	}
	require.NoError(t, gdprtest.CheckSource(ctx, harness(&table{name: "good"})))
	require.ErrorContains(t, gdprtest.CheckSource(ctx, harness(&table{name: "half", half: true})), "left")
	leaky := harness(&table{name: "leaky"})
	leaky.Source = leak{leaky.Source.(*table)}
	require.ErrorContains(t, gdprtest.CheckSource(ctx, leaky), "another subject's data")
	silent := harness(&table{name: "silent"})
	silent.Plant = func(context.Context, gdpr.Subject, string) error { return nil }
	require.ErrorContains(t, gdprtest.CheckSource(ctx, silent), "misses")
}

// leak exports everybody to anybody.
type leak struct{ *table }

func (l leak) Export(ctx context.Context, _ gdpr.Subject, sink *gdpr.Sink) error {
	for _, subject := range []string{"ada", "bob"} {
		for id := range l.rows {
			if strings.HasPrefix(id, subject) {
				if err := l.table.Export(ctx, gdpr.Subject{ID: id}, sink); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func TestSelfServiceAndAdminHandlers(t *testing.T) {
	w := newWorld(t, nil)
	who, recent, admin := "ada", true, false
	mux := http.NewServeMux()
	mux.Handle("/privacy/", http.StripPrefix("/privacy", w.service.SelfService(gdpr.SelfServiceConfig{
		Subject: func(*http.Request) (string, error) { return who, nil },
		Recent:  func(*http.Request) bool { return recent },
	})))
	mux.Handle("/admin/", http.StripPrefix("/admin", w.service.Admin(gdpr.AdminConfig{Allow: func(*http.Request) bool { return admin }})))
	call := func(method, path, body string) (int, map[string]any, *httptest.ResponseRecorder) {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
		var v map[string]any
		_ = json.Unmarshal(rec.Body.Bytes(), &v)
		return rec.Code, v, rec
	}

	status, body, _ := call("POST", "/privacy/export", `{"kind":"access"}`)
	require.Equal(t, 202, status)
	id := body["id"].(string)
	require.NotContains(t, body, "Sealed")
	status, body, _ = call("POST", "/privacy/export", `{"kind":"access"}`)
	require.Equal(t, 409, status)
	require.Equal(t, "request_open", body["code"])
	status, _, _ = call("GET", "/privacy/requests/"+id+"/link", "")
	require.Equal(t, 409, status, "not ready yet")
	w.work()
	status, body, _ = call("GET", "/privacy/requests/"+id+"/link", "")
	require.Equal(t, 200, status)
	path := "/privacy" + strings.TrimPrefix(body["url"].(string), "../..")
	path = strings.Replace(path, "/privacydownload", "/privacy/download", 1)
	path = strings.ReplaceAll(path, "//", "/")
	who = "" // the link alone opens it
	status, _, rec := call("GET", path, "")
	require.Equal(t, 200, status)
	require.Contains(t, rec.Header().Get("Content-Disposition"), "attachment")
	b, err := io.ReadAll(rec.Body)
	require.NoError(t, err)
	require.Contains(t, unzip(t, b), "index.html")
	status, _, _ = call("GET", path+"0", "")
	require.Equal(t, 410, status)
	status, _, _ = call("GET", "/privacy/requests", "")
	require.Equal(t, 401, status)

	who = "bob"
	status, _, _ = call("GET", "/privacy/requests/"+id+"/link", "")
	require.Equal(t, 404, status, "another person's request doesn't exist")
	who, recent = "ada", false
	status, body, _ = call("POST", "/privacy/erasure", "")
	require.Equal(t, 403, status)
	require.Equal(t, "sign_in_again", body["code"])
	recent = true
	status, body, _ = call("POST", "/privacy/erasure", "")
	require.Equal(t, 202, status)
	require.Equal(t, "cooling", body["state"])
	status, body, _ = call("DELETE", "/privacy/erasure", "")
	require.Equal(t, 200, status)
	require.Equal(t, "cancelled", body["state"])
	status, _, _ = call("DELETE", "/privacy/erasure", "")
	require.Equal(t, 404, status)

	status, _, _ = call("POST", "/privacy/consents", `{"purpose":"newsletter","granted":true}`)
	require.Equal(t, 201, status)
	status, _, _ = call("POST", "/privacy/consents", `{"purpose":"newsletter"}`)
	require.Equal(t, 422, status, "neither given nor withdrawn")
	status, _, _ = call("POST", "/privacy/consents", `{"purpose":"tracking","granted":true}`)
	require.Equal(t, 404, status)
	status, _, _ = call("POST", "/privacy/consents", `{"unknown":1}`)
	require.Equal(t, 400, status)
	status, _, _ = call("POST", "/privacy/consents", `{"purpose":"`+strings.Repeat("x", 20<<10)+`"}`)
	require.Equal(t, 413, status)
	status, body, _ = call("GET", "/privacy/consents", "")
	require.Equal(t, 200, status)
	require.Len(t, body["purposes"], 2)

	status, _, _ = call("GET", "/admin/requests", "")
	require.Equal(t, 403, status)
	admin = true
	status, body, _ = call("GET", "/admin/requests?open=1", "")
	require.Equal(t, 200, status)
	require.Len(t, body["requests"], 1)
	r, err := w.service.Ask(context.Background(), gdpr.Objection, "bob", false)
	require.NoError(t, err)
	status, body, _ = call("POST", "/admin/requests/"+r.ID+"/verify", "{}")
	require.Equal(t, 200, status)
	require.Equal(t, "verified", body["state"])
	status, _, _ = call("POST", "/admin/requests/"+r.ID+"/deny", "{}")
	require.Equal(t, 422, status)
	status, _, _ = call("POST", "/admin/requests/"+r.ID+"/complete", `{"reason":"stopped"}`)
	require.Equal(t, 200, status)
	status, _, _ = call("POST", "/admin/requests/"+r.ID+"/explode", "{}")
	require.Equal(t, 404, status)
	status, _, _ = call("GET", "/admin/requests/"+r.ID+"/certificate", "")
	require.Equal(t, 404, status)
	_, _, rec = call("GET", "/admin/register", "")
	require.Contains(t, rec.Body.String(), "testing texts")
}
