package console

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// Token opens the API and the console. Only hashes of it are kept.
type Token struct {
	sum     [sha256.Size]byte
	session []byte // key that signs the console sessions opened with this token
	account string // '' for everything
}

// ParseToken reads one item of API_TOKEN: `token` for everything, `token@acct_…` for one account. Its errors do not
// repeat the token.
func ParseToken(item string) (Token, error) {
	secret, account, scoped := strings.Cut(strings.TrimSpace(item), "@")
	switch {
	case secret == "":
		return Token{}, errors.New("an item is empty")
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' }):
		return Token{}, errors.New("a token may hold only visible ASCII characters and no comma")
	case scoped && (!strings.HasPrefix(account, "acct_") || !plainID(account)):
		// Never taken as a part of the token: a slip would open everything.
		return Token{}, errors.New("what follows @ is not an account id (acct_…)")
	}
	key := hmac.New(sha256.New, []byte(secret))
	key.Write([]byte("rebound console session 1 " + account))
	return Token{sum: sha256.Sum256([]byte(secret)), session: key.Sum(nil), account: account}, nil
}

func plainID(s string) bool {
	return s != "" && len(s) <= maxID && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// principal is who asks: an empty one may see every account.
type principal struct {
	account string
}

const principalKey = "principal"

func setPrincipal(c echo.Context, p principal) { c.Set(principalKey, p) }

// principalOf panics where guard has let nobody in: no answer is safer than one to a stranger.
func principalOf(c echo.Context) principal { return c.Get(principalKey).(principal) }

// bearer finds the token of an Authorization header. Every token is compared, so that time tells nothing.
func (s *server) bearer(header string) (principal, bool) {
	scheme, secret, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return principal{}, false
	}
	t := s.token(strings.TrimSpace(secret))
	if t == nil {
		return principal{}, false
	}
	return principal{account: t.account}, true
}

func (s *server) token(secret string) *Token {
	sum := sha256.Sum256([]byte(secret))
	found := -1
	for i := range s.Tokens {
		if equal := subtle.ConstantTimeCompare(sum[:], s.Tokens[i].sum[:]); equal == 1 && found < 0 {
			found = i
		}
	}
	if found < 0 {
		return nil
	}
	return &s.Tokens[found]
}

// sessionTime is how long a log-in to the console lasts.
const sessionTime = 12 * time.Hour

// seal makes a session: when it ends, signed with a key that only the token yields. It needs no storage, holds on every
// replica, and dies with the token.
func (t *Token) seal(ends time.Time) string {
	expiry := strconv.FormatInt(ends.Unix(), 10)
	return expiry + "." + base64.RawURLEncoding.EncodeToString(t.sign(expiry))
}

func (t *Token) sign(expiry string) []byte {
	mac := hmac.New(sha256.New, t.session)
	mac.Write([]byte(expiry))
	return mac.Sum(nil)
}

// session finds the token that a session was opened with, nil for one that is forged, over, or of a token withdrawn.
func (s *server) session(value string) *Token {
	expiry, signature, _ := strings.Cut(value, ".")
	ends, err := strconv.ParseInt(expiry, 10, 64)
	if err != nil || s.Now().Unix() >= ends {
		return nil
	}
	given, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		return nil
	}
	for i := range s.Tokens {
		if hmac.Equal(given, s.Tokens[i].sign(expiry)) {
			return &s.Tokens[i]
		}
	}
	return nil
}

// String names a token in logs without telling it.
func (t Token) String() string {
	if t.account != "" {
		return hex.EncodeToString(t.sum[:4]) + "@" + t.account
	}
	return hex.EncodeToString(t.sum[:4])
}
