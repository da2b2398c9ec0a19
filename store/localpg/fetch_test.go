//go:build linux || darwin

package localpg_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"rebound/store/localpg"
)

// fakeVersion is a version that no pin knows.
const fakeVersion = "17.99.0"

type entry struct {
	tar.Header
	body string
}

func program(name, version string) entry {
	return entry{tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg}, "#!/bin/sh\necho 'x (PostgreSQL) " + version + "'\n"}
}

// fakes are an installation that tells its version and does nothing else.
func fakes() []entry {
	return []entry{
		{tar.Header{Name: "bin/", Mode: 0o700, Typeflag: tar.TypeDir}, ""},
		program("./bin/initdb", "17.99"), program("bin/postgres", "17.99"),
		{tar.Header{Name: "lib/libpq.so.5", Mode: 0o600, Typeflag: tar.TypeReg}, "library"},
		{tar.Header{Name: "lib/libpq.so", Linkname: "libpq.so.5", Typeflag: tar.TypeSymlink}, ""},
		{tar.Header{Name: "lib/postgresql/libpq.so", Linkname: "../libpq.so.5", Typeflag: tar.TypeSymlink}, ""},
	}
}

func jar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var plain, out bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.body))
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, e.body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	z := zip.NewWriter(&out)
	for name, body := range map[string][]byte{"META-INF/MANIFEST.MF": []byte("x"), "postgres-some-system.txz": compress(t, plain.Bytes())} {
		f, err := z.Create(name)
		require.NoError(t, err)
		_, err = f.Write(body)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return out.Bytes()
}

// compress prefers the system's xz for what is large: under the race detector
// the Go one takes a minute for a server.
func compress(t testing.TB, plain []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	if path, err := exec.LookPath("xz"); err == nil && len(plain) > 1<<20 {
		cmd := exec.Command(path, "-0", "-c")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(plain), &packed
		require.NoError(t, cmd.Run())
		return packed.Bytes()
	}
	x, err := xz.NewWriter(&packed)
	require.NoError(t, err)
	_, err = x.Write(plain)
	require.NoError(t, err)
	require.NoError(t, x.Close())
	return packed.Bytes()
}

func digest(sum []byte) string { return hex.EncodeToString(sum) }

func sha512Of(b []byte) string { s := sha512.Sum512(b); return digest(s[:]) }
func sha256Of(b []byte) string { s := sha256.Sum256(b); return digest(s[:]) }
func sha1Of(b []byte) string   { s := sha1.Sum(b); return digest(s[:]) }
func md5Of(b []byte) string    { s := md5.Sum(b); return digest(s[:]) }

