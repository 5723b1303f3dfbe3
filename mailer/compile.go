package mailer

import (
	"errors"
	htmltemplate "html/template"
	"io/fs"
	"maps"
	"reflect"
	"strconv"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
)

// parsed are a kind's templates of one locale as they were read and checked.
type parsed struct {
	kind, locale                   string
	subject, preheader, text, html map[string]*parse.Tree
}

// compiled are templates that can be rendered.
type compiled struct {
	kind                     string
	subject, preheader, text *texttemplate.Template
	html                     *htmltemplate.Template
}

// parseKind reads, checks and parses a kind's templates of one locale.
func parseKind(fsys fs.FS, kind, locale string, data reflect.Type) (*parsed, error) {
	file := kind + "." + locale + ".txt"
	fail := func(file string, err error) (*parsed, error) {
		return nil, &DefinitionError{Kind: kind, File: file, Reason: err.Error()}
	}
	raw, err := fs.ReadFile(fsys, file)
	if err != nil {
		return fail(file, errors.New("the text part is missing from Templates"))
	}
	src, err := parseSource(string(raw))
	if err != nil {
		return fail(file, err)
	}
	content := toHTML(src.body)
	htmlFile := kind + "." + locale + ".html"
	if own, err := fs.ReadFile(fsys, htmlFile); err == nil {
		content = string(own)
	}
	layout, textLayout := defaultLayout, defaultTextLayout
	if own, err := fs.ReadFile(fsys, "layout.html"); err == nil {
		layout = string(own)
	}
	if own, err := fs.ReadFile(fsys, "layout.txt"); err == nil {
		textLayout = string(own)
	}
	layout = strings.ReplaceAll(layout, "{{filler}}", preheaderFiller)
	html, err := inlineStyles(layout + `{{define "content"}}` + content + `{{end}}`)
	if err != nil {
		return fail("layout.html", err)
	}
	p := &parsed{kind: kind, locale: locale}
	for _, part := range []struct {
		name, file, source string
		into               *map[string]*parse.Tree
	}{
		{"subject", file, src.subject, &p.subject},
		{"preheader", file, src.preheader, &p.preheader},
		{"text", file, textLayout + `{{define "content"}}` + toText(src.body) + `{{end}}`, &p.text},
		{"html", htmlFile, html, &p.html},
	} {
		// HTML too is parsed as text: the checker wants trees without escapers.
		t, err := texttemplate.New(part.name).Funcs(textFuncs(locale)).Parse(part.source)
		if err != nil {
			return fail(part.file, err)
		}
		trees := map[string]*parse.Tree{}
		for _, one := range t.Templates() {
			trees[one.Name()] = one.Tree
		}
		if err := checkTypes(trees, part.name, data); err != nil {
			return fail(part.file, err)
		}
		*part.into = trees
	}
	return p, nil
}

// compile makes the templates for a brand; for nil, for any.
func (p *parsed) compile(brand *Brand) (*compiled, error) {
	known := p.known(brand)
	c := &compiled{kind: p.kind}
	for _, part := range []struct {
		name  string
		trees map[string]*parse.Tree
		into  **texttemplate.Template
	}{{"subject", p.subject, &c.subject}, {"preheader", p.preheader, &c.preheader}, {"text", p.text, &c.text}} {
		set := texttemplate.New("").Option("missingkey=error").Funcs(textFuncs(p.locale))
		for name, tree := range folded(part.trees, part.name, known, func(s string) string { return s }) {
			if _, err := set.AddParseTree(name, tree); err != nil {
				return nil, &DefinitionError{Kind: p.kind, File: p.kind + "." + p.locale + ".txt", Reason: err.Error()}
			}
		}
		*part.into = set.Lookup(part.name)
	}
	set := htmltemplate.New("").Option("missingkey=error").Funcs(htmlFuncs(p.locale))
	for name, tree := range folded(p.html, "html", known, htmltemplate.HTMLEscapeString) {
		if _, err := set.AddParseTree(name, tree); err != nil {
			return nil, &DefinitionError{Kind: p.kind, File: p.kind + "." + p.locale + ".html", Reason: err.Error()}
		}
	}
	c.html = set.Lookup("html")
	return c, nil
}

// known are the expressions that have the same value in each mail. What the
// application says of its brand is no input of anybody's: as HTML text, it can
// stand in a text and in a quoted attribute alike.
func (p *parsed) known(brand *Brand) map[string]string {
	known := map[string]string{".Locale": p.locale, ".Language": language(p.locale)}
	if brand != nil {
		maps.Copy(known, map[string]string{".Brand.Name": brand.Name, ".Brand.URL": brand.URL, ".Brand.Logo": brand.Logo,
			".Brand.Accent": brand.Accent, ".Accent": brand.Accent, ".Brand.Postal": brand.Postal, ".Brand.Support": brand.Support})
	}
	return known
}

// folded returns copies of the trees in which the root's known expressions and
// the conditions on them are decided. A template calls an escaper for each
// expression, which takes longer than a paragraph of text.
func folded(trees map[string]*parse.Tree, root string, known map[string]string, escape func(string) string) map[string]*parse.Tree {
	out := make(map[string]*parse.Tree, len(trees))
	for name, tree := range trees {
		out[name] = tree.Copy()
	}
	fold(out[root].Root, known, escape)
	return out
}

// fold leaves alone what with, range and other templates contain: the dot may be
// another one there.
func fold(list *parse.ListNode, known map[string]string, escape func(string) string) {
	if list == nil {
		return
	}
	nodes := make([]parse.Node, 0, len(list.Nodes))
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			if value, ok := known[n.Pipe.String()]; ok {
				nodes = append(nodes, &parse.TextNode{NodeType: parse.NodeText, Pos: n.Pos, Text: []byte(escape(value))})
				continue
			}
		case *parse.IfNode:
			fold(n.List, known, escape)
			fold(n.ElseList, known, escape)
			if yes, ok := decided(n.Pipe.String(), known); ok {
				if !yes {
					n.List = n.ElseList
				}
				if n.List != nil {
					nodes = append(nodes, n.List.Nodes...)
				}
				continue
			}
		}
		nodes = append(nodes, n)
	}
	list.Nodes = nodes
}

// decided decides a condition that is a known expression, or compares one with a
// constant.
func decided(condition string, known map[string]string) (yes, ok bool) {
	if value, ok := known[condition]; ok {
		return value != "", true
	}
	name, constant, _ := strings.Cut(strings.TrimPrefix(condition, "eq "), " ")
	value, ok := known[name]
	want, err := strconv.Unquote(constant)
	return value == want, ok && err == nil && strings.HasPrefix(condition, "eq ")
}
