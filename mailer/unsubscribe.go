package mailer

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strings"
)

// token is what an unsubscribe link carries: the address's HMAC and the stream,
// under a MAC of their own. It holds no address, needs no row in a database,
// does not expire, and works after the account has been erased.
func (s *Service) token(addressHash []byte, stream string) string {
	payload := append(append([]byte{1}, addressHash...), stream...)
	sum := s.keys.token.sum(string(payload))
	return base64.RawURLEncoding.EncodeToString(append(payload, sum[:16]...))
}

func (s *Service) parseToken(token string) (addressHash []byte, stream string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(token) > 200 || len(b) < 1+32+1+16 || b[0] != 1 {
		return nil, "", ErrToken
	}
	payload, sum := b[:len(b)-16], b[len(b)-16:]
	if !hmac.Equal(sum, s.keys.token.sum(string(payload))[:16]) {
		return nil, "", ErrToken
	}
	return payload[1:33], string(payload[33:]), nil
}

// UnsubscribeURL returns the link that mails of the stream to the address
// carry, for a settings page of your own.
func (s *Service) UnsubscribeURL(email, stream string) (string, error) {
	addr, err := parseAddress("unsubscribe", email)
	if err != nil {
		return "", err
	}
	if s.cfg.PublicURL == "" || !streamName.MatchString(stream) {
		return "", fmt.Errorf("%w: PublicURL and a stream are needed", ErrConfig)
	}
	return s.cfg.PublicURL + "/" + s.token(s.hashAddress(addr.Email), stream), nil
}

// Unsubscribe stops lifecycle mail of a stream to an address. An empty stream
// stops all of it.
func (s *Service) Unsubscribe(ctx context.Context, email, stream string) error {
	return s.suppress(ctx, email, stream, Lifecycle, SuppressUnsubscribed)
}

// Suppress stops all mail but [Security] to an address.
func (s *Service) Suppress(ctx context.Context, email string) error {
	return s.suppress(ctx, email, "", Transactional, SuppressManual)
}

func (s *Service) suppress(ctx context.Context, email, stream string, blocks Class, reason string) error {
	hash, err := s.hashFor(email)
	if err != nil {
		return err
	}
	return s.store.Suppress(ctx, []Suppression{{AddressHash: hash, Stream: stream, Blocks: blocks, Reason: reason, Source: "application", At: s.now()}})
}

// Resubscribe takes an unsubscribe from the stream back. It does not touch
// bounces and complaints.
func (s *Service) Resubscribe(ctx context.Context, email, stream string) error {
	hash, err := s.hashFor(email)
	if err != nil {
		return err
	}
	_, err = s.store.Unsuppress(ctx, hash, stream, []string{SuppressUnsubscribed})
	return err
}

// Unsuppress lifts bounces, complaints and manual suppressions of an address:
// its owner has shown that it works again. Unsubscribes stay.
func (s *Service) Unsuppress(ctx context.Context, email string) error {
	hash, err := s.hashFor(email)
	if err != nil {
		return err
	}
	_, err = s.store.Unsuppress(ctx, hash, "", []string{SuppressBounced, SuppressComplained, SuppressSoftBounced, SuppressManual})
	return err
}

// Suppressions lists what is held against an address.
func (s *Service) Suppressions(ctx context.Context, email string) ([]Suppression, error) {
	hash, err := s.hashFor(email)
	if err != nil {
		return nil, err
	}
	return s.store.Suppressions(ctx, hash)
}

func (s *Service) hashFor(email string) ([]byte, error) {
	if s.store == nil {
		return nil, fmt.Errorf("%w: suppressions need a store", ErrConfig)
	}
	addr, err := parseAddress("suppression", email)
	if err != nil {
		return nil, err
	}
	return s.hashAddress(addr.Email), nil
}

// UnsubscribeHandler is the other end of List-Unsubscribe (RFC 8058); mount it
// at Config.PublicURL:
//
//	mux.Handle("/mail/unsubscribe/", svc.UnsubscribeHandler())
//
// A POST unsubscribes, without cookie, session, CSRF token or redirect, and
// answers 200 however often it comes. A GET only shows a button, because the
// scanners of mail providers follow every link.
func (s *Service) UnsubscribeHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if serveAsset(w, r) {
			return
		}
		w.Header().Set(handlerHeader, "1")
		token := path.Base(r.URL.Path)
		hash, stream, err := s.parseToken(token)
		if err != nil {
			page(w, http.StatusNotFound, "unsubscribe", unsubscribePage{Brand: s.cfg.Brand, State: "unknown"})
			return
		}
		data := unsubscribePage{Brand: s.cfg.Brand, Stream: stream, Token: token}
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			data.State = "ask"
			page(w, http.StatusOK, "unsubscribe", data)
		case http.MethodPost:
			if !formBody(r) {
				http.Error(w, "send a form", http.StatusUnsupportedMediaType)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
			// The token alone is the order: RFC 8058 has clients post
			// List-Unsubscribe=One-Click, the button posts the same.
			err := s.store.Suppress(r.Context(), []Suppression{{AddressHash: hash, Stream: stream, Blocks: Lifecycle,
				Reason: SuppressUnsubscribed, Source: "one-click", At: s.now()}})
			if err != nil {
				s.log.ErrorContext(r.Context(), "mailer: unsubscribe failed", "stream", stream, "error", err)
				w.Header().Set("Retry-After", "60")
				data.State = "failed"
				page(w, http.StatusServiceUnavailable, "unsubscribe", data)
				return
			}
			data.State = "done"
			page(w, http.StatusOK, "unsubscribe", data)
		default:
			w.Header().Set("Allow", "GET, HEAD, POST")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		}
	})
}

// formBody accepts the two encodings of RFC 8058, section 3.2, and an absent
// type, which some clients send.
func formBody(r *http.Request) bool {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(header)
	return err == nil && (kind == "application/x-www-form-urlencoded" || strings.HasPrefix(kind, "multipart/form-data"))
}

type unsubscribePage struct {
	Brand  Brand
	State  string // ask, done, failed, unknown
	Stream string
	Token  string
}
