"""Networks: how long they are trained, and what they refuse; `make test-torch` runs this."""

from typing import Any

import numpy as np
import pytest
from trimtab_core.specs import Model, ModelSpec, parse
from trimtab_training import export, families, fitting
from trimtab_training.errors import RunFailed
from trimtab_training.progress import Progress, Telling

torch = pytest.importorskip("torch", reason="`make test-torch` has PyTorch", exc_type=ModuleNotFoundError)


def a_spec(parameters: dict[str, Any], judge: str = "mae") -> ModelSpec:
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 4, "judge": judge},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": "neural_network", "parameters": parameters},
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model.spec


def some_rows(count: int = 800) -> fitting.Rows:
    rng = np.random.default_rng(0)
    features = rng.normal(50, 7, size=(count, 3)).astype(np.float32)
    labels = np.abs(features[:, 0] - 50.0) + rng.normal(0, 0.3, count)
    return fitting.Rows(features, labels.astype(np.float64), np.arange(count) * 60_000)


def iterations(parameters: dict[str, Any], rows: fitting.Rows) -> list[tuple[int, int]]:
    told: list[Progress] = []
    Telling(told.append, fits=1).counted(fitting.fit)(a_spec(parameters), rows)
    return [(it.iteration, it.iterations) for it in told[1:]]


def test_what_is_not_linear_is_learned() -> None:
    rows = some_rows()

    fitted = fitting.fit(a_spec({"epochs": 60, "learning_rate": 0.01}), rows)

    assert np.abs(fitted.predict(rows.features) - rows.label).mean() < 0.6
    assert np.abs(rows.label - np.median(rows.label)).mean() > 2


def test_epochs_are_found_on_the_newest_rows_and_then_fitted_to_all() -> None:
    rows = some_rows()
    rows.label[:] = np.random.default_rng(1).normal(size=800)  # nothing to learn

    told = iterations({"epochs": 100, "patience": 3, "learning_rate": 0.02}, rows)

    first = [at for at, of in told if at <= 100]
    second = [at for at, of in told if at > 100]
    assert {of for _, of in told} == {200}
    assert len(second) == len(first) - 3 < 97


def test_without_patience_all_epochs_are_gone_through_once() -> None:
    assert iterations({"epochs": 4, "patience": 0}, some_rows(100)) == [(at, 4) for at in (1, 2, 3, 4)]


def test_a_feature_that_is_never_there_or_never_changes_does_no_harm() -> None:
    rows = some_rows()
    rows.features[:, 1], rows.features[:, 2] = np.nan, 1e9
    fitted = fitting.fit(a_spec({"epochs": 20}), rows)
    before = fitted.predict(rows.features)
    rows.features[::2, 1], rows.features[::3, 2] = 3.0, -7.0

    said = fitted.predict(rows.features)

    np.testing.assert_allclose(said, before, rtol=1e-6)
    export.check(export.serialised(fitted.to_onnx()), rows.features, said)


def test_a_monster_label_decides_nothing_where_the_absolute_error_judges() -> None:
    rows = some_rows()
    rows.label[400] = 1e9

    fitted = fitting.fit(a_spec({"epochs": 60, "learning_rate": 0.01}), rows)

    assert np.median(np.abs(fitted.predict(rows.features) - rows.label)) < 0.6


def test_rows_so_old_that_they_weigh_nothing_do_no_harm() -> None:
    rows, spec = some_rows(100), a_spec({"epochs": 2, "batch_size": 8})
    weights = np.exp2(-np.arange(100.0)[::-1] * 3)  # 0 in float32 for the older half

    fitted = families.of(spec)(spec, rows.features, rows.label, weights)

    assert np.isfinite(fitted.predict(rows.features)).all()


def test_a_network_that_leaves_the_numbers_is_told_with_the_remedy() -> None:
    rows = some_rows(100)
    rows.label[::2] = 1e40  # a float32 ends before

    with pytest.raises(
        RunFailed, match=r"diverged: lower trainer\.parameters\.learning_rate, which is 0.001, or"
    ):
        fitting.fit(a_spec({"epochs": 1}, "rmse"), rows)


def test_the_seed_of_others_is_left_alone() -> None:
    before = torch.random.get_rng_state()

    fitting.fit(a_spec({"epochs": 1}), some_rows(100))

    assert torch.equal(torch.random.get_rng_state(), before)
