// Package referralmem keeps the codes, redemptions, rewards and ledger of
// package referral in memory, for development and tests. It forgets everything
// with the process.
package referralmem

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kolekt/commerce/referral"
)

// Store is a referral.Store in memory. The zero value is ready.
type Store struct {
	mu          sync.Mutex
	codes       map[string]referral.Code
	redemptions map[string]referral.Redemption
	byReferee   map[string]string
	rewards     map[string]referral.Reward
	ledger      []referral.Entry
	entered     map[string]bool
	signals     []signal
	caps        map[string]int64
	spent       map[string]int64
	clicks      map[string]int64
}

type signal struct {
	referral.Signal
	account    string // of an owner; empty for a referee's
	redemption string
	campaign   string
	at         time.Time
}

var _ referral.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{} }

// lock takes the lock unless the context has ended, and makes the maps.
func (s *Store) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.codes == nil {
		s.codes, s.redemptions, s.byReferee = map[string]referral.Code{}, map[string]referral.Redemption{}, map[string]string{}
		s.rewards, s.entered = map[string]referral.Reward{}, map[string]bool{}
		s.caps, s.spent, s.clicks = map[string]int64{}, map[string]int64{}, map[string]int64{}
	}
	return nil
}

func cloneRedemption(r referral.Redemption) referral.Redemption {
	r.Reasons = slices.Clone(r.Reasons)
	return r
}

func cloneReward(r referral.Reward) referral.Reward {
	r.Grants = slices.Clone(r.Grants)
	if r.Call != nil {
		call := *r.Call
		r.Call = &call
	}
	return r
}

func (s *Store) active(campaign, account string) (referral.Code, bool) {
	for _, c := range s.codes {
		if c.Active && c.Campaign == campaign && c.Account == account {
			return c, true
		}
	}
	return referral.Code{}, false
}

// CreateCode implements referral.Store.
func (s *Store) CreateCode(ctx context.Context, c referral.Code) (referral.Code, error) {
	if err := s.lock(ctx); err != nil {
		return c, err
	}
	defer s.mu.Unlock()
	if have, ok := s.active(c.Campaign, c.Account); ok {
		return have, nil
	}
	if _, taken := s.codes[c.Text]; taken {
		return c, referral.ErrCodeTaken
	}
	s.codes[c.Text] = c
	return c, nil
}

// RotateCode implements referral.Store.
func (s *Store) RotateCode(ctx context.Context, c referral.Code) (referral.Code, error) {
	if err := s.lock(ctx); err != nil {
		return c, err
	}
	defer s.mu.Unlock()
	if _, taken := s.codes[c.Text]; taken {
		return c, referral.ErrCodeTaken
	}
	if have, ok := s.active(c.Campaign, c.Account); ok {
		have.Active = false
		s.codes[have.Text] = have
	}
	s.codes[c.Text] = c
	return c, nil
}

// Code implements referral.Store.
func (s *Store) Code(ctx context.Context, text string) (referral.Code, error) {
	if err := s.lock(ctx); err != nil {
		return referral.Code{}, err
	}
	defer s.mu.Unlock()
	c, ok := s.codes[text]
	if !ok {
		return c, referral.ErrUnknownCode
	}
	return c, nil
}

// CodeOf implements referral.Store.
func (s *Store) CodeOf(ctx context.Context, campaign, account string) (referral.Code, error) {
	if err := s.lock(ctx); err != nil {
		return referral.Code{}, err
	}
	defer s.mu.Unlock()
	c, ok := s.active(campaign, account)
	if !ok {
		return c, referral.ErrUnknownCode
	}
	return c, nil
}

// DisableCode implements referral.Store.
func (s *Store) DisableCode(ctx context.Context, text string) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	c, ok := s.codes[text]
	if !ok {
		return referral.ErrUnknownCode
	}
	c.Active = false
	s.codes[text] = c
	return nil
}

