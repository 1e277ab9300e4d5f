"""Export end to end: what the graphs hold, what they answer, what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from sdtc.core.errors import CheckpointError, ExportError, InputError, KernelError
from sdtc.core.manifest import Manifest
from sdtc.export import verify
from sdtc.export.bundle import ExportOptions, encoder_profiles, export
from sdtc.export.engine_builder import Plugins, Target, check_plugins, custom_nodes, plugin_layers, use_plugins
from sdtc.export.graphs import Temporal, WholeWindow, export_graph, graph_specs, prepare
from sdtc.export.to_trt import main
from sdtc.kernels import CONTEXT_AXES
from sdtc.model import BackboneConfig, ModelConfig, build, get_preset, load_checkpoint
from sdtc.model.checkpoint import LITERAL
from sdtc.runtime.engine import open as open_engine
from sdtc.runtime.options import EngineOptions

TENSORRT_RTX = pytest.importorskip("tensorrt_rtx", reason="builds engines")


def ort_session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def network(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint).network


def test_bundle_has_every_file_of_the_design(tiny_bundle) -> None:
    assert {path.name for path in tiny_bundle.iterdir()} == {
        "model.json", "model.onnx", "model.plan",
        "model.encoder.onnx", "model.encoder.plan", "model.temporal.onnx", "model.temporal.plan",
    }  # fmt: skip


def test_graph_inputs_and_outputs_are_the_contract(tiny_bundle) -> None:
    def describe(path: Path) -> dict[str, tuple[str, list]]:
        session = ort_session(path)
        return {t.name: (t.type, list(t.shape)) for t in [*session.get_inputs(), *session.get_outputs()]}

    poses = {
        "keypoints": ("tensor(float)", ["batch", 15, 3]),
        "heatmaps": ("tensor(float)", ["batch", 15, 32, 24]),
    }
    assert describe(tiny_bundle / "model.onnx") == {"clip": ("tensor(uint8)", ["batch", 5, 128, 96, 3]), **poses}
    assert describe(tiny_bundle / "model.encoder.onnx") == {
        "frames": ("tensor(uint8)", ["batch", 128, 96, 3]),
        "tokens": ("tensor(float)", ["batch", 48, 64]),
    }
    assert describe(tiny_bundle / "model.temporal.onnx") == {"tokens": ("tensor(float)", ["batch", 5, 48, 64]), **poses}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_equals_pytorch(tiny_bundle, network, batch) -> None:
    clip = np.random.default_rng(batch).integers(0, 256, (batch, 5, 128, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        keypoints, heatmaps = (t.numpy() for t in WholeWindow(network)(torch.from_numpy(clip)))
    got_keypoints, got_heatmaps = ort_session(tiny_bundle / "model.onnx").run(None, {"clip": clip})
    assert np.abs(heatmaps).max() > 0.1
    np.testing.assert_allclose(got_heatmaps, heatmaps, atol=1e-4)
    # An untrained network's heatmaps have places that are equal but for rounding: either answer is right there.
    decided = verify.decision_margin(heatmaps) > 1e-5
    assert decided.mean() > 0.5
    np.testing.assert_allclose(got_keypoints[decided][:, :2], keypoints[decided][:, :2], atol=0.01)
    frames = clip.reshape(-1, 128, 96, 3)
    encoder = ort_session(tiny_bundle / "model.encoder.onnx")
    tokens = np.concatenate([encoder.run(None, {"frames": frame[None]})[0] for frame in frames])
    streamed = ort_session(tiny_bundle / "model.temporal.onnx").run(None, {"tokens": tokens.reshape(batch, 5, 48, 64)})
    np.testing.assert_allclose(streamed[1], got_heatmaps, atol=1e-4)
    np.testing.assert_allclose(streamed[0][decided][:, :2], got_keypoints[decided][:, :2], atol=0.01)


def test_exported_graph_holds_nothing_of_training(tiny_bundle, network) -> None:
    """No mask, mask embedding, decoder or reconstruction head: by name, by weights and by size."""
    for name in ("model", "model.encoder", "model.temporal"):
        model = onnx.load(tiny_bundle / f"{name}.onnx")
        names = [t.name for t in model.graph.initializer]
        for node in model.graph.node:
            names += [node.name, *node.input, *node.output]
        assert not [n for n in names if re.search(r"mask|decoder|reconstruct|context_head|heatmap_head", n, re.I)]
        assert not [
            node for node in model.graph.node if node.op_type in ("Where", "RandomUniform", "RandomNormal", "Dropout")
        ]
    weights = sum(np.prod(t.dims) for t in onnx.load(tiny_bundle / "model.onnx").graph.initializer)
    inference = sum(p.numel() for p in prepare(network, "fp32").parameters())
    # beyond the parameters: sine-cosine table, normalisation, shapes; a little less where equal biases are shared
    assert 0.99 * inference <= weights <= inference + 48 * 64 + 200


def test_custom_operators_are_nodes_with_bodies(tiny_bundle) -> None:
    model = onnx.load(tiny_bundle / "model.temporal.onnx")
    ops = [node.op_type for node in model.graph.node if node.domain == "sdtc"]
    # two encoders of one joint and one divided layer; one refinement and one SMCA, each for both maps
    assert {op: ops.count(op) for op in set(ops)} == {
        "SpatialAttention": 4, "TemporalAttention": 2, "SelfRefinement": 1, "CrossAttention": 1,
    }  # fmt: skip
    assert {f.name for f in model.functions} == set(ops)


@pytest.mark.parametrize("axis", CONTEXT_AXES)
@pytest.mark.parametrize("refinement", ["add", "concatenate", "replace"])
def test_every_reading_exports_as_it_is(axis, refinement) -> None:
    """The graph of a toy network against PyTorch, as it stands and with the axes turned."""
    config = ModelConfig(
        name="micro", input_size=(64, 48), backbone=BackboneConfig(32, 1, 2, frozen=False), width=16, heads=1,
        motion_encoder="patch", delta=1, context_softmax=axis, refinement=refinement,
    )  # fmt: skip
    torch.manual_seed(0)
    network = build(config).eval()
    with torch.no_grad():
        for part in (network.fusion.aggregate_r, network.fusion.aggregate_m):
            part.conv[0].weight.mul_(10)  # maps that a softmax tells apart
        network.head.conv.weight.mul_(100)
    model = export_graph(prepare(network, "fp32"), graph_specs(config)["temporal"])
    nodes = [node for node in model.graph.node if node.op_type == "SelfRefinement"]
    assert [{a.name: a.i for a in node.attribute}["axis"] for node in nodes] == [CONTEXT_AXES[axis]]

    tokens = torch.randn(3, 3, *config.token_shape)
    with torch.inference_mode():
        want = network.temporal(tokens).numpy()

    def error() -> float:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return float(np.abs(session.run(["heatmaps"], {"tokens": tokens.numpy()})[0] - want).max() / np.abs(want).max())

    assert error() < 1e-5
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name == "axis":
                attribute.i = 3 - attribute.i
    assert error() > 1e-3  # the attribute is what counts


def test_bundles_from_before_the_readings_are_still_read(tiny_bundle, tmp_path) -> None:
    """Their graphs say all that is computed: nothing reads the fields of a manifest's model."""
    shutil.copytree(tiny_bundle, tmp_path / "old")
    data = json.loads((tmp_path / "old" / "model.json").read_text())
    assert {key: data["model"].pop(key) for key in LITERAL} == LITERAL
    (tmp_path / "old" / "model.json").write_text(json.dumps(data))
    clip = np.random.default_rng(0).integers(0, 256, (2, 128, 96, 3), dtype=np.uint8)
    boxes = np.array([[10.0, 10.0, 60.0, 90.0]])
    poses = []
    for folder in (tiny_bundle, tmp_path / "old"):
        with open_engine(folder, EngineOptions(backend="onnxruntime", threads=1)) as engine:
            poses.append(engine.estimate([clip[0]] * engine.manifest.num_frames, boxes))
    assert np.array_equal(*poses)


