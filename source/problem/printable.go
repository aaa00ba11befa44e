package problem

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable is s with everything escaped that a terminal does not show as a character. Text that comes from outside goes
// through it before it becomes part of a message: it cannot move the cursor or begin a line of its own.
func Printable(s string) string {
	var b strings.Builder
	for i, r := range s {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			size = 1 // a byte that is no UTF-8
		} else if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.Quote(s[i : i+size])
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}
