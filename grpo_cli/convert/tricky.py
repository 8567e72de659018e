"""Texts on which tokenizers differ, for comparing two of them."""

# Contractions, runs of digits, white space of every kind, scripts, combining marks, emoji, code, control
# characters: on each, two implementations of the same vocabulary have differed somewhere.
TRICKY_TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  two spaces,   three,\ttabs\t\tand a trailing one ",
    "line\nline\r\nline\rline\n\n\n   indented\n",
    "I'm we'll they've it's DON'T you'Re l'été",
    "0 12 345 6789 3.14159 1,000,000 -7 $18.00 50% 2^10 ½ ² ٣ 四",
    "def f(x: int) -> str:\n    return f'{x:>08b}'  # comment\n",
    "https://example.org/a?b=c&d=%20#e user@example.org",
    "naïve café Straße ÅNGSTRÖM ﬁ Ǆ İı ſ",
    "e\u0301 vs é, n\u0303 vs ñ, \u1112\u1161\u11ab vs 한",
    "Привет, мир! Γειά σου Κόσμε שלום עולם مرحبا بالعالم नमस्ते दुनिया",
    "你好，世界！こんにちは世界。안녕하세요 สวัสดีชาวโลก",
    "😀👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪 ∑∫√∞≠≈ → ⇒ ♥",
    "zero\u200bwidth\u200djoiner\ufeffbom\u00a0nbsp\u2003em\u3000wide\u2028line",
    "\x00\x01\x1b[31m\x7f\x85",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ==================== ........ !!!!????",
    "CamelCaseAndsnake_case_and-kebab-case, THEN SHOUTING",
    "#### 42\nThe answer is \\boxed{42}. <reasoning>…</reasoning><answer>42</answer>",
    "user: <bos> </s> <s> [INST] <|endoftext|> <|im_start|>",
    "\U0001f9ff\U00010348𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠜎",
)
