package webhook

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// reader walks a JSON document once and takes what it is asked for, by exact, case-sensitive name. Each value is read on
// its own: one of the wrong kind is skipped, left at its zero value and noted as a misfit, and costs nothing else. Only
// text that is not JSON at all is an error; the first one sticks and ends every loop. The last of several equal names
// wins, as in Stripe's own libraries. Invalid UTF-8 and lone surrogates are read as U+FFFD.
type reader struct {
	dec     *jsontext.Decoder
	buf     bytes.Buffer
	scratch []byte
	err     error
	misfits []string
	masked  int
	keyed   func(string) []byte // a keyed hash; nil: none
}

var readers = sync.Pool{New: func() any { return &reader{dec: new(jsontext.Decoder)} }}

var readerOptions = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// newReader returns a reader of body, which it does not change. Call release when nothing more is to be read.
func newReader(body []byte) *reader {
	r := readers.Get().(*reader)
	r.err, r.misfits, r.masked, r.keyed = nil, nil, 0, nil
	r.buf = *bytes.NewBuffer(body)
	r.dec.Reset(&r.buf, readerOptions...)
	return r
}

func (r *reader) release() {
	r.buf = bytes.Buffer{}
	readers.Put(r)
}

func (r *reader) fail(err error) {
	if r.err == nil && err != nil {
		r.err = err
	}
}

func (r *reader) kind() jsontext.Kind {
	if r.err != nil {
		return 0
	}
	return r.dec.PeekKind()
}

// raw reads the next value whole. It is valid until the next read.
func (r *reader) raw() []byte {
	if r.err != nil {
		return nil
	}
	v, err := r.dec.ReadValue()
	r.fail(err)
	return v
}

func (r *reader) skip() {
	if r.err == nil {
		r.fail(r.dec.SkipValue())
	}
}

func (r *reader) token() {
	if r.err == nil {
		_, err := r.dec.ReadToken()
		r.fail(err)
	}
}

// misfit skips a value of the wrong kind. Null is never one, nor is an empty list where an object belongs: data that went
// through PHP has it.
func (r *reader) misfit(name string) {
	kind := r.kind()
	r.skip()
	if kind != 'n' && kind != 0 { // 0: not JSON, as the next read says
		r.misfits = append(r.misfits, name)
	}
}

// object reads the members of an object, calling each for every one of them; each must read or skip exactly one value.
// It says whether the next value was an object.
func (r *reader) object(name string, each func(member []byte)) bool {
	switch r.kind() {
	case '{':
	case '[':
		if v := r.raw(); len(bytes.TrimSpace(v[min(1, len(v)):max(1, len(v))-1])) > 0 {
			r.misfits = append(r.misfits, name)
		}
		return false
	default:
		r.misfit(name)
		return false
	}
	r.token()
	for r.err == nil && r.kind() != '}' {
		each(r.memberName())
	}
	r.token()
	return r.err == nil
}

// memberName reads a member's name, which is valid until the next read.
func (r *reader) memberName() []byte {
	v := r.raw()
	switch {
	case len(v) < 2:
		return nil
	case bytes.IndexByte(v, '\\') < 0:
		return v[1 : len(v)-1]
	}
	r.scratch, _ = jsontext.AppendUnquote(r.scratch[:0], v)
	return r.scratch
}

// list reads the elements of a list.
func (r *reader) list(name string, each func(i int)) {
	if r.kind() != '[' {
		r.misfit(name)
		return
	}
	r.token()
	for i := 0; r.err == nil && r.kind() != ']'; i++ {
		each(i)
	}
	r.token()
}

func (r *reader) unquote(v []byte) string {
	if len(v) < 2 {
		return ""
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1])
	}
	// The error says only that something invalid was replaced, which is what is wanted.
	r.scratch, _ = jsontext.AppendUnquote(r.scratch[:0], v)
	return string(r.scratch)
}

// rawText reads a string as it is; everything that is kept goes through text, id or ref instead.
func (r *reader) rawText(name string) (string, bool) {
	if r.kind() != '"' {
		r.misfit(name)
		return "", false
	}
	v := r.raw()
	if r.err != nil {
		return "", false
	}
	return r.unquote(v), true
}

// text reads a string of at most limit bytes, made safe.
func (r *reader) text(name string, limit int, to *string) {
	s, _ := r.rawText(name)
	s, masked := safeText(s, limit)
	r.masked += masked
	*to = s
}

