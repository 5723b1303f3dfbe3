package mailer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailersmtp"
)

// startPostfix runs a Postfix of its own: STARTTLS on a free port, every
// recipient of example.test in one Maildir.
func startPostfix(t *testing.T) (port int, maildir string) {
	t.Helper()
	if _, err := exec.LookPath("postfix"); err != nil {
		t.Skip("skipped, no Postfix: apt-get install --no-install-recommends postfix")
	}
	owner, err := user.Lookup("postfix")
	if os.Geteuid() != 0 || err != nil {
		t.Skip("skipped: Postfix starts as root only")
	}
	dir, err := os.MkdirTemp("", "commerce-postfix-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	for _, sub := range []string{"etc", "queue", "data", "mail"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	run("chown", "postfix", filepath.Join(dir, "data"), filepath.Join(dir, "mail"))
	run("chmod", "755", dir)
	run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
		"-keyout", filepath.Join(dir, "etc/key.pem"), "-out", filepath.Join(dir, "etc/cert.pem"))
	main := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.example.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
maillog_file = %[1]s/log
maillog_file_prefixes = %[1]s
alias_maps =
virtual_mailbox_domains = example.test
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:%[2]s
virtual_gid_maps = static:%[3]s
virtual_minimum_uid = 1
smtpd_tls_cert_file = %[1]s/etc/cert.pem
smtpd_tls_key_file = %[1]s/etc/key.pem
smtpd_tls_security_level = encrypt
smtpd_recipient_restrictions = check_recipient_access inline:{ { nobody@example.test = 550 5.1.1 no such user } }, permit_mynetworks, reject
`, dir, owner.Uid, owner.Gid)
	master := fmt.Sprintf(`127.0.0.1:%d inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
`, port)
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run("postfix", "-c", filepath.Join(dir, "etc"), "start")
	t.Cleanup(func() {
		_ = exec.Command("postfix", "-c", filepath.Join(dir, "etc"), "stop").Run()
		_ = os.RemoveAll(dir)
	})
	return port, filepath.Join(dir, "mail", "inbox", "new")
}

// TestPostfixTakesTheMail sends every shipped kind in every locale to a real
// server, and reads what it delivered.
func TestPostfixTakesTheMail(t *testing.T) {
	port, maildir := startPostfix(t)
	transport, err := mailersmtp.New(mailersmtp.Config{Host: "127.0.0.1", Port: port, TLSConfig: &tls.Config{InsecureSkipVerify: true}, Hello: "client.example.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.Close()
	for range 200 {
		if err = transport.Check(t.Context()); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := mailer.Shipped(nil)
	if err != nil {
		t.Fatal(err)
	}
	svc, err := mailer.New(nil, transport, mailer.Config{From: mailer.Address{Name: "Exämple", Email: "hello@example.test"}, Secret: make([]byte, 32), Kinds: kinds.All(),
		PublicURL: "https://example.test/u"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	n := 0
	for _, locale := range []string{"en", "de"} {
		to := mailer.To{Account: "a", Email: "ada@example.test", Name: "Ada Lövelace", Locale: locale}
		for _, send := range []func() error{
			func() error {
				_, err := kinds.Welcome.Send(ctx, svc, to, mailer.Welcome{StartURL: "https://example.test"}, locale)
				return err
			},
			func() error {
				_, err := kinds.UpgradeReminder.Send(ctx, svc, to, mailer.UpgradeReminder{Used: 8, Limit: 10, Unit: "kolekts", ResetsAt: at, Plan: "Free", BetterPlan: "Pro", UpgradeURL: "https://example.test"}, locale)
				return err
			},
			func() error {
				_, err := kinds.PaymentFailed.Send(ctx, svc, to, mailer.PaymentFailed{Amount: "9,99 €", Plan: "Pro", RetryAt: at, UpdateURL: "https://example.test"}, locale)
				return err
			},
		} {
			if err := send(); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	_, err = kinds.Welcome.Send(ctx, svc, mailer.To{Email: "nobody@example.test"}, mailer.Welcome{StartURL: "https://example.test"}, "x")
	if err == nil || !strings.Contains(err.Error(), "permanent (recipient) at rcpt 550 5.1.1") {
		t.Fatalf("an unknown recipient gave %v", err)
	}
	var files []string
	for range 200 {
		if files, _ = filepath.Glob(filepath.Join(maildir, "*")); len(files) == n {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(files) != n {
		t.Fatalf("%d mails were delivered, want %d", len(files), n)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mail.ReadMessage(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get("Message-Id") == "" || !strings.HasSuffix(m.Header.Get("Message-Id"), "@example.test>") || m.Header.Get("Auto-Submitted") != "auto-generated" {
			t.Fatalf("headers: %v", m.Header)
		}
	}
	t.Logf("Postfix %s delivered %d of %d mails", version(), len(files), n)
}

func version() string {
	out, err := exec.Command("postconf", "-h", "mail_version").Output()
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(out))
}
