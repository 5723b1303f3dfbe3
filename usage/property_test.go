package usage

import (
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Numbers are what big.Rat, which knows no bounds, makes of the same text.
func TestNumbersAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		scale := rapid.IntRange(0, maxScale).Draw(t, "scale")
		p := Decimal("n", text)
		if p.check() != nil {
			return
		}
		want, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		got, ok := new(big.Rat).SetString(p.Text())
		require.True(t, ok, p.Text())
		require.Zero(t, want.Cmp(got), "%s is spelled %s", text, p.Text())
		digits, _ := want.FloatPrec()
		require.Equal(t, want.FloatString(digits), p.Text(), "the one plain form")

		units, ok := p.Units(scale)
		exact, isInt := new(big.Int).SetString(strings.Replace(want.FloatString(scale), ".", "", 1), 10)
		require.True(t, isInt)
		if fits := exact.IsInt64() && exact.Int64() <= MaxValue && exact.Int64() >= -MaxValue; fits {
			require.True(t, ok, text)
			require.Equal(t, exact.Int64(), units, "%s at scale %d", text, scale)
			again, ok := unitsOf("n", units, scale).Units(scale)
			require.True(t, ok)
			require.Equal(t, units, again)
		} else {
			require.False(t, ok, text)
		}
	})
}

func TestFloatsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		p := Float("f", f)
		if p.check() != nil {
			require.True(t, math.Abs(f) < 1e-30 || math.Abs(f) >= 1e30, f)
			return
		}
		back, err := json.Number(p.Text()).Float64()
		require.NoError(t, err)
		require.InDelta(t, f, back, 0)
		plain := numberProperty(p.Name, p.Text())
		require.NoError(t, plain.check())
	})
}

func TestPropertiesAsJSON(t *testing.T) {
	props := Properties{String("s", "é\"\x01<"), Bool("b", true), Int("i", -7), Float("f", 0.5), Decimal("d", "1.50")}
	text, err := json.Marshal(props)
	require.NoError(t, err)
	var back Properties
	require.NoError(t, json.Unmarshal(text, &back))
	require.Len(t, back, len(props))
	for i, p := range props {
		require.Equal(t, p.Name, back[i].Name)
		require.Equal(t, p.Text(), back[i].Text())
		require.Equal(t, p.Value(), back[i].Value())
	}
	require.NoError(t, json.Unmarshal([]byte("null"), &back))
	require.Empty(t, back)
	for _, bad := range []string{"[]", "7", `"x"`} {
		require.Error(t, json.Unmarshal([]byte(bad), &back), bad)
	}
	require.NoError(t, json.Unmarshal([]byte(`{"x": {"y": [1]}, "z": null}`), &back))
	require.Error(t, back[0].check())
	require.Error(t, back[1].check())
	require.Nil(t, back[1].Value())
	text, err = json.Marshal(back)
	require.NoError(t, err)
	require.JSONEq(t, `{"x": null, "z": null}`, string(text))
	_, has := back.Get("nope")
	require.False(t, has)
}

// Whatever the JSON, reading it ends without a panic, and what an event may
// have is spelled in a way that reads back the same.
func FuzzProperties(f *testing.F) {
	for _, seed := range []string{`{"a": 1, "b": "x", "c": true, "d": 1.50e3}`, `{"a": [1, {"b": 2}]}`, `{"a": -0.0, "a": 1e-30}`, `null`, `{"a": 123456789012345678901234567890}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var props Properties
		if json.Unmarshal(data, &props) != nil {
			return
		}
		m := Meter{Name: "m", Aggregation: Count}
		if m.checkProperties(props) != nil {
			return
		}
		e := Entry{Event: Event{Meter: "m", Value: 1, Properties: props}}
		e.describe(&m)
		var back Properties
		if err := json.Unmarshal(e.Properties.AppendJSON(nil), &back); err != nil {
			t.Fatal(err)
		}
		again := Entry{Event: Event{Meter: "m", Value: 1, Properties: back}}
		again.describe(&m)
		if again.Hash != e.Hash || len(back) != len(props) {
			t.Fatalf("%s reads back as %s", e.Properties.AppendJSON(nil), again.Properties.AppendJSON(nil))
		}
	})
}
