import re
from pathlib import Path

from service.installation.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_lists_every_setting_with_default_and_description():
    rows = dict(re.findall(r"^\| `AKIN_(\w+)` \| (.+) \|$", PAGE.read_text(), flags=re.M))

    expected = {
        name.upper(): f"{'empty' if field.default in ('', None) else f'`{field.default}`'} | {field.description}"
        for name, field in Settings.model_fields.items()
    }
    assert rows == expected
