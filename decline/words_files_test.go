package decline

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// The texts that every language must have: no more, no less.
func neededReasons() []string {
	needed := map[string]bool{reasonDeclined: true, reasonDetails: true}
	for _, r := range reasons {
		needed[r] = true
	}
	return sorted(needed)
}

func neededSteps() []string {
	needed := map[string]bool{}
	for _, s := range []NextStep{
		Authenticate, CorrectDetails, UseAnotherMethod, ContactIssuer, TryAgain, TryAgainLater, RenewAuthorization,
		CheckExistingPayment, ResumeCheckout, NoCustomerAction,
	} {
		needed[string(s)] = true
	}
	for _, f := range []Field{FieldNumber, FieldCVC, FieldExpiry, FieldPostalCode, FieldName, FieldAmount} {
		needed["correct_"+string(f)] = true
	}
	for _, s := range codeSteps {
		needed[s] = true
	}
	return sorted(needed)
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// phrasePlaceholders are the placeholders of each phrase; a phrase that is not named has none.
var phrasePlaceholders = map[string][]string{
	"subject":        {"{merchant}"},
	"preheader":      {"{amount}"},
	"intro":          {"{amount}", "{merchant}"},
	"support":        {"{support}"},
	"why_this_mail":  {"{merchant}"},
	"reminder":       {"{merchant}"},
	"inbox_title":    {"{amount}"},
	"page_unsub_ask": {"{merchant}"},
}

// texts returns all of a language by section and key.
func texts(t *testing.T, lex *lexicon) map[string]string {
	t.Helper()
	all := map[string]string{}
	for k, v := range lex.Reasons {
		all["reasons."+k] = v
	}
	for k, v := range lex.Steps {
		all["steps."+k] = v
	}
	v := reflect.ValueOf(lex.Phrases)
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("json"); key != "-" {
			require.NotEmpty(t, key)
			all["phrases."+key] = v.Field(i).String()
		}
	}
	return all
}

func TestNoLanguageHasAGapOrAnExtraText(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(languages), 24)
	files, err := wordFiles.ReadDir("words")
	require.NoError(t, err)
	require.Len(t, files, len(languages))
	placeholder := regexp.MustCompile(`\{[^}]*\}?|\}`)
	for _, l := range languages {
		lex, err := readLexicon(l)
		require.NoError(t, err)
		require.Equal(t, neededReasons(), sorted(lex.Reasons), l.tag)
		require.Equal(t, neededSteps(), sorted(lex.Steps), l.tag)
		requireUniqueKeys(t, l.tag)
		require.NotNil(t, moneyFormats[l.tag], l.tag)
		for key, text := range texts(t, lex) {
			require.NotEmpty(t, text, "%s %s", l.tag, key)
			require.Equal(t, strings.TrimSpace(text), text, "%s %s", l.tag, key)
			require.LessOrEqual(t, utf8.RuneCountInString(text), 200, "%s %s", l.tag, key)
			got := placeholder.FindAllString(text, -1)
			slices.Sort(got)
			require.Equal(t, phrasePlaceholders[strings.TrimPrefix(key, "phrases.")], got, "%s %s: %s", l.tag, key, text)
			for _, r := range text {
				require.False(t, unicode.IsControl(r) || r == '<' || r == '>' || r == utf8.RuneError, "%s %s", l.tag, key)
			}
		}
	}
	require.Len(t, moneyFormats, len(languages))
}

// requireUniqueKeys fails on a key that a JSON decoder would silently overwrite.
func requireUniqueKeys(t *testing.T, tag string) {
	t.Helper()
	raw, err := wordFiles.ReadFile("words/" + tag + ".json")
	require.NoError(t, err)
	dec := json.NewDecoder(bytes.NewReader(raw))
	var seen []map[string]bool
	key := false
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
		switch tok := tok.(type) {
		case json.Delim:
			if tok == '{' {
				seen = append(seen, map[string]bool{})
			} else {
				seen = seen[:len(seen)-1]
			}
			key = true
		case string:
			if key {
				require.False(t, seen[len(seen)-1][tok], "%s has %s twice", tag, tok)
				seen[len(seen)-1][tok] = true
			}
			key = !key
		}
	}
}