def test_custom_nodes_ask_for_a_plugin(tiny_bundle) -> None:
    """What full TensorRT's parser needs to take a plugin in place of the body; nobody else minds."""
    for node in onnx.load(tiny_bundle / "model.temporal.onnx").graph.node:
        if node.domain == "sdtc":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["plugin_namespace"] == b"sdtc"
            assert attributes["plugin_version"] == b"1"
            assert attributes["aot"] == 1


def test_graphs_tell_nothing_about_the_machine(tiny_bundle) -> None:
    root = str(Path(__file__).resolve().parents[2]).encode()
    for path in tiny_bundle.iterdir():
        assert root not in path.read_bytes(), path.name


def test_manifest_carries_measured_parity(tiny_bundle) -> None:
    manifest = Manifest.load(tiny_bundle / "model.json")
    for comparison in ("onnx_vs_pytorch", "streaming_vs_pytorch", "streaming_vs_window"):
        figures = manifest.parity[comparison]
        assert figures["windows"] >= 10
        assert figures["heatmaps_max_abs"] < 1e-4
        assert figures["keypoints_max_px"] < 0.01
    assert manifest.engine.flavour == "tensorrt-rtx"
    assert manifest.engine.compute_capabilities == ("8.0", "8.6", "8.9", "12.0")
    assert manifest.batch == (1, 4, 8)
    assert manifest.trained is False


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_reduced_precision(tiny_checkpoint, tmp_path, precision) -> None:
    export(
        tiny_checkpoint,
        tmp_path,
        ExportOptions(precision=precision, batch=(1, 2, 4), compute_capabilities=("8.6",)),
        quiet=True,
    )
    manifest = Manifest.load(tmp_path / "model.json")
    assert manifest.precision == precision
    assert (tmp_path / "model.plan").stat().st_size > 100_000
    own = manifest.parity["precision_vs_fp32"]["heatmaps_max_relative"]
    assert 0 < own < verify.PRECISION_TOLERANCE[precision]
    assert manifest.parity["onnx_vs_pytorch"]["heatmaps_max_relative"] <= 2 * own
    weights = onnx.load(tmp_path / "model.onnx").graph.initializer
    kind = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    low = sum(np.prod(t.dims) for t in weights if t.data_type == kind)
    assert low > 0.97 * sum(np.prod(t.dims) for t in weights)


