package gdpr

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteRegister writes the record of processing activities (Art. 30(1)) as
// Markdown, made of the registered sources: it can't drift from the code.
func (s *Service) WriteRegister(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Record of processing activities\n\n")
	b.WriteString("| Activity | Purpose | Legal ground | Categories of data | Recipients | Third countries | Retention | Portable |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, src := range s.sources {
		d := src.Describe()
		portable := "no"
		if d.Portable {
			portable = "yes"
		}
		for i, c := range []string{d.Name, d.Purpose, string(d.Basis), strings.Join(d.Categories, ", "), strings.Join(d.Recipients, ", "), d.Transfer, d.Retention, portable} {
			if i == 0 {
				b.WriteString("|")
			}
			if c == "" {
				c = "none"
			}
			fmt.Fprintf(&b, " %s |", strings.NewReplacer("|", "\\|", "\n", " ").Replace(c))
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteRegisterJSON is WriteRegister for programs.
func (s *Service) WriteRegisterJSON(w io.Writer) error {
	type activity struct {
		Name       string   `json:"name"`
		Purpose    string   `json:"purpose"`
		Basis      Basis    `json:"basis"`
		Categories []string `json:"categories"`
		Recipients []string `json:"recipients,omitempty"`
		Transfer   string   `json:"transfer,omitempty"`
		Retention  string   `json:"retention"`
		Origin     string   `json:"origin,omitempty"`
		Portable   bool     `json:"portable"`
		Tables     []string `json:"tables,omitempty"`
	}
	list := make([]activity, 0, len(s.sources))
	for _, src := range s.sources {
		d := src.Describe()
		list = append(list, activity{d.Name, d.Purpose, d.Basis, d.Categories, d.Recipients, d.Transfer, d.Retention, d.Origin, d.Portable, d.Tables})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(list)
}

// Descriptors returns what the sources declare, in the order of erasure.
func (s *Service) Descriptors() []Descriptor {
	list := make([]Descriptor, len(s.sources))
	for i, src := range s.sources {
		list[i] = src.Describe()
	}
	return list
}
