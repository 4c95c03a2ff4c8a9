"""The slice of the qualification that `make test` runs: a short workflow, a kill, rot, and other surroundings."""

import pytest
import qualified
import test_qualification_kills
import test_qualification_rot
import test_qualification_same


@pytest.fixture(scope="module")
def whole():
    return qualified.part()


def test_a_kill_of_snakemake_over_a_standing_result_is_resumed(whole, tmp_path, record_property):
    test_qualification_kills.check_kills(whole, tmp_path, "affinity", ("snakemake",), 2, record_property)


@pytest.mark.parametrize("stage", ["affinity", "pca"])
def test_hashes_are_the_same_on_one_thread_and_in_another_place(whole, tmp_path, stage):
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "another place")
    qualified.without(folder, job)
    done = qualified.run(
        test_qualification_same.with_arguments(job, "--threads 1"), folder, **test_qualification_same.ELSEWHERE
    )
    assert done.returncode == 0, done.stderr
    assert qualified.root(folder, job.name) == whole.root(job.name)


def test_damage_to_one_stage_is_noticed_at_verify_and_at_the_next(whole, tmp_path, record_property):
    for damage in test_qualification_rot.DAMAGES:
        folder = tmp_path / damage.__name__
        test_qualification_rot.check_damages(whole, folder, "affinity", damage, 5, record_property)
    test_qualification_rot.check_the_next_stage(whole, tmp_path, "affinity", test_qualification_rot.flip)
