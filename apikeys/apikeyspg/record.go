package apikeyspg

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/kolekt/commerce/apikeys"
)

// scanner is what pgx.Row and pgx.CollectableRow have in common.
type scanner interface{ Scan(dest ...any) error }

func scanRecord(from scanner) (apikeys.Record, error) {
	var r row
	err := from.Scan(&r)
	return r.Record, err
}

// row reads columns. As a pgx.RowScanner it takes them off the wire itself,
// because a plan for each of 31 targets is the larger part of what a look-up
// costs on this side of the connection.
type row struct {
	apikeys.Record
	networks                                              []string
	created, activated, expires, disabled, revoked, epoch pgtype.Timestamptz
	replaced, sunset, used                                pgtype.Timestamptz
	overlap                                               int64
	addr                                                  string
	hash, metadata                                        []byte // on the wire: not to be kept
}

// ScanRow implements pgx.RowScanner.
func (r *row) ScanRow(rows pgx.Rows) error {
	if !r.read(wire{values: rows.RawValues(), fields: rows.FieldDescriptions(), ok: true}) {
		// Another protocol or type than expected, which pgx may know.
		*r = row{}
		if err := r.scan(rows); err != nil {
			return err
		}
	}
	return r.finish()
}

func (r *row) scan(rows pgx.Rows) error {
	return rows.Scan(
		&r.ID, &r.Lineage, &r.Predecessor, &r.Successor,
		&r.Owner.Kind, &r.Owner.ID, &r.Name, &r.Environment, &r.Hint, &r.Scopes, &r.networks, &r.metadata,
		&r.created, &r.CreatedBy, &r.activated, &r.expires, &r.disabled, &r.revoked, &r.RevokedFor,
		&r.replaced, &r.overlap, &r.sunset, &r.used, &r.addr, &r.LastUsed.Agent,
		&r.hash, &r.Pepper, &r.Tag, &r.Scheme, &r.Verifier, &r.epoch,
	)
}

// read does what scan does, in the order of columns.
func (r *row) read(w wire) bool {
	r.ID, r.Lineage, r.Predecessor, r.Successor = w.text(), w.text(), w.text(), w.text()
	r.Owner.Kind, r.Owner.ID, r.Name, r.Environment, r.Hint = w.text(), w.text(), w.text(), w.text(), w.text()
	r.Scopes, r.networks, r.metadata = w.texts(), w.texts(), w.next(pgtype.JSONBOID, pgtype.TextFormatCode)
	r.created, r.CreatedBy = w.instant(), w.text()
	r.activated, r.expires, r.disabled, r.revoked, r.RevokedFor = w.instant(), w.instant(), w.instant(), w.instant(), w.text()
	r.replaced, r.overlap, r.sunset = w.instant(), int64(w.number(pgtype.Int8OID, 8)), w.instant()
	r.used, r.addr, r.LastUsed.Agent = w.instant(), w.text(), w.text()
	r.hash = w.next(pgtype.ByteaOID, pgtype.BinaryFormatCode)
	r.Pepper, r.Tag = int16(w.number(pgtype.Int2OID, 2)), int16(w.number(pgtype.Int2OID, 2))
	r.Scheme, r.Verifier, r.epoch = w.text(), bytes.Clone(w.next(pgtype.ByteaOID, pgtype.BinaryFormatCode)), w.instant()
	return w.ok && w.at == len(w.values)
}

