# %% [markdown]
# # A red cube, not a blue one: what do captions bind to?
#
# Vision-language models often know *that* there is something red and a cube, and not that the cube is red. Pearson et
# al. 2025 asked this of CLIP, ViLT and the diffusion classifier with rendered scenes: one object, one of two objects,
# and which is to the left. `concepts` is a small text-to-image model in the package that learned from such scenes
# with **some** of the combinations; here it is asked about these and about those it never saw.
#
# The scenes are rendered on the spot (Mitsuba, the extra `render`), so that no picture was trained on.

# %%
from dataclasses import replace
from random import Random

import matplotlib.pyplot as plt
import torch

import diffclass
from diffclass.bench.compositional.candidates import candidates_of
from diffclass.bench.compositional.concepts import concepts
from diffclass.data.scenes.making import draw_visible_scene
from diffclass.data.scenes.rendering import Renderer
from diffclass.stats import wilson


def ask(task: str, split: str, n: int) -> list[tuple]:
    """Render n pictures of concepts drawn at random, each with its candidate captions and the true one."""
    random, found = Random(f"{task} {split}"), []
    with Renderer(64, 24) as renderer:
        for _ in range(n):
            concept = random.choice(concepts(task, split))
            scene, _ = draw_visible_scene(
                renderer, random, concept.wanted, relation=concept.relation, sizes=("large",)
            )
            candidates, target = candidates_of(concept, task=task, split=split, setting="gzsl")
            picture = torch.from_numpy(renderer.picture(scene).copy()).permute(2, 0, 1) / 255
            found.append((picture, candidates, target))
    return found


shown = {task: ask(task, "ood-test", 4) for task in ("single", "pair", "relation")}
figure, axes = plt.subplots(1, 12, figsize=(10, 1.2), layout="constrained")
for axis, (picture, _, _) in zip(axes, [one for row in shown.values() for one in row], strict=True):
    axis.imshow(picture.permute(1, 2, 0))
    axis.axis("off")
plt.show()

# %% [markdown]
# ## The captions race
#
# Each caption is a class. The hard ones are made of the right words in the wrong places.

# %%
model = diffclass.ZeroShotClassifier.from_pretrained("concepts")
picture, candidates, target = shown["pair"][0]
answer = model(picture, candidate_labels=[c.caption for c in candidates], hypothesis_template="{}")
tags = {c.caption: c.tag for c in candidates}
for row in answer:
    print(f"{row['score']:.3f}  {row['label']:36}  {tags[row['label']]}")

# %% [markdown]
# ## Binding and relations
#
# Twenty pictures a cell are far too few for a figure that counts: look at the intervals. `diffclass compose` asks every
# item of a data set, of several models, with intervals clustered by picture
# ([figures](../compositional-benchmarks.md)).

# %%
for task in ("single", "pair", "relation"):
    for split in ("id-test", "ood-test"):
        right, spent, chance, items = 0, 0, 0.0, ask(task, split, 20)
        for picture, candidates, target in items:
            texts = [c.caption for c in candidates]
            classifier = replace(model.classifier(texts, templates=["{}"]), batch_size=64)
            decision = classifier.classify(picture[None])[0]
            right += decision.label == texts[target]
            spent += decision.evaluations
            chance += 1 / len(texts) / len(items)
        share = wilson(right, len(items))
        kind = "trained" if split == "id-test" else "new    "
        print(
            f"{task:9} {kind} combinations: {share.value:.2f} ({share.low:.2f} to {share.high:.2f}), "
            f"chance {chance:.2f}, {spent / len(items):.0f} evaluations a picture"
        )

# %% [markdown]
# A model that is right on trained combinations and not on new ones has learned combinations, not their parts. Whether
# a blind guesser does as well, which wrong captions are chosen, and how CLIP and ViLT of the same size do is what
# `diffclass compose ... --scorer blind:diffusion:concepts --scorer clip:MODEL --scorer chance` tells.
