"""Many frames through a small network: order, counts, memory pressure, interruption."""

import weakref

import pytest
import torch

from dpe_model.checkpoint import BranchRoles, Checkpoint, load_checkpoint, save_checkpoint
from dpe_model.devices import SHARE, picture_bytes
from dpe_model.engine import Engine, Services, resolve_precision
from dpe_model.errors import CheckpointError, DPEError, FrameError, MotionError
from dpe_model.frames import to_network
from dpe_model.motion import Edit, EditPlan
from dpe_model.network.encoder import concat_encodings

from .tiny import CONFIG, clip, tiny_checkpoint, tiny_network


def engine(chunk=3, budget=0, **services):
    return Engine(tiny_checkpoint(), chunk=chunk, services=Services(**services), feature_budget=budget)


def rendered(latent, *roles, **options):
    return torch.cat(list(engine(**options).render(latent, *roles)))


def close(a, b):
    return torch.allclose(a, b, atol=2e-4)


def test_chunks_do_not_change_the_result():
    driver = engine().encode(clip(7, seed=1)).motion
    results = []
    for chunk in (1, 3, 16):
        latent = engine(chunk).encode(clip(7)).with_edit("pose", Edit(driver))
        results.append(rendered(latent, "pose", chunk=chunk))
    assert results[0].shape == (7, 16, 16, 3)
    assert close(results[0], results[1])
    assert close(results[0], results[2])


def test_matches_the_network_called_by_hand():
    source, driving = clip(4), clip(4, seed=1)
    latent = engine().encode(source).with_edit("expression", Edit(engine().encode(driving).motion))
    network = tiny_checkpoint().network
    with torch.no_grad():
        alpha = network.motion(network.encode(to_network(driving, 16)).w)
        images = network.render(network.encode(to_network(source, 16)), alpha, "pose")
    by_hand = (images.clamp(-1, 1).permute(0, 2, 3, 1) + 1) / 2
    assert close(rendered(latent, "expression"), by_hand)


def test_roles_choose_the_branch():
    latent = engine().encode(clip(2)).with_edit("expression", Edit(engine().encode(clip(2, seed=1)).motion))
    checkpoint = tiny_checkpoint()
    swapped = Checkpoint(checkpoint.network, BranchRoles("exp", "pose"), checkpoint.fingerprint, checkpoint.name)
    as_released = torch.cat(list(Engine(checkpoint).render(latent, "expression")))
    other = torch.cat(list(Engine(swapped).render(latent, "expression")))
    assert not close(as_released, other)


def test_strength_zero_is_the_self_reconstruction_exactly():
    latent = engine().encode(clip(5))
    driver = engine().encode(clip(5, seed=1)).motion
    for role in ("expression", "pose"):
        own = rendered(latent, role)
        assert torch.equal(rendered(latent.with_edit(role, Edit(driver, 0.0)), role), own)
        assert not close(rendered(latent.with_edit(role, Edit(driver, 1.0)), role), own)


def test_both_roles_reencode_between():
    driver = engine().encode(clip(3, seed=1)).motion
    latent = engine().encode(clip(3)).with_edit("expression", Edit(driver)).with_edit("pose", Edit(driver))
    counted = engine()
    both = torch.cat(list(counted.render(latent, "expression", "pose")))
    assert (counted.passes.encoder, counted.passes.generator) == (6, 6)
    assert not close(both, rendered(latent, "pose"))


def test_every_picture_is_encoded_once():
    counted = engine(chunk=4)
    latent = counted.encode(clip(10))
    assert (counted.passes.encoder, counted.passes.generator) == (10, 0)
    list(counted.render(latent.with_edit("pose", Edit(latent.motion)), "pose"))
    assert (counted.passes.encoder, counted.passes.generator) == (20, 10)


def test_features_within_the_budget_are_kept():
    counted = engine(budget=2**30)
    latent = counted.encode(clip(10))
    kept = torch.cat(list(counted.render(latent, "pose")))
    assert (counted.passes.encoder, counted.passes.generator) == (10, 10)
    assert close(kept, rendered(engine().encode(clip(10)), "pose"))


