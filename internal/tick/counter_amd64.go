//go:build amd64 && linux && gc && !purego && !faketime

package tick

const hasCounter = true

// counter reads the time stamp counter, without a fence.
func counter() uint64

// fetchCounter asks the processor to fetch the lines of two addresses, and reads the counter.
func fetchCounter(first, last uintptr) uint64

// cpuid executes CPUID for a leaf without sub-leaves.
func cpuid(leaf uint32) (eax, edx uint32)

// invariant reports whether the counter runs at one rate in all states of the processor (AMD64 Architecture
// Programmer's Manual, volume 3, appendix E.4.8; Intel SDM, volume 3, "Invariant TSC").
func invariant() bool {
	const leaf, bit = 0x8000_0007, 8
	most, _ := cpuid(0x8000_0000)
	if most < leaf {
		return false
	}
	_, edx := cpuid(leaf)
	return edx>>bit&1 == 1
}
