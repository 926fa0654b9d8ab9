"""A user's own trainer: its wheel is installed, its code is asked in a process of its own, and told what is wrong with it."""

import asyncio
import json
import re
import runpy
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from trimtab_core.specs import parse, pinned, to_document
from trimtab_runtime.testing import eventually
from trimtab_trainer import job
from trimtab_trainer.sandbox import Files
from trimtab_training import environments, export, ownworker
from trimtab_training.inputs import Inputs
from trimtab_training.progress import Progress, Stage

ROOT = Path(__file__).parents[3]
MINUTE, ROWS = 60_000, 400
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 2))
EXAMPLE = (ROOT / "docs/examples/own-trainer/mytrainer.py").read_text()
LABEL = 3 * X[:, 0] + RNG.normal(0, 0.3, ROWS)
WORDS = [("up", "down", None)[at % 3] for at in range(ROWS)]
OF_CLASSES = np.array([{"up": 2.0, "down": 0.0, None: 1.0}[word] for word in WORDS])
OF_CLASSES[::10] = RNG.integers(0, 3, ROWS // 10)
LOCKED = ("numpy", "onnx", "protobuf", "ml-dtypes", "typing-extensions")


def a_lock() -> str:
    """What the example needs, as this checkout's own lock has it."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    return "\n".join(block for block in blocks if re.match(rf"({'|'.join(LOCKED)})==", block)) + "\n"


class Bench:
    """A job's folder, with a trainer that was sent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent = folder / "jobs" / "run-1", folder / "sent"
        self.store = Files(folder)
        self.folder.mkdir(parents=True), self.sent.mkdir()
        self.told: list[Progress] = []

    def wheel(
        self, code: str, *, entry_points: str = "[trimtab.trainers]\nmine = mytrainer:Trainer\n"
    ) -> Path:
        """Make a wheel of one module."""
        path, info = self.sent / "mytrainer-1.0-py3-none-any.whl", "mytrainer-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("mytrainer.py", code)
            file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mytrainer\nVersion: 1.0\n")
            file.writestr(
                f"{info}/WHEEL",
                "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            file.writestr(f"{info}/entry_points.txt", entry_points)
            file.writestr(f"{info}/RECORD", "")
        return path

    def run(
        self,
        wheel: Path | None,
        *,
        lock: str | None = None,
        entry_point: str | None = "mytrainer:Trainer",
        classes: tuple[str, ...] = (),
        **trainer: Any,
    ) -> dict[str, Any]:
        named = {"entry_point": entry_point} if entry_point else {}
        if wheel is not None:
            named["wheel"] = pinned(wheel.name, self.store.put(wheel).digest)
        if lock is not None:
            (path := self.sent / "requirements.lock").write_text(lock)
            named["lock"] = pinned(path.name, self.store.put(path).digest)
        spec = {
            "task": "multiclass" if classes else "regression",
            "source": "trips",
            "features": ["request.x", "request.z", *(["request.word"] if classes else [])],
            "rollout": {"cap": 10},
            "label": {"source": "trips", "on": "id", "value": "y", "within": "1h", "classes": classes},
            "trainer": {"window": "30d", "kind": "own", **named, **trainer},
        }
        model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
        assert model.kind == "Model"
        self.store.bring(None, model.spec.trainer, self.folder)
        (self.folder / "job.json").write_text(json.dumps({"model": to_document(model)}))
        table = pa.table(
            {"key": [str(at) for at in range(ROWS)], "event_time_ms": np.arange(ROWS) * MINUTE}
            | {"request.x": X[:, 0], "request.z": X[:, 1]}
            | ({"request.word": WORDS, "label": OF_CLASSES} if classes else {"label": LABEL})
        )
        with (
            pa.OSFile(str(self.folder / "rows.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
        job.main(self.folder, self.told.append)
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return result

    def environments(self) -> list[Path]:
        return sorted((self.folder.parents[1] / "environments").iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_it_fits_is_judged_and_let_out_and_its_environment_is_made_once(bench: Bench) -> None:
    result = bench.run(wheel := bench.wheel(EXAMPLE), parameters={"penalty": 0.001})
    made = bench.environments()
    bench.run(wheel, parameters={"penalty": 0.002})

    assert result["metrics"]["mae"] < 0.4
    assert result["environment"]["trainer.wheel"] == bench.store.put(wheel).digest
    assert result["environment"]["trainer.mytrainer"] == "1.0"
    served = export.run((bench.folder / "model.onnx").read_bytes(), X.astype(np.float32))
    assert np.corrcoef(served, X[:, 0])[0, 1] > 0.99
    assert bench.environments() == made
    assert len(made) == 1


def test_with_a_lock_it_runs_in_an_environment_of_what_that_names(bench: Bench) -> None:
    code = (
        EXAMPLE
        + "\nimport sys\nassert 'site-packages' in np.__file__ and 'environments' in sys.prefix, sys.prefix\n"
    )
    result = bench.run(bench.wheel(code), lock=a_lock())

    assert "error" not in result, result
    named = {name.removeprefix("trainer.") for name in result["environment"] if name.startswith("trainer.")}
    assert {"numpy", "onnx", "mytrainer", "lock", "wheel"} <= named
    assert "pyarrow" not in named


def test_an_entry_point_is_named_by_the_wheel_where_it_has_one(bench: Bench) -> None:
    assert "error" not in bench.run(bench.wheel(EXAMPLE), entry_point=None)


TELLS = """
class Trainer:
    def fit(self, rows, *, progress, champion, task, seed, parameters):
        assert rows.names == ("request.x", "request.z") and len(rows) == len(rows.label)
        assert (champion, task, seed, parameters) == (None, "regression", 7, {"deep": 3, "rate": 0.5})
        print("this goes to the log")
        progress(1, 2)
        raise ValueError("too cold")
"""


def test_it_tells_its_progress_and_what_it_raises(bench: Bench) -> None:
    error = bench.run(bench.wheel(TELLS), seed=7, parameters={"deep": 3.0, "rate": 0.5})["error"]

    assert re.search(
        r"the trainer's fit raised ValueError: too cold \(.*mytrainer\.py, line 8\): `trimtab run logs`",
        error,
    )
    assert Progress(Stage.FITTING, 1, 7, 1, 2) in bench.told


NO_FIT = "class Trainer: ..."
UNREADY = "import nosuchpackage\nclass Trainer: ..."


@pytest.mark.parametrize(
    ("code", "entry_point", "said"),
    [
        (EXAMPLE, "mine_:Missing", "trainer.entry_point 'mine_:Missing': there is no 'Missing' in mine_: mend the name"),
        (EXAMPLE, "other:Trainer", "there is no module 'other' in its environment: put it into the wheel"),
        (EXAMPLE, "yours", r"trainer.entry_point 'yours' is none of group trimtab\.trainers \(there: none\)"),
        (UNREADY, "mine_:Trainer", "there is no module 'nosuchpackage' in its environment"),
        (NO_FIT, "mine_:Trainer", r"has no method fit\(rows, \*, parameters, seed\): add it"),
    ],
)  # fmt: skip
def test_an_entry_point_that_leads_to_no_trainer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, entry_point: str, said: str
) -> None:
    (tmp_path / "mine_.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_", raising=False)

    with pytest.raises(ownworker.Unfit, match=said):
        ownworker.found(entry_point)
    sys.modules.pop("mine_", None)


OF_WORDS = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper

WORDS = ["up", "down", ""]

class Trainer:
    def fit(self, rows, *, task):
        assert (task, rows.classes, rows.text_names) == ("multiclass", ("low", "mid", "high"), ("request.word",))
        assert rows.features.shape == (len(rows), 2) and rows.texts.shape == (len(rows), 1)
        counts = [[1 + np.sum((rows.texts[:, 0] == word) & (rows.label == k)) for k in range(3)] for word in WORDS]
        return Fitted(np.array(counts, np.float32) / np.sum(counts, axis=1, keepdims=True).astype(np.float32))

class Fitted:
    def __init__(self, table):
        self.table = table

    def predict(self, features, texts):
        return self.table[[WORDS.index(word) for word in texts[:, 0]]]

    def to_onnx(self):
        nodes = [
            helper.make_node("Equal", ["request_word", "words"], ["same"]),
            helper.make_node("Cast", ["same"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["number", "table"], ["said"]),
        ]
        constants = {"words": np.array([WORDS], object), "table": self.table}
        taken = [helper.make_tensor_value_info("request_word", TensorProto.STRING, [None, 1])]
        given = [helper.make_tensor_value_info("said", TensorProto.FLOAT, [None, 3])]
        tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "words", taken, given, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
"""
CLASSES = ("low", "mid", "high")


def test_it_may_fit_classes_and_texts(bench: Bench) -> None:
    result = bench.run(bench.wheel(OF_WORDS), classes=CLASSES)

    assert "error" not in result, result
    assert result["metrics"]["error_rate"] < 0.15
    said = export.run(
        (bench.folder / "model.onnx").read_bytes(),
        Inputs(X[:3].astype(np.float32), np.array([["up"], ["down"], [""]], object), (False,)),
    )
    assert said.argmax(axis=1).tolist() == [2, 0, 1]


def test_what_is_no_probability_of_each_class_is_told(bench: Bench) -> None:
    two = OF_WORDS.replace("texts[:, 0]]]", "texts[:, 0]]][:, :2]")
    assert "give the probabilities of low, mid, high" in bench.run(bench.wheel(two), classes=CLASSES)["error"]
    scores = OF_WORDS.replace("return self.table[", "return 2 * self.table[")
    error = bench.run(bench.wheel(scores), classes=CLASSES)["error"]
    assert error.startswith("the trainer's predict gives ") and "which sum to 1 (a softmax)" in error


def test_classes_are_weighed_by_the_trainer_itself(bench: Bench) -> None:
    with pytest.raises(ValueError, match="'balanced' is for Trimtab's own families: remove it"):
        bench.run(None, classes=CLASSES, class_weight="balanced")


NO_GRAPH = "class Trainer:\n    def fit(self, rows): return self"
EXITS = "import os\nclass Trainer:\n    def fit(self, rows): os._exit(9)"
MATRIX = EXAMPLE.replace("return filled @ self.weights[:-1] + self.weights[-1]", "return filled")
OTHER = EXAMPLE.replace('"bias": self.weights[-1:]', '"bias": self.weights[-1:] + 1')


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (NO_GRAPH, r"fit gave a Trainer, which has no method to_onnx\(\)"),
        (EXITS, "the trainer's process ended with exit 9 in fit: see `trimtab run logs`"),
        (MATRIX, r"the trainer's predict gave numbers of shape \[27, 2\] for 27 rows: give one a row"),
        (OTHER, "it would serve other answers than were judged"),
    ],
)
def test_what_is_wrong_with_it_is_told(bench: Bench, code: str, said: str) -> None:
    error = bench.run(bench.wheel(code))["error"]

    assert re.search(said, error), error


def test_a_wheel_that_is_none_is_told(bench: Bench) -> None:
    (bad := bench.sent / "mytrainer-1.0-py3-none-any.whl").write_bytes(b"no wheel")
    error = bench.run(bad)["error"]

    assert error.startswith("trainer.wheel mytrainer-1.0-py3-none-any.whl cannot be installed (")
    assert bench.environments() == []


def test_a_lock_without_hashes_is_told(bench: Bench) -> None:
    error = bench.run(bench.wheel(EXAMPLE), lock="numpy==2.4.0\n")["error"]

    assert error.startswith("what trainer.lock requirements.lock names cannot be installed (")
    assert "hash" in error


def test_environments_that_are_long_out_of_use_go(tmp_path: Path) -> None:
    wheel = Bench(tmp_path).wheel(EXAMPLE)
    for number in range(environments.KEPT + 3):
        (old := tmp_path / "environments" / str(number)).mkdir(parents=True)
        environments.os.utime(old, (number, number))
    (tmp_path / "environments" / "3.being_made").mkdir()
    (cut_off := tmp_path / "environments" / "4.cut_off").mkdir()
    environments.os.utime(cut_off, (0, 0))
    environments.of(wheel, None, tmp_path / "environments")

    left = {path.name for path in (tmp_path / "environments").iterdir()}
    assert "3.being_made" in left
    assert len(left) == environments.KEPT + 1
    assert not {"0", "4.cut_off"} & left


MAKES = """
import sys
from pathlib import Path
from trimtab_training import environments
environments.find_uv_bin = lambda: sys.argv[1]
environments.of(Path(sys.argv[2]), None, Path(sys.argv[3]))
"""


async def test_what_makes_an_environment_ends_with_the_run_that_is_killed(tmp_path: Path) -> None:
    (endless := tmp_path / "uv").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid && exec sleep 600\n")
    endless.chmod(0o755)
    wheel = Bench(tmp_path).wheel(EXAMPLE)
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAKES, endless, wheel, tmp_path / "environments"
    )

    async def begun() -> str:
        return pid.read_text().strip() if (pid := tmp_path / "pid").exists() else ""

    uv = psutil.Process(int(await eventually(begun, what="uv")))
    run.kill()
    await run.wait()

    async def ended() -> bool:
        with suppress(psutil.NoSuchProcess):
            return uv.status() == psutil.STATUS_ZOMBIE
        return True

    try:
        await eventually(ended, what="the end of uv")
    finally:
        with suppress(psutil.NoSuchProcess):
            uv.kill()


def test_the_examples_own_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    example = ROOT / "docs/examples/own-trainer"
    monkeypatch.syspath_prepend(example)
    monkeypatch.delitem(sys.modules, "mytrainer", raising=False)

    runpy.run_path(str(example / "tests/test_mytrainer.py"))["test_the_graph_says_what_was_fitted"]()
    sys.modules.pop("mytrainer")
