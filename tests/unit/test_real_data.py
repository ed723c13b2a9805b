"""The data of a reproduction: which files are needed, what is asked, and that nothing that is asked was trained."""

import pytest

from aligner_probe.errors import AlignerProbeError
from aligner_probe.reproduction.data_names import DataNames


def test_only_experiments_that_ask_the_vicuna_questions_need_them():
    names = DataNames.of_hub(None)
    names.check(("math",))
    for experiment in ("instructions", "safety"):
        with pytest.raises(AlignerProbeError, match="the Vicuna questions are not there"):
            names.check(("math", experiment))
