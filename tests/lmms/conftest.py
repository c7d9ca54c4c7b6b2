"""The task of these tests; run by `make test-lmms`, in an environment with lmms-eval."""

from functools import partial

import pytest
from clip_task import make_task
from lmms_eval.tasks import TaskManager

from tokenred.integrations import lmms_suite

N_VIDEOS = 1


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Folder of the task files, and the questions."""
    folder = tmp_path_factory.mktemp("clips")
    return folder, make_task(folder, N_VIDEOS)


@pytest.fixture(scope="session", autouse=True)
def tasks_of_our_own():
    """Spare suites the reading of all files of lmms-eval; the command line's test reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmms_suite, "TaskManager", partial(TaskManager, include_defaults=False))
        yield
