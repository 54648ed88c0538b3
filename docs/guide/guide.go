// Package guide holds the chapters of the guide "from one server to millions": one page of Markdown per step of the
// ladder. The full-stack example serves them as its articles.
package guide

import "embed"

// Files are the chapters, named by their number and slug: 05-cache.md. Each begins with a header between lines of
// dashes: title, short (the name of the step), stand (one or two sentences) and packages.
//
//go:embed *.md
var Files embed.FS
