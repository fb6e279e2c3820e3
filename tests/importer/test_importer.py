"""A user's net: what is imported computes the same, and everything after the import works on it."""

import pickle
import re
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import nas
from hwmodels.workload import workload
from nas import steps
from nas.compiler import compile
from nas.importer import Decode, ImporterError, import_file
from nas.quant import at_precision, fake_quantized
from nas.runtime import Executor, reference, write
from searchspaces.module import to_torch
from searchspaces.quantizers import floated, quantized

DETECTOR = Decode(strides=(8, 16, 32), classes=3)


@pytest.fixture(scope="session")
def imported(resnet18, yolo):
    """name -> (net, images, graph, weights, decode)."""
    cases = {"resnet18": (*resnet18, None), "yolo": (*yolo, DETECTOR)}
    return {name: (net, x, *nas.import_module(net, x[:1], decode=decode), decode) for name, (net, x, decode) in cases.items()}


def outputs(net, x):
    with torch.no_grad():
        return leaves(net(x))


def leaves(y):
    """The tensors of an output in order."""
    if isinstance(y, dict):
        y = list(y.values())
    return [y] if isinstance(y, torch.Tensor) else [tensor for part in y for tensor in leaves(part)]


def plan_of(graph, weights, decode):
    return compile(graph, weights, classes=("a", "b", "c") if decode else ())


def image_of(x):
    """(H, W, 3) uint8 and the same image as a batch of floats."""
    image = (x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return image, torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def maps_of(net, x, decode):
    """The outputs of a net as a compiled plan has them, boxes and classes apart."""
    if decode is None:
        return outputs(net, x)
    return [part for y in outputs(net, x) for part in (y[:, : 4 * decode.bins], y[:, 4 * decode.bins :])]


@pytest.mark.parametrize("name", ["resnet18", "yolo"])
def test_an_imported_net_computes_what_the_module_does(imported, name):
    net, x, graph, weights, _ = imported[name]
    for found, wanted in zip(outputs(to_torch(floated(graph), weights).eval(), x), outputs(net, x), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "yolo"])
def test_an_imported_net_compiles_to_float_kernels_that_agree(imported, name):
    net, x, graph, weights, decode = imported[name]
    image, exact = image_of(x)
    found = Executor(write(plan_of(floated(graph), weights, decode))).run(image)
    for a, b in zip(found, maps_of(net, exact, decode), strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "yolo"])
def test_an_imported_net_at_8_bits_runs_bit_for_bit_as_the_reference(imported, name):
    net, x, graph, weights, decode = imported[name]
    model = fake_quantized(graph, weights, [x])
    plan = plan_of(quantized(graph), model.weights(), decode)
    image, exact = image_of(x)
    found = Executor(write(plan)).run(image)
    for a, b in zip(found, reference.run(plan, [image.transpose(2, 0, 1)]), strict=True):
        np.testing.assert_array_equal(a, b)
    alike = [np.corrcoef(a.ravel(), b.numpy().ravel())[0, 1] for a, b in zip(found, maps_of(net, exact, decode))]
    assert min(alike) > 0.95


def test_costs_of_an_imported_net_are_those_that_are_published(imported):
    net, _, graph, _, _ = imported["resnet18"]
    assert workload(floated(graph)).params == sum(p.numel() for p in net.parameters()) == 11_181_642


