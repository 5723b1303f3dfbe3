package apikeys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// proof scales a long proof up under COMMERCE_PROVE.
func proof(small, large int) int {
	if os.Getenv("COMMERCE_PROVE") != "" {
		return large
	}
	return small
}

func testHasher() *hasher { return newHasher(Pepper{ID: 1, Secret: bytes.Repeat([]byte("p"), 32)}) }

// TestIssuedTokensAreUniqueUniformAndParse is the proof of the token's body:
// every position of the random part is uniform by a chi-square test.
func TestIssuedTokensAreUniqueUniformAndParse(t *testing.T) {
	n := proof(20_000, 1_000_000)
	h, head := testHasher(), "acme_live_"
	pattern := regexp.MustCompile(`^acme_live_[0-9A-Za-z]{49}$`)
	seen := make(map[Hash]struct{}, n)
	var counts [randomLen + tagLen][62]int
	for range n {
		token, hash := h.mint(head, randomPart())
		text := token.Reveal()
		p, ok := parse([]byte(text))
		require.True(t, ok)
		require.Equal(t, len(head), p.headLen)
		tag, again := h.sum([]byte(text[:len(head)+randomLen]))
		require.Equal(t, tag, p.tag)
		require.Equal(t, hash, again)
		require.True(t, pattern.MatchString(text))
		_, dup := seen[hash]
		require.False(t, dup)
		seen[hash] = struct{}{}
		for i := range counts {
			counts[i][digits[text[len(head)+i]]]++
		}
	}
	for i := range randomLen {
		requireUniform(t, fmt.Sprint("position ", i), counts[i][:], n)
	}
	t.Logf("%d tokens, 0 duplicates, %d positions uniform", n, randomLen)
}

// requireUniform fails when the counts are less likely than 1 in a million.
// 135.2 is the quantile of chi-square with 61 degrees of freedom.
func requireUniform(t *testing.T, what string, counts []int, n int) {
	t.Helper()
	x := chiSquare(counts, n)
	require.Less(t, x, 135.2, what)
}

func chiSquare(counts []int, n int) float64 {
	want, x := float64(n)/float64(len(counts)), 0.0
	for _, c := range counts {
		x += math.Pow(float64(c)-want, 2) / want
	}
	return x
}

// TestChiSquareSeesModulo is the control: bytes taken modulo 62 are not uniform.
func TestChiSquareSeesModulo(t *testing.T) {
	var counts [62]int
	n := 0
	for range 100 {
		for b := range 256 {
			counts[b%62]++
			n++
		}
	}
	require.Greater(t, chiSquare(counts[:], n), 135.2)
}

func TestEveryEditOfOneCharacterIsRefused(t *testing.T) {
	token, _ := testHasher().mint("acme_live_", randomPart())
	text := token.Reveal()
	for i := range len(text) {
		for _, c := range []byte(base62 + "_-+ \n\x00\x80\xff") {
			if c == text[i] {
				continue
			}
			edited := []byte(text)
			edited[i] = c
			_, ok := parse(edited)
			require.False(t, ok, "position %d", i)
		}
	}
	for i := range len(text) - 1 {
		edited := []byte(text)
		edited[i], edited[i+1] = edited[i+1], edited[i]
		_, ok := parse(edited)
		require.Equal(t, text[i] == text[i+1], ok, "swap at %d", i)
	}
}

func TestPlainTagDependsOnTheTokenAlone(t *testing.T) {
	a, hashA := newHasher(Pepper{}).mint("acme_live_", strings.Repeat("a", randomLen))
	b, hashB := newHasher(Pepper{}).mint("acme_live_", strings.Repeat("a", randomLen))
	require.Equal(t, a.Reveal(), b.Reveal(), "one key has one text, also without a pepper")
	require.Equal(t, hashA, hashB)
	_, peppered := testHasher().mint("acme_live_", strings.Repeat("a", randomLen))
	require.NotEqual(t, hashA, peppered)
}

func FuzzParse(f *testing.F) {
	token, _ := testHasher().mint("acme_live_", strings.Repeat("x", randomLen))
	f.Add([]byte(token.Reveal()))
	f.Add([]byte(""))
	f.Add([]byte("acme_live_"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > maxToken {
			return
		}
		p, ok := parse(text)
		if !ok {
			return
		}
		// What is accepted is what would be written.
		again := append([]byte(nil), text[:p.headLen+randomLen]...)
		again = appendBase62(again, uint64(p.tag), tagLen)
		again = appendBase62(again, uint64(crc32.ChecksumIEEE(again)), crcLen)
		if !bytes.Equal(again, text) {
			t.Fatal("accepted text is not what would be written")
		}
	})
}

