"""Why scorers succeed or fail: embeddings side by side, margins by noise level, and noise levels weighed anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffclass.bench.compositional.analysis_figure import draw_embeddings, draw_margins
from diffclass.bench.compositional.comparing import Rows
from diffclass.bench.compositional.diffusion import DiffusionScorer
from diffclass.bench.compositional.embedding import Embedded, embed, probe_relation, similarities
from diffclass.bench.compositional.encoders import ClipScorer
from diffclass.bench.compositional.noise_levels import learned_weighting, margins, read_kept
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.picture import Crop
from diffclass.bench.compositional.scorer import Scorer

__all__ = ["analyse", "weigh_noise_levels"]


def analyse(
    parts: Sequence[Part], scorers: Sequence[Scorer], rows: Rows, out: Path, *, crop: Crop = "crop", seed: int = 0
) -> dict[str, Any]:
    """Look behind the answers of a run: into the embeddings of each CLIP, and the errors of each diffusion model.

    What failed in the run is left out.

    Figures: OUT/embeddings.png (t-SNE, a column for each CLIP) and OUT/margins.png.

    Args:
        parts: that were compared.
        scorers: of the run.
        rows: as `compare` returned them.
        out: folder of the run.
        crop: as in the run.
        seed: of folds.

    Returns:
        {"embeddings": by scorer: similarities by tag and the probe of relations, "margins": by scorer and part,
        "figures": paths}.
    """
    clips = {scorer.name for scorer in scorers if isinstance(scorer, ClipScorer)}
    broken = {row["image"] for (name, _), found in rows.items() if name in clips for row in found if "error" in row}
    whole = [part for part in parts if not part.boxes]
    items = [item for part in whole for item in part.items if item.image.as_posix() not in broken]
    items = list({(item.image, item.candidates): item for item in items}.values())
    embedded: list[Embedded] = []
    found: dict[str, Any] = {"embeddings": {}, "margins": {}, "figures": []}
    for scorer in scorers:
        if isinstance(scorer, ClipScorer) and items:
            embedded.append(embed(scorer, items, crop=crop))
            found["embeddings"][scorer.name] = {
                "similarities": similarities(embedded[-1], items),
                "probe": probe_relation(embedded[-1], items, seed=seed),
            }
        if isinstance(scorer, DiffusionScorer):
            distance = _objective(scorer).distance
            found["margins"][scorer.name] = {
                part.name: margins(
                    read_kept(out / scorer.name / part.name, rows[scorer.name, part.name]), distance=distance
                )
                for part in parts
            }
    if embedded:
        found["figures"].append(str(draw_embeddings(embedded, items, out / "embeddings.png")))
    if any(bins for by_part in found["margins"].values() for bins in by_part.values()):
        found["figures"].append(str(draw_margins(found["margins"], out / "margins.png")))
    return found


def weigh_noise_levels(
    parts: Sequence[Part], scorers: Sequence[Scorer], rows: Rows, out: Path, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Learn a weight of noise levels for each diffusion model and part on half of it, and measure the other half.

    Raises:
        InputError: a race dropped captions, or a part has too few items.
    """
    found = []
    for scorer in scorers:
        if isinstance(scorer, DiffusionScorer):
            engine = scorer.classifier(("a caption", "another"), seed=0, whole=True)
            objective = _objective(scorer)
            low, high = objective.sigma_range or engine.denoiser.sigma_range
            span = max(low, engine.denoiser.sigma_range[0]), min(high, engine.denoiser.sigma_range[1])
            for part in parts:
                kept = read_kept(out / scorer.name / part.name, rows[scorer.name, part.name])
                learned = learned_weighting(kept, objective=objective, sigma_range=span, seed=seed)
                found.append({"scorer": scorer.name, "part": part.name} | learned)
    return found


def _objective(scorer: DiffusionScorer) -> Any:
    """Return what a scorer's errors are of."""
    return scorer.classifier(("a caption", "another"), seed=0, whole=True).objective
