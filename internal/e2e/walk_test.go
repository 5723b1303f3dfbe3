package e2e

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

const (
	good      = "4242 4242 4242 4242"
	declined  = "4000 0000 0000 0002"
	adminMail = "admin@kolekt.example"
	adminWord = "kolekt admin"
	password  = "a password of some length"
	longText  = "Every sentence of this text says one thing, and says it at a length that fills a line. "
)

// pictures is where screenshots go.
func pictures(t *testing.T) string {
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		return dir
	}
	return t.TempDir()
}

func (b *browser) signUp(email string) {
	b.t.Helper()
	b.open("/", 200)
	b.press("Start free")
	b.fill("name", "Ann Lee")
	b.fill("email", email)
	b.fill("password", password)
	b.press("Create account")
	b.sees("New kolekt", "0 of 10")
}

func (b *browser) logIn(email, word string) {
	b.t.Helper()
	b.open("/login", 200)
	b.fill("email", email)
	b.fill("password", word)
	b.press("Log in")
}

func (b *browser) leave() {
	b.t.Helper()
	b.load(200, chromedp.Click(chromedp.Search(`//button[normalize-space()="Log out"]`)))
}

// write makes a kolekt and expects the status.
func (b *browser) write(text string, status int64) {
	b.t.Helper()
	b.open("/kolekts", 200)
	b.fill("text", text)
	b.load(status, chromedp.Click(chromedp.Search(button("Make the kolekt"))))
}

// until opens a page until it says what is awaited.
func (b *browser) until(path, text string) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		b.open(path, 200)
		if strings.Contains(b.text(), text) {
			return
		}
		if time.Now().After(deadline) {
			b.fail(errors.New("it never said " + text))
		}
	}
}

// upToTheLimit uses the free plan up, after so many kolekts.
func (b *browser) upToTheLimit(made int) {
	b.t.Helper()
	for i := range 10 - made {
		b.write("Kolekt number "+strconv.Itoa(made+i+1)+". A short thought that fits into one post.", 200)
	}
	b.write("One too many.", 402)
	b.sees("You have made all 10 kolekts of this month", "100 kolekts a month instead of 10", "$9.99")
}

// pay fills the payment page.
func (b *browser) pay(card string) {
	b.t.Helper()
	b.fill("number", card)
	b.fill("exp", "12/40")
	b.fill("cvc", "123")
	b.fill("name", "Ann Lee")
	b.load(200, chromedp.Click(chromedp.CSS("#pay")))
}

func TestFromSignUpToPaidToAdmin(t *testing.T) {
	b := newBrowser(t, serve(t))
	walk(t, b, pictures(t), true)
}

