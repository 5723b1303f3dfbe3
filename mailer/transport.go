package mailer

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// Transport sends one message. It is implemented by mailersmtp, by the HTTP
// transports of mailerhttp, by [Capture], and by yours.
//
// Send answers with what is known, and with [Ambiguous] when that is nothing:
// the zero Result. It must call [Message.Validate] (or WriteTo, which does)
// before a byte leaves, honour ctx until the point where the outcome would
// become unknown, and be safe for concurrent use.
type Transport interface {
	Send(ctx context.Context, m *Message) Result
}

// TransportFunc is a Transport made of a function.
type TransportFunc func(ctx context.Context, m *Message) Result

// Send calls the function.
func (f TransportFunc) Send(ctx context.Context, m *Message) Result { return f(ctx, m) }

// Outcome is what is known about an attempt to send.
type Outcome int

// The outcomes.
const (
	Ambiguous Outcome = iota // it may have been sent
	Sent                     // the other side took responsibility
	Temporary                // it was not sent; trying again can help
	Permanent                // it was not sent; trying the same again can't help
)

func (o Outcome) String() string {
	return [...]string{"ambiguous", "sent", "temporary", "permanent"}[max(0, min(int(o), 3))]
}

// Fault says on whose side the reason lies, and so what to back off from.
type Fault int

// The faults.
const (
	FaultUnknown   Fault = iota
	FaultNetwork         // the connection
	FaultRate            // too much at once: back off from the destination
	FaultRecipient       // the mailbox does not exist: suppress the address
	FaultMailbox         // the mailbox is full or asleep
	FaultMessage         // our message or our commands: a bug
	FaultSender          // our reputation, policy or DNS: back off with the stream
	FaultTransport       // credentials, TLS or quota of the transport: pause it
)

func (f Fault) String() string {
	return [...]string{"unknown", "network", "rate", "recipient", "mailbox", "message", "sender", "transport"}[max(0, min(int(f), 7))]
}

// Result is the answer of a transport. The zero value is Ambiguous.
type Result struct {
	Outcome Outcome
	Fault   Fault
	// Stage is where it ended: "connect", "mail", "rcpt", "data", "body" or
	// "reply" for SMTP, "request" or "reply" for HTTP.
	Stage    string
	Code     int    // SMTP reply or HTTP status; 0 when there was none
	Enhanced string // RFC 3463, such as 5.1.1; empty when there was none
	// ProviderID is the message's ID on the other side, if it named one.
	ProviderID string
	// Transport names the one that answered.
	Transport string
	// RetryAfter is how long the other side asked to be left alone.
	RetryAfter time.Duration
	// Err is the cause, free of addresses. Nil when Sent.
	Err error
}

// String describes the result without any address.
func (r Result) String() string {
	s := r.Outcome.String()
	if r.Fault != FaultUnknown {
		s += " (" + r.Fault.String() + ")"
	}
	if r.Stage != "" {
		s += " at " + r.Stage
	}
	if r.Code != 0 {
		s += fmt.Sprintf(" %d", r.Code)
	}
	if r.Enhanced != "" {
		s += " " + r.Enhanced
	}
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s
}

// Invalid is the result for a message that [Message.Validate] refused.
func Invalid(err error) Result {
	return Result{Outcome: Permanent, Fault: FaultMessage, Stage: "compose", Err: err}
}

var angled = regexp.MustCompile(`<[^<>\s]*>|[^\s<>"'(),;:]+@[^\s<>"'(),;:]+`)

// ScrubText removes addresses from a text that another server wrote, and cuts
// it to 200 characters, so that it can stand in a log or a store.
func ScrubText(s string) string {
	s = angled.ReplaceAllString(oneLine(s), "<…>")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// ClassifySMTP reads a negative SMTP reply: the enhanced code first (RFC
// 3463), then the basic code and the stage ("connect", "mail", "rcpt", "data",
// "body").
func ClassifySMTP(code int, enhanced, stage string) (Outcome, Fault) {
	outcome := Permanent
	if code >= 400 && code < 500 || code == 0 && strings.HasPrefix(enhanced, "4.") {
		outcome = Temporary
	}
	switch code {
	case 421:
		return Temporary, FaultRate
	case 530, 534, 535, 538, 454:
		return Temporary, FaultTransport
	case 521, 556:
		// RFC 7504: the domain takes no mail at all.
		if stage == "rcpt" {
			return Permanent, FaultRecipient
		}
		return Temporary, FaultTransport
	}
	class, detail := "", ""
	if parts := strings.SplitN(enhanced, ".", 3); len(parts) == 3 {
		class, detail = parts[1], parts[2]
	}
	switch class {
	case "1":
		if detail == "7" || detail == "8" {
			return outcome, FaultSender
		}
		return outcome, FaultRecipient
	case "2":
		switch detail {
		case "1":
			return outcome, FaultRecipient
		case "3":
			return outcome, FaultMessage
		}
		return outcome, FaultMailbox
	case "3":
		if detail == "4" {
			return outcome, FaultMessage
		}
		return outcome, FaultNetwork
	case "4":
		return outcome, FaultNetwork
	case "5", "6":
		return outcome, FaultMessage
	case "7":
		if detail == "8" || detail == "9" {
			return Temporary, FaultTransport
		}
		if outcome == Temporary {
			return outcome, FaultRate
		}
		return outcome, FaultSender
	}
	switch {
	case stage == "connect":
		// A greeting or EHLO that refuses says nothing about the mail.
		return Temporary, FaultTransport
	case outcome == Temporary && code == 452:
		return outcome, FaultMailbox
	case outcome == Temporary:
		return outcome, FaultUnknown
	case code == 552:
		return outcome, FaultMailbox
	case stage == "rcpt" && (code == 550 || code == 551 || code == 553):
		return outcome, FaultRecipient
	case code >= 500 && code < 505 || code == 555:
		return outcome, FaultMessage
	}
	return outcome, FaultSender
}

// Failover tries transports in order: the next one is asked only when the
// earlier one certainly did not send and the message isn't at fault. An
// ambiguous outcome ends the row, so that a mail isn't sent twice.
func Failover(transports ...Transport) Transport {
	return TransportFunc(func(ctx context.Context, m *Message) Result {
		res := Result{Outcome: Temporary, Fault: FaultTransport, Stage: "connect", Err: fmt.Errorf("%w: Failover has no transports", ErrConfig)}
		for _, t := range transports {
			res = t.Send(ctx, m)
			elsewhere := res.Outcome == Temporary || res.Outcome == Permanent && res.Fault == FaultSender
			if !elsewhere || ctx.Err() != nil {
				return res
			}
		}
		return res
	})
}

// RoundRobin spreads messages over transports. One that fails temporarily is
// followed by the next, as with [Failover].
func RoundRobin(transports ...Transport) Transport {
	var next atomic.Uint64
	return TransportFunc(func(ctx context.Context, m *Message) Result {
		if len(transports) == 0 {
			return Failover().Send(ctx, m)
		}
		at := int((next.Add(1) - 1) % uint64(len(transports)))
		row := append(append([]Transport(nil), transports[at:]...), transports[:at]...)
		return Failover(row...).Send(ctx, m)
	})
}

// Redirect sends every message to one address instead, for staging: the
// original recipient stands masked in the header X-Original-To. Suppression
// and pacing still see the real address.
func Redirect(to Address, next Transport) Transport {
	return TransportFunc(func(ctx context.Context, m *Message) Result {
		changed := *m
		changed.Headers = append(append([]Header(nil), m.Headers...), Header{"X-Original-To", m.To.String()})
		changed.To = to
		return next.Send(ctx, &changed)
	})
}
