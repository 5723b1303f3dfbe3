// Package mailer sends the mail of a SaaS: never lost, hardly ever twice, never
// to somebody who must not get it, and looking right.
//
// A mail is of a [Kind]: a type of variables, templates for each locale, and the
// rules that hold for it. Package mailer ships the kinds that every SaaS needs
// ([Shipped]); [Define] makes others. A kind that breaks a rule can't be
// defined: an unknown variable, a missing text part, a lifecycle mail without
// an unsubscribe link.
//
//	kinds, err := mailer.Shipped(nil)
//	smtp, err := mailersmtp.New(mailersmtp.Config{Host: "smtp.example.com", Username: u, Password: p})
//	mails, err := mailer.New(mailerpg.New(pool), smtp, mailer.Config{
//		From:      mailer.Address{Name: "Example", Email: "hello@example.com"},
//		Secret:    secret, // 32 random bytes that stay the same
//		Kinds:     kinds.All(),
//		Brand:     mailer.Brand{Name: "Example", URL: "https://example.com"},
//		PublicURL: "https://example.com/mail/unsubscribe",
//	})
//	mux.Handle("/mail/unsubscribe/", mails.UnsubscribeHandler())
//	go mails.Run(ctx)
//
//	_, err = kinds.Welcome.Enqueue(ctx, mails.WithStore(mailerpg.New(tx)), // in your transaction
//		mailer.To{Account: "acct_1", Email: email, Name: name, Locale: "de"},
//		mailer.Welcome{StartURL: "https://example.com/app"},
//		mailer.Key("acct_1"))
//
// # Templates
//
// A kind named "account.welcome" has a file account.welcome.en.txt for each of its
// locales: Subject and Preheader, a blank line, and the text. The HTML part is
// made from the text: "# " and "## " are headings, "- " items, "| a | b |" facts,
// **bold**, [label](url) a link, and a button when it has a line to itself. Where
// that isn't enough, account.welcome.en.html takes its place. Both are Go
// templates; the dot has Data (the variables), Name, Locale, Language, Brand,
// Accent, Subject, Preheader, Unsubscribe and Stream, and there are the functions
// date, number, meter and mso. layout.html and layout.txt around them can be
// replaced too; the rules of <style data-inline> are moved into the elements at
// definition.
//
// # What is promised
//
// Enqueueing happens exactly once for a key, in the caller's transaction if it
// is given ([Service.WithStore]). Sending happens at least once: SMTP can't tell
// a lost reply from a lost mail. A sender takes the next mail when the result of
// the last one is written, so that a crash repeats at most Config.Concurrency
// mails; a kind that says Hold is never repeated, and stays for somebody to
// decide. A transport with idempotency keys repeats nothing. Every attempt has
// the same Message-ID.
//
// A mail is asked about right before it is sent: suppressed, expired, in quiet
// hours, still relevant? Refusals are told apart by whose fault they are: the
// recipient's suppress the address, the sender's pause the stream, the
// transport's pause everything and count no attempt.
//
// # Privacy
//
// Suppressions hold an HMAC of the address, so they survive erasure. No log,
// error, metric or URL of this package holds an address. Addresses and variables
// of finished mails are removed after Config.Retain by [Service.Sweep].
//
// # Stores and transports
//
// mailerpg keeps the outbox in PostgreSQL, mailermem in memory. A store of your
// own implements [Store] and passes mailertest.TestStore. mailersmtp sends over
// SMTP, mailerhttp through Resend, Postmark or Mailgun, [Capture] not at all.
package mailer
