"""What computes answers: the seam between versions and an engine, and ONNX Runtime in this process.

An engine opens graphs; what it opens never changes, may be asked by many threads at
once, and lives for as long as anyone holds it: so a request that has taken a session
gets its answer from it, whatever is unloaded meanwhile.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray
from trimtab_runtime.ort import onnxruntime

from trimtab_serving.errors import CannotServe


class Tensor(NamedTuple):
    """What a graph takes or gives under one name."""

    type: str
    """As ONNX Runtime says it: `tensor(float)`, `tensor(string)`."""
    shape: tuple[int | None, ...]
    """None where a dimension is not fixed."""


class Session(Protocol):
    """A graph that answers."""

    @property
    def takes(self) -> Mapping[str, Tensor]:
        """What it takes, by name."""
        ...

    @property
    def gives(self) -> Mapping[str, Tensor]:
        """What it answers, by name, in order."""
        ...

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, estimated."""
        ...

    def score(self, output: str, given: Mapping[str, Any]) -> NDArray[Any]:
        """Return one output for inputs of so many rows.

        Raises:
            Forgotten: the engine has it no longer.
            Unavailable: the engine is away.
        """
        ...


class Engine(Protocol):
    """Opens graphs."""

    def load(self, name: str, onnx: bytes) -> Session:
        """Open a graph; `name` is for people. It is closed once nobody holds it any longer.

        Raises:
            CannotServe: it is none that the engine can open.
            Unavailable: the engine is away.
        """
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def size_of(onnx: bytes) -> int:
    """Return the memory that a session takes: measured, trees take 5.5 times their file, dense layers twice."""
    return 100_000 + 6 * len(onnx)


class OnnxSession:
    """A session of ONNX Runtime."""

    def __init__(self, onnx: bytes) -> None:
        self._session = onnxruntime.InferenceSession(onnx, _options(), providers=["CPUExecutionProvider"])
        self._run = self._session.run
        self.takes = {each.name: _tensor(each) for each in self._session.get_inputs()}
        self.gives = {each.name: _tensor(each) for each in self._session.get_outputs()}
        self.size = size_of(onnx)

    def score(self, output: str, given: Mapping[str, Any]) -> NDArray[Any]:
        """Return one output, computed on the thread that asks."""
        answer: NDArray[Any] = self._run((output,), given)[0]
        return answer


def opened(name: str, onnx: bytes) -> OnnxSession:
    """Open a graph in this process.

    Raises:
        CannotServe: it is none; `name` is what the fault calls it.
    """
    try:
        return OnnxSession(onnx)
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise CannotServe(
            f"{name} is no model that ONNX Runtime can open: {error}; train it again"
        ) from error


class OnnxEngine:
    """ONNX Runtime in this process."""

    def load(self, name: str, onnx: bytes) -> Session:
        """Open a graph."""
        return opened(name, onnx)

    def close(self) -> None:
        """Do nothing: sessions go with whoever holds them."""


def _tensor(told: Any) -> Tensor:
    return Tensor(told.type, tuple(size if isinstance(size, int) else None for size in told.shape))


def _options() -> Any:
    """Return settings for throughput: many requests at once, each on the thread that it came on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = (
        False  # as fast, and a thousand sessions keep no memory that they do not use
    )
    options.log_severity_level = 3
    return options
