package mailer

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"net/http"
	"path"
	"sync"
)

//go:embed pages
var pageFiles embed.FS

// site holds the parsed pages. It is made once, on first use, from embedded
// files that the tests have parsed.
var site = sync.OnceValue(func() *pageSite {
	css, err := pageFiles.ReadFile("pages/style.css")
	if err != nil {
		panic(err) // embedded: it can't be missing
	}
	sum := sha256.Sum256(css)
	s := &pageSite{css: css, name: "style." + hex.EncodeToString(sum[:6]) + ".css"}
	s.pages = template.Must(template.New("").Funcs(template.FuncMap{"asset": func() string { return s.name }}).
		ParseFS(pageFiles, "pages/*.html"))
	return s
})

type pageSite struct {
	css   []byte
	name  string
	pages *template.Template
}

// pagePolicy allows the one style sheet, frames of the same handler, and forms
// to it; nothing else.
const pagePolicy = "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"

// serveAsset answers requests for the style sheet, under any prefix.
func serveAsset(w http.ResponseWriter, r *http.Request) bool {
	s := site()
	if path.Base(r.URL.Path) != s.name {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", "text/css; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(s.css) // the client has gone: nobody to tell
	return true
}

func htmlHeaders(h http.Header, policy string) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
}

// readOnly answers everything but GET and HEAD, and the style sheet; it reports
// whether it has.
func readOnly(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return true
	}
	return serveAsset(w, r)
}

func page(w http.ResponseWriter, status int, name string, data any) {
	htmlHeaders(w.Header(), pagePolicy)
	w.WriteHeader(status)
	_ = site().pages.ExecuteTemplate(w, name, data) // the templates are tested; a write error has nobody to tell
}

// mailPolicy frames the HTML part of a mail: its styles and https images, no
// script, and an origin of its own.
const mailPolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src https: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"

func mailBody(w http.ResponseWriter, html string) {
	htmlHeaders(w.Header(), mailPolicy)
	_, _ = w.Write([]byte(html)) // the client has gone: nobody to tell
}

// choice is a link of a mail's page.
type choice struct {
	Label, Query string
	Current      bool
}

// mailPage shows one mail, captured or previewed.
type mailPage struct {
	Subject, Preheader string
	Choices, Parts     []choice
	Frame, FrameClass  string
	Plain              string
	Findings           []Finding
}

// show answers for one mail: the frame's content, or the page around it.
func show(w http.ResponseWriter, r *http.Request, query string, choices []choice, m *Message, preheader string, findings []Finding) {
	part := r.URL.Query().Get("part")
	if part == "raw-html" {
		mailBody(w, m.HTML)
		return
	}
	data := mailPage{Subject: m.Subject, Preheader: preheader, Choices: choices, Findings: findings}
	for _, p := range []choice{{Label: "Desktop", Query: ""}, {Label: "Phone", Query: "phone"}, {Label: "Text", Query: "text"}, {Label: "Source", Query: "source"}} {
		current := p.Query == part
		if p.Query != "" {
			p.Query = "&part=" + p.Query
		}
		data.Parts = append(data.Parts, choice{p.Label, query + p.Query, current})
	}
	switch part {
	case "text":
		data.Plain = m.Text
	case "source":
		raw, err := m.Bytes()
		if err != nil {
			data.Plain = err.Error()
		} else {
			data.Plain = string(raw)
		}
	default:
		data.Frame = query + "&part=raw-html"
		if part == "phone" {
			data.FrameClass = "phone"
		}
	}
	page(w, http.StatusOK, "mail", data)
}