// unreadable stands for a code of the wrong kind.
const unreadable = "unreadable"

// code reads a word on which it may depend what a customer is told. One that cannot be read may be a fraud signal, in a
// shape that is newer than this reader: it stands as a word that no table knows, and so nothing is disclosed.
func (r *reader) code(name string, to *string) {
	before := len(r.misfits)
	r.text(name, maxCode, to)
	if len(r.misfits) > before {
		*to = unreadable
	}
}

// codes reads an object of such words. Where it is none, the one that weighs most stands for all of them.
func (r *reader) codes(name string, most *string, each func(member []byte)) {
	before := len(r.misfits)
	if !r.object(name, each) && len(r.misfits) > before {
		*most = unreadable
	}
}

// message reads a provider's own words, which the merchant's staff are shown. Addresses are kept sealed and client secrets
// not at all, and what of them they quote would lie open here.
func (r *reader) message(name string, to *string) {
	s, _ := r.rawText(name)
	if strings.Contains(s, "@") {
		s = addressLike.ReplaceAllString(s, "…")
	}
	if strings.Contains(s, "_secret_") {
		s = secretLike.ReplaceAllString(s, "…")
	}
	s, masked := safeText(s, maxText)
	r.masked += masked
	*to = s
}

// address reads an address, which is kept sealed. No number in it is masked: the address would be somebody else's.
func (r *reader) address(name string, to *string) {
	s, _ := r.rawText(name)
	*to = cut(storable(s), maxEmail)
}

// id reads an id. One in which a number was masked still differs from every other: what has one id is taken for one thing.
func (r *reader) id(name string, to *string) bool {
	raw, ok := r.rawText(name)
	s, masked := safeID(raw)
	if masked > 0 && r.keyed != nil {
		s = shortened(s, r.keyed(raw))
	}
	r.masked += masked
	*to = s
	return ok
}

// ref reads a reference to another object: its id, or the object itself, expanded, which has one.
func (r *reader) ref(name string, to *string) bool {
	if r.kind() != '{' {
		return r.id(name, to)
	}
	*to = ""
	found := false
	r.object(name, func(member []byte) {
		if string(member) == "id" {
			found = r.id(name, to)
		} else {
			r.skip()
		}
	})
	if !found && r.err == nil {
		r.misfits = append(r.misfits, name)
	}
	return found
}

// integer reads a whole number between low and high, in any of JSON's spellings (1.0 and 1e3 are whole), or as the digits
// of a text, which leave no doubt either: other ways of writing one there ("54.00") may mean another unit.
func (r *reader) integer(name string, low, high int64, to *int64) {
	*to = 0
	var digits string
	quoted := r.kind() == '"'
	switch {
	case quoted:
		digits, _ = r.rawText(name)
	case r.kind() == '0':
		digits = string(r.raw())
	default:
		r.misfit(name)
		return
	}
	if r.err != nil {
		return
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if !quoted && errors.Is(err, strconv.ErrSyntax) {
		var f float64
		if f, err = strconv.ParseFloat(digits, 64); err == nil && (f != math.Trunc(f) || math.Abs(f) > 1<<53) {
			err = strconv.ErrRange
		}
		n = int64(f)
	}
	if err != nil || n < low || n > high {
		r.misfits = append(r.misfits, name)
		return
	}
	*to = n
}

// time reads a time: Unix seconds, or RFC 3339.
func (r *reader) time(name string, to *int64) {
	if r.kind() != '"' {
		r.integer(name, 1, maxTime, to)
		return
	}
	s, _ := r.rawText(name)
	n, err := strconv.ParseInt(s, 10, 64)
	if t, is := time.Parse(time.RFC3339, s); is == nil {
		n, err = t.Unix(), nil
	}
	if *to = n; err != nil || n < 1 || n > maxTime {
		*to = 0
		r.misfits = append(r.misfits, name)
	}
}

// flag reads a boolean.
func (r *reader) flag(name string, to *bool) {
	*to = false
	switch r.kind() {
	case 't':
		r.skip()
		*to = true
	case 'f':
		r.skip()
	default:
		r.misfit(name)
	}
}

// end reads the end of the document and returns what was wrong with it.
func (r *reader) end() error {
	if r.err != nil {
		return r.err
	}
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("text follows the document")
	}
	return nil
}
