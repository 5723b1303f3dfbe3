package usage

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// maxIngest bounds the events of one request.
const maxIngest = 1000

// DecodeEvents reads events from a request's body, by its content type:
//
//   - application/json: an Event or an array of them
//   - application/cloudevents+json and -batch+json: CloudEvents 1.0
//   - application/json with ce- headers: a CloudEvent in binary mode
//
// Of a CloudEvent, type names the meter, subject the account, source and id
// make the ID, and data is an object whose "value" is the value and whose other
// members are the properties. Numbers keep their exact spelling.
func DecodeEvents(header http.Header, body []byte) ([]Event, error) {
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		mediaType = "application/json"
	}
	switch {
	case mediaType == "application/cloudevents+json":
		var ce cloudEvent
		if err := decode(body, &ce); err != nil {
			return nil, err
		}
		e, err := ce.event()
		return []Event{e}, err
	case mediaType == "application/cloudevents-batch+json":
		var list []cloudEvent
		if err := decode(body, &list); err != nil {
			return nil, err
		}
		if len(list) > maxIngest {
			return nil, invalid("%d events, at most %d", len(list), maxIngest)
		}
		events := make([]Event, len(list))
		for i, ce := range list {
			if events[i], err = ce.event(); err != nil {
				return nil, invalid("event %d: %v", i, err)
			}
		}
		return events, nil
	case header.Get("Ce-Specversion") != "":
		ce := cloudEvent{
			SpecVersion: header.Get("Ce-Specversion"), ID: header.Get("Ce-Id"), Source: header.Get("Ce-Source"),
			Type: header.Get("Ce-Type"), Subject: header.Get("Ce-Subject"), Time: header.Get("Ce-Time"), Data: body,
		}
		e, err := ce.event()
		return []Event{e}, err
	case mediaType != "application/json":
		return nil, invalid("content type %q is neither JSON nor a CloudEvent", mediaType)
	}
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		var events []Event
		if err := decode(body, &events); err != nil {
			return nil, err
		}
		if len(events) > maxIngest {
			return nil, invalid("%d events, at most %d", len(events), maxIngest)
		}
		return events, nil
	}
	var e Event
	if err := decode(body, &e); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// decode reads one JSON value and nothing behind it.
func decode(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return invalid("JSON: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return invalid("JSON: there is something behind the value")
	}
	return nil
}

// cloudEvent is a CloudEvent 1.0 in its JSON format.
type cloudEvent struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject"`
	Time        string          `json:"time"`
	Data        json.RawMessage `json:"data"`
}

func (ce cloudEvent) event() (Event, error) {
	if ce.SpecVersion != "1.0" {
		return Event{}, invalid("specversion %.10q: only CloudEvents 1.0 is understood", ce.SpecVersion)
	}
	if ce.ID == "" || ce.Source == "" || ce.Type == "" {
		return Event{}, invalid("a CloudEvent needs id, source and type")
	}
	// Its length keeps the source apart from the ID, whatever they contain.
	e := Event{
		ID: strconv.Itoa(len(ce.Source)) + ":" + ce.Source + ":" + ce.ID, Meter: ce.Type, Account: ce.Subject,
	}
	if ce.Time != "" {
		t, err := time.Parse(time.RFC3339Nano, ce.Time)
		if err != nil {
			return Event{}, invalid("time is not RFC 3339")
		}
		e.Time = t
	}
	if len(bytes.TrimSpace(ce.Data)) == 0 {
		return e, nil
	}
	if err := decode(ce.Data, &e.Properties); err != nil {
		return Event{}, err
	}
	if v, ok := e.Properties.Get("value"); ok {
		value, err := strconv.ParseInt(v.Text(), 10, 64)
		if !v.IsNumber() || err != nil {
			return Event{}, invalid("data.value must be a whole number")
		}
		e.Value = value
		e.Properties = slices.DeleteFunc(e.Properties, func(p Property) bool { return p.Name == "value" })
	}
	return e, nil
}
