package referral

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// DriftKind is how the ledger and the provider differ.
type DriftKind string

// The kinds of drift.
const (
	// DriftUnderWay: a call was under way, and its outcome is known now.
	DriftUnderWay DriftKind = "under_way"
	// DriftUnmarked: the provider has what isn't marked here.
	DriftUnmarked DriftKind = "unmarked"
	// DriftMissing: it is marked here, and the provider doesn't have it.
	DriftMissing DriftKind = "missing"
	// DriftAmount: the amounts differ.
	DriftAmount DriftKind = "amount"
	// DriftTwice: the provider has the same call twice.
	DriftTwice DriftKind = "twice"
	// DriftUnknown: the provider has a call of a reward that isn't here.
	DriftUnknown DriftKind = "unknown"
)

// Drift is one difference that Reconcile found. Amounts are in minor units.
type Drift struct {
	Kind          DriftKind
	Account       string
	Reward        string
	Call          string
	Ours, Theirs  int64
	Currency      string
	Repaired      bool
	Err           error // why it isn't repaired, if it was tried
	theirRef, inv string
}

// Reconcile compares what is marked here with what the provider has, for every
// account, and repairs what can be: what the provider has is booked, what it
// lacks is granted again by the same call, a month whose invoice is final is
// due again, and a credit that was given twice is taken back as far as it isn't
// spent. Each repair is a step like any other: it may be repeated, and meets
// whatever else happens at the time. Run it once a day, and before anything
// else after a restored backup.
//
// What a referee's coupon takes off is booked from the invoice itself, and not
// compared. Without an Auditor it is ErrInvalid.
func (s *Service) Reconcile(ctx context.Context) ([]Drift, error) {
	var all []Drift
	for after := ""; ; {
		accounts, err := s.store.Accounts(ctx, after, 100)
		if err != nil {
			return all, fmt.Errorf("referral: reconcile: %w", err)
		}
		if len(accounts) == 0 {
			return all, nil
		}
		for _, account := range accounts {
			found, err := s.ReconcileAccount(ctx, account)
			all = append(all, found...)
			if err != nil {
				return all, err
			}
		}
		after = accounts[len(accounts)-1]
	}
}

// audit is one account under comparison.
type audit struct {
	*Service
	account string
	rewards map[string]Reward // by ID
	ledger  map[string]Entry  // by ID
	theirs  map[string]Drift  // by call
	touched []string          // rewards that turned out to be granted
	found   []Drift
}

// ReconcileAccount is Reconcile for one account, also for one of which nothing
// is known here any more.
func (s *Service) ReconcileAccount(ctx context.Context, account string) ([]Drift, error) {
	auditor, ok := s.cfg.Biller.(Auditor)
	if !ok {
		return nil, fmt.Errorf("%w: Config.Biller is no Auditor", ErrInvalid)
	}
	a := &audit{Service: s, account: account, rewards: map[string]Reward{}, ledger: map[string]Entry{}, theirs: map[string]Drift{}}
	// What is under way first: nobody knows yet what to expect of it.
	if err := a.finish(ctx); err != nil {
		return a.found, err
	}
	var twice []Drift
	settled := map[string]int64{} // what was taken back of a call that came twice, by its call
	err := auditor.Grants(ctx, account, func(call, ref, invoice string, amount int64, currency string) error {
		id, what, _ := strings.Cut(call, ":")
		if strings.HasPrefix(what, "coupon:") {
			return nil
		}
		if strings.HasPrefix(what, "twice:") {
			settled[call] -= amount
			return nil
		}
		d := Drift{Account: account, Reward: id, Call: call, Theirs: amount, Currency: currency, theirRef: ref, inv: invoice}
		if _, again := a.theirs[call]; again {
			d.Kind = DriftTwice
			twice = append(twice, d)
			return nil
		}
		a.theirs[call] = d
		return nil
	})
	if err != nil {
		return a.found, fmt.Errorf("referral: reconcile: %w", err)
	}
	for _, step := range []func(context.Context) error{a.marked, a.unmarked, a.takenBack, a.clawBack} {
		if err := a.load(ctx); err != nil {
			return a.found, err
		}
		if err := step(ctx); err != nil {
			return a.found, err
		}
	}
	for _, d := range twice {
		call := d.Reward + ":twice:" + d.theirRef
		if d.Theirs > 0 && d.inv == "" {
			if settled[call] == d.Theirs {
				continue
			}
			taken, err := s.cfg.Biller.Debit(ctx, call, account, d.Theirs, d.Currency)
			d.Repaired, d.Err = taken == d.Theirs, err
			d.Theirs -= taken
		}
		a.found = append(a.found, d)
	}
	return a.found, nil
}

