package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// customer is somebody in the year's story.
type customer struct {
	name, mail, plan string
	yearly           bool
	comes            int    // in which month
	then             string // what happens later: "cancel", "business" (a change), or nothing
	when             int
	kolekts          int // a month
}

var story = []customer{
	{"Ann Lee", "ann@example.com", "pro", false, 0, "business", 4, 9},
	{"Bogdan Wiśniewski", "bogdan@example.org", "pro", false, 0, "", 0, 6},
	{"Chidinma Okonkwo-Fairweather of the Long Name Society", "chidinma.okonkwo-fairweather@a-company-with-a-long-name.example.com", "business", true, 1, "", 0, 12},
	{"Dora", "dora@example.com", "pro", false, 1, "cancel", 3, 4},
	{"Eve", "eve@example.com", "pro", false, 2, "", 0, 5},
	{"Farid Haddad", "farid@example.net", "business", false, 2, "", 0, 9},
	{"Gudrún Jónsdóttir", "gudrun@example.is", "pro", true, 3, "", 0, 3},
	{"Hana", "hana@example.jp", "pro", false, 4, "", 0, 7},
	{"Li Ming", "li.ming@example.cn", "business", false, 5, "pro", 7, 8},
	{"Joaquín", "joaquin@example.es", "pro", false, 6, "", 0, 4},
	{"Kofi Mensah", "kofi@example.com", "enterprise", false, 6, "", 0, 11},
	{"Lena", "lena@example.de", "pro", false, 7, "", 0, 14},
	{"Mads", "mads@example.dk", "free", false, 7, "", 0, 9},
	{"Nora", "nora@example.no", "free", false, 8, "", 0, 0},
}

// TestAYearOfBusiness plays nine months on the simulated clock through the
// API, and looks at what the screens make of them.
func TestAYearOfBusiness(t *testing.T) {
	origin := serve(t)
	dir := pictures(t)
	people := map[string]*program{}
	pass := func(by string) {
		resp, err := http.PostForm(origin+"/dev/clock", url.Values{"by": {by}})
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 200, resp.StatusCode)
	}
	for month := range 9 {
		for _, c := range story {
			if c.comes == month {
				people[c.mail] = c.arrive(t, origin)
			}
			if c.comes <= month {
				c.month(t, people[c.mail], month)
			}
		}
		if month < 8 {
			pass("month")
		}
	}
	b := newBrowser(t, origin)
	// The last month goes by day for day, as a dashboard is looked at. A
	// renewal's invoice is a draft for an hour, so payments fail after.
	for day := range 26 {
		pass("day")
		for i, mail := range []string{"ann@example.com", "farid@example.net", "kofi@example.com"} {
			for n := range (day*7 + 3*i) % (5 + i) {
				people[mail].must("POST", "/api/v1/kolekts", map[string]any{"text": fmt.Sprintf("Thought %d of day %d. ", n, day)}, 201)
			}
		}
	}
	b.logIn("eve@example.com", password)
	b.replaceCard("4000 0000 0000 0341") // can be saved, then is declined
	b.leave()
	pass("week") // in which she is charged
	for i := range 9 {
		people["nora@example.no"].must("POST", "/api/v1/kolekts", map[string]any{"text": fmt.Sprintf("Thought %d.", i)}, 201)
	}
	tooFast(t, people["mads@example.dk"])
	b.until("/dev/mail", "8 of 10 kolekts used this month")

	b.logIn("ann@example.com", password)
	b.open("/account", 200)
	b.sees("Business", "$29.99 a month", "Kolekts a day")
	b.zoomed("in all")
	b.shots(dir, "account")
	b.open("/account/keys", 200)
	b.leave()

	b.logIn("mads@example.dk", password)
	b.open("/account/limits", 200)
	b.sees("Throttled requests", "Refused in the last 24 hours", "Choose Pro")
	b.shots(dir, "limits")
	b.open("/account/mail", 200)
	b.sees("Reminders and hints", "Always sent")
	b.shots(dir, "mail")
	b.leave()

	b.logIn("chidinma.okonkwo-fairweather@a-company-with-a-long-name.example.com", password)
	b.open("/account", 200)
	b.shots(dir, "account-long-name")
	b.leave()

	b.logIn(adminMail, adminWord)
	b.console(dir)
	b.clean()
}

