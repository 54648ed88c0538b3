// Package slo measures service level objectives: the share of events that must be good. The burn rate of an objective
// says how many times faster than allowed its error budget is being spent; alerts fire when two windows, a long and a
// short one, burn too fast at the same time (The Site Reliability Workbook, chapter 5, "Multiwindow, multi-burn-rate
// alerts").
//
//	web, _ := m.HTTP(metrics.HTTPOptions{Server: "web"})
//	_, err := slo.New(m, slo.Options{Name: "available", Objective: 0.999, Read: web.Availability()})
//
// [Rules] and [Grafana] write the alerts and a dashboard for those who run Prometheus and Grafana.
package slo
