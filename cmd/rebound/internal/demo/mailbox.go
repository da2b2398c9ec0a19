// Package demo holds what only `rebound dev` needs: a mail server that keeps what it is given instead of delivering it,
// an inbox to look at it, and a shop whose payments fail on demand.
package demo

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mailbox keeps captured mails as .eml files in one directory, so that they outlive the program.
type Mailbox struct {
	dir string

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every new mail
}

// OpenMailbox uses a directory and makes it if need be.
func OpenMailbox(dir string) (*Mailbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of captured mail: %w", err)
	}
	return &Mailbox{dir: dir, changed: make(chan struct{})}, nil
}

// Mail is one captured mail.
type Mail struct {
	ID       string
	Received time.Time
	From, To string // as the header has them
	Subject  string
	Text     string // the text/plain part
	HTML     string // the text/html part; empty for none
	Source   []byte
}

var mailID = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}\.[0-9]{9}Z-[A-Z2-7]{26}$`)

const timeLayout = "20060102T150405.000000000Z"

// ErrNoMail is returned for an id that the mailbox does not have.
var ErrNoMail = errors.New("no such mail")

// Put keeps one mail with its envelope, which goes before the header as a mail server would write it, and returns its
// id.
func (m *Mailbox) Put(from string, to []string, content []byte) (string, error) {
	id := time.Now().UTC().Format(timeLayout) + "-" + rand.Text()
	var b bytes.Buffer
	fmt.Fprintf(&b, "Return-Path: <%s>\r\n", from)
	for _, address := range to {
		fmt.Fprintf(&b, "Delivered-To: %s\r\n", address)
	}
	b.Write(content)
	// A reader never sees half a mail: the name appears with the whole content.
	temporary := filepath.Join(m.dir, "."+id)
	if err := os.WriteFile(temporary, b.Bytes(), 0o600); err != nil {
		return "", fmt.Errorf("keeping mail %s: %w", id, err)
	}
	if err := os.Rename(temporary, filepath.Join(m.dir, id+".eml")); err != nil {
		return "", fmt.Errorf("keeping mail %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
	return id, nil
}

// Changed returns a channel that is closed when the next mail has been kept.
func (m *Mailbox) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// IDs lists the mails, newest first.
func (m *Mailbox) IDs() ([]string, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("listing captured mail: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, found := strings.CutSuffix(e.Name(), ".eml"); found && mailID.MatchString(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

// Read returns one mail, decoded. A mail that cannot be decoded has its source alone.
func (m *Mailbox) Read(id string) (*Mail, error) {
	if !mailID.MatchString(id) { // the id comes from a URL and becomes a path
		return nil, ErrNoMail
	}
	source, err := os.ReadFile(filepath.Join(m.dir, id+".eml"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoMail
	}
	if err != nil {
		return nil, fmt.Errorf("reading mail %s: %w", id, err)
	}
	received, err := time.Parse(timeLayout, id[:len(timeLayout)])
	if err != nil {
		return nil, ErrNoMail
	}
	kept := &Mail{ID: id, Received: received, Source: source}
	message, unreadable := mail.ReadMessage(bytes.NewReader(source))
	if unreadable != nil {
		kept.Text = string(source)
		return kept, nil //nolint:nilerr // what is no mail is shown as it came
	}
	var words mime.WordDecoder
	header := func(name string) string {
		value := message.Header.Get(name)
		if decoded, err := words.DecodeHeader(value); err == nil {
			return decoded
		}
		return value
	}
	kept.From, kept.To, kept.Subject = plainAddress(header("From")), plainAddress(header("To")), header("Subject")
	kept.readPart(message.Header.Get("Content-Type"), message.Header.Get("Content-Transfer-Encoding"), message.Body, 0)
	return kept, nil
}

// plainAddress drops the angle brackets of an address without a name.
func plainAddress(header string) string {
	if bare, found := strings.CutPrefix(header, "<"); found && strings.Count(header, "<") == 1 {
		return strings.TrimSuffix(bare, ">")
	}
	return header
}

// readPart takes the first text and the first HTML part out of a tree of parts.
func (k *Mail) readPart(contentType, encoding string, body io.Reader, depth int) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind = "text/plain"
	}
	if strings.HasPrefix(kind, "multipart/") && depth < 5 {
		parts := multipart.NewReader(body, params["boundary"])
		for {
			part, err := parts.NextRawPart()
			if err != nil {
				return
			}
			k.readPart(part.Header.Get("Content-Type"), part.Header.Get("Content-Transfer-Encoding"), part, depth+1)
		}
	}
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	content, _ := io.ReadAll(body) // what was readable is worth showing
	switch {
	case kind == "text/html" && k.HTML == "":
		k.HTML = string(content)
	case kind == "text/plain" && k.Text == "":
		k.Text = string(content)
	}
}
