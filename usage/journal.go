package usage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// segmentSize is when the journal begins a new file.
const segmentSize = 64 << 20

// journal is a write-ahead file with group commit: callers who wait at the
// same time share a write and an fsync.
type journal struct {
	dir  string
	lock *os.File

	mu      sync.Mutex
	next    *group // gathers records
	writing bool
	active  *segment
	number  int
	closed  bool
}

// group is the records of one write.
type group struct {
	buf     []byte
	events  int
	done    chan struct{}
	err     error
	segment *segment
}

// segment is a file of the journal. It is deleted when it isn't written to any
// more and all its events are settled.
type segment struct {
	path    string
	file    *os.File // nil when it was found
	size    int
	mu      sync.Mutex
	pending int
	active  bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal opens the folder and returns what an earlier process has left.
func (r *Recorder) openJournal() ([]tracked, error) {
	dir := r.cfg.Journal
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("usage: journal: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("usage: journal %s is in use by another Recorder: %w", dir, err)
	}
	j := &journal{dir: dir, lock: lock, next: newGroup()}
	r.journal = j
	names, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("usage: journal: %w", err), lock.Close())
	}
	slices.Sort(names)
	var left []tracked
	for _, path := range names {
		if _, err := fmt.Sscanf(filepath.Base(path), "%d.journal", &j.number); err != nil {
			continue // not one of ours
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("usage: journal: %w", err), lock.Close())
		}
		events, rest := decodeJournal(data)
		if rest > 0 {
			// What was being written when the process died was accepted from
			// nobody. It is kept for whoever wants to look.
			r.svc.cfg.Logger.Warn("usage: the end of a journal is unreadable, as after a crash in mid-write", "file", path, "bytes", rest)
			if err := os.WriteFile(path+".torn", data[len(data)-rest:], 0o600); err != nil {
				return nil, errors.Join(fmt.Errorf("usage: journal: %w", err), lock.Close())
			}
		}
		seg := &segment{path: path, pending: len(events)}
		for i := range events {
			events[i].segment = seg
		}
		left = append(left, events...)
		if len(events) == 0 {
			if err := os.Remove(path); err != nil {
				return nil, errors.Join(fmt.Errorf("usage: journal: %w", err), lock.Close())
			}
		}
	}
	return left, nil
}

func newGroup() *group { return &group{done: make(chan struct{})} }

// append writes an event and returns when it is on disk. The first of the
// waiting callers writes for all of them.
func (j *journal) append(e *Event, us int64, key [16]byte) (*segment, error) {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil, ErrClosed
	}
	g := j.next
	g.buf = appendRecord(g.buf, e, us, key)
	g.events++
	if !j.writing {
		j.writing = true
		go j.write()
	}
	j.mu.Unlock()
	<-g.done
	return g.segment, g.err
}

// write writes groups until nobody waits.
func (j *journal) write() {
	var spare []byte
	for {
		j.mu.Lock()
		g := j.next
		if g.events == 0 {
			j.writing = false
			j.mu.Unlock()
			return
		}
		j.next = newGroup()
		j.next.buf = spare[:0]
		j.mu.Unlock()

		g.segment, g.err = j.flush(g)
		spare, g.buf = g.buf, nil
		close(g.done)
	}
}

func (j *journal) flush(g *group) (*segment, error) {
	seg := j.active
	if seg == nil || seg.size >= segmentSize {
		if err := j.rotate(); err != nil {
			return nil, fmt.Errorf("%w: journal: %w", ErrUnavailable, err)
		}
		seg = j.active
	}
	seg.mu.Lock()
	seg.pending += g.events
	seg.mu.Unlock()
	_, err := seg.file.Write(g.buf)
	if err == nil {
		err = seg.file.Sync()
	}
	if err != nil {
		// What a failed fsync has left on disk is unknown: this file is never
		// written to again, and is kept for the next start to read.
		j.active = nil
		return nil, fmt.Errorf("%w: journal: %w", ErrUnknownOutcome, errors.Join(err, seg.file.Close()))
	}
	seg.size += len(g.buf)
	return seg, nil
}

