package store

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// table writes many rows of T by one statement: each column travels as one array. A field with a `db` tag is a column;
// those with a `detail` tag travel together in one more, of that name. So a field is named once, for reading and for
// writing.
type table[T any] struct {
	name    string
	columns []column
	names   string // c1, c2, …
	unnest  string // unnest($1::text[]), unnest($2::…), …
	params  string // $1, $2, …
}

type column struct {
	name   string
	index  []int
	typ    reflect.Type
	sql    string
	detail []detailField // of the column that holds the rest
}

// detailColumn holds, as JSON, what is only ever read together with its row. Its type is text: we write the JSON, and to have
// each row's checked again would cost more than an index.
const detailColumn = "detail"

func newTable[T any](name string) table[T] {
	return table[T]{name: name, columns: columnsOf(reflect.TypeFor[T]())}.written()
}

// without is the table for rows in which some columns keep their defaults.
func (t table[T]) without(names ...string) table[T] {
	t.columns = slices.DeleteFunc(slices.Clone(t.columns), func(c column) bool { return slices.Contains(names, c.name) })
	return t.written()
}

// written works out the texts that the statements are made of.
func (t table[T]) written() table[T] {
	var names, arrays, params []string
	for i, c := range t.columns {
		names = append(names, c.name)
		arrays = append(arrays, fmt.Sprintf("unnest($%d::%s[])", i+1, c.sql))
		params = append(params, fmt.Sprintf("$%d", i+1))
	}
	t.names = strings.Join(names, ", ")
	t.params = strings.Join(params, ", ")
	t.unnest = strings.Join(arrays, ", ")
	return t
}

var (
	timeType  = reflect.TypeFor[time.Time]()
	bytesType = reflect.TypeFor[[]byte]()
)

// columnsOf lists the columns that T's fields are kept in, detail the last.
func columnsOf(t reflect.Type) []column {
	columns, details := fieldsOf(t, nil)
	for i, d := range details {
		if slices.ContainsFunc(details[:i], func(o detailField) bool { return o.name == d.name }) {
			panic(fmt.Sprintf("store: two fields of %s are kept as %s", t, d.name))
		}
	}
	if len(details) > 0 {
		columns = append(columns, column{name: detailColumn, sql: "text", typ: reflect.TypeFor[string](), detail: details})
	}
	return columns
}

func fieldsOf(t reflect.Type, prefix []int) (columns []column, details []detailField) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), prefix...), i)
		if f.Anonymous {
			c, d := fieldsOf(f.Type, index)
			columns, details = append(columns, c...), append(details, d...)
			continue
		}
		if name := f.Tag.Get("detail"); name != "" {
			details = append(details, detailField{name: name, index: index})
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
	return columns, details
}

// cell is what a row has in a column. It fails where that is text that JSON cannot hold.
func (t table[T]) cell(row reflect.Value, c column) (reflect.Value, error) {
	if c.detail == nil {
		return row.FieldByIndex(c.index), nil
	}
	detail, err := encodeDetail(row, c.detail)
	if err != nil {
		return reflect.Value{}, fmt.Errorf("writing %s: %w", t.name, err)
	}
	return reflect.ValueOf(string(detail)), nil
}

// arrays turns rows into one slice per column, in the order of the columns.
func (t table[T]) arrays(rows []T) ([]any, error) {
	args := make([]any, len(t.columns))
	v := reflect.ValueOf(rows)
	for i, c := range t.columns {
		out := reflect.MakeSlice(reflect.SliceOf(c.typ), len(rows), len(rows))
		for r := range rows {
			cell, err := t.cell(v.Index(r), c)
			if err != nil {
				return nil, err
			}
			out.Index(r).Set(cell)
		}
		args[i] = out.Interface()
	}
	return args, nil
}

// insert is the statement that writes the rows of arrays; tail is its ON CONFLICT part. The arrays are unnested side by
// side: as one function of FROM each would first be written to a store of its own, which costs about what an index does.
func (t table[T]) insert(tail string) string {
	return "INSERT INTO " + t.name + " (" + t.names + ") SELECT " + t.unnest + " " + tail
}

// queue adds the statement that writes rows; tail is its ON CONFLICT part. No rows, no statement.
func (t table[T]) queue(b *pgx.Batch, rows []T, tail string) error {
	if len(rows) == 0 {
		return nil
	}
	// A group of one is what an idle server has: plain values cost Postgres less than arrays of one.
	write, insert := t.arrays, t.insert
	if len(rows) == 1 {
		write, insert = t.values, t.insertOne
	}
	args, err := write(rows)
	if err != nil {
		return err
	}
	b.Queue(insert(tail), args...)
	return nil
}

// insertOne is the statement that writes the one row of values.
func (t table[T]) insertOne(tail string) string {
	return "INSERT INTO " + t.name + " (" + t.names + ") VALUES (" + t.params + ") " + tail
}

