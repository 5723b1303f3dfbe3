package usagepg

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/kolekt/commerce/usage"
)

// packed is an event of a block. Account and meter are the block's.
type packed struct {
	at      time.Time
	key     int64 // as in usage_events
	value   int64
	charged bool
	id      string // the caller's; empty for our own
	props   string // as JSON; empty for none
}

func (p *packed) properties() (props usage.Properties, err error) {
	if p.props != "" {
		err = json.Unmarshal([]byte(p.props), &props)
	}
	return props, err
}

// entry returns the event as usage.Entry.
func (p *packed) entry(account, meter string) (usage.Entry, error) {
	e := usage.Entry{Event: usage.Event{ID: p.id, Account: account, Meter: meter, Value: p.value, Time: p.at}, Own: p.id == ""}
	identify(&e, p.key)
	var err error
	e.Properties, err = p.properties()
	return e, err
}

// identify fills in the key, and the ID that is made of it, from the part that
// is stored.
func identify(e *usage.Entry, short int64) {
	if e.Own {
		e.Key = usage.KeyAt(e.Time, uint64(short))
		e.ID = usage.IDOf(e.Key)
		return
	}
	e.Key = usage.KeyOf(e.Meter, e.ID)
}

const (
	// maxBlock bounds the events of a block, and with it what has to be read
	// and written again for a late one.
	maxBlock = 2048
	// maxUnpacked bounds what a block may become in memory, before the events
	// are made of it, and so what a damaged one costs. blocksOf ends a block
	// before it is larger. The largest event, of 32 properties with texts of
	// 1,024 bytes that JSON writes as six each, takes a fifth of it; 2,048
	// usual ones, with an ID and half a dozen properties, take less than half.
	maxUnpacked = 1 << 20
)

// most is how many bytes an event takes in a block at most: the numbers, the
// lengths of its texts, and these.
func (p *packed) most() int {
	return 8 + 4*binary.MaxVarintLen64 + 1 + 2*binary.MaxVarintLen32 + len(p.id) + len(p.props)
}

// blocksOf divides events into those of one block each.
func blocksOf(events []packed) iter.Seq[[]packed] {
	return func(yield func([]packed) bool) {
		for len(events) > 0 {
			n, size := 0, 4*binary.MaxVarintLen64
			for n < min(len(events), maxBlock) {
				if size += events[n].most(); size > maxUnpacked && n > 0 {
					break
				}
				n++
			}
			if !yield(events[:n]) {
				return
			}
			events = events[n:]
		}
	}
}

// A block is one byte, 0 for plain or 1 for DEFLATE, and columns, each for all
// its events in order:
//
//   - their number
//   - the unit of time in microseconds; the time since the event before, in
//     units, the first one's since the block's own
//   - keys, 8 bytes each
//   - values, zigzag
//   - 0 or 1: whether all are charged, or 2 and a byte for each
//   - 0, or 1 and the IDs
//   - the number of different properties, these, and where there are any, for
//     each event the index of its own: 0 for none
//
// Numbers are uvarints, texts have their length before them, keys are
// big-endian.
func (z *blockEncoder) encode(events []packed) ([]byte, error) {
	if len(events) == 0 || len(events) > maxBlock {
		return nil, fmt.Errorf("usagepg: a block of %d events", len(events))
	}
	buf := binary.AppendUvarint(nil, uint64(len(events)))
	unit := unitOf(events)
	buf = binary.AppendUvarint(buf, uint64(unit))
	before := events[0].at.UnixMicro()
	for _, e := range events {
		at := e.at.UnixMicro()
		if at < before {
			return nil, errors.New("usagepg: the events of a block must ascend")
		}
		buf = binary.AppendUvarint(buf, uint64((at-before)/unit))
		before = at
	}
	for _, e := range events {
		buf = binary.BigEndian.AppendUint64(buf, uint64(e.key))
	}
	charged, ids := 0, false
	for _, e := range events {
		buf = binary.AppendVarint(buf, e.value)
		if e.charged {
			charged++
		}
		ids = ids || e.id != ""
	}
	switch charged {
	case 0:
		buf = append(buf, 0)
	case len(events):
		buf = append(buf, 1)
	default:
		buf = append(buf, 2)
		for _, e := range events {
			buf = append(buf, flag(e.charged))
		}
	}
	buf = append(buf, flag(ids))
	if ids {
		for _, e := range events {
			buf = appendText(buf, e.id)
		}
	}
	buf = appendDictionary(buf, events)
	if len(buf) > maxUnpacked {
		return nil, fmt.Errorf("usagepg: a block of %d bytes", len(buf))
	}
	if !ids && len(buf) < 4*minDeflated && !withProperties(events) {
		// Random keys and scattered times hardly get any shorter.
		return append([]byte{0}, buf...), nil
	}
	return z.deflated(buf)
}

func withProperties(events []packed) bool {
	return slices.ContainsFunc(events, func(e packed) bool { return e.props != "" })
}

