package tick

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// machine has a counter, a clock that the kernel steers, and accidents.
type machine struct {
	g       grant
	p       pace
	count   float64
	rate    float64 // of the counter, ticks in a nanosecond of true time
	mono    float64
	wall    float64
	steer   float64 // nanoseconds of the clock in one of true time
	checked float64 // clock of the last reading
}

func (m *machine) run(d time.Duration) {
	m.count += float64(d) * m.rate
	m.mono += float64(d) * m.steer
	m.wall += float64(d) * m.steer
}

// look is Clock.look, with time going by between its steps.
func (m *machine) look(first, second time.Duration) {
	r := reading{before: uint64(m.count)}
	m.run(first)
	r.mono, r.wall = int64(m.mono), int64(m.wall)
	m.run(second)
	r.after = uint64(m.count)
	m.p.measure(r)
	m.g.take(r, m.p.rate())
	m.checked = m.mono
}

func newMachine(count, rate float64) *machine {
	return &machine{count: count, rate: rate, steer: 1, wall: 1e18}
}

// settle measures the rate.
func (m *machine) settle() {
	for range 2 * enough {
		m.look(20, 20)
		m.run(20 * time.Millisecond)
	}
	m.look(20, 20)
}

func (m *machine) holds(in time.Duration) bool {
	return m.g.holds(uint64(m.count), int64(m.mono)+int64(in))
}

func TestGrant(t *testing.T) {
	m := newMachine(1e15, 2.6)
	require.False(t, m.holds(time.Hour), "before the rate is known")
	m.settle()
	require.InEpsilon(t, 2.6, m.p.rate(), 0.01)
	require.True(t, m.holds(11*time.Millisecond))
	require.False(t, m.holds(9*time.Millisecond), "within the window")
	m.run(4 * time.Millisecond)
	require.True(t, m.holds(time.Second))
	require.False(t, m.g.young(uint64(m.count)))
	m.run(2 * time.Millisecond)
	require.False(t, m.holds(time.Hour), "the grant is over")
	m.look(20, 20)
	require.True(t, m.holds(time.Hour))
	m.g.stop()
	require.False(t, m.holds(time.Hour))
	m.look(20, 20)
	require.False(t, m.holds(time.Hour), "stopped for good")
}

func TestPreemptedReadings(t *testing.T) {
	m := newMachine(1e15, 2.6)
	for range 100 { // no reading is whole: nothing can be measured
		m.look(time.Millisecond, time.Millisecond)
		m.run(20 * time.Millisecond)
	}
	require.Zero(t, m.p.measured)
	m.settle()
	require.InEpsilon(t, 2.6, m.p.rate(), 0.01)
	m.look(8*time.Millisecond, 0) // long after the counter was read
	require.False(t, m.holds(time.Hour))
	m.look(0, time.Hour)
	require.False(t, m.holds(time.Hour))
}

func TestFrozenAndSuspended(t *testing.T) {
	m := newMachine(1e15, 2.6)
	m.settle()
	m.run(time.Minute) // SIGSTOP
	require.False(t, m.holds(math.MaxInt64/2))

	m.look(20, 20)
	m.count += 1e12 // the machine sleeps, the counter does not
	m.wall += 400e9
	require.False(t, m.holds(time.Hour))
	m.look(20, 20)
	require.True(t, m.holds(time.Hour))
	require.InEpsilon(t, 2.6, m.p.rate(), 0.01)

	m.count = 1e9 // the counter has begun again
	require.False(t, m.holds(time.Hour))
	m.look(20, 20)
	m.run(time.Minute)
	m.look(20, 20)
	require.False(t, m.holds(time.Hour), "less than two minutes old")
	m.run(time.Minute)
	m.look(20, 20)
	require.True(t, m.holds(time.Hour))
}

// Whoever sleeps between any two readings cannot be measured by a counter that does not.
func TestSleepDoesNotSpoilTheRate(t *testing.T) {
	m := newMachine(1e15, 2.6)
	for range 100 {
		m.look(20, 20)
		m.run(20 * time.Millisecond)
		m.count += 1e12
		m.wall += 400e9
	}
	require.Zero(t, m.p.measured)
	require.False(t, m.holds(time.Hour))
}

func TestSlowCounterIsGivenUp(t *testing.T) {
	m := newMachine(1e15, 2.6)
	m.settle()
	m.rate = 1.6
	m.run(4 * time.Millisecond)
	require.True(t, m.holds(7*time.Millisecond), "slower by two fifths, and still right")
	m.run(20 * time.Millisecond)
	m.look(20, 20)
	require.True(t, m.p.slow.Load())
	require.False(t, m.holds(time.Hour))
}

// TestPromisesAreKept: whatever happens to the machine, the clock has not come to a moment of which the grant says so.
func TestPromisesAreKept(t *testing.T) {
	yes := 0
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(rapid.Float64Range(0, 1e15).Draw(rt, "count"), rapid.Float64Range(0.02, 6).Draw(rt, "rate"))
		if rapid.Bool().Draw(rt, "settled") {
			m.settle()
		}
		short := rapid.Int64Range(0, int64(3*time.Millisecond))
		for range rapid.IntRange(1, 300).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				m.steer = rapid.Float64Range(0.89, 1.11).Draw(rt, "steer")
			case 1: // preempted, or stopped
				m.look(time.Duration(short.Draw(rt, "first")), time.Duration(short.Draw(rt, "second")))
			case 2, 3:
				m.look(20, 20)
			case 4: // an ordinary moment; the first ones measure
				m.run(time.Duration(rapid.Int64Range(shortest, 5*shortest).Draw(rt, "while")))
				m.look(20, 20)
			case 5:
				m.run(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(rt, "long")))
			case 6: // sleeps
				d := rapid.Float64Range(0, 1e13).Draw(rt, "sleep")
				m.wall += d
				if rapid.Bool().Draw(rt, "counting") {
					m.count += d * m.rate
				} else {
					m.count = 0
				}
			default:
				m.run(time.Duration(short.Draw(rt, "run")))
			}
			if m.mono-m.checked > float64(time.Minute) {
				m.look(20, 20) // Check
			}
			if m.holds(0) {
				rt.Fatalf("now counts as before now: %+v", m)
			}
			if m.holds(time.Hour) {
				yes++
			}
		}
	})
	require.NotZero(t, yes, "never a promise")
}
