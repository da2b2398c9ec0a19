package console

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	_ "time/tzdata" // a time zone must be known on every machine, or it would be refused on some

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// contactLimit bounds the body of PUT …/contact.
const contactLimit = 16 << 10

// contact is the body of PUT …/contact. It replaces what was said before; a member that is absent or null says nothing.
type contact struct {
	Email    string `json:"email"`
	Locale   string `json:"locale"`
	TimeZone string `json:"time_zone"`
}

func (s *server) readContact(w http.ResponseWriter, r *http.Request) (contact, error) {
	var c contact
	if !isJSON(r.Header.Get("Content-Type")) {
		return c, &problem{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Detail: "Send application/json."}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return c, &problem{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Detail: "Send the body as it is, without a Content-Encoding."}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, contactLimit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return c, err
	case err != nil: // its sender broke off, was too slow, or speaks no HTTP
		return c, badBody("", "The body could not be read to its end.")
	}
	// Strict about names: encoding/json would take EMAIL for email, and the last of two.
	if err := json.Unmarshal(body, &c, json.RejectUnknownMembers(true)); err != nil {
		return c, bodyFault(err)
	}
	switch {
	case c == contact{}:
		return c, badBody("", "The body needs at least one of `email`, `locale` and `time_zone`.")
	case c.Email != "" && !s.ValidEmail(c.Email):
		return c, badBody("email", "`email` must be one plain address, like name@shop.example.")
	case c.Locale != "" && !validLocale(c.Locale):
		return c, badBody("locale", "`locale` must be a BCP 47 language tag, like de or pt-BR.")
	case c.TimeZone != "" && !validTimeZone(c.TimeZone):
		return c, badBody("time_zone", "`time_zone` must be a name of the IANA time zone database, like Europe/Berlin.")
	}
	return c, nil
}

func badBody(param, detail string) *problem {
	return &problem{Status: http.StatusBadRequest, Code: "body_invalid", Param: param, Detail: detail}
}

// bodyFault words a decoding error by its member, never by its value: a value may be an address.
func bodyFault(err error) *problem {
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		name := memberOf(semantic.JSONPointer)
		return badBody(name, "`"+name+"` is no member of a contact; they are `email`, `locale` and `time_zone`.")
	case errors.As(err, &semantic) && semantic.JSONPointer != "":
		name := memberOf(semantic.JSONPointer)
		return badBody(name, "`"+name+"` must be a string or null.")
	case errors.As(err, &syntactic) && errors.Is(err, jsontext.ErrDuplicateName):
		name := memberOf(syntactic.JSONPointer)
		return badBody(name, "`"+name+"` stands in the body twice.")
	}
	return badBody("", "The body must be one JSON object.")
}

func memberOf(p jsontext.Pointer) string { return printable(p.LastToken()) }

// validLocale takes what has the form of a BCP 47 tag of at most 35 characters: a language of two or three letters,
// then subtags of one to eight letters or digits.
func validLocale(s string) bool {
	if len(s) > 35 {
		return false
	}
	for i, tag := range strings.Split(strings.ReplaceAll(s, "_", "-"), "-") {
		if tag == "" || len(tag) > 8 || i == 0 && (len(tag) < 2 || len(tag) > 3 || strings.ContainsAny(tag, "0123456789")) {
			return false
		}
		if strings.ContainsFunc(tag, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }) {
			return false
		}
	}
	return true
}

func validTimeZone(s string) bool {
	if len(s) > 64 || s == "Local" {
		return false
	}
	_, err := time.LoadLocation(s)
	return err == nil
}
