package mailer_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailertest"
)

func file(text string) fstest.MapFS { return fstest.MapFS{"test.note.en.txt": {Data: []byte(text)}} }

const goodFile = "Subject: S\nPreheader: P\n\nText {{.Data.Text}}\n"

func TestBrokenRulesFailAtDefinition(t *testing.T) {
	type hidden struct {
		Text string
		url  string
	}
	_, err := mailer.Define(mailer.Spec[hidden]{Name: "a", Stream: "s", Class: mailer.Security, Templates: file(goodFile), Sample: hidden{url: "x"}})
	require.ErrorContains(t, err, "does not survive JSON")
	_, err = mailer.Define(mailer.Spec[string]{Name: "a", Stream: "s", Class: mailer.Security, Templates: file(goodFile)})
	require.ErrorContains(t, err, "not a struct")

	for name, c := range map[string]struct {
		want   string
		change func(*mailer.Spec[note])
	}{
		"name":               {"Name", func(s *mailer.Spec[note]) { s.Name = "Bad Name" }},
		"stream":             {"Stream", func(s *mailer.Spec[note]) { s.Stream = "" }},
		"class":              {"Class", func(s *mailer.Spec[note]) { s.Class = 0 }},
		"ttl":                {"TTL", func(s *mailer.Spec[note]) { s.TTL = -1 }},
		"coalesce":           {"Coalesce", func(s *mailer.Spec[note]) { s.Coalesce = 100 * time.Hour }},
		"ambiguous":          {"OnAmbiguous", func(s *mailer.Spec[note]) { s.OnAmbiguous = 7 }},
		"cap, not lifecycle": {"Lifecycle", func(s *mailer.Spec[note]) { s.Cap = mailer.Cap{Count: 1, Per: time.Hour} }},
		"cap":                {"Cap", func(s *mailer.Spec[note]) { s.Class, s.Cap = mailer.Lifecycle, mailer.Cap{Count: 1} }},
		"quiet hours":        {"0 to 23", func(s *mailer.Spec[note]) { s.Class, s.QuietHours = mailer.Lifecycle, mailer.QuietHours{From: 24} }},
		"no templates":       {"Templates", func(s *mailer.Spec[note]) { s.Templates = nil }},
		"no text part":       {"text part is missing", func(s *mailer.Spec[note]) { s.Templates = fstest.MapFS{"test.note.en.html": {Data: []byte("<p>")}} }},
		"locale":             {"locale", func(s *mailer.Spec[note]) { s.Locales = []string{"../x"} }},
		"missing locale":     {"missing", func(s *mailer.Spec[note]) { s.Locales = []string{"en", "fr"} }},
		"supersedes itself":  {"supersede", func(s *mailer.Spec[note]) { s.Supersedes = []string{"test.note"} }},
		"no subject":         {"no Subject", func(s *mailer.Spec[note]) { s.Templates = file("Preheader: P\n\nText") }},
		"no preheader":       {"no Preheader", func(s *mailer.Spec[note]) { s.Templates = file("Subject: S\n\nText") }},
		"no body":            {"blank line", func(s *mailer.Spec[note]) { s.Templates = file("Subject: S\nPreheader: P\n") }},
		"unknown header":     {"header line", func(s *mailer.Spec[note]) { s.Templates = file("Subject: S\nBcc: x@y.z\n\nText") }},
		"syntax":             {"missing value for if", func(s *mailer.Spec[note]) { s.Templates = file("Subject: S\nPreheader: P\n\n{{if}}") }},
		"unknown variable":   {".Data.Gone is unknown", func(s *mailer.Spec[note]) { s.Templates = file("Subject: {{.Data.Gone}}\nPreheader: P\n\nText") }},
		"unknown variable in a branch not taken": {".Data.Gone is unknown", func(s *mailer.Spec[note]) {
			s.Templates = file("Subject: S\nPreheader: P\n\n{{if eq .Data.Text \"never\"}}\n{{.Data.Gone}}\n{{end}}\nText")
		}},
		"unknown variable in with": {".Gone is unknown", func(s *mailer.Spec[note]) {
			s.Templates = file("Subject: S\nPreheader: P\n\n{{with .Brand}}{{.Gone}}{{end}} Text")
		}},
		"unknown variable in range": {".x is unknown", func(s *mailer.Spec[note]) {
			s.Templates = file("Subject: S\nPreheader: P\n\n{{range $i, $c := .Data.Text}}{{end}}{{.x}} Text")
		}},
		"unknown via variable": {"$d.Gone is unknown", func(s *mailer.Spec[note]) {
			s.Templates = file("Subject: S\nPreheader: P\n\n{{$d := .Data}}{{$d.Gone}} Text")
		}},
		"unknown in own HTML": {".Data.Gone is unknown", func(s *mailer.Spec[note]) {
			f := file(goodFile)
			f["test.note.en.html"] = &fstest.MapFile{Data: []byte("<p>{{.Data.Gone}}</p>")}
			s.Templates = f
		}},
		"empty subject": {"subject is empty", func(s *mailer.Spec[note]) { s.Templates = file("Subject: {{with \"\"}}x{{end}}\nPreheader: P\n\nText") }},
		"http link":     {"http", func(s *mailer.Spec[note]) { s.Templates = file("Subject: S\nPreheader: P\n\n[x](http://example.com/)") }},
		"unsafe link": {"ZgotmplZ", func(s *mailer.Spec[note]) {
			s.Sample.URL = "javascript:x"
			s.Templates = file("Subject: S\nPreheader: P\n\n[x]({{.Data.URL}})")
		}},
		"image without alt": {"alt", func(s *mailer.Spec[note]) {
			f := file(goodFile)
			f["test.note.en.html"] = &fstest.MapFile{Data: []byte(`<img src="https://example.com/a.png">`)}
			s.Templates = f
		}},
		"form": {"does not work in mail", func(s *mailer.Spec[note]) {
			f := file(goodFile)
			f["test.note.en.html"] = &fstest.MapFile{Data: []byte(`<form></form>`)}
			s.Templates = f
		}},
		"too big": {"102", func(s *mailer.Spec[note]) { s.Sample.Text = strings.Repeat("x", 110<<10); s.Templates = file(goodFile) }},
		"lifecycle without unsubscribe": {"Unsubscribe", func(s *mailer.Spec[note]) {
			s.Class = mailer.Lifecycle
			f := file(goodFile)
			f["layout.txt"] = &fstest.MapFile{Data: []byte(`{{template "content" .}}`)}
			s.Templates = f
		}},
		"layout's style sheet": {"selector", func(s *mailer.Spec[note]) {
			f := file(goodFile)
			f["layout.html"] = &fstest.MapFile{Data: []byte(`<style data-inline>p > a { color: red }</style>{{template "content" .}}`)}
			s.Templates = f
		}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := noteSpec(mailer.Transactional)
			spec.Templates = file(goodFile)
			c.change(&spec)
			_, err := mailer.Define(spec)
			require.ErrorIs(t, err, mailer.ErrDefinition)
			require.ErrorContains(t, err, c.want)
		})
	}
	spec := noteSpec(mailer.Transactional)
	spec.Templates = file(goodFile)
	_, err = mailer.Define(spec)
	require.NoError(t, err, "the unbroken one must pass")
}

