package tomlfile

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// Bounds on what the parser gets: its cost grows with the square of both, and it recurses into nested values. A path that
// FUSE can show stays far below.
const (
	maxDepth    = 64   // segments of a key plus nested arrays
	maxKeyBytes = 4096 // of a whole key as printed
)

// A place identifies a value in a file.
type place struct {
	key string // for people: "access.mode", with segments quoted as TOML demands
	at  string // unique: "access[1].mode"
}

func (p place) child(name string) place {
	segment := toml.Key{name}.String()
	if p.at == "" {
		return place{segment, segment}
	}
	return place{p.key + "." + segment, p.at + "." + segment}
}

func (p place) elem(i int) place {
	return place{p.key, p.at + "[" + strconv.Itoa(i) + "]"}
}

// A mark is what the index knows about one place.
type mark struct {
	line     int  // 1 is the first
	order    int  // in the file, and among the keys of one line
	explicit bool // the text has the key itself, and does not just imply it
}

// A lineIndex holds the line of each key in a TOML text. The parser does not tell it.
type lineIndex struct {
	keys    []string // plain keys, as many and in the same order as toml.MetaData.Keys
	marks   map[string]mark
	repeats []repeat
	tooDeep int // the line that exceeds the bounds, where the scan ends; 0: none
	open    int // the line where a string or bracket begins that is never closed; 0: none
}

// A repeat is a key that is there again.
type repeat struct {
	place
	line, first int
}

// line returns the line of p, or of the first key that implies p.
func (x *lineIndex) line(p place) int { return max(1, x.marks[p.at].line) }

// order returns a number that sorts places in the order of the file.
func (x *lineIndex) order(p place) int { return x.marks[p.at].order }

// indexLines scans text. The index is complete for a text that the parser accepts and that is within the bounds. For any
// other text it holds the keys before the first mistake, and perhaps some after it.
func indexLines(text string) *lineIndex {
	for _, bom := range []string{"\xff\xfe", "\xfe\xff", "\xef\xbb\xbf"} {
		if rest, ok := strings.CutPrefix(text, bom); ok {
			text = rest
			break
		}
	}
	s := scanner{text: text, line: 1, index: &lineIndex{marks: map[string]mark{}}, arrays: map[string]int{}}
	s.document()
	return s.index
}

// A scanner finds the keys of a TOML text but does not validate it. If the parser accepts a text, both agree on its keys.
type scanner struct {
	text   string
	pos    int
	line   int
	index  *lineIndex
	arrays map[string]int // the number of tables so far in the array of tables at a place
	seen   int            // the number of marks so far
}

func (s *scanner) document() {
	var table place
	depth := 0
	for s.skipBlank(true); s.more(); s.skipBlank(true) {
		line := s.line
		if !s.accept('[') {
			if !s.pair(table, depth) {
				return
			}
			s.skipTo("\n")
			continue
		}
		array := s.accept('[')
		names := s.key()
		if names == nil || !s.accept(']') {
			return
		}
		table, depth = s.header(names, array, line), len(names)
		if s.index.tooDeep > 0 {
			return
		}
		s.skipTo("\n")
	}
}

// header records the table header that names a table, or the next table of an array, and returns its place.
func (s *scanner) header(names []string, array bool, line int) place {
	var p place
	for i, name := range names {
		p = p.child(name)
		switch n := s.arrays[p.at]; {
		case i < len(names)-1 && n > 0:
			p = p.elem(n - 1)
		case i < len(names)-1:
			s.implied(p, line)
		case array:
			s.arrays[p.at]++
			s.implied(p, line)
			p = p.elem(n)
		}
	}
	s.stated(p, line)
	return p
}

// pair scans one "key = value" of the table at p, and reports whether the scan can continue.
func (s *scanner) pair(p place, depth int) bool {
	line := s.line
	names := s.key()
	if names == nil || !s.accept('=') {
		return false
	}
	for i, name := range names {
		p = p.child(name)
		if i < len(names)-1 {
			s.implied(p, line)
		}
	}
	s.stated(p, line)
	return s.value(p, depth+len(names))
}

func (s *scanner) value(p place, depth int) bool {
	if depth > maxDepth || s.index.tooDeep > 0 {
		s.index.tooDeep = s.line
		return false
	}
	s.skipBlank(false)
	switch {
	case !s.more():
		return false
	case s.text[s.pos] == '"' || s.text[s.pos] == '\'':
		_, ok := s.quoted(true)
		return ok
	case s.accept('['):
		return s.array(p, depth)
	case s.accept('{'):
		return s.inlineTable(p, depth)
	}
	s.skipTo(",]}#\n")
	return true
}

func (s *scanner) array(p place, depth int) bool {
	start := s.line
	for i := 0; ; {
		s.skipBlank(true)
		switch {
		case !s.more():
			s.index.open = start
			return false
		case s.accept(']'):
			return true
		case s.accept(','):
		default:
			before := s.pos
			e := p.elem(i)
			s.implied(e, s.line)
			if !s.value(e, depth+1) || s.pos == before {
				return false
			}
			i++
		}
	}
}

