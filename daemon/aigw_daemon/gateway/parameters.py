"""What a route does to the fields of a request: drop some, set defaults, override. Pure.

Values are JSON already, so nothing is parsed or encoded here. Which fields a route may name is the profile's to check.
"""

from collections.abc import Mapping

import msgspec

from aigw_daemon.link.messages import ParamsView


def apply(fields: Mapping[str, msgspec.Raw], params: ParamsView) -> dict[str, msgspec.Raw]:
    """The fields as the engine gets them: a default only where the request doesn't say, null being a word of its own.

    What is dropped is as if the request had never said it, so a default of the same name still holds.
    """
    kept = {name: value for name, value in fields.items() if name not in params.drop}
    defaults = {name: msgspec.Raw(value) for name, value in params.defaults.items() if name not in kept}
    return {**kept, **defaults, **{name: msgspec.Raw(value) for name, value in params.override.items()}}
