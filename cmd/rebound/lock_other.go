//go:build !unix

package main

// lockFile locks nothing on systems without flock; a private Postgres refuses a second start there by itself.
func lockFile(string) (unlock func(), err error) { return func() {}, nil }