// repository serves files by the ending of their name (".jar", ".jar.sha256").
func repository(t testing.TB, files map[string]http.HandlerFunc) (cfg localpg.Config) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := localpg.ArchivePath(localpg.Config{FetchVersion: fakeVersion})
		rest, ok := strings.CutPrefix(r.URL.Path, "/base"+strings.TrimSuffix(path, ".jar"))
		if f := files[rest]; ok && f != nil {
			f(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(srv.Close)
	return localpg.Config{SourceURL: srv.URL + "/base/", FetchVersion: fakeVersion, CacheDir: filepath.Join(openDir(t), "cache")}
}

func body(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
}

func text(s string) http.HandlerFunc { return body([]byte(s)) }

func TestFetchedVersionIsVerifiedUnpackedAndCached(t *testing.T) {
	t.Parallel()
	archive := jar(t, fakes()...)
	for name, files := range map[string]map[string]http.HandlerFunc{
		"by SHA-512":                      {".jar.sha512": text(sha512Of(archive)), ".jar.sha1": text("not read")},
		"by SHA-256 with the file's name": {".jar.sha256": text(strings.ToUpper(sha256Of(archive)) + "  some.jar\n")},
		"by SHA-1":                        {".jar.sha1": text(sha1Of(archive))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var downloads atomic.Int32
			files[".jar"] = func(w http.ResponseWriter, _ *http.Request) { downloads.Add(1); _, _ = w.Write(archive) }
			cfg := repository(t, files)
			var progress bytes.Buffer
			cfg.Progress = &progress
			dir, err := localpg.Fetch(t.Context(), cfg)
			require.NoError(t, err)
			require.Contains(t, progress.String(), "100%")

			b, err := os.ReadFile(filepath.Join(dir, "..", "lib", "postgresql", "libpq.so"))
			require.NoError(t, err)
			require.Equal(t, "library", string(b))
			require.NoError(t, filepath.WalkDir(cfg.CacheDir, func(path string, d fs.DirEntry, err error) error {
				require.NoError(t, err)
				info, err := d.Info()
				require.NoError(t, err)
				if d.Name() != "lock" {
					require.Equal(t, os.FileMode(0o044), info.Mode().Perm()&0o044, "%s is closed to the server's user", path)
				}
				require.NotContains(t, d.Name(), "fetch-", "a working directory is left")
				return nil
			}))

			cfg.NoDownload = true // what is cached needs no permission
			again, err := localpg.Fetch(t.Context(), cfg)
			require.NoError(t, err)
			require.Equal(t, dir, again)
			require.EqualValues(t, 1, downloads.Load())
		})
	}
}

func TestSimultaneousFetchesDownloadOnce(t *testing.T) {
	t.Parallel()
	archive := jar(t, fakes()...)
	var downloads atomic.Int32
	cfg := repository(t, map[string]http.HandlerFunc{
		".jar.sha256": text(sha256Of(archive)),
		".jar":        func(w http.ResponseWriter, _ *http.Request) { downloads.Add(1); _, _ = w.Write(archive) },
	})
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = localpg.Fetch(t.Context(), cfg) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, downloads.Load())
}

func TestBadArchivesAreRefused(t *testing.T) {
	t.Parallel()
	good := jar(t, fakes()...)
	link := func(name, target string) entry {
		return entry{tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}, ""}
	}
	file := func(name string) entry { return entry{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, "x"} }
	verified := func(b []byte) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{".jar": body(b), ".jar.sha256": text(sha256Of(b))}
	}
	stall := make(chan struct{})
	t.Cleanup(func() { close(stall) })

	for name, c := range map[string]struct {
		files map[string]http.HandlerFunc
		want  string
	}{
		"wrong checksum":          {map[string]http.HandlerFunc{".jar": body(good), ".jar.sha256": text(sha256Of(nil))}, "checksum is wrong (sha256 is " + sha256Of(good)},
		"only an MD5":             {map[string]http.HandlerFunc{".jar": body(good), ".jar.md5": text(md5Of(good))}, "publishes no checksum"},
		"checksum file is a page": {map[string]http.HandlerFunc{".jar": body(good), ".jar.sha256": text("<html>")}, "holds no checksum"},
		"checksum file fails": {map[string]http.HandlerFunc{".jar": body(good), ".jar.sha512": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
		}}, "answered 502"},
		"no archive": {map[string]http.HandlerFunc{".jar.sha256": text(sha256Of(good))}, "the server answered 404"},
		"short body": {map[string]http.HandlerFunc{".jar.sha256": text(sha256Of(good)), ".jar": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good)))
			_, _ = w.Write(good[:len(good)/2])
		}}, fmt.Sprintf("ended after %d of %d bytes", len(good)/2, len(good))},
		"stalled body": {map[string]http.HandlerFunc{".jar.sha256": text(sha256Of(good)), ".jar": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(good[:10])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-stall:
			case <-r.Context().Done():
			}
		}}, "nothing arrived for 1s"},
		"no zip":             {verified([]byte("hello")), "unpacking the archive"},
		"no server":          {verified(jar(t, file("readme"))), "postgres is missing"},
		"another version":    {verified(jar(t, program("bin/initdb", "13.1"), program("bin/postgres", "13.1"))), "older than 14"},
		"entry above":        {verified(jar(t, file("../evil"))), `"../evil" leads outside`},
		"absolute entry":     {verified(jar(t, file("/tmp/evil"))), `"/tmp/evil" leads outside`},
		"entry climbs later": {verified(jar(t, file("bin/../../evil"))), "leads outside"},
		"link above":         {verified(jar(t, link("lib/x", "../../evil"))), `link "lib/x" leads outside`},
		"absolute link":      {verified(jar(t, link("lib/x", "/etc/passwd"))), `link "lib/x" leads outside`},
		"entry through link": {verified(jar(t, link("a", "."), file("a/evil"))), "lies below something that is no directory"},
		"link through link":  {verified(jar(t, link("s", "."), link("deep/x", "../s/.."))), `link "deep/x" leads outside`},
		"hard link above":    {verified(jar(t, entry{tar.Header{Name: "x", Linkname: "../evil", Typeflag: tar.TypeLink}, ""})), `link "x" leads outside`},
		"device":             {verified(jar(t, entry{tar.Header{Name: "x", Typeflag: tar.TypeFifo}, ""})), "neither file, directory nor link"},
		"cut inside the tar": {verified(cutJar(t)), "unpacking the archive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := repository(t, c.files)
			if name == "stalled body" {
				cfg = cfg.WithIdleTimeout(time.Second)
			}
			_, err := localpg.Fetch(t.Context(), cfg)
			require.ErrorContains(t, err, c.want)
			left, err := os.ReadDir(cfg.CacheDir)
			require.NoError(t, err)
			for _, e := range left {
				require.Equal(t, "lock", e.Name(), "a refused archive leaves something")
			}
			require.NoFileExists(t, filepath.Join(filepath.Dir(cfg.CacheDir), "evil"))
		})
	}
}

