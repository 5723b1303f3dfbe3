package mailer_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailertest"
)

// zone is a resolver made of a map.
type zone struct {
	txt map[string][]string
	mx  []*net.MX
}

func (z zone) LookupTXT(_ context.Context, name string) ([]string, error) {
	if records, ok := z.txt[name]; ok {
		return records, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (z zone) LookupMX(context.Context, string) ([]*net.MX, error) { return z.mx, nil }

func TestDoctor(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	strong, err := rsaPublicKey(key)
	require.NoError(t, err)
	weak, err := rsaPublicKey(weakKey(t))
	require.NoError(t, err)
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)

	w := newWorld(t, nil)
	web := httptest.NewTLSServer(w.UnsubscribeHandler())
	defer web.Close()
	other := httptest.NewTLSServer(http.NotFoundHandler())
	defer other.Close()
	relay := mailertest.NewSMTP(t, mailertest.SMTPConfig{TLS: true})
	plain := mailertest.NewSMTP(t, mailertest.SMTPConfig{})

	sound := func() (zone, mailer.DoctorConfig) {
		z := zone{mx: []*net.MX{{Host: "mx.example.com.", Pref: 10}}, txt: map[string][]string{
			"mail.example.com":               {"google-site-verification=x", "v=spf1 include:_spf.relay.example a ~all"},
			"_spf.relay.example":             {"v=spf1 ip4:192.0.2.0/24 -all"},
			"s1._domainkey.mail.example.com": {"v=DKIM1; k=rsa; p=" + strong},
			"_dmarc.example.com":             {"v=DMARC1; p=reject; sp=quarantine"},
		}}
		return z, mailer.DoctorConfig{Selectors: []string{"s1"}, SMTP: net.JoinHostPort(relay.Host, itoa(relay.Port)), Roots: relay.ClientTLS().RootCAs,
			UnsubscribeURL: web.URL + "/u", Client: web.Client(), Now: func() time.Time { return time.Now().Add(-30 * 24 * time.Hour) }}
	}
	for _, c := range []struct {
		name, check string
		want        mailer.Health
		change      func(*zone, *mailer.DoctorConfig)
	}{
		{"all is well", "", mailer.Good, func(*zone, *mailer.DoctorConfig) {}},
		{"no SPF", "spf", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) { delete(z.txt, "mail.example.com") }},
		{"two SPF records", "spf", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["mail.example.com"] = []string{"v=spf1 -all", "v=spf1 ~all"}
		}},
		{"SPF lets everybody", "spf", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) { z.txt["mail.example.com"] = []string{"v=spf1 +all"} }},
		{"SPF without end", "spf", mailer.Warn, func(z *zone, _ *mailer.DoctorConfig) { z.txt["mail.example.com"] = []string{"v=spf1 a"} }},
		{"SPF redirects", "spf", mailer.Good, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["mail.example.com"] = []string{"v=spf1 redirect=_spf.relay.example"}
		}},
		{"SPF asks too much", "spf", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["mail.example.com"] = []string{"v=spf1 a mx ptr exists:x a:b a:c a:d a:e a:f a:g a:h ~all"}
		}},
		{"SPF includes itself", "spf", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["mail.example.com"] = []string{"v=spf1 include:mail.example.com ~all"}
		}},
		{"no DKIM", "dkim s1", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) { delete(z.txt, "s1._domainkey.mail.example.com") }},
		{"DKIM revoked", "dkim s1", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["s1._domainkey.mail.example.com"] = []string{"v=DKIM1; p="}
		}},
		{"DKIM garbled", "dkim s1", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["s1._domainkey.mail.example.com"] = []string{"v=DKIM1; p=AAAA"}
		}},
		{"DKIM not base64", "dkim s1", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["s1._domainkey.mail.example.com"] = []string{"v=DKIM1; p=?"}
		}},
		{"DKIM short", "dkim s1", mailer.Warn, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["s1._domainkey.mail.example.com"] = []string{"v=DKIM1; p=" + weak}
		}},
		{"DKIM Ed25519", "dkim s1", mailer.Warn, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["s1._domainkey.mail.example.com"] = []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(edPublic)}
		}},
		{"no DMARC", "dmarc", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) { delete(z.txt, "_dmarc.example.com") }},
		{"DMARC none", "dmarc", mailer.Warn, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["_dmarc.mail.example.com"] = []string{"v=DMARC1; p=none"}
		}},
		{"DMARC garbled", "dmarc", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) { z.txt["_dmarc.mail.example.com"] = []string{"v=DMARC1;"} }},
		{"DMARC twice", "dmarc", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) {
			z.txt["_dmarc.mail.example.com"] = []string{"v=DMARC1; p=none", "v=DMARC1; p=reject"}
		}},
		{"no MX", "mx", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) { z.mx = nil }},
		{"null MX", "mx", mailer.Bad, func(z *zone, _ *mailer.DoctorConfig) { z.mx = []*net.MX{{Host: "."}} }},
		{"relay without STARTTLS", "starttls", mailer.Bad, func(_ *zone, c *mailer.DoctorConfig) { c.SMTP = net.JoinHostPort(plain.Host, itoa(plain.Port)) }},
		{"relay's certificate", "starttls", mailer.Bad, func(_ *zone, c *mailer.DoctorConfig) { c.Roots = x509.NewCertPool() }},
		{"relay's certificate ends", "starttls", mailer.Warn, func(_ *zone, c *mailer.DoctorConfig) { c.Now = time.Now }},
		{"relay is away", "starttls", mailer.Bad, func(_ *zone, c *mailer.DoctorConfig) { c.SMTP = "127.0.0.1:1" }},
		{"relay without port", "starttls", mailer.Bad, func(_ *zone, c *mailer.DoctorConfig) { c.SMTP = "127.0.0.1" }},
		{"no relay", "starttls", mailer.NotRun, func(_ *zone, c *mailer.DoctorConfig) { c.SMTP = "" }},
		{"another page", "unsubscribe", mailer.Bad, func(_ *zone, c *mailer.DoctorConfig) { c.UnsubscribeURL, c.Client = other.URL, other.Client() }},
		{"no TLS for the page", "unsubscribe", mailer.Bad, func(_ *zone, c *mailer.DoctorConfig) { c.UnsubscribeURL = "http://example.com" }},
		{"no page", "unsubscribe", mailer.NotRun, func(_ *zone, c *mailer.DoctorConfig) { c.UnsubscribeURL = "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			z, cfg := sound()
			c.change(&z, &cfg)
			cfg.Resolver = z
			checks, err := mailer.Doctor(t.Context(), "mail.Example.com", cfg)
			require.NoError(t, err)
			require.Len(t, checks, 6)
			for _, check := range checks {
				want := mailer.Good
				if check.Name == c.check {
					want = c.want
				}
				assert.Equal(t, want, check.Health, "%s: %s", check.Name, check.Detail)
				assert.NotEmpty(t, check.Detail)
			}
		})
	}
	_, err = mailer.Doctor(t.Context(), "not a domain", mailer.DoctorConfig{})
	require.ErrorIs(t, err, mailer.ErrAddress)
}
