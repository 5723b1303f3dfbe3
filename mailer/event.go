package mailer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// EventType is what happened to a mail after the transport took it. Whatever a
// provider invents next is EventUnknown: it is kept, and changes nothing.
type EventType string

// The event types, the same for every provider and for SMTP's delivery status
// notifications.
const (
	EventQueued       EventType = "queued"
	EventSent         EventType = "sent"
	EventDelivered    EventType = "delivered"
	EventDeferred     EventType = "deferred"
	EventBounced      EventType = "bounced" // hard: the address is suppressed
	EventSoftBounced  EventType = "soft_bounced"
	EventRejected     EventType = "rejected" // by the provider, before it tried
	EventFailed       EventType = "failed"
	EventComplained   EventType = "complained"
	EventUnsubscribed EventType = "unsubscribed"
	EventOpened       EventType = "opened"
	EventClicked      EventType = "clicked"
	EventUnknown      EventType = "unknown"
)

// RejectReason says why a mail did not arrive.
type RejectReason string

// The reasons.
const (
	RejectNone         RejectReason = ""
	RejectInvalid      RejectReason = "invalid"      // no such address
	RejectBounced      RejectReason = "bounced"      // bounced before
	RejectFull         RejectReason = "full"         // mailbox full
	RejectSpam         RejectReason = "spam"         // content or reputation
	RejectBlocked      RejectReason = "blocked"      // policy or block list
	RejectUnsubscribed RejectReason = "unsubscribed" // on the provider's list
	RejectTimedOut     RejectReason = "timed_out"
	RejectOther        RejectReason = "other"
)

// Event is something that a provider or a mail server reports.
type Event struct {
	Provider string
	// ID makes the event unique within the provider; empty means that it can't
	// be told from a repetition.
	ID     string
	Type   EventType
	Reason RejectReason
	// MailID is our ID, as the transports hand it on; empty when unknown.
	MailID string
	// Email is the recipient. It is hashed and not kept.
	Email    string
	Code     int
	Enhanced string
	At       time.Time
}

// Reasons of suppressions.
const (
	SuppressUnsubscribed = "unsubscribed"
	SuppressBounced      = "bounced"
	SuppressComplained   = "complained"
	SuppressSoftBounced  = "soft_bounced"
	SuppressManual       = "manual"
)

// Soft bounces that suppress an address, and within how long.
const (
	softBounces      = 3
	softBounceWindow = 30 * 24 * time.Hour
)

// Record takes an event in and acts on it: a hard bounce or a complaint
// suppresses the address for everything but Security mail, an unsubscribe
// suppresses the mail's stream, three soft bounces in thirty days count as a
// hard one. It reports whether the event is new. The suppression is written
// first, so that an event that is marked as seen has taken effect.
func (s *Service) Record(ctx context.Context, e Event) (bool, error) {
	if s.store == nil {
		return false, fmt.Errorf("%w: events need a store", ErrConfig)
	}
	if e.Provider == "" || e.Type == "" {
		return false, fmt.Errorf("%w: an event needs Provider and Type", ErrConfig)
	}
	if e.At.IsZero() {
		e.At = s.now()
	}
	stored := Stored{Provider: e.Provider, ID: e.ID, Type: e.Type, Reason: e.Reason, MailID: e.MailID,
		Code: e.Code, Enhanced: e.Enhanced, At: e.At.UTC().Truncate(time.Microsecond)}
	if addr, err := parseAddress("event", e.Email); err == nil {
		stored.AddressHash = s.hashAddress(addr.Email)
	}
	stream := ""
	if e.MailID != "" {
		mail, err := s.store.Lookup(ctx, e.MailID)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return false, err
		}
		// A mail that is forgotten leaves the stream unknown: the event then
		// holds for all of them.
		stream = mail.Stream
		if stored.AddressHash == nil {
			stored.AddressHash = mail.AddressHash
		}
	}
	if err := s.suppressFor(ctx, stored, stream); err != nil {
		return false, err
	}
	fresh, err := s.store.Record(ctx, stored)
	if err != nil || !fresh || e.Type != EventSoftBounced {
		return fresh, err
	}
	return fresh, s.countSoftBounces(ctx, stored)
}

// suppressFor writes the suppression that an event calls for. It is idempotent.
func (s *Service) suppressFor(ctx context.Context, e Stored, stream string) error {
	if len(e.AddressHash) == 0 {
		return nil
	}
	sup := Suppression{AddressHash: e.AddressHash, Source: e.Provider, At: e.At}
	switch e.Type {
	case EventBounced:
		sup.Blocks, sup.Reason = Transactional, SuppressBounced
	case EventComplained:
		sup.Blocks, sup.Reason = Transactional, SuppressComplained
	case EventUnsubscribed:
		sup.Blocks, sup.Reason, sup.Stream = Lifecycle, SuppressUnsubscribed, stream
	default:
		return nil
	}
	return s.store.Suppress(ctx, []Suppression{sup})
}

func (s *Service) countSoftBounces(ctx context.Context, e Stored) error {
	if len(e.AddressHash) == 0 {
		return nil
	}
	n, err := s.store.CountEvents(ctx, e.AddressHash, EventSoftBounced, e.At.Add(-softBounceWindow))
	if err != nil || n < softBounces {
		return err
	}
	return s.store.Suppress(ctx, []Suppression{{AddressHash: e.AddressHash, Blocks: Transactional,
		Reason: SuppressSoftBounced, Source: e.Provider, At: e.At}})
}
