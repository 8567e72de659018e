"""Host files: what MLX takes is read, and what is none is named by its entry."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.distributed.hosts import Host, HostFile, read_hosts
from grpo_cli.errors import ConfigError

ONE, TWO = {"ssh": "mac1", "ips": ["10.0.0.1"]}, {"ssh": "mac2", "ips": ["10.0.0.2"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hosts.json"


def read(path: Path, document: Any) -> HostFile:
    path.write_text(json.dumps(document))
    return read_hosts(path)


def refused(path: Path, document: Any) -> str:
    """What an error says after the file's name."""
    with pytest.raises(ConfigError) as error:
        read(path, document)
    assert error.value.trouble == "several-machines"
    assert error.value.hint.startswith('write one as `[{"ssh": "mac1.local", ')
    start = f"Invalid host file: {path}: "
    assert error.value.message.startswith(start)
    return error.value.message.removeprefix(start)


def test_a_list_of_hosts(path: Path) -> None:
    assert read(path, [ONE, TWO]) == HostFile(
        path, (Host("mac1", ("10.0.0.1",)), Host("mac2", ("10.0.0.2",)))
    )


def test_a_table_with_a_backend_variables_and_rdma_devices(path: Path) -> None:
    file = read(
        path,
        {
            "backend": "jaccl",
            "envs": ["MLX_METAL_FAST_SYNCH=1"],
            "hosts": [
                {**ONE, "rdma": [None, "rdma_en2", ["rdma_en3", "rdma_en4"]]},
                {**TWO, "rdma": ["rdma_en2", None, None]},
                {"ssh": "mac3"},
            ],
        },
    )
    assert (file.backend, file.envs) == ("jaccl", ("MLX_METAL_FAST_SYNCH=1",))
    assert [host.rdma for host in file.hosts] == [
        ((), ("rdma_en2",), ("rdma_en3", "rdma_en4")),
        (("rdma_en2",), (), ()),
        (),
    ]
    assert file.hosts[2].ips == ()


def test_it_is_read_as_mlx_reads_it(path: Path) -> None:
    from mlx._distributed_utils.common import Hostfile

    document = {
        "backend": "ring",
        "envs": ["OMP_NUM_THREADS=1"],
        "hosts": [{**ONE, "rdma": [None, "rdma_en2"]}, TWO],
    }
    ours, theirs = read(path, document), Hostfile.from_file(path)
    assert (ours.backend, list(ours.envs)) == (theirs.backend, theirs.envs)
    assert [(h.ssh, list(h.ips)) for h in ours.hosts] == [(h.ssh_hostname, h.ips) for h in theirs.hosts]
    assert theirs.hosts[0].rdma == [None, "rdma_en2"]
    assert ours.hosts[0].rdma == ((), ("rdma_en2",))


def test_ranks_of_one_machine_are_one_machine(path: Path) -> None:
    file = read(path, [ONE, TWO, {"ssh": "mac1", "ips": ["10.0.0.1", "10.0.1.1"]}])
    assert file.machines == {"mac1": ("10.0.0.1", "10.0.1.1"), "mac2": ("10.0.0.2",)}


def test_only_the_loopback_address_is_here(path: Path) -> None:
    names = ("127.0.0.1", "localhost", "mac1")
    assert [host.is_here for host in read(path, [{"ssh": name} for name in names]).hosts] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "it has no list of hosts"),
        ({"backend": "ring"}, "it has no list of hosts"),
        (3, "it has no list of hosts"),
        ([ONE, "mac2"], 'host 1 is "mac2", not a table with `ssh` and `ips`'),
        ([ONE, {"ips": ["10.0.0.2"]}], "host 1 has no `ssh`, the name that ssh uses for it"),
        ([{"ssh": ""}], "host 0 has no `ssh`, the name that ssh uses for it"),
        ([{"ssh": "-oProxyCommand=x"}], "host 0 (-oProxyCommand=x): `ssh` is not a machine name"),
        ([{"ssh": "mac1 rm"}], "host 0 (mac1 rm): `ssh` is not a machine name"),
        ([ONE, {**TWO, "ips": "10.0.0.2"}], 'host 1 (mac2): `ips` is "10.0.0.2", not a list of strings'),
        ([{**ONE, "ips": [1]}], "host 0 (mac1): `ips` is [1], not a list of strings"),
        ([{**ONE, "rdma": "rdma_en2"}], 'host 0 (mac1): `rdma` is "rdma_en2", not a list'),
        ([{**ONE, "rdma": [[1]]}], "host 0 (mac1): `rdma` is [1], not a list of strings"),
        ([{**ONE, "rdma": [None]}, TWO], "host 0 (mac1) has 1 of 2 entries in `rdma`"),
        ([{**ONE, "ip": []}], "host 0 has an unknown key `ip`; known are ssh, ips, rdma"),
        ({"host": [ONE]}, "the file has an unknown key `host`; known are backend, envs, hosts"),
        ({"backend": 1, "hosts": [ONE]}, "`backend` is 1, not a name"),
        (
            {"envs": ["MLX_A=1", "PYTHONPATH=."], "hosts": [ONE]},
            '`envs` has "PYTHONPATH=.": only variables of MLX, NCCL and OpenMP are allowed there',
        ),
        ({"envs": {"A": 1}, "hosts": [ONE]}, 'the file: `envs` is {"A": 1}, not a list of strings'),
    ],
)
def test_what_is_no_host_file(path: Path, document: Any, said: str) -> None:
    assert refused(path, document) == said


def test_what_is_no_file_and_no_json(path: Path) -> None:
    for make, said in (
        (lambda: None, f"Host file not found: {path}"),
        (path.mkdir, f"Cannot read the host file: {path}: Is a directory"),
    ):
        make()
        with pytest.raises(ConfigError) as error:
            read_hosts(path)
        assert error.value.message == said
    path.rmdir()
    path.write_text("[{")
    with pytest.raises(ConfigError, match="The host file cannot be used"):
        read_hosts(path)
