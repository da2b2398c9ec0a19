package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"rebound/decline"
)

// mayImport says which rooms of the house each room may know of; cmd may know all. What is not listed is forbidden.
var mayImport = map[string][]string{
	"decline":         {},
	"migrations":      {},
	"store/job":       {},
	"store/seal":      {},
	"store/localpg":   {},
	"store":           {"store/job", "store/seal", "migrations", "decline"},
	"store/storetest": {"store", "store/localpg", "store/seal"},
	"handler":         {"store", "store/job", "decline"},
	"webhook":         {"handler", "decline", "store/job"},
	"console":         {"store", "decline"},
	"notify":          {"store", "store/job", "decline"},
	"notify/email":    {"notify", "decline"},
	"notify/checkout": {"notify", "decline"},
	"notify/inbox":    {"notify", "decline"},
	"notify/link":     {"notify", "decline"},
}

type listedPackage struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	require.NoError(t, err)
	var packages []listedPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		require.NoError(t, err)
		packages = append(packages, p)
	}
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	packages := listPackages(t)
	require.Greater(t, len(packages), 10)
	for _, p := range packages {
		room := strings.TrimPrefix(p.ImportPath, "rebound/")
		if strings.HasPrefix(room, "cmd/") {
			continue
		}
		// A test helper below a room has that room's rights.
		for mayImport[room] == nil && strings.Contains(room, "/") && strings.HasSuffix(room, "test") {
			room = room[:strings.LastIndex(room, "/")]
		}
		allowed, listed := mayImport[room]
		require.True(t, listed, "%s has no place in the house", p.ImportPath)
		for _, imported := range p.Imports {
			if of, ours := strings.CutPrefix(imported, "rebound/"); ours {
				require.Contains(t, allowed, of, "%s imports %s", p.ImportPath, imported)
			}
		}
	}
}

func TestDeclineAndMigrationsRestOnTheStandardLibraryAlone(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		if p.ImportPath != "rebound/decline" && p.ImportPath != "rebound/migrations" {
			continue
		}
		for _, imported := range p.Imports {
			first, _, _ := strings.Cut(imported, "/")
			require.NotContains(t, first, ".", "%s imports %s", p.ImportPath, imported)
		}
	}
}

func TestTheTopLevelIsTheAgreedOne(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	require.NoError(t, err)
	agreed := []string{
		"go.mod", "go.sum", "cmd", "webhook", "handler", "decline", "notify", "store", "console", "migrations",
		"docker-compose.yml", "Dockerfile", "README.md", "LICENSE",
	}
	var have []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && e.Name() != "rebound" { // a binary that somebody built
			have = append(have, e.Name())
		}
	}
	require.ElementsMatch(t, agreed, have)
}

func TestComposeFileStartsPostgresMailAndRebound(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docker-compose.yml"))
	require.NoError(t, err)
	var file struct {
		Services map[string]struct {
			Image       string
			Build       string
			Environment map[string]string
			Ports       []string
			DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
			Volumes     []string
		}
		Volumes map[string]any
	}
	require.NoError(t, yaml.Unmarshal(raw, &file))
	require.Len(t, file.Services, 3)
	rebound := file.Services["rebound"]
	require.Equal(t, ".", rebound.Build)
	for name := range rebound.DependsOn {
		require.Contains(t, file.Services, name)
	}
	require.Equal(t, "service_healthy", rebound.DependsOn["postgres"].Condition)
	for _, port := range rebound.Ports {
		require.True(t, strings.HasPrefix(port, "127.0.0.1:"), "%s is open to the network", port)
	}
	for name := range rebound.Environment {
		require.Contains(t, variables(), name, "the compose file sets a variable that Rebound does not read")
	}
	require.Contains(t, file.Volumes, "postgres")
}

func TestEveryFileThatTheReadmeLinksToIsThere(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	links := regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllSubmatch(raw, -1)
	require.NotEmpty(t, links)
	for _, link := range links {
		target := string(link[1])
		if !strings.Contains(target, "://") {
			require.FileExists(t, filepath.Join("..", "..", target))
		}
	}
}

func TestTheReadmeListsEveryVariable(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	for _, name := range variables() {
		require.Contains(t, string(raw), "`"+name+"`")
	}
}

func TestTheReadmeShowsOverridesThatAreTaken(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	shown := regexp.MustCompile("(?m)^\\| `DECLINE_OVERRIDES` .*?`({.*?})`").FindSubmatch(raw)
	require.NotNil(t, shown, "who reads it must learn what the file looks like")
	overrides, err := decline.LoadOverrides(bytes.NewReader(shown[1]))
	require.NoError(t, err)
	require.Equal(t, 1, overrides.Len())
	for _, member := range []string{"severity", "next_step", "retry", "disclosable"} {
		require.Contains(t, string(shown[1]), `"`+member+`"`)
	}
}

func TestDockerfileBuildsWithTheGoOfGoMod(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	require.NoError(t, err)
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	require.NotNil(t, version)
	require.Contains(t, string(raw), "golang:"+string(version[1])+"-")

	known := []string{"FROM", "WORKDIR", "COPY", "RUN", "ENV", "EXPOSE", "USER", "ENTRYPOINT", "CMD"}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, _, _ := strings.Cut(line, " ")
		require.True(t, slices.Contains(known, word), "not an instruction: %s", line)
		if args, ok := strings.CutPrefix(line, "COPY "); ok && !strings.HasPrefix(args, "--from") {
			fields := strings.Fields(args)
			for _, source := range fields[:len(fields)-1] {
				_, err := os.Stat(filepath.Join("..", "..", source))
				require.NoError(t, err)
			}
		}
	}
}
