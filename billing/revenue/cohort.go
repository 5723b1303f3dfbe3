package revenue

import (
	"math/big"
	"time"
)

// Cohort is the customers who first paid in one month.
type Cohort struct {
	Month time.Time `json:"month"` // its first instant, UTC
	Size  Count     `json:"size"`
	Cells []Cell    `json:"cells"` // its own month first
}

// Cell is what is left of a cohort at the end of a month.
type Cell struct {
	Month   time.Time `json:"month"`
	Partial bool      `json:"partial"` // the month hasn't ended
	Left    Count     `json:"left"`    // a customer who returned is back in the first cohort
	MRR     Figure    `json:"mrr"`
	Logo    Ratio     `json:"logo"`    // left / size
	Revenue Ratio     `json:"revenue"` // MRR / MRR at the end of the cohort's own month: may exceed 100 %
}

// Cohorts returns the cohorts of all months until an instant, in order, those
// without customers left out.
func (b *Book) Cohorts(until time.Time, selection Selection) []Cohort {
	first := map[string]time.Time{}
	var months []time.Time
	members := map[time.Time]map[string]bool{}
	exact := *b
	exact.config.Convention.Group = 0 // a group may reach over the end of a month
	for _, m := range exact.Movements(time.Time{}, until.Add(1), selection) {
		if m.Kind != KindNew {
			continue
		}
		start := month(m.At)
		first[m.Account] = start
		if members[start] == nil {
			months = append(months, start) // movements come in order
			members[start] = map[string]bool{}
		}
		members[start][m.Account] = true
	}
	if len(months) == 0 {
		return nil
	}
	cohorts := make([]Cohort, len(months))
	index := map[time.Time]int{}
	for i, start := range months {
		cohorts[i] = Cohort{Month: start, Size: countOf(members[start])}
		index[start] = i
	}
	for start := months[0]; !start.After(until); start = start.AddDate(0, 1, 0) {
		end := start.AddDate(0, 1, 0)
		partial := end.After(until)
		mrr, _ := b.recurring(end, true, selection)
		if partial {
			mrr, _ = b.recurring(until, false, selection)
		}
		cells := make([]Cell, len(cohorts))
		left := make([]map[string]bool, len(cohorts))
		for i := range cells {
			cells[i] = Cell{Month: start, Partial: partial, MRR: newFigure(selection.Currency)}
			left[i] = map[string]bool{}
		}
		for _, p := range mrr.Parts {
			i := index[first[p.Account]]
			cells[i].MRR.add(p.Account, p.SubscriptionID, p.Exact)
			left[i][p.Account] = true
		}
		for i := range cohorts {
			if cohorts[i].Month.After(start) {
				continue
			}
			cell := cells[i]
			cell.Left = countOf(left[i])
			base := cell.MRR.Exact
			if len(cohorts[i].Cells) > 0 {
				base = cohorts[i].Cells[0].MRR.Exact
			}
			cell.Logo = Ratio{cell.Left.rat(), cohorts[i].Size.rat()}
			cell.Revenue = Ratio{new(big.Rat).Set(cell.MRR.Exact), base}
			cohorts[i].Cells = append(cohorts[i].Cells, cell)
		}
	}
	return cohorts
}
