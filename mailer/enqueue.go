package mailer

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/kolekt/commerce/internal/ident"
)

// To is the recipient.
type To struct {
	// Account whom the mail is about; the personal data of the mail belong to it.
	Account string
	Email   string
	// Name as typed by whoever signed up; it is neutralised by [NeutralName].
	Name   string
	Locale string // such as "de" or "en-GB"; empty means the kind's first
	// TimeZone is an IANA name, for quiet hours. Empty means UTC.
	TimeZone string
}

// Option changes one enqueued mail.
type Option func(*options)

type options struct {
	at, until time.Time
	topic     string
}

// At sends the mail no earlier than t.
func At(t time.Time) Option { return func(o *options) { o.at = t } }

// Until drops the mail when it has not been sent by t; it overrides Spec.TTL.
func Until(t time.Time) Option { return func(o *options) { o.until = t } }

// About narrows what coalesces and supersedes to one topic, such as an
// invoice's ID.
func About(topic string) Option { return func(o *options) { o.topic = topic } }

// Key joins the parts of an idempotency key: the account and the occasion, such
// as Key("acct_1", "2026-11"). The kind is part of every key by itself.
func Key(parts ...string) string {
	escaped := make([]string, len(parts))
	for i, p := range parts {
		escaped[i] = strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(p)
	}
	return strings.Join(escaped, ":")
}

// Enqueue puts a mail into the outbox. A key that was used before changes
// nothing and answers Duplicate, so that a caller that doesn't know whether it
// succeeded can call again. Suppressed and capped mails are no errors: the
// receipt says so.
func (k *Kind[T]) Enqueue(ctx context.Context, s *Service, to To, data T, key string, opts ...Option) (Receipt, error) {
	if s.store == nil {
		return k.Send(ctx, s, to, data, key, opts...)
	}
	e, err := k.Prepare(s, to, data, key, opts...)
	if err != nil {
		return Receipt{}, err
	}
	receipts, err := s.EnqueueAll(ctx, []Enqueue{e})
	if err != nil {
		return Receipt{}, err
	}
	return receipts[0], nil
}

// EnqueueAll puts prepared mails into the outbox in one step, all or none.
// Receipts stand in the order of the mails.
func (s *Service) EnqueueAll(ctx context.Context, mails []Enqueue) ([]Receipt, error) {
	if s.store == nil {
		return nil, fmt.Errorf("%w: EnqueueAll needs a store", ErrConfig)
	}
	if len(mails) == 0 {
		return nil, nil
	}
	receipts, err := s.store.Enqueue(ctx, mails)
	if err != nil {
		return nil, fmt.Errorf("mailer: enqueue: %w", err)
	}
	return receipts, nil
}

// Prepare checks a mail and freezes its variables, for [Service.EnqueueAll].
func (k *Kind[T]) Prepare(s *Service, to To, data T, key string, opts ...Option) (Enqueue, error) {
	e, err := k.prepare(s, to, key, opts)
	if err != nil {
		return Enqueue{}, err
	}
	if e.Mail.Data, err = json.Marshal(data); err != nil {
		return Enqueue{}, fmt.Errorf("mailer: variables of %q can't be written as JSON: %w", k.def.name, err)
	}
	e.Mail.ID = ident.New("mail", e.Mail.CreatedAt)
	return e, nil
}

// prepare is Prepare without the variables and the ID.
func (k *Kind[T]) prepare(s *Service, to To, key string, opts []Option) (Enqueue, error) {
	def := s.kinds[k.def.name]
	if def != k.def {
		return Enqueue{}, fmt.Errorf("%w: %q, as it was defined", ErrUnknownKind, k.def.name)
	}
	if key == "" {
		return Enqueue{}, ErrNoKey
	}
	addr, err := parseAddress("to", to.Email)
	if err != nil {
		return Enqueue{}, err
	}
	if reason := checkText(to.Account); reason != "" || len(to.Account) > 200 {
		return Enqueue{}, &AddressError{"to", "belongs to an account whose ID has a control character or more than 200 octets"}
	}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if reason := checkText(o.topic); reason != "" || len(o.topic) > 200 {
		return Enqueue{}, fmt.Errorf("%w: the topic has a control character or more than 200 octets", ErrConfig)
	}
	zone := to.TimeZone
	if _, ok := s.zones.find(zone); !ok {
		zone = ""
	}
	now := s.now()
	m := Mail{
		KeyHash: s.keys.idempotency.sum(def.name, key)[:16], Kind: def.name, Stream: def.stream,
		Class: def.class, Account: to.Account, Topic: o.topic, Email: addr.Email, Name: NeutralName(to.Name),
		Locale: safeLocale(to.Locale), TimeZone: zone, Domain: addr.Domain(),
		AddressHash: s.hashAddress(addr.Email), CreatedAt: now, RunAt: now.Add(def.coalesce),
		Guarded: def.onAmbiguous == Hold,
	}
	if !o.at.IsZero() {
		m.RunAt = later(m.RunAt, o.at.UTC().Truncate(time.Microsecond))
	}
	if def.class == Lifecycle {
		m.RunAt = def.quiet.open(m.RunAt, s.zones, zone)
	}
	m.ExpiresAt = m.RunAt.Add(def.ttl)
	if !o.until.IsZero() {
		m.ExpiresAt = o.until.UTC().Truncate(time.Microsecond)
	}
	e := Enqueue{Mail: m}
	if m.Account == "" {
		return e, nil // nobody to coalesce, supersede or count for
	}
	e.Supersedes = def.supersedes
	if def.coalesce > 0 {
		e.Group = def.group
	}
	if def.cap.Count > 0 {
		e.CapCount, e.CapSince = def.cap.Count, now.Add(-def.cap.Per)
	}
	return e, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func safeLocale(s string) string {
	if s = strings.ReplaceAll(s, "_", "-"); localeName.MatchString(s) {
		return s
	}
	return ""
}

// Send sends a mail at once, without the outbox: there is no second attempt
// and no memory of the key beyond the Message-ID and the transport's
// idempotency key, which are the same for the same key. A suppressed address
// gets nothing. Any outcome but Sent is a [SendError].
func (k *Kind[T]) Send(ctx context.Context, s *Service, to To, data T, key string, opts ...Option) (Receipt, error) {
	e, err := k.prepare(s, to, key, opts)
	if err != nil {
		return Receipt{}, err
	}
	m := e.Mail
	m.ID = "mail_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(m.KeyHash))
	if s.store != nil {
		list, err := s.store.Suppressions(ctx, m.AddressHash)
		if err != nil {
			return Receipt{}, fmt.Errorf("mailer: suppressions: %w", err)
		}
		for _, sup := range list {
			if sup.Covers(m.Stream, m.Class) {
				return Receipt{ID: m.ID, Status: Suppressed}, nil
			}
		}
	}
	if k.def.relevant != nil {
		ok, err := k.def.relevant(ctx, m.Account, data)
		if err != nil {
			return Receipt{}, fmt.Errorf("mailer: StillRelevant of %q: %w", k.def.name, err)
		}
		if !ok {
			return Receipt{ID: m.ID, Status: Irrelevant}, nil
		}
	}
	msg, err := s.message(m, data, k.def)
	if err != nil {
		return Receipt{}, err
	}
	res := s.transport.Send(ctx, msg)
	if res.Outcome != Sent {
		return Receipt{ID: m.ID}, &SendError{ID: m.ID, Result: res}
	}
	return Receipt{ID: m.ID, Status: Delivered}, nil
}
