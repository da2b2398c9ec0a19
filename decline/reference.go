package decline

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// titles heads each table of the reference and says where its codes stand in an event.
var titles = map[Table][2]string{
	StripeDeclineCodes:       {"Stripe card decline codes", "`last_payment_error.decline_code` of a payment intent; `outcome.reason` of a charge that the issuer declined."},
	StripeLocalDeclineCodes:  {"Stripe local payment method decline codes", "The same fields for wallets, bank redirects and pay-later methods."},
	StripeErrorCodes:         {"Stripe error codes", "`last_payment_error.code` of a payment intent; `failure_code` of a charge. Codes that are no payment failures are integration errors."},
	StripeErrorTypes:         {"Stripe error types", "`last_payment_error.type` of a payment intent: decides only when no code is known."},
	StripeOutcomeReasons:     {"Stripe outcome reasons", "`outcome.reason` of a charge, besides the decline codes."},
	StripeOutcomeTypes:       {"Stripe outcome types", "`outcome.type` of a charge."},
	StripeNetworkStatuses:    {"Stripe network statuses", "`outcome.network_status` of a charge."},
	StripeRiskLevels:         {"Stripe risk levels", "`outcome.risk_level` of a charge. Never shown to a customer."},
	StripeAdviceCodes:        {"Stripe advice codes", "`advice_code` of an outcome or an error."},
	NetworkAdviceCodes:       {"Network advice codes", "`network_advice_code`, always read with the card's network."},
	NetworkDeclineCodes:      {"Network decline codes", "`network_decline_code`, always read with the card's network."},
	NetworkDeclineCategories: {"Network decline categories", "Visa sorts its decline codes into four categories of retry."},
	NetworkCombinations:      {"Network decline codes read with an advice code", "Mastercard's 79, 82 and 83 mean nothing without their advice code."},
	FrameDeclineCodes:        {"Frame decline codes", "`failure_code` of a Frame charge: the specific code, unlike Stripe's."},
	FrameStatuses:            {"Frame fraud states", "`status` of a Frame transfer or intent."},
}

const preamble = `# Catalog of payment failures

Generated from the files in decline/catalog by ` + "`go generate ./decline`" + `; do not edit. Add a code by adding one line to its file.

How to read it: *shown* tells whether the customer may learn the code. **never** is a fraud signal or a block: it
silences the whole attempt, whatever else is known, and everything the customer sees equals generic_decline. *no* is
merely of no use to a customer. *retry* is the advice for the same payment method: now (the same call again), later
(scheduled, within the limits), after the customer acted, or never; with the least wait and the number of retries that
the code itself allows. The strictest of code, advice code, network advice, network code and limits wins. A network's
never concerns the card's data as they were sent: after a data error, new data may still be tried. A code that stands
nowhere here gets a generic, soft verdict, is not disclosed and is counted.
`

// WriteCatalog writes the whole catalog as a readable Markdown reference: every table with the verdict each code gets
// alone, the opinions of others, and the limits.
func WriteCatalog(to io.Writer) error {
	w := bufio.NewWriter(to)
	fmt.Fprint(w, preamble)
	entries := allEntries()
	for _, t := range tables {
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n", titles[t][0], titles[t][1])
		fmt.Fprint(w, "| code | meaning | category | severity | shown | customer | retry | why | others say | source |\n|---|---|---|---|---|---|---|---|---|---|\n")
		for _, e := range entries {
			if e.Table == t {
				writeEntry(w, e)
			}
		}
	}
	writeOpinions(w)
	writeCaps(w)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing the catalog: %w", err)
	}
	return nil
}

func writeEntry(w io.Writer, e Entry) {
	r := e.row
	name := "`" + e.Code + "`"
	if e.Network != "" {
		name = e.Network + " " + name
	}
	cells := []string{name, cell(e.Meaning)}
	if r.category == "" {
		cells = append(cells, "", "", shown(r), "", retryText(r.retry, r.wait, r.max), cell(e.Why), "")
	} else {
		customer := string(e.Verdict.NextStep)
		if e.Verdict.Public.Field != NoField {
			customer += " (" + string(e.Verdict.Public.Field) + ")"
		}
		category := string(e.Verdict.Category)
		if e.Verdict.Code != e.Code {
			category += ", as " + e.Verdict.Code
		}
		cells = append(cells, category, string(e.Verdict.Severity), shown(r), customer,
			retryText(e.Verdict.Retry.Verdict, e.Verdict.Retry.Wait, r.max), cell(e.Why), opinionText(e.Verdict.Opinions))
	}
	cells = append(cells, cell(e.Sources+", "+e.Edition))
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

func shown(r *row) string {
	if r.noContact {
		return "no, and do not write to the customer"
	}
	switch r.disclose {
	case disclose:
		return "yes"
	case withhold:
		return "no"
	case secret:
		return "**never**"
	}
	return ""
}

func retryText(v RetryVerdict, wait time.Duration, most int) string {
	text := string(v)
	if v == RetryLater && wait > 0 {
		text += fmt.Sprintf(" (%d h)", int(wait.Hours()))
	}
	if v == RetryLater && most > 0 {
		text += fmt.Sprintf(", %d at most", most)
	}
	return text
}

func opinionText(all []Opinion) string {
	var out []string
	for _, o := range all {
		out = append(out, o.Source+": "+o.Verdict)
	}
	return strings.Join(out, ", ")
}

func writeOpinions(w io.Writer) {
	fmt.Fprint(w, "\n## The smart-retry document\n\nWhat Hyperswitch's table says of a code, its recovery categories, and what Rebound does instead of obeying it.\n\n"+
		"| code | its verdict | recovery | here | source |\n|---|---|---|---|---|\n")
	for _, l := range known.opinions {
		fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s |\n", l[0], l[1], l[2], cell(l[3]), cell(l[4]+", "+l[5]))
	}
}

func writeCaps(w io.Writer) {
	fmt.Fprint(w, "\n## Limits on attempts\n\n| network | rule | most | window | counted per | in force | meaning | source |\n|---|---|---|---|---|---|---|---|\n")
	for _, c := range known.caps {
		most := strconv.Itoa(c.Max)
		if c.Max < 0 || c.Scope == "fee" {
			most = ""
		}
		window := "for ever"
		if c.Window > 0 {
			window = strconv.Itoa(int(c.Window.Hours())) + " h"
		}
		span := ""
		if !c.Since.IsZero() {
			span = "since " + c.Since.Format(time.DateOnly)
		}
		if !c.Until.IsZero() {
			span = strings.TrimSpace(span + " until " + c.Until.Format(time.DateOnly))
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", c.Network, c.Rule, most, window, c.Scope,
			cmp.Or(span, "now"), cell(c.Meaning), cell(c.Sources+", "+c.Edition))
	}
}

// cell keeps a text within its table cell.
func cell(s string) string { return strings.NewReplacer("|", "\\|", "\n", " ").Replace(s) }
