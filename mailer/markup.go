package mailer

import (
	"errors"
	"fmt"
	"html"
	"regexp"
	"strings"
)

// source is a parsed Name.locale.txt: header lines, a blank line, the body.
type source struct {
	subject, preheader, body string
}

func parseSource(s string) (source, error) {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	head, body, ok := strings.Cut(s, "\n\n")
	if !ok {
		return source{}, errors.New("wants header lines, a blank line and a body")
	}
	src := source{body: strings.TrimSpace(body)}
	for line := range strings.SplitSeq(strings.TrimSpace(head), "\n") {
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case ok && name == "Subject":
			src.subject = value
		case ok && name == "Preheader":
			src.preheader = value
		default:
			return source{}, fmt.Errorf("header line %q: there are Subject and Preheader", line)
		}
	}
	switch {
	case src.subject == "":
		return source{}, errors.New("has no Subject")
	case src.preheader == "":
		return source{}, errors.New("has no Preheader: it is the line that inboxes show beside the subject")
	case src.body == "":
		return source{}, errors.New("has no text")
	}
	return src, nil
}

var (
	controlLine = regexp.MustCompile(`^\{\{-?\s*(if|else|end|range|with|break|continue|/\*)\b?.*\}\}$`)
	actionLine  = regexp.MustCompile(`^\{\{[^{}]*\}\}$`)
	blockAction = regexp.MustCompile(`^\{\{\s*(meter|mso|template|block)\b`)
	buttonLine  = regexp.MustCompile(`^\[([^\[\]]+)\]\(([^()\s]+|\{\{[^{}]*\}\})\)$`)
	inlineLink  = regexp.MustCompile(`\[([^\[\]]+)\]\(([^()\s]+|\{\{[^{}]*\}\})\)`)
	bold        = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	factLine    = regexp.MustCompile(`^\|\s*([^|]+?)\s*\|\s*([^|]+?)\s*\|$`)
	action      = regexp.MustCompile(`\{\{[^{}]*\}\}`)
)

// toHTML turns a body into the source of an html/template. Actions pass
// through untouched, everything else is escaped here, so that html/template
// sees well-formed markup and escapes the values by their place in it.
func toHTML(body string) string {
	var b strings.Builder
	open := ""
	shut := func() {
		b.WriteString(map[string]string{"p": "</p>\n", "ul": "</ul>\n", "table": "</tbody></table>\n"}[open])
		open = ""
	}
	start := func(block, tag string) bool {
		if open == block {
			return false
		}
		shut()
		b.WriteString(tag)
		open = block
		return true
	}
	for line := range strings.SplitSeq(body, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
			shut()
		case controlLine.MatchString(line):
			// A branch may hold rows or items of what is open around it; a
			// paragraph ends here.
			if open == "p" {
				shut()
			}
			b.WriteString(line)
		case actionLine.MatchString(line) && blockAction.MatchString(line):
			shut()
			b.WriteString(line + "\n")
		case strings.HasPrefix(line, "## "):
			shut()
			b.WriteString("<h2>" + inline(line[3:]) + "</h2>\n")
		case strings.HasPrefix(line, "# "):
			shut()
			b.WriteString("<h1>" + inline(line[2:]) + "</h1>\n")
		case strings.HasPrefix(line, "- "):
			start("ul", "<ul>\n")
			b.WriteString("<li>" + inline(line[2:]) + "</li>\n")
		case factLine.MatchString(line):
			m := factLine.FindStringSubmatch(line)
			start("table", `<table class="facts" role="presentation" cellpadding="0" cellspacing="0"><tbody>`+"\n")
			b.WriteString(`<tr><td class="label">` + inline(m[1]) + `</td><td class="value">` + inline(m[2]) + "</td></tr>\n")
		case buttonLine.MatchString(line):
			shut()
			m := buttonLine.FindStringSubmatch(line)
			b.WriteString(`<p class="action"><a class="button" href="` + m[2] + `">` + escape(m[1]) + "</a></p>\n")
		default:
			if !start("p", "<p>") {
				b.WriteByte('\n')
			}
			b.WriteString(inline(line))
		}
	}
	shut()
	return b.String()
}

// inline handles emphasis and links within a line.
func inline(s string) string {
	s = escape(s)
	s = inlineLink.ReplaceAllString(s, `<a href="$2">$1</a>`)
	return bold.ReplaceAllString(s, "<strong>$1</strong>")
}

