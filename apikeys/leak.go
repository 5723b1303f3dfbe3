package apikeys

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/kolekt/commerce/internal/problem"
)

// Leak is a live or formerly live key that somebody found in public.
type Leak struct {
	Key    Key
	URL    string // where, as far as it was said
	Source string // what kind of place: "content", "commit", "issue" …
}

// LeakConfig sets GitHubLeaks up.
type LeakConfig struct {
	// Keys returns GitHub's public keys by identifier. Nil fetches them from
	// GitHub with http.DefaultTransport and keeps them for an hour.
	Keys func(ctx context.Context) (map[string]*ecdsa.PublicKey, error)
	// NotifyOnly leaves leaked keys alive. The default is to revoke them.
	NotifyOnly bool
	// Notify, if set, hears of each leak, after the revocation. An error is
	// logged. It may hear of one leak more than once.
	Notify func(ctx context.Context, leak Leak) error
}

// GitHubKeysURL is where GitHub publishes the keys that sign its reports.
const GitHubKeysURL = "https://api.github.com/meta/public_keys/secret_scanning"

const maxLeakReport = 1 << 20

// GitHubLeaks is the endpoint of GitHub's secret scanning partner program:
// GitHub reports texts that match Rules, signed with ECDSA P-256 over the raw
// body, and is told which of them were keys. Each of these is revoked, and
// stands in the log as a leak. Reports may come again: that changes nothing.
// The answer is 503 when a key couldn't be looked up or revoked, so that
// GitHub reports again.
func (s *Service) GitHubLeaks(cfg LeakConfig) http.Handler {
	if cfg.Keys == nil {
		cfg.Keys = newKeyFetcher(&http.Client{Timeout: 10 * time.Second}, GitHubKeysURL, s.now)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			problem.Write(w, problem.Details{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed"})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLeakReport))
		if err != nil {
			problem.Write(w, problem.Details{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Detail: "at most 1 MiB"})
			return
		}
		keys, err := cfg.Keys(r.Context())
		if err != nil {
			s.log.ErrorContext(r.Context(), "apikeys: GitHub's public keys can't be fetched", "error", err)
			problem.Write(w, problem.Details{Status: http.StatusServiceUnavailable, Code: "keys_unavailable"})
			return
		}
		if !signedBy(keys[r.Header.Get("Github-Public-Key-Identifier")], body, r.Header.Get("Github-Public-Key-Signature")) {
			problem.Write(w, problem.Details{Status: http.StatusUnauthorized, Code: "bad_signature", Detail: "the signature doesn't fit the body"})
			return
		}
		var reports []leakReport
		if err := json.Unmarshal(body, &reports); err != nil {
			problem.Write(w, problem.Details{Status: http.StatusBadRequest, Code: "bad_request", Detail: "the body isn't a list of reports"})
			return
		}
		feedback := make([]leakFeedback, 0, len(reports))
		for _, report := range reports {
			found, err := s.leaked(r.Context(), cfg, report)
			if err != nil {
				s.log.ErrorContext(r.Context(), "apikeys: a leak report was not dealt with", "error", err)
				problem.Write(w, problem.Details{Status: http.StatusServiceUnavailable, Code: "keys_unavailable", Detail: "send it again"})
				return
			}
			sum := sha256.Sum256([]byte(report.Token))
			f := leakFeedback{Hash: base64.StdEncoding.EncodeToString(sum[:]), Type: report.Type, Label: "false_positive"}
			if found {
				f.Label = "true_positive"
			}
			feedback = append(feedback, f)
		}
		if err := write(w, http.StatusOK, feedback); err != nil {
			s.log.ErrorContext(r.Context(), "apikeys: no answer to a leak report", "error", err)
		}
	})
}

type leakReport struct {
	Token  string `json:"token"`
	Type   string `json:"type"`
	URL    string `json:"url"`
	Source string `json:"source"`
}

type leakFeedback struct {
	Hash  string `json:"token_hash"`
	Type  string `json:"token_type"`
	Label string `json:"label"`
}

// signedBy checks an ASN.1 signature in base64 over the SHA-256 of the body.
func signedBy(key *ecdsa.PublicKey, body []byte, signature string) bool {
	if key == nil {
		return false
	}
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(body)
	return ecdsa.VerifyASN1(key, sum[:], sig)
}

// leaked deals with one report, and says whether its text was a key.
func (s *Service) leaked(ctx context.Context, cfg LeakConfig, report leakReport) (bool, error) {
	c, reason := s.identify(report.Token)
	if reason != ReasonNone || !c.parses(report.Token) {
		return false, nil
	}
	e, err := s.load(ctx, report.Token, c)
	if err != nil || e == nil {
		return false, err
	}
	leak := Leak{Key: e.principal.Key(), URL: s.publicText(report.URL, 500), Source: s.publicText(report.Source, 50)}
	detail := map[string]string{"url": leak.URL, "source": leak.Source}
	by := Operator("github-secret-scanning")
	fresh := false
	err = s.changeOne(ctx, by, leak.Key.ID, func(r *Record, now time.Time) (Delta, error) {
		if fresh = r.RevokedAt.IsZero(); !fresh {
			return Delta{}, nil
		}
		var d Delta
		if !cfg.NotifyOnly {
			d = revocation([]Record{*r}, by, "leaked in public", now)
		}
		d.Log = append(d.Log, entryFor(&r.Key, ActionLeakReported, by, now, detail))
		return d, nil
	})
	if err != nil {
		return false, err
	}
	if cfg.Notify != nil && fresh {
		if err := cfg.Notify(ctx, leak); err != nil {
			s.log.ErrorContext(ctx, "apikeys: the owner of a leaked key was not told", "key", leak.Key.ID, "error", err)
		}
	}
	return true, nil
}

// publicText makes a text fit for the log: short, clean, and without a token.
func (s *Service) publicText(text string, most int) string {
	text = cleanText(text[:min(len(text), most)])
	scanText([]byte(text), s.cfg.Prefix, func(int, []byte) { text = "" })
	return text
}

const (
	keysFor     = time.Hour
	keysAtMost  = 100
	maxKeysBody = 1 << 20
)

// newKeyFetcher returns a function that fetches public keys and keeps them.
func newKeyFetcher(client *http.Client, url string, now func() time.Time) func(context.Context) (map[string]*ecdsa.PublicKey, error) {
	var mu sync.Mutex
	var keys map[string]*ecdsa.PublicKey
	var at time.Time
	return func(ctx context.Context) (map[string]*ecdsa.PublicKey, error) {
		mu.Lock()
		defer mu.Unlock()
		if keys != nil && now().Sub(at) < keysFor {
			return keys, nil
		}
		fetched, err := fetchKeys(ctx, client, url)
		if err != nil {
			return nil, err
		}
		keys, at = fetched, now()
		return keys, nil
	}
}

func fetchKeys(ctx context.Context, client *http.Client, url string) (map[string]*ecdsa.PublicKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("apikeys: fetch public keys: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to the end or given up
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("apikeys: fetch public keys: status %d", resp.StatusCode)
	}
	var list struct {
		Keys []struct {
			ID  string `json:"key_identifier"`
			PEM string `json:"key"`
		} `json:"public_keys"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxKeysBody)).Decode(&list); err != nil {
		return nil, fmt.Errorf("apikeys: read public keys: %w", err)
	}
	keys := map[string]*ecdsa.PublicKey{}
	for _, k := range list.Keys {
		if key, err := parseKey(k.PEM); err == nil && k.ID != "" && len(keys) < keysAtMost {
			keys[k.ID] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("apikeys: no usable public key in the list")
	}
	return keys, nil
}

func parseKey(text string) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("apikeys: public key isn't PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("apikeys: public key: %w", err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("apikeys: public key isn't on P-256")
	}
	return ec, nil
}
