"""The page in a real browser: Debian's chromium, driven by playwright."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")

#: A browser on a busy machine takes its time to open 5 MB; what follows takes less.
OPENING_MS = 900_000
PATIENCE_MS = 60_000

FLAGS = [
    "--no-sandbox",  # the page is ours, and containers often run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Opened:
    """The page in a tab, what its console said, and what it asked for."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.set_default_navigation_timeout(OPENING_MS)
        self.tab = self.context.new_page()
        self.tab.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.tab.on("dialog", lambda dialog: (self.said.append("a dialog"), dialog.dismiss()))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(file.as_uri())
        self.tab.wait_for_selector("#history .main-svg", timeout=OPENING_MS)

    def lines(self, figure: str = "fig1") -> int:
        return int(self.tab.locator(f"#{figure} .scatterlayer .trace").count())

    def wait_until(self, condition: str) -> None:
        """Playwright's own way to wait evaluates text in the page, which the page's policy forbids."""
        look = f"const look = () => ({condition}) ? done() : requestAnimationFrame(look); look();"
        self.tab.evaluate(f"() => new Promise((done) => {{ {look} }})")

    def colour(self, selector: str, name: str) -> str:
        return str(self.tab.locator(selector).first.evaluate("(e, name) => getComputedStyle(e)[name]", name))


@pytest.fixture(scope="module")
def file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=OPENING_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desktop(browser, file) -> Iterator[Opened]:
    opened = Opened(browser, file, viewport={"width": 1200, "height": 900}, color_scheme="light")
    yield opened
    opened.context.close()


def test_it_opens_in_silence_and_asks_nobody(desktop, file) -> None:
    assert desktop.said == []
    assert desktop.asked == [file.as_uri()]


def test_no_script_of_a_run_was_run(desktop) -> None:
    assert "<script>" in desktop.tab.locator("#table3").inner_text()
    assert desktop.tab.evaluate("document.scripts.length") == 3


def test_the_policy_is_in_force(desktop) -> None:
    tried = desktop.tab.evaluate("fetch('https://example.org').then(() => 'went out', () => 'refused')")
    assert tried == "refused"
    assert any("Content Security Policy" in text for text in desktop.said), "refused by the page, not by the network"
    desktop.said.clear()


def test_pointing_at_a_mark_shows_the_number_of_the_table(desktop) -> None:
    cells = desktop.tab.locator("#table3 tbody tr", has_text="262,144").locator("td").all_inner_texts()
    mark = desktop.tab.locator("#fig1 .trace[class*='tracec0-'] path.point").nth(4)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    desktop.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    desktop.tab.wait_for_selector("#fig1 .hovertext")
    shown = " ".join(desktop.tab.locator("#fig1 .hovertext").all_text_contents())
    classes, speedup, interval, median = cells[:4]
    for text in ("resnet50", classes, f"speedup {speedup}", interval, f"{median} ms"):
        assert text in shown
    desktop.tab.mouse.move(0, 0)


def test_the_arrow_keys_go_from_mark_to_mark_and_say_what_it_is(desktop) -> None:
    desktop.tab.locator("#fig1 .plot").focus()
    desktop.tab.keyboard.press("ArrowRight")
    desktop.tab.keyboard.press("ArrowRight")
    said = desktop.tab.locator("#fig1 .said")
    assert said.text_content().startswith("resnet50, 1,024 classes, ")
    desktop.tab.keyboard.press("Tab")
    assert desktop.tab.evaluate("document.activeElement.closest('#fig1 .plot')") is None, "the chart lets go"


