# %% [markdown]
# # X-rays: what an answer is worth
#
# `pneumonia` is a small diffusion model of chest X-rays of children at 28x28 pixels (PneumoniaMNIST), normal or
# pneumonia. It is no medical device. Hospitals' pictures are not in the package, so the pictures of this page are
# **drawn from the model itself**: no patient, and a class that is known because it was asked for. A model knows its
# own pictures too well, so read the figures as a demonstration of what to measure. With the real ones, let `draw` be
#
# ```python
# def draw(n, seed):
#     part = diffclass.open_dataset("pneumoniamnist.npz", split=("validation", "test")[seed]).at_most(n)
#     images, labels = part.array((1, 28, 28))
#     return images, labels.numpy()
# ```

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch

import diffclass
from diffclass.explain.flow import follow, sigma_grid

classifier = replace(diffclass.DiffusionClassifier.from_pretrained("pneumonia"), batch_size=64)
denoiser = classifier.denoiser


def draw(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Sample n pictures, normal and pneumonia in turn, down the probability flow (Karras et al. 2022)."""
    labels = np.arange(n) % 2
    conditions = denoiser.condition_on([classifier.classes_[label] for label in labels])
    sigmas = sigma_grid(0.04, 30.0, 12)[::-1]
    shape = denoiser.encode(torch.zeros(n, 1, 28, 28)).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * sigmas[0]
    with torch.no_grad():
        latents = follow(lambda noisy, sigma: denoiser(noisy, torch.full((n,), sigma), conditions), noise, sigmas)
    return denoiser.decode(latents).clamp(0, 1), labels


images, labels = draw(80, seed=0)
figure, axes = plt.subplots(2, 8, figsize=(9, 2.6), layout="constrained")
for k, axis in enumerate(axes.T.flat):
    axis.imshow(images[k, 0], cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[], ylabel=classifier.classes_[labels[k]] if k < 2 else "")
plt.show()

# %% [markdown]
# ## Mean or vote
#
# A draw is one noise level and one noise vector, shared by both classes. The answer is read off the errors of all
# draws: by the mean of their differences, weighted as the likelihood weights them, or by a vote, a draw for a class
# (Favero et al. 2025). `measure` keeps every error, so that both rules are compared on the same draws, at no cost.

# %%
from diffclass.decide.comparison import accuracy_curves
from diffclass.decide.measure import measure

errors = measure(classifier, images, labels, n_draws=32)
weights = {"mean, likelihood's weight": errors.weights, "mean, no weight": np.ones_like(errors.weights)}
curves = accuracy_curves(errors, [1, 2, 3, 5, 11, 21, 32], weights=weights)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for place, curve in enumerate(curves):
    x = np.array(curve.n_draws) * 1.04 ** (place - 1)
    value, low, high = (100 * np.array([getattr(a, part) for a in curve.accuracy]) for part in ("value", "low", "high"))
    axes.errorbar(x, value, [value - low, high - value], marker="o", markersize=4, capsize=2, label=curve.rule)
axes.set(xscale="log", xlabel="draws", ylabel="accuracy [%]", title=f"{len(images)} pictures, 95% intervals")
axes.set_xticks([1, 2, 3, 5, 11, 21, 32], ["1", "2", "3", "5", "11", "21", "32"], minor=False)
axes.set_xticks([], minor=True)
axes.set_ylim(top=100.5)
axes.legend()
plt.show()
for curve in curves[1:]:
    gain = curve.against[-1]
    print(f"{curve.rule}, minus the vote, 32 draws: {gain.value:+.1%} ({gain.low:+.1%} to {gain.high:+.1%})")

# %% [markdown]
# A vote is an insurance against a bad weight: without a weight, the large errors of high noise drown the rest. Whether
# it beats a good weight is another question, and the interval of their difference on the same draws answers it.
#
# ## How sure, and what to do with it
#
# An uncertainty is worth as much as the mistakes that it finds. Here is a harder set: the same kind of picture with
# less contrast and more light, as another machine may make it. The least sure answers are sent to a person; the error
# among the others is the risk-coverage curve. Its area, AURC, tells measures of uncertainty apart (lower is better).

# %%
from diffclass.decide import uncertainty
from diffclass.stats import aurc, risk_coverage, wilson


def elsewhere(images: torch.Tensor) -> torch.Tensor:
    """Another machine: half the contrast, and brighter."""
    return (0.5 * images + 0.35).clamp(0, 1)


test, truth = draw(80, seed=1)
sets = {"as drawn": measure(classifier, test, truth, n_draws=32)}
sets["another machine"] = measure(classifier, elsewhere(test), truth, n_draws=32)
doubts, wrongs = {}, {}
for name, measured in sets.items():
    answers = [uncertainty(measured.evidence(i)) for i in range(len(test))]
    leaders = np.array([measured.evidence(i).leader() for i in range(len(test))])
    wrongs[name] = leaders != truth
    doubts[name] = {key: np.array([a.scores()[key] for a in answers]) for key in ("margin", "vote_share")}
    right = wilson(int((~wrongs[name]).sum()), len(test))
    print(f"{name}: {right.value:.0%} right ({right.low:.0%} to {right.high:.0%}) of {right.n}")

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
wrong = wrongs["another machine"]
for key, doubt in doubts["another machine"].items():
    curve, area = risk_coverage(wrong, doubt), aurc(wrong, doubt)
    label = f"{key.replace('_', ' ')}, AURC {area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
    axes.plot(100 * curve.coverage, 100 * curve.risk, label=label)
axes.axhline(100 * wrong.mean(), color="grey", linestyle=":", label="an uncertainty that knows nothing")
axes.set(xlabel="kept, the surest first [%]", ylabel="wrong among them [%]", title="another machine, 80 pictures")
axes.legend()
plt.show()

# %% [markdown]
# ## Sets that hold the right class, and when they do not
#
# Split conformal prediction turns validation pictures into a promise: sets that hold the right class of at least 90% of
# pictures, whatever the model is, *if new pictures are like the validation pictures*. Here it is fitted on the first 80
# pictures and measured on the two others. A set of both classes says "either", an empty one "neither is likely enough";
# both are cases for a person.

# %%
from diffclass.decide.calibration import best_temperature, probabilities
from diffclass.decide.conformal import conformal_sets


def log_odds(measured) -> np.ndarray:
    return np.array([measured.evidence(i).log_odds() for i in range(len(measured))])


temperature = best_temperature(log_odds(errors), labels)
validation = probabilities(log_odds(errors), temperature)
for name, measured in sets.items():
    held = conformal_sets(validation, labels, probabilities(log_odds(measured), temperature), alpha=0.1)
    covered = wilson(int(held[np.arange(len(truth)), truth].sum()), len(truth))
    sizes = [f"{(held.sum(axis=1) == size).mean():.0%} {word}" for size, word in enumerate(("none", "one", "both"))]
    print(f"{name}: {covered.value:.0%} ({covered.low:.0%} to {covered.high:.0%}) of {covered.n} sets hold the right")
    print(f"  class; of the sets {', '.join(sizes)}")

# %% [markdown]
# ## Does the model notice that pictures are others?
#
# An answer is given for any picture. How unlike the validation pictures one is, can be measured: the error of the best
# class, standardised at each noise level by pictures of the model's own data. `diffclass ood` does it for whole sets.

# %%
from diffclass.decide.outside import fit_outside_score
from diffclass.stats import fpr_at_tpr, ood_auc

score = fit_outside_score(errors)
inside, outside = score(sets["as drawn"]), score(sets["another machine"])
area, passed = ood_auc(inside, outside), fpr_at_tpr(inside, outside)
print(f"AUROC {area.value:.2f} ({area.low:.2f} to {area.high:.2f});", end=" ")
print(f"{passed.value:.0%} ({passed.low:.0%} to {passed.high:.0%}) of the foreign pass where 95% of the own do")

# %% [markdown]
# ## Why, and what would have to change
#
# The evidence map is the log-odds pixel by pixel, of the answer (blue) over the other class (red); what is not
# significant is pale.
# The counterfactual is the picture taken to noise and brought back under the other class; the factual went the same
# way under its own, and is the control: what the first has and the second has not goes with the class (orange: darker,
# purple: brighter). Here a lung that was clouded is cleared.

# %%
sick = int(np.flatnonzero((truth == 1) & ~wrongs["as drawn"])[2])
found = diffclass.explain_image(classifier, test[sick], to="normal")
edited = found.counterfactual
shown = found.map.values * np.where(found.map.significant, 1.0, 0.3)
change = (edited.counterfactual - edited.factual)[0].numpy()
panels = [
    ("the picture", edited.image[0], "gray", None),
    (f"evidence for {found.source}", shown, "RdBu", np.abs(shown).max()),
    ("factual", edited.factual[0], "gray", None),
    (f"counterfactual: {found.to}", edited.counterfactual[0], "gray", None),
    ("counterfactual - factual", change, "PuOr", np.abs(change).max()),
]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.5), layout="constrained")
for axis, (title, values, colours, scale) in zip(axes, panels, strict=True):
    limits = (0, 1) if scale is None else (-scale, scale)
    axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    axis.set_title(title, fontsize=9)
    axis.axis("off")
plt.show()
for verdict in found.verdicts:
    print(f"{verdict.picture:15} {verdict.label:10} {verdict.log_odds:6.1f} ± {verdict.log_odds_se:.1f}")

# %% [markdown]
# ## What not to conclude
#
# - **Nothing about patients.** The pictures are the model's own. On the 624 real test images it is right on 90.4% (87.8
#   to 92.5), and its 90% conformal sets held the right class in 85.0% (79.4 to 88.9) of 200, because test images differ
#   from validation images ([Uncertainty](../../uncertainty/)). Nor about foreign pictures: run on 80 real validation
#   and 80 real test images, the score of this page has an AUROC of 0.79 (0.71 to 0.85) for the other machine.
# - **Not that a sure answer is right.** Some of its mistakes are made with nearly all the votes; a calibrated
#   probability is calibrated for pictures like those of the calibration.
# - **Not that an evidence map shows pneumonia.** It shows what *this model* takes for evidence. If it learned the
#   ward's machine instead, the map shows the machine.
# - **Not that a counterfactual shows what treatment does.** It shows what this model changes along with the class, and
#   it was chosen to flip this model's answer: ask another classifier ([Explanations](../../explanations/)).
# - **Not that one rule is better**, from 80 pictures with overlapping intervals.
# - **Before any figure on real pictures**: `diffclass audit DATA --group-by patient`, for copies, patients in two
#   splits, and what the files alone tell.