// values are the columns of the first row.
func (t table[T]) values(rows []T) ([]any, error) {
	args := make([]any, len(t.columns))
	for i, c := range t.columns {
		cell, err := t.cell(reflect.ValueOf(rows).Index(0), c)
		if err != nil {
			return nil, err
		}
		args[i] = cell.Interface()
	}
	return args, nil
}

// selected lists the columns of the table under an alias: never *, since a newer replica may have added some.
func (t table[T]) selected(alias string) string {
	return alias + "." + strings.ReplaceAll(t.names, ", ", ", "+alias+".")
}

// excluded lists "c = EXCLUDED.c" for every column but the named ones.
func (t table[T]) excluded(but ...string) string {
	var sets []string
	for _, c := range t.columns {
		if !slices.Contains(but, c.name) {
			sets = append(sets, c.name+" = EXCLUDED."+c.name)
		}
	}
	return strings.Join(sets, ", ")
}

// columnsByType spares each query the walk over its row's fields.
var columnsByType sync.Map // reflect.Type to map[string]column

func namedColumns(t reflect.Type) map[string]column {
	if known, ok := columnsByType.Load(t); ok {
		return known.(map[string]column)
	}
	byName := make(map[string]column)
	for _, c := range columnsOf(t) {
		byName[c.name] = c
	}
	columnsByType.Store(t, byName)
	return byName
}

// each reads rows into structs by the names of their columns, one after another.
func each[T any](rows pgx.Rows, do func(T)) error {
	defer rows.Close()
	if err := rows.Err(); err != nil {
		return err // of a batch that did not get this far: such rows cannot be asked for their fields
	}
	byName := namedColumns(reflect.TypeFor[T]())
	columns := make([]column, len(rows.FieldDescriptions()))
	for i, f := range rows.FieldDescriptions() {
		c, ok := byName[f.Name]
		if !ok {
			return fmt.Errorf("reading rows: %s has no field for the column %s", reflect.TypeFor[T](), f.Name)
		}
		columns[i] = c
	}
	take := take(do)(columns, 0, len(columns))
	for rows.Next() {
		if err := take(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// taker makes what reads a row of which only the columns from first on, of all that there are, are its own.
type taker func(columns []column, first, all int) func(pgx.Rows) error

// take hands each row to do, as a T.
func take[T any](do func(T)) taker {
	return func(columns []column, first, all int) func(pgx.Rows) error {
		targets := make([]any, all) // nil: passed over
		var details []detailField
		for _, c := range columns {
			details = append(details, c.detail...)
		}
		return func(rows pgx.Rows) error {
			var row T
			var detail []byte
			v := reflect.ValueOf(&row).Elem()
			for i, c := range columns {
				if c.detail != nil {
					targets[first+i] = &detail
					continue
				}
				targets[first+i] = v.FieldByIndex(c.index).Addr().Interface()
			}
			if err := rows.Scan(targets...); err != nil {
				return err
			}
			if err := decodeDetail(detail, v, details); err != nil {
				return err
			}
			do(row)
			return nil
		}
	}
}

// branch is one table's part of a union: FROM and what follows, and what to select of it.
type branch struct {
	columns []column
	list    string
	from    string
}

// union asks several tables by one statement, since for a few rows a statement costs more than they do. Each branch has
// columns of its own, which are null in the rows of the others; the first column says whose a row is. with is what the
// branches share.
type union struct {
	sql      string
	branches []branch
	all      int // columns
}

func newUnion(with string, branches ...branch) union {
	u := union{branches: branches, all: 1}
	var nulls []string
	for _, b := range branches {
		for _, c := range b.columns {
			nulls = append(nulls, "NULL::"+c.sql)
		}
	}
	var selects []string
	for i, b := range branches {
		list := []string{fmt.Sprintf(`'%d'::"char"`, i)}
		list = append(append(append(list, nulls[:u.all-1]...), b.list), nulls[u.all-1+len(b.columns):]...)
		selects = append(selects, "SELECT "+strings.Join(list, ", ")+" "+b.from)
		u.all += len(b.columns)
	}
	u.sql = "WITH " + with + " " + strings.Join(selects, " UNION ALL ")
	return u
}

// read gives the rows of each branch to its taker.
func (u union) read(takers ...taker) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		defer rows.Close()
		first := 1
		takes := make([]func(pgx.Rows) error, len(u.branches))
		for i, b := range u.branches {
			takes[i] = takers[i](b.columns, first, u.all)
			first += len(b.columns)
		}
		for rows.Next() {
			if err := takes[rows.RawValues()[0][0]-'0'](rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// collected reads all rows of a query that the database may have refused.
func collected[T any](rows pgx.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	var all []T
	err = each(rows, func(row T) { all = append(all, row) })
	return all, err
}
