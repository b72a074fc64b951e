"""The profile's JSON Schema, for editors: ``python -m aigw_daemon.profile.schema > docs/profile.schema.json``."""

import json
import sys

from aigw_daemon.profile.model import Profile


def schema() -> str:
    """The schema as text. It checks keys and forms; names that lead nowhere are for aigw itself to find."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
