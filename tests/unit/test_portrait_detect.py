from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from dpe_model.errors import FrameError
from dpe_model.portrait import DetectorError, Face, TrackBuilder, load_detector
from dpe_model.portrait import mtcnn as mtcnn_module
from dpe_model.portrait.mtcnn import MTCNN, MTCNNDetector, halvings, pyramid, sample_patches, square, suppress

# Outputs of the P-, R- and O-net modules of facenet-pytorch 2.6.0 for `pattern` of 1x14x14, 2x24x24 and 2x48x48.
PNET_FACE = [0.0014726249501109123, 0.0017613237723708153, 0.009471352212131023, 0.002761813811957836]
PNET_BOX_X0 = [-0.029502354562282562, 0.030118608847260475, 0.06574484705924988, 0.01583038829267025]
RNET_FACE = [1.444456574972719e-05, 2.0349321857793257e-05]
RNET_BOX = [-0.171594500541687, 0.030979923903942108, 0.21649233996868134, 0.6362760066986084]
ONET_FACE = [0.0004227435274515301, 0.00047862884821370244]
ONET_BOX = [-0.13283246755599976, -0.07184027135372162, 0.09012921154499054, 0.35693055391311646]
ONET_POINTS = [
    *(0.3184078335762024, 0.7110034227371216, 0.4577331840991974, 0.2932356297969818, 0.6072537899017334),
    *(0.23720085620880127, 0.2907068431377411, 0.45477956533432007, 0.7833349108695984, 0.8585474491119385),
]


def pattern(n: int, size: int) -> Tensor:
    i = torch.arange(n * 3 * size * size, dtype=torch.float64)
    return (torch.sin(i * 0.37) * torch.cos(i * 0.0113 + 1)).float().reshape(n, 3, size, size)


@pytest.fixture(scope="module")
def networks() -> MTCNN:
    return MTCNN.bundled()


@torch.inference_mode()
def test_networks_match_the_reference_outputs(networks: MTCNN) -> None:
    face, box = networks.pnet(pattern(1, 14))
    assert face.flatten().tolist() == pytest.approx(PNET_FACE, rel=1e-4)
    assert box[0, 0].flatten().tolist() == pytest.approx(PNET_BOX_X0, abs=1e-5)
    face, box = networks.rnet(pattern(2, 24))
    assert face.tolist() == pytest.approx(RNET_FACE, rel=1e-3)
    assert box[0].tolist() == pytest.approx(RNET_BOX, abs=1e-5)
    face, box, points = networks.onet(pattern(2, 48))
    assert face.tolist() == pytest.approx(ONET_FACE, rel=1e-3)
    assert box[1].tolist() == pytest.approx(ONET_BOX, abs=1e-5)
    assert points[0].tolist() == pytest.approx(ONET_POINTS, abs=1e-5)


def test_weights_load_once_and_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = mtcnn_module.load_file
    monkeypatch.setattr(mtcnn_module, "load_file", lambda path: loads.append(path) or load(path))
    detector = load_detector("mtcnn")
    assert loads == []
    for _ in range(2):
        detector.detect(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    assert len(loads) == 1


@pytest.mark.parametrize("size", [(16, 16), (16, 200), (97, 131), (3000, 4000)])
def test_plain_frames_of_any_size_hold_no_face(size: tuple[int, int]) -> None:
    frames = torch.full((1, *size, 3), 90, dtype=torch.uint8)
    assert load_detector().detect(frames) == [[]]


def test_one_list_a_frame_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtcnn_module, "CHUNK_PIXELS", 32 * 32 * 2)
    assert load_detector().detect(torch.rand(5, 32, 32, 3)) == [[]] * 5


def test_grey_and_rgba_are_taken_and_nan_is_refused() -> None:
    detector = load_detector()
    assert detector.detect(torch.zeros(1, 32, 32, 1)) == [[]]
    assert detector.detect(torch.zeros(1, 32, 32, 4)) == [[]]
    with pytest.raises(FrameError, match="finite"):
        detector.detect(torch.full((1, 32, 32, 3), float("nan")))
    builder = TrackBuilder(detector)
    builder.add(torch.zeros(3, 32, 32, 3))
    with pytest.raises(FrameError, match=r"at frames 3, 4\."):
        builder.add(torch.full((2, 32, 32, 3), float("inf")))


def test_pyramid_is_bounded_by_the_smallest_face_not_by_the_frame() -> None:
    sizes = pyramid(2160, 3840, 0.1)
    assert sizes[0] == (120, 214)
    assert all(min(size) >= 12 for size in sizes)
    assert pyramid(16, 16, 0.01)[0] == (16, 16)


def test_suppress_keeps_the_best_of_those_that_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [2, 2, 5, 5]], dtype=np.float32)
    scores = np.array([0.8, 0.9, 0.3, 0.5], dtype=np.float32)
    assert suppress(boxes, scores, 0.5).tolist() == [1, 3, 2]
    assert suppress(boxes, scores, 0.5, of_smaller=True).tolist() == [1, 2]


def test_square_grows_the_shorter_side_about_the_centre() -> None:
    assert square(np.array([[10.0, 10.0, 20.0, 30.0]])).tolist() == [[5.0, 10.0, 25.0, 30.0]]


@pytest.mark.parametrize("side", [10.0, 30.5, 100.0])
def test_patches_show_the_box_at_sub_pixel_positions(side: float) -> None:
    # A picture whose red is its x and green its y: the mean of a patch is the centre of its box.
    y, x = torch.meshgrid(torch.arange(160) + 0.5, torch.arange(200) + 0.5, indexing="ij")
    images = torch.stack([x, y, torch.zeros_like(x)])[None].repeat(2, 1, 1, 1)
    box = np.array([[40.25, 30.75, 40.25 + side, 30.75 + side]], dtype=np.float32)
    patch = sample_patches(halvings(images), box, np.array([1]), 24)[0]
    assert patch[0].mean().item() == pytest.approx(40.25 + side / 2, abs=0.05)
    assert patch[1].mean().item() == pytest.approx(30.75 + side / 2, abs=0.05)
    assert (patch[0, 0, -1] - patch[0, 0, 0]).item() == pytest.approx(side * 23 / 24, abs=0.2)


def test_unknown_detector_and_bad_options_are_refused() -> None:
    with pytest.raises(DetectorError, match=r"mtcnn, insightface, got 'nope'"):
        load_detector("nope")
    with pytest.raises(ValueError, match="min_face"):
        MTCNNDetector(min_face=0.0)
    with pytest.raises(ValueError, match="thresholds"):
        MTCNNDetector(thresholds=(0.5, 0.5, 2.0))


def test_insightface_says_what_is_missing(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    with pytest.raises(DetectorError, match=r"det_\*\.onnx.*non-commercial"):
        load_detector("insightface", root=tmp_path)
    folder = tmp_path / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "det_10g.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(DetectorError, match="pip install insightface"):
        load_detector("insightface", root=tmp_path)


def test_centre_and_side_of_a_box() -> None:
    face = Face((0.0, 0.0, 9.0, 4.0), np.zeros((5, 2)), 0.9)
    assert face.centre == (4.5, 2.0)
    assert face.side == pytest.approx(6.0)


@pytest.mark.parametrize("side", [47, 94, 147, 173, 188])
def test_the_pyramid_has_a_level_for_a_face_as_large_as_the_frame(side):
    assert pyramid(side, side + 10, 1.0)
