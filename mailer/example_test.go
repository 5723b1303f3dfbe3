package mailer_test

import (
	"context"
	"fmt"
	"log"
	"testing/fstest"
	"time"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailermem"
)

// Example sends a shipped mail through the outbox into a captured inbox.
func Example() {
	ctx := context.Background()
	kinds, err := mailer.Shipped(nil)
	if err != nil {
		log.Fatal(err)
	}
	store, err := mailermem.New(mailermem.Config{})
	if err != nil {
		log.Fatal(err)
	}
	inbox := mailer.NewCapture()
	mails, err := mailer.New(store, inbox, mailer.Config{
		From:      mailer.Address{Name: "Example", Email: "hello@example.com"},
		Secret:    []byte("32 bytes that only this app knows"),
		Kinds:     kinds.All(),
		Brand:     mailer.Brand{Name: "Example", URL: "https://example.com"},
		PublicURL: "https://example.com/mail/unsubscribe",
	})
	if err != nil {
		log.Fatal(err)
	}

	to := mailer.To{Account: "acct_1", Email: "ada@example.org", Name: "Ada"}
	reminder := mailer.UpgradeReminder{
		Used: 8, Limit: 10, Unit: "kolekts", Plan: "Free", BetterPlan: "Pro",
		ResetsAt: time.Date(2026, time.December, 1, 0, 0, 0, 0, time.UTC), UpgradeURL: "https://example.com/upgrade",
	}
	for range 2 { // a retry of the caller changes nothing
		receipt, err := kinds.UpgradeReminder.Enqueue(ctx, mails, to, reminder, mailer.Key("acct_1", "2026-11"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.Status)
	}
	if _, err := mails.Flush(ctx); err != nil { // a server calls Run
		log.Fatal(err)
	}
	for _, m := range inbox.Messages("ada@example.org") {
		fmt.Println(m.Message.Subject)
	}
	// Output:
	// queued
	// duplicate
	// 8 of 10 kolekts used this month
}

// A kind of your own is a struct, a text and a few rules.
func ExampleDefine() {
	type Invited struct{ Team, By, URL string }
	files := fstest.MapFS{"team.invited.en.txt": {Data: []byte(`Subject: {{.Data.By}} invites you to {{.Data.Team}}
Preheader: Join {{.Data.Team}} on {{.Brand.Name}}.

# Join {{.Data.Team}}

**{{.Data.By}}** would like to work with you.

[Join the team]({{.Data.URL}})
`)}}
	kind, err := mailer.Define(mailer.Spec[Invited]{
		Name: "team.invited", Stream: "teams", Class: mailer.Transactional, Templates: files,
		Sample: Invited{Team: "Engines", By: "Charles", URL: "https://example.com/join"},
	})
	fmt.Println(kind.Name(), err)

	files["team.invited.en.txt"].Data = []byte("Subject: Hello {{.Data.Tema}}\nPreheader: Join.\n\nText")
	_, err = kind.With(func(*mailer.Spec[Invited]) {})
	fmt.Println(err)
	// Output:
	// team.invited <nil>
	// mailer: kind "team.invited": team.invited.en.txt: variable .Data.Tema is unknown: mailer_test.Invited has Team, By, URL
}

// Direct sending needs no store: the same calls send before they return.
func ExampleKind_Send() {
	kinds, err := mailer.Shipped(nil)
	if err != nil {
		log.Fatal(err)
	}
	inbox := mailer.NewCapture()
	mails, err := mailer.New(nil, inbox, mailer.Config{
		From:   mailer.Address{Email: "hello@example.com"},
		Secret: []byte("32 bytes that only this app knows"),
		Kinds:  []mailer.AnyKind{kinds.APIKeyCreated},
	})
	if err != nil {
		log.Fatal(err)
	}
	receipt, err := kinds.APIKeyCreated.Send(context.Background(), mails,
		mailer.To{Account: "acct_1", Email: "ada@example.org", Locale: "de-AT"},
		mailer.APIKeyCreated{KeyName: "deploy", Hint: "…x7Qa", CreatedAt: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), RevokeURL: "https://example.com/keys"},
		mailer.Key("key_1"))
	fmt.Println(receipt.Status, err)
	fmt.Print(inbox.Messages("")[0].Message.Text)
	// Output:
	// delivered <nil>
	// Ein neuer API-Schlüssel wurde erstellt
	//
	// Name: deploy
	// Endet auf: …x7Qa
	// Erstellt am: 1. März 2026
	//
	// Wenn du das nicht warst, widerrufe den Schlüssel jetzt und ändere dein Passwort.
	//
	// API-Schlüssel verwalten:
	// https://example.com/keys
}
