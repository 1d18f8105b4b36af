"""Face parsing with random weights of the published names and shapes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dpe_model.portrait import PasteOptions, Paster, crop_frames
from dpe_model.portrait.mask import parsed_mask
from dpe_model.portrait.parsing import CLASSES, BiSeNet, FaceParser, ParsingError

from .test_portrait_paste import crop_of, smooth_noise


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return BiSeNet(len(CLASSES)).state_dict()


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: the old format of torch.save."""
    path = tmp_path_factory.mktemp("parsing") / "79999_iter.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cp.resnet.conv1.weight", (64, 3, 7, 7)),
        ("cp.resnet.layer1.1.bn2.running_var", (64,)),
        ("cp.resnet.layer4.0.downsample.0.weight", (512, 256, 1, 1)),
        ("cp.resnet.layer4.0.downsample.1.bias", (512,)),
        ("cp.arm16.conv.conv.weight", (128, 256, 3, 3)),
        ("cp.arm32.conv_atten.weight", (128, 128, 1, 1)),
        ("cp.arm32.bn_atten.num_batches_tracked", ()),
        ("cp.conv_head16.conv.weight", (128, 128, 3, 3)),
        ("cp.conv_avg.conv.weight", (128, 512, 1, 1)),
        ("ffm.convblk.conv.weight", (256, 256, 1, 1)),
        ("ffm.conv1.weight", (64, 256, 1, 1)),
        ("ffm.conv2.weight", (256, 64, 1, 1)),
        ("conv_out.conv.bn.weight", (256,)),
        ("conv_out.conv_out.weight", (19, 256, 1, 1)),
        ("conv_out16.conv.conv.weight", (64, 128, 3, 3)),
        ("conv_out32.conv_out.weight", (19, 64, 1, 1)),
    ],
)
def test_tensors_are_called_as_in_the_published_file(
    weights: dict[str, Tensor], name: str, shape: tuple[int, ...]
) -> None:
    assert tuple(weights[name].shape) == shape
    assert len(weights) == 191


def test_both_formats_say_the_same(file: Path, weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    picture = smooth_noise(1, 96, 96)
    maps = [FaceParser(path).face(picture) for path in (file, tmp_path / "w.safetensors")]
    assert maps[0].shape == (1, 128, 128)
    assert torch.equal(maps[0], maps[1])
    assert 0.0 <= float(maps[0].min()) < float(maps[0].max()) <= 1.0


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("trap"),))


def test_what_is_not_the_published_file_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    def refused(content: object, message: str) -> None:
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ParsingError, match=message):
            FaceParser(tmp_path / "x.pth")

    refused({k: v for k, v in weights.items() if "ffm" not in k}, "8 tensors are missing .ffm")
    refused(weights | {"classifier.weight": torch.ones(1)}, "1 are foreign .classifier.weight")
    other = BiSeNet(11).state_dict()
    refused(other, r"conv_out.conv_out.weight: expected shape \[19, 256, 1, 1\], got \[11")
    refused(weights | {"ffm.conv1.weight": torch.full((64, 256, 1, 1), float("nan"))}, "NaN")
    refused([1, 2], "expected a table of weights")
    (tmp_path / "x.pth").write_bytes(b"no weights")
    with pytest.raises(ParsingError, match="not a file of weights"):
        FaceParser(tmp_path / "x.pth")
    with (tmp_path / "x.pth").open("wb") as stream:
        pickle.dump(Trap(), stream, protocol=2)
    with pytest.raises(ParsingError, match="not a file of weights"):
        FaceParser(tmp_path / "x.pth")
    assert not Path("trap").exists()
    with pytest.raises(ParsingError, match="no such file.*79999_iter.pth"):
        FaceParser(tmp_path / "none.pth")


def test_a_clip_is_masked_by_parsing(file: Path) -> None:
    """Random weights see faces anywhere; chunks still do not matter, and the rim stays."""
    frames, crop = smooth_noise(3, 200, 300), crop_of(3)
    edited = crop_frames(frames, crop, 96).flip(2)
    options = PasteOptions(mask="parsing", parsing_weights=file, detail=0.0)
    whole, mask = Paster(options, crop).paste(frames, edited, 0)
    paster = Paster(options, crop)
    parts = [paster.paste(frames[n : n + 1], edited[n : n + 1], n) for n in range(3)]
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)
    assert torch.equal(whole[mask == 0], frames[mask == 0])


def test_a_parsed_mask_is_soft_whole_inside_and_grows() -> None:
    face = torch.zeros(128, 128)
    face[40:90, 40:90] = 1.0
    face[60:64, 60:64] = 0.0  # a hole
    masks = {grow: parsed_mask(face, 0.1, grow) for grow in (0.8, 1.0, 1.3)}
    assert masks[1.0][55:75, 55:75].min() > 0.95
    assert masks[1.0][:20].max() == 0.0
    assert masks[1.0].diff(dim=0).abs().max() < 0.25
    areas = [float(masks[grow].sum()) for grow in (0.8, 1.0, 1.3)]
    assert areas == sorted(areas)
    assert areas[2] > 1.3 * areas[0]
    everywhere = parsed_mask(torch.ones(128, 128), 0.1, 1.0)
    assert torch.cat([everywhere[0], everywhere[-1], everywhere[:, 0], everywhere[:, -1]]).max() == 0.0
