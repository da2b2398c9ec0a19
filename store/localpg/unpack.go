//go:build linux || darwin

package localpg

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
)

// unpack writes the files of the one .txz inside the jar to dir, readable by
// every user. An entry that would land or point outside of dir is an error, and
// os.Root stops what that check might miss.
func unpack(ctx context.Context, jar, dir string) error {
	archive, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer func() { _ = archive.Close() }()
	var inner *zip.File
	for _, f := range archive.File {
		if strings.HasSuffix(f.Name, ".txz") || strings.HasSuffix(f.Name, ".tar.xz") {
			if inner != nil {
				return errors.New("it holds several .txz files")
			}
			inner = f
		}
	}
	if inner == nil {
		return errors.New("it holds no .txz file")
	}
	body, err := inner.Open()
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	plain, err := xz.NewReader(bufio.NewReaderSize(body, 1<<16))
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask says
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	limited := &io.LimitedReader{R: plain, N: maxUnpacked}
	entries := tar.NewReader(limited)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = unpackEntry(root, header, entries)
		}
		if limited.N <= 0 {
			return fmt.Errorf("it unpacks to more than %d bytes", maxUnpacked)
		}
		if err != nil {
			return err
		}
	}
}

func unpackEntry(root *os.Root, header *tar.Header, content io.Reader) error {
	name := path.Clean(header.Name)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("its entry %q leads outside", header.Name)
	}
	if err := makeParents(root, path.Dir(name)); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return makeParents(root, name)
	case tar.TypeReg:
		mode := os.FileMode(0o644)
		if header.Mode&0o111 != 0 {
			mode = 0o755
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Chmod(mode), f.Close())
	case tar.TypeSymlink:
		target := path.Join(path.Dir(name), header.Linkname) //nolint:gosec // checked in the next statement
		// A clean target climbs first and descends then; together with parents that
		// are no links (makeParents) its text says truly where it leads.
		if path.IsAbs(header.Linkname) || path.Clean(header.Linkname) != header.Linkname || !filepath.IsLocal(target) {
			return fmt.Errorf("its link %q leads outside", header.Name)
		}
		return root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		target := path.Clean(header.Linkname)
		if !filepath.IsLocal(target) {
			return fmt.Errorf("its link %q leads outside", header.Name)
		}
		return root.Link(target, name)
	default:
		return fmt.Errorf("its entry %q is neither file, directory nor link", header.Name)
	}
}

func makeParents(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	for i, r := range name + "/" {
		if r != '/' {
			continue
		}
		dir := name[:i]
		err := root.Mkdir(dir, 0o755)
		if errors.Is(err, os.ErrExist) {
			if info, err := root.Lstat(dir); err != nil || !info.IsDir() {
				return fmt.Errorf("its entry %q lies below something that is no directory", name)
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := root.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}
