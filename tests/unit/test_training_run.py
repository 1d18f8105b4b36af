"""Whole training runs of a tiny network: resuming, several processes, growth, interruption, data."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.sharedctypes import RawValue
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dpe_model import devices
from dpe_model.checkpoint import BranchRoles, convert_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from dpe_model.commands import main
from dpe_model.errors import CheckpointError, DPEError
from dpe_model.network import DPENetwork
from dpe_model.training import guard, processes
from dpe_model.training.config import ConfigError, Source, config_from, config_values, load_values
from dpe_model.training.data import DataError, Share, StepData, SupervisedBatch, step_batches
from dpe_model.training.data.clips import ClipReader, find_clips
from dpe_model.training.data.step_data import _Outliving, _Told, open_source
from dpe_model.training.guard import DivergedError
from dpe_model.training.optimisers import Muon
from dpe_model.training.processes import Interruption
from dpe_model.training.start import warm_start
from dpe_model.training.state import load_state, optimiser_tensors, restore_optimiser, save_state
from dpe_model.training.steps import cast_convolutions
from dpe_model.training.trainer import Trainer, learning_rate
from dpe_model.video import FrameWriter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for clip in range(3):
        (folder / f"clip{clip}").mkdir()
        for i in range(4):
            picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(picture).save(folder / f"clip{clip}" / f"{i:03d}.png")
    return folder


def values(clips, out, **changes):
    base = {
        "out": str(out),
        "preset": "published",
        "network": {"style_dim": 8, "motion_dim": 4, "channels": {"4": 8, "8": 8, "16": 8, "32": 8}},
        "stages": [{"size": 16, "steps": 4, "batch": 8}],
        "sources": [{"kind": "clips", "path": str(clips)}],
        "output": {"log_every": 1, "sheet_every": 2, "save_every": 2, "tensorboard": False, "progress": False},
        "ema": 0.9,
        "device": "cpu",
        "threads": 1,
    }
    return {**base, **changes}


def tensors(folder):
    return load_file(folder / json.loads((folder / "resume.json").read_text())["tensors"])


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(a, b):
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different, different[:5]


@pytest.mark.parametrize("kind", ["published", "bf16 and gradient penalty"])
def test_resumed_steps_equal_straight_ones_bit_for_bit(clips, tmp_path, kind):
    extra = (
        {}
        if kind == "published"
        else {"precision": "bf16", "channels_last": True, "published": {"r1": 1.0, "r1_every": 2}}
    )
    straight = config_from(values(clips, tmp_path / "straight", **extra))
    Trainer(straight).run()
    first = config_from(
        values(clips, tmp_path / "sliced", **{**extra, "stages": [{"size": 16, "steps": 2, "batch": 8}]})
    )
    assert Trainer(first).run().step == 2
    second = config_from(values(clips, tmp_path / "sliced", **extra))
    outcome = Trainer(second, tmp_path / "sliced").run()
    assert (outcome.step, outcome.reason) == (4, "done")
    assert_same(tensors(tmp_path / "straight"), tensors(tmp_path / "sliced"))
    assert [m["loss"] for m in metrics(tmp_path / "straight")] == [m["loss"] for m in metrics(tmp_path / "sliced")]


def test_a_run_leaves_a_checkpoint_metrics_and_sheets(clips, tmp_path):
    torch.manual_seed(1)
    config = config_from(values(clips, tmp_path, title="tiny", license="MIT"))
    Trainer(config).run()
    file = read_checkpoint(tmp_path / "checkpoint-0000004.safetensors")
    assert file.config.size == 16
    assert file.metadata["title"] == "tiny" and file.metadata["step"] == "4"
    assert json.loads(file.metadata["training"])["network"]["style_dim"] == 8
    assert str(tmp_path) not in file.metadata["training"] and str(clips) not in file.metadata["training"]
    assert [m["step"] for m in metrics(tmp_path)] == [1, 2, 3, 4]
    assert all(np.isfinite(m["loss"]) and m["discriminator"] > 0 for m in metrics(tmp_path))
    sheet = Image.open(tmp_path / "sheets" / "sheet-0000002.png")
    assert sheet.width == 8 * 16
    names = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert names == ["checkpoint-0000002.safetensors", "checkpoint-0000004.safetensors", "resume-00000004.safetensors"]


def test_tensorboard_gets_scalars_and_sheets(clips, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = {"log_every": 1, "sheet_every": 2, "progress": False}
    Trainer(config_from(values(clips, tmp_path, output=output))).run()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.step for e in events.Images("sheet")] == [2, 4]


def test_averaged_weights_lie_between_the_first_and_the_last(clips, tmp_path):
    config = config_from(values(clips, tmp_path))
    trainer = Trainer(config)
    before = trainer.network.mlp[0].bias.detach().clone()
    trainer.run()
    after, mean = trainer.network.mlp[0].bias, trainer.ema.mlp[0].bias
    assert (mean - before).norm() < (after - before).norm()
    assert (mean - after).norm() > 0


def test_accumulated_parts_give_the_loss_of_the_whole(clips, tmp_path):
    losses = []
    for parts in (1, 2):
        config = config_from(
            values(clips, tmp_path / str(parts), accumulate=parts, stages=[{"size": 16, "steps": 2, "batch": 8}])
        )
        Trainer(config).run()
        losses.append([m["loss"] for m in metrics(tmp_path / str(parts))])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_two_processes_have_the_loss_of_one_on_the_joint_batch(clips, tmp_path):
    Trainer(config_from(values(clips, tmp_path / "one"))).run()
    path = tmp_path / "two.json"
    path.write_text(json.dumps(values(clips, tmp_path / "two")))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "dpe_model", "train", "--config", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 4
    for name in ("loss", "l1", "self", "adversarial", "discriminator"):
        assert [m[name] for m in one] == pytest.approx([m[name] for m in two], rel=1e-3), name


def test_growth_through_stages_and_resume_in_the_second(clips, tmp_path):
    stages = [{"size": 16, "steps": 2, "batch": 4}, {"size": 32, "steps": 2, "batch": 4}]
    config = config_from(values(clips, tmp_path / "straight", stages=stages))
    Trainer(config).run()
    assert read_checkpoint(tmp_path / "straight" / "checkpoint-0000004.safetensors").config.size == 32
    sliced = values(clips, tmp_path / "sliced", stages=stages, max_seconds=1e-6)
    for _ in range(4):
        folder = tmp_path / "sliced"
        outcome = Trainer(config_from(sliced), folder if (folder / "resume.json").exists() else None).run()
    assert outcome.step == 4 and outcome.reason in ("done", "time")
    assert {k: v.shape for k, v in tensors(tmp_path / "sliced").items()} == {
        k: v.shape for k, v in tensors(tmp_path / "straight").items()
    }


def test_a_signal_saves_and_ends_the_run(clips, tmp_path):
    config = config_from(values(clips, tmp_path, stages=[{"size": 16, "steps": 100_000, "batch": 4}]))
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    started = time.monotonic()
    outcome = Trainer(config).run()
    assert outcome.reason == "interrupted" and time.monotonic() - started < 30
    assert json.loads((tmp_path / "resume.json").read_text())["step"] == outcome.step
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def start(folder, config):
    """The command on a configuration, in a session of its own, once it has done some steps."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "dpe_model", "train", "--config", str(path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = Path(config["out"]) / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (lines.exists() and lines.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)])
