"""Model cards and comparisons: what they say, in both forms, and what is missing from them."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from trimtab import evidence as told_of
from trimtab import modelcard
from trimtab.cli.project import _gaps
from trimtab.cli.runs import page as comparison
from trimtab.figures import figures
from trimtab.modelcard import ModelCard
from trimtab.pages import Heading, Page, Picture, Table, Text, Warnings
from trimtab.svg import Bar, Line, bars, matrix, plot
from trimtab_contracts.common.v1.common_pb2 import GateResult
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_contracts.registry.v1.registry_pb2 import (
    Approval,
    AuditEntry,
    Candidate,
    Deployment,
    Interval,
    Resource,
    TableVersion,
    Version,
    VersionEvent,
    VersionRef,
)
from trimtab_contracts.training.v1.training_pb2 import Note, Run, RunEvent
from trimtab_core import specs
from trimtab_core.curves import curves
from trimtab_runtime.clock import iso, to_timestamp
from trimtab_runtime.errors import NotFound, Rejected

CARD = {
    "purpose": "To tell <riders> how long | it takes.",
    "intended_use": "The dispatcher's screen.",
    "limits": ["It knows no weather."],
}

CLASSES = {"regression": (), "binary": (), "multiclass": ("<low>", "mid", "high")}


def a_model(**spec: Any) -> specs.Model:
    document = {
        "task": "regression",
        "source": "trips",
        "features": ["request.x", "speed.*"],
        "rollout": {"cap": 10},
        "label": {"source": "ends", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d"},
        **spec,
    }
    metadata = {"name": "minutes", "owner": "ann"} if "card" in spec else {"name": "minutes"}
    return specs.Model.model_validate({"metadata": metadata, "spec": document})


def some_evidence(task: str = "regression", seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    label = rng.uniform(5, 50, 300) if task == "regression" else (rng.random(300) < 0.4).astype(float)
    said = (
        label + rng.normal(0, 2, 300)
        if task == "regression"
        else np.clip(0.5 + rng.normal(0, 0.2, 300), 0, 1)
    )
    if task == "multiclass":
        label, said = np.digitize(said, [0.4, 0.6]).astype(float), rng.dirichlet([1, 1, 1], 300)
    metric = "mae" if task == "regression" else "log_loss"
    figures = {metric: [3.4321, 3.3123, 3.5678]}
    return {
        "task": task, "judged_by": metric, "confidence": 0.95, "rows": 300, "from_ms": 0, "to_ms": 86_400_000,
        "measures": figures, "champion": {"rows": 200, "measures": {metric: [3.9, 3.8, 4.0]}},
        "slices": [
            {"by": "zone", "slices": [{"of": "7", "rows": 200, "measures": figures}, {"of": "8", "rows": 9, "measures": {}}],
             "left_out": 3}
        ],
        "classes": {"by": "class", "slices": [{"of": "<low>", "rows": 99, "measures": {"recall": [0.51, 0.4, 0.6]}}], "left_out": 0}
        if task == "multiclass" else None,
        "curves": curves(task, label, said, np.arange(300) * 60_000, CLASSES[task]),  # type: ignore[arg-type]
        "importance": {"metric": metric, "rows": 300, "repeats": 5, "features": [
            {"feature": f"request.<{name}>", "rise": rise, "spread": 0.1} for name, rise in (("x", 2.0), ("z", -0.1))
        ]},
        "learning": [{"rows": rows, "value": 4 - rows / 100, "low": 3.0, "high": 5.0} for rows in (25, 50, 100, 200)],
    }  # fmt: skip


def a_run(id: str = "run-1", **candidate: Any) -> Run:
    notes = [Note(text="the <zones> moved | again", by="bob", at=to_timestamp(5_000))]
    event = RunEvent(run_id=id, model="minutes", trigger="performance", status=RunEvent.SUCCEEDED)
    event.candidate.CopyFrom(a_candidate(id, **candidate))
    return Run(event=event, notes=notes)


def a_candidate(id: str = "run-1", *, mae: float = 3.4321) -> Candidate:
    return Candidate(
        run_id=id,
        features=["request.x", "speed.mph"],
        metrics={"mae": mae, "r2": 0.9, "champion_mae": 4},
        intervals={"mae": Interval(low=mae - 0.12, high=mae + 0.14)},
        champion_version=2,
        model_generation=1,
        rows=1_000,
        dataset_digest="d" * 64,
        tables=[TableVersion(table="events/trips", version=7)],
        environment={"numpy": "2"},
    )


def a_card(model: specs.Model, **more: Any) -> ModelCard:
    version = Version(
        model="minutes",
        number=3,
        stage=VersionEvent.LIVE,
        candidate=a_candidate(),
        loop_id="loop-1",
        created_at=to_timestamp(1_000),
        live_from=to_timestamp(9_000),
        gates=[GateResult(gate="mae at most 8", passed=True, value=3.4, limit=8, sentence="It meets the limit.")],
        approval=Approval(
            by=["risk"], approvers=1, given=[Approval.Given(actor="eve", comment="fine", at=to_timestamp(2_000))]
        ),
    )  # fmt: skip
    given: dict[str, Any] = {
        "generation": 1,
        "evidence": some_evidence(),
        "run": a_run(),
        "loop": Loop(id="loop-1", reason="mae is over its threshold", outcome="Version 3 is live"),
        "tags": ("gold",),
        "deeds": [AuditEntry(action="approved", actor="eve", reason="fine", at=to_timestamp(2_000))],
    }
    deployment = Deployment(generation=4, champion=VersionRef(number=3))
    return ModelCard(model=model, version=version, deployment=deployment, **{**given, **more})


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (3.4321, 3.3123, 3.5678, "3.43 (3.31 to 3.57)"),
        (0.87614, 0.87104, 0.88118, "0.876 (0.871 to 0.881)"),
        (12_345.6, 11_000.0, 13_500.0, "12300 (11000 to 13500)"),
        (2.0, 2.0, 2.0, "2 (2 to 2)"),
        (-0.04, -0.2, 0.1, "-0.04 (-0.20 to 0.10)"),
    ],
)
def test_a_figure_is_told_to_the_digits_that_its_interval_leaves(
    value: float, low: float, high: float, said: str
) -> None:
    assert told_of.told(value, Interval(low=low, high=high)) == said
    assert told_of.told(value) == f"{value:.4g}"


def test_a_card_says_what_it_is_for_how_good_it_is_and_what_became_of_it() -> None:
    card = a_card(a_model(card=CARD, evidence={"slices": ["request.x"]}))

    text = card.page().markdown("card-")

    assert not card.warnings
    for said in (
        "# minutes, version 3", "- owner: ann", "- standing: live, champion now", "- It knows no weather.",
        "| mae | 3.43 (3.31 to 3.57) | 3.90 (3.80 to 4.00) |", "### By zone", "| 7 | 200 | 3.43 (3.31 to 3.57) |",
        "| 8 | 9 |  |", "3 more with fewer rows are left out.", "| mae at most 8 | yes | 3.4 | 8 | It meets the limit. |",
        "](card-calibration.svg)", "- dataset tags: gold", "- ordered by: performance", "- deployment: generation 4",
        "- loop ended with: Version 3 is live", "It needs the approval of 1 person with the role risk.",
        "| 1970-01-01T00:00:02.000Z | eve | fine |", "- served: from 1970-01-01T00:00:09.000Z on", "moved \\| again",
        "- views: speed\n",
    ):  # fmt: skip
        assert said in text, said
    assert json.loads(json.dumps(card.described()))["metrics"]["mae"] == "3.43 (3.31 to 3.57)"


@pytest.mark.parametrize(
    ("kind", "trained_to_ms", "said"),
    [
        ("registered", -1, "as the model answers them, which was trained on none of them; with 95%"),
        ("ensemble", -1, "as the model answers them, which was trained on none of them; with 95%"),
        ("registered", 86_400_000, "may have been trained on them: nobody said up to when it was; with 95%"),
    ],
)
def test_the_card_of_a_version_that_was_brought_claims_no_fit(
    kind: str, trained_to_ms: int, said: str
) -> None:
    card = a_card(a_model())
    card.version.candidate.parameters.update({"kind": kind, "origin": "ann's laptop"})
    card.version.candidate.trained_to.CopyFrom(to_timestamp(trained_to_ms))

    text = card.page().markdown("card-")

    assert said in text
    assert f"- trained, at the latest, up to: {iso(trained_to_ms)}" in text
    for claim in ("each predicted by a fit", "fitted to: 1,000", "- from: ", "- seed: ", "held out\n"):
        assert claim not in text, claim


def test_a_card_in_html_loads_nothing_and_lets_nothing_in() -> None:
    page = a_card(a_model(card=CARD)).page().html()

    ElementTree.fromstring(
        page.removeprefix("<!doctype html>")
    )  # well formed, so nothing has broken out of its place
    assert not re.search(r"""(?:src|href)=|<script|url\(|@import""", page)
    assert "To tell &lt;riders&gt; how long | it takes." in page
    assert page.count("<svg ") == 6
    assert "request.&lt;x&gt;" in page and "<x>" not in page


def test_what_a_card_lacks_is_said_on_it_and_by_the_plan() -> None:
    bare = a_model()

    text = a_card(bare, evidence=None, generation=2, run=None, loop=None).page().markdown()

    for said in (
        "> **Warning:** `metadata.owner`: nobody is named: say who answers for the model.",
        "`spec.card.purpose`: it is missing: say what the model is for.",
        "of generation 2, and this version was trained by generation 1.",
        "came without evidence",
        "| mae | 3.43 (3.31 to 3.57) |",
    ):
        assert said in text
    project: Any = SimpleNamespace(resources=[bare, a_model(card=CARD)])
    assert _gaps(project) == [
        "Model/minutes: its model card will lack metadata.owner, spec.card.purpose, spec.card.intended_use, "
        "spec.card.limits: add them, for those who are to trust it"
    ]


@pytest.mark.parametrize(("number", "found"), [(None, 3), (2, 2)])
async def test_the_card_of_the_champion_is_shown_unless_another_is_named(
    number: int | None, found: int
) -> None:
    card = await modelcard.card(Trimtab(), "minutes", number)  # type: ignore[arg-type]

    assert card.version.number == found
    assert (card.evidence, card.run, card.loop) == (None, None, None)
    assert [deed.action for deed in card.deeds] == [f"first of {found}", f"last of {found}"]
    assert "came without evidence" in card.page().html()


async def test_a_version_that_is_not_there_is_told() -> None:
    with pytest.raises(
        NotFound, match="model 'minutes' has no version 9: look at `trimtab model versions minutes`"
    ):
        await modelcard.card(Trimtab(), "minutes", 9)  # type: ignore[arg-type]


class Trimtab:
    """A Trimtab in which all is forgotten but versions 2 and 3, and what was done to them."""

    async def model(self, _: str) -> specs.Model:
        return a_model()

    async def versions(self, _: str) -> list[Version]:
        return [Version(model="minutes", number=number, candidate=a_candidate()) for number in (2, 3)]

    async def deployment(self, _: str) -> Deployment:
        return Deployment(champion=VersionRef(number=3))

    async def resources(self, _: str) -> list[Resource]:
        return [Resource(name="minutes", generation=1)]

    async def audit(self, _: str, *, limit: int) -> list[AuditEntry]:
        entries = []
        for action in ("last", "first"):
            for number in (2, 3):
                entry = AuditEntry(action=f"{action} of {number}", at=to_timestamp(1))
                entry.details["version"] = number
                entries.append(entry)
        return entries

    async def _forgotten(self, _: str) -> Any:
        raise NotFound("forgotten")

    dataset = evidence = run = loop = _forgotten


def test_runs_are_compared_on_a_page_with_their_plots_over_one_another() -> None:
    runs = [a_run("run-a"), a_run("run-b", mae=3.1), a_run("run-c")]

    page = comparison(runs, {"run-a": some_evidence(), "run-b": some_evidence(seed=1)})

    text, html = page.markdown("c-"), page.html()
    assert (
        "| metric.mae | 3.43 (3.31 to 3.57) | 3.10 (2.98 to 3.24) | 3.43 (3.31 to 3.57) | differs |" in text
    )
    assert "There is no evidence of run-c." in text
    assert "| run-c | 1970-01-01T00:00:05.000Z | bob | the <zones> moved \\| again |" in text
    assert html.count(">run-a</text>") == html.count(">run-b</text>") == 6
    ElementTree.fromstring(html.removeprefix("<!doctype html>"))


def test_the_figures_of_probabilities_are_other_ones() -> None:
    names = [each.name for each in figures({"one": some_evidence("binary")})]

    assert names == ["calibration", "confusion", "roc", "precision-recall", "importance", "learning"]


def test_a_card_of_classes_tells_each_of_them_and_what_is_taken_for_what() -> None:
    page = a_card(a_model(card=CARD), evidence=some_evidence("multiclass")).page()

    text, html = page.markdown("card-"), page.html()

    assert "### By class" in text and "| <low> | 99 | 0.51 (0.40 to 0.60) |" in text
    assert "](card-calibration-by-class.svg)" in text and "](card-confusion.svg)" in text
    assert "&lt;low&gt;</text>" in html and "<low>" not in html
    ElementTree.fromstring(html.removeprefix("<!doctype html>"))


def test_of_several_runs_each_has_a_picture_of_its_classes() -> None:
    found = figures({name: some_evidence("multiclass") for name in ("run-a", "run-b")})

    names = [each.name for each in found]
    assert len(set(names)) == len(names)
    assert names[:5] == [
        "calibration",
        *(f"{of}-{at}" for of in ("calibration-by-class", "confusion") for at in (1, 2)),
    ]
    assert "Confusion, run-b" in found[4].svg


def test_a_matrix_of_many_names_stays_within_its_picture() -> None:
    names = [f"a class with a long name {number}" for number in range(25)]
    drawn = ElementTree.fromstring(
        matrix("t", "said", "label", names, [[number] * 25 for number in range(25)])
    )

    cells = drawn.findall(".//{http://www.w3.org/2000/svg}rect[@fill-opacity]")
    assert len(cells) == 625
    assert max(float(cell.get("x", 0)) + float(cell.get("width", 0)) for cell in cells) <= float(
        drawn.get("width", 0)
    )


def test_a_page_is_written_in_the_form_that_its_name_asks_for(tmp_path: Path) -> None:
    drawn = Picture("bars", bars("A", "b", [Bar("<x>", 1, 0.5, 2)]), "What one sees.")
    page = Page(
        "A & B", [Warnings(["Mind `this`."]), Heading("C"), Text("d"), Table([{"e": 1.0, "f": None}]), drawn]
    )

    assert page.write(tmp_path / "new" / "a.md") == [
        tmp_path / "new" / "a.md",
        tmp_path / "new" / "a-bars.svg",
    ]
    assert page.write(tmp_path / "a.html") == [tmp_path / "a.html"]

    assert "![What one sees.](a-bars.svg)" in (tmp_path / "new" / "a.md").read_text()
    assert ElementTree.parse(tmp_path / "new" / "a-bars.svg").getroot().tag.endswith("svg")
    assert "<h1>A &amp; B</h1>" in (tmp_path / "a.html").read_text()
    with pytest.raises(Rejected, match=r"a\.pdf ends with neither \.html nor \.md"):
        page.write(tmp_path / "a.pdf")
    with pytest.raises(Rejected, match=r"cannot be written .*: name another file"):
        page.write(tmp_path / "a.html" / "b.html")


@pytest.mark.parametrize(
    "points",
    [[(1.0, 2.0)], [(0.0, 0.0), (0.0, 0.0)], [(1e9, 1e-6), (3e9, 2e-6)], [(-5.0, -1.0), (-2.0, -1.0)]],
)
def test_a_plot_of_anything_has_axes(points: list[tuple[float, float]]) -> None:
    drawn = ElementTree.fromstring(plot("t", "x", "y", [Line(points, dots=True)]))

    assert "nan" not in ElementTree.tostring(drawn).decode()
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}text")) > 4
