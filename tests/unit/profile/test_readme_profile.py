"""The profile in the README is one that aigw takes."""

import re

from aigw_daemon.profile.load import parse
from tests.support.engines import CHECKOUT


def test_the_profile_in_the_readme_is_valid() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (CHECKOUT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert list(parse(text, "mine.yaml").routes) == ["code"]
