package ratelimitredis

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/ratelimit"
)

var errReply = errors.New("ratelimitredis: unexpected reply of the script")

// ask is one run of a script about one or more keys.
type ask struct {
	plain *script // nil for decide.lua
	calls []*call
	text  *redis.StringCmd   // of a plain script
	list  *redis.IntSliceCmd // of decide.lua
}

// planArgs are a plan with certain spans, as a script reads it.
type planArgs struct {
	spans *ratelimit.Spans
	text  any // a string, which needn't become an interface again and again
	len   int // numbers in it
}

// packed returns the plan as plain.lua reads it, and listed as decide.lua does.
// Calendar spans are the same for all keys for a day or more, so the last ones
// are kept.
func (d *decider) packed(spans *ratelimit.Spans) *planArgs {
	if p := d.pack.Load(); p != nil && p.spans == spans {
		return p
	}
	var room [4 * 8 * ratelimit.MaxWindows]byte
	b := room[:0]
	for i, r := range d.rules {
		b = appendPacked(b, d.ids[i], r.Limit)
		if r.Algorithm == ratelimit.Bucket {
			b = appendPacked(b, r.Interval)
		} else {
			b = appendPacked(b, spans[i].From, spans[i].To)
		}
	}
	p := &planArgs{spans: spans, text: string(b), len: len(b) / 8}
	d.pack.Store(p)
	return p
}

func (d *decider) listed(spans *ratelimit.Spans) *planArgs {
	if p := d.list.Load(); p != nil && p.spans == spans {
		return p
	}
	b := appendListed(nil, int64(len(d.rules)))
	for i, r := range d.rules {
		var shadow int64
		if r.Shadow {
			shadow = 1
		}
		var span ratelimit.Span
		if r.Algorithm == ratelimit.Period {
			span = spans[i]
		}
		b = appendListed(b, d.ids[i], r.Limit, r.Interval, shadow, span.From, span.To)
	}
	p := &planArgs{spans: spans, text: string(b), len: 1 + 6*len(d.rules)}
	d.list.Store(p)
	return p
}

// appendPacked appends numbers as Lua's struct library reads them: doubles,
// which hold integers below 2^53 exactly. A greater cost has no room anywhere.
func appendPacked(b []byte, numbers ...int64) []byte {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(n)))
	}
	return b
}

// number reads the i-th of packed numbers.
func number(s string, i int) int64 {
	s = s[8*i : 8*i+8]
	return int64(math.Float64frombits(uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56))
}

// appendListed appends numbers to a JSON list, each with a comma after it.
func appendListed(b []byte, numbers ...int64) []byte {
	for _, n := range numbers {
		b = append(strconv.AppendInt(b, n, 10), ',')
	}
	return b
}

// command makes the ask's command. With whole, the script goes along.
func (a *ask) command(ctx context.Context, whole bool) redis.Cmder {
	s := a.plain
	if s == nil {
		s = decideScript
	}
	args := s.args(whole, len(a.calls), 2)
	for _, c := range a.calls {
		args = append(args, c.key)
	}
	if a.plain == nil {
		a.list = redis.NewIntSliceCmd(ctx, append(args, a.listedArgs()...)...)
		a.list.SetFirstKeyPos(3)
		return a.list
	}
	plans, asked := a.packedArgs()
	a.text = redis.NewStringCmd(ctx, append(args, plans, asked)...)
	a.text.SetFirstKeyPos(3)
	return a.text
}

// begins says where in the arguments each plan of an ask begins.
type begins struct {
	at   map[*planArgs]int // of the plans before the last one
	last *planArgs
	size int
}

// of returns where a plan begins, and whether it is new.
func (b *begins) of(p *planArgs) (at int, isNew bool) {
	if p == b.last {
		return b.size - p.len, false
	}
	if at, ok := b.at[p]; ok {
		return at, false
	}
	if b.last != nil {
		if b.at == nil {
			b.at = map[*planArgs]int{}
		}
		b.at[b.last] = b.size - b.last.len
	}
	at = b.size
	b.last, b.size = p, b.size+p.len
	return at, true
}

// askedOnce is one request for one unit, by the plan that stands first.
var askedOnce any = string(appendPacked(nil, 1, 1, 1))

// packedArgs returns the arguments of plain.lua.
func (a *ask) packedArgs() (plans, asked any) {
	first := a.calls[0]
	plans = first.decider.packed(first.req.Spans).text
	if len(a.calls) == 1 && first.req.Cost == 1 && first.count == 1 {
		return plans, askedOnce
	}
	var where begins
	var several []byte
	b := make([]byte, 0, 3*8*len(a.calls))
	for i, c := range a.calls {
		p := c.decider.packed(c.req.Spans)
		at, isNew := where.of(p)
		if isNew && i > 0 {
			if several == nil {
				several = append(several, plans.(string)...)
			}
			several = append(several, p.text.(string)...)
		}
		b = appendPacked(b, int64(8*at+1), c.req.Cost, c.count) // struct counts bytes from 1
	}
	if several != nil {
		plans = string(several)
	}
	return plans, string(b)
}

