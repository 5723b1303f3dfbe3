package usagepg

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/kolekt/commerce/usage"
)

// dayTotal is what one day of a month's block comes to.
type dayTotal struct {
	day   time.Time
	scale int16
	usage.Stats
}

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
// All numbers are uvarints.
func encodeMonth(month time.Time, days []dayTotal) ([]byte, error) {
	var buf []byte
	before, scale := month, int16(0)
	for i, d := range days {
		since := d.day.Sub(before)
		if since < 0 || i > 0 && since == 0 || since%day != 0 || d.day.Sub(month) > 30*day || d.scale < 0 || d.Count < 1 {
			return nil, errors.New("usagepg: the days of a month must ascend and have events")
		}
		single := d.Count == 1 && d.Min == d.Sum && d.Max == d.Sum && d.Last == d.Sum
		head := uint64(since/day) << 2
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
		at := d.LastAt.Sub(d.day).Microseconds()
		if at < 0 || at >= day.Microseconds() {
			return nil, errors.New("usagepg: a day's last event isn't of the day")
		}
		if at%1000 == 0 {
			buf = binary.AppendUvarint(buf, uint64(at/1000)<<1)
		} else {
			buf = binary.AppendUvarint(buf, uint64(at)<<1|1)
		}
		before, scale = d.day, d.scale
	}
	return buf, nil
}

var errMonth = errors.New("usagepg: a month's days are damaged")

// decodeMonth calls f with the days of a month's block, ascending.
func decodeMonth(month time.Time, data []byte, f func(dayTotal) error) error {
	r := blockReader{rest: data}
	d := dayTotal{day: month.UTC()}
	for n := 0; len(r.rest) > 0; n++ {
		head := r.uvarint()
		if head>>2 > 30 || n > 0 && head>>2 == 0 {
			return errMonth
		}
		if d.day = d.day.Add(time.Duration(head>>2) * day); d.day.Sub(month) > 30*day {
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
		if r.bad || at>>1 >= uint64(day/unit) {
			return errMonth
		}
		d.LastAt = d.day.Add(time.Duration(at>>1) * unit)
		if err := f(d); err != nil {
			return err
		}
	}
	return nil
}

// joinDays adds days to those of a month, ascending. What doesn't fit, having
// become too large, is left over.
func joinDays(have, more []dayTotal) (merged, left []dayTotal) {
	merged = slices.Clone(have)
	for _, d := range more {
		i, found := slices.BinarySearchFunc(merged, d, func(a, b dayTotal) int { return a.day.Compare(b.day) })
		switch {
		case !found:
			merged = slices.Insert(merged, i, d)
		case merged[i].scale != d.scale:
			left = append(left, d)
		default:
			if merged[i].Merge(d.Stats) != nil {
				left = append(left, d)
			}
		}
	}
	return merged, left
}
