// Package kolekts keeps what the product makes: texts split into posts.
package kolekts

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/kolekt/commerce/examples/kolekt/internal/thread"
	"github.com/kolekt/commerce/internal/ident"
	"github.com/kolekt/commerce/usage"
)

// ErrNotFound says that the account has no such kolekt.
var ErrNotFound = errors.New("kolekt: not found")

// ErrGone says that the account has been erased.
var ErrGone = errors.New("the account is erased")

// ErrImage says that an image's address can't be used.
var ErrImage = errors.New("kolekt: an image needs an address that begins with https:// or http://")

// Kolekt is one result: a text and the posts made of it.
type Kolekt struct {
	ID         string          `json:"id"`
	Account    string          `json:"-"`
	Text       string          `json:"text"`
	Tone       thread.Tone     `json:"tone"`
	Images     []string        `json:"images"` // the first belongs to the first post, and so on
	Posts      []string        `json:"posts"`
	Characters int             `json:"characters"` // code points of the text
	Score      int             `json:"engagement_score"`
	Factors    []thread.Factor `json:"engagement_factors"`
	CreatedAt  time.Time       `json:"created_at"`
}

// Draft is what a person or a program hands in.
type Draft struct {
	Text   string   `json:"text"`
	Tone   string   `json:"tone"`
	Images []string `json:"images"`
}

// Make splits a draft without storing anything.
func Make(account string, d Draft, now time.Time) (Kolekt, error) {
	tone, err := thread.ParseTone(d.Tone)
	if err != nil {
		return Kolekt{}, err
	}
	if len(d.Images) > thread.MaxImages {
		return Kolekt{}, fmt.Errorf("%w, and at most %d of them", ErrImage, thread.MaxImages)
	}
	for _, i := range d.Images {
		if u, err := url.Parse(i); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || len(i) > 2000 {
			return Kolekt{}, ErrImage
		}
	}
	posts, err := thread.Split(d.Text, tone)
	if err != nil {
		return Kolekt{}, err
	}
	text := thread.Clean(d.Text)
	k := Kolekt{
		ID: ident.New("kol", now), Account: account, Text: text, Tone: tone, Images: append([]string{}, d.Images...),
		Posts: posts, Characters: utf8.RuneCountInString(text), CreatedAt: now.UTC().Truncate(time.Microsecond),
	}
	k.Score, k.Factors = thread.Score(posts, len(d.Images))
	return k, nil
}

// Properties are what the usage event of a kolekt says about it.
func (k Kolekt) Properties() usage.Properties {
	return usage.Properties{
		usage.Int("posts", int64(len(k.Posts))), usage.Int("characters", int64(k.Characters)), usage.String("tone", string(k.Tone)),
		usage.Bool("has_images", len(k.Images) > 0), usage.Int("images", int64(len(k.Images))), usage.Int("engagement_score", int64(k.Score)),
	}
}

// Store keeps kolekts. Implementations are safe for concurrent use.
type Store interface {
	// Add stores a kolekt; one whose ID is there already changes nothing.
	Add(ctx context.Context, k Kolekt) error
	// Find returns the account's kolekt, or ErrNotFound.
	Find(ctx context.Context, account, id string) (Kolekt, error)
	// List returns the account's kolekts before the given ID, newest first;
	// an empty ID starts at the newest.
	List(ctx context.Context, account, before string, limit int) ([]Kolekt, error)
	// Delete removes the account's kolekt, or returns ErrNotFound.
	Delete(ctx context.Context, account, id string) error
	// DeleteAccount removes at most limit kolekts of the account.
	DeleteAccount(ctx context.Context, account string, limit int) (int64, error)
}

// ExportSubject emits everything stored for the account, for gdpr.
func ExportSubject(ctx context.Context, s Store, account string, emit func(record string, fields map[string]any) error) error {
	for before := ""; ; {
		page, err := s.List(ctx, account, before, 100)
		if err != nil {
			return err
		}
		for _, k := range page {
			if err := emit("kolekt", map[string]any{
				"id": k.ID, "text": k.Text, "tone": string(k.Tone), "images": k.Images, "posts": k.Posts,
				"characters": k.Characters, "engagement_score": k.Score, "created_at": k.CreatedAt,
			}); err != nil {
				return err
			}
			before = k.ID
		}
		if len(page) < 100 {
			return nil
		}
	}
}

// EraseSubject removes everything stored for the account, for gdpr.
func EraseSubject(ctx context.Context, s Store, account string) (map[string]int64, error) {
	counts := map[string]int64{"kolekt": 0}
	for {
		n, err := s.DeleteAccount(ctx, account, 500)
		counts["kolekt"] += n
		if err != nil || n == 0 {
			return counts, err
		}
	}
}
