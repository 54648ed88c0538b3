package gradient

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var law = Law{Min: 4, Max: 1000, Tolerance: 2, Window: 100 * time.Millisecond}

func window(at time.Duration, latency time.Duration, reached bool) Window {
	return Window{Now: at, Latency: latency, Answers: 100, Peak: 1, Reached: reached}
}

func TestPhases(t *testing.T) {
	s := law.Start(100)
	require.Equal(t, 100.0, s.Limit)
	s = law.First(s, 10*time.Millisecond)
	require.Equal(t, 10*time.Millisecond, s.Base)
	require.Equal(t, s, law.First(s, time.Second), "once")

	s = law.Next(s, window(1*time.Second, 10*time.Millisecond, false))
	require.Equal(t, 100.0, s.Limit, "a limit that is not used is not raised")
	s = law.Next(s, window(2*time.Second, 10*time.Millisecond, true))
	require.Equal(t, 200.0, s.Limit, "opening doubles")
	s = law.Next(s, window(3*time.Second, 100*time.Millisecond, true))
	require.Less(t, s.Limit, 120.0, "too slow")
	require.Equal(t, 100*time.Millisecond, s.Length, "a window lasts as long as an answer takes")
	over := window(4*time.Second, 10*time.Millisecond, true)
	over.Overloads = 50
	before := s.Limit
	s = law.Next(s, over)
	require.LessOrEqual(t, s.Limit, before*0.9, "overload lowers it too")
}

// At a limit that is reached for long, a quarter of it measures base again.
func TestMeasuring(t *testing.T) {
	s := law.First(law.Start(100), 10*time.Millisecond)
	s = law.Next(s, window(time.Second, 10*time.Millisecond, false)) // known
	s.opening = false
	at := 2 * time.Second
	for ; s.probe == 0; at += time.Second {
		require.Less(t, at, 40*time.Second)
		s = law.Next(s, window(at, 18*time.Millisecond, true))
	}
	require.Greater(t, at, 32*time.Second)
	resume := s.resume
	require.Less(t, s.Limit, resume/3)
	s = law.Next(s, window(at, 12*time.Millisecond, true)) // of before
	require.Less(t, s.Limit, resume/3)
	s = law.Next(s, window(at, 12*time.Millisecond, true))
	require.Equal(t, 12*time.Millisecond, s.Base)
	require.Equal(t, resume, s.Limit)
}

// A service that became slower is not held back for ever.
func TestSlowerService(t *testing.T) {
	s := law.First(law.Start(400), 10*time.Millisecond)
	s = law.Next(s, window(time.Second, 10*time.Millisecond, false))
	for i := range 20 {
		if s = law.Next(s, window(time.Duration(i+2)*time.Second, 100*time.Millisecond,
			true)); s.Base > 50*time.Millisecond {
			return
		}
		require.GreaterOrEqual(t, s.Limit, law.Min)
	}
	t.Fatalf("base is still %v at a limit of %v", s.Base, s.Limit)
}
