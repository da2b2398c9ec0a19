package decline

import (
	"sort"
	"strconv"
	"strings"
)

// DefaultLocale is the language of last resort.
const DefaultLocale = "en"

// language is one supported language.
type language struct {
	tag         string
	rightToLeft bool
	join        string // between two sentences
}

// languages are the supported ones, in the order of Locales. A tag needs words/<tag>.json and a row of the generated
// money table.
var languages = []language{
	{tag: "en", join: " "},
	{tag: "de", join: " "},
	{tag: "fr", join: " "},
	{tag: "es", join: " "},
	{tag: "it", join: " "},
	{tag: "nl", join: " "},
	{tag: "pt", join: " "},
	{tag: "pt-BR", join: " "},
	{tag: "da", join: " "},
	{tag: "sv", join: " "},
	{tag: "nb", join: " "},
	{tag: "fi", join: " "},
	{tag: "pl", join: " "},
	{tag: "cs", join: " "},
	{tag: "sk", join: " "},
	{tag: "hu", join: " "},
	{tag: "ro", join: " "},
	{tag: "bg", join: " "},
	{tag: "el", join: " "},
	{tag: "hr", join: " "},
	{tag: "tr", join: " "},
	{tag: "uk", join: " "},
	{tag: "ja", join: ""},
	{tag: "ko", join: " "},
	{tag: "zh-Hans", join: ""},
	{tag: "zh-Hant", join: ""},
	{tag: "ar", rightToLeft: true, join: " "},
	{tag: "he", rightToLeft: true, join: " "},
	{tag: "hi", join: " "},
	{tag: "id", join: " "},
	{tag: "th", join: " "},
	{tag: "vi", join: " "},
}

var languageByTag = func() map[string]language {
	m := make(map[string]language, len(languages))
	for _, l := range languages {
		m[l.tag] = l
	}
	return m
}()

// Locales lists the languages that customers can be addressed in, DefaultLocale first.
func Locales() []string {
	tags := make([]string, len(languages))
	for i, l := range languages {
		tags[i] = l.tag
	}
	return tags
}

// Limits on what MatchLocale reads: preferences reach it from browsers and from metadata that anyone may fill.
const (
	maxPreferences = 16  // strings
	maxPreference  = 512 // bytes of one string; the rest is ignored
	maxRanges      = 32  // language ranges of one string
	maxTag         = 35  // bytes of one tag, as RFC 5646 §4.4.1 recommends
)

// MatchLocale picks the supported locale that fits the preferences best (BCP 47 tags, or Accept-Language lists), the
// first preference first, and DefaultLocale when none fits. It reads a bounded part of oversized input.
func MatchLocale(preferred ...string) string {
	for _, p := range preferred[:min(len(preferred), maxPreferences)] {
		p = p[:min(len(p), maxPreference)]
		if _, ok := languageByTag[p]; ok {
			return p
		}
		for _, r := range ranges(p) {
			if tag, ok := lookup(r.tag); ok {
				return tag
			}
		}
	}
	return DefaultLocale
}

func languageOf(locale string) language {
	return languageByTag[MatchLocale(locale)]
}

// weighted is a language range of RFC 9110 §12.5.4 with its quality in thousandths.
type weighted struct {
	tag     string
	quality int
}

// ranges splits an Accept-Language list, best first; ranges of equal quality keep their order, unacceptable ones
// (q=0) and malformed ones are left out.
func ranges(list string) []weighted {
	var out []weighted
	for n := 0; list != "" && n < maxRanges; n++ {
		var item string
		item, list, _ = strings.Cut(list, ",")
		tag, params, _ := strings.Cut(item, ";")
		tag = strings.TrimSpace(tag)
		if tag == "" || len(tag) > maxTag {
			continue
		}
		if q := quality(params); q > 0 {
			out = append(out, weighted{tag, q})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].quality > out[j].quality })
	return out
}

// quality reads "q=0.8" into 800. No weight is 1000; an unreadable one is 0.
func quality(params string) int {
	for params != "" {
		var p string
		p, params, _ = strings.Cut(params, ";")
		name, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return 0
		}
		return int(f * 1000)
	}
	return 1000
}

// languageAliases are deprecated codes of the IANA registry, macrolanguages, and languages whose readers are written
// to in a neighbour's written standard (CLDR's language matching data).
var languageAliases = map[string]string{
	"iw": "he", "in": "id", "mo": "ro", "no": "nb", "nn": "nb", "cmn": "zh", "yue": "zh-yue", "gsw": "de",
}

// lookup finds the supported locale of one tag, by RFC 4647 lookup with the likely scripts of Chinese.
func lookup(tag string) (string, bool) {
	tag, _, _ = strings.Cut(strings.ToLower(tag), ".") // POSIX "de_DE.UTF-8"
	tag, _, _ = strings.Cut(tag, "@")
	subtags := strings.Split(strings.ReplaceAll(tag, "_", "-"), "-")
	for i, s := range subtags {
		if !alphanumeric(s) {
			return "", false
		}
		if len(s) == 1 {
			subtags = subtags[:i] // an extension or private use says nothing of the language
			break
		}
	}
	if len(subtags) == 0 || len(subtags[0]) > 3 {
		return "", false
	}
	if alias, ok := languageAliases[subtags[0]]; ok {
		subtags = append(strings.Split(alias, "-"), subtags[1:]...)
	}
	found := subtags[0]
	switch found {
	case "zh":
		found = "zh-Hans"
		if traditional(subtags[1:]) {
			found = "zh-Hant"
		}
	case "pt":
		for _, s := range subtags[1:] {
			if s == "br" {
				found = "pt-BR"
			}
		}
	}
	_, ok := languageByTag[found]
	return found, ok
}

// traditional tells whether Chinese with these subtags is written in traditional script. A script subtag decides
// over a region.
func traditional(subtags []string) bool {
	byRegion := false
	for _, s := range subtags {
		switch s {
		case "hant":
			return true
		case "hans":
			return false
		case "tw", "hk", "mo", "yue":
			byRegion = true
		}
	}
	return byRegion
}

// alphanumeric tells whether s is a subtag of BCP 47: 1 to 8 ASCII letters or digits. s is lower case.
func alphanumeric(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 8
}
