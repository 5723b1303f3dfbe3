package apikeys_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
)

func Example() {
	ctx := context.Background()
	keys, err := apikeys.New(apikeysmem.New(), apikeys.Config{Prefix: "acme"})
	if err != nil {
		fmt.Println(err)
		return
	}

	// A person makes a key for their account.
	person := apikeys.Holder("acct_1", apikeys.Account("acct_1"), "invoices:*")
	token, _, err := keys.Issue(ctx, person, apikeys.NewKey{Name: "CI", Scopes: []string{"invoices:write"}})
	if err != nil {
		fmt.Println(err)
		return
	}

	// A program uses it.
	api := keys.Middleware(apikeys.MiddlewareConfig{})(apikeys.Require("invoices:read")(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello", apikeys.FromContext(r.Context()).Account())
		})))
	r := httptest.NewRequest(http.MethodGet, "/invoices", nil)
	r.Header.Set("Authorization", "Bearer "+token.Reveal())
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	fmt.Print(w.Code, " ", w.Body)
	// Output: 200 hello acct_1
}

func ExampleService_Rotate() {
	ctx := context.Background()
	keys, _ := apikeys.New(apikeysmem.New(), apikeys.Config{Prefix: "acme"})
	person := apikeys.Holder("acct_1", apikeys.Account("acct_1"), "read")
	old, key, _ := keys.Issue(ctx, person, apikeys.NewKey{Name: "CI", Scopes: []string{"read"}})

	fresh, _, _ := keys.Rotate(ctx, person, key.ID, apikeys.Rotation{Overlap: time.Hour})
	for _, token := range []apikeys.Token{old, fresh} {
		d, _ := keys.Verify(ctx, token.Reveal(), apikeys.Client{})
		fmt.Println(d.Allowed(), d.Principal.Lineage() == key.ID)
	}

	// A key that has leaked goes without overlap.
	_ = keys.Revoke(ctx, person, key.ID, "leaked")
	d, _ := keys.Verify(ctx, old.Reveal(), apikeys.Client{})
	fmt.Println(d.Allowed(), d.Reason)
	// Output:
	// true true
	// true true
	// false revoked
}

func ExampleService_Verify() {
	keys, _ := apikeys.New(apikeysmem.New(), apikeys.Config{Prefix: "acme"})
	d, err := keys.Verify(context.Background(), "acme_live_mistyped", apikeys.Client{})
	fmt.Println(d.Allowed(), d.Reason, err)
	// Output: false malformed <nil>
}
