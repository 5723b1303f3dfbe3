package stripesim

import (
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// form is one node of a decoded request: a leaf with text, or named children.
// Stripe's encoding is form encoding with brackets: items[0][price]=price_1,
// expand[]=customer, metadata[account]=42.
type form struct {
	text string
	leaf bool
	keys []string // the children's names, in the order of their first appearance
	kids map[string]*form
}

// maxFormFields bounds how many fields a request may have, and maxFormDepth
// how deep its brackets may nest.
const (
	maxFormFields = 2000
	maxFormDepth  = 8
)

// parseForm decodes a form-encoded text. Order is kept: an array written with
// empty brackets has the order in which it was sent.
func parseForm(encoded ...string) (*form, error) {
	root := &form{}
	fields := 0
	for _, text := range encoded {
		for text != "" {
			var pair string
			pair, text, _ = strings.Cut(text, "&")
			if pair == "" {
				continue
			}
			if fields++; fields > maxFormFields {
				return nil, badRequest("", "", "the request has more than %d fields", maxFormFields)
			}
			rawName, rawValue, _ := strings.Cut(pair, "=")
			name, err := url.QueryUnescape(rawName)
			if err != nil {
				return nil, badRequest("", "", "Invalid form encoding in a field's name")
			}
			value, err := url.QueryUnescape(rawValue)
			if err != nil {
				return nil, badRequest("", name, "Invalid form encoding in the value of %s", name)
			}
			path, ok := splitName(name)
			if !ok {
				return nil, badRequest("parameter_unknown", name, "Received unknown parameter: %s", name)
			}
			if !root.put(path, value) {
				return nil, badRequest("", name, "Invalid %s: it is given as a value and as a hash", name)
			}
		}
	}
	return root, nil
}

// splitName splits "items[0][price]" into its parts.
func splitName(name string) ([]string, bool) {
	head, rest, _ := strings.Cut(name, "[")
	if head == "" || strings.Contains(head, "]") {
		return nil, false
	}
	path := []string{head}
	if rest == "" {
		return path, !strings.Contains(name, "[")
	}
	for {
		part, tail, found := strings.Cut(rest, "]")
		if !found || strings.Contains(part, "[") || len(path) == maxFormDepth {
			return nil, false
		}
		path = append(path, part)
		if tail == "" {
			return path, true
		}
		if tail[0] != '[' {
			return nil, false
		}
		rest = tail[1:]
	}
}

func (f *form) put(path []string, value string) bool {
	if len(path) == 0 {
		if f.kids != nil {
			return false
		}
		f.text, f.leaf = value, true
		return true
	}
	if f.leaf {
		return false
	}
	if f.kids == nil {
		f.kids = map[string]*form{}
	}
	name := path[0]
	if name == "" {
		name = strconv.Itoa(len(f.keys))
	}
	kid, ok := f.kids[name]
	if !ok {
		kid = &form{}
		f.kids[name] = kid
		f.keys = append(f.keys, name)
	}
	return kid.put(path[1:], value)
}

// at returns the node under a dotted path, or nil.
func (f *form) at(path string) *form {
	for name := range strings.SplitSeq(path, ".") {
		if f == nil {
			return nil
		}
		f = f.kids[name]
	}
	return f
}

// has reports whether a parameter was sent, be it empty.
func (f *form) has(path string) bool { return f.at(path) != nil }

// cleared reports whether a parameter was sent as the empty text, with which
// Stripe unsets a field.
func (f *form) cleared(path string) bool {
	n := f.at(path)
	return n != nil && n.leaf && n.text == ""
}

// str returns a parameter's text; empty when it wasn't sent.
func (f *form) str(path string) string {
	if n := f.at(path); n != nil {
		return n.text
	}
	return ""
}

// int, bool and time read what check has accepted.
func (f *form) int(path string) int64 {
	n, _ := strconv.ParseInt(f.str(path), 10, 64) // checked before: see (*paramSpec).check
	return n
}

func (f *form) intOr(path string, otherwise int64) int64 {
	if !f.has(path) || f.cleared(path) {
		return otherwise
	}
	return f.int(path)
}

func (f *form) bool(path string) bool { return f.str(path) == "true" }

// list returns the elements of an array, in the order of their indexes.
func (f *form) list(path string) []*form {
	n := f.at(path)
	if n == nil {
		return nil
	}
	keys := slices.Clone(n.keys)
	slices.SortStableFunc(keys, func(a, b string) int {
		x, errX := strconv.Atoi(a)
		y, errY := strconv.Atoi(b)
		if errX != nil || errY != nil {
			return strings.Compare(a, b)
		}
		return x - y
	})
	out := make([]*form, 0, len(keys))
	for _, k := range keys {
		out = append(out, n.kids[k])
	}
	return out
}

// strings returns the texts of an array of texts.
func (f *form) strings(path string) []string {
	var out []string
	for _, n := range f.list(path) {
		out = append(out, n.text)
	}
	return out
}

// merge applies Stripe's rules for metadata: names not sent stay, an empty
// value removes its name, an empty hash removes all.
func (f *form) merge(path string, old map[string]string) map[string]string {
	n := f.at(path)
	if n == nil {
		return old
	}
	if n.leaf {
		return map[string]string{}
	}
	out := maps.Clone(old)
	if out == nil {
		out = map[string]string{}
	}
	for name, kid := range n.kids {
		if kid.text == "" {
			delete(out, name)
		} else {
			out[name] = kid.text
		}
	}
	return out
}

// hash returns a node's texts as a JSON object, for parts that the simulator
// keeps and returns as they came, such as addresses.
func (f *form) hash(path string, fields ...string) any {
	n := f.at(path)
	if n == nil || n.leaf {
		return nil
	}
	out := object{}
	for _, name := range fields {
		out[name] = optional(n.str(name))
	}
	return out
}

// canonical writes a form so that two requests with the same parameters, in
// whatever order they were sent, have the same text.
func (f *form) canonical(name string) string {
	if f.leaf {
		return strconv.Quote(name) + "=" + strconv.Quote(f.text) + ";"
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(f.kids)) {
		b.WriteString(f.kids[key].canonical(name + "[" + key + "]"))
	}
	return b.String()
}

// paramSpec is the description of one accepted parameter of an endpoint.
type paramSpec struct {
	path     []string // "[]" for an element of an array
	kind     string   // str, int, bool, time, dec, map, list, range, any
	enum     []string // a leading ~ marks a value that Stripe has and the simulator lacks
	required bool
}

// parseSpecs reads the compact description of an endpoint's parameters:
//
//	customer! items[].price items[].quantity:int trial_end:time|now proration_behavior:=none|always_invoice
//
// An exclamation mark says that the parameter is required; "time|now" is a
// time or the word; ":=" starts an enumeration.
func parseSpecs(text string) []paramSpec {
	var out []paramSpec
	for token := range strings.FieldsSeq(text) {
		var spec paramSpec
		name, kind, _ := strings.Cut(token, ":")
		name, spec.required = strings.CutSuffix(name, "!")
		if values, isEnum := strings.CutPrefix(kind, "="); isEnum {
			spec.kind, spec.enum = "enum", strings.Split(values, "|")
		} else {
			spec.kind = kind
			if kind == "" {
				spec.kind = "str"
			}
		}
		spec.path = strings.Split(strings.ReplaceAll(name, "[]", ".[]"), ".")
		out = append(out, spec)
	}
	return out
}

// checkForm refuses what the endpoint doesn't know, before it has any effect:
// a parameter that is missing in the description is an unsupported one, not
// an ignored one.
func checkForm(f *form, specs []paramSpec) error {
	for _, spec := range specs {
		if spec.required && len(spec.path) == 1 && (!f.has(spec.path[0]) || f.cleared(spec.path[0])) {
			return badRequest("parameter_missing", spec.path[0], "Missing required param: %s.", spec.path[0])
		}
	}
	return checkNode(f, nil, specs)
}

func checkNode(f *form, path []string, specs []paramSpec) error {
	for _, key := range f.keys {
		here := append(slices.Clone(path), key)
		matching := matchSpecs(specs, here)
		if len(matching) == 0 {
			return unsupported("parameter " + wireName(here))
		}
		kid := f.kids[key]
		var exact *paramSpec
		for i := range matching {
			if len(matching[i].path) == len(here) {
				exact = &matching[i]
			}
		}
		if exact != nil && (exact.kind == "map" || exact.kind == "any" || exact.kind == "list" || exact.kind == "range") {
			if err := checkBranch(kid, here, exact.kind); err != nil {
				return err
			}
			continue
		}
		if kid.leaf {
			if exact == nil {
				// The empty text clears a hash or an array.
				if kid.text == "" {
					continue
				}
				return badRequest("", wireName(here), "Invalid %s: must be a hash or an array", wireName(here))
			}
			if err := exact.checkValue(kid.text, wireName(here)); err != nil {
				return err
			}
			continue
		}
		if exact != nil && len(matching) == 1 {
			return badRequest("", wireName(here), "Invalid string: %s", wireName(here))
		}
		if err := checkNode(kid, here, specs); err != nil {
			return err
		}
	}
	return nil
}

// checkBranch checks parameters whose children's names are the caller's own.
func checkBranch(f *form, path []string, kind string) error {
	name := wireName(path)
	switch kind {
	case "map":
		if f.leaf && f.text != "" {
			return badRequest("", name, "Invalid %s: must be a hash", name)
		}
		if len(f.keys) > 50 {
			return badRequest("", name, "Metadata has %d keys; the most is 50", len(f.keys))
		}
		for key, kid := range f.kids {
			switch {
			case !kid.leaf:
				return badRequest("", name+"["+key+"]", "Invalid string: %s[%s]", name, key)
			case len(key) > 40:
				return badRequest("", name, "Metadata keys can have up to 40 characters, but you passed in a key with %d characters.", len(key))
			case len(kid.text) > 500:
				return badRequest("", name+"["+key+"]", "Metadata values can have up to 500 characters, but you passed in a value that is %d characters.", len(kid.text))
			}
		}
	case "list":
		if f.leaf && f.text != "" {
			return badRequest("", name, "Invalid array")
		}
		for key, kid := range f.kids {
			if !kid.leaf {
				return badRequest("", name+"["+key+"]", "Invalid string: %s[%s]", name, key)
			}
		}
	case "range":
		if f.leaf {
			return paramSpec{kind: "time"}.checkValue(f.text, name)
		}
		for key, kid := range f.kids {
			if !slices.Contains([]string{"gt", "gte", "lt", "lte"}, key) {
				return badRequest("parameter_unknown", name, "Received unknown parameter: %s[%s]", name, key)
			}
			if err := (paramSpec{kind: "time"}).checkValue(kid.text, name+"["+key+"]"); err != nil {
				return err
			}
		}
	}
	return nil
}

func matchSpecs(specs []paramSpec, path []string) []paramSpec {
	var out []paramSpec
	for _, spec := range specs {
		if len(spec.path) < len(path) {
			continue
		}
		ok := true
		for i, part := range path {
			if spec.path[i] == part {
				continue
			}
			_, err := strconv.Atoi(part)
			if spec.path[i] != "[]" || err != nil {
				ok = false
				break
			}
		}
		if ok {
			out = append(out, spec)
		}
	}
	return out
}

func (spec paramSpec) checkValue(text, name string) error {
	if text == "" && !spec.required {
		return nil
	}
	kind, word, _ := strings.Cut(spec.kind, "|")
	if word != "" && text == word {
		return nil
	}
	switch kind {
	case "int", "time":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			if kind == "time" {
				return badRequest("parameter_invalid_integer", name, "Invalid timestamp: must be an integer Unix time (got %q)", clip(text))
			}
			return badRequest("parameter_invalid_integer", name, "Invalid integer: %s", clip(text))
		}
		if kind == "time" && (n < 0 || n > maxTime) {
			return badRequest("", name, "Invalid timestamp: %d is out of range", n)
		}
		if kind == "int" && (n > maxAmount || n < -maxAmount) {
			return badRequest("", name, "Invalid integer: %d is out of range", n)
		}
	case "bool":
		if text != "true" && text != "false" {
			return badRequest("", name, "Invalid boolean: %s", clip(text))
		}
	case "dec":
		if _, err := parseDecimal(text); err != nil {
			return badRequest("parameter_invalid_integer", name, "Invalid decimal: %s", clip(text))
		}
	case "enum":
		if slices.Contains(spec.enum, "~"+text) {
			return unsupported("parameter " + name + "=" + text)
		}
		if !slices.Contains(spec.enum, text) {
			var known []string
			for _, v := range spec.enum {
				known = append(known, strings.TrimPrefix(v, "~"))
			}
			return badRequest("", name, "Invalid %s: must be one of %s", name, strings.Join(known, ", "))
		}
	case "str", "any":
		if len(text) > 5000 {
			return badRequest("", name, "Invalid string: %s is longer than 5000 characters", name)
		}
	}
	return nil
}

const (
	// maxAmount is Stripe's: amounts have at most twelve digits.
	maxAmount = 999_999_999_999
	// maxTime is the year 9999.
	maxTime = 253_402_300_799
)

// parseDecimal reads a decimal with at most twelve places, as Stripe's
// unit_amount_decimal has.
func parseDecimal(text string) (*big.Rat, error) {
	whole, frac, _ := strings.Cut(strings.TrimPrefix(text, "-"), ".")
	digits := whole + frac
	if len(whole) > 12 || len(frac) > 12 || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return nil, fmt.Errorf("stripesim: %q is no decimal", clip(text))
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, fmt.Errorf("stripesim: %q is no decimal", clip(text))
	}
	return r, nil
}

func wireName(path []string) string {
	if len(path) == 1 {
		return path[0]
	}
	return path[0] + "[" + strings.Join(path[1:], "][") + "]"
}

func clip(text string) string {
	if len(text) > 40 {
		return text[:40] + "…"
	}
	return text
}

// optional is nil for the empty text: null on the wire.
func optional(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// stamp is nil for 0: null on the wire.
func stamp(t int64) any {
	if t == 0 {
		return nil
	}
	return t
}
