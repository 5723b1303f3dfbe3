package pages_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/examples/kolekt/internal/pages"
)

func plans() []pages.PlanCard {
	return []pages.PlanCard{
		{ID: "free", Name: "Free", Blurb: "To try it, for as long as you like.", Price: "$0", Features: []string{"10 kolekts a month", "10 requests a minute", "Posts of up to 500 characters"}, Current: true},
		{ID: "pro", Name: "Pro", Blurb: "For people who publish every week.", Price: "$9.99", Interval: "month", Features: []string{"100 kolekts a month", "100 requests a minute", "API keys"}, Featured: true, Action: &pages.Action{Text: "Choose Pro", Post: true, Href: "/checkout", Plan: "pro"}},
		{ID: "business", Name: "Business", Blurb: "For teams with an editorial calendar.", Price: "$29.99", Interval: "month", Features: []string{"1,000 kolekts a month", "500 requests a minute", "Usage as CSV"}, Action: &pages.Action{Text: "Choose Business", Post: true, Href: "/checkout", Plan: "business", Quiet: true}},
		{ID: "enterprise", Name: "Enterprise", Blurb: "For platforms that post for others.", Price: "$99.99", Interval: "month", Features: []string{"10,000 kolekts a month", "2,000 requests a minute", "A person to call"}, Action: &pages.Action{Text: "Choose Enterprise", Post: true, Href: "/checkout", Plan: "enterprise", Quiet: true}},
	}
}