func (a *audit) load(ctx context.Context) error {
	clear(a.rewards)
	clear(a.ledger)
	rewards, err := a.store.Rewards(ctx, RewardFilter{Account: a.account, Limit: everything})
	if err != nil {
		return fmt.Errorf("referral: reconcile: %w", err)
	}
	for _, rw := range rewards {
		a.rewards[rw.ID] = rw
	}
	ledger, err := a.store.Ledger(ctx, a.account)
	if err != nil {
		return fmt.Errorf("referral: reconcile: %w", err)
	}
	for _, e := range ledger {
		a.ledger[e.ID] = e
	}
	return nil
}

func (a *audit) finish(ctx context.Context) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	for _, rw := range a.ordered() {
		if rw.Call == nil {
			continue
		}
		_, err := a.settle(ctx, rw)
		a.found = append(a.found, Drift{Kind: DriftUnderWay, Account: a.account, Reward: rw.ID, Call: rw.Call.ID, Currency: rw.Currency, Repaired: err == nil, Err: err})
		if err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("referral: reconcile: %w", err)
		}
	}
	return nil
}

// ordered returns the rewards oldest first, so that repairs are made in the
// order of what they repair.
func (a *audit) ordered() []Reward {
	var list []Reward
	for _, rw := range a.rewards {
		list = append(list, rw)
	}
	slices.SortFunc(list, func(x, y Reward) int {
		if c := x.CreatedAt.Compare(y.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(x.ID, y.ID)
	})
	return list
}

// report notes a drift, and that it is repaired unless there is an error. A
// conflict means that somebody else is at it: the next run looks again.
func (a *audit) report(d Drift, err error) error {
	d.Repaired, d.Err = err == nil, err
	a.found = append(a.found, d)
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("referral: reconcile: %w", err)
	}
	return nil
}

