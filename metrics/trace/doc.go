// Package trace gives every request its ids and carries them along: through the log records of all servers that it
// touches, through calls to others (metrics.Client) and through queues. The format between processes is W3C Trace
// Context, so that what other tracers began is continued.
//
//	http.ListenAndServe(":8080", trace.AccessLog(slog.Default(), mux))
//
// It records no spans: use OpenTelemetry and package otelbridge for those.
package trace
