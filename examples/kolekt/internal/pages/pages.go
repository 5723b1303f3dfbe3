// Package pages renders Kolekt's screens: one template for each page, data in,
// markup out. It knows nothing of the packages behind them; all texts and
// amounts come formatted.
package pages

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed templates/*.html
var templates embed.FS

// Page is what the frame around every screen needs.
type Page struct {
	Title   string
	Nav     string // the entry of the navigation that is current
	Visitor *Visitor
	Notice  *Notice
	Dev     *Dev // nil outside development
	Data    any
}

// Visitor is who is logged in.
type Visitor struct {
	Name  string
	Email string
	Plan  string
	Admin bool
}

// Notice is a message above the page.
type Notice struct {
	Kind string // "good", "warn", "bad", "info"
	Text string
	Link *Link
}

// Link is a link with its text.
type Link struct{ Href, Text string }

// Dev is the bar of development: it says what is not real.
type Dev struct {
	Clock     string // what the clock shows, empty while it is the real one
	Ephemeral bool   // nothing survives a restart
	Simulated bool   // payments are
	Mails     int    // captured so far
	Mailbox   bool   // mail is captured
	Faults    int    // switched on; negative: there are no switches
}

// Pages renders pages and serves their assets.
type Pages struct {
	byName  map[string]*template.Template
	widgets *template.Template
	assets  *assets
	policy  string
}

// New parses the templates. Forms may lead to the given origins besides our
// own, such as https://checkout.stripe.com.
func New(formTargets ...string) (*Pages, error) {
	a, err := loadAssets()
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	p := &Pages{byName: map[string]*template.Template{}, assets: a}
	p.policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
		"form-action " + strings.Join(append([]string{"'self'"}, formTargets...), " ") + "; base-uri 'none'; frame-ancestors 'none'"
	funcs := template.FuncMap{
		"asset": func(name string) (string, error) {
			if url, ok := a.urls[name]; ok {
				return url, nil
			}
			return "", fmt.Errorf("no asset %q", name)
		},
		"icon":  icon,
		"meter": func(m Meter) (template.HTML, error) { return p.widget("meter", m) },
		"chart": func(c Chart) (template.HTML, error) { return p.widget("chart", c.draw()) },
	}
	base, err := template.New("").Funcs(funcs).ParseFS(templates, "templates/_*.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	files, err := fs.Glob(templates, "templates/[a-z]*.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	for _, f := range files {
		t, err := base.Clone()
		if err != nil {
			return nil, fmt.Errorf("pages: %w", err)
		}
		if t, err = t.ParseFS(templates, f); err != nil {
			return nil, fmt.Errorf("pages: %w", err)
		}
		p.byName[strings.TrimSuffix(path.Base(f), ".html")] = t
	}
	p.widgets = base
	return p, nil
}

// widget runs a template that has no page around it.
func (p *Pages) widget(name string, data any) (template.HTML, error) {
	var b bytes.Buffer
	if err := p.widgets.ExecuteTemplate(&b, name, data); err != nil {
		return "", err
	}
	return template.HTML(b.String()), nil // the template has escaped it
}

// Part renders a piece of a page that changes while the page is open: what
// the page's own template put there.
func (p *Pages) Part(name string, data any) (string, error) {
	h, err := p.widget("part-"+name, data)
	if err != nil {
		return "", fmt.Errorf("pages: part %s: %w", name, err)
	}
	return strings.TrimSpace(string(h)), nil
}

// Static serves the assets under /static/.
func (p *Pages) Static() http.Handler { return p.assets }

// Asset returns the address of an asset.
func (p *Pages) Asset(name string) string { return p.assets.urls[name] }

// Render writes a page. Nothing is written when a template fails.
func (p *Pages) Render(w http.ResponseWriter, status int, name string, page Page) error {
	t, ok := p.byName[name]
	if !ok {
		return fmt.Errorf("pages: no page %q", name)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "frame", page); err != nil {
		return fmt.Errorf("pages: %s: %w", name, err)
	}
	p.Secure(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err := w.Write(b.Bytes())
	return err
}

// Secure sets the headers that every page has.
func (p *Pages) Secure(h http.Header) {
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()")
}