func TestMarkupBecomesBothParts(t *testing.T) {
	spec := noteSpec(mailer.Transactional)
	spec.Templates = fstest.MapFS{
		"test.note.en.txt": {Data: []byte("Subject: S & {{.Data.Text}}\nPreheader: P\n\n# Head <1>\n\nOne & **two**\nthree [here]({{.Data.URL}}).\n\n## Sub\n\n- a\n- b\n\n| K | {{.Data.Text}} |\n| L | m |\n\n{{if .Data.Text}}\nyes\n{{else}}\nno\n{{end}}\n\n[Go]({{.Data.URL}})\n")},
		"layout.html":      {Data: []byte(`<style data-inline>/* c */ p, li { margin: 0 } p.action { padding: 1px; margin: 9px } .facts { width: 1% } a { color: {{.Accent}} }</style><body>{{mso "<b>x</b>"}}{{template "content" .}}</body>`)},
	}
	kind, err := mailer.Define(spec)
	require.NoError(t, err)
	inbox := mailertest.NewInbox(t)
	svc, err := mailer.New(nil, inbox, mailer.Config{From: mailer.Address{Email: "a@example.com"}, Secret: make([]byte, 32), Kinds: []mailer.AnyKind{kind}})
	require.NoError(t, err)
	_, err = kind.Send(context.Background(), svc, ada, note{Text: "<v> & w", URL: "https://example.com/?a=1&b=2"}, "k")
	require.NoError(t, err)
	m := inbox.One(ada.Email, "test.note")
	inbox.Says(m, "yes")
	inbox.None("eve@example.org", "")
	require.Equal(t, "S & <v> & w", m.Subject)
	require.Equal(t, "Head <1>\n\nOne & two\nthree here (https://example.com/?a=1&b=2).\n\nSub\n\n- a\n- b\n\nK: <v> & w\nL: m\n\nyes\n\nGo:\nhttps://example.com/?a=1&b=2\n\n-- \n", strings.Split(m.Text, "\n-- \n")[0]+"\n-- \n")
	require.Equal(t, `<body><!--[if mso]><b>x</b><![endif]--><h1>Head &lt;1&gt;</h1>
<p style="margin: 0">One &amp; <strong>two</strong>
three <a href="https://example.com/?a=1&amp;b=2" style="color: #1f5fd6">here</a>.</p>
<h2>Sub</h2>
<ul>
<li style="margin: 0">a</li>
<li style="margin: 0">b</li>
</ul>
<table class="facts" role="presentation" cellpadding="0" cellspacing="0" style="width: 1%"><tbody>
<tr><td class="label">K</td><td class="value">&lt;v&gt; &amp; w</td></tr>
<tr><td class="label">L</td><td class="value">m</td></tr>
</tbody></table>
<p style="margin: 0">yes</p>
<p class="action" style="margin: 9px; padding: 1px"><a class="button" href="https://example.com/?a=1&amp;b=2" style="color: #1f5fd6">Go</a></p>
</body>`, m.HTML)
}