class Head(nn.Module):
    """A small detector: a conv on the mean of each cell, boxes and classes apart, the classes first."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 67, 1)

    def forward(self, x):
        means = [x]
        for _ in range(5):
            means.append(F.avg_pool2d(means[-1], 2))
        maps = [self.conv(mean) for mean in means[3:]]
        return {"scores": [y[:, 64:] for y in maps], "boxes": [y[:, :64] for y in maps]}


def test_a_detector_whose_maps_come_apart_is_decoded_the_same(yolo):
    net, (_, x) = Head().eval(), yolo
    graph, weights = nas.import_module(net, x[:1], decode=DETECTOR)
    scores, boxes = outputs(net, x)[:3], outputs(net, x)[3:]
    for found, cls, box in zip(outputs(to_torch(floated(graph), weights).eval(), x), scores, boxes, strict=True):
        torch.testing.assert_close(found, torch.cat((box, cls), 1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ImporterError, match=r"no maps for stride 64 among the outputs .* 64 box and 3 class channels are needed"):
        nas.import_module(net, x[:1], decode=Decode((8, 16, 64), 3))


class Everything(nn.Module):
    """Each supported operator in some spelling; output shapes of all kinds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.Hardswish(inplace=True), nn.Dropout(0.5))
        self.depthwise, self.grouped = nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.Conv2d(8, 16, 3, 1, 1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(16, affine=False)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.up, self.leaky, self.gelu = nn.ConvTranspose2d(16, 8, 2, 2), nn.LeakyReLU(0.1, inplace=True), nn.GELU()
        self.shared = nn.Conv2d(8, 8, 1)
        self.fc1, self.bn1, self.fc2 = nn.Linear(8 * 24, 12), nn.BatchNorm1d(12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem((x - self.mean) / torch.tensor([0.2, 0.3, 0.2]).view(3, 1, 1))
        y = F.relu6(self.norm(self.grouped(F.relu(self.depthwise(x)))))
        y = y * F.hardsigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        a, b, c = y.split([4, 4, 8], 1)
        y = torch.cat((c, a - 2 * b, self.gelu(y[:, 3:7])), 1)
        up = self.leaky(self.up(y)) + F.interpolate(y, size=(16, 24))[:, -8:]
        up = self.shared(up) * F.relu6(self.shared(up) + 3) / 6 + up * F.relu6(up + 3) / 6
        up = self.shared(up).clamp(0, 6) * torch.sigmoid(self.shared(up)) + 1.5 * up
        gate = self.stem[1](up)
        gate = gate * gate.sigmoid()
        pooled = F.max_pool2d(gate, 3, 2, 1) + F.avg_pool2d(F.hardtanh(gate, 0, 6), 2) - F.adaptive_avg_pool2d(gate, (8, 12))
        vector = F.adaptive_avg_pool2d(pooled * 0.5 + 1, (4, 6))[:, :, :, :].flatten(1)
        logits = self.fc2(F.relu(self.bn1(self.fc1(vector))))
        maps = [pooled, self.shared(pooled).softmax(1)]
        return {"softmax": (logits / 3).softmax(-1), "maps": maps, "mean": y.mean([2, 3]).view(y.shape[0], -1)}


@pytest.fixture(scope="session")
def everything():
    """(net, images, export, its outputs)."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 24)
    net = Everything()
    with torch.no_grad():
        net.train()(x)
        return net.eval(), x, torch.export.export(net, (x,)), leaves(net(x))


@pytest.mark.parametrize("spelling", ["as written", "functional", "core aten"])
def test_every_operator_means_what_it_means_in_torch(everything, spelling, tmp_path):
    _, x, program, wanted = everything
    if spelling != "as written":
        program = program.run_decompositions({} if spelling == "functional" else None)
    torch.export.save(program, tmp_path / "net.pt2")
    graph, weights = import_file(tmp_path / "net.pt2")
    for found, y in zip(to_torch(floated(graph), weights).eval()(x), wanted, strict=True):
        torch.testing.assert_close(found, y, atol=1e-5, rtol=1e-5)


def test_every_operator_compiles_at_8_bits(everything):
    net, x, _, _ = everything
    graph, weights = nas.import_module(net, x)
    plan = compile(quantized(graph), fake_quantized(graph, weights, [x]).weights())
    image, _ = image_of(x)
    codes = reference.run(plan, [image.transpose(2, 0, 1)])
    for a, b in zip(Executor(write(plan)).run(image), codes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class Overwriting(nn.Module):
    """A tensor that is written over while others still read it: the last line decides what torch computes."""

    def __init__(self, partly):
        super().__init__()
        self.conv, self.partly = nn.Conv2d(3, 8, 1), partly

    def forward(self, x):
        y = self.conv(x)
        z = y.detach()
        part = y[:, :4]
        y.relu_()
        return (y + z, part) if self.partly else y + z


def test_a_tensor_that_is_written_over_is_seen_by_all_its_readers():
    x = torch.rand(1, 3, 4, 4)
    net = Overwriting(partly=False).eval()
    graph, weights = nas.import_module(net, x)
    torch.testing.assert_close(outputs(to_torch(floated(graph), weights), x), outputs(net, x))
    with pytest.raises(ImporterError, match=r"aten.relu in the outermost module \(Overwriting\) writes over a part .* make it not inplace"):
        nas.import_module(Overwriting(partly=True).eval(), x)


def test_a_net_that_wants_normalized_images_takes_plain_ones(yolo):
    _, x = yolo
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval()
    graph, weights = nas.import_module(net, x[:1], mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    normal = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(outputs(to_torch(floated(graph), weights).eval(), x), outputs(net, normal), atol=1e-5, rtol=1e-5)


class Inside(nn.Module):
    """A layer or function at 'neck.odd'."""

    def __init__(self, odd):
        super().__init__()
        self.neck = nn.ModuleDict({"odd": odd if isinstance(odd, nn.Module) else Function(odd)})

    def forward(self, x):
        return self.neck["odd"](x)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(("odd", "message"), [
    (nn.Mish(), r"aten.mish in 'neck.odd' \(Mish\) has no counterpart .* silu and gelu work"),
    (nn.LeakyReLU(0.01), r"'neck.odd' \(LeakyReLU\) has slope 0.01; 0.1 works"),
    (nn.Conv2d(3, 4, (1, 3)), r"aten.conv2d in 'neck.odd' .* kernel of 1x3; square kernels work"),
    (nn.Conv2d(3, 4, 3, dilation=2), r"dilation \[2, 2\]; dilation 1 works"),
    (nn.Upsample(scale_factor=2, mode="bilinear"), r"upsample_bilinear2d in 'neck.odd' .* upsample_nearest2d by a whole factor works"),
    (nn.ConvTranspose2d(3, 4, 3, 2), r"kernel 3x3 at stride 2; kernel 2 at stride 2"),
    (nn.ZeroPad2d((0, 1, 0, 1)), r"give the conv or pooling behind it the padding"),
    (lambda x: x.flatten(2), r"aten.flatten in 'neck.odd' \(Function\) has .* return the head's raw maps"),
    (lambda x: x * torch.ones(8), r"aten.mul in 'neck.odd' .* constant of shape \(8,\) beside a map of \(3, 8, 8\)"),
    (lambda x: torch.ones(3), r"output 'ones' is a constant"),
])  # fmt: skip
def test_an_operator_that_does_not_fit_is_named_with_its_module(odd, message):
    with pytest.raises(ImporterError, match=message):
        nas.import_module(Inside(odd).eval(), torch.rand(1, 3, 8, 8))


def test_a_module_in_training_mode_is_refused():
    with pytest.raises(ImporterError, match=r"call \.eval\(\)"):
        nas.import_module(nn.BatchNorm2d(3), torch.rand(1, 3, 8, 8))


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path, changed):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in changed.items():
            archive.writestr(name, data)
    return path


class Evil:
    """Unpickling it raises; a file that is trusted too much would run something worse."""

    def __reduce__(self):
        return (exec, ("raise RuntimeError('ran code of the file')",))


@pytest.fixture
def file(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.rand(1, 3, 8, 8),)), tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def test_nothing_in_a_file_is_unpickled(file):
    parts = members(file)
    samples = next(name for name in parts if "sample_inputs" in name)
    graph, _ = import_file(rewritten(file, parts | {samples: pickle.dumps(Evil())}))
    assert [node.op for node in graph] == ["input", "conv2d", "activation"]
    table = next(name for name in parts if name.endswith("model_weights_config.json"))
    pickled = parts | {table: parts[table].replace(b'"use_pickle": false', b'"use_pickle": true')}
    pickled |= {name: pickle.dumps(Evil()) for name in parts if "/weight_" in name}
    with pytest.raises(ImporterError, match="is pickled, and reading that could run anybody's code"):
        import_file(rewritten(file, pickled))


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_file_gives_an_error_that_names_it(file, data):
    """Any number or word of its JSON replaced, or any member cut."""
    parts = members(file)
    victim = data.draw(st.sampled_from([name for name in parts if name.endswith(".json") or "/weight_" in name]))
    if victim.endswith(".json"):
        tokens = [m.span() for m in re.finditer(rb'\d+|"[^"]*"|true|false|null|\[|\{', parts[victim])]
        start, stop = data.draw(st.sampled_from(tokens))
        junk = data.draw(st.sampled_from([b"-1", b"99999999999", b'"x"', b"null", b"[]", b"{}", b'{"as_int": 7}', b"0.5", b""]))
        broken = parts[victim][:start] + junk + parts[victim][stop:]
    else:
        broken = parts[victim][: data.draw(st.integers(0, len(parts[victim]) - 1))]
    bad = rewritten(file.with_name("bad.pt2"), parts | {victim: broken})
    with suppress(ImporterError):
        import_file(bad)


def test_a_file_with_dynamic_shapes_is_refused(tmp_path):
    batch = torch.export.Dim("batch", min=1, max=4)
    program = torch.export.export(nn.Conv2d(3, 4, 3).eval(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ImporterError, match="export .* with an example of one size"):
        import_file(tmp_path / "net.pt2")


def test_the_command_makes_a_model_that_the_other_commands_take(tmp_path):
    x = torch.rand(1, 3, 64, 96)
    torch.export.save(torch.export.export(Head().eval(), (x,)), tmp_path / "net.pt2")
    facts = steps.import_file(tmp_path / "net.pt2", tmp_path / "net.safetensors", "a,b,c", "8,16,32", 16, "", "")
    assert facts["input"] == (3, 64, 96) and facts["outputs"] == [(7, 126, 1)]
    steps.compile_file(tmp_path / "net.safetensors", tmp_path / "net.edge")
    boxes, scores, _ = Executor.load(tmp_path / "net.edge").detect(image_of(x)[0])
    assert boxes.shape[1] == 4 and len(boxes) == len(scores) > 0
    with pytest.raises(steps.StepError, match="name them with --classes"):
        steps.import_file(tmp_path / "net.pt2", tmp_path / "net.safetensors", "", "8,16,32", 16, "", "")
    with pytest.raises(steps.StepError, match="2 classes are named, and the first output .* has 3 channels"):
        steps.import_file(tmp_path / "net.pt2", tmp_path / "net.safetensors", "a,b", "", 16, "", "")


def test_first_and_last_layer_of_an_imported_net_keep_8_bits(imported):
    graph = at_precision(imported["resnet18"][2], "w2a2")
    assert {node.name for node in graph if node.get("wbits") == 8} == {"conv1", "fc"}
    assert sum(node.get("wbits") == 2 for node in graph) == 19
