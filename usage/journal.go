package usage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
func (j *journal) append(t tracked) (*segment, error) {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil, ErrClosed
	}
	g := j.next
	var err error
	if g.buf, err = appendRecord(g.buf, t); err != nil {
		j.mu.Unlock()
		return nil, err
	}
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
// bytes), payload. The payload is: key (16), flags (1), time in microseconds
// (8), value (8), then account, meter, ID and properties, each with its length
// (uvarint). All numbers are little-endian.
const (
	recordHead = 8
	fixedPart  = 16 + 1 + 8 + 8
	maxRecord  = 1 << 20
)

func appendRecord(buf []byte, t tracked) ([]byte, error) {
	var props []byte
	if len(t.Properties) > 0 {
		var err error
		if props, err = json.Marshal(t.Properties); err != nil {
			return buf, invalid("properties: %v", err)
		}
	}
	start := len(buf)
	buf = append(buf, make([]byte, recordHead)...)
	buf = append(buf, t.key[:]...)
	flags := byte(0)
	if t.own {
		flags = 1
	}
	buf = append(buf, flags)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(t.Time.UnixMicro()))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(t.Value))
	for _, s := range []string{t.Account, t.Meter, t.ID} {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	buf = binary.AppendUvarint(buf, uint64(len(props)))
	buf = append(buf, props...)
	payload := buf[start+recordHead:]
	if len(payload) > maxRecord {
		return buf[:start], invalid("the event is larger than %d bytes", maxRecord)
	}
	binary.LittleEndian.PutUint32(buf[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(buf[start+4:], crc32.Checksum(payload, castagnoli))
	return buf, nil
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
		t, err := decodeRecord(payload)
		if err != nil {
			break
		}
		events = append(events, t)
		data = data[recordHead+n:]
	}
	return events, len(data)
}

var errRecord = errors.New("usage: journal: malformed record")

func decodeRecord(p []byte) (t tracked, err error) {
	if len(p) < fixedPart {
		return t, errRecord
	}
	copy(t.key[:], p)
	t.own = p[16] == 1
	t.Time = time.UnixMicro(int64(binary.LittleEndian.Uint64(p[17:]))).UTC()
	t.Value = int64(binary.LittleEndian.Uint64(p[25:]))
	p = p[fixedPart:]
	var parts [4]string
	for i := range parts {
		n, size := binary.Uvarint(p)
		if size <= 0 || n > uint64(len(p)-size) {
			return t, errRecord
		}
		parts[i] = string(p[size : size+int(n)])
		p = p[size+int(n):]
	}
	if len(p) > 0 {
		return t, errRecord
	}
	t.Account, t.Meter, t.ID = parts[0], parts[1], parts[2]
	if parts[3] != "" {
		dec := json.NewDecoder(strings.NewReader(parts[3]))
		dec.UseNumber()
		if err := dec.Decode(&t.Properties); err != nil {
			return t, errRecord
		}
	}
	return t, nil
}
