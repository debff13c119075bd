# SPDX-License-Identifier: Apache-2.0
"""The emulator reports every mistake that it is meant to find, and runs correct kernels in any order."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.native import requires_native

pytestmark = requires_native
ORDERS = [0, 1, 2, 3, 4]
# Each is (kernel, arguments, report, thread, block), the last three as in the order forward.
MISTAKES = [
    ("missing_barrier", {}, "race on shared array memory[0] between threads 0 and 1", 1, 0),
    ("missing_second_barrier", {}, "race on shared array memory[1] between threads 0 and 1", 1, 0),
    ("exchange_for_barrier", {}, "race on shared array memory[0] between threads 1 and 0", 0, 0),
    ("same_element", {}, "race on shared array memory[0] between threads 0 and 1", 1, 0),
    ("divergent", {"offset": 5}, "thread 5 left the block while others wait at a barrier", 0, 0),
    ("unwritten", {"blocks": 2, "offset": 3}, "read of shared array memory[3], which nobody wrote", 3, 1),
    ("shared_index", {"offset": 1}, "index 128 out of bounds of shared array memory[128]", 127, 0),
    ("shared_index", {"offset": -1}, "index -1 out of bounds of shared array memory[128]", 0, 0),
    ("shared_pack", {"offset": 1}, "shared_store of 4 elements is misaligned at 1", 0, 0),
    ("shared_pack", {"offset": 4}, "index 512 out of bounds of shared array memory[512]", 127, 0),
    ("load", {"offset": 896}, "load of 4 bytes out of bounds, 4096 bytes into a buffer of 4096 bytes", 0, 1),
    ("load", {"offset": -1}, "load of 4 bytes out of bounds, 4 bytes before a buffer of 4096 bytes", 0, 0),
    ("load_pack", {"blocks": 3}, "load of 16 bytes out of bounds, 4096 bytes into a buffer of 4096 bytes", 0, 2),
    ("load_pack", {"offset": 2}, "misaligned load of 16 bytes", 0, 0),
    ("store", {"offset": 1024}, "store of 4 bytes out of bounds, 4096 bytes into a buffer of 4096 bytes", 0, 0),
    ("store_input", {}, "store of 4 bytes into a read-only buffer", 0, 0),
    ("double_store", {"offset": 100}, "race in global memory: store to what thread 0 of block 0 stored", 100, 0),
    ("double_store", {"offset": 200}, "race in global memory: store to what thread 0 of block 0 stored", 72, 1),
    ("load_stored", {}, "race in global memory: load of what thread 1 of block 0 stored", 0, 0),
    ("store_loaded", {}, "race in global memory: store to what thread 1 of block 0 loaded", 0, 0),
    ("half_warp", {}, "thread 16 left the block while others of its warp wait in exchange", 0, 0),
    ("exchange_or_barrier", {}, "thread 16 waits at a barrier while others of its warp wait in exchange", 0, 0),
    ("masks", {}, "exchange with the mask 2 while others of the warp have 1", 16, 0),
    ("sum_lanes", {"threads": 48}, "exchange in a block of 48 threads, which aren't whole warps", 0, 0),
    ("too_much_shared", {}, "too much shared memory: 65536 bytes with the array second, at most 49152", 0, 0),
    ("throwing", {"offset": 7}, "a sentence of the kernel", 7, 0),
]


def _buffers():
    """(input, output), aligned to 16 bytes, which numpy doesn't promise."""

    def zeros():
        memory = np.zeros(1028, np.float32)
        start = -memory.ctypes.data % 16 // 4
        return memory[start : start + 1024]

    x, y = zeros(), zeros()
    x[:] = np.random.default_rng(0).standard_normal(1024)
    return x, y


def _check_bits_in_every_order(kernels, name, expected, **arguments):
    results = []
    for order in ORDERS:
        kernels.emulator_order(order)
        x, y = _buffers()
        kernels.run(name, x, y, **arguments)
        results.append(y.tobytes())
        np.testing.assert_allclose(y[: len(expected(x))], expected(x), rtol=1e-5, atol=1e-5)
    assert len(set(results)) == 1