// escape escapes what stands outside of actions.
func escape(s string) string {
	var b strings.Builder
	last := 0
	for _, at := range action.FindAllStringIndex(s, -1) {
		b.WriteString(html.EscapeString(s[last:at[0]]))
		b.WriteString(s[at[0]:at[1]])
		last = at[1]
	}
	b.WriteString(html.EscapeString(s[last:]))
	return b.String()
}

// toText turns a body into the source of a text/template: what the author
// wrote, with links spelt out.
func toText(body string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(body, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case controlLine.MatchString(line):
			// Without a line end of its own, so that a branch not taken
			// leaves no hole.
			b.WriteString(line)
			continue
		case strings.HasPrefix(line, "## "):
			line = plain(line[3:])
		case strings.HasPrefix(line, "# "):
			line = plain(line[2:])
		case factLine.MatchString(line):
			m := factLine.FindStringSubmatch(line)
			line = plain(m[1]) + ": " + plain(m[2])
		case buttonLine.MatchString(line):
			m := buttonLine.FindStringSubmatch(line)
			line = m[1] + ":\n" + m[2]
		default:
			line = plain(line)
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

func plain(s string) string {
	s = inlineLink.ReplaceAllString(s, "$1 ($2)")
	return bold.ReplaceAllString(s, "$1")
}

var (
	inlineBlock = regexp.MustCompile(`(?s)<style data-inline>(.*?)</style>\s*`)
	rule        = regexp.MustCompile(`(?s)([^{}]+)\{([^{}]*(?:\{\{[^{}]*\}\}[^{}]*)*)\}`)
	startTag    = regexp.MustCompile(`<([a-z][a-z0-9]*)((?:\s[^<>]*)?)>`)
	classAttr   = regexp.MustCompile(`\sclass="([^"]*)"`)
	styleAttr   = regexp.MustCompile(`\sstyle="([^"]*)"`)
	cssComment  = regexp.MustCompile(`(?s)/\*.*?\*/`)
)

// inlineStyles moves the rules of <style data-inline> into the elements of the
// template's source: mail clients drop style sheets, and doing it here costs
// nothing for each mail. Selectors are tag, .class or tag.class; a later rule
// wins over an earlier one, and an element's own style over both.
func inlineStyles(source string) (string, error) {
	type style struct{ tag, class, declarations string }
	var styles []style
	for _, block := range inlineBlock.FindAllStringSubmatch(source, -1) {
		css := cssComment.ReplaceAllString(block[1], "")
		for _, m := range rule.FindAllStringSubmatch(css, -1) {
			declarations := strings.Join(strings.Fields(m[2]), " ")
			for selector := range strings.SplitSeq(m[1], ",") {
				selector = strings.TrimSpace(selector)
				tag, class, _ := strings.Cut(selector, ".")
				if selector == "" || strings.ContainsAny(selector, " >:#[*+~@") || strings.Contains(class, ".") {
					return "", fmt.Errorf("selector %q: <style data-inline> knows tag, .class and tag.class", selector)
				}
				styles = append(styles, style{tag, class, declarations})
			}
		}
	}
	source = inlineBlock.ReplaceAllString(source, "")
	return startTag.ReplaceAllStringFunc(source, func(s string) string {
		m := startTag.FindStringSubmatch(s)
		tag, attrs := m[1], m[2]
		var classes []string
		if c := classAttr.FindStringSubmatch(attrs); c != nil {
			classes = strings.Fields(c[1])
		}
		var applied []string
		for _, st := range styles {
			if st.tag != "" && st.tag != tag || st.class != "" && !contains(classes, st.class) {
				continue
			}
			applied = append(applied, st.declarations)
		}
		if len(applied) == 0 {
			return s
		}
		if own := styleAttr.FindStringSubmatch(attrs); own != nil {
			applied = append(applied, own[1])
			attrs = styleAttr.ReplaceAllLiteralString(attrs, "")
		}
		declarations := cascade(applied)
		void := strings.HasSuffix(attrs, "/")
		attrs = strings.TrimSuffix(attrs, "/")
		out := "<" + tag + attrs + ` style="` + strings.Join(declarations, "; ") + `"`
		if void {
			out += " /"
		}
		return out + ">"
	}), nil
}

// cascade joins declarations; a later one of the same property takes the place
// of an earlier one.
func cascade(blocks []string) []string {
	var out []string
	at := map[string]int{}
	for declaration := range strings.SplitSeq(strings.Join(blocks, ";"), ";") {
		declaration = strings.TrimSpace(declaration)
		property, _, ok := strings.Cut(declaration, ":")
		if !ok {
			continue
		}
		if i, seen := at[property]; seen {
			out[i] = declaration
			continue
		}
		at[property] = len(out)
		out = append(out, declaration)
	}
	return out
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
