"""A classifier on disk and on the Hugging Face hub: its model, its settings and its card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from diffclass.decide.settings import choice_settings, settings_of
from diffclass.denoisers.card import figures_table, front_matter
from diffclass.denoisers.saving import described, save_denoiser
from diffclass.denoisers.weights import is_hub_id
from diffclass.errors import DiffclassError, InputError, ResultError

if TYPE_CHECKING:
    from diffclass.decide.classifier import DiffusionClassifier

__all__ = ["push_classifier", "push_directory", "save_classifier"]

_SHOWN = 50  # classes on a card
_MODEL_PATTERNS = ["model_index.json", "config.json", "diffclass.json", "*.safetensors"]  # of an earlier model


def save_classifier(
    classifier: "DiffusionClassifier",
    directory: str | Path,
    *,
    name: str | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    weights: bool | None = None,
) -> Path:
    """Write a directory that `DiffusionClassifier.from_pretrained` opens to an equal classifier.

    See `DiffusionClassifier.save_pretrained`, which calls it.
    """
    if classifier.first_look is not None:
        raise InputError(
            "A classifier with a first look cannot be saved, because the look is a model of its own. Save it without "
            "(dataclasses.replace(classifier, first_look=None)) and give the first look when it is opened."
        )
    metadata = _metadata(classifier, weights)
    metadata["name"] = name or Path(directory).absolute().name
    given = {"licence": licence, "datasets": list(datasets), "base_model": base_model}
    metadata |= {key: value for key, value in given.items() if value}
    return save_denoiser(directory, classifier.denoiser, metadata, _card(metadata))


def push_classifier(
    classifier: "DiffusionClassifier",
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    **facts: Any,
) -> str:
    """Save a classifier and upload it; see `DiffusionClassifier.push_to_hub`, which calls it."""
    _check_id(repo_id)
    with TemporaryDirectory() as scratch:
        folder = save_classifier(classifier, Path(scratch) / "model", **{"name": repo_id, **facts})
        return push_directory(folder, repo_id, private=private, token=token, commit_message=commit_message)


def push_directory(
    directory: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a model directory to the Hugging Face hub, in place of a model that the repository holds.

    Args:
        directory: that diffclass wrote.
        repo_id: "owner/name", made if it is not there.
        private: whether a new repository is.
        token: of an account that may write there; the one that `hf auth login` stored if None.
        commit_message: what the hub's history says.

    Returns:
        The address of the commit.

    Raises:
        InputError: it is no "owner/name".
        ResultError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    _check_id(repo_id)
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            commit_message=commit_message or "A classifier of diffclass",
            delete_patterns=_MODEL_PATTERNS,
        )
    except Exception as error:  # whatever the hub's client and what it builds on come up with
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
        raise ResultError(
            f"The model could not be uploaded to {repo_id!r}: {reason}. Check the connection, and that the token "
            "(`hf auth login`) may write there."
        ) from error
    return str(done.commit_url)


def _check_id(repo_id: str) -> None:
    if not is_hub_id(repo_id):
        raise InputError(f"A repository on the Hugging Face hub is named 'owner/name'. Got {repo_id!r}.")


def _metadata(classifier: "DiffusionClassifier", weights: bool | None) -> dict[str, Any]:
    """Return the content of diffclass.json."""
    denoiser = classifier.denoiser
    assert classifier.objective is not None
    assert classifier.race is not None
    metadata = described(denoiser, weights=weights)
    settings = settings_of(
        objective=classifier.objective,
        race=classifier.race,
        temperature=classifier.temperature,
        sigma_data=denoiser.space.data_std,
    )
    settings |= choice_settings(
        aggregate=classifier.aggregate, target=classifier.target, prior=classifier.prior, seed=classifier.seed,
        batch_size=classifier.batch_size,
    )  # fmt: skip
    if classifier.prompts is not None:
        metadata["classes"] = list(classifier.classes_)
        metadata["prompts"] = [list(row) for row in classifier.prompts.texts]
    elif classifier.classes_ != tuple(denoiser.classes):
        settings["classes"] = list(classifier.classes_)
    metadata["classifier"] = settings
    known: Mapping[str, Any] = getattr(denoiser, "metadata", {})
    kept = ("figures", "calibration") if _is_own(classifier) else ()  # what was measured holds for that classifier
    return metadata | {key: known[key] for key in kept if known.get(key)}


def _is_own(classifier: "DiffusionClassifier") -> bool:
    """Tell whether a classifier is the one that its model came with."""
    try:
        own = type(classifier).from_pretrained(classifier.denoiser)
    except DiffclassError:  # a model without prompts of its own
        return False
    priors = [None if one.prior is None else [float(p) for p in one.prior] for one in (own, classifier)]
    others = ("denoiser", "batch_size", "seed", "first_look", "prior")
    names = [field.name for field in fields(own) if field.name not in others]
    return priors[0] == priors[1] and all(getattr(own, name) == getattr(classifier, name) for name in names)


def _card(metadata: Mapping[str, Any]) -> str:
    """Write the README.md."""
    space, classes, training = metadata["space"], metadata["classes"], metadata.get("training", {})
    shown = ", ".join(classes[:_SHOWN]) + (f", ... ({len(classes)} in all)" if len(classes) > _SHOWN else "")
    lines = [
        *front_matter(metadata),
        f"# {metadata['name']}",
        "",
        metadata.get("description", "A conditional diffusion model as a classifier."),
        "",
        f"- **Classes** ({len(classes)}): {shown}",
        f"- **Images**: {space['channels']} x {space['height']} x {space['width']}",
        f"- **Data**: {metadata.get('data', 'unknown')}",
        f"- **Licence**: {metadata.get('licence', 'unknown')}",
    ]
    if "weights_of" in metadata:
        base = metadata["weights_of"]
        lines.append(f"- **Weights**: none here; those of `{base['model']}`, commit {base.get('revision')}")
    if "prompts" in metadata:
        lines.append(f"- **Prompts**: {json.dumps([row[0] for row in metadata['prompts']])} for {classes[0]!r}, and so "
                     "on")  # fmt: skip
    if {"date", "hardware", "seconds"} <= training.keys():
        lines.append(
            f"- **Trained**: {training['date']}, {training['seconds'] / 60:.1f} minutes on {training['hardware']}"
        )
    plain = {key: value for key, value in metadata["classifier"].items() if not isinstance(value, dict)}
    lines += [
        f"- **Classifier**: {json.dumps(plain)}; tables and stopping rules are in diffclass.json", "", "## Use", "",
        "```python", "import diffclass", "",
        f"classifier = diffclass.DiffusionClassifier.from_pretrained({metadata['name']!r})", "```",
    ]  # fmt: skip
    measured = {split: rows for split, rows in metadata.get("figures", {}).items() if isinstance(rows, Mapping)}
    if measured:
        lines += ["", "## Measured", "", *figures_table(measured)]
    return "\n".join([*lines, ""])
