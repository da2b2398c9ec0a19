package console

import (
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"rebound/decline"
)

// codeJSON is one line of the catalog: what a code means when nothing else is known.
type codeJSON struct {
	ID               string        `json:"id"` // table, network where there is one, and code
	Object           string        `json:"object"`
	Code             string        `json:"code"`
	Table            string        `json:"table"`
	Source           string        `json:"source"`
	Network          *string       `json:"network"`
	Meaning          string        `json:"meaning"`
	Why              *string       `json:"why"`
	Informs          bool          `json:"informs"`
	Type             string        `json:"type"`
	Category         string        `json:"category"`
	Severity         string        `json:"severity"`
	Disclosable      bool          `json:"disclosable"`
	NextStep         string        `json:"next_step"`
	MerchantNextStep string        `json:"merchant_next_step"`
	Message          messageJSON   `json:"customer_message"`
	Retry            codeRetryJSON `json:"retry"`
	DecidedBy        string        `json:"decided_by"`
	Opinions         []opinionJSON `json:"opinions"`
	Sources          string        `json:"sources"`
	Edition          string        `json:"edition"`
}

type codeRetryJSON struct {
	Verdict     string  `json:"verdict"`
	WaitSeconds *int64  `json:"wait_seconds"`
	MaxRetries  *int64  `json:"max_retries"` // what the code itself allows
	LimitedBy   *string `json:"limited_by"`
}

type opinionJSON struct {
	Source  string `json:"source"`
	Verdict string `json:"verdict"`
}

// explainedJSON is the first entry of a code, with the others that share its name.
type explainedJSON struct {
	codeJSON
	Also []codeJSON `json:"also"`
}

func codeOf(e decline.Entry, locale string) codeJSON {
	v := e.Verdict
	id := string(e.Table) + "/" + e.Code
	if e.Network != "" {
		id = string(e.Table) + "/" + e.Network + "/" + e.Code
	}
	return codeJSON{
		ID: id, Object: "decline_code", Code: e.Code, Table: string(e.Table), Source: string(e.Source), Network: text(e.Network),
		Meaning: e.Meaning, Why: text(e.Why), Informs: e.Informs, Type: string(v.Type), Category: string(v.Category), Severity: string(v.Severity),
		Disclosable: v.Disclosable, NextStep: string(v.NextStep), MerchantNextStep: v.MerchantNextStep, Message: messageOf(v.Public, locale),
		Retry: codeRetryJSON{Verdict: string(v.Retry.Verdict), WaitSeconds: number(int64(v.Retry.Wait / time.Second)),
			MaxRetries: number(int64(e.MaxRetries)), LimitedBy: text(v.Retry.LimitedBy)},
		DecidedBy: v.DecidedBy, Opinions: opinionsOf(v.Opinions), Sources: e.Sources, Edition: e.Edition,
	}
}

func opinionsOf(opinions []decline.Opinion) []opinionJSON {
	out := make([]opinionJSON, len(opinions))
	for i, o := range opinions {
		out[i] = opinionJSON{Source: o.Source, Verdict: o.Verdict}
	}
	return out
}

// listCodes answers the whole catalog, in the catalog's own order: unlike the other lists it is short and fixed.
func (s *server) listCodes(c echo.Context) error {
	p := query(c, "source", "locale", "limit", "starting_after")
	source, locale, after := p.oneOf("source", sources), p.text("locale"), p.text("starting_after")
	limit := -1
	if p.query.Has("limit") {
		limit = p.limit()
	}
	if err := p.done(); err != nil {
		return err
	}
	codes := []codeJSON{}
	for _, e := range decline.All() {
		if source == "" || string(e.Source) == source {
			codes = append(codes, codeOf(e, locale))
		}
	}
	if after != "" {
		at := -1
		for i := range codes {
			if codes[i].ID == after {
				at = i
			}
		}
		if at < 0 {
			return badParam("starting_after", "names no object of this list.")
		}
		codes = codes[at+1:]
	}
	more := limit >= 0 && len(codes) > limit
	if more {
		codes = codes[:limit]
	}
	return c.JSON(http.StatusOK, listOf(codes, more))
}

func (s *server) getCode(c echo.Context) error {
	p := query(c, "source", "network", "locale")
	source, network, locale := p.oneOf("source", sources), p.text("network"), p.text("locale")
	if err := p.done(); err != nil {
		return err
	}
	code, err := pathID(c, "code")
	if err != nil {
		return err
	}
	entries, alike := decline.Explain(code, decline.Source(source), network)
	if len(entries) == 0 {
		detail := "The catalog has no such code."
		if len(alike) > 0 {
			detail += " Spelled alike: " + strings.Join(alike, ", ") + "."
		}
		return &problem{Status: http.StatusNotFound, Code: "not_found", Detail: detail}
	}
	out := explainedJSON{codeJSON: codeOf(entries[0], locale), Also: []codeJSON{}}
	for _, e := range entries[1:] {
		out.Also = append(out.Also, codeOf(e, locale))
	}
	return c.JSON(http.StatusOK, out)
}