@pytest.mark.parametrize("name", ["sum", "sum_double", "sum_lanes"])
def test_reduction_has_the_same_bits_in_every_order(kernels, name):
    _check_bits_in_every_order(kernels, name, lambda x: x.reshape(8, 128).sum(1), blocks=8)


def test_packs(kernels):
    _check_bits_in_every_order(kernels, "packs", lambda x: x.reshape(-1, 4)[:, ::-1].ravel(), blocks=2)


def test_a_thread_may_store_what_it_loaded(kernels):
    x, _ = _buffers()
    expected = x.reshape(-1, 4)[:, ::-1].ravel().copy()
    kernels.run("packs", x, x, blocks=2)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize(
    ("name", "arguments", "report", "thread", "block"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)]
)
def test_mistake_is_reported(kernels, name, arguments, report, thread, block):
    arguments = {"blocks": 2, **arguments}
    sentence = f"emulator: {name}: {report}, thread {thread} of block {block}"
    with pytest.raises(RuntimeError, match=f"^{re.escape(sentence)}$"):
        kernels.run(name, *_buffers(), **arguments)
    for order in ORDERS[1:]:
        kernels.emulator_order(order)
        with pytest.raises(RuntimeError, match=rf"^emulator: {name}: .*, thread \d+ of block \d+$"):
            kernels.run(name, *_buffers(), **arguments)
    _check_bits_in_every_order(kernels, "sum", lambda x: x.reshape(8, 128).sum(1), blocks=8)


def test_the_end_of_a_launch_destroys_its_threads_objects(kernels):
    with pytest.raises(RuntimeError, match="the end"):
        kernels.run("destroyed", *_buffers(), offset=9)
    assert kernels.alive() == 0


def test_without_declared_buffers_bounds_are_not_checked_but_races_are(kernels):
    x, y = _buffers()
    memory = np.zeros(256, np.float32)
    kernels.run("load", memory[:128], y, offset=1, check_bounds=False)
    with pytest.raises(RuntimeError, match="race in global memory"):
        kernels.run("double_store", x, y, offset=100, check_bounds=False)


def test_launches_of_several_threads_keep_their_buffers_apart(kernels):
    def call(i):
        x, y = _buffers()
        if i % 3:
            kernels.run("sum", x, y, blocks=8)
            np.testing.assert_allclose(y[:8], x.reshape(8, 128).sum(1), rtol=1e-5, atol=1e-5)
        else:
            with pytest.raises(RuntimeError, match="out of bounds"):
                kernels.run("store", x, y, blocks=8, offset=i + 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(60)))


@pytest.mark.parametrize(
    ("arguments", "report"),
    [
        ({"threads": 1025}, "1025 threads in a block"),
        ({"threads": 0}, "0 threads in a block"),
        ({"blocks": 1 << 31}, "2147483648 blocks"),
        ({"blocks": (1 << 31) - 1}, "too many threads to emulate"),
    ],
)
def test_launch_of_impossible_size(kernels, arguments, report):
    with pytest.raises(RuntimeError, match=f"^emulator: sum: {report}$"):
        kernels.run("sum", *_buffers(), **arguments)


def test_launches_are_counted(kernels):
    x, y = _buffers()
    kernels.run("sum", x, y)
    # Without blocks nothing is launched.
    kernels.run("packs", x, y, blocks=0)
    kernels.run("sum_lanes", x, y)
    assert kernels.emulator_launches() == ["sum", "sum_lanes"]
    kernels.emulator_reset()
    assert kernels.emulator_launches() == []


def test_idle_launches_are_counted_and_do_nothing(kernels):
    kernels.emulator_idle(True)
    x, y = _buffers()
    kernels.run("sum", x, y, blocks=8)
    assert kernels.emulator_launches() == ["sum"]
    assert not y.any()


def test_negative_order_is_refused(kernels):
    with pytest.raises(RuntimeError, match="not -1"):
        kernels.emulator_order(-1)
