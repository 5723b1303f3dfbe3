package usagepg

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"
)

// total is what one day, or one quarter of an hour, comes to.
type total struct {
	from int64 // Unix seconds
	sums
}

// day returns when the total's day begins.
func (t *total) day() int64 { return floorTo(t.from, daySeconds) }

// quarter returns when the quarter of the last event begins.
func (t *total) quarter() int64 { return floor(t.lastAt, quarter) }

const (
	daySeconds     = int64(day / time.Second)
	quarterSeconds = int64(quarter / time.Second)
)

// grain is what a month is divided into, in seconds.
type grain int64

const (
	byDay     = grain(daySeconds)
	byQuarter = grain(quarterSeconds)
	longest   = 31 * daySeconds
)

// A month's days are one after the other, ascending, each:
//
//   - the days since the one before, the first's since the month began, times
//     four; plus 1 where the day has a single event, plus 2 where its scale
//     isn't that of the day before, 0 at first: then the scale follows
//   - unless it is a single event, the count
//   - the sum, zigzag
//   - unless it is a single event: the minimum, zigzag, and how far the maximum
//     and the last value are above it
//   - the time of the last event since the day began: its milliseconds times
//     two, or its microseconds times two plus 1
//
// All numbers are uvarints. The quarters of an hour of a day are written alike,
// with a day instead of the month, which begins at first.
func encodeTotals(first int64, g grain, totals []total) ([]byte, error) {
	buf := []byte{} // nil would be null
	before, scale := first, int16(0)
	for i := range totals {
		d := &totals[i]
		since := d.from - before
		if since < 0 || i > 0 && since == 0 || since%int64(g) != 0 || d.from-first >= longest || d.scale < 0 || d.cnt < 1 {
			return nil, errors.New("usagepg: a month's totals must ascend and have events")
		}
		single := d.cnt == 1 && d.min == d.sum && d.max == d.sum && d.last == d.sum
		head := uint64(since/int64(g)) << 2
		if single {
			head |= 1
		}
		if d.scale != scale {
			head |= 2
		}
		buf = binary.AppendUvarint(buf, head)
		if d.scale != scale {
			buf = binary.AppendUvarint(buf, uint64(d.scale))
		}
		if !single {
			buf = binary.AppendUvarint(buf, uint64(d.cnt))
		}
		buf = binary.AppendVarint(buf, d.sum)
		if !single {
			buf = binary.AppendVarint(buf, d.min)
			// Modulo 2^64, as they are added again.
			buf = binary.AppendUvarint(buf, uint64(d.max)-uint64(d.min))
			buf = binary.AppendUvarint(buf, uint64(d.last)-uint64(d.min))
		}
		at := d.lastAt - d.from*1e6
		if at < 0 || at >= int64(g)*1e6 {
			return nil, errors.New("usagepg: a total's last event lies outside of it")
		}
		if at%1000 == 0 {
			buf = binary.AppendUvarint(buf, uint64(at/1000)<<1)
		} else {
			buf = binary.AppendUvarint(buf, uint64(at)<<1|1)
		}
		before, scale = d.from, d.scale
	}
	return buf, nil
}

var errMonth = errors.New("usagepg: a month's totals are damaged")

// decodeTotals calls f with what encodeTotals was given. What f is given is only
// valid until it returns.
func decodeTotals(first int64, g grain, data []byte, f func(*total) error) error {
	r := blockReader{rest: data}
	d := total{from: first}
	for n := 0; len(r.rest) > 0; n++ {
		head := r.uvarint()
		since := head >> 2
		if since >= uint64(longest/int64(g)) || n > 0 && since == 0 {
			return errMonth
		}
		if d.from += int64(since) * int64(g); d.from-first >= longest {
			return errMonth
		}
		if head&2 != 0 {
			scale := r.uvarint()
			if scale > math.MaxInt16 {
				return errMonth
			}
			d.scale = int16(scale)
		}
		if head&1 != 0 {
			sum := r.varint()
			d.cnt, d.sum, d.min, d.max, d.last = 1, sum, sum, sum, sum
		} else {
			count := r.uvarint()
			if count == 0 || count > math.MaxInt64 {
				return errMonth
			}
			d.cnt, d.sum, d.min = int64(count), r.varint(), r.varint()
			d.max = int64(uint64(d.min) + r.uvarint())
			d.last = int64(uint64(d.min) + r.uvarint())
		}
		at := r.uvarint()
		us := at >> 1
		if us >= uint64(g)*1e6 {
			return errMonth
		}
		if at&1 == 0 {
			us *= 1000
		}
		if r.bad || us >= uint64(g)*1e6 {
			return errMonth
		}
		d.lastAt = d.from*1e6 + int64(us)
		if err := f(&d); err != nil {
			return err
		}
	}
	return nil
}

