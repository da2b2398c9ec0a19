package email

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"regexp"
	"strings"
	"syscall"
	"unicode"

	"rebound/notify"
)

// Phase is the step of the SMTP dialogue at which an outcome fell.
type Phase string

// The phases, in their order.
const (
	PhaseRender   Phase = "render"   // encoding the mail, before any connection
	PhaseConnect  Phase = "connect"  // TCP, and TLS of smtps
	PhaseGreeting Phase = "greeting" // waiting for 220
	PhaseHello    Phase = "ehlo"
	PhaseTLS      Phase = "starttls"
	PhaseAuth     Phase = "auth"
	PhaseMail     Phase = "mail"
	PhaseRcpt     Phase = "rcpt"
	PhaseData     Phase = "data" // the DATA command and the body, up to the final dot
	PhaseDot      Phase = "dot"  // from the final dot on
)

// Outcome is what one Send came to. It is a value, not an error, and safe to store and log: Reason holds no address.
type Outcome struct {
	Result   notify.Result
	Phase    Phase
	Code     int    // SMTP reply code; 0 when no reply decided
	Enhanced string // RFC 3463 code such as "5.1.1"; empty when the server gave none
	Reason   string // English, one line, at most 300 octets
}

// errAbandoned marks what ended an attempt on purpose.
var errAbandoned = errors.New("abandoned")

// enhancedPattern matches an RFC 2034 code, which stands at the start of a reply's text.
var enhancedPattern = regexp.MustCompile(`^([245])\.(\d{1,3})\.(\d{1,3})(?:\s|$)`)

// outcomeOf judges an error at a phase. Secrets are strings that Reason must not show.
func outcomeOf(phase Phase, err error, secrets []string) Outcome {
	o := Outcome{Phase: phase}
	var reply *textproto.Error
	switch {
	case errors.Is(err, errAbandoned):
		o.Result, o.Reason = notify.Abandoned, "abandoned before the final dot"
		return o
	case phase == PhaseRender:
		o.Result, o.Reason = notify.RejectedMail, "mail cannot be encoded"
		return o
	case errors.As(err, &reply) && reply.Code >= 200 && reply.Code <= 599:
		o.Code = reply.Code
		if m := enhancedPattern.FindStringSubmatch(reply.Msg); m != nil && m[1][0]-'0' == byte(reply.Code/100) {
			o.Enhanced = strings.TrimSpace(m[0])
		}
		o.Result = resultOf(phase, o.Code, o.Enhanced)
		o.Reason = redact(fmt.Sprintf("%s: %d %s", phase, reply.Code, reply.Msg), secrets)
		return o
	}
	o.Reason = fmt.Sprintf("%s: %s", phase, fault(err))
	switch phase {
	case PhaseDot:
		o.Result = notify.Undecided
	case PhaseTLS, PhaseAuth:
		o.Result = notify.Deferred
		if !isNetwork(err) {
			// No certificate, no common mechanism: settings, theirs or ours, and the same for every mail.
			o.Result = notify.Paused
			o.Reason = redact(fmt.Sprintf("%s: %v", phase, err), secrets)
		}
	default:
		o.Result = notify.Deferred
	}
	return o
}

// resultOf judges a reply code. Sources: RFC 5321 section 4.2, RFC 3463, RFC 4954 section 6 for the log-in codes.
func resultOf(phase Phase, code int, enhanced string) notify.Result {
	switch {
	case code == 421, code == 530, code == 534, code == 535, code == 538:
		return notify.Paused
	case code >= 500 && isBeforeMail(phase):
		return notify.Paused
	case code >= 500 && phase == PhaseRcpt && isDeadMailbox(enhanced):
		return notify.RejectedAddress
	case code >= 500:
		return notify.RejectedMail
	case code >= 400:
		return notify.Deferred
	case phase == PhaseDot:
		return notify.Undecided // a 2xx or 3xx that is not 250: no statement at all
	default:
		return notify.Deferred
	}
}

func isBeforeMail(phase Phase) bool {
	switch phase {
	case PhaseConnect, PhaseGreeting, PhaseHello, PhaseTLS, PhaseAuth:
		return true
	case PhaseRender, PhaseMail, PhaseRcpt, PhaseData, PhaseDot:
	}
	return false
}

// isDeadMailbox tells whether an enhanced code says that the recipient's address is wrong or switched off: 5.1.x but
// for the codes that speak of a valid address (5.1.5) or of the sender and the relay (5.1.7 to 5.1.9), and 5.2.1.
func isDeadMailbox(enhanced string) bool {
	switch enhanced {
	case "5.2.1":
		return true
	case "5.1.5", "5.1.7", "5.1.8", "5.1.9":
		return false
	}
	return strings.HasPrefix(enhanced, "5.1.")
}

func isNetwork(err error) bool {
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.As(err, &network)
}

// fault names a failed connection in fixed words: the texts of net hold host names and ports.
func fault(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return "timed out"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &dns):
		return "host name not found"
	case isNetwork(err):
		return "connection lost"
	default:
		return "not understood"
	}
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// redact makes a server's text fit to be stored: one line, capped, and every word masked that holds an at sign, the
// recipient's address or any part of it, or one of the log-in's words. Servers like to repeat addresses, some encoded.
func redact(text string, secrets []string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, text)
	words := strings.Fields(text)
	for i, word := range words {
		if hidesSecret(strings.ToLower(word), secrets) {
			words[i] = "[redacted]"
		}
	}
	text = strings.Join(words, " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:297], "") + "..."
	}
	return text
}

func hidesSecret(word string, secrets []string) bool {
	if strings.Contains(word, "@") {
		return true
	}
	trimmed := strings.Trim(word, "<>()[]{}\"'.,;:!?")
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		secret = strings.ToLower(secret)
		// A short word such as "jo" would also be found inside honest ones.
		if trimmed == secret || len(secret) >= 4 && strings.Contains(word, secret) {
			return true
		}
	}
	return false
}

// addressSecrets lists the parts of an address that must not show.
func addressSecrets(address string) []string {
	local, domain, _ := strings.Cut(address, "@")
	return []string{local, domain, NormalizeMailbox(address), strings.SplitN(local, "+", 2)[0]}
}
