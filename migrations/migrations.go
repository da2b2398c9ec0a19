// Package migrations holds the numbered SQL steps of the schema. They only add: the code before and after a step both
// run on it, so that replicas can be upgraded one by one.
package migrations

import "embed"

// Files are the goose migrations, in order of their number.
//
//go:embed *.sql
var Files embed.FS
