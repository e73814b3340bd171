"""Routes a request to a version by label, and sends a share of the requests without a version to the canary.

Owns the labels `stable` and `canary`, which are parameters of config.pbtxt that other servers ignore:

    parameters { key: "stable" value { string_value: "3" } }
    parameters { key: "canary" value { string_value: "4" } }
    parameters { key: "canary_percent" value { string_value: "10" } }

A request for the version `stable` or `canary` goes to that version. Of the requests without a version, `canary_percent`
go to the canary and the rest to the stable version. Requests with the same key go to the same version until the share
changes; when it grows, keys that went to the canary still do. Not here: the table of versions (registry.py).
"""

import hashlib
import random
from dataclasses import dataclass

from service.core.load_errors import ConfigurationError
from service.models.repository.version_files import VERSION_NAME
from service.pb.model_config_pb2 import ModelConfig

STABLE, CANARY, PERCENT = "stable", "canary", "canary_percent"
CANARY_STEPS = 10_000  # the canary's share has a resolution of 0.01 percent


@dataclass(frozen=True)
class Routing:
    """The labelled versions, and the percentage of the requests without a version that go to the canary."""

    labels: dict[str, int]
    percent: float = 0.0

    def takes_canary(self, model: str, key: str) -> bool:
        """Whether a request goes to the canary: by a hash of the key, or at random if the key is empty."""
        if not self.percent:
            return False
        if not key:
            return random.random() * 100 < self.percent  # noqa: S311 # a share, not a secret
        digest = hashlib.blake2b(key.encode(), digest_size=8, person=model.encode()[:16]).digest()
        return int.from_bytes(digest) % CANARY_STEPS < self.percent * CANARY_STEPS / 100


NO_ROUTING = Routing({})


def read_routing(config: ModelConfig) -> Routing:
    """Read the routing parameters of a model's configuration.

    Raises:
        ConfigurationError: a label is not a version, the percentage is not from 0 to 100, or there is no canary for it.
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
        raise ConfigurationError(f"the parameter {PERCENT} needs the parameter {CANARY}")
    return Routing(labels, percent)