// walk goes through every screen. Alone says that everything runs in one
// process: then there is a clock and a mailbox.
func walk(t *testing.T, b *browser, dir string, alone bool) {
	t.Helper()
	b.open("/", 200)
	b.shots(dir, "home")
	b.open("/pricing?interval=year", 200)
	b.sees("$99.90", "2 months free")
	b.shots(dir, "pricing")
	b.open("/signup", 200)
	b.shots(dir, "signup")

	b.signUp("ann@example.com")
	b.write(longText+longText+longText+longText+longText+longText+longText+longText, 200)
	b.sees("2 posts", "1/2", "2/2", "Engagement score")
	b.shots(dir, "kolekt")
	b.upToTheLimit(1)
	b.shots(dir, "limit")
	b.open("/kolekts", 200)
	b.shots(dir, "write")

	b.open("/pricing", 200)
	b.press("Choose Pro")
	b.sees("Kolekt Pro")
	b.shots(dir, "checkout")
	b.pay(good)
	b.sees("You are on Pro", "100 kolekts a month")
	b.shots(dir, "paid")

	b.open("/account", 200)
	b.sees("Pro", "$9.99 a month", "Active", "0 of 100", "Next charge: $9.99", "Paid")
	b.write("The eleventh thought goes through at once.", 200)
	b.open("/account", 200)
	b.sees("1 of 100")
	b.shots(dir, "first-account")

	b.open("/account/keys", 200)
	b.fill("name", "Laptop")
	b.press("Create key")
	b.sees("Your new key", "kolekt_test_", "read and write")
	b.shots(dir, "keys")
	b.open("/account/limits", 200)
	b.sees("100 kolekts a month", "100 requests a minute", "Throttled requests")
	b.open("/account/mail", 200)
	b.do(chromedp.Click(chromedp.CSS("[name=tips]")))
	b.press("Keep these choices")
	b.sees("Your choices are kept.", "Always sent")
	b.open("/account/referral", 200)
	b.sees("Invite a friend", "Uses left")
	b.shots(dir, "friends")

	b.open("/account/privacy", 200)
	b.do(chromedp.SetValue(chromedp.CSS("#export-password"), password))
	b.press("Ask for a copy")
	b.sees("Your copy is being made")
	b.until("/account/privacy", "Ready")
	b.do(chromedp.SetValue(chromedp.CSS("#erasure-password"), password))
	b.press("Erase my account")
	b.sees("Until then you can call it off")
	b.shots(dir, "privacy")
	b.press("Call it off")
	b.sees("Nothing is erased")
	b.do(chromedp.Click(chromedp.CSS("[name=tips]")))
	b.press("Keep these choices")
	b.sees("Your choices are noted")

	b.open("/account/change?plan=business", 200)
	b.sees("Upgrade to Business", "Due now", "Confirm the upgrade")
	b.shots(dir, "change")

	b.open("/account", 200)
	b.press("Card and invoices")
	b.shots(dir, "portal")
	b.load(200, chromedp.Click(chromedp.CSS("#cancel")))
	b.open("/account/portal-return", 200)
	b.sees("Ends on", "No more charges", "Resume the plan")
	b.press("Resume the plan")
	b.sees("Your plan goes on", "Active")
	b.press("Cancel the plan")
	b.sees("Your plan ends on", "Resume the plan")
	b.press("Resume the plan")
	b.sees("Active")

	b.leave()
	b.open("/login", 200)
	b.shots(dir, "login")
	b.logIn(adminMail, adminWord)
	b.open("/admin", 200)
	b.sees("ann@example.com", "Pro", "$9.99", "$119.88")
	b.shots(dir, "first-admin-revenue")
	b.open("/admin/users", 200)
	b.sees("ann@example.com", "2 users")
	b.shots(dir, "first-admin-users")

	b.load(200, chromedp.Click(chromedp.Search(`//main//td/a[contains(., "ann@example.com")]`)))
	b.sees("Timeline", "Billing: subscription started", "Signed up")
	b.shots(dir, "first-admin-user")
	b.do(chromedp.Click(chromedp.Search(`//summary[contains(., "Fetch from the payment provider")]`)), chromedp.SetValue(chromedp.CSS("#resync-reason"), "a ticket"))
	b.press("Fetch now")
	b.sees("Fetch from the payment provider: done.", "a ticket")
	b.open("/admin/usage", 200)
	b.sees("ann@example.com", "11 kolekts in 30 days")
	b.shots(dir, "first-admin-usage")
	b.open("/admin/health", 200)
	b.sees("None: every event was handled.")
	b.shots(dir, "first-admin-health")
	b.open("/admin/drift", 200)
	b.sees("None: what we hold is what the provider holds.")
	b.press("Reconcile now")
	b.sees("Compared with the payment provider")
	b.open("/admin/audit", 200)
	b.sees("resync", "a ticket", "ann@example.com")
	b.open("/admin/projections", 200)
	b.sees("Break-even")
	b.shots(dir, "first-admin-projections")
	b.open("/definitions", 200)
	b.shots(dir, "definitions")

	if alone {
		b.open("/dev/clock", 200)
		b.press("A month")
		b.shots(dir, "clock")
		b.open("/dev/faults", 200)
		b.do(chromedp.Click(chromedp.CSS(`[value="drop"]`)))
		b.press("Switch on")
		b.sees("Switched on", "1 more time")
		b.shots(dir, "faults")
		b.press("Switch all off")
		b.sees("None: everything works.")
		b.open("/dev/mail", 200)
		b.sees("Welcome to Kolekt")
		b.shots(dir, "mailbox")
	}
	b.clean()
}

func TestTheMainPathNeedsNoJavaScript(t *testing.T) { plainPath(t, newBrowser(t, serve(t))) }

