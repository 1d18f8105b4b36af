"""What differs between devices: how many pictures fit, how tensors travel, how exact float32 is."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import DPEError

if TYPE_CHECKING:
    from .network import NetworkConfig

logger = logging.getLogger(__name__)

MOST_PICTURES = {"cpu": 4, "cuda": 16}
"""Pictures of 256 px at a time beyond which nothing is gained: the CPU's low-resolution layers then share their weights
(its large maps go one by one anyway), a GPU is busy."""
SHARE = 0.7
"""Part of the free memory that a chunk may take; the rest is for what is only estimated."""
APPLE = ("mps",)
"""Types of devices that are Apple's GPUs. There PyTorch does not sample bicubically nor continue a picture's border,
nor, in some versions, resize without aliasing or to any size: pictures are warped on the CPU. What the networks
themselves need it has, but its sampler misreads maps whose channels lie side by side."""
TOO_LITTLE = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "not enough GPU video memory",
    "STATUS_ALLOC_FAILED",
    "unable to find an engine",
)
"""What errors say where memory is exhausted: CUDA and MPS, the CPU on Linux, on Windows, DirectML, cuBLAS and cuDNN.
cuDNN also finds no way to convolve where none fits into the memory left."""
AMD_WITHOUT_BFLOAT16 = ("gfx803", "gfx900", "gfx906", "gfx101", "gfx103")
"""How the architectures of AMD's GPUs without bfloat16 begin: GCN, RDNA 1 and 2. CDNA has it, and RDNA from 3 on."""
BROKEN_FLOAT16 = ("GTX 16", "MX450", "MX550", "T500", "T550", "T600", "T1000", "T1200", "T2000", "CMP 30HX")
"""Parts of the names of NVIDIA's small Turing cards, without tensor cores: in float16 their convolutions give NaN."""
MAPS = 12
"""Working memory of a picture in flight, in maps of the highest resolution."""


def warping_device(device: torch.device | str) -> torch.device:
    """Where pictures are resized and warped for what runs on a device: there, or on the CPU; see `APPLE`."""
    device = torch.device(device)
    return torch.device("cpu") if is_apple(device) else device


def is_apple(device: torch.device) -> bool:
    """Whether a device is one of Apple's GPUs; see `APPLE`."""
    return device.type in APPLE


def chosen_device(name: str, number: int | None = None) -> torch.device:
    """The device by name; `auto` is a CUDA GPU where there is one that PyTorch can compute on, else the CPU.

    Args:
        number: which GPU `auto` and `cuda` mean, where several processes have one each and talk to each other: `auto`
            then falls back on no CPU, where the others would wait for a GPU. Else PyTorch's current one.

    Raises:
        DPEError: no such name, or PyTorch finds no such device here or cannot compute on it.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError as error:
        raise DPEError(f"device: expected auto, cpu, cuda, cuda:1 or mps, got {name!r}.") from error
    if device == torch.device("cuda") and number is not None:
        device = torch.device("cuda", number)
    count = torch.cuda.device_count()
    way_out = (
        "Choose another, or auto." if number is None else "Start a process for each GPU that works, or choose cpu."
    )
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DPEError(f"device: {device} was asked for, but PyTorch finds {count} GPUs here. {way_out}")
    if (failure := _failure(device)) is None:
        return device
    if name == "auto" and number is None:
        logger.warning("There is a GPU, but PyTorch cannot compute on it (%s): the CPU is used.", _reason(failure))
        return torch.device("cpu")
    # Of the others nothing says whether they are there.
    trouble = f"cannot compute there ({_reason(failure)})" if device.type == "cuda" else "has none here"
    raise DPEError(f"device: {device} was asked for, but PyTorch {trouble}. {way_out}") from failure


def _failure(device: torch.device) -> Exception | None:
    """What goes wrong on a device, if anything does.

    It is made to add, since PyTorch also hands out memory of GPUs for which it was built without code.
    """
    try:
        (torch.ones(1, device=device) + 1.0).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device fails in its own way
        return error
    return None


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200].rstrip(".")


def best_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype in which a device computes well: bfloat16 or float16 on a CUDA or ROCm GPU, else float32.

    Of NVIDIA's, bfloat16 is in hardware from compute capability 8 on, and float16 is fast from 7 on. AMD's report the
    number of their architecture as the capability, which says nothing of the kind.
    """
    if device.type != "cuda":
        return torch.float32
    if torch.version.hip is not None:
        architecture = torch.cuda.get_device_properties(device).gcnArchName
        return torch.float16 if architecture.startswith(AMD_WITHOUT_BFLOAT16) else torch.bfloat16
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return torch.bfloat16
    if major < 7 or any(part in torch.cuda.get_device_name(device) for part in BROKEN_FLOAT16):
        return torch.float32
    return torch.float16


