"""The C kernels equal the oracle on every output bit, whatever the network, the widths, the numbers and the threads.

This is what lets a board, a simulator and this computer share one specification: nothing is compared with a
tolerance. ``vectors/network.json`` pins the bits themselves, so that the kernels and the oracle cannot drift together;
after a change of docs/spec.md write it anew with ``python tests/test_device.py`` (and raise the version there).
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cases import LARGE, SHAPES, STYLES, Outputs, Spec, any_spec, differing, digest
from hypothesis import given, settings
from hypothesis import strategies as st

from picopinn import kernels
from picopinn.device.base import OVERFLOW, STEP, Device, Rows
from picopinn.device.local import LocalDevice
from picopinn.errors import UsageError
from picopinn.network import ACTIVATIONS, CONTRACTIONS, MODES, Mode, Precision
from picopinn.reference import Reference

VECTORS = Path(__file__).parent / "vectors" / "network.json"
WIDTHS = st.integers(4, 16)
NARROW, WIDE = Precision(4, 4, 4, 4, 4), Precision(16, 16, 16, 16, 16)

SPECS = st.builds(
    Spec,
    shape=st.sampled_from(sorted(SHAPES)),
    contraction=st.sampled_from(CONTRACTIONS),
    activation=st.sampled_from(ACTIVATIONS),
    mode=st.sampled_from(MODES),
    precision=st.builds(Precision, WIDTHS, WIDTHS, WIDTHS, WIDTHS, WIDTHS),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 5),
    layers=st.integers(1, 3),
    rank=st.integers(1, 8),
    directions=st.integers(0, 3),
    microbatches=st.integers(1, 4),
    seed=st.integers(0, 1 << 20),
    styles=st.tuples(*[st.sampled_from(["plain", *STYLES])] * 3),
    limit=st.integers(8, 30),
)

VARIED = {  # a case of every activation, mode, contraction and kind of number; names are those of the vectors
    **{f"{a} {m}": Spec(shape="tt2", activation=a, mode=m, layers=3) for a in ACTIVATIONS for m in MODES},
    "cores one by one": Spec(shape="tt3", contraction="sequential", precision=Precision(8, 8, 12, 12)),
    "four modes": Spec(shape="tt4", activation="sine", mode="odd-even", inputs=7, outputs=5),
    "narrowest": Spec(shape="ragged", precision=NARROW, directions=3, microbatches=3),
    "widest": Spec(shape="tt1", precision=WIDE, mode="odd-even", layers=3),
    "full mantissas": Spec(shape="dense", precision=WIDE, styles=("full", "full", "full")),
    "every exponent": Spec(shape="tt2", mode="difference", styles=("spread", "spread", "spread")),
    "points alone": Spec(shape="tt2", directions=0, microbatches=5),
}


@cache
def local(threads: int = 1, variant: str | None = None) -> LocalDevice:
    """Devices are used again and again: ``configure`` must forget the case before."""
    return LocalDevice(threads, variant)


@cache
def expected(spec: Spec) -> Outputs:
    return spec.case().run(Reference())


def everywhere() -> list[LocalDevice]:
    """Every number of threads that deals differently, and every instruction set of this machine."""
    return [*(local(threads) for threads in (1, 2, 3)), *(local(1, variant) for variant in kernels.variants())]


# ---- the oracle


@settings(max_examples=400, derandomize=True, deadline=None)
@given(SPECS, st.booleans())
def test_kernels_equal_the_oracle(spec: Spec, keep: bool) -> None:
    case, oracle = spec.case(), expected(spec)
    for device in everywhere():
        assert differing(case.run(device, keep), oracle) == []


@pytest.mark.parametrize("start", range(0, 500, 50))
def test_kernels_equal_the_oracle_on_the_cases_that_boards_run(start: int) -> None:
    for seed in range(start, start + 50):
        spec = any_spec(seed)
        assert differing(spec.case().run(local(2)), expected(spec)) == [], spec


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", [Precision(), NARROW, WIDE], ids=str)
@pytest.mark.parametrize("styles", [(a, b, a) for a in STYLES for b in STYLES], ids="-".join)
def test_extreme_numbers_through_a_whole_network(
    styles: tuple[str, str, str], precision: Precision, mode: Mode
) -> None:
    spec = Spec(shape="tt2", mode=mode, precision=precision, styles=styles, layers=3, microbatches=1)
    oracle = expected(spec)
    for variant in kernels.variants():
        assert differing(spec.case().run(local(1, variant)), oracle) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", LARGE)
def test_wide_networks(shape: str, mode: Mode) -> None:
    """The default hidden width, 256: inner sums of 64 blocks, and random numbers with large indices."""
    spec = Spec(shape=shape, mode=mode, layers=3, rank=8, microbatches=2, directions=1)
    for device in everywhere():
        assert differing(spec.case().run(device), expected(spec)) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("styles", [("plain",) * 3, ("spread", "spread", "plain")], ids="-".join)
@pytest.mark.parametrize("inputs", [300, 1040])
def test_many_dimensions(inputs: int, styles: tuple[str, str, str], mode: Mode) -> None:
    """Inner sums of 75 blocks, more than are aligned at once, and of 260, more than there is room for beforehand."""
    spec = Spec(mode=mode, inputs=inputs, directions=1, styles=styles)
    for device in everywhere():
        assert differing(spec.case().run(device), expected(spec)) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("directions", [40, 130])
def test_many_directions(directions: int, mode: Mode) -> None:
    """More streams than go through a stage at once, and more than are held where they depend on each other."""
    spec = Spec(shape="tt2", mode=mode, inputs=9, directions=directions, microbatches=3)
    for device in everywhere():
        assert differing(spec.case().run(device), expected(spec)) == []


# ---- fixed vectors


@pytest.mark.parametrize("name", VARIED)
def test_bits_are_those_of_the_vectors(name: str) -> None:
    fixed = json.loads(VECTORS.read_text())
    assert digest(expected(VARIED[name])) == fixed[name]
    assert digest(VARIED[name].case().run(local())) == fixed[name]


def test_every_vector_is_of_its_own_and_in_use() -> None:
    fixed = json.loads(VECTORS.read_text())
    assert sorted(fixed) == sorted(VARIED)
    assert len(set(fixed.values())) == len(fixed)


def write_vectors() -> None:
    """Compute ``vectors/network.json`` from the oracle."""
    fixed = {name: digest(expected(spec)) for name, spec in VARIED.items()}
    VECTORS.write_text(json.dumps(fixed, indent=2) + "\n")


# ---- the same bits however it is asked


@pytest.mark.parametrize("device", [Reference, LocalDevice, lambda: LocalDevice(3)], ids=["oracle", "local", "threads"])
@pytest.mark.parametrize("spec", VARIED.values(), ids=VARIED)
def test_verbs_may_be_repeated(spec: Spec, device: type[Device]) -> None:
    case, body, oracle = spec.case(), device(), expected(spec)
    body.configure(case.program, case.directions)
    for _ in range(2):
        body.configure(case.program, case.directions)
        body.load(case.weights)
        body.load(case.weights)
        for keep in (True, False, True):
            values = body.forward(case.points, case.along, keep)
            again = {"values": values.mantissas, "value exponents": values.exponents}
            assert differing(again, oracle) == []
        for _ in range(2):
            step = case.backward(body)
            step.pop("flags")  # of this step alone; the oracle's are of the whole case
            assert differing(step, oracle) == []
            assert differing({"gradients": body.gradients().values.mantissas}, oracle) == []


@pytest.mark.parametrize("spec", VARIED.values(), ids=VARIED)
def test_a_step_in_parts_is_the_step(spec: Spec) -> None:
    """Random numbers count microbatches, sums are integers: cutting a batch changes nothing."""
    case, oracle = replace(spec, microbatches=5).case(), expected(replace(spec, microbatches=5))
    for device in (local(), local(3), Reference()):
        device.configure(case.program, case.directions)
        device.load(case.weights)
        device.begin(case.scaling, case.seed, case.step)
        for part in (slice(3, 5), slice(0, 1), slice(1, 3)):  # in any order
            points, cotangents = (Rows(r.mantissas[part], r.exponents[part]) for r in (case.points, case.cotangents))
            device.backward(points, case.along, cotangents, case.first + part.start)
        gradients = device.gradients()
        assert differing({"gradients": gradients.values.mantissas, "peaks": gradients.peaks}, oracle) == []
        device.flags()


def test_more_threads_than_microbatches() -> None:
    spec = VARIED["points alone"]
    assert differing(spec.case().run(local(8)), expected(spec)) == []


def test_fewer_directions_than_configured() -> None:
    """Regions are measured for the most directions; a batch with fewer has the same bits."""
    spec = VARIED["tanh jet"]
    case = spec.case()
    for device in everywhere():
        assert differing(replace(case, directions=9).run(device), expected(spec)) == []


# ---- what saturates


@pytest.mark.parametrize("mode", MODES)
def test_a_step_that_saturates_says_so_alike(mode: Mode) -> None:
    spec = Spec(mode=mode, microbatches=4, limit=20, gradient_exponent=-60)
    limit = spec.case().scaling.limit
    oracle = expected(spec)
    assert (oracle["peaks"] > 1 << limit).any()
    for device in everywhere():
        assert differing(spec.case().run(device), oracle) == []


def test_a_step_begun_anew_forgets_the_saturated_one() -> None:
    calm = Spec(microbatches=4, limit=20, gradient_exponent=20)
    case, device = calm.case(), LocalDevice(2)
    replace(calm, gradient_exponent=-60).case().run(device)
    step = case.backward(device)
    assert (step["peaks"] <= 1 << case.scaling.limit).all()
    assert differing(step, expected(calm)) == []


@pytest.mark.parametrize(
    ("flag", "spec"),
    [
        (OVERFLOW, Spec(styles=("edge", "plain", "plain"), seed=3)),
        (STEP, Spec(mode="odd-even", styles=("plain", "huge", "plain"), inputs=9)),
    ],
)
def test_flags_stay_until_read(flag: int, spec: Spec) -> None:
    case = spec.case()
    for device in (Reference(), LocalDevice(), LocalDevice(2)):
        device.configure(case.program, case.directions)
        device.load(case.weights)
        device.forward(case.points, case.along)
        device.forward(case.points, case.along)
        assert device.flags() & flag
        assert device.flags() == 0


@pytest.mark.parametrize("device", [Reference, LocalDevice])
def test_configure_forgets_flags(device: type[Device]) -> None:
    case, body = Spec(styles=("edge", "plain", "plain"), seed=3).case(), device()
    body.configure(case.program, case.directions)
    body.load(case.weights)
    body.forward(case.points, case.along)
    body.configure(case.program, case.directions)
    assert body.flags() == 0


def test_threads_that_went_to_sleep_wake() -> None:
    case, device = Spec().case(), LocalDevice(3)
    device.configure(case.program, case.directions)
    device.load(case.weights)
    first = device.forward(case.points, case.along).mantissas
    for pause in (0.0, 0.1):  # far beyond what they look out for
        time.sleep(pause)
        assert np.array_equal(device.forward(case.points, case.along).mantissas, first)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_empty_batch_has_no_values(threads: int) -> None:
    case, device = Spec().case(), LocalDevice(threads)
    device.configure(case.program, case.directions)
    device.load(case.weights)
    none = Rows(case.points.mantissas[:0], case.points.exponents[:0])
    assert device.forward(none, case.along).exponents.size == 0


@pytest.mark.parametrize("field", ["mantissas", "exponents"])
def test_points_of_another_shape_are_refused(field: str) -> None:
    case, device = Spec().case(), LocalDevice()
    device.configure(case.program, case.directions)
    device.load(case.weights)
    short = replace(case.points, **{field: getattr(case.points, field)[:, :, :0]})
    with pytest.raises(UsageError, match="points"):
        device.forward(short, case.along)


def test_a_zero_network_answers_zero() -> None:
    spec = Spec(styles=("zero", "plain", "plain"))
    for device in (local(), Reference()):
        outputs = spec.case().run(device)
        assert not outputs["values"].any()
        assert (outputs["value exponents"] == -256).all()
        assert int(np.abs(outputs["gradients"]).max()) > 0  # of the last bias
        assert outputs["flags"] == 0


if __name__ == "__main__":
    write_vectors()
