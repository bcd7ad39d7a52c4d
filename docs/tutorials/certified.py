# %% [markdown]
# # Certificates: no small change alters this answer
#
# Randomized smoothing asks what a classifier says of many noisy copies of a picture. Where one label wins often
# enough, no change of the picture whose L2 norm is below a *radius* can alter the smoothed label, whoever made it
# (Cohen et al. 2019). A diffusion classifier knows noise: it can be given the likelihood of the noisy copy itself
# (Chen et al. 2024).

# %%
import matplotlib.pyplot as plt
import numpy as np

import diffclass
from diffclass.robust import copy_classifier

classifier = diffclass.DiffusionClassifier.from_pretrained("digits-mixture")
test = diffclass.open_dataset("digits", split="test")
images, labels = test.array((1, 8, 8))
certificate = diffclass.certify(classifier, images[0], sigma=0.25, n=2000, alpha=0.001)
print(
    certificate.label,
    f"is safe within {certificate.radius:.3f} (L2, pixels in [0, 1]);",
    certificate.n,
    "copies,",
    certificate.reason,
)

# %% [markdown]
# A certificate is never extrapolated: it holds the counts, and computes the bound from them. n copies prove at most
# sigma · probit(alpha^(1/n)).
#
# ## Certified accuracy
#
# The share of pictures whose right label is proved within a radius, for three sigmas. More noise reaches farther and
# confuses more.

# %%
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
radii = np.linspace(0, 1.2, 121)
for sigma in (0.12, 0.25, 0.5):
    copies = copy_classifier(classifier, sigma=sigma)
    made = [diffclass.certify(copies, image, sigma=sigma, n=1000, alpha=0.001) for image in images[:60]]
    right = np.array(
        [c.radius if c.label == test.classes[int(k)] else -1.0 for c, k in zip(made, labels[:60], strict=True)]
    )
    axes.plot(radii, [(right > r).mean() for r in radii], label=f"sigma {sigma}", drawstyle="steps-pre")
axes.set(
    xlabel="radius (L2, pixels in [0, 1])",
    ylabel="certified accuracy",
    ylim=(0, 1.02),
    title="60 test digits, n = 1,000, alpha = 0.001",
)
axes.legend()
plt.show()

# %% [markdown]
# ## Stopping early
#
# If only one radius matters, the count stops as soon as it is proved or out of reach, with the same guarantee.

# %%
for index in range(4):
    c = diffclass.certify(classifier, images[index], sigma=0.25, n=10_000, radius=0.3)
    print(f"{test.classes[int(labels[index])]}: {c.reason:13} after {c.n:5} copies")

# %% [markdown]
# [What a certificate says, and what it does not](../../certificates/) has every assumption. The command line is
# `diffclass certify DATASET --model M --sigma 0.25`.
