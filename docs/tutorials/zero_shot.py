# %% [markdown]
# # Any labels: a text-to-image model as a classifier
#
# A text-to-image model denoises a picture best under the caption that fits it (Li et al. 2023). So any labels will
# do, and nothing is trained for them. Here it is `textdigits`, a small model that comes inside the package and
# learned MNIST digits from captions such as "a handwritten three"; with Stable Diffusion the calls are the same.

# %%
import matplotlib.pyplot as plt
import torch

import diffclass

classify = diffclass.ZeroShotClassifier.from_pretrained("textdigits")
test = diffclass.open_dataset("digits", split="test")
small, labels = test.array((1, 8, 8))
images = torch.nn.functional.interpolate(small[:20], size=20, mode="bilinear").clamp(0, 1)
images = torch.nn.functional.pad(images, (4, 4, 4, 4))  # as MNIST frames its digits
figure, axes = plt.subplots(1, 8, figsize=(9, 1.4), layout="constrained")
for axis, image in zip(axes, images, strict=False):
    axis.imshow(image[0], cmap="gray")
    axis.axis("off")
plt.show()

# %% [markdown]
# These are scikit-learn's digits, enlarged: pictures of another kind than the model has seen, so it will often be
# wrong here (it is right on 98% of MNIST's own).
#
# ## As transformers' pipeline is called
#
# A score says how sure the draws are which label the *model* prefers, not how often it is right.

# %%
names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
for image, label in zip(images[:3], labels, strict=False):
    answer = classify(image, candidate_labels=names, hypothesis_template="a handwritten {}")
    print("truth", test.classes[int(label)], "->", [(a["label"], round(a["score"], 3)) for a in answer[:2]])

# %% [markdown]
# ## Other words, fewer labels

# %%
for words in (["three", "eight"], ["one", "two", "five"]):
    print(words, classify(images[0], candidate_labels=words, hypothesis_template="the digit {}")[0])

# %% [markdown]
# ## As a scikit-learn classifier, with the whole decision

# %%
classifier = classify.classifier(names, templates=["a handwritten {}", "the digit {}"])
decisions = classifier.classify(images)
right = sum(d.label == names[int(label)] for d, label in zip(decisions, labels, strict=False))
spent = sum(d.evaluations for d in decisions) / len(decisions)
print(f"{right} of {len(images)} right; {spent:.0f} network evaluations a picture")
