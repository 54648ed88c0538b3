package expo

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Format is an exposition format.
type Format uint8

// The formats. Protobuf alone carries native histograms; the text format has no exemplars.
const (
	Text Format = iota
	OpenMetrics
	Protobuf
)

const (
	textType        = "text/plain; version=0.0.4; charset=utf-8"
	openMetricsType = "application/openmetrics-text; version="
	protobufType    = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)

// accepted is one clause of an Accept header.
type accepted struct {
	media   string
	params  map[string]string
	quality float64
}

func parseAccept(header string) (clauses []accepted) {
	for _, clause := range strings.Split(header, ",") {
		fields := strings.Split(clause, ";")
		a := accepted{media: strings.ToLower(strings.TrimSpace(fields[0])), params: map[string]string{}, quality: 1}
		for _, f := range fields[1:] {
			k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
			if v = strings.Trim(v, `"`); strings.EqualFold(k, "q") {
				if q, err := strconv.ParseFloat(v, 64); err == nil {
					a.quality = q
				}
				continue
			}
			a.params[strings.ToLower(k)] = v
		}
		if a.media != "" && a.quality > 0 {
			clauses = append(clauses, a)
		}
	}
	slices.SortStableFunc(clauses, func(a, b accepted) int { return cmp.Compare(b.quality, a.quality) })
	return clauses
}

// Negotiate returns the format that an Accept header prefers and its Content-Type (RFC 9110 section 12.5.1). A header
// that names none of the formats gets the text format. All names that this package writes are valid in every escaping
// scheme, so the scheme that the client asks for is confirmed.
func Negotiate(accept string) (Format, string) {
	escaping := "; escaping=underscores"
	for _, a := range parseAccept(accept) {
		switch e := a.params["escaping"]; e {
		case "allow-utf-8", "underscores", "dots", "values":
			escaping = "; escaping=" + e
		}
		version := a.params["version"]
		switch a.media {
		case "application/vnd.google.protobuf":
			if a.params["proto"] == "io.prometheus.client.MetricFamily" && a.params["encoding"] == "delimited" {
				return Protobuf, protobufType + escaping
			}
		case "application/openmetrics-text":
			if version == "" {
				version = "0.0.1"
			}
			if version == "1.0.0" || version == "0.0.1" {
				return OpenMetrics, openMetricsType + version + "; charset=utf-8" + escaping
			}
		case "text/plain":
			if version == "" || version == "0.0.4" {
				return Text, textType + escaping
			}
		case "text/*", "*/*":
			return Text, textType + escaping
		}
	}
	return Text, textType + escaping
}
