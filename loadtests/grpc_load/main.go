// One load generator for every gRPC server, and a bare server that tells what the generator itself can do.
//
// `grpc_load ADDRESS METHOD BODIES SECONDS CONCURRENCY CHANNELS` keeps so many unary calls in flight for so long, from
// bytes to bytes, and prints the line of JSON that serving_client.py does; of 0 seconds, until its standard input ends.
// `grpc_load echo ADDRESS` answers every method with the request. Both keep to the cores that they are given.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	warmUp   = 300 * time.Millisecond
	patience = 30 * time.Second // a call that is not answered in this time has failed
)

// raw takes messages as the bytes that they are.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error) { return message.([]byte), nil }
func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

// call is when a call ended, how long it took, and whether it was answered.
type call struct {
	ended  time.Time
	took   time.Duration
	failed bool
}

// worker makes one call after another.
type worker struct {
	calls []call
	why   error // the first failure
}

func (w *worker) run(channel *grpc.ClientConn, method string, bodies [][]byte, at int, stopping *atomic.Bool) {
	var answer []byte
	for ; !stopping.Load(); at++ {
		begun := time.Now()
		deadline, cancel := context.WithDeadline(context.Background(), begun.Add(patience))
		err := channel.Invoke(deadline, method, bodies[at%len(bodies)], &answer)
		cancel()
		ended := time.Now()
		w.calls = append(w.calls, call{ended, ended.Sub(begun), err != nil})
		if err != nil && w.why == nil {
			w.why = err
		}
	}
}

// readBodies returns the requests in a file, each of which has its length before it.
func readBodies(path string) [][]byte {
	content, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	var bodies [][]byte
	for len(content) > 0 {
		end := 4 + binary.LittleEndian.Uint32(content)
		bodies = append(bodies, content[4:end])
		content = content[end:]
	}
	return bodies
}

func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func number(text string) int {
	found, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return found
}

// wait returns after so many seconds, or, of 0, once the standard input has ended.
func wait(seconds float64) {
	if seconds > 0 {
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	} else {
		io.Copy(io.Discard, os.Stdin)
	}
}

func load(address, method, path string, seconds float64, concurrency, channels int) {
	bodies := readBodies(path)
	opened := make([]*grpc.ClientConn, channels)
	for at := range opened {
		channel, err := grpc.NewClient("passthrough:///"+address, grpc.WithNoProxy(),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
		if err != nil {
			log.Fatal(err)
		}
		defer channel.Close()
		opened[at] = channel
	}
	var stopping atomic.Bool
	var ended sync.WaitGroup
	workers := make([]worker, concurrency)
	for at := range workers {
		ended.Go(func() {
			workers[at].run(opened[at%channels], method, bodies, at*len(bodies)/concurrency, &stopping)
		})
	}
	time.Sleep(warmUp)
	from, spent := time.Now(), cpu()
	wait(seconds)
	to := time.Now()
	spent = cpu() - spent
	stopping.Store(true)
	ended.Wait()
	tell(workers, from, to, spent)
}

// tell prints what was measured of the calls that ended between two times, and the failures of all.
func tell(workers []worker, from, to time.Time, spent time.Duration) {
	var within []time.Duration
	requests, failures, why := 0, 0, ""
	for _, w := range workers {
		requests += len(w.calls)
		for _, c := range w.calls {
			if c.failed {
				failures++
			} else if c.ended.After(from) && !c.ended.After(to) {
				within = append(within, c.took)
			}
		}
		if w.why != nil {
			why = w.why.Error()
		}
	}
	if len(within) == 0 {
		log.Fatalf("no call was answered: %s", why)
	}
	slices.Sort(within)
	milliseconds := func(share float64) float64 {
		return within[int(float64(len(within))*share)].Seconds() * 1000
	}
	seconds := to.Sub(from).Seconds()
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"requests_per_second": float64(len(within)) / seconds,
		"p50_ms":              milliseconds(0.5),
		"p99_ms":              milliseconds(0.99),
		"failures":            failures,
		"requests":            requests,
		"client_cpu":          spent.Seconds() / seconds,
		"why":                 why,
	})
}

func echo(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(
		func(_ any, stream grpc.ServerStream) error {
			var message []byte
			if err := stream.RecvMsg(&message); err != nil {
				return err
			}
			return stream.SendMsg(message)
		}))
	log.Fatal(server.Serve(listener))
}

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "echo":
		echo(os.Args[2])
	case len(os.Args) == 7:
		seconds, err := strconv.ParseFloat(os.Args[4], 64)
		if err != nil {
			log.Fatal(err)
		}
		load(os.Args[1], os.Args[2], os.Args[3], seconds, number(os.Args[5]), number(os.Args[6]))
	default:
		fmt.Fprintln(os.Stderr, "usage: grpc_load ADDRESS METHOD BODIES SECONDS CONCURRENCY CHANNELS | grpc_load echo ADDRESS")
		os.Exit(2)
	}
}
