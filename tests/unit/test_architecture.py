"""Arrows between rooms point one way, and the package works wherever it is put."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dpe_model"
HOST = {"comfy", "comfy_api", "folder_paths", "nodes", "server"}
OPTIONAL = {"insightface", "cv2", "numba", "tensorboard", "lmdb", "torchvision"}


def imports(path: Path) -> list[tuple[int, str]]:
    """Every import of a file as (level, module)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_the_core_knows_no_host_and_not_its_own_name(path):
    for level, module in imports(path):
        top = module.split(".")[0]
        assert level or (top not in HOST and top != "dpe_model"), f"imports {module}"


@pytest.mark.parametrize(
    ("room", "unknown"),
    [
        ("network", {"portrait", "video", "engine", "jobs", "training"}),
        ("portrait", {"network", "video", "engine", "jobs", "training"}),
        ("video", {"network", "portrait", "engine", "jobs", "training"}),
    ],
)
def test_rooms_do_not_know_each_other(room, unknown):
    for path in (PACKAGE / room).rglob("*.py"):
        for level, module in imports(path):
            assert level < 2 or module.split(".")[0] not in unknown, f"{path.name} imports {module}"


def test_nodes_reach_the_core_relatively():
    for path in (ROOT / "nodes").glob("*.py"):
        assert all(level or module.split(".")[0] != "dpe_model" for level, module in imports(path)), path.name


def test_nothing_is_imported_before_it_is_needed():
    """No optional package; nor, for a picture driven by another, SciPy or PyTorch's compiler, which take seconds."""
    script = (
        "import sys, torch\n"
        "slow = {'scipy', 'torch._dynamo'} - set(sys.modules)\n"
        "import dpe_model.commands, dpe_model.jobs, dpe_model.portrait\n"
        "from dpe_model.bundled import default_model\n"
        "dpe_model.commands.build_parser()\n"
        "engine = dpe_model.Engine(dpe_model.load_checkpoint(default_model()))\n"
        "latent = engine.encode(torch.zeros(1, 256, 256, 3))\n"
        "list(engine.render(latent.with_edit('expression', dpe_model.Edit(latent.motion)), 'expression'))\n"
        f"loaded = ({OPTIONAL!r} | slow) & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
