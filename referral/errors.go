package referral

import "errors"

// The kinds of this package's errors, for errors.Is. Those from ErrUnknownCode
// to ErrCapped are refusals of a redemption: nothing was stored, and nothing
// was used up.
var (
	ErrInvalid  = errors.New("referral: invalid request")
	ErrNotFound = errors.New("referral: not found")
	// ErrConflict says that a redemption or a reward isn't in the state that
	// the step starts from: somebody else was faster.
	ErrConflict = errors.New("referral: conflict")
	// ErrUnknownOutcome says that a redemption may have been stored, or not.
	// Redeem again with the same code and account: it is the same redemption.
	ErrUnknownOutcome = errors.New("referral: the outcome is unknown")
	// ErrCodeTaken says that another account has the code, or had it.
	ErrCodeTaken = errors.New("referral: code is taken")

	ErrUnknownCode     = errors.New("referral: unknown code")
	ErrDisabled        = errors.New("referral: code is disabled")
	ErrExpired         = errors.New("referral: code or campaign has ended")
	ErrNotStarted      = errors.New("referral: campaign hasn't started")
	ErrExhausted       = errors.New("referral: code is used up")
	ErrSelf            = errors.New("referral: nobody refers themselves")
	ErrAlreadyReferred = errors.New("referral: account was referred before")
	ErrCycle           = errors.New("referral: accounts refer each other")
	ErrBudget          = errors.New("referral: campaign's budget is used up")
	ErrCapped          = errors.New("referral: referrer has reached the most rewards of the period")
	ErrNotEligible     = errors.New("referral: account isn't eligible")
)
