package stripesim

import (
	"reflect"
	"slices"
	"strings"
)

const (
	kindEvent    = "event"
	kindEndpoint = "webhook_endpoint"
)

// event is one entry of the events list. Its object is a snapshot: what the
// object was when the event happened.
type event struct {
	head
	typ      string
	object   object
	previous object // of an update: the fields that changed, as they were
	cause    cause
}

func (e *event) render(*Simulator) object {
	data := object{"object": e.object}
	if e.previous != nil {
		data["previous_attributes"] = e.previous
	}
	request := object{"id": optional(e.cause.requestID), "idempotency_key": optional(e.cause.idempotencyKey)}
	return object{
		"id": e.id, "object": kindEvent, "api_version": firstVersion, "created": e.created, "data": data,
		"livemode": false, "pending_webhooks": e.pending(), "request": request, "type": e.typ,
	}
}

func (e *event) pending() int64 { return 0 }

// emit records an event and queues it for the endpoints that want it.
func (s *Simulator) emit(typ string, of entity) *event { return s.emitDiff(typ, of, nil) }

func (s *Simulator) emitDiff(typ string, of entity, previous object) *event {
	return s.record(typ, s.plain(of), previous, of.base().clock)
}

func (s *Simulator) record(typ string, snapshot, previous object, clock string) *event {
	ev := &event{typ: typ, object: snapshot, previous: previous, cause: s.cause}
	s.add(kindEvent, s.newID("evt_"), clock, ev)
	s.events = append(s.events, ev)
	s.enqueue(ev)
	return ev
}

// change runs a change of an object and emits its "updated" event with the
// fields that differ; no difference, no event.
func (s *Simulator) change(typ string, of entity, f func()) {
	before := s.plain(of)
	f()
	s.emitChange(typ, of, before)
}

func (s *Simulator) emitChange(typ string, of entity, before object) {
	after := s.plain(of)
	previous := object{}
	for name, value := range before {
		if !reflect.DeepEqual(value, after[name]) {
			previous[name] = value
		}
	}
	for name := range after {
		if _, had := before[name]; !had {
			previous[name] = nil
		}
	}
	if len(previous) == 0 {
		return
	}
	s.record(typ, after, previous, of.base().clock)
}

func (s *Simulator) listEvents(c *call) (any, error) {
	types := c.form.strings("types")
	if t := c.form.str("type"); t != "" {
		types = append(types, t)
	}
	items := newest(s, kindEvent, func(e *event) bool {
		if len(types) > 0 && !slices.ContainsFunc(types, func(t string) bool { return matchType(t, e.typ) }) {
			return false
		}
		if c.form.has("delivery_success") {
			return s.delivered(e) == c.form.bool("delivery_success")
		}
		return e.created > s.at("")-30*86400
	})
	return &page{url: "/v1/events", items: within(c.form, entities(items)), window: c.form}, nil
}

func (s *Simulator) fetchEvent(c *call) (any, error) { return find[*event](s, kindEvent, c.id(), "") }

// matchType reports whether a pattern of enabled events, such as "*" or
// "invoice.*", names a type.
func matchType(pattern, typ string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(typ, prefix)
	}
	return pattern == typ
}
