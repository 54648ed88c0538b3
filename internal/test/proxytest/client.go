package proxytest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// client writes requests byte by byte and reads answers with net/http's parser.
type client struct {
	net.Conn
	br *bufio.Reader
}

func (t *trial) dial() (*client, error) {
	c, err := net.DialTimeout("tcp", t.proxy, t.Wait)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(t.Wait))
	return &client{c, bufio.NewReader(c)}, nil
}

// request is the head of a request to this trial's script: lines are fields.
func (t *trial) request(method string, lines ...string) string {
	s := method + " " + t.path + " HTTP/1.1\r\nHost: site.example\r\n"
	for _, l := range lines {
		s += l + "\r\n"
	}
	return s + "\r\n"
}

type answer struct {
	*http.Response
	body string
	err  error // of reading the body
}

// next reads one answer; informational ones count too.
func (c *client) next(method string) (*answer, error) {
	res, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	a := &answer{Response: res}
	if res.StatusCode >= 200 || res.StatusCode == 101 {
		if res.StatusCode == 101 {
			return a, nil
		}
		b, err := io.ReadAll(res.Body)
		a.body, a.err = string(b), err
	}
	return a, nil
}

// ask dials, sends and reads the final answer.
func (t *trial) ask(method, request string) (*answer, error) {
	c, err := t.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		return nil, err
	}
	return c.final(method)
}

func (c *client) final(method string) (*answer, error) {
	for {
		a, err := c.next(method)
		if err != nil || a.StatusCode >= 200 {
			return a, err
		}
	}
}

// want is an error unless the answer is status with body.
func (a *answer) want(status int, body string) error {
	if a.StatusCode != status {
		return fmt.Errorf("status %d, want %d", a.StatusCode, status)
	}
	if a.err != nil {
		return fmt.Errorf("body: %w", a.err)
	}
	if a.body != body {
		return fmt.Errorf("body %.60q, want %.60q", a.body, body)
	}
	return nil
}

// either waits for the result that the origin's side sends.
func (t *trial) either(ch <-chan error) error {
	select {
	case err := <-ch:
		return err
	case <-time.After(t.Wait):
		return errors.New("the origin's side did not come to its end")
	}
}

// ended is an error unless the proxy closes the connection without another answer.
func (c *client) ended() error {
	b, err := c.br.ReadByte()
	if err == nil {
		rest, _ := c.br.Peek(c.br.Buffered())
		return fmt.Errorf("the connection went on with %.60q", string(b)+string(rest))
	}
	var t net.Error
	if errors.As(err, &t) && t.Timeout() {
		return errors.New("the connection stayed open")
	}
	return nil
}

func list(vs []string) string { return strings.Join(vs, ", ") }
