package gdpr_test

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprmem"
)

// notes is an application's own personal data.
type notes map[string][]string

func (notes) Describe() gdpr.Descriptor {
	return gdpr.Descriptor{
		Name: "notes", Categories: []string{"content"}, Purpose: "the product", Basis: gdpr.Contract,
		Retention: "until the account is erased", Portable: true,
	}
}

func (n notes) Export(_ context.Context, s gdpr.Subject, sink *gdpr.Sink) error {
	for _, text := range n[s.ID] {
		if err := sink.Row("notes", map[string]any{"text": text}); err != nil {
			return err
		}
	}
	return nil
}

func (n notes) Erase(_ context.Context, s gdpr.Subject, _ string) (gdpr.Outcome, error) {
	removed := int64(len(n[s.ID]))
	delete(n, s.ID)
	return gdpr.Outcome{Removed: removed, Done: true}, nil
}

func Example() {
	ctx := context.Background()
	data := notes{"ada": {"buy milk", "call Bob"}}
	service, err := gdpr.New(gdprmem.New(), gdpr.Config{
		Pepper:  bytes.Repeat([]byte("k"), 32), // from your secret store
		Sources: []gdpr.Source{data},
		Subject: func(_ context.Context, id string) (gdpr.Subject, error) {
			return gdpr.Subject{ID: id, Epoch: time.Date(2025, 5, 1, 0, 0, 0, 0, time.UTC)}, nil
		},
		Grace: -1, // no grace period, for the example
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var archive bytes.Buffer
	rows, err := service.ExportTo(ctx, &archive, gdpr.Access, gdpr.Subject{ID: "ada"})
	fmt.Println("exported notes:", rows["notes"], err)

	request, _ := service.Ask(ctx, gdpr.Erasure, "ada", true)
	_, _ = service.Work(ctx) // a server calls Run instead
	request, _ = service.Request(ctx, request.ID)
	fmt.Println("erasure:", request.State, "- left:", len(data["ada"]))
	// Output:
	// exported notes: 2 <nil>
	// erasure: done - left: 0
}

func ExampleService_Allowed() {
	ctx := context.Background()
	service, _ := gdpr.New(gdprmem.New(), gdpr.Config{
		Pepper:   bytes.Repeat([]byte("k"), 32),
		Sources:  []gdpr.Source{notes{}},
		Subject:  func(_ context.Context, id string) (gdpr.Subject, error) { return gdpr.Subject{ID: id}, nil },
		Purposes: []gdpr.Purpose{{ID: "newsletter", Version: 1, Text: "Send me one mail a month."}},
	})
	before, _ := service.Allowed(ctx, "ada", "newsletter")
	_, _ = service.Consent(ctx, "ada", "newsletter", true, "sign-up form", "en")
	after, _ := service.Allowed(ctx, "ada", "newsletter")
	fmt.Println(before, after)
	// Output: false true
}
