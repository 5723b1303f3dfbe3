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
// object was when the event happened, with the fields of all API versions.
type event struct {
	head
	typ    string
	object object
	before object // of an update: the object as it was
	cause  cause
}

func (e *event) render(s *Simulator) object { return s.eventIn(e, s.cfg.APIVersion) }

// eventIn renders an event in an API version.
func (s *Simulator) eventIn(e *event, version string) object {
	data := object{"object": fixed{s.shown(e.object, version)}}
	if e.before != nil {
		data["previous_attributes"] = fixed{s.previous(e, version)}
	}
	pending := int64(0)
	for _, to := range all[*endpoint](s, kindEndpoint, nil) {
		pending += int64(to.pending[e.id])
	}
	return object{
		"id": e.id, "object": kindEvent, "api_version": version, "created": e.created, "data": data, "livemode": false, "pending_webhooks": pending,
		"request": object{"id": optional(e.cause.requestID), "idempotency_key": optional(e.cause.idempotencyKey)}, "type": e.typ,
	}
}

// previous returns the fields that an update changed, as they were.
func (s *Simulator) previous(e *event, version string) object {
	after, before := s.shown(e.object, version), s.shown(e.before, version)
	out := object{}
	for name, value := range before {
		if !reflect.DeepEqual(value, after[name]) {
			out[name] = value
		}
	}
	for name := range after {
		if _, had := before[name]; !had {
			out[name] = nil
		}
	}
	return out
}

// shown renders a snapshot in an API version.
func (s *Simulator) shown(snapshot object, version string) object {
	out, err := s.present(snapshot, version, nil, "")
	if err != nil {
		panic("stripesim: rendering without expansion failed: " + err.Error()) // no input can lead here
	}
	return out.(object)
}

// emit records an event and queues it for the endpoints that want it.
func (s *Simulator) emit(typ string, of entity) *event {
	return s.record(typ, s.snapshot(of), nil, of.base().clock)
}

func (s *Simulator) record(typ string, snapshot, before object, clock string) *event {
	ev := &event{typ: typ, object: snapshot, before: before, cause: s.cause}
	s.add(kindEvent, s.newID("evt_"), clock, ev)
	s.enqueue(ev)
	return ev
}

// change runs a change of an object and emits its "updated" event with the
// fields that differ; no difference, no event.
func (s *Simulator) change(typ string, of entity, f func()) {
	before := s.snapshot(of)
	f()
	s.emitChange(typ, of, before)
}

func (s *Simulator) emitChange(typ string, of entity, before object) {
	after := s.snapshot(of)
	if !reflect.DeepEqual(before, after) {
		s.record(typ, after, before, of.base().clock)
	}
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
