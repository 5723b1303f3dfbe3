// Package users keeps the people who may log in. A user is an account of the
// packages: the user's ID is what billing, usage and the others are given.
package users

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"

	"github.com/kolekt/commerce/internal/ident"
)

// The kinds of this package's errors.
var (
	ErrNotFound    = errors.New("users: no such user")
	ErrTaken       = errors.New("users: an account with this address exists: log in instead")
	ErrCredentials = errors.New("users: the address or the password is wrong")
	ErrEmail       = errors.New("users: the address is not one that mail can be sent to")
	ErrPassword    = fmt.Errorf("users: a password has %d to %d characters", minPassword, maxPassword)
	ErrName        = errors.New("users: a name has 1 to 100 characters")
	ErrToken       = errors.New("users: the link is used up or too old: ask for a new one")
)

const (
	minPassword = 10
	maxPassword = 200
)

// User is a person who may log in.
type User struct {
	ID         string
	Email      string // in lower case: one address, one user
	Name       string
	Hash       string // argon2id in PHC form
	Admin      bool   // set by Seed alone, never by a form
	CreatedAt  time.Time
	VerifiedAt time.Time // zero until the address has been proved
}

// Store keeps users. Implementations are safe for concurrent use.
type Store interface {
	// Create stores a user; a second one with the same address is ErrTaken,
	// also when both come at once.
	Create(ctx context.Context, u User) error
	ByID(ctx context.Context, id string) (User, error)
	ByEmail(ctx context.Context, email string) (User, error)
	// Update replaces the stored user of the same ID, or returns ErrNotFound.
	Update(ctx context.Context, u User) error
	// List returns users whose name or address contains the text, newest
	// first, before the given ID (empty: from the newest).
	List(ctx context.Context, text, before string, limit int) ([]User, error)
	Count(ctx context.Context) (int64, error)
	// Delete removes a user; none is no error.
	Delete(ctx context.Context, id string) (int64, error)
}

// Config of a Service. The zero value is for production.
type Config struct {
	Now    func() time.Time // nil means time.Now
	Params *argon2id.Params // nil means 19 MiB, two passes, one lane
	// Hashes is how many passwords are hashed at once, 0 means 4: each takes
	// 19 MiB.
	Hashes int
}

// Service is sign-up, login and the links in mails.
type Service struct {
	store  Store
	secret []byte
	cfg    Config
	slots  chan struct{}
	nobody string // a hash that no password has
}

// New returns a Service. The secret signs links and has at least 32 bytes.
func New(store Store, secret string, cfg Config) (*Service, error) {
	if len(secret) < 32 {
		return nil, errors.New("users: the secret needs at least 32 characters: openssl rand -hex 32 makes one")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Params == nil {
		cfg.Params = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}
	}
	if cfg.Hashes == 0 {
		cfg.Hashes = 4
	}
	nobody, err := argon2id.CreateHash(ident.New("nobody", cfg.Now()), cfg.Params)
	if err != nil {
		return nil, fmt.Errorf("users: %w", err)
	}
	return &Service{store: store, secret: []byte(secret), cfg: cfg, slots: make(chan struct{}, cfg.Hashes), nobody: nobody}, nil
}

// Store returns the store of the users.
func (s *Service) Store() Store { return s.store }

// SignUp makes a user.
func (s *Service) SignUp(ctx context.Context, email, password, name string) (User, error) {
	email, err := normalize(email)
	if err != nil {
		return User{}, err
	}
	name = strings.Join(strings.Fields(name), " ")
	if n := utf8.RuneCountInString(name); n < 1 || n > 100 {
		return User{}, ErrName
	}
	hash, err := s.hash(ctx, password)
	if err != nil {
		return User{}, err
	}
	now := s.cfg.Now().UTC().Truncate(time.Microsecond)
	u := User{ID: ident.New("usr", now), Email: email, Name: name, Hash: hash, CreatedAt: now}
	return u, s.store.Create(ctx, u)
}

// Seed makes sure that the administrator exists: by this address, with this
// password when it is new.
func (s *Service) Seed(ctx context.Context, email, password, name string) (User, error) {
	u, err := s.SignUp(ctx, email, password, name)
	if errors.Is(err, ErrTaken) {
		email, _ = normalize(email)
		u, err = s.store.ByEmail(ctx, email)
	}
	if err != nil || u.Admin && !u.VerifiedAt.IsZero() {
		return u, err
	}
	u.Admin = true
	if u.VerifiedAt.IsZero() {
		u.VerifiedAt = u.CreatedAt
	}
	return u, s.store.Update(ctx, u)
}

// LogIn returns the user with this address and password, or ErrCredentials. It
// takes as long for an address that nobody has.
func (s *Service) LogIn(ctx context.Context, email, password string) (User, error) {
	u, err := User{Hash: s.nobody}, error(nil)
	if email, bad := normalize(email); bad == nil {
		u, err = s.store.ByEmail(ctx, email)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		u.Hash = s.nobody
	case err != nil:
		return User{}, err
	}
	if utf8.RuneCountInString(password) > maxPassword {
		return User{}, ErrCredentials
	}
	ok, err := s.matches(ctx, password, u.Hash)
	if err != nil {
		return User{}, err
	}
	if !ok || u.ID == "" {
		return User{}, ErrCredentials
	}
	return u, nil
}

