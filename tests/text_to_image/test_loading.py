"""Where pipelines come from, what can be put into them, and where their parts go."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffclass.denoisers import load
from diffclass.denoisers.text_to_image.quiet import libraries_quiet
from diffclass.errors import DiffclassWarning
from pipeline_file import save_single_file
from tiny_pipelines import clip_tokenizer, kl, loaded, original, stable_diffusion

PROMPTS = ("a cat", "a dog")


def answer(denoiser: Any) -> Tensor:
    """Denoise the same noise under both prompts."""
    random = torch.Generator().manual_seed(1)
    noisy = torch.randn(1, *denoiser.space.shape, generator=random).expand(2, -1, -1, -1)
    with torch.no_grad():
        return denoiser(noisy, torch.tensor([1.0, 1.0]), denoiser.condition_on(PROMPTS))


def test_networks_in_a_single_file_find_their_other_parts_in_a_directory(pipelines: Path, tmp_path: Path) -> None:
    shutil.copy(pipelines / "sd1/unet/diffusion_pytorch_model.safetensors", tmp_path / "network.safetensors")
    one = load(tmp_path / "network.safetensors", device="cpu", dtype="float32", config=pipelines / "sd1")
    assert torch.equal(answer(one), answer(loaded(pipelines / "sd1")))


def test_a_whole_model_in_a_single_file(pipelines: Path, tmp_path: Path) -> None:
    path = save_single_file(original(pipelines / "sd1"), tmp_path / "model.safetensors")
    bare = tmp_path / "config"  # configurations and the tokenizer, no weights
    shutil.copytree(pipelines / "sd1", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    one, whole = load(path, device="cpu", dtype="float32", config=bare), loaded(pipelines / "sd1")
    assert torch.allclose(answer(one), answer(whole), atol=1e-5)
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(one.encode(images), whole.encode(images), atol=1e-5)


def test_tokenizers_that_come_as_a_sentencepiece_model(pipelines: Path, tmp_path: Path) -> None:
    # As those of PixArt on the hub: no tokenizer.json. transformers reads them with sentencepiece and protobuf.
    from io import BytesIO

    import sentencepiece

    words = ["a photo of a cat", "a dog", "the number seven, in red"] * 20
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    copy = tmp_path / "pixart-alpha"
    shutil.copytree(pipelines / "pixart-alpha", copy, ignore=shutil.ignore_patterns("tokenizer.json"))
    (copy / "tokenizer/spiece.model").write_bytes(model.getvalue())
    (copy / "tokenizer/tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "extra_ids": 0})
    )
    ours = loaded(copy)
    tokens = ours.pipe.tokenizer("a cat").input_ids
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).encode("a cat")
    assert tokens == [*pieces, 1]
    assert ours.condition_on(PROMPTS).tensors["encoder_hidden_states"].shape[:2] == (2, 120)


def test_half_precision_variants_are_found(pipelines: Path, tmp_path: Path) -> None:
    with libraries_quiet():
        original(pipelines / "sd1").save_pretrained(tmp_path / "half", variant="fp16")
    assert torch.equal(answer(loaded(tmp_path / "half")), answer(loaded(pipelines / "sd1")))


def test_lora_is_fused(pipelines: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    theirs = original(pipelines / "sd1")
    theirs.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(theirs.unet)
    with libraries_quiet():
        StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=layers)
    plain, ours = loaded(pipelines / "sd1"), loaded(pipelines / "sd1", lora=tmp_path / "lora")
    file = next((tmp_path / "lora").glob("*.safetensors"))
    twice = loaded(pipelines / "sd1", lora=file, lora_scale=2.0)
    noisy, time = torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    states = ours.condition_on(PROMPTS).tensors["encoder_hidden_states"][:1]
    with torch.no_grad():
        wanted = theirs.unet(noisy, time, encoder_hidden_states=states).sample
        found = ours.network(noisy, time, encoder_hidden_states=states).sample
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(answer(plain), answer(ours), atol=1e-5)
    assert not torch.allclose(answer(twice), answer(ours), atol=1e-5)


def test_another_autoencoder(pipelines: Path, tmp_path: Path) -> None:
    other = kl(scaling_factor=0.5)
    with libraries_quiet():
        other.save_pretrained(tmp_path / "vae")
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        wanted = other.encode(2 * images - 1).latent_dist.mean * 0.5
    ours = loaded(pipelines / "sd1", vae=tmp_path / "vae")
    assert torch.allclose(ours.encode(images), wanted, atol=1e-5)


def test_smaller_images(pipelines: Path) -> None:
    ours = loaded(pipelines / "sd1", size=8)
    assert ours.space.image_shape == (3, 8, 8)
    assert ours.space.shape == (4, 4, 4)
    assert ours.encode(torch.rand(1, 3, 8, 8)).shape == (1, 4, 4, 4)


def test_text_encoders_leave_the_device_of_the_network(pipelines: Path) -> None:
    ours = loaded(pipelines / "sdxl")
    moves = []
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(ours.pipe, name)
        move = encoder.to
        encoder.to = lambda device, move=move, name=name: moves.append((name, str(device))) or move(device)
    ours.condition_on(PROMPTS)
    names = ("text_encoder", "text_encoder_2")
    assert moves == [(name, str(ours.device)) for name in names] + [(name, "cpu") for name in names]


def test_autoencoders_stay_in_float32(pipelines: Path) -> None:
    ours = load(pipelines / "sd1", device="cpu", dtype="bfloat16")
    assert ours.dtype == torch.bfloat16
    assert ours.vae.dtype == torch.float32
    assert ours.encode(torch.rand(1, 3, 16, 16)).dtype == torch.float32
    assert answer(ours).dtype == torch.float32


def test_offloaded_networks_answer_alike(pipelines: Path) -> None:
    assert torch.allclose(answer(loaded(pipelines / "flux-dev", offload=True)), answer(loaded(pipelines / "flux-dev")))


def test_attention_backends(pipelines: Path) -> None:
    plain, chosen = loaded(pipelines / "sd3"), loaded(pipelines / "sd3", attention="_native_math")
    try:
        assert torch.allclose(answer(plain), answer(chosen), atol=1e-5)
    finally:
        chosen.network.reset_attention_backend()


def test_distilled_models_can_be_forced(tmp_path: Path) -> None:
    from diffusers import LCMScheduler

    with libraries_quiet():
        pipe = stable_diffusion(unet_options={"time_cond_proj_dim": 8})
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
        pipe.save_pretrained(tmp_path / "lcm")
    forced = loaded(tmp_path / "lcm", force=True)
    low, high = forced.sigma_range
    assert (low, high) == pytest.approx((0.02917, 14.615), rel=1e-3)
    assert answer(forced).isfinite().all()


def test_a_prompt_that_one_encoder_cuts_is_reported(pipelines: Path) -> None:
    ours = loaded(pipelines / "sd3")
    tokens = len(clip_tokenizer()("a long story about a cat.").input_ids)
    with pytest.warns(DiffclassWarning) as caught:
        ours.condition_on(["a long story about a cat, and", "a dog"])
    assert str(caught[0].message) == (
        f"The prompt 'a long story about a cat, and' has {tokens + 3} tokens, of which one of the model's text "
        "encoders "
        "(tokenizer) reads 24; another reads all of it."
    )
