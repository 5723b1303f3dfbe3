package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisConfig says how a throw-away Redis is run.
type RedisConfig struct {
	// Durable makes every write go to the append-only file before it is
	// answered (appendfsync always).
	Durable bool
	// Cluster starts the server in cluster mode; StartRedisCluster uses it.
	Cluster bool
	// Args are further arguments of redis-server.
	Args []string
}

// Redis is a running throw-away Redis server on a loopback port.
type Redis struct {
	dir  string
	bin  string
	port int
	cred *syscall.Credential
	args []string
	proc *process
}

// StartRedis starts a server. It returns an error that is ErrMissing when this
// machine has no Redis.
func StartRedis(cfg RedisConfig) (*Redis, error) {
	bin, err := find("redis-server")
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := dataDir("commerce-redis-", cred)
	if err != nil {
		return nil, err
	}
	// Between the probe and redis-server's bind another process can take the
	// port, so a server that ends at once is tried again on another one.
	for attempt := 0; ; attempt++ {
		port, err := freePort(cfg.Cluster)
		if err != nil {
			return nil, err
		}
		r := &Redis{dir: dir, bin: bin, port: port, cred: cred}
		r.args = []string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--loglevel", "warning"}
		if cfg.Durable {
			r.args = append(r.args, "--appendonly", "yes", "--appendfsync", "always")
		} else {
			r.args = append(r.args, "--appendonly", "no")
		}
		if cfg.Cluster {
			r.args = append(r.args, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
				"--cluster-config-file", fmt.Sprintf("nodes-%d.conf", port))
		}
		r.args = append(r.args, cfg.Args...)
		err = r.Start()
		if err == nil {
			return r, nil
		}
		if attempt == 4 {
			_ = os.RemoveAll(dir)
			return nil, err
		}
	}
}

// Addr returns host:port.
func (r *Redis) Addr() string { return "127.0.0.1:" + strconv.Itoa(r.port) }

// URL returns the connection string.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// PID returns the process ID of the server.
func (r *Redis) PID() int { return r.proc.cmd.Process.Pid }

// Start starts the server again after Kill or Stop, on the same port.
func (r *Redis) Start() error {
	proc, err := startProcess(r.cred, filepath.Join(r.dir, "log"), r.bin, r.args...)
	if err != nil {
		return err
	}
	r.proc = proc
	client := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
	defer client.Close()
	return proc.ready(func(ctx context.Context) error {
		// A bare dial first: the client logs each refused connection.
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", r.Addr())
		if err != nil {
			return err
		}
		_ = conn.Close()
		return client.Ping(ctx).Err()
	})
}

// Kill ends the server as a power cut would (SIGKILL).
func (r *Redis) Kill() error { return r.proc.stop(syscall.SIGKILL) }

// Stop ends the server in order.
func (r *Redis) Stop() error { return r.proc.stop(syscall.SIGTERM) }

// Freeze stops the server without closing its connections (SIGSTOP), as a
// hanging machine would look like; Thaw lets it go on.
func (r *Redis) Freeze() error { return r.proc.signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (r *Redis) Thaw() error { return r.proc.signal(syscall.SIGCONT) }

// Close ends the server and removes its data.
func (r *Redis) Close() error {
	err := r.proc.stop(syscall.SIGKILL)
	if rmErr := os.RemoveAll(r.dir); err == nil && rmErr != nil {
		err = fmt.Errorf("services: %w", rmErr)
	}
	return err
}

// StartRedisCluster starts a Redis Cluster of three masters with a replica
// each and waits until every node sees it as complete. The returned function
// ends all of them.
func StartRedisCluster() (addrs []string, nodes []*Redis, closeAll func() error, err error) {
	closeAll = func() error {
		var errs []error
		for _, n := range nodes {
			errs = append(errs, n.Close())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			_ = closeAll()
		}
	}()
	for range 6 {
		n, err := StartRedis(RedisConfig{Cluster: true})
		if err != nil {
			return nil, nil, closeAll, err
		}
		nodes = append(nodes, n)
		addrs = append(addrs, n.Addr())
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	clients := make([]*redis.Client, len(nodes))
	for i, n := range nodes {
		clients[i] = redis.NewClient(&redis.Options{Addr: n.Addr()})
		defer clients[i].Close()
	}
	const slots = 16384
	for i, c := range clients[:3] {
		from, to := i*slots/3, (i+1)*slots/3-1
		if err := c.ClusterAddSlotsRange(ctx, from, to).Err(); err != nil {
			return nil, nil, closeAll, fmt.Errorf("services: cluster slots: %w", err)
		}
	}
	for i, c := range clients {
		// Distinct epochs before the nodes meet: no election over a collision.
		if err := c.Do(ctx, "cluster", "set-config-epoch", i+1).Err(); err != nil {
			return nil, nil, closeAll, fmt.Errorf("services: cluster epoch: %w", err)
		}
	}
	for _, n := range nodes[1:] {
		if err := clients[0].ClusterMeet(ctx, "127.0.0.1", strconv.Itoa(n.port)).Err(); err != nil {
			return nil, nil, closeAll, fmt.Errorf("services: cluster meet: %w", err)
		}
	}
	ids := make([]string, 3)
	for i, c := range clients[:3] {
		if ids[i], err = c.Do(ctx, "cluster", "myid").Text(); err != nil {
			return nil, nil, closeAll, fmt.Errorf("services: cluster id: %w", err)
		}
	}
	pending := map[int]bool{3: true, 4: true, 5: true}
	for {
		ok := true
		for i := range pending {
			// A node replicates only a master that it has already met.
			if clients[i].ClusterReplicate(ctx, ids[i-3]).Err() == nil {
				delete(pending, i)
			}
		}
		for _, c := range clients {
			info, err := c.ClusterInfo(ctx).Result()
			ok = ok && err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:6")
		}
		if ok && len(pending) == 0 {
			return addrs, nodes, closeAll, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, closeAll, fmt.Errorf("services: redis cluster not complete: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freePort returns a loopback port that was free a moment ago. Cluster nodes
// also take the port 10,000 above.
func freePort(cluster bool) (int, error) {
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("services: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if !cluster {
			return port, nil
		}
		if port+10000 > 65535 {
			port -= 20000
		}
		if free(port) && free(port+10000) {
			return port, nil
		}
	}
	return 0, errors.New("services: no free port found")
}

func free(port int) bool {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