// ChangePassword sets a new password after the old one was given.
func (s *Service) ChangePassword(ctx context.Context, id, old, password string) error {
	u, err := s.store.ByID(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.LogIn(ctx, u.Email, old); err != nil {
		return err
	}
	return s.setPassword(ctx, u, password)
}

// ResetToken returns the text that lets its holder set a new password within
// an hour, once: a new password makes it worthless.
func (s *Service) ResetToken(u User) string {
	return s.token("reset", u.ID, u.Hash, s.cfg.Now().Add(time.Hour))
}

// Reset sets a new password. The link came by mail, so the address is proved
// as well.
func (s *Service) Reset(ctx context.Context, token, password string) (User, error) {
	u, err := s.open(ctx, "reset", token, func(u User) string { return u.Hash })
	if err != nil {
		return User{}, err
	}
	if u.VerifiedAt.IsZero() {
		u.VerifiedAt = s.cfg.Now().UTC().Truncate(time.Microsecond)
	}
	return u, s.setPassword(ctx, u, password)
}

// VerifyToken returns the text that proves the user's address, for a week.
func (s *Service) VerifyToken(u User) string {
	return s.token("verify", u.ID, u.Email, s.cfg.Now().Add(7*24*time.Hour))
}

// Verify marks the address as proved; again is no error.
func (s *Service) Verify(ctx context.Context, token string) (User, error) {
	u, err := s.open(ctx, "verify", token, func(u User) string { return u.Email })
	if err != nil || !u.VerifiedAt.IsZero() {
		return u, err
	}
	u.VerifiedAt = s.cfg.Now().UTC().Truncate(time.Microsecond)
	return u, s.store.Update(ctx, u)
}

// SessionMark changes with the password: a session that carries another one
// has ended.
func (s *Service) SessionMark(u User) string {
	mac := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mac, "session\x00%s\x00%s", u.ID, u.Hash)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:12])
}

// Fingerprint is a keyed hash under which an address or a network is counted
// without being named.
func (s *Service) Fingerprint(text string) string {
	mac := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mac, "fingerprint\x00%s", text)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:15])
}

// ExportSubject emits what is stored about the person, for gdpr.
func (s *Service) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	u, err := s.store.ByID(ctx, account)
	if errors.Is(err, ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	fields := map[string]any{"id": u.ID, "email": u.Email, "name": u.Name, "admin": u.Admin, "created_at": u.CreatedAt}
	if !u.VerifiedAt.IsZero() {
		fields["verified_at"] = u.VerifiedAt
	}
	return emit("user", fields)
}

// EraseSubject removes the login, for gdpr.
func (s *Service) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	n, err := s.store.Delete(ctx, account)
	return map[string]int64{"user": n}, err
}

func (s *Service) setPassword(ctx context.Context, u User, password string) error {
	hash, err := s.hash(ctx, password)
	if err != nil {
		return err
	}
	u.Hash = hash
	return s.store.Update(ctx, u)
}

// token is expiry, ID and a MAC over them, the purpose, and what the token
// must not outlive.
func (s *Service) token(purpose, id, bound string, expires time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(expires.Unix()))
	b = append(b, id...)
	return base64.RawURLEncoding.EncodeToString(append(b, s.mac(purpose, b, bound)...))
}

func (s *Service) mac(purpose string, body []byte, bound string) []byte {
	mac := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mac, "%s\x00%d\x00%s%s", purpose, len(body), body, bound)
	return mac.Sum(nil)
}

func (s *Service) open(ctx context.Context, purpose, token string, bound func(User) string) (User, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) <= 8+sha256.Size || len(b) > 200 {
		return User{}, ErrToken
	}
	body, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !utf8.Valid(body[8:]) {
		return User{}, ErrToken
	}
	u, err := s.store.ByID(ctx, string(body[8:]))
	if errors.Is(err, ErrNotFound) {
		return User{}, ErrToken
	} else if err != nil {
		return User{}, err
	}
	expired := s.cfg.Now().Unix() >= int64(binary.BigEndian.Uint64(body))
	if !hmac.Equal(mac, s.mac(purpose, body, bound(u))) || expired {
		return User{}, ErrToken
	}
	return u, nil
}

func (s *Service) hash(ctx context.Context, password string) (string, error) {
	if n := utf8.RuneCountInString(password); n < minPassword || n > maxPassword {
		return "", ErrPassword
	}
	if err := s.acquire(ctx); err != nil {
		return "", err
	}
	defer s.release()
	return argon2id.CreateHash(password, s.cfg.Params)
}

func (s *Service) matches(ctx context.Context, password, hash string) (bool, error) {
	if err := s.acquire(ctx); err != nil {
		return false, err
	}
	defer s.release()
	return argon2id.ComparePasswordAndHash(password, hash)
}

func (s *Service) acquire(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) release() { <-s.slots }

func normalize(email string) (string, error) {
	email = strings.ToLower(strings.TrimSpace(email))
	a, err := mail.ParseAddress(email)
	if err != nil || a.Address != email || len(email) > 254 || !strings.Contains(email[strings.LastIndexByte(email, '@')+1:], ".") {
		return "", ErrEmail
	}
	return email, nil
}
