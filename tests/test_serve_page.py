"""The page at `/` in a browser: chat, two models side by side, the load."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from lmrs import Engine, delta, models
from lmrs.backend import native
from lmrs.serve import create_app

pytestmark = pytest.mark.slow
KEY = "a key"


@pytest.fixture(scope="module")
def engine(smollm2_gguf: Path) -> Engine:
    model: Any = models.load(smollm2_gguf)
    engine, draw = Engine(model, dtype="int8"), np.random.default_rng(3)
    tuned = delta.LoRA(rank=4)(model)
    for parameter in tuned.named_parameters().values():
        if parameter.trainable:
            values = native.tensor(parameter).numpy() + draw.normal(0, 0.1, parameter.shape)
            parameter.data = native.array(values.astype(np.float32)).tensor
    engine.load_delta("low", tuned)
    return engine


@pytest.fixture(scope="module")
def address(engine: Engine, live: Any) -> Iterator[str]:
    with live(create_app(engine, name="smollm2", api_key=KEY)) as address:
        yield address


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with sync_playwright() as play:
        path = shutil.which("chromium") or play.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: install the system's, or `playwright install chromium`")
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        page.goto(address)
        yield page
        browser.close()


ASKED = "What is the capital of France?"


def test_two_models_answer_side_by_side(page: Page, engine: Engine, tmp_path: Path) -> None:
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.fill("#key", KEY)
    page.dispatch_event("#key", "change")
    page.check("input[value='smollm2:low']")
    expect(page.locator("section")).to_have_count(2)
    page.fill("#tokens", "16")
    page.fill("#prompt", ASKED)
    page.press("#prompt", "Enter")
    answers = page.locator(".assistant")
    expect(answers).to_have_count(2)
    expect(page.locator("#send")).to_be_enabled(timeout=60_000)
    text = engine.tokenizer.apply_chat_template([{"role": "user", "content": ASKED}], add_generation_prompt=True)
    ids = engine.tokenizer.encode(text, add_special_tokens=False).ids
    said = [engine.generate(ids, max_tokens=16, delta=delta).text.strip() for delta in (None, "low")]
    assert said[0] != said[1]
    assert [answer.strip() for answer in answers.all_inner_texts()] == said
    expect(page.locator("section[data-model='smollm2'] small")).to_contain_text("first token")
    expect(page.locator("#rate")).not_to_have_text("–", timeout=5_000)
    expect(page.locator("[data-metric='lmrs_running']")).to_have_text("0")
    page.screenshot(path=tmp_path / "page.png")
    assert not wrong
    page.click("#clear")
    expect(answers).to_have_count(0)


def test_an_answer_can_be_stopped(page: Page) -> None:
    page.fill("#key", KEY)
    page.dispatch_event("#key", "change")
    expect(page.locator("section")).to_have_count(1)
    page.fill("#tokens", "2000")
    page.fill("#prompt", "Write a very long story.")
    page.click("#send")
    expect(page.locator(".assistant").first).not_to_be_empty(timeout=30_000)
    page.click("#stop")
    expect(page.locator("#send")).to_be_enabled(timeout=5_000)
    expect(page.locator("[data-metric='lmrs_running']")).to_have_text("0", timeout=10_000)


def test_without_the_key_it_says_so(page: Page) -> None:
    page.fill("#prompt", "hello")
    page.click("#send")
    expect(page.locator("section")).to_have_count(0)