// cutJar is well packed around a tar that ends inside a file.
func cutJar(t *testing.T) []byte {
	var packed, out bytes.Buffer
	x, err := xz.NewWriter(&packed)
	require.NoError(t, err)
	w := tar.NewWriter(x)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "bin/postgres", Mode: 0o755, Size: 1 << 20, Typeflag: tar.TypeReg}))
	_, err = w.Write(make([]byte, 1000))
	require.NoError(t, err)
	require.NoError(t, x.Close())
	z := zip.NewWriter(&out)
	f, err := z.Create("p.txz")
	require.NoError(t, err)
	_, err = f.Write(packed.Bytes())
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

func TestPlainHTTPIsRefused(t *testing.T) {
	t.Parallel()
	cfg := localpg.Config{SourceURL: "http://mirror.example", FetchVersion: fakeVersion, CacheDir: openDir(t)}
	_, err := localpg.Fetch(t.Context(), cfg)
	require.ErrorContains(t, err, "is not https")
	cfg.SourceURL = "ftp://mirror.example"
	_, err = localpg.Fetch(t.Context(), cfg)
	require.ErrorContains(t, err, "is not https")
	cfg.SourceURL = "nonsense"
	_, err = localpg.Fetch(t.Context(), cfg)
	require.ErrorContains(t, err, "not a URL")
}

func TestRedirectOutOfHTTPSIsRefused(t *testing.T) {
	t.Parallel()
	require.NoError(t, localpg.CheckRedirect("https://a.example/x", "https://b.example/x"))
	require.NoError(t, localpg.CheckRedirect("http://127.0.0.1/x", "http://127.0.0.1/y"))
	require.Error(t, localpg.CheckRedirect("https://a.example/x", "http://a.example/x"))
}

