"""The model card of a trained network: what it is, from what, and the figures measured on it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffclass.denoisers.card import figures_table, front_matter

__all__ = ["supervised_card", "write_card"]


_PRIORS = {
    "training": "classes as frequent as in the training images",
    "uniform": "every class is equally likely before an image is seen, however many images it had in training",
}


def _opening(kind: str, prediction: str) -> str:
    """Say how the network is opened without diffclass around it."""
    if prediction == "v":
        return (
            "The network is a plain diffusers model that predicts v (Salimans and Ho 2022): diffusers opens this "
            "directory, diffclass.json says how images and noise levels enter it and leave it."
        )
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
        f"- **Prior**: {_PRIORS['uniform']}",
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
        _opening(recipe["network"]["kind"], recipe["noise"]["prediction"]),
    ]
    return "\n".join([*front_matter(metadata), *body, ""])


def supervised_card(facts: Mapping[str, Any], classes: Sequence[str], shape: Sequence[int]) -> str:
    """Write the README.md of a supervised network's directory.

    Args:
        facts: what its diffclass.json says, with "training" and "figures".
        classes: in the order of the logits.
        shape: channels, height and width [pixels].
    """
    training, recipe = facts["training"], facts["training"]["recipe"]
    start = "random weights" if recipe["weights"] is None else f"the weights of {recipe['weights']}"
    return "\n".join(
        [
            f"# {facts['name']}",
            "",
            f"A supervised network ({recipe['architecture']}), which diffusion classifiers are compared with.",
            "",
            f"- **Classes** ({len(classes)}): {', '.join(classes)}",
            f"- **Images**: {' x '.join(map(str, shape))}",
            f"- **Data**: {facts['data']}; its licence is that of the weights",
            f"- **Trained**: {recipe['members']} of them, {recipe['steps']} steps of {recipe['batch_size']} images "
            f"from {start}, seed {recipe['seed']}, noise {recipe['sigma']:g}, {training['seconds'] / 60:.1f} minutes, "
            f"torch {training['torch']}",
            f"- **Prior**: {_PRIORS[recipe['prior']]}",
            f"- **Temperature**: {facts['temperature']}, fitted on validation images",
            "",
            "## Measured",
            "",
            *figures_table(facts["figures"]),
            "",
        ]
    )
