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
}

// errUnstorable is of text that Postgres would refuse: a NUL, or what is not UTF-8.
var errUnstorable = errors.New("a text holds what cannot be stored")

// encodeDetail writes the fields that are not zero as one JSON object.
func encodeDetail(row reflect.Value, fields []detailField) ([]byte, error) {
	out := make([]byte, 1, 512)
	out[0] = '{'
	for _, f := range fields {
		v := row.FieldByIndex(f.index)
		if v.IsZero() {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), f.name...), '"', ':')
		var err error
		switch value := v.Addr().Interface().(type) {
		case *string:
			out, err = appendText(out, *value)
		case *int64:
			out = strconv.AppendInt(out, *value, 10)
		case *bool:
			out = strconv.AppendBool(out, *value)
		case *[]byte:
			out = append(base64.StdEncoding.AppendEncode(append(out, '"'), *value), '"')
		case **time.Time:
			out = append((*value).UTC().AppendFormat(append(out, '"'), time.RFC3339Nano), '"')
		case *[]string:
			out, err = appendText(out, strings.Join(*value, " "))
		default:
			err = fmt.Errorf("the field %s has the unsupported type %s", f.name, v.Type())
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
