package mailer

import (
	"math/rand/v2"
	"time"
)

// backoff are the waits between attempts; the last one repeats.
var backoff = [...]time.Duration{
	time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour,
}

// wait returns how long to wait after the n-th attempt, half of it at random.
func wait(n int) time.Duration {
	d := backoff[max(0, min(n-1, len(backoff)-1))]
	return d/2 + rand.N(d/2+1)
}

// senderWait is the least wait after a refusal of the sender: DNS and
// reputation don't mend within a minute.
const senderWait = 15 * time.Minute

// settle turns the outcome of an attempt into what the store shall know. It
// opens and closes circuits on the way.
func (s *Service) settle(m Mail, def *definition, res Result) Ack {
	now := s.now()
	ack := Ack{ID: m.ID, Attempt: m.Attempts, At: now, Code: res.Code, Enhanced: res.Enhanced, Transport: res.Transport, ProviderID: res.ProviderID}
	retry := func(at time.Time, refund bool) Ack {
		ack.State, ack.RunAt, ack.Refund = Pending, at, refund
		switch {
		case !at.Before(m.ExpiresAt):
			ack.State, ack.Reason, ack.Refund = Dead, ReasonExpired, false
		case !refund && m.Attempts >= s.cfg.MaxAttempts:
			ack.State, ack.Reason = Dead, ReasonAttempts
		}
		return ack
	}
	domain, stream := domainCircuit(m.Domain), streamCircuit(m.Stream)
	switch res.Outcome {
	case Sent:
		s.pacer.succeed(transportCircuit, domain, stream)
		s.pacer.adapt(m.Domain, false)
		ack.State = Done
		return ack
	case Temporary:
		switch {
		case res.Fault == FaultTransport || res.Stage == "connect":
			// The relay is away or refuses us: no mail is to blame, so no
			// attempt is counted.
			return retry(s.pacer.pause(transportCircuit, pauseBase, res.RetryAfter), true)
		case res.Fault == FaultRate:
			s.pacer.adapt(m.Domain, true)
			until := s.pacer.pause(domain, 30*time.Second, res.RetryAfter)
			return retry(later(until, now.Add(wait(m.Attempts))), false)
		}
		return retry(later(now.Add(wait(m.Attempts)), now.Add(res.RetryAfter)), false)
	case Permanent:
		switch res.Fault {
		case FaultTransport:
			return retry(s.pacer.pause(transportCircuit, pauseBase, res.RetryAfter), true)
		case FaultSender:
			// Never the recipient's fault. It can be one mail's content or all
			// of our mail: try the stream again later.
			s.pacer.pause(stream, time.Minute, 0)
			return retry(later(now.Add(senderWait), now.Add(wait(m.Attempts))), false)
		case FaultNetwork, FaultUnknown:
			return retry(now.Add(wait(m.Attempts)), false)
		}
		ack.State, ack.Reason = Dead, ReasonRefused
		return ack
	}
	if def.onAmbiguous == Hold {
		ack.State, ack.Reason = Held, ReasonAmbiguous
		return ack
	}
	ack.Reason = ReasonAmbiguous
	return retry(now.Add(wait(m.Attempts)), false)
}

// bounce returns the event that a refusal amounts to.
func bounce(res Result) (EventType, RejectReason) {
	if res.Outcome != Permanent {
		return "", ""
	}
	switch res.Fault {
	case FaultRecipient:
		return EventBounced, RejectInvalid
	case FaultMailbox:
		return EventSoftBounced, RejectFull
	}
	return "", ""
}
