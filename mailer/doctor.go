package mailer

import (
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"
)

// Resolver is the part of *net.Resolver that [Doctor] asks.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
}

// DoctorConfig says what else there is to look at. Everything is optional.
type DoctorConfig struct {
	// Resolver replaces the system's.
	Resolver Resolver
	// Selectors are the DKIM selectors that sign for the domain.
	Selectors []string
	// SMTP is the relay, "host:port"; its STARTTLS certificate is checked.
	SMTP string
	// Roots replaces the system's certificate authorities.
	Roots *x509.CertPool
	// UnsubscribeURL is Config.PublicURL; it is fetched.
	UnsubscribeURL string
	// Client replaces the HTTP client.
	Client *http.Client
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Health is the outcome of a [Check].
type Health int

// The outcomes.
const (
	Good   Health = iota
	Warn          // works, and wants a look
	Bad           // mail will be refused or distrusted
	NotRun        // nothing was configured to check
)

func (h Health) String() string {
	return [...]string{"good", "warn", "bad", "not run"}[max(0, min(int(h), 3))]
}

// Check is one finding of [Doctor].
type Check struct {
	Name   string // "spf", "dkim s1", "dmarc", "mx", "starttls", "unsubscribe"
	Health Health
	Detail string // what was found, and what to do
}

// maxSPFLookups is the limit of RFC 7208, section 4.6.4.
const maxSPFLookups = 10

// Doctor looks at what receivers look at before they trust mail from a domain:
// SPF (RFC 7208), DKIM keys, DMARC, an MX for answers and bounces, the relay's
// certificate and the unsubscribe page. A check that fails is a finding, not an
// error; every check has ten seconds.
func Doctor(ctx context.Context, domain string, cfg DoctorConfig) ([]Check, error) {
	domain, reason := checkDomain(domain)
	if reason != "" {
		return nil, &AddressError{"doctor", reason}
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 10 * time.Second}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := doctor{cfg, domain}
	run := func(name string, check func(context.Context) (Health, string)) Check {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		health, detail := check(ctx)
		return Check{name, health, detail}
	}
	checks := []Check{run("spf", d.spf)}
	for _, selector := range cfg.Selectors {
		checks = append(checks, run("dkim "+selector, func(ctx context.Context) (Health, string) { return d.dkim(ctx, selector) }))
	}
	if len(cfg.Selectors) == 0 {
		checks = append(checks, Check{"dkim", NotRun, "name the selectors that sign for the domain"})
	}
	return append(checks, run("dmarc", d.dmarc), run("mx", d.mx), run("starttls", d.starttls), run("unsubscribe", d.unsubscribe)), ctx.Err()
}

type doctor struct {
	cfg    DoctorConfig
	domain string
}

// records returns the TXT records of a name that begin with a version tag.
func (d doctor) records(ctx context.Context, name, version string) ([]string, error) {
	all, err := d.cfg.Resolver.LookupTXT(ctx, name)
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return nil, nil
	}
	var found []string
	for _, txt := range all {
		if first, _, _ := strings.Cut(txt, " "); strings.EqualFold(strings.TrimRight(first, ";"), version) {
			found = append(found, txt)
		}
	}
	return found, err
}

func (d doctor) spf(ctx context.Context) (Health, string) {
	lookups := 0
	found, all, err := d.walkSPF(ctx, d.domain, &lookups, 0)
	switch {
	case err != nil:
		return Bad, err.Error()
	case !found:
		return Bad, "no SPF record: publish one that names whoever sends for the domain"
	case lookups > maxSPFLookups:
		return Bad, fmt.Sprintf("the SPF record needs %d look-ups; receivers stop at %d", lookups, maxSPFLookups)
	case all == "+all" || all == "all":
		return Bad, "the SPF record ends in +all: everybody may send"
	case all == "":
		return Warn, "the SPF record has no all at its end: use ~all or -all"
	}
	return Good, fmt.Sprintf("%d of %d look-ups, ends in %s", lookups, maxSPFLookups, all)
}

// walkSPF counts the look-ups of a record and those that it includes.
func (d doctor) walkSPF(ctx context.Context, name string, lookups *int, depth int) (found bool, all string, err error) {
	records, err := d.records(ctx, name, "v=spf1")
	if err != nil {
		return false, "", fmt.Errorf("the SPF record of %s can't be read", name)
	}
	if len(records) > 1 {
		return false, "", fmt.Errorf("%s has %d SPF records: there must be one", name, len(records))
	}
	if len(records) == 0 {
		return false, "", nil
	}
	for _, term := range strings.Fields(strings.ToLower(records[0]))[1:] {
		bare := strings.TrimLeft(term, "+-~?")
		kind, target, _ := strings.Cut(strings.Replace(bare, "=", ":", 1), ":")
		kind, _, _ = strings.Cut(kind, "/")
		switch kind {
		case "all":
			all = term
		case "include", "redirect":
			if *lookups++; *lookups > 2*maxSPFLookups || depth > maxSPFLookups || strings.Contains(target, "%") {
				continue
			}
			_, inner, err := d.walkSPF(ctx, target, lookups, depth+1)
			if err != nil {
				return false, "", err
			}
			if kind == "redirect" {
				all = inner
			}
		case "a", "mx", "ptr", "exists":
			*lookups++
		}
	}
	return true, all, nil
}

