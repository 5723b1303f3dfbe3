package mailersmtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/kolekt/commerce/mailer"
)

// letter is a mail on its way to the wire.
type letter struct {
	*mailer.Message
	buf  *bytes.Buffer
	body []byte // in Internet Message Format, once composed; in buf after room
}

// room is what a BDAT command takes at most.
const room = len("BDAT 9223372036854775807 LAST\r\n")

// compose makes the body, unless it is there from an earlier connection.
func (l *letter) compose() error {
	if l.body != nil {
		return nil
	}
	l.buf.Reset()
	l.buf.Write(make([]byte, room))
	if _, err := l.WriteTo(l.buf); err != nil {
		return err
	}
	l.body = l.buf.Bytes()[room:]
	return checkLines(l.body)
}

// payload is what follows the envelope: the message in one piece with its length
// before it, or with its dots doubled and its end marked.
func (l *letter) payload(chunking bool) []byte {
	if chunking {
		bdat := fmt.Appendf(nil, "BDAT %d LAST\r\n", len(l.body))
		p := l.buf.Bytes()[room-len(bdat) : room+len(l.body)]
		copy(p, bdat)
		return p
	}
	return dotStuff(l.body)
}

// large reports whether the size has to be known first: because it can be over
// the server's limit, or because a refusal by size (RFC 1870) saves sending it.
// Encoding makes an octet four at the most.
func (l *letter) large(limit int64) bool {
	octets := len(l.Text) + len(l.HTML)
	for _, a := range l.Attachments {
		octets += len(a.Data)
	}
	return octets > 64<<10 || limit > 0 && int64(4*octets+16<<10) > limit
}

// transact sends one mail in two round trips: MAIL, RCPT and DATA together
// (RFC 2920), then the message. A server that takes the message in one piece of
// known length (RFC 3030) gets BDAT with it, and no DATA before: it needn't look
// for the end, and nothing in the message can be taken for one. Without
// PIPELINING the commands go one by one. A message that isn't large is composed
// while the server answers the first.
//
// Where it ends decides what is known. Before the last byte of the message has
// been handed to the kernel, a broken connection means not sent; after it, only
// a reply can tell. stale says that the server closed the connection before it
// answered anything.
func (c *conn) transact(ctx context.Context, l *letter) (res mailer.Result, stale bool) {
	if l.NeedsUTF8() && !c.utf8 {
		return mailer.Result{Outcome: mailer.Permanent, Fault: mailer.FaultMessage, Stage: "mail", Enhanced: "5.6.7",
			Err: errors.New("mailersmtp: the address needs SMTPUTF8, which the server does not offer")}, false
	}
	if l.large(c.maxSize) {
		if err := l.compose(); err != nil {
			return mailer.Invalid(err), false
		}
		if c.maxSize > 0 && int64(len(l.body)) > c.maxSize {
			return mailer.Result{Outcome: mailer.Permanent, Fault: mailer.FaultMessage, Stage: "mail", Enhanced: "5.3.4",
				Err: fmt.Errorf("mailersmtp: the message has %d octets, the server takes %d", len(l.body), c.maxSize)}, false
		}
	}
	c.mails++
	// Until the message is complete, the end of ctx ends the transaction.
	stop := context.AfterFunc(ctx, func() {
		// An error here means that the connection is gone, which is as good.
		_ = c.raw.SetDeadline(time.Unix(1, 0))
	})
	defer stop()

	res, answered, ok := c.envelope(ctx, l)
	if !ok {
		return res, c.broken && !answered
	}
	if !stop() {
		c.broken = true
		return lost("data", ctx.Err()), false
	}
	if err := c.raw.SetDeadline(time.Now().Add(c.cfg.DataTimeout)); err != nil {
		c.broken = true
		return lost("data", err), false
	}
	payload := l.payload(c.chunking)
	if n, err := c.write(payload); err != nil {
		c.broken = true
		res = lost("body", err)
		// Unless the last octet went, which is the message's or that of the line
		// that ends it, the server can't have taken the mail.
		if n >= len(payload) {
			res.Outcome = mailer.Ambiguous
		}
		return res, false
	}
	code, text, err := c.text.ReadResponse(0)
	if err != nil {
		c.broken = true
		return mailer.Result{Outcome: mailer.Ambiguous, Fault: mailer.FaultNetwork, Stage: "reply",
			Err: fmt.Errorf("mailersmtp: the connection broke after the message and before its reply: %w", plain(err))}, false
	}
	c.dirty = c.chunking && code/100 != 2 // a refused BDAT leaves it undefined
	if code/100 == 2 {
		c.broken = code == 221
		return mailer.Result{Outcome: mailer.Sent, Stage: "reply", Code: code, Enhanced: enhanced(text), ProviderID: queueID(text)}, false
	}
	return c.refusal("body", code, text), false
}

