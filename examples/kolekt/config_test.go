package main

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func load(env map[string]string) (Config, error) {
	return LoadConfig(func(name string) string { return env[name] })
}

func TestNothingSetIsDevelopmentInsideTheProcess(t *testing.T) {
	c, err := load(nil)
	require.NoError(t, err)
	require.True(t, c.Development)
	require.True(t, c.Simulated())
	require.Equal(t, "127.0.0.1", c.Host)
	require.Equal(t, 8000, c.Port)
	require.Equal(t, "http://localhost:8000", c.PublicURL)
}

func production() map[string]string {
	return map[string]string{
		"SECRET_KEY": "0123456789abcdef0123456789abcdef", "PUBLIC_URL": "https://kolekt.example.com/",
		"DATABASE_URL": "postgres://localhost/kolekt", "STRIPE_SECRET_KEY": "sk_live_1", "STRIPE_WEBHOOK_SECRET": "whsec_a, whsec_b",
		"SMTP_SERVER": "smtp.example.com", "FROM_EMAIL": "hello@example.com",
	}
}

func TestProductionIsWhatASecretOfOnesOwnMakes(t *testing.T) {
	c, err := load(production())
	require.NoError(t, err)
	require.False(t, c.Development)
	require.Equal(t, []string{"whsec_a", "whsec_b"}, c.StripeWebhookSecret)
	require.Equal(t, "https://kolekt.example.com", c.PublicURL)
	require.Equal(t, "0.0.0.0", c.Host)
}

func TestUnsafeMixesAreRefusedWithWhatToDo(t *testing.T) {
	for name, test := range map[string]struct {
		change map[string]string
		want   string
	}{
		"development beside a live key": {map[string]string{"DEBUG": "true"}, "use a test key"},
		"no webhook secret":             {map[string]string{"STRIPE_WEBHOOK_SECRET": " "}, "stripe listen"},
		"no Stripe in production":       {map[string]string{"STRIPE_SECRET_KEY": "", "STRIPE_WEBHOOK_SECRET": ""}, "takes no money"},
		"half of Stripe":                {map[string]string{"STRIPE_SECRET_KEY": ""}, "set both"},
		"publishable key":               {map[string]string{"STRIPE_SECRET_KEY": "pk_live_1"}, "take the secret one"},
		"live key without a secret":     {map[string]string{"SECRET_KEY": ""}, "openssl rand -hex 32"},
		"the secret everybody knows":    {map[string]string{"SECRET_KEY": developmentSecret}, "openssl rand -hex 32"},
		"a Stripe of one's own":         {map[string]string{"STRIPE_API_URL": "http://localhost:12111"}, "away from Stripe"},
		"short secret":                  {map[string]string{"SECRET_KEY": "short"}, "needs 32"},
		"memory in production":          {map[string]string{"DATABASE_URL": ""}, "lost with the process"},
		"captured mail in production":   {map[string]string{"SMTP_SERVER": ""}, "reaches nobody"},
		"no sender":                     {map[string]string{"FROM_EMAIL": ""}, "needs a sender"},
		"plain http":                    {map[string]string{"PUBLIC_URL": "http://kolekt.example.com"}, "https://"},
		"no port":                       {map[string]string{"PORT": "http"}, "port from 0"},
		"odd debug":                     {map[string]string{"DEBUG": "maybe"}, "true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			env := production()
			maps.Copy(env, test.change)
			_, err := load(env)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestDevelopmentForOthersNeedsAPassword(t *testing.T) {
	_, err := load(map[string]string{"HOST": "0.0.0.0"})
	require.ErrorContains(t, err, "ADMIN_PASSWORD")
	c, err := load(map[string]string{"HOST": "0.0.0.0", "ADMIN_PASSWORD": "a long password"})
	require.NoError(t, err)
	require.Equal(t, "http://localhost:8000", c.PublicURL)
}

// .env.example is what people copy: it names every variable that is read, and
// none that isn't.
func TestTheExampleOfTheEnvironmentIsComplete(t *testing.T) {
	read := map[string]bool{}
	_, err := LoadConfig(func(name string) string { read[name] = true; return "" })
	require.NoError(t, err)
	example, err := os.ReadFile(".env.example")
	require.NoError(t, err)
	compose, err := os.ReadFile("deploy/compose.yaml")
	require.NoError(t, err)
	named := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#? ?([A-Z][A-Z_]+)=`).FindAllStringSubmatch(string(example), -1) {
		named[m[1]] = true
		require.True(t, read[m[1]] || strings.Contains(string(compose), "${"+m[1]), "%s is in .env.example, and nobody reads it", m[1])
	}
	for name := range read {
		require.True(t, named[name], "%s is read, and .env.example doesn't say so", name)
	}
	for _, name := range strings.Fields("DATABASE_URL REDIS_URL STRIPE_SECRET_KEY STRIPE_WEBHOOK_SECRET SECRET_KEY DEBUG HOST PORT SMTP_SERVER SMTP_PORT SMTP_USERNAME SMTP_PASSWORD FROM_EMAIL") {
		require.True(t, read[name], "%s is promised", name)
	}
}