func samples() map[string]pages.Page {
	ann := &pages.Visitor{Name: "Ann Lee", Email: "ann@example.com", Plan: "Free", Admin: true}
	dev := &pages.Dev{Simulated: true, Ephemeral: true, Mails: 2}
	pricing := pages.Pricing{Plans: plans(), Currency: "US dollars"}
	near := pages.Meter{Name: "Kolekts", Used: 8, Limit: 10, UsedText: "8", LimitText: "10", Note: "Starts again on 1 March", Forecast: "About 14 by then", ForecastN: 14}
	full := pages.Meter{Name: "Kolekts", Used: 10, Limit: 10, UsedText: "10", LimitText: "10", Note: "Starts again on 1 March 2026"}
	text := "Some ideas don't fit in one post. They arrive with their reasons, their examples and their doubts, and each of them wants a little room."
	days := make([]string, 30)
	now, before := make([]float64, 30), make([]float64, 30)
	for i := range days {
		days[i] = fmt.Sprintf("%d Feb", i+1)
		now[i], before[i] = float64((i*7+3)%9), float64((i*5+1)%7)
	}
	months := []string{"Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"}
	dollars := func(v float64) string { return fmt.Sprintf("$%.0f", v) }
	mrr := &pages.Chart{Title: "Monthly recurring revenue", Takeway: "$1,240 now, up by 12 % in a month.", Labels: months, Format: dollars, Series: []pages.Series{{Name: "MRR", Class: "a", Values: []float64{120, 180, 260, 310, 400, 520, 610, 700, 820, 960, 1100, 1240}}}}
	moves := &pages.Chart{Title: "What moved it", Takeway: "More came than went in each month.", Labels: months, Format: dollars, Series: []pages.Series{
		{Name: "New", Class: "a", Values: []float64{60, 70, 90, 60, 100, 140, 110, 120, 140, 170, 180, 190}},
		{Name: "Expansion", Class: "b", Values: []float64{0, 10, 20, 20, 20, 20, 30, 20, 30, 20, 30, 20}},
		{Name: "Contraction", Class: "d", Values: []float64{0, -5, -10, 0, -10, -10, -10, -20, -20, -10, -30, -20}},
		{Name: "Churn", Class: "e", Values: []float64{0, -10, -20, -30, -20, -30, -40, -30, -30, -40, -40, -50}},
	}}
	return map[string]pages.Page{
		"home":    {Title: "Long thoughts, in good order", Data: pages.Home{Sample: []string{text + "\n\n1/3", "So the thread begins: one thought a post, in the order in which you had them, cut where a breath would be.\n\n2/3", "And at the end a question. What would you have said in 500 characters?\n\n3/3"}, Pricing: pricing}, Dev: dev},
		"pricing": {Title: "Pricing", Nav: "pricing", Visitor: ann, Data: pricing, Dev: dev},
		"signup":  {Title: "Start free", Data: pages.Form{Values: map[string]string{"email": "ann@"}, Errors: map[string]string{"email": "The address is not one that mail can be sent to."}}},
		"login":   {Title: "Log in", Nav: "login", Data: pages.Form{}},
		"compose": {Title: "Write", Nav: "kolekts", Visitor: ann, Data: pages.Compose{Sample: text, Meter: near, Tones: []pages.Tone{{ID: "neutral", Name: "Neutral", Example: "1/3", Selected: true}, {ID: "professional", Name: "Professional", Example: "(1 of 3)"}, {ID: "friendly", Name: "Friendly", Example: "1/3, read on"}, {ID: "playful", Name: "Playful", Example: "1/3 ↓"}}, List: []pages.KolektRow{{ID: "1", Title: "Some ideas don't fit in one post. They arrive with their reasons", When: "today", Posts: 3, Score: 72}, {ID: "2", Title: "Notes on a quiet week", When: "yesterday", Posts: 1, Score: 60}}}, Dev: dev},
		"kolekt":  {Title: "Kolekt", Nav: "kolekts", Visitor: ann, Data: pages.Kolekt{Posts: []pages.Post{{Number: 1, Text: text + "\n\n1/2", Characters: 136, Image: "https://example.com/a.png"}, {Number: 2, Text: text + "\n\n2/2", Characters: 136}}, When: "23 November 2026", Characters: "812", Tone: "Neutral", Score: 72, Factors: []pages.ScoreFactor{{Name: "A short first sentence", Points: 25, Max: 25}, {Name: "Images", Points: 0, Max: 15, Advice: "add an image"}}}},
		"limit":   {Title: "Limit reached", Nav: "kolekts", Visitor: ann, Data: pages.Limit{Reason: "You have made all 10 kolekts of this month", Until: "They start again on 1 March 2026. Or go on now with Pro.", Now: full, Plan: &plans()[1], Gain: []string{"100 kolekts a month instead of 10", "100 requests a minute instead of 10"}}, Dev: dev},
		"return":  {Title: "Thank you", Visitor: ann, Data: pages.Return{State: "paid", Plan: "Pro", Gains: []string{"100 kolekts a month", "100 requests a minute"}}},
		"account": {Title: "Account", Nav: "account", Visitor: ann, Dev: dev, Data: pages.Account{
			Banner:   &pages.Notice{Kind: "bad", Text: "The last payment failed. Your plan goes on until 8 March.", Link: &pages.Link{Href: "/account/portal", Text: "Change the card"}},
			Plan:     pages.Subscription{Name: "Pro", Price: "$9.99 a month", Badge: pages.Badge{Text: "Active", Kind: "good"}, Next: "Next charge: $9.99 on 1 March 2026.", Since: "Since 1 February 2026.", Features: plans()[1].Features, CanUpgrade: true, CanCancel: true, CanPortal: true},
			Now:      pages.UsageNow{Meters: []pages.Meter{near, {Name: "Characters", Used: 12000, Limit: -1, UsedText: "12,000", LimitText: "unlimited"}}, Rate: "100 requests a minute.", Refused: "3 requests were refused."},
			CSVPlan:  "Business",
			Chart:    &pages.Chart{Title: "Kolekts a day", Takeway: "118 in 30 days, 12 % more than in the 30 days before.", Labels: days, Series: []pages.Series{{Name: "This period", Class: "a", Values: now}}, Compare: &pages.Series{Name: "The one before", Values: before}, CSV: "/account/usage.csv", Help: "/definitions#usage", Zoom: &pages.Zoom{From: 1767225600, Values: now, Before: 30, Days: 30, Name: "Kolekts </script><script>alert(1)</script>"}},
			Stats:    []pages.Stat{{Label: "Kolekts", Value: "118", Note: "in 30 days"}, {Label: "Posts", Value: "402"}, {Label: "Characters", Value: "143,220"}, {Label: "Average score", Value: "71", Help: "/definitions#score"}},
			Invoices: []pages.Invoice{{Number: "KOL-0002", Date: "1 February 2026", Amount: "$9.99", Badge: pages.Badge{Text: "Paid", Kind: "good"}, Hosted: "/x", PDF: "/y"}},
		}},
		"change": {Title: "Upgrade", Visitor: ann, Data: pages.Change{From: plans()[1], To: plans()[2], Lines: []pages.ChangeLine{{Text: "Unused time on Pro", Amount: "-$4.83"}, {Text: "Remaining time on Business", Amount: "$14.51"}}, Next: "Due now", Due: "$9.68"}},
		"admin": {Title: "Revenue", Nav: "admin", Visitor: ann, Data: pages.Admin{Tab: "revenue", MRR: mrr, Movements: moves,
			Stats:       []pages.Stat{{Label: "MRR", Value: "$1,240", Note: "+12 % in a month", Help: "/definitions#mrr"}, {Label: "ARR", Value: "$14,880"}, {Label: "Subscribers", Value: "84", Note: "3 unpaid"}, {Label: "ARPA", Value: "$14.76"}, {Label: "Churn", Value: "3.1 %", Note: "of customers, 30 days"}},
			Subscribers: pages.Table{Caption: "The newest first", Heads: []string{"Account", "Plan", "Since", "MRR", "State"}, Numeric: map[int]bool{3: true}, Rows: []pages.Row{{Href: "/a", Cells: []string{"ann@example.com", "Pro", "1 Feb 2026", "$9.99"}, Badge: &pages.Badge{Text: "Active", Kind: "good"}}}},
			Plans:       pages.Table{Caption: "Monthly recurring revenue by plan", Heads: []string{"Plan", "Subscribers", "MRR"}, Numeric: map[int]bool{1: true, 2: true}, Rows: []pages.Row{{Cells: []string{"Pro", "60", "$599.40"}}}},
			Dunning:     pages.Table{Empty: "Everybody has paid."}}},
		"admin-users": {Title: "Users", Nav: "admin", Visitor: ann, Data: pages.AdminUsers{Tab: "users", Total: "2 users", Users: pages.Table{Caption: "The newest first", Heads: []string{"Address", "Name", "Since"}, Rows: []pages.Row{{Href: "/a", Cells: []string{"ann@example.com", "Ann Lee", "1 Feb"}}}}}},
		"limits":      {Title: "Limits", Visitor: ann, Dev: dev, Data: pages.Limits{Now: pages.LimitsNow{Meters: []pages.Meter{near, full}, Stats: []pages.Stat{{Label: "Throttled", Value: "1,204", Rows: "#throttled", Alarm: true}}}, Better: &plans()[1], Gain: []string{"100 kolekts a month instead of 10"}, Table: pages.Table{Heads: []string{"Limit", "Allows"}, Rows: []pages.Row{{Cells: []string{"Kolekts", "10 a month"}}}}}},
		"mail":        {Title: "Mail", Visitor: ann, Data: pages.MailPage{Address: "ann@example.com", Blocked: "Mail came back.", Streams: []pages.MailStream{{ID: "tips", Name: "Hints", Text: "Now and then.", On: true}}, Always: []pages.MailStream{{Name: "Payments", Text: "A payment that failed."}}}},
		"faults":      {Title: "Faults", Dev: &pages.Dev{Simulated: true, Faults: 2, Mailbox: true}, Data: pages.Faults{Kinds: []pages.FaultKind{{ID: "429", Name: "429", Text: "Too many.", Selected: true}}, Form: pages.Form{Errors: map[string]string{"": "Choose."}}, Active: pages.Table{Heads: []string{"What"}, Rows: []pages.Row{{Cells: []string{"429"}}}}}},
		"admin-user": {Title: "Ann", Nav: "admin", Visitor: ann, Data: pages.AdminUser{Tab: "users", ID: "usr_1", Name: "Ann Lee", Email: "ann@example.com", Meter: near, Badge: pages.Badge{Text: "Active", Kind: "good"}, Deeds: []pages.Deed{
			{Name: "credit", Title: "Credit", Text: "Comes off the next invoices.", Button: "Give", Key: "aud_1", Error: "A reason.", Open: true, Fields: []pages.DeedField{{Name: "amount", Label: "Amount", Placeholder: "5.00", Hint: "In dollars."}, {Name: "plan", Label: "Plan", Choices: []pages.Choice{{ID: "pro", Name: "Pro"}}}}, Values: map[string]string{"amount": "\"><script>", "reason": "<b>"}},
		}}},
		"admin-audit":  {Title: "Audit", Nav: "admin", Visitor: ann, Data: pages.AdminAudit{Tab: "audit", More: "/admin/audit?before=1"}},
		"admin-drift":  {Title: "Drift", Nav: "admin", Visitor: ann, Data: pages.AdminDrift{Tab: "drift", Next: "/admin/drift?after=1", Rows: pages.Table{Empty: "None."}}},
		"admin-rows":   {Title: "MRR", Nav: "admin", Visitor: ann, Data: pages.AdminRows{Tab: "revenue", Name: "MRR", Value: "$9.99", Text: "What all bring.", Back: pages.Link{Href: "/admin", Text: "Revenue"}}},
		"admin-health": {Title: "Health", Nav: "admin", Visitor: ann, Data: pages.AdminHealth{Tab: "health", Now: pages.HealthNow{Checks: []pages.Check{{Name: "Keys", Text: "12 cached", Badge: pages.Badge{Text: "Well", Kind: "good"}}}}}},
		"admin-usage":  {Title: "Usage", Nav: "admin", Visitor: ann, Data: pages.AdminUsage{Tab: "usage", Stats: []pages.Stat{{Label: "Kolekts", Value: "12", Rows: "#top"}}}},
		"clock":        {Title: "Clock", Visitor: ann, Dev: dev, Data: pages.Clock{Now: "1 March 2026, 12:00"}},
		"mailbox":      {Title: "Mailbox", Dev: dev, Data: pages.Mailbox{Open: &pages.Mail{Subject: "Welcome to Kolekt", To: "ann@example.com", When: "now", Text: "Hello Ann"}, Mails: []pages.Mail{{ID: "1", Subject: "Welcome to Kolekt", To: "ann@example.com", When: "now"}}}},
		"error":        {Title: "Not found", Data: pages.Failure{Status: 404, Heading: "There is no such page", Text: "It may have been moved or deleted.", Link: pages.Link{Href: "/", Text: "To the first page"}}},
		"message":      {Title: "Look into your mail", Data: pages.Message{Heading: "Look into your mail", Text: "If there is an account, a link is on its way."}},
		"forgot":       {Title: "A new password", Data: pages.Form{}},
		"reset":        {Title: "A new password", Data: pages.Form{}},
	}
}

