"""The page of models: what is asked of it by somebody who wants to choose one."""

from collections.abc import Iterator
from typing import Any

import pytest
from browsing import Page, Server, running_server

MODELS = """{
    "small": {"checkpoint": "weft-tiny.safetensors", "price": 0.02},
    "wide": {"checkpoint": "weft-tiny.safetensors", "price": 0.05, "defaults": {"width": 192}}
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("base"), models=MODELS) as server:
        yield server


def test_models_are_found_compared_and_looked_at_over_time(driver: Any, server: Server) -> None:
    page = Page(driver)
    page.open(server.address)
    page.press('header a[href="catalogue"]')
    page.one('[data-model="wide"]')
    page.until(lambda: page.text('[data-model="wide"] .state') == "ready", "a worker is ready")
    page.complaints()

    shown = "return [...document.querySelectorAll('[data-model]')].map((one) => one.dataset.model)"
    assert page.run(shown) == ["small", "wide"]
    page.write("#name", "wid")
    page.until(lambda: page.run(shown) == ["wide"], "the other one is left out")
    page.press('[data-model="wide"] .check input')
    page.write("#name", "xyz")
    page.until(lambda: page.run(shown) == [], "there is none of that name")
    page.write("#name", "weft")  # in the title of both
    page.until(lambda: page.run(shown) == ["small", "wide"], "both are there again")
    page.press('[data-model="small"] .check input')

    page.write("#prompt", "a red circle on a blue background")
    page.write("#seed", "7")
    page.write("#steps", "3")
    page.press("#go")
    page.until(lambda: page.text("#progress").startswith("Done"), "both pictures are made")
    sizes = """return [...document.querySelectorAll("#made figure")].map((figure) => {
        const image = figure.querySelector("img");
        return [figure.dataset.made, image.naturalWidth, image.naturalHeight];
    })"""
    wanted = [["wide", 192, 128], ["small", 128, 128]]
    page.until(lambda: page.run(sizes) == wanted, "the pictures are shown side by side")
    assert "after " in page.text('[data-made="small"] figcaption')
    picture_of = f"{server.address}/api/catalogue?name=small"
    script = "return fetch(arguments[0]).then((answer) => answer.json())"
    (found,) = page.run(script, picture_of)["models"]
    assert found["windows"]["1h"]["pictures"] == 2

    page.press('[data-model="small"] summary')
    page.one('[data-model="small"] svg.strip rect.there')
    labels = "return [...document.querySelectorAll('[data-model=small] svg[role=img]')]"
    assert len(page.run(f"{labels}.map((one) => one.getAttribute('aria-label'))")) == 3
    unnamed = """return [...document.querySelectorAll("input, select, textarea, button")]
        .filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim())
        .map((one) => one.outerHTML)"""
    assert page.run(unnamed) == []
    for width in (360, 1400):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            assert page.run("return document.documentElement.scrollWidth") <= width
        finally:
            driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert page.complaints() == []
