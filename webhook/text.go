package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The longest texts kept, in bytes. Ids and codes become index entries, and a btree entry holds no more than 2,704.
const (
	maxID    = 255
	maxCode  = 120
	maxShort = 40
	maxEmail = 320
	maxText  = 500
)

// maxLocales is how many of a customer's languages are kept.
const maxLocales = 5

// addressLike finds what may be an address in a text of any shape, with what may stand around one.
var addressLike = regexp.MustCompile(`[^\s"<>(),:;\\]+@[^\s"<>(),:;\\]+`)

// secretLike finds client secrets where they are not members of their own: pi_…_secret_…, and src_client_secret_… in the
// address that a customer is sent to.
var secretLike = regexp.MustCompile(`[A-Za-z0-9_]*_secret_[A-Za-z0-9]+`)

// safeText makes a provider's text safe to keep: valid UTF-8 (Postgres refuses anything else, and NUL, for ever), no
// control characters (a log line stays one line), no card number, at most limit bytes. It says how many card numbers it
// masked.
func safeText(s string, limit int) (string, int) {
	if plain(s) && len(s) <= limit {
		return s, 0
	}
	s, masked := maskCardNumbers(storable(s))
	return cut(s, limit), masked
}

func storable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == 0 || c == utf8.RuneError:
			return utf8.RuneError
		case unicode.IsControl(c):
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

func cut(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return s
}

// plain says that s is printable ASCII without a run of digits that could be a card number: nearly every text is.
func plain(s string) bool {
	digits := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c < ' ' || c > '~':
			return false
		case '0' <= c && c <= '9':
			if digits++; digits >= minCardDigits {
				return false
			}
		case c != ' ' && c != '-':
			digits = 0
		}
	}
	return true
}

// safeID makes an id safe to keep and to list among others: no white space, and, if it is too long, a shortened form
// that still differs from every other id. A run of digits behind a provider's prefix (evt_…) or inside a UUID is not a
// card number.
func safeID(s string) (string, int) {
	known, masked := providersID(s), 0
	if known && len(s) <= maxID {
		return s, 0 // as nearly every id
	}
	if !known {
		s, masked = safeText(s, len(s))
	}
	s = strings.Map(func(c rune) rune {
		if unicode.IsSpace(c) {
			return '_'
		}
		return c
	}, s)
	if len(s) > maxID {
		sum := sha256.Sum256([]byte(s))
		s = shortened(s, sum[:])
	}
	return s, masked
}

// shortened is an id that says by a hash what it does not say itself.
func shortened(s string, hash []byte) string {
	s, _ = safeText(s[:min(len(s), maxID-40)], maxID-33)
	return s + "~" + hex.EncodeToString(hash[:min(len(hash), 16)])
}

// providersID says that s looks like an id that a provider made. A text with a space in it is a person's, whatever it
// begins with.
func providersID(s string) bool { return graphic(s) && (prefixed(s) || uuid(s)) }

// graphic says that s is ASCII without spaces and control characters.
func graphic(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// prefixed says that s begins as a provider's ids do: two to six small letters and an underscore.
func prefixed(s string) bool {
	i := strings.IndexByte(s, '_')
	if i < 2 || i > 6 {
		return false
	}
	for _, c := range []byte(s[:i]) {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}

// uuid says that s has the form of one. One in 440 random UUIDs holds what could be a card number.
func uuid(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i] | 0x20 // lower case; a digit or a hyphen stays what it is
		switch hyphen := i == 8 || i == 13 || i == 18 || i == 23; {
		case hyphen != (s[i] == '-'):
			return false
		case !hyphen && !digit(s[i]) && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

// Card numbers have 13 to 19 digits (ISO/IEC 7812) and none begins with 0.
const (
	minCardDigits = 13
	maxCardDigits = 19
)

// maskCardNumbers replaces all but the last four digits of every run of digits that could be a card number, single
// spaces and hyphens between digits allowed: people do paste them into descriptions. It says how many it replaced.
func maskCardNumbers(s string) (string, int) {
	var out []byte
	masked, covered := 0, 0
	for i := 0; i < len(s); {
		if !digit(s[i]) {
			i++
			continue
		}
		group, end, count := cardAt(s, i)
		if count > 0 {
			if out == nil {
				out = []byte(s)
			}
			for at, seen := i, 0; at < end; at++ {
				if digit(s[at]) {
					if seen++; seen <= count-4 {
						out[at] = '*'
					}
				}
			}
			if i >= covered {
				masked++
			}
			covered = max(covered, end)
		}
		i = group // a number may begin inside what only looks like one
	}
	if out == nil {
		return s, 0
	}
	return string(out), masked
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// cardAt returns where the group of digits that begins at i ends, and the end and the digits of the longest card number
// that begins with it and ends with a group: an expiry date or another card may follow one.
func cardAt(s string, i int) (group, end, count int) {
	at, digits := i, 0
	for {
		for ; at < len(s) && digit(s[at]); at++ {
			digits++
		}
		if group == 0 {
			group = at
		}
		if cardNumber(s[i:at], digits) {
			end, count = at, digits
		}
		next := at + separator(s[at:])
		if digits >= maxCardDigits || next == at || next == len(s) || !digit(s[next]) {
			return group, end, count
		}
		at = next
	}
}

// separator is how many bytes a space or a hyphen at the beginning of s has. Web pages and typesetters have kinds of their
// own.
func separator(s string) int {
	c, n := utf8.DecodeRuneInString(s)
	if unicode.IsSpace(c) || unicode.Is(unicode.Dash, c) {
		return n
	}
	return 0
}

// cardNumber says whether a run of count digits has the length and the Luhn check digit of a card number.
func cardNumber(run string, count int) bool {
	if count < minCardDigits || count > maxCardDigits || run[0] == '0' {
		return false
	}
	sum, twice := 0, false
	for i := len(run) - 1; i >= 0; i-- {
		if !digit(run[i]) {
			continue
		}
		n := int(run[i] - '0')
		if twice {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
		twice = !twice
	}
	return sum%10 == 0
}
