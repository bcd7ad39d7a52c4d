# %% [markdown]
# # Your own denoiser
#
# Anything that estimates the clean picture from a noisy one, under a class, is a classifier. It takes four methods
# and no base class.

# %%
import torch

import diffclass
from diffclass.denoisers import Conditions


class Plain:
    """Pictures of two classes, each a Gaussian around a mean picture."""

    def __init__(self, means: torch.Tensor, std: float) -> None:
        self.means, self.std = means * 2 - 1, std * 2
        _, channels, height, width = means.shape
        self.space = diffclass.Space(channels=channels, height=height, width=width, data_std=0.5)
        self.sigma_range = (0.01, 100.0)
        self.classes = ("dark", "bright")
        self.device = torch.device("cpu")

    def encode(self, images):
        return self.space.to_model(images)

    def decode(self, latents):
        return self.space.to_images(latents)

    def condition_on(self, prompts):
        return Conditions({"label": torch.tensor([self.classes.index(prompt) for prompt in prompts])})

    def __call__(self, noisy, sigma, conditions):
        mean = self.means[conditions.tensors["label"]]
        shrink = (self.std**2 / (self.std**2 + sigma**2)).reshape(-1, 1, 1, 1)
        return mean + shrink * (noisy - mean)


means = torch.stack([torch.full((1, 4, 4), 0.3), torch.full((1, 4, 4), 0.7)])
denoiser = Plain(means, std=0.2)

# %% [markdown]
# ## Does it conform?
#
# The same checks that the library's own models pass: shapes, determinism, independence of the batch, noise levels,
# classes that differ, a round trip of pictures, gradients. `diffclass check MODEL` does it on the command line.

# %%
print(diffclass.check_denoiser(denoiser))

# %% [markdown]
# ## Then it classifies, races and certifies

# %%
classifier = diffclass.DiffusionClassifier(denoiser=denoiser)
picture = (0.6 + 0.2 * torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
decision = classifier.classify(picture)[0]
print(decision.label, f"{decision.log_odds:.2f} ± {decision.log_odds_se:.2f}", decision.evaluations, "evaluations")
print(diffclass.certify(classifier, picture[0], sigma=0.25, noised="apndc-class", n=500).radius)
