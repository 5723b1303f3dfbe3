// Package problem writes RFC 9457 problem details, the one shape in which all
// handlers and middleware of this module answer errors.
package problem

import (
	"encoding/json"
	"net/http"
)

// ContentType is the media type of RFC 9457, section 3.
const ContentType = "application/problem+json"

// Details is a problem. Code is stable and made for programs; Detail says to a
// person what happened and what to do.
type Details struct {
	Status int
	Code   string
	Title  string // empty means the status text
	Detail string
	// Extra members, such as the plan that would help. A name that the other
	// fields use is ignored.
	Extra map[string]any
	// Errors are field errors of a 422.
	Errors []FieldError
}

// FieldError names a field of the request and what is wrong with it.
type FieldError struct {
	Field  string `json:"field"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Write answers with the problem. Headers that the caller has set stay, but
// the response can't be cached.
func Write(w http.ResponseWriter, d Details) {
	body := make(map[string]any, len(d.Extra)+6)
	for k, v := range d.Extra {
		body[k] = v
	}
	if d.Title == "" {
		d.Title = http.StatusText(d.Status)
	}
	body["type"] = "about:blank"
	body["title"] = d.Title
	body["status"] = d.Status
	body["code"] = d.Code
	delete(body, "detail")
	if d.Detail != "" {
		body["detail"] = d.Detail
	}
	delete(body, "errors")
	if len(d.Errors) > 0 {
		body["errors"] = d.Errors
	}
	b, err := json.Marshal(body)
	if err != nil {
		// Only an Extra value can fail to encode; the rest is worth sending.
		d.Extra = nil
		Write(w, d)
		return
	}
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	w.WriteHeader(d.Status)
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody to tell
}
