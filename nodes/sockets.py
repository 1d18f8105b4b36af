"""The pack's own sockets, and what every schema shares."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "DPE"

DPEModel = io.Custom("DPE_MODEL")
DPELatent = io.Custom("DPE_LATENT")
DPEMotion = io.Custom("DPE_MOTION")
DPECrop = io.Custom("DPE_CROP")
DPESettings = io.Custom("DPE_SETTINGS")
