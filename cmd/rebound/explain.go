package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"rebound/decline"
)

type explainCommand struct {
	Code    string `arg:"" optional:"" help:"Any code: Stripe decline or error code, outcome reason, advice code, network code (visa:51), Frame code."`
	Source  string `enum:",stripe,frame" default:"" help:"Only codes that events of this provider carry (stripe, frame)."`
	Network string `help:"Only codes of this card network (visa, mastercard, …)."`
	Locale  string `default:"en" help:"Language of the customer's message."`
	JSON    bool   `name:"json" help:"Print JSON."`
	All     bool   `help:"Print the whole catalog, as decline/CATALOG.md has it; with --json, --source or --network as a list."`
}

// explained is one entry of the catalog with its verdict. Its names are those of the merchant API's decline codes.
type explained struct {
	Code             string           `json:"code"`
	Known            bool             `json:"known"`
	Table            string           `json:"table,omitempty"`
	Source           string           `json:"source,omitempty"`
	Network          string           `json:"network,omitempty"`
	Meaning          string           `json:"meaning,omitempty"`
	Why              string           `json:"why,omitempty"`
	Type             string           `json:"type"`
	Category         string           `json:"category"`
	Severity         string           `json:"severity"`
	Disclosable      bool             `json:"disclosable"`
	NextStep         string           `json:"next_step"`
	MerchantNextStep string           `json:"merchant_next_step"`
	Message          explainedMessage `json:"customer_message"`
	Retry            explainedRetry   `json:"retry"`
	DecidedBy        string           `json:"decided_by"`
	Opinions         []explainedView  `json:"opinions"`
	Sources          string           `json:"sources,omitempty"`
	Edition          string           `json:"edition,omitempty"`
}

type explainedMessage struct {
	Code   string `json:"code"`
	Locale string `json:"locale"`
	Text   string `json:"text"`
}

type explainedRetry struct {
	Verdict     string `json:"verdict"`
	WaitSeconds int64  `json:"wait_seconds,omitempty"`
	MaxRetries  int    `json:"max_retries,omitempty"`
	LimitedBy   string `json:"limited_by,omitempty"`
}

type explainedView struct {
	Source  string `json:"source"`
	Verdict string `json:"verdict"`
}

// Run prints what the catalog says. A code that it does not know is no error: such a failure gets a verdict too.
func (e *explainCommand) Run(p *program) error {
	if e.All == (e.Code != "") {
		return usageError{errors.New("explain takes a code, or --all")}
	}
	if e.All && !e.JSON && e.Source == "" && e.Network == "" {
		return decline.WriteCatalog(p.stdout) // the text of decline/CATALOG.md
	}
	var entries []decline.Entry
	var alike []string
	if e.All {
		for _, entry := range decline.All() {
			if (e.Source == "" || string(entry.Source) == e.Source) && (e.Network == "" || strings.EqualFold(entry.Network, e.Network)) {
				entries = append(entries, entry)
			}
		}
	} else {
		entries, alike = decline.Explain(e.Code, decline.Source(e.Source), e.Network)
	}
	list := make([]explained, 0, len(entries))
	for _, entry := range entries {
		list = append(list, e.entry(entry))
	}
	if len(list) == 0 && !e.All {
		list = append(list, e.unknown())
	}
	switch {
	case e.JSON:
		return e.printJSON(p.stdout, list, alike)
	case e.All:
		return printCatalog(p.stdout, list)
	default:
		return printExplained(p.stdout, list, alike)
	}
}

func (e *explainCommand) entry(entry decline.Entry) explained {
	out := e.verdict(entry.Code, entry.Verdict)
	out.Known, out.Table, out.Source, out.Network = true, string(entry.Table), string(entry.Source), entry.Network
	out.Meaning, out.Why, out.Sources, out.Edition = entry.Meaning, entry.Why, entry.Sources, entry.Edition
	out.Retry.MaxRetries = entry.MaxRetries
	return out
}

