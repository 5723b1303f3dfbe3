package mailer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"time"
)

// maxDSN is the largest report that is read.
const maxDSN = 1 << 20

// ParseDSN reads a delivery status notification (RFC 3464), as a mail server
// sends it to the return path, into events for [Service.Record]: one for each
// recipient. A mail that is none, such as a vacation note, is an error.
func ParseDSN(r io.Reader) ([]Event, error) {
	msg, err := mail.ReadMessage(bufio.NewReader(io.LimitReader(r, maxDSN)))
	if err != nil {
		return nil, errors.New("mailer: delivery report: not a message")
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || !strings.EqualFold(params["report-type"], "delivery-status") {
		return nil, errors.New("mailer: delivery report: not a multipart/report of type delivery-status")
	}
	at, err := msg.Header.Date()
	if err != nil {
		at = time.Time{} // Record takes its own
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for {
		part, err := parts.NextPart()
		if err != nil {
			return nil, errors.New("mailer: delivery report: the delivery-status part is missing")
		}
		kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if kind == "message/delivery-status" || kind == "message/global-delivery-status" {
			return parseStatus(part, strings.Trim(msg.Header.Get("Message-Id"), "<> "), at)
		}
	}
}

// parseStatus reads the groups of fields: the first is about the message, each
// further one about a recipient.
func parseStatus(r io.Reader, id string, at time.Time) ([]Event, error) {
	fields := textproto.NewReader(bufio.NewReader(r))
	var events []Event
	for group := 0; ; group++ {
		h, err := fields.ReadMIMEHeader()
		if len(h) > 0 && h.Get("Final-Recipient") != "" {
			e := statusEvent(h)
			if e.At = at; id != "" {
				e.ID = fmt.Sprintf("%s/%d", id, group)
			}
			events = append(events, e)
		}
		if err != nil {
			if len(events) == 0 {
				return nil, errors.New("mailer: delivery report: names no recipient")
			}
			return events, nil
		}
	}
}

func statusEvent(h textproto.MIMEHeader) Event {
	_, address, _ := strings.Cut(h.Get("Final-Recipient"), ";")
	status, _, _ := strings.Cut(strings.TrimSpace(h.Get("Status")), " ")
	e := Event{Provider: "dsn", Email: strings.TrimSpace(address), Enhanced: status, Type: EventUnknown}
	switch strings.ToLower(strings.TrimSpace(h.Get("Action"))) {
	case "delivered", "relayed", "expanded":
		e.Type = EventDelivered
	case "delayed":
		e.Type, e.Reason = EventDeferred, RejectOther
	case "failed":
		e.Type, e.Reason = EventFailed, RejectOther
		outcome, fault := ClassifySMTP(0, status, "rcpt")
		switch {
		case fault == FaultRecipient && outcome == Permanent:
			e.Type, e.Reason = EventBounced, RejectInvalid
		case fault == FaultMailbox:
			e.Type, e.Reason = EventSoftBounced, RejectFull
		case fault == FaultSender || fault == FaultRate:
			e.Reason = RejectBlocked
		case strings.HasPrefix(status, "4."):
			e.Type, e.Reason = EventSoftBounced, RejectTimedOut
		}
	}
	return e
}
