"""What a study concludes, and the page that says so."""

import json
import re

import msgspec
import numpy as np
import pytest

from nas.generalization import against_float, as_json, by_bits, interval, shown, verdict
from nas.report.generalization import write
from nas.report.generalization_figures import MARKS
from nas.report.text import render


@pytest.mark.parametrize("seeds", [5, 10])
def test_an_interval_holds_the_true_mean_about_as_often_as_it_says(seeds):
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(3.0, 1.0, seeds)) for _ in range(300)]
    assert 0.90 <= np.mean([i.low <= 3.0 <= i.high for i in found]) <= 0.98
    assert all(i.low <= i.mean <= i.high for i in found)


def test_differences_are_taken_seed_by_seed(made_study):
    study = made_study(noise=1.0)  # seeds far apart, bits alike
    alone, paired = by_bits(study)["8"]["overfit"], against_float(study)["8"]["overfit"]
    assert paired.mean == pytest.approx(by_bits(study)["8"]["overfit"].mean - by_bits(study)["fp"]["overfit"].mean)
    assert alone.low <= alone.mean <= alone.high


@pytest.mark.parametrize(
    ("seeds", "shift", "says"),
    [
        (5, {"fp": 0.0, "8": -0.6, "4": -0.9}, "Recommendation: train with 4 bits"),
        (5, {"fp": 0.0, "8": 0.6, "2": 0.9}, "Recommendation: do not quantize"),
        (5, {"fp": 0.0, "8": 0.0, "2": 0.9}, "No recommendation: the intervals support neither"),
        (4, {"fp": 0.0, "8": -0.6, "4": -0.9}, "No recommendation: 4 seeds cannot support one, 5 could"),
    ],
)
def test_a_recommendation_is_made_where_intervals_support_one(made_study, seeds, shift, says):
    assert verdict(made_study(seeds, shift)).startswith(says)


def test_page_table_and_json_say_the_same_and_nothing_in_the_page_is_foreign(made_study, tmp_path, capsys):
    study = made_study()
    page = write(study, tmp_path / "deep" / "report.html").read_text()
    assert verdict(study).replace("'", "&#x27;") in page and "Example CPU &lt;b&gt;" in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!data:)|https?://', markup)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])
    assert set(figures) == {"panels", "curves", "gaps", "maps", "noise", "rises"} == set(re.findall(r'data-figure="(\w+)"', page))
    assert all(figure["layout"]["yaxis"]["title"]["text"] or name == "panels" for name, figure in figures.items())
    used = {mark for trace in figures["panels"]["data"] for mark in [(trace["marker"]["color"], trace["marker"]["symbol"])]}
    assert {MARKS[bits] for bits in study.settings.bits} <= used
    render(shown(study))
    assert f"{by_bits(study)['2']['gap'].mean:.3f}" in capsys.readouterr().out
    kept = json.loads(msgspec.json.encode(as_json(study)))
    assert kept["by_bits"]["4"]["val_loss"]["mean"] == pytest.approx(by_bits(study)["4"]["val_loss"].mean)
    assert len(kept["trainings"]) == 20 and kept["verdict"] == verdict(study)
