package ratelimit

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// ExportSubject emits what this limiter holds about an account, when accounts
// are its keys: one record "ratelimit_state" for each window that is in use.
func (l *Limiter) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	if account == "" {
		return fmt.Errorf("%w: empty account", ErrInvalid)
	}
	held, err := l.store.Inspect(ctx, l.name, account)
	if err != nil {
		return err
	}
	for _, h := range held {
		unit := "units"
		if strings.HasPrefix(h.State, bucketState) {
			unit = "microseconds until nothing is used"
		}
		err := emit("ratelimit_state", map[string]any{
			"limiter": l.name,
			"window":  h.State,
			"used":    h.Used,
			"unit":    unit,
			"until":   h.Until.UTC().Format(time.RFC3339),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// EraseSubject forgets what this limiter holds about an account and returns how
// many records that were. It may be repeated.
func (l *Limiter) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	if account == "" {
		return nil, fmt.Errorf("%w: empty account", ErrInvalid)
	}
	held, err := l.store.Inspect(ctx, l.name, account)
	if err != nil {
		return nil, err
	}
	if _, err := l.store.Reset(ctx, l.name, account); err != nil {
		return nil, err
	}
	if l.events != nil {
		l.events.forget(account)
	}
	return map[string]int64{"ratelimit_state": int64(len(held))}, nil
}

func (e *events) forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k := range e.refused {
		if k.key == key {
			delete(e.refused, k)
		}
	}
}
