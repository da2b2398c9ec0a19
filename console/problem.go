package console

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// problem is an error as outsiders see it: RFC 9457 with the extension members code, for programs, and param, the name
// of the request's member at fault.
type problem struct {
	Type   string `json:"type"` // about:blank: the title is the status's
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`
	Param  string `json:"param,omitempty"`
}

// Error implements error.
func (p *problem) Error() string { return fmt.Sprintf("%d %s: %s", p.Status, p.Code, p.Detail) }

// errNotFound is one constant answer for ids that are unknown and ids of other accounts.
var errNotFound = &problem{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such object."}

func badParam(name, format string, args ...any) *problem {
	return &problem{Status: http.StatusBadRequest, Code: "parameter_invalid", Param: name, Detail: "`" + name + "` " + fmt.Sprintf(format, args...)}
}

func writeProblem(w http.ResponseWriter, p *problem) error {
	full := *p
	full.Type = "about:blank"
	if full.Title == "" {
		full.Title = http.StatusText(p.Status)
	}
	body, err := json.Marshal(full)
	if err != nil {
		return fmt.Errorf("writing a problem: %w", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, err = w.Write(append(body, '\n'))
	return err
}