func (s *scanner) inlineTable(p place, depth int) bool {
	start := s.line
	for {
		s.skipBlank(true)
		switch {
		case !s.more():
			s.index.open = start
			return false
		case s.accept('}'):
			return true
		case s.accept(','):
		default:
			if !s.pair(p, depth) {
				return false
			}
		}
	}
}

// key scans a dotted key and the blanks around it. It returns nil if there is none.
func (s *scanner) key() []string {
	var names []string
	for {
		s.skipBlank(false)
		if !s.more() {
			return nil
		}
		var name string
		if c := s.text[s.pos]; c == '"' || c == '\'' {
			var ok bool
			if name, ok = s.quoted(false); !ok {
				return nil
			}
		} else {
			start := s.pos
			for s.more() && isBare(s.text[s.pos]) {
				s.pos++
			}
			if name = s.text[start:s.pos]; name == "" {
				return nil
			}
		}
		if names = append(names, name); len(names) > maxDepth {
			s.index.tooDeep = s.line
			return nil
		}
		s.skipBlank(false)
		if !s.accept('.') {
			return names
		}
	}
}

func isBare(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// quoted scans a string. It decodes only a string that ends on its line, because no other can be a key.
func (s *scanner) quoted(multiline bool) (text string, ok bool) {
	quote := s.text[s.pos : s.pos+1]
	basic := quote == `"`
	start := s.line
	if multiline && strings.HasPrefix(s.text[s.pos:], strings.Repeat(quote, 3)) {
		s.pos += 3
		if !s.closeMultiline(quote[0], basic) {
			s.index.open = start
			return "", false
		}
		return "", true
	}
	s.pos++
	from := s.pos
	for s.more() && s.text[s.pos] != '\n' {
		switch c := s.text[s.pos]; {
		case c == quote[0]:
			text = s.text[from:s.pos]
			s.pos++
			if basic {
				text = unescape(text)
			}
			return text, true
		case c == '\\' && basic:
			s.pos++
		}
		s.pos++
	}
	if s.pos = min(s.pos, len(s.text)); !s.more() {
		s.index.open = start
	}
	return "", false
}

// closeMultiline moves past the quotes that end the string. The last three of a run of quotes close it; up to two before
// them belong to the text.
func (s *scanner) closeMultiline(quote byte, basic bool) bool {
	run := 0
	for ; s.more(); s.pos++ {
		c := s.text[s.pos]
		if c == quote {
			run++
			continue
		}
		if run >= 3 {
			return true
		}
		run = 0
		if c == '\\' && basic && s.pos+1 < len(s.text) {
			s.pos++
			c = s.text[s.pos]
		}
		if c == '\n' {
			s.line++
		}
	}
	return run >= 3
}

// stated records a key that is in the text, and implied one that has no line of its own.
func (s *scanner) stated(p place, line int) {
	s.index.keys = append(s.index.keys, p.key)
	if m := s.index.marks[p.at]; m.explicit {
		s.index.repeats = append(s.index.repeats, repeat{p, line, m.line})
		return
	}
	s.mark(p, line, true)
}

func (s *scanner) implied(p place, line int) {
	if _, ok := s.index.marks[p.at]; !ok {
		s.mark(p, line, false)
	}
}

func (s *scanner) mark(p place, line int, explicit bool) {
	if len(p.at) > maxKeyBytes {
		s.index.tooDeep = line
		return
	}
	s.seen++
	s.index.marks[p.at] = mark{line, s.seen, explicit}
}

func (s *scanner) more() bool { return s.pos < len(s.text) }

func (s *scanner) accept(c byte) bool {
	if s.more() && s.text[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// skipBlank skips spaces and tabs, and if newlines is true, also line ends and comments.
func (s *scanner) skipBlank(newlines bool) {
	for ; s.more(); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == ' ' || c == '\t':
		case newlines && c == '\r':
		case newlines && c == '\n':
			s.line++
		case newlines && c == '#':
			s.skipTo("\n")
			s.pos-- // the newline is next
		default:
			return
		}
	}
}

func (s *scanner) skipTo(stop string) {
	i := strings.IndexAny(s.text[s.pos:], stop)
	if i < 0 {
		i = len(s.text) - s.pos
	}
	s.pos += i
}

// unescape decodes the escapes of a basic string. It leaves a wrong one as it is: the parser reports it.
func unescape(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			return b.String() + s
		}
		b.WriteString(s[:i])
		c := s[i+1]
		s = s[i+2:]
		if j := strings.IndexByte(`btnfre"\`, c); j >= 0 {
			b.WriteByte("\b\t\n\f\r\x1b\"\\"[j])
			continue
		}
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
		if digits == 0 || len(s) < digits {
			b.WriteString(`\` + string(c))
			continue
		}
		n, err := strconv.ParseUint(s[:digits], 16, 32)
		if err != nil {
			b.WriteString(`\` + string(c))
			continue
		}
		b.WriteRune(rune(n))
		s = s[digits:]
	}
}
