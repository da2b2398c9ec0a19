package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

type document struct {
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas    map[string]schema    `json:"schemas"`
		Parameters map[string]parameter `json:"parameters"`
		Responses  map[string]response  `json:"responses"`
	} `json:"components"`
}

type operation struct {
	Parameters []parameter         `json:"parameters"`
	Responses  map[string]response `json:"responses"`
}

type parameter struct {
	Ref  string `json:"$ref"`
	Name string `json:"name"`
	In   string `json:"in"`
}

type response struct {
	Ref     string `json:"$ref"`
	Content map[string]struct {
		Schema schema `json:"schema"`
	} `json:"content"`
}

// schema is the part of JSON Schema that the document uses.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       any               `json:"type"`
	Enum       []any             `json:"enum"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Additional *bool             `json:"additionalProperties"`
	Items      *schema           `json:"items"`
	OneOf      []schema          `json:"oneOf"`
}

var described1 = func() document {
	var d document
	if err := json.Unmarshal(openAPIDocument, &d); err != nil {
		panic(err)
	}
	return d
}()

func last(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// check says where a value leaves its schema.
func (d document) check(s schema, v any, at string) error {
	if s.Ref != "" {
		named, ok := d.Components.Schemas[last(s.Ref)]
		if !ok {
			return fmt.Errorf("%s: the document has no schema %s", at, s.Ref)
		}
		return d.check(named, v, at)
	}
	if len(s.OneOf) > 0 {
		var faults []string
		for _, one := range s.OneOf {
			err := d.check(one, v, at)
			if err == nil {
				return nil
			}
			faults = append(faults, err.Error())
		}
		return fmt.Errorf("%s fits none: %s", at, strings.Join(faults, "; "))
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return fmt.Errorf("%s: %v is none of %v", at, v, s.Enum)
	}
	kinds, ok := s.Type.([]any)
	if !ok {
		kinds = []any{s.Type}
	}
	kind := "null"
	switch x := v.(type) {
	case string:
		kind = "string"
	case bool:
		kind = "boolean"
	case float64:
		kind = "integer"
		if x != float64(int64(x)) {
			kind = "number"
		}
	case []any:
		kind = "array"
		for i, e := range x {
			if s.Items != nil {
				if err := d.check(*s.Items, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		}
	case map[string]any:
		kind = "object"
		for _, name := range s.Required {
			if _, ok := x[name]; !ok {
				return fmt.Errorf("%s has no member %s", at, name)
			}
		}
		for name, e := range x {
			member, ok := s.Properties[name]
			if !ok {
				if s.Additional == nil || *s.Additional {
					continue
				}
				return fmt.Errorf("%s has the member %s, which is not described", at, name)
			}
			if err := d.check(member, e, at+"."+name); err != nil {
				return err
			}
		}
	}
	if !slices.Contains(kinds, any(kind)) {
		return fmt.Errorf("%s is %s, not %v", at, kind, kinds)
	}
	return nil
}

var inBraces = regexp.MustCompile(`\{[^}]+\}`)

// find is the operation of a request's path, the one with the fewest variables.
func (d document) find(method, path string) (operation, bool) {
	path, _, _ = strings.Cut(path, "?")
	var found operation
	fewest := 99
	for pattern, methods := range d.Paths {
		variables := len(inBraces.FindAllString(pattern, -1))
		expr := "^" + inBraces.ReplaceAllString(regexp.QuoteMeta(strings.NewReplacer("{", "\x01", "}", "\x02").Replace(pattern)), "x") + "$"
		expr = regexp.MustCompile("\x01[^\x02]+\x02").ReplaceAllString(expr, "[^/]+")
		if op, ok := methods[strings.ToLower(method)]; ok && variables < fewest && regexp.MustCompile(expr).MatchString(path) {
			found, fewest = op, variables
		}
	}
	return found, fewest < 99
}

// described holds an answer against the document. Answers to requests that no operation describes are problems.
func described(t *testing.T, method, path string, a answer) {
	t.Helper()
	var v any
	require.NoError(t, json.Unmarshal([]byte(a.body), &v), "%s %s: %s", method, path, a.body)
	op, ok := described1.find(method, path)
	if !ok {
		require.GreaterOrEqual(t, a.status, 400, "%s %s", method, path)
		require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
		require.NoError(t, described1.check(described1.Components.Schemas["problem"], v, "problem"))
		return
	}
	r, ok := op.Responses[fmt.Sprint(a.status)]
	require.True(t, ok, "%s %s: the status %d is not described: %s", method, path, a.status, a.body)
	if r.Ref != "" {
		r = described1.Components.Responses[last(r.Ref)]
	}
	kind, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	content, ok := r.Content[kind]
	require.True(t, ok, "%s %s: the type %s is not described for %d", method, path, kind, a.status)
	require.NoError(t, described1.check(content.Schema, v, method+" "+path))
}

func TestEveryRouteIsDescribed(t *testing.T) {
	t.Parallel()
	s := newServer(Config{Health: NewHealth(func(context.Context) error { return nil }, nil, nil), Metrics: prometheus.NewRegistry()})
	routes := map[string]bool{}
	for _, r := range s.echo().Routes() {
		if r.Path == "/" || strings.HasPrefix(r.Path, "/console") || r.Method == "echo_route_not_found" {
			continue
		}
		path := regexp.MustCompile(`:([a-z_]+)`).ReplaceAllString(r.Path, "{$1}")
		routes[r.Method+" "+path] = true
		require.Contains(t, described1.Paths, path)
		require.Contains(t, described1.Paths[path], strings.ToLower(r.Method))
	}
	for path, methods := range described1.Paths {
		for method := range methods {
			require.Contains(t, routes, strings.ToUpper(method)+" "+path, "described but not there")
		}
	}
}

func TestTheDescribedParametersAreThoseThatAreTaken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for path, methods := range described1.Paths {
		if !strings.HasPrefix(path, "/v1/") {
			continue
		}
		for method, op := range methods {
			var names []string
			for _, p := range op.Parameters {
				if p.Ref != "" {
					p = described1.Components.Parameters[last(p.Ref)]
				}
				if p.In == "query" {
					names = append(names, p.Name)
				}
			}
			a := b.call(strings.ToUpper(method), inBraces.ReplaceAllString(path, "x")+"?nonsense=1", "")
			require.Equal(t, http.StatusBadRequest, a.status)
			require.Equal(t, "nonsense", a.json(t)["param"])
			_, taken, _ := strings.Cut(a.json(t)["detail"].(string), "It takes: ")
			require.ElementsMatch(t, names, strings.Split(strings.TrimSuffix(taken, "."), ", "), path)
		}
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.token = ""
	a := b.get("/openapi.json")
	require.Equal(t, http.StatusOK, a.status)
	require.Equal(t, "3.1.0", a.json(t)["openapi"])
}