func TestPartsAreWhatPagesShow(t *testing.T) {
	p, err := pages.New()
	require.NoError(t, err)
	w := httptest.NewRecorder()
	page := samples()["account"]
	require.NoError(t, p.Render(w, 200, "account", page))
	data := page.Data.(pages.Account)
	for name, of := range map[string]any{"banner": data.Banner, "plan": data.Plan, "usage": data.Now} {
		part, err := p.Part(name, of)
		require.NoError(t, err)
		require.Contains(t, w.Body.String(), part, name)
	}
	_, err = p.Part("nothing", nil)
	require.Error(t, err)
}

// What others have written is what it says it is, with its licence beside it;
// and all the JavaScript together is light.
func TestAssetsOfOthersAreWhatTheManifestSays(t *testing.T) {
	raw, err := os.ReadFile("vendored.json")
	require.NoError(t, err)
	var manifest []struct {
		Name        string            `json:"name"`
		Licence     string            `json:"licence"`
		LicenceFile string            `json:"licence_file"`
		Files       map[string]string `json:"files"`
	}
	require.NoError(t, json.Unmarshal(raw, &manifest))
	known := map[string]bool{"app.css": true, "app.js": true, "zoom.js": true, "icon.svg": true}
	for _, m := range manifest {
		licence, err := os.ReadFile(filepath.Join("static", m.LicenceFile))
		require.NoError(t, err, m.Name)
		require.NotEmpty(t, licence)
		require.NotEmpty(t, m.Licence)
		known[m.LicenceFile] = true
		for name, want := range m.Files {
			b, err := os.ReadFile(filepath.Join("static", name))
			require.NoError(t, err)
			require.Equal(t, want, fmt.Sprintf("%x", sha256.Sum256(b)), name)
			known[name] = true
		}
	}
	files, err := os.ReadDir("static")
	require.NoError(t, err)
	var script bytes.Buffer
	for _, f := range files {
		require.True(t, known[f.Name()], "%s is in no manifest", f.Name())
		if filepath.Ext(f.Name()) != ".js" {
			continue
		}
		b, err := os.ReadFile(filepath.Join("static", f.Name()))
		require.NoError(t, err)
		z := gzip.NewWriter(&script) // each by itself, as they are sent
		_, err = z.Write(b)
		require.NoError(t, err)
		require.NoError(t, z.Close())
	}
	require.Less(t, script.Len(), 45<<10, "JavaScript, gzipped")
	t.Logf("JavaScript, gzipped: %.1f KB", float64(script.Len())/1024)
}

// With KOLEKT_PREVIEW set to a folder, the sample pages are written there.
func TestEveryPageRendersWithoutInlineScriptOrStyle(t *testing.T) {
	p, err := pages.New()
	require.NoError(t, err)
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script>|javascript:`)
	for name, page := range samples() {
		w := httptest.NewRecorder()
		require.NoError(t, p.Render(w, 200, name, page), name)
		body := w.Body.String()
		require.Empty(t, inline.FindString(body), name)
		require.NotContains(t, body, "ZgotmplZ", name)
		require.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
		if dir := os.Getenv("KOLEKT_PREVIEW"); dir != "" {
			for _, a := range []string{"app.css", "app.js", "icon.svg", "inter.woff2", "fraunces.woff2"} {
				w := httptest.NewRecorder()
				p.Static().ServeHTTP(w, httptest.NewRequest(http.MethodGet, p.Asset(a), nil))
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "static"), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(dir, p.Asset(a)), w.Body.Bytes(), 0o644))
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+".html"), []byte(body), 0o644))
		}
	}
}
