package stripesim

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

//go:embed assets pages
var files embed.FS

// hosted are the parsed pages and the style sheet with its hash.
type hosted struct {
	pages *template.Template
	style []byte
	asset string // "style.0a1b2c3d.css"
}

func newHosted() (*hosted, error) {
	style, err := files.ReadFile("assets/style.css")
	if err != nil {
		return nil, err
	}
	pages, err := template.ParseFS(files, "pages/*.html")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(style)
	return &hosted{pages: pages, style: style, asset: "style." + hex.EncodeToString(sum[:4]) + ".css"}, nil
}

// view is what every page shows.
type view struct {
	Title, Asset, Merchant, Initial string
	Heading, Lead, Cancel           string
	Error, Notice                   string
	Price, Every, Total, Subtotal   string
	Discount, DiscountName          string
	Button, Terms, Last4            string
	Known, Codes, NoCard            bool
	Lines, Sums                     []viewLine
	Form                            cardForm
	Cards                           []viewCard
	// Of the portal:
	Subscriptions []viewSubscription
	Preview       *viewPreview
	Card          *viewOwnCard
	CardOpen      bool
	Invoices      []viewInvoice
	// Of an invoice:
	Number, Status, PDF string
	Payable             bool

	origins []string // that a form may lead to
}

type viewLine struct{ Name, Note, Amount string }

type viewCard struct{ Number, Spaced, Does string }

// cardForm is what a person typed, to be shown again.
type cardForm struct{ Email, Name, Number, Exp, CVC, Promo string }

// maxForm is the largest form that a page reads.
const maxForm = 16 << 10

func (s *Simulator) servePage(w http.ResponseWriter, r *http.Request, path string) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if len(parts) == 2 && parts[0] == "assets" && parts[1] == s.hosted.asset && r.Method == http.MethodGet {
		h.Set("Content-Type", "text/css; charset=utf-8")
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Write(s.hosted.style)
		return
	}
	var do func(*visit)
	depth := len(parts) - 1
	v := &visit{w: w, r: r, up: strings.Repeat("../", depth)}
	switch {
	case len(parts) == 3 && parts[0] == "c" && parts[1] == "pay":
		v.id, do = parts[2], s.checkoutPage
	case len(parts) == 3 && parts[0] == "p" && parts[1] == "session":
		v.id, do = parts[2], s.portalPage
	case len(parts) == 2 && parts[0] == "i":
		v.id, do = parts[1], s.invoicePage
	case len(parts) == 3 && parts[0] == "i" && parts[2] == "pdf":
		v.id, do = parts[1], s.invoicePDF
	case len(parts) == 2 && parts[0] == "3ds":
		v.id, do = parts[1], s.challengePage
	default:
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			http.Error(w, "the form could not be read", http.StatusBadRequest)
			return
		}
	default:
		h.Set("Allow", "GET, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if !s.visited(v, do) {
		http.Error(w, "the simulator is closed", http.StatusServiceUnavailable)
		return
	}
	s.pump()
	v.finish(s)
}

// visited is the part of a visit that holds the lock; it reports whether the
// simulator is open.
func (s *Simulator) visited(v *visit, do func(*visit)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.noteOrigin(v.r)
	s.catchUp()
	do(v)
	return true
}

// visit is one request of a page. A page decides under the lock and writes
// afterwards.
type visit struct {
	w      http.ResponseWriter
	r      *http.Request
	id, up string

	page     string
	data     view
	status   int
	redirect string
	file     []byte
}

func (v *visit) posted(action string) bool {
	return v.r.Method == http.MethodPost && v.r.PostForm.Get("do") == action
}

func (v *visit) show(page string, data view) { v.page, v.data = page, data }

func (v *visit) message(heading, lead, link string) {
	v.show("message", view{Title: heading, Heading: heading, Lead: lead, Cancel: link})
}

func (v *visit) gone(heading, lead string) {
	v.message(heading, lead, "")
	v.status = http.StatusNotFound
}

