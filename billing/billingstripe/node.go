package billingstripe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// node is a value somewhere in a JSON document. What is absent or null is the
// null node, and everything below it is null as well, so that a path of one API
// version reads as nothing in another. A value that is there but can't be read
// as what was asked for is never silently zero: the document remembers it as
// its error.
type node struct {
	doc  *document
	name string
	v    any
}

type document struct {
	body      []byte // as it came
	status    int    // of the answer that it came in
	requestID string
	err       error
}

// parse reads one JSON document.
func parse(body []byte) (node, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return node{}, errors.New("it is no JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return node{}, errors.New("something follows the JSON document")
	}
	return node{doc: &document{body: body}, name: "document", v: v}, nil
}

// fork returns the same value as a document of its own: its errors stay apart.
func (n node) fork() node {
	doc := *n.doc
	doc.err = nil
	n.doc = &doc
	return n
}

func (n node) null() bool { return n.v == nil }

// refuse remembers the first value that can't be read.
func (n node) refuse(want string) {
	if n.doc.err == nil {
		n.doc.err = fmt.Errorf("%q is not %s", n.name, want)
	}
}

// at follows a path of field names. Whatever isn't an object on the way, such
// as the ID of an object that wasn't expanded, ends in the null node.
func (n node) at(path ...string) node {
	for _, name := range path {
		object, _ := n.v.(map[string]any)
		n = node{n.doc, name, object[name]}
	}
	return n
}

// or returns n, or other if n is null.
func (n node) or(other node) node {
	if n.null() {
		return other
	}
	return n
}

// object reports whether the node is an object rather than an ID.
func (n node) object() bool {
	_, ok := n.v.(map[string]any)
	return ok
}

// text is a string; null is empty.
func (n node) text() string {
	switch v := n.v.(type) {
	case nil:
	case string:
		return v
	default:
		n.refuse("a string")
	}
	return ""
}

// id is the ID of an object, whether the object is expanded or not.
func (n node) id() string {
	switch v := n.v.(type) {
	case nil:
	case string:
		return v
	case map[string]any:
		return n.at("id").text()
	default:
		n.refuse("an ID or an object")
	}
	return ""
}

func (n node) flag() bool {
	switch v := n.v.(type) {
	case nil:
	case bool:
		return v
	default:
		n.refuse("a boolean")
	}
	return false
}

// number is an integer, written as a number or as a string.
func (n node) number() int64 {
	rat := n.rat()
	if rat == nil {
		return 0
	}
	if !rat.IsInt() || !rat.Num().IsInt64() {
		n.refuse("a 64-bit integer")
		return 0
	}
	return rat.Num().Int64()
}

// rat is a decimal number, written as a number or as a string; nil for null and
// the empty string.
func (n node) rat() *big.Rat {
	var text string
	switch v := n.v.(type) {
	case nil:
		return nil
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		n.refuse("a number")
		return nil
	}
	if text == "" {
		return nil
	}
	rat, ok := decimal(text)
	if !ok {
		n.refuse("a decimal number")
		return nil
	}
	return rat
}

// decimal reads a decimal number of a sane size. The bounds keep an exponent in
// a few bytes of input from becoming megabytes of digits.
func decimal(text string) (*big.Rat, bool) {
	const maxDigits, maxExponent = 64, 64
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(text), "e")
	if scientific {
		if e, err := strconv.Atoi(exponent); err != nil || e > maxExponent || e < -maxExponent {
			return nil, false
		}
	}
	digits := strings.TrimPrefix(mantissa, "-")
	if digits == "" || len(digits) > maxDigits || strings.Trim(digits, "0123456789.") != "" {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}

// time is an instant in UTC, written in seconds since 1970 or as RFC 3339.
func (n node) time() time.Time {
	if text, ok := n.v.(string); ok {
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return t.UTC()
		}
	}
	rat := n.rat()
	if rat == nil || rat.Sign() == 0 {
		return time.Time{}
	}
	const year9999 = 253402300799
	seconds := new(big.Int).Quo(rat.Num(), rat.Denom())
	if !seconds.IsInt64() || seconds.Int64() < 0 || seconds.Int64() > min(math.MaxInt64, year9999) {
		n.refuse("a time")
		return time.Time{}
	}
	return time.Unix(seconds.Int64(), 0).UTC()
}

// list is an array, or the page of a list object. More says that the page isn't
// the last.
func (n node) list() (nodes []node, more bool) {
	v := n.v
	if object, ok := v.(map[string]any); ok {
		v, more = object["data"], n.at("has_more").flag()
	}
	switch v := v.(type) {
	case nil:
	case []any:
		for _, element := range v {
			if element != nil {
				nodes = append(nodes, node{n.doc, n.name, element})
			}
		}
	default:
		n.refuse("a list")
	}
	return nodes, more
}

// dict is an object of strings, nil if there are none.
func (n node) dict() map[string]string {
	object, ok := n.v.(map[string]any)
	if !ok && !n.null() {
		n.refuse("an object")
	}
	if len(object) == 0 {
		return nil
	}
	dict := make(map[string]string, len(object))
	for name, v := range object {
		switch v := v.(type) {
		case nil:
		case string:
			dict[name] = v
		case json.Number:
			dict[name] = v.String()
		default:
			node{n.doc, name, v}.refuse("a string")
		}
	}
	return dict
}
