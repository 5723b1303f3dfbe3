package apikeyspg

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/internal/pgtest"
)

// TestRowsReadTheSameOffTheWireAndByPgx compares both ways to read a record
// with all and with nothing in it, and the way that another protocol leaves.
func TestRowsReadTheSameOffTheWireAndByPgx(t *testing.T) {
	ctx, pool := context.Background(), pgtest.Pool(t)
	require.NoError(t, Migrate(ctx, pool))
	store := New(pool)
	at := func(n int) time.Time { return time.Date(1999+n, 1, 2, 3, 4, 5, 678_901_000, time.UTC) }
	full := apikeys.Record{
		Key: apikeys.Key{
			ID: "key_1", Lineage: "key_0", Predecessor: "key_p", Successor: "key_s",
			Owner: apikeys.Organisation("ö"), Name: "näme", Environment: "live", Hint: "acme_live_4fGh…x9Kq",
			Scopes: []string{"read", "a,b:\"write\"", ""}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
			Metadata: map[string]string{"a": "b", "ü": `"{}"`}, CreatedAt: at(0), CreatedBy: "maker", ActivatedAt: at(1),
			ExpiresAt: at(2), DisabledAt: at(3), RevokedAt: at(4), RevokedFor: "why", ReplacedAt: at(5),
			Overlap: 90 * time.Minute, SunsetAt: at(6),
		},
		Hash: apikeys.Hash{1, 2, 3}, Pepper: 32767, Tag: 2, Scheme: "bcrypt", Verifier: []byte{0, 255},
	}
	empty := apikeys.Record{Key: apikeys.Key{ID: "key_2", Lineage: "key_2", Owner: apikeys.Account("a"), CreatedAt: at(7)}, Hash: apikeys.Hash{9}}
	require.NoError(t, store.Change(ctx, apikeys.Selection{}, func([]apikeys.Record) (apikeys.Delta, error) {
		return apikeys.Delta{Put: []apikeys.Record{full, empty}}, nil
	}))
	full.LastUsed = apikeys.Use{Key: "key_1", At: at(8), Addr: netip.MustParseAddr("192.0.2.1"), Agent: "curl"}
	require.NoError(t, store.RecordUses(ctx, []apikeys.Use{full.LastUsed}))

	for _, before := range []string{"-infinity", "infinity", "2020-01-01"} {
		_, err := pool.Exec(ctx, "update apikeys_epoch set revoked_before = $1", before)
		require.NoError(t, err)
		rows, err := pool.Query(ctx, `select`+columns+` order by k.id`)
		require.NoError(t, err)
		var got []apikeys.Record
		for rows.Next() {
			var wired, scanned row
			require.True(t, wired.read(wire{values: rows.RawValues(), fields: rows.FieldDescriptions(), ok: true}), "the wire is as expected")
			require.NoError(t, scanned.scan(rows))
			require.NoError(t, wired.finish())
			require.NoError(t, scanned.finish())
			require.Equal(t, scanned.Record, wired.Record)
			got = append(got, wired.Record)
		}
		require.NoError(t, rows.Err())
		want := empty
		if before == "2020-01-01" {
			want.RevokedAt, want.RevokedFor = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), apikeys.RevokedForAll
		}
		require.Equal(t, []apikeys.Record{full, want}, got)

		plain, err := scanRecord(pool.QueryRow(ctx, `select`+columns+` where k.id = 'key_1'`, pgx.QueryExecModeSimpleProtocol))
		require.NoError(t, err)
		require.Equal(t, full, plain, "all values come as text")
	}
	_, err := scanRecord(pool.QueryRow(ctx, `select`+columns+` where k.id = 'none'`))
	require.ErrorIs(t, err, pgx.ErrNoRows)
	_, err = pool.Exec(ctx, `update apikeys_keys set networks = '{"everywhere"}'`)
	require.NoError(t, err)
	_, err = store.Find(ctx, []apikeys.Hash{full.Hash})
	require.ErrorContains(t, err, "network that can't be read")
}

// FuzzTexts: whatever comes as an array is read as pgx reads it, or left to it.
func FuzzTexts(f *testing.F) {
	m := pgtype.NewMap()
	for _, list := range [][]string{nil, {}, {""}, {"a", "bc", "ö"}} {
		b, err := m.Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, append([]string{}, list...), nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(binary.BigEndian.AppendUint32(nil, 1))
	fields := []pgconn.FieldDescription{{DataTypeOID: pgtype.TextArrayOID, Format: pgtype.BinaryFormatCode}}
	f.Fuzz(func(t *testing.T, b []byte) {
		w := wire{values: [][]byte{b}, fields: fields, ok: true}
		got := w.texts()
		if !w.ok {
			return
		}
		var want []string
		if err := m.Scan(pgtype.TextArrayOID, pgtype.BinaryFormatCode, b, &want); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}
