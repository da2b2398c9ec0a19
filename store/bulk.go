package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
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
	room    int    // what a row takes in the arrays, in bytes, as a rule
}

type column struct {
	name   string
	index  []int
	kind   kind
	sql    sqlType
	detail []detailField // of the column that holds the rest
}

// detailColumn holds, as JSON, what is only ever read together with its row. Its type is text: we write the JSON, and to have
// each row's checked again would cost more than an index.
const detailColumn = "detail"

func newTable[T any](name string, room int) table[T] {
	return table[T]{name: name, columns: columnsOf(reflect.TypeFor[T]()), room: room}.written()
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
		arrays = append(arrays, fmt.Sprintf("unnest($%d::%s[])", i+1, c.sql.name))
		params = append(params, fmt.Sprintf("$%d", i+1))
	}
	t.names = strings.Join(names, ", ")
	t.params = strings.Join(params, ", ")
	t.unnest = strings.Join(arrays, ", ")
	return t
}

// kind is how a field is written.
type kind int

const (
	kindText kind = iota
	kindInt
	kindBool
	kindTime
	kindTimeOrNull
	kindBytes // nil is null
	kindWords // of a detail only
	kindDetail
)

// kindOf says how a field of a type is written; false: not at all.
func kindOf(t reflect.Type) (kind, bool) {
	switch t {
	case reflect.TypeFor[string]():
		return kindText, true
	case reflect.TypeFor[int64]():
		return kindInt, true
	case reflect.TypeFor[bool]():
		return kindBool, true
	case reflect.TypeFor[time.Time]():
		return kindTime, true
	case reflect.TypeFor[*time.Time]():
		return kindTimeOrNull, true
	case reflect.TypeFor[[]byte]():
		return kindBytes, true
	case reflect.TypeFor[[]string]():
		return kindWords, true
	}
	return 0, false
}

// sqlType is what Postgres calls a column's type, in a statement and in an array's head.
type sqlType struct {
	name string
	oid  uint32
}

var (
	sqlText = sqlType{"text", pgtype.TextOID}
	sqlTime = sqlType{"timestamptz", pgtype.TimestamptzOID}

	sqlTypes = map[kind]sqlType{
		kindText: sqlText, kindInt: {"bigint", pgtype.Int8OID}, kindBool: {"boolean", pgtype.BoolOID},
		kindTime: sqlTime, kindTimeOrNull: sqlTime, kindBytes: {"bytea", pgtype.ByteaOID}, kindDetail: sqlText,
	}
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
		columns = append(columns, column{name: detailColumn, kind: kindDetail, sql: sqlTypes[kindDetail], detail: details})
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
		detail, name := f.Tag.Get("detail"), f.Tag.Get("db")
		if detail == "" && (name == "" || name == "-") {
			continue
		}
		k, ok := kindOf(f.Type)
		switch {
		case detail != "" && ok && k != kindTime:
			details = append(details, detailField{name: detail, index: index, kind: k})
		case detail == "" && ok && k != kindWords:
			columns = append(columns, column{name: name, index: index, kind: k, sql: sqlTypes[k]})
		default:
			panic(fmt.Sprintf("store: the field %s has the unsupported type %s", f.Name, f.Type))
		}
	}
	return columns, details
}

// encodedArray is an array as Postgres' binary protocol has it.
type encodedArray []byte

// arrayCodec takes an encodedArray as it is. pgx would make an array of a slice by boxing each element, which was a tenth of
// the server's processor time under load.
type arrayCodec struct{ *pgtype.ArrayCodec }