func TestASentenceEndsAsItsScriptAsks(t *testing.T) {
	t.Parallel()
	ends := map[string]string{"ja": "。", "zh-Hans": "。", "zh-Hant": "。", "hi": "।"}
	for _, l := range languages {
		if l.tag == "th" {
			continue // Thai has no full stop
		}
		end, ok := ends[l.tag]
		if !ok {
			end = "."
		}
		lex := lexicons[l.tag]()
		for _, section := range []map[string]string{lex.Reasons, lex.Steps} {
			for key, text := range section {
				require.True(t, strings.HasSuffix(text, end), "%s %s: %s", l.tag, key, text)
			}
		}
		require.NotContains(t, lex.Phrases.Subject, end, l.tag) // a title is no sentence
		require.NotContains(t, lex.Phrases.Button, end, l.tag)
	}
}

// French sets a space before these marks, and a mark alone on its line is what a narrow window would make of an ordinary one.
func TestNoLineBreaksBeforeAMark(t *testing.T) {
	t.Parallel()
	for _, l := range languages {
		for key, text := range texts(t, lexicons[l.tag]()) {
			require.NotRegexp(t, ` [?!:;»]|« `, text, "%s %s", l.tag, key)
		}
	}
}

// A mail program makes a link of an address that it finds, and some take the letters of any script that touch it for a part of it.
func TestNoWordTouchesTheSupportAddress(t *testing.T) {
	t.Parallel()
	for _, l := range languages {
		require.NotRegexp(t, `\pL\{support\}|\{support\}\pL`, lexicons[l.tag]().Phrases.Support, l.tag)
	}
}

func TestNoTwoLanguagesShareATranslationByAccident(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, l := range languages {
		lex := lexicons[l.tag]()
		for _, key := range []string{"insufficient_funds", "limit", "mandate", "processing_error"} {
			if other := seen[lex.Reasons[key]]; other != "" {
				require.Equal(t, "pt pt-BR", other+" "+l.tag, key) // one language in two countries
			}
			seen[lex.Reasons[key]] = l.tag
		}
		require.Len(t, uniq(lex.Reasons), len(lex.Reasons), l.tag)
		require.Len(t, uniq(lex.Steps), len(lex.Steps), l.tag)
	}
}

func uniq(m map[string]string) map[string]bool {
	u := map[string]bool{}
	for _, v := range m {
		u[v] = true
	}
	return u
}

