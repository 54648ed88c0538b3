// Package logs makes log records of many servers one thing that can be searched: a slog.Handler that adds the ids of
// the request, redacts secrets, groups errors and keeps the latest records, a Shipper that sends them to a collector,
// and the Store that keeps them.
package logs