@pytest.mark.slow
def test_a_vitpose_checkpoint_exports_as_it_is(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.VitPoseBackboneConfig(
        hidden_size=384, num_hidden_layers=2, num_attention_heads=12, image_size=[256, 192]
    )
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=False)
    torch.manual_seed(0)
    torch.save(transformers.VitPoseForPoseEstimation(config).state_dict(), tmp_path / "vitpose.pth")
    export(tmp_path / "vitpose.pth", tmp_path / "bundle", ExportOptions(batch=(1, 2, 4), plan=False), quiet=True)
    manifest = Manifest.load(tmp_path / "bundle" / "model.json")
    assert (manifest.kind, manifest.skeleton, manifest.num_frames) == ("vitpose", "coco", 1)
    clip = np.zeros((3, 1, 256, 192, 3), np.uint8)
    assert ort_session(tmp_path / "bundle" / "model.onnx").run(None, {"clip": clip})[0].shape == (3, 17, 3)


@pytest.mark.slow
def test_a_wrong_graph_is_not_handed_over(micro_checkpoint, tmp_path, monkeypatch) -> None:
    """Break the decoding of the exported graph by a pixel: nothing may be left, and the old bundle must survive."""
    from sdtc.export import graphs

    export(micro_checkpoint, tmp_path, ExportOptions(batch=(1, 1, 2), plan=False), quiet=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    traced = graphs.export_graph

    class Shifted(Temporal):
        def forward(self, tokens):
            keypoints, heatmaps = super().forward(tokens)
            return keypoints + 1.0, heatmaps

    def broken(network, spec):
        import dataclasses

        return traced(network, dataclasses.replace(spec, module=Shifted) if spec.module is Temporal else spec)

    monkeypatch.setattr(graphs, "export_graph", broken)
    with pytest.raises(ExportError, match=r"keypoints, pixels by 1, allowed is 0\.01; no bundle was written"):
        export(micro_checkpoint, tmp_path, ExportOptions(batch=(1, 1, 2), plan=False), quiet=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_an_interrupted_export_leaves_nothing(micro_checkpoint, tmp_path, monkeypatch) -> None:
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", interrupt)
    assert main([str(micro_checkpoint), "--output", str(tmp_path), "--no-plan", "--quiet"]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_verification_on_real_frames(micro_checkpoint, tmp_path, real_data) -> None:
    video = real_data / "videos" / "street-5-frames.mp4"
    export(micro_checkpoint, tmp_path, ExportOptions(batch=(1, 2, 4), plan=False, verify_on=video), quiet=True)
    figures = json.loads((tmp_path / "model.json").read_text())["parity"]["onnx_vs_pytorch"]
    assert figures["frames"] == "noise and street-5-frames.mp4"


def test_decision_margin_and_differences() -> None:
    heatmap = np.zeros((1, 1, 8, 8), np.float32)
    heatmap[0, 0, 3, 3], heatmap[0, 0, 5, 5] = 1.0, 0.9
    heatmap[0, 0, 3, 4], heatmap[0, 0, 4, 3] = 0.5, 0.3
    assert verify.decision_margin(heatmap)[0, 0] == pytest.approx(0.1)
    points = np.array([[[3.0, 3.0, 1.0]]])
    difference = verify.Difference()
    difference.update({"heatmaps": heatmap, "keypoints": points + 0.5}, {"heatmaps": heatmap, "keypoints": points})
    assert (difference.keypoints, difference.undecided, difference.windows) == (0.5, 0, 1)
    noisy = heatmap + np.where(heatmap == 0.9, 0.2, 0)  # larger than the margin: the arg max may flip
    difference = verify.Difference()
    difference.update({"heatmaps": noisy, "keypoints": points + 9}, {"heatmaps": heatmap, "keypoints": points})
    assert (difference.keypoints, difference.undecided) == (0.0, 1)
    difference.update({"heatmaps": heatmap * np.nan, "keypoints": points}, {"heatmaps": heatmap, "keypoints": points})
    assert difference.heatmaps == np.inf


def test_verification_sees_what_is_wrong() -> None:
    rng = np.random.default_rng(0)
    heatmaps = rng.normal(size=(2, 3, 8, 8))
    points = rng.uniform(0, 8, (2, 3, 3))
    right = {"heatmaps": heatmaps, "keypoints": points}

    def checked(**wrong) -> None:
        parity = verify.Parity()
        for name in ("onnx_vs_pytorch", "streaming_vs_pytorch", "streaming_vs_window"):
            getattr(parity, name).update(right | wrong, right)
        parity.check("fp32")

    checked()
    for name, wrong in {
        "keypoints": points + np.array([0.02, 0, 0]),
        "keypoints, pixels by inf": points * np.nan,
        "scores": points + np.array([0, 0, 0.5]),
    }.items():
        with pytest.raises(ExportError, match=name.split(",")[0]):
            checked(keypoints=wrong)
    with pytest.raises(ExportError, match="heatmaps"):
        checked(heatmaps=heatmaps + 1e-3)
    flat = {"heatmaps": np.zeros((1, 3, 8, 8)), "keypoints": points[:1]}
    parity = verify.Parity()
    for difference in (parity.onnx_vs_pytorch, parity.streaming_vs_pytorch, parity.streaming_vs_window):
        difference.update(flat, flat)
    with pytest.raises(ExportError, match="cannot be judged"):
        parity.check("fp32")


def test_bf16_keeps_the_normalisation_in_fp32(network) -> None:
    frame = torch.randint(0, 256, (1, 128, 96, 3), dtype=torch.uint8)
    seen = {}
    for precision in ("fp32", "bf16"):
        prepared = prepare(network, precision)
        prepared.backbone.patch_embed.register_forward_pre_hook(
            lambda module, args, precision=precision: seen.update({precision: args[0].float()})
        )
        with torch.inference_mode():
            prepared.encode(frame)
    # only the rounding of the result to 8 bits remains, none of the constants'
    assert torch.equal(seen["bf16"], seen["fp32"].bfloat16().float())


def test_weights_beyond_an_onnx_file_are_refused_at_once(network, monkeypatch) -> None:
    from sdtc.export import graphs

    monkeypatch.setattr(graphs, "MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(ExportError, match="export with `precision='fp16'`"):
        graphs.check_size(network)


def test_files_that_no_export_wrote_are_not_replaced(micro_checkpoint, tmp_path) -> None:
    for name in ("model.json", "model.onnx", "model.encoder.plan"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("precious")
        with pytest.raises(InputError, match="bundle's files, but no bundle"):
            export(micro_checkpoint, folder, ExportOptions(plan=False), quiet=True)
        assert [path.read_text() for path in folder.iterdir()] == ["precious"]


@pytest.mark.slow
def test_a_packaged_checkpoint_replaces_its_own_bundle_and_a_mistyped_one_does_not(tmp_path) -> None:
    for _ in range(2):
        export(Path("tiny"), tmp_path, ExportOptions(batch=(1, 1, 2), plan=False), quiet=True)
    before = (tmp_path / "model.json").read_bytes()
    with pytest.raises(CheckpointError, match="'tinny' does not exist"):
        export(Path("tinny"), tmp_path, ExportOptions(plan=False), quiet=True)
    assert (tmp_path / "model.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch", "4,1,16"], "1 <= MIN <= OPT <= MAX"),
        (["--batch", "x"], "not MIN,OPT,MAX"),
        (["--compute-capability", "ampere"], "not a compute capability"),
        (["--precision", "int4"], "invalid choice"),
    ],
)
def test_bad_arguments(arguments, sentence, tiny_checkpoint, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tiny_checkpoint), *arguments])
    assert sentence in capsys.readouterr().err


