// Package cache keeps answers near, so that the database is not asked the same thing again: a generic cache in the
// process, and with cache/rediscache a second tier that all servers share.
//
// [Through] and [Back] write to a store through the cache or behind it; [OpenBack] does so with a journal, so that what
// was acknowledged outlives the process. [Tiered] joins the memory of many processes, [Ring] many servers.
//
// An entry is never served past its deadline: time is the monotonic clock of package time. On Linux on amd64, where the
// kernel keeps that clock by the processor's time stamp counter, most reads look at the counter alone, which can say
// that a deadline has certainly not come; where it cannot say so, and on every other system (or with the build tag
// purego), they look at the clock. [Cache.Load] asks the source once however many callers miss at the same time, and a
// load that is overtaken by a Set or Delete of its key does not bring the old value back.
//
//	func main() {
//		users, err := cache.New(cache.Options[int, User]{MaxEntries: 100_000, TTL: time.Minute})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer users.Close()
//		u, err := users.Load(ctx, 42, func(ctx context.Context, id int) (User, error) {
//			return readUser(ctx, db, id)
//		})
//		...
//		writeUser(ctx, db, u)
//		users.Delete(42) // the next Load reads the new row, even if one with the old row is under way
//	}
package cache
