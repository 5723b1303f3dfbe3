// Package thread splits a long text into posts that a social network takes.
//
// A post ends where a sentence ends, else where a line may break, else between
// two characters as a person sees them (grapheme clusters). Posts are numbered
// when there are several.
package thread

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

const (
	// MaxPost is the length of a post in Unicode code points, its number
	// included.
	MaxPost = 500
	// MaxText is the length of a text in Unicode code points.
	MaxText = 50_000
	// MaxImages is the number of images of a kolekt.
	MaxImages = 10
)

// The reasons for refusing a text.
var (
	ErrEmpty   = errors.New("kolekt: the text is empty: write at least one word")
	ErrTooLong = fmt.Errorf("kolekt: the text has more than %d characters: make several kolekts of it", MaxText)
)

// Tone decides how posts are numbered.
type Tone string

// The tones.
const (
	Neutral      Tone = "neutral"      // 1/3
	Professional Tone = "professional" // (1 of 3)
	Friendly     Tone = "friendly"     // 1/3, read on; and a word of thanks at the last
	Playful      Tone = "playful"      // 1/3 ↓, and a star at the last
)

// Tones are all tones, the default first.
func Tones() []Tone { return []Tone{Neutral, Professional, Friendly, Playful} }

// ParseTone returns the tone of that name; an empty name is Neutral.
func ParseTone(s string) (Tone, error) {
	if s == "" {
		return Neutral, nil
	}
	for _, t := range Tones() {
		if string(t) == s {
			return t, nil
		}
	}
	return "", fmt.Errorf("kolekt: unknown tone %q (have neutral, professional, friendly, playful)", s)
}

// Example shows how the tone numbers the first of three posts.
func (t Tone) Example() string { return t.number(1, 3) }

func (t Tone) number(i, n int) string {
	switch t {
	case Professional:
		return fmt.Sprintf("(%d of %d)", i, n)
	case Friendly:
		if i == n {
			return fmt.Sprintf("%d/%d, thank you for reading", i, n)
		}
		return fmt.Sprintf("%d/%d, read on", i, n)
	case Playful:
		if i == n {
			return fmt.Sprintf("%d/%d ★", i, n)
		}
		return fmt.Sprintf("%d/%d ↓", i, n)
	}
	return fmt.Sprintf("%d/%d", i, n)
}

// Split returns the posts of a text, each of at most MaxPost code points. All
// of the text is in the posts, in order; only white space between posts is
// dropped, and bytes that aren't UTF-8 become U+FFFD.
func Split(text string, tone Tone) ([]string, error) {
	text = Clean(text)
	if text == "" {
		return nil, ErrEmpty
	}
	if utf8.RuneCountInString(text) > MaxText {
		return nil, ErrTooLong
	}
	if utf8.RuneCountInString(text) <= MaxPost {
		return []string{text}, nil
	}
	// The number takes room, and how much depends on how many posts there
	// are: take the first count of digits that suffices.
	for most := 9; ; most = most*10 + 9 {
		room := MaxPost - utf8.RuneCountInString("\n\n"+tone.number(most, most))
		parts := cut(text, room)
		if len(parts) > most {
			continue
		}
		for i, p := range parts {
			parts[i] = p + "\n\n" + tone.number(i+1, len(parts))
		}
		return parts, nil
	}
}

// Clean makes a text's line ends and white space regular: no space at the end
// of a line, at most one empty line between paragraphs, none around the text.
func Clean(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "\uFFFD").Replace(text)
	lines := strings.Split(text, "\n")
	out := lines[:0]
	for _, l := range lines {
		l = strings.TrimRightFunc(l, unicode.IsSpace)
		if l == "" && len(out) > 0 && out[len(out)-1] == "" {
			continue
		}
		out = append(out, l)
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}

// cut fills parts of at most room code points, greedily.
func cut(text string, room int) []string {
	c := cutter{room: room}
	for state := -1; text != ""; {
		var sentence string
		sentence, text, state = uniseg.FirstSentenceInString(text, state)
		c.sentence(sentence)
	}
	c.flush()
	return c.parts
}

type cutter struct {
	room  int
	parts []string
	part  strings.Builder
	n     int // code points in part
}

func (c *cutter) sentence(s string) {
	switch {
	case c.add(s):
		return
	case 2*c.n >= c.room && visible(s) <= c.room:
		// The part is full enough to end before the sentence.
		c.flush()
		c.add(s)
		return
	}
	for state := -1; s != ""; {
		var line string
		line, s, _, state = uniseg.FirstLineSegmentInString(s, state)
		c.line(line)
	}
}

func (c *cutter) line(s string) {
	if c.add(s) {
		return
	}
	c.flush()
	if c.add(s) {
		return
	}
	for state := -1; s != ""; {
		var cluster string
		cluster, s, _, state = uniseg.FirstGraphemeClusterInString(s, state)
		if c.add(cluster) {
			continue
		}
		c.flush()
		if c.add(cluster) {
			continue
		}
		// One character longer than a post: only the limit counts.
		for _, r := range cluster {
			if !c.add(string(r)) {
				c.flush()
				c.add(string(r))
			}
		}
	}
}

// add appends s and reports whether it fits. White space at the end may hang
// over: it is dropped at the end of a part.
func (c *cutter) add(s string) bool {
	if c.n == 0 {
		s = strings.TrimLeftFunc(s, unicode.IsSpace)
	}
	if c.n+visible(s) > c.room {
		return false
	}
	c.part.WriteString(s)
	c.n += utf8.RuneCountInString(s)
	return true
}

func (c *cutter) flush() {
	if p := strings.TrimSpace(c.part.String()); p != "" {
		c.parts = append(c.parts, p)
	}
	c.part.Reset()
	c.n = 0
}

// visible is the length of s without the white space at its end.
func visible(s string) int {
	return utf8.RuneCountInString(strings.TrimRightFunc(s, unicode.IsSpace))
}