def test_unknown_compute_capability_lists_the_known(tiny_checkpoint, tmp_path) -> None:
    with pytest.raises(InputError, match=r"cannot build for compute capability 9\.0: it knows .*8\.6"):
        export(tiny_checkpoint, tmp_path, ExportOptions(compute_capabilities=("9.0",)), quiet=True)


@pytest.mark.parametrize(
    ("most", "profiles"), [(80, [(1, 1, 1), (1, 8, 8), (1, 80, 80)]), (5, [(1, 1, 1), (1, 5, 5)]), (1, [(1, 1, 1)])]
)
def test_the_encoder_is_tuned_for_one_frame_for_a_few_and_for_most(most, profiles) -> None:
    assert encoder_profiles(most) == profiles


def test_plugins_need_full_tensorrt(tiny_checkpoint, tmp_path) -> None:
    with pytest.raises(InputError, match="`plugins='on'` needs full TensorRT, tensorrt-rtx takes no plugins"):
        export(tiny_checkpoint, tmp_path, ExportOptions(flavour="tensorrt-rtx", plugins="on"), quiet=True)
    for wrong in ("yes", "temporal_attention,", "temporal_attention,on", "TemporalAttention", ""):
        with pytest.raises(InputError, match=f"`plugins` is '{wrong}': expected one of auto, on, off, or some of temp"):
            export(tiny_checkpoint, tmp_path, ExportOptions(flavour="tensorrt-rtx", plugins=wrong), quiet=True)
    with pytest.raises(InputError, match="`plugins='self_refinement,cross_attention'` needs full TensorRT"):
        options = ExportOptions(flavour="tensorrt-rtx", plugins="self_refinement,cross_attention")
        export(tiny_checkpoint, tmp_path, options, quiet=True)
    with pytest.raises(InputError, match="`plan=False` builds none"):
        export(tiny_checkpoint, tmp_path, ExportOptions(plan=False, plugins="on"), quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("choice", "operators", "required"),
    [
        ("auto", {"TemporalAttention"}, False),
        ("on", {"TemporalAttention", "SpatialAttention", "SelfRefinement", "CrossAttention"}, True),
        ("spatial_attention, self_refinement", {"SpatialAttention", "SelfRefinement"}, True),
        ("cross_attention,cross_attention", {"CrossAttention"}, True),
        ("off", set(), True),
    ],
)
def test_every_operator_has_its_switch(tiny_bundle, monkeypatch, choice, operators, required) -> None:
    pytest.importorskip("triton", reason="needs the extra kernels")
    from sdtc.kernels import plugins

    registered: list[str] = []
    monkeypatch.setattr(plugins, "register", lambda capability, names: registered.extend(names))
    target = Target("tensorrt", "11.4.0", ("8.6",))
    wanted = use_plugins(check_plugins(choice, target), target, get_preset("tiny"))
    assert set(wanted.operators) == set(registered) == operators
    assert len(registered) == len(operators)  # TensorRT refuses a second registration
    assert wanted.required == (required and choice != "off")
    nodes = onnx.load(tiny_bundle / "model.onnx").graph.node
    names = {node.name for node in nodes if node.domain == "sdtc" and node.op_type in operators}
    assert set(custom_nodes(tiny_bundle / "model.onnx", wanted.operators)) == names
    assert bool(names) == bool(operators)


