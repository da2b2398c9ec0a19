package store

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// table writes many rows of T by one statement: each column travels as one array. The columns are T's `db` tags, so a
// column is named once, for reading and for writing.
type table[T any] struct {
	name    string
	columns []column
	names   string // c1, c2, …
	unnest  string // unnest($1::text[], …)
}

type column struct {
	name  string
	index []int
	typ   reflect.Type
	sql   string
}

func newTable[T any](name string) table[T] {
	t := table[T]{name: name}
	t.columns = columnsOf(reflect.TypeFor[T](), nil)
	var names, arrays []string
	for i, c := range t.columns {
		names = append(names, c.name)
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, c.sql))
	}
	t.names = strings.Join(names, ", ")
	t.unnest = "unnest(" + strings.Join(arrays, ", ") + ")"
	return t
}

var (
	timeType  = reflect.TypeFor[time.Time]()
	wordsType = reflect.TypeFor[Words]()
	bytesType = reflect.TypeFor[[]byte]()
)

func columnsOf(t reflect.Type, prefix []int) []column {
	var columns []column
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), prefix...), i)
		if f.Anonymous {
			columns = append(columns, columnsOf(f.Type, index)...)
			continue
		}
		name := f.Tag.Get("db")
		if name == "" || name == "-" {
			continue
		}
		c := column{name: name, index: index, typ: f.Type}
		switch {
		case f.Type == timeType, f.Type.Kind() == reflect.Pointer && f.Type.Elem() == timeType:
			c.sql = "timestamptz"
		case f.Type == wordsType:
			c.sql, c.typ = "text", reflect.TypeFor[string]()
		case f.Type == bytesType:
			c.sql = "bytea"
		case f.Type.Kind() == reflect.String:
			c.sql = "text"
		case f.Type.Kind() == reflect.Int64:
			c.sql = "bigint"
		case f.Type.Kind() == reflect.Bool:
			c.sql = "boolean"
		default:
			panic(fmt.Sprintf("store: column %s has the unsupported type %s", name, f.Type))
		}
		columns = append(columns, c)
	}
	return columns
}

// arrays turns rows into one slice per column, in the order of the columns.
func (t table[T]) arrays(rows []T) []any {
	args := make([]any, len(t.columns))
	v := reflect.ValueOf(rows)
	for i, c := range t.columns {
		out := reflect.MakeSlice(reflect.SliceOf(c.typ), len(rows), len(rows))
		for r := range rows {
			field := v.Index(r).FieldByIndex(c.index)
			if words, ok := field.Interface().(Words); ok {
				out.Index(r).SetString(strings.Join(words, " "))
				continue
			}
			out.Index(r).Set(field)
		}
		args[i] = out.Interface()
	}
	return args
}

// insert is the statement that writes the rows of arrays; tail is its ON CONFLICT part.
func (t table[T]) insert(tail string) string {
	return "INSERT INTO " + t.name + " (" + t.names + ") SELECT * FROM " + t.unnest + " " + tail
}

// selected lists the columns of the table under an alias: never *, since a newer replica may have added some.
func (t table[T]) selected(alias string) string {
	return alias + "." + strings.ReplaceAll(t.names, ", ", ", "+alias+".")
}

// excluded lists "c = EXCLUDED.c" for every column but the named ones.
func (t table[T]) excluded(but ...string) string {
	var sets []string
	for _, c := range t.columns {
		kept := false
		for _, b := range but {
			kept = kept || b == c.name
		}
		if !kept {
			sets = append(sets, c.name+" = EXCLUDED."+c.name)
		}
	}
	return strings.Join(sets, ", ")
}

// Scan reads what arrays wrote.
func (w *Words) Scan(src any) error {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("scanning words: %T is not text", src)
	}
	*w = strings.Fields(s)
	return nil
}