// Redeem implements referral.Store: under the lock, all checks and then all
// writes.
func (s *Store) Redeem(ctx context.Context, a referral.Attempt) (referral.Redemption, error) {
	if err := s.lock(ctx); err != nil {
		return referral.Redemption{}, err
	}
	defer s.mu.Unlock()
	r := a.Redemption
	if stored, ok := s.redemptions[r.ID]; ok {
		return cloneRedemption(stored), nil
	}
	refuse := func(err error) (referral.Redemption, error) { return referral.Redemption{}, err }
	c, ok := s.codes[r.Code]
	switch {
	case !ok:
		return refuse(referral.ErrUnknownCode)
	case s.byReferee[r.Referee] != "":
		return refuse(referral.ErrAlreadyReferred)
	case c.Account == r.Referee || s.isOwner(c.Account, a.Signals):
		return refuse(referral.ErrSelf)
	case !c.Active:
		return refuse(referral.ErrDisabled)
	case !c.ExpiresAt.IsZero() && !a.Now.Before(c.ExpiresAt):
		return refuse(referral.ErrExpired)
	case c.MaxUses > 0 && c.Uses >= c.MaxUses:
		return refuse(referral.ErrExhausted)
	case s.refers(r.Referee, c.Account):
		return refuse(referral.ErrCycle)
	case a.Cap > 0 && s.caps[a.CapKey+"\x00"+c.Account] >= a.Cap:
		return refuse(referral.ErrCapped)
	case a.Budget > 0 && s.spent[r.Campaign]+a.Cost > a.Budget:
		return refuse(referral.ErrBudget)
	}
	r.Referrer, r.Version = c.Account, 1
	for _, sig := range a.Signals {
		if slices.ContainsFunc(s.signals, func(o signal) bool {
			return o.redemption != "" && o.campaign == r.Campaign && o.Signal == sig
		}) {
			r.State = referral.RedemptionReview
			r.Reasons = append(r.Reasons, "same "+sig.Kind)
			continue
		}
		s.signals = append(s.signals, signal{sig, "", r.ID, r.Campaign, a.Now})
	}
	c.Uses++
	s.codes[c.Text] = c
	if a.Cap > 0 {
		s.caps[a.CapKey+"\x00"+c.Account]++
	}
	s.spent[r.Campaign] += a.Cost
	s.redemptions[r.ID] = cloneRedemption(r)
	s.byReferee[r.Referee] = r.ID
	for _, rw := range a.Rewards {
		if rw.Side == referral.Referrer {
			rw.Account = c.Account
		}
		rw.Version = 1
		s.rewards[rw.ID] = cloneReward(rw)
	}
	return cloneRedemption(r), nil
}

func (s *Store) isOwner(account string, signals []referral.Signal) bool {
	return slices.ContainsFunc(s.signals, func(o signal) bool {
		return o.account == account && slices.Contains(signals, o.Signal)
	})
}

// refers reports whether account a referred b, or whom referred b, in up to
// four steps.
func (s *Store) refers(a, b string) bool {
	for range 4 {
		id := s.byReferee[b]
		if id == "" {
			return false
		}
		if b = s.redemptions[id].Referrer; b == a {
			return true
		}
	}
	return false
}

// PutSignals implements referral.Store.
func (s *Store) PutSignals(ctx context.Context, account string, signals []referral.Signal, now time.Time) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	for _, sig := range signals {
		if !slices.ContainsFunc(s.signals, func(o signal) bool { return o.account == account && o.Signal == sig }) {
			s.signals = append(s.signals, signal{sig, account, "", "", now})
		}
	}
	return nil
}

// Redemption implements referral.Store.
func (s *Store) Redemption(ctx context.Context, id string) (referral.Redemption, error) {
	if err := s.lock(ctx); err != nil {
		return referral.Redemption{}, err
	}
	defer s.mu.Unlock()
	r, ok := s.redemptions[id]
	if !ok {
		return r, referral.ErrNotFound
	}
	return cloneRedemption(r), nil
}

// RedemptionOf implements referral.Store.
func (s *Store) RedemptionOf(ctx context.Context, referee string) (referral.Redemption, error) {
	if err := s.lock(ctx); err != nil {
		return referral.Redemption{}, err
	}
	defer s.mu.Unlock()
	r, ok := s.redemptions[s.byReferee[referee]]
	if !ok {
		return r, referral.ErrNotFound
	}
	return cloneRedemption(r), nil
}

// Redemptions implements referral.Store.
func (s *Store) Redemptions(ctx context.Context, f referral.RedemptionFilter) ([]referral.Redemption, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var list []referral.Redemption
	for _, r := range s.redemptions {
		if f.Campaign != "" && r.Campaign != f.Campaign || f.Referrer != "" && r.Referrer != f.Referrer ||
			f.State != "" && r.State != f.State || !f.ClosesBefore.IsZero() && !r.ClosesAt.Before(f.ClosesBefore) {
			continue
		}
		list = append(list, cloneRedemption(r))
	}
	slices.SortFunc(list, func(a, b referral.Redemption) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.ID, a.ID))
	})
	return list[:min(len(list), orDefault(f.Limit))], nil
}

func orDefault(limit int) int {
	if limit == 0 {
		return 100
	}
	return limit
}