func TestNoDownloadSaysWhatToDo(t *testing.T) {
	t.Parallel()
	called := false
	cfg := repository(t, map[string]http.HandlerFunc{".jar": func(http.ResponseWriter, *http.Request) { called = true }})
	cfg.NoDownload = true
	_, err := localpg.Fetch(t.Context(), cfg)
	require.ErrorContains(t, err, "--no-download")
	require.False(t, called)

	err = &localpg.MissingError{Reason: err}
	require.ErrorIs(t, err, localpg.ErrNoPostgres)
	for _, want := range []string{"--no-download", "apt-get install postgresql", "dnf install postgresql-server", "apk add postgresql17",
		"pacman -S postgresql", "brew install postgresql@17", "DATABASE_URL=", "docker compose up", localpg.BinEnv} {
		require.ErrorContains(t, err, want)
	}
}

func TestGivenDirectoryIsTheOnlyOneSearched(t *testing.T) {
	t.Parallel()
	empty := openDir(t)
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: filepath.Join(openDir(t), "state"), BinDir: empty})
	require.ErrorIs(t, err, localpg.ErrNoPostgres)
	require.ErrorContains(t, err, empty+" is not usable: postgres is missing")
}

func TestDataDirectoryDecidesTheMajor(t *testing.T) {
	t.Parallel()
	err := localpg.FindFor(t.Context(), localpg.Config{NoDownload: true, SourceURL: localpg.DefaultSourceURL, CacheDir: openDir(t)}, 12)
	require.ErrorIs(t, err, localpg.ErrNoPostgres)
	require.ErrorContains(t, err, "made by PostgreSQL 12, of which no version is pinned")

	dir, _, err := localpg.Locate(t.Context())
	require.NoError(t, err)
	err = localpg.FindFor(t.Context(), localpg.Config{BinDir: dir}, 12)
	require.ErrorContains(t, err, "the data directory was made by 12")
}

// TestFetchedServerRuns packs the binaries of this machine as the repository
// packs its own, fetches them and works with a server made of them.
func TestFetchedServerRuns(t *testing.T) {
	t.Parallel()
	bin, version, err := localpg.Locate(t.Context())
	require.NoError(t, err)
	var entries []entry
	// Where a distribution keeps share and lib elsewhere, its programs find them
	// there; a bundle has them beside bin.
	dirs := []string{"bin", "lib"}
	if _, err := os.Stat(filepath.Join(bin, "..", "share")); err == nil {
		dirs = append(dirs, "share")
	}
	// What initdb and a query need of bin and lib: packing all takes minutes.
	needed := regexp.MustCompile(`^(initdb|postgres|dict_snowball\..*|plpgsql\..*|lib.*\.(so|dylib).*)$`)
	for _, dir := range dirs {
		require.NoError(t, filepath.WalkDir(filepath.Join(bin, "..", dir), func(path string, d fs.DirEntry, err error) error {
			require.NoError(t, err)
			name, err := filepath.Rel(filepath.Join(bin, ".."), path)
			require.NoError(t, err)
			if dir != "share" && !needed.MatchString(d.Name()) {
				return nil
			}
			if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
				return err
			} else if b, err := os.ReadFile(path); err != nil {
				return err
			} else {
				entries = append(entries, entry{tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Typeflag: tar.TypeReg}, string(b)})
			}
			return nil
		}))
	}
	archive := jar(t, entries...)
	cfg := repository(t, map[string]http.HandlerFunc{".jar": body(archive), ".jar.sha512": text(sha512Of(archive))})
	dir, err := localpg.Fetch(t.Context(), cfg)
	require.NoError(t, err)
	require.Contains(t, dir, cfg.CacheDir)

	srv, err := localpg.Start(t.Context(), localpg.Config{BinDir: dir, Ephemeral: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Stop(context.Background())) })
	require.Contains(t, srv.Found(), "PostgreSQL "+version+" ")
	require.Contains(t, srv.Found(), cfg.CacheDir)
	require.Equal(t, "fetched", query(t, srv.DSN("postgres"), "SELECT 'fetched'"))
}
