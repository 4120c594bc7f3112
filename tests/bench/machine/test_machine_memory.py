import resource
import subprocess
import sys

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.machine import memory


def test_available_is_the_tightest():
    assert memory.available(100, []) == 100
    assert memory.available(100, [(80, 10), (200, 150)]) == 50
    assert memory.available(100, [(80, 90)]) == 0


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 2**45), st.lists(st.tuples(st.integers(0, 2**45), st.integers(0, 2**45))))
def test_available_never_exceeds_any_limit(free, limits):
    found = memory.available(free, limits)
    assert 0 <= found <= free
    assert all(found <= max(0, limit - used) for limit, used in limits)


@pytest.fixture
def cgroup(tmp_path):
    """Lay out control-group files: `put("a/b", {"memory.max": "100"})`; `put.membership` is /proc/self/cgroup."""
    root = tmp_path / "cgroup"
    root.mkdir()

    class Layout:
        folder = root
        membership = tmp_path / "membership"

        def __call__(self, path, files):
            (root / path).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (root / path / name).write_text(text + "\n")

    layout = Layout()
    layout.membership.write_text("0::/\n")
    return layout


def test_version_2_walks_up_and_gives_back_file_cache(cgroup):
    cgroup.membership.write_text("0::/pod/box\n")
    cgroup("pod/box", {"memory.max": "max", "memory.current": "70"})
    cgroup("pod", {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 500\ninactive_file 150"})
    cgroup(".", {"memory.current": "9999"})
    assert memory.cgroup_limits(cgroup.folder, cgroup.membership) == [(1000, 550)]
    assert memory.container_limit(cgroup.folder, cgroup.membership) == 1000


def test_version_2_counts_the_limit_that_slows_down(cgroup):
    cgroup(".", {"memory.max": "1000", "memory.high": "600", "memory.current": "100"})
    assert memory.cgroup_limits(cgroup.folder, cgroup.membership) == [(600, 100)]


def test_a_container_without_its_own_namespace_finds_its_group_at_the_root(cgroup):
    cgroup.membership.write_text("0::/docker/0123\n")
    cgroup(".", {"memory.max": "1000", "memory.current": "1"})
    assert memory.container_limit(cgroup.folder, cgroup.membership) == 1000


def test_a_path_cannot_lead_out_of_the_root(cgroup):
    cgroup.membership.write_text("0::/../../box\n")
    cgroup("box", {"memory.max": "5", "memory.current": "1"})
    (cgroup.folder.parent / "box").mkdir()
    (cgroup.folder.parent / "box" / "memory.max").write_text("3\n")
    assert memory.container_limit(cgroup.folder, cgroup.membership) == 5


def test_version_1_beside_version_2(cgroup):
    cgroup.membership.write_text("9:name=systemd:/\n4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n")
    cgroup("unified", {})
    usage = {"memory.usage_in_bytes": "300", "memory.stat": "inactive_file 1\ntotal_inactive_file 100"}
    cgroup("memory/box", {"memory.limit_in_bytes": "800", **usage})
    cgroup("memory", {"memory.limit_in_bytes": "9223372036854771712", **usage})
    cgroup("cpu/box", {"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"})
    cgroup("cpu", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    assert memory.cgroup_limits(cgroup.folder, cgroup.membership) == [(800, 200)]
    assert memory.cpu_quota(cgroup.folder, cgroup.membership) == 1.5


def test_the_tightest_cpu_quota_counts(cgroup):
    cgroup.membership.write_text("0::/a/b\n")
    cgroup("a/b", {"cpu.max": "max 100000"})
    cgroup("a", {"cpu.max": "50000 100000"})
    cgroup(".", {"cpu.max": "400000 100000"})
    assert memory.cpu_quota(cgroup.folder, cgroup.membership) == 0.5


def test_without_control_groups_there_is_no_limit(tmp_path):
    missing = tmp_path / "missing"
    assert memory.cgroup_limits(missing, missing) == []
    assert memory.container_limit(missing, missing) is None
    assert memory.cpu_quota(missing, missing) is None


@pytest.mark.parametrize("text", ["", "garbage", "-5", "1e9"])
def test_a_file_that_holds_no_number_is_no_limit(cgroup, text):
    cgroup(".", {"memory.max": text, "memory.current": "1", "cpu.max": text})
    assert memory.cgroup_limits(cgroup.folder, cgroup.membership) == []
    assert memory.cpu_quota(cgroup.folder, cgroup.membership) is None


def test_the_processs_own_limits_count(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name:\tx\nVmSize:\t    2000 kB\nVmData:\t     500 kB\n")
    soft = {resource.RLIMIT_AS: 10_000_000, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft[kind], resource.RLIM_INFINITY))
    assert memory.process_limits(tmp_path) == [(10_000_000, 2000 * 1024)]


def test_free_bytes_obeys_ulimit():
    """In a process of its own: a limit on the address space cannot be raised again."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from bench.machine.memory import free_bytes; print(free_bytes('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2**30


def test_free_bytes_is_within_the_machine():
    assert 0 < memory.free_bytes("cpu") <= psutil.virtual_memory().total


def test_the_peak_follows_an_allocation_and_can_be_reset():
    if not memory.reset_peak_rss():
        pytest.skip("this kernel does not reset the peak (/proc/self/clear_refs)")
    before = memory.peak_rss()
    block = bytearray(b"\x01") * 100_000_000
    assert memory.peak_rss() - before > 80_000_000
    del block
    assert memory.reset_peak_rss()
    assert memory.peak_rss() - before < 50_000_000


def test_a_kernel_that_refuses_the_reset_is_told(tmp_path):
    assert not memory.reset_peak_rss(tmp_path / "missing")


def test_a_kernel_that_ignores_the_reset_is_told(tmp_path):
    (tmp_path / "status").write_text("VmHWM:\t 900000 kB\nVmRSS:\t 100000 kB\n")
    assert not memory.reset_peak_rss(tmp_path)
    (tmp_path / "status").write_text("VmHWM:\t 100100 kB\nVmRSS:\t 100000 kB\n")
    assert memory.reset_peak_rss(tmp_path)


def test_the_peak_without_proc_is_the_processs_own(tmp_path):
    assert memory.peak_rss(tmp_path) == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.gpu
def test_free_bytes_of_a_gpu_fall_with_an_allocation():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = memory.free_bytes("cuda:0")
    block = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda:0")
    assert before - memory.free_bytes("cuda:0") >= block.numel()
