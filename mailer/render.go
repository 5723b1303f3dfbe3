package mailer

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"regexp"
	"strconv"
	"strings"
	"sync"
	texttemplate "text/template"
	"time"
)

//go:embed layout.html
var defaultLayout string

//go:embed layout.txt
var defaultTextLayout string

// Brand is what the layouts show of the sender.
type Brand struct {
	Name string
	// URL of the product, https.
	URL string
	// Logo is an https URL of a PNG, shown 32 pixels high; empty shows Name.
	Logo string
	// Accent is the colour of buttons, #rrggbb. It has to carry white text.
	// Empty means #1f5fd6.
	Accent string
	// Postal is the sender's address, which some laws want in the footer.
	Postal string
	// Support is where a person turns to, an https URL or a mail address.
	Support string
}

var hexColour = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)

func (b Brand) check() error {
	if b.Accent != "" && !hexColour.MatchString(b.Accent) {
		return fmt.Errorf("%w: Brand.Accent must be of the form #1f5fd6", ErrConfig)
	}
	for name, u := range map[string]string{"URL": b.URL, "Logo": b.Logo} {
		if u != "" && !publicURI(u) {
			return fmt.Errorf("%w: Brand.%s must be an https URL (http only for localhost)", ErrConfig, name)
		}
	}
	for name, s := range map[string]string{"Name": b.Name, "Postal": b.Postal, "Support": b.Support} {
		if reason := checkText(s); reason != "" {
			return fmt.Errorf("%w: Brand.%s %s", ErrConfig, name, reason)
		}
	}
	return nil
}

func (b Brand) withDefaults() Brand {
	if b.Accent == "" {
		b.Accent = "#1f5fd6"
	}
	return b
}

// view is the dot of every template.
type view struct {
	Data        any    // the kind's variables
	Name        string // the recipient's, neutralised; may be empty
	Locale      string
	Language    string // of Locale, such as "de"
	Brand       Brand
	Accent      htmltemplate.CSS // Brand.Accent, which has been checked
	Subject     string
	Preheader   string
	Unsubscribe string // the page's URL; empty for mail that isn't Lifecycle
	Stream      string
}

// view returns the dot for a mail of the kind, without what is rendered first.
func (d *definition) view(data any, locale string, brand Brand) *view {
	return &view{Data: data, Locale: locale, Language: language(locale), Brand: brand, Accent: htmltemplate.CSS(brand.Accent), Stream: d.stream}
}

// Rendered is a mail's content in one locale.
type Rendered struct {
	Subject, Preheader, Text, HTML string
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// render applies the templates, and completes v with what is rendered first.
func (c *compiled) render(v *view) (Rendered, error) {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	run := func(execute func() error) (string, error) {
		buf.Reset()
		if err := execute(); err != nil {
			// The error of a template can quote a value; its place is enough.
			return "", &DefinitionError{Kind: c.kind, Reason: "a template failed on its variables" + place(err)}
		}
		return buf.String(), nil
	}
	var out Rendered
	var err error
	if out.Subject, err = run(func() error { return c.subject.Execute(buf, v) }); err != nil {
		return out, err
	}
	out.Subject = oneLine(out.Subject)
	v.Subject = out.Subject
	if out.Preheader, err = run(func() error { return c.preheader.Execute(buf, v) }); err != nil {
		return out, err
	}
	out.Preheader = oneLine(out.Preheader)
	v.Preheader = out.Preheader
	if out.Text, err = run(func() error { return c.text.Execute(buf, v) }); err != nil {
		return out, err
	}
	out.Text = squeeze(out.Text)
	out.HTML, err = run(func() error { return c.html.Execute(buf, v) })
	return out, err
}

// place extracts "at line:column" from a template error.
func place(err error) string {
	var exec texttemplate.ExecError
	if errors.As(err, &exec) {
		return " in template " + strconv.Quote(exec.Name)
	}
	return ""
}

// oneLine joins white space and drops control characters: variables can carry
// what a header must not.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r >= 0x80 && r <= 0xa0 || r == '\u2028' || r == '\u2029' || r == '\uFFFD'
	}), " ")
}

