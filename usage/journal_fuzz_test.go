package usage

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever the bytes, decoding ends without a panic, and what it accepts is
// encoded to the same bytes again.
func FuzzJournal(f *testing.F) {
	seed := appendRecord(nil, &Event{
		ID: "id", Account: "a", Meter: "m", Value: -3,
		Properties: Properties{Int("x", 1), String("y", "z"), Float("f", 0.5), Bool("b", true), Decimal("d", "1.50")},
	}, time.Unix(1, 0).UnixMicro(), [16]byte{1, 2, 3})
	f.Add(seed)
	f.Add(append(seed, seed[:20]...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		events, rest := decodeJournal(data)
		require.LessOrEqual(t, rest, len(data))
		for _, e := range events {
			again := appendRecord(nil, &e.Event, e.Time.UnixMicro(), e.key)
			back, left := decodeJournal(again)
			require.Zero(t, left)
			require.Len(t, back, 1)
			require.Equal(t, e, back[0])
		}
	})
}
