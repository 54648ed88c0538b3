package redis

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	goredis "github.com/redis/go-redis/v9"
)

// journal gives the stand-in what a real Redis has in its append-only file: every command that may write is noted
// before it is acknowledged, and played again at the next start. It is a hook of the client, since the stand-in has no
// disk.
type journal struct {
	mu sync.Mutex // held from a command's execution to its note: both have one order
	f  *os.File
}

// reads are the commands that need no note. Scripts may write.
var reads = map[string]bool{"get": true, "hget": true, "hgetall": true, "hmget": true, "ping": true, "hello": true,
	"client": true, "auth": true,
	"select": true, "watch": true, "unwatch": true, "zrange": true, "zrangebyscore": true, "ttl": true, "pttl": true,
	"exists": true, "command": true}

func openJournal(ctx context.Context, name string, c *goredis.Client) (*journal, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("redis: sessions: %w", err)
	}
	s := bufio.NewScanner(f)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var args [][]byte
		if json.Unmarshal(s.Bytes(), &args) != nil || len(args) == 0 {
			continue // cut by the end of the process: it was not acknowledged
		}
		cmd := make([]any, len(args))
		for i, a := range args {
			cmd[i] = string(a)
		}
		_ = c.Do(ctx, cmd...).Err() // a command that was refused then is refused now
	}
	if err := s.Err(); err != nil {
		f.Close()
		return nil, fmt.Errorf("redis: sessions: %w", err)
	}
	_, err = f.WriteString("\n") // ends a cut line
	return &journal{f: f}, err
}

func (j *journal) note(cmds ...goredis.Cmder) error {
	var out []byte
	for _, c := range cmds {
		// the single commands repeat it
		if name := strings.ToLower(c.Name()); reads[name] || name == "multi" || name == "exec" {
			continue
		}
		args := make([][]byte, len(c.Args()))
		for i, a := range c.Args() {
			switch a := a.(type) {
			case []byte:
				args[i] = a
			default:
				args[i] = []byte(fmt.Sprint(a))
			}
		}
		b, _ := json.Marshal(args)
		out = append(append(out, b...), '\n')
	}
	if out == nil {
		return nil
	}
	_, err := j.f.Write(out)
	return err
}

func (j *journal) DialHook(next goredis.DialHook) goredis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

// quiet reports whether no command may write, so that no note is due. What sets a connection up is quiet too; it must
// not wait for the lock, which the command that needs the connection may hold.
func quiet(cmds ...goredis.Cmder) bool {
	for _, c := range cmds {
		if !reads[strings.ToLower(c.Name())] {
			return false
		}
	}
	return true
}

func (j *journal) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if quiet(cmd) {
			return next(ctx, cmd)
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		err := next(ctx, cmd)
		if err != nil && !errors.Is(err, goredis.Nil) { // nil is an answer: the command was carried out
			return err
		}
		return errors.Join(j.note(cmd), err)
	}
}

func (j *journal) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		if quiet(cmds...) {
			return next(ctx, cmds)
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if err := next(ctx, cmds); err != nil {
			return err
		}
		return j.note(cmds...)
	}
}
