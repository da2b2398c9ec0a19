package console

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

const (
	defaultLimit = 10
	maxLimit     = 100
	// maxID is the length in bytes up to which an id is looked up. Stripe promises that its ids have at most 255.
	maxID = 255
	// maxSeconds is the last second of the year 9999, the last that RFC 3339 can write.
	maxSeconds = 253402300799
)

// params reads a query. The first fault is kept; done returns it.
type params struct {
	query url.Values
	fault *problem
}

// query reads the request's parameters; only the known ones may be there, so that a misspelt filter cannot pass as none.
func query(c echo.Context, known ...string) *params {
	p := &params{}
	values, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		p.blame(badParam("query", "is not readable: check its percent-encoding."))
	}
	p.query = values
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v := values[name]
		switch {
		case !slices.Contains(known, name):
			p.blame(&problem{Status: 400, Code: "parameter_unknown", Param: printable(name),
				Detail: "`" + printable(name) + "` is no parameter of this route. It takes: " + strings.Join(known, ", ") + "."})
		case len(v) > 1:
			p.blame(badParam(name, "is given more than once."))
		case !storable(v[0]) || len(v[0]) > maxID:
			p.blame(badParam(name, "must be UTF-8 text of at most %d bytes without control characters.", maxID))
		}
	}
	return p
}

// storable tells whether Postgres can compare s with a text.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// printable makes a stranger's name safe to repeat in an answer.
func printable(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
	return name[:min(len(name), 64)]
}

func (p *params) blame(fault *problem) {
	if p.fault == nil {
		p.fault = fault
	}
}

// done returns the first fault as an error.
func (p *params) done() error {
	if p.fault != nil {
		return p.fault
	}
	return nil
}

// text is a parameter's value, empty when it is absent. An empty one is a fault: it would read as no filter at all.
func (p *params) text(name string) string {
	v := p.query.Get(name)
	if v == "" && p.query.Has(name) {
		p.blame(badParam(name, "is empty."))
	}
	return v
}

func (p *params) oneOf(name string, allowed []string) string {
	v := p.text(name)
	if v != "" && !slices.Contains(allowed, v) {
		p.blame(badParam(name, "must be one of %s.", strings.Join(allowed, ", ")))
	}
	return v
}

// account is nil when it is absent; the empty one is the platform's own account.
func (p *params) account() *string {
	if !p.query.Has("account") {
		return nil
	}
	v := p.query.Get("account")
	return &v
}

func (p *params) flag(name string) *bool {
	v := p.text(name)
	switch v {
	case "":
		return nil
	case "true", "false":
		b := v == "true"
		return &b
	}
	p.blame(badParam(name, "must be true or false."))
	return nil
}

func (p *params) limit() int {
	v := p.text("limit")
	if v == "" {
		return defaultLimit
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxLimit {
		p.blame(badParam("limit", "must be a whole number from 1 to %d.", maxLimit))
		return defaultLimit
	}
	return n
}

// seconds is a moment given in Unix seconds, zero when absent.
func (p *params) seconds(name string) time.Time {
	v := p.text(name)
	if v == "" {
		return time.Time{}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > maxSeconds {
		p.blame(badParam(name, "must be a time in whole Unix seconds."))
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

// pathID is an id in the path. What cannot be an id is one that does not exist.
func pathID(c echo.Context, name string) (string, error) {
	id := c.Param(name)
	if c.Request().URL.RawPath != "" { // then the router has matched the path as it was sent
		var err error
		if id, err = url.PathUnescape(id); err != nil {
			return "", errNotFound
		}
	}
	if id == "" || len(id) > maxID || !storable(id) {
		return "", errNotFound
	}
	return id, nil
}
