package mailermem_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailertest"
)

// mutant is a store with one fault.
type mutant struct {
	mailer.Store
	fault string
	n     byte
}

func (m *mutant) Enqueue(ctx context.Context, mails []mailer.Enqueue) ([]mailer.Receipt, error) {
	changed := append([]mailer.Enqueue(nil), mails...)
	for i := range changed {
		switch m.fault {
		case "keys are ignored":
			m.n++
			changed[i].Mail.KeyHash = []byte{m.n, m.n}
		case "caps are ignored":
			changed[i].CapCount = 0
		case "nothing coalesces":
			changed[i].Group = ""
		case "nothing is superseded":
			changed[i].Supersedes = nil
		}
	}
	return m.Store.Enqueue(ctx, changed)
}

func (m *mutant) Claim(ctx context.Context, c mailer.Claim) ([]mailer.Leased, error) {
	switch m.fault {
	case "leases end at once":
		c.Lease = -time.Minute
	case "paused domains are ignored":
		c.NotDomains = nil
	}
	leased, err := m.Store.Claim(ctx, c)
	for i := range leased {
		leased[i].Suppressed = leased[i].Suppressed && m.fault != "suppression is not seen"
	}
	return leased, err
}

func (m *mutant) Ack(ctx context.Context, acks []mailer.Ack) (int, error) {
	if m.fault == "acks are not fenced" {
		changed := append([]mailer.Ack(nil), acks...)
		for i := range changed {
			if current, err := m.Lookup(ctx, changed[i].ID); err == nil {
				changed[i].Attempt = current.Attempts
			}
		}
		acks = changed
	}
	return m.Store.Ack(ctx, acks)
}

func (m *mutant) Recover(ctx context.Context, now time.Time) (int, error) {
	if m.fault == "leases never end" {
		return 0, nil
	}
	return m.Store.Recover(ctx, now)
}

func (m *mutant) Erase(ctx context.Context, account string, at time.Time, limit int) (map[string]int64, error) {
	if m.fault == "nothing is erased" {
		return map[string]int64{}, nil
	}
	return m.Store.Erase(ctx, account, at, limit)
}

// TestSuiteFailsOnABrokenStore runs the suite on mutants, in a process of its
// own for each.
func TestSuiteFailsOnABrokenStore(t *testing.T) {
	if fault := os.Getenv("MAILER_MUTANT"); fault != "" {
		mailertest.TestStore(t, func(t *testing.T) mailer.Store { return &mutant{Store: newStore(t), fault: fault} })
		return
	}
	run := func(fault string) error {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestSuiteFailsOnABrokenStore", "-rapid.nofailfile", "-rapid.checks=5", "-rapid.shrinktime=1ms")
		cmd.Env = append(os.Environ(), "MAILER_MUTANT="+fault)
		return cmd.Run()
	}
	require.NoError(t, run("none"), "the control must pass")
	for _, fault := range []string{"keys are ignored", "caps are ignored", "nothing coalesces", "nothing is superseded", "leases end at once",
		"paused domains are ignored", "suppression is not seen", "acks are not fenced", "leases never end", "nothing is erased"} {
		require.Error(t, run(fault), "the suite passes a store of which %s", fault)
	}
}
