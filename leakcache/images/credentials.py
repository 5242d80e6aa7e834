"""The signature of Content Credentials (C2PA), verified with c2pa-python if it is installed.

Nothing is fetched: manifests that lie elsewhere and lists of revoked certificates are left alone.
No list of trusted signers is used, so that a valid signature says that the file is as it was
signed, by whom it says, but not that the signer is who it claims to be.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

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