// squeeze leaves at most one blank line, no trailing blanks, and no control
// characters.
func squeeze(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	blank := 0
	for line := range strings.SplitSeq(s, "\n") {
		if line = strings.TrimRight(line, " \t\r"); line == "--" {
			line = "-- " // RFC 3676, section 4.3: what follows is the signature
		}
		if line == "" {
			blank++
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
			if blank > 0 {
				b.WriteByte('\n')
			}
		}
		blank = 0
		if strings.IndexFunc(line, isControl) >= 0 {
			line = strings.Map(func(r rune) rune {
				if isControl(r) {
					return -1
				}
				return r
			}, line)
		}
		b.WriteString(line)
	}
	b.WriteByte('\n')
	return b.String()
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func textFuncs(locale string) texttemplate.FuncMap {
	return texttemplate.FuncMap{
		"date":   func(t time.Time) string { return formatDate(t, locale) },
		"number": func(n int64) string { return formatNumber(n, locale) },
		"meter": func(used, limit int64) string {
			return fmt.Sprintf("[%s%s] %d %%", strings.Repeat("#", share(used, limit)/5),
				strings.Repeat("-", 20-share(used, limit)/5), share(used, limit))
		},
		"mso":     func(string) string { return "" },
		"support": supportURL,
	}
}

func htmlFuncs(locale string) htmltemplate.FuncMap {
	return htmltemplate.FuncMap{
		"date":   func(t time.Time) string { return formatDate(t, locale) },
		"number": func(n int64) string { return formatNumber(n, locale) },
		"meter":  meterHTML,
		// mso writes a conditional comment for Outlook; html/template drops
		// comments from the source (golang.org/issue/14256). The argument is a
		// constant of the template, never data.
		"mso": func(s htmlConstant) htmltemplate.HTML {
			return htmltemplate.HTML("<!--[if mso]>" + string(s) + "<![endif]-->")
		},
		"support": supportURL,
	}
}

// preheaderFiller takes the place of {{filler}} in a layout: it keeps the
// body's first words out of an inbox's preview line.
var preheaderFiller = strings.Repeat("&zwnj;&nbsp;", 40)

func supportURL(s string) string {
	if strings.Contains(s, "://") {
		return s
	}
	return "mailto:" + s
}

// htmlConstant takes only untyped constants of a template: text/template
// converts a literal, and refuses a value of type string.
type htmlConstant string

func share(used, limit int64) int {
	if limit <= 0 || used >= limit {
		return 100
	}
	return int(max(used, 0) * 100 / limit)
}

// meterHTML draws a bar of two cells: the one picture that every client shows.
func meterHTML(used, limit int64) htmltemplate.HTML {
	n := share(used, limit)
	colour, label := "#1f5fd6", strconv.Itoa(n)+" %"
	if n >= 100 {
		colour = "#c0392b"
	} else if n >= 80 {
		colour = "#b7680b"
	}
	rest := ""
	if n < 100 {
		rest = fmt.Sprintf(`<td class="meter-rest" width="%d%%" style="height:10px;line-height:10px;font-size:0;background:#e3e6ea;border-radius:0 5px 5px 0">&nbsp;</td>`, 100-n)
	}
	radius := "5px"
	if rest != "" {
		radius = "5px 0 0 5px"
	}
	filled := ""
	if n > 0 {
		filled = fmt.Sprintf(`<td width="%d%%" style="height:10px;line-height:10px;font-size:0;background:%s;border-radius:%s">&nbsp;</td>`, n, colour, radius)
	}
	return htmltemplate.HTML(`<table role="img" aria-label="` + label + `" width="100%" cellpadding="0" cellspacing="0" style="margin:0 0 20px;border-collapse:separate"><tbody><tr>` +
		filled + rest + `</tr></tbody></table>`)
}

var months = map[string][12]string{
	"en": {"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"},
	"de": {"Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"},
}

// formatDate writes "2 January 2026", "2. Januar 2026", or 2026-01-02 for a
// language without a table.
func formatDate(t time.Time, locale string) string {
	t = t.UTC()
	language, _, _ := cutLocale(locale)
	names, ok := months[language]
	if !ok {
		return t.Format(time.DateOnly)
	}
	dot := ""
	if language == "de" {
		dot = "."
	}
	return strconv.Itoa(t.Day()) + dot + " " + names[t.Month()-1] + " " + strconv.Itoa(t.Year())
}

// formatNumber groups thousands: 10,000 or 10.000.
func formatNumber(n int64, locale string) string {
	sep := ","
	if language, _, _ := cutLocale(locale); language == "de" {
		sep = "."
	}
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + sep + s[i:]
	}
	return sign + s
}
