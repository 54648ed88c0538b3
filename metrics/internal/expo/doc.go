// Package expo writes one scrape: families of samples as Prometheus's text format, as OpenMetrics, or as protobuf.
// Collectors add samples to a [Page] without knowing the format, so that no format has a path of its own. A Page
// belongs to one goroutine; [Join] puts the pages of many collectors together.
//
// The formats are those of https://prometheus.io/docs/instrumenting/exposition_formats/ and of OpenMetrics 1.0; the
// protobuf messages are those of io.prometheus.client (metrics.proto).
package expo
