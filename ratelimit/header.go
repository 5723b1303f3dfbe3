package ratelimit

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"
	"unsafe"
)

// Headers says which fields the middleware writes.
type Headers uint8

// Header sets; add them up.
const (
	// StandardHeaders are RateLimit and RateLimit-Policy of
	// draft-ietf-httpapi-ratelimit-headers-10.
	StandardHeaders Headers = 1 << iota
	// LegacyDelta are X-RateLimit-Limit, -Remaining and -Reset of the nearest
	// window, Reset in seconds from now.
	LegacyDelta
	// LegacyEpoch are the same with Reset in Unix time.
	LegacyEpoch
	// NoHeaders writes none but Retry-After.
	NoHeaders
)

// Names as net/http keeps them: written to the map directly, they aren't
// canonicalised at each response.
const (
	headerRateLimit  = "Ratelimit"
	headerPolicy     = "Ratelimit-Policy"
	headerRetryAfter = "Retry-After"
	headerLimit      = "X-Ratelimit-Limit"
	headerRemaining  = "X-Ratelimit-Remaining"
	headerReset      = "X-Ratelimit-Reset"
)

// rendered is what of a plan's responses is the same each time. The slices
// have no spare capacity, so that an append by a handler copies them.
type rendered struct {
	policy   []string
	items    [MaxWindows]string // `"minute";r=`
	problems [MaxWindows]problemText
}

// problemText is a problem's JSON: whole, and in parts for an upgrade between
// them.
type problemText struct {
	whole        []byte
	head, detail string
}

func render(p *Plan) rendered {
	var out rendered
	policy := ""
	for i, w := range p.windows {
		if !w.Shadow {
			if policy != "" {
				policy += ", "
			}
			policy += policyItem(&w)
			out.items[i] = `"` + w.Name + `";r=`
			if i > 0 && out.anyItem(i) {
				out.items[i] = ", " + out.items[i]
			}
		}
		head := `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Too Many Requests","status":429,"code":"rate_limited","violated-policies":["` + w.Name + `"]`
		subject := "The limit"
		if p.name != "" {
			head += `,"plan":` + quote(p.name)
			subject = "Plan " + strconv.Quote(p.name)
		}
		detail := subject + " allows " + amount(&w) + ", and they are used."
		out.problems[i] = problemText{head: head, detail: detail, whole: []byte(head + `,"detail":` + quote(detail) + "}\n")}
	}
	if policy != "" {
		out.policy = []string{policy}
	}
	return out
}

// anyItem reports whether a window before i is written.
func (r *rendered) anyItem(i int) bool {
	for _, item := range r.items[:i] {
		if item != "" {
			return true
		}
	}
	return false
}

// policyItem leaves w out when the window isn't a fixed number of seconds, as
// a month isn't.
func policyItem(w *Window) string {
	s := `"` + w.Name + `";q=` + strconv.FormatInt(w.Limit, 10)
	seconds := int64(0)
	switch {
	case w.Algorithm != Period && w.Per%time.Second == 0:
		seconds = int64(w.Per / time.Second)
	case w.Algorithm == Period && w.Unit == Day:
		seconds = 86400 * int64(w.Count)
	case w.Algorithm == Period && w.Unit == Week:
		seconds = 7 * 86400 * int64(w.Count)
	}
	if seconds > 0 {
		s += ";w=" + strconv.FormatInt(seconds, 10)
	}
	return s
}

// amount is a window in words: "10 per minute".
func amount(w *Window) string {
	s := strconv.FormatInt(w.Limit, 10) + " per "
	if w.Algorithm == Period {
		if w.Count > 1 {
			return s + strconv.Itoa(w.Count) + " " + w.Unit.String() + "s"
		}
		return s + w.Unit.String()
	}
	switch w.Per {
	case time.Second:
		return s + "second"
	case time.Minute:
		return s + "minute"
	case time.Hour:
		return s + "hour"
	}
	return s + w.Per.String()
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // a string always encodes
	}
	return string(b)
}

// fields is room for the values that change with each response, in one
// allocation.
type fields struct {
	rateLimit, retryAfter [1]string
	used                  int
	buf                   [120]byte
}

// take turns what was appended to the buffer into a string that shares its
// memory. Nothing writes that part of the buffer again, so the string doesn't
// change.
func (f *fields) take(b []byte) string {
	s := unsafe.String(unsafe.SliceData(b), len(b))
	if len(b) > 0 && len(b) <= len(f.buf)-f.used && unsafe.SliceData(b) == &f.buf[f.used] {
		f.used += len(b)
	}
	return s
}

// WriteHeaders writes the fields of a decision; the middleware does so by
// itself. Retry-After is written when the decision refuses and isn't Never.
func (d *Decision) WriteHeaders(h http.Header, which Headers) {
	plan := d.Plan()
	if plan == nil || plan.Unlimited() {
		return
	}
	if which == 0 {
		which = StandardHeaders
	}
	f := new(fields)
	if which&StandardHeaders != 0 && plan.render.policy != nil {
		h[headerPolicy] = plan.render.policy
		b := f.buf[:0]
		for i := range plan.rules {
			if item := plan.render.items[i]; item != "" {
				s := d.Window(i)
				b = append(b, item...)
				b = strconv.AppendInt(b, s.Remaining, 10)
				if s.Next > 0 {
					b = append(b, ";t="...)
					b = strconv.AppendInt(b, ceilSeconds(s.Next), 10)
				}
			}
		}
		f.rateLimit[0] = f.take(b)
		h[headerRateLimit] = f.rateLimit[:]
	}
	if which&(LegacyDelta|LegacyEpoch) != 0 {
		d.writeLegacy(h, which)
	}
	if wait := d.RetryAfter(); !d.Allowed() && wait != Never {
		b := strconv.AppendInt(f.buf[f.used:f.used], ceilSeconds(wait), 10)
		f.retryAfter[0] = f.take(b)
		h[headerRetryAfter] = f.retryAfter[:]
	}
}

func (d *Decision) writeLegacy(h http.Header, which Headers) {
	s, ok := d.Nearest()
	if !ok {
		return
	}
	reset := ceilSeconds(s.Reset)
	if which&LegacyEpoch != 0 {
		reset = (d.out.Now + s.Reset.Microseconds() + 999_999) / 1_000_000
	}
	h[headerLimit] = []string{strconv.FormatInt(s.Limit, 10)}
	h[headerRemaining] = []string{strconv.FormatInt(s.Remaining, 10)}
	h[headerReset] = []string{strconv.FormatInt(reset, 10)}
}

func ceilSeconds(d time.Duration) int64 {
	if d > math.MaxInt64-time.Second {
		return math.MaxInt64 / int64(time.Second)
	}
	return int64((d + time.Second - 1) / time.Second)
}
