package mailer

import (
	"embed"
	"errors"
	"io/fs"
	"time"
)

//go:embed shipped
var shippedFiles embed.FS

// The variables of the shipped kinds. Amounts are texts as they shall be
// shown, such as "$9.99", since only the application knows how. Links are https
// URLs. Fields that say so may be empty.
type (
	// Welcome greets somebody who signed up.
	Welcome struct {
		StartURL string
		Plan     string // may be empty
	}
	// UpgradeReminder says that most of a quota is used.
	UpgradeReminder struct {
		Used, Limit int64
		Unit        string // plural: "kolekts"
		ResetsAt    time.Time
		Plan        string // the present one
		BetterPlan  string // the one that would allow more; may be empty
		UpgradeURL  string
	}
	// QuotaReached says that a quota is used up.
	QuotaReached struct {
		Limit      int64
		Unit       string
		ResetsAt   time.Time
		Plan       string
		BetterPlan string // may be empty
		UpgradeURL string
	}
	// PaymentFailed asks for another means of payment.
	PaymentFailed struct {
		Amount    string
		Plan      string
		Reason    string    // as the bank put it; may be empty
		RetryAt   time.Time // zero means that no further try is planned
		UpdateURL string
	}
	// PaymentRecovered says that a failed payment has succeeded.
	PaymentRecovered struct {
		Amount     string
		Plan       string
		ReceiptURL string // may be empty
	}
	// TrialEnding says when a trial ends and what follows.
	TrialEnding struct {
		Plan      string
		EndsAt    time.Time
		Amount    string // of the first payment; may be empty when none follows
		ManageURL string
	}
	// PlanChanged confirms a change of plan.
	PlanChanged struct {
		From, To    string
		Amount      string // of the new plan for each period; may be empty
		EffectiveAt time.Time
		ManageURL   string
	}
	// SubscriptionCancelled confirms the end of a subscription.
	SubscriptionCancelled struct {
		Plan      string
		EndsAt    time.Time
		ResumeURL string // may be empty
	}
	// ReferralReward says that a recommendation was rewarded.
	ReferralReward struct {
		Reward string // such as "one free month"
		Friend string // may be empty
		URL    string
	}
	// ExportReady says that an export of personal data can be fetched.
	ExportReady struct {
		DownloadURL string
		ExpiresAt   time.Time
	}
	// ErasureScheduled says when an account will be erased.
	ErasureScheduled struct {
		EraseAt   time.Time
		CancelURL string
	}
	// ErasureDone says that an account has been erased.
	ErasureDone struct {
		ErasedAt time.Time
	}
	// APIKeyCreated says that a key was made, in case it was somebody else.
	APIKeyCreated struct {
		KeyName   string
		Hint      string // the key's visible end, never the token
		CreatedAt time.Time
		RevokeURL string
	}
	// APIKeyExpiring says that a key is about to end.
	APIKeyExpiring struct {
		KeyName   string
		Hint      string
		ExpiresAt time.Time
		RotateURL string
	}
)

// ShippedKinds are the kinds that every SaaS needs, in English and German.
type ShippedKinds struct {
	Welcome               *Kind[Welcome]
	UpgradeReminder       *Kind[UpgradeReminder]
	QuotaReached          *Kind[QuotaReached]
	PaymentFailed         *Kind[PaymentFailed]
	PaymentRecovered      *Kind[PaymentRecovered]
	TrialEnding           *Kind[TrialEnding]
	PlanChanged           *Kind[PlanChanged]
	SubscriptionCancelled *Kind[SubscriptionCancelled]
	ReferralReward        *Kind[ReferralReward]
	ExportReady           *Kind[ExportReady]
	ErasureScheduled      *Kind[ErasureScheduled]
	ErasureDone           *Kind[ErasureDone]
	APIKeyCreated         *Kind[APIKeyCreated]
	APIKeyExpiring        *Kind[APIKeyExpiring]
}