@functools.cache
def emulates_bfloat16(kind: str) -> bool:
    """Whether a type of device (`cpu`, `cuda`, ...) has no bfloat16 in hardware here: far slower then than float32."""
    if kind != "cpu":
        return False
    # Nothing promises this question, so nothing depends on the answer but speed.
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or not supported()


def picture_bytes(config: NetworkConfig, dtype: torch.dtype) -> int:
    """Working memory of one picture in flight, source features included: an estimate, in bytes."""
    return MAPS * config.channels[config.size] * config.size**2 * dtype.itemsize


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on a GPU now; None where that is not known, or the operating system's business."""
    if device.type != "cuda":
        return None
    # Versions before 2.5 take no device without a number there.
    index = torch.cuda.current_device() if device.index is None else device.index
    free, _ = torch.cuda.mem_get_info(index)
    return free + torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)


def best_chunk(config: NetworkConfig, dtype: torch.dtype, device: torch.device, free: int | None) -> int:
    """How many pictures to process at a time.

    Args:
        config, dtype: the network's.
        device: where it runs.
        free: bytes that can be allocated there, if known.
    """
    most = MOST_PICTURES.get(device.type, MOST_PICTURES["cuda"])
    most = min(max(most, most * 256**2 // config.size**2), 4 * most)
    if free is None:
        return most
    return max(1, min(most, int(free * SHARE) // picture_bytes(config, dtype)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device's memory is exhausted. Only CUDA's has a type of its own."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in TOO_LITTLE)


class _Setting:
    """One of PyTorch's settings of how float32 is computed, as an attribute of `owner`, or by a pair of functions."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None], exact: Any) -> None:
        self.read, self.write, self.exact = read, write, exact

    @classmethod
    def attribute(cls, owner: Any, name: str, exact: Any) -> _Setting:
        """The setting that is an attribute."""
        return cls(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), exact)


def _ways_to_exact() -> tuple[tuple[Any, tuple[_Setting, ...]], ...]:
    """For matrix products and for convolutions: where newer versions tell what is done, and what sets it.

    The older interface comes first: PyTorch's own compiler reads that. It does not undo what was set by the newer one.
    """
    products, convolutions = torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None)
    by_name = _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
    return (
        (products, (by_name, _Setting.attribute(products, "fp32_precision", "ieee"))),
        (
            convolutions,
            (
                _Setting.attribute(torch.backends.cudnn, "allow_tf32", False),
                _Setting.attribute(convolutions, "fp32_precision", "ieee"),
            ),
        ),
    )


def _precisions() -> Iterator[tuple[Any, str]]:
    """Whatever holds a float32 precision in newer versions and is changed by a setting, with what to write it back as.

    Read, one that was never set looks like its backend's: to write that would end its following the backend.
    """
    backends = torch.backends
    for backend, name, owner in (
        (backends.cudnn, "matmul", backends.cuda),
        (backends.cudnn, "conv", backends.cudnn),
        (backends.cudnn, "rnn", backends.cudnn),
        (backends.mkldnn, "matmul", backends.mkldnn),
    ):
        operation: Any = getattr(owner, name, None)
        if hasattr(operation, "fp32_precision") and hasattr(backend, "fp32_precision"):
            value = operation.fp32_precision
            yield operation, "none" if value == backend.fp32_precision else value


class _TF32:
    """PyTorch's TF32 switches, off while anybody needs that. They are the whole process's, and threads come and go."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before: list[tuple[_Setting, Any]] = []
        self._precisions: list[tuple[Any, str]] = []

    @contextmanager
    def off(self) -> Iterator[None]:
        """TF32 is off inside; the last to leave puts it back."""
        with self._lock:
            if self._users == 0:
                self._precisions = [*_precisions()]
                self._before = [*self._switched_off()]
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._put_back()

    def _put_back(self) -> None:
        for setting, value in reversed(self._before):
            setting.write(value)
        for owner, precision in self._precisions:  # which the settings change too, and more of them than they name
            owner.fp32_precision = precision

    @staticmethod
    def _switched_off() -> Iterator[tuple[_Setting, Any]]:
        for told, settings in _ways_to_exact():
            for setting in settings:
                try:
                    before = setting.read()
                    setting.write(setting.exact)
                # The two interfaces do not mix, and older versions have one.
                except (RuntimeError, AttributeError) as error:
                    logger.debug("One way to switch TF32 off is not open (%s).", error)
                    continue
                yield setting, before
                if getattr(told, "fp32_precision", "none") != "tf32":
                    break


_tf32 = _TF32()


def exact_float32(device: torch.device) -> AbstractContextManager[None]:
    """Keep float32 convolutions and matrix products on a GPU from being rounded to TF32; restored afterwards.

    Who asks for float32 there wants the exact result: the fast choice is half precision.
    """
    return _tf32.off() if device.type == "cuda" else nullcontext()


def upload(frames: Tensor, device: torch.device) -> Tensor:
    """Frames on the device; to a GPU without waiting for it, where the system grants locked memory."""
    if device.type != "cuda" or frames.device.type != "cpu":
        return frames.to(device)
    # Expanded frames (grey ones as RGB) cannot be pinned as they are.
    frames = frames.contiguous()
    pinned = _locked(frames.pin_memory)
    return frames.to(device) if pinned is None else pinned.to(device, non_blocking=True)


def _locked(allocate: Callable[[], Tensor]) -> Tensor | None:
    """Memory locked for copying, as `allocate` makes it; None where the system grants none, as WSL and containers may.

    What else an error says, on a GPU that went wrong before, the ordinary copy says again.
    """
    try:
        return allocate()
    except RuntimeError as error:
        _say_unlocked(_reason(error))
        return None


@functools.cache
def _say_unlocked(reason: str) -> None:
    """Say it once, for it may happen with every chunk."""
    logger.info("No memory could be locked for copying (%s): copies wait for the GPU.", reason)


class Download:
    """Tensors on their way to the CPU, on a stream of their own: the GPU goes on meanwhile."""

    def __init__(self, tensors: tuple[Tensor, ...], stream: torch.cuda.Stream | None = None) -> None:
        self._event: torch.cuda.Event | None = None
        if stream is None:
            self._tensors = tuple(t.cpu() for t in tensors)
            return
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            self._tensors = tuple(self._begin(t, stream) for t in tensors)
            self._event = stream.record_event()

    @staticmethod
    def _begin(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
        arrived = _locked(lambda: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True))
        if arrived is None:
            return tensor.cpu()
        arrived.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)  # its memory is not to be used again before it has left
        return arrived

    def wait(self) -> tuple[Tensor, ...]:
        """The tensors, once they have arrived; in ordinary memory, since locked pages are scarce."""
        if self._event is None:
            return self._tensors
        self._event.synchronize()
        return tuple(t.clone() for t in self._tensors)
