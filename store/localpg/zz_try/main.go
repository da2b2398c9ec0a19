package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"rebound/store/localpg"
)

func main() {
	t := time.Now()
	srv, err := localpg.Start(context.Background(), localpg.Config{DataDir: os.Args[1], NoDownload: len(os.Args) > 2, Progress: os.Stderr, Log: func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }, SourceURL: os.Getenv("SRC"), CacheDir: "/tmp/try-cache", FetchVersion: os.Getenv("FV")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(srv.DSN("rebound"), time.Since(t), srv.Found())
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	select {
	case <-c:
	case <-time.After(20 * time.Second):
	}
	t = time.Now()
	fmt.Println("stop", srv.Stop(context.Background()), time.Since(t))
}
