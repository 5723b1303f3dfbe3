package apikeys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Found is a token in a text.
type Found struct {
	Offset int64 // of its first byte
	Token  Token
}

// Scan reads a text and calls found for each token of this service's prefix
// in it, of whatever environment. Only texts whose checksum is right count: in
// random data there is none. It holds 64 KiB and knows no secret; Verify tells
// whether what it found is a live key.
func (s *Service) Scan(r io.Reader, found func(Found) error) error {
	const size = 64 << 10
	keep := maxHead + bodyLen // a token that the end of a block may have cut, and the byte before it
	buf := make([]byte, 0, size)
	var base int64
	var failed error
	reported := int64(-1)
	for {
		// What began before this was whole already, and has been looked at.
		from := max(len(buf)-keep, 0)
		n, err := r.Read(buf[len(buf):size])
		buf = buf[:len(buf)+n]
		scanText(buf[from:], s.cfg.Prefix, func(at int, text []byte) {
			offset := base + int64(from+at)
			if offset <= reported || failed != nil {
				return
			}
			reported = offset
			headLen := len(text) - bodyLen
			failed = found(Found{Offset: offset, Token: newToken(string(text), hintOf(string(text[:headLen]), string(text[headLen:])))})
		})
		switch {
		case failed != nil:
			return failed
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("apikeys: scan: %w", err)
		}
		if cut := len(buf) - keep; cut > size/2 {
			copy(buf, buf[cut:])
			buf = buf[:keep]
			base += int64(cut)
		}
	}
}

// scanText calls found for each token with the prefix in the text.
func scanText(text []byte, prefix string, found func(at int, token []byte)) {
	start := []byte(prefix + "_")
	for at := 0; ; {
		i := bytes.Index(text[at:], start)
		if i < 0 {
			return
		}
		i += at
		at = i + 1
		rest := text[i+len(start):]
		if len(rest) > maxHead {
			rest = rest[:maxHead]
		}
		end := bytes.IndexByte(rest, '_')
		if end <= 0 || !word(string(rest[:end])) {
			continue
		}
		to := i + len(start) + end + 1 + bodyLen
		if to > len(text) {
			continue
		}
		if _, ok := parse(text[i:to]); ok {
			found(i, text[i:to])
			at = to
		}
	}
}

// ScannerRules are rules for programs that look for leaked secrets.
type ScannerRules struct {
	// Pattern is a regular expression for a whole token, without anchors: what
	// GitHub's secret scanning asks for, and understood by any engine.
	Pattern string
	// Gitleaks is a rule for gitleaks, in TOML.
	Gitleaks string
}

// Rules returns the scanner rules for this service's prefix. What a pattern
// finds can be confirmed offline: the last 6 characters are the CRC-32 (IEEE)
// of all before them, in base 62 with the digits 0-9A-Za-z.
func (s *Service) Rules() ScannerRules {
	p := fmt.Sprintf(`%s_[a-z0-9]{1,%d}_[0-9A-Za-z]{%d}`, s.cfg.Prefix, maxHead-2-len(s.cfg.Prefix), bodyLen)
	return ScannerRules{
		Pattern: p,
		Gitleaks: fmt.Sprintf("[[rules]]\nid = %q\ndescription = %q\nregex = '''\\b%s\\b'''\nkeywords = [%q]\n",
			s.cfg.Prefix+"-api-key", "API key of "+s.cfg.Prefix, p, s.cfg.Prefix+"_"),
	}
}
