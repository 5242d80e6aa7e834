"""Parts of image files: faults that are mended, metadata, and what these say of the origin.

Of the origin, EXIF, XMP, PNG texts and Content Credentials are read. Nothing is fetched, no list of
trusted signers is used: a valid signature does not show that the signer is who it claims to be.
Anyone can write or remove these, so they stand beside the evidence, and no score depends on them.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

from PIL import Image

from leakcache.names import visible

PNG = b"\x89PNG\r\n\x1a\n"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_TEXT = b"XML:com.adobe.xmp\0"
_PNG_FRAME = 12  # length, name and checksum of a PNG chunk
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # JPEG markers without a length
_START_OF_SCAN = 0xDA
_TABLES = {0xC4: "DHT", 0xC8: "JPG", 0xCC: "DAC", 0xDB: "DQT", 0xDD: "DRI"}
_MARKERS = _TABLES | {_START_OF_SCAN: "SOS", 0xFE: "COM"}


class Part(NamedTuple):
    """One segment or chunk: its name in the format's specification, and its bytes."""

    name: str
    content: bytes


def read_parts(data: bytes) -> list[Part]:
    """Parts of a JPEG (up to its first scan), PNG or WebP file; empty for other formats.

    A damaged file yields the parts before the damage.
    """
    if data.startswith(b"\xff\xd8"):
        return list(_jpeg(data))
    if data.startswith(PNG):
        return list(_png(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return list(_webp(data))
    return []


def _jpeg(data: bytes) -> Iterator[Part]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # fill bytes may stand before a marker
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield Part(_marker(marker), data[at + 4 : at + 2 + length])
        if marker == _START_OF_SCAN:
            return
        at += 2 + length


def _marker(code: int) -> str:
    if code in _MARKERS:
        return _MARKERS[code]
    if 0xC0 <= code <= 0xCF:
        return f"SOF{code - 0xC0}"
    return f"APP{code - 0xE0}" if 0xE0 <= code <= 0xEF else f"{code:02X}"


def _png(data: bytes) -> Iterator[Part]:
    at = 8
    while at + _PNG_FRAME <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8].decode("latin-1")
        # The first two bytes of pixel data hold the compression level.
        yield Part(name, data[at + 8 : at + 8 + (2 if name == "IDAT" else length)])
        at += _PNG_FRAME + length


def _webp(data: bytes) -> Iterator[Part]:
    at = 12
    while at + 8 <= len(data):
        name = data[at : at + 4].decode("latin-1")
        (length,) = struct.unpack_from("<I", data, at + 4)
        pixels = name.startswith("VP8") and name != "VP8X"
        yield Part(name.strip(), data[at + 8 : at + 8 + (0 if pixels else length)])
        at += 8 + length + length % 2


def exif_of(parts: Iterable[Part]) -> bytes:
    """The EXIF block with its header; empty without one."""
    for name, content in parts:
        if name == "APP1" and content.startswith(b"Exif\0\0"):
            return content
        if name in ("eXIf", "EXIF"):
            return content if content.startswith(b"Exif") else b"Exif\0\0" + content
    return b""


def xmp_of(parts: Iterable[Part]) -> bytes | None:
    """The XMP packet, which may be compressed in a PNG file; None without one."""
    for name, content in parts:
        if name == "APP1" and content.startswith(_XMP):
            return content.removeprefix(_XMP)
        if name == "XMP":
            return content
        if name == "iTXt" and content.startswith(_XMP_TEXT):
            return content.removeprefix(_XMP_TEXT)
    return None


def has_c2pa(data: bytes, parts: list[Part]) -> bool:
    """Whether there are content credentials, at the position that C2PA specifies per format."""
    if not parts:
        return b"jumb" in data and b"c2pa" in data
    return any(
        (name == "APP11" and b"jumb" in content and b"c2pa" in content) or name in ("caBX", "C2PA")
        for name, content in parts
    )


TEXT_LIMIT = 2**20
"""Longest text of a PNG file that is kept, uncompressed, in bytes; Pillow refuses more."""
TEXT_CHUNKS = ("tEXt", "zTXt", "iTXt")
TOTAL_LIMIT = 2**24
"""Most text of one file that is kept."""
JPEG_END = b"\xff\xd9"
# What a decoder takes for the missing part of a JPEG file, where there is one.
_FILLER = b"\xaa\x35\x5a\x91" * 16


def mend_png(data: bytes) -> bytes:
    """A PNG file without its colour profile, long texts and chunks of metadata that are damaged.

    Only ancillary chunks are left out, none of which decides a pixel value: profiles are ignored,
    and text of more than a megabyte, which workflow tools write, would be refused. The bytes are
    the same where nothing is left out.
    """
    if not data.startswith(PNG):
        return data
    kept, total, start = [data[:8]], 0, 8
    for kind, begin, end in _chunks(data):
        text = _text_length(kind, data[begin + 8 : end - 4])
        total += text
        sum_then = int.from_bytes(data[end - 4 : end])
        broken = kind[0] & 32 and zlib.crc32(data[begin + 4 : end - 4]) != sum_then
        if kind == b"iCCP" or broken or text > TEXT_LIMIT or total > TOTAL_LIMIT:
            kept.append(data[start:begin])
            start = end
            total -= text
    return b"".join([*kept, data[start:]]) if start > 8 else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of each whole chunk, up to the end of the image."""
    begin = 8
    while begin + _PNG_FRAME <= len(data):
        end = begin + _PNG_FRAME + int.from_bytes(data[begin : begin + 4])
        kind = data[begin + 4 : begin + 8]
        if end > len(data) or kind == b"IEND":
            return
        yield kind, begin, end
        begin = end


def _text_length(kind: bytes, content: bytes) -> int:
    """Bytes of a chunk's text once it is uncompressed, counted up to just above the limit."""
    name = kind.decode("latin-1")
    if name not in TEXT_CHUNKS:
        return 0
    key, text, packed = png_text(name, content)
    if not packed:
        return len(content)
    try:
        return len(key) + len(zlib.decompressobj().decompress(text, TEXT_LIMIT + 1))
    except zlib.error:
        return TEXT_LIMIT + 1


def png_text(kind: str, content: bytes) -> tuple[bytes, bytes, bool]:
    """Key, text, and whether the text is compressed, of a chunk of `TEXT_CHUNKS`."""
    key, _, rest = content.partition(b"\0")
    if kind == "iTXt":
        return key, rest[2:].split(b"\0", 2)[-1], rest[:1] == b"\x01"
    return key, rest[kind == "zTXt" :], kind == "zTXt"


def jpeg_endings(data: bytes) -> tuple[bytes, bytes] | None:
    """A JPEG file that lacks its end marker, ended in two ways; None for any other file.

    Where only the marker is missing, both decode to the same pixels; where a part of the image
    is missing, too, they differ, as the second has other bytes in its place.
    """
    if not data.startswith(b"\xff\xd8") or data.endswith(JPEG_END):
        return None
    body = data.removesuffix(b"\xff")  # the first half of the marker
    return body + JPEG_END, body + _FILLER + JPEG_END


UNVERIFIED = "present, signature not verified"
VALID, INVALID = "present, signature valid", "present, signature invalid"
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_FAILURES = {
    "assertion.dataHash.mismatch": "the image was changed after it was signed",
    "claimSignature.mismatch": "the signature is not that of the claim",
    "assertion.hashedURI.mismatch": "a statement was changed after it was signed",
    "signingCredential.expired": "the certificate of the signer has expired",
}


def signature_state(data: bytes) -> str:
    """Of an image file with Content Credentials: valid, invalid and why, or not verified."""
    if find_spec("c2pa") is None:
        return f'{UNVERIFIED} (pip install "leaknet[c2pa]")'
    import c2pa

    try:
        with (
            c2pa.Context.from_dict(_OFFLINE) as context,
            c2pa.Reader(None, io.BytesIO(data), None, context) as reader,
        ):
            return _words(reader)
    except c2pa.C2paError as error:
        reason = " ".join(str(error).split())[:80]
        return f"{UNVERIFIED} ({reason})"


def _words(reader: Any) -> str:
    state = reader.get_validation_state()
    signature = (reader.get_active_manifest() or {}).get("signature_info") or {}
    signer = signature.get("common_name") or signature.get("issuer")
    by = f" by {signer}" if signer else ""
    if state == "Trusted":
        return f"{VALID}{by}"
    if state == "Valid":
        return f"{VALID}{by}, whose identity is not checked"
    active = (reader.get_validation_results() or {}).get("activeManifest") or {}
    codes = [str(one.get("code")) for one in active.get("failure") or ()]
    reasons = [_FAILURES.get(c, c) for c in codes if c != "signingCredential.untrusted"]
    return f"{INVALID}: {reasons[0]}" if reasons else INVALID


CREDENTIALS = "Content Credentials"
SHOWN = 120
"""Largest number of characters of a value."""
_PROGRAMS = {
    "parameters": "Stable Diffusion web UI",
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "fooocus_scheme": "Fooocus",
}
"""Program of a PNG text, by its key."""
_PLAIN = ("Software", "Source")
_MODEL = re.compile(
    r'(?:\bModel: |"(?:ckpt_name|unet_name|model_name|base_model)"\s*:\s*")([^",\n]+)'
)
_SETTINGS = re.compile(r"\bSteps: \d+, Sampler: ")
_EXIF_TAGS = {0x010F: "EXIF Make", 0x0110: "EXIF Model", 0x0131: "EXIF Software"}
_EXIF_BLOCK, _USER_COMMENT = 0x8769, 0x9286
_XMP_FIELDS = re.compile(
    r'[\w-]+:(CreatorTool|Credit|AISystemUsed)(?:\s*=\s*"([^"]*)"|\s*>([^<]*)<)'
)
_SOURCE_TYPE = re.compile(r"digitalsourcetype/(\w+)", re.IGNORECASE)
_MADE_BY_MODEL = ("trainedalgorithmicmedia", "compositewithtrainedalgorithmicmedia")
_CAPTURED = ("digitalcapture", "computationalcapture", "negativefilm", "positivefilm", "print")
_MALFORMED = (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class Claim:
    """One statement in a file.

    Attributes:
        field: where it stands, such as `XMP CreatorTool`.
        value: on one line, at most `SHOWN` characters.
    """

    field: str
    value: str


@dataclass(frozen=True)
class DeclaredOrigin:
    """What a file says of its origin.

    Attributes:
        claims: at least one.
        generated: whether it says that a model made the image; None where it says neither.
    """

    claims: tuple[Claim, ...]
    generated: bool | None

    @property
    def words(self) -> str:
        """All claims on one line."""
        return "; ".join(f"{claim.field}: {claim.value}" for claim in self.claims)

    def conflict(self, generator: str, known: Sequence[str]) -> str:
        """Why the claims disagree with the answer `known: generator`; empty where they do not."""
        if self.generated is False:
            return f"the file says that a camera or scanner made it, not {generator}"
        text = self.words.casefold()
        others = [name for name in known if _names(text, name) and name != generator]
        if others and not _names(text, generator):
            return f"the file names {others[0]}, not {generator}"
        return ""


def declared_origin(data: bytes) -> DeclaredOrigin | None:
    """What the bytes of an image file say of its origin; None where they say nothing.

    Metadata of JPEG, PNG and WebP files are read, of others only Content Credentials are found.
    """
    try:
        parts = read_parts(data)
        claims = [*_png_texts(parts), *_exif(parts), *_xmp(parts), *_credentials(data, parts)]
    except _MALFORMED:
        return None
    claims = list(dict.fromkeys(claim for claim in claims if claim.value))
    if not claims:
        return None
    types = {claim.value.casefold() for claim in claims if claim.field.endswith("SourceType")}
    programs = any(claim.value.startswith(tuple(_PROGRAMS.values())) for claim in claims)
    made, captured = programs or types & set(_MADE_BY_MODEL), types & set(_CAPTURED)
    return DeclaredOrigin(tuple(claims), True if made else False if captured else None)


def _names(text: str, name: str) -> bool:
    pattern = rf"(?<![\w.]){re.escape(name.casefold())}(?![\w.])"
    return re.search(pattern, text) is not None


def _claim(field: str, value: Any) -> Claim:
    text = " ".join(visible(str(value)[: 2 * SHOWN]).replace("\\x00", " ").split())
    return Claim(field, text[:SHOWN])


def _with_model(program: str, text: str) -> str:
    found = _MODEL.search(text)
    return f"{program}, model {found[1].strip()}" if found else program


def _png_texts(parts: Sequence[Part]) -> Iterator[Claim]:
    for name, content in parts:
        if name not in TEXT_CHUNKS:
            continue
        word, stored, packed = png_text(name, content)
        key = word.decode("latin-1")
        if key in _PROGRAMS or key in _PLAIN:
            if packed:
                stored = zlib.decompressobj().decompress(stored, TEXT_LIMIT)
            text = stored[:TEXT_LIMIT].decode("utf-8", "replace")
            value = _with_model(_PROGRAMS[key], text) if key in _PROGRAMS else text
            yield _claim(f"PNG text {key}", value)


def _exif(parts: Sequence[Part]) -> Iterator[Claim]:
    exif = Image.Exif()
    try:
        exif.load(exif_of(parts))
        tags = {field: exif[tag] for tag, field in _EXIF_TAGS.items() if tag in exif}
        comment = exif.get_ifd(_EXIF_BLOCK).get(_USER_COMMENT, b"")
    except _MALFORMED:
        return
    for field, value in tags.items():
        yield _claim(field, value)
    if isinstance(comment, bytes):
        # The first eight bytes name the encoding; text in 16 bits has every other byte 0.
        comment = comment[8:TEXT_LIMIT].replace(b"\0", b"").decode("utf-8", "replace")
    if _SETTINGS.search(comment):
        value = _with_model(_PROGRAMS["parameters"], comment)
        yield _claim("EXIF UserComment", value)


def _xmp(parts: Sequence[Part]) -> Iterator[Claim]:
    packet = (xmp_of(parts) or b"")[:TEXT_LIMIT]
    text = packet.decode("utf-8", "replace")
    for field, quoted, between in _XMP_FIELDS.findall(text):
        yield _claim(f"XMP {field}", quoted or between)
    for kind in _SOURCE_TYPE.findall(text):
        yield _claim("IPTC DigitalSourceType", kind)


def _credentials(data: bytes, parts: list[Part]) -> Iterator[Claim]:
    if not has_c2pa(data, parts):
        return
    yield _claim(CREDENTIALS, signature_state(data))
    for name, content in parts:
        if name in ("APP11", "caBX", "C2PA"):
            for kind in _SOURCE_TYPE.findall(content[:TEXT_LIMIT].decode("latin-1")):
                yield _claim(f"{CREDENTIALS} DigitalSourceType", kind)
