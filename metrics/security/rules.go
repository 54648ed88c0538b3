package security

import (
	"fmt"
	"strings"

	"github.com/tierkit/tierkit/metrics/slo"
)

// alerts are those of the stream: more than so many events of some kinds in a time.
var alerts = []struct {
	kinds    []string
	alert    string
	over     string // in PromQL
	more     int
	severity string
	summary  string
}{
	{[]string{RefreshReuse}, "RefreshTokenReused", "10m", 0, "page",
		"A refresh token was used twice: one of the two users stole it"},
	{[]string{RevokedToken}, "RevokedTokenUsed", "10m", 10, "ticket", "Revoked tokens are being tried"},
	{[]string{BadSignature, BadCookie, SwappedRecord, BadRecord}, "ForgedTokens", "10m", 100, "ticket",
		"Cookies or tokens are being forged, or a key was dropped too early"},
	{[]string{LoginFailed}, "FailedLogins", "5m", 300, "page",
		"More than one failed login a second: passwords are being guessed"},
	{[]string{CrossOrigin, CSRF}, "CrossOriginRequests", "10m", 50, "ticket",
		"Another site makes browsers send requests here"},
	{[]string{AdminRefused}, "AdminRefused", "10m", 20, "ticket", "Somebody tries the administrative pages"},
	{[]string{RateLimited}, "ManyRateLimited", "10m", 10_000, "ticket", "Many requests are over their limit"},
}

// Rules implements slo.Ruler.
func (s *Stream) Rules() (group string, rules []slo.Rule) {
	for _, a := range alerts {
		rules = append(rules, slo.Rule{Alert: a.alert, Labels: []string{"severity", a.severity}, Summary: a.summary,
			Expr: fmt.Sprintf(`sum(increase(%s{kind=~"%s"}[%s])) > %d`, s.series, strings.Join(a.kinds, "|"), a.over,
				a.more)})
	}
	return "security", rules
}
