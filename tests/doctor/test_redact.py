"""Redaction of text for publication: tokens, passwords, names and home folders."""

import json

import pytest

from grpo_cli.doctor.redact import Redaction

REDACTION = Redaction.of(
    {"WANDB_API_KEY": "0123456789abcdef", "LANG": "en_GB.UTF-8", "MY_PASSWORD": "short"},
    home="/home/ada",
    user="ada",
    host="engine.local",
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ada/outputs/x", "~/outputs/x"),
        ("/Users/grace/models", "/Users/USER/models"),
        ("/home/grace/models", "/home/USER/models"),
        (r"C:\Users\grace\models", r"C:\Users\USER\models"),
        ("ada's run on engine.local (engine)", "USER's run on HOST (HOST)"),
        ("the adapters of adam", "the adapters of adam"),
        ("HF_TOKEN=hf_abcdefghijKLMN", "HF_TOKEN=***"),
        ("hf_abcdefghijKLMN", "***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("Proxy-Authorization: Basic abc def", "Proxy-Authorization: ***"),
        ("sent 'Bearer abc.def', twice", "sent 'Bearer ***', twice"),
        ("sent 'Basic YWRhOnB3', twice", "sent 'Basic ***', twice"),
        ("https://ada:pw@hub.example/x", "https://***@hub.example/x"),
        ("key 0123456789abcdef!", "key ***!"),
        ("api_key = 'xyz123'", "api_key = ***"),
        ("apiKey: xyz123, x", "apiKey: ***, x"),
        ("AWS_SECRET_ACCESS_KEY=xyz/123 x", "AWS_SECRET_ACCESS_KEY=*** x"),
        ("private_key: xyz123", "private_key: ***"),
        ("client_secret=xyz123", "client_secret=***"),
        ("credentials=xyz123", "credentials=***"),
        ('{"password": "xyz123"}', '{"password": ***}'),
        ("passwd='a b'", "passwd=***"),
        ("passphrase: a b c", "passphrase: ***"),
        ("PWD=a b", "PWD=***"),
        ("Set-Cookie: a=b; c=d", "Set-Cookie: ***"),
        ("password=foo bar", "password=***"),
        ("--password foo bar --set seed=3", "--password *** --set seed=3"),
        ('token = "abcdefgh123"', "token = ***"),
        ('token = """abc"def"""', "token = ***"),
        (r'token = "abc\"def" # x', "token = *** # x"),
        (r"token = 'abc\'def' # x", "token = *** # x"),
        ('{"token": "abcdefgh123", "loss": 1}', '{"token": ***, "loss": 1}'),
        (r'{"sent": "{\"token\": \"abcdefgh123\"}"}', r'{"sent": "{\"token\": ***}"}'),
        ("--api-key abcdefgh x", "--api-key *** x"),
        ("--token abcdefgh --set seed=3", "--token *** --set seed=3"),
        ("--token --set seed=3", "--token --set seed=3"),
        ("['--token', 'abcdefgh', 'x']", "['--token', ***, 'x']"),
        ("--token=abcdefgh", "--token=***"),
        ("https://secrettoken123@host/x", "https://***@host/x"),
        ("https://ada:p@w@hub.example/x", "https://***@hub.example/x"),
        ("https://host/x?token=abc123def&page=2", "https://host/x?token=***&page=2"),
        ("sk-abcdefghijkl", "***"),
        ("ghp_abcdefghijkl", "***"),
        ("github_pat_11ABCDEFG0abc_xyz", "***"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("got eyJhbGciOi.eyJzdWIiOi.abc-_123!", "got ***!"),
        ("write to grace.h+x@example.org.", "write to ***."),
        ("nonnumeric port: 'pw77@mirror.example'", "nonnumeric port: '***'"),
        ("nonnumeric port: 'p!$77@localhost'", "nonnumeric port: '***'"),
        ("nonnumeric port: 'pw77@10.0.0.1'", "nonnumeric port: '***'"),
        ("proxy me:pw77@mirror:80", "proxy ***:80"),
        ("/home/ada2/x", "/home/USER/x"),
        ("/home/ada.old/x", "/home/USER/x"),
        ("/mnt/home/ada/x", "/mnt/home/USER/x"),
        ("in /home/ada.", "in ~."),
        ("'/home/ada'", "'~'"),
        ("/Users/Ada Lovelace/x", "/Users/USER/x"),
        ("'/Users/Ada Lovelace' x", "'/Users/USER' x"),
        ("/Users/grace and /home/bob", "/Users/USER and /home/USER"),
        (r"C:\\Users\\Grace\\x", r"C:\\Users\\USER\\x"),
        (r"C:\\\\Users\\\\Grace\\\\x", r"C:\\\\Users\\\\USER\\\\x"),
        ('{"tokens": 12}', '{"tokens": 12}'),
        ("eos_token: 5, seconds_per_token: 2", "eos_token: 5, seconds_per_token: 2"),
        ("`hub-token`: none is set", "`hub-token`: none is set"),
        ("x = a @ b; y = a@b", "x = a @ b; y = a@b"),
        ("mlx@0.32.4", "mlx@0.32.4"),
        ("max_new_tokens = 128", "max_new_tokens = 128"),
        ("rollout_tokens_per_second: 12.5", "rollout_tokens_per_second: 12.5"),
        ("tokenizer = tokenizer.pkl", "tokenizer = tokenizer.pkl"),
    ],
)
def test_redaction(text: str, left: str) -> None:
    assert REDACTION.apply(text) == left


def test_names_are_found_as_json_writes_them() -> None:
    redaction = Redaction.of({"X_TOKEN": 'a"bcdef'}, home="/Users/André", user="André", host="")
    assert redaction.apply(json.dumps("/Users/André/x")) == '"~/x"'
    assert redaction.apply(json.dumps('of André: a"bcdef')) == '"of USER: ***"'


def test_a_long_word_takes_no_time() -> None:
    """Work proportional to the text: with its square this would take minutes."""
    for text in ("a" * 200_000, "a:" * 100_000, "-" * 200_000, "token" * 40_000):
        assert REDACTION.apply(text) == text
