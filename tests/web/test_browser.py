"""The page in a real browser, where there is one: what a person does, and what they see."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffclass.data import load_image
from diffclass.decide import DiffusionClassifier
from diffclass.web import Limits
from tiny_mixture import save_picture, tiny_mixture
from tiny_web import FREED, SHAPE, Slow, idle, serving, tiny_app, until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium or Chrome is installed: browser tests need one on the PATH", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
PATIENCE = 20_000  # [ms]


class SlowVotes(Slow):
    """Takes its time over noisy copies."""

    def log_likelihood(self, images: torch.Tensor, *, tau: float = 0.0) -> Any:
        time.sleep(0.1)
        return super().log_likelihood(images, tau=tau)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    models = {"tiny": tiny_mixture(), "slow": SlowVotes(seconds=0.0, n_draws=8)}
    with serving(tiny_app(Limits(upload=5000), models=models)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """A page that has been opened; nothing may go wrong on it, and nothing may be asked of anyone else."""
    context = browser.new_context(reduced_motion="reduce")
    page = opened(context, server)
    yield page
    context.close()
    assert page.wrong == []


def opened(context: Any, server: str) -> Any:
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on(
        "request", lambda request: request.url.startswith((server, "data:", "blob:")) or page.wrong.append(request.url)
    )
    page.goto(server)
    page.wait_for_selector("#samples button img[src]")
    return page


def classify(page: Any) -> str:
    """Press the button and return the label."""
    page.click("#classify")
    page.wait_for_selector("#answer:not([hidden])")
    return page.inner_text("#label")


def test_a_picture_is_uploaded_and_its_race_watched_to_the_end(page: Any, tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "seven.png", 3, size=(30, 20), mode="RGB")
    page.select_option("#model", "tiny")
    page.set_input_files("#file", picture)
    label = classify(page)
    image = load_image(picture, SHAPE, convert=True)
    decision = DiffusionClassifier.from_pretrained(tiny_mixture(), batch_size=64).classify(image[None])[0]
    assert label == decision.label
    assert (
        page.inner_text("#odds")
        == f"log-odds {decision.log_odds:.1f} ± {decision.log_odds_se:.1f} over {decision.runner_up}"
    )
    assert "centre-cropped 30x20 to 20x20; resized 20x20 to 8x8" in page.inner_text("#seen-text")
    names = page.locator("#lanes .name").all_inner_texts()
    assert names[0] == label
    assert sorted(names) == sorted(decision.evidence.classes)
    out = page.locator("#lanes .lane.out").count()
    assert out == 10 - len(decision.survivors)
    assert f"{decision.n_draws} draws" in page.inner_text("#race-state")


def test_labels_and_samples_are_chosen(page: Any) -> None:
    page.select_option("#model", "tiny")
    page.click("#samples button >> nth=0")
    page.click("#labels-box summary")
    for name in "02456789":
        page.locator(f"#labels label:has-text('{name}')").click()
    assert "2 of 10" in page.inner_text("#labels-note")
    assert classify(page) == "1"
    assert sorted(page.locator("#lanes .name").all_inner_texts()) == ["1", "3"]


def test_a_certificate_is_made(page: Any) -> None:
    page.select_option("#model", "tiny")
    page.click("#samples button >> nth=0")
    label = classify(page)
    page.select_option("#sigma", "0.12")
    page.click("#certify")
    page.wait_for_selector("#proof.proved")
    assert page.inner_text("#proof").startswith(
        f"The label of the vote, {label}, holds for every change of size below 0."
    )


def test_a_certificate_is_stopped_half_way(page: Any, server: str) -> None:
    page.select_option("#model", "slow")
    page.click("#samples button >> nth=0")
    classify(page)
    page.select_option("#copies", "9900")
    page.click("#certify")
    assert until(lambda: page.evaluate("document.getElementById('bar').value") > 0.05, 20)
    page.click("#certify-stop")
    assert until(lambda: idle(server), FREED)
    page.wait_for_selector("#proof:has-text('A count that was cut short proves nothing.')")
    assert page.is_hidden("#certify-progress")
    assert page.get_attribute("#certify", "aria-disabled") == "false"
    assert page.is_hidden("#problem")


def test_files_that_cannot_be_used(page: Any, tmp_path: Path) -> None:
    page.select_option("#model", "tiny")
    (tmp_path / "notes.png").write_text("not a picture")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == "The picture (13 bytes) must be a PNG, JPEG, WEBP, GIF, BMP or TIFF file."
    (tmp_path / "large.png").write_bytes(b"x" * 5001)
    page.set_input_files("#file", tmp_path / "large.png")
    sentence = "The picture may have 5,000 bytes at most. 'large.png' has 5,001. Shrink it."
    page.wait_for_selector(f'#problem:has-text("{sentence}")')
    page.click("#samples button >> nth=0")
    assert page.is_hidden("#problem")
    assert classify(page) == "1"


def test_a_second_tab_works_beside_the_first(page: Any, server: str) -> None:
    second = opened(page.context, server)
    for one, sample in ((page, 0), (second, 2)):
        one.select_option("#model", "tiny")
        one.click(f"#samples button >> nth={sample}")
        one.click("#classify")
    for one in (page, second):
        one.wait_for_selector("#answer:not([hidden])")
    assert [page.inner_text("#label"), second.inner_text("#label")] == ["1", "2"]
    assert second.wrong == []


def test_the_keyboard_is_enough(page: Any) -> None:
    page.select_option("#model", "tiny")
    page.focus("#file")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first sample
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "classify":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "classify"  # focus stays where it was, and is seen
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, server: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 640}, color_scheme=scheme, reduced_motion="reduce")
    page = opened(context, server)
    page.select_option("#model", "tiny")
    page.click("#samples button >> nth=0")
    classify(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(14, 16, 21)") == (scheme == "dark")
    unnamed = (
        "[...document.querySelectorAll('input,select,button,img')].filter(e => e.checkVisibility() && !e.labels?.length"
    )
    assert (
        page.evaluate(f"{unnamed} && !e.innerText && !e.hasAttribute('alt') && !e.querySelector('img[alt]')).length")
        == 0
    )
    context.close()
    assert page.wrong == []


def test_a_token_comes_with_the_link_and_leaves_the_address(browser: Any) -> None:
    token = "sixteen characters"
    with serving(tiny_app(token=token)) as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector('#problem:has-text("must bear the server\'s token")')
        page.goto("about:blank")
        page.goto(f"{url}#token={token}")
        page.wait_for_selector("#samples button img[src]")
        assert page.url.rstrip("/") == url
        context.close()
