package thread_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/examples/kolekt/internal/thread"
)

func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

// bodies strips the numbers off posts.
func bodies(posts []string) []string {
	if len(posts) == 1 {
		return posts
	}
	out := make([]string, len(posts))
	for i, p := range posts {
		out[i] = p[:strings.LastIndex(p, "\n\n")]
	}
	return out
}

func texts() *rapid.Generator[string] {
	word := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z]{1,12}[,.!?]?`),
		rapid.SampledFrom([]string{"🏳️‍🌈", "👩‍👩‍👧‍👦", "e\u0301a\u0308", "日本語。", "مرحبا", "नमस्ते", "3.14", "https://example.com/a?b=c", "\r\n", "\n\n", "\t", strings.Repeat("w", 700), "x" + strings.Repeat("\u0301", 600)}),
		rapid.String(),
	)
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(word, 0, 400).Draw(t, "words"), rapid.SampledFrom([]string{" ", "  ", "\n"}).Draw(t, "separator"))
	})
}

func TestSplitKeepsTheLimitAndEveryLetterInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := texts().Draw(t, "text")
		tone := rapid.SampledFrom(thread.Tones()).Draw(t, "tone")
		posts, err := thread.Split(text, tone)
		if err != nil {
			if thread.Clean(text) == "" {
				require.ErrorIs(t, err, thread.ErrEmpty)
			} else {
				require.ErrorIs(t, err, thread.ErrTooLong)
			}
			return
		}
		for i, p := range posts {
			require.LessOrEqual(t, utf8.RuneCountInString(p), thread.MaxPost, "post %d", i+1)
			require.True(t, utf8.ValidString(p))
			require.Equal(t, strings.TrimSpace(p), p)
		}
		require.Equal(t, letters(thread.Clean(text)), letters(strings.Join(bodies(posts), " ")))
	})
}

func TestSplitNeverTearsACharacter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		family := "👩‍👩‍👧‍👦"
		text := strings.Repeat(family, rapid.IntRange(80, 400).Draw(t, "families"))
		posts, err := thread.Split(text, thread.Neutral)
		require.NoError(t, err)
		require.Greater(t, len(posts), 1)
		for _, p := range bodies(posts) {
			require.Equal(t, strings.Repeat(family, uniseg.GraphemeClusterCount(p)), p)
		}
	})
}

func TestSplitEndsPostsAtSentences(t *testing.T) {
	sentence := "Every sentence of this text has the same length, and none is torn in two. "
	posts, err := thread.Split(strings.Repeat(sentence, 40), thread.Professional)
	require.NoError(t, err)
	for _, p := range bodies(posts) {
		require.True(t, strings.HasSuffix(p, "in two."), p)
	}
	require.True(t, strings.HasSuffix(posts[0], "(1 of 7)"), posts[0])
}

func TestSplitBreaksALongSentenceBetweenWords(t *testing.T) {
	posts, err := thread.Split(strings.Repeat("word ", 300), thread.Neutral)
	require.NoError(t, err)
	for _, p := range bodies(posts) {
		require.Equal(t, "word", p[:4])
		require.True(t, strings.HasSuffix(p, "word"))
	}
}

func TestSplitNumbersOnlySeveralPosts(t *testing.T) {
	posts, err := thread.Split("  One thought.\r\n\r\n\r\nAnd another. ", thread.Playful)
	require.NoError(t, err)
	require.Equal(t, []string{"One thought.\n\nAnd another."}, posts)

	posts, err = thread.Split(strings.Repeat("a b c d e f g h i j ", 2400), thread.Playful)
	require.NoError(t, err)
	require.Len(t, posts, 98)
	require.True(t, strings.HasSuffix(posts[97], "98/98 ★"))
}

func TestSplitSaysWhatIsWrong(t *testing.T) {
	_, err := thread.Split(" \n\t ", thread.Neutral)
	require.ErrorIs(t, err, thread.ErrEmpty)
	_, err = thread.Split(strings.Repeat("é", thread.MaxText+1), thread.Neutral)
	require.ErrorIs(t, err, thread.ErrTooLong)
	_, err = thread.ParseTone("angry")
	require.ErrorContains(t, err, "neutral, professional, friendly, playful")
}

func TestScoreIsTheSumOfItsFactors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		posts := rapid.SliceOfN(rapid.String(), 1, 40).Draw(t, "posts")
		score, factors := thread.Score(posts, rapid.IntRange(0, 10).Draw(t, "images"))
		sum := 0
		for _, f := range factors {
			require.GreaterOrEqual(t, f.Points, 0)
			require.LessOrEqual(t, f.Points, f.Max)
			require.Equal(t, f.Points < f.Max, f.Advice != "")
			sum += f.Points
		}
		require.Equal(t, sum, score)
		require.LessOrEqual(t, score, 100)
	})
	best, _ := thread.Score([]string{"Short hook. Then a line.\n\nWhat do you think?"}, 1)
	require.Equal(t, 100, best)
}

func FuzzSplit(f *testing.F) {
	f.Add("Hello. World?")
	f.Add(strings.Repeat("👩‍👩‍👧‍👦", 200))
	f.Add("\xff\x00")
	f.Fuzz(func(t *testing.T, text string) {
		posts, err := thread.Split(text, thread.Friendly)
		if err != nil {
			return
		}
		for _, p := range posts {
			if n := utf8.RuneCountInString(p); n > thread.MaxPost {
				t.Fatalf("a post of %d characters", n)
			}
		}
		if got, want := letters(strings.Join(bodies(posts), "")), letters(thread.Clean(text)); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}