def test_a_still_is_encoded_once_and_repeated():
    counted = engine(chunk=4, budget=2**20)
    still = counted.encode(clip(1))
    driver = engine().encode(clip(9, seed=1)).motion
    result = torch.cat(list(counted.render(still.with_edit("pose", Edit(driver)), "pose")))
    assert len(result) == 9
    assert (counted.passes.encoder, counted.passes.generator) == (1, 9)
    as_clip = engine().encode(clip(1).expand(9, -1, -1, -1)).with_edit("pose", Edit(driver))
    assert close(result, rendered(as_clip, "pose"))
    # The same without anything kept.
    assert close(result, rendered(engine().encode(clip(1)).with_edit("pose", Edit(driver)), "pose"))


@pytest.mark.parametrize("policy", ["trim", "hold", "loop", "ping_pong"])
def test_driver_shorter_than_source(policy):
    driver = engine().encode(clip(3, seed=1)).motion
    latent = engine().encode(clip(8)).with_policy(policy).with_edit("expression", Edit(driver))
    assert len(rendered(latent, "expression")) == (3 if policy == "trim" else 8)


@pytest.mark.parametrize("chunks", [(9,), (4, 5)])
def test_frames_with_nan_are_named_by_their_place_in_the_clip(chunks):
    frames = clip(9).float() / 255
    frames[7, 3, 3] = float("nan")
    for act in (
        lambda: engine(chunk=2).measure(frames.split(chunks)),
        lambda: engine(chunk=2, budget=2**30).encode(frames),
        lambda: list(engine(chunk=2).render_stream(frames.split(chunks), [("pose", EditPlan.make([], 9, "trim"))])),
    ):
        with pytest.raises(FrameError, match=r"at frame 7\."):
            act()


def test_streams_equal_batches():
    frames, driver = clip(8), engine().encode(clip(8, seed=1)).motion
    latent = engine().encode(frames).with_edit("pose", Edit(driver))
    chunks = iter([frames[:5], frames[5:6], frames[6:]])
    streamed = torch.cat(list(engine().render_stream(chunks, [("pose", latent.plan("pose"))])))
    assert close(streamed, rendered(latent, "pose"))
    measured = engine().measure(iter([frames[:5], frames[5:]]), 25.0)
    assert torch.allclose(measured.alpha, latent.motion.alpha, atol=1e-5)
    assert measured.fps == 25.0


def test_out_of_memory_halves_the_chunk_and_goes_on(monkeypatch):
    freed = []
    pressed = engine(chunk=8, free_memory=lambda: freed.append(1))
    network, encode = pressed.network, pressed.network.encode

    def limited(images, with_features=True):
        if len(images) > 3:
            raise torch.cuda.OutOfMemoryError("too much")
        return encode(images, with_features)

    monkeypatch.setattr(network, "encode", limited)
    motion = pressed.encode(clip(11)).motion
    assert len(freed) == 2
    assert pressed.chunk == 2
    assert torch.allclose(motion.alpha, engine().encode(clip(11)).motion.alpha, atol=1e-5)


def test_out_of_memory_for_a_single_picture_is_reported(monkeypatch):
    def never(images, with_features=True):
        raise torch.cuda.OutOfMemoryError("too much")

    pressed = engine()
    monkeypatch.setattr(pressed.network, "encode", never)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        pressed.encode(clip(2))


def test_progress_counts_every_frame():
    done = []
    counting = engine(chunk=4, on_frames=done.append)
    latent = counting.encode(clip(10))
    assert sum(done) == 10
    list(counting.render(latent, "pose"))
    assert sum(done) == 20


def test_interruption_stops_between_chunks():
    class Stop(Exception):
        pass

    calls = []

    def check():
        calls.append(1)
        if len(calls) > 2:
            raise Stop

    stopped = engine(chunk=2, check_interrupt=check)
    with pytest.raises(Stop):
        stopped.encode(clip(10))
    assert stopped.passes.encoder == 4


def test_latents_of_another_checkpoint_are_refused():
    latent = engine().encode(clip(2))
    other = Engine(tiny_checkpoint(fingerprint="other"))
    with pytest.raises(MotionError, match="another checkpoint"):
        other.render(latent, "pose")


