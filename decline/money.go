package decline

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// moneyFormat is how one locale writes money, from CLDR.
type moneyFormat struct {
	prefix, suffix           string // around the number; ¤ stands for the symbol
	minusPrefix, minusSuffix string // the same for amounts below zero; - stands for minus
	decimal, group, minus    string
	zero                     rune // the digit zero; the other nine follow it
	primary, secondary       int  // digits of the last group and of the others; 0 for no grouping
	minGrouping              int  // digits needed before the first separator
	symbols                  map[string]string
}

// stripeScale is the number of decimals in Stripe's minor units where it is not 2, from docs.stripe.com/currencies
// (zero-decimal and three-decimal lists). UGX stands in the page's zero-decimal list too, but its special case there
// says that 5 UGX is 500, as ISK's does, and integrations which trusted the list charged a hundredth
// (woocommerce-gateway-stripe issue 2674); so both have 2. HUF and TWD are special for payouts alone.
var stripeScale = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "JPY": 0, "KMF": 0, "KRW": 0, "MGA": 0, "PYG": 0, "RWF": 0, "VND": 0,
	"VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "JOD": 3, "KWD": 3, "OMR": 3, "TND": 3,
}

// FormatMoney writes an amount of Stripe's minor units for a reader of locale, with the scale of Stripe's currency
// page (which differs from ISO 4217 for some, e.g. ISK and UGX) and CLDR's pattern. Currency is an ISO 4217 code in
// any case; an unknown one is written as its upper-case code with two decimals, and what is no code at all as ¤.
// Decimals that a currency is commonly written without (CLDR: ISK, HUF, COP, ...) are left out when they are zero, but
// an amount is never rounded.
func FormatMoney(amount int64, currency, locale string) string {
	f := moneyFormats[languageOf(locale).tag]
	code := currencyCode(currency)
	scale, ok := stripeScale[code]
	if !ok {
		scale = 2
	}
	magnitude := uint64(amount)
	if amount < 0 {
		magnitude = -magnitude // also right for the smallest int64
	}
	digits := strconv.FormatUint(magnitude, 10)
	if len(digits) <= scale {
		digits = strings.Repeat("0", scale+1-len(digits)) + digits
	}
	whole, fraction := digits[:len(digits)-scale], digits[len(digits)-scale:]
	if usual, ok := currencyDigits[code]; ok && usual < scale && strings.Trim(fraction[usual:], "0") == "" {
		fraction = fraction[:usual]
	}

	number := f.grouped(whole)
	if fraction != "" {
		number += f.decimal + f.native(fraction)
	}
	symbol, ok := f.symbols[code]
	if !ok {
		symbol = code
	}
	prefix, suffix := f.prefix, f.suffix
	if amount < 0 {
		prefix = strings.Replace(f.minusPrefix, "-", f.minus, 1)
		suffix = strings.Replace(f.minusSuffix, "-", f.minus, 1)
	}
	return before(prefix, symbol) + number + after(suffix, symbol)
}

// MoneyKnown tells whether there is an amount to write: nothing is paid with 0, and what is no code of a currency says not even how
// many decimals an amount has.
func MoneyKnown(amount int64, currency string) bool {
	return amount != 0 && currencyCode(currency) != "¤"
}

// currencyCode upper-cases three ASCII letters; anything else is ISO 4217's code for no currency, whose symbol is ¤,
// so that no text from outside gets into a mail this way.
func currencyCode(s string) string {
	if len(s) != 3 {
		return "¤"
	}
	code := strings.ToUpper(s)
	if len(code) != 3 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || code == "XXX" {
		return "¤"
	}
	return code
}

func (f *moneyFormat) grouped(whole string) string {
	if f.primary == 0 || len(whole) < f.primary+f.minGrouping {
		return f.native(whole)
	}
	cut := len(whole) - f.primary
	out := f.native(whole[cut:])
	for rest := whole[:cut]; rest != ""; {
		cut := max(0, len(rest)-f.secondary)
		out = f.native(rest[cut:]) + f.group + out
		rest = rest[:cut]
	}
	return out
}

// native writes ASCII digits in the digits of the locale.
func (f *moneyFormat) native(digits string) string {
	if f.zero == '0' {
		return digits
	}
	return strings.Map(func(r rune) rune { return r - '0' + f.zero }, digits)
}

// before and after put the symbol into an affix. CLDR's currency spacing asks for a no-break space between a digit
// and a symbol that does not end (or begin) with a sign, such as CHF.
func before(prefix, symbol string) string {
	at := strings.Index(prefix, "¤")
	if at < 0 {
		return prefix
	}
	rest := prefix[at+len("¤"):]
	last, _ := utf8.DecodeLastRuneInString(symbol)
	if rest == "" && needsSpace(last) {
		rest = "\u00a0"
	}
	return prefix[:at] + symbol + rest
}

func after(suffix, symbol string) string {
	at := strings.Index(suffix, "¤")
	if at < 0 {
		return suffix
	}
	first, _ := utf8.DecodeRuneInString(symbol)
	gap := suffix[:at]
	if gap == "" && needsSpace(first) {
		gap = "\u00a0"
	}
	return gap + symbol + suffix[at+len("¤"):]
}

func needsSpace(r rune) bool { return !unicode.IsSymbol(r) && !unicode.Is(unicode.Z, r) }