// unknown is the verdict on a code that no table has.
func (e *explainCommand) unknown() explained {
	f := decline.Facts{Source: decline.Stripe, DeclineCode: e.Code, AttemptsUsed: 1}
	if e.Source == string(decline.Frame) {
		f = decline.Facts{Source: decline.Frame, FailureCode: e.Code, AttemptsUsed: 1}
	}
	return e.verdict(e.Code, decline.Rules{}.Classify(f))
}

func (e *explainCommand) verdict(code string, v decline.Verdict) explained {
	message := v.Public.Message(e.Locale)
	out := explained{
		Code: code, Type: string(v.Type), Category: string(v.Category), Severity: string(v.Severity),
		Disclosable: v.Disclosable, NextStep: string(v.NextStep), MerchantNextStep: v.MerchantNextStep,
		Message: explainedMessage{message.Code, message.Locale, message.Text},
		Retry: explainedRetry{
			Verdict: string(v.Retry.Verdict), WaitSeconds: int64(v.Retry.Wait / time.Second), LimitedBy: v.Retry.LimitedBy,
		},
		DecidedBy: v.DecidedBy, Opinions: []explainedView{},
	}
	for _, o := range v.Opinions {
		out.Opinions = append(out.Opinions, explainedView{o.Source, o.Verdict})
	}
	return out
}

// printJSON prints the first entry with those that share its name under also, as the merchant API does; --all prints a
// list.
func (e *explainCommand) printJSON(w io.Writer, list []explained, alike []string) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if e.All {
		return encoder.Encode(struct {
			Object  string      `json:"object"`
			Data    []explained `json:"data"`
			HasMore bool        `json:"has_more"`
		}{"list", list, false})
	}
	return encoder.Encode(struct {
		Object string `json:"object"`
		explained
		Also  []explained `json:"also"`
		Alike []string    `json:"spelled_alike,omitempty"`
	}{"decline_code", list[0], list[1:], alike})
}

func printExplained(w io.Writer, list []explained, alike []string) error {
	if !list[0].Known {
		fmt.Fprintf(w, "The catalog does not know this code.")
		if len(alike) > 0 {
			fmt.Fprintf(w, " Spelled alike: %s.", strings.Join(alike, ", "))
		}
		fmt.Fprint(w, " A failure with it is treated so:\n\n")
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, x := range list {
		if i > 0 {
			fmt.Fprintln(table)
		}
		line := func(name, value string) {
			if value != "" {
				fmt.Fprintf(table, "%s\t%s\n", name, value)
			}
		}
		line("code", x.Code)
		line("table", strings.TrimSpace(x.Table+" "+x.Network))
		line("meaning", x.Meaning)
		line("why", x.Why)
		line("type", x.Type)
		line("category", x.Category)
		line("severity", x.Severity)
		line("customer may know", yesNo(x.Disclosable))
		line("customer reads", x.Message.Text)
		line("customer does", x.NextStep)
		line("staff", x.MerchantNextStep)
		line("retry", retryLine(x.Retry))
		line("decided by", x.DecidedBy)
		var opinions []string
		for _, o := range x.Opinions {
			opinions = append(opinions, o.Source+": "+o.Verdict)
		}
		line("others say", strings.Join(opinions, ", "))
		line("source", strings.TrimSpace(x.Sources+" "+x.Edition))
	}
	return table.Flush()
}

func printCatalog(w io.Writer, list []explained) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tNETWORK\tCODE\tTYPE\tCATEGORY\tSEVERITY\tDISCLOSED\tRETRY")
	for _, x := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Table, x.Network, x.Code, x.Type, x.Category, x.Severity,
			yesNo(x.Disclosable), x.Retry.Verdict)
	}
	return table.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func retryLine(r explainedRetry) string {
	out := r.Verdict
	if r.WaitSeconds > 0 {
		out += ", not before " + (time.Duration(r.WaitSeconds) * time.Second).String()
	}
	if r.MaxRetries > 0 {
		out += ", at most " + strconv.Itoa(r.MaxRetries)
	}
	if r.LimitedBy != "" {
		out += " (" + r.LimitedBy + ")"
	}
	return out
}
