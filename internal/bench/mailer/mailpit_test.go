package mailer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailersmtp"
)

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestMailpitShowsTheMail sends to Mailpit and asks it what it makes of the
// mail. The binary comes from
//
//	go mod download -json github.com/axllent/mailpit@v1.30.5
//
// and go build in a copy of that folder; MAILPIT names it.
func TestMailpitShowsTheMail(t *testing.T) {
	binary := os.Getenv("MAILPIT")
	if binary == "" {
		t.Skip("skipped, no Mailpit: set MAILPIT to its binary")
	}
	smtpPort, webPort := freePort(t), freePort(t)
	cmd := exec.Command(binary, "--smtp", fmt.Sprintf("127.0.0.1:%d", smtpPort), "--listen", fmt.Sprintf("127.0.0.1:%d", webPort), "--disable-version-check")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	transport, err := mailersmtp.New(mailersmtp.Config{Host: "127.0.0.1", Port: smtpPort, TLS: mailersmtp.Insecure})
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
	svc, err := mailer.New(nil, transport, mailer.Config{From: mailer.Address{Name: "Kolekt", Email: "hello@example.test"}, Secret: make([]byte, 32), Kinds: kinds.All(),
		PublicURL: "https://example.test/u"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = kinds.UpgradeReminder.Send(context.Background(), svc, mailer.To{Email: "ada@example.test", Name: "Ada"}, mailer.UpgradeReminder{Used: 8, Limit: 10, Unit: "kolekts",
		ResetsAt: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Plan: "Free", BetterPlan: "Pro", UpgradeURL: "https://example.test"}, "k")
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, into any) string {
		t.Helper()
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", webPort, path))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %v", path, res.StatusCode, err)
		}
		if into != nil {
			if err := json.Unmarshal(b, into); err != nil {
				t.Fatal(err)
			}
		}
		return string(b)
	}
	var list struct {
		Messages []struct{ ID, Subject string }
	}
	get("/api/v1/messages", &list)
	if len(list.Messages) != 1 || list.Messages[0].Subject != "8 of 10 kolekts used this month" {
		t.Fatalf("Mailpit shows %+v", list.Messages)
	}
	id := list.Messages[0].ID
	if page := get("/view/"+id+".html", nil); !strings.Contains(page, "You have used 8 of 10 kolekts") {
		t.Fatal("Mailpit does not show the HTML part")
	}
	var check struct {
		Total struct {
			Supported, Partial, Unsupported float64
			Tests                           int
		}
	}
	get("/api/v1/message/"+id+"/html-check", &check)
	t.Logf("Mailpit's HTML check: %.1f %% supported, %.1f %% partly, %.1f %% not, of %d tests", check.Total.Supported, check.Total.Partial, check.Total.Unsupported, check.Total.Tests)
	if shot := os.Getenv("MAILPIT_HOLD"); shot != "" {
		_ = os.WriteFile(shot, fmt.Appendf(nil, "http://127.0.0.1:%d/view/%s.html", webPort, id), 0o644)
		time.Sleep(20 * time.Second)
	}
}
