"""Chapters of the guide: several machines, and several ranks on one."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "several-machines",
        "The ranks of a run do not come together, or come apart",
        "A run on several machines, or of several processes on one, is of ranks that each do a part of "
        "every step. They meet before the first one, and compare versions, configuration, rewards, "
        "model and data: ranks that differ would add up gradients of other models.\n"
        "\n"
        "MLX itself waits without end for a rank that does not come or that died. So ranks watch one "
        "another, on ports 1000 above MLX's: all end, with the reason, within seconds of a rank's "
        "death, and within five times the longest pause so far where one hangs.",
        "Before a run: `grpo doctor --hosts FILE` reaches each machine, compares them and tries the "
        "ring.\n"
        "A rank is not there: its own error stands above, or on its machine; else a firewall, or an "
        "address in the file that is not that of the cable. Ports 32323 and up, and 33323 and up, must "
        "be open.\n"
        "A port is in use: another run has it. Wait for its end, or `--starting-port 42323`.\n"
        "Not started with the same: copy the files and install the versions that the message names. "
        "The same checkout, the same lock file, the same model folder.\n"
        "The run ended: mend that machine, then `grpo resume RUN`; a checkpoint goes on with any "
        "number of ranks.\n"
        "It hangs, but only seems to: a step is long. `rank_timeout = 3600` in the configuration waits "
        "an hour.",
        (
            "Rank 1 (…) is not there: …",
            "The ranks were not started with the same: …",
            "The ranks are not of one run: …",
            "The ranks have come apart: …",
            "The ranks of this run cannot be told: MLX_RANK=…",
            "this launcher's processes would each train alone",
            "The run ends: rank 1 (…) is gone: its process was killed, or its machine or the network failed",
            "The run ends: rank 1 (…) hangs: no sign of work for …",
            "has not been heard of for …",
            "all ranks wait for one another for …",
            "MLX cannot connect the ranks by ring: …",
            "Cannot listen on …",
            "Port 33323 of … is in use",
            "The port of rank 0 … is in use: …",
            "[ring] connection to a peer was lost",
            "Couldn't bind socket",
            "Host file not found: …",
            "Cannot read the host file: …",
            "The host file is no JSON: …",
            "Invalid host file: …",
        ),
    ),
    Chapter(
        "hosts",
        "A host cannot be reached, or lacks what a rank needs",
        "`mlx.launch` starts a rank on each host by ssh, with one command for all: the same path of "
        "Python, and no password. Only 127.0.0.1 is started without ssh; `localhost` is not.\n"
        "\n"
        "A host's addresses must be its own, and those of the connection that the ranks should use: a "
        "Mac has one for every Thunderbolt cable, and another one for Wi-Fi.",
        "Keys: `ssh-keygen` once, then `ssh-copy-id HOST` for each; `ssh HOST true` must end without a "
        "question.\n"
        "macOS refuses ssh until System Settings, General, Sharing, Remote Login is on.\n"
        "Python: the environment in the same folder on every machine, or `--python PATH`.\n"
        "Addresses: `ifconfig` on a Mac, `ip -brief address` on Linux; `mlx.distributed_config --hosts "
        "mac1,mac2 --output-hostfile hosts.json` finds those of Thunderbolt cables and writes the file.",
        (
            "ssh: Could not resolve hostname …",
            "Permission denied (publickey,password).",
            "Host key verification failed.",
            "ssh: connect to host … port 22: Connection refused",
            "ssh: connect to host … port 22: Operation timed out",
        ),
    ),
    Chapter(
        "host-versions",
        "The hosts do not have the same versions",
        "Ranks sample with one library and add up the gradients of all. Another version of MLX, mlx-lm "
        "or the tokenizer's library may compute something else from the same files, so a run refuses "
        "to start with different ones. The doctor compares `grpo`'s sources, too: two checkouts can "
        "have one version.\n"
        "\n"
        "Other devices or another Python only round differently: the ranks' weights then drift apart "
        "by rounding and are set to rank 0's at each checkpoint.",
        "From a clone: the same commit on every machine, then `uv sync` there. With pip: the line that "
        "the finding names.",
        ("version of mlx: … on rank 0 (…), … on rank 1 (…)",),
    ),
    Chapter(
        "ring",
        "The ring of the hosts does not close, or is slow",
        "Before each update the ranks add up their gradients: of N ranks each sends 2 (N-1)/N times "
        "their size, 4 bytes for every trained number. A model of 500 million numbers has 2 GB: 2 s "
        "over Thunderbolt with 1 GB/s, 20 s over Ethernet of 1 Gb/s, a minute and more over Wi-Fi. "
        "LoRA trains about a hundredth of the numbers, and has as much less to send.\n"
        "\n"
        "The doctor starts the ring as a run does and measures a sum of one number and one of 64 MiB. "
        "With `--config` it reckons what that means for a step.",
        "It does not close: see that each host reaches the next one's address (`ping`), and that no "
        "firewall is between them. On a Mac, allow Python's incoming connections in System Settings, "
        "Network, Firewall.\n"
        "It is slow: a cable instead of Wi-Fi, the cable's addresses in the file, or LoRA (`lora_rank "
        "= 16`), which has fewer numbers to add up; a larger `batch_size` gives each sum more work "
        "between.",
    ),
    Chapter(
        "backend-to-use",
        "The ranks talk in a way that does not suit the hosts",
        "MLX connects ranks by its ring (TCP, works everywhere), by jaccl (RDMA over Thunderbolt 5 "
        "between Macs, with far less latency) or by nccl (between CUDA cards). `mlx.launch` takes what "
        'the file says in `"backend"`; without a word nccl where it is started with CUDA, else the '
        "ring.\n"
        "\n"
        "jaccl needs macOS 26.2 on every Mac, RDMA enabled, a cable between each two, and in the file "
        "the device of each; jaccl-ring needs cables to the two neighbours only. MPI is not supported.",
        "Enable RDMA once on each Mac: start its recovery system, open its Terminal, `rdma_ctl "
        "enable`, restart; `ibv_devices` then lists `rdma_en…`.\n"
        "Have the file written: `mlx.distributed_config --hosts mac1,mac2 --over thunderbolt --backend "
        "jaccl --auto-setup --output-hostfile hosts.json`.\n"
        "Choose for one run: `--backend ring`.",
        ("The hostfile is malformed: no RDMA device is listed for …",),
    ),
)
