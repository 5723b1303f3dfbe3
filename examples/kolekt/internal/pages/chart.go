package pages

import (
	"fmt"
	"html/template"
	"math"
)

// Meter is a bar of what is used of what is included.
type Meter struct {
	Name      string
	Used      int64
	Limit     int64 // negative: unlimited
	UsedText  string
	LimitText string
	Note      string // "starts again on 1 March"
	Forecast  string // "about 14 by then"
	ForecastN int64
}

// Percent is the length of the bar, from 0 to 100.
func (m Meter) Percent() string { return percent(m.Used, m.Limit) }

// ForecastPercent is the length of the forecast's bar.
func (m Meter) ForecastPercent() string { return percent(max(m.Used, m.ForecastN), m.Limit) }

func percent(n, limit int64) string {
	if limit < 0 || n <= 0 {
		return "0%"
	}
	if limit == 0 {
		return "100%"
	}
	return fmt.Sprintf("%.2f%%", min(100, 100*float64(n)/float64(limit)))
}

// State is "full" from 100 % on, "near" from 80 % on, else "fine".
func (m Meter) State() string {
	switch {
	case m.Limit < 0:
		return "fine"
	case m.Used >= m.Limit:
		return "full"
	case 5*m.Used >= 4*m.Limit:
		return "near"
	}
	return "fine"
}

// Unlimited reports whether there is no limit.
func (m Meter) Unlimited() bool { return m.Limit < 0 }

// Series is one row of numbers of a chart.
type Series struct {
	Name   string
	Class  string // "a" to "e": a colour of the style sheet
	Values []float64
}

// Chart is a bar chart with its table. Series stand on each other; negative
// values hang below the line. Compare, if set, is drawn as ticks: last month's
// values.
type Chart struct {
	ID      string
	Title   string
	Takeway string // what to see in it, in a sentence
	Labels  []string
	Series  []Series
	Compare *Series
	Format  func(float64) string
	CSV     string // address of the same data as CSV
	Help    string // address of the definition
	Zoom    *Zoom  // more of the same, for browsers that can zoom
}

// Zoom is a series of days in which a person can zoom where JavaScript works.
type Zoom struct {
	From   int64     `json:"from"` // the first day, in Unix seconds
	Values []float64 `json:"values"`
	// Before, if not zero, is how many days ago the values are that are drawn
	// for comparison.
	Before int    `json:"before,omitempty"`
	Name   string `json:"name"`
	Cents  bool   `json:"cents,omitempty"` // the values are money
	Line   bool   `json:"line,omitempty"`  // a level and not a flow
	Days   int    `json:"days"`            // shown at first
}

type drawnBar struct {
	X, Width      string
	Y, Height     string
	Class, Legend string
}

type drawnTick struct {
	Y     string
	Label string
	Zero  bool
}

type drawnRow struct {
	Label  string
	Values []string
}

type drawnChart struct {
	Chart
	Bars    []drawnBar
	Ticks   []drawnTick
	XLabels []string
	Names   []string
	Rows    []drawnRow
	Empty   bool
}