def test_plugins_that_do_not_fit_are_left_out_or_said() -> None:
    pytest.importorskip("triton", reason="needs the extra kernels")
    target, wide = Target("tensorrt", "11.4.0", ("7.5",)), dataclasses.replace(get_preset("base"), width=1024)
    with pytest.raises(KernelError, match="does not fit sm_75"):
        use_plugins(Plugins(("SpatialAttention",), required=True), target, wide)
    assert use_plugins(Plugins(("SpatialAttention",)), target, wide) == Plugins()


def test_plugin_layers_are_told_from_what_the_inspector_says() -> None:
    information = {
        "Layers": [
            {"Name": "node_conv", "LayerType": "Convolution"},
            {"Name": "node__symbolic", "LayerType": "PluginV3"},
            {"Name": "node_resize", "LayerType": "PluginV2"},  # TensorRT has its own
            "a layer of which only the name is told",
        ],
        "Bindings": ["clip"],
    }
    assert plugin_layers(json.dumps(information), ["node__symbolic"]) == ("node__symbolic",)
    assert plugin_layers("{}", ["node__symbolic"]) == ()


@pytest.mark.gpu
def test_plugins_are_in_the_engine(tiny_checkpoint, tmp_path) -> None:
    pytest.importorskip("tensorrt", reason="builds engines with full TensorRT")
    pytest.importorskip("triton", reason="compiles the plugins")
    export(tiny_checkpoint, tmp_path, ExportOptions(precision="fp16", flavour="tensorrt", plugins="on"), quiet=True)
    layers = Manifest.load(tmp_path / "model.json").engine.plugin_layers
    nodes = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.domain == "sdtc"]
    assert sum(layer.startswith("model: ") for layer in layers) == len(nodes)


