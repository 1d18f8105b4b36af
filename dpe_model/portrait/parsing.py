"""Where the face is, as a parsing network sees it: BiSeNet on a ResNet-18, 19 classes of a portrait's parts.

The network is that of C. Yu et al., BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation (2018),
in the form whose weights the face-parsing project publishes as `79999_iter.pth`: the backbone's features at 1/8 take
the place of a spatial path. Module names are that file's own, so it loads as it is.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..devices import exact_float32, is_apple, warping_device
from ..errors import DPEError
from ..files import UNREADABLE
from ..frames import to_unit

CLASSES = (
    "background",
    "skin",
    "left brow",
    "right brow",
    "left eye",
    "right eye",
    "glasses",
    "left ear",
    "right ear",
    "earring",
    "nose",
    "mouth",
    "upper lip",
    "lower lip",
    "neck",
    "necklace",
    "cloth",
    "hair",
    "hat",
)
FACE = (
    "skin",
    "left brow",
    "right brow",
    "left eye",
    "right eye",
    "glasses",
    "nose",
    "mouth",
    "upper lip",
    "lower lip",
)
"""What an expression edit moves. Ears, hair, neck and clothes stay the frame's own."""
SIZE = 512
"""Side of the pictures the published weights were trained on, px."""
MASK_SIZE = 128
"""Side of the maps handed out, px."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours the network expects, those of ImageNet."""
PAGE = "https://github.com/zllrunning/face-parsing.PyTorch"
FILE = "79999_iter.pth"


class ParsingError(DPEError):
    """The weights of the face-parsing network are missing or cannot be used."""


class FaceParser:
    """Tells the face from the rest of a portrait.

    Args:
        weights: the published file, or the same tensors as `.safetensors`.
        device: where the network runs.

    Raises:
        ParsingError: no such file, or one with other tensors.
    """

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = BiSeNet(len(CLASSES)).eval().requires_grad_(False)
        _fill(self.network, weights)
        self.network.to(self.device)
        self._face = [CLASSES.index(name) for name in FACE]

    def to(self, device: torch.device) -> None:
        """Go on elsewhere."""
        self.device = device
        self.network.to(device)

    @torch.inference_mode()
    def face(self, portraits: Tensor) -> Tensor:
        """How surely each place belongs to the face.

        Args:
            portraits: [N, S, S, 3] uint8 or 0..1.

        Returns:
            [N, 128, 128] probabilities on the parser's device.
        """
        x = to_unit(portraits.to(warping_device(self.device))).permute(0, 3, 1, 2)
        if x.shape[-1] != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        # The pictures' channels lie side by side, an order that not all of Apple's operators read rightly.
        x = x.contiguous().to(self.device) if is_apple(self.device) else x.to(self.device)
        mean, deviation = (x.new_tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        with exact_float32(self.device):
            scores = self.network((x - mean) / deviation)
        # Corners on corners is how the network was trained: without it everything lies half a step of 8 px off.
        scores = F.interpolate(scores, (SIZE, SIZE), mode="bilinear", align_corners=True)
        return F.avg_pool2d(scores.softmax(1)[:, self._face].sum(1, keepdim=True), SIZE // MASK_SIZE)[:, 0]


def _fill(network: BiSeNet, path: Path) -> None:
    """Load `path` into the network, every tensor by its name."""
    if not path.is_file():
        raise ParsingError(
            f"{path}: no such file. The face-parsing weights are {FILE} of {PAGE} (also linked by the authors' "
            "paste-back script); or choose another mask than parsing."
        )
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ParsingError(f"{path.name}: not a file of weights, or damaged ({reason}).") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ParsingError(f"{path.name}: expected a table of weights by name, as {FILE} is one.")
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(tensors))
    foreign = sorted(set(tensors) - set(wanted))
    if missing or foreign:
        raise ParsingError(
            f"{path.name}: not the weights of the BiSeNet face parser ({FILE}): {len(missing)} tensors are missing"
            f"{_few(missing)}, {len(foreign)} are foreign{_few(foreign)}."
        )
    misshapen = [name for name, value in wanted.items() if value.shape != tensors[name].shape]
    if misshapen:
        name = misshapen[0]
        raise ParsingError(
            f"{path.name}: {name}: expected shape {list(wanted[name].shape)}, got {list(tensors[name].shape)}. The "
            f"mask needs the weights with {len(CLASSES)} classes, {FILE}."
        )
    broken = [n for n, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise ParsingError(f"{path.name}: {broken[0]} holds NaN or infinite values. Get the file again.")
    network.load_state_dict(tensors)


def _few(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


class ConvNormReLU(nn.Module):
    """A convolution without bias, batch normalisation, ReLU: [N, C, H, W] -> [N, K, H / stride, W / stride]."""

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, K, H, W]."""
        return F.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """ResNet's basic block (He et al. 2016): two 3x3 convolutions around which the input passes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False),
                nn.BatchNorm2d(out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, K, H / stride, W / stride]."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.downsample(x) + inner)


class ResNet18(nn.Module):
    """ResNet-18 without its classifier: features at 1/8, 1/16 and 1/32 of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, H, W] -> 128, 256 and 512 channels at H/8, H/16, H/32."""
        x = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


def _stage(channels: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Residual(channels, out, stride), Residual(out, out, 1))


class AttentionRefinement(nn.Module):
    """Weighs channels by what the whole picture holds."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(channels, out)
        self.conv_atten = nn.Conv2d(out, out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, K, H, W]."""
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))).sigmoid()


class ContextPath(nn.Module):
    """The backbone, and its coarse features brought up step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvNormReLU(128, 128)
        self.conv_head16 = ConvNormReLU(128, 128)
        self.conv_avg = ConvNormReLU(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] -> backbone and context features, 128 channels each at H/8."""
        eighth, sixteenth, coarse = self.resnet(x)
        whole = self.conv_avg(coarse.mean((2, 3), keepdim=True))
        context = F.interpolate(self.arm32(coarse) + whole, sixteenth.shape[2:], mode="nearest")
        context = self.arm16(sixteenth) + self.conv_head32(context)
        context = F.interpolate(context, eighth.shape[2:], mode="nearest")
        return eighth, self.conv_head16(context)


class FeatureFusion(nn.Module):
    """Joins fine and context features, channels weighed by what the whole picture holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = ConvNormReLU(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        """Two maps [N, 128, H, W] -> [N, 256, H, W]."""
        x = self.convblk(torch.cat([fine, context], 1))
        weight = self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x + x * weight


class Head(nn.Module):
    """Scores of the classes at every place."""

    def __init__(self, channels: int, middle: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(channels, middle)
        self.conv_out = nn.Conv2d(middle, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, classes, H, W]."""
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """The face-parsing network: normalised pictures [N, 3, H, W] -> scores [N, classes, H/8, W/8].

    `conv_out16` and `conv_out32` serve training only; they are here because the file has them.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256)
        self.conv_out = Head(256, 256, classes)
        self.conv_out16 = Head(128, 64, classes)
        self.conv_out32 = Head(128, 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.conv_out(self.ffm(*self.cp(x)))
