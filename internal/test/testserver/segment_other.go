//go:build !linux

package testserver

func removeSegment(int) {}
