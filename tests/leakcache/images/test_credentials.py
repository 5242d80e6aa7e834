"""Content Credentials of a file that was signed here, as signed and after changes."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from leakcache.images.file_parts import UNVERIFIED, declared_origin, signature_state
from tests.tiny_data import tiny_image

c2pa = pytest.importorskip("c2pa", reason="c2pa-python not installed: the extra [c2pa]")
x509 = pytest.importorskip("cryptography.x509", reason="cryptography not installed")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Of a subject, by the root, whose own it is where both keys are one."""

    def name(text: str) -> x509.Name:
        words = {"ORGANIZATION_NAME": "Tests", "COMMON_NAME": text}
        found = [x509.NameAttribute(getattr(x509.NameOID, k), v) for k, v in words.items()]
        return x509.Name(found)

    ca, now = key is issuer_key, datetime.now(UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    usage |= {"digital_signature": True, "key_cert_sign": ca, "crl_sign": ca}
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder(name("Root"), name(subject), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(own, critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(x509.KeyUsage(**usage), critical=True)
    )
    if not ca:
        purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def signed() -> bytes:
    """A JPEG file that says that a camera made it."""
    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = [certificate("A Signer", own, root), certificate("Root", root, root)]
    info = c2pa.C2paSignerInfo(
        alg=c2pa.C2paSigningAlg.ES256,
        sign_cert=b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain),
        private_key=own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        ta_url=None,
    )
    action = {"action": "c2pa.created", "digitalSourceType": f"{TYPE}digitalCapture"}
    manifest = {
        "claim_generator_info": [{"name": "a camera", "version": "1"}],
        "format": "image/jpeg",
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }
    source, found = io.BytesIO(), io.BytesIO()
    tiny_image(3, (96, 80)).save(source, "JPEG", quality=92)
    source.seek(0)
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
        builder.sign(signer, "image/jpeg", source, found)
    return found.getvalue()


def test_a_signed_file_is_valid_and_names_its_signer(signed: bytes) -> None:
    words = "present, signature valid by A Signer, whose identity is not checked"
    assert signature_state(signed) == words
    origin = declared_origin(signed)
    assert origin is not None
    assert f"Content Credentials: {words}" in origin.words
    assert origin.generated is False
    assert origin.conflict("sd-1.5", ("sd-1.5",)) == (
        "the file says that a camera or scanner made it, not sd-1.5"
    )


def test_a_tampered_file_is_invalid(signed: bytes) -> None:
    tampered = bytearray(signed)
    tampered[-40] ^= 1
    words = "present, signature invalid: the image was changed after it was signed"
    assert signature_state(bytes(tampered)) == words
    origin = declared_origin(bytes(tampered))
    assert origin is not None
    assert words in origin.words


def test_credentials_that_cannot_be_read_are_not_verified(signed: bytes) -> None:
    place = signed.index(b"c2pa.signature")
    damaged = signed[:place] + b"\0" * 64 + signed[place + 64 :]
    assert not signature_state(damaged).startswith("present, signature valid")
    assert signature_state(b"jumb c2pa").startswith(UNVERIFIED)
