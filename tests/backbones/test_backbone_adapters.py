import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reliability_balance.backbones import MLP, Identity, TimmBackbone, TorchvisionBackbone

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


class TestTimm:
    @pytest.mark.parametrize("name", ["test_vit", "test_resnet", "mobilenetv3_small_050"])
    def test_embedding_is_what_timm_pools(self, name: str) -> None:
        torch.manual_seed(0)
        backbone = TimmBackbone(name).eval()
        images = torch.randn(2, 3, 160, 160)
        with torch.no_grad():
            embedding = backbone(images)
            torch.testing.assert_close(embedding, backbone.model(images))
        assert embedding.shape == (2, backbone.embedding_dim)

    @pytest.mark.parametrize(
        ("name", "size", "num_tokens"),
        [("test_vit", 160, 101), ("test_resnet", 64, 4), ("swin_s3_tiny_224", 224, 49)],
    )
    def test_tokens(self, name: str, size: int, num_tokens: int) -> None:
        backbone = TimmBackbone(name, tokens=True).eval()
        with torch.no_grad():
            tokens = backbone(torch.randn(1, 3, size, size))
        assert tokens.shape == (1, num_tokens, backbone.embedding_dim)

    def test_weights_from_a_local_file(self, tmp_path: Path) -> None:
        source = timm.create_model("test_resnet", num_classes=10)
        torch.save(source.state_dict(), tmp_path / "weights.pt")
        backbone = TimmBackbone("test_resnet", weights=tmp_path / "weights.pt").eval()
        assert backbone.load_report is not None
        assert {name.split(".")[-2] for name in backbone.load_report.unused} == {"fc"}
        images = torch.randn(2, 3, 64, 64)
        source.reset_classifier(0)
        with torch.no_grad():
            torch.testing.assert_close(backbone(images), source.eval()(images))
        with pytest.raises(ValueError, match="nothing was loaded"):
            TimmBackbone("test_vit", weights=tmp_path / "weights.pt")

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"a model of timm; got 'resnet1'.*resnet1"):
            TimmBackbone("resnet1")


class TestTorchvision:
    def test_embedding_is_what_enters_the_last_layer(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = torchvision.models.mobilenet_v3_small().eval()
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        backbone = TorchvisionBackbone("mobilenet_v3_small", weights=tmp_path / "weights.pt")
        assert backbone.load_report is not None
        assert backbone.load_report.unused == ("classifier.3.weight", "classifier.3.bias")
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            embedding = backbone.eval()(images)
            torch.testing.assert_close(model.classifier[3](embedding), model(images))
        assert embedding.shape == (2, backbone.embedding_dim)

    @pytest.mark.parametrize("name", ["resnet18", "densenet121"])
    def test_tokens_average_to_the_embedding(self, name: str) -> None:
        torch.manual_seed(0)
        backbone = TorchvisionBackbone(name).eval()
        other = TorchvisionBackbone(name, tokens=True)
        assert other.training
        own = backbone.model.state_dict()
        other.model.load_state_dict(own)
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            tokens = other.eval()(images)
            assert tokens.shape == (2, 4, other.embedding_dim)
            torch.testing.assert_close(tokens.mean(1), backbone(images))

    @pytest.mark.parametrize("name", ["resnet1", "fcn_resnet50"])
    def test_unknown_name(self, name: str) -> None:
        with pytest.raises(ValueError, match="`name` must be a classification model"):
            TorchvisionBackbone(name)

    @pytest.mark.parametrize("name", ["squeezenet1_0", "googlenet"])
    @pytest.mark.filterwarnings("ignore")
    def test_no_single_linear_output(self, name: str) -> None:
        with pytest.raises(ValueError, match="`name` must be a model with one output"):
            TorchvisionBackbone(name)

    def test_no_feature_map(self) -> None:
        with pytest.raises(ValueError, match="`tokens` needs a model with a feature map"):
            TorchvisionBackbone("vit_b_32", tokens=True)


class TestVectors:
    def test_wrong_width(self) -> None:
        with pytest.raises(ValueError, match="`features` must have last dimension 4"):
            MLP(4)(torch.randn(2, 5))
        with pytest.raises(ValueError, match="`embedding` must have last dimension 4"):
            Identity(4)(torch.randn(2, 5))

    def test_identity_hands_on_the_same_tensor(self) -> None:
        embedding = torch.randn(2, 4)
        assert Identity(4)(embedding) is embedding

    def test_bad_sizes(self) -> None:
        with pytest.raises(ValueError, match="`dropout` must lie in"):
            MLP(4, dropout=1.0)
        with pytest.raises(ValueError, match="`depth` must be at least 1"):
            MLP(4, depth=0)


def test_import_needs_torch_alone() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(timm=None, torchvision=None, safetensors=None)\n"
        "import reliability_balance.backbones as backbones\n"
        "for build in (backbones.TimmBackbone, backbones.TorchvisionBackbone):\n"
        "    try:\n"
        "        build('resnet18')\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install '.[timm]'" in result.stdout
    assert "pip install '.[torchvision]'" in result.stdout
