"""A thousand sentences that tokenizers trip over: emoji, right-to-left, NFC and NFD, odd spaces, control characters."""

# ruff: noqa: RUF001 -- letters that look alike are what it is about

from __future__ import annotations

import random
import unicodedata

COUNT = 1000

_WORDS = {
    "english": "a|photo|of|a|cat,|an|ISO|9001|Photograph;|THE|red|BOOT|isn't|they'll|we've|I'm|he'd|'s|'tis|don't",
    "words": "knitted|jumper|tall|glass|vase|wooden|chair|street|market|bicycle|yellow|umbrella|running|shoes",
    "numbers": "3|42|1234567890|3.14|1,000|½|²|٣|१२३|Ⅷ|①|007|2026-11-30",
    "accents": "café|naïve|Ångström|ÄPFEL|Übergröße|straße|ẞ|İstanbul|ığdır|Σίσυφος|ΟΔΥΣΣΕΥΣ|señor|Dvořák|Việt Nam",
    "emoji": "😀|👨‍👩‍👧‍👦|🇩🇪|👍🏽|❤️|☕|🏳️‍🌈|🧑🏿‍🚀|1️⃣|©|™",
    "right": "مرحبا|بالعالم|שלום|עולם|صورة|קטע|\u200f|\u202e|نَصٌّ",
    "east": "猫の写真|一只猫|고양이|사진|カタカナ|ﾊﾝｶｸ|ｆｕｌｌ ｗｉｄｔｈ|～|〜|，。|ไทย|हिन्दी",
    "composed": "ﬁ|ﬂ|ǆ|\u212b|\u212a|\u2126|ﷺ|㎏|が|ẛ̣|ö̲|e\u0301\u0323|n\u0303o|ᄀ|ᅡ|\u1100\u1161\u11a8",
    "marks": "...|—|“quoted”|’s|¿|…|--|&amp;|http://x.y/z",
    "tokens": "<\\startoftext\\>|<\\endoftext\\>|<\\ENDOFTEXT\\>|</s>|<unk>|<pad>|<0x41>|▁|▁the|</w>",
    "control": "\x01|\x07|\x08|\x0b|\x0c|\x1b[31m|\x1f|\x7f|\u0085|\ufffd|\u00ad|\ufeff",
}  # fmt: skip
_POOLS = {kind: [word.replace("\\", "|") for word in words.split("|")] for kind, words in _WORDS.items()}
_POOLS["marks"] += list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_SPACES = [" "] * 8 + [
    "",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2009",
    "\u202f",
    "\u3000",
    "\u200b",
    "\u200d",
    "\u2028",
]


def odd_sentences() -> list[str]:
    """Return them, the same in each run."""
    numbers = random.Random(27)
    found = [
        "",
        " ",
        "\n\t ",
        "a photo of a cat",
        "A PHOTO OF A CAT",
        "  leading and trailing  ",
        "x" * 10_000,
        "a photo of a cat " * 600,
        "猫" * 3_000,
        "😀" * 2_500,
        " ".join(str(number) for number in range(2_000)),
        "".join(chr(code) for code in range(1, 256)),
    ]
    kinds = list(_POOLS)
    while len(found) < COUNT:
        wanted = numbers.sample(kinds, numbers.randint(1, 4))
        words = [numbers.choice(_POOLS[numbers.choice(wanted)]) for _ in range(numbers.randint(1, 30))]
        text = "".join(word + numbers.choice(_SPACES) for word in words)
        form = numbers.choice(("NFC", "NFD", "NFKD", "", "", ""))
        text = unicodedata.normalize(form, text) if form else text  # type: ignore[arg-type] # of those that there are
        case = numbers.choice(("", "", "upper", "lower", "title"))
        found.append(getattr(text, case)() if case else text)
    return found
