//go:build linux || darwin

package localpg

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// progress shows how far a download is: a bar that redraws itself on a terminal,
// a line at each quarter anywhere else.
type progress struct {
	out      io.Writer
	terminal bool
	total    int64 // bytes; -1 when the server does not say
	done     int64
	shown    int // last percentage (terminal) or quarter written
}

func newProgress(out io.Writer, total int64) *progress {
	p := &progress{out: out, total: total}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Write counts; it never fails.
func (p *progress) Write(b []byte) (int, error) {
	p.done += int64(len(b))
	if p.out == nil || p.total <= 0 {
		return len(b), nil
	}
	percent := int(p.done * 100 / p.total)
	switch {
	case p.terminal && percent > p.shown:
		p.shown = percent
		const width = 30
		full := percent * width / 100
		_, _ = fmt.Fprintf(p.out, "\r  PostgreSQL [%s%s] %3d%%  %.1f of %.1f MB", strings.Repeat("=", full),
			strings.Repeat(" ", width-full), percent, mega(p.done), mega(p.total))
	case !p.terminal && percent/25 > p.shown:
		p.shown = percent / 25
		_, _ = fmt.Fprintf(p.out, "PostgreSQL: %d%% of %.1f MB\n", percent, mega(p.total))
	}
	return len(b), nil
}

// end leaves the bar's line, so that what follows starts on its own.
func (p *progress) end(ok bool) {
	if p.out == nil || !p.terminal || p.shown == 0 {
		return
	}
	if ok {
		_, _ = fmt.Fprintln(p.out, "  done")
		return
	}
	_, _ = fmt.Fprintln(p.out)
}

func mega(n int64) float64 { return float64(n) / 1e6 }
