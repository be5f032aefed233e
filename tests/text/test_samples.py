"""Tables of sample responses."""

from tfppo.text.samples import markdown_table


def test_a_table_of_samples_keeps_its_columns():
    row = {"prompt": "a|b", "reference": " <b>\n x", "policy": " y", "reference_score": 1.0, "policy_score": -0.125}
    lines = markdown_table([row]).splitlines()
    assert lines[-1] == "| a\\|b | **1.0** &lt;b> x | **-0.1** y |"
