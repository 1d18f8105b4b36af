"""What can go wrong, by what the caller has to mend.

Every message says what was expected, what was found, and what to do next.
"""


class DPEError(Exception):
    """Base of all errors this package raises on purpose."""


class OptionError(DPEError, ValueError):
    """An option has a value that cannot be, or does not go with the others."""


class CheckpointError(DPEError):
    """A model file cannot be used: truncated, of another model, misshapen, or holding non-finite numbers."""


class FrameError(DPEError):
    """A batch of pictures cannot be used: empty, of the wrong layout or size, or holding non-finite values."""


class MotionError(DPEError):
    """Motions or edits do not fit together: other checkpoint, other dimension, no frames."""


class NoFaceError(DPEError):
    """No face was found where one was needed; the message names the frames."""


class VideoError(DPEError):
    """A video, picture or folder of frames cannot be read or written; the message names the path."""


class DataError(DPEError):
    """Training data cannot be used: missing, empty, or of another layout; the message names the path."""


class EvaluationError(DPEError):
    """An evaluation cannot be made: a package is missing, a judge failed, or its curves do not fit the clips."""


class BatchError(DPEError):
    """A batch cannot be begun: the manifest cannot be read, or the launcher's settings make no sense."""