func (d doctor) dkim(ctx context.Context, selector string) (Health, string) {
	all, err := d.cfg.Resolver.LookupTXT(ctx, selector+"._domainkey."+d.domain)
	if err != nil || len(all) == 0 {
		return Bad, "no key is published: mail signed with this selector fails"
	}
	tags := tagsOf(all[0])
	if tags["p"] == "" {
		return Bad, "the key is revoked (p= is empty)"
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(tags["p"]), ""))
	if err != nil {
		return Bad, "the key can't be read: p= is not base64"
	}
	if tags["k"] == "ed25519" {
		if len(der) != ed25519.PublicKeySize {
			return Bad, "the Ed25519 key has the wrong length"
		}
		return Warn, "Ed25519: some large receivers don't verify it; sign with RSA as well"
	}
	key, err := x509.ParsePKIXPublicKey(der)
	rsaKey, ok := key.(*rsa.PublicKey)
	if err != nil || !ok {
		return Bad, "the key can't be read: p= is not an RSA public key"
	}
	if bits := rsaKey.N.BitLen(); bits < 1024 {
		return Bad, fmt.Sprintf("the key has %d bits: receivers ignore it", bits)
	} else if bits < 2048 {
		return Warn, fmt.Sprintf("the key has %d bits: use 2048", bits)
	}
	return Good, fmt.Sprintf("RSA, %d bits", rsaKey.N.BitLen())
}

// tagsOf reads the tag list of DKIM and DMARC records.
func tagsOf(record string) map[string]string {
	tags := map[string]string{}
	for part := range strings.SplitSeq(record, ";") {
		name, value, _ := strings.Cut(part, "=")
		tags[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
	}
	return tags
}

// dmarc looks at the domain and then at its parents, as a receiver does to find
// the organisation's policy.
func (d doctor) dmarc(ctx context.Context) (Health, string) {
	for name := d.domain; strings.Contains(name, "."); _, name, _ = strings.Cut(name, ".") {
		records, err := d.records(ctx, "_dmarc."+name, "v=DMARC1")
		if err != nil {
			return Bad, "the DMARC record can't be read"
		}
		if len(records) > 1 {
			return Bad, fmt.Sprintf("%s has %d DMARC records: receivers ignore all of them", name, len(records))
		}
		if len(records) == 0 {
			continue
		}
		tags := tagsOf(records[0])
		policy := strings.ToLower(tags["p"])
		if sub := strings.ToLower(tags["sp"]); name != d.domain && sub != "" {
			policy = sub
		}
		switch policy {
		case "quarantine", "reject":
			return Good, "policy " + policy + " at " + name
		case "none":
			return Warn, "policy none at " + name + ": forged mail is delivered; move to quarantine when the reports are clean"
		}
		return Bad, "the DMARC record of " + name + " has no valid policy"
	}
	return Bad, "no DMARC record: large receivers refuse bulk mail without one"
}

func (d doctor) mx(ctx context.Context) (Health, string) {
	list, err := d.cfg.Resolver.LookupMX(ctx, d.domain)
	if err != nil || len(list) == 0 {
		return Bad, "no MX: answers and bounces can't come back, and some receivers refuse such senders"
	}
	if len(list) == 1 && strings.Trim(list[0].Host, ".") == "" {
		return Bad, "a null MX (RFC 7505): the domain says that it takes no mail"
	}
	return Good, fmt.Sprintf("%d, the first is %s", len(list), strings.TrimSuffix(list[0].Host, "."))
}

func (d doctor) starttls(ctx context.Context) (Health, string) {
	if d.cfg.SMTP == "" {
		return NotRun, "name the relay"
	}
	host, _, err := net.SplitHostPort(d.cfg.SMTP)
	if err != nil {
		return Bad, "SMTP must be host:port"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.cfg.SMTP)
	if err != nil {
		return Bad, "the relay can't be reached"
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return Bad, "the relay can't be reached"
		}
	}
	client, err := smtp.NewClient(conn, host)
	if err != nil {
		return Bad, "the relay did not greet"
	}
	if err := client.Hello(d.domain); err != nil {
		return Bad, "the relay refused EHLO"
	}
	if ok, _ := client.Extension("STARTTLS"); !ok {
		return Bad, "the relay does not offer STARTTLS"
	}
	if err := client.StartTLS(&tls.Config{ServerName: host, RootCAs: d.cfg.Roots, MinVersion: tls.VersionTLS12}); err != nil {
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return Bad, "the relay's certificate is not valid for " + host
		}
		return Bad, "the TLS handshake failed"
	}
	state, _ := client.TLSConnectionState()
	left := state.PeerCertificates[0].NotAfter.Sub(d.cfg.Now())
	if left < 14*24*time.Hour {
		return Warn, fmt.Sprintf("the certificate ends in %d days", int(left.Hours()/24))
	}
	return Good, fmt.Sprintf("%s, certificate good for %d days", tls.VersionName(state.Version), int(left.Hours()/24))
}

// unsubscribe fetches the page with a token that is nobody's: the handler
// answers 404 with its own page, which shows that it is mounted.
func (d doctor) unsubscribe(ctx context.Context) (Health, string) {
	if d.cfg.UnsubscribeURL == "" {
		return NotRun, "name Config.PublicURL"
	}
	if !checkURI(d.cfg.UnsubscribeURL, "https://") {
		return Bad, "RFC 8058 wants an https URL"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(d.cfg.UnsubscribeURL, "/")+"/doctor", nil)
	if err != nil {
		return Bad, "the URL can't be read"
	}
	res, err := d.cfg.Client.Do(req)
	if err != nil {
		return Bad, "the URL can't be reached"
	}
	defer res.Body.Close()
	if res.Header.Get(handlerHeader) == "" {
		return Bad, fmt.Sprintf("the URL answers %d, and not from UnsubscribeHandler: mount it there", res.StatusCode)
	}
	return Good, "the handler answers"
}

// handlerHeader marks the answers of UnsubscribeHandler for Doctor.
const handlerHeader = "X-Mailer-Unsubscribe"
