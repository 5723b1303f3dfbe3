package referral

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config configures a Service. Pepper and Campaigns are required.
type Config struct {
	// Pepper keys the hashes of signals and the attribution tokens, at least
	// 32 bytes.
	Pepper []byte
	// Campaigns are all that codes and redemptions may be of, ended ones too.
	Campaigns []Campaign
	// Biller grants rewards; nil leaves every reward to Notify.
	Biller Biller
	// Guards look at each redemption before it is decided. One that denies is
	// ErrNotEligible; one that asks for a review, or fails, puts it into the
	// queue.
	Guards []Guard
	// ReviewScore is the sum of the guards' scores from which on a redemption
	// is put into the queue; 0 means 100.
	ReviewScore int64
	// Notify tells people. A notice may come again, under the same ID; one of a
	// custom benefit comes until Notify returns no error, the others aren't
	// repeated when it fails.
	Notify func(ctx context.Context, n Notice) error
	// Reserved are further words that no vanity code may hold.
	Reserved []string
	// UseDevice and UseNetwork make signals of the device and of the network.
	// Households and offices share them: they lead to reviews of honest
	// people, too.
	UseDevice, UseNetwork bool

	AttributionWindow time.Duration    // of a click; 0 means 30 days
	SignalTTL         time.Duration    // of signals; 0 means 2 years
	Poll              time.Duration    // of Run; 0 means 10 seconds
	Now               func() time.Time // nil means time.Now
	Logger            *slog.Logger     // nil means discard
}

// Guard looks at a redemption: fraud signals of the application's own.
type Guard func(ctx context.Context, code Code, referee Person) (Verdict, error)

// Verdict is a guard's answer. The zero Verdict allows.
type Verdict struct {
	Deny, Review bool
	Score        int64  // of suspicion: see Config.ReviewScore
	Reason       string // stored with a review, for the one who decides
}

// Notice is something to tell. Friends are never named to each other.
type Notice struct {
	ID      string // the same for every attempt
	Event   string // "reward_qualified", "reward_granted", "reward_reversed", "review"
	Account string
	Reward  Reward
}

// Service runs campaigns. Make it with New.
type Service struct {
	store     Store
	cfg       Config
	campaigns map[string]Campaign
}