func (c customer) arrive(t *testing.T, origin string) *program {
	p := newProgram(t, origin)
	p.must("POST", "/api/v1/auth/signup", map[string]any{"email": c.mail, "password": password, "name": c.name}, 201)
	if c.plan == "free" {
		return p
	}
	order := map[string]any{"plan_type": c.plan}
	if c.yearly {
		order["interval"] = "year"
	}
	page := p.must("POST", "/api/v1/payments/create-checkout-session", order, 201)["url"].(string)
	resp, err := p.http.PostForm(page, url.Values{"do": {"pay"}, "email": {c.mail}, "name": {c.name}, "number": {good}, "exp": {"12/40"}, "cvc": {"123"}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	return p
}

// month is what somebody does in a month.
func (c customer) month(t *testing.T, p *program, month int) {
	for i := range c.kolekts {
		text := strings.Repeat(fmt.Sprintf("Sentence %d of month %d says one thing. ", i+1, month+1), 3+7*(i%3))
		if status, out, err := p.send("POST", "/api/v1/kolekts", map[string]any{"text": text, "tone": []string{"neutral", "friendly", "playful"}[i%3]}); err != nil || status >= 500 {
			t.Fatalf("%s: %d %v %v", c.mail, status, out, err)
		}
	}
	if c.then == "" || c.when != month {
		return
	}
	switch c.then {
	case "cancel":
		p.must("POST", "/api/v1/payments/cancel", nil, 200)
	default:
		preview := p.must("POST", "/api/v1/payments/change-plan", map[string]any{"plan_type": c.then}, 200)["preview"].(map[string]any)
		p.must("POST", "/api/v1/payments/change-plan", map[string]any{"plan_type": c.then, "confirm": preview["confirm"]}, 200)
	}
}

// tooFast asks until it is refused, and on.
func tooFast(t *testing.T, p *program) {
	refused := 0
	for range 40 {
		status, _, err := p.send("GET", "/api/v1/usage", nil)
		require.NoError(t, err)
		if status == http.StatusTooManyRequests {
			refused++
		}
	}
	require.Positive(t, refused)
}

// zoomed uses the drawing in which a person can zoom.
func (b *browser) zoomed(says string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.Search(`//button[normalize-space()="90 days"]`)))
	b.sees("Drag over the drawing to zoom in", says)
	drawn, err := chromedp.Run(b.ctx, chromedp.Evaluate[int](`document.querySelectorAll(".zoomed canvas").length`))
	require.NoError(b.t, err)
	require.Positive(b.t, drawn)
}

