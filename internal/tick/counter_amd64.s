//go:build amd64 && linux && gc && !purego && !faketime

#include "textflag.h"

// func counter() uint64
TEXT ·counter(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func fetchCounter(first, last uintptr) uint64
TEXT ·fetchCounter(SB), NOSPLIT, $0-24
	MOVQ       first+0(FP), AX
	MOVQ       last+8(FP), CX
	PREFETCHT0 (AX)
	PREFETCHT0 (CX)
	RDTSC
	SHLQ       $32, DX
	ORQ        DX, AX
	MOVQ       AX, ret+16(FP)
	RET

// func cpuid(leaf uint32) (eax, edx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-16
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL DX, edx+12(FP)
	RET
