package usagepg

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func randomBlock(t *rapid.T) []packed {
	unit := rapid.SampledFrom([]int64{1, 1000, 1_000_000}).Draw(t, "unit")
	at := rapid.Int64Range(-1<<50, 1<<50).Draw(t, "first")
	ids, charged := rapid.IntRange(0, 2).Draw(t, "ids"), rapid.IntRange(0, 2).Draw(t, "charged")
	one := rapid.Custom(func(t *rapid.T) packed {
		at += unit * rapid.Int64Range(0, 1<<30).Draw(t, "after")
		e := packed{at: time.UnixMicro(at).UTC(), key: rapid.Int64().Draw(t, "key"), value: rapid.Int64().Draw(t, "value")}
		e.charged = charged == 1 || charged == 2 && rapid.Bool().Draw(t, "is charged")
		if ids == 1 || ids == 2 && rapid.Bool().Draw(t, "has an ID") {
			e.id = rapid.StringN(1, 20, -1).Draw(t, "id")
		}
		if n := rapid.IntRange(0, 5).Draw(t, "props"); n > 0 {
			e.props = fmt.Sprintf(`{"n": %d}`, n)
		}
		return e
	})
	return rapid.SliceOfN(one, 1, 60).Draw(t, "events")
}

func TestABlockReadsBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := randomBlock(t)
		data, err := new(blockEncoder).encode(events)
		require.NoError(t, err)
		got, err := decodeBlock(events[0].at, data)
		require.NoError(t, err)
		require.Equal(t, events, got)
		// What is cut off, or has something behind it, is noticed.
		_, err = decodeBlock(events[0].at, data[:len(data)-1])
		require.Error(t, err)
		if data[0] == 0 {
			_, err = decodeBlock(events[0].at, append(slices.Clone(data), 0))
			require.ErrorIs(t, err, errBlock)
		}
	})
}

func TestABlockIsBounded(t *testing.T) {
	_, err := new(blockEncoder).encode(nil)
	require.Error(t, err)
	_, err = new(blockEncoder).encode(make([]packed, maxBlock+1))
	require.Error(t, err)
	_, err = new(blockEncoder).encode([]packed{{at: time.Unix(1, 0)}, {at: time.Unix(0, 0)}})
	require.Error(t, err, "out of order")
}

// Whatever the bytes, decoding ends without a panic, and what it accepts is
// encoded to the same events again.
func FuzzBlock(f *testing.F) {
	at := time.Unix(1_700_000_000, 0).UTC()
	for _, events := range [][]packed{
		{{at: at, key: 1, value: -5}},
		{{at: at, id: "a", props: `{"x": 1}`, charged: true}, {at: at.Add(time.Millisecond), id: "b", value: 7}},
	} {
		data, err := new(blockEncoder).encode(events)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		events, err := decodeBlock(at, data)
		if err != nil {
			return
		}
		again, err := new(blockEncoder).encode(events)
		require.NoError(t, err)
		back, err := decodeBlock(events[0].at, again)
		require.NoError(t, err)
		require.Equal(t, events, back)
		for _, e := range events {
			_, _ = e.properties() // no panic
		}
	})
}
