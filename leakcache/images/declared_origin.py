"""What an image file says of its origin: EXIF, XMP, PNG texts and Content Credentials.

Nothing is fetched: manifests that lie elsewhere and lists of revoked certificates are left alone.
No list of trusted signers is used, so that a valid signature says that the file is as it was
signed, by whom it says, but not that the signer is who it claims to be.

Anyone can write or remove these: they are shown beside the evidence of the pixels, and no score
depends on them.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from PIL import Image

from leakcache.images.file_parts import Part, exif_of, has_c2pa, read_parts, xmp_of
from leakcache.names import visible

UNVERIFIED = "present, signature not verified"
VALID, INVALID = "present, signature valid", "present, signature invalid"
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_FAILURES = {
    "assertion.dataHash.mismatch": "the image was changed after it was signed",
    "claimSignature.mismatch": "the signature is not that of the claim",
    "assertion.hashedURI.mismatch": "a statement was changed after it was signed",
    "signingCredential.expired": "the certificate of the signer has expired",
}
_UNTRUSTED = "signingCredential.untrusted"


def signature_state(data: bytes) -> str:
    """In words: valid, invalid and why, or not verified.

    Args:
        data: an image file that carries Content Credentials.
    """
    if find_spec("c2pa") is None:
        return f'{UNVERIFIED} (pip install "leaknet[c2pa]")'
    import c2pa

    try:
        with (
            c2pa.Context.from_dict(_OFFLINE) as context,
            c2pa.Reader(None, io.BytesIO(data), None, context) as reader,
        ):
            return _words(
                reader.get_validation_state(),
                reader.get_active_manifest() or {},
                reader.get_validation_results() or {},
            )
    except c2pa.C2paError as error:
        reason = " ".join(str(error).split())[:80]
        return f"{UNVERIFIED} ({reason})"


def _words(state: str | None, manifest: dict[str, Any], results: dict[str, Any]) -> str:
    signature = manifest.get("signature_info") or {}
    signer = signature.get("common_name") or signature.get("issuer")
    by = f" by {signer}" if signer else ""
    if state == "Trusted":
        return f"{VALID}{by}"
    if state == "Valid":
        return f"{VALID}{by}, whose identity is not checked"
    active = results.get("activeManifest") or {}
    codes = [str(one.get("code")) for one in active.get("failure") or ()]
    reasons = [_FAILURES.get(code, code) for code in codes if code != _UNTRUSTED]
    return f"{INVALID}: {reasons[0]}" if reasons else INVALID


CREDENTIALS = "Content Credentials"
SHOWN = 120
"""Largest number of characters of a value."""
TEXT_LIMIT = 2**20
"""Most bytes of a text that are read."""

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
        """Why the claims disagree with the answer `known: generator`; empty where they do not.

        Args:
            generator: the one that is named.
            known: all known generators; a claim may name another one of them.
        """
        if self.generated is False:
            return f"the file says that a camera or scanner made it, not {generator}"
        text = self.words.casefold()
        others = [name for name in known if _names(text, name) and name != generator]
        if others and not _names(text, generator):
            return f"the file names {others[0]}, not {generator}"
        return ""


def declared_origin(data: bytes) -> DeclaredOrigin | None:
    """What the bytes of a file say of its origin; None where they say nothing.

    Args:
        data: an image file. Of JPEG, PNG and WebP files the metadata are read, of others only
            whether there are Content Credentials.
    """
    try:
        parts = read_parts(data)
        claims = [*_png_texts(parts), *_exif(parts), *_xmp(parts), *_credentials(data, parts)]
    except _MALFORMED:
        return None
    found = {(claim.field, claim.value): claim for claim in claims if claim.value}
    if not found:
        return None
    claims = list(found.values())
    types = {claim.value.casefold() for claim in claims if claim.field.endswith("SourceType")}
    programs = any(claim.value.startswith(tuple(_PROGRAMS.values())) for claim in claims)
    generated = None
    if programs or types & set(_MADE_BY_MODEL):
        generated = True
    elif types & set(_CAPTURED):
        generated = False
    return DeclaredOrigin(tuple(claims), generated)


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
        if name not in ("tEXt", "zTXt", "iTXt"):
            continue
        word, _, rest = content.partition(b"\0")
        key = word.decode("latin-1")
        if key in _PROGRAMS or key in _PLAIN:
            text = _text(name, rest)
            value = _with_model(_PROGRAMS[key], text) if key in _PROGRAMS else text
            yield _claim(f"PNG text {key}", value)


def _text(name: str, rest: bytes) -> str:
    """Text of a PNG chunk after its key, uncompressed up to `TEXT_LIMIT`."""
    packed = name == "zTXt"
    if name == "iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].split(b"\0", 2)[-1]
    elif packed:
        rest = rest[1:]
    if packed:
        rest = zlib.decompressobj().decompress(rest, TEXT_LIMIT)
    return rest[:TEXT_LIMIT].decode("utf-8", "replace")


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
