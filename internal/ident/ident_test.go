package ident_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/ident"
)

func TestNewIsSortableByTimeAndUnique(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	first := ident.New("key", now)
	require.Regexp(t, `^key_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$`, first)
	require.Less(t, first, ident.New("key", now.Add(time.Millisecond)))
	seen := map[string]bool{}
	for range 10_000 {
		seen[ident.New("key", now)] = true
	}
	require.Len(t, seen, 10_000)
}
