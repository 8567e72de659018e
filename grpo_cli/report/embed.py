"""JSON, scripts and styles inside an HTML page that may hold hostile text.

    data = json_for_html({"text": "</script>"})     # {"text":"\\u003c/script\\u003e"}
    policy = content_policy(scripts=[code], styles=[sheet])

The policy (Content Security Policy, level 2) allows exactly these scripts and styles by their sha256, and
no request at all: even if an escape were missing, no foreign script would run.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from grpo_cli.foreign_text import well_formed

# `<`, `>` and `&` could end the element or begin a comment; U+2028 and U+2029 end a line in older scripts.
_SPECIAL = re.compile("[<>&\u2028\u2029]")
ENDS_A_SCRIPT = re.compile(r"</script|<!--", re.IGNORECASE)


def json_for_html(document: Any) -> str:
    """JSON that is safe inside a script element. Raises ValueError for NaN and infinity."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _SPECIAL.sub(lambda found: f"\\u{ord(found[0]):04x}", well_formed(text))


def content_policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """The policy of a page with these inline scripts and styles."""
    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; "
        "base-uri 'none'; form-action 'none'"
    )


def hashes(texts: Sequence[str]) -> str:
    """The sources of a policy: 'sha256-…' of each text."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