// console walks the administrator's screens with what the year has left.
func (b *browser) console(dir string) {
	b.t.Helper()
	b.open("/admin", 200)
	b.sees("Monthly recurring revenue", "What moved it", "Dunning queue", "Cohorts", "eve@example.com")
	b.zoomed("from $")
	b.shots(dir, "admin-revenue")
	b.load(200, chromedp.Click(chromedp.Search(`//dl[contains(@class,"stats")]//div[dt[starts-with(normalize-space(),"MRR")]]//dd/a`)))
	b.sees("The rows behind it", "ann@example.com", "$29.99")
	b.shots(dir, "admin-rows")
	b.open("/admin/users", 200)
	b.sees("15 users")
	b.shots(dir, "admin-users")
	b.fill("q", "ann@")
	b.press("Search")
	b.load(200, chromedp.Click(chromedp.Search(`//main//td/a[contains(., "ann@example.com")]`)))
	b.sees("Timeline", "Billing: subscription changed")
	b.do(chromedp.Click(chromedp.Search(`//summary[normalize-space()="Credit"]`)))
	b.fill("amount", "5.00")
	b.do(chromedp.SetValue(chromedp.CSS("#credit-reason"), "An hour's outage on Monday"))
	b.press("Give the credit")
	b.sees("Credit: done.", "$5.00", "An hour's outage on Monday")
	b.shots(dir, "admin-user")
	b.open("/admin/audit", 200)
	b.sees("credit $5.00")
	b.shots(dir, "admin-audit")
	b.open("/admin/usage", 200)
	b.sees("Near a limit", "kofi@example.com", "mads@example.dk", "Too fast")
	near, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.querySelector("#near").innerText`))
	require.NoError(b.t, err)
	require.Contains(b.t, near, "nora@example.no")
	b.zoomed("in all")
	b.shots(dir, "admin-usage")
	b.open("/admin/drift", 200)
	b.sees("None: what we hold is what the provider holds.")
	b.shots(dir, "admin-drift")
	b.open("/admin/health", 200)
	b.sees("Webhook lag", "None: every event was handled.", "Access decisions")
	b.shots(dir, "admin-health")
	b.open("/admin/projections", 200)
	b.sees("Break-even", "Download as CSV")
	b.shots(dir, "admin-projections")
}

// TestOpenPagesChangeByThemselves looks at a page while things happen
// elsewhere.
func TestOpenPagesChangeByThemselves(t *testing.T) { livePages(t, newBrowser(t, serve(t))) }

func livePages(t *testing.T, b *browser) {
	const mail = "live@example.com"
	b.signUp(mail)
	b.open("/account", 200)
	b.sees("0 of 10", "Free")
	p := newProgram(t, b.origin)
	p.http.Transport = insecure.Transport
	p.must("POST", "/api/v1/auth/login", map[string]any{"email": mail, "password": password}, 200)
	p.must("POST", "/api/v1/kolekts", map[string]any{"text": "A thought from elsewhere."}, 201)
	b.becomes("1 of 10")
	page := p.must("POST", "/api/v1/payments/create-checkout-session", map[string]any{"plan_type": "pro"}, 201)["url"].(string)
	resp, err := p.http.PostForm(page, url.Values{"do": {"pay"}, "email": {mail}, "name": {"Ann"}, "number": {good}, "exp": {"12/40"}, "cvc": {"123"}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	b.becomes("$9.99 a month", "Cancel the plan")

	// The dialog shows what a change costs, above the page.
	b.open("/pricing", 200)
	b.do(chromedp.Click(chromedp.Search(button("Change to Business"))), chromedp.WaitVisible(chromedp.CSS("dialog[open] form")))
	b.sees("Upgrade to Business?", "Due now")
	b.shots(pictures(t), "dialog")
	b.do(chromedp.Click(chromedp.Search(`//dialog//a[contains(., "Not now")]`)))
	b.becomesNot("Upgrade to Business?")
	b.do(chromedp.Click(chromedp.Search(button("Change to Business"))), chromedp.WaitVisible(chromedp.CSS("dialog[open] form")))
	b.load(200, chromedp.Click(chromedp.Search(`//dialog//button[contains(., "Confirm the upgrade")]`)))
	b.sees("You are on Business now.")
	b.leave()

	b.logIn(adminMail, adminWord)
	b.open("/admin/health", 200)
	b.sees("Open pages")
	b.clean()
}

// becomes waits until the page says all of this, without loading it again.
func (b *browser) becomes(texts ...string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		have := strings.Join(strings.Fields(b.text()), " ")
		for _, want := range texts {
			if !strings.Contains(have, want) {
				return false
			}
		}
		return true
	}, 20*time.Second, 50*time.Millisecond, "%v", texts)
}

func (b *browser) becomesNot(text string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return !strings.Contains(b.text(), text) }, 20*time.Second, 50*time.Millisecond, text)
}
