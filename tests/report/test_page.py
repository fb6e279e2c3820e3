"""The page as text: what it says in each state of a run, and that nothing untrusted in it is markup."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.finalist import trial_run
from nas.halving import Promotion, Standing, Start
from nas.job import Run
from nas.report import ReportError, write_report
from nas.report.markup import Column, decimals, script_json, table, tag
from nas.report.pictures import pictures
from nas.study import Study, Trial
from searchspaces.yolo import YOLO

KNOWN_TAGS = {
    "html", "head", "meta", "link", "title", "style", "script", "body", "main", "header", "section", "footer", "noscript", "div", "span",
    "h1", "h2", "h3", "p", "pre", "small", "strong", "i", "ul", "li", "dl", "dt", "dd", "details", "summary", "figure", "figcaption", "img",
    "table", "caption", "thead", "tbody", "tr", "th", "td", "button",
}  # fmt: skip


class Parsed(HTMLParser):
    """Elements, their attributes and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        self._inside = name

    def handle_endtag(self, name):
        self._inside = ""

    def handle_data(self, text):
        if self._inside == "script":
            self.scripts.append(text)
        elif self._inside != "style":
            self.words += text


@pytest.fixture(scope="session")
def parsed(finished, tmp_path_factory) -> Parsed:
    return Parsed(write_report(finished, tmp_path_factory.mktemp("page")).read_text())


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def written(run: Run, folder) -> Parsed:
    return Parsed(write_report(run, folder / "page.html").read_text())


def test_the_page_says_what_was_asked_and_what_came_out(parsed):
    for words in ("latency at most 6 ms", "size at most 2 MB", "mAP50 0.640", "bit for bit", "✗ failed", "3 → 1 ▲2", "1a2b3c4", "avx512"):
        assert words in parsed.words
    assert re.search(r"edgenas search --data \S+ --device local --max-latency 6ms --max-size 2MB .*--seed 3", parsed.words)


def test_the_page_holds_no_markup_that_came_from_data(parsed):
    assert {name for name, _ in parsed.tags} <= KNOWN_TAGS
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)
    assert len(parsed.scripts) == 3  # the figures, plotly.js and the page's own
    assert "<script>window.hacked=1</script>" in parsed.words
    assert "<" not in parsed.scripts[0]


