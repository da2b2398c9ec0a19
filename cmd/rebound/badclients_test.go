package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/store/storetest"
)

func dialPlain(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func postOne(t *testing.T, r *replica, seed uint64) {
	t.Helper()
	p, err := sample.Build("three-d-secure", sample.Params{Seed: seed, Now: time.Now()})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.post(t, p.Events[0].Body))
}

// trickle sends a byte now and then, and reports the status it was answered, 0 for none, once the server has had enough.
func trickle(conn net.Conn, b byte) int {
	ended := make(chan int, 1)
	go func() {
		status := 0
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			status = resp.StatusCode
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		ended <- status
	}()
	pace := time.NewTicker(250 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case status := <-ended:
			return status
		case <-pace.C:
			_, _ = conn.Write([]byte{b}) // the reader learns of the end
		}
	}
}

func TestClientsThatTrickleAreCutOffAndHinderNobody(t *testing.T) {
	t.Parallel()
	const each = 100
	r := boot(t, serveEnv(storetest.New(t), newKey(), nil))
	var clients sync.WaitGroup
	answers := make(chan int, 4*each)
	for range each {
		for _, c := range []struct{ url, begin string }{
			{r.public, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nX: "},
			{r.public, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"},
			{r.admin, "GET /v1/failures HTTP/1.1\r\nHost: x\r\nX: "},
			{r.admin, "PUT /v1/customers/cus_1/contact HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + e2eToken + "\r\nContent-Length: 1000\r\n\r\n{"},
		} {
			conn := dialPlain(t, c.url)
			_, err := io.WriteString(conn, c.begin)
			require.NoError(t, err)
			clients.Go(func() { answers <- trickle(conn, ' ') })
		}
	}
	postOne(t, r, 1)
	ended := make(chan struct{})
	go func() { clients.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		require.Fail(t, "they are let go on for ever")
	}
	close(answers)
	for status := range answers {
		require.Contains(t, []int{0, http.StatusBadRequest, http.StatusRequestTimeout}, status)
	}
	postOne(t, r, 2)
}

// flood writes b again and again until the server refuses; it returns the answer's status and how many bytes were taken.
func flood(t *testing.T, url, begin, b string) (status int, taken int64) {
	t.Helper()
	conn := dialPlain(t, url)
	_, err := io.WriteString(conn, begin)
	require.NoError(t, err)
	written := make(chan int64, 1)
	go func() {
		var total int64
		for {
			n, err := io.WriteString(conn, b)
			if total += int64(n); err != nil {
				written <- total
				return
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.True(t, resp.Close, "nothing more is read")
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = conn.Close()
	return resp.StatusCode, <-written
}

func TestFloodsAreRefusedBeforeTheyAreRead(t *testing.T) {
	t.Parallel()
	const most = 32 << 20 // what the server reads, and what both kernels hold on the way
	r := boot(t, serveEnv(storetest.New(t), newKey(), nil))
	body := strings.Repeat(" ", 64<<10)
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
	for name, c := range map[string]struct {
		url, begin, flood string
		status            int
	}{
		"headers of the webhook":    {r.public, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n", "X-A: " + strings.Repeat("a", 99) + "\r\n", 431},
		"headers of a stream":       {r.public, "GET /v1/checkout/events HTTP/1.1\r\nHost: x\r\n", "A: \r\n", 431},
		"one endless header":        {r.public, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", body, 431},
		"headers of the API":        {r.admin, "GET /v1/failures HTTP/1.1\r\nHost: x\r\n", "X-A: " + strings.Repeat("a", 99) + "\r\n", 431},
		"a body of a terabyte":      {r.public, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n", body, 413},
		"a body without end":        {r.public, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, 413},
		"a compressed body, no end": {r.public, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, 415},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, taken := flood(t, c.url, c.begin, c.flood)
			require.Equal(t, c.status, status)
			require.Less(t, taken, int64(most))
			t.Logf("%d after %d KiB", status, taken>>10)
		})
	}
}

func TestThousandsOfIdleStreamsAreBoundedAndHinderNobody(t *testing.T) {
	t.Parallel()
	const streams = 3000
	r, _ := spawn(t, serveEnv(storetest.New(t), newKey(), nil))
	postOne(t, r, 1)
	memory, goroutines := r.metric(t, "process_resident_memory_bytes"), r.metric(t, "go_goroutines")
	conns := make([]net.Conn, streams)
	for i := range conns {
		conns[i] = dialPlain(t, r.public)
		_, err := fmt.Fprintf(conns[i], "GET /v1/checkout/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pi_idle%d_secret_%d\r\n\r\n", i, i)
		require.NoError(t, err)
	}
	for _, conn := range conns {
		status, err := bufio.NewReaderSize(conn, 64).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200 OK\r\n", status)
	}
	for i := range 20 {
		postOne(t, r, uint64(2+i))
	}
	require.Equal(t, http.StatusOK, r.get(t, "/readyz", nil))
	perStream := (r.metric(t, "process_resident_memory_bytes") - memory) / streams
	t.Logf("%.0f MiB before, %.1f KiB for each stream", memory/(1<<20), perStream/1024)
	require.Less(t, perStream, float64(perStreamLimit))
	for _, conn := range conns {
		_ = conn.Close()
	}
	require.Eventually(t, func() bool { return r.metric(t, "go_goroutines") < goroutines+100 }, 30*time.Second, 50*time.Millisecond,
		"a stream that has ended leaves nothing")
}

// perStreamLimit is the resident memory, in bytes, that one idle stream may cost; the race detector takes several times as
// much, and tests run under it too.
const perStreamLimit = 384 << 10
