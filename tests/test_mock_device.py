"""Mock devices: every board opens, computes and leaks nothing with no card, no SFPI and no system package."""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ttbert.child import python_command
from ttbert.errors import BoardError, DeviceError
from ttbert.runtime import device
from ttbert.runtime.mock import MOCK_BOARDS, _wheel, mock_environment, temporary_mock_environment
from ttbert.runtime.stand_in import kernel, write_stand_in

BOARDS = {
    # board: (arch, chips, columns and rows of worker cores, DRAM banks)
    "n150": ("WORMHOLE_B0", 1, (8, 8), 12),
    "n300": ("WORMHOLE_B0", 2, (8, 8), 12),
    "t3000": ("WORMHOLE_B0", 8, (8, 8), 12),
    "p100": ("BLACKHOLE", 1, (11, 10), 7),
    "p150": ("BLACKHOLE", 1, (11, 10), 8),
    "p300": ("BLACKHOLE", 2, (11, 10), 8),
}

no_card = pytest.mark.skipif(Path("/dev/tenstorrent").exists(), reason="there is a card, so its absence cannot be tested")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mock")


def in_process(environment: dict[str, str], program: str, cwd: Path | None = None) -> Any:
    """What `program` leaves in `answer`, run in a process of its own."""
    lines = ["import json", textwrap.dedent(program), "print('\\nanswer:' + json.dumps(answer))"]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("answer:")[2])


def users_environment() -> dict[str, str]:
    """This process's environment, with nothing said about devices."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TT_")}


OPENED = """
    import numpy as np
    from ttbert.runtime.device import open_device, probe
    from ttbert.tt import device_ttnn

    ttnn = device_ttnn()

    def tensor(*shape, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT):
        return ttnn.Tensor(np.ones(shape, np.float32), data_type=dtype, layout=layout).to(mesh, ttnn.DRAM_MEMORY_CONFIG)

    def allocated():
        views = [ttnn.get_memory_view(mesh, kind) for kind in (ttnn.BufferType.L1, ttnn.BufferType.DRAM)]
        return [view.total_bytes_allocated_per_bank for view in views]

    with open_device() as mesh:
        grid = mesh.compute_with_storage_grid_size()
        # As many rows of tiles as there are cores, so that every core has work, those of the last row too.
        ids = np.zeros((1, grid.x * grid.y * 32), np.uint32)
        ids = ttnn.Tensor(ids, data_type=ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT).to(mesh, ttnn.DRAM_MEMORY_CONFIG)
        table = tensor(64, 64, layout=ttnn.ROW_MAJOR_LAYOUT)
        weights = tensor(1, 1, 64, 64, dtype=ttnn.bfloat8_b)

        def compute():
            found = ttnn.embedding(ids, table, layout=ttnn.TILE_LAYOUT, memory_config=ttnn.L1_MEMORY_CONFIG)
            product = ttnn.linear(found, weights, memory_config=ttnn.L1_MEMORY_CONFIG)
            found.deallocate()
            return product

        compute().deallocate()
        before = allocated()
        for _ in range(100):
            compute().deallocate()
        answer = {
            "arch": mesh.arch().name,
            "chips": mesh.get_num_devices(),
            "grid": [grid.x, grid.y],
            "dram": mesh.dram_grid_size().x,
            "leaked": [now - then for now, then in zip(allocated(), before)],
            "programs": mesh.num_program_cache_entries(),
            "shape": list(compute().shape),
        }
