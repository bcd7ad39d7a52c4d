"""A report as one HTML page that needs nothing beside it: figures and pictures are in it, and no script."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from diffclass.bench.report import Example, Report
from diffclass.bench.report_figures import report_figures
from diffclass.data.datasets import Dataset
from diffclass.data.dicom import is_dicom, read_dicom
from diffclass.data.images import prepare_image
from diffclass.data.results import write_text_atomic
from diffclass.decide.uncertainty import MEASURES
from diffclass.errors import DiffclassError, InputError
from diffclass.stats.interval import Estimate, wilson

__all__ = ["MEASURE_NAMES", "render_page", "write_page"]

MEASURE_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "abstentions": "no answer",
    "auc": "AUC",
    "evaluations_per_image": "network evaluations an image",
    "draws_per_image": "draws an image",
    "nll": "negative log-likelihood [nats]",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "nll_on_half": "negative log-likelihood [nats] *",
    "ece_on_half": "calibration error (ECE) *",
    "brier_on_half": "Brier score *",
    "aurc": "AURC",
    "augrc": "AUGRC",
    "coverage_at_5_risk": "kept at 5% error",
    "risk_at_80_coverage": "error at 80% kept",
    "failure_auc": "failure AUC",
}
_SHARES = {"accuracy", "balanced_accuracy", "abstentions", "ece", "ece_on_half", "coverage_at_5_risk",
           "risk_at_80_coverage", "coverage", "singletons"}  # fmt: skip
_CAVEAT = (
    "A research measurement, not a medical device. The figures hold for pictures like these; another scanner, hospital "
    "or patient group is another population. Run the audit of the data set before reading anything into them."
)
_CAPTIONS = {
    "risk_coverage": "Error among the surest images, for every share that is kept; $all. Lower is better; AURC is the "
    "area, with its 95% interval.",
    "filtering": "Accuracy of what is left after the most uncertain images went to a person; $all, ever fewer to the "
    "right. The band is the 95% interval of the thick line; the others have one too, not drawn.",
    "reliability": "How often the likeliest class is right, by the probability given to it; $judged.",
    "evaluations": "What an image costs: the race stops early where the draws agree; $all.",
}
_LARGEST = 256  # [pixels] of a side of a picture in the page


def write_page(report: Report, path: Path) -> list[str]:
    """Write the page, and return sentences on what is missing from it.

    Raises:
        ResultError: the file cannot be written.
    """
    page, missing = render_page(report)
    write_text_atomic(path, page)
    return missing


def render_page(report: Report) -> tuple[str, list[str]]:
    """Return the page, and sentences on what is missing from it."""
    data, missing = None, []
    try:
        data = report.run.pictures()
    except InputError as error:
        missing = [str(error)]
    template = Template(files("diffclass.bench").joinpath("report.html").read_text(encoding="utf-8"))
    figures = report_figures(report)
    page = template.substitute(
        title=escape(report.run.title),
        lead=_lead(report),
        caveat=_CAVEAT,
        metrics=_metrics(report),
        confusion=_confusion(report),
        certainty=_certainty(report),
        figures="".join(_figure(name, svg, report) for name, svg in figures.items()),
        selective=_selective(report),
        validation=_validation(report),
        examples=_examples(report, data, missing),
        provenance=_provenance(report),
    )
    return page, missing


def _number(name: str, value: float) -> str:
    if name in _SHARES:
        return f"{value:.1%}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _interval(name: str, made: Estimate | None) -> str:
    if made is None:
        return "—"
    value, low, high = (_number(name, x) for x in (made.value, made.low, made.high))
    return f"{value} <span class='muted'>({low} to {high})</span>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", kind: str = "") -> str:
    """Return a table of cells that are HTML already."""
    cells = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    below = f"<caption style='caption-side: bottom'>{caption}</caption>" if caption else ""
    inside = f"{below}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody>"
    return f"<div class='scroll'><table class='{kind}'>{inside}</table></div>"


def _figure(name: str, svg: str, report: Report) -> str:
    counts = {"all": f"{len(report.wrong):,} images", "judged": f"{len(report.measured_on):,} images"}
    return f"<figure>{svg}<figcaption>{Template(_CAPTIONS[name]).substitute(counts)}</figcaption></figure>"


def _lead(report: Report) -> str:
    """Say the answer first."""
    made, n = report.metrics["accuracy"], len(report.run.answered)
    if made is None:
        return f"{n:,} images."
    return f"{made.value:.1%} of {n:,} images are answered rightly (95% interval {made.low:.1%} to {made.high:.1%})" + (
        "." if report.run.scores.n_failed == 0 else f"; {report.run.scores.n_failed} pictures could not be opened."
    )


def _metrics(report: Report) -> str:
    rows = [
        [escape(MEASURE_NAMES.get(name, name.replace("_", " "))), _interval(name, e), "" if e is None else f"{e.n:,}"]
        for name, e in report.metrics.items()
    ]
    texts = dict.fromkeys(report.notes.values())
    notes = "".join(f"<p class='muted'>* {escape(text)}</p>" for text in texts)
    return _table(["measure", "value (95% interval)", "images"], rows) + notes


def _confusion(report: Report) -> str:
    counts, names = report.confusion, report.run.classes
    columns = [*names, "no answer"] if counts[:, -1].any() else list(names)
    rows = []
    for name, row in zip(names, counts.tolist(), strict=True):
        total, found = max(1, sum(row)), row[names.index(name)]
        share = _interval("accuracy", wilson(found, total)) if sum(row) else "—"
        cells = [
            f"<span style='background: rgba(var(--shade), {0.45 * count / total:.2f}); "
            f"padding: .1rem .5rem; display: block'>{count}</span>"
            for count in row[: len(columns)]
        ]
        rows.append([f"<b>{escape(name)}</b>", *cells, share])
    head = ["it is ↓ &nbsp; answered →", *(escape(c) for c in columns), "found"]
    return _table(
        head,
        rows,
        "Rows are what the images show; “found” is the share of them that was answered so, with its 95% interval.",
        "matrix",
    )


def _certainty(report: Report) -> str:
    by = MEASURES[report.primary]
    text = f"Figures and examples go by the {by}. "
    if report.primary != "probability":
        text += (
            "The classifier had no calibration of its own: probabilities rest on a temperature fitted to half of these "
            "very images and are judged on the other half. Give a validation run for better ones."
            if report.temperature is not None
            else "No temperature could be fitted, so there are no probabilities."
        )
    return f"<p>{text}</p>"


def _selective(report: Report) -> str:
    keys = ("aurc", "augrc", "coverage_at_5_risk", "risk_at_80_coverage", "failure_auc")
    rows = [
        [escape(MEASURES[name]), *(_interval(key, found[key]) for key in keys)]
        for name, found in report.selective.items()
    ]
    caption = (
        f"{len(report.wrong):,} images, and {report.wrong.sum():,} answers that are not right, on which every figure "
        "here rests; where intervals overlap, they choose no measure. AURC and AUGRC: lower is better. Failure AUC: "
        "how often a wrong answer is less sure than a right one; half is chance. What is kept at 5% error is chosen "
        "on these images, so that it flatters where they are few."
    )
    return _table(["uncertainty", *(MEASURE_NAMES[key] for key in keys)], rows, caption)


def _validation(report: Report) -> str:
    """Show what calibration on other images adds."""
    v = report.validated
    if v is None:
        return ""
    rows = [
        [name, *(_interval(key, found[key]) for key in ("nll", "ece", "brier"))]
        for name, found in v.calibration.items()
        if found is not None
    ]
    text = f"<p>Fitted on {v.n:,} validation images, measured on {len(report.wrong):,} others"
    text += "." if v.temperature is None else f"; the temperature is {v.temperature:.4g}."
    text += "</p>" + _table(["calibration", *(MEASURE_NAMES[k] for k in ("nll", "ece", "brier"))], rows)
    if v.coverage is not None and v.set_size is not None and v.singletons is not None:
        text += (
            f"<p>Conformal sets that promise to hold the right class of {1 - (v.alpha or 0):.0%} of images like those "
            f"of the validation run: {_interval('coverage', v.coverage)} of {v.coverage.n:,} sets do. A set has "
            f"{_interval('set_size', v.set_size)} classes; {_interval('singletons', v.singletons)} have just one.</p>"
        )
    text += "".join(f"<p class='muted'>{escape(note)}</p>" for note in v.notes)
    return f"<section><h2>Calibrated on validation images</h2>{text}</section>"


def _examples(report: Report, data: Dataset | None, missing: list[str]) -> str:
    parts = [f"<p class='warning'>{escape(text)}</p>" for text in missing]
    index = {} if data is None else {name: i for i, name in enumerate(data.ids)}
    for kind in dict.fromkeys(example.kind for example in report.examples):
        cards = []
        for example in report.examples:
            if example.kind == kind:
                picture = None if data is None else _picture(report, data, index[example.row["id"]])
                cards.append(_card(example, picture))
        parts.append(f"<h3>{kind.capitalize()}</h3><div class='cards'>{''.join(cards)}</div>")
    if not any(example.kind == "wrong and sure" for example in report.examples):
        parts.append("<p>No answer was wrong.</p>")
    return "".join(parts)


def _card(example: Example, picture: str | None) -> str:
    row = example.row
    right = row["label"] == row["truth"]
    said = escape(str(row["label"])) + ("" if right else f" <span class='muted'>(it is {escape(row['truth'])})</span>")
    facts = [f"log-odds {row['log_odds']:.1f} ± {row['log_odds_se'] or 0:.1f} over {escape(row['runner_up'])}"]
    if example.probability is not None:
        facts.append(f"probability {example.probability:.1%}")
    if "uncertainty" in row:
        facts.append(f"{row['uncertainty']['vote_share']:.0%} of {row['uncertainty']['n_votes']} votes")
    facts.append(f"{row['evaluations']:,} evaluations")
    image = "" if picture is None else f"<img src='{picture}' alt='{escape(row['id'], quote=True)}'>"
    lines = "<br>".join(facts)
    return (
        f"<div class='card {'right' if right else 'wrong'}'>{image}<b>{said}</b><br>{lines}"
        f"<br><span class='muted'>{escape(row['id'])}</span></div>"
    )


def _picture(report: Report, data: Dataset, index: int) -> str | None:
    """Return a picture as the page holds it; None for one that cannot be opened any more."""
    try:
        source = data[index].read()
        if is_dicom(source):
            wide = _from_array(read_dicom(source, "the picture")[0])  # pyright: ignore[reportArgumentType]
        elif isinstance(source, Path | str | bytes):
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
                wide = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
        else:
            wide = _from_array(source)
    except (OSError, ValueError, DiffclassError):
        return None
    wide.thumbnail((_LARGEST, _LARGEST))
    buffer = BytesIO()
    wide.save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _from_array(source: Any) -> Image.Image:
    """Return an array of pixels as a picture of 8 bits."""
    channels = 3 if source.ndim == 3 and source.shape[2] >= 3 else 1
    pixels = prepare_image(source, (channels, *source.shape[:2]), convert=True).image
    wide = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(wide if channels == 3 else wide[..., 0])


def _provenance(report: Report) -> str:
    config, versions = report.run.config, report.run.versions
    about, race = config["dataset"], config["race"]
    facts: Mapping[str, Any] = {
        "model": f"{config['model']['name']} (weights {config['model']['weights']})",
        "data": f"{about['name']}, {about.get('split') or 'no split'}, {about['n']:,} images"
        + (f" (a sample, seed {about['seed']})" if about.get("limit") else ""),
        "race": f"{race['kind']}, at most {race['n_draws']} draws, "
        + (f"delta {race['delta']}" if "delta" in race else "no promise"),
        "decided by": {"Mean": "mean error", "MajorityVote": "majority vote"}.get(
            config["aggregate"]["kind"], config["aggregate"]["kind"]
        ),
        "temperature": "none" if report.temperature is None else f"{report.temperature:.4g}",
        "seed": config["seed"],
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("diffclass", "torch") if name in versions),
        "machine": versions.get("gpu") or versions.get("device", ""),
        "time": f"{report.run.scores.seconds:,.0f} s",
    }
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items()) + "</dl>"