func (c Chart) draw() drawnChart {
	d := drawnChart{Chart: c}
	if c.Format == nil {
		c.Format = func(v float64) string { return fmt.Sprintf("%.0f", v) }
	}
	top, bottom := 0.0, 0.0
	for i := range c.Labels {
		up, down := 0.0, 0.0
		for _, s := range c.Series {
			up += max(0, s.Values[i])
			down += min(0, s.Values[i])
		}
		if c.Compare != nil {
			up = max(up, c.Compare.Values[i])
		}
		top, bottom = max(top, up), min(bottom, down)
	}
	d.Empty = top == 0 && bottom == 0
	step := niceStep((top - bottom) / 4)
	top, bottom = step*math.Ceil(top/step), step*math.Floor(bottom/step)
	if top == 0 && bottom == 0 {
		top = step
	}
	y := func(v float64) float64 { return 100 * (top - v) / (top - bottom) }
	for v := top; v >= bottom-step/2; v -= step {
		d.Ticks = append(d.Ticks, drawnTick{Y: fmt.Sprintf("%.2f%%", y(v)), Label: c.Format(math.Round(v/step) * step), Zero: math.Abs(v) < step/2})
	}
	slot := 100 / float64(max(1, len(c.Labels)))
	gap := slot * 0.2
	for i, label := range c.Labels {
		up, down := 0.0, 0.0
		row := drawnRow{Label: label}
		for _, s := range c.Series {
			v := s.Values[i]
			from := &up
			if v < 0 {
				from = &down
			}
			a, b := *from, *from+v
			*from = b
			row.Values = append(row.Values, c.Format(v))
			if v == 0 {
				continue
			}
			d.Bars = append(d.Bars, drawnBar{
				X: fmt.Sprintf("%.3f%%", float64(i)*slot+gap/2), Width: fmt.Sprintf("%.3f%%", slot-gap),
				Y: fmt.Sprintf("%.2f%%", y(max(a, b))), Height: fmt.Sprintf("%.2f%%", math.Abs(y(a)-y(b))),
				Class: s.Class, Legend: label + ", " + s.Name + ": " + c.Format(v),
			})
		}
		if c.Compare != nil {
			v := c.Compare.Values[i]
			row.Values = append(row.Values, c.Format(v))
			if v > 0 {
				d.Bars = append(d.Bars, drawnBar{
					X: fmt.Sprintf("%.3f%%", float64(i)*slot), Width: fmt.Sprintf("%.3f%%", slot),
					Y: fmt.Sprintf("%.2f%%", y(v)), Height: "2", Class: "compare", Legend: label + ", " + c.Compare.Name + ": " + c.Format(v),
				})
			}
		}
		d.Rows = append(d.Rows, row)
	}
	for _, s := range c.Series {
		d.Names = append(d.Names, s.Name)
	}
	if c.Compare != nil {
		d.Names = append(d.Names, c.Compare.Name)
	}
	d.XLabels = spread(c.Labels, 6)
	return d
}

// spread picks at most n labels, the first and the last among them.
func spread(labels []string, n int) []string {
	if len(labels) <= n {
		return labels
	}
	out := make([]string, n)
	for i := range n {
		out[i] = labels[i*(len(labels)-1)/(n-1)]
	}
	return out
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5, 10} {
		if v <= m*p {
			return m * p
		}
	}
	return 10 * p
}

var icons = map[string]string{
	"check":    `<path d="M4 10.5 8 14.5 16 6"/>`,
	"arrow":    `<path d="M4 10h12M11 5l5 5-5 5"/>`,
	"clock":    `<circle cx="10" cy="10" r="7"/><path d="M10 6v4l3 2"/>`,
	"mail":     `<rect x="2.5" y="4.5" width="15" height="11" rx="2"/><path d="m3 6 7 5 7-5"/>`,
	"key":      `<circle cx="6.5" cy="13.5" r="3.5"/><path d="M9 11l7.5-7.5M13 7l2.5 2.5"/>`,
	"card":     `<rect x="2.5" y="4.5" width="15" height="11" rx="2"/><path d="M2.5 8.5h15M5.5 12.5h3"/>`,
	"warn":     `<path d="M10 3 18 16.5H2L10 3Z"/><path d="M10 8v4M10 14.2v.3"/>`,
	"info":     `<circle cx="10" cy="10" r="7.5"/><path d="M10 9v5M10 6v.3"/>`,
	"image":    `<rect x="2.5" y="3.5" width="15" height="13" rx="2"/><circle cx="7" cy="8" r="1.5"/><path d="m3 15 5-4 3 2 3-3 3.5 3"/>`,
	"gift":     `<rect x="3" y="8" width="14" height="9" rx="1.5"/><path d="M2.5 8h15M10 8v9M10 8C6 8 5.500 3.500 8 3.500S10 8 10 8Zm0 0c4 0 4.500-4.500 2-4.500S10 8 10 8Z"/>`,
	"shield":   `<path d="M10 2.500 16.500 5v5c0 4-3 6.500-6.500 7.500C6.500 16.500 3.500 14 3.500 10V5L10 2.500Z"/>`,
	"download": `<path d="M10 3v10M6 9.500l4 4 4-4M3.500 16.500h13"/>`,
	"copy":     `<rect x="7" y="7" width="10" height="10" rx="2"/><path d="M13 7V5a2 2 0 0 0-2-2H5a2 2 0 0 0-2 2v6a2 2 0 0 0 2 2h2"/>`,
	"spark":    `<path d="M10 2.500 11.800 8.200 17.500 10l-5.700 1.800L10 17.500l-1.800-5.700L2.500 10l5.700-1.800L10 2.500Z"/>`,
}

func icon(name string) (template.HTML, error) {
	path, ok := icons[name]
	if !ok {
		return "", fmt.Errorf("no icon %q", name)
	}
	return template.HTML(`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true">` + path + `</svg>`), nil // of our own making
}
