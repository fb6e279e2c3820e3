"""The page in a real browser: a wrapper on loopback loads it in a frame, uses it, and writes what it saw into its own document."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest

from nas.report import write_report

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr",
    "--virtual-time-budget=8000", "--window-size=1200,900",
)  # fmt: skip
WRAPPER = """<!doctype html><link rel="icon" href="data:,">
<iframe src="report.html" width="1200" height="900"></iframe><pre id="seen"></pre><script>
const frame = document.querySelector("iframe");
const until = (ready) => new Promise((done) => { const look = () => (ready() ? done() : setTimeout(look, 50)); look(); });
frame.onload = async () => {
  const seen = {}, view = frame.contentWindow, page = frame.contentDocument;
  try {
    const places = [...page.querySelectorAll("[data-figure]")];
    await until(() => places.every((place) => place.querySelector(".xtick, .xaxislayer-above text")));
    const count = (place, what) => place.querySelectorAll(what).length;
    seen.plots = Object.fromEntries(places.map((p) => [p.dataset.figure, {
      points: count(p, ".scatterlayer .point"), lines: count(p, ".scatterlayer .js-line"), fields: count(p, ".heatmap-label"),
      width: p.querySelector(".main-svg").getBoundingClientRect().width, space: p.clientWidth }]));
    const table = page.querySelectorAll("table.sortable")[1], column = 1;
    const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.key));
    const header = table.tHead.rows[0].cells[column], button = header.querySelector("button");
    button.focus();
    seen.focused = page.activeElement === button;
    seen.orders = [[header.ariaSort, values()]];
    for (const _ of [1, 2]) { button.click(); seen.orders.push([header.ariaSort, values()]); }
    seen.wide = page.documentElement.scrollWidth > page.documentElement.clientWidth;
    view.dispatchEvent(new Event("beforeprint"));
    seen.paper = places.map((p) => p.querySelector(".main-svg").getBoundingClientRect().width);
    view.dispatchEvent(new Event("afterprint"));
    seen.requests = view.performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:"));
    seen.hacked = "hacked" in view;
  } catch (error) { seen.error = String(error.stack || error); }
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>"""


class Recording(http.server.SimpleHTTPRequestHandler):
    def log_message(self, form, *values):
        self.server.asked.append(self.path)


@pytest.fixture(scope="module")
def visit(finished, tmp_path_factory):
    """What the wrapper saw, what the console said, and what was asked of the server."""
    folder = tmp_path_factory.mktemp("site")
    write_report(finished, folder / "report.html")
    (folder / "wrapper.html").write_text(WRAPPER)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Recording, directory=str(folder)))
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/wrapper.html"
        profile = tmp_path_factory.mktemp("profile")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    finally:
        server.shutdown()
        server.server_close()
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], f"the page did not come up: {done.stderr[-2000:]}"
    seen = json.loads(html.unescape(found[1]))
    assert "error" not in seen, seen["error"]
    return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line], server.asked


def test_the_plots_are_drawn_and_fit_their_space(visit, finished):
    seen, _, _ = visit
    plots = seen["plots"]
    scored = sum(trial.state == "ok" for trial in finished.trials)
    assert plots["search"]["points"] == scored
    assert plots["measured"]["points"] == 2 * 3  # predicted and measured
    assert plots["genes"]["fields"] > 200
    assert all(plot["lines"] >= 5 for name, plot in plots.items() if name.startswith("training"))
    assert all(0 < plot["width"] <= plot["space"] + 1 for plot in plots.values())
    assert not seen["wide"]


def test_a_header_sorts_its_table_both_ways(visit):
    seen, _, _ = visit
    (first, fastest), (second, slowest), (third, again) = seen["orders"]
    assert [first, second, third] == ["ascending", "descending", "ascending"]
    assert fastest == again == sorted(fastest) == slowest[::-1]
    assert seen["focused"]


def test_the_console_is_silent_and_no_foreign_script_ran(visit):
    seen, console, _ = visit
    assert console == []
    assert not seen["hacked"]


def test_nothing_is_asked_of_the_network(visit):
    seen, _, asked = visit
    assert seen["requests"] == []
    assert set(asked) == {"/wrapper.html", "/report.html"}


def test_plots_take_the_width_of_paper_for_printing(visit):
    assert all(width == 680 for width in visit[0]["paper"])
