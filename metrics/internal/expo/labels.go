package expo

import (
	"regexp"
	"strings"
)

// Kind is a type of series.
type Kind uint8

// The kinds, numbered as in the enum MetricType of metrics.proto.
const (
	Counter Kind = iota
	Gauge
	Summary
	Untyped
	Histogram
)

func (k Kind) String() string {
	return [...]string{"counter", "gauge", "summary", "untyped", "histogram"}[k]
}

// KindOf returns the kind of a name such as "gauge"; ok is false for an unknown one.
func KindOf(name string) (k Kind, ok bool) {
	for k := range Histogram + 1 {
		if k.String() == name {
			return k, true
		}
	}
	return 0, false
}

// Series is the name and meaning that the samples of one family share.
type Series struct {
	Name, Help string
	Kind       Kind
}

// Labels are rendered label pairs, in the forms that the formats need. Rendering costs more than writing a sample, so
// labels that do not change are rendered once. The zero value is no labels.
type Labels struct{ text, proto string }

// NewLabels renders pairs of names and values.
func NewLabels(names, values []string) Labels {
	var text, proto []byte
	for i, n := range names {
		text = appendTextLabel(text, n, values[i])
		proto = appendProtoLabel(proto, 1, n, values[i])
	}
	return Labels{string(text), string(proto)}
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// appendTextLabel adds name="value" with what the text formats escape.
func appendTextLabel(b []byte, name, value string) []byte {
	if len(b) > 0 {
		b = append(b, ',')
	}
	b = append(append(b, name...), '=', '"')
	for i := range len(value) {
		if c := value[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			value = escapeLabel.Replace(strings.ToValidUTF8(value, "\uFFFD"))
			break
		}
	}
	return append(append(b, value...), '"')
}

var (
	validName  = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	validLabel = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

// ValidName reports whether every version of Prometheus accepts s as the name of a series.
func ValidName(s string) bool { return validName.MatchString(s) }

// ValidLabel reports whether every version of Prometheus accepts s as the name of a label.
func ValidLabel(s string) bool { return validLabel.MatchString(s) && !strings.HasPrefix(s, "__") }
