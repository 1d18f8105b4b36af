"""The network, one file for each part of the paper's figure."""

from .config import BRANCHES, Branch, NetworkConfig
from .dpe import DPENetwork
from .encoder import Encoding

__all__ = ["BRANCHES", "Branch", "DPENetwork", "Encoding", "NetworkConfig"]
