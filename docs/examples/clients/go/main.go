// Predict asks Trimtab's serving for one prediction, and then for a few over one stream.
//
//	go run . "127.0.0.1:50056,127.0.0.1:50057" trip-minutes '{"trip_id": "1", ...}'
//
// The stubs in the folder serving are made from Trimtab's protos: `make example-clients` shows how.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"example/predict/serving"
)

// Each call goes to the next of the addresses. One that meets a dying instance is asked of another, and one that meets
// a full instance is asked again when that says: gRPC reads it from the answer. A call's deadline bounds it all.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "trimtab.serving.v1.Prediction"}],
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 3,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5}
}`

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: predict ADDRESS[,ADDRESS...] MODEL ROW, where ROW is a JSON object of the model's source")
	}
	if err := run(os.Args[1], os.Args[2], []byte(os.Args[3])); err != nil {
		log.Fatal(told(err))
	}
}

func run(addresses, model string, row []byte) error {
	conn, err := connect(addresses)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := serving.NewPredictionClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	answer, err := client.Predict(ctx, &serving.PredictRequest{Model: model, Rows: [][]byte{row}})
	if err != nil {
		return err
	}
	fmt.Printf("version %d, %s: %g\n", answer.Versions[0], answer.Arms[0], answer.Predictions[0])
	for at, view := range answer.Views {
		fmt.Printf("view %s: as of %s\n", view, time.UnixMilli(answer.AsOfMs[at]).UTC().Format(time.RFC3339))
	}
	return predictStream(ctx, client, model, row)
}

// predictStream sends three requests over one stream; answers come in their order, and one that fails ends nothing.
func predictStream(ctx context.Context, client serving.PredictionClient, model string, row []byte) error {
	stream, err := client.PredictStream(ctx)
	if err != nil {
		return err
	}
	go func() {
		for _, sent := range [][]byte{row, []byte("no JSON"), row} {
			if stream.Send(&serving.PredictRequest{Model: model, Rows: [][]byte{sent}}) != nil {
				return // Recv tells why
			}
		}
		stream.CloseSend()
	}()
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if failure := part.GetFailure(); failure != nil {
			fmt.Printf("streamed, refused (%d): %s\n", failure.Code, failure.Message)
		} else {
			fmt.Printf("streamed: %g\n", part.GetAnswer().Predictions[0])
		}
	}
}

// connect opens a channel to all of the addresses. Where a name stands for all instances, "dns:///serving:50056" is enough.
func connect(addresses string) (*grpc.ClientConn, error) {
	var endpoints []resolver.Endpoint
	for _, address := range strings.Split(addresses, ",") {
		endpoints = append(endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	static := manual.NewBuilderWithScheme("trimtab")
	static.InitialState(resolver.State{Endpoints: endpoints})
	return grpc.NewClient("trimtab:///serving",
		grpc.WithResolvers(static),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig))
}

// told says what a call failed with, and for how long a full server asks to be left alone.
func told(err error) string {
	failed := status.Convert(err)
	for _, detail := range failed.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return fmt.Sprintf("%s: %s (again in %s)", failed.Code(), failed.Message(), retry.RetryDelay.AsDuration())
		}
	}
	return fmt.Sprintf("%s: %s", failed.Code(), failed.Message())
}