// New returns a service. It does no I/O and starts nothing.
func New(store Store, cfg Config) (*Service, error) {
	if store == nil {
		return nil, fmt.Errorf("%w: store is nil", ErrInvalid)
	}
	if len(cfg.Pepper) < 32 {
		return nil, fmt.Errorf("%w: Config.Pepper has %d bytes, needs at least 32", ErrInvalid, len(cfg.Pepper))
	}
	if len(cfg.Campaigns) == 0 {
		return nil, fmt.Errorf("%w: Config.Campaigns is empty", ErrInvalid)
	}
	s := &Service{store: store, cfg: cfg, campaigns: map[string]Campaign{}}
	for _, c := range cfg.Campaigns {
		if err := c.validate(); err != nil {
			return nil, err
		}
		if _, dup := s.campaigns[c.ID]; dup {
			return nil, fmt.Errorf("%w: two campaigns are named %q", ErrInvalid, c.ID)
		}
		s.campaigns[c.ID] = c
	}
	for d, def := range map[*time.Duration]time.Duration{
		&s.cfg.AttributionWindow: 30 * 24 * time.Hour, &s.cfg.SignalTTL: 2 * 365 * 24 * time.Hour, &s.cfg.Poll: 10 * time.Second,
	} {
		if *d == 0 {
			*d = def
		}
	}
	if s.cfg.ReviewScore == 0 {
		s.cfg.ReviewScore = 100
	}
	if s.cfg.Now == nil {
		s.cfg.Now = time.Now
	}
	if s.cfg.Logger == nil {
		s.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// Campaign returns a campaign, or ErrNotFound.
func (s *Service) Campaign(id string) (Campaign, error) {
	c, ok := s.campaigns[id]
	if !ok {
		return Campaign{}, fmt.Errorf("%w: campaign %q", ErrNotFound, id)
	}
	return c, nil
}

// Code returns the owner's active code in a campaign, and makes one if there
// is none: the same one for any number of callers at once. The owner's signals
// are remembered, so that they don't redeem their own code under another
// address.
func (s *Service) Code(ctx context.Context, campaign string, owner Person) (Code, error) {
	return s.issue(ctx, campaign, owner, "", s.store.CreateCode)
}

// Vanity is Code with a text of the owner's choice. A text that is reserved or
// offensive is ErrInvalid, one that another account has or had ErrCodeTaken.
func (s *Service) Vanity(ctx context.Context, campaign string, owner Person, text string) (Code, error) {
	norm, err := Normalise(text)
	if err != nil {
		return Code{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !acceptable(norm, s.cfg.Reserved) {
		return Code{}, fmt.Errorf("%w: this code isn't available", ErrInvalid)
	}
	return s.issue(ctx, campaign, owner, norm, s.store.RotateCode)
}

// Rotate disables the owner's code and returns a new one. Redemptions of the
// old one stay.
func (s *Service) Rotate(ctx context.Context, campaign string, owner Person) (Code, error) {
	return s.issue(ctx, campaign, owner, "", s.store.RotateCode)
}

func (s *Service) issue(ctx context.Context, campaign string, owner Person, text string, put func(context.Context, Code) (Code, error)) (Code, error) {
	c, err := s.Campaign(campaign)
	if err != nil {
		return Code{}, err
	}
	if owner.Account == "" {
		return Code{}, fmt.Errorf("%w: a code needs an account", ErrInvalid)
	}
	if !among(c.Audience, owner) {
		return Code{}, fmt.Errorf("%w: the campaign is for others", ErrNotEligible)
	}
	now := s.now()
	if err := s.store.PutSignals(ctx, owner.Account, s.signals(owner), now); err != nil {
		return Code{}, fmt.Errorf("referral: code: %w", err)
	}
	for {
		code := Code{Text: text, Campaign: c.ID, Account: owner.Account, Active: true, MaxUses: c.MaxUses, CreatedAt: now, ExpiresAt: c.Ends}
		if text == "" {
			code.Text = generate()
			if !acceptable(code.Text, nil) {
				continue
			}
		}
		stored, err := put(ctx, code)
		if errors.Is(err, ErrCodeTaken) && text == "" && ctx.Err() == nil {
			continue // one in 10^11: another draw
		}
		if err != nil {
			return Code{}, fmt.Errorf("referral: code: %w", err)
		}
		return stored, nil
	}
}

// Disable ends a code.
func (s *Service) Disable(ctx context.Context, text string) error {
	norm, err := Normalise(text)
	if err != nil {
		return err
	}
	if err := s.store.DisableCode(ctx, norm); err != nil {
		return fmt.Errorf("referral: disable: %w", err)
	}
	return nil
}

// Redeem uses a code for a new account. The decision is one atomic step of the
// store: caps, expiry, self-referral, one redemption for each account ever,
// cycles. A refusal is one of the errors from ErrUnknownCode on; nothing is
// used up by it. Redeeming the same code for the same account again returns
// the first redemption.
//
// A person who shares a signal with another referee is put under review rather
// than refused: nobody is turned away by a machine alone (Art. 22 GDPR).
func (s *Service) Redeem(ctx context.Context, text string, referee Person) (Redemption, error) {
	norm, err := Normalise(text)
	if err != nil {
		return Redemption{}, err
	}
	if referee.Account == "" {
		return Redemption{}, fmt.Errorf("%w: a redemption needs an account", ErrInvalid)
	}
	code, err := s.store.Code(ctx, norm)
	if err != nil {
		return Redemption{}, fmt.Errorf("referral: redeem: %w", err)
	}
	c, err := s.Campaign(code.Campaign)
	if err != nil {
		return Redemption{}, err
	}
	now := s.now()
	if now.Before(c.Starts) {
		return Redemption{}, ErrNotStarted
	}
	if !c.Ends.IsZero() && !now.Before(c.Ends) {
		return Redemption{}, ErrExpired
	}
	if !among(c.Newcomers, referee) {
		return Redemption{}, fmt.Errorf("%w: the campaign is for others", ErrNotEligible)
	}
	if c.NewFor > 0 && !now.Before(referee.Since.Add(c.NewFor)) {
		return Redemption{}, fmt.Errorf("%w: codes are for new accounts", ErrNotEligible)
	}
	a := Attempt{
		Redemption: Redemption{
			// Of code and referee: the same click twice is one attempt.
			ID: "rdm_" + s.signal("redemption", norm+"\x00"+referee.Account).Hash, Campaign: c.ID, Code: norm, Referee: referee.Account,
			State: RedemptionPending, Terms: c, CreatedAt: now, ChangedAt: now, ClosesAt: now.Add(c.window()),
		},
		Signals: s.signals(referee), Budget: c.Budget, Cost: c.Cost, Now: now,
	}
	if c.PerReferrer > 0 {
		a.CapKey, a.Cap = c.ID+":"+strconv.Itoa(now.Year()), c.PerReferrer
	}
	for side, b := range map[Side]Benefit{Referrer: c.Referrer, Referee: c.Referee} {
		if b.IsZero() {
			continue
		}
		r := Reward{
			ID: "rwd_" + strings.TrimPrefix(a.Redemption.ID, "rdm_") + "_" + string(side), Redemption: a.Redemption.ID, Campaign: c.ID, Side: side,
			Benefit: b, State: RewardPending, CreatedAt: now, ChangedAt: now, MonthsLeft: b.FreeMonths, Currency: b.Currency,
		}
		if side == Referee {
			r.Account = referee.Account
		}
		a.Rewards = append(a.Rewards, r)
	}
	slices.SortFunc(a.Rewards, func(x, y Reward) int { return strings.Compare(x.ID, y.ID) })
	var score int64
	var reasons []string
	for _, guard := range s.cfg.Guards {
		v, err := guard(ctx, code, referee)
		switch {
		case err != nil:
			// A guard that can't answer must not wave everybody through.
			s.cfg.Logger.WarnContext(ctx, "referral: guard", "err", err)
			v = Verdict{Review: true, Reason: "a check could not be made"}
		case v.Deny:
			return Redemption{}, fmt.Errorf("%w: %s", ErrNotEligible, v.Reason)
		}
		score += v.Score
		if v.Review {
			a.Redemption.State = RedemptionReview
		}
		if v.Review || v.Score > 0 {
			reasons = append(reasons, v.Reason)
		}
	}
	if a.Redemption.State == RedemptionReview || score >= s.cfg.ReviewScore {
		a.Redemption.State, a.Redemption.Reasons = RedemptionReview, reasons
	}
	r, err := s.store.Redeem(ctx, a)
	if err != nil {
		return Redemption{}, fmt.Errorf("referral: redeem: %w", err)
	}
	if r.State == RedemptionPending && c.Qualify == SignUp {
		r, _, err = s.change(ctx, s.byID(r.ID), func(r *Redemption) ([]RewardMove, error) {
			if r.State != RedemptionPending {
				return nil, errUnchanged
			}
			return s.qualified(r), nil
		})
		if err == nil {
			err = s.afterQualified(ctx, r)
		}
		if err != nil {
			return r, fmt.Errorf("referral: redeem: %w", err)
		}
	}
	return r, nil
}

// Approve accepts a redemption that is under review. What happened meanwhile,
// a payment or a refund, counts. One that isn't under review is ErrConflict.
func (s *Service) Approve(ctx context.Context, id string) (Redemption, error) {
	r, _, err := s.change(ctx, s.byID(id), func(r *Redemption) ([]RewardMove, error) {
		if r.State != RedemptionReview {
			return nil, ErrConflict
		}
		if r.Terms.Qualify == SignUp || r.PaidAmount > 0 {
			return s.qualified(r), nil
		}
		r.State, r.ChangedAt = RedemptionPending, s.now()
		// The referee had no chance to qualify while the house was thinking.
		r.ClosesAt = r.ChangedAt.Add(r.Terms.window())
		return nil, nil
	})
	if err == nil {
		err = s.afterQualified(ctx, r)
	}
	if err != nil {
		return Redemption{}, fmt.Errorf("referral: approve: %w", err)
	}
	return r, nil
}

// Reject refuses a redemption that is under review. Reason is stored; the
// referee can ask for it.
func (s *Service) Reject(ctx context.Context, id, reason string) (Redemption, error) {
	return s.void(ctx, id, RedemptionReview, reason)
}

// void closes a redemption whose rewards haven't been granted.
func (s *Service) void(ctx context.Context, id string, from RedemptionState, reason string) (Redemption, error) {
	r, _, err := s.change(ctx, s.byID(id), func(r *Redemption) ([]RewardMove, error) {
		if r.State != from {
			return nil, ErrConflict
		}
		r.State, r.ChangedAt = RedemptionVoided, s.now()
		r.Reasons = append(slices.Clone(r.Reasons), reason)
		return lapse, nil
	})
	if err != nil {
		return Redemption{}, fmt.Errorf("referral: void: %w", err)
	}
	return r, nil
}

// Redemption returns a redemption.
func (s *Service) Redemption(ctx context.Context, id string) (Redemption, error) {
	return s.store.Redemption(ctx, id)
}

// Redemptions lists redemptions, newest first: those under review, for
// example.
func (s *Service) Redemptions(ctx context.Context, f RedemptionFilter) ([]Redemption, error) {
	return s.store.Redemptions(ctx, f)
}

// Rewards lists rewards, oldest first.
func (s *Service) Rewards(ctx context.Context, f RewardFilter) ([]Reward, error) {
	return s.store.Rewards(ctx, f)
}

// Ledger lists what an account was granted and what was taken back.
func (s *Service) Ledger(ctx context.Context, account string) ([]Entry, error) {
	return s.store.Ledger(ctx, account)
}

// Funnel counts what happened in a campaign, or with one account's codes.
func (s *Service) Funnel(ctx context.Context, campaign, account string) (Funnel, error) {
	return s.store.Funnel(ctx, campaign, account)
}

// Leaders returns the referrers of a campaign with the most qualified
// redemptions.
func (s *Service) Leaders(ctx context.Context, campaign string, limit int) ([]Leader, error) {
	return s.store.Leaders(ctx, campaign, limit)
}

func (s *Service) tell(ctx context.Context, event string, r Reward) {
	if s.cfg.Notify == nil {
		return
	}
	err := s.cfg.Notify(ctx, Notice{ID: r.ID + ":" + event, Event: event, Account: r.Account, Reward: r})
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "referral: notify", "event", event, "reward", r.ID, "err", err)
	}
}

// callID names a call of the gateway.
func callID(r Reward, what string) string { return r.ID + ":" + what }