// encodeMonth divides a month's quarters, ascending, into its days and what
// isn't said by them. For each day that has several, that is: the days since the
// one before, the first's since the month began; the length of its quarters; and
// these. A day whose events lie in one quarter has none, as its last event tells
// which one it is.
func encodeMonth(month time.Time, quarters []total) (days, rest []byte, err error) {
	var all []total
	first := month.Unix()
	before := first
	rest = []byte{} // nil would be null
	for len(quarters) > 0 {
		sum := quarters[0]
		sum.from = sum.day()
		n := 1
		for ; n < len(quarters) && quarters[n].from-sum.from < daySeconds; n++ {
			if !sum.merge(&quarters[n].sums) {
				return nil, nil, errors.New("usagepg: a day's quarters don't fit each other")
			}
		}
		if all = append(all, sum); n > 1 {
			part, err := encodeTotals(sum.from, byQuarter, quarters[:n])
			if err != nil {
				return nil, nil, err
			}
			rest = binary.AppendUvarint(rest, uint64((sum.from-before)/daySeconds))
			rest = append(binary.AppendUvarint(rest, uint64(len(part))), part...)
			before = sum.from
		}
		quarters = quarters[n:]
	}
	days, err = encodeTotals(first, byDay, all)
	return days, rest, err
}

// decodeMonth calls f with the totals of a month: with the days, but with the
// quarters of those that cut tells, given when they begin. Other quarters aren't
// looked at. What f is given is only valid until it returns.
func decodeMonth(month time.Time, days, quarters []byte, cut func(day int64) bool, f func(*total) error) error {
	first := month.Unix()
	var alone []total // the days to be cut, until there are quarters of them
	err := decodeTotals(first, byDay, days, func(d *total) error {
		if cut(d.from) {
			alone = append(alone, *d)
			return nil
		}
		return f(d)
	})
	if err != nil {
		return err
	}
	oneQuarter := func(before int64) error {
		for ; len(alone) > 0 && alone[0].from < before; alone = alone[1:] {
			alone[0].from = alone[0].quarter()
			if err := f(&alone[0]); err != nil {
				return err
			}
		}
		return nil
	}
	r := blockReader{rest: quarters}
	at := first
	for n := 0; len(alone) > 0 && len(r.rest) > 0; n++ {
		since := r.uvarint()
		part := r.take(r.uvarint())
		if r.bad || since >= uint64(longest/daySeconds) || n > 0 && since == 0 {
			return errMonth
		}
		if at += int64(since) * daySeconds; !cut(at) {
			continue
		}
		if err := oneQuarter(at); err != nil {
			return err
		}
		if len(alone) == 0 || alone[0].from != at {
			return errMonth // quarters of no day
		}
		alone = alone[1:]
		err := decodeTotals(at, byQuarter, part, func(d *total) error {
			if d.from >= at+daySeconds {
				return errMonth
			}
			return f(d)
		})
		if err != nil {
			return err
		}
	}
	return oneQuarter(math.MaxInt64)
}

// joinQuarters adds quarters to those of a month, ascending. What doesn't fit,
// having another scale than its day or becoming too large, is left over.
func joinQuarters(have, more []total) (merged, left []total) {
	merged = slices.Clone(have)
	days := map[int64]sums{}
	add := func(d *total) bool {
		sum, known := days[d.day()]
		if !known {
			sum = d.sums
		} else if !sum.merge(&d.sums) {
			return false
		}
		days[d.day()] = sum
		return true
	}
	for i := range have {
		add(&have[i]) // fits, having been encoded
	}
	for _, d := range more {
		i, found := slices.BinarySearchFunc(merged, d.from, func(t total, from int64) int { return cmp.Compare(t.from, from) })
		same := d.sums
		if found {
			same = merged[i].sums
		}
		if found && !same.merge(&d.sums) || !add(&d) {
			left = append(left, d)
			continue
		}
		if found {
			merged[i].sums = same
		} else {
			merged = slices.Insert(merged, i, d)
		}
	}
	return merged, left
}