func flag(is bool) byte {
	if is {
		return 1
	}
	return 0
}

func appendText(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// unitOf returns the longest unit, of those in which clocks tick, that all
// distances between events are multiples of.
func unitOf(events []packed) int64 {
	unit := int64(1_000_000)
	first := events[0].at.UnixMicro()
	for _, e := range events {
		for d := e.at.UnixMicro() - first; unit > 1 && d%unit != 0; {
			unit /= 1000
		}
	}
	return unit
}

func appendDictionary(buf []byte, events []packed) []byte {
	index := map[string]int{"": 0}
	var texts []string
	for _, e := range events {
		if _, known := index[e.props]; !known {
			texts = append(texts, e.props)
			index[e.props] = len(texts)
		}
	}
	buf = binary.AppendUvarint(buf, uint64(len(texts)))
	for _, text := range texts {
		buf = appendText(buf, text)
	}
	if len(texts) == 0 {
		return buf
	}
	for _, e := range events {
		buf = binary.AppendUvarint(buf, uint64(index[e.props]))
	}
	return buf
}

// blockEncoder encodes blocks, one after the other: what DEFLATE needs is large.
type blockEncoder struct {
	w   *flate.Writer
	out bytes.Buffer
}

// minDeflated is from how many bytes on it may be worth the while to compress.
const minDeflated = 64

// deflated compresses a block where that makes it shorter.
func (z *blockEncoder) deflated(plain []byte) ([]byte, error) {
	if len(plain) < minDeflated {
		return append([]byte{0}, plain...), nil
	}
	z.out.Reset()
	if z.w == nil {
		var err error
		if z.w, err = flate.NewWriter(&z.out, flate.DefaultCompression); err != nil {
			return nil, err
		}
	} else {
		z.w.Reset(&z.out)
	}
	if _, err := z.w.Write(plain); err != nil {
		return nil, err
	}
	if err := z.w.Close(); err != nil {
		return nil, err
	}
	if z.out.Len() < len(plain) {
		return append([]byte{1}, z.out.Bytes()...), nil
	}
	return append([]byte{0}, plain...), nil
}

var errBlock = errors.New("usagepg: a block of packed events is damaged")

// decodeBlock returns the events of a block that begins at ts.
func decodeBlock(ts time.Time, data []byte) ([]packed, error) {
	if len(data) == 0 {
		return nil, errBlock
	}
	switch kind := data[0]; kind {
	case 0:
		data = data[1:]
	case 1:
		var err error
		data, err = io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(data[1:])), maxUnpacked))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBlock, err)
		}
	default:
		return nil, fmt.Errorf("%w: of an unknown kind %d", errBlock, kind)
	}
	r := blockReader{rest: data}
	n, unit := r.uvarint(), int64(r.uvarint())
	// Each event has eight bytes of key.
	if n == 0 || n > maxBlock || n > uint64(len(r.rest))/8 || unit != 1 && unit != 1000 && unit != 1_000_000 {
		return nil, errBlock
	}
	events := make([]packed, n)
	at := ts.UnixMicro()
	for i := range events {
		d := r.uvarint()
		if d > 1<<42 {
			return nil, errBlock
		}
		at += int64(d) * unit
		events[i].at = time.UnixMicro(at).UTC()
	}
	for i := range events {
		if key := r.take(8); len(key) == 8 {
			events[i].key = int64(binary.BigEndian.Uint64(key))
		}
	}
	for i := range events {
		events[i].value = r.varint()
	}
	charged := r.byte()
	for i := range events {
		events[i].charged = charged == 1 || charged == 2 && r.byte() == 1
	}
	if r.byte() == 1 {
		for i := range events {
			events[i].id = r.text()
		}
	}
	texts := r.uvarint()
	if texts > n {
		return nil, errBlock
	}
	dictionary := make([]string, texts+1)
	for i := range texts {
		dictionary[i+1] = r.text()
	}
	if texts > 0 {
		for i := range events {
			x := r.uvarint()
			if x > texts {
				return nil, errBlock
			}
			events[i].props = dictionary[x]
		}
	}
	if r.bad || len(r.rest) > 0 {
		return nil, errBlock
	}
	return events, nil
}

// blockReader takes a block apart. After what isn't there everything is zero,
// and bad.
type blockReader struct {
	rest []byte
	bad  bool
}

func (r *blockReader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.rest, r.bad = nil, true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *blockReader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *blockReader) uvarint() uint64 {
	if len(r.rest) > 0 && r.rest[0] < 0x80 {
		n := r.rest[0]
		r.rest = r.rest[1:]
		return uint64(n)
	}
	return r.long()
}

func (r *blockReader) long() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *blockReader) varint() int64 {
	n := r.uvarint()
	return int64(n>>1) ^ -int64(n&1)
}

func (r *blockReader) text() string { return string(r.take(r.uvarint())) }
