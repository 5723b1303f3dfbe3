package referral

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// Person is what is known of an account when it redeems a code or owns one.
// Nothing of it is stored as it is: it becomes signals, keyed hashes.
type Person struct {
	Account string
	Email   string // verified, or the signal says little
	Card    string // the payment method's fingerprint at the gateway
	Device  string
	Network string // the client's address, or its /64

	// Groups are what the application says of the account, for
	// Campaign.Audience: its plan, country or segment. They aren't stored.
	Groups []string
	// Since is when the account was made, for Campaign.NewFor.
	Since time.Time
}

// Signal is a keyed hash of something that tells one person from another.
type Signal struct {
	Kind string // "email", "card", "device", "network"
	Hash string
}

// NormaliseEmail returns the one spelling under which addresses of one mailbox
// are compared: lower case, the domain in ASCII, without a tag behind "+";
// for Gmail also without dots. It is for comparing only: never show it, never
// send to it. It returns "" for what is no address.
func NormaliseEmail(address string) string {
	address = strings.TrimSpace(strings.ToLower(address))
	at := strings.LastIndexByte(address, '@')
	if at < 1 || at == len(address)-1 || len(address) > 320 {
		return ""
	}
	local, domain := address[:at], strings.TrimSuffix(address[at+1:], ".")
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		return ""
	}
	local, _, _ = strings.Cut(local, "+")
	if ascii == "googlemail.com" {
		ascii = "gmail.com"
	}
	if ascii == "gmail.com" {
		local = strings.ReplaceAll(local, ".", "")
	}
	if local == "" {
		return ""
	}
	return local + "@" + ascii
}

func (s *Service) signal(kind, value string) Signal {
	m := hmac.New(sha256.New, s.cfg.Pepper)
	m.Write([]byte("signal\x00" + kind + "\x00" + value))
	return Signal{kind, hex.EncodeToString(m.Sum(nil)[:20])}
}

// signals returns a person's signals, sorted, so that two writers of the same
// ones take their locks in one order.
func (s *Service) signals(p Person) []Signal {
	var all []Signal
	add := func(kind, value string) {
		if value != "" {
			all = append(all, s.signal(kind, value))
		}
	}
	add("email", NormaliseEmail(p.Email))
	add("card", p.Card)
	if s.cfg.UseDevice {
		add("device", p.Device)
	}
	if s.cfg.UseNetwork {
		add("network", p.Network)
	}
	slices.SortFunc(all, func(a, b Signal) int { return strings.Compare(a.Kind+a.Hash, b.Kind+b.Hash) })
	return all
}
