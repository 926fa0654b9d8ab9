"""Calls of one request and one answer: the path from bytes to bytes, each on one thread.

`grpc.server` hears of a call on one thread and works on it on another, which then waits
for the first to hand it the message; of what a small call costs that is more than half.
Here the threads of a `Pool` listen to a completion queue of their own, beside the one of
the `grpc.server` whose port it is, and whichever hears of a message answers it. A call is
three events: it has come, its message is here, its answer is out.

It stands on what `grpc.server` itself stands on, `grpc._cython.cygrpc`, which promises
nobody anything: grpcio is pinned to versions that this is tested with. Handlers are what
they are for `grpc.server`, so a native path can take its place, or gRPC's own.
"""

import logging
import time
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, NamedTuple

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from trimtab_runtime.pool import Job, Pool

log = logging.getLogger(__name__)

_NO_FLAGS = 0
_AT_ONCE = 16
"""Calls of a method that may come before one of them is taken note of; more of them wait in gRPC."""
_OK = grpc.StatusCode.OK.value[0]

Metadata = tuple[tuple[str, str | bytes], ...]


class Ending(NamedTuple):
    """How a call ends that has no answer."""

    code: grpc.StatusCode
    sentence: str
    metadata: Metadata = ()


class Context:
    """What a handler may ask of its call."""

    __slots__ = ("_deadline_s", "_metadata")

    def __init__(self, event: Any) -> None:
        self._metadata: Metadata = event.invocation_metadata
        self._deadline_s: float = event.call_details.deadline

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent beside the request."""
        return self._metadata

    def time_remaining(self) -> float:
        """Return how many seconds the caller still waits; infinity where it does for ever."""
        return max(0.0, self._deadline_s - time.time())  # noqa: TID251  gRPC says its deadlines by that clock

    def set_code(self, code: grpc.StatusCode) -> None:
        """Take no note: it is generated code that says so, before it raises what tells as much."""

    def set_details(self, details: str) -> None:
        """Take no note, like `set_code`."""


class Method(NamedTuple):
    """A method, by its full name, and how a request of it is answered."""

    name: str
    answer: Callable[[bytes, Context], bytes]
    fault: Callable[[Exception], Ending]
    """Says how a call ends of which `answer` raised something."""


class _Call:
    """A call whose message is on its way, or here."""

    __slots__ = ("_call", "_context", "_method", "came_ns", "message")

    def __init__(self, method: Method, event: Any) -> None:
        self.came_ns = perf_counter_ns()
        self.message: bytes | None = None
        self._method = method
        self._call = event.call
        self._context = Context(event)

    def receive(self) -> None:
        """Ask for the message."""
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self)

    def run(self) -> None:
        """Answer."""
        method = self._method
        if self.message is None:  # its caller has gone, or closed its side without a word
            self.end(Ending(grpc.StatusCode.UNIMPLEMENTED, f"{method.name} takes one request, and none came"))
            return
        try:
            answer = method.answer(self.message, self._context)
        except Exception as error:  # the edge of a call
            self.end(method.fault(error))
            return
        self._send(cygrpc.SendMessageOperation(answer, _NO_FLAGS), (), _OK, b"")

    def end(self, ending: Ending) -> None:
        """End without an answer."""
        self._send(None, ending.metadata, ending.code.value[0], ending.sentence.encode())

    def _send(self, message: Any, metadata: Metadata, code: int, sentence: bytes) -> None:
        operations = [
            cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
            cygrpc.SendStatusFromServerOperation(metadata, code, sentence, _NO_FLAGS),
            cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),
        ]
        if message is not None:
            operations.insert(1, message)
        self._call.start_server_batch(operations, None)


class Unary:
    """The methods of a server that are answered here: a source of calls."""

    def __init__(self, server: Any, pool: Pool, most_waiting: int, refusal: Callable[[], Ending]) -> None:
        """`server` is a `grpc.Server` that was not started; while `most_waiting` calls wait, one more ends as `refusal` says."""
        self._server = server._state.server
        self._pool = pool
        self._most_waiting = most_waiting
        self._refusal = refusal
        self._methods: list[Method] = []
        self._queue = cygrpc.CompletionQueue()
        self._server.register_completion_queue(self._queue)

    def add(self, method: Method) -> None:
        """Answer a method, which the server knows nothing of."""
        self._server.register_method(method.name)
        self._methods.append(method)

    def open(self) -> None:
        """Begin to answer; the server has been started."""
        for method in self._methods:
            for _ in range(_AT_ONCE):
                self._await_call(method)
        self._pool.serve(self)

    def close(self) -> None:
        """Let the threads go, now that the server has been stopped: gRPC ends a process that says more of a call."""
        self._queue.shutdown()

    def next(self) -> Job | None:
        """Wait for the next call whose message is here; None once it is closed."""
        while True:
            event = self._queue.poll()
            if event.completion_type == cygrpc.CompletionType.queue_shutdown:
                return None
            tag = event.tag
            if type(tag) is _Call:
                tag.message = event.batch_operations[0].message()
                return tag
            if tag is not None and event.success:
                try:
                    self._take_note(tag, event)
                except Exception:  # the edge: this thread has other calls to hear of
                    log.exception("a call of %s was lost", tag.name)
            del event, tag  # an event holds its call

    def _take_note(self, method: Method, event: Any) -> None:
        self._await_call(method)
        call = _Call(method, event)
        if not self._pool.announce(self._most_waiting):
            call.end(self._refusal())
            return
        try:
            call.receive()
        except Exception:
            self._pool.withdraw()
            raise

    def _await_call(self, method: Method) -> None:
        try:
            self._server.request_registered_call(self._queue, self._queue, method.name, method)
        except ValueError:
            log.debug("%s takes no more calls: the server is shutting down", method.name)
