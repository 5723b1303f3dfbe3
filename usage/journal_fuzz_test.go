package usage

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever the bytes, decoding ends without a panic, and what it accepts is
// encoded to the same bytes again.
func FuzzJournal(f *testing.F) {
	seed, err := appendRecord(nil, tracked{
		Event: Event{ID: "id", Account: "a", Meter: "m", Value: -3, Time: time.Unix(1, 0), Properties: map[string]any{"x": 1, "y": "z"}},
		key:   [16]byte{1, 2, 3}, own: true,
	})
	require.NoError(f, err)
	f.Add(seed)
	f.Add(append(seed, seed[:20]...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		events, rest := decodeJournal(data)
		require.LessOrEqual(t, rest, len(data))
		for _, e := range events {
			again, err := appendRecord(nil, e)
			if err != nil {
				continue // JSON can spell what Go won't: such a record was never written by us
			}
			back, left := decodeJournal(again)
			require.Zero(t, left)
			require.Len(t, back, 1)
			require.Equal(t, e, back[0])
		}
	})
}
