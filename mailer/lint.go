package mailer

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Finding is something about a rendered mail that readers or receivers would
// stumble over.
type Finding struct {
	Rule string // "size", "alt", "https", "preheader", "escape", "missing", "text", "subject", "unsubscribe"
	Text string
}

// maxHTML is where Gmail clips a message.
const maxHTML = 102 << 10

var (
	image    = regexp.MustCompile(`(?i)<img\b[^>]*>`)
	hasAlt   = regexp.MustCompile(`(?i)\salt\s*=`)
	insecure = regexp.MustCompile(`(?i)(?:href|src)\s*=\s*["']http://([^"'/:]*)`)
	script   = regexp.MustCompile(`(?i)<(script|iframe|object|embed|form|link)\b`)
)

// Lint checks a rendered mail. The rules: at most 102 KB of HTML, an alt text
// on each image, https links only (loopback hosts aside), a subject of at most
// 150 characters, a preheader, a text part, no script or form, and none of the
// marks that Go's templates leave for a value they could not place
// ("#ZgotmplZ", "<no value>", "%!"). A mail that has no HTML part is fine.
func Lint(r Rendered) []Finding {
	var found []Finding
	add := func(rule, format string, args ...any) {
		found = append(found, Finding{rule, fmt.Sprintf(format, args...)})
	}
	if len(r.HTML) > maxHTML {
		add("size", "the HTML part has %d KB; Gmail clips it at 102", len(r.HTML)>>10)
	}
	for _, img := range image.FindAllString(r.HTML, -1) {
		if !hasAlt.MatchString(img) {
			add("alt", "an image has no alt text")
		}
	}
	for _, m := range insecure.FindAllStringSubmatch(r.HTML, -1) {
		if m[1] != "localhost" && m[1] != "127.0.0.1" {
			add("https", "a link or image uses http")
		}
	}
	if m := script.FindString(r.HTML); m != "" {
		add("markup", "%s> does not work in mail", m)
	}
	if r.Subject == "" {
		add("subject", "the subject is empty")
	}
	if n := utf8.RuneCountInString(r.Subject); n > 150 {
		add("subject", "the subject has %d characters; 150 is more than anybody reads", n)
	}
	if r.Preheader == "" {
		add("preheader", "the preheader is empty")
	}
	if strings.TrimSpace(r.Text) == "" {
		add("text", "the text part is empty")
	}
	for name, part := range map[string]string{"subject": r.Subject, "preheader": r.Preheader, "text part": r.Text, "HTML part": r.HTML} {
		for _, mark := range []string{"#ZgotmplZ", "ZgotmplZ", "<no value>", "&lt;no value&gt;", "%!"} {
			if strings.Contains(part, mark) {
				add("escape", "the %s has %q: a variable could not be placed", name, mark)
				break
			}
		}
	}
	return found
}

// prove renders every locale and sample, as a preview would.
func (d *definition) prove() error {
	for _, locale := range d.locales {
		c, err := d.parsed[locale].compile(nil)
		if err != nil {
			return err
		}
		for _, s := range d.samples {
			r, err := c.render(d.sampleView(s.data, locale, sampleBrand))
			if err != nil {
				return err
			}
			findings := Lint(r)
			if d.class == Lifecycle {
				for name, part := range map[string]string{"text part": r.Text, "HTML part": r.HTML} {
					if !strings.Contains(part, sampleUnsubscribe) {
						findings = append(findings, Finding{"unsubscribe", "the " + name + " of a lifecycle mail shows no {{.Unsubscribe}} link"})
					}
				}
			}
			if len(findings) > 0 {
				return &DefinitionError{Kind: d.name, File: d.name + "." + locale, Reason: s.name + ": " + findings[0].Text}
			}
		}
	}
	return nil
}

const sampleUnsubscribe = "https://example.com/mail/unsubscribe/sample"

var sampleBrand = Brand{
	Name: "Example", URL: "https://example.com", Postal: "Example Ltd, 1 Example Street, Exampletown",
	Support: "https://example.com/help",
}.withDefaults()

func (d *definition) sampleView(data any, locale string, brand Brand) *view {
	v := d.view(data, locale, brand)
	v.Name = "Ada Lovelace"
	if d.class == Lifecycle {
		v.Unsubscribe = sampleUnsubscribe
	}
	return v
}
