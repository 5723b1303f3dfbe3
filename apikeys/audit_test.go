package apikeys_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
)

// tampered is a store whose log somebody has altered.
type tampered struct {
	apikeys.Store
	alter func([]apikeys.Entry) []apikeys.Entry
}

func (s *tampered) Log(ctx context.Context, q apikeys.LogQuery) ([]apikeys.Entry, error) {
	var all []apikeys.Entry
	for after := int64(0); ; {
		page, err := s.Store.Log(ctx, apikeys.LogQuery{After: after, Limit: 1000})
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < 1000 {
			break
		}
		after = page[len(page)-1].Seq
	}
	var out []apikeys.Entry
	for _, e := range s.alter(all) {
		if e.Seq > q.After && len(out) < apikeys.PageSize(q.Limit) {
			out = append(out, e)
		}
	}
	return out, nil
}

func TestVerifyAuditNamesTheFirstAlteredEntry(t *testing.T) {
	store := mem()
	s := newService(t, store)
	for range 10 {
		issue(t, s, apikeys.NewKey{})
	}
	for name, tc := range map[string]struct {
		alter func([]apikeys.Entry) []apikeys.Entry
		seq   int64
	}{
		"actor":  {func(l []apikeys.Entry) []apikeys.Entry { l[3].Actor = "somebody"; return l }, 4},
		"owner":  {func(l []apikeys.Entry) []apikeys.Entry { l[3].Owner.ID = "acct_2"; return l }, 4},
		"detail": {func(l []apikeys.Entry) []apikeys.Entry { l[3].Detail["name"] = "x"; return l }, 4},
		"action": {func(l []apikeys.Entry) []apikeys.Entry { l[3].Action = "viewed"; return l }, 4},
		"key":    {func(l []apikeys.Entry) []apikeys.Entry { l[3].Key = "key_other"; return l }, 4},
		"time":   {func(l []apikeys.Entry) []apikeys.Entry { l[3].At = l[3].At.Add(1e9); return l }, 4},
		"digest": {func(l []apikeys.Entry) []apikeys.Entry { l[3].Digest = make([]byte, 32); return l }, 4},
		"hash":   {func(l []apikeys.Entry) []apikeys.Entry { l[3].Hash = make([]byte, 32); return l }, 4},
		"salt gone, owner there": {func(l []apikeys.Entry) []apikeys.Entry {
			l[3].Salt = nil
			return l
		}, 4},
		"removed": {func(l []apikeys.Entry) []apikeys.Entry { return slices.Delete(l, 3, 4) }, 4},
		"swapped": {func(l []apikeys.Entry) []apikeys.Entry { l[3], l[4] = l[4], l[3]; return l }, 4},
		"cut off": {func(l []apikeys.Entry) []apikeys.Entry { return l[:7] }, 8},
		"resealed": {func(l []apikeys.Entry) []apikeys.Entry {
			l[3].Actor = "somebody"
			head := apikeys.Head{Seq: l[2].Seq, Hash: l[2].Hash}
			for i := 3; i < len(l); i++ {
				l[i], head = head.Seal(l[i])
			}
			return l
		}, 10},
		"all removed": {func([]apikeys.Entry) []apikeys.Entry { return nil }, 1},
	} {
		bad := newService(t, &tampered{store, tc.alter})
		_, err := bad.VerifyAudit(ctx, apikeys.Head{})
		require.ErrorIs(t, err, apikeys.ErrAltered, name)
		var audit *apikeys.AuditError
		require.ErrorAs(t, err, &audit)
		require.Equal(t, tc.seq, audit.Seq, "%s: %v", name, err)
	}
	head, err := s.VerifyAudit(ctx, apikeys.Head{})
	require.NoError(t, err)
	require.EqualValues(t, 10, head.Seq)
}

