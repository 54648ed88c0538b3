// Package autoscale sizes a tier from what it measures. Too few web servers or queue workers and users wait; too many
// and they are paid for nothing; a rule written by hand flaps between the two.
//
// [Desired] is the control law as a pure function: target tracking as in the Kubernetes Horizontal Pod Autoscaler
// (tolerance, stabilization windows, rate policies, rules for missing samples), the largest of several metrics,
// schedules, and scaling to zero and back. [Controller] runs it over two functions that read and set the size of
// anything: a pool of goroutines, an lb pool, a platform's API.
//
//	pool := newPool() // has Workers() int, SetWorkers(int), Lag() int
//	c, err := autoscale.New(autoscale.Funcs{
//		Get: func(context.Context) (int, error) { return pool.Workers(), nil },
//		Set: func(_ context.Context, n int) error { pool.SetWorkers(n); return nil },
//	}, autoscale.Policy{
//		Min: 1, Max: 32,
//		Metrics: []autoscale.Metric{{Name: "backlog", Target: 100}}, // 100 waiting jobs per worker
//	}, func(context.Context) ([]autoscale.Sample, error) {
//		return []autoscale.Sample{{Metric: "backlog", Value: float64(pool.Lag())}}, nil
//	}, autoscale.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	go c.Run(ctx)
//
// What takes minutes to start has to be started before it is needed: [Prediction] lets a controller remember the demand
// and add to it what the same hour of the day and of the week lets expect ([History.Forecast]). A forecast only ever
// adds instances.
//
// The package imports nothing of the others: whatever offers Get and Set can be scaled.
package autoscale
