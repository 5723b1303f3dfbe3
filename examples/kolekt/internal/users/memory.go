package users

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
)

// Memory is a Store that ends with the process. The zero value is ready.
type Memory struct {
	mu    sync.RWMutex
	byID  map[string]User
	email map[string]string // to the ID
}

var _ Store = (*Memory)(nil)

// Create implements Store.
func (m *Memory) Create(_ context.Context, u User) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byID == nil {
		m.byID, m.email = map[string]User{}, map[string]string{}
	}
	if _, taken := m.email[u.Email]; taken {
		return ErrTaken
	}
	m.byID[u.ID], m.email[u.Email] = u, u.ID
	return nil
}

// ByID implements Store.
func (m *Memory) ByID(_ context.Context, id string) (User, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if u, ok := m.byID[id]; ok {
		return u, nil
	}
	return User{}, ErrNotFound
}

// ByEmail implements Store.
func (m *Memory) ByEmail(_ context.Context, email string) (User, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if u, ok := m.byID[m.email[email]]; ok {
		return u, nil
	}
	return User{}, ErrNotFound
}

// Update implements Store.
func (m *Memory) Update(_ context.Context, u User) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.byID[u.ID]
	if !ok {
		return ErrNotFound
	}
	if id, taken := m.email[u.Email]; taken && id != u.ID {
		return ErrTaken
	}
	delete(m.email, old.Email)
	m.byID[u.ID], m.email[u.Email] = u, u.ID
	return nil
}

// List implements Store.
func (m *Memory) List(_ context.Context, text, before string, limit int) ([]User, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	text = strings.ToLower(text)
	var list []User
	for _, u := range m.byID {
		if (before == "" || u.ID < before) && (strings.Contains(u.Email, text) || strings.Contains(strings.ToLower(u.Name), text)) {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(a, b User) int { return cmp.Compare(b.ID, a.ID) })
	return list[:min(limit, len(list))], nil
}

// Count implements Store.
func (m *Memory) Count(context.Context) (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.byID)), nil
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, id string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, ok := m.byID[id]
	if !ok {
		return 0, nil
	}
	delete(m.byID, id)
	delete(m.email, u.Email)
	return 1, nil
}