"""


def test_boards_that_can_be_mocked() -> None:
    assert set(MOCK_BOARDS) == set(BOARDS)


@pytest.mark.parametrize("board", BOARDS)
def test_a_mock_board_computes_on_every_core_and_leaks_nothing(board: str, folder: Path, tmp_path: Path) -> None:
    arch, chips, grid, dram = BOARDS[board]
    answer = in_process(mock_environment(board, folder), OPENED, cwd=tmp_path)
    assert answer == {
        "arch": arch,
        "chips": chips,
        "grid": list(grid),
        "dram": dram,
        "leaked": [0, 0],
        "programs": 2,
        "shape": [1, 1, 32 * grid[0] * grid[1], 64],
    }
    assert not list(tmp_path.iterdir()), "nothing is written into the working folder"


def test_the_stand_in_also_makes_firmware() -> None:
    # The wheel brings firmware for the usual settings; for others TT-NN compiles it.
    with temporary_mock_environment("n150") as environment:
        compiled = environment | {"TT_METAL_DISABLE_PRECOMPILED_FW": "1"}
        assert in_process(compiled, OPENED)["chips"] == 1
        made = list(Path(environment["TT_METAL_CACHE"]).glob("*/firmware/*/*.elf"))
        assert {path.stem for path in made} >= {"brisc", "ncrisc", "trisc0", "trisc1", "trisc2"}


def test_a_mock_device_changes_nothing_of_the_wheel(folder: Path) -> None:
    root = Path(mock_environment("n300", folder)["TT_METAL_RUNTIME_ROOT"])
    own = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path.name for path in own] in ([], ["riscv-tt-elf-g++"])


def test_a_mock_device_inherits_none_of_the_settings_for_the_users_devices(tmp_path: Path) -> None:
    mine = {"PATH": "/bin", "TT_METAL_SIMULATOR": "sim", "TT_VISIBLE_DEVICES": "3", "TT_METAL_SLOW_DISPATCH_MODE": "1"}
    environment = mock_environment("p150", tmp_path, inherit=mine)
    assert environment["PATH"] == "/bin"
    assert not (mine.keys() - {"PATH"}) & environment.keys()


def test_a_board_that_cannot_be_mocked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="e150"):
        mock_environment("e150", tmp_path)


def test_a_folder_that_tt_nn_cannot_compile_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="a space"):
        mock_environment("n150", tmp_path / "my files")


def test_the_kernel_is_an_executable_as_the_loader_wants_it() -> None:
    elf = kernel()
    assert elf[:7] == b"\x7fELF\1\1\1"
    kind, machine, _, entry, segments_at, sections_at = struct.unpack_from("<HHIIII", elf, 16)
    assert (kind, machine) == (2, 243)
    load, at, address, _, size, memory, _, _ = struct.unpack_from("<8I", elf, segments_at)
    assert (load, address, size, memory) == (1, entry, 4, 4)
    assert at % 4 == 0 and struct.unpack_from("<I", elf, at) == (0x8067,)
    count, names = struct.unpack_from("<HH", elf, 48)
    sections = [struct.unpack_from("<10I", elf, sections_at + 40 * index) for index in range(count)]
    assert names == count - 1
    assert all(section[4] + section[5] <= len(elf) for section in sections)
    relocation = next(section for section in sections if section[1] == 4)
    assert sections[relocation[7]][3] == address, "the relocation section is about the text"


def test_the_stand_in_answers_as_the_compiler_does(tmp_path: Path) -> None:
    compiler = tmp_path / "bin" / "riscv-tt-elf-g++"
    write_stand_in(compiler)

    def call(*arguments: str) -> str:
        return subprocess.run([compiler, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert call("--version").startswith("riscv-tt-elf-g++ (")
    call("-O2", "-x", "c++-header", "a.h", "-o", "a.gch")
    call("-O2", "-c", "-o", "a.o", "a.cc", "-MF", "a.d")
    assert (tmp_path / "a.d").read_text() == f"a.o: {compiler}\n"
    call("-Tkernel.ld", "-Wl,--emit-relocs", "a.o", "-o", "a.elf")
    assert (tmp_path / "a.elf").read_bytes() == kernel()
    assert (tmp_path / "a.gch").exists() and (tmp_path / "a.o").exists()
    with pytest.raises(subprocess.CalledProcessError):
        call("-c", "a.cc")


def test_a_stand_in_that_is_there_is_left_alone(tmp_path: Path) -> None:
    compiler = tmp_path / "riscv-tt-elf-g++"
    write_stand_in(compiler)
    before = compiler.stat().st_ino
    write_stand_in(compiler)
    assert compiler.stat().st_ino == before


def test_probing_finds_the_board(folder: Path) -> None:
    program = """
        from ttbert.runtime.device import probe
        found = probe()
        answer = [found.board, found.chips, found.arch]
    """
    assert in_process(mock_environment("p300", folder), program) == ["p300", 2, "blackhole"]


FAILED = """
    from ttbert.errors import DeviceError
    from ttbert.runtime.device import open_device, probe

    def said(call):
        try:
            return str(call())
        except DeviceError as error:
            return error.message

    def opened():
        with open_device() as mesh:
            return mesh.shape
