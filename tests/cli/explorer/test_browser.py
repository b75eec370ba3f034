"""The explorer in a real browser: clicks, keys, large type, dark mode, drawing, accessibility."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Served

selenium = pytest.importorskip("selenium", reason="NO BROWSER TESTS: selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = next(
    (
        path
        for root in (os.environ.get("NODE_PATH"), "node_modules", "/usr/local/lib/node_modules")
        if root and (path := Path(root) / "axe-core" / "axe.min.js").exists()
    ),
    None,
)
WAIT = 120.0

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="NO BROWSER TESTS: apt-get install chromium chromium-driver",
)


class Browser:
    """A headless Chromium that looks at one server."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.until(lambda: next(iter(self.all(selector)), None))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited in vain at {self.driver.current_url}"
            time.sleep(0.05)
        return found

    def errors(self) -> list[str]:
        """What the console said: refused scripts and styles, failed requests, exceptions."""
        found = self.driver.get_log("browser")
        return [entry["message"] for entry in found if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    downloads = tmp_path_factory.mktemp("downloads")
    places = {"download.default_directory": str(downloads)}
    options.add_experimental_option("prefs", places)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--enable-unsafe-swiftshader",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    started.downloads = downloads
    yield started
    started.quit()


@pytest.fixture
def browser(driver: Any, served: Served) -> Browser:
    driver.get_log("browser")
    return Browser(driver, served.url)


def test_search_expand_evidence(browser: Browser) -> None:
    browser.open("/")
    browser.one("#find").send_keys("base\n")
    browser.one("main td a[href^='/tree']").click()
    browser.one("#tree a[aria-label='show kin of alice/chat']").click()
    browser.one("#tree a[aria-label='show kin of dave/freed']").click()
    browser.one("#tree a[href*='erin']")
    assert "open=dave%2Ffreed" in browser.driver.current_url
    browser.driver.back()
    browser.until(lambda: not browser.all("#tree a[href*='erin']"))
    browser.one("a[aria-label='why dave/freed']").click()
    assert "share frozen" in browser.one("main").text
    assert browser.errors() == []


def test_filters_hold_in_the_address(browser: Browser) -> None:
    browser.open("/tree?model=lab/base")
    browser.one("details.filters summary").click()
    browser.one("input[name=lost]").click()
    browser.one("details.filters button").click()
    browser.until(lambda: "lost=1" in browser.driver.current_url)
    names = [one.text for one in browser.all("#tree li > a[href^='/model']")]
    assert names == ["alice/chat"]


def test_sql_and_its_csv(browser: Browser) -> None:
    browser.open("/sql")
    browser.one("#query").send_keys("SELECT model FROM models ORDER BY model LIMIT 3")
    browser.one("main form button").click()
    browser.until(lambda: len(browser.all("#result tbody tr")) == 3)
    browser.driver.find_element("link text", "csv").click()
    file = browser.driver.downloads / "modelkin.csv"
    browser.until(file.exists)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 4
    assert browser.errors() == []


def test_keys_alone(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open("/tree?model=lab/base")
    browser.one("body").send_keys(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Skip to the content"
    browser.one("body").send_keys("/")
    assert browser.driver.switch_to.active_element.get_attribute("id") == "find"
    for _ in range(30):
        browser.keys(Keys.TAB)
        if browser.driver.switch_to.active_element.get_attribute("class") == "knob":
            break
    browser.keys(Keys.ENTER)
    browser.one("#tree a[aria-label='hide kin of alice/chat']")
    focused = browser.until(
        lambda: browser.driver.switch_to.active_element.get_attribute("class") == "knob"
    )
    assert focused


def test_reading_needs_no_script(browser: Browser) -> None:
    devtools = browser.driver.execute_cdp_cmd
    devtools("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open("/tree?model=lab/base")
        browser.one("#tree a[aria-label='show kin of alice/chat']").click()
        browser.one("#tree a[href*='dave']")
        browser.open("/map?model=lab/base")
        assert browser.one("noscript img, img.map-picture")
    finally:
        devtools("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("path", ["/", "/tree?model=lab/base", "/model?model=dave/freed", "/sql"])
def test_four_times_the_size_needs_no_sideways_scrolling(browser: Browser, path: str) -> None:
    # 400 % of a window of 1280 pixels is a window of 320.
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        browser.open(path)
        width = browser.run("return document.documentElement.scrollWidth")
        assert width <= 325
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_mode_is_dark(browser: Browser) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    try:
        browser.open("/model?model=dave/freed")
        paper, ink = browser.run(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        assert brightness(paper) < 60 < 180 < brightness(ink)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def brightness(colour: str) -> float:
    numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(numbers) / 3


def test_pictures_are_saved(browser: Browser) -> None:
    def saved(name: str) -> bytes:
        file = browser.driver.downloads / name
        return bytes(browser.until(lambda: file.exists() and file.read_bytes()))

    browser.open("/plots?model=lab/base")
    browser.one("button.png[data-name=growth]").click()
    assert saved("growth.png").startswith(b"\x89PNG")
    browser.one("a[download='growth.svg']").click()
    assert b"<svg" in saved("growth.svg")
    browser.open("/map?model=lab/base")
    browser.until(lambda: browser.run("return document.getElementById('map').dataset.ready"))
    browser.one("#png").click()
    assert saved("map.png").startswith(b"\x89PNG")
    assert browser.errors() == []


def test_the_query_beside_a_page_is_copied_and_opened(browser: Browser) -> None:
    browser.open("/tree?model=lab/base&depth=2")
    browser.one("details.sql summary").click()
    shown = browser.one("details.sql code").text
    browser.one("button.copy").click()
    browser.until(lambda: browser.one("button.copy").text != "Copy")
    browser.driver.find_element("link text", "Open in the SQL page").click()
    browser.until(lambda: browser.all("#result tbody tr"))
    assert browser.one("#query").get_attribute("value") == shown


def test_the_map_draws_pans_and_finds(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open("/map?model=lab/base")
    browser.until(lambda: browser.run("return document.getElementById('map').dataset.ready"))
    assert browser.run("return modelkinMap.count") == 13
    pixels = "return document.getElementById('canvas').toDataURL().length"
    drawn = browser.run(pixels)
    browser.one("#map-find").send_keys("freed\n")
    found = browser.until(lambda: browser.one("#map-found").text)
    assert "freed" in found
    browser.one("#canvas").send_keys(Keys.ARROW_LEFT, "+")
    browser.until(lambda: browser.run("return modelkinMap.view.zoom") > 2)
    assert drawn > 1000
    assert browser.errors() == []


@pytest.mark.skipif(AXE is None, reason="NO ACCESSIBILITY CHECK: npm install axe-core")
@pytest.mark.parametrize(
    "path",
    ["/", "/tree?model=lab/base", "/model?model=dave/freed", "/edge?child=alice/chat", "/findings",
     "/coverage", "/plots?model=lab/base", "/map?model=lab/base", "/sql?query=FROM+models"],
)  # fmt: skip
def test_nothing_seriously_inaccessible(browser: Browser, path: str) -> None:
    assert AXE is not None
    browser.open(path)
    browser.run(AXE.read_text(encoding="utf-8"))
    found = browser.driver.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run().then(r => done(r.violations))"
    )
    serious = [
        (one["id"], [node["html"][:120] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
