//go:build !faults

// Package fault marks the steps at which tests have the daemon die or hang. In an ordinary build it does
// nothing; with the build tag "faults" the environment says what happens where (see faults.go).
package fault

// At marks a step.
func At(step string) {}
