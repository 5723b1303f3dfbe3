package thread

import (
	"strings"
	"unicode/utf8"
)

// Factor is one reason for a score.
type Factor struct {
	Name   string `json:"name"`
	Points int    `json:"points"` // 0 to Max
	Max    int    `json:"max"`
	Advice string `json:"advice,omitempty"` // what would bring the missing points
}

// Score estimates how well a kolekt engages its readers, from 0 to 100, and
// says why. It is a rule of thumb that a person can check by hand: the same
// text always has the same score.
func Score(posts []string, images int) (score int, factors []Factor) {
	if len(posts) == 0 {
		return 0, nil
	}
	first, last, whole := posts[0], posts[len(posts)-1], strings.Join(posts, "\n\n")
	hook, _, _ := strings.Cut(first, "\n")
	if i := strings.IndexAny(hook, ".!?。！？"); i >= 0 {
		hook = hook[:i]
	}
	longest := 0
	for p := range strings.SplitSeq(whole, "\n\n") {
		longest = max(longest, utf8.RuneCountInString(p))
	}
	factors = []Factor{
		factor("A short first sentence", 25, grade(utf8.RuneCountInString(hook), 90, 240), "open with a sentence of fewer than 90 characters"),
		factor("Length", 25, grade(len(posts), 5, 25), "readers leave after about five posts: shorten the text"),
		factor("Short paragraphs", 20, grade(longest, 280, 500), "break paragraphs of more than 280 characters"),
		factor("A question to answer", 15, yes(strings.ContainsAny(last, "?？")), "end with a question"),
		factor("Images", 15, yes(images > 0), "add an image"),
	}
	for _, f := range factors {
		score += f.Points
	}
	return score, factors
}

func factor(name string, most int, share float64, advice string) Factor {
	f := Factor{Name: name, Points: int(share*float64(most) + 0.5), Max: most}
	if f.Points < f.Max {
		f.Advice = advice
	}
	return f
}

// grade is 1 up to good, 0 from bad on, and linear between them.
func grade(n, good, bad int) float64 {
	return min(1, max(0, float64(bad-n)/float64(bad-good)))
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
