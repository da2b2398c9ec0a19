package store

import "time"

// FailuresSQL and InboxSQL are the statements whose plans a test looks at.
func FailuresSQL(f FailureFilter, after time.Time) (string, []any) { return failuresSQL(f, after) }

// InboxSQL is the statement of InboxPage.
func InboxSQL(f InboxFilter, after time.Time) (string, []any) { return inboxSQL(f, after) }
