package problem

import "strings"

// Nearest returns the known name that the user may have meant by the misspelled name, or "" if none is close. Case does
// not count.
func Nearest(name string, known []string) string {
	best, least := "", 0
	for _, k := range known {
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if d <= 1+len(k)/4 && d < len(k) && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// distance returns how many letters you have to insert, drop or replace to turn a into b (Levenshtein).
func distance(a, b string) int {
	const far = 256
	if len(a) > far || len(b) > far {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
