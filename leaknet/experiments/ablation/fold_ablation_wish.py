"""Which cache a row needs, as a difference from the cache that the ablation is run on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from leakcache.errors import ConfigError
from leakcache.store.manifest import Encoding

_ALLOWED = {
    "precision": ("", "fp32", "bf16", "fp16"),
    "stored": ("", "float16", "float32"),
    "view": ("", "resize", "crop"),
}


@dataclass(frozen=True)
class CacheWish:
    """Fields of a cache's encoding; what is empty is as in the main cache.

    Attributes:
        autoencoder: names of the autoencoders that will do.
        precision: arithmetic of the encoder.
        stored: type of the stored latents.
        view: "resize" or "crop".
        size: side of a view in pixels; 0 as in the main cache.
    """

    autoencoder: tuple[str, ...] = ()
    precision: str = ""
    stored: str = ""
    view: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(
                    f"cache.{name} = {value!r} is out of range: it must be one of "
                    f"{', '.join(allowed[1:])}"
                )
        if self.size < 0:
            raise ConfigError(f"cache.size = {self.size} is out of range: it must be positive")

    @property
    def words(self) -> str:
        """What is asked for."""
        named = {"autoencoder": " or ".join(self.autoencoder)}
        named |= {name: getattr(self, name) for name in _ALLOWED}
        named["size"] = str(self.size or "")
        return ", ".join(f"{name} {value}" for name, value in named.items() if value)

    def fits(self, main: Encoding, candidate: Encoding) -> bool:
        """Whether a cache differs from the main one in what is asked for, and in nothing else."""
        if self.autoencoder:
            right = candidate.autoencoder.name in self.autoencoder
        else:
            right = candidate.autoencoder.weights_sha256 == main.autoencoder.weights_sha256
        wanted = self.applied(main)
        names = ("precision", "stored", "preprocessing")
        return right and all(getattr(candidate, name) == getattr(wanted, name) for name in names)

    def applied(self, main: Encoding) -> Encoding:
        """The encoding that is wanted, but for its autoencoder.

        Raises:
            ConfigError: there is no such view.
        """
        cut = main.preprocessing
        return replace(
            main,
            precision=self.precision or main.precision,
            stored=self.stored or main.stored,
            preprocessing=replace(cut, name=self.view or cut.name, size=self.size or cut.size),
        )

    def command(self, main: Encoding, data: str) -> str:
        """What builds such a cache of the same images."""
        wanted = self.applied(main)
        cut = wanted.preprocessing
        words = ["leak cache build", f"--data {data}"]
        words.append(f"--vae {(self.autoencoder or (main.autoencoder.spec,))[0]}")
        words += [f"--view {cut.name}"] * (cut.name != "resize")
        words += [f"--size {cut.size}"] * (cut.size != 256) + [f"--views {cut.views}"] * (
            cut.views > 1
        )
        if cut.canonical:
            words.append(f"--canonical --canonical-size {cut.canonical_size}")
        words += [f"--precision {wanted.precision}"] * (wanted.precision != "fp32")
        words += [f"--store {wanted.stored}"] * (wanted.stored != "float16")
        return " ".join([*words, "--cache DIR"])
