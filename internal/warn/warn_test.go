package warn

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOneRecordPerCauseAndMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(slog.New(slog.NewTextHandler(&out, nil)))
		for range 100 {
			l.Warn("probe a", "no answer", "node", "a")
			l.Warn("probe b", "no answer", "node", "b")
			time.Sleep(time.Second)
		}
		require.Equal(t, 4, strings.Count(out.String(), "level=WARN"), out.String())
		require.Contains(t, out.String(), `msg="no answer" node=a repeated=59`)
		out.Reset()
		l.Clear("probe a", "answers again", "node", "a")
		l.Clear("probe a", "answers again", "node", "a")
		l.Warn("probe a", "no answer", "node", "a")
		require.Equal(t, 2, strings.Count(out.String(), "\n"), out.String())
		require.Contains(t, out.String(), "level=INFO")
	})
}

func TestMemoryIsBounded(t *testing.T) {
	l := New(slog.New(slog.DiscardHandler))
	for i := range 10 * maxCauses {
		l.Warn(fmt.Sprint(i), "x")
		require.LessOrEqual(t, len(l.causes), maxCauses)
	}
}

func TestDefaultLoggerIsTheOneOfTheMoment(t *testing.T) {
	l := New(nil)
	var out bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	l.Warn("a", "failed")
	require.Contains(t, out.String(), "failed")
}

func TestTally(t *testing.T) {
	var c Tally
	n, last, at := c.Load()
	require.Zero(t, n)
	require.Empty(t, last)
	require.True(t, at.IsZero())
	c.Add(nil)
	c.Add(errors.New("refused"))
	n, last, at = c.Load()
	require.EqualValues(t, 1, n)
	require.Equal(t, "refused", last)
	require.False(t, at.IsZero())
}
