"""`diffclass cite`."""

from click.testing import CliRunner

from diffclass.cli.cite import PARTS, cite, read_entries


def test_cite_prints_the_library_and_the_papers_of_a_part() -> None:
    result = CliRunner().invoke(cite, ["certified"])
    assert result.exit_code == 0
    assert [line for line in result.output.splitlines() if line.startswith("@")] == [
        "@software{diffclass,",
        "@inproceedings{chen2024certifiably,",
        "@inproceedings{cohen2019certified,",
    ]
    assert result.output.count("{") == result.output.count("}")


def test_cite_without_a_part_prints_every_entry_once() -> None:
    output = CliRunner().invoke(cite, []).output
    assert all(output.count(f"{{{key},") == 1 for key in read_entries())
    assert {key for keys in PARTS.values() for key in keys} | {"diffclass"} == set(read_entries())
