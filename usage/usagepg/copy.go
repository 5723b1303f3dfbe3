package usagepg

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/usage"
)

// copyFrom is from how many events on COPY is taken instead of an INSERT: it
// needs a round trip more, and writes pages instead of rows.
const copyFrom = 200

// The begin rides along; see work.send.
const copyEvents = `
begin; set local enable_seqscan = off;
copy usage_events (ts, value, key, flags, account, meter, id, props) from stdin (format binary)`

// copyEvents stores events that are believed to be new: one that isn't ends the
// transaction with a unique violation. It begins the transaction.
func (w *work) copyEvents(ctx context.Context, conn *pgconn.PgConn, entries []usage.Entry, order []int) error {
	w.begin = false
	_, err := conn.CopyFrom(ctx, bytes.NewReader(copyData(entries, order)), copyEvents)
	return err
}

// Offsets and sizes of COPY's binary format.
const (
	copyHead     = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	copyFields   = 8
	epochSeconds = 946684800 // 2000-01-01
)

func copyData(entries []usage.Entry, order []int) []byte {
	big := binary.BigEndian
	buf := append(make([]byte, 0, 192*len(order)), copyHead...)
	for _, i := range order {
		e := &entries[i]
		buf = big.AppendUint16(buf, copyFields)
		buf = big.AppendUint64(big.AppendUint32(buf, 8), uint64(e.Time.UnixMicro()-epochSeconds*1e6))
		buf = big.AppendUint64(big.AppendUint32(buf, 8), uint64(e.Value))
		buf = append(big.AppendUint32(buf, 8), e.Key[8:]...)
		var flags uint16
		if !e.Charge.Period.IsZero() {
			flags = 1
		}
		buf = big.AppendUint16(big.AppendUint32(buf, 2), flags)
		buf = append(big.AppendUint32(buf, uint32(len(e.Account))), e.Account...)
		buf = append(big.AppendUint32(buf, uint32(len(e.Meter))), e.Meter...)
		if e.Own {
			buf = big.AppendUint32(buf, null)
		} else {
			buf = append(big.AppendUint32(buf, uint32(len(e.ID))), e.ID...)
		}
		if len(e.Properties) == 0 {
			buf = big.AppendUint32(buf, null)
			continue
		}
		start := len(buf)
		buf = e.Properties.AppendJSON(append(buf, 0, 0, 0, 0, 1)) // 1 is the version of jsonb
		big.PutUint32(buf[start:], uint32(len(buf)-start-4))
	}
	return big.AppendUint16(buf, 1<<16-1)
}

const null = 1<<32 - 1 // the length of what isn't there
