"""The model card of a tuned model: from what it started, on what, how, and what was measured."""

import json
from collections.abc import Mapping
from typing import Any

from diffclass.denoisers.card import figures_table

__all__ = ["write_tuning_card"]

_USES = {
    "contrastive": ("import transformers", 'model = transformers.CLIPModel.from_pretrained("{where}")'),
    "matching": (
        "import transformers",
        'model = transformers.ViltForImageAndTextRetrieval.from_pretrained("{where}")',
    ),
    "text-to-image": ("import diffclass", 'classify = diffclass.ZeroShotClassifier.from_pretrained("{where}")'),
    "lora": ("import diffclass", 'classify = diffclass.ZeroShotClassifier.from_pretrained("{base}", lora="{where}")'),
}


def write_tuning_card(facts: Mapping[str, Any], where: str) -> str:
    """Write the README.md of a tuned model.

    Args:
        facts: name, description, data, images, captions, recipe and training, and "figures" if something was measured.
        where: the directory, as it is used.

    Returns:
        Markdown with a YAML front matter, as the Hugging Face hub reads it.
    """
    recipe, training = facts["recipe"], facts["training"]
    train, base = recipe["train"], recipe["start"]["model"]
    kind = "lora" if recipe["lora"] else recipe["kind"]
    library = "diffusers" if recipe["kind"] == "text-to-image" else "transformers"
    front = ["---", f"library_name: {library}", "tags: [diffclass]"]
    front += [f"base_model: {json.dumps(base)}"] if base else []
    front += ["license: other", f"license_name: {json.dumps(recipe['data']['licence'])}", "---"]
    what = f"- **Started from**: {base or 'random weights'}"
    body = [
        f"# {facts['name']}", "", recipe["description"], "", what,
        f"- **Data**: {facts['data']}, {facts['images']} images with {facts['captions']} captions",
        f"- **Licence of the data**: {recipe['data']['licence']}",
        f"- **Recipe**: `{recipe['name']}`, seed {train['seed']}, {facts['steps']} steps of "
        f"{train['batch_size'] * train['accumulate']} images, learning rate {train['learning_rate']:g} "
        f"({train['decay']})",
        f"- **Trained**: {training['date']}, {training['seconds'] / 60:.1f} minutes on {training['hardware']}, "
        f"torch {training['torch']}, diffclass {training['diffclass']}",
        "", "## Use", "", "```python",
        *(line.format(where=where, base=base) for line in _USES[kind]),
        "```", "",
    ]  # fmt: skip
    if facts["figures"]:
        body += [
            "## Measured", "", *figures_table(facts["figures"]), "",
            "How often a held-out image is given to its own caption rather than to one of another image, with a Wilson "
            "interval; half would be chance.",
        ]  # fmt: skip
    else:
        body += ["Nothing was measured on it."]
    return "\n".join([*front, *body, ""])