"""


@no_card
def test_no_card_is_a_device_error() -> None:
    environment = users_environment()
    answer = in_process(environment, FAILED + "    answer = [said(probe), said(opened)]")
    assert answer == ["no Tenstorrent device is here", "no Tenstorrent device is here"]


def test_a_missing_compiler_is_a_device_error(folder: Path) -> None:
    environment = mock_environment("n150", folder)
    if "sfpi" in Path(environment["TT_METAL_RUNTIME_ROOT"]).parts:
        pytest.skip("SFPI is installed, so its absence cannot be tested")
    del environment["TT_METAL_RUNTIME_ROOT"]
    answer = in_process(environment, FAILED + "    answer = said(opened)")
    assert answer == "SFPI, the compiler of TT-NN's kernels, is not installed"
    assert "sfpi_version=" in Path(_wheel(), "tt_metal", "sfpi-version").read_text(), "the hint names a file that is not there"


def test_no_folder_is_written_to_but_the_temporary_one(folder: Path, tmp_path: Path) -> None:
    """Neither the working folder nor a home, which may both be read-only."""
    for name in ("working", "temporary"):
        (tmp_path / name).mkdir()
    environment = mock_environment("n150", folder) | {"HOME": "/proc/nobody", "TMPDIR": str(tmp_path / "temporary")}
    del environment["TT_METAL_LOGS_PATH"]
    in_process(environment, OPENED + "    probe()\n", cwd=tmp_path / "working")
    assert not list((tmp_path / "working").iterdir())
    assert [each.name for each in (tmp_path / "temporary").glob("tt-*")] == [f"tt-metal-logs-{os.getuid()}"]


@no_card
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (stat.S_IFSOCK, "it cannot be opened: No such device or address"),
        (stat.S_IFREG, "TT-NN finds no device that it knows"),
    ],
)
def test_device_that_tt_nn_passes_over_is_an_error(
    kind: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the driver lists and TT-NN cannot open, or knows nothing of, is for TT-NN not there: auto would go on on the CPU."""
    os.mknod(tmp_path / "0", kind | 0o600)
    monkeypatch.setattr(device, "_DRIVER", tmp_path)
    with pytest.raises(DeviceError) as raised:
        device.find_device()
    assert raised.value.message == f"the driver lists {tmp_path}/0, but {message}"


@no_card
def test_driver_that_lists_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by-id").mkdir()
    monkeypatch.setattr(device, "_DRIVER", tmp_path)
    assert device.find_device() is None


def test_cards_that_nothing_links_are_told_apart(folder: Path, tmp_path: Path) -> None:
    """TT-NN counts them all, and then opens no mesh of them; it does open one of them."""
    two = tmp_path / "two.yaml"
    harvesting = (
        "noc_translation: true, harvest_mask: 64, dram_harvesting_mask: 0, eth_harvesting_mask: 0, pcie_harvesting_mask: 0"
    )
    two.write_text(
        f"""
        arch: {{0: wormhole_b0, 1: wormhole_b0}}
        chips: {{0: [0, 0, 0, 0], 1: [1, 0, 0, 0]}}
        chips_with_mmio: [{{0: 0}}, {{1: 1}}]
        ethernet_connections: []
        harvesting: {{0: {{{harvesting}}}, 1: {{{harvesting}}}}}
        boards:
        - [{{board_id: 72059269368820857}}, {{board_type: n150}}, {{chips: [0]}}]
        - [{{board_id: 72059269368820858}}, {{board_type: n150}}, {{chips: [1]}}]
        """
    )
    environment = mock_environment("n150", folder) | {"TT_METAL_MOCK_CLUSTER_DESC_PATH": str(two)}
    answer = in_process(environment, FAILED + "    answer = said(probe)")
    assert answer == "of the 2 chips here, TT-NN finds no more than 1 linked to each other"
    one = environment | {"TT_VISIBLE_DEVICES": "1"}
    assert in_process(one, FAILED + "    answer = [probe().chips, said(opened)]") == [1, "MeshShape([1, 1])"]