def test_text_file_as_checkpoint(tmp_path, capsys) -> None:
    assert main([__file__, "--output", str(tmp_path)]) == 2
    assert "is not a PyTorch file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_output_folder_that_cannot_be_written(tiny_checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main([str(tiny_checkpoint), "--output", str(tmp_path / "file")]) == 1
    assert "cannot write to the folder" in capsys.readouterr().err


@pytest.mark.slow
def test_base_exports_within_tolerance_and_its_engine_holds_the_weights_once(tmp_path) -> None:
    """The paper's size. The untrained head is scaled up, so that its heatmaps are as large as trained ones."""
    from sdtc.export import engine_builder, graphs

    torch.manual_seed(0)
    network = build(get_preset("base")).eval()
    with torch.no_grad():
        network.head.conv.weight.mul_(100)
    spec = graphs.graph_specs(network.config)["model"]
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.export_graph(prepare(network, "fp32"), spec).SerializeToString())
    clip = np.random.default_rng(0).integers(0, 256, (2, *spec.shape), dtype=np.uint8)
    with torch.inference_mode():
        keypoints, heatmaps = (t.numpy() for t in WholeWindow(network)(torch.from_numpy(clip)))
    difference = verify.Difference()
    session = ort_session(path)
    got = dict(zip(("keypoints", "heatmaps"), session.run(None, {"clip": clip}), strict=True))
    difference.update(got, {"keypoints": keypoints, "heatmaps": heatmaps})
    assert difference.heatmaps < 1e-4
    assert difference.keypoints < 0.01
    del session
    target = engine_builder.find_target("tensorrt-rtx", ("8.6",))
    shapes = ((1, *spec.shape), (4, *spec.shape), (16, *spec.shape))
    engine_builder.build_engine(path, tmp_path / "model.plan", target, "clip", [shapes])
    assert 300e6 < (tmp_path / "model.plan").stat().st_size < 1.2 * path.stat().st_size
