package store

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// detailField is a field that is kept in the column detail, under its name, where it says anything.
type detailField struct {
	name  string
	index []int
	kind  kind
}

// errUnstorable is of text that Postgres would refuse: a NUL, or what is not UTF-8.
var errUnstorable = errors.New("a text holds what cannot be stored")

// appendDetail writes the fields that are not zero as one JSON object.
func appendDetail(out []byte, row reflect.Value, fields []detailField) ([]byte, error) {
	out = append(out, '{')
	first := true
	for i := range fields {
		f := &fields[i]
		v := row.FieldByIndex(f.index)
		if v.IsZero() {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(append(append(out, '"'), f.name...), '"', ':')
		var err error
		switch f.kind {
		case kindText:
			out, err = appendText(out, v.String())
		case kindInt:
			out = strconv.AppendInt(out, v.Int(), 10)
		case kindBool:
			out = strconv.AppendBool(out, v.Bool())
		case kindBytes:
			out = append(base64.StdEncoding.AppendEncode(append(out, '"'), v.Bytes()), '"')
		case kindTimeOrNull:
			at := *v.Addr().Interface().(**time.Time)
			out = append(at.UTC().AppendFormat(append(out, '"'), time.RFC3339Nano), '"')
		case kindWords:
			out, err = appendText(out, strings.Join(*v.Addr().Interface().(*[]string), " "))
		}
		if err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

func appendText(out []byte, text string) ([]byte, error) {
	if strings.IndexByte(text, 0) >= 0 {
		return nil, errUnstorable
	}
	out, err := jsontext.AppendQuote(out, text)
	if err != nil {
		return nil, errUnstorable
	}
	return out, nil
}

// decodeDetail sets the fields that a detail names. Names that it does not know are a newer replica's.
func decodeDetail(detail []byte, row reflect.Value, fields []detailField) error {
	if len(detail) == 0 {
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewReader(detail), jsontext.AllowDuplicateNames(true))
	if _, err := d.ReadToken(); err != nil {
		return fmt.Errorf("reading a detail: %w", err)
	}
	next := 0
	for d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return fmt.Errorf("reading a detail: %w", err)
		}
		name := token.String()
		// They were written in the order of the fields: the next is nearly always close.
		at := -1
		for i := range fields {
			if f := (next + i) % len(fields); fields[f].name == name {
				at, next = f, f+1
				break
			}
		}
		if at < 0 {
			if err := d.SkipValue(); err != nil {
				return fmt.Errorf("reading a detail: %w", err)
			}
			continue
		}
		if token, err = d.ReadToken(); err != nil {
			return fmt.Errorf("reading a detail: %w", err)
		}
		if err := setDetail(row.FieldByIndex(fields[at].index), token); err != nil {
			return fmt.Errorf("reading the detail %s: %w", fields[at].name, err)
		}
	}
	return nil
}

func setDetail(v reflect.Value, token jsontext.Token) (err error) {
	switch value := v.Addr().Interface().(type) {
	case *string:
		*value = token.String()
	case *int64:
		*value, err = token.Int()
	case *bool:
		*value = token.Bool()
	case *[]byte:
		*value, err = base64.StdEncoding.DecodeString(token.String())
	case **time.Time:
		var at time.Time
		at, err = time.Parse(time.RFC3339Nano, token.String())
		*value = &at
	case *[]string:
		*value = strings.Fields(token.String())
	}
	return err
}
