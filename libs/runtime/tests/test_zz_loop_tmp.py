import importlib.util, pytest

spec = importlib.util.spec_from_file_location("tpr", "/work/main/libs/runtime/tests/test_pipeline_real.py")
m = importlib.util.module_from_spec(spec)
spec.loader.exec_module(m)
bench = m.bench
pytestmark = pytest.mark.real


@pytest.mark.parametrize("n", range(25))
async def test_x(bench, n):
    await m.test_a_partition_that_was_fenced_is_taken_up_again_with_a_new_worker(bench)
