package store

import "time"

// CardUsesSQL is the statement of CardUses, whose plan a test looks at.
func CardUsesSQL(attempts []Attempt, now time.Time) (string, []any) {
	return cardUsesSQL, askAbout(attempts).args(now.Add(-time.Hour))
}
