package usercode

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPanicAndExitBecomeErrors(t *testing.T) {
	cause := errors.New("cause")
	err := Call(func() { panic(cause) })
	require.ErrorIs(t, err, cause)
	var p *Panic
	require.ErrorAs(t, err, &p)
	require.Contains(t, string(p.Stack), "usercode_test")
	require.NoError(t, Call(func() {}))

	require.ErrorContains(t, Run(func() error { panic("boom") }), "boom")
	require.ErrorIs(t, Run(func() error { runtime.Goexit(); return nil }), ErrExited)
	require.ErrorIs(t, Run(func() error { return cause }), cause)
	require.NoError(t, Run(func() error { return nil }))
}

func TestWithinLeavesBehindWhatIgnoresItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		left, err := Within(ctx, func(context.Context) error { time.Sleep(time.Minute); return nil })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		<-left
		require.Equal(t, time.Minute, time.Since(start))

		left, err = Within(t.Context(), func(context.Context) error { panic("boom") })
		require.ErrorContains(t, err, "boom")
		<-left
	})
}

func TestSerialKeepsOrderAndSurvivesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed []error
		s := Serial{Failed: func(err error) { failed = append(failed, err) }, Limit: 8}
		var got []int
		require.True(t, s.Add(func() { time.Sleep(time.Minute); got = append(got, 1) }))
		synctest.Wait()
		require.True(t, s.Add(func() { panic("boom") }))
		require.True(t, s.Add(func() { runtime.Goexit() }))
		require.True(t, s.Add(func() { got = append(got, 2) }))
		require.True(t, s.Add(func() { got = append(got, 3) }))
		for range 3 {
			require.True(t, s.Add(func() {}))
		}
		require.True(t, s.Add(func() {}))
		require.False(t, s.Add(func() {}), "the limit")
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, s.Wait(soon), context.DeadlineExceeded)
		require.NoError(t, s.Wait(t.Context()))
		require.Equal(t, []int{1, 2, 3}, got)
		require.Len(t, failed, 2)

		require.True(t, s.Add(func() { s.Add(func() { got = append(got, 4) }) }))
		require.NoError(t, s.Wait(t.Context()))
		require.Equal(t, []int{1, 2, 3, 4}, got)
		require.NoError(t, s.Wait(t.Context()))
	})
}