def test_the_arrow_keys_stay_on_the_marks_of_a_short_line(desktop) -> None:
    desktop.tab.locator("#history .plot").focus()
    said = desktop.tab.locator("#history .said")
    for keys, expected in (
        (["ArrowRight"], "speedup "),
        (["ArrowRight"] * 40, "speedup "),
        (["ArrowDown"], "step: "),
        (["ArrowRight"] * 3, "step: "),
        (["ArrowLeft"] * 3, "step: "),
        (["ArrowUp"], "speedup "),
    ):
        for key in keys:
            desktop.tab.keyboard.press(key)
            assert said.text_content().startswith(expected), f"{key}: {said.text_content()!r}"
    assert desktop.said == []


def test_a_filter_hides_lines_and_the_rows_of_their_table(desktop) -> None:
    lines, rows = desktop.lines(), desktop.tab.locator("#table3 tbody tr:visible").count()
    box = desktop.tab.get_by_role("checkbox", name="resnet50", exact=True)
    box.uncheck()
    assert desktop.lines() < lines
    assert desktop.tab.locator("#table3 tbody tr:visible").count() < rows
    assert "resnet50" not in desktop.tab.locator("#table3 tbody").inner_text()
    box.check()
    assert (desktop.lines(), desktop.tab.locator("#table3 tbody tr:visible").count()) == (lines, rows)
    device = desktop.tab.locator("[data-filter=device] input")
    device.uncheck()
    assert desktop.lines() == 0
    device.check()


def test_a_heading_sorts_its_column_both_ways_by_the_numbers(desktop) -> None:
    heading = desktop.tab.locator("#table3 thead th", has_text="median, ms")
    for order in ("ascending", "descending"):
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == order
        keys = desktop.tab.locator("#table3 tbody tr").evaluate_all("rows => rows.map(row => row.cells[4].dataset.key)")
        known = [float(key) for key in keys if key is not None]
        assert known == sorted(known, reverse=order == "descending")
        assert keys[-1] is None, "the point that failed stays below"


def test_the_choice_of_a_view_draws_it(desktop) -> None:
    desktop.tab.locator("#fig1-view").select_option(label="speedup of one logit")
    assert "time of one" in desktop.tab.locator("#fig1 .g-ytitle").text_content()
    assert "40" in desktop.tab.locator("#samples .told").text_content() or desktop.lines("samples") > 0
    desktop.tab.locator("#samples-view").select_option(index=1)
    assert "marked" in desktop.tab.locator("#samples ul.legend").inner_text()
    assert "12 of them marked" in desktop.tab.locator("#samples .told").text_content()
    assert desktop.said == []


def test_it_fits_a_phone_in_the_dark(browser, file) -> None:
    phone = Opened(browser, file, viewport={"width": 360, "height": 740}, color_scheme="dark")
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert phone.tab.locator("#fig1 .main-svg").first.bounding_box()["width"] <= 360
    assert phone.colour("body", "backgroundColor") == "rgb(20, 23, 27)"
    assert phone.colour("#fig1 .trace[class*='tracec0-'] path.js-line", "stroke") == "rgb(86, 180, 233)"
    assert phone.colour("#fig1 .xtick text", "fill") == "rgb(169, 178, 189)"
    assert phone.said == []
    phone.context.close()


def test_print_is_light_open_and_no_wider_than_the_paper(browser, file) -> None:
    sheet = Opened(browser, file, viewport={"width": 1200, "height": 900}, color_scheme="dark")
    sheet.tab.emulate_media(media="print")
    sheet.wait_until("document.querySelector('#fig1 .main-svg').getBoundingClientRect().width <= 690")
    assert sheet.colour("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert sheet.colour("#fig1 .trace[class*='tracec0-'] path.js-line", "stroke") == "rgb(0, 114, 178)"
    assert sheet.tab.locator("details:not([open])").count() == 0
    assert sheet.tab.locator("nav").is_hidden()
    sheet.tab.emulate_media(media="screen")
    sheet.wait_until("document.querySelector('#fig1 .main-svg').getBoundingClientRect().width > 690")
    assert sheet.tab.locator("details:not([open])").count() > 0
    assert sheet.said == []
    sheet.context.close()