// marked looks for what is marked here.
func (a *audit) marked(ctx context.Context) error {
	for _, rw := range a.ordered() {
		for i, g := range slices.Backward(rw.Grants) {
			if strings.HasPrefix(g.ID, rw.ID+":coupon:") || g.Amount == 0 {
				continue
			}
			their, ok := a.theirs[g.ID]
			if ok && their.Theirs == g.Amount {
				continue
			}
			d := Drift{Kind: DriftMissing, Account: a.account, Reward: rw.ID, Call: g.ID, Ours: g.Amount, Theirs: their.Theirs, Currency: g.Currency}
			var err error
			switch {
			case ok:
				d.Kind = DriftAmount
				rw, err = a.correct(ctx, rw, i, their.Theirs)
			case g.Invoice == "":
				_, err = a.cfg.Biller.Credit(ctx, g.ID, a.account, g.Amount, g.Currency)
			default:
				rw, err = a.monthAgain(ctx, rw, i)
			}
			if err := a.report(d, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// correct books the provider's amount instead of ours.
func (a *audit) correct(ctx context.Context, rw Reward, i int, theirs int64) (Reward, error) {
	g := rw.Grants[i]
	diff := theirs - g.Amount
	rw.Grants = slices.Clone(rw.Grants)
	rw.Grants[i].Amount = theirs
	return a.book(ctx, rw, diff, Entry{ID: fmt.Sprintf("%s:correction:%d", g.ID, rw.Version), Kind: EntryCorrection, Amount: diff, Currency: g.Currency, Cause: g.Ref})
}

// book saves a reward that is worth more or less by an amount. What was taken
// back of what isn't there is given back.
func (a *audit) book(ctx context.Context, rw Reward, diff int64, entries ...Entry) (Reward, error) {
	now := a.now()
	rw.Amount, rw.Corrected, rw.ChangedAt = rw.Amount+diff, rw.Corrected+1, now
	if excess := rw.Reversed - rw.Amount; excess > 0 {
		rw.Reversed = rw.Amount
		entries = append(entries, Entry{ID: entries[0].ID + ":reversal", Kind: EntryReversal, Amount: excess, Currency: entries[0].Currency, Cause: entries[0].ID})
	}
	for i := range entries {
		entries[i].Reward, entries[i].Account, entries[i].At = rw.ID, rw.Account, now
	}
	err := a.store.SaveReward(ctx, rw, entries...)
	if err == nil {
		rw.Version++
	}
	return rw, err
}

// monthAgain takes the month off its invoice again, by the same call; when the
// invoice is final, the grant is undone, with what it recovered, and the month
// is due again.
func (a *audit) monthAgain(ctx context.Context, rw Reward, i int) (Reward, error) {
	g := rw.Grants[i]
	recovered := a.ledger[g.ID+":recovery"].Amount
	_, _, taken, _, err := a.cfg.Biller.DiscountInvoice(ctx, g.ID, a.account, g.Invoice, recovered)
	if err == nil {
		if taken != g.Amount {
			return a.correct(ctx, rw, i, taken)
		}
		return rw, nil
	}
	if !errors.Is(err, ErrTooLate) {
		return rw, err
	}
	value := g.Amount + recovered
	entries := []Entry{{ID: fmt.Sprintf("%s:missing:%d", g.ID, rw.Version), Kind: EntryCorrection, Amount: -value, Currency: g.Currency, Cause: g.Invoice}}
	if recovered > 0 {
		entries = append(entries, Entry{ID: fmt.Sprintf("%s:recovery:missing:%d", g.ID, rw.Version), Kind: EntryRecovery, Amount: -recovered, Currency: g.Currency, Cause: g.Invoice})
	}
	rw.Grants = slices.Delete(slices.Clone(rw.Grants), i, i+1)
	if rw.State == RewardGranted {
		rw.MonthsLeft++
		if len(rw.Grants) == 0 {
			rw.State = RewardQualified
		}
	}
	return a.book(ctx, rw, -value, entries...)
}

// unmarked looks for what the provider has and isn't marked here.
func (a *audit) unmarked(ctx context.Context) error {
	for _, call := range sortedKeys(a.theirs) {
		d := a.theirs[call]
		_, what, _ := strings.Cut(call, ":")
		rw, ok := a.rewards[d.Reward]
		switch {
		case d.Theirs < 0 || strings.HasPrefix(what, "reverse:"):
			continue // see takenBack
		case !ok:
			d.Kind = DriftUnknown
			a.found = append(a.found, d)
			continue
		case slices.ContainsFunc(rw.Grants, func(g Grant) bool { return g.ID == call }):
			continue
		}
		d.Kind = DriftUnmarked
		now := a.now()
		// The call's name says what it recovered; what is missing to the
		// credit, a refund had taken back before.
		_, tail, _ := strings.Cut(call, lessMark)
		less, _ := strconv.ParseInt(tail, 10, 64)
		value, returned := d.Theirs+less, int64(0)
		if d.inv == "" && rw.Benefit.Credit > value {
			value, returned = rw.Benefit.Credit, rw.Benefit.Credit-value
		}
		rw.Grants = append(slices.Clone(rw.Grants), Grant{ID: call, Ref: d.theirRef, Invoice: d.inv, Amount: d.Theirs, Currency: d.Currency, At: now})
		rw.Amount, rw.Reversed, rw.Currency, rw.ChangedAt = rw.Amount+value, rw.Reversed+returned, d.Currency, now
		rw.State = RewardGranted // whatever we believed
		if d.inv != "" {
			rw.MonthsLeft = max(rw.MonthsLeft-1, 0)
		}
		entries := grantEntries(rw, call, d.theirRef, value, returned, less+returned, now)
		if _, entered := a.ledger[call]; entered {
			// Given up before, as missing, and there after all.
			for i := range entries {
				entries[i].ID = fmt.Sprintf("%s:found:%d", entries[i].ID, rw.Version)
			}
			entries[0].Kind = EntryCorrection
		}
		err := a.store.SaveReward(ctx, rw, entries...)
		if err == nil {
			rw.Version++
			a.rewards[rw.ID] = rw
			a.touched = append(a.touched, rw.ID)
		}
		if err := a.report(d, err); err != nil {
			return err
		}
	}
	return nil
}

// takenBack compares what was taken back of the balance.
func (a *audit) takenBack(ctx context.Context) error {
	calls := map[string]bool{}
	for call, d := range a.theirs {
		if _, what, _ := strings.Cut(call, ":"); d.Theirs < 0 && strings.HasPrefix(what, "reverse:") {
			calls[call] = true
		}
	}
	for id := range a.ledger {
		if call, ok := strings.CutSuffix(id, ":recovery"); ok && strings.Contains(call, ":reverse:") {
			calls[call] = true
		}
	}
	for _, call := range sortedKeys(calls) {
		ours := a.recovered(call)
		their := a.theirs[call]
		if ours == -their.Theirs {
			continue
		}
		id, _, _ := strings.Cut(call, ":")
		rw, ok := a.rewards[id]
		d := Drift{Kind: DriftUnmarked, Account: a.account, Reward: id, Call: call, Ours: -ours, Theirs: their.Theirs, Currency: their.Currency}
		if !ok {
			d.Kind = DriftUnknown
			a.found = append(a.found, d)
			continue
		}
		theirs := -their.Theirs
		if theirs == 0 {
			d.Kind, d.Currency = DriftMissing, rw.Currency
			taken, err := a.cfg.Biller.Debit(ctx, call, a.account, ours, rw.Currency)
			if err != nil {
				return a.report(d, err)
			}
			theirs = taken
		}
		rw, err := a.bookTaken(ctx, rw, call, ours, theirs)
		a.rewards[id] = rw
		if err := a.report(d, err); err != nil {
			return err
		}
	}
	return nil
}

// recovered returns what the ledger says a call took back.
func (a *audit) recovered(call string) (sum int64) {
	for id, e := range a.ledger {
		if id == call+":recovery" || strings.HasPrefix(id, call+":recovery:") {
			sum += e.Amount
		}
	}
	return sum
}

// bookTaken books that a call took an amount back, where ours is booked, and
// the reversal that it was for, if that isn't booked either.
func (a *audit) bookTaken(ctx context.Context, rw Reward, call string, ours, theirs int64) (Reward, error) {
	if ours == theirs {
		return rw, nil // taken again by the same call
	}
	now := a.now()
	entry := func(id string, kind EntryKind, amount int64) Entry {
		return Entry{ID: id, Kind: kind, Reward: rw.ID, Account: rw.Account, Amount: amount, Currency: rw.Currency, Cause: call, At: now}
	}
	entries := []Entry{entry(fmt.Sprintf("%s:recovery:%d", call, rw.Version), EntryRecovery, theirs-ours)}
	if _, booked := a.ledger[call]; !booked {
		// The call's name says how much was reversed with it, in all.
		_, name, _ := strings.Cut(call, ":reverse:")
		name, _, _ = strings.Cut(name, ":")
		total, _ := strconv.ParseInt(name, 10, 64)
		if more := min(total, rw.Amount) - rw.Reversed; more > 0 {
			rw.Reversed += more
			entries = append(entries, entry(call, EntryReversal, -more))
		}
	}
	rw.ChangedAt = now
	err := a.store.SaveReward(ctx, rw, entries...)
	if err == nil {
		rw.Version++
	}
	return rw, err
}

// clawBack takes back of what turned out to be granted what a refund has cost
// it meanwhile.
func (a *audit) clawBack(ctx context.Context) error {
	for _, id := range a.touched {
		rw := a.rewards[id]
		r, err := a.store.Redemption(ctx, rw.Redemption)
		if err != nil {
			return fmt.Errorf("referral: reconcile: %w", err)
		}
		if rw.Side != Referrer || r.PaidAmount <= 0 || r.Refunded <= 0 {
			continue
		}
		if err := a.takeBack(ctx, rw, "reconcile", r.Refunded, r.PaidAmount); err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
