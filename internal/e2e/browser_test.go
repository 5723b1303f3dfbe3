package e2e

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// browser is one tab of a fresh Chromium that watches what the page does
// wrong: violations of the policy, and requests to other hosts.
type browser struct {
	t      *testing.T
	ctx    context.Context
	origin string

	friends []string // other origins that it may go to

	mu         sync.Mutex
	violations []string
	foreign    []string
}

// newBrowser starts Chromium, or skips the test by name when it is missing
// (and fails it under CI=true).
func newBrowser(t *testing.T, origin string) *browser {
	t.Helper()
	path := os.Getenv("CHROMIUM")
	if path == "" {
		path = "/usr/bin/chromium"
	}
	if _, err := exec.LookPath(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no Chromium: %v: apt-get install chromium, or name it in CHROMIUM", err)
		}
		t.Skipf("skipped, no Chromium: %v: apt-get install chromium, or name it in CHROMIUM", err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("no-first-run", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.IgnoreCertErrors, chromedp.UserDataDir(t.TempDir()),
	)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	ctx, stopAllocator := chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(stopAllocator)
	ctx, stop := chromedp.NewContext(ctx)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx); stop() })
	b := &browser{t: t, ctx: ctx, origin: origin}
	require.NoError(t, chromedp.Listen(ctx, b.watch))
	_, err := chromedp.Call(ctx, audits.Enable, struct{}{})
	require.NoError(t, err)
	_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	require.NoError(t, err)
	b.screen(1280, false)
	return b
}

func (b *browser) watch(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *audits.EventIssueAdded:
		if ev.Issue.Details != nil && ev.Issue.Details.ContentSecurityPolicyIssueDetails != nil {
			d := ev.Issue.Details.ContentSecurityPolicyIssueDetails
			b.violations = append(b.violations, d.ViolatedDirective+" "+d.BlockedURL)
		}
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(ev.Request.URL)
		if err == nil && u.Scheme != "data" && u.Scheme+"://"+u.Host != b.origin && !slices.Contains(b.friends, u.Scheme+"://"+u.Host) {
			b.foreign = append(b.foreign, ev.Request.URL)
		}
	}
}

// clean asserts that nothing went wrong so far.
func (b *browser) clean() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.violations, "violations of the content security policy")
	require.Empty(b.t, b.foreign, "requests to other hosts")
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.fail(err)
	}
}

func (b *browser) fail(err error) {
	b.t.Helper()
	where, _ := chromedp.Run(b.ctx, chromedp.Location())
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	b.t.Fatalf("%v\nat %s:\n%s", err, where, text)
}

// open goes to a path and expects the status.
func (b *browser) open(path string, status int64) {
	b.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = b.origin + path
	}
	b.load(status, chromedp.Navigate(path))
}

// load runs steps that lead to a page with the status.
func (b *browser) load(status int64, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	r, err := chromedp.RunResponse(ctx, steps...)
	if err != nil {
		b.fail(err)
	}
	if r == nil {
		b.fail(errors.New("no document came"))
	}
	if r.Status != status {
		b.fail(errors.New("unexpected status " + r.StatusText))
	}
}

// button is the button or link with this text, on which a person would click.
func button(text string) string {
	return `//main//*[self::button or self::a][contains(normalize-space(.), "` + text + `")]`
}

// press clicks a button that leads to another page.
func (b *browser) press(text string) {
	b.t.Helper()
	b.load(200, chromedp.Click(chromedp.Search(button(text))))
}

// fill types into a field.
func (b *browser) fill(name, value string) {
	b.t.Helper()
	b.do(chromedp.SetValue(chromedp.CSS(`[name="`+name+`"]`), value))
}

// text is what a person reads in the page.
func (b *browser) text() string {
	b.t.Helper()
	s, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	if err != nil {
		b.fail(err)
	}
	return s
}

// sees asserts that the page says all of this.
func (b *browser) sees(texts ...string) {
	b.t.Helper()
	have := strings.Join(strings.Fields(b.text()), " ")
	for _, want := range texts {
		require.Contains(b.t, have, want)
	}
}

// screen sets the width of the window and the colour scheme.
func (b *browser) screen(width int64, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	opts := []chromedp.EmulateViewportOption{}
	if width < 500 {
		opts = append(opts, chromedp.EmulateMobile)
	}
	b.do(chromedp.EmulateViewport(width, 800, opts...))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
	require.NoError(b.t, err)
}

// shots writes pictures of the whole page at both widths and in both schemes,
// and asserts that nothing sticks out at the side.
func (b *browser) shots(dir, name string) {
	b.t.Helper()
	if dir == "" {
		return
	}
	require.NoError(b.t, os.MkdirAll(dir, 0o755))
	for _, v := range []struct {
		suffix string
		width  int64
		dark   bool
	}{{"1280-light", 1280, false}, {"1280-dark", 1280, true}, {"360-light", 360, false}, {"360-dark", 360, true}} {
		b.screen(v.width, v.dark)
		wide, err := chromedp.Run(b.ctx, chromedp.Evaluate[int64]("document.documentElement.scrollWidth"))
		require.NoError(b.t, err)
		if wide > v.width {
			who, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`[...document.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > 361 && !e.closest(".scroll")).map(e => e.tagName + "." + e.className).join(" ")`))
			require.NoError(b.t, err)
			b.t.Fatalf("%s is %d wide in a window of %d: %s", name, wide, v.width, who)
		}
		if v.width == 1280 || !v.dark { // the scheme's colours don't depend on the width
			b.accessible(name + "-" + v.suffix)
		}
		// A dialog stands in the window and not on the page.
		beyond, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`!document.querySelector("dialog[open]")`))
		require.NoError(b.t, err)
		fast := true
		size, err := chromedp.Call(b.ctx, page.GetLayoutMetrics, struct{}{})
		require.NoError(b.t, err)
		how := page.CaptureScreenshotParams{CaptureBeyondViewport: &beyond, OptimizeForSpeed: &fast}
		if beyond {
			how.Clip = &page.Viewport{Width: float64(v.width), Height: size.CSSContentSize.Height, Scale: 1}
		}
		shot, err := chromedp.Call(b.ctx, page.CaptureScreenshot, how)
		require.NoError(b.t, err)
		require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+"-"+v.suffix+".png"), shot.Data, 0o644))
	}
	b.screen(1280, false)
}