// hintsOfFraud are the words that would tell a customer of a fraud filter or of a reported card, per language, as
// stems in lower case (_ for a space). The English ones are looked for everywhere, as whole words.
var hintsOfFraud = map[string]string{
	"en":      "fraud fraudulent stolen stole lost blocked block risk risky suspicious suspected blacklist radar pickup restricted security",
	"de":      "betrug betrüg gestohlen verloren gesperrt sperr risiko verdächtig verdacht",
	"fr":      "fraud volé perdu bloqu risque suspect",
	"es":      "fraud robad robo perdid bloque riesgo sospech",
	"it":      "frod rubat smarrit bloccat rischio sospett",
	"nl":      "fraud gestolen verloren geblokkeerd risico verdacht",
	"pt":      "fraud roubad perdid bloque risco suspeit",
	"pt-BR":   "fraud roubad perdid bloque risco suspeit",
	"da":      "svindel bedrag stjål tabt mistet spærret blokeret risiko mistænk",
	"sv":      "bedräg stulen stulet förlorad spärrad blockerad risk misstänk",
	"nb":      "svindel bedrag stjål mistet sperret blokkert risiko mistenk",
	"fi":      "petos petok varast kadonn esty estetty riski epäil",
	"pl":      "oszust kradzi skradz zgubi zablok ryzyk podejrz",
	"cs":      "podvod ukrad odciz ztracen blok rizik podezř",
	"sk":      "podvod ukrad odcudz straten blok rizik podozr",
	"hu":      "csal lopott elveszett letilt zárol kockázat gyanús",
	"ro":      "fraud furat pierdut bloc risc suspect",
	"bg":      "измам откраднат изгубен блок риск подозр",
	"el":      "απάτη κλεμμέν χαμέν αποκλεισ μπλοκ κίνδυν ύποπτ",
	"hr":      "prijevar ukrad izgubljen blok rizi sumnj",
	"tr":      "dolandır sahte çalıntı kayıp engel risk şüphe bloke",
	"uk":      "шахра викрад вкрад загублен втрачен блок ризик підозр",
	"ja":      "不正 詐欺 盗難 紛失 リスク 疑 ブロック",
	"ko":      "사기 도난 분실 차단 위험 의심",
	"zh-Hans": "欺诈 盗 丢失 挂失 冻结 风险 可疑 拦截",
	"zh-Hant": "詐欺 詐騙 盜 遺失 掛失 凍結 風險 可疑 封鎖",
	"ar":      "احتيال مسروق مفقود محظور مخاطر مشبوه",
	"he":      "הונאה גנוב אבוד חסום סיכון חשוד",
	"hi":      "धोखा चोरी खो अवरुद्ध ब्लॉक जोखिम संदिग्ध",
	"id":      "penipu dicuri curian hilang blokir risiko curiga",
	"th":      "ฉ้อโกง ขโมย สูญหาย บล็อก ระงับ ความเสี่ยง สงสัย",
	"vi":      "gian_lận đánh_cắp thất_lạc chặn khóa rủi_ro đáng_ngờ",
}

// The security code on a card is no hint.
var harmless = strings.NewReplacer("security code (cvc)", "")

func TestNoTextHintsAtFraud(t *testing.T) {
	t.Parallel()
	english := regexp.MustCompile(`\b(` + strings.ReplaceAll(hintsOfFraud["en"], " ", "|") + `)\b`)
	for _, l := range languages {
		require.NotEmpty(t, hintsOfFraud[l.tag], l.tag)
		for key, text := range texts(t, lexicons[l.tag]()) {
			text = harmless.Replace(strings.ToLower(text))
			require.NotRegexp(t, english, text, "%s %s", l.tag, key)
			if l.tag == "en" {
				continue
			}
			for stem := range strings.FieldsSeq(hintsOfFraud[l.tag]) {
				stem = strings.ReplaceAll(stem, "_", " ")
				if strings.Contains(text, stem) {
					require.Failf(t, "a hint of fraud", "%s %s: %q in %q", l.tag, key, stem, text)
				}
			}
		}
	}
}

// A second lock behind Verdict.Public: no sentence exists for a code that no customer may learn.
func TestNoReasonIsWrittenForAFraudSignal(t *testing.T) {
	t.Parallel()
	for _, code := range strings.Fields(`generic_decline fraudulent lost_card stolen_card pickup_card merchant_blacklist
		restricted_card security_violation high_risk_customer partner_high_risk_customer compliance_violation
		payment_disputed invalid_business_account payment_not_found recipient_deceased highest_risk_level
		elevated_risk_level rule requested_block_on_file low_probability_of_authorization fraud_declined fraud_review
		previously_declined_do_not_retry request_blocked action_blocked`) {
		p := Public{Code: code, NextStep: ContactIssuer}
		require.Equal(t, reasonDeclined, reasonOf(p), code)
		require.Equal(t, Public{Code: GenericDecline}.Message("en").Text, p.Message("en").Text)
	}
}

func TestRightToLeftLanguagesAreWrittenInTheirScript(t *testing.T) {
	t.Parallel()
	for _, l := range languages {
		for key, text := range texts(t, lexicons[l.tag]()) {
			rtl := strings.ContainsFunc(text, func(r rune) bool { return unicode.In(r, unicode.Arabic, unicode.Hebrew) })
			require.Equal(t, l.rightToLeft, rtl, "%s %s", l.tag, key)
		}
	}
}
