"""What `diffclass web` refuses: on the command line, and in requests; exact sentences."""

import struct
import sys
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image

from diffclass.cli import main
from diffclass.denoisers import catalogue
from diffclass.errors import RangeError, WeightsMissing
from diffclass.web import Address, Limits, Offer
from tiny_mixture import save_mixture
from tiny_web import client_of, png, tiny_app

COMMANDS: dict[str, tuple[str, int, str]] = {
    "port in use": (
        "web --port {taken}",
        2,
        "Error: Port {taken} of '127.0.0.1' cannot be used: Address already in use. "
        "Choose another with --port, or 0 for a free one.",
    ),
    "no such port": ("web --port 70000", 2, "Error: The port must be from 0 to 65535. Got 70000."),
    "no address of this computer": (
        "web --host 192.0.2.1 --token {token} --port 0",
        2,
        "Error: Port 0 of '192.0.2.1' cannot be used: Cannot assign requested address.",
    ),
    "open to others without a token": (
        "web --host 0.0.0.0",
        2,
        "Error: A server that others can reach needs a token. Got the host '0.0.0.0' without one. "
        "Give --token, or '--token auto' to have one made.",
    ),
    "short token": (
        "web --host 0.0.0.0 --token secret",
        2,
        "Error: A token must have at least 16 ASCII characters. Got 6. Try '--token auto'.",
    ),
    "unknown model": (
        "web --port 0 --model tinny",
        3,
        "Error: The model must be a bundled one (tiny), a directory or 'owner/name' on the Hugging Face hub. "
        "Got 'tinny'. Did you mean 'tiny'?",
    ),
    "missing model directory": (
        "web --port 0 --model {h}/none",
        3,
        "Error: The model directory '{h}/none' does not exist. Check the path.",
    ),
    "unknown device": (
        "web --port 0 --model {h}/models/tiny --device abacus",
        2,
        "Error: The 'device' parameter of load must be a device of this machine, as 'cpu' or 'cuda'. Got 'abacus'.",
    ),
    "no room for anyone": ("web --waiting 0", 2, "Error: The 'waiting' limit must be at least 1. Got 0."),
    "no picture small enough": ("web --max-upload 0", 2, "Error: The 'upload' limit must be at least 1. Got 0."),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    save_mixture(root / "models" / "tiny")
    return root


@pytest.mark.parametrize("case", COMMANDS)
def test_the_sentence(case: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_models", lambda: home / "models")
    line, code, wanted = COMMANDS[case]
    with Address(port=0).listen() as listener:
        words = {"h": home, "taken": listener.getsockname()[1], "token": "x" * 16}
        result = CliRunner().invoke(main, line.format(**words).split())
    assert (result.stderr.removesuffix("\n"), result.exit_code) == (wanted.format(**words), code)
    assert result.stdout == ""


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_the_extra_is_not_installed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    result = CliRunner().invoke(main, ["web"])
    assert result.exit_code == 3
    assert result.stderr == "Error: The page needs fastapi and uvicorn: pip install 'diffclass[web]'.\n"


def test_no_models_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_models", lambda: tmp_path)
    with pytest.raises(WeightsMissing) as caught:
        Offer()
    assert str(caught.value) == "This installation has no models in it. Name one of your own with --model."


def test_limits() -> None:
    with pytest.raises(RangeError) as caught:
        Limits(upload_seconds=float("nan"))
    assert str(caught.value) == "The 'upload_seconds' limit must be at least 1. Got nan."


# Requests


def claiming(width: int, height: int) -> bytes:
    """A PNG file that says it is this large, and is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def picture(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, format=kind, **options)
    return out.getvalue()


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
FORMATS = "must be a PNG, JPEG, WEBP, GIF, BMP or TIFF file."
COLOUR = np.zeros((8, 8, 3), np.uint8)
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "The request must hold a picture as its body. Got nothing."),
    "text": (b"not a picture", f"The picture (13 bytes) {FORMATS}"),
    "SVG": (SVG, f"The picture ({len(SVG)} bytes) {FORMATS}"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", f"The picture (47 bytes) {FORMATS}"),
    "truncated PNG": (
        picture(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))[:2000],
        "The picture 'upload' is damaged and cannot be decoded: image file is truncated.",
    ),
    "pixel bomb": (
        claiming(50_000, 50_000),
        "The picture (68 bytes) has many more than the 25,000,000 pixels it may have. Shrink it.",
    ),
    "just too many pixels": (
        claiming(5001, 5000),
        "The picture (68 bytes) is 5001x5000 pixels and may have 25,000,000 at most. Shrink it.",
    ),
    "colour": (picture(COLOUR), "The picture 'upload' is colour and the model takes grey images. Try convert=True."),
    "NaN": (
        picture(np.full((8, 8), np.nan, np.float32), "TIFF"),
        "The picture 'upload' must be finite. It holds NaN or infinity.",
    ),
}  # fmt: skip
PARAMETERS: dict[str, tuple[str, int, str]] = {
    "no model": ("classify", 422, "The 'model' parameter is missing."),
    "unknown model": ("classify?model=no", 404, "The model must be one of those served here: tiny, slow. Got 'no'."),
    "path for a model": (
        "classify?model=../../etc/passwd",
        404,
        "The model must be one of those served here: tiny, slow. Got '../../etc/passwd'.",
    ),
    "unknown label": (
        "classify?model=tiny&label=1&label=ten",
        422,
        "The labels must be classes of the model: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. Got 'ten'.",
    ),
    "one label": ("classify?model=tiny&label=1", 422, "A classifier needs at least two classes. Got 1."),
    "label twice": (
        "classify?model=tiny&label=1&label=1",
        422,
        "Every class must be named once. '1' is there more than once.",
    ),
    "long label": (
        f"classify?model=slow&label={'x' * 201}",
        422,
        "A request may name 200 labels of 200 characters at most.",
    ),
    "unknown sample": (
        "classify?model=tiny&sample=none",
        422,
        "The sample must be one of digits-1, digits-5, digits-2, digits-4, digits-6, digits-9, chelsea. Got 'none'.",
    ),
    "unknown resize": (
        "classify?model=tiny&resize=melt",
        422,
        "The 'resize' parameter must be 'crop', 'stretch' or 'refuse'. Got 'melt'.",
    ),
    "n is a word": (
        "certify?model=tiny&n=many",
        422,
        "The 'n' parameter must be a valid integer, unable to parse string as an integer. Got 'many'.",
    ),
    "too many copies": (
        "certify?model=tiny&n=1000000",
        422,
        "The 'n' and 'n0' parameters of certify may be 10,000 together on this server. Got 1,000,100.",
    ),
    "too few copies": (
        "certify?model=tiny&n=3",
        422,
        "The 'n' parameter of certify must be at least 10 for alpha=0.001: fewer copies prove no radius, even if all "
        "of them get one label. Got 3.",
    ),
    "alpha": (
        "certify?model=tiny&alpha=2",
        422,
        "The 'alpha' parameter of certify must be a float in (0, 1). Got 2.0.",
    ),
    "sigma": (
        "certify?model=tiny&sigma=nan",
        422,
        "The 'sigma' parameter of certify must be from 0.005 to below 20 [image units], where the model was trained. "
        "Got nan.",
    ),
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(tiny_app()) as found:
        yield found


@pytest.mark.parametrize("case", BODIES)
def test_pictures_that_are_refused(case: str, client: TestClient) -> None:
    body, sentence = BODIES[case]
    for verb in ("classify", "certify"):
        response = client.post(f"/api/v1/{verb}?model=tiny", content=body)
        assert (response.status_code, response.json()) == (422, {"error": sentence})
    events = client.post("/api/v1/classify?model=tiny", content=body, headers={"accept": "text/event-stream"})
    assert (events.status_code, events.json()) == (422, {"error": sentence})


@pytest.mark.parametrize("case", PARAMETERS)
def test_parameters_that_are_refused(case: str, client: TestClient) -> None:
    path, status, sentence = PARAMETERS[case]
    response = client.post(f"/api/v1/{path}", content=png())
    assert (response.status_code, response.json()) == (status, {"error": sentence})


def test_an_animated_picture_is_its_first_frame(client: TestClient) -> None:
    frames = [Image.fromarray(np.full((8, 8), grey, np.uint8)) for grey in (10, 200)]
    out = BytesIO()
    frames[0].save(out, format="GIF", save_all=True, append_images=frames[1:])
    response = client.post("/api/v1/classify?model=tiny&convert=true", content=out.getvalue())
    assert response.status_code == 200
    assert response.json()["changes"][0] == "took frame 1 of 2"


def test_paths_that_are_not_there(client: TestClient) -> None:
    for path in ("/nothing", "/api/v1/nothing", "/static/page.js", "/docs", "/../pyproject.toml"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"].startswith("There is nothing at '/")
    response = client.get("/api/v1/classify")
    assert (response.status_code, response.json()) == (405, {"error": "GET is not for '/api/v1/classify'."})
