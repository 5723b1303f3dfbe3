package mailertest

import (
	"strings"
	"testing"

	"github.com/kolekt/commerce/mailer"
)

// Inbox is a transport that keeps what it is given, for one test: tests that
// run side by side don't see each other's mail.
type Inbox struct {
	*mailer.Capture
	t testing.TB
}

// NewInbox returns an empty inbox. When the test has failed, its mails are
// listed, by kind and subject.
func NewInbox(t testing.TB) *Inbox {
	t.Helper()
	in := &Inbox{mailer.NewCapture(), t}
	t.Cleanup(func() {
		if t.Failed() {
			for _, m := range in.Messages("") {
				t.Logf("mailertest: mail %d: %s: %q", m.Number, m.Message.Kind, m.Message.Subject)
			}
		}
	})
	return in
}

// One returns the only mail of the kind to the address; the test fails unless
// there is exactly one.
func (in *Inbox) One(email, kind string) *mailer.Message {
	in.t.Helper()
	found := in.all(email, kind)
	if len(found) != 1 {
		in.t.Fatalf("mailertest: got %d mails of kind %q to that address, want 1", len(found), kind)
	}
	return found[0]
}

// None fails the test when there is mail of the kind to the address; an empty
// kind stands for any.
func (in *Inbox) None(email, kind string) {
	in.t.Helper()
	if n := len(in.all(email, kind)); n > 0 {
		in.t.Fatalf("mailertest: got %d mails of kind %q to that address, want none", n, kind)
	}
}

func (in *Inbox) all(email, kind string) []*mailer.Message {
	var found []*mailer.Message
	for _, m := range in.Messages(email) {
		if kind == "" || m.Message.Kind == kind {
			found = append(found, m.Message)
		}
	}
	return found
}

// Says fails the test unless both parts of the mail contain the text.
func (in *Inbox) Says(m *mailer.Message, text string) {
	in.t.Helper()
	if !strings.Contains(m.Text, text) {
		in.t.Errorf("mailertest: the text part of %s does not say %q:\n%s", m.Kind, text, m.Text)
	}
	if !strings.Contains(m.HTML, text) {
		in.t.Errorf("mailertest: the HTML part of %s does not say %q", m.Kind, text)
	}
}
