package problem

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable escapes everything in s that a terminal does not show as a character. Pass text from outside through it before
// you put it into a message: then it can neither move the cursor nor start a new line.
func Printable(s string) string {
	var b strings.Builder
	for i, r := range s {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			size = 1 // not UTF-8
		} else if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.Quote(s[i : i+size])
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}
