package example;

import com.google.protobuf.ByteString;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import com.google.rpc.RetryInfo;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import trimtab.serving.v1.PredictionGrpc;
import trimtab.serving.v1.Serving.PredictRequest;
import trimtab.serving.v1.Serving.PredictResponse;
import trimtab.serving.v1.Serving.PredictStreamResponse;

/**
 * Asks Trimtab's serving for one prediction, and then for a few over one stream.
 *
 * <pre>mvn -q compile exec:java -Dexec.args="127.0.0.1:50056 trip-minutes '{...}'"</pre>
 *
 * <p>An address such as {@code dns:///serving:50056} goes to all instances that the name stands for, in turn.
 */
public final class Predict {
  /**
   * A call that meets a dying instance is asked of another, and one that meets a full instance is asked again when that
   * says: gRPC reads it from the answer. A call's deadline bounds it all.
   */
  private static final Map<String, ?> SERVICE_CONFIG =
      Map.of(
          "loadBalancingConfig", List.of(Map.of("round_robin", Map.of())),
          "methodConfig",
              List.of(
                  Map.of(
                      "name", List.of(Map.of("service", "trimtab.serving.v1.Prediction")),
                      "retryPolicy",
                          Map.of(
                              "maxAttempts", 4.0,
                              "initialBackoff", "0.05s",
                              "maxBackoff", "1s",
                              "backoffMultiplier", 3.0,
                              "retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED")))),
          "retryThrottling", Map.of("maxTokens", 100.0, "tokenRatio", 0.5));

  public static void main(String[] args) throws InterruptedException {
    if (args.length != 3) {
      System.err.println("usage: Predict ADDRESS MODEL ROW, where ROW is a JSON object of the model's source");
      System.exit(2);
    }
    ManagedChannel channel =
        Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create())
            .defaultServiceConfig(SERVICE_CONFIG)
            .enableRetry()
            .build();
    try {
      predict(channel, args[1], args[2]);
      predictStream(channel, args[1], args[2]);
    } catch (StatusRuntimeException error) {
      System.err.println(told(error));
      System.exit(1);
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  private static void predict(ManagedChannel channel, String model, String row) {
    PredictResponse answer =
        PredictionGrpc.newBlockingStub(channel)
            .withDeadlineAfter(10, TimeUnit.SECONDS)
            .predict(request(model, row));
    System.out.printf(
        "version %d, %s: %s%n", answer.getVersions(0), answer.getArms(0), number(answer.getPredictions(0)));
    for (int at = 0; at < answer.getViewsCount(); at++) {
      System.out.printf("view %s: as of %s%n", answer.getViews(at), Instant.ofEpochMilli(answer.getAsOfMs(at)));
    }
  }

  /** Sends three requests over one stream; answers come in their order, and one that fails ends nothing. */
  private static void predictStream(ManagedChannel channel, String model, String row) throws InterruptedException {
    CountDownLatch ended = new CountDownLatch(1);
    StreamObserver<PredictRequest> requests =
        PredictionGrpc.newStub(channel)
            .withDeadlineAfter(10, TimeUnit.SECONDS)
            .predictStream(
                new StreamObserver<>() {
                  @Override
                  public void onNext(PredictStreamResponse part) {
                    if (part.hasFailure()) {
                      PredictStreamResponse.Failure failure = part.getFailure();
                      System.out.printf("streamed, refused (%d): %s%n", failure.getCode(), failure.getMessage());
                    } else {
                      System.out.println("streamed: " + number(part.getAnswer().getPredictions(0)));
                    }
                  }

                  @Override
                  public void onError(Throwable error) {
                    System.err.println("the stream broke: " + error.getMessage());
                    ended.countDown();
                  }

                  @Override
                  public void onCompleted() {
                    ended.countDown();
                  }
                });
    for (String sent : List.of(row, "no JSON", row)) {
      requests.onNext(request(model, sent));
    }
    requests.onCompleted();
    ended.await();
  }

  private static PredictRequest request(String model, String row) {
    return PredictRequest.newBuilder().setModel(model).addRows(ByteString.copyFromUtf8(row)).build();
  }

  /** Says what a call failed with, and for how long a full server asks to be left alone. */
  private static String told(StatusRuntimeException error) {
    String said = error.getStatus().getCode() + ": " + error.getStatus().getDescription();
    com.google.rpc.Status details = StatusProto.fromThrowable(error);
    if (details != null) {
      for (com.google.protobuf.Any detail : details.getDetailsList()) {
        if (detail.is(RetryInfo.class)) {
          try {
            said += " (again in " + detail.unpack(RetryInfo.class).getRetryDelay().getNanos() / 1_000_000 + " ms or more)";
          } catch (com.google.protobuf.InvalidProtocolBufferException unreadable) {
            // a detail that cannot be read adds nothing to the sentence
          }
        }
      }
    }
    return said;
  }

  private static String number(double value) {
    return value == Math.rint(value) ? String.valueOf((long) value) : String.valueOf(value);
  }

  private Predict() {}
}