// envelope gets the server to the point where it wants the message. ok is
// false when it did not get there; answered says that there was a reply.
func (c *conn) envelope(ctx context.Context, l *letter) (res mailer.Result, answered, ok bool) {
	stages := []string{"mail", "rcpt", "data"}
	commands := []string{"MAIL FROM:<" + l.Sender() + ">" + c.parameters(l), "RCPT TO:<" + l.To.Email + ">", "DATA"}
	if c.chunking {
		stages, commands = stages[:2], commands[:2]
	}
	if c.dirty {
		stages = append([]string{"reset"}, stages...)
		commands = append([]string{"RSET"}, commands...)
	}
	var refused bool
	for i, stage := range stages {
		if i == 0 || !c.pipelining {
			batch := commands[i]
			if c.pipelining {
				batch = strings.Join(commands, "\r\n")
			}
			if err := c.deadline(ctx); err != nil {
				c.broken = true
				return lost(stage, err), answered, false
			}
			if _, err := c.write([]byte(batch + "\r\n")); err != nil {
				c.broken = true
				return lost(stage, err), answered, false
			}
			if err := l.compose(); err != nil {
				c.broken = true
				return mailer.Invalid(err), true, false
			}
		} else if err := c.deadline(ctx); err != nil {
			c.broken = true
			return lost(stage, err), answered, false
		}
		code, text, err := c.text.ReadResponse(0)
		if err != nil {
			c.broken = true
			// The first refusal is the answer, whatever broke afterwards.
			if !refused {
				res = lost(stage, err)
				if ctx.Err() != nil {
					res.Err = fmt.Errorf("mailersmtp: %s: %w", stage, ctx.Err())
				}
			}
			return res, answered, false
		}
		good := code/100 == 2
		if stage == "data" {
			good = code == 354
		}
		switch {
		case good && stage == "data" && refused:
			// RFC 2920, section 3.1: the server waits for a message to nobody.
			// Hanging up is the one way that can't deliver anything.
			c.broken = true
		case good && stage == "mail":
			c.dirty = true
		case good && stage == "reset":
			c.dirty = false
		case !good && !refused:
			res, refused = c.refusal(stage, code, text), true
			if code == 421 && i == 0 && !answered {
				// The farewell to an idle connection: nothing was answered.
				return res, false, false
			}
		}
		answered = true
		if c.broken || refused && !c.pipelining {
			break
		}
	}
	return res, answered, !refused
}

// parameters are those of MAIL. The body is always 7 bit: composition encodes
// it. SMTPUTF8 is asked for only where an address needs it, since strict
// servers refuse to hand such mail on.
func (c *conn) parameters(l *letter) string {
	p := ""
	if c.size && l.body != nil {
		p += " SIZE=" + strconv.Itoa(len(l.body))
	}
	if l.NeedsUTF8() {
		p += " BODY=8BITMIME SMTPUTF8"
	}
	return p
}

// deadline gives the next command its time. A context that has ended wins.
func (c *conn) deadline(ctx context.Context) error {
	if err := c.raw.SetDeadline(time.Now().Add(c.cfg.VerbTimeout)); err != nil {
		return err
	}
	return ctx.Err()
}

// write sends p in one piece and says how much of it left for certain at most.
func (c *conn) write(p []byte) (int, error) {
	w := c.text.W
	n, err := w.Write(p)
	if err != nil {
		return n, err
	}
	if err := w.Flush(); err != nil {
		return len(p) - w.Buffered(), err
	}
	return len(p), nil
}

// refusal reads a negative reply.
func (c *conn) refusal(stage string, code int, text string) mailer.Result {
	if code == 421 {
		c.broken = true
	}
	enh := enhanced(text)
	outcome, fault := mailer.ClassifySMTP(code, enh, stage)
	if code < 400 {
		// A positive reply that makes no sense here: hang up, not sent.
		c.broken = true
		outcome, fault = mailer.Temporary, mailer.FaultTransport
	}
	return mailer.Result{Outcome: outcome, Fault: fault, Stage: stage, Code: code, Enhanced: enh,
		Err: fmt.Errorf("mailersmtp: %s refused: %d %s", stage, code, mailer.ScrubText(text))}
}

// lost is a connection that broke before the message was complete.
func lost(stage string, err error) mailer.Result {
	return mailer.Result{Outcome: mailer.Temporary, Fault: mailer.FaultNetwork, Stage: stage, Err: fmt.Errorf("mailersmtp: %s: %w", stage, plain(err))}
}

// plain keeps a malformed reply, which can quote an address, out of errors.
func plain(err error) error {
	var protocol textproto.ProtocolError
	if errors.As(err, &protocol) {
		return errors.New("the server's reply can't be read")
	}
	return err
}

// enhanced returns the code of RFC 3463 that a reply begins with, or "".
func enhanced(text string) string {
	word, _, _ := strings.Cut(text, " ")
	word, _, _ = strings.Cut(word, "\n")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("245", parts[0]) {
		return ""
	}
	for _, p := range parts[1:] {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || len(p) > 3 {
			return ""
		}
	}
	return word
}

// queueID finds the name that servers give to a message they have taken:
// "250 2.0.0 Ok: queued as 4C1D2".
func queueID(text string) string {
	_, id, ok := strings.Cut(text, "queued as ")
	if !ok {
		return ""
	}
	id, _, _ = strings.Cut(id, " ")
	id = strings.TrimRight(id, ".")
	if len(id) > 100 || strings.ContainsAny(id, "@<>\r\n") {
		return ""
	}
	return id
}

var crlf = []byte("\r\n")

// checkLines refuses lone CR and LF: servers that disagree on them are how one
// message is smuggled in another.
func checkLines(body []byte) error {
	pairs := bytes.Count(body, crlf)
	if bytes.Count(body, crlf[:1]) != pairs || bytes.Count(body, crlf[1:]) != pairs || bytes.IndexByte(body, 0) >= 0 || !bytes.HasSuffix(body, crlf) {
		return errors.New("mailersmtp: the message has a lone CR, a lone LF or a NUL, or no end of line at its end")
	}
	return nil
}

// dotStuff makes a message ready for DATA (RFC 5321, section 4.5.2), its end
// included.
func dotStuff(body []byte) []byte {
	out := make([]byte, 0, len(body)+len(body)/50+8)
	if len(body) > 0 && body[0] == '.' {
		out = append(out, '.')
	}
	for {
		i := bytes.Index(body, []byte("\r\n."))
		if i < 0 {
			break
		}
		out = append(out, body[:i+3]...)
		out = append(out, '.')
		body = body[i+3:]
	}
	return append(append(out, body...), ".\r\n"...)
}
