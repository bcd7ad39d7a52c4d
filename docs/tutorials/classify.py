# %% [markdown]
# # Classify a picture, and see what the answer is made of
#
# Everything here runs in seconds on a CPU, with a network that comes inside the package: `digits`, a
# class-conditional diffusion model of scikit-learn's 8x8 handwritten digits.

# %%
import matplotlib.pyplot as plt

import diffclass

classifier = diffclass.DiffusionClassifier.from_pretrained("digits")
test = diffclass.open_dataset("digits", split="test")
images, labels = test.array((1, 8, 8))
print(len(images), "test images,", classifier.race)

# %% [markdown]
# ## An answer
#
# A `Decision` says the label, by how much it leads (the log-odds over the runner-up, with their standard error,
# paired over the draws that both classes saw), which classes the race ended with, and what it cost. The second of
# these two pictures is a hard one: the model is wrong, and its lead is small beside the other's. Raw posteriors would
# be 1.000 for both, so none is printed.

# %%
easy, decision = classifier.classify(images[2:4])
for answer, truth in ((easy, labels[2]), (decision, labels[3])):
    print("label      ", answer.label, "- the truth is", test.classes[int(truth)])
    print("log-odds   ", f"{answer.log_odds:.1f} ± {answer.log_odds_se:.1f} over {answer.runner_up}")
    print("survivors  ", answer.survivors)
    print("cost       ", answer.evaluations, "network evaluations, because:", answer.reason, end="\n\n")

# %% [markdown]
# ## What it is read off
#
# One matrix: `errors[draw, class]`. Where a class had left the race there is NaN. The log-odds are sums of weighted
# differences *within* draws: no two classes are ever compared on different noise.

# %%
evidence = decision.evidence
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.imshow(images[3, 0], cmap="gray_r")
left.set(title="the picture", xticks=[], yticks=[])
right.imshow(evidence.errors, aspect="auto", interpolation="nearest", cmap="viridis")
right.set(title="errors (white: not measured)", xlabel="class", ylabel="draw")
plt.show()

# %% [markdown]
# ## Two hundred at once
#
# Many pictures share the batches of the network, so that it is kept busy until the last race ends. An abstention is a
# value (`label is None`), not an error.

# %%
decisions = classifier.classify(images[:200])
right_answers = sum(d.label == test.classes[int(i)] for d, i in zip(decisions, labels[:200], strict=True))
spent = [d.evaluations for d in decisions]
print(f"{right_answers} of 200 right")
print(f"{sum(spent) / 200:.0f} evaluations a picture; the full budget is {10 * classifier.race.n_draws}")

# %%
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.hist(spent, bins=40)
axes.set(xlabel="network evaluations", ylabel="pictures", title="Most pictures are easy")
plt.show()
