package tomlfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

// parse runs the parser on text. What it refuses becomes one fault.
func (d *decoder) parse(text string) (values map[string]any, ok bool) {
	if line := d.index.tooDeep; line > 0 {
		d.fault(line, "", fmt.Sprintf("nested more than %d levels deep, or a key longer than %d bytes", maxDepth, maxKeyBytes), "")
		return nil, false
	}
	defer func() {
		if r := recover(); r != nil { // its lexer and parser panic if they disagree
			d.fault(1, "", "not valid TOML: the parser gave up", "")
			values, ok = nil, false
		}
	}()
	_, err := toml.Decode(text, &values)
	var parseErr toml.ParseError
	switch {
	case err == nil:
		return values, true
	case errors.As(err, &parseErr):
		d.syntax(parseErr, text)
	default:
		d.fault(1, "", "not valid TOML", "")
	}
	return nil, false
}

// The parser's messages quote the text, which may hold a secret. So only the kind of mistake is taken from them, by how
// they begin.
var syntaxFaults = []struct{ prefix, text, hint string }{
	{"strings cannot contain newlines", "a string is not closed on its line", `write text of several lines in """ … """`},
	{"expected value", "not a value", "put text in quotes"},
	{"invalid datetime", "not a valid date or time", ""},
	{"Invalid integer", "not a valid number", "put text in quotes"},
	{"Invalid float", "not a valid number", "put text in quotes"},
	{"invalid float", "not a valid number", "put text in quotes"},
	{"floats must start", "not a valid number", "put a digit before the dot"},
	{"expected a digit", "not a valid number", "put text in quotes"},
	{"cannot use sign", "not a valid number", ""},
	{"not a ", "not a valid number", ""},
	{"invalid escape", `not a valid escape after \`, `put text with backslashes in '…', or double them`},
	{"expected two hex", `not a valid escape after \`, ""},
	{"expected four hex", `not a valid escape after \`, ""},
	{"expected eight hex", `not a valid escape after \`, ""},
	{"Escaped character", `not a character after \`, ""},
	{"TOML files cannot contain control", "a control character", `write it as an escape in "…", or use user-data-base64 or user-data-file`},
	{"invalid UTF-8", "not UTF-8 text", "put binary user-data into user-data-base64 or user-data-file"},
	{"files cannot contain NULL", "not UTF-8 text", ""},
	{"expected '.' or '='", "a key without a value, or a key of more than letters, digits, - and _", "put such keys in quotes"},
	{"expected '.' or ']'", "a table name of more than letters, digits, - and _", "put such names in quotes"},
	{"expected end of table array", "a table header is not closed", ""},
	{"unexpected end of table name", "a table header without a name", ""},
	{"unexpected table separator", "a table header with an empty name", ""},
	{"unexpected '", "not a key", ""},
	{"unexpected comma", "a comma too many", ""},
	{"expected a comma", "a comma or the closing bracket is missing", ""},
	{"expected a top-level item", "more text after the value", ""},
	{"Key '", "clashes with a key of the same name", ""},
}

func (d *decoder) syntax(e toml.ParseError, text string) {
	lastLine := 1 + strings.Count(strings.TrimRight(text, " \t\r\n"), "\n")
	line := max(1, e.Position.Line)
	if strings.Contains(e.Message, "table") && strings.HasSuffix(e.Message, `got '\n' instead`) { // the parser names the next line
		d.fault(max(1, line-1), "", "a table header is not closed", "")
		return
	}
	for _, r := range d.index.repeats {
		if r.line == line && strings.HasPrefix(e.Message, "Key '") {
			d.fault(line, r.key, "given twice", fmt.Sprintf("it is already on line %d", r.first))
			return
		}
	}
	if d.index.open > 0 && line >= lastLine {
		d.fault(d.index.open, "", "a string or bracket that begins here is never closed", "")
		return
	}
	for _, f := range syntaxFaults {
		if strings.HasPrefix(e.Message, f.prefix) {
			d.fault(line, "", f.text, f.hint)
			return
		}
	}
	if strings.Contains(e.Message, " is out of range for ") { // the message begins with the number
		d.fault(line, "", "a number out of range", "put it in quotes to make it text")
		return
	}
	d.fault(line, "", "not valid TOML", "")
}