// rotate begins a new file.
func (j *journal) rotate() error {
	j.number++
	path := filepath.Join(j.dir, fmt.Sprintf("%016d.journal", j.number))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// The file's name has to survive a crash too.
	if err := syncDir(j.dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	old := j.active
	j.active = &segment{path: path, file: f, active: true}
	return old.retire()
}

// retire ends the writing to a segment and deletes it if nobody needs it.
func (s *segment) retire() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = false
	err := s.file.Close()
	if s.pending == 0 {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// release says that one event of the segment is settled.
func (s *segment) release() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending--
	if s.pending == 0 && !s.active {
		// A file that stays is read again, and its events are duplicates.
		_ = os.Remove(s.path)
	}
}

// close ends the journal; nobody tracks any more.
func (j *journal) close() error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	err := j.active.retire()
	if err = errors.Join(err, j.lock.Close()); err != nil {
		return fmt.Errorf("usage: journal: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, fs.ErrInvalid) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // not every system can sync a folder
	}
	return errors.Join(err, d.Close())
}

// A record is: length of the payload (4 bytes), CRC-32C of the payload (4
// bytes), payload. The payload is: our own key or zeros (16), time in
// microseconds (8), value (8), then account, meter and the caller's ID, each
// with its length (uvarint), then the number of properties (uvarint) and for
// each kind (1), name with its length, and the value: a text with its length,
// or 8 bytes. All numbers are little-endian.
const (
	recordHead = 8
	fixedPart  = 16 + 8 + 8
	maxRecord  = 1 << 20 // what check lets pass is far smaller
)

func appendRecord(buf []byte, e *Event, us int64, key [16]byte) []byte {
	start := len(buf)
	var head [recordHead]byte
	buf = appendPayload(append(buf, head[:]...), e, us, key)
	payload := buf[start+recordHead:]
	binary.LittleEndian.PutUint32(buf[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(buf[start+4:], crc32.Checksum(payload, castagnoli))
	return buf
}

// appendPayload spells an event whose time is us in Unix microseconds.
func appendPayload(buf []byte, e *Event, us int64, key [16]byte) []byte {
	buf = append(buf, key[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(us))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(e.Value))
	buf = appendText(buf, e.Account)
	buf = appendText(buf, e.Meter)
	buf = appendText(buf, e.ID)
	buf = binary.AppendUvarint(buf, uint64(len(e.Properties)))
	for i := range e.Properties {
		p := &e.Properties[i]
		buf = appendText(append(buf, byte(p.kind)), p.Name)
		if p.kind == kindString || p.kind == kindDecimal {
			buf = appendText(buf, p.text)
		} else {
			buf = binary.LittleEndian.AppendUint64(buf, p.bits)
		}
	}
	return buf
}

func appendText(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// payloadTime returns the time of the event that a payload begins with.
func payloadTime(payload []byte) time.Time {
	return time.UnixMicro(int64(binary.LittleEndian.Uint64(payload[16:]))).UTC()
}

// decodeJournal returns the records up to the first that is torn or damaged,
// and how many bytes lie behind them.
func decodeJournal(data []byte) (events []tracked, rest int) {
	for len(data) >= recordHead {
		n := int(binary.LittleEndian.Uint32(data))
		if n < fixedPart || n > maxRecord || len(data) < recordHead+n {
			break
		}
		payload := data[recordHead : recordHead+n]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(data[4:]) {
			break
		}
		t, err := decodePayload(string(payload))
		if err != nil {
			break
		}
		events = append(events, t)
		data = data[recordHead+n:]
	}
	return events, len(data)
}

var errRecord = errors.New("usage: journal: malformed record")

// reader takes a payload apart. Its texts are parts of the payload.
type reader struct {
	rest string
	bad  bool
}

func (r *reader) take(n uint64) string {
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, ""
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

func (r *reader) uint64() (n uint64) {
	s := r.take(8)
	for i := len(s) - 1; i >= 0; i-- {
		n = n<<8 | uint64(s[i])
	}
	return n
}

func (r *reader) uvarint() (n uint64) {
	for i := 0; i < len(r.rest) && i < binary.MaxVarintLen64; i++ {
		c := r.rest[i]
		if c < 0x80 {
			if i > 0 && c == 0 || i == binary.MaxVarintLen64-1 && c > 1 {
				break // we spell each number in one way only
			}
			r.rest = r.rest[i+1:]
			return n | uint64(c)<<(7*i)
		}
		n |= uint64(c&0x7f) << (7 * i)
	}
	r.bad, r.rest = true, ""
	return 0
}

func (r *reader) text() string { return r.take(r.uvarint()) }

func decodePayload(payload string) (t tracked, err error) {
	r := reader{rest: payload}
	copy(t.key[:], r.take(16))
	t.Time = time.UnixMicro(int64(r.uint64())).UTC()
	t.Value = int64(r.uint64())
	t.Account, t.Meter, t.ID = r.text(), r.text(), r.text()
	n := r.uvarint()
	if r.bad || n > MaxProperties {
		return tracked{}, errRecord
	}
	if n > 0 {
		t.Properties = make(Properties, n)
	}
	for i := range t.Properties {
		p := &t.Properties[i]
		kind := r.take(1)
		p.Name = r.text()
		if r.bad || kind[0] == byte(kindNone) || kind[0] > byte(kindDecimal) {
			return tracked{}, errRecord
		}
		p.kind = propertyKind(kind[0])
		if p.kind == kindString || p.kind == kindDecimal {
			p.text = r.text()
		} else {
			p.bits = r.uint64()
		}
	}
	if r.bad || len(r.rest) > 0 {
		return tracked{}, errRecord
	}
	return t, nil
}