def test_the_page_asks_the_network_for_nothing(parsed):
    links = [attributes[key] for _, attributes in parsed.tags for key in ("src", "href") if key in attributes]
    assert all(link.startswith("data:") for link in links)
    policy = next(a["content"] for name, a in parsed.tags if name == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_every_figure_has_its_place_and_its_units(parsed):
    figures = json.loads(parsed.scripts[0])
    assert set(figures) == {a["data-figure"] for _, a in parsed.tags if "data-figure" in a}
    assert {"search", "measured", "genes"} <= set(figures)
    assert len([name for name in figures if name.startswith("training-")]) == 3
    assert figures["measured"]["layout"]["xaxis"]["title"]["text"] == "latency, ms"


def test_the_front_as_a_picture_lies_beside_the_page(finished, tmp_path):
    path = write_report(finished, tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_finalists_says_how_far_it_is(made_run, data, tmp_path):
    page = written(made_run(tmp_path / "run", data, trials=20), tmp_path)
    assert "The search is not finished" in page.words
    assert "edgenas resume" in page.words
    assert set(json.loads(page.scripts[0])) == {"search", "genes"}


def test_a_run_that_has_only_begun_has_a_page(made_run, data, tmp_path):
    page = written(made_run(tmp_path / "run", data, trials=0), tmp_path)
    assert "0 of 60 candidates are scored" in page.words
    assert json.loads(page.scripts[0]) == {}


def test_an_infeasible_run_names_the_nearest_miss(made_run, data, tmp_path):
    page = written(made_run(tmp_path / "run", data, trials=30, limits={"latency_ms": 0.5}), tmp_path)
    assert re.search(r"None of 30 candidates meets every limit. The nearest miss is #\d+: latency_ms is [\d.]+ ms", page.words)
    assert page.words.count("above the limit of 0.5 ms") == 1 + 10  # the notice, and the table of the nearest


def test_a_run_in_which_every_candidate_failed_says_why(made_run, data, tmp_path):
    run = made_run(tmp_path / "run", data, trials=0, budget=1)
    with Study.open(run.path / "study.db", writable=True) as study:
        study.record(Trial(0, YOLO.decode([0] * len(YOLO.choices)), "failed", error="ProxyError: score is nan", spent=True))
    assert "Each of 1 candidates failed; the first: ProxyError: score is nan" in written(run, tmp_path).words


def test_pictures_that_cannot_be_made_are_explained(finished, parsed, tmp_path):
    assert re.search(r"No pictures: .*model.edge", parsed.words)
    gone = Run(finished.path, msgspec.structs.replace(finished.settings, data=str(tmp_path / "gone")))
    assert re.search(r"No pictures: .*gone", written(gone, tmp_path).words)


def test_pictures_show_true_and_found_boxes(finished, tmp_path, monkeypatch):
    found = finished.data.val[0]
    perfect = (lambda image: (found.boxes_xyxy, found.labels * 0 + 0.9, found.labels), finished.data.classes)
    monkeypatch.setattr("nas.report.pictures.opened", lambda artifact, score: perfect)
    page = written(finished, tmp_path)
    images = [a for name, a in page.tags if name == "img" and a["src"].startswith("data:image/jpeg")]
    assert len(images) == 2 * 6
    assert f"{len(found.labels)} found" in page.words


def test_pictures_come_from_a_compiled_file(finished, tmp_path, one_thread):
    pytest.importorskip("nas.runtime._csrc", reason="the engine is not built")
    artifact = tmp_path / "model.edge"
    trial_run(YOLO.decode([0] * len(YOLO.choices)), finished.data, artifact)
    found = pictures(artifact, finished.data, count=2)
    assert [picture.true_count for picture in found] == [len(finished.data.val[i].labels) for i in (0, -1)]
    assert all(picture.predicted.startswith("data:image/jpeg;base64,") for picture in found)
    assert max(found[0].width, found[0].height) == 360


def test_a_place_that_cannot_be_written_is_an_error(finished, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match="could not be written"):
        write_report(finished, tmp_path / "file" / "page.html")


@given(st.text())
def test_any_text_is_inert_in_markup_and_in_a_script(text):
    element = Parsed(tag("p", text, title=text).text)
    assert [name for name, _ in element.tags] == ["p"]
    inside = script_json({"name": text})
    assert not set("<>&\u2028\u2029") & set(inside)
    assert json.loads(inside) == {"name": text}


@given(st.lists(st.floats(1e-6, 1e6), min_size=1))
def test_a_column_of_numbers_keeps_three_digits_of_its_largest(values):
    places = decimals(values)
    assert 0 <= places <= 4
    assert places == 4 or len(f"{max(values):.{places}f}".replace(".", "").lstrip("0")) >= 3


def test_a_table_gives_what_sorts_beside_what_is_shown():
    found = Parsed(table([Column("latency", "ms"), Column("met")], [[1.25, True], [None, False]], caption="c").text)
    assert [a.get("data-key") for name, a in found.tags if name == "td"] == ["1.25", "1", None, "0"]


def test_reading_the_terminal_text_needs_no_plotting_library():
    code = "import nas.report, nas.report.text, sys; sys.exit(bool({'plotly', 'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rungs_say_who_was_trained_for_how_long_what_was_expected_and_who_went_on(made_run, data, tmp_path):
    run = made_run(tmp_path / "r", data)
    run = Run(run.path, msgspec.structs.replace(run.settings, halving=3, finalists=1))
    trials = [trial.number for trial in run.front[:3]]
    with Study.open(run.path / "study.db", writable=True) as study:
        for entry, number in enumerate(trials):
            start = Start(donor=trials[0], share=0.84, given=0.03) if entry == 2 else Start()
            standing = Standing(trial=number, rung=1, entry=entry, start=start, epochs=4, done=0.1, quantized=1, map=0.1 + 0.1 * entry,
                                map50=0.2 + 0.1 * entry)  # fmt: skip
            study.finish_stage(f"rung:1:{number:05d}", msgspec.to_builtins(standing))
    climbing = written(run, tmp_path)
    assert "12 float and 3 quantized epochs" in climbing.words and "yes" not in _rung_table(climbing)
    with Study.open(run.path / "study.db", writable=True) as study:
        expected = dict.fromkeys(trials, (0.5, 0.123, 0.877))
        promotion = Promotion(rung=1, order=tuple(reversed(trials)), expected=expected)
        study.finish_stage("promotion:1", msgspec.to_builtins(promotion))
    table = _rung_table(written(run, tmp_path))
    assert f"#{trials[0]} (84 %)" in table and "random" in table and "0.123–0.877" in table
    assert table.count("to come") == 1 and table.count("no") >= 2


def _rung_table(page: Parsed) -> str:
    return page.words.partition("Successive halving, rung by rung")[2].partition("Genes of the front")[0]


def test_a_front_of_other_columns_is_drawn_without_stairs_and_named(made_run, data, tmp_path):
    run = made_run(tmp_path / "r", data)
    other = Run(run.path, msgspec.structs.replace(run.settings, objectives=("ram_kib", "size_mb")))
    plots = [json.loads(written(r, tmp_path).scripts[0])["search"] for r in (run, other)]
    names = [{trace["name"] for trace in plot["data"]} for plot in plots]
    assert "Pareto front" in names[0] and "Pareto front" not in names[1]
    assert "better in all of RAM, size" in written(other, tmp_path).words