func TestShippedKindsAreSoundInEveryLocale(t *testing.T) {
	kinds, err := mailer.Shipped(nil)
	require.NoError(t, err)
	require.Len(t, kinds.All(), 14)
	restyled, err := mailer.Shipped(fstest.MapFS{"layout.html": {Data: []byte(`<p>{{template "content" .}}<a href="{{.Unsubscribe}}">off</a>`)}})
	require.NoError(t, err)
	require.Equal(t, kinds.Welcome.Name(), restyled.Welcome.Name())
	_, err = mailer.Shipped(fstest.MapFS{"account.welcome.de.txt": {Data: []byte("Subject: {{.Data.Nope}}\nPreheader: x\n\ny")}})
	require.ErrorContains(t, err, "account.welcome.de.txt")
}

func TestPreviewsShowEveryKindWithoutADatabase(t *testing.T) {
	kinds, err := mailer.Shipped(nil)
	require.NoError(t, err)
	svc, err := mailer.New(nil, mailer.NewCapture(), mailer.Config{From: mailer.Address{Name: "Example", Email: "a@example.com"}, Secret: make([]byte, 32),
		Kinds: kinds.All(), PublicURL: "https://example.com/u"})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/dev/mails/", svc.PreviewHandler())
	get := func(path string) (int, string, http.Header) {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/dev/mails/"+path, nil))
		return rec.Code, rec.Body.String(), rec.Header()
	}
	code, list, header := get("")
	require.Equal(t, 200, code)
	require.NotContains(t, header.Get("Content-Security-Policy"), "unsafe")
	require.NotContains(t, list, "style=")
	css := regexp.MustCompile(`href="(style\.[0-9a-f]+\.css)"`).FindStringSubmatch(list)
	require.NotNil(t, css)
	code, _, header = get(css[1])
	require.Equal(t, 200, code)
	require.Contains(t, header.Get("Cache-Control"), "immutable")
	for _, k := range kinds.All() {
		require.Contains(t, list, k.Name())
		for _, locale := range []string{"en", "de"} {
			for part, want := range map[string]string{"": "<iframe", "phone": `class="phone"`, "text": "<pre>", "source": "Message-ID:", "raw-html": "<!doctype html>"} {
				code, body, header := get(fmt.Sprintf("?kind=%s&locale=%s&part=%s", k.Name(), locale, part))
				require.Equal(t, 200, code)
				require.Contains(t, body, want, "%s %s %s", k.Name(), locale, part)
				require.NotContains(t, body, "Findings", "%s has lint findings", k.Name())
				require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'")
			}
		}
	}
	code, _, _ = get("?kind=no.such")
	require.Equal(t, 404, code)
	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/dev/mails/", nil))
	require.Equal(t, 405, rec.Code)
}

