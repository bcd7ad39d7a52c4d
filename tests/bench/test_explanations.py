"""The benchmark of explanations, at its smallest, and what its rows add up to."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from diffclass.bench.explaining import Explained, Plan, explain_dataset
from diffclass.bench.referee import Referee
from diffclass.data.results import read_results
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.explain import Edit
from diffclass.robust.architecture import Inputs, build_resnet
from diffclass.robust.supervised import SupervisedNetwork
from tiny_mixture import digits, save_mixture

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "explanations.py"
NAMES = tuple(map(str, range(10)))


def script() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("benchmarks/ is not part of this installation")
    spec = importlib.util.spec_from_file_location("explanations_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return benchmark


def network(classes: tuple[str, ...] = NAMES, size: int = 8) -> SupervisedNetwork:
    resnet = build_resnet(1, 10, widths=(8,), depths=(1,)).eval().requires_grad_(False)
    return SupervisedNetwork(
        network=resnet, classes=classes, image_shape=(1, size, size), sigma=0.0, inputs=Inputs(enlarge=2)
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explanations")
    save_mixture(folder / "tiny")
    network(NAMES[::-1]).save(folder / "judge")
    return folder


def test_the_command(home: Path, tmp_path: Path) -> None:
    quick = "--data digits --judge-draws 4 --map-draws 8 --steps 2 --no-sanity --threads 1 --seed 3"
    command = f"--model {home}/tiny --judge {home}/judge {quick} --out {tmp_path}"
    one = CliRunner().invoke(script().main, f"{command} --images 2 --strength 0.7", catch_exceptions=False)
    assert one.exit_code == 0
    again = CliRunner().invoke(script().main, f"{command} --images 2 --strength 0.7", catch_exceptions=False)
    assert again.stdout == one.stdout
    _, rows = read_results(tmp_path / "results.jsonl")
    assert len(rows) == 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["edits"]) == {"inversion", "partial"}
    flipped = summary["edits"]["inversion"]["flipped"]
    assert flipped["value"] == sum(row["edits"]["inversion"]["flipped"] for row in rows) / 2
    assert flipped["method"] == "Wilson"
    assert set(summary["maps"]) == {
        *("evidence", "inversion difference", "partial difference", "random", "Sobel"),
        *("integrated gradients of the judge", "Grad-CAM of the judge"),
    }
    for values in summary["maps"].values():
        assert set(values) == {"deletion (own)", "insertion (own)", "deletion (judge)", "insertion (judge)"}
        assert all(0 <= one["value"] <= 1 for one in values.values())
    gains = summary["against_random"]
    assert set(gains) == set(summary["maps"]) - {"random"}
    apart = [row["maps"]["evidence"]["deletion (own)"] - row["maps"]["random"]["deletion (own)"] for row in rows]
    assert gains["evidence"]["deletion (own)"]["value"] == pytest.approx(sum(apart) / 2)
    assert gains["evidence"]["deletion (own)"]["n"] == 2
    assert "| evidence minus random | value | 95% interval | images |" in one.stdout
    assert "2 images were explained, and 0 could not be opened." in one.stdout
    assert "'flipped' is what it was chosen for" not in one.stdout  # the strength was given
    assert "| inversion | value | 95% interval | images |" in one.stdout
    assert "| other noise |" in one.stdout


def test_rows_go_on_and_broken_pictures_are_rows(home: Path, tmp_path: Path) -> None:
    classifier = DiffusionClassifier.from_pretrained(home / "tiny", race=Exhaustive(n_draws=8, block=4))
    plan = Plan(edits={"quick": Edit(strength=0.6, n_steps=2)}, n_draws=8, judge_draws=4, steps=2, sanity=False)
    part = digits().subset([0, 1, 2])
    whole = explain_dataset(classifier, part, plan, out=tmp_path / "a")
    seen: list[tuple[int, int]] = []

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        explain_dataset(classifier, part, plan, out=tmp_path / "b", progress=stop)
    assert seen == [(1, 3), (2, 3)]
    resumed = explain_dataset(classifier, part, plan, out=tmp_path / "b")
    assert resumed.summary() == whole.summary()
    assert list(whole.edits) == ["quick"]
    assert "judge_flipped" not in whole.edits["quick"]
    broken = Explained.from_rows([{"id": "x", "truth": None, "error": "It is damaged."}], config={})
    assert (broken.n_images, broken.failures, broken.edits) == (0, (("x", "It is damaged."),), {})


def test_the_judge_is_asked_only_where_it_agreed(home: Path) -> None:
    classifier = DiffusionClassifier.from_pretrained(home / "tiny", race=Exhaustive(n_draws=8, block=4))
    plan = Plan(edits={"quick": Edit(strength=0.9, n_steps=2)}, n_draws=8, judge_draws=8, steps=2, sanity=False)
    judge = Referee(classifier, classes=NAMES, n_draws=8)
    found = explain_dataset(classifier, digits(), plan, judge=judge, limit=2)
    values = found.edits["quick"]
    assert values["judge_flipped"] is not None
    assert values["flipped"] is not None
    assert values["judge_flipped"].n == values["flipped"].n == 2  # the judge is the classifier itself
    random = Referee(network(), classes=NAMES)
    asked = explain_dataset(classifier, digits(), plan, judge=random, limit=2).edits["quick"]["judge_flipped"]
    assert asked is None or asked.n < 2


def test_judges_speak_in_the_order_of_the_classes() -> None:
    images = digits().array((1, 8, 8), range(2))[0]
    one = network()
    plain, turned = (Referee(one, classes=names).of(images[0])(images) for names in (NAMES, NAMES[::-1]))
    assert (plain == turned[:, ::-1]).all()
    assert (plain != turned).any()
