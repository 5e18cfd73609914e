// A stand-in for an ntfy server, as far as a webhook of Alertmanager meets one: messages written by templates that stand in the request's
// parameters (docs.ntfy.sh/publish, "Message templating"). It renders with Go's own templates, as ntfy does, and refuses what ntfy refuses:
// bodies above 128 KiB, titles or messages above 4096 bytes, priorities that are none, templates that call or define others. It prints its
// address, then a line of JSON for each request.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"text/template"
)

const (
	bodyMax    = 128 << 10
	messageMax = 4096
)

var forbidden = regexp.MustCompile(`\{\{-?\s*(call|template|define)\b`)
var priorities = map[string]int{"": 3, "1": 1, "min": 1, "2": 2, "low": 2, "3": 3, "default": 3, "4": 4, "high": 4, "5": 5, "max": 5, "urgent": 5}

type seen struct {
	Topic    string   `json:"topic"`
	Title    string   `json:"title"`
	Message  string   `json:"message"`
	Priority int      `json:"priority"`
	Tags     []string `json:"tags"`
	Bearer   string   `json:"bearer"`
	Error    string   `json:"error"`
}

func render(text string, data any) (string, error) {
	if forbidden.MatchString(text) {
		return "", fmt.Errorf("the template calls or defines another one")
	}
	t, err := template.New("").Parse(text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return "", err
	}
	return strings.TrimSpace(out.String()), nil
}

func take(r *http.Request) (s seen, err error) {
	q := r.URL.Query()
	s.Topic = strings.TrimPrefix(r.URL.Path, "/")
	s.Bearer = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !regexp.MustCompile(`^[-_A-Za-z0-9]{1,64}$`).MatchString(s.Topic) {
		return s, fmt.Errorf("no topic")
	}
	if q.Get("template") != "yes" {
		return s, fmt.Errorf("not a template")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, bodyMax+1))
	if err != nil {
		return s, err
	}
	if len(body) > bodyMax {
		return s, fmt.Errorf("the body is too large")
	}
	var data any
	if err := json.Unmarshal(body, &data); err != nil {
		return s, err
	}
	if s.Title, err = render(q.Get("title"), data); err != nil {
		return s, err
	}
	if s.Message, err = render(q.Get("message"), data); err != nil {
		return s, err
	}
	if len(s.Title) > messageMax || len(s.Message) > messageMax {
		return s, fmt.Errorf("the message is too large: %d and %d bytes", len(s.Title), len(s.Message))
	}
	priority, ok := priorities[q.Get("priority")]
	if !ok {
		return s, fmt.Errorf("no priority: %q", q.Get("priority"))
	}
	s.Priority = priority
	if q.Get("tags") != "" {
		s.Tags = strings.Split(q.Get("tags"), ",")
	}
	return s, nil
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr())
	// Whoever started it closes its input.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := take(r)
		if err != nil {
			s.Error = err.Error()
			w.WriteHeader(http.StatusBadRequest)
		}
		_ = json.NewEncoder(os.Stdout).Encode(s)
	}))
}
