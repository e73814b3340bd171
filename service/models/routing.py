"""Which version of a model answers a request that names none, or a label instead of a number.

Owns the labels `stable` and `canary`, as parameters of config.pbtxt, which other servers pass over:

    parameters { key: "stable" value { string_value: "3" } }
    parameters { key: "canary" value { string_value: "4" } }
    parameters { key: "canary_percent" value { string_value: "10" } }

Requests for the version `stable` or `canary` go to that version; those for none go to the canary for that share of
them and to the stable version else. A request with a key always falls on the same side while the share stays, and
one that has gone to the canary goes on to do so when the share grows.
"""

import hashlib
import random
from dataclasses import dataclass

from service.core.errors import ConfigurationError
from service.models.repository import VERSION_NAME
from service.pb.model_config_pb2 import ModelConfig

STABLE, CANARY, PERCENT = "stable", "canary", "canary_percent"
STEPS = 10_000  # a share is known to a hundredth of a percent


@dataclass(frozen=True)
class Routing:
    """The labelled versions, and the share of requests without a version, in percent, that the canary gets."""

    labels: dict[str, int]
    percent: float = 0.0

    def takes_canary(self, model: str, key: str) -> bool:
        """Whether a request falls to the canary. Without a key chance decides."""
        if not self.percent:
            return False
        if not key:
            return random.random() * 100 < self.percent  # noqa: S311 # a share, not a secret
        digest = hashlib.blake2b(key.encode(), digest_size=8, person=model.encode()[:16]).digest()
        return int.from_bytes(digest) % STEPS < self.percent * STEPS / 100


NO_ROUTING = Routing({})


def read_routing(config: ModelConfig) -> Routing:
    """The routing that a model's configuration asks for.

    Raises:
        ConfigurationError: a label is not a version, the share is not a number from 0 to 100, or it has no canary.
    """
    texts = {name: config.parameters[name].string_value for name in config.parameters}
    labels = {}
    for name in (STABLE, CANARY):
        if name in texts:
            if not VERSION_NAME.fullmatch(texts[name]):
                raise ConfigurationError(f"the parameter {name} expected a version, such as 3, got {texts[name]!r}")
            labels[name] = int(texts[name])
    if PERCENT not in texts:
        return Routing(labels)
    try:
        percent = float(texts[PERCENT])
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ConfigurationError(f"the parameter {PERCENT} expected a number from 0 to 100, got {texts[PERCENT]!r}")
    if CANARY not in labels:
        raise ConfigurationError(f"the parameter {PERCENT} needs the parameter {CANARY} beside it")
    return Routing(labels, percent)
