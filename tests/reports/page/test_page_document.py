import base64
import hashlib
import itertools
import json
import re
from xml.etree import ElementTree

import html5lib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.page import document

EVIL = "</script><script>alert(1)</script>&lt;b>%{x}"  # the network of conftest.evil_run


@pytest.fixture(scope="module")
def tree(light_html: str) -> ElementTree.Element:
    """The parsed page; the parser is strict: anything that is not HTML as it should be is an error."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(light_html)


def text_of(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def test_headings_go_down_one_level_at_a_time(tree) -> None:
    levels = [int(each.tag[1]) for each in tree.iter() if re.fullmatch("h[1-6]", str(each.tag))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_ids_are_unique_and_whatever_refers_to_one_finds_it(tree) -> None:
    ids = [each.get("id") for each in tree.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    for each in tree.iter():
        for name in ("for", "aria-labelledby", "aria-describedby"):
            assert set((each.get(name) or "").split()) <= set(ids), (each.tag, name)
        if (each.get("href") or "").startswith("#"):
            assert each.get("href")[1:] in ids


def test_every_table_has_a_caption_and_headings_with_scope(tree) -> None:
    tables = list(tree.iter("table"))
    assert {"answer", "table3", "published", "table1-1", "table2-1", "controls", "steps"} <= {
        each.get("id") for each in tables
    }
    for table in tables:
        assert text_of(table.find("caption"))
        columns = table.findall("thead/tr/th")
        assert columns
        assert all(each.get("scope") == "col" for each in columns)
        for line in [*table.findall("tbody/tr"), *table.findall("tfoot/tr")]:
            assert len(list(line)) == len(columns), text_of(line)
            assert (line[0].tag, line[0].get("scope")) == ("th", "row")


def test_every_control_has_a_label(tree) -> None:
    labelled = {each.get("for") for each in tree.iter("label")}
    inside = {control for label in tree.iter("label") for control in label.iter("input")}
    assert all(each in inside for each in tree.iter("input"))
    assert all(each.get("id") in labelled for each in tree.iter("select"))
    assert all(text_of(each) for each in tree.iter("button"))


def test_a_network_called_script_stays_text(tree, light_html) -> None:
    scripts = list(tree.iter("script"))
    assert len(scripts) == 3, "the numbers, the library, the page's own"
    assert "<script>alert" not in light_html
    assert EVIL in {text_of(each) for each in tree.iter("th")}
    assert "<b>CPU</b> & co" in {text_of(each) for each in tree.iter("dd")}


def test_what_plotly_shows_is_escaped_for_it_too(tree) -> None:
    data = json.loads(next(each for each in tree.iter("script") if each.get("id") == "figures").text)
    texts = [
        text
        for figure in data
        for view in figure["views"]
        for trace in view["traces"]
        for text in [*trace.get("hovertext", []), *trace.get("text", [])]
    ]
    assert any("&lt;script&gt;alert(1)" in text for text in texts)
    assert all(set(re.findall("<[^>]*>", text)) <= {"<br>"} for text in texts)
    assert not any("hovertemplate" in trace for each in data for view in each["views"] for trace in view["traces"])


def test_the_policy_allows_what_the_page_holds_and_nothing_else(html) -> None:
    content = re.search('Content-Security-Policy" content="([^"]*)"', html).group(1).replace("&#39;", "'")
    rules = dict(rule.split(" ", 1) for rule in content.split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in content
    assert "http" not in content
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL) + document.library_styles(scripts[0])
    assert (len(scripts), len(styles)) == (2, 3)
    for kind, found in (("script-src", scripts), ("style-src", styles)):
        digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in found]
        assert rules[kind].split() == [f"'sha256-{digest}'" for digest in digests]


def test_nothing_in_the_page_comes_from_elsewhere(tree) -> None:
    for each in tree.iter():
        assert each.get("src") is None
        assert each.get("style") is None, "the policy forbids it"
        if each.tag == "link":
            assert each.get("href") == "data:,"


def test_the_answer_stands_at_the_top(tree, page) -> None:
    header = text_of(tree.find("body/header"))
    assert all(" ".join(sentence.split()) in header for sentence in page.answer)


def test_warnings_failures_and_an_unfinished_run_are_told(tree) -> None:
    told = text_of(tree.find("body/main"))
    assert "the run is incomplete" in told
    assert "out-of-memory: <i>needs</i> 3 GB" in told
    assert "no longer finite" in told, "of the training that diverged"


def test_the_same_results_give_the_same_page(page, html) -> None:
    assert document.render(page) == html


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        document.document([], [])


def test_a_library_that_would_end_its_element_is_refused(monkeypatch, tmp_path) -> None:
    (tmp_path / "package_data").mkdir()
    (tmp_path / "package_data" / "plotly.min.js").write_text("var x = '</SCRIPT>';")
    monkeypatch.setattr(document.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match="cannot stand in a page"):
        document.plotting_library()


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False), st.lists))
def test_embedded_json_says_the_same_and_holds_no_markup(content) -> None:
    text = str(document.embedded(content))
    assert json.loads(text) == content
    assert not set("<>&\u2028\u2029") & set(text)


def test_a_number_that_is_none_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        document.embedded([float("nan")])
