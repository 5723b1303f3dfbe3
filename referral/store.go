package referral

import (
	"context"
	"time"
)

// Store keeps codes, redemptions, rewards and the ledger. Bring your own by
// passing referraltest.TestStore. Implementations are safe for concurrent use;
// each method is one atomic step.
type Store interface {
	// CreateCode stores a code, active, unless its account has an active one
	// in the campaign: then that one is returned. A text that any account ever
	// had is ErrCodeTaken.
	CreateCode(ctx context.Context, c Code) (Code, error)
	// RotateCode disables the account's active code of the campaign, if any,
	// and stores the new one, or does neither: ErrCodeTaken.
	RotateCode(ctx context.Context, c Code) (Code, error)
	// Code returns a code by its normalised text, or ErrUnknownCode.
	Code(ctx context.Context, text string) (Code, error)
	// CodeOf returns an account's active code in a campaign, or
	// ErrUnknownCode.
	CodeOf(ctx context.Context, campaign, account string) (Code, error)
	// DisableCode ends a code; an unknown one is ErrUnknownCode.
	DisableCode(ctx context.Context, text string) error

	// Redeem decides an attempt and stores it, in one step: the code is
	// known, active, not ended at Now, not used up, and not of the referee or
	// of somebody with a signal of the referee's; the referee was never
	// referred, doesn't refer the referrer in turn (in up to four steps), and
	// neither the referrer's cap nor the budget is reached. Otherwise nothing
	// is stored or used up, and the error is one of ErrUnknownCode,
	// ErrDisabled, ErrExpired, ErrExhausted, ErrSelf, ErrAlreadyReferred,
	// ErrCycle, ErrCapped and ErrBudget.
	//
	// A signal that another redemption has stored already puts this one under
	// review, with the reason "same card" for a card. An attempt whose ID is
	// stored returns the stored redemption, whatever else it says; whatever
	// the number of parallel attempts.
	Redeem(ctx context.Context, a Attempt) (Redemption, error)
	// PutSignals remembers the signals of a code's owner, for ErrSelf.
	PutSignals(ctx context.Context, account string, signals []Signal, now time.Time) error
	// Redemption returns a redemption, or ErrNotFound.
	Redemption(ctx context.Context, id string) (Redemption, error)
	// RedemptionOf returns the redemption by which an account was referred, or
	// ErrNotFound.
	RedemptionOf(ctx context.Context, referee string) (Redemption, error)
	// Redemptions lists redemptions, newest first.
	Redemptions(ctx context.Context, f RedemptionFilter) ([]Redemption, error)
	// MoveRedemption stores a redemption whose stored version is still
	// r.Version, with the version one higher, and moves its rewards that are in
	// RewardMove.From, in one step. Otherwise nothing is stored: ErrConflict.
	// Of several that become qualified at once, each has a number of its own
	// in RewardMove.Benefit.
	MoveRedemption(ctx context.Context, r Redemption, moves []RewardMove) error

	// Reward returns the reward of one side of a redemption, or ErrNotFound.
	Reward(ctx context.Context, redemption string, side Side) (Reward, error)
	// Rewards lists rewards, oldest first.
	Rewards(ctx context.Context, f RewardFilter) ([]Reward, error)
	// SaveReward stores a reward whose stored version is still r.Version, with
	// the version one higher, and enters the ledger's rows, each ID once.
	// Otherwise nothing is stored: ErrConflict.
	SaveReward(ctx context.Context, r Reward, entries ...Entry) error
	// Begin is SaveReward for a reward that gets a Call and has none: in the
	// same step it takes what the account carries, at most most, into
	// Call.Less. What an account carries in a currency is the sum of its
	// reversals less its recoveries and less the Call.Less of all its rewards:
	// of several that begin at once, none takes what another has. When
	// Call.Currency is empty, it becomes that in which the account carries
	// most. Begin returns the reward as it is stored.
	Begin(ctx context.Context, r Reward, most int64) (Reward, error)
	// Accounts lists up to limit accounts whose rewards have changed since
	// they were stored, by name, after a name.
	Accounts(ctx context.Context, after string, limit int) ([]string, error)
	// DueRewards returns up to limit qualified rewards without MonthsLeft,
	// with VestsAt and NextTry not after now, oldest first.
	DueRewards(ctx context.Context, now time.Time, limit int) ([]Reward, error)
	// Ledger lists an account's rows, oldest first.
	Ledger(ctx context.Context, account string) ([]Entry, error)

	// Click counts one more click on a code, on a day.
	Click(ctx context.Context, code string, day time.Time) error
	// Funnel counts what happened in a campaign, or with one account's codes
	// of it.
	Funnel(ctx context.Context, campaign, account string) (Funnel, error)
	// Leaders returns the referrers of a campaign with the most qualified
	// redemptions, most first.
	Leaders(ctx context.Context, campaign string, limit int) ([]Leader, error)

	// Detach replaces an account by a pseudonym wherever it stands, and
	// forgets nothing of the money: the other side's rewards stay. It returns
	// how many rows of each kind it changed. Signals stay, as keyed hashes
	// without an account, until they expire.
	Detach(ctx context.Context, account, pseudonym string) (map[string]int64, error)
	// ExpireSignals deletes signals stored before the instant.
	ExpireSignals(ctx context.Context, before time.Time) (int64, error)
}

// Attempt is a redemption that Store.Redeem decides.
type Attempt struct {
	Redemption Redemption // with Code and Referee; the store fills Referrer and State in
	Rewards    []Reward   // pending; the store fills the account of the referrer's in
	Signals    []Signal   // of the referee
	// CapKey and Cap are the referrer's cap: at most Cap redemptions for each
	// referrer and key. Cap 0 means none.
	CapKey string
	Cap    int64
	Budget int64 // of the campaign; 0 means none
	Cost   int64
	Now    time.Time
}

// RewardMove changes the reward of one side with a redemption's move.
type RewardMove struct {
	Side    Side
	From    []RewardState
	To      RewardState
	VestsAt time.Time // zero: as it is
	// Benefit, unless nil, returns the new benefit. Nth is the number of the
	// referrer's qualified redemptions in the campaign, this one included.
	Benefit func(nth int64) Benefit
}

// RedemptionFilter selects redemptions. Zero fields select all.
type RedemptionFilter struct {
	Campaign, Referrer string
	State              RedemptionState
	ClosesBefore       time.Time
	Limit              int // 0 means 100
}

// RewardFilter selects rewards. Zero fields select all.
type RewardFilter struct {
	Account, Redemption string
	State               RewardState
	Limit               int // 0 means 100
}

// Funnel is what happened, from the click to the reward.
type Funnel struct {
	Clicks    int64
	SignUps   int64 // redemptions
	Qualified int64
	Voided    int64
	Review    int64
	Granted   map[string]int64 // minor units less reversals, by currency
	Revenue   map[string]int64 // the payments that qualified, by currency
}

// KFactor is how many qualified accounts a referrer with a code brings:
// qualified redemptions for each of n accounts that hold one.
func (f Funnel) KFactor(n int64) float64 {
	if n == 0 {
		return 0
	}
	return float64(f.Qualified) / float64(n)
}

// Leader is a referrer in a leaderboard.
type Leader struct {
	Account   string
	Qualified int64
}