// listedArgs returns the arguments of decide.lua.
func (a *ask) listedArgs() []any {
	var where begins
	list := make([]byte, 1, 256+24*len(a.calls))
	list[0] = '['
	var keys []byte
	for _, c := range a.calls {
		p := c.decider.listed(c.req.Spans)
		at, isNew := where.of(p)
		if isNew {
			list = append(list, p.text.(string)...)
		}
		keys = appendListed(keys, int64(at+1), int64(c.op), c.req.Cost, c.count)
	}
	list = append(list, keys...)
	list[len(list)-1] = ']' // instead of the last comma
	return []any{string(list), strconv.Itoa(where.size)}
}

// portable is what a plain script says on a server that can't run it, before it
// does anything.
const portable = "portable"

// err returns what became of the command.
func (a *ask) err() error {
	if a.plain != nil {
		return a.text.Err()
	}
	return a.list.Err()
}

// settle reads the reply.
func (a *ask) settle(ahead *aheads) {
	want := 1
	for _, c := range a.calls {
		want += c.decider.replyLen(a.plain != nil)
	}
	err := a.err()
	var text string
	var list []int64
	if err == nil && a.plain != nil {
		if text = a.text.Val(); len(text) != 8*want {
			err = errReply
		}
	} else if err == nil {
		if list = a.list.Val(); len(list) != want {
			err = errReply
		}
	}
	if err != nil {
		for _, c := range a.calls {
			c.fail(err)
		}
		return
	}
	at := 1
	for _, c := range a.calls {
		var v verdict
		if n := len(c.decider.rules); a.plain != nil {
			v.now, v.admitted = number(text, 0), number(text, at)
			for w := range n {
				v.used.Set(w, number(text, at+1+w))
			}
			if v.admitted < c.count {
				c.decider.explain(&v, &c.req)
			}
			at += 1 + n
		} else {
			v.now, v.admitted, v.over = list[0], list[at], list[at+1]
			for w := range n {
				v.used.Set(w, list[at+2+2*w])
				v.wait[w] = list[at+3+2*w]
			}
			at += 2 + 2*n
		}
		c.settle(&v, ahead)
	}
}

// replyLen is how many numbers a script returns about a key.
func (d *decider) replyLen(plain bool) int {
	if plain {
		return 1 + len(d.rules)
	}
	return 2 + 2*len(d.rules)
}

// verdict is what a script says about equal requests.
type verdict struct {
	now      int64
	admitted int64 // -1 when a span is not the present
	used     ratelimit.Used
	over     int64                       // bit i: window i refuses those not admitted
	wait     [ratelimit.MaxWindows]int64 // of those windows; -1 for ever
}

// explain adds to the verdict of a plain script which windows refuse, and for
// how long: it follows from the use.
func (d *decider) explain(v *verdict, req *ratelimit.Request) {
	if v.admitted < 0 {
		return
	}
	for w, r := range d.rules {
		used := v.used.Of(w)
		switch {
		case req.Cost > r.Limit:
			v.wait[w] = -1
		case r.Algorithm == ratelimit.Bucket:
			v.wait[w] = max(used+(req.Cost-r.Limit)*r.Interval, 0)
		case used+req.Cost > r.Limit:
			v.wait[w] = req.Spans[w].To - v.now
		}
		if v.wait[w] != 0 {
			v.over |= 1 << w
		}
	}
}

// outcome reads the verdict about the i-th of the requests.
func (d *decider) outcome(v *verdict, op ratelimit.Op, req *ratelimit.Request, i int64) (out ratelimit.Outcome, used ratelimit.Used) {
	out.Now = v.now
	if v.admitted < 0 {
		out.SetStale()
		return out, used
	}
	used = v.used
	if later := v.admitted - 1 - i; later > 0 {
		d.uncharge(&used, later*req.Cost) // those behind this one were charged after it
	}
	if i < v.admitted && d.merges && op == ratelimit.Take {
		return out, used // what the verdict says of waiting is about those refused
	}
	for w, r := range d.rules {
		if v.over&(1<<w) == 0 {
			continue
		}
		wait := v.wait[w]
		if wait < 0 {
			wait = ratelimit.WaitForever
		}
		out.SetOver(w, r.Shadow, wait)
	}
	return out, used
}

// uncharge takes units that were charged later out of what is used.
func (d *decider) uncharge(used *ratelimit.Used, units int64) {
	for w, r := range d.rules {
		n := units
		if r.Algorithm == ratelimit.Bucket {
			n *= r.Interval
		}
		used.Set(w, used.Of(w)-n)
	}
}