// finish makes the record of what was read.
func (r *row) finish() error {
	if len(r.hash) != apikeys.HashLen {
		return fmt.Errorf("hash of key %s has %d bytes", r.ID, len(r.hash))
	}
	copy(r.Hash[:], r.hash)
	if len(r.Scopes) == 0 {
		r.Scopes = nil
	}
	for _, n := range r.networks {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			// Leaving it out would open the key to everybody.
			return fmt.Errorf("key %s lists a network that can't be read: %w", r.ID, err)
		}
		r.Networks = append(r.Networks, p)
	}
	if !bytes.Equal(r.metadata, []byte("{}")) {
		if err := json.Unmarshal(r.metadata, &r.Metadata); err != nil {
			return fmt.Errorf("metadata of key %s: %w", r.ID, err)
		}
	}
	if r.addr != "" {
		var err error
		if r.LastUsed.Addr, err = netip.ParseAddr(r.addr); err != nil {
			return fmt.Errorf("last address of key %s: %w", r.ID, err)
		}
	}
	r.CreatedAt, r.ActivatedAt, r.ExpiresAt, r.DisabledAt = utc(r.created), utc(r.activated), utc(r.expires), utc(r.disabled)
	r.RevokedAt, r.ReplacedAt, r.SunsetAt = utc(r.revoked), utc(r.replaced), utc(r.sunset)
	r.Overlap = time.Duration(r.overlap) * time.Microsecond
	if r.LastUsed.At = utc(r.used); r.used.Valid {
		r.LastUsed.Key = r.ID
	}
	if !r.revoked.Valid && r.epoch.InfinityModifier == pgtype.Finite && r.CreatedAt.Before(r.epoch.Time) {
		r.RevokedAt, r.RevokedFor = utc(r.epoch), apikeys.RevokedForAll
	}
	return nil
}

// utc returns the zero time for null.
func utc(t pgtype.Timestamptz) time.Time {
	if !t.Valid {
		return time.Time{}
	}
	return t.Time.UTC()
}

// wire takes values one after the other. Once one isn't as expected, ok is
// false for good.
type wire struct {
	values [][]byte
	fields []pgconn.FieldDescription
	at     int
	ok     bool
}

// next returns a value of this type and format, or nil for null.
func (w *wire) next(oid uint32, format int16) []byte {
	if w.at >= len(w.values) || w.at >= len(w.fields) {
		w.ok = false
		return nil
	}
	f, v := &w.fields[w.at], w.values[w.at]
	w.at++
	if f.DataTypeOID != oid || f.Format != format {
		w.ok = false
		return nil
	}
	return v
}

func (w *wire) text() string {
	v := w.next(pgtype.TextOID, pgtype.TextFormatCode)
	w.ok = w.ok && v != nil
	return string(v)
}

// number reads a whole number of 2 or 8 bytes.
func (w *wire) number(oid uint32, size int) uint64 {
	v := w.next(oid, pgtype.BinaryFormatCode)
	switch {
	case len(v) != size:
		w.ok = false
	case size == 2:
		return uint64(binary.BigEndian.Uint16(v))
	case size == 8:
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// instant reads microseconds since 2000.
func (w *wire) instant() pgtype.Timestamptz {
	v := w.next(pgtype.TimestamptzOID, pgtype.BinaryFormatCode)
	switch {
	case v == nil:
		return pgtype.Timestamptz{}
	case len(v) != 8:
		w.ok = false
		return pgtype.Timestamptz{}
	}
	const epoch = 946_684_800_000_000 // 2000-01-01, in microseconds since 1970
	switch us := int64(binary.BigEndian.Uint64(v)); us {
	case math.MaxInt64:
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	case math.MinInt64:
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	default:
		return pgtype.Timestamptz{Time: time.UnixMicro(us + epoch), Valid: true}
	}
}

// texts reads an array of one dimension without nulls: number of dimensions,
// whether there are nulls, type, length, lower bound, and each element after
// its length.
func (w *wire) texts() []string {
	v := w.next(pgtype.TextArrayOID, pgtype.BinaryFormatCode)
	if len(v) == 12 && binary.BigEndian.Uint32(v) == 0 {
		return nil
	}
	if len(v) < 20 || binary.BigEndian.Uint32(v) != 1 || binary.BigEndian.Uint32(v[8:]) != pgtype.TextOID {
		w.ok = false
		return nil
	}
	n := binary.BigEndian.Uint32(v[12:])
	v = v[20:]
	if uint64(n)*4 > uint64(len(v)) {
		w.ok = false
		return nil
	}
	out := make([]string, 0, n)
	for range n {
		if len(v) < 4 {
			w.ok = false
			return nil
		}
		size := binary.BigEndian.Uint32(v)
		v = v[4:]
		if uint64(size) > uint64(len(v)) { // null is the greatest number
			w.ok = false
			return nil
		}
		out = append(out, string(v[:size]))
		v = v[size:]
	}
	w.ok = w.ok && len(v) == 0
	return out
}