func TestCapturedMailIsShown(t *testing.T) {
	w := newWorld(t, nil)
	inbox := mailer.NewCapture()
	svc := w.WithTransport(inbox)
	for i := range 205 {
		_, err := w.note.Send(context.Background(), svc, ada, note{Text: fmt.Sprint("<n>", i), URL: "https://example.com"}, fmt.Sprint(i))
		require.NoError(t, err)
	}
	get := func(method, query string) (int, string) {
		rec := httptest.NewRecorder()
		inbox.ServeHTTP(rec, httptest.NewRequest(method, "/inbox/"+query, nil))
		return rec.Code, rec.Body.String()
	}
	code, body := get("GET", "")
	require.Equal(t, 200, code)
	require.Contains(t, body, "Note: &lt;n&gt;204")
	require.NotContains(t, body, "Note: &lt;n&gt;4<", "the oldest make room")
	code, body = get("GET", "?mail=205&part=source")
	require.Equal(t, 200, code)
	require.Contains(t, body, "To: &#34;Ada&#34; &lt;ada@example.org&gt;")
	code, _ = get("GET", "?mail=1")
	require.Equal(t, 404, code)
	code, _ = get("DELETE", "")
	require.Equal(t, 405, code)
	require.Len(t, inbox.Messages("ADA@example.org"), 200)
	require.Empty(t, inbox.Messages("eve@example.org"))
}

func TestFailoverSendsOnce(t *testing.T) {
	ctx := context.Background()
	scripted := func(outcome mailer.Outcome, fault mailer.Fault, calls *int) mailer.Transport {
		return mailer.TransportFunc(func(context.Context, *mailer.Message) mailer.Result {
			*calls++
			return mailer.Result{Outcome: outcome, Fault: fault}
		})
	}
	for _, c := range []struct {
		outcome mailer.Outcome
		fault   mailer.Fault
		second  int
	}{
		{mailer.Sent, mailer.FaultUnknown, 0}, {mailer.Ambiguous, mailer.FaultNetwork, 0}, {mailer.Permanent, mailer.FaultRecipient, 0},
		{mailer.Temporary, mailer.FaultNetwork, 1}, {mailer.Permanent, mailer.FaultSender, 1},
	} {
		first, second := 0, 0
		res := mailer.Failover(scripted(c.outcome, c.fault, &first), scripted(mailer.Sent, 0, &second)).Send(ctx, plainMessage())
		assert.Equal(t, c.second, second, "%s %s", c.outcome, c.fault)
		if c.second == 1 {
			assert.Equal(t, mailer.Sent, res.Outcome)
		}
	}
	a, b := 0, 0
	robin := mailer.RoundRobin(scripted(mailer.Sent, 0, &a), scripted(mailer.Sent, 0, &b))
	for range 10 {
		robin.Send(ctx, plainMessage())
	}
	require.Equal(t, []int{5, 5}, []int{a, b})
	require.Equal(t, mailer.Temporary, mailer.RoundRobin().Send(ctx, plainMessage()).Outcome)

	inbox := mailer.NewCapture()
	m := plainMessage()
	require.Equal(t, mailer.Sent, mailer.Redirect(mailer.Address{Email: "dev@example.com"}, inbox).Send(ctx, m).Outcome)
	require.Equal(t, "ada@example.org", m.To.Email, "a message is never changed")
	require.Len(t, inbox.Messages("dev@example.com"), 1)
	require.NotContains(t, fmt.Sprint(inbox.Messages("")[0].Message.Headers), "ada@")
}

