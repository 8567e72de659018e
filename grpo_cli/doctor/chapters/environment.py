"""Chapters of the guide: what is installed."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "python",
        "Python is too old, or not the one you think",
        "MLX's current builds need Python 3.11. With an older one pip finds only old versions "
        "of mlx and mlx-lm, and installs them without a word.\n"
        "\n"
        "The other mistake is a second Python: packages were installed into one environment "
        "and `grpo` runs in another. The check shows which one runs.",
        "A new environment: `uv venv --python 3.12 ~/grpo-env`, then `. "
        "~/grpo-env/bin/activate`, then in grpo's folder `uv pip install .` (on Linux "
        "`'.[cpu]'`).\n"
        "Which Python runs: `grpo doctor --only python`; which one pip installs into: `python "
        "-m pip --version`.",
        (
            "requires a different Python",
            "Package 'grpo-cli' requires a different Python: 3.10.12 not in '>=3.11'",
        ),
    ),
    Chapter(
        "system",
        "The operating system or chip is not one that MLX runs on",
        "MLX has builds for Apple chips with macOS 14 or newer, and for Linux with glibc 2.35 "
        "or newer.\n"
        "\n"
        "An Intel Mac has none. On an Apple chip, a Python that was built for Intel runs "
        "through Rosetta and sees an Intel machine. With an older glibc, pip falls back to an "
        "old mlx and says nothing.",
        "Rosetta: `python -c 'import platform; print(platform.machine())'` must print arm64; "
        "make a new environment with `arch -arm64 uv venv --python cpython-3.12-macos-aarch64 "
        "~/grpo-env`.\n"
        "An old macOS: `softwareupdate --list`.\n"
        "An old Linux: Ubuntu 22.04, Debian 12 and Fedora 36 are new enough, in a container "
        "too: `docker run -it python:3.12-bookworm bash`.",
        (
            "ERROR: No matching distribution found for mlx",
            "No matching distribution found for mlx>=0.32.2",
            "version `GLIBC_2.35' not found",
        ),
    ),
    Chapter(
        "mlx",
        "mlx is missing or too old",
        "This program is written for mlx 0.32.2 and newer; older ones lack functions that it "
        "calls.\n"
        "\n"
        "An old one is most often what pip falls back to on an old Python, an old macOS or an "
        "old glibc. `mlx.__version__` does not exist: the version is in "
        "`mlx.core.__version__`.",
        "`python -m pip install --upgrade 'mlx>=0.32.2'`; in a clone `uv sync`.\n"
        "If pip says that there is none: `grpo doctor --only system --only python`.",
        (
            "ModuleNotFoundError: No module named 'mlx'",
            "AttributeError: module 'mlx' has no attribute '__version__'",
        ),
    ),
    Chapter(
        "two-backends",
        "Two backends of MLX are installed at once",
        "The packages mlx-cpu, mlx-cuda-12 and mlx-cuda-13 hold the same files: the one that "
        "was installed last has overwritten the other.\n"
        "\n"
        "Uninstalling one of them then takes the files from the other, and `pip check` is "
        "content with all of it. On Linux plain `pip install mlx` brings no backend at all.",
        "Remove all and install one: `python -m pip uninstall -y mlx mlx-cpu mlx-cuda-12 "
        "mlx-cuda-13`, then `python -m pip install 'mlx[cpu]'` (or `'mlx[cuda13]'`, "
        "`'mlx[cuda12]'`).\n"
        "In a clone: `uv sync --reinstall`, for a card `uv sync --no-group linux-cpu --extra "
        "cuda13 --reinstall`.",
        ("ImportError: libmlx.so: cannot open shared object file: No such file or directory",),
    ),
    Chapter(
        "mlx-backend",
        "MLX does not compute here",
        "The doctor multiplies two matrices in a process of its own and compares the result, "
        "so that a crash is an answer, too.\n"
        "\n"
        "An import that fails comes of a missing or doubled backend, or of CUDA packages on a "
        "machine without NVIDIA's driver. A process that is killed by a signal comes of a "
        "build for another processor. MLX on the CPU of a machine that has a card works, but "
        "slowly.",
        "`grpo doctor --only two-backends --only mlx-backend` gives the lines for this "
        "machine.\n"
        "The card's driver: `nvidia-smi`; in a container: `docker run --gpus all …`.\n"
        "Another device than the fastest: `GRPO_DEVICE=cpu grpo train …`; back: `unset "
        "GRPO_DEVICE`.\n"
        "A library that replaces MLX's product on a Linux CPU and breaks it: `export "
        "GRPO_FAST_BLAS=0`.",
        (
            "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
            "Device not available: GRPO_DEVICE=cuda",
            "Illegal instruction (core dumped)",
            "killed by signal 4 (SIGILL)",
            "[metal::load_device] No Metal device available",
        ),
    ),
    Chapter(
        "mlx-lm",
        "mlx-lm is missing, too old, or in another environment",
        "mlx-lm holds the models. nanochat came into it late, so that an old one fails of "
        "models that a new one loads.\n"
        "\n"
        "Where it is installed and Python does not find it, it is in another environment than "
        "the Python that runs. A version from source is not needed.",
        "`python -m pip install --upgrade 'mlx-lm>=0.32.2'`, with the Python that `grpo "
        "doctor --only python` names; in a clone `uv sync`.\n"
        "Check: `python -c 'from mlx_lm.models import nanochat'`.",
        (
            "ModuleNotFoundError: No module named 'mlx_lm'",
            "ModuleNotFoundError: No module named 'mlx_lm.models.nanochat'",
            "ValueError: Model type nanochat not supported.",
        ),
    ),
    Chapter(
        "nanochat-import",
        "mlx-lm's nanochat cannot be imported",
        "nanochat's models are run by the module `mlx_lm.models.nanochat`. Importing it also "
        "imports transformers, so that a version of that which does not fit shows here.\n"
        "\n"
        "It fails of an mlx-lm that is too old, or of packages that were changed one by one "
        "afterwards.",
        "`python -m pip install --force-reinstall 'mlx-lm>=0.32.2' transformers`; in a clone "
        "`uv sync --reinstall`.\n"
        "Check: `python -c 'from mlx_lm.models import nanochat'`.",
        ("ImportError: cannot import name 'nanochat' from 'mlx_lm.models'",),
    ),
    Chapter(
        "packages",
        "A package is missing or too old",
        "Tokenizers, datasets and downloads are other people's packages, and each has a "
        "version below which something is missing.\n"
        "\n"
        "They come with grpo; one that is missing or older was removed or held back by "
        "another program in the same environment. An environment of its own for grpo keeps "
        "them apart.",
        "`grpo doctor --only packages` gives the one line that brings them up to date.\n"
        "An environment of its own: `uv venv ~/grpo-env`, then `uv pip install --python "
        "~/grpo-env/bin/python '.[cpu]'` in grpo's folder.",
        (
            "ModuleNotFoundError: No module named 'tiktoken'",
            "ImportError: cannot import name 'hf_hub_download' from 'huggingface_hub'",
            "pip's dependency resolver does not currently take into account all the packages",
        ),
    ),
    Chapter(
        "compiler",
        "MLX compiles: the compiler and where results are kept",
        "`use_compile` lets MLX make one kernel of several operations. On a Linux CPU that "
        "would call g++ for each one, 20 s before the first step and slower after it, so it "
        "is switched off there. Where compiling the update fails on Metal or CUDA, or gives "
        "another gradient, the run says so and goes on without.\n"
        "\n"
        "Metal and CUDA bring their own compilers. CUDA's results are kept in a folder for "
        "temporary files, and made again in each process where that cannot be written.",
        "CUDA, a folder that can be written: `export MLX_PTX_CACHE_DIR=~/.cache/mlx`.\n"
        "Without compilation, to find a mistake: `use_compile = false`.",
        (
            "g++: command not found",
            "[Compile::eval_cpu] Failed to compile function",
            "use_compile",
        ),
    ),
)
