module github.com/tierkit/tierkit/benchmarks

go 1.26.0

require github.com/tierkit/tierkit v0.0.0

replace github.com/tierkit/tierkit => ../