// TestKeptHeadShowsARewrittenLog: whoever can write everything can make a
// chain that holds, but not one that holds what was kept elsewhere.
func TestKeptHeadShowsARewrittenLog(t *testing.T) {
	s := newService(t, mem())
	for range 5 {
		issue(t, s, apikeys.NewKey{})
	}
	kept, err := s.VerifyAudit(ctx, apikeys.Head{})
	require.NoError(t, err)
	issue(t, s, apikeys.NewKey{})
	_, err = s.VerifyAudit(ctx, kept)
	require.NoError(t, err)

	other := newService(t, mem())
	for range 6 {
		issue(t, other, apikeys.NewKey{})
	}
	_, err = other.VerifyAudit(ctx, apikeys.Head{})
	require.NoError(t, err, "it holds in itself")
	_, err = other.VerifyAudit(ctx, kept)
	require.ErrorIs(t, err, apikeys.ErrAltered)
	short := newService(t, mem())
	issue(t, short, apikeys.NewKey{})
	_, err = short.VerifyAudit(ctx, kept)
	require.ErrorIs(t, err, apikeys.ErrAltered)
	require.ErrorContains(t, err, fmt.Sprint("entry ", 2))
}

func TestSubjectIsExportedAndErased(t *testing.T) {
	store := mem()
	s := newService(t, store)
	token, k := issue(t, s, apikeys.NewKey{Name: "Zoë's", Scopes: []string{"read"}, Metadata: map[string]string{"a": "b"}})
	_, err := s.Verify(ctx, token, apikeys.Client{Agent: "curl"})
	require.NoError(t, err)
	require.NoError(t, s.FlushUses(ctx))
	for range 520 { // more than one batch
		issue(t, s, apikeys.NewKey{})
	}
	require.NoError(t, s.Revoke(ctx, person, k.ID, "her reason"))
	other, otherKey := issue(t, s, apikeys.NewKey{Owner: apikeys.Account("acct_2")})
	org := apikeys.Holder("acct_1", apikeys.Organisation("org_1"))
	_, made, err := s.Issue(ctx, org, apikeys.NewKey{Name: "org"})
	require.NoError(t, err)

	collect := func(account string) map[string][]map[string]any {
		out := map[string][]map[string]any{}
		require.NoError(t, s.ExportSubject(ctx, account, func(record string, fields map[string]any) error {
			out[record] = append(out[record], fields)
			return nil
		}))
		return out
	}
	got := collect("acct_1")
	require.Len(t, got["api_key"], 521)
	var first map[string]any
	for _, f := range got["api_key"] {
		if f["id"] == k.ID {
			first = f
		}
	}
	require.Equal(t, "Zoë's", first["name"])
	require.Equal(t, "curl", first["last_used_agent"])
	require.NotContains(t, fmt.Sprint(got), token)
	require.Len(t, got["api_key_event"], 523)

	counts, err := s.EraseSubject(ctx, "acct_1")
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"api_key": 521, "api_key_event": 523}, counts)
	require.Empty(t, collect("acct_1"))
	require.Equal(t, apikeys.ReasonUnknown, verify(t, s, token).Reason)
	require.True(t, verify(t, s, other).Allowed())
	orgKey, err := s.Key(ctx, op, made.ID)
	require.NoError(t, err)
	require.Empty(t, orgKey.CreatedBy)
	_, err = s.Key(ctx, op, otherKey.ID)
	require.NoError(t, err)
	counts, err = s.EraseSubject(ctx, "acct_1")
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"api_key": 0, "api_key_event": 0}, counts, "again finds nothing")
	head, err := s.VerifyAudit(ctx, apikeys.Head{})
	require.NoError(t, err, "the chain holds without the person")
	all, err := store.Log(ctx, apikeys.LogQuery{Limit: 1000})
	require.NoError(t, err)
	for _, e := range all {
		require.NotContains(t, fmt.Sprint(e.Owner, e.Actor, e.Detail), "acct_1")
		require.NotContains(t, fmt.Sprint(e.Detail), "her reason")
	}
	require.NotZero(t, head.Seq)
	_, err = s.EraseSubject(ctx, "")
	require.ErrorIs(t, err, apikeys.ErrInvalid)
	require.ErrorIs(t, s.ExportSubject(ctx, "", nil), apikeys.ErrInvalid)
}