func (c arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(encodedArray); ok && format == pgtype.BinaryFormatCode {
		return asItIs{}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

type asItIs struct{}

// Encode adds the array to what was encoded before it. Where it stands behind that already, as arrays lays the columns of a
// statement out, nothing is copied.
func (asItIs) Encode(value any, buf []byte) ([]byte, error) {
	array := value.(encodedArray)
	if len(buf) == 0 {
		return array, nil
	}
	if end := len(buf) + len(array); end <= cap(buf) && &buf[:end][len(buf)] == &array[0] {
		return buf[:end], nil
	}
	return append(slices.Clip(buf), array...), nil // clipped: what lies behind may be another column
}

// takeEncodedArrays has a connection take them.
func takeEncodedArrays(_ context.Context, c *pgx.Conn) error {
	m := c.TypeMap()
	for _, name := range []string{"_text", "_int8", "_bool", "_timestamptz", "_bytea"} {
		t, ok := m.TypeForName(name)
		if !ok {
			return fmt.Errorf("pgx does not know the type %s", name)
		}
		m.RegisterType(&pgtype.Type{Name: t.Name, OID: t.OID, Codec: arrayCodec{t.Codec.(*pgtype.ArrayCodec)}})
	}
	return nil
}

// arrays turns rows into one array per column, in the order of the columns and in one piece of memory.
func (t table[T]) arrays(rows []*T) ([]any, error) {
	args, ends := make([]any, len(t.columns)), make([]int, len(t.columns))
	out := make([]byte, 0, t.room*len(rows))
	var err error
	for i, c := range t.columns {
		for _, head := range []uint32{1, 0, c.sql.oid, uint32(len(rows)), 1} { //nolint:gosec // dimensions, flags, type, length, first index
			out = binary.BigEndian.AppendUint32(out, head)
		}
		for _, row := range rows {
			if out, err = c.append(out, reflect.ValueOf(row).Elem()); err != nil {
				return nil, fmt.Errorf("writing %s: %w", t.name, err)
			}
		}
		ends[i] = len(out)
	}
	start := 0
	for i, end := range ends { // now that out is not moved any more
		args[i], start = encodedArray(out[start:end]), end
	}
	return args, nil
}

// append writes what a row has in a column as an element of an array: its length, then the value. It fails where a detail
// cannot be stored; other text is Postgres' to refuse.
func (c column) append(out []byte, row reflect.Value) ([]byte, error) {
	start := len(out)
	out = append(out, 0, 0, 0, 0)
	null := false
	switch c.kind {
	case kindText:
		out = append(out, row.FieldByIndex(c.index).String()...)
	case kindInt:
		out = binary.BigEndian.AppendUint64(out, uint64(row.FieldByIndex(c.index).Int())) //nolint:gosec // two's complement, as on the wire
	case kindBool:
		if row.FieldByIndex(c.index).Bool() {
			out = append(out, 1)
		} else {
			out = append(out, 0)
		}
	case kindTime:
		out = appendTime(out, row.FieldByIndex(c.index).Addr().Interface().(*time.Time))
	case kindTimeOrNull:
		at := *row.FieldByIndex(c.index).Addr().Interface().(**time.Time)
		if null = at == nil; !null {
			out = appendTime(out, at)
		}
	case kindBytes:
		value := row.FieldByIndex(c.index).Bytes()
		null = value == nil
		out = append(out, value...)
	case kindDetail:
		var err error
		if out, err = appendDetail(out, row, c.detail); err != nil {
			return nil, err
		}
	}
	length := uint32(len(out) - start - 4) //nolint:gosec // far below 4 GiB
	if null {
		length = math.MaxUint32
	}
	binary.BigEndian.PutUint32(out[start:], length)
	return out, nil
}

// appendTime writes microseconds since 2000.
func appendTime(out []byte, at *time.Time) []byte {
	const epoch = 946_684_800
	return binary.BigEndian.AppendUint64(out, uint64((at.Unix()-epoch)*1_000_000+int64(at.Nanosecond())/1000)) //nolint:gosec // two's complement, as on the wire
}

// pointers are where rows stand.
func pointers[T any](rows []T) []*T {
	all := make([]*T, len(rows))
	for i := range rows {
		all[i] = &rows[i]
	}
	return all
}

// insert is the statement that writes the rows of arrays; tail is its ON CONFLICT part. The arrays are unnested side by
// side: as one function of FROM each would first be written to a store of its own, which costs about what an index does.
func (t table[T]) insert(tail string) string {
	return "INSERT INTO " + t.name + " (" + t.names + ") SELECT " + t.unnest + " " + tail
}

// queue adds the statement that writes rows; tail is its ON CONFLICT part. No rows, no statement.
func (t table[T]) queue(b *pgx.Batch, rows []*T, tail string) error {
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

// values are the columns of the one row.
func (t table[T]) values(rows []*T) ([]any, error) {
	row := reflect.ValueOf(rows[0]).Elem()
	args := make([]any, len(t.columns))
	for i, c := range t.columns {
		if c.kind != kindDetail {
			args[i] = row.FieldByIndex(c.index).Interface()
			continue
		}
		detail, err := appendDetail(make([]byte, 0, 512), row, c.detail)
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", t.name, err)
		}
		args[i] = string(detail)
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
	columns, places := make([]column, len(rows.FieldDescriptions())), make([]int, len(rows.FieldDescriptions()))
	for i, f := range rows.FieldDescriptions() {
		c, ok := byName[f.Name]
		if !ok {
			return fmt.Errorf("reading rows: %s has no field for the column %s", reflect.TypeFor[T](), f.Name)
		}
		columns[i], places[i] = c, i
	}
	take := take(do)(columns, places, len(columns))
	for rows.Next() {
		if err := take(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// taker makes what reads a row, of all columns, in which some have the places given.
type taker func(columns []column, places []int, all int) func(pgx.Rows) error

// take hands each row to do, as a T.
func take[T any](do func(T)) taker {
	return func(columns []column, places []int, all int) func(pgx.Rows) error {
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
					targets[places[i]] = &detail
					continue
				}
				targets[places[i]] = v.FieldByIndex(c.index).Addr().Interface()
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

// branch is one table's part of a union: FROM and what follows, under an alias that the columns are selected by. The last
// ones are computed instead.
type branch struct {
	columns  []column
	alias    string
	from     string
	computed []string
}

// selected are the expressions of the columns.
func (b branch) selected() []string {
	list := make([]string, len(b.columns))
	for i, c := range b.columns {
		list[i] = b.alias + "." + c.name
	}
	copy(list[len(list)-len(b.computed):], b.computed)
	return list
}

// union asks several tables by one statement, since for a few rows a statement costs more than they do. Columns of one type
// share places, since Postgres prepares each of a branch anew for every execution, those that are null too; the first column
// says whose a row is. with is what the branches share.
type union struct {
	sql      string
	branches []branch
	places   [][]int // of each branch's columns
	all      int     // columns
}

func newUnion(with string, branches ...branch) union {
	u := union{branches: branches, all: 1}
	byType := make(map[string][]int) // places of the columns of a type
	var types []string               // of all columns but the first
	for _, b := range branches {
		used := make(map[string]int)
		places := make([]int, len(b.columns))
		for i, c := range b.columns {
			if used[c.sql.name] == len(byType[c.sql.name]) {
				byType[c.sql.name] = append(byType[c.sql.name], u.all)
				types = append(types, c.sql.name)
				u.all++
			}
			places[i] = byType[c.sql.name][used[c.sql.name]]
			used[c.sql.name]++
		}
		u.places = append(u.places, places)
	}
	var selects []string
	for i, b := range branches {
		list := make([]string, u.all)
		list[0] = fmt.Sprintf(`'%d'::"char"`, i)
		for at, name := range types {
			list[at+1] = "NULL::" + name
		}
		for j, expression := range b.selected() {
			list[u.places[i][j]] = expression
		}
		selects = append(selects, "SELECT "+strings.Join(list, ", ")+" "+b.from)
	}
	u.sql = "WITH " + with + " " + strings.Join(selects, " UNION ALL ")
	return u
}

// read gives the rows of each branch to its taker.
func (u union) read(takers ...taker) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		defer rows.Close()
		takes := make([]func(pgx.Rows) error, len(u.branches))
		for i, b := range u.branches {
			takes[i] = takers[i](b.columns, u.places[i], u.all)
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