func TestClassifySMTP(t *testing.T) {
	for _, c := range []struct {
		code     int
		enhanced string
		stage    string
		outcome  mailer.Outcome
		fault    mailer.Fault
	}{
		{550, "5.1.1", "rcpt", mailer.Permanent, mailer.FaultRecipient},
		{550, "5.1.8", "mail", mailer.Permanent, mailer.FaultSender},
		{550, "5.2.1", "rcpt", mailer.Permanent, mailer.FaultRecipient},
		{552, "5.2.2", "rcpt", mailer.Permanent, mailer.FaultMailbox},
		{452, "4.2.2", "rcpt", mailer.Temporary, mailer.FaultMailbox},
		{552, "5.2.3", "body", mailer.Permanent, mailer.FaultMessage},
		{552, "5.3.4", "mail", mailer.Permanent, mailer.FaultMessage},
		{451, "4.3.2", "rcpt", mailer.Temporary, mailer.FaultNetwork},
		{450, "4.4.1", "rcpt", mailer.Temporary, mailer.FaultNetwork},
		{503, "5.5.1", "rcpt", mailer.Permanent, mailer.FaultMessage},
		{550, "5.7.26", "body", mailer.Permanent, mailer.FaultSender},
		{550, "5.7.515", "body", mailer.Permanent, mailer.FaultSender},
		{421, "4.7.28", "body", mailer.Temporary, mailer.FaultRate},
		{451, "4.7.1", "rcpt", mailer.Temporary, mailer.FaultRate},
		{535, "5.7.8", "connect", mailer.Temporary, mailer.FaultTransport},
		{530, "5.7.0", "mail", mailer.Temporary, mailer.FaultTransport},
		{554, "5.7.9", "mail", mailer.Temporary, mailer.FaultTransport},
		{550, "", "rcpt", mailer.Permanent, mailer.FaultRecipient},
		{550, "", "mail", mailer.Permanent, mailer.FaultSender},
		{552, "", "body", mailer.Permanent, mailer.FaultMailbox},
		{554, "", "body", mailer.Permanent, mailer.FaultSender},
		{501, "", "rcpt", mailer.Permanent, mailer.FaultMessage},
		{452, "", "data", mailer.Temporary, mailer.FaultMailbox},
		{450, "", "rcpt", mailer.Temporary, mailer.FaultUnknown},
		{556, "", "rcpt", mailer.Permanent, mailer.FaultRecipient},
		{521, "", "connect", mailer.Temporary, mailer.FaultTransport},
		{554, "", "connect", mailer.Temporary, mailer.FaultTransport},
		{0, "4.4.7", "rcpt", mailer.Temporary, mailer.FaultNetwork},
	} {
		outcome, fault := mailer.ClassifySMTP(c.code, c.enhanced, c.stage)
		assert.Equal(t, c.outcome, outcome, "%d %s at %s", c.code, c.enhanced, c.stage)
		assert.Equal(t, c.fault, fault, "%d %s at %s", c.code, c.enhanced, c.stage)
	}
}

const report = "From: MAILER-DAEMON@mx.example.net\r\nMessage-ID: <1@mx.example.net>\r\nDate: Mon, 02 Mar 2026 12:00:00 +0000\r\n" +
	"Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n" +
	"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.net\r\n\r\n" +
	"Final-Recipient: rfc822; ada@example.org\r\nAction: failed\r\nStatus: 5.1.1 (no such user)\r\n\r\n" +
	"Final-Recipient: rfc822; bob@example.org\r\nAction: failed\r\nStatus: 5.7.1\r\n\r\n" +
	"Final-Recipient: rfc822; cid@example.org\r\nAction: failed\r\nStatus: 4.4.7\r\n\r\n" +
	"Final-Recipient: rfc822; dan@example.org\r\nAction: delayed\r\nStatus: 4.4.1\r\n\r\n" +
	"Final-Recipient: rfc822; eve@example.org\r\nAction: delivered\r\nStatus: 2.0.0\r\n\r\n" +
	"Final-Recipient: rfc822; fay@example.org\r\nAction: failed\r\nStatus: 5.2.2\r\n--b--\r\n"

func TestDeliveryReportsBecomeEvents(t *testing.T) {
	events, err := mailer.ParseDSN(strings.NewReader(report))
	require.NoError(t, err)
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprint(e.Email[:3], " ", e.Type, " ", e.Reason))
		require.Equal(t, noon, e.At.UTC())
		require.NotEmpty(t, e.ID)
	}
	require.Equal(t, []string{"ada bounced invalid", "bob failed blocked", "cid soft_bounced timed_out", "dan deferred other", "eve delivered ", "fay soft_bounced full"}, got)
	w := newWorld(t, nil)
	for _, e := range events {
		_, err := w.Record(context.Background(), e)
		require.NoError(t, err)
	}
	require.Equal(t, mailer.Suppressed, w.enqueue(t, w.note, "k").Status)
	for _, bad := range []string{"", "x", "Subject: away\r\n\r\nI am on holiday", strings.Replace(report, "message/delivery-status", "text/plain", 1),
		strings.ReplaceAll(report, "Final-Recipient", "X-Recipient")} {
		_, err := mailer.ParseDSN(strings.NewReader(bad))
		require.Error(t, err)
	}
}

func FuzzDSN(f *testing.F) {
	f.Add(report)
	f.Fuzz(func(t *testing.T, s string) {
		events, err := mailer.ParseDSN(strings.NewReader(s))
		if (err == nil) != (len(events) > 0) {
			t.Fatalf("%d events and %v", len(events), err)
		}
	})
}