def test_empty_batches_are_refused():
    with pytest.raises(FrameError, match="empty"):
        engine().encode(torch.zeros(0, 16, 16, 3))
    with pytest.raises(FrameError, match="no|none|at least"):
        engine().measure(iter([]))


def test_parts_of_an_encoding_go_as_they_are_joined(monkeypatch):
    """When a level is joined, the parts of those before are gone."""
    network = tiny_checkpoint().network
    with torch.no_grad():
        parts = [network.encode(to_network(clip(2, seed=seed), 16)) for seed in range(3)]
    whole = [torch.cat([part.features[i] for part in parts]) for i in range(len(parts[0].features))]
    levels = [[weakref.ref(part.features[i]) for part in parts] for i in range(len(whole))]
    alive, cat = [], torch.cat

    def watched(tensors):
        alive.append([sum(ref() is not None for ref in level) for level in levels])
        return cat(tensors)

    monkeypatch.setattr(torch, "cat", watched)
    joined = concat_encodings(parts)
    assert alive == [[3, 3], [3, 3], [0, 3]]  # of the code, and of two levels
    assert all(torch.equal(a, b) for a, b in zip(joined.features, whole, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    frames = to_network(clip(2), 16)
    full, half = tiny_network().fold(), tiny_network().fold(dtype)
    with torch.no_grad():
        alpha = full.motion(full.encode(frames.flip(0)).w)
        expected = full.render(full.encode(frames), alpha, "pose")
        found = half.render(half.encode(frames), alpha, "pose")
    assert found.dtype == torch.float32
    assert half.compute_dtype == dtype
    assert float((found - expected).abs().mean()) < 0.05 * float(expected.abs().mean())


def test_non_finite_results_are_not_passed_on(monkeypatch):
    broken = engine()
    latent = broken.encode(clip(2))
    monkeypatch.setattr(broken.network, "render", lambda *a: torch.full((2, 3, 16, 16), float("nan")))
    with pytest.raises(DPEError, match="float32"):
        list(broken.render(latent, "pose"))


@pytest.fixture
def overflowing(tmp_path):
    """A model file whose features leave the range of float16 (65504) and of nothing else."""
    network = tiny_network()
    with torch.no_grad():
        network.get_parameter("enc.net_app.convs.1.conv1.1.bias").add_(3e5)
    save_checkpoint(tmp_path / "loud.safetensors", network, BranchRoles())
    return tmp_path / "loud.safetensors"


@pytest.mark.parametrize("budget", [0, 2**30], ids=["encoded again", "features kept"])
def test_what_overflows_is_made_again_in_float32(overflowing, caplog, budget):
    exact = Engine(load_checkpoint(overflowing), chunk=3)
    half = Engine(load_checkpoint(overflowing, torch.float16), chunk=3, feature_budget=budget)
    results = []
    for e in (exact, half):
        latent = e.encode(clip(7)).with_edit("pose", Edit(e.measure([clip(7, seed=1)])))
        assert bool(torch.isfinite(latent.motion.alpha).all())
        results.append(torch.cat(list(e.render(latent, "expression", "pose"))))
    assert close(*results)
    assert len(caplog.records) == 1
    assert "loud.safetensors: values overflow float16" in caplog.text


@pytest.mark.parametrize(("room", "most"), [(1, 1), (2, 2), (100, 3)])
def test_the_repair_takes_as_many_pictures_as_fit_beside_the_rest(overflowing, monkeypatch, room, most):
    sizes, in_float32 = [], Checkpoint.in_float32

    def watched(checkpoint):
        network = in_float32(checkpoint)
        encode = network.encode

        def counted(images, with_features=True):
            sizes.append(len(images))
            return encode(images, with_features)

        monkeypatch.setattr(network, "encode", counted)
        return network

    monkeypatch.setattr(Checkpoint, "in_float32", watched)
    free = int(room * picture_bytes(CONFIG, torch.float32) / SHARE) + 2
    services = Services(free_bytes=lambda device: free)
    half = Engine(load_checkpoint(overflowing, torch.float16), chunk=3, services=services)
    exact = Engine(load_checkpoint(overflowing)).measure([clip(6)])
    assert close(half.measure([clip(6)]).alpha, exact.alpha)
    assert sizes and max(sizes) == most
    assert half.chunk == 3  # half precision goes on as before


def test_the_repair_runs_on_the_device_wherever_the_host_has_put_its_network(overflowing, caplog):
    checkpoint, device = load_checkpoint(overflowing, torch.float16), torch.device("meta")
    held = Engine(checkpoint, device, services=Services(place=lambda network, device: "held"))
    assert {p.device for p in held._exact_network().parameters()} == {device}
    assert held._placed == "held"


def test_a_still_that_overflows(overflowing):
    exact = Engine(load_checkpoint(overflowing))
    half = Engine(load_checkpoint(overflowing, torch.float16), chunk=2, feature_budget=0)
    driver = exact.measure([clip(5, seed=1)])
    results = [
        torch.cat(list(e.render(e.encode(clip(1)).with_edit("pose", Edit(driver)), "pose"))) for e in (exact, half)
    ]
    assert close(*results)


def test_only_the_chunk_that_overflowed_is_made_again(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "m.safetensors", tiny_network(), BranchRoles())
    half = Engine(load_checkpoint(tmp_path / "m.safetensors", torch.bfloat16), chunk=2, feature_budget=0)
    latent = half.encode(clip(6))
    render, calls = half.network.render, []

    def once(*arguments):
        calls.append(1)
        images = render(*arguments)
        return images * float("inf") if len(calls) == 2 else images

    monkeypatch.setattr(half.network, "render", once)
    half.passes.encoder = half.passes.generator = 0
    list(half.render(latent, "pose"))
    assert (half.passes.encoder, half.passes.generator) == (8, 8)


def test_the_float32_weights_are_read_when_needed_only(overflowing):
    path = overflowing
    checkpoint = load_checkpoint(path, torch.float16)
    path.unlink()
    with pytest.raises(CheckpointError, match="loud.safetensors"):
        Engine(checkpoint).encode(clip(2))
    other = tiny_network(seed=3)
    save_checkpoint(path, other, BranchRoles())
    with pytest.raises(CheckpointError, match="another model"):
        Engine(checkpoint).encode(clip(2))
    with pytest.raises(CheckpointError, match="no file"):
        tiny_checkpoint().in_float32()


def test_an_overflow_that_no_picture_shows_is_found():
    """In the last level tanh and sigmoid would turn infinite maps into ordinary pictures."""
    network = tiny_network()
    with torch.no_grad():
        network.get_parameter("dec_pose.convs.3.activate.bias").add_(1e6)
    network.fold(torch.float16)
    images = to_network(clip(1), 16)
    with torch.no_grad():
        encoding = network.encode(images)
        assert bool(torch.isfinite(encoding.w).all())
        assert not bool(torch.isfinite(network.render(encoding, network.motion(encoding.w), "pose")).all())
        assert bool(torch.isfinite(network.render(encoding, network.motion(encoding.w), "exp")).all())


def test_features_of_another_precision_are_not_used():
    half = Checkpoint(tiny_network().fold(torch.bfloat16), BranchRoles(), "tiny", "tiny")
    latent = Engine(half).encode(clip(3))
    assert latent.encoding is not None and latent.encoding.dtype == torch.bfloat16
    exact = engine(budget=2**30)
    found = torch.cat(list(exact.render(latent, "pose")))
    assert exact.passes.encoder == 3
    assert found.shape == (3, 16, 16, 3)


def test_precision_by_device():
    assert resolve_precision("auto", "cpu") == torch.float32
    assert resolve_precision("bf16", "cpu") == torch.bfloat16
    with pytest.raises(DPEError, match="fp64"):
        resolve_precision("fp64", "cpu")


@pytest.mark.parametrize("emulated", [False, True])
def test_emulated_bf16_is_used_but_said(monkeypatch, caplog, emulated):
    monkeypatch.setattr("dpe_model.engine.emulates_bfloat16", lambda kind: emulated)
    assert resolve_precision("bf16", "cpu") == torch.bfloat16
    assert ("emulates" in caplog.text) == emulated
    caplog.clear()
    assert resolve_precision("fp32", "cpu") == torch.float32
    assert not caplog.text
