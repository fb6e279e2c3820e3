"""A search for a device whose runtime is not ours: limited to what the device prices, judged by prediction, exported for it."""

import onnxruntime

import nas
from nas.finalist import Recipe
from nas.job import Run


def test_a_search_for_a_fitted_device_ends_with_a_finalist_that_is_predicted_there_and_exported_for_it(squares, tmp_path):
    settings = {"budget": 4, "finalists": 1, "recipe": Recipe(epochs=2, accelerator="cpu")}
    nas.search(squares, device="raspi4-tflite-int8", out=tmp_path / "r", max_latency_ms=15, max_size_mb=1.5, **settings)
    run = Run.open(tmp_path / "r")
    (finalist,) = [f for f in run.finalists if f.met]
    assert {v for gene, v in finalist.genes.items() if gene.endswith(".act")} <= {"relu", "silu"}
    assert {v for gene, v in finalist.genes.items() if gene.endswith(".precision")} == {"w8a8"}
    latency = next(c for c in finalist.verified.constraints if c.name == "latency_ms")
    assert not latency.measured and latency.value == finalist.predicted["latency_ms"] <= 15
    assert finalist.predicted["latency_low_ms"] < latency.value < finalist.predicted["latency_high_ms"]
    session = onnxruntime.InferenceSession(str(run.folder(finalist.trial) / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["boxes", "scores"]
