package apikeys

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestShortTextsHashAsTheStandardLibraryHashes holds both ways of hashing, and
// the boundary between them, against crypto/hmac and crypto/sha256.
func TestShortTextsHashAsTheStandardLibraryHashes(t *testing.T) {
	require.NotNil(t, newShort(nil), "the standard library's states are as expected")
	rapid.Check(t, func(t *rapid.T) {
		p := Pepper{ID: 1, Secret: rapid.SliceOfN(rapid.Byte(), 32, 200).Draw(t, "secret")}
		peppered, plain := newHasher(p), newHasher(Pepper{})
		for _, text := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 2*sha256.BlockSize), 1, 5).Draw(t, "texts") {
			mac := hmac.New(sha256.New, p.derive("apikeys/v1"))
			mac.Write(text)
			sameSum(t, peppered, text, mac.Sum(nil))
			sum := sha256.Sum256(text)
			sameSum(t, plain, text, sum[:])
		}
	})
}

type failer interface{ Fatalf(string, ...any) }

func sameSum(t failer, h *hasher, text, want []byte) {
	s := h.states.Get().(*state)
	defer h.states.Put(s)
	sums := [][]byte{s.sumOf(text)}
	if len(text) <= maxShort {
		sums = append(sums, h.short.sum(&s.work, text))
	}
	for _, got := range sums {
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: got %x, want %x", len(text), got, want)
		}
	}
	if tag, stored := h.sum(text); !bytes.Equal(stored[:], want[4:]) || tag >= tagSpace {
		t.Fatalf("stored %x, tag %d", stored[:], tag)
	}
}

func FuzzShort(f *testing.F) {
	key := bytes.Repeat([]byte("k"), 32)
	f.Add(key, []byte("acme_live_0123"))
	f.Fuzz(func(t *testing.T, key, text []byte) {
		if len(key) == 0 || len(key) > sha256.BlockSize || len(text) > maxShort {
			return
		}
		mac := hmac.New(sha256.New, key)
		mac.Write(text)
		w := &workspace{digest: sha256.New().(digest)}
		if !bytes.Equal(newShort(key).sum(w, text), mac.Sum(nil)) {
			t.Fatal("not the sum that crypto/hmac gives")
		}
	})
}

// TestHashesDoNotNeedTheStandardLibrarysStates: where short can't be had,
// everything hashes as before.
func TestHashesDoNotNeedTheStandardLibrarysStates(t *testing.T) {
	with, without := testHasher(), testHasher()
	inner := without.states.New
	without.states.New = func() any {
		s := inner().(*state)
		s.short = nil
		return s
	}
	text := []byte("acme_live_" + randomPart())
	tag, stored := with.sum(text)
	tag2, stored2 := without.sum(text)
	require.Equal(t, tag, tag2)
	require.Equal(t, stored, stored2)
}

func TestAlphabeticSeesEveryCharacter(t *testing.T) {
	random := []byte(randomPart())
	require.True(t, alphabetic(random))
	for i := range random {
		was := random[i]
		for c := range 256 {
			random[i] = byte(c)
			require.Equal(t, digits[c] != 0xff, alphabetic(random), "%q at %d", c, i)
		}
		random[i] = was
	}
}
