// Package mailer measures package mailer beside go-mail, beside parsing
// templates for each mail, and beside bare SQL. Run
//
//	go test -v -run Table ./mailer
package mailer
