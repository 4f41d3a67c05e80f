import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reliability_balance.backbones.poster_v2 import (
    MobileFaceNet,
    load_ir50,
    load_mobilefacenet,
    load_poster_v2,
    poster_v2_base,
    poster_v2_tiny,
)
from reliability_balance.backbones.poster_v2.ir import IRBranch
from reliability_balance.backbones.poster_v2.published import add_published_rest
from reliability_balance.backbones.weights import load_weights, read_weights


def linear_weights() -> dict[str, Tensor]:
    return {"weight": torch.randn(2, 3), "bias": torch.randn(2)}


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


class TestReading:
    @pytest.mark.parametrize(
        "nest",
        [
            lambda weights: weights,
            lambda weights: {"state_dict": weights, "epoch": 3},
            lambda weights: {"model_state_dict": weights, "optimizer": {"state": {}}},
            lambda weights: {"state_dict": {"model": weights}},
            lambda weights: prefixed(weights, "module."),
            lambda weights: {"net": prefixed(weights, "module._orig_mod.")},
        ],
    )
    def test_nested_and_prefixed(self, tmp_path: Path, nest: Callable[..., Any]) -> None:
        weights = linear_weights()
        torch.save(nest(weights), tmp_path / "weights.pt")
        assert_same(read_weights(tmp_path / "weights.pt"), weights)

    def test_old_format(self, tmp_path: Path) -> None:
        weights = linear_weights()
        path = tmp_path / "old.pth.tar"
        torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=False)
        assert_same(read_weights(path), weights)

    def test_safetensors(self, tmp_path: Path) -> None:
        safetensors = pytest.importorskip("safetensors.torch")
        weights = linear_weights()
        safetensors.save_file(weights, tmp_path / "weights.safetensors")
        assert_same(read_weights(tmp_path / "weights.safetensors"), weights)
        (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match="`path` must be a safetensors file"):
            read_weights(tmp_path / "weights.safetensors")

    def test_objects_of_a_training_script(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The published files hold the script's own recorders, whose classes nobody else has."""
        script = types.ModuleType("training_script")
        exec(
            "class Recorder:\n    def __init__(self, losses): self.losses = losses\n",
            script.__dict__,
        )
        script.Recorder.__module__ = "training_script"
        monkeypatch.setitem(sys.modules, "training_script", script)
        weights = linear_weights()
        content = {
            "epoch": 3,
            "best_acc": torch.tensor(92.21),
            "state_dict": prefixed(weights, "module."),
            "recorder": script.Recorder(np.zeros((3, 2), dtype=np.float32)),
        }
        torch.save(content, tmp_path / "published.pth")
        monkeypatch.delitem(sys.modules, "training_script")
        assert_same(read_weights(tmp_path / "published.pth"), weights)

    def test_code_in_a_file_does_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "executed"

        class Attack:
            def __reduce__(self) -> tuple[Any, ...]:
                return exec, (f"open({str(marker)!r}, 'w').close()",)

        weights = linear_weights()
        torch.save({"state_dict": weights, "extra": Attack()}, tmp_path / "attack.pt")
        assert_same(read_weights(tmp_path / "attack.pt"), weights)
        (tmp_path / "attack.pkl").write_bytes(pickle.dumps(Attack()))
        with pytest.raises(ValueError, match="`path` must be a weight file"):
            read_weights(tmp_path / "attack.pkl")
        assert not marker.exists()

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="`path` must be an existing weight file"):
            read_weights(tmp_path / "nowhere.pt")

    @pytest.mark.parametrize("content", [b"", b"plain text\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"])
    def test_no_weight_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "other.pt").write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be a weight file that torch"):
            read_weights(tmp_path / "other.pt")

    def test_cut_short(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pt"
        torch.save({"weight": torch.randn(100, 100)}, path)
        path.write_bytes(path.read_bytes()[:20_000])
        with pytest.raises(ValueError, match="`path` must be a weight file"):
            read_weights(path)

    @pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {}, torch.ones(2)])
    def test_no_tensors_by_name(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match="`path` must hold tensors by name"):
            read_weights(tmp_path / "other.pt")

    def test_a_compressed_archive_is_not_unpacked(self, tmp_path: Path) -> None:
        torch.save(linear_weights(), tmp_path / "weights.pt")
        path = tmp_path / "compressed.pt"
        with (
            zipfile.ZipFile(tmp_path / "weights.pt") as whole,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name in whole.namelist():
                archive.writestr(name, whole.read(name))
        with pytest.raises(ValueError, match=r"`path` must be a weight .*: a compressed archive"):
            read_weights(path)
        assert read_weights(tmp_path / "weights.pt").keys() == linear_weights().keys()


class TestLoading:
    def test_reports(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        weights = {
            name: torch.full_like(tensor, 2)
            for name, tensor in model.state_dict().items()
            if name != "1.num_batches_tracked"
        }
        report = load_weights(model, {**weights, "head.weight": torch.ones(1)}, source="a file")
        assert set(report.loaded) == set(weights)
        assert report.unused == ("head.weight",)
        assert report.untouched == ("1.num_batches_tracked",)
        assert model[0].weight.unique().tolist() == [2]

    def test_nothing_is_half_loaded(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        weights = {**before, "1.weight": torch.ones(5, 2), "0.weight": torch.ones(2, 3)}
        del weights["1.bias"]
        with pytest.raises(ValueError, match="nothing was loaded") as error:
            load_weights(model, weights, source="a file")
        assert "missing: 1.bias" in str(error.value)
        assert "1.weight (5, 2) in place of (2, 2)" in str(error.value)
        assert_same(model.state_dict(), before)


class TestPosterV2:
    def test_published_file(self, tmp_path: Path) -> None:
        path = tmp_path / "raf-db-model_best.pth"
        source = poster_v2_base(num_classes=8)
        weights = {**source.state_dict(), "extra_head.weight": torch.ones(2)}
        torch.save({"state_dict": prefixed(weights, "module.")}, path)
        encoder, report = load_poster_v2(path, reduction_dim=16)
        assert report.unused == ("extra_head.weight",)
        assert report.untouched == ("reduction.weight", "reduction.bias")
        own = encoder.state_dict()
        assert all(torch.equal(own[name], value) for name, value in source.state_dict().items())
        assert not encoder.face_landback.training

        del weights["ir_back.body2.0.res_layer.1.weight"]
        weights["attn1.proj.weight"] = torch.ones(3, 3)
        torch.save(weights, path)
        with pytest.raises(ValueError, match=r"missing: ir_back\.body2.*attn1\.proj\.weight"):
            load_poster_v2(path)

        running = {
            name: value for name, value in source.state_dict().items() if "output_layer" not in name
        }
        torch.save({n: v for n, v in running.items() if not n.startswith("VIT.head")}, path)
        encoder, report = load_poster_v2(path)
        assert encoder.VIT.head.linear.out_features == 7
        assert "VIT.head.linear.weight" in report.untouched

    def test_another_landmark_branch(self, tmp_path: Path) -> None:
        source = poster_v2_base().state_dict()
        torch.save(source, tmp_path / "published.pth")
        branch = MobileFaceNet(units=(1, 1, 1))
        before = {name: tensor.clone() for name, tensor in branch.state_dict().items()}
        encoder, report = load_poster_v2(tmp_path / "published.pth", landmark_branch=branch)
        after = encoder.face_landback.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert set(report.unused) == {name for name in source if name.startswith("face_landback.")}

    @pytest.mark.parametrize("numbering", ["stages", "one body"])
    def test_ir50(self, tmp_path: Path, numbering: str) -> None:
        source = IRBranch(widths=(4, 8, 16))
        weights = source.state_dict()
        if numbering == "one body":
            starts = {"body1": 0, "body2": 3, "body3": 7}
            weights = {rename(name, starts): value for name, value in weights.items()}
            rest = "body.21.res_layer.0.weight"
        else:
            rest = "body4.0.res_layer.0.weight"
        weights |= {rest: torch.ones(1), "output_layer.3.weight": torch.ones(2, 2)}
        torch.save(weights, tmp_path / "ir50.pth")
        branch = IRBranch(widths=(4, 8, 16))
        report = load_ir50(branch, tmp_path / "ir50.pth")
        assert set(report.unused) == {rest, "output_layer.3.weight"}
        assert_same(branch.state_dict(), source.state_dict())

    def test_published_shapes_do_not_depend_on_the_size_of_the_images(self) -> None:
        shapes = []
        for image_size in (112, 128):
            encoder = poster_v2_tiny(image_size=image_size)
            add_published_rest(encoder, 7)
            state = encoder.ir_back.state_dict()
            shapes.append({name: tensor.shape for name, tensor in state.items()})
        assert shapes[0] == shapes[1]

    def test_mobilefacenet(self, tmp_path: Path) -> None:
        source = MobileFaceNet(width=8)
        weights = {**source.state_dict(), "output_layer.linear.weight": torch.ones(136, 512)}
        torch.save({"state_dict": prefixed(weights, "module.")}, tmp_path / "m.pth.tar")
        branch = MobileFaceNet(width=8)
        report = load_mobilefacenet(branch, tmp_path / "m.pth.tar")
        assert report.unused == ("output_layer.linear.weight",)
        assert_same(branch.state_dict(), source.state_dict())
        with pytest.raises(ValueError, match=r"conv1\.conv\.weight \(8, 3, 3, 3\) in place of"):
            load_mobilefacenet(MobileFaceNet(width=16), tmp_path / "m.pth.tar")


def rename(name: str, starts: dict[str, int]) -> str:
    stage, _, rest = name.partition(".")
    if stage not in starts:
        return name
    index, _, rest = rest.partition(".")
    return f"body.{starts[stage] + int(index)}.{rest}"


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
