package mailer

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Capture is a Transport for development that keeps messages in memory instead
// of sending them, and an http.Handler that shows them. It keeps the newest 200.
//
// Its pages show everything to whoever asks. Mount it in development only.
type Capture struct {
	mu    sync.Mutex
	now   func() time.Time
	next  int
	mails []Captured // oldest first
}

// Captured is a message that a Capture took.
type Captured struct {
	Number  int // 1, 2, …
	At      time.Time
	Message *Message
}

const captureLimit = 200

// NewCapture returns an empty Capture.
func NewCapture() *Capture { return &Capture{now: time.Now} }

// Send keeps the message. It refuses what [Message.Validate] refuses.
func (c *Capture) Send(_ context.Context, m *Message) Result {
	if err := m.Validate(); err != nil {
		return Invalid(err)
	}
	kept := *m
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	c.mails = append(c.mails, Captured{c.next, c.now(), &kept})
	if len(c.mails) > captureLimit {
		c.mails = slices.Delete(c.mails, 0, len(c.mails)-captureLimit)
	}
	return Result{Outcome: Sent, Transport: "capture", Stage: "reply", ProviderID: strconv.Itoa(c.next)}
}

// Messages returns what was captured, oldest first. An email other than ""
// selects those to that address.
func (c *Capture) Messages(email string) []Captured {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Captured, 0, len(c.mails))
	for _, m := range c.mails {
		if email == "" || strings.EqualFold(m.Message.To.Email, email) {
			out = append(out, m)
		}
	}
	return out
}

// ServeHTTP shows the inbox, under any prefix that ends in a slash.
func (c *Capture) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if readOnly(w, r) {
		return
	}
	mails := c.Messages(r.URL.Query().Get("to"))
	number := r.URL.Query().Get("mail")
	if number == "" {
		slices.Reverse(mails)
		page(w, http.StatusOK, "inbox", map[string]any{"Mails": mails, "Limit": captureLimit})
		return
	}
	for _, m := range mails {
		if strconv.Itoa(m.Number) == number {
			rendered := Rendered{Subject: m.Message.Subject, Preheader: "-", Text: m.Message.Text, HTML: m.Message.HTML}
			show(w, r, "?mail="+number, nil, m.Message, "To "+m.Message.To.Email+", from "+m.Message.From.Email, Lint(rendered))
			return
		}
	}
	http.NotFound(w, r)
}

// PreviewHandler lists every kind with its locales and shows each as HTML, at
// desktop and phone width, as text and as source, made from the samples beside
// the definitions. It needs no database and shows no personal data. It mounts
// under any prefix that ends in a slash.
func (s *Service) PreviewHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if readOnly(w, r) {
			return
		}
		q := r.URL.Query()
		name := q.Get("kind")
		if name == "" {
			s.previewList(w)
			return
		}
		def := s.kinds[name]
		if def == nil {
			http.NotFound(w, r)
			return
		}
		locale := def.locale(q.Get("locale"))
		chosen := def.samples[0]
		for _, one := range def.samples {
			if one.name == q.Get("sample") {
				chosen = one
			}
		}
		m, rendered, err := s.preview(def, locale, chosen)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		link := func(locale, sample string) string {
			return "?" + url.Values{"kind": {name}, "locale": {locale}, "sample": {sample}}.Encode()
		}
		var choices []choice
		for _, l := range def.locales {
			choices = append(choices, choice{l, link(l, chosen.name), l == locale})
		}
		if len(def.samples) > 1 {
			for _, one := range def.samples {
				choices = append(choices, choice{one.name, link(locale, one.name), one.name == chosen.name})
			}
		}
		show(w, r, link(locale, chosen.name), choices, m, rendered.Preheader, Lint(rendered))
	})
}

func (s *Service) preview(def *definition, locale string, chosen sample) (*Message, Rendered, error) {
	v := def.sampleView(chosen.data, locale, s.cfg.Brand)
	if def.class == Lifecycle {
		v.Unsubscribe = s.cfg.PublicURL + "/sample"
	}
	r, err := s.templates[def][locale].render(v)
	if err != nil {
		return nil, r, err
	}
	from := s.from(def.stream)
	return &Message{
		ID: "mail_preview", Kind: def.name, Stream: def.stream, MessageID: "preview@" + from.Domain(), From: from, ReplyTo: s.cfg.ReplyTo,
		To: Address{Name: "Ada Lovelace", Email: "ada@example.com"}, Subject: r.Subject, Text: r.Text, HTML: r.HTML,
		ListUnsubscribe: v.Unsubscribe, Date: s.now(),
	}, r, nil
}

type previewRow struct {
	Name, Title, Subject, Stream string
	Class                        Class
	Locales                      []string
	Findings                     []Finding
}

func (s *Service) previewList(w http.ResponseWriter) {
	var rows []previewRow
	for _, def := range s.kinds {
		row := previewRow{Name: def.name, Title: def.title, Stream: def.stream, Class: def.class, Locales: def.locales}
		_, r, err := s.preview(def, def.locales[0], def.samples[0])
		if err != nil {
			row.Findings = []Finding{{"render", err.Error()}}
		} else {
			row.Subject, row.Findings = r.Subject, Lint(r)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b previewRow) int { return strings.Compare(a.Name, b.Name) })
	page(w, http.StatusOK, "preview", map[string]any{"Kinds": rows})
}
