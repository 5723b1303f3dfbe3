package usagepg

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/kolekt/commerce/usage"
)

// total is what one day, or one quarter of an hour, comes to.
type total struct {
	from  time.Time
	scale int16
	usage.Stats
}

// longest is the longest month.
const longest = 31 * day

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
// All numbers are uvarints. Its quarters of an hour are written alike, with
// quarters instead of days: grain says which.
func encodeTotals(month time.Time, grain time.Duration, totals []total) ([]byte, error) {
	buf := []byte{} // nil would be null
	before, scale := month, int16(0)
	for i, d := range totals {
		since := d.from.Sub(before)
		if since < 0 || i > 0 && since == 0 || since%grain != 0 || d.from.Sub(month) >= longest || d.scale < 0 || d.Count < 1 {
			return nil, errors.New("usagepg: a month's totals must ascend and have events")
		}
		single := d.Count == 1 && d.Min == d.Sum && d.Max == d.Sum && d.Last == d.Sum
		head := uint64(since/grain) << 2
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
			buf = binary.AppendUvarint(buf, uint64(d.Count))
		}
		buf = binary.AppendVarint(buf, d.Sum)
		if !single {
			buf = binary.AppendVarint(buf, d.Min)
			// Modulo 2^64, as they are added again.
			buf = binary.AppendUvarint(buf, uint64(d.Max)-uint64(d.Min))
			buf = binary.AppendUvarint(buf, uint64(d.Last)-uint64(d.Min))
		}
		at := d.LastAt.Sub(d.from).Microseconds()
		if at < 0 || at >= grain.Microseconds() {
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

// decodeTotals calls f with a month's totals, ascending.
func decodeTotals(month time.Time, grain time.Duration, data []byte, f func(total) error) error {
	r := blockReader{rest: data}
	d := total{from: month.UTC()}
	for n := 0; len(r.rest) > 0; n++ {
		head := r.uvarint()
		if head>>2 >= uint64(longest/grain) || n > 0 && head>>2 == 0 {
			return errMonth
		}
		if d.from = d.from.Add(time.Duration(head>>2) * grain); d.from.Sub(month) >= longest {
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
			d.Count, d.Sum, d.Min, d.Max, d.Last = 1, sum, sum, sum, sum
		} else {
			count := r.uvarint()
			if count == 0 || count > math.MaxInt64 {
				return errMonth
			}
			d.Count, d.Sum, d.Min = int64(count), r.varint(), r.varint()
			d.Max = int64(uint64(d.Min) + r.uvarint())
			d.Last = int64(uint64(d.Min) + r.uvarint())
		}
		at := r.uvarint()
		unit := time.Millisecond
		if at&1 != 0 {
			unit = time.Microsecond
		}
		if r.bad || at>>1 >= uint64(grain/unit) {
			return errMonth
		}
		d.LastAt = d.from.Add(time.Duration(at>>1) * unit)
		if err := f(d); err != nil {
			return err
		}
	}
	return nil
}

// encodeMonth divides a month's quarters, ascending, into its days and what
// isn't said by them: a day whose events lie in one quarter has no quarters, as
// its last event tells which one it is.
func encodeMonth(month time.Time, quarters []total) (days, rest []byte, err error) {
	var sums, several []total
	for len(quarters) > 0 {
		sum := quarters[0]
		sum.from = sum.from.Truncate(day)
		n := 1
		for ; n < len(quarters) && quarters[n].from.Sub(sum.from) < day; n++ {
			if quarters[n].scale != sum.scale {
				return nil, nil, errors.New("usagepg: a day has one scale")
			}
			if err := sum.Merge(quarters[n].Stats); err != nil {
				return nil, nil, err
			}
		}
		if sums = append(sums, sum); n > 1 {
			several = append(several, quarters[:n]...)
		}
		quarters = quarters[n:]
	}
	if days, err = encodeTotals(month, day, sums); err != nil {
		return nil, nil, err
	}
	rest, err = encodeTotals(month, quarter, several)
	return days, rest, err
}

// decodeMonth calls f with the totals of a month: with the days, but with the
// quarters of those that cut tells. Without any of these, quarters isn't looked
// at.
func decodeMonth(month time.Time, days, quarters []byte, cut func(day time.Time) bool, f func(total) error) error {
	var alone []total // the days to be cut, until there are quarters of them
	err := decodeTotals(month, day, days, func(d total) error {
		if cut(d.from) {
			alone = append(alone, d)
			return nil
		}
		return f(d)
	})
	if err != nil || len(alone) == 0 {
		return err
	}
	next := 0
	oneQuarter := func(before time.Time) error {
		for ; next < len(alone) && alone[next].from.Before(before); next++ {
			d := alone[next]
			d.from = d.LastAt.Truncate(quarter)
			if err := f(d); err != nil {
				return err
			}
		}
		return nil
	}
	var of time.Time // the day whose quarters come
	err = decodeTotals(month, quarter, quarters, func(d total) error {
		if of.IsZero() || d.from.Sub(of) >= day {
			at := d.from.Truncate(day)
			if err := oneQuarter(at); err != nil {
				return err
			}
			of = at
			if next < len(alone) && alone[next].from.Equal(at) {
				next++
			} else if cut(at) {
				return errMonth // quarters of no day
			}
		}
		if !cut(of) {
			return nil
		}
		return f(d)
	})
	if err != nil {
		return err
	}
	return oneQuarter(month.Add(longest))
}

// joinQuarters adds quarters to those of a month, ascending. What doesn't fit,
// having another scale than its day or becoming too large, is left over.
func joinQuarters(have, more []total) (merged, left []total) {
	merged = slices.Clone(have)
	sums := map[int64]total{} // by day
	for _, d := range have {
		sum, known := sums[d.from.Truncate(day).Unix()]
		if !known {
			sum = total{scale: d.scale}
		}
		if sum.Merge(d.Stats) != nil {
			return have, more // can't be: it was encoded
		}
		sums[d.from.Truncate(day).Unix()] = sum
	}
	for _, d := range more {
		sum, known := sums[d.from.Truncate(day).Unix()]
		if !known {
			sum = total{scale: d.scale}
		}
		i, found := slices.BinarySearchFunc(merged, d, func(a, b total) int { return a.from.Compare(b.from) })
		same := d.Stats
		if found {
			same = merged[i].Stats
		}
		if sum.scale != d.scale || sum.Merge(d.Stats) != nil || found && same.Merge(d.Stats) != nil {
			left = append(left, d)
			continue
		}
		sums[d.from.Truncate(day).Unix()] = sum
		if found {
			merged[i].Stats = same
		} else {
			merged = slices.Insert(merged, i, d)
		}
	}
	return merged, left
}
