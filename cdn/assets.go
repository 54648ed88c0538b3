package cdn

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// Assets serves the files of a file system under URLs that carry a hash of their content: they never change, so every
// cache may keep them for ever, and a new version is a new URL. Texts are compressed beforehand, as well as they can
// be. All is in memory. It is safe for concurrent use.
type Assets struct {
	prefix string
	urls   map[string]string // by name
	files  map[string]*asset // by the path of the URL
}

type asset struct {
	name, kind, etag string
	plain            []byte
	packed           map[string][]byte // by content coding
}

// NewAssets reads all files of fsys, which are to be served under prefix ("/static/").
func NewAssets(fsys fs.FS, prefix string) (*Assets, error) {
	if !strings.HasPrefix(prefix, "/") || !strings.HasSuffix(prefix, "/") {
		return nil, fmt.Errorf("cdn: NewAssets: prefix %q: want a path that begins and ends with /", prefix)
	}
	a := &Assets{prefix: prefix, urls: map[string]string{}, files: map[string]*asset{}}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		f := &asset{name: name, plain: b, packed: map[string][]byte{}}
		sum := sha256.Sum256(b)
		hash := hex.EncodeToString(sum[:8])
		f.etag = `"` + hash + `"`
		ext := path.Ext(name)
		if f.kind = mime.TypeByExtension(ext); f.kind == "" {
			f.kind = http.DetectContentType(b)
		}
		if err := f.pack(); err != nil {
			return err
		}
		url := prefix + strings.TrimSuffix(name, ext) + "." + hash + ext
		a.urls[name], a.files[url] = url, f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cdn: NewAssets: %w", err)
	}
	return a, nil
}

// pack makes the compressed forms of what compresses. One that saves less than a tenth is not worth its place.
func (f *asset) pack() error {
	if !compressible(f.kind) || len(f.plain) < 256 {
		return nil
	}
	keep := func(coding string, b []byte) {
		if len(b) < len(f.plain)*9/10 {
			f.packed[coding] = b
		}
	}
	var br bytes.Buffer
	bw := brotli.NewWriterLevel(&br, brotli.BestCompression)
	if _, err := bw.Write(f.plain); err != nil {
		return err
	}
	if err := bw.Close(); err != nil {
		return err
	}
	keep("br", br.Bytes())
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer zw.Close()
	keep("zstd", zw.EncodeAll(f.plain, nil))
	var gz bytes.Buffer
	gw, _ := gzip.NewWriterLevel(&gz, gzip.BestCompression)
	if _, err := gw.Write(f.plain); err != nil {
		return err
	}
	if err := gw.Close(); err != nil {
		return err
	}
	keep("gzip", gz.Bytes())
	return nil
}

// URL is where the file of a name ("css/site.css") is served; "" when there is none. Use it in pages.
func (a *Assets) URL(name string) string { return a.urls[name] }

// ServeHTTP serves GET and HEAD of the URLs, with ranges and conditions; 404 to everything else.
func (a *Assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := a.files[r.URL.Path]
	h := w.Header()
	if f == nil {
		h.Set("Cache-Control", "no-store") // it may come with the next release
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	body, etag := f.plain, f.etag
	if len(f.packed) > 0 {
		h.Set("Vary", "Accept-Encoding")
		if coding := f.choose(r.Header["Accept-Encoding"]); coding != "" {
			body = f.packed[coding]
			h.Set("Content-Encoding", coding)
			etag = strings.TrimSuffix(etag, `"`) + "-" + coding + `"` // another representation, another tag
		}
	}
	h.Set("Etag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// choose picks the smallest form that the client takes (RFC 9110 section 12.5.3).
func (f *asset) choose(lines []string) (best string) {
	takes := accepted(lines)
	size := len(f.plain)
	for _, coding := range []string{"br", "zstd", "gzip"} {
		b, there := f.packed[coding]
		if there && takes(coding) && len(b) < size {
			best, size = coding, len(b)
		}
	}
	return best
}