def test_device_that_does_not_close_hides_no_reason_behind_that(folder: Path) -> None:
    program = """
        from ttbert.errors import DeviceError
        from ttbert.runtime.device import open_device
        from ttbert.tt import device_ttnn

        ttnn = device_ttnn()
        close = ttnn.close_mesh_device

        def fail(mesh):
            close(mesh)
            raise RuntimeError("TIMEOUT: device timeout, potential hang detected, the device is unrecoverable")

        ttnn.close_mesh_device = fail
        answer = []
        for reason in (ValueError("the reason"), None):
            try:
                with open_device():
                    if reason:
                        raise reason
            except (ValueError, DeviceError) as error:
                answer.append(str(error))
    """
    assert in_process(mock_environment("n150", folder), program) == ["the reason", "the device does not answer"]


def test_a_process_that_packs_without_a_device_can_have_none() -> None:
    environment = users_environment()
    program = """
        from ttbert.runtime.device import open_device
        from ttbert.tt import host_ttnn
        host_ttnn()
        try:
            with open_device():
                answer = "opened"
        except RuntimeError as error:
            answer = str(error)
    """
    assert "can have none any more" in in_process(environment, program)


def test_packing_needs_no_device_whatever_the_user_has_set_for_devices() -> None:
    environment = users_environment() | {"TT_METAL_SIMULATOR": "/no/simulator", "TT_METAL_LOGGER_LEVEL": "off"}
    program = """
        import numpy as np
        from ttbert.tt import device_environment, host_ttnn
        ttnn = host_ttnn()
        packed = ttnn.Tensor(np.zeros((32, 32), np.float32), data_type=ttnn.bfloat8_b, layout=ttnn.TILE_LAYOUT)
        passed_on = device_environment()
        answer = [list(packed.shape), passed_on["TT_METAL_SIMULATOR"], "TT_METAL_MOCK_CLUSTER_DESC_PATH" in passed_on]
    """
    assert in_process(environment, program) == [[32, 32], "/no/simulator", False]


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "Waiting for lock 'CHIP_IN_USE_0_PCIe' which is currently held by thread TID: 77, PID: 4242",
            "the device is held by process 4242",
        ),
        (
            "Waiting for KMD lock 20 on /dev/tenstorrent/3, which is currently held by another handle",
            "the device /dev/tenstorrent/3 is held by another process, perhaps in another container",
        ),
    ],
)
def test_waiting_for_another_process_is_cut_short(log: str, message: str) -> None:
    # What TT-NN logs, word for word; then it waits until the other process has ended.
    began = time.monotonic()
    with pytest.raises(DeviceError, match=message):
        device._ask(f"[print({log!r}, flush=True), __import__('time').sleep(600)]", 300)
    assert time.monotonic() - began < 120


