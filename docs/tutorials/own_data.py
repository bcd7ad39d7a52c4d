# %% [markdown]
# # Your own labelled folder of images
#
# A folder with one folder a class is all it takes. Here it is made from scikit-learn's digits, so that the page runs
# anywhere; put yours in its place.

# %%
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import diffclass

place = Path(tempfile.mkdtemp())
for split in ("train", "test"):
    part = diffclass.open_dataset("digits", split=split)
    images, labels = part.array((1, 8, 8))
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = part.classes[int(label)]
        if name not in ("0", "3", "8"):
            continue
        path = place / split / name / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(path)
print(sorted(str(path.relative_to(place)) for path in place.glob("*/*")))

# %% [markdown]
# ## A model of it, in seconds
#
# `diffclass fit` makes a mixture of probabilistic PCA for each class, with everything chosen on held-out likelihood.
# Its likelihoods are exact. (`diffclass train` makes a network, which takes an hour rather than seconds and is better
# on pictures like photographs.)


# %%
def run(*command: object) -> dict:
    """Run a command. On a terminal it prints a table; a pipe gets JSON."""
    print("$ diffclass", *[str(part).replace(str(place), "DATA") for part in command])
    done = subprocess.run(["diffclass", *map(str, command)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


fitted = run("fit", place / "train", "--out", place / "model", "--quiet")

# %% [markdown]
# ## How good is it?
#
# `diffclass evaluate` measures accuracy, balanced accuracy, AUC, NLL, ECE and evaluations a picture, each with an
# interval; a killed run goes on where it was. Results are one row a picture.

# %%
measured = run("evaluate", place / "test", "--model", place / "model", "--out", place / "run", "--quiet")
for name, estimate in measured["metrics"].items():
    if estimate is not None:
        print(f"{name:24} {estimate['value']:8.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})")

# %%
rows = [json.loads(line) for line in (place / "run" / "results.jsonl").read_text().splitlines()]
print(*list(rows[-1])[:12], sep=", ")

# %% [markdown]
# ## From Python

# %%
classifier = diffclass.DiffusionClassifier.from_pretrained(place / "model")
picture = diffclass.load_image(next((place / "test" / "3").glob("*.png")), shape=(1, 8, 8))
decision = classifier.classify(picture[None])[0]
print(decision.label, f"{decision.log_odds:.1f} ± {decision.log_odds_se:.1f} over {decision.runner_up}")
