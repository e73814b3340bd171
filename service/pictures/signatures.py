"""Names the format of a file by its first bytes.

Owns the signatures of the formats that decode() takes, and of files that people send by mistake. Not here: decoding
(files.py).
"""

import re

# Of the formats that decode() takes, as Pillow names them. HEIF and AVIF share a container: _container() tells them.
PICTURES = (
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", rb"\xff\xd8\xff"),
    ("WEBP", rb"RIFF....WEBP"),
    ("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    ("GIF", rb"GIF8[79]a"),
    ("TIFF", rb"II\*\0(?!.{4}CR)|MM\0\*|II\+\0|MM\0\+"),
)
RAW = "a camera's raw file: export it as JPEG"
# Files of other formats, and what to do with them. The first that matches counts.
OTHERS = (
    ("a Photoshop document: export it as PNG or JPEG", rb"8BPS"),
    ("a JPEG XL picture: save it as JPEG or PNG", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("a JPEG 2000 picture: save it as JPEG or PNG", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("an icon (ICO): save it as PNG", rb"\0\0[\x01\x02]\0"),
    (RAW, rb"II\*\0.{4}CR|FUJIFILMCCD-RAW|IIRO|IIU\0|MMOR|\0MRM|....ftypcrx "),
    ("a video: send one of its frames as a picture", rb"....(ftyp|moov|mdat|wide|free)|\x1aE\xdf\xa3|RIFF....AVI "),
    ("a sound: send a picture", rb"RIFF....WAVE|ID3|OggS|fLaC"),
    ("a PDF document: save its page as a picture", rb"\s*%PDF-"),
    ("a PostScript document: save its page as a picture", rb"%!PS"),
    ("an SVG drawing: export it as PNG", rb"\s*(<\?xml.*?)?(<!--.*?-->\s*)?(<!DOCTYPE svg.*?)?<svg[\s>]"),
    ("a web page: save the picture that it shows", rb"(?i)\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)[\s>]"),
    ("an XML document", rb"\s*<\?xml"),
    ("a ZIP archive or an Office document: send the pictures in it", rb"PK[\x03\x05\x07]"),
    ("an archive: send the pictures in it", rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"),
    ("an Office document: save its page as a picture", rb"\xd0\xcf\x11\xe0"),
    ("a NumPy array: send its pixels as raw", rb"\x93NUMPY"),
    ("a picture in base64 text: send the bytes that the text stands for", rb"data:image/|iVBORw0KGgo|/9j/|UklGR"),
    ("JSON text", rb"\s*[{\[]\s*[\"{\[\]}0-9-]"),
)
HEAD = 4096  # the bytes that are looked at


def format_of(data: bytes) -> str | None:
    """The format of a picture that decode() takes, as Pillow names it; None for every other file."""
    head = data[:HEAD]
    if head[4:8] == b"ftyp":
        return _container(head)
    for name, signature in PICTURES:
        if re.match(signature, head, re.DOTALL):
            return name
    return None


def describe(data: bytes) -> str:
    """What a file is of which format_of() knows no format, and what to do; never a part of its content."""
    head = data[:HEAD]
    if not data:
        return "an empty file"
    for name, signature in OTHERS:
        if re.match(signature, head, re.DOTALL):
            return name
    if _is_text(head):
        return "text"
    return f"{len(data):,} bytes of no picture format that we know"


def _container(head: bytes) -> str | None:
    """AVIF, HEIF or None, by the brands in the first box of an ISO media file."""
    end = int.from_bytes(head[:4], "big")
    brands = {head[at : at + 4] for at in (8, *range(16, min(end, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else None


def _is_text(head: bytes) -> bool:
    text = head.decode(errors="ignore")
    return len(text.encode()) > len(head) - 4 and all(
        character.isprintable() or character.isspace() for character in text
    )
