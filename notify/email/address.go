package email

import (
	"errors"
	"strings"

	"golang.org/x/net/idna"
)

// ErrBadAddress says that a recipient or sender is not an address that Rebound mails to. It never holds the address.
var ErrBadAddress = errors.New("address is not a plain mailbox")

const (
	maxAddress = 254 // octets of a forward-path without its angle brackets, RFC 5321 section 4.5.3.1.3
	maxLocal   = 64  // octets, RFC 5321 section 4.5.3.1.1
	maxDomain  = 253
)

// hostname maps a domain to lower case ASCII as IDNA's look-up does, and insists on host name syntax.
var hostname = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// ValidAddress checks a mailbox for the envelope and returns it with its domain in lower case ASCII (IDNA). It takes
// dot-atom local parts of ASCII and domains of two labels or more, and refuses everything else that RFC 5321 and 5322
// allow: display names, groups, source routes, comments, quoted strings and address literals. It also refuses what
// mail programs have taken for an option, a path, a shell word or a relay instruction: a leading hyphen, and any of
// % ! | ` $.
func ValidAddress(s string) (string, bool) {
	if len(s) == 0 || len(s) > maxAddress {
		return "", false
	}
	local, domain, found := strings.Cut(s, "@")
	if !found || !validLocal(local) || domain == "" || strings.HasSuffix(domain, ".") {
		return "", false
	}
	ascii, err := hostname.ToASCII(domain)
	if err != nil || len(ascii) > maxDomain || !validDomain(ascii) {
		return "", false
	}
	address := local + "@" + ascii
	return address, len(address) <= maxAddress
}

func validLocal(local string) bool {
	if local == "" || len(local) > maxLocal || local[0] == '-' || local[0] == '/' {
		return false
	}
	previous := byte('.') // so that a leading dot counts as a double one
	for i := range len(local) {
		c := local[i]
		if c == '.' && previous == '.' {
			return false
		}
		if c != '.' && !isAlphanumeric(c) && !strings.ContainsRune("#&'*+-/=?^_{}~", rune(c)) {
			return false
		}
		previous = c
	}
	return previous != '.'
}

func validDomain(domain string) bool {
	labels := strings.Split(domain, ".")
	if len(labels) < 2 {
		return false
	}
	for _, label := range labels {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; c != '-' && !isAlphanumeric(c) {
				return false
			}
		}
	}
	// A last label of digits alone is an IPv4 address without brackets.
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// NormalizeMailbox names the mailbox behind an address, so that limits count people and not spellings: lower case,
// the domain in ASCII, without a +tag, and for Gmail without dots and under one domain. It is for counting only; mail
// goes to the address as given. A string that is no address is returned in lower case, so that it still counts as one.
func NormalizeMailbox(address string) string {
	address = strings.TrimSpace(address)
	valid, ok := ValidAddress(address)
	if !ok {
		return strings.ToLower(address)
	}
	local, domain, _ := strings.Cut(strings.ToLower(valid), "@")
	if base, _, tagged := strings.Cut(local, "+"); tagged && base != "" {
		local = base
	}
	if domain == "gmail.com" || domain == "googlemail.com" {
		domain = "gmail.com"
		local = strings.ReplaceAll(local, ".", "")
	}
	return local + "@" + domain
}
