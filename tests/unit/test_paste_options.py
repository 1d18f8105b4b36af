from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dpe_model.commands.paste_options import add_paste_options, paste_options
from dpe_model.portrait import PasteOptions


def parsed(*words: str) -> PasteOptions:
    parser = argparse.ArgumentParser()
    add_paste_options(parser)
    return paste_options(parser.parse_args(words))


def test_without_options_the_defaults_hold() -> None:
    assert parsed() == PasteOptions()


def test_every_option_arrives() -> None:
    words = "--mask parsing --parsing-weights w.pth --feather 0.1 --grow 1.2 --mask-smoothing 4 --detail 0.3"
    assert parsed(*words.split(), "--colour-match", "histogram") == PasteOptions(
        mask="parsing",
        feather=0.1,
        grow=1.2,
        colour_match="histogram",
        detail=0.3,
        parsing_weights=Path("w.pth"),
        mask_smoothing=4.0,
    )


def test_parsing_without_weights_is_explained() -> None:
    with pytest.raises(ValueError, match="79999_iter.pth"):
        parsed("--mask", "parsing")
