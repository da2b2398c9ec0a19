package decline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Overrides are a merchant's own verdicts on single codes. The zero value has none. They reach the class of a code
// and never what networks and advice codes demand; they can make a code less disclosed, never more.
type Overrides struct{ byCode map[string]override }

type override struct {
	severity Severity
	next     NextStep
	retry    RetryVerdict
	hidden   bool
}

// Len is the number of codes with an override.
func (o Overrides) Len() int { return len(o.byCode) }

// mostOverrides bounds the file: more than a catalog's worth of lines is a mistake.
const mostOverrides = 1 << 20

// LoadOverrides reads and checks a file of overrides: one JSON object, by code as the catalog names it, e.g.
//
//	{"do_not_honor": {"severity": "hard", "retry": "never"}, "card_velocity_exceeded": {"disclosable": false}}
//
// The members are severity, next_step, retry and disclosable; all may be left out. It refuses what could do harm: an
// unknown code or word, a code or member given twice, disclosable true on a code that is not disclosed, and a looser
// retry for a code that is never to be retried, has a wait or a bound of its own, or is a fraud signal. All faults are
// reported at once, one line each.
func LoadOverrides(from io.Reader) (Overrides, error) {
	raw, err := io.ReadAll(io.LimitReader(from, mostOverrides+1))
	if err != nil {
		return Overrides{}, fmt.Errorf("reading the overrides: %w", err)
	}
	if len(raw) > mostOverrides {
		return Overrides{}, fmt.Errorf("reading the overrides: the file is larger than %d bytes", mostOverrides)
	}
	byCode, err := onceEach(raw)
	if err != nil {
		return Overrides{}, fmt.Errorf("reading the overrides: %w", err)
	}
	out := Overrides{byCode: map[string]override{}}
	var faults []error
	for _, code := range slices.Sorted(maps.Keys(byCode)) {
		o, err := parseOverride(code, byCode[code])
		if err != nil {
			faults = append(faults, fmt.Errorf("reading the override of %s: %w", code, err))
			continue
		}
		out.byCode[code] = o
	}
	if len(faults) > 0 {
		return Overrides{}, errors.Join(faults...)
	}
	return out, nil
}

// onceEach splits a JSON object into its members and refuses a name given twice, which encoding/json would let pass.
func onceEach(raw []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	switch t, err := dec.Token(); {
	case err != nil:
		return nil, fmt.Errorf("not a JSON object: %w", err)
	case t != json.Delim('{'):
		return nil, errors.New("not a JSON object")
	}
	out := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("reading a name: %w", err)
		}
		name, _ := t.(string)
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%q stands there twice", name)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("reading %q: %w", name, err)
		}
		out[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("reading the end of the object: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the object")
	}
	return out, nil
}

func parseOverride(code string, raw json.RawMessage) (o override, err error) {
	rows := rowsNamed(code)
	if len(rows) == 0 {
		_, alike := Explain(code, "", "")
		if len(alike) > 0 {
			return o, fmt.Errorf("no such code; did you mean %s", strings.Join(alike, ", "))
		}
		return o, errors.New("no such code")
	}
	members, err := onceEach(raw)
	if err != nil {
		return o, err
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if err := o.set(name, members[name], rows); err != nil {
			return o, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return o, nil
}

func (o *override) set(name string, raw json.RawMessage, rows []*row) error {
	if name == "disclosable" {
		var open *bool
		if err := json.Unmarshal(raw, &open); err != nil || open == nil {
			return errors.New("it has to be true or false")
		}
		if *open && slices.ContainsFunc(rows, func(r *row) bool { return r.disclose != disclose }) {
			return errors.New("this code is never disclosed")
		}
		o.hidden = !*open
		return nil
	}
	if name != "severity" && name != "next_step" && name != "retry" {
		return errors.New("no such member; severity, next_step, retry and disclosable are")
	}
	var word string
	if err := json.Unmarshal(raw, &word); err != nil {
		return errors.New("it has to be a word")
	}
	switch name {
	case "severity":
		if o.severity = Severity(word); o.severity != Soft && o.severity != Hard {
			return fmt.Errorf("%q is not soft or hard", word)
		}
	case "next_step":
		if o.next = NextStep(word); !slices.Contains(nextSteps, o.next) {
			return fmt.Errorf("%q is none of %s", word, words(nextSteps))
		}
	case "retry":
		o.retry = RetryVerdict(word)
		if strictness(o.retry) < 0 {
			return fmt.Errorf("%q is none of retry_now, retry_later, after_customer_action, never", word)
		}
		for _, r := range rows {
			if strictness(o.retry) < strictness(r.retry) && (r.retry == RetryNever || r.disclose == secret || r.rule != "") {
				return fmt.Errorf("%s is looser than the rule %s allows", word, ruleName(r))
			}
		}
	}
	return nil
}

func ruleName(r *row) string {
	if r.rule != "" {
		return r.rule
	}
	return string(r.table) + ":" + r.code
}

// rowsNamed finds every row whose verdict names the code; networks' own numbers are not for merchants to change.
func rowsNamed(code string) []*row {
	var out []*row
	for _, r := range known.rows {
		if r.names == code && r.category != "" && r.network == "" {
			out = append(out, r)
		}
	}
	return out
}

func words[T ~string](all []T) string {
	s := make([]string, len(all))
	for i, w := range all {
		s[i] = string(w)
	}
	return strings.Join(s, ", ")
}
