package decline

import (
	"fmt"
	"strconv"
	"time"
)

// Cap is a bound on attempts, as a dated fact.
type Cap struct {
	Network string // stripe, a card network, ach, or abecs-brazil for all cards issued in Brazil
	Rule    string
	Max     int           // attempts within Window; 0: none at all; -1: no number
	Window  time.Duration // 0: for ever
	// Scope is what is counted together: charge, card, card_amount (one card and amount), payment_method, or fee.
	Scope        string
	Since, Until time.Time // in force from Since until before Until; zero: open
	// Status is empty for a rule, default for a careful choice where a network publishes none, information for a fact
	// that bounds nothing.
	Status           string
	Meaning          string
	Sources, Edition string
}

// CapsAt lists the bounds of one network, or of stripe, that are in force at a time.
func CapsAt(network string, at time.Time) []Cap {
	network = networkName(network)
	var out []Cap
	for _, c := range known.caps {
		if c.Network == network && c.Status != "information" && !at.Before(c.Since) && (c.Until.IsZero() || at.Before(c.Until)) {
			out = append(out, c)
		}
	}
	return out
}

var capHeader = []string{"network", "rule", "max", "window", "scope", "since", "until", "status", "meaning", "source", "edition"}

func loadCaps() ([]Cap, error) {
	lines, err := readCSV("catalog/limits.csv", capHeader)
	if err != nil {
		return nil, err
	}
	var out []Cap
	for _, l := range lines {
		c, err := parseCap(l)
		if err != nil {
			return nil, fmt.Errorf("reading the limit %s of %s: %w", l[1], l[0], err)
		}
		out = append(out, c)
	}
	return out, nil
}

func parseCap(l []string) (c Cap, err error) {
	c = Cap{Network: l[0], Rule: l[1], Scope: l[4], Status: l[7], Meaning: l[8], Sources: l[9], Edition: l[10]}
	if c.Max, err = strconv.Atoi(l[2]); err != nil {
		return c, fmt.Errorf("reading the number: %w", err)
	}
	if l[3] != "" {
		if c.Window, err = time.ParseDuration(l[3]); err != nil {
			return c, fmt.Errorf("reading the window: %w", err)
		}
	}
	for i, t := range map[int]*time.Time{5: &c.Since, 6: &c.Until} {
		if l[i] == "" {
			continue
		}
		if *t, err = time.Parse(time.DateOnly, l[i]); err != nil {
			return c, fmt.Errorf("reading the day: %w", err)
		}
	}
	return c, nil
}