func TestTokenNeverPrintsItself(t *testing.T) {
	token, _ := testHasher().mint("acme_live_", "CANARY"+strings.Repeat("x", randomLen-6))
	secret := token.Reveal()
	type deep struct {
		public  Token
		private struct{ token Token }
		list    []Token
		byName  map[string]*Token
	}
	d := deep{public: token, list: []Token{token}, byName: map[string]*Token{"a": &token}}
	d.private.token = token
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T", "%t", "%c"} {
		fmt.Fprintf(&out, verb+"\n", token)
		fmt.Fprintf(&out, verb+"\n", &token)
		fmt.Fprintf(&out, verb+"\n", d)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("msg", "token", token, "deep", d, "list", []Token{token})
	}
	b, err := json.Marshal(map[string]any{"token": token, "list": []Token{token}, "public": struct{ T Token }{token}})
	require.NoError(t, err)
	out.Write(b)
	fmt.Fprint(&out, fmt.Errorf("wrapped: %w", errors.New(fmt.Sprint(token))))
	func() {
		defer func() { fmt.Fprint(&out, recover()) }()
		panic(token)
	}()
	require.Contains(t, out.String(), token.Hint())
	require.NotContains(t, out.String(), secret)
	require.NotContains(t, out.String(), secret[10:24], "not a part of it either")
	require.NotContains(t, strings.ToLower(out.String()), fmt.Sprintf("%x", secret[10:24]))
	// The control: a plain string does leak.
	require.Contains(t, fmt.Sprintf("%+v", struct{ t string }{secret}), secret)
	require.Empty(t, Token{}.Reveal())
}

func TestHashAndHintArePrintedWithoutSecret(t *testing.T) {
	_, hash := testHasher().mint("acme_live_", randomPart())
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", hash, hash, hash, hash), fmt.Sprintf("%x", hash[:4]))
	hint := hintOf("acme_live_", "0123456789abcdefghijklmnopqrstuvwxyzAB")
	require.Equal(t, "acme_live_0123…yzAB", hint)
}

func TestScopes(t *testing.T) {
	for _, tc := range []struct {
		held, asked string
		want        bool
	}{
		{"read", "read", true},
		{"write", "read", true},
		{"read", "write", false},
		{"invoices:write", "invoices:read", true},
		{"invoices:read", "invoices:write", false},
		{"invoices:*", "invoices:delete", true},
		{"invoices:*", "orders:read", false},
		{"invoices:*", "*", false},
		{"write", "invoices:write", false},
		{"project:read", "project/42:read", true},
		{"project/42:read", "project:read", false},
		{"project/4:read", "project/42:read", false},
		{"project:write", "project/42/files:read", true},
		{"*", "invoices:write", true},
		{"*", "read", true},
		{"*", "*", true},
		{"*", "apikeys:write", false},
		{"*", "apikeys/one:read", false},
		{"*", "apikeysx:read", true},
		{"apikeys:*", "apikeys:write", true},
		{"apikeys:write", "apikeys:read", true},
		{"invoices:read", "", false},
		{"", "", false},
		{"*", "in voices:read", false},
		{"*:read", "invoices:read", false},
	} {
		got := compileScopes([]string{tc.held}, defaultImplies).covers(tc.asked)
		assert.Equal(t, tc.want, got, "%q covers %q", tc.held, tc.asked)
	}
	chain := compileScopes([]string{"doc:admin"}, map[string][]string{"admin": {"write"}, "write": {"read"}, "read": {"admin"}})
	require.True(t, chain.covers("doc:read"), "implication has no depth, and may go round")
	require.False(t, chain.covers("doc:delete"))
}

// TestGrantedScopesAreNeverMore asks whether a set that covers every scope of
// another one covers whatever that one covers.
func TestGrantedScopesAreNeverMore(t *testing.T) {
	parts := rapid.SampledFrom([]string{"read", "write", "*", "a:read", "a:write", "a:*", "a/1:read", "a/1:*", "b:write", "apikeys:read", "apikeys:*"})
	rapid.Check(t, func(t *rapid.T) {
		issuer := compileScopes(rapid.SliceOf(parts).Draw(t, "issuer"), defaultImplies)
		granted := rapid.SliceOf(parts).Draw(t, "granted")
		for _, g := range granted {
			if !issuer.covers(g) {
				return
			}
		}
		asked := parts.Draw(t, "asked")
		if compileScopes(granted, defaultImplies).covers(asked) && !issuer.covers(asked) {
			t.Fatalf("granted %v covers %q, the issuer doesn't", granted, asked)
		}
	})
}

func FuzzScope(f *testing.F) {
	f.Add("invoices:write", "invoices:read")
	f.Add("*", "apikeys:write")
	f.Fuzz(func(t *testing.T, held, asked string) {
		if compileScopes([]string{held}, defaultImplies).covers(asked) && (!validScope(held) || !validScope(asked)) {
			t.Fatal("a malformed scope grants something")
		}
	})
}
