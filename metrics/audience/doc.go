// Package audience counts what the owner of a service asks about: unique users by day, week and month, how many of
// those who joined came back, orders and revenue. Users are counted in sketches that merge across servers; none is
// stored.
package audience