def test_a_signal_to_the_whole_group_leaves_workers_to_the_run(clips, tmp_path, signals):
    config = values(clips, tmp_path / "out", workers=2, stages=[{"size": 16, "steps": 100_000, "batch": 4}])
    process = start(tmp_path, config)
    try:
        for number in signals:
            os.killpg(process.pid, number)
            time.sleep(0.02)
        _, told = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0 and "interrupted" in told, told[-2000:]
    assert load_state(tmp_path / "out")[1]["step"] > 0


def test_a_second_sigint_is_fatal_and_a_second_sigterm_only_after_a_while(monkeypatch):
    ended = []
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert interruption.requested and not ended
            monkeypatch.setattr(processes, "PATIENCE", -1.0)
            signal.raise_signal(signal.SIGTERM)
            assert ended
        with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert interruption.requested
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


HELD = """
import sys
from dpe_model.training.config import Source
from dpe_model.training.data import Share, StepData, step_batches
held = step_batches(StepData((Source("clips", sys.argv[1]),), 16, 4, 0, Share()), 0, 1000, 1)
next(held)
sys.held = held, sys._getframe()
raise RuntimeError("on purpose")
"""


def test_workers_do_not_outlive_the_program(clips):
    """Whatever keeps the batches when it ends: the frame of an error, say."""
    done = subprocess.run(
        [sys.executable, "-c", HELD, str(clips)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stderr.strip().endswith("on purpose")


def test_what_goes_to_workers_can_be_sent(clips):
    """As to those that start anew and get all they know in a message."""
    data = StepData((Source("clips", str(clips)),), 16, 4, 0, Share())
    pickle.dumps(_Told(data))
    # Shared numbers travel to a new process alone, so its start is the check.
    process = multiprocessing.get_context("spawn").Process(target=_Outliving(RawValue("b", 0)), args=(0,))
    process.start()
    process.join(200)
    assert process.exitcode == 0


# What a run writes over, and goes on with


def test_a_new_run_does_not_write_over_another(clips, tmp_path):
    Trainer(config_from(values(clips, tmp_path))).run()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(ConfigError, match="--resume"):
        Trainer(config_from(values(clips, tmp_path)))
    elsewhere = tmp_path / "elsewhere"
    Trainer(config_from(values(clips, elsewhere))).run()
    with pytest.raises(ConfigError, match="holds one"):
        Trainer(config_from(values(clips, tmp_path)), elsewhere)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_a_moved_run_goes_on_where_it_is(clips, tmp_path):
    stages = [{"size": 16, "steps": 1, "batch": 4}]
    Trainer(config_from(values(clips, tmp_path / "old", stages=stages))).run()
    (tmp_path / "old").rename(tmp_path / "new")
    assert main(["train", "--resume", str(tmp_path / "new"), "stages.0.steps=2"]) == 0
    assert load_state(tmp_path / "new")[1]["step"] == 2 and not (tmp_path / "old").exists()
    other = json.dumps(str(tmp_path / "other"))
    assert main(["train", "--resume", str(tmp_path / "new"), "stages.0.steps=3", f"out={other}"]) == 0
    assert load_state(tmp_path / "other")[1]["step"] == 3 and load_state(tmp_path / "new")[1]["step"] == 2


def test_quiet_shows_no_progress(clips, tmp_path, capsys):
    for name, options in (("loud", []), ("quiet", ["--quiet"])):
        config = values(clips, tmp_path / name, stages=[{"size": 16, "steps": 1, "batch": 4}])
        config["output"] = {**config["output"], "progress": True}
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        assert main(["train", "--config", str(tmp_path / f"{name}.json"), *options]) == 0
        assert ("1/1" in capsys.readouterr().err) == (name == "loud")


@pytest.mark.parametrize(
    "then, message",
    [
        ({"optimiser": {"kind": "muon"}}, "optimiser.kind"),
        ({"stages": [{"size": 16, "steps": 2, "batch": 4, "branch": "exp"}]}, "stages.0.branch"),
        ({"stages": [{"size": 16, "steps": 2, "batch": 4, "phase": "flow"}]}, "stages.0.phase"),
    ],
)
def test_a_run_goes_on_with_the_optimiser_it_had(clips, tmp_path, then, message):
    Trainer(config_from(values(clips, tmp_path, stages=[{"size": 16, "steps": 1, "batch": 4}]))).run()
    changed = values(clips, tmp_path, stages=[{"size": 16, "steps": 2, "batch": 4}]) | then
    with pytest.raises(CheckpointError, match=message):
        Trainer(config_from(changed), tmp_path)


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    save_state(tmp_path, {"a": torch.ones(1)}, {"step": 1})
    with monkeypatch.context() as patched, pytest.raises(OSError, match="full"):
        patched.setattr("dpe_model.files.save_file", lambda tensors, path, metadata: full_disk(path))
        save_state(tmp_path, {"a": torch.ones(1)}, {"step": 2})
    assert load_state(tmp_path)[1]["step"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {"resume.json", "resume-00000001.safetensors"}
    for stale in (".resume-00000002.safetensors.1.partial", ".resume.json.1.partial"):
        (tmp_path / stale).touch()
    save_state(tmp_path, {"a": torch.ones(1)}, {"step": 3})
    assert {p.name for p in tmp_path.iterdir()} == {"resume.json", "resume-00000003.safetensors"}


def full_disk(path):
    path.write_bytes(b"half")
    raise OSError("disk full")


def test_state_of_another_optimiser_is_refused():
    weight = torch.nn.Parameter(torch.ones(8, 8))
    weight.grad = torch.ones(8, 8)
    adam = torch.optim.Adam([weight])
    adam.step()
    saved = optimiser_tensors(adam, "optimiser")
    for other in (Muon([weight], 0.1, 0.9, (0.9, 0.9)), torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])):
        with pytest.raises(CheckpointError, match="optimiser.kind"):
            restore_optimiser(other, saved, "optimiser")
    restore_optimiser(adam, saved, "optimiser")


# Which branch is which


@pytest.mark.parametrize("pose", ["pose", "exp"])
def test_a_warm_start_hands_on_its_roles(clips, tmp_path, pose):
    roles = BranchRoles(expression="exp" if pose == "pose" else "pose", pose=pose)
    network = DPENetwork(config_from(values(clips, tmp_path)).network.at(16))
    save_checkpoint(tmp_path / "first.safetensors", network, roles)
    stages = [{"size": 16, "steps": 1, "batch": 4}]
    changes = {"warm_start": str(tmp_path / "first.safetensors"), "stages": stages}
    trainer = Trainer(config_from(values(clips, tmp_path / "out", **changes)))
    assert trainer.model.supervision.pose_branch == pose
    trainer.run()
    file = read_checkpoint(tmp_path / "out" / "checkpoint-0000001.safetensors")
    assert file.roles == roles and file.roles_stated
    with pytest.raises(ConfigError, match="pose_branch.*convert"):
        Trainer(config_from(values(clips, tmp_path / "b", **changes, pose_branch=roles.expression)))
    # A run that goes on keeps them, without the file it began with.
    (tmp_path / "first.safetensors").unlink()
    changes["stages"] = [{"size": 16, "steps": 2, "batch": 4}]
    with pytest.raises(ConfigError, match="pose_branch.*began"):
        Trainer(config_from(values(clips, tmp_path / "out", **changes, pose_branch=roles.expression)), tmp_path / "out")
    Trainer(config_from(values(clips, tmp_path / "out", **changes)), tmp_path / "out").run()
    file = read_checkpoint(tmp_path / "out" / "checkpoint-0000002.safetensors")
    assert file.roles == roles and file.roles_stated


def test_clips_alone_do_not_say_which_branch_is_which(clips, tmp_path, caplog):
    stages = [{"size": 16, "steps": 1, "batch": 4}]
    Trainer(config_from(values(clips, tmp_path, stages=stages))).run()
    path = tmp_path / "checkpoint-0000001.safetensors"
    assert not read_checkpoint(path).roles_stated and caplog.text.count("`roles --model CHECKPOINT`") == 1
    assert not convert_checkpoint(path, tmp_path / "half.safetensors").roles_stated


def test_the_released_model_and_rendered_heads_do(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.training.data.step_data.open_source", lambda source: RandomHeads())
    network = DPENetwork(config_from(values(clips, tmp_path)).network.at(16))
    torch.save({"gen": network.state_dict()}, tmp_path / "released.pt")
    sources = [{"kind": "synthetic", "path": "heads"}]
    # Nothing is read off random heads.
    monkeypatch.setattr(Trainer, "_fit_heads", lambda self: None)
    for start, pose in (("", "pose"), (str(tmp_path / "released.pt"), "exp")):
        out = tmp_path / pose
        changes = {"warm_start": start, "sources": sources, "stages": [{"size": 16, "steps": 1, "batch": 4}]}
        Trainer(config_from(values(clips, out, **changes))).run()
        file = read_checkpoint(out / "checkpoint-0000001.safetensors")
        assert file.roles_stated and file.roles.pose == pose


# Numbers that are not finite


def spoiling(trainer, spoilt):
    """The trainer's step, with a NaN in the batches of the steps that `spoilt` says."""
    step = trainer.train_step

    def spoil(batch):
        if spoilt(trainer.step):
            batch.a[0, 0, 0, 0] = float("nan")
        return step(batch)

    return spoil


def test_a_step_without_finite_gradients_changes_nothing(clips, tmp_path, caplog):
    trainer = Trainer(config_from(values(clips, tmp_path, optimiser={"clip": 5.0})))
    spoil = spoiling(trainer, lambda step: step == 1)
    watched = torch.nn.ModuleList([trainer.model, trainer.ema, trainer.discriminator])

    def step(batch):
        before = {k: v.clone() for k, v in watched.state_dict().items()}
        made = spoil(batch)
        if trainer.step == 1:
            assert_same(before, watched.state_dict())
        return made

    trainer.train_step = step
    assert trainer.run().reason == "done"
    assert all(torch.isfinite(v).all() for v in tensors(tmp_path).values() if v.is_floating_point())
    assert "gradients of the network" in caplog.text and "gradients of the discriminator" in caplog.text
    assert [np.isfinite(m["loss"]) for m in metrics(tmp_path)] == [True, False, True, True]


def test_a_run_without_finite_gradients_ends(clips, tmp_path, caplog):
    stages = [{"size": 16, "steps": 100, "batch": 4}]
    trainer = Trainer(config_from(values(clips, tmp_path, stages=stages)))
    trainer.train_step = spoiling(trainer, lambda step: step >= 2)
    with pytest.raises(DivergedError, match="in a row"):
        trainer.run()
    assert trainer.step == 2 + guard.MOST_SKIPPED - 1
    assert caplog.text.count("gradients of the network are not finite") == 1
    loaded = load_checkpoint(max(tmp_path.glob("checkpoint-*.safetensors"))).network
    assert all(torch.isfinite(p).all() for p in loaded.parameters())
    assert load_state(tmp_path)[1]["step"] >= 2


@pytest.mark.parametrize("which", ["network", "ema"])
def test_weights_that_are_not_finite_are_not_saved(clips, tmp_path, which):
    trainer = Trainer(config_from(values(clips, tmp_path)))
    trainer.run()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with torch.no_grad():
        getattr(trainer, which).mlp[0].bias[0] = float("inf")
    trainer.step += 1
    with pytest.raises(DivergedError, match=rf"{which}\.mlp\.0\.bias"):
        trainer.save()
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


class RandomHeads:
    """Stands in for a renderer."""

    def sample(self, rng, size):
        def picture(*shape):
            return torch.from_numpy(rng.uniform(-1, 1, (1, *shape)).astype(np.float32))

        pictures = [picture(3, size, size) for _ in range(5)]
        vectors = [picture(6), picture(6), picture(206), picture(206)]
        flows = [picture(2, 8, 8) for _ in range(3)]
        seen = [torch.ones(1, 1, 8, 8) for _ in range(3)]
        return SupervisedBatch(*pictures, *vectors, *flows, *seen, picture(5, 136))


def test_supervised_and_clip_batches_mix(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dpe_model.training.data.step_data.open_source",
        lambda source: RandomHeads() if source.kind == "synthetic" else open_source(source),
    )
    sources = [{"kind": "clips", "path": str(clips)}, {"kind": "synthetic", "path": "heads"}]
    config = config_from(
        values(
            clips, tmp_path, preset="rendered", sources=sources, supervised={"adversarial": 0.1},
            stages=[{"size": 16, "steps": 8, "batch": 4}],
        )
    )  # fmt: skip
    Trainer(config).run()
    kinds = ["pose_flow" in m for m in metrics(tmp_path)]
    assert any(kinds) and not all(kinds)
    assert all("discriminator" in m for m, k in zip(metrics(tmp_path), kinds, strict=True) if k)


def test_lia_weights_start_the_encoder_and_the_motion(tmp_path):
    config = config_from(values("", tmp_path)).network.at(16)
    lia, network = DPENetwork(config), DPENetwork(config)
    state = {k: v for k, v in lia.state_dict().items() if k.startswith("enc.")}
    state |= {k.replace("mlp.", "enc.fc."): v for k, v in lia.state_dict().items() if k.startswith("mlp.")}
    state |= {"dec.direction.weight": lia.dir.weight.data, "dec.input.input": torch.zeros(3)}
    torch.save({"gen": state, "dis": {"x": torch.ones(1)}}, tmp_path / "vox.pt")
    fresh = network.dec_pose.input.input.clone()
    warm_start(network, tmp_path / "vox.pt")
    assert torch.equal(network.dir.weight, lia.dir.weight)
    assert torch.equal(network.mlp[4].weight, lia.mlp[4].weight)
    assert torch.equal(network.enc.net_app.convs[0].conv.weight, lia.enc.net_app.convs[0].conv.weight)
    assert torch.equal(network.dec_pose.input.input, fresh)
    del state["enc.fc.0.weight"]
    torch.save({"gen": state}, tmp_path / "vox.pt")
    with pytest.raises(CheckpointError, match="mlp.0.weight"):
        warm_start(network, tmp_path / "vox.pt")


def test_a_network_with_lias_encoder_starts_as_a_copy(tmp_path):
    torch.manual_seed(0)
    network = {"style_dim": 8, "motion_dim": 4, "channels": {"4": 8, "8": 8, "16": 32}}
    config = values("", tmp_path / "out", warm_start=str(tmp_path / "vox.pt"), network=network)
    state = DPENetwork(config_from(config).network.at(16)).state_dict()
    lia = {k.replace("mlp.", "enc.fc."): v for k, v in state.items() if k.startswith(("enc.", "mlp."))}
    torch.save({"gen": lia | {"dec.direction.weight": state["dir.weight"]}}, tmp_path / "vox.pt")
    started = Trainer(config_from(config))
    # Far from the edges, where blurred maps fade out, and of pictures that vary smoothly.
    source = torch.rand(4, 3, 1, 1) * 1.6 - 0.8 + torch.linspace(-0.2, 0.2, 16).expand(16, 16)
    with torch.no_grad():
        encoded = started.network.encode(source)
        for branch in ("pose", "exp"):
            made = started.network.render(encoded, started.network.motion(encoded.w), branch)
            assert (made - source)[..., 5:11, 5:11].abs().mean() < 0.08, branch


def test_a_checkpoint_starts_a_run(clips, tmp_path):
    Trainer(config_from(values(clips, tmp_path / "a"))).run()
    path = tmp_path / "a" / "checkpoint-0000004.safetensors"
    trainer = Trainer(config_from(values(clips, tmp_path / "b", warm_start=str(path))))
    assert_same(trainer.network.state_dict(), load_checkpoint(path, training=True).network.state_dict())


@pytest.mark.parametrize("parts, world", [(4, 1), (1, 4), (2, 2)])
def test_batches_split_evenly(clips, tmp_path, parts, world):
    stages = [{"size": 16, "steps": 1, "batch": 8}, {"size": 16, "steps": 1, "batch": 6}]
    config = config_from(values(clips, tmp_path, accumulate=parts, stages=stages))
    with pytest.raises(ConfigError, match=rf"stages.1.batch.*{world} processes.*accumulate = {parts}.*got 6"):
        Trainer(config, share=Share(0, world))


def test_motion_stays_in_full_precision(clips, tmp_path):
    cast = cast_convolutions(Trainer(config_from(values(clips, tmp_path))).model, torch.bfloat16)
    assert cast["network.dir.weight"].dtype == cast["network.mlp.0.weight"].dtype == torch.float32
    assert cast["network.enc.net_app.convs.0.0.weight"].dtype == torch.bfloat16


def test_learning_rate_rises_and_falls(clips, tmp_path):
    config = config_from(values(clips, tmp_path, optimiser={"lr": 0.01, "warmup": 10, "decay": 0.5}))
    stage = type(config.stages[0])(16, 100, 8)
    assert learning_rate(config, stage, 0) == pytest.approx(0.001)
    assert learning_rate(config, stage, 30) == 0.01
    assert learning_rate(config, stage, 75) == pytest.approx(0.005)
    assert learning_rate(config, stage, 100) == pytest.approx(0.0)


# Configuration


def test_configuration_reads_toml_and_json_alike(tmp_path):
    toml = tmp_path / "a.toml"
    toml.write_text('preset = "rendered"\nema = 0.5\n[network.channels]\n4 = 8\n8 = 8\n16 = 8\n[[stages]]\nsize = 16\n')
    data = {
        "preset": "rendered",
        "ema": 0.5,
        "network": {"channels": {"4": 8, "8": 8, "16": 8}},
        "stages": [{"size": 16}],
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    overrides = ["optimiser.lr=0.5", "stages.0.steps=7", "title=hello"]
    as_json = config_from(load_values(tmp_path / "a.json", overrides))
    assert (as_json.optimiser.lr, as_json.stages[0].steps, as_json.title) == (0.5, 7, "hello")
    assert as_json.optimiser.beta1 == 0.5 and as_json.ema == 0.5
    if sys.version_info >= (3, 11):
        assert load_values(toml) == load_values(tmp_path / "a.json")
    assert config_from(config_values(as_json)) == as_json


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optimizer": {}}, "unknown key optimizer"),
        ({"optimiser": {"rate": 1}}, "unknown key optimiser.rate"),
        ({"stages": [{"size": 48}]}, "powers of two"),
        ({"stages": []}, "at least one"),
        ({"stages": [{"size": 32}, {"size": 16}]}, "shrink"),
        ({"ema": "high"}, "ema: expected float"),
        ({"precision": "fp8"}, "precision"),
        ({"preset": "best"}, "preset"),
        ({"accumulate": 0}, "accumulate"),
        ({"network": {"channels": {"4": 8}}}, "channels"),
        ({"threads": True}, "threads"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        config_from(change)


def test_wrong_overrides_and_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    for override in ("lr", "stages.3.size=1", "title.x=1"):
        with pytest.raises(ConfigError):
            config_from(load_values(tmp_path / "a.json", ["title=a", override] if "title" in override else [override]))
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ConfigError, match="b.json"):
        load_values(tmp_path / "b.json")
    with pytest.raises(ConfigError, match="none.toml"):
        load_values(tmp_path / "none.toml")


def test_presets_hold_the_published_weights():
    published = config_from({})
    assert (published.published.discriminator, published.optimiser.lr, published.optimiser.beta1) == (10.0, 0.002, 0.0)
    assert published.stages[0].batch == 64 and published.adversarial
    assert not config_from({"preset": "rendered"}).adversarial


def test_resuming_nothing_is_an_error(clips, tmp_path):
    with pytest.raises(CheckpointError, match="resume"):
        Trainer(config_from(values(clips, tmp_path)), tmp_path / "nowhere")


def test_resuming_with_another_network_is_an_error(clips, tmp_path):
    Trainer(config_from(values(clips, tmp_path))).run()
    other = {"style_dim": 12, "motion_dim": 4, "channels": {"4": 8, "8": 8, "16": 8}}
    with pytest.raises(CheckpointError, match="configuration"):
        Trainer(config_from(values(clips, tmp_path, network=other)), tmp_path)


# Data


def test_processes_share_a_joint_batch_by_stride(clips, tmp_path):
    sources = config_from(values(clips, tmp_path)).sources
    joint = StepData(sources, 16, 4, 7, Share())[3]
    parts = [StepData(sources, 16, 4, 7, Share(rank, 2))[3] for rank in range(2)]
    assert torch.equal(joint.a[0::2], parts[0].a) and torch.equal(joint.b[1::2], parts[1].b)
    assert not torch.equal(joint.a, StepData(sources, 16, 4, 8, Share())[3].a)
    assert joint.a.shape == (4, 3, 16, 16) and joint.a.abs().max() <= 1.0


def test_a_video_is_a_clip(tmp_path):
    with FrameWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(torch.randint(0, 255, (6, 32, 32, 3), dtype=torch.uint8))
    sources = config_from({"sources": [{"kind": "clips", "path": str(tmp_path), "jitter": 0.2}]}).sources
    pair = open_source(sources[0]).sample(np.random.default_rng(0), 16)
    assert pair.a.shape == (1, 3, 16, 16)


def write_clip(path, frames, side=32, seed=0):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FrameWriter(path, 25) as writer:
        # Frame number i is grey i, the clip's own noise aside.
        levels = np.arange(frames, dtype=np.uint8)[:, None, None, None] + rng.integers(0, 2, (1, side, side, 1))
        writer.write(torch.from_numpy(np.broadcast_to(levels, (frames, side, side, 3)).astype(np.uint8)))


def reader(folder, **options):
    return ClipReader(Source("clips", str(folder)), **options)


def test_clips_lie_as_deep_as_they_do(clips, tmp_path):
    write_clip(tmp_path / "id10001" / "a" / "1.mp4", 4)
    write_clip(tmp_path / "0.MP4", 4)
    shutil.copytree(clips / "clip0", tmp_path / "id10002" / "frames")
    for name in ("README.txt", "cover.png", ".hidden.mp4", "id10001/labels.csv"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "id10001" / "again").symlink_to(tmp_path / "id10001")
    found = [p.relative_to(tmp_path).as_posix() for p in find_clips(tmp_path)]
    assert found == ["0.MP4", "id10001/a/1.mp4", "id10002/frames"]
    assert find_clips(clips / "clip0") == [clips / "clip0"]
    assert reader(tmp_path).sample(np.random.default_rng(0), 16).a.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_kept_frames_span_the_clip(tmp_path, ending):
    write_clip(tmp_path / "clip.mp4", 100)
    path = tmp_path / f"clip{ending}"
    if ending == ".avi":  # whose container does not tell the count
        with av.open(str(tmp_path / "clip.mp4")) as old, av.open(str(path), "w") as new:
            stream = new.add_stream("mjpeg", rate=25, width=32, height=32, pix_fmt="yuvj420p")
            for frame in old.decode(video=0):
                new.mux(stream.encode(frame.reformat(format="yuvj420p")))
            new.mux(stream.encode(None))
        (tmp_path / "clip.mp4").unlink()
    kept = reader(tmp_path, frames_a_clip=8)._frames(path)
    levels = [np.asarray(Image.open(io.BytesIO(content))).mean() for content in kept]
    assert levels == pytest.approx(np.linspace(0, 99, 8), abs=4)


def test_clips_are_kept_as_memory_allows_and_drawn_alike(tmp_path):
    for i in range(3):
        write_clip(tmp_path / f"{i}.mp4", 8, seed=i)
    wide, narrow = reader(tmp_path), reader(tmp_path, most_bytes=1)
    for n in range(20):
        a, b = (r.sample(np.random.default_rng(n), 16) for r in (wide, narrow))
        assert torch.equal(a.a, b.a) and torch.equal(a.b, b.b)
    assert len(wide.kept) == 3 and len(narrow.kept) == 1
    assert narrow.bytes == sum(map(len, next(iter(narrow.kept.values()))))


def test_a_broken_clip_is_passed_over(tmp_path, caplog):
    write_clip(tmp_path / "b.mp4", 4)
    write_clip(tmp_path / "single.mp4", 1)
    (tmp_path / "a.mp4").write_bytes(b"x" * 1000)
    used = reader(tmp_path)
    samples = [used.sample(np.random.default_rng(n), 16) for n in range(12)]
    assert used.broken == {tmp_path / "a.mp4", tmp_path / "single.mp4"}
    assert caplog.text.count("a.mp4") == 1 and caplog.text.count("single.mp4") == 1
    # What is known to be broken makes no difference to what is drawn.
    for n, sample in enumerate(samples):
        assert torch.equal(sample.a, used.sample(np.random.default_rng(n), 16).a)
        assert torch.equal(sample.a, reader(tmp_path).sample(np.random.default_rng(n), 16).a)
    (tmp_path / "b.mp4").unlink()
    useless = reader(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match=r"none of the 2.*mp4"):
            useless.sample(np.random.default_rng(0), 16)


def test_a_workers_error_is_the_one_it_met(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x" * 1000)
    data = StepData((Source("clips", str(tmp_path)),), 16, 4, 0, Share())
    with pytest.raises(DataError, match="none of the 1") as met:
        next(step_batches(data, 0, 4, 1))
    assert "Traceback" not in str(met.value)


def test_lmdb_layout(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    (tmp_path / "256").mkdir()
    environment = lmdb.open(str(tmp_path / "256"), map_size=2**24)
    with environment.begin(write=True) as transaction:
        transaction.put(b"id1#a#1-length", b"2")
        for i in range(2):
            path = tmp_path / f"{i}.png"
            Image.fromarray(np.full((32, 32, 3), 50 * i, np.uint8)).save(path)
            transaction.put(f"id1#a#1-{i:07d}".encode(), path.read_bytes())
    environment.close()
    (tmp_path / "train_list.txt").write_text("id1#a#1\n")
    sources = config_from({"sources": [{"kind": "lmdb", "path": str(tmp_path)}]}).sources
    pair = open_source(sources[0]).sample(np.random.default_rng(0), 16)
    assert pair.a.shape == (1, 3, 16, 16) and pair.a.unique().numel() == 1


def test_lmdb_is_asked_for_only_when_chosen(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    sources = config_from({"sources": [{"kind": "lmdb", "path": str(tmp_path)}]}).sources
    with pytest.raises(DataError, match="lmdb"):
        open_source(sources[0])


def test_bad_data_is_named(tmp_path):
    clips = config_from({"sources": [{"kind": "clips", "path": str(tmp_path / "none")}]}).sources
    with pytest.raises(DataError, match="none"):
        open_source(clips[0])
    (tmp_path / "empty").mkdir()
    empty = config_from({"sources": [{"kind": "clips", "path": str(tmp_path / "empty")}]}).sources
    with pytest.raises(DataError, match="empty"):
        open_source(empty[0])
    with pytest.raises(DataError, match="sources"):
        StepData((), 16, 4, 0, Share())
    with pytest.raises(DataError, match="multiple"):
        StepData(clips, 16, 5, 0, Share(0, 2))


def test_devices_by_name():
    assert processes.pick_device("cpu").type == "cpu"


def test_each_process_trains_on_a_gpu_of_its_own(monkeypatch):
    """Of two GPUs PyTorch has no code for the second: its process says so before it trains. It takes no CPU instead,
    since the first would wait for it among the GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_failure", lambda device: RuntimeError("no kernel") if device.index == 1 else None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert processes.pick_device("auto") == processes.pick_device("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.pick_device("cuda:0") == torch.device("cuda", 0)
    for name in ("auto", "cuda"):
        with pytest.raises(DPEError, match="cuda:1 .*cannot compute there .no kernel.*Start a process for each GPU"):
            processes.pick_device(name)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DPEError, match="cuda:2 was asked for, but PyTorch finds 2 GPUs here. Start a process for"):
        processes.pick_device("auto")


def test_one_process_trains_on_the_cpu_where_the_gpu_does_not_compute(monkeypatch, caplog):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "_failure", lambda device: RuntimeError("no kernel"))
    assert processes.pick_device("auto") == torch.device("cpu")
    assert "no kernel" in caplog.text
