"""Chapters of the guide: the model hub."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "hub",
        "The model hub cannot be reached",
        "Models and datasets that are not on this machine are downloaded from huggingface.co. "
        "Without a connection they cannot be; what was downloaded once works offline.\n"
        "\n"
        "The reasons are a network that wants a login first, a proxy that is not set, a "
        "mirror in HF_ENDPOINT that is gone, or HF_HUB_OFFLINE.",
        "Download before a night's run: `hf download Qwen/Qwen2.5-1.5B-Instruct`, `hf "
        "download openai/gsm8k --repo-type dataset`.\n"
        "Proxy: `export HTTPS_PROXY=http://HOST:PORT`. Mirror: `export "
        "HF_ENDPOINT=https://MIRROR`, away with `unset HF_ENDPOINT`.\n"
        "Offline, and quiet about it: `export HF_HUB_OFFLINE=1`.\n"
        'Without any hub: `model_name = "tiny"`, `dataset = "arithmetic"`.',
        (
            "LocalEntryNotFoundError",
            "OfflineModeIsEnabled",
            "Temporary failure in name resolution",
            "We couldn't connect to 'https://huggingface.co'",
            "HF_HUB_OFFLINE=1 forbids to download it",
            "did not answer within",
        ),
    ),
    Chapter(
        "hub-token",
        "The hub refuses the token, or wants one",
        "Some models are gated: their page must be agreed to, and a token then says who is "
        "asking. Public ones need none.\n"
        "\n"
        "A token that is copied with a quotation mark or a line break is refused also for "
        "public models. One in the variable HF_TOKEN comes before the one that `hf auth "
        "login` stored. The doctor never shows it.",
        "`hf auth login` with a token of https://huggingface.co/settings/tokens (reading is "
        "enough); `unset HF_TOKEN` if an old one is set.\n"
        "Who am I: `hf auth whoami`. Agree to the conditions on the model's page.",
        (
            "401 Client Error: Unauthorized",
            "403 Client Error",
            "GatedRepoError",
            "Invalid username or password",
            "Invalid user token",
            "Illegal header value",
        ),
    ),
)