// All returns the kinds for Config.Kinds.
func (k *ShippedKinds) All() []AnyKind {
	return []AnyKind{
		k.Welcome, k.UpgradeReminder, k.QuotaReached, k.PaymentFailed, k.PaymentRecovered, k.TrialEnding, k.PlanChanged,
		k.SubscriptionCancelled, k.ReferralReward, k.ExportReady, k.ErasureScheduled, k.ErasureDone, k.APIKeyCreated, k.APIKeyExpiring,
	}
}

// Shipped defines the shipped kinds. Files of the same name in overrides take
// the place of the embedded ones: "layout.html" restyles all of them,
// "account.welcome.en.txt" rewords one. Nil takes them as they are. Rules are
// changed with [Kind.With].
func Shipped(overrides fs.FS) (*ShippedKinds, error) {
	embedded, err := fs.Sub(shippedFiles, "shipped")
	if err != nil {
		return nil, err
	}
	files := fs.FS(layers{overrides, embedded})
	locales := []string{"en", "de"}
	at := time.Date(2026, time.March, 31, 9, 0, 0, 0, time.UTC)
	const url = "https://example.com/billing"

	k := &ShippedKinds{}
	var errs []error
	keep := func(err error) { errs = append(errs, err) }
	k.Welcome, err = Define(Spec[Welcome]{
		Name: "account.welcome", Title: "Somebody signed up", Stream: "account", Class: Transactional, Templates: files, Locales: locales,
		Sample: Welcome{StartURL: url, Plan: "Free"}, Samples: map[string]Welcome{"no plan": {StartURL: url}},
	})
	keep(err)
	k.UpgradeReminder, err = Define(Spec[UpgradeReminder]{
		Name: "usage.upgrade_reminder", Title: "Most of a quota is used", Stream: "tips", Class: Lifecycle, Templates: files, Locales: locales,
		Sample:  UpgradeReminder{Used: 8, Limit: 10, Unit: "kolekts", ResetsAt: at, Plan: "Free", BetterPlan: "Pro", UpgradeURL: url},
		Samples: map[string]UpgradeReminder{"no better plan": {Used: 9100, Limit: 10000, Unit: "kolekts", ResetsAt: at, Plan: "Enterprise", UpgradeURL: url}},
		TTL:     24 * time.Hour,
	})
	keep(err)
	k.QuotaReached, err = Define(Spec[QuotaReached]{
		Name: "usage.quota_reached", Title: "A quota is used up", Stream: "usage", Class: Transactional, Templates: files, Locales: locales,
		Sample:     QuotaReached{Limit: 10, Unit: "kolekts", ResetsAt: at, Plan: "Free", BetterPlan: "Pro", UpgradeURL: url},
		Samples:    map[string]QuotaReached{"no better plan": {Limit: 10000, Unit: "kolekts", ResetsAt: at, Plan: "Enterprise", UpgradeURL: url}},
		TTL:        24 * time.Hour,
		Supersedes: []string{"usage.upgrade_reminder"},
	})
	keep(err)
	k.PaymentFailed, err = Define(Spec[PaymentFailed]{
		Name: "payment.failed", Title: "A payment did not go through", Stream: "billing", Class: Transactional, Templates: files, Locales: locales,
		Sample:  PaymentFailed{Amount: "$9.99", Plan: "Pro", Reason: "The card was declined.", RetryAt: at, UpdateURL: url},
		Samples: map[string]PaymentFailed{"last try": {Amount: "$9.99", Plan: "Pro", UpdateURL: url}},
	})
	keep(err)
	k.PaymentRecovered, err = Define(Spec[PaymentRecovered]{
		Name: "payment.recovered", Title: "A failed payment has succeeded", Stream: "billing", Class: Transactional, Templates: files, Locales: locales,
		Sample:     PaymentRecovered{Amount: "$9.99", Plan: "Pro", ReceiptURL: url},
		Samples:    map[string]PaymentRecovered{"no receipt": {Amount: "$9.99", Plan: "Pro"}},
		Supersedes: []string{"payment.failed"},
	})
	keep(err)
	k.TrialEnding, err = Define(Spec[TrialEnding]{
		Name: "trial.ending", Title: "A trial is about to end", Stream: "billing", Class: Transactional, Templates: files, Locales: locales,
		Sample:  TrialEnding{Plan: "Pro", EndsAt: at, Amount: "$9.99 a month", ManageURL: url},
		Samples: map[string]TrialEnding{"no payment follows": {Plan: "Pro", EndsAt: at, ManageURL: url}},
	})
	keep(err)
	k.PlanChanged, err = Define(Spec[PlanChanged]{
		Name: "subscription.plan_changed", Title: "A plan was changed", Stream: "billing", Class: Transactional, Templates: files, Locales: locales,
		Sample:  PlanChanged{From: "Free", To: "Pro", Amount: "$9.99 a month", EffectiveAt: at, ManageURL: url},
		Samples: map[string]PlanChanged{"to a free plan": {From: "Pro", To: "Free", EffectiveAt: at, ManageURL: url}},
	})
	keep(err)
	k.SubscriptionCancelled, err = Define(Spec[SubscriptionCancelled]{
		Name: "subscription.cancelled", Title: "A subscription ends", Stream: "billing", Class: Transactional, Templates: files, Locales: locales,
		Sample:     SubscriptionCancelled{Plan: "Pro", EndsAt: at, ResumeURL: url},
		Samples:    map[string]SubscriptionCancelled{"no way back": {Plan: "Pro", EndsAt: at}},
		Supersedes: []string{"trial.ending", "payment.failed"},
	})
	keep(err)
	k.ReferralReward, err = Define(Spec[ReferralReward]{
		Name: "referral.reward", Title: "A recommendation was rewarded", Stream: "referrals", Class: Transactional, Templates: files, Locales: locales,
		Sample:  ReferralReward{Reward: "one free month", Friend: "Grace", URL: url},
		Samples: map[string]ReferralReward{"no name": {Reward: "one free month", URL: url}},
	})
	keep(err)
	k.ExportReady, err = Define(Spec[ExportReady]{
		Name: "privacy.export_ready", Title: "An export of personal data is ready", Stream: "privacy", Class: Security, Templates: files, Locales: locales,
		Sample: ExportReady{DownloadURL: url, ExpiresAt: at}, OnAmbiguous: Resend,
	})
	keep(err)
	k.ErasureScheduled, err = Define(Spec[ErasureScheduled]{
		Name: "privacy.erasure_scheduled", Title: "An account will be erased", Stream: "privacy", Class: Security, Templates: files, Locales: locales,
		Sample: ErasureScheduled{EraseAt: at, CancelURL: url},
	})
	keep(err)
	k.ErasureDone, err = Define(Spec[ErasureDone]{
		Name: "privacy.erasure_done", Title: "An account has been erased", Stream: "privacy", Class: Security, Templates: files, Locales: locales,
		Sample: ErasureDone{ErasedAt: at}, Supersedes: []string{"privacy.erasure_scheduled"},
	})
	keep(err)
	k.APIKeyCreated, err = Define(Spec[APIKeyCreated]{
		Name: "apikey.created", Title: "An API key was made", Stream: "security", Class: Security, Templates: files, Locales: locales,
		Sample: APIKeyCreated{KeyName: "deploy", Hint: "…x7Qa", CreatedAt: at, RevokeURL: url},
	})
	keep(err)
	k.APIKeyExpiring, err = Define(Spec[APIKeyExpiring]{
		Name: "apikey.expiring", Title: "An API key is about to end", Stream: "security", Class: Security, Templates: files, Locales: locales,
		Sample: APIKeyExpiring{KeyName: "deploy", Hint: "…x7Qa", ExpiresAt: at, RotateURL: url},
	})
	keep(err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return k, nil
}

// layers is a file system that looks into the first one first.
type layers [2]fs.FS

func (l layers) Open(name string) (fs.File, error) {
	if l[0] != nil {
		f, err := l[0].Open(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return l[1].Open(name)
}
