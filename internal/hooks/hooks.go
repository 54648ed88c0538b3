// Package hooks joins optional callbacks. The JoinHooks function of each package lists the fields of its hook struct
// and joins each with one of these; internal/test/hooktest checks that no field was forgotten.
package hooks

// Join1 returns a function that calls f, then g. If one of them is nil, it returns the other.
func Join1[A any](f, g func(A)) func(A) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A) { f(a); g(a) }
}

// Join2 is Join1 for functions of two arguments.
func Join2[A, B any](f, g func(A, B)) func(A, B) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A, b B) { f(a, b); g(a, b) }
}

// Join3 is Join1 for functions of three arguments.
func Join3[A, B, C any](f, g func(A, B, C)) func(A, B, C) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A, b B, c C) { f(a, b, c); g(a, b, c) }
}

// Join4 is Join1 for functions of four arguments.
func Join4[A, B, C, D any](f, g func(A, B, C, D)) func(A, B, C, D) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A, b B, c C, d D) { f(a, b, c, d); g(a, b, c, d) }
}

// Join5 is Join1 for functions of five arguments.
func Join5[A, B, C, D, E any](f, g func(A, B, C, D, E)) func(A, B, C, D, E) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A, b B, c C, d D, e E) { f(a, b, c, d, e); g(a, b, c, d, e) }
}

func either[F any](f, g F, second bool) F {
	if second {
		return g
	}
	return f
}
