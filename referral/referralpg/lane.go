package referralpg

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/referral"
)

const (
	maxTogether   = 128              // attempts in one statement
	laneStatement = 10 * time.Second // the most one may take: no caller's context bounds it
)

// lanes gathers the attempts at one code whose callers wait at the same time.
// They would wait for the lock of the code's row anyway; here they wait
// together, and need one statement and one commit. A code has a lane only as
// long as a statement of it is under way.
type lanes struct {
	mu   sync.Mutex
	busy map[string]*lane // by code
}

type lane struct{ queue []*attempt }

// attempt is one caller's.
type attempt struct {
	row
	redemption referral.Redemption
	err        error
	alone      bool // its caller has to go by itself
	done       chan struct{}
}

// together reports whether two attempts can be decided by one statement.
func (a *attempt) together(b *attempt) bool {
	return a.Redemption.Campaign == b.Redemption.Campaign && a.CapKey == b.CapKey && a.Cap == b.Cap && a.Budget == b.Budget && a.Cost == b.Cost
}

// take removes from the queue what can go in one statement: attempts under the
// same rules, one of each referee.
func (l *lane) take() []*attempt {
	var batch, rest []*attempt
	referees := map[string]bool{}
	for _, a := range l.queue {
		if len(batch) == maxTogether || referees[a.Redemption.Referee] || len(batch) > 0 && !a.together(batch[0]) {
			rest = append(rest, a)
			continue
		}
		referees[a.Redemption.Referee] = true
		batch = append(batch, a)
	}
	l.queue = rest
	return batch
}

// inLane redeems an attempt at once when its code is free, and with others
// otherwise. When the context ends first, the attempt is taken back if it isn't
// under way yet.
func (s *Store) inLane(ctx context.Context, w row) (referral.Redemption, error) {
	code, ls := w.Redemption.Code, s.lanes
	ls.mu.Lock()
	l := ls.busy[code]
	if l == nil {
		l = &lane{}
		ls.busy[code] = l
		ls.mu.Unlock()
		defer func() {
			ls.mu.Lock()
			defer ls.mu.Unlock()
			if len(l.queue) > 0 {
				go s.runLane(code, l) // those who came meanwhile; it ends with them
			} else {
				delete(ls.busy, code)
			}
		}()
		return s.alone(ctx, w)
	}
	a := &attempt{row: w, done: make(chan struct{})}
	l.queue = append(l.queue, a)
	ls.mu.Unlock()
	select {
	case <-a.done:
		if a.alone {
			return s.alone(ctx, w)
		}
		return a.redemption, a.err
	case <-ctx.Done():
	}
	ls.mu.Lock()
	i := slices.Index(l.queue, a)
	if i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
	ls.mu.Unlock()
	if i >= 0 {
		return w.Redemption, ctx.Err()
	}
	return w.Redemption, fmt.Errorf("referralpg: redeem: %w: %w", referral.ErrUnknownOutcome, ctx.Err())
}

func (s *Store) runLane(code string, l *lane) {
	for {
		s.lanes.mu.Lock()
		batch := l.take()
		if len(batch) == 0 {
			delete(s.lanes.busy, code)
			s.lanes.mu.Unlock()
			return
		}
		s.lanes.mu.Unlock()
		s.redeemMany(batch)
		for _, a := range batch {
			close(a.done)
		}
	}
}

// refusals are the outcomes of sql/redeem_many.sql.
var refusals = map[string]error{
	"referred": referral.ErrAlreadyReferred, "self": referral.ErrSelf, "disabled": referral.ErrDisabled, "expired": referral.ErrExpired,
	"cycle": referral.ErrCycle, "exhausted": referral.ErrExhausted, "capped": referral.ErrCapped, "budget": referral.ErrBudget,
}

func (s *Store) redeemMany(batch []*attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), laneStatement)
	defer cancel()
	if len(batch) == 1 {
		batch[0].redemption, batch[0].err = s.alone(ctx, batch[0].row)
		return
	}
	for _, a := range batch {
		a.alone = true // unless the statement says what became of it
	}
	err := s.many(ctx, batch)
	if err == nil || violated(err) != "" || deadlocked(err) {
		return
	}
	for _, a := range batch {
		a.alone, a.redemption, a.err = false, a.row.Redemption, failed("redeem", err)
	}
}

func (s *Store) many(ctx context.Context, batch []*attempt) error {
	n := len(batch)
	ids, referees, states, reasons, terms := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	at, closes := make([]time.Time, n), make([]time.Time, n)
	rewards, keys := make([]string, n), make([]string, n)
	for i, a := range batch {
		why, err := json.Marshal(a.reasons)
		if err != nil {
			return err
		}
		r := a.row.Redemption
		ids[i], referees[i], states[i], reasons[i], terms[i] = r.ID, r.Referee, string(r.State), string(why), string(a.terms)
		at[i], closes[i], rewards[i], keys[i] = a.Now, r.ClosesAt, string(a.rewards), strings.Join(a.keys, " ")
	}
	first := batch[0].row
	rows, err := s.db.Query(ctx, redeemManySQL, first.Redemption.Code, first.Redemption.Campaign, first.CapKey, first.Cap, first.Budget, first.Cost,
		ids, referees, states, reasons, terms, at, closes, rewards, keys)
	if err != nil {
		return err
	}
	var ordinal int64
	var outcome, referrer, state string
	var why []string
	type answer struct {
		redemption referral.Redemption
		err        error
	}
	answers := map[int64]answer{}
	_, err = pgx.ForEachRow(rows, []any{&ordinal, &outcome, &referrer, &state, &why}, func() error {
		r := batch[ordinal-1].row.Redemption
		if outcome == "ok" {
			r.Referrer, r.State, r.Reasons, r.Version = referrer, referral.RedemptionState(state), nil, 1
			if len(why) > 0 {
				r.Reasons = slices.Clone(why)
			}
			answers[ordinal] = answer{redemption: r}
		} else if refusal := refusals[outcome]; refusal != nil {
			answers[ordinal] = answer{r, refusal}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, a := range batch {
		// One that is stored already, or whose code is unknown, reads that by
		// itself.
		if x, ok := answers[int64(i+1)]; ok {
			a.redemption, a.err, a.alone = x.redemption, x.err, false
		}
	}
	return nil
}
