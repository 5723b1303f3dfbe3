package gdpr

import (
	"context"
	"crypto/hmac"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"filippo.io/age"
)

// DownloadQuery returns the query string of a link to a ready archive. It is
// signed and names its end, at most the archive's own. Whoever holds the link
// can use it until then: send it to the subject only.
func (s *Service) DownloadQuery(r Request, ttl time.Duration) (string, error) {
	if r.State != Ready {
		return "", r.refuse("download the archive of")
	}
	until := s.now().Add(ttl)
	if until.After(r.Archive.ExpiresAt) {
		until = r.Archive.ExpiresAt
	}
	unix := strconv.FormatInt(until.Unix(), 10)
	return url.Values{"request": {r.ID}, "until": {unix}, "signature": {s.linkSignature(r.ID, unix)}}.Encode(), nil
}

func (s *Service) linkSignature(id, until string) string { return s.mac("download", id, until) }

// CheckLink returns the request whose archive a link with this query opens, or
// ErrToken.
func (s *Service) CheckLink(ctx context.Context, query url.Values) (Request, error) {
	id, until := query.Get("request"), query.Get("until")
	if len(id) > 100 || len(until) > 20 || !hmac.Equal([]byte(s.linkSignature(id, until)), []byte(query.Get("signature"))) {
		return Request{}, fmt.Errorf("%w: the link was altered", ErrToken)
	}
	unix, err := strconv.ParseInt(until, 10, 64)
	if err != nil || !s.now().Before(time.Unix(unix, 0)) {
		return Request{}, fmt.Errorf("%w: the link has expired; ask for a new one", ErrToken)
	}
	r, err := s.Request(ctx, id)
	if err != nil {
		return Request{}, err
	}
	if r.State != Ready {
		return Request{}, fmt.Errorf("%w: the archive is gone", ErrToken)
	}
	return r, nil
}

// ConfirmQuery returns the query string of a link by which whoever holds it
// proves that a request is theirs: for the mail of the notice
// "identity_needed", to the address that is known. It is signed and ends after
// the ttl.
func (s *Service) ConfirmQuery(r Request, ttl time.Duration) (string, error) {
	if r.State != Received {
		return "", r.refuse("confirm")
	}
	until := strconv.FormatInt(s.now().Add(ttl).Unix(), 10)
	return url.Values{"request": {r.ID}, "until": {until}, "signature": {s.mac("confirm", r.ID, until)}}.Encode(), nil
}

// Confirm verifies the request that a link with this query is of, or returns
// ErrToken. It has an effect: answer to POST only, since mail scanners open
// links.
func (s *Service) Confirm(ctx context.Context, query url.Values) (Request, error) {
	id, until := query.Get("request"), query.Get("until")
	if len(id) > 100 || len(until) > 20 || !hmac.Equal([]byte(s.mac("confirm", id, until)), []byte(query.Get("signature"))) {
		return Request{}, fmt.Errorf("%w: the link was altered", ErrToken)
	}
	unix, err := strconv.ParseInt(until, 10, 64)
	if err != nil || !s.now().Before(time.Unix(unix, 0)) {
		return Request{}, fmt.Errorf("%w: the link has expired; ask again", ErrToken)
	}
	return s.Verify(ctx, id)
}

// OpenArchive returns the decrypted archive of a ready request and writes the
// download to the audit log.
func (s *Service) OpenArchive(ctx context.Context, r Request) (io.ReadCloser, error) {
	if r.State != Ready {
		return nil, r.refuse("download the archive of")
	}
	env, err := s.unseal(r)
	if err != nil {
		return nil, err
	}
	identity, err := age.ParseX25519Identity(env.Key)
	if err != nil {
		return nil, fmt.Errorf("gdpr: archive key: %w", err)
	}
	// Before the first byte leaves: a download that nobody can see in the log
	// must not happen.
	if err := s.store.AppendAudit(ctx, s.entry(r, "downloaded", "")); err != nil {
		return nil, fmt.Errorf("gdpr: archive: %w", err)
	}
	file, err := s.cfg.Files.Open(ctx, r.Archive.File)
	if err != nil {
		return nil, err
	}
	plain, err := age.Decrypt(file, identity)
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("gdpr: archive: %w", err)
	}
	return struct {
		io.Reader
		io.Closer
	}{plain, file}, nil
}
