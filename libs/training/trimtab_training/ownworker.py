"""Runs a user's own trainer, in the environment that was made for it: `python ownworker.py ENTRY_POINT PARENT [PACKAGES]`.

It stands alone, for nothing of Trimtab's is installed there: the standard library and
NumPy are all it needs. It answers lines of JSON on standard input with lines on standard
output; arrays lie in files. What the user's code prints goes to standard error, which is
the run's log, and so does the traceback of what it raises.
"""

import ctypes
import importlib
import importlib.metadata
import inspect
import json
import os
import platform
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import Any

GROUP = "trimtab.trainers"


@dataclass(frozen=True)
class Rows:
    """Labelled rows in time order: what a trainer's `fit` is given."""

    features: Any
    """float32 [rows, features], NaN where one is missing."""
    label: Any
    """float64 [rows]; of a binary task 0 or 1, of classes the number of one."""
    weight: Any
    """float64 [rows], how much each counts; None if all count the same."""
    names: tuple[str, ...]
    """Of the features, in order."""
    texts: Any = None
    """Strings [rows, texts], empty where one is missing; None if no feature of the model is a text."""
    text_names: tuple[str, ...] = ()
    """Of the texts, in order."""
    classes: tuple[str, ...] = ()
    """Of the label: it is their numbers."""

    def __len__(self) -> int:
        return len(self.label)


class Unfit(Exception):
    """The trainer is not what the protocol asks for; the sentence says what to change."""


def found(entry_point: str) -> Any:
    """Return the trainer that is named: `package.module:Object`, an entry point's name, or the only one that there is."""
    if ":" not in entry_point:
        known = {each.name: each.value for each in importlib.metadata.entry_points(group=GROUP)}
        if not entry_point and len(known) == 1:
            [entry_point] = known.values()
        elif entry_point in known:
            entry_point = known[entry_point]
        else:
            names = ", ".join(sorted(known)) or "none"
            raise Unfit(
                f"trainer.entry_point {entry_point!r} is none of group {GROUP} (there: {names}): name one, or package:Object"
            )
    module_name, _, path = entry_point.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise Unfit(
            f"trainer.entry_point {entry_point!r}: there is no module {error.name!r} in its environment: put it into the "
            "wheel, or what it needs into the lock"
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise Unfit(
                f"trainer.entry_point {entry_point!r}: there is no {name!r} in {module_name}: mend the name"
            )
        found = getattr(found, name)
    trainer = found() if isinstance(found, type) else found
    if not callable(getattr(trainer, "fit", None)):
        raise Unfit(
            f"trainer.entry_point {entry_point!r} has no method fit(rows, *, parameters, seed): add it"
        )
    return trainer


class Worker:
    """A trainer, and what it has fitted."""

    def __init__(self, trainer: Any, tell: Any) -> None:
        self._trainer = trainer
        self._tell = tell
        self._fitted: dict[str, Any] = {}

    def fit(
        self,
        at: str,
        names: list[str],
        text_names: list[str],
        classes: list[str],
        champion: str | None,
        **given: Any,
    ) -> None:
        """Fit to the arrays that lie at `at`."""
        import numpy as np

        weight = np.load(f"{at}-weight.npy") if os.path.exists(f"{at}-weight.npy") else None
        features, texts = self._left(at)
        rows = Rows(
            features,
            np.load(f"{at}-label.npy"),
            weight,
            tuple(names),
            texts,
            tuple(text_names),
            tuple(classes),
        )
        content = None
        if champion is not None:
            with open(champion, "rb") as file:
                content = file.read()
        known = given | {"champion": content, "progress": self._progress}
        taken = inspect.signature(self._trainer.fit).parameters
        every = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        fitted = self._trainer.fit(
            rows, **{name: value for name, value in known.items() if every or name in taken}
        )
        if not callable(getattr(fitted, "to_onnx", None)):
            raise Unfit(
                f"fit gave a {type(fitted).__name__}, which has no method to_onnx(): return one that has"
            )
        self._fitted[at] = fitted

    def predict(self, at: str) -> None:
        """Predict for the features that lie at `at`."""
        import numpy as np

        fitted = self._fitted[at]
        features, texts = self._left(f"{at}-asked")
        if not callable(getattr(fitted, "predict", None)):
            raise Unfit(
                f"fit gave a {type(fitted).__name__}, which has no method predict(features): add it, so that its graph can be checked"
            )
        said = fitted.predict(features) if texts is None else fitted.predict(features, texts)
        np.save(f"{at}-said.npy", np.asarray(said, np.float64))

    def _left(self, at: str) -> tuple[Any, Any]:
        """Return the features and the texts that lie at `at`; None for the texts if there are none."""
        import numpy as np

        features, texts = np.load(f"{at}-features.npy"), None
        if os.path.exists(f"{at}-texts.json"):
            with open(f"{at}-texts.json") as file:
                texts = np.array(json.load(file), object)
        return features, texts

    def export(self, at: str) -> None:
        """Write the graph of what was fitted."""
        graph = self._fitted[at].to_onnx()
        content = graph if isinstance(graph, bytes) else graph.SerializeToString()
        with open(f"{at}.onnx", "wb") as file:
            file.write(content)

    def forget(self, dropped: list[str]) -> None:
        """Forget what was fitted and is not asked for again."""
        for at in dropped:
            self._fitted.pop(at, None)

    def facts(self) -> dict[str, str]:
        """Return what is installed here."""
        installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
        return {"python": platform.python_version()} | dict(sorted(installed.items()))

    def _progress(self, iteration: int, iterations: int) -> None:
        self._tell({"iteration": int(iteration), "iterations": int(iterations)})


def said(error: BaseException, what: str) -> str:
    """Return what the user is told of what their code raised: which call, what, and where in their code."""
    if isinstance(error, Unfit):
        return str(error)
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename != __file__]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{what} raised {type(error).__name__}: {error}{where}: `trimtab run logs` has the traceback"


def main(entry_point: str, parent: int, packages: str = "") -> None:
    """Answer until standard input ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which wanted this one, has ended")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if packages:
        sys.path.insert(0, packages)

    def tell(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    worker = None
    for line in sys.stdin:
        asked = json.loads(line)
        what = asked.pop("do")
        try:
            worker = worker or Worker(found(entry_point), tell)
            worker.forget(asked.pop("dropped"))
            tell({"answer": getattr(worker, what)(**asked)})
        except (Exception, SystemExit) as error:  # whatever the user's code raises is theirs to be told
            traceback.print_exception(error)
            tell({"error": said(error, f"the trainer's {'to_onnx' if what == 'export' else what}")})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
