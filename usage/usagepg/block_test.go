package usagepg

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
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

// Blocks end before they are larger than what is read again, whatever the
// events.
func TestBlocksOfLargeEvents(t *testing.T) {
	events := make([]packed, 3*maxBlock+1)
	for i := range events {
		events[i] = packed{at: time.Unix(int64(i), 0).UTC(), key: int64(i), value: math.MinInt64, id: fmt.Sprint(i)}
		if i < 2*maxBlock && i%16 == 0 {
			// Up to the largest texts that an event may have.
			events[i].props = fmt.Sprintf(`{"n": "%d", "s": "%s"}`, i, strings.Repeat(`\u0001`, usage.MaxText*(i/16%(usage.MaxProperties+1))))
		}
	}
	var got []packed
	blocks := 0
	for part := range blocksOf(events) {
		data, err := new(blockEncoder).encode(part)
		require.NoError(t, err)
		back, err := decodeBlock(part[0].at, data)
		require.NoError(t, err)
		require.Equal(t, part, back)
		got = append(got, part...)
		blocks++
	}
	require.Equal(t, events, got)
	require.Greater(t, blocks, 20)
	_, err := new(blockEncoder).encode(events[:maxBlock])
	require.ErrorContains(t, err, "bytes")

	// What would become larger is refused without becoming it.
	var bomb bytes.Buffer
	bomb.WriteByte(1)
	w, err := flate.NewWriter(&bomb, flate.BestSpeed)
	require.NoError(t, err)
	_, err = io.CopyN(w, zeros{}, 64*maxUnpacked)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = decodeBlock(time.Unix(0, 0), bomb.Bytes())
	require.ErrorIs(t, err, errBlock)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16*maxUnpacked))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
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