def test_who_interrupts_the_question_leaves_no_process_that_waits_for_the_device(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    def interrupt() -> None:
        while not (told.exists() and told.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        device._ask(_long_question(told), 300)
    thread.join()
    _wait_until_it_ends(int(told.read_text()))


def test_who_is_killed_over_the_question_leaves_no_process_either(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    asks = f"from ttbert.runtime import device\ndevice._ask({_long_question(told)!r}, 300)"
    with subprocess.Popen(python_command(asks)) as process:
        while not (told.exists() and told.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    _wait_until_it_ends(int(told.read_text()))


def _long_question(told: Path) -> str:
    """One that takes ten minutes, after the process that answers it has told its number."""
    tell = f"__import__('pathlib').Path({str(told)!r}).write_text(str(__import__('os').getpid()))"
    return f"[{tell}, __import__('time').sleep(600)]"


def _wait_until_it_ends(pid: int) -> None:
    deadline = time.monotonic() + 60
    while _is_running(pid):
        assert time.monotonic() < deadline, "the process is still there"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # it has ended, and nobody has asked how


def test_what_the_user_has_set_for_logs_hides_no_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TT_LOGGER_LEVEL", "off")
    monkeypatch.setenv("TT_LOGGER_FILE", "/nowhere")
    names = ("TT_LOGGER_LEVEL", "TT_METAL_LOGGER_LEVEL", "TT_LOGGER_FILE")
    assert device._ask(f"list(map(__import__('os').environ.get, {names}))", 60) == ["warning", "warning", None]


def test_what_tt_nn_logs_is_there_for_who_wants_it(folder: Path) -> None:
    environment = mock_environment("n150", folder) | {"TT_METAL_LOGGER_LEVEL": "info"}
    program = "from ttbert.runtime.device import probe; probe()"
    done = subprocess.run(python_command(program), env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert "Cluster constructor completed" in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("__import__('no_library_of_this_name')", "ModuleNotFoundError: No module named 'no_library_of_this_name'"),
        ("[print('a warning', flush=True), __import__('os').abort()]", "it ended by SIGABRT"),
    ],
)
def test_question_that_ends_without_an_answer_says_how(expression: str, what: str) -> None:
    with pytest.raises(DeviceError) as raised:
        device._ask(expression, 60)
    assert raised.value.message == f"TT-NN cannot use the device: {what}"


def test_a_device_that_never_answers_is_given_up() -> None:
    with pytest.raises(DeviceError, match="did not answer within 2 seconds"):
        device._ask("__import__('time').sleep(600)", 2)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Running UMD requires KMD version 2.0.0 or newer.", "the kernel driver is too old: TT-NN needs 2.0.0 or newer"),
        ("Failed to open device 0: Permission denied", "the kernel driver does not open the device"),
        (
            "Firmware bundle version 18.5.0 on device 7 is older than the minimum compatible version 18.6.0 for wormhole_b0 "
            "architecture.",
            "the device's firmware is too old: TT-NN needs 18.6.0 or newer",
        ),
        (
            "Device 0 Firmware update is required. Minimum tt-firmware version is 18.10.0",
            "the device's firmware is too old: TT-NN needs 18.10.0 or newer",
        ),
        (
            "Device 0: Timed out (10000ms) waiting for eth base firmware ready on core (1,2). Last postcode: 0x0",
            "the device's firmware does not answer",
        ),
        (
            "ttSiliconDevice::find_hugepage_dir: no huge page mount found in /proc/mounts for path: /dev/hugepages-1G with "
            "hugepage_size: 1073741824.",
            "the host has no hugepages for the device",
        ),
        (
            "Sysmem mapped at unexpected NOC address (likely a stale process holding sysmem); proceeding could lead to "
            "undefined behavior",
            "the device is held by another process, perhaps one left over",
        ),
        ("TIMEOUT: device timeout, potential hang detected, the device is unrecoverable", "the device does not answer"),
        ("Device 0: Timeout (10000 ms) waiting for physical cores to finish: (x=1,y=2).", "the device does not answer"),
        ("Timeout waiting for Ethernet core service remote IO request flush.", "the device does not answer"),
        (
            "shm_open() failed for mutex CHIP_IN_USE_0_PCIe errno: 13",
            "the lock CHIP_IN_USE_0_PCIe, in /dev/shm, is another user's",
        ),
        (
            "filesystem error: cannot create directories: Read-only file system [/logs/generated/watcher/]",
            "TT-NN cannot make the folder /logs/generated/watcher/: Read-only file system",
        ),
        (
            "TT_FATAL @ /a.cpp:1: x\ninfo:\nCustom fabric mesh graph descriptor path must be specified for CUSTOM cluster type",
            "the cards here are none that TT-NN uses together",
        ),
        (
            "TT_FATAL @ /a.cpp:1: x\ninfo:\nsomething new\nbacktrace:\n --- f()",
            "TT-NN cannot use the device: something new",
        ),
    ],
)
def test_what_tt_nn_says_becomes_one_line(said: str, message: str) -> None:
    error = device.device_error(said)
    assert error.message == message
    assert error.hint and "\n" not in error.message + error.hint
