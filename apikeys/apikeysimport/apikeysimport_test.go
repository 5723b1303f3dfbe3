package apikeysimport_test

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysimport"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
)

func hex256(s string) string { b := sha256.Sum256([]byte(s)); return hex.EncodeToString(b[:]) }
func hex512(s string) string { b := sha512.Sum512([]byte(s)); return hex.EncodeToString(b[:]) }
func b64(s string) string {
	b := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(b[:])
}

func b64url(s string) string {
	b := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

const (
	hex64     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	letters64 = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkl"
	alnum40   = "0123456789abcdefghijklmnopqrstuvwxyzABCD"
)

func TestImportedKeysWorkAtOnce(t *testing.T) {
	ctx := context.Background()
	hashed, err := bcrypt.GenerateFromPassword([]byte("pk12345678-secret-secret"), bcrypt.MinCost)
	require.NoError(t, err)
	cases := []struct {
		scheme apikeys.Scheme
		token  string
		stored string
		wrong  []string // texts that the scheme must not take
	}{
		{apikeysimport.SHA256Hex("tok_", 20), "tok_0123456789abcdef", hex256("tok_0123456789abcdef"), []string{"tok_0123456789abcdeg", "tok_short"}},
		{apikeysimport.SHA256Base64("b64_", 20), "b64_0123456789abcdef", b64("b64_0123456789abcdef"), []string{"b64_0123456789abcdeg"}},
		{apikeysimport.Unkey("acme_"), "acme_3ZxYq7WvUtSrQpNmLkJh", b64("acme_3ZxYq7WvUtSrQpNmLkJh"), []string{"acme_3ZxYq7WvUtSrQpNmLkJi", "acme_live_"}},
		{apikeysimport.Sanctum(), "17|" + alnum40, hex256(alnum40), []string{"x|" + alnum40, "|" + alnum40, "17|" + alnum40 + "E"}},
		{apikeysimport.DRF(), "abcdefgh." + alnum40[:32], "sha512$$" + hex512("abcdefgh."+alnum40[:32]), []string{"abcdefgh." + alnum40[:31], "abcdefgi." + alnum40[:32]}},
		{apikeysimport.Knox(""), hex64, hex512(hex64), []string{strings.ToUpper(hex64), hex64[:63] + "0"}},
		{apikeysimport.BetterAuth("ba_"), "ba_" + letters64, b64url("ba_" + letters64), []string{"ba_" + letters64[:63] + "z"}},
		{apikeysimport.PrefixedAPIKey("my_company"), "my_company_BRTRKFsL_51FwqftsmMDHHbJAMEXXHCgG", hex256("51FwqftsmMDHHbJAMEXXHCgG"), []string{"my_company_BRTRKFsL_51FwqftsmMDHHbJAMEXXHCgH"}},
		{apikeysimport.Bcrypt(10, 24), "pk12345678-secret-secret", "pk12345678:" + string(hashed), []string{"pk12345678-secret-secreT", "pk12345679-secret-secret"}},
	}
	for _, peppers := range [][]apikeys.Pepper{nil, {{ID: 1, Secret: []byte(strings.Repeat("p", 32))}}} {
		var schemes []apikeys.Scheme
		for _, c := range cases {
			schemes = append(schemes, c.scheme)
		}
		store := apikeysmem.New()
		s, err := apikeys.New(store, apikeys.Config{Prefix: "acme", Peppers: peppers, Schemes: schemes, MaxKeys: -1})
		require.NoError(t, err)
		var in []apikeys.ImportedKey
		for _, c := range cases {
			in = append(in, apikeys.ImportedKey{
				Scheme: c.scheme.Name, Stored: c.stored, Hint: "…", Name: c.scheme.Name, Owner: apikeys.Account("acct_1"), Scopes: []string{"read"},
				CreatedAt: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
			})
		}
		keys, err := s.Import(ctx, apikeys.Operator("move"), in)
		require.NoError(t, err)
		for i, c := range cases {
			t.Run(c.scheme.Name, func(t *testing.T) {
				stored := func() apikeys.Record {
					var out apikeys.Record
					require.NoError(t, store.Change(ctx, apikeys.Selection{IDs: []string{keys[i].ID}}, func(r []apikeys.Record) (apikeys.Delta, error) {
						out = r[0]
						return apikeys.Delta{}, nil
					}))
					return out
				}
				require.Equal(t, c.scheme.Name, stored().Scheme)
				hash := stored().Hash
				for _, wrong := range append(c.wrong, c.stored, strings.TrimPrefix(c.stored, "sha512$$"), string(hash[:]), hex.EncodeToString(hash[:])) {
					d, err := s.Verify(ctx, wrong, apikeys.Client{})
					require.NoError(t, err)
					require.False(t, d.Allowed(), "%s takes %q", c.scheme.Name, wrong)
				}
				for range 2 {
					d, err := s.Verify(ctx, c.token, apikeys.Client{})
					require.NoError(t, err)
					require.Equal(t, apikeys.ReasonNone, d.Reason)
					require.Equal(t, keys[i].ID, d.KeyID)
				}
				require.Empty(t, stored().Scheme, "upgraded with its first use")
				require.Nil(t, stored().Verifier)
				fresh, err := apikeys.New(store, apikeys.Config{Prefix: "acme", Peppers: peppers, Schemes: schemes})
				require.NoError(t, err)
				d, err := fresh.Verify(ctx, c.token, apikeys.Client{})
				require.NoError(t, err)
				require.True(t, d.Allowed(), "another process knows the upgraded key")
			})
		}
		_, err = s.Import(ctx, apikeys.Operator("move"), in[:1])
		require.NoError(t, err, "the upgraded key's old hash is free")
		require.NoError(t, s.Revoke(ctx, apikeys.Operator("op"), keys[0].ID, ""))
		d, err := s.Verify(ctx, cases[0].token, apikeys.Client{})
		require.NoError(t, err)
		require.Equal(t, apikeys.ReasonRevoked, d.Reason, "importing it again brings no revoked key back")
		_, err = s.Import(ctx, apikeys.Operator("move"), in[:1])
		require.ErrorIs(t, err, apikeys.ErrDuplicate)
	}
}

func TestImportRefuses(t *testing.T) {
	ctx := context.Background()
	s, err := apikeys.New(apikeysmem.New(), apikeys.Config{Prefix: "acme", Schemes: []apikeys.Scheme{
		apikeysimport.Sanctum(), apikeysimport.DRF(), apikeysimport.Bcrypt(8, 40), apikeysimport.Unkey("u_"),
	}})
	require.NoError(t, err)
	good := apikeys.ImportedKey{Scheme: "sanctum", Stored: hex256(alnum40), Name: "n", Owner: apikeys.Account("a")}
	for name, change := range map[string]func(*apikeys.ImportedKey){
		"scheme":        func(k *apikeys.ImportedKey) { k.Scheme = "other" },
		"plain token":   func(k *apikeys.ImportedKey) { k.Stored = alnum40 },
		"short hash":    func(k *apikeys.ImportedKey) { k.Stored = k.Stored[:62] },
		"drf":           func(k *apikeys.ImportedKey) { k.Scheme = "drf" },
		"bcrypt":        func(k *apikeys.ImportedKey) { k.Scheme, k.Stored = "bcrypt", "abcdefgh:nothash" },
		"bcrypt public": func(k *apikeys.ImportedKey) { k.Scheme, k.Stored = "bcrypt", "abc" },
		"unkey":         func(k *apikeys.ImportedKey) { k.Scheme, k.Stored = "unkey:u_", "%%" },
		"long hint":     func(k *apikeys.ImportedKey) { k.Hint = alnum40 + "x" },
		"no name":       func(k *apikeys.ImportedKey) { k.Name = "" },
		"no owner":      func(k *apikeys.ImportedKey) { k.Owner.ID = "" },
	} {
		in := good
		change(&in)
		_, err := s.Import(ctx, apikeys.Operator("move"), []apikeys.ImportedKey{good, in})
		require.ErrorIs(t, err, apikeys.ErrInvalid, name)
		require.NotContains(t, err.Error(), alnum40, name)
	}
	_, err = s.Import(ctx, apikeys.Holder("a", apikeys.Account("a")), []apikeys.ImportedKey{good})
	require.ErrorIs(t, err, apikeys.ErrInvalid)
	_, err = s.Import(ctx, apikeys.Operator("move"), make([]apikeys.ImportedKey, 1001))
	require.ErrorIs(t, err, apikeys.ErrInvalid)
	_, err = s.Import(ctx, apikeys.Operator("move"), []apikeys.ImportedKey{good})
	require.NoError(t, err, "nothing of the refused ones was kept")
}

func FuzzLookup(f *testing.F) {
	schemes := []apikeys.Scheme{
		apikeysimport.SHA256Hex("t_", 20), apikeysimport.Unkey(""), apikeysimport.Sanctum(), apikeysimport.DRF(),
		apikeysimport.Knox(""), apikeysimport.BetterAuth(""), apikeysimport.PrefixedAPIKey("p"), apikeysimport.Bcrypt(8, 40),
	}
	f.Add("1|" + alnum40)
	f.Add("abcdefgh." + alnum40[:32])
	f.Add("p_abcd_" + alnum40)
	f.Fuzz(func(t *testing.T, token string) {
		for _, s := range schemes {
			lookup, ok := s.Lookup(token)
			if ok != (lookup != nil) {
				t.Fatal(s.Name, "says yes without a lookup, or no with one")
			}
			if lookup, _, err := s.Parse(token); (err == nil) != (lookup != nil) {
				t.Fatal(s.Name, "parses into nothing, or fails with something")
			}
		}
	})
}
