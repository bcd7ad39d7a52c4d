"""The model card of a trained network: what it is, from what, and the figures measured on it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffclass.denoisers.card import figures_table

__all__ = ["write_card"]


def _opening(kind: str) -> str:
    """Say how the network is opened without diffclass around it."""
    if kind == "LateUNet2DModel":
        return (
            "The network, under EDM preconditioning (Karras et al. 2022), is told the class late, so that all classes "
            "share its larger part: diffclass.denoisers.late.LateUNet2DModel opens this directory, diffclass.json says "
            "how images enter and leave it."
        )
    return (
        "The network is a plain diffusers model under EDM preconditioning (Karras et al. 2022): diffusers opens this "
        "directory, diffclass.json says how images enter and leave it."
    )


_MEASURED = (
    "Accuracy has a Wilson interval, balanced accuracy a bootstrap, AUC a DeLong interval (of several classes, one "
    "against the rest, macro average, bootstrap). The temperature was fitted, and the noise range chosen, on "
    "validation images; test images chose nothing."
)
_MATCHED = (
    "How often a held-out image is denoised better under its own caption than under one of another image, with a "
    "Wilson interval; half would be chance."
)


def _told(classes: Sequence[str]) -> list[str]:
    """Say what the network is told."""
    if not classes:
        return ["- **Reads**: captions"]
    return [f"- **Classes** ({len(classes)}): {', '.join(classes)}"]


def write_card(metadata: Mapping[str, Any]) -> str:
    """Write the README.md of a model directory from its diffclass.json.

    Args:
        metadata: the content of diffclass.json, with "training" and "figures".

    Returns:
        Markdown with a YAML front matter, as the Hugging Face hub reads it.
    """
    training, recipe = metadata["training"], metadata["training"]["recipe"]
    space, train = metadata["space"], recipe["train"]
    kind = "DiffusionClassifier" if metadata["classes"] else "ZeroShotClassifier"
    front = ["---", "library_name: diffusers", "tags: [diffclass, image-classification, diffusion]",
             f"license: {json.dumps('other')}", f"license_name: {json.dumps(metadata['licence'])}", "---"]  # fmt: skip
    body = [
        f"# {metadata['name']}",
        "",
        metadata["description"],
        "",
        *_told(metadata["classes"]),
        f"- **Images**: {space['channels']} x {space['height']} x {space['width']}",
        f"- **Data**: {metadata['data']}",
        f"- **Licence of the data**: {metadata['licence']}",
        f"- **Recipe**: `{recipe['name']}`, seed {train['seed']}, {train['steps']} steps of "
        f"{train['batch_size']} images",
        f"- **Trained**: {training['date']}, {training['seconds'] / 60:.1f} minutes on {training['hardware']}, "
        f"torch {training['torch']}, diffclass {training['diffclass']}",
        f"- **Classifier**: {json.dumps(metadata['classifier'])}",
        "",
        "## Use",
        "",
        "```python",
        "import diffclass",
        f"classifier = diffclass.{kind}.from_pretrained({metadata['name']!r})",
        "```",
        "",
        "## Measured",
        "",
        *figures_table(metadata["figures"]),
        "",
        _MEASURED if metadata["classes"] else _MATCHED,
        "",
        "## Reproduce",
        "",
        "```",
        f"diffclass train {recipe['name']} --data {recipe['data']['name']} --out runs/{recipe['name']}",
        "```",
        "",
        _opening(recipe["network"]["kind"]),
    ]
    return "\n".join([*front, *body, ""])
