"""Clean the text of captions as those of LlamaGen's training, before a text encoder reads it.

    "<b>RED Fox</b> — http://a.com/fox.jpg" --> "red fox -"

Alt texts of the web hold addresses, file names, article numbers and shop phrases that say nothing
of the picture.  The steps and their order are those of DeepFloyd IF's cleaner (as diffusers has
it, Apache-2.0), which Sun et al. 2024, arXiv 2406.06525, run twice.  Repair of broken encodings is
left out where ftfy is not installed.
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from urllib.parse import unquote_plus

MOST_CHARACTERS = 4_000  # read of one text; encoders cut long before
_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DOMAINS = "com|co|ru|net|org|edu|gov|it"
_DASHES = (
    "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_BAD = "#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~"
Rule = tuple[re.Pattern[str], str]


def _rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), new) for pattern, new in pairs)


def _address(start: str) -> str:
    return (
        rf"\b((?:{start}:(?:/{{1,3}}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:{_DOMAINS})"
        r"[\w/-]*\b/?(?!@)))"
    )


_ADDRESSES = _rules(("<person>", "person"), (_address("https?"), ""), (_address("www"), ""))
_MARKS = _rules(
    (r"@[\w\d]+\b", ""),  # names of accounts
    ("[\u31c0-\u4dff\u4e00-\u9fff]+", ""),  # CJK and its symbols
    (f"[{_DASHES}]+", "-"),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # addresses of machines
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),  # article numbers
    (rf"[\S]+\.(?:{_FILES})", ""),  # file names
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (rf"[{_BAD}\)\(\]\[\}}\{{\|\\/\*]+", " "),
    (r"\s+\.\s+", " "),
)
_JOINTS = re.compile(r"[-_]")
_PHRASES = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILES})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    ("\\b\\d+\\.?\\d*[x\u0445\u00d7]\\d+\\.?\\d*\\b", ""),  # 20x30
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(text: str, *, times: int = 2) -> str:
    """Return the words of a caption, in lower case.

    Args:
        text: of which the first `MOST_CHARACTERS` count. times: LlamaGen cleans twice.

    Example:
        >>> clean_caption("Red &amp; GREEN fox www.fox.com IMG_1.jpg")
        'red green fox'
    """
    text = text[:MOST_CHARACTERS]
    for _ in range(times):
        text = _once(text)
    return text


def _once(text: str) -> str:
    text = _applied(_ADDRESSES, unquote_plus(text).strip().lower())
    text = _applied(_MARKS, _words_of(text))
    if len(_JOINTS.findall(text)) > 3:  # this-is-my-cute-cat
        text = _JOINTS.sub(" ", text)
    text = html.unescape(html.unescape(_repaired(text)))
    return _applied(_PHRASES, text).strip()


def _applied(rules: tuple[Rule, ...], text: str) -> str:
    for pattern, new in rules:
        text = pattern.sub(new, text)
    return text


class _Words(HTMLParser):
    """Collects what stands between tags, but for programs and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        """Keep a run of text."""
        if self.cdata_elem is None:
            self.found.append(data)


def _words_of(text: str) -> str:
    reader = _Words()
    reader.feed(text)
    reader.close()
    return "".join(reader.found)


def _repaired(text: str) -> str:
    try:
        import ftfy
    except ImportError:
        return text
    return ftfy.fix_text(text)
