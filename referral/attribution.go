package referral

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Attribution is what is known of where a visitor came from.
type Attribution struct {
	Code string
	At   time.Time // of the click
}

// Token returns a signed text that says that a code's link was followed now.
// Carry it through the sign-up in the form or in OAuth's state: no cookie is
// needed, and nothing about the visitor is stored.
func (s *Service) Token(code string) string { return s.token(code, s.now()) }

func (s *Service) token(code string, at time.Time) string {
	body := code + "." + strconv.FormatInt(at.Unix(), 36)
	return body + "." + s.tokenMAC(body)
}

func (s *Service) tokenMAC(body string) string {
	m := hmac.New(sha256.New, s.cfg.Pepper)
	m.Write([]byte("attribution\x00" + body))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

// ReadToken reads a token. One that was altered, or is older than the
// attribution window, is no attribution.
func (s *Service) ReadToken(token string) (Attribution, bool) {
	if len(token) > 128 {
		return Attribution{}, false
	}
	i := strings.LastIndexByte(token, '.')
	if i < 0 || !hmac.Equal([]byte(s.tokenMAC(token[:i])), []byte(token[i+1:])) {
		return Attribution{}, false
	}
	code, stamp, ok := strings.Cut(token[:i], ".")
	unix, err := strconv.ParseInt(stamp, 36, 64)
	if !ok || err != nil {
		return Attribution{}, false
	}
	at := time.Unix(unix, 0).UTC()
	if age := s.now().Sub(at); age > s.cfg.AttributionWindow || age < -time.Minute {
		return Attribution{}, false
	}
	return Attribution{Code: code, At: at}, true
}

// LinkConfig configures Links.
type LinkConfig struct {
	// Target is where a link leads: the sign-up page, as a path of this site.
	// The token is added to it as the parameter Param ("ref" by default).
	Target string
	Param  string
	// Cookie, if set, also keeps the token in a first-party cookie of this
	// name: only where the visitor has consented to one. FirstTouch keeps the
	// first link that was followed, otherwise the last one counts.
	Cookie     string
	FirstTouch bool
	// Allow says whether one more look-up may be made: a limiter by address,
	// against guessing. Nil allows all.
	Allow func(r *http.Request) bool
}

// Links returns the handler of links such as /r/CODE: mount it under the path
// in front of the code. An unknown code leads to the same place without a
// token, so that nothing is learnt by guessing. Clicks are counted; addresses
// aren't looked at.
func (s *Service) Links(cfg LinkConfig) http.Handler {
	if cfg.Param == "" {
		cfg.Param = "ref"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer")
		if cfg.Allow != nil && !cfg.Allow(r) {
			w.Header().Set("Retry-After", "60")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		text := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		target := cfg.Target
		if code, ok := s.follow(r.Context(), text, r.Method == http.MethodGet); ok {
			token := s.Token(code)
			sep := "?"
			if strings.Contains(target, "?") {
				sep = "&"
			}
			target += sep + url.Values{cfg.Param: {token}}.Encode()
			if cfg.Cookie != "" {
				s.keep(w, r, cfg, token)
			}
		}
		http.Redirect(w, r, target, http.StatusSeeOther)
	})
}

// follow looks a code up and counts the click. A store that doesn't answer
// costs the attribution, never the visit.
func (s *Service) follow(ctx context.Context, text string, count bool) (string, bool) {
	norm, err := Normalise(text)
	if err != nil {
		return "", false
	}
	c, err := s.store.Code(ctx, norm)
	if err != nil || !c.Active {
		return "", false
	}
	if count {
		if err := s.store.Click(ctx, norm, s.now()); err != nil {
			s.cfg.Logger.WarnContext(ctx, "referral: click", "err", err)
		}
	}
	return norm, true
}

func (s *Service) keep(w http.ResponseWriter, r *http.Request, cfg LinkConfig, token string) {
	if cfg.FirstTouch {
		if old, err := r.Cookie(cfg.Cookie); err == nil {
			if _, ok := s.ReadToken(old.Value); ok {
				return
			}
		}
	}
	http.SetCookie(w, &http.Cookie{
		Name: cfg.Cookie, Value: token, Path: "/", MaxAge: int(s.cfg.AttributionWindow.Seconds()),
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode,
	})
}
