package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// bar is a progress bar. It shows only on a terminal.
type bar struct {
	mu       sync.Mutex
	w        io.Writer // nil: silent
	label    string
	now, all int
	drawn    time.Time
}

func newBar(w io.Writer, label string, all int) *bar {
	if !isTerminal(w) {
		w = nil
	}
	return &bar{w: w, label: label, all: all}
}

func (b *bar) add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now += n
	if b.w != nil && (time.Since(b.drawn) > 100*time.Millisecond || b.now == b.all) {
		b.draw()
	}
}

func (b *bar) draw() {
	const width = 30
	full := width * b.now / max(b.all, 1)
	fmt.Fprintf(b.w, "\r[%s%s] %d of %d %s ", strings.Repeat("=", full), strings.Repeat(" ", width-full), b.now, b.all, b.label)
	b.drawn = time.Now()
}

func (b *bar) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w != nil {
		b.draw()
		fmt.Fprintln(b.w)
	}
}