// MoveRedemption implements referral.Store.
func (s *Store) MoveRedemption(ctx context.Context, r referral.Redemption, moves []referral.RewardMove) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	stored, ok := s.redemptions[r.ID]
	if !ok {
		return referral.ErrNotFound
	}
	if stored.Version != r.Version {
		return referral.ErrConflict
	}
	r.Version++
	s.redemptions[r.ID] = cloneRedemption(r)
	for id, rw := range s.rewards {
		for _, m := range moves {
			if rw.Redemption != r.ID || rw.Side != m.Side || !slices.Contains(m.From, rw.State) {
				continue
			}
			rw.State, rw.ChangedAt = m.To, r.ChangedAt
			if !m.VestsAt.IsZero() {
				rw.VestsAt = m.VestsAt
			}
			if m.Benefit != nil {
				rw.Benefit = m.Benefit(s.qualified(stored.Campaign, stored.Referrer))
				rw.MonthsLeft, rw.Currency = rw.Benefit.FreeMonths, rw.Benefit.Currency
			}
			rw.Version++
			s.rewards[id] = rw
			break
		}
	}
	return nil
}

// qualified counts the qualified redemptions of a referrer.
func (s *Store) qualified(campaign, referrer string) (n int64) {
	for _, r := range s.redemptions {
		if r.Campaign == campaign && r.Referrer == referrer && r.State == referral.RedemptionQualified {
			n++
		}
	}
	return n
}

// Reward implements referral.Store.
func (s *Store) Reward(ctx context.Context, redemption string, side referral.Side) (referral.Reward, error) {
	list, err := s.filter(ctx, 1, func(r referral.Reward) bool { return r.Redemption == redemption && r.Side == side })
	if err != nil {
		return referral.Reward{}, err
	}
	if len(list) == 0 {
		return referral.Reward{}, referral.ErrNotFound
	}
	return list[0], nil
}

// Accounts implements referral.Store.
func (s *Store) Accounts(ctx context.Context, after string, limit int) ([]string, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	found := map[string]bool{}
	for _, r := range s.rewards {
		if r.Account > after && r.Version > 1 {
			found[r.Account] = true
		}
	}
	list := slices.Sorted(maps.Keys(found))
	return list[:min(len(list), limit)], nil
}

// Rewards implements referral.Store.
func (s *Store) Rewards(ctx context.Context, f referral.RewardFilter) ([]referral.Reward, error) {
	return s.filter(ctx, orDefault(f.Limit), func(r referral.Reward) bool {
		return (f.Account == "" || r.Account == f.Account) && (f.Redemption == "" || r.Redemption == f.Redemption) && (f.State == "" || r.State == f.State)
	})
}

// DueRewards implements referral.Store.
func (s *Store) DueRewards(ctx context.Context, now time.Time, limit int) ([]referral.Reward, error) {
	return s.filter(ctx, limit, func(r referral.Reward) bool {
		return r.State == referral.RewardQualified && r.MonthsLeft == 0 && !r.VestsAt.After(now) && !r.NextTry.After(now)
	})
}

func (s *Store) filter(ctx context.Context, limit int, keep func(referral.Reward) bool) ([]referral.Reward, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var list []referral.Reward
	for _, r := range s.rewards {
		if keep(r) {
			list = append(list, cloneReward(r))
		}
	}
	slices.SortFunc(list, func(a, b referral.Reward) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return list[:min(len(list), limit)], nil
}

// SaveReward implements referral.Store.
func (s *Store) SaveReward(ctx context.Context, r referral.Reward, entries ...referral.Entry) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	return s.save(r, entries)
}

func (s *Store) save(r referral.Reward, entries []referral.Entry) error {
	stored, ok := s.rewards[r.ID]
	if !ok {
		return referral.ErrNotFound
	}
	if stored.Version != r.Version {
		return referral.ErrConflict
	}
	r.Version++
	s.rewards[r.ID] = cloneReward(r)
	for _, e := range entries {
		if !s.entered[e.ID] {
			s.entered[e.ID] = true
			s.ledger = append(s.ledger, e)
		}
	}
	return nil
}

// Begin implements referral.Store.
func (s *Store) Begin(ctx context.Context, r referral.Reward, most int64) (referral.Reward, error) {
	if err := s.lock(ctx); err != nil {
		return r, err
	}
	defer s.mu.Unlock()
	if stored, ok := s.rewards[r.ID]; !ok {
		return r, referral.ErrNotFound
	} else if stored.Call != nil {
		return r, referral.ErrConflict
	}
	call := *r.Call
	r.Call = &call
	carries := s.carries(s.rewards[r.ID].Account)
	if call.Currency == "" {
		for _, currency := range slices.Sorted(maps.Keys(carries)) {
			if carries[currency] > max(carries[call.Currency], 0) {
				call.Currency = currency
			}
		}
	}
	call.Less = min(max(carries[call.Currency], 0), max(most, 0))
	if err := s.save(r, nil); err != nil {
		return r, err
	}
	r.Version++
	return r, nil
}

