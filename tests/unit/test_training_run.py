"""Whole training runs of a tiny network: resuming, several processes, growth, interruption, data."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dpe_model.checkpoint import load_checkpoint, read_checkpoint
from dpe_model.errors import CheckpointError
from dpe_model.network import DPENetwork
from dpe_model.training import trainer as trainer_module
from dpe_model.training.config import ConfigError, config_from, config_values, load_config
from dpe_model.training.data import DataError, Share, StepData, SupervisedBatch, open_source
from dpe_model.training.trainer import Trainer, learning_rate, warm_start

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
    config = config_from(values(clips, tmp_path, title="tiny", license="MIT", pose_branch="exp"))
    Trainer(config).run()
    file = read_checkpoint(tmp_path / "checkpoint-0000004.safetensors")
    assert file.config.size == 16
    assert (file.roles.pose, file.roles.expression) == ("exp", "pose")
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
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        path = tmp_path / f"{processes}.json"
        path.write_text(json.dumps(values(clips, out)))
        launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *launcher, "-m", "dpe_model", "train", "--config", str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(metrics(out))
    one, two = found
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
        "dpe_model.training.data.open_source",
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


def test_a_checkpoint_starts_a_run(clips, tmp_path):
    Trainer(config_from(values(clips, tmp_path / "a"))).run()
    path = tmp_path / "a" / "checkpoint-0000004.safetensors"
    trainer = Trainer(config_from(values(clips, tmp_path / "b", warm_start=str(path))))
    assert_same(trainer.network.state_dict(), load_checkpoint(path, training=True).network.state_dict())


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
    as_json = load_config(tmp_path / "a.json", ["optimiser.lr=0.5", "stages.0.steps=7", "title=hello"])
    assert (as_json.optimiser.lr, as_json.stages[0].steps, as_json.title) == (0.5, 7, "hello")
    assert as_json.optimiser.beta1 == 0.5 and as_json.ema == 0.5
    if sys.version_info >= (3, 11):
        assert load_config(toml) == load_config(tmp_path / "a.json")
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
            load_config(tmp_path / "a.json", ["title=a", override] if "title" in override else [override])
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ConfigError, match="b.json"):
        load_config(tmp_path / "b.json")
    with pytest.raises(ConfigError, match="none.toml"):
        load_config(tmp_path / "none.toml")


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
    from dpe_model.video import FrameWriter

    with FrameWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(torch.randint(0, 255, (6, 32, 32, 3), dtype=torch.uint8))
    sources = config_from({"sources": [{"kind": "clips", "path": str(tmp_path), "jitter": 0.2}]}).sources
    pair = open_source(sources[0]).sample(np.random.default_rng(0), 16)
    assert pair.a.shape == (1, 3, 16, 16)


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
    assert trainer_module.pick_device("cpu").type == "cpu"
