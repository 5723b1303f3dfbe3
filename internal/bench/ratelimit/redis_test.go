package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/goredisstore.v9"
	"github.com/ulule/limiter/v3"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"

	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitredis"
)

func startRedis(b *testing.B) (*services.Redis, *redis.Client) {
	server := must(services.StartRedis(services.RedisConfig{}))
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), PoolSize: 64})
	b.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}

// with runs f by callers goroutines, n times in all.
func with(callers int, keys []string, f func(key string)) func(n int) {
	var mu sync.Mutex
	offset := 0
	return func(n int) {
		mu.Lock()
		offset += 104_729
		start := offset
		mu.Unlock()
		var wg sync.WaitGroup
		for g := range callers {
			wg.Go(func() {
				for i := g; i < n; i += callers {
					f(keys[(start+i*7919)%len(keys)])
				}
			})
		}
		wg.Wait()
	}
}

func oursRedis(client redis.UniversalClient, prefix string, windows ...ratelimit.Window) func(string) {
	store := must(ratelimitredis.New(client, ratelimitredis.Config{Prefix: prefix}))
	l := must(ratelimit.New(store, ratelimit.Config{}))
	plan := must(ratelimit.NewPlan("p", windows...))
	return func(key string) {
		if d, err := l.Allow(context.Background(), key, plan, 1); err != nil || !d.Allowed() {
			panic(fmt.Sprint("refused: ", err))
		}
	}
}

func redisRate(client *redis.Client, limits ...redis_rate.Limit) func(string) {
	l := redis_rate.NewLimiter(client)
	return func(key string) {
		for i, limit := range limits {
			if r, err := l.Allow(context.Background(), strconv.Itoa(i)+key, limit); err != nil || r.Allowed == 0 {
				panic(fmt.Sprint("refused: ", err))
			}
		}
	}
}

func redisPeers(client *redis.Client) []*contenderFunc {
	minuteRR := redis_rate.Limit{Rate: minute, Period: time.Minute, Burst: 1 << 30}
	monthRR := redis_rate.Limit{Rate: month, Period: 30 * 24 * time.Hour, Burst: 1 << 30}
	tStore := must(goredisstore.NewCtx(client, "thr:"))
	thr := must(throttled.NewGCRARateLimiterCtx(tStore, throttled.RateQuota{MaxRate: throttled.PerMin(minute), MaxBurst: 1 << 30}))
	thr.SetMaxCASAttemptsLimit(1000)
	ul := limiter.New(must(ululeredis.NewStoreWithOptions(client, limiter.StoreOptions{Prefix: "ul", MaxRetry: 3})), limiter.Rate{Period: time.Minute, Limit: 1 << 40})
	floor := redis.NewScript(`local v = redis.call('GET', KEYS[1]); redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]); return v`)
	if err := floor.Load(context.Background(), client).Err(); err != nil {
		panic(err)
	}
	return []*contenderFunc{
		{"ours, minute and month", oursRedis(client, "a:", ratelimit.PerMinute(minute).WithBurst(1<<30), ratelimit.PerMonth(month))},
		{"ours, one window", oursRedis(client, "b:", ratelimit.PerMinute(minute).WithBurst(1<<30))},
		{"redis_rate twice", redisRate(client, minuteRR, monthRR)},
		{"redis_rate", redisRate(client, minuteRR)},
		{"throttled", func(key string) {
			if _, _, err := thr.RateLimitCtx(context.Background(), key, 1); err != nil {
				panic(err)
			}
		}},
		{"ulule", func(key string) {
			if _, err := ul.Get(context.Background(), key); err != nil {
				panic(err)
			}
		}},
		{"floor: EVALSHA get and set", func(key string) {
			if err := floor.EvalSha(context.Background(), client, []string{"floor:" + key}, "12345678901234567890", 60000).Err(); err != nil && !errors.Is(err, redis.Nil) {
				panic(err)
			}
		}},
		{"floor: INCR", func(key string) {
			if err := client.Incr(context.Background(), "incr:"+key).Err(); err != nil {
				panic(err)
			}
		}},
	}
}

type contenderFunc struct {
	name string
	f    func(key string)
}

func BenchmarkRedis(b *testing.B) {
	for _, c := range []struct {
		title         string
		callers, keys int
		rounds, n     int
	}{
		// Short slices: a lone caller waits for the scheduler most of the time, whose
		// moods last longer than a slice.
		{"redis, one caller, 10,000 keys", 1, 10_000, 200, 50},
		{"redis, 64 callers, 10,000 keys", 64, 10_000, 20, 6400},
		{"redis, 64 callers, one hot key", 64, 1, 20, 6400},
	} {
		b.Run(c.title, func(b *testing.B) {
			server, client := startRedis(b)
			var contenders []*contender
			for _, p := range redisPeers(client) {
				if p.name == "throttled" && c.keys == 1 {
					continue // its compare-and-swap loop doesn't end in useful time
				}
				contenders = append(contenders, &contender{name: p.name, run: with(c.callers, names(c.keys), p.f)})
			}
			takeTurns(c.rounds, c.n, contenders)
			table(b, c.title, "us", 1000, contenders)
			// What the server pays, by its own account of CPU.
			fmt.Printf("%-44s %10s %21s %10s %21s\n", "server, us a decision", "CPU", "ratio", "scripts", "ratio")
			var oursCPU, oursScripts float64
			for _, p := range contenders {
				best := [2]float64{math.Inf(1), math.Inf(1)}
				for range 10 {
					n := max(2*c.n, 400)
					cpuBefore, scriptsBefore := cpu(server.PID()), scripts(client)
					p.run(n)
					best[0] = min(best[0], float64((cpu(server.PID())-cpuBefore).Nanoseconds())/1000/float64(n))
					best[1] = min(best[1], (scripts(client)-scriptsBefore)/float64(n))
				}
				if oursCPU == 0 {
					oursCPU, oursScripts = best[0], best[1]
				}
				fmt.Printf("%-44s %10.2f %21.2f %10.2f %21.2f\n", p.name, best[0], best[0]/oursCPU, best[1], best[1]/oursScripts)
			}
		})
	}
}

// scripts is how long a server has run scripts, in microseconds, by its own
// account.
func scripts(client *redis.Client) (us float64) {
	info := must(client.Info(context.Background(), "commandstats").Result())
	for line := range strings.Lines(info) {
		for _, command := range []string{"eval", "evalsha"} {
			if stats, ok := strings.CutPrefix(line, "cmdstat_"+command+":"); ok {
				_, usec, _ := strings.Cut(stats, "usec=")
				usec, _, _ = strings.Cut(usec, ",")
				us += must(strconv.ParseFloat(usec, 64))
			}
		}
	}
	return us
}

// cpu is the processor time that a process has had.
func cpu(pid int) time.Duration {
	threads := must(os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)))
	var sum time.Duration
	for _, t := range threads {
		fields := strings.Fields(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name())))))
		sum += time.Duration(must(strconv.ParseInt(fields[0], 10, 64)))
	}
	return sum
}