// carries returns what an account carries, by currency: by its definition, from
// the ledger and the calls under way.
func (s *Store) carries(account string) map[string]int64 {
	carry := map[string]int64{}
	for _, e := range s.ledger {
		if e.Account == account && e.Kind.Carried() {
			carry[e.Currency] -= e.Amount
		}
	}
	for _, r := range s.rewards {
		if r.Account == account && r.Call != nil {
			carry[r.Call.Currency] -= r.Call.Less
		}
	}
	return carry
}

// Ledger implements referral.Store.
func (s *Store) Ledger(ctx context.Context, account string) ([]referral.Entry, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var list []referral.Entry
	for _, e := range s.ledger {
		if e.Account == account {
			list = append(list, e)
		}
	}
	return list, nil
}

// Click implements referral.Store.
func (s *Store) Click(ctx context.Context, code string, _ time.Time) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if _, ok := s.codes[code]; !ok {
		return referral.ErrUnknownCode
	}
	s.clicks[code]++
	return nil
}

// Funnel implements referral.Store.
func (s *Store) Funnel(ctx context.Context, campaign, account string) (referral.Funnel, error) {
	f := referral.Funnel{Granted: map[string]int64{}, Revenue: map[string]int64{}}
	if err := s.lock(ctx); err != nil {
		return f, err
	}
	defer s.mu.Unlock()
	for _, c := range s.codes {
		if c.Campaign == campaign && (account == "" || c.Account == account) {
			f.Clicks += s.clicks[c.Text]
		}
	}
	for _, r := range s.redemptions {
		if r.Campaign != campaign || account != "" && r.Referrer != account {
			continue
		}
		f.SignUps++
		switch r.State {
		case referral.RedemptionQualified:
			f.Qualified++
			if r.Currency != "" {
				f.Revenue[r.Currency] += r.PaidAmount
			}
		case referral.RedemptionVoided:
			f.Voided++
		case referral.RedemptionReview:
			f.Review++
		}
		for _, rw := range s.rewards {
			if rw.Redemption == r.ID && rw.Amount != 0 {
				f.Granted[rw.Currency] += rw.Amount - rw.Reversed
			}
		}
	}
	return f, nil
}

// Leaders implements referral.Store.
func (s *Store) Leaders(ctx context.Context, campaign string, limit int) ([]referral.Leader, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	counts := map[string]int64{}
	for _, r := range s.redemptions {
		if r.Campaign == campaign && r.State == referral.RedemptionQualified {
			counts[r.Referrer]++
		}
	}
	var list []referral.Leader
	for account, n := range counts {
		list = append(list, referral.Leader{Account: account, Qualified: n})
	}
	slices.SortFunc(list, func(a, b referral.Leader) int {
		return cmp.Or(cmp.Compare(b.Qualified, a.Qualified), strings.Compare(a.Account, b.Account))
	})
	return list[:min(len(list), limit)], nil
}

// Detach implements referral.Store.
func (s *Store) Detach(ctx context.Context, account, pseudonym string) (map[string]int64, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	n := map[string]int64{}
	for text, c := range s.codes {
		if c.Account == account {
			c.Account, c.Active = pseudonym, false
			s.codes[text] = c
			n["codes"]++
		}
	}
	for id, r := range s.redemptions {
		touched := false
		if r.Referrer == account {
			r.Referrer, touched = pseudonym, true
		}
		if r.Referee == account {
			delete(s.byReferee, account)
			s.byReferee[pseudonym] = id
			r.Referee, touched = pseudonym, true
		}
		if touched {
			s.redemptions[id] = r
			n["redemptions"]++
		}
	}
	for id, r := range s.rewards {
		if r.Account == account {
			r.Account = pseudonym
			s.rewards[id] = r
			n["rewards"]++
		}
	}
	for i := range s.ledger {
		if s.ledger[i].Account == account {
			s.ledger[i].Account = pseudonym
			n["ledger"]++
		}
	}
	for i := range s.signals {
		if s.signals[i].account == account {
			s.signals[i].account = pseudonym
			n["signals"]++
		}
	}
	return n, nil
}

// ExpireSignals implements referral.Store.
func (s *Store) ExpireSignals(ctx context.Context, before time.Time) (int64, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	n := len(s.signals)
	s.signals = slices.DeleteFunc(s.signals, func(o signal) bool { return o.at.Before(before) })
	return int64(n - len(s.signals)), nil
}
