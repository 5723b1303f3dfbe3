package mailer

import (
	"bytes"
	"context"
	"errors"
	htmltemplate "html/template"
	"os"
	"runtime"
	"testing"
	texttemplate "text/template"
	"time"

	"github.com/matcornic/hermes/v2"

	"github.com/kolekt/commerce/mailer"
)

// TestTableRender measures a shipped mail, HTML and text, through the service
// without a transport, beside the same output from templates that are parsed
// for each mail, as a handler without a registry does, and beside Hermes.
func TestTableRender(t *testing.T) {
	kinds, err := mailer.Shipped(nil)
	if err != nil {
		t.Fatal(err)
	}
	var last *mailer.Message
	nowhere := mailer.TransportFunc(func(_ context.Context, m *mailer.Message) mailer.Result {
		last = m
		return mailer.Result{Outcome: mailer.Sent}
	})
	svc, err := mailer.New(nil, nowhere, mailer.Config{From: mailer.Address{Name: "Example", Email: "hello@example.com"}, Secret: make([]byte, 32), Kinds: kinds.All(),
		PublicURL: "https://example.com/u"})
	if err != nil {
		t.Fatal(err)
	}
	data := mailer.UpgradeReminder{Used: 8, Limit: 10, Unit: "kolekts", ResetsAt: time.Now(), Plan: "Free", BetterPlan: "Pro", UpgradeURL: "https://example.com"}
	send := func() {
		if _, err := kinds.UpgradeReminder.Send(context.Background(), svc, mailer.To{Email: "ada@example.org", Name: "Ada"}, data, "k"); err != nil {
			t.Fatal(err)
		}
	}
	layout, err := os.ReadFile("../../../mailer/layout.html")
	if err != nil {
		t.Fatal(err)
	}
	funcs := map[string]any{"support": func(s string) string { return s }, "filler": func() string { return "" },
		"mso": func(string) string { return "" }, "meter": func(a, b int64) string { return "" }, "number": func(n int64) int64 { return n },
		"date": func(t time.Time) string { return t.Format(time.DateOnly) }}
	content := `{{define "content"}}<h1>You have used {{number .Data.Used}} of {{number .Data.Limit}} {{.Data.Unit}}</h1>{{meter .Data.Used .Data.Limit}}<p>Your quota on the <strong>{{.Data.Plan}}</strong> plan starts again on {{date .Data.ResetsAt}}.</p>{{with .Data.BetterPlan}}<p>If you need more before then, <strong>{{.}}</strong> gives you room.</p>{{end}}<p><a href="{{.Data.UpgradeURL}}">See {{.Data.BetterPlan}}</a></p>{{end}}`
	view := map[string]any{"Data": data, "Brand": mailer.Brand{Name: "Example", URL: "https://example.com"}, "Unsubscribe": "https://example.com/u/x", "Locale": "en", "Language": "en",
		"Accent":  htmltemplate.CSS("#1f5fd6"),
		"Subject": "s", "Preheader": "p"}
	var out bytes.Buffer
	parsePerMail := func() {
		out.Reset()
		h := htmltemplate.Must(htmltemplate.New("html").Funcs(funcs).Parse(string(layout) + content))
		x := texttemplate.Must(texttemplate.New("text").Funcs(funcs).Parse(`{{template "content" .}}` + content))
		if err := h.Execute(&out, view); err != nil {
			t.Fatal(err)
		}
		if err := x.Execute(&out, view); err != nil {
			t.Fatal(err)
		}
	}
	hermesMail := hermes.Email{Body: hermes.Body{Name: "Ada", Intros: []string{"You have used 8 of 10 kolekts.", "Your quota on the Free plan starts again on 1 December."},
		Actions: []hermes.Action{{Instructions: "If you need more before then, Pro gives you room.", Button: hermes.Button{Color: "#1f5fd6", Text: "See Pro", Link: "https://example.com"}}},
		Outros:  []string{"Unsubscribe from these mails: https://example.com/u/x"}}}
	first := hermes.Hermes{Product: hermes.Product{Name: "Example", Link: "https://example.com"}}
	send()
	raw, err := last.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 9
	took := map[string][]time.Duration{}
	rows := []struct {
		name string
		do   func()
	}{
		{"matcornic/hermes 2.1.0, HTML and text", func() {
			_, err := first.GenerateHTML(hermesMail)
			_, textErr := first.GeneratePlainText(hermesMail)
			if err = errors.Join(err, textErr); err != nil {
				t.Fatal(err)
			}
		}},
		{"html/template and text/template, parsed for each mail", parsePerMail},
		{"commerce: check, render subject, preheader, text, HTML", send},
		{"commerce: compose MIME beside it", func() {
			if _, err := last.Bytes(); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for range rounds {
		for _, r := range rows {
			runtime.GC() // nobody pays for what another has left
			// As long for each: who is quick mustn't be measured right after a
			// collection, with cold caches, and never during its own.
			n, start := 0, time.Now()
			for ; time.Since(start) < 150*time.Millisecond; n++ {
				r.do()
			}
			took[r.name] = append(took[r.name], time.Since(start)/time.Duration(n))
		}
	}
	t.Logf("mail of %d bytes HTML, %d bytes text, %d bytes MIME", len(last.HTML), len(last.Text), len(raw))
	for _, r := range rows {
		t.Logf("%-56s median %6.0f µs  best %6.0f µs  ratio to Hermes %.1f  allocs %.0f", r.name, us(median(took[r.name])), us(fastest(took[r.name])),
			float64(median(took[rows[0].name]))/float64(median(took[r.name])), testing.AllocsPerRun(100, r.do))
	}
}
