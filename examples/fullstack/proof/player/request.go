package player

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
)

// fromLog makes the request of a log line: with the client's validator where the log says 304, with a range where it
// says 206 or 416.
func fromLog(catalog accesslog.Catalog, c *reader, e accesslog.Entry) client.Request {
	a := client.Request{Method: e.Method, Path: e.Path, Header: http.Header{}, Kind: "log"}
	if e.Agent != "" && strings.IndexFunc(e.Agent, func(r rune) bool { return r < ' ' || r > '~' }) < 0 {
		a.Header.Set("User-Agent", e.Agent)
	}
	if e.Method != "GET" && e.Method != "HEAD" && e.Method != "OPTIONS" {
		a.Key = client.NewID()
	}
	o := catalog[accesslog.Clean(e.Path)]
	switch {
	case e.Status == http.StatusNotModified:
		if etag := c.ETag(e.Path); etag != "" {
			a.Header.Set("If-None-Match", etag)
		}
	case e.Status == http.StatusPartialContent && o.Kind == accesslog.File && e.Size > 0 && e.Method == "GET":
		a.Header.Set("Range", byteRange(0, min(e.Size, o.Size)-1))
	case e.Status == http.StatusRequestedRangeNotSatisfiable && o.Kind == accesslog.File:
		a.Header.Set("Range", byteRange(o.Size, -1))
	}
	return a
}

// expected reports whether a status is what the catalog promises for a line of the log.
func expected(o accesslog.Object, a client.Request, status int) bool {
	switch o.Kind {
	case accesslog.Redirect:
		return status == http.StatusMovedPermanently
	case accesslog.Forbidden:
		return status == http.StatusForbidden
	case accesslog.Missing:
		return status == http.StatusNotFound
	}
	switch rg := a.Header.Get("Range"); {
	case rg != "" && strings.HasSuffix(rg, "-"):
		return status == http.StatusRequestedRangeNotSatisfiable
	case rg != "":
		return status == http.StatusPartialContent
	case a.Header.Get("If-None-Match") != "":
		return status == http.StatusNotModified || status == http.StatusOK
	}
	return status == http.StatusOK
}
func byteRange(from, to int64) string {
	if to < 0 {
		return fmt.Sprintf("bytes=%d-", from)
	}
	return fmt.Sprintf("bytes=%d-%d", from, to)
}
