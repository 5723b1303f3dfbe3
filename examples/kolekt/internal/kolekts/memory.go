package kolekts

import (
	"context"
	"slices"
	"sync"
)

// Memory is a Store that ends with the process. The zero value is ready.
type Memory struct {
	mu       sync.RWMutex
	accounts map[string][]Kolekt // sorted by ID
}

var _ Store = (*Memory)(nil)

func search(list []Kolekt, id string) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(k Kolekt, id string) int {
		switch {
		case k.ID < id:
			return -1
		case k.ID > id:
			return 1
		}
		return 0
	})
}

// Add implements Store.
func (m *Memory) Add(_ context.Context, k Kolekt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.accounts == nil {
		m.accounts = map[string][]Kolekt{}
	}
	list := m.accounts[k.Account]
	if i, found := search(list, k.ID); !found {
		m.accounts[k.Account] = slices.Insert(list, i, k)
	}
	return nil
}

// Find implements Store.
func (m *Memory) Find(_ context.Context, account, id string) (Kolekt, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := m.accounts[account]
	if i, found := search(list, id); found {
		return list[i], nil
	}
	return Kolekt{}, ErrNotFound
}

// List implements Store.
func (m *Memory) List(_ context.Context, account, before string, limit int) ([]Kolekt, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := m.accounts[account]
	end := len(list)
	if before != "" {
		end, _ = search(list, before)
	}
	page := slices.Clone(list[max(0, end-limit):end])
	slices.Reverse(page)
	return page, nil
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, account, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.accounts[account]
	i, found := search(list, id)
	if !found {
		return ErrNotFound
	}
	m.accounts[account] = slices.Delete(list, i, i+1)
	return nil
}

// DeleteAccount implements Store.
func (m *Memory) DeleteAccount(_ context.Context, account string, limit int) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.accounts[account]
	n := min(limit, len(list))
	if n == len(list) {
		delete(m.accounts, account)
	} else {
		m.accounts[account] = slices.Delete(list, 0, n)
	}
	return int64(n), nil
}