func plainPath(t *testing.T, b *browser) {
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(t, err)
	b.signUp("dora@example.com")
	b.write(longText+longText+longText+longText+longText+longText, 200)
	b.sees("2 posts")
	b.open("/pricing", 200)
	b.press("Choose Enterprise")
	b.pay(good)
	b.sees("You are on Enterprise", "10,000 kolekts a month")
	b.open("/account", 200)
	b.sees("Trial until", "The numbers as a table") // the drawing of the server
	b.open("/account/limits", 200)
	b.sees("10,000 kolekts a month")
	b.open("/account/change?plan=business", 200) // the dialog is a page of its own
	b.sees("Move to Business?")
	b.open("/account", 200)
	b.press("Cancel the plan")
	b.sees("Your plan ends on")
	b.clean()
}

func TestAFriendPaysHalfOfTheFirstMonth(t *testing.T) { friend(t, newBrowser(t, serve(t))) }

func friend(t *testing.T, b *browser) {
	b.signUp("inviter@example.com")
	b.open("/account/referral", 200)
	link := regexp.MustCompile(`/r/[A-Z0-9]{8}`).FindString(b.text())
	require.NotEmpty(t, link)
	b.leave()
	b.open(link, 200)
	b.fill("name", "Bob")
	b.fill("email", "invited@example.com")
	b.fill("password", password)
	b.press("Create account")
	b.open("/pricing", 200)
	b.press("Choose Business")
	b.sees("$14.99")
	b.pay(good)
	b.sees("You are on Business")
	b.clean()
}

// replaceCard does it on the portal's page.
func (b *browser) replaceCard(card string) {
	b.t.Helper()
	b.open("/account", 200)
	b.press("Card and invoices")
	b.do(chromedp.Click(chromedp.Search(`//summary[contains(., "Use another card")]`)))
	b.fill("number", card)
	b.fill("exp", "12/40")
	b.fill("cvc", "123")
	b.load(200, chromedp.Click(chromedp.CSS("#save-card")))
	b.open("/account/portal-return", 200)
}

func TestAFailedRenewalIsSeenAndSettled(t *testing.T) {
	b := newBrowser(t, serve(t))
	b.signUp("eve@example.com")
	b.open("/pricing", 200)
	b.press("Choose Pro")
	b.pay(good)
	b.replaceCard("4000 0000 0000 0341") // can be saved, then is declined
	b.open("/dev/clock", 200)
	b.press("A month")
	b.press("A day") // a renewal's invoice is a draft for an hour
	b.until("/account", "Payment failed")
	b.sees("The payment of $9.99 failed. We try again on", "Your plan goes on until", "0 of 100")
	b.shots(pictures(t), "account-past-due")
	b.until("/dev/mail", "$9.99")
	b.replaceCard(good)
	b.open("/dev/clock", 200)
	b.press("A week")
	b.until("/account", "Active")
	b.clean()
}

// Whoever has an account erased finds it gone, after the days in which it could
// have been called off.
func TestAnErasedAccountIsGone(t *testing.T) {
	b := newBrowser(t, serve(t))
	b.signUp("gina@example.com")
	b.open("/account/privacy", 200)
	b.do(chromedp.SetValue(chromedp.CSS("#erasure-password"), password))
	b.press("Erase my account")
	b.sees("Until then you can call it off")
	b.open("/dev/clock", 200)
	b.press("A week")
	b.until("/", "Log in") // the session is over with the account
	b.open("/login", 200)
	b.fill("email", "gina@example.com")
	b.fill("password", password)
	b.load(422, chromedp.Click(chromedp.Search(button("Log in"))))
	b.clean()
}

func TestADeclinedCardChangesNothingAndAnotherOnePays(t *testing.T) {
	declinedCard(t, newBrowser(t, serve(t)))
}

func declinedCard(t *testing.T, b *browser) {
	dir := pictures(t)
	b.signUp("bob@example.com")
	b.open("/pricing", 200)
	b.press("Choose Business")
	b.fill("number", declined)
	b.fill("exp", "12/40")
	b.fill("cvc", "123")
	b.fill("name", "Bob")
	b.load(422, chromedp.Click(chromedp.CSS("#pay")))
	b.sees("declined")
	b.shots(dir, "checkout-declined")
	page, err := chromedp.Run(b.ctx, chromedp.Location())
	require.NoError(t, err)

	b.open("/account", 200)
	b.sees("Free", "0 of 10")
	b.open(page, 200)
	b.pay(good)
	b.sees("You are on Business", "1,000 kolekts a month")
	b.open("/account", 200)
	b.sees("Business", "0 of 1,000", "Active")
	b.clean()
}
