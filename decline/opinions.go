package decline

import "fmt"

var opinionHeader = []string{"code", "verdict", "recovery", "policy", "source", "edition"}

// loadOpinions reads what Hyperswitch's smart-retry tables say, as lines and by code.
func loadOpinions() (lines [][]string, byCode map[string][]string, err error) {
	if lines, err = readCSV("catalog/opinions.csv", opinionHeader); err != nil {
		return nil, nil, err
	}
	m := map[string][]string{}
	for _, l := range lines {
		if m[l[0]] != nil {
			return nil, nil, fmt.Errorf("reading the opinion on %s: it stands there twice", l[0])
		}
		m[l[0]] = l
	}
	return lines, m, nil
}

// opinionsOf collects what the sources other than decided say of a code: the smart-retry document's verdict and
// recovery category, and the other provider's severity for the code of the same name.
func opinionsOf(code string, decided Source, smart map[string][]string, byTable map[Table]map[key]*row) []Opinion {
	var out []Opinion
	if l := smart[code]; l != nil && l[1] != "category" {
		out = append(out, Opinion{Source: "hyperswitch", Verdict: l[1]})
		if l[2] != "" {
			out = append(out, Opinion{Source: "hyperswitch_recovery", Verdict: l[2]})
		}
	}
	other, table := "frame", FrameDeclineCodes
	if decided == Frame {
		other, table = "stripe", StripeDeclineCodes
	}
	if r := byTable[table][key{code: code}]; r != nil {
		out = append(out, Opinion{Source: other, Verdict: string(r.severity)})
	}
	return out
}
