package mailersmtp_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/kolekt/commerce/mailer/mailersmtp"
)

// Two relays, of which the second takes over when the first is away, are
// mailer.Failover(first, second).
func ExampleNew() {
	smtp, err := mailersmtp.New(mailersmtp.Config{
		Host: "smtp.example.com", Username: "app", Password: os.Getenv("SMTP_PASSWORD"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer smtp.Close()
	if err := smtp.Check(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output: mailersmtp: Config.Username needs a Password or a Token, and they need it
}