func (v *visit) finish(s *Simulator) {
	if v.redirect != "" {
		// Not http.Redirect: it would make a relative reference absolute by
		// the path that is left after a prefix was stripped.
		v.w.Header().Set("Location", v.redirect)
		v.w.WriteHeader(http.StatusSeeOther)
		return
	}
	h := v.w.Header()
	h.Set("Cache-Control", "no-store")
	if v.file != nil {
		h.Set("Content-Type", "application/pdf")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		v.w.Write(v.file)
		return
	}
	v.data.Asset = v.up + "assets/" + s.hosted.asset
	v.data.Merchant = s.cfg.MerchantName
	v.data.Initial = strings.ToUpper(string([]rune(s.cfg.MerchantName)[:1]))
	var body bytes.Buffer
	if err := s.hosted.pages.ExecuteTemplate(&body, v.page, v.data); err != nil {
		s.log.Error("page not rendered", "page", v.page, "error", err)
		http.Error(v.w, "the page could not be rendered", http.StatusInternalServerError)
		return
	}
	// A browser also checks where a form's redirect leads: the application
	// that the person came from is allowed, and nobody else.
	action := "'self'"
	for _, origin := range v.data.origins {
		action += " " + origin
	}
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action "+action+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Content-Type", "text/html; charset=utf-8")
	if v.status != 0 {
		v.w.WriteHeader(v.status)
	}
	io.Copy(v.w, &body) //nolint:errcheck // the reader has gone
}

// originOf returns the origin of a URL that was checked when it came in.
func originOf(text string) []string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil
	}
	return []string{u.Scheme + "://" + u.Host}
}

// readCard reads the card fields of a form. The text says what is wrong with
// them.
func (s *Simulator) readCard(f cardForm, now int64) (payer, string) {
	in := payer{email: strings.TrimSpace(f.Email), name: strings.TrimSpace(f.Name)}
	kind, ok := cardByNumber(f.Number)
	if !ok {
		return in, "That is none of the test cards. Take one from the list below."
	}
	in.card = kind
	mm, yy, _ := strings.Cut(strings.ReplaceAll(f.Exp, " ", ""), "/")
	month, errM := strconv.ParseInt(mm, 10, 64)
	year, errY := strconv.ParseInt(yy, 10, 64)
	if year < 100 {
		year += 2000
	}
	if errM != nil || errY != nil || month < 1 || month > 12 || year > 2999 {
		return in, "The expiry date is a month and a year, such as 12/34."
	}
	if expired(month, year, time.Unix(now, 0).UTC()) {
		return in, "The card’s expiry date is in the past."
	}
	in.month, in.year = month, year
	if n := len(f.CVC); n < 3 || n > 4 || strings.Trim(f.CVC, "0123456789") != "" {
		return in, "The security code has three or four digits."
	}
	return in, ""
}

// formOf returns what was typed, or the test card that a link names.
func (s *Simulator) formOf(v *visit) cardForm {
	if v.r.Method == http.MethodPost {
		get := v.r.PostForm.Get
		return cardForm{Email: get("email"), Name: get("name"), Number: get("number"), Exp: get("exp"), CVC: get("cvc"), Promo: get("promo")}
	}
	var f cardForm
	if kind, ok := cardByNumber(v.r.URL.Query().Get("card")); ok {
		f = cardForm{Number: spaced(kind.number), Exp: fmt.Sprintf("12/%02d", (s.now().Year()+3)%100), CVC: "123", Name: "Ada Lovelace", Email: "ada@example.com"}
		if kind.brand == "amex" {
			f.CVC = "1234"
		}
	}
	return f
}

func spaced(number string) string {
	var b strings.Builder
	for i, c := range number {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// shownCards are the test cards that a page lists.
func shownCards() []viewCard {
	does := []struct{ number, does string }{
		{"4242424242424242", "Pays"},
		{"4000000000000002", "Is declined"},
		{"4000000000009995", "Has insufficient funds"},
		{"4000002500003155", "Asks for 3-D Secure once"},
		{"4000002760003184", "Asks for 3-D Secure each time"},
		{"4000000000000341", "Can be saved, then is declined"},
	}
	out := make([]viewCard, len(does))
	for i, d := range does {
		out[i] = viewCard{Number: d.number, Spaced: spaced(d.number), Does: d.does}
	}
	return out
}
