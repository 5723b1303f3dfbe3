package usagepg

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// columnOf is an array that statements take as a parameter. pgx's own way of
// sending a slice makes an interface value, which for most types is an
// allocation, of each element; here it points into the slice.
type columnOf[T any, P interface {
	*T
	literal(buf []byte) []byte
}] []T

// The columns of batches. pgx knows the elements by its valuer interfaces.
type (
	texts     = columnOf[text, *text]
	optionals = columnOf[optional, *optional]
	numbers   = columnOf[number, *number]
	moments   = columnOf[moment, *moment]
	uuids     = columnOf[uuid, *uuid]
)

type (
	text     string
	optional struct{ text *string }
	number   int64
	moment   int64 // Unix microseconds
	uuid     [16]byte
)

// Dimensions implements pgtype.ArrayGetter.
func (c columnOf[T, P]) Dimensions() []pgtype.ArrayDimension {
	return []pgtype.ArrayDimension{{Length: int32(len(c)), LowerBound: 1}}
}

// Index implements pgtype.ArrayGetter.
func (c columnOf[T, P]) Index(i int) any { return P(&c[i]) }

// IndexType implements pgtype.ArrayGetter.
func (c columnOf[T, P]) IndexType() any { return P(nil) }

// TextValue spells the whole array, for connections that send parameters
// without knowing their types.
func (c columnOf[T, P]) TextValue() (pgtype.Text, error) {
	buf := []byte{'{'}
	for i := range c {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = P(&c[i]).literal(buf)
	}
	return pgtype.Text{String: string(append(buf, '}')), Valid: true}, nil
}

// TextValue implements pgtype.TextValuer.
func (t *text) TextValue() (pgtype.Text, error) {
	return pgtype.Text{String: string(*t), Valid: true}, nil
}

func (t *text) literal(buf []byte) []byte { return appendLiteral(buf, string(*t)) }

// TextValue implements pgtype.TextValuer.
func (o *optional) TextValue() (pgtype.Text, error) {
	if o.text == nil {
		return pgtype.Text{}, nil
	}
	return pgtype.Text{String: *o.text, Valid: true}, nil
}

func (o *optional) literal(buf []byte) []byte {
	if o.text == nil {
		return append(buf, "NULL"...)
	}
	return appendLiteral(buf, *o.text)
}

// Int64Value implements pgtype.Int64Valuer.
func (n *number) Int64Value() (pgtype.Int8, error) {
	return pgtype.Int8{Int64: int64(*n), Valid: true}, nil
}

func (n *number) literal(buf []byte) []byte { return strconv.AppendInt(buf, int64(*n), 10) }

// TimestamptzValue implements pgtype.TimestamptzValuer.
func (i *moment) TimestamptzValue() (pgtype.Timestamptz, error) {
	return pgtype.Timestamptz{Time: i.time(), Valid: true}, nil
}

func (i *moment) literal(buf []byte) []byte {
	return appendLiteral(buf, i.time().Format("2006-01-02 15:04:05.999999Z07:00"))
}

func (i *moment) time() time.Time { return time.UnixMicro(int64(*i)).UTC() }

// UUIDValue implements pgtype.UUIDValuer.
func (u *uuid) UUIDValue() (pgtype.UUID, error) { return pgtype.UUID{Bytes: *u, Valid: true}, nil }

func (u *uuid) literal(buf []byte) []byte { return hex.AppendEncode(buf, u[:]) }

// appendLiteral appends an element of an array's text.
func appendLiteral(buf []byte, s string) []byte {
	buf = append(buf, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			buf = append(buf, '\\')
		}
		buf = append(buf, s[i])
	}
	return append(buf, '"')
}
